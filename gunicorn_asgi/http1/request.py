"""Pure: the head of a request, from bytes to what the application is told, and every reason to refuse it.

The same code for every field parser, so that two of them cannot read one request differently.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Literal, NoReturn
from urllib.parse import unquote_to_bytes

from ..errors import RequestError
from ..forwarded import Node, Told
from ..wire import Header
from .grammar import CONTENT_LENGTH, TOKEN
from .parser import FieldParser
from .upgrade import asks_for_websocket

UNDERSCORE = ord("_")
"""As a number: `in` on bytes looks for a byte ten times faster than for a string of one."""

CHUNKED = -1
"""``Fields.length`` of a body in the chunked transfer coding."""

TOKEN_BYTES = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
UNCONVENTIONAL = re.compile(rb"[a-z#]")
VERSION = re.compile(rb"HTTP/\d\.\d")
ABSOLUTE_FORM = re.compile(rb"(?i:https?)://([^/?#]*)([^?#]*)(\?[^#]*)?")
# RFC 3986, 3.2.2 and 3.2.3, without the userinfo that RFC 9110, 4.2.4, forbids; the inside of brackets is checked by ipaddress.
AUTHORITY = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::(\d{0,5}))?")


MAX_LINE = 65536
"""The longest request line where ``limit_request_line`` is 0: everything that waits in memory has a bound."""


@dataclass(frozen=True)
class Rules:
    """What a request may look like: Gunicorn's settings, plus what the peer of this connection is trusted with."""

    parse_fields: FieldParser
    limit_line: int
    """``limit_request_line`` in bytes without the line's end."""
    limit_fields: int
    """``limit_request_fields``."""
    limit_field_size: int
    """``limit_request_field_size`` in bytes with the line's end."""
    header_map: Literal["drop", "refuse", "dangerous"]
    permit_unconventional_method: bool
    secure_scheme: Mapping[bytes, bytes]
    """From a trusted peer: field name to the value that means https; otherwise empty."""
    forwarder_names: Container[bytes]
    """From a trusted peer: names with an underscore that pass whatever `header_map` says."""
    script_name: bytes | None = None
    """``SCRIPT_NAME`` of the environment, which holds for every peer."""
    takes_script_name: bool = False
    """From a trusted peer: whether a header ``SCRIPT_NAME`` stands in its place."""
    read_proxy: Callable[[Sequence[Header]], Told] | None = None
    """From a trusted peer: what its headers say of its client."""
    proxy_names: frozenset[bytes] = field(init=False)
    """The names of all these headers, so that a request without them costs nothing."""

    def __post_init__(self) -> None:
        names = set(self.secure_scheme)
        if self.takes_script_name:
            names.add(b"script_name")
        if self.read_proxy is not None:
            names |= {b"x-forwarded-for", b"forwarded"}
        object.__setattr__(self, "proxy_names", frozenset(names))


class Fields:
    """A checked field section and what it means. Shared by equal requests of a connection, so never changed once it is read."""

    __slots__ = (
        "client",
        "expect_continue",
        "headers",
        "keep_alive",
        "length",
        "root_path",
        "scheme",
        "script_name",
        "section",
        "version",
        "websocket",
    )

    def __init__(self, section: bytes, version: str, headers: list[Header]) -> None:
        self.section = section
        """``HTTP/1.x CRLF fields CRLF CRLF`` as received."""
        self.version = version
        self.headers = headers
        self.length = 0
        """Bytes of the body; 0 is none; CHUNKED."""
        self.keep_alive = True
        self.expect_continue = False
        self.websocket = False
        """It is the handshake of a WebSocket."""
        self.scheme: str | None = None
        """What a trusted proxy says of its client's connection; None if nothing."""
        self.client: Node | None = None
        """What a trusted proxy says of its client's address; None if nothing."""
        self.script_name: bytes | None = None
        """What a path has to begin with: Gunicorn's ``SCRIPT_NAME``, from a trusted proxy or the environment; None if neither has one."""
        self.root_path: str | None = None
        """`script_name` as ASGI has it: decoded, without a slash at its end."""

    def with_host(self, authority: bytes) -> Fields:
        """The same for the host `authority`, placed first."""
        own = Fields(b"", self.version, [(b"host", authority), *(field for field in self.headers if field[0] != b"host")])
        own.length, own.keep_alive = self.length, self.keep_alive
        own.expect_continue, own.websocket, own.scheme = self.expect_continue, self.websocket, self.scheme
        own.client, own.script_name, own.root_path = self.client, self.script_name, self.root_path
        return own


