"""Pure: a WebSocket's frames, on either version of HTTP: their form, and how this side's are written (RFC 6455, 5.2)."""

from __future__ import annotations

import struct
from typing import Any

from ..errors import ApplicationError
from .deflate import Deflate

FINAL, RSV1, MASKED = 0x80, 0x40, 0x80
OP_CONTINUATION, OP_TEXT, OP_BINARY, OP_CLOSE, OP_PING, OP_PONG = 0, 1, 2, 8, 9, 10
MAX_CONTROL = 125
"""Bytes of a control frame's payload (RFC 6455, 5.5)."""
MIN_DEFLATE = 64
"""Bytes of a message below which it is not compressed: what that saves of a packet is not worth the time (RFC 7692, 6: a sender may choose)."""
BETWEEN_FRAMES = -1

_SMALL_HEADS = {
    opcode: [bytes((FINAL | opcode, length)) for length in range(126)]
    for opcode in (OP_TEXT, OP_BINARY)
}


def data_frame(data: Any, text: Any, deflate: Deflate | None) -> bytes:
    """A message as one frame: `data`, or `text`, of which one is None. Raises ApplicationError (statement 90)."""
    if text is None:
        opcode = OP_BINARY
        payload: bytes = data if type(data) is bytes else _as_bytes(data)
    else:
        opcode = OP_TEXT
        if data is not None or (type(text) is not str and not isinstance(text, str)):
            raise ApplicationError(
                f"'websocket.send' needs either 'bytes', or a str as 'text', not {_kind(data)} and {_kind(text)}"
            )
        try:
            payload = text.encode()
        except UnicodeEncodeError:
            raise ApplicationError("'text' has a lone surrogate, which UTF-8 has not") from None
    size = len(payload)
    if deflate is not None and size >= MIN_DEFLATE:
        payload = deflate.compress(payload)
        return _head(FINAL | RSV1 | opcode, len(payload)) + payload
    if size < 126:
        return _SMALL_HEADS[opcode][size] + payload
    return _head(FINAL | opcode, size) + payload


def _as_bytes(data: object) -> bytes:
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise ApplicationError(
        f"'websocket.send' needs either bytes as 'bytes', or 'text', not {_kind(data)}"
    )


def _kind(value: object) -> str:
    """What the application sent instead, without its content: that may be large, and nobody's business in a log."""
    return "None" if value is None else type(value).__name__


def _head(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return MEDIUM_HEAD(first, 126, length)
    return LONG_HEAD(first, 127, length)


MEDIUM_HEAD, LONG_HEAD = struct.Struct("!BBH").pack, struct.Struct("!BBQ").pack


def control_frame(opcode: int, payload: bytes) -> bytes:
    """A Ping, Pong or Close frame: `payload` has at most 125 bytes."""
    return _head(FINAL | opcode, len(payload)) + payload
