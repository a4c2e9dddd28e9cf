"""Pure: what proxies say of the client that they forward for, in X-Forwarded-For or in ``Forwarded`` (RFC 7239).

Nothing here decides which peer is believed: that is `proxy`'s part.
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
"""(address, port), with port 0 where none is told."""
IsTrusted = Callable[[str], bool]
ForwardedInfo = tuple[Node | None, str | None]
"""(client, scheme), each None where it is not told."""
ForwardedReader = Callable[[IsTrusted, Sequence[Header]], ForwardedInfo]

MAX_NODES = 100
"""Proxies in a row, more than anybody has. Further ones of an X-Forwarded-For are not looked at: reading them would take seconds."""
MAX_FORWARDED = 32768
"""Bytes of all ``Forwarded`` fields together: three hundred for each of so many proxies."""
MAX_NODE = 64
"""Characters of the longest node that is read: an IPv6 address with brackets, zone and port takes fewer."""
NODE_PORT = re.compile(r"[0-9]{1,5}")
OBFUSCATED_PORT = re.compile(r"_[A-Za-z0-9._-]+")  # RFC 7239, 6

TOKEN_TEXT = TOKEN_PATTERN.decode()
UNQUOTED_VALUE = TOKEN_TEXT.replace("[", r"[:\[\]", 1)
"""An address with a colon or brackets has to be quoted, but not every proxy does."""
# RFC 7239, 4: pairs of a name and a value, joined by ";" to elements, and these by ",". Both may be empty (RFC 9110, 5.6.1). No run of characters
# may be divided in more than one way, or a long one takes for ever: so white space has one place on each side of a separator.
FORWARDED_PAIR = re.compile(
    rf'(?:({TOKEN_TEXT})=({UNQUOTED_VALUE}|"(?:[^"\\]|\\.)*"))?[ \t]*([;,]|\Z)[ \t]*'
)
QUOTED_PAIR = re.compile(r"\\(.)")


def read_x_forwarded_for(is_trusted: IsTrusted, headers: Sequence[Header]) -> ForwardedInfo:
    """The client according to all X-Forwarded-For fields of a request, in their order. It says nothing of a scheme."""
    values = [value for name, value in headers if name == b"x-forwarded-for"]
    parts = b",".join(values).decode("latin-1").rsplit(",", MAX_NODES)[-MAX_NODES:]
    nodes = [node for part in parts if (node := part.strip(" \t"))]
    if not nodes:
        return None, None
    return parse_node(nodes[client_index(nodes, is_trusted)]), None


def read_forwarded(is_trusted: IsTrusted, headers: Sequence[Header]) -> ForwardedInfo:
    """The client, and the scheme of its connection, according to all ``Forwarded`` fields of a request, in their order.

    Raises RequestError(400) where they are malformed: a client that sends a quotation mark ahead must not be able to hide behind it what the
    proxy appends.
    """
    values = [value for name, value in headers if name == b"forwarded"]
    text = b",".join(values).decode("latin-1")
    if (
        len(text) > MAX_FORWARDED
    ):  # separators without anything between them are valid, and take their time, too
        raise RequestError(400, f"Invalid Forwarded: longer than {MAX_FORWARDED} bytes")
    elements = list(islice(parse_forwarded(text), MAX_NODES + 1))
    if not elements:
        return None, None
    if len(elements) > MAX_NODES:
        raise RequestError(400, f"Invalid Forwarded: more than {MAX_NODES} elements")
    nodes = [element.get("for", "") for element in elements]
    index = client_index(nodes, is_trusted)
    # A trusted proxy has written this element, so its scheme counts also where it keeps the address to itself.
    return parse_node(nodes[index]), _scheme(elements[index].get("proto"))


FORWARDED_READERS: Mapping[str, ForwardedReader] = {
    "x-forwarded": read_x_forwarded_for,
    "forwarded": read_forwarded,
}
"""By the option ``proxy_headers``."""


def client_index(nodes: Sequence[str], is_trusted: IsTrusted) -> int:
    """The index of the client in `nodes`, the nearest proxy's word last.

    From the right, the first that is no trusted proxy, for what stands left of it is only its own word; the leftmost if all are trusted.
    What cannot be read ends the search, too.
    """
    for index in range(len(nodes) - 1, 0, -1):
        node = parse_node(nodes[index])
        if node is None or not is_trusted(node[0]):
            return index
    return 0


def parse_node(text: str) -> Node | None:
    """An address with an optional port, in the forms that proxies write; None for ``unknown``, for made-up names and for nonsense."""
    return _parse_node(text) if len(text) <= MAX_NODE else None


@lru_cache(maxsize=1024)
def _parse_node(text: str) -> Node | None:
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
        address = ip_address(
            host.partition("%")[0]
        )  # a zone means something on the proxy's own machine only (RFC 4007, 6)
    except ValueError:
        return None
    if not colon or OBFUSCATED_PORT.fullmatch(port):
        return canonical(address), 0
    if NODE_PORT.fullmatch(port) is None or int(port) > 65535:
        return None
    return canonical(address), int(port)


def canonical(address: IPv4Address | IPv6Address) -> str:
    """The one way in which we write an address; one of IPv4 in the clothes of IPv6 (RFC 4291, 2.5.5.2) loses them."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def parse_forwarded(text: str) -> Iterator[Mapping[str, str]]:
    """The elements of a ``Forwarded`` field, with the names of their parameters in lower case (RFC 7239, 4).

    Raises RequestError(400) where it is malformed.
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
    """As Gunicorn reads its ``secure_scheme_headers``: what is not the secure one is the other."""
    if proto is None:
        return None
    return "https" if proto.lower() in ("https", "wss") else "http"