Request = tuple[str, str, bytes, bytes, "Fields"]
"""(method, path, raw_path, query_string, fields): a tuple, because one is made for every request."""


def read_head(head: bytes, last: Fields | None, rules: Rules) -> Request:
    """Read one whole head, up to and with the empty line. `last` is the fields of the connection's request before.

    A client repeats itself: where the field section is byte for byte the one before, so is everything that follows from it.
    Raises RequestError.
    """
    try:
        verb, target, section = head.split(b" ", 2)
    except ValueError:
        raise RequestError(400, "Invalid request line: not a method, a target and a version") from None
    if len(verb) + len(target) + len(b"  HTTP/1.1") > rules.limit_line:
        raise RequestError(414, f"Request line is longer than {rules.limit_line} bytes")
    if last is None or section != last.section:
        last = read_fields(section, rules)
    method = METHODS.get(verb) or _read_method(verb, rules)
    # RFC 9112, 3.2: one of four forms, made of printable ASCII; a fragment is no part of any.
    text = target.decode("latin-1")
    if not (text.isascii() and text.isprintable()) or "#" in text:
        raise RequestError(400, "Invalid request target: not printable ASCII")
    if target[:1] != b"/":
        return _read_other_form(method, target, last)
    raw_path, _, query = target.partition(b"?")
    if last.script_name and not raw_path.startswith(last.script_name):
        _refuse_path(last.script_name)
    if len(raw_path) < len(text):
        text = text[: len(raw_path)]
    return method, decode_path(raw_path) if "%" in text else text, raw_path, query, last


def check_partial_head(data: bytearray, before: int, rules: Rules) -> None:
    """Refuse a head that is not whole yet if nothing that follows can make it a valid one. `before` bytes of it were checked already.

    So that nobody has to wait for a deadline to learn it, and no more is kept than a head within the limits has. Raises RequestError.
    """
    if data[0] not in TOKEN_BYTES and data != b"\r":
        raise RequestError(400, "Invalid request line: no method at its start")
    # RFC 9112, 2.2: every line ends with CRLF; after a bare LF the empty line would be waited for in vain.
    if data.count(b"\n", before) != data.count(b"\r\n", max(0, before - 1)):
        raise RequestError(400, "Invalid HTTP header: a bare LF")
    line = data.rfind(b"\n") + 1
    length = len(data) - line
    if line == 0 and length > rules.limit_line + 1:
        raise RequestError(414, f"Request line is longer than {rules.limit_line} bytes")
    if line and length > rules.limit_field_size:
        raise RequestError(431, f"A header field is longer than {rules.limit_field_size} bytes")
    if len(data) > rules.limit_line + rules.limit_fields * rules.limit_field_size + 4:
        raise RequestError(431, f"More than {rules.limit_fields} header fields")


METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")}


def decode_path(raw_path: bytes) -> str:
    """The path as a string, whatever bytes it has (ASGI statements 24 and 25): percent-decoded, then UTF-8, U+FFFD where it is none."""
    if b"%" in raw_path:
        return unquote_to_bytes(raw_path).decode("utf-8", "replace")
    return raw_path.decode("ascii")


def _read_method(verb: bytes, rules: Rules) -> str:
    """A method outside the table, by Gunicorn's rules (``permit_unconventional_http_method``)."""
    if TOKEN.fullmatch(verb) is None:
        raise RequestError(400, "Invalid HTTP method: not a token")
    if not rules.permit_unconventional_method and (UNCONVENTIONAL.search(verb) or not 3 <= len(verb) <= 20):
        raise RequestError(400, f"Invalid HTTP method {verb.decode()!r}")
    if verb.upper() == b"CONNECT":
        # RFC 9110, 9.3.6 and 9.1: for proxies; what an origin server does not implement is answered with 501.
        raise RequestError(501, "CONNECT is not implemented")
    # ASGI statement 22: upper case in the scope. So `casefold_http_method` changes nothing here.
    return verb.decode().upper()


