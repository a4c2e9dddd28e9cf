"""Pure: requests, from decoded fields to the parts of a scope (RFC 9113, 8; RFC 8441, 4).

Every reason to refuse a request is here, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..errors import RequestError
from ..http.contract import Header
from ..http.fields import VISIBLE
from ..http.grammar import CONTENT_LENGTH, TOKEN
from ..http.request import (
    METHODS,
    PLAIN_TARGET,
    UNDERSCORE,
    UNKNOWN_LENGTH,
    Fields,
    Request,
    Rules,
    check_authority,
    check_path,
    check_target,
    decode_path,
    join_cookies,
    map_underscores,
    read_expect,
    read_method,
    read_proxied,
)
from .blocks import CONNECTION_SPECIFIC, Block

HTTP2_VERSION = "2"

UPPER_CASE = re.compile(rb"[A-Z]")
USUAL_SCHEMES = frozenset({b"https", b"http"})
SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*")

# Kinds of names, the values of `CHECKED_NAMES`.
_PLAIN, _UNDERSCORE, _INTERPRETED = range(3)
INTERPRETED_FIELDS = frozenset(
    {b"host", b"content-length", b"expect", b"te", b"sec-websocket-version"}
)
CHECKED_NAMES: dict[bytes, int] = {}
"""Names checked before, of all connections."""
MAX_CHECKED_NAMES = 1024
"""A client may invent names, so their number has a limit."""
_MAX_NAME = 64
MAX_KNOWN = 8
"""Requests that a connection remembers..."""
MAX_KNOWN_LIST = 8192
"""...and bytes of the longest header list among them."""


LINE_REST = len(b"  HTTP/1.1")
"""Bytes of a line of HTTP/1.1 beside the method and the path."""


class MalformedError(Exception):
    """The request is malformed (RFC 9113, 8.1.1): its stream is reset with PROTOCOL_ERROR."""


class RequestReader:
    """Reads the requests of one connection.

    Most clients repeat all fields except the path, so the meaning of the others is remembered.
    """

    __slots__ = ("_has_websocket", "_max_line", "_max_list", "_rules", "known")

    def __init__(self, rules: Rules, max_list: int, has_websocket: bool) -> None:
        """`max_list`: SETTINGS_MAX_HEADER_LIST_SIZE; `has_websocket`: extended CONNECT works."""
        self._rules = rules
        self._max_list = max_list
        self._has_websocket = has_websocket
        self._max_line = rules.limit_line - LINE_REST
        """Bytes of the longest method and path."""
        self.known: dict[tuple[Header, ...], tuple[str, bytes, Fields]] = {}
        """By all fields except the path: the method, the method as it was sent, and the others."""

    def read(self, block: Block) -> Request:
        """Read a block. Raises MalformedError.

        Raises RequestError where HTTP/1.1 would refuse the request with the same status.
        """
        others = block.others
        meaning = others.meaning
        if meaning is None:
            meaning = self.known.get(others.fields)
            if meaning is None or others.place < 0:
                return self._read_new(block)
            others.meaning = meaning
        # Equal fields pass equal checks. The path, and the size of the whole, are left to check.
        name, method, fields = meaning
        target = block.target
        if (
            target[:1] != b"/"
            or target.translate(None, PLAIN_TARGET)
            or len(method) + len(target) > self._max_line
            or block.size > self._max_list
            or fields.script_name
        ):
            return (name, *self._read_path(block, method, fields), fields)
        raw_path, _, query = target.partition(b"?")
        return name, decode_path(raw_path), raw_path, query, fields

    def _read_path(self, block: Block, method: bytes, fields: Fields) -> tuple[str, bytes, bytes]:
        """(path, raw_path, query_string), after all checks in the order of `read_request`."""
        _check_values((block.target,))
        _check_line(method, block.target, self._rules)
        _check_list(block, self._max_list)
        path, raw_path, query = _read_path(method, block.target)
        if raw_path != b"*":
            check_path(method.decode(), raw_path, fields, self._rules)
        return path, raw_path, query

    def _read_new(self, block: Block) -> Request:
        request = read_request(block, self._rules, self._max_list, self._has_websocket)
        others = block.others
        if others.place >= 0 and block.size <= MAX_KNOWN_LIST:
            if len(self.known) >= MAX_KNOWN:
                self.known.clear()
            method = dict(others.fields[:MAX_PSEUDO])[b":method"]
            self.known[others.fields] = others.meaning = request[0], method, request[4]
        return request


def read_request(block: Block, rules: Rules, max_list: int, has_websocket: bool) -> Request:
    """Read a block without any memory of earlier requests. Raises as `RequestReader.read` does."""
    pseudo, headers = _split(block.fields)
    headers = join_cookies(headers)
    _check_sizes(block, pseudo, headers, rules, max_list)
    fields = Fields(b"", HTTP2_VERSION, headers)
    fields.length = UNKNOWN_LENGTH
    values, has_underscore, is_proxied = _read_names(headers, rules)
    method, path, raw_path, query = _read_target(pseudo, fields, has_websocket)
    _read_host(pseudo.get(b":authority"), values.get(b"host", ()), fields)
    lengths = values.get(b"content-length", ())
    if lengths:
        if len(lengths) > 1 or CONTENT_LENGTH.fullmatch(lengths[0]) is None:
            raise MalformedError("a content-length that is not one number of at most 18 digits")
        fields.length = int(lengths[0])
    if b"expect" in values:
        read_expect(values[b"expect"])
        fields.expect_continue = True
    if has_underscore:
        map_underscores(fields, rules)
    if is_proxied or rules.script_name is not None:
        proxied = [header for header in headers if header[0] in rules.proxy_names]
        read_proxied(fields, rules, proxied)
    if fields.upgrade:
        _check_handshake(values)
        if fields.length > 0:
            raise RequestError(400, "Invalid WebSocket handshake: it has a body")
        fields.length = (
            UNKNOWN_LENGTH  # a length of 0 would not be the length of the data that follows
        )
    name = METHODS.get(method) or ("CONNECT" if fields.upgrade else read_method(method, rules))
    if raw_path != b"*":
        check_path(name, raw_path, fields, rules)
    return name, path, raw_path, query, fields


def check_trailers(fields: list[Header]) -> None:
    """Check trailers. Raises MalformedError.

    They are dropped, for ASGI does not tell them from header fields.
    """
    pseudo, headers = _split(fields)
    if pseudo:
        raise MalformedError("a pseudo-header field among the trailers")  # 8.1
    for name, _ in headers:
        _kind(name)


def _split(fields: list[Header]) -> tuple[Mapping[bytes, bytes], list[Header]]:
    """The pseudo-header fields, and the other fields. Raises MalformedError."""
    pseudo: dict[bytes, bytes] = {}
    for name, value in fields:
        if name[:1] != b":":
            break  # 8.3: none may follow the others; there its name is refused, as no token
        if name not in PSEUDO or name in pseudo:
            fault = "is there twice" if name in pseudo else "is unknown"  # 8.3.1 and 8.3
            raise MalformedError(f"the pseudo-header field {name[:32].decode('latin-1')!r} {fault}")
        pseudo[name] = value
    _check_values([value for _, value in fields])
    return pseudo, fields[len(pseudo) :]


def _check_values(values: Sequence[bytes]) -> None:
    if b"".join(values).translate(None, VISIBLE):
        raise MalformedError("a character in a header that is not allowed")  # 8.2.1
    # Only space and tab are left of the white space that `strip` knows.
    if list(map(bytes.strip, values)) != list(values):
        raise MalformedError("white space around the value of a header")  # 8.2.1


PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority", b":protocol"})
MAX_PSEUDO = len(PSEUDO)


def _check_sizes(
    block: Block,
    pseudo: Mapping[bytes, bytes],
    headers: Sequence[Header],
    rules: Rules,
    max_list: int,
) -> None:
    """Apply the limits of HTTP/1.1's lines, and the limit of the list. Raises RequestError.

    A split cookie counts as a single field for the number and the size of fields, as over HTTP/1.1.
    Applications, and servers after them, rely on ``limit_request_field_size``.
    """
    _check_line(pseudo.get(b":method", b""), pseudo.get(b":path", b""), rules)
    if len(headers) > rules.limit_fields:
        raise RequestError(431, f"More than {rules.limit_fields} header fields")
    _check_list(block, max_list)
    if block.size > rules.limit_field_size and any(
        len(name) + len(value) + len(b": \r\n") > rules.limit_field_size
        for name, value in (*headers, (b"host", pseudo.get(b":authority", b"")))
    ):
        raise RequestError(431, f"A header field is longer than {rules.limit_field_size} bytes")


def _check_line(method: bytes, target: bytes, rules: Rules) -> None:
    """Apply the limit of HTTP/1.1's request line. Raises RequestError."""
    if len(method) + len(target) + LINE_REST > rules.limit_line:
        raise RequestError(414, f"Request line is longer than {rules.limit_line} bytes")


