"""Pure: a request's field block, from fields to what the application is told, and every reason to refuse it (RFC 9113, 8; RFC 8441, 4)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..errors import RequestError
from ..http.contract import Header
from ..http.fields import VISIBLE
from ..http.grammar import CONTENT_LENGTH, TOKEN
from ..http.request import (
    METHODS,
    UNDERSCORE,
    UNKNOWN_LENGTH,
    Fields,
    Request,
    Rules,
    check_authority,
    check_path,
    check_target,
    decode_path,
    read_expect,
    read_method,
    read_proxied,
)
from .blocks import CONNECTION_SPECIFIC, Block

VERSION = "2"

UPPER_CASE = re.compile(rb"[A-Z]")
SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*")

# What a name means here, as `_NAMES` holds it.
_PLAIN, _UNDERSCORE, _MEANINGFUL = range(3)
MEANINGFUL = frozenset({b"host", b"content-length", b"expect", b"te", b"sec-websocket-version"})
_NAMES: dict[bytes, int] = {}
"""Names that were checked before; the bound is against a client that makes them up."""
_MAX_NAMES = 1024
_MAX_NAME = 64
MAX_KNOWN = 8
"""Requests that are remembered for a connection..."""
MAX_KNOWN_LIST = 8192
"""...and bytes of the header list of the longest of them."""


class MalformedError(Exception):
    """What has come is no request (RFC 9113, 8.1.1): its stream ends with PROTOCOL_ERROR."""


class RequestReader:
    """Reads the requests of one connection. A client mostly asks for another path and repeats the rest, whose meaning is remembered.

    `max_list` is SETTINGS_MAX_HEADER_LIST_SIZE; `has_websocket`: extended CONNECT was offered.
    """

    __slots__ = ("_has_websocket", "_known", "_max_list", "_rules")

    def __init__(self, rules: Rules, max_list: int, has_websocket: bool) -> None:
        self._rules = rules
        self._max_list = max_list
        self._has_websocket = has_websocket
        self._known: dict[tuple[Header, ...], tuple[str, bytes, Fields]] = {}
        """By all fields but the path: the method, the same as it was sent, and what the others mean."""

    def read(self, block: Block) -> Request:
        """Read a whole block. Raises MalformedError, or RequestError for what HTTP/1.1 would refuse with the same status."""
        if block.place < 0:
            return read_request(block, self._rules, self._max_list, self._has_websocket)
        known = self._known.get(block.others)
        if known is None:
            request = read_request(block, self._rules, self._max_list, self._has_websocket)
            if block.size <= MAX_KNOWN_LIST:
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                method = next(value for name, value in block.others if name == b":method")
                self._known[block.others] = request[0], method, request[4]
            return request
        # Equal fields pass equal checks: what is left are those of the path, and of the whole.
        name, method, fields = known
        target = block.fields[block.place][1]
        _check_values((target,))
        _check_line(method, target, self._rules)
        _check_list(block, self._max_list)
        path, raw_path, query = _read_path(method, target)
        if raw_path != b"*":
            check_path(raw_path, fields)
        return name, path, raw_path, query, fields


def read_request(block: Block, rules: Rules, max_list: int, has_websocket: bool) -> Request:
    """The same as RequestReader.read, of a block that nothing is known of."""
    pseudo, headers = _split(block.fields)
    headers = join_cookies(headers)
    _check_sizes(block, pseudo, headers, rules, max_list)
    fields = Fields(b"", VERSION, headers)
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
    if has_underscore or is_proxied or rules.script_name is not None:
        read_proxied(fields, rules, has_underscore, is_proxied)
    if fields.upgrade:
        _check_handshake(values)
        if fields.length > 0:
            raise RequestError(400, "Invalid WebSocket handshake: it has a body")
        fields.length = UNKNOWN_LENGTH  # that of a body which it has not, and not of what follows
    name = METHODS.get(method) or ("CONNECT" if fields.upgrade else read_method(method, rules))
    if raw_path != b"*":
        check_path(raw_path, fields)
    return name, path, raw_path, query, fields


def join_cookies(headers: list[Header]) -> list[Header]:
    """Return `headers` with one cookie field in place of several, where the first of them is.

    A client may split its cookie field so that it compresses better. RFC 9113, 8.2.3: the parts "MUST
    be concatenated into a single octet string using the two-octet delimiter of 0x3b, 0x20" before a
    generic application sees them.
    """
    parts = [value for name, value in headers if name == b"cookie"]
    if len(parts) < 2:
        return headers
    place = headers.index((b"cookie", parts[0]))
    others = [field for field in headers if field[0] != b"cookie"]
    # Without empty parts: they hold no cookie, and no value may end in white space.
    return [*others[:place], (b"cookie", b"; ".join(filter(None, parts))), *others[place:]]


def check_trailers(fields: list[Header]) -> None:
    """Raises MalformedError for trailers that may not be. Nobody is shown them: they would have to be told from header fields."""
    pseudo, headers = _split(fields)
    if pseudo:
        raise MalformedError("a pseudo-header field among the trailers")  # 8.1
    for name, _ in headers:
        _kind(name)


def _split(fields: list[Header]) -> tuple[Mapping[bytes, bytes], list[Header]]:
    """The pseudo-header fields, and the others. Raises MalformedError."""
    pseudo: dict[bytes, bytes] = {}
    for name, value in fields:
        if name[:1] != b":":
            break  # 8.3: none may stand behind the others, where it would be a name that is no token
        if name not in PSEUDO or name in pseudo:
            fault = "is there twice" if name in pseudo else "is unknown"  # 8.3.1 and 8.3
            raise MalformedError(f"the pseudo-header field {name[:32].decode('latin-1')!r} {fault}")
        pseudo[name] = value
    _check_values([value for _, value in fields])
    return pseudo, fields[len(pseudo) :]


def _check_values(values: Sequence[bytes]) -> None:
    """Raises MalformedError."""
    if b"".join(values).translate(None, VISIBLE):
        raise MalformedError("a character in a header that is not allowed")  # 8.2.1
    if any(value.strip(b" \t") != value for value in values):
        raise MalformedError("white space around the value of a header")  # 8.2.1


PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority", b":protocol"})


def _check_sizes(
    block: Block,
    pseudo: Mapping[bytes, bytes],
    headers: Sequence[Header],
    rules: Rules,
    max_list: int,
) -> None:
    """The same limits as in HTTP/1.1, where they are those of lines, and the one of the list. Raises RequestError.

    A cookie that the client has split is one field to both limits of fields, as it is over HTTP/1.1:
    the application, and what it passes the field on to, rely on ``limit_request_field_size``.
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
    """As long as its request line would be over HTTP/1.1. Raises RequestError."""
    if len(method) + len(target) + len(b"  HTTP/1.1") > rules.limit_line:
        raise RequestError(414, f"Request line is longer than {rules.limit_line} bytes")