def _read_other_form(method: str, target: bytes, fields: Fields) -> Request:
    """RFC 9112, 3.2.2 and 3.2.4: absolute-form and asterisk-form."""
    if target == b"*" and method == "OPTIONS":
        return method, "*", b"*", b"", fields
    match = ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise RequestError(400, "Invalid request target: neither a path nor an absolute http URI")
    authority, raw_path, query = match.groups(b"")
    check_authority(authority)
    if not raw_path:
        # RFC 9112, 3.2.4: OPTIONS for the server as a whole, forwarded in absolute-form.
        raw_path = b"*" if method == "OPTIONS" and not query else b"/"
    if fields.script_name and raw_path != b"*" and not raw_path.startswith(fields.script_name):
        _refuse_path(fields.script_name)
    # RFC 9112, 3.2.2: the target's authority is the host, whatever the Host field says.
    return method, decode_path(raw_path), raw_path, query[1:], fields.with_host(authority)


def _refuse_path(script_name: bytes) -> NoReturn:
    # Gunicorn's ConfigurationProblem, and its status: server and proxy are not configured for each other.
    raise RequestError(500, f"The path does not begin with SCRIPT_NAME {script_name.decode('latin-1')!r}")


def read_fields(section: bytes, rules: Rules) -> Fields:
    """Check a field section, ``HTTP/1.x CRLF fields CRLF CRLF``, and say what it means. Raises RequestError."""
    version = VERSIONS.get(section[:10])
    if version is None:
        _refuse_version(section)
    if len(section) > rules.limit_field_size:
        _check_field_sizes(section, rules)
    headers = rules.parse_fields(section)
    if len(headers) > rules.limit_fields:
        raise RequestError(431, f"More than {rules.limit_fields} header fields")
    fields = Fields(section, version, headers)
    values: dict[bytes, list[bytes]] = {}
    has_underscore = is_proxied = False
    proxy_names = rules.proxy_names
    for name, value in headers:
        if name in MEANINGFUL:
            values.setdefault(name, []).append(value)
        elif UNDERSCORE in name:
            has_underscore = True
            is_proxied = is_proxied or name in proxy_names
        elif name in proxy_names:
            is_proxied = True
    if has_underscore and rules.header_map != "dangerous":
        fields.headers = _map_underscores(headers, rules)
    _check_host(values.get(b"host", ()), version)
    fields.length = _read_framing(values.get(b"content-length", ()), values.get(b"transfer-encoding", ()), version)
    fields.keep_alive = _read_connection(values.get(b"connection", ()), version)
    if b"expect" in values:
        fields.expect_continue = _read_expect(values[b"expect"], version) and fields.length != 0
    if b"upgrade" in values:
        fields.websocket = asks_for_websocket(values[b"upgrade"], values.get(b"connection", ()), version)
    if is_proxied:
        scheme = None
        if rules.read_proxy is not None:
            fields.client, scheme = rules.read_proxy(headers)
        if fields.websocket:
            # Traefik calls the scheme of a handshake wss.
            headers = [(name, b"https" if value == b"wss" else value) for name, value in headers]
        fields.scheme = _read_scheme(headers, rules.secure_scheme, scheme)
    if is_proxied or rules.script_name is not None:
        _read_script_name(fields, rules)
    return fields


VERSIONS = {b"HTTP/1.1\r\n": "1.1", b"HTTP/1.0\r\n": "1.0"}
MEANINGFUL = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"})


def _refuse_version(section: bytes) -> NoReturn:
    line, _, _ = section.partition(b"\r\n")
    if VERSION.fullmatch(line):
        raise RequestError(505, f"Invalid HTTP Version {line.decode()!r}: only 1.0 and 1.1 are served")
    raise RequestError(400, "Invalid request line: no HTTP version at its end")


def _check_field_sizes(section: bytes, rules: Rules) -> None:
    for line in section.split(b"\r\n")[1:]:
        if len(line) + 2 > rules.limit_field_size:
            raise RequestError(431, f"A header field is longer than {rules.limit_field_size} bytes")


def _map_underscores(headers: list[Header], rules: Rules) -> list[Header]:
    """Gunicorn's ``header_map``: ``X_Forwarded_For`` and ``X-Forwarded-For`` are one key to a CGI-like application."""
    kept = []
    for name, value in headers:
        if UNDERSCORE not in name or name in rules.forwarder_names or b"*" in rules.forwarder_names:
            kept.append((name, value))
        elif rules.header_map == "refuse":
            raise RequestError(400, f"Invalid HTTP header name {name.decode('latin-1')!r}: it has an underscore")
    return kept