def _check_list(block: Block, max_list: int) -> None:
    if block.size > max_list:
        raise RequestError(431, f"The header fields are longer than {max_list} bytes")


def _read_names(
    headers: Sequence[Header], rules: Rules
) -> tuple[Mapping[bytes, list[bytes]], bool, bool]:
    """Check the names. Raises MalformedError.

    Returns the values of INTERPRETED_FIELDS, whether a name has an underscore, and whether a name
    belongs to a proxy.
    """
    values: dict[bytes, list[bytes]] = {}
    has_underscore = is_proxied = False
    proxy_names = rules.proxy_names
    for name, value in headers:
        kind = CHECKED_NAMES.get(name)
        if kind is None:
            kind = _kind(name)
        if kind == _INTERPRETED:
            values.setdefault(name, []).append(value)
        elif kind == _UNDERSCORE:
            has_underscore = True
        if name in proxy_names:
            is_proxied = True
    if any(value.lower() != b"trailers" for value in values.get(b"te", ())):
        raise MalformedError("TE other than trailers")  # 8.2.2
    return values, has_underscore, is_proxied


def _kind(name: bytes) -> int:
    """The kind of `name`. Raises MalformedError."""
    if name[:1] == b":":
        raise MalformedError("a pseudo-header field after a header field")  # 8.3
    # 8.2.1 and 8.2 ask for visible characters. Everything after this module needs a token.
    if TOKEN.fullmatch(name) is None:
        raise MalformedError("a header name that is not a token")
    if UPPER_CASE.search(name):
        raise MalformedError("a header name that is not in lower case")
    if name in CONNECTION_SPECIFIC:
        raise MalformedError(
            f"{name.decode()}, which is a header of HTTP/1.1's connections"
        )  # 8.2.2
    kind = _PLAIN
    if name in INTERPRETED_FIELDS:
        kind = _INTERPRETED
    elif UNDERSCORE in name:
        kind = _UNDERSCORE
    if len(name) <= _MAX_NAME:
        if len(CHECKED_NAMES) >= MAX_CHECKED_NAMES:
            CHECKED_NAMES.clear()
        CHECKED_NAMES[name] = kind
    return kind