def _check_list(block: Block, max_list: int) -> None:
    """Raises RequestError."""
    if block.size > max_list:
        raise RequestError(431, f"The header fields are longer than {max_list} bytes")


def _read_names(
    headers: Sequence[Header], rules: Rules
) -> tuple[Mapping[bytes, list[bytes]], bool, bool]:
    """The values of the fields that mean something, whether a name has an underscore, and whether one is a proxy's. Raises MalformedError."""
    values: dict[bytes, list[bytes]] = {}
    has_underscore = is_proxied = False
    proxy_names = rules.proxy_names
    for name, value in headers:
        kind = _NAMES.get(name)
        if kind is None:
            kind = _kind(name)
        if kind == _MEANINGFUL:
            values.setdefault(name, []).append(value)
        elif kind == _UNDERSCORE:
            has_underscore = True
        if name in proxy_names:
            is_proxied = True
    if any(value.lower() != b"trailers" for value in values.get(b"te", ())):
        raise MalformedError("TE other than trailers")  # 8.2.2
    return values, has_underscore, is_proxied


def _kind(name: bytes) -> int:
    """What `name` means. Raises MalformedError."""
    if name[:1] == b":":
        raise MalformedError("a pseudo-header field after a header field")  # 8.3
    # 8.2.1 and 8.2: not only visible characters but a token, as it has to be for everybody after this.
    if TOKEN.fullmatch(name) is None:
        raise MalformedError("a header name that is not a token")
    if UPPER_CASE.search(name):
        raise MalformedError("a header name that is not in lower case")
    if name in CONNECTION_SPECIFIC:
        raise MalformedError(
            f"{name.decode()}, which is a header of HTTP/1.1's connections"
        )  # 8.2.2
    kind = _MEANINGFUL if name in MEANINGFUL else _UNDERSCORE if UNDERSCORE in name else _PLAIN
    if len(name) <= _MAX_NAME:
        if len(_NAMES) >= _MAX_NAMES:
            _NAMES.clear()
        _NAMES[name] = kind
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
    # 8.3.1: each exactly once. What the client says of its scheme is not believed, as in HTTP/1.1 in absolute-form.
    if scheme is None or SCHEME.fullmatch(scheme) is None:
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
    text = target.decode("latin-1")
    if not (text.isascii() and text.isprintable()) or "#" in text or " " in text:
        check_target(text)
    raw_path, _, query = target.partition(b"?")
    return decode_path(raw_path), raw_path, query


def _read_host(authority: bytes | None, hosts: Sequence[bytes], fields: Fields) -> None:
    """ASGI statement 35: the authority is the first header, as ``host``. Raises MalformedError or RequestError."""
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
    """RFC 8441, 5: as in RFC 6455, 4.2.1 and 4.4, without what is HTTP/1.1's. Raises RequestError."""
    if list(values.get(b"sec-websocket-version", ())) != [b"13"]:
        # Not 426, which would have to name another protocol for the connection (RFC 9110, 15.5.22).
        raise RequestError(
            400,
            "Invalid WebSocket handshake: Sec-WebSocket-Version is not 13",
            fields=((b"sec-websocket-version", b"13"),),
        )
