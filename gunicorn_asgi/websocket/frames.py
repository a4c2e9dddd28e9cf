"""Pure: the form of a WebSocket's frames, and frames to bytes (RFC 6455, 5.2)."""

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
"""Bytes of the shortest compressed message. Compressing a shorter message saves too little of a
packet for its time. RFC 7692, 6: a sender may choose."""
BETWEEN_FRAMES = -1
"""The number of remaining bytes of a frame, if no frame has begun."""

_SMALL_HEADS = {
    opcode: [bytes((FINAL | opcode, length)) for length in range(126)]
    for opcode in (OP_TEXT, OP_BINARY)
}


def data_frame(data: Any, text: Any, deflate: Deflate | None) -> bytes:
    """Encode a message as one frame. Raises ApplicationError.

    One of `data` and `text` is None (docs/asgi.md, 90).
    """
    if text is None:
        opcode = OP_BINARY
        payload: bytes = data if type(data) is bytes else _as_bytes(data)
    else:
        opcode = OP_TEXT
        if data is not None or (type(text) is not str and not isinstance(text, str)):
            raise ApplicationError(
                "'websocket.send' needs either 'bytes', or a str as 'text', "
                f"not {_kind(data)} and {_kind(text)}"
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
    """Return the type of `value` for an error message. The content may be large, and private."""
    return "None" if value is None else type(value).__name__


def _head(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return MEDIUM_HEAD(first, 126, length)
    return LONG_HEAD(first, 127, length)


MEDIUM_HEAD, LONG_HEAD = struct.Struct("!BBH").pack, struct.Struct("!BBQ").pack


def control_frame(opcode: int, payload: bytes) -> bytes:
    """Encode a Ping, Pong or Close frame. `payload` has at most 125 bytes."""
    return _head(FINAL | opcode, len(payload)) + payload
