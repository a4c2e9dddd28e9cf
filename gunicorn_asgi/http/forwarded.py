"""Pure: the client's address, scheme and host as proxies send them: lists, and RFC 7239.

`http.trust` decides which peers are believed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice

from ..errors import RequestError
from .grammar import TOKEN_PATTERN, Header

Node = tuple[str, int]
"""(address, port). The port is 0 if it is not given."""
IsTrusted = Callable[[str], bool]
ForwardedInfo = tuple[Node | None, str | None, str | None, int | None]
"""(client, scheme, host, hops), each None if it is not given.

The hops are the trusted proxies between the client and the peer, the peer not among them.
"""
ForwardedReader = Callable[[IsTrusted, Sequence[Header]], ForwardedInfo]

MAX_NODES = 100
"""Proxies in a row, more than anybody has. Of a longer X-Forwarded-For only the last ones are read:
reading all could take seconds."""
MAX_FORWARDED = 32768
"""Bytes of all ``Forwarded`` fields together: some 300 for each of MAX_NODES proxies."""
MAX_NODE = 64
"""Characters of the longest node that is read. IPv6 with brackets, zone and port takes fewer."""
IPV4 = re.compile(
    r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}"
    r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
)
"""RFC 3986, 3.2.2: IPv4address."""
NODE_PORT = re.compile(r"[0-9]{1,5}")
OBFUSCATED_PORT = re.compile(r"_[A-Za-z0-9._-]+")  # RFC 7239, 6

TOKEN_TEXT = TOKEN_PATTERN.decode()
UNQUOTED_VALUE = TOKEN_TEXT.replace("[", r"[:\[\]", 1)
"""A value without quotes. Addresses with a colon or brackets need quotes, but some proxies send
them without."""
# RFC 7239, 4: ";" joins pairs of a name and a value to an element, "," joins elements. Both may be
# empty (RFC 9110, 5.6.1). The pattern must match every run of characters in one way only, or a long
# run takes very long. So white space has one place on each side of a separator.
FORWARDED_PAIR = re.compile(
    rf'(?:({TOKEN_TEXT})=({UNQUOTED_VALUE}|"(?:[^"\\]|\\.)*"))?[ \t]*([;,]|\Z)[ \t]*'
)
QUOTED_PAIR = re.compile(r"\\(.)")
NOTHING: ForwardedInfo = (None, None, None, None)


def read_x_forwarded_for(is_trusted: IsTrusted, headers: Sequence[Header]) -> ForwardedInfo:
    """Return the client in a request's X-Forwarded-For fields. They have no scheme and no host."""
    values = [value for name, value in headers if name == b"x-forwarded-for"]
    text = b",".join(values).decode("latin-1")
    if "," not in text:
        return (parse_node(text), None, None, 0) if text else NOTHING
    parts = text.rsplit(",", MAX_NODES)[-MAX_NODES:]
    nodes = [node for part in parts if (node := part.strip(" \t"))]
    if not nodes:
        return NOTHING
    index = client_index(nodes, is_trusted)
    return parse_node(nodes[index]), None, None, len(nodes) - 1 - index


def read_forwarded(is_trusted: IsTrusted, headers: Sequence[Header]) -> ForwardedInfo:
    """Return the client, its scheme and its host in a request's ``Forwarded`` fields.

    Raises RequestError(400) if they are malformed. Otherwise a client could send an opening
    quotation mark, and make the proxy's own element a part of its quoted string.
    """
    values = [value for name, value in headers if name == b"forwarded"]
    text = b",".join(values).decode("latin-1")
    # Empty elements are valid, so a limit on elements alone would not limit the time.
    if len(text) > MAX_FORWARDED:
        raise RequestError(400, f"Invalid Forwarded: longer than {MAX_FORWARDED} bytes")
    elements = list(islice(parse_forwarded(text), MAX_NODES + 1))
    if not elements:
        return NOTHING
    if len(elements) > MAX_NODES:
        raise RequestError(400, f"Invalid Forwarded: more than {MAX_NODES} elements")
    nodes = [element.get("for", "") for element in elements]
    index = client_index(nodes, is_trusted)
    # A trusted proxy has written this element. So the scheme and the host count, even if the
    # address is hidden.
    element = elements[index]
    scheme = _scheme(element.get("proto"))
    return parse_node(nodes[index]), scheme, element.get("host"), len(nodes) - 1 - index