def _read_script_name(fields: Fields, rules: Rules) -> None:
    script_name = rules.script_name
    if rules.takes_script_name:
        for name, value in fields.headers:
            if name == b"script_name":  # the last of several, as in Gunicorn
                script_name = value
    if script_name is not None:
        fields.script_name = script_name
        fields.root_path = unquote_to_bytes(script_name.rstrip(b"/")).decode("utf-8", "replace")


def _check_host(hosts: Sequence[bytes], version: str) -> None:
    # RFC 9112, 3.2: 400 for an HTTP/1.1 request without Host, and for any with more than one or with an invalid one.
    if len(hosts) > 1:
        raise RequestError(400, "More than one Host header field")
    if hosts:
        check_authority(hosts[0])
    elif version == "1.1":
        raise RequestError(400, "No Host header field")


@lru_cache(maxsize=1024)
def check_authority(authority: bytes) -> None:
    """Raises RequestError unless `authority` is ``host [":" port]`` (RFC 9110, 7.2; RFC 3986, 3.2.2 and 3.2.3)."""
    match = AUTHORITY.fullmatch(authority)
    if match is None or int(match[2] or 0) > 65535 or (match[1] is not None and not _is_ipv6(match[1])):
        raise RequestError(400, "Invalid Host: not a host with an optional port")


def _is_ipv6(address: bytes) -> bool:
    try:
        IPv6Address(address.decode())
    except ValueError:
        return False
    return True


def _read_framing(lengths: Sequence[bytes], codings: Sequence[bytes], version: str) -> int:
    """RFC 9112, 6: the length of the body, or CHUNKED, or a refusal of whatever two recipients could read differently."""
    if codings:
        return _read_codings(codings, lengths, version)
    if not lengths:
        return 0
    # RFC 9112, 6.3: a repeated length may be refused even where the values agree, as Gunicorn and llhttp do.
    if len(lengths) > 1 or CONTENT_LENGTH.fullmatch(lengths[0]) is None:
        raise RequestError(400, "Invalid Content-Length: not one number")
    return int(lengths[0])


def _read_codings(values: Sequence[bytes], lengths: Sequence[bytes], version: str) -> int:
    if lengths:
        raise RequestError(400, "Both Transfer-Encoding and Content-Length")
    if version == "1.0":
        # RFC 9112, 6.1: its framing is faulty, for HTTP/1.0 has no Transfer-Encoding.
        raise RequestError(400, "Transfer-Encoding in HTTP/1.0")
    codings = [coding.strip(b" \t").lower() for value in values for coding in value.split(b",")]
    # RFC 9112, 6.1 and 7.1: chunked is applied once, and last; otherwise nobody knows where the body ends.
    if b"" in codings or b"chunked" in codings[:-1]:
        raise RequestError(400, "Invalid Transfer-Encoding: chunked is not applied once and last")
    if codings != [b"chunked"]:
        raise RequestError(501, "Transfer-Encoding other than chunked is not implemented")
    return CHUNKED


def _read_connection(values: Sequence[bytes], version: str) -> bool:
    """Whether the client allows a further request (RFC 9112, 9.3): ``close`` wins wherever it stands."""
    if not values:
        return version == "1.1"
    options = [option.strip(b" \t") for value in values for option in value.lower().split(b",")]
    if b"close" in options:
        return False
    return version == "1.1" or b"keep-alive" in options


def _read_expect(values: Sequence[bytes], version: str) -> bool:
    """Whether the client waits for a 100 (RFC 9110, 10.1.1): HTTP/1.0 has none, and another expectation is refused."""
    if any(value.lower() != b"100-continue" for value in values):
        raise RequestError(417, "Expect other than 100-continue")
    return version == "1.1"


def _read_scheme(headers: list[Header], secure_scheme: Mapping[bytes, bytes], forwarded: str | None) -> str | None:
    """Gunicorn's ``secure_scheme_headers``: https only for the exact value, and no two that disagree. `forwarded` counts as one more."""
    schemes = {"https" if value == secure_scheme[name] else "http" for name, value in headers if name in secure_scheme}
    if forwarded is not None:
        schemes.add(forwarded)
    if len(schemes) > 1:
        raise RequestError(400, "Contradictory scheme headers")
    return schemes.pop() if schemes else None
