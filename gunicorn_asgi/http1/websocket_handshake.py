"""Pure: the handshake of a WebSocket on HTTP/1.1 (RFC 6455, 4.2).

Only loaded where WebSockets are served, like everything that knows them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence

from ..asgi.exchange import ExchangeHost
from ..asgi.scope import Scope
from ..asgi.websocket import WebSocketStream
from ..errors import RequestError
from ..http.contract import ResponseWriter
from ..http.fields import DATE, SERVER
from ..http.grammar import Header
from ..http.request import Fields
from ..websocket.limits import WebSocketLimits
from ..websocket.negotiation import accept_key
from .encode import encode_fields

WEBSOCKET_VERSION = b"13"
KEY_SIZE = 16


def begin_handshake(
    writer: ResponseWriter,
    scope: Scope,
    fields: Fields,
    host: ExchangeHost,
    limits: WebSocketLimits,
) -> WebSocketStream:
    """Make the exchange of a handshake. Raises RequestError if it is invalid.

    `scope` and `fields` belong to its request.
    """
    _check_handshake(scope["method"], fields.headers, fields.length != 0)
    return WebSocketStream(writer, scope, host, limits)


def _check_handshake(method: str, headers: Sequence[Header], has_body: bool) -> None:
    """Raise RequestError unless the handshake is valid (RFC 6455, 4.2.1 and 4.4)."""
    if method != "GET":
        raise RequestError(
            405, "Invalid WebSocket handshake: the method is not GET", fields=((b"allow", b"GET"),)
        )
    if has_body:
        raise RequestError(400, "Invalid WebSocket handshake: it has a body")
    versions = [value for name, value in headers if name == b"sec-websocket-version"]
    if versions != [WEBSOCKET_VERSION]:
        raise RequestError(
            426,
            "Invalid WebSocket handshake: Sec-WebSocket-Version is not 13",
            fields=UPGRADE_REQUIRED,
        )
    keys = _keys(headers)
    if not keys:
        raise RequestError(400, "Invalid WebSocket handshake: Sec-WebSocket-Key is missing")
    if len(keys) > 1:
        raise RequestError(
            400, "Invalid WebSocket handshake: Sec-WebSocket-Key is there more than once"
        )
    if not _is_key(keys[0]):
        raise RequestError(
            400, "Invalid WebSocket handshake: Sec-WebSocket-Key is not 16 bytes in base64"
        )


UPGRADE_REQUIRED = (
    (b"upgrade", b"websocket"),
    (b"connection", b"upgrade"),
    (b"sec-websocket-version", WEBSOCKET_VERSION),
)
"""RFC 9110, 15.5.22 and RFC 6455, 4.4."""


def _keys(headers: Sequence[Header]) -> list[bytes]:
    return [value for name, value in headers if name == b"sec-websocket-key"]


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == KEY_SIZE
    except binascii.Error:
        return False


def switching_protocols(
    handshake: Sequence[Header], headers: Iterable[Header], default_fields: Sequence[bytes]
) -> bytes:
    """Encode the 101 that completes a valid `handshake`. Raises ApplicationError.

    `headers`: the application's. `default_fields`: indexed by the application's own DATE | SERVER.
    """
    lines, _, found = encode_fields(headers)
    own = (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-accept: %b\r\n"
    )
    return b"".join(
        (
            own % accept_key(*_keys(handshake)),
            lines,
            default_fields[found & (DATE | SERVER)],
            b"\r\n",
        )
    )
