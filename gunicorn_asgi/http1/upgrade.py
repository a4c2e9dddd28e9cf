"""Pure: which upgrade a request of HTTP/1.1 asks for: WebSocket, or h2c.

RFC 6455, 4.2.1; RFC 9110, 7.8; RFC 7540, 3.2.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from ..http.grammar import Header


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
