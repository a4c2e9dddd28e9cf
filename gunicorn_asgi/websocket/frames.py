"""Pure: the form of a WebSocket's frames, and frames to bytes (RFC 6455, 5.2)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NoReturn

from ..errors import ApplicationError
from .deflate import Deflate

FINAL, RSV1, MASKED = 0x80, 0x40, 0x80
OP_CONTINUATION, OP_TEXT, OP_BINARY, OP_CLOSE, OP_PING, OP_PONG = 0, 1, 2, 8, 9, 10
MAX_CONTROL = 125
"""Bytes of a control frame's payload (RFC 6455, 5.5)."""
MIN_DEFLATE = 64
"""Bytes of the shortest compressed message. Compressing a shorter message saves too little of a
packet for its time. RFC 7692, 6: a sender may choose."""
MAX_DEFLATE = 65536
"""Bytes, or characters, of the longest message that is compressed at once. It takes some 2 ms."""
DEFLATED_PART = 32768
"""Bytes of a longer message that are compressed at once."""
MIN_SEPARATE = 65536
"""Bytes of the shortest payload that is written apart from its head, and not copied for it."""
BETWEEN_FRAMES = -1
"""The number of remaining bytes of a frame, if no frame has begun."""

_SMALL_HEADS = {
    opcode: [bytes((FINAL | opcode, length)) for length in range(126)]
    for opcode in (OP_TEXT, OP_BINARY)
}


def write_message(
    write: Callable[[bytes], object], data: Any, text: Any, deflate: Deflate | None
) -> None:
    """Encode a message as one frame, and write it. Raises ApplicationError.

    One of `data` and `text` is None (docs/asgi.md, 90).
    """
    # The usual messages without a call.
    if text is None and type(data) is bytes:
        opcode, payload = OP_BINARY, data
    elif data is None and type(text) is str:
        opcode = OP_TEXT
        try:
            payload = text.encode()
        except UnicodeEncodeError:
            _refuse_surrogate()
    else:
        opcode, payload = read_message(data, text)
    size, first = len(payload), FINAL | opcode
    if deflate is not None and size >= MIN_DEFLATE:
        payload = deflate.compress(payload)
        size, first = len(payload), first | RSV1
    elif size < 126:
        write(_SMALL_HEADS[opcode][size] + payload)
        return
    if size < MIN_SEPARATE:
        write(_head(first, size) + payload)
    else:
        write(_head(first, size))
        write(payload)


def read_message(data: Any, text: Any) -> tuple[int, bytes]:
    """Return the opcode and the payload of a message. Raises ApplicationError."""
    if text is None:
        return OP_BINARY, _as_bytes(data)
    if data is not None or not isinstance(text, str):
        raise ApplicationError(
            "'websocket.send' needs either 'bytes', or a str as 'text', "
            f"not {_kind(data)} and {_kind(text)}"
        )
    try:
        return OP_TEXT, text.encode()
    except UnicodeEncodeError:
        _refuse_surrogate()


def _refuse_surrogate() -> NoReturn:
    raise ApplicationError("'text' has a lone surrogate, which UTF-8 has not") from None


def message_size(data: Any, text: Any) -> int:
    """Return the bytes, or characters, of a message; 0 if it is none."""
    message = data if text is None else text
    return len(message) if isinstance(message, (str, bytes, bytearray, memoryview)) else 0


class LongMessage:
    """A message that is compressed in steps, and then written as one frame.

    One frame, and not one for each step: a cancelled ``send()`` may not leave half a message.
    """

    __slots__ = ("_deflate", "_opcode", "_parts", "_position", "_view", "is_written")

    def __init__(self, data: Any, text: Any, deflate: Deflate) -> None:
        """As `write_message`. Raises ApplicationError."""
        self._opcode, payload = read_message(data, text)
        self._view = memoryview(payload)
        self._deflate = deflate
        self._position = 0
        self._parts: list[bytes] = []
        self.is_written = False

    def compress(self) -> bool:
        """Compress the next part. Returns whether there is more."""
        view = self._view
        if len(view) < MIN_DEFLATE:
            return False  # a short message after a long one
        end = self._position + DEFLATED_PART
        part = view[self._position : end]
        self._position = end
        self._parts.append(self._deflate.compress(part, is_final=end >= len(view)))
        return end < len(view)

    def write(self, write: Callable[[bytes], object]) -> None:
        """Write the frame of the compressed message."""
        self.is_written = True
        first, parts = FINAL | RSV1 | self._opcode, self._parts
        if not parts:
            first, parts = FINAL | self._opcode, [bytes(self._view)]
        write(b"".join((_head(first, sum(map(len, parts))), *parts)))


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
