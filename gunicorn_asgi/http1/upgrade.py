"""Pure: upgrades from HTTP/1.1: the handshake of a WebSocket, and h2c.

RFC 6455, 4.2; RFC 9110, 7.8; RFC 7540, 3.2.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence

from ..errors import RequestError
from ..http.fields import DATE, SERVER
from ..http.grammar import Header
from ..websocket.negotiation import accept_key
from .encode import encode_fields

WEBSOCKET_VERSION = b"13"
KEY_SIZE = 16


def asks_for_websocket(
    upgrades: Sequence[bytes], connections: Sequence[bytes], version: str
) -> bool:
    """True if a request with these values of Upgrade and Connection is a handshake.

    RFC 9110, 7.8: Upgrade is ignored in HTTP/1.0. Without the connection option, a proxy passed it
    on by mistake, so it is ignored, too.
    """
    return (
        version == "1.1"
        and b"websocket" in _members(upgrades)
        and b"upgrade" in _members(connections)
    )


def read_h2c(
    upgrades: Sequence[bytes], connections: Sequence[bytes], version: str, headers: Sequence[Header]
) -> bytes | None:
    """Return the SETTINGS of a request that asks for HTTP/2, or None.

    RFC 7540, 3.2.1: a malformed request for an upgrade is ignored.
    """
    options = _members(connections)
    if (
        version != "1.1"
        or b"h2c" not in _members(upgrades)
        or b"upgrade" not in options
        or b"http2-settings" not in options
    ):
        return None
    values = [value for name, value in headers if name == b"http2-settings"]
    if len(values) != 1:
        return None
    try:
        return base64.b64decode(values[0] + b"=" * (-len(values[0]) % 4), b"-_", validate=True)
    except binascii.Error:
        return None


def _members(values: Sequence[bytes]) -> list[bytes]:
    return [member.strip(b" \t") for value in values for member in value.lower().split(b",")]


def check_handshake(method: str, headers: Sequence[Header], has_body: bool) -> None:
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