def _read_target(
    pseudo: Mapping[bytes, bytes], fields: Fields, has_websocket: bool
) -> tuple[bytes, str, bytes, bytes]:
    """(method, path, raw_path, query_string). Raises MalformedError or RequestError."""
    method = pseudo.get(b":method")
    if not method:
        raise MalformedError("no :method")  # 8.3.1
    protocol = pseudo.get(b":protocol")
    if protocol is not None:
        if method != b"CONNECT" or not has_websocket:
            raise MalformedError(
                ":protocol without an extended CONNECT that was offered"
            )  # RFC 8441, 3 and 4
        if protocol.lower() != b"websocket":
            raise RequestError(
                501, "An extended CONNECT to something else than a WebSocket is not implemented"
            )
        fields.upgrade = "websocket"
    elif method == b"CONNECT":
        if b":scheme" in pseudo or b":path" in pseudo or b":authority" not in pseudo:
            raise MalformedError("CONNECT with a :scheme or :path, or without an :authority")  # 8.5
        raise RequestError(501, "CONNECT is not implemented")
    scheme, target = pseudo.get(b":scheme"), pseudo.get(b":path")
    # 8.3.1: each exactly once. The scheme is not used, as in HTTP/1.1 in absolute-form.
    if scheme not in USUAL_SCHEMES and (scheme is None or SCHEME.fullmatch(scheme) is None):
        raise MalformedError("no valid :scheme")
    return (method, *_read_path(method, target))


def _read_path(method: bytes, target: bytes | None) -> tuple[str, bytes, bytes]:
    """(path, raw_path, query_string). Raises MalformedError or RequestError."""
    if not target:
        raise MalformedError("no :path")  # 8.3.1
    if target == b"*" and method == b"OPTIONS":
        return "*", b"*", b""
    if target[:1] != b"/":
        raise MalformedError("a :path that does not begin with a slash")
    if target.translate(None, PLAIN_TARGET):
        check_target(target.decode("latin-1"))
    raw_path, _, query = target.partition(b"?")
    return decode_path(raw_path), raw_path, query


def _read_host(authority: bytes | None, hosts: Sequence[bytes], fields: Fields) -> None:
    """Make the authority the first header, ``host``. Raises MalformedError or RequestError.

    ASGI HTTP, "Connection Scope", headers: a server for HTTP/2 must do so.
    """
    if len(hosts) > 1:
        raise RequestError(400, "More than one Host header field")
    if hosts and authority is not None and hosts[0].lower() != authority.lower():
        raise MalformedError("Host is not the :authority")  # 8.3.1
    host = hosts[0] if authority is None and hosts else authority
    if host is None:
        raise RequestError(400, "No :authority and no Host")
    check_authority(host)
    if authority is not None:
        fields.headers.insert(0, (b"host", authority))
        if hosts:
            fields.headers = [
                fields.headers[0],
                *(field for field in fields.headers[1:] if field[0] != b"host"),
            ]


def _check_handshake(values: Mapping[bytes, Sequence[bytes]]) -> None:
    """Check the handshake of RFC 6455, 4.2.1 and 4.4, without the parts of HTTP/1.1 (RFC 8441, 5).

    Raises RequestError.
    """
    if list(values.get(b"sec-websocket-version", ())) != [b"13"]:
        # Not 426, which has to name another protocol for the connection (RFC 9110, 15.5.22).
        raise RequestError(
            400,
            "Invalid WebSocket handshake: Sec-WebSocket-Version is not 13",
            fields=((b"sec-websocket-version", b"13"),),
        )