FORWARDED_READERS: Mapping[str, ForwardedReader] = {
    "x-forwarded": read_x_forwarded_for,
    "forwarded": read_forwarded,
}
"""By the option ``proxy_headers``."""


def client_index(nodes: Sequence[str], is_trusted: IsTrusted) -> int:
    """Return the index of the client in `nodes`. The nearest proxy has appended the last node.

    The client is the first untrusted node from the right: nodes left of it are its own claims. It
    is the leftmost node if all are trusted. An unreadable node ends the search, too.
    """
    for index in range(len(nodes) - 1, 0, -1):
        node = parse_node(nodes[index])
        if node is None or not is_trusted(node[0]):
            return index
    return 0


def read_list(value: bytes) -> list[bytes]:
    """Return the elements of one line of a list, without the empty ones (RFC 9110, 5.6.1).

    Of more than MAX_NODES elements, all but the last ones are one element.
    """
    if b"," not in value:
        return [value] if value else []
    parts = value.rsplit(b",", MAX_NODES)
    return [element for part in parts if (element := part.strip(b" \t"))]


def client_element(elements: Sequence[bytes], hops: int | None) -> bytes | None:
    """Return the element that the client's proxy has appended, if each proxy has appended one.

    It is counted from the right: elements left of it are the client's own claims. None: `hops` is
    not known, or the list is too short, so not all proxies have appended.
    """
    if hops is None or len(elements) <= hops:
        return None
    return elements[-1 - hops]


def parse_node(text: str) -> Node | None:
    """Parse an address with an optional port, in the forms that proxies write.

    Returns None for ``unknown``, for obfuscated names and for nonsense.
    """
    return _parse_node(text) if len(text) <= MAX_NODE else None


@lru_cache(maxsize=1024)
def _parse_node(text: str) -> Node | None:
    if IPV4.fullmatch(text):  # mostly; ipaddress takes six times as long
        return text, 0
    colon, port = "", ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        before, colon, port = rest.partition(":")
        if not bracket or before:
            return None
    elif text.count(":") == 1:
        host, colon, port = text.partition(":")
    else:
        host = text
    try:
        # A zone has a meaning on the proxy's own machine only (RFC 4007, 6).
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if not colon or OBFUSCATED_PORT.fullmatch(port):
        return canonical(address), 0
    if NODE_PORT.fullmatch(port) is None or int(port) > 65535:
        return None
    return canonical(address), int(port)


def canonical(address: IPv4Address | IPv6Address) -> str:
    """Write an address in its one form: IPv4-mapped IPv6 (RFC 4291, 2.5.5.2) becomes IPv4."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def parse_forwarded(text: str) -> Iterator[Mapping[str, str]]:
    """Yield the elements of a ``Forwarded`` field, with lower-case parameter names (RFC 7239, 4).

    Raises RequestError(400) if it is malformed.
    """
    element: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = FORWARDED_PAIR.match(text, position)
        if match is None:
            raise RequestError(400, "Invalid Forwarded: not pairs of a name and a value")
        name, value, separator = match.groups()
        if name:
            name = name.lower()
            if name in element:
                raise RequestError(400, f"Invalid Forwarded: {name!r} twice in one element")
            element[name] = QUOTED_PAIR.sub(r"\1", value[1:-1]) if value.startswith('"') else value
        if separator != ";" and element:
            yield element
            element = {}
        position = match.end()
    if element:
        yield element


def _scheme(proto: str | None) -> str | None:
    """As Gunicorn reads ``secure_scheme_headers``: any other value than the secure one is http."""
    if proto is None:
        return None
    return "https" if proto.lower() in ("https", "wss") else "http"
