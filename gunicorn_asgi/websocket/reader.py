"""Pure: the client's frames, from bytes to messages and control frames (RFC 6455, 5).

The websockets package unmasks, and parses Close frames. This module reads the frames itself, for
speed and for early errors. The package accepts a length in a longer form than needed, waits for the
whole payload of a frame with a wrong first byte, and finds invalid UTF-8 only at the end of a
message. It is the oracle of the tests instead (`tests/test_ws_oracle.py`).
"""

from __future__ import annotations

import codecs
import math
from collections import deque
from typing import NamedTuple, NoReturn

from ..errors import Violation
from .close import INVALID_DATA, MESSAGE_TOO_BIG, PROTOCOL_ERROR, Close, CloseFinder, read_close
from .deflate import TOO_BIG, Deflate
from .frames import (
    BETWEEN_FRAMES,
    FINAL,
    MASKED,
    MAX_CONTROL,
    OP_BINARY,
    OP_CLOSE,
    OP_CONTINUATION,
    OP_PING,
    OP_PONG,
    OP_TEXT,
    RSV1,
)

try:
    from websockets.speedups import apply_mask
except ImportError:  # built without its extension
    from websockets.utils import apply_mask

WHOLE_TEXT, WHOLE_BINARY = FINAL | OP_TEXT, FINAL | OP_BINARY
MAX_UNREAD = 65536
"""Bytes, or characters, of unread messages. Above it, no further message is read."""
MIN_VIEW = 4096
"""Bytes of the shortest payload for which a memoryview is cheaper than a copy."""

UTF8Decoder = codecs.getincrementaldecoder("utf-8")


class Ping(NamedTuple):
    payload: bytes


class FrameReader:
    """Reads the client's frames to messages and control frames (RFC 6455, 5).

    The head of a frame is checked before its payload is in memory, text as it comes. At most
    ``max_message_size`` bytes of a message are kept. While the application has enough unread
    messages, no further message is read.
    """

    __slots__ = (
        "_close_finder",
        "_compressed",
        "_data",
        "_deflate",
        "_frame",
        "_is_final",
        "_left",
        "_mask",
        "_max_queue",
        "_max_size",
        "_message",
        "_opcode",
        "_pending",
        "_position",
        "_type",
        "_utf8",
        "is_full",
        "messages",
        "unread",
    )

    def __init__(self, max_size: float, max_queue: int, deflate: Deflate | None) -> None:
        # Set once.
        self._max_size = max_size
        self._max_queue = max_queue
        self._deflate = deflate
        # The unread messages.
        self.messages: deque[str | bytes] = deque()
        self.unread: float = 0
        """The length of all `messages`. The stream that takes a message subtracts its length."""
        self.is_full = False
        """There are enough unread messages."""
        # The unread bytes: an incomplete head, or data after enough messages.
        self._data = b""
        self._position = 0
        """The start of the unread bytes in `_data`."""
        self._pending = bytearray()
        """Data received while `is_full`. It may come in very many pieces."""
        # The frame.
        self._left = BETWEEN_FRAMES
        """Remaining bytes of the payload."""
        self._opcode = 0
        self._is_final = True
        self._mask = b""
        self._frame = bytearray()
        """The received part of the payload, of a control frame or a compressed frame."""
        # The message.
        self._type = 0
        """OP_TEXT or OP_BINARY, from the head of the first frame to the end of the message."""
        self._compressed = False
        self._message = bytearray()
        self._utf8: codecs.IncrementalDecoder | None = None
        # The end.
        self._close_finder: CloseFinder | None = None

    def read(self, data: bytes = b"") -> Ping | Close | None:
        """Read the unread bytes and `data`, up to a Ping or Close. Raises Violation.

        Returns the Ping or Close. Returns None when all is read, or when there are enough unread
        messages: `is_full` is then true, until the stream resets it. Pongs are ignored.
        """
        if self.is_full:
            self._pending += data
            return None
        position = 0
        if self._pending:
            self._pending += data
            data = bytes(self._pending)
            self._pending = bytearray()
        if self._data:
            data, position = self._data + data, self._position
            self._data, self._position = b"", 0
        messages = self.messages
        control = None
        size = len(data)
        while position < size and not self.is_full:
            first = data[position]
            # Most messages are one whole frame. `_read_frame` handles all others, and all errors.
            if (
                (first == WHOLE_TEXT or first == WHOLE_BINARY)  # noqa: SIM109 # a set is slower
                and not self._type
                and self._left < 0
                and size - position > 5
            ):
                begin = position + 6
                length = data[position + 1] - MASKED
                if length > MAX_CONTROL:
                    begin, length = _read_length(data, position + 2, length)
                end = begin + length
                if 0 <= length <= self._max_size and end <= size:
                    payload = apply_mask(
                        data[begin:end] if length < MIN_VIEW else memoryview(data)[begin:end],
                        data[begin - 4 : begin],
                    )
                    message: str | bytes = payload
                    if first == WHOLE_TEXT:
                        try:
                            message = payload.decode()
                        except UnicodeDecodeError:
                            self._data, self._position = data, position
                            _refuse_text()
                    messages.append(message)
                    self.unread += len(message)
                    if len(messages) >= self._max_queue or self.unread > MAX_UNREAD:
                        self.is_full = True
                    position = end
                    continue
            before, left = position, self._left
            try:
                position, control = self._read_frame(data, position)
            except Violation:
                # `find_close` continues from here, where the faulty frame starts or continues.
                self._data, self._position, self._left = data, before, left
                raise
            if control is not None or position == before:
                break
        if position < size:
            if control is None and not self.is_full:
                self._data = data[position:]
            else:
                # No copy: the same data may have very many stops.
                self._data, self._position = data, position
        return control

    def drop(self) -> None:
        """Discard all messages from now on. Only the client's Close frame still counts."""
        self.messages = deque(maxlen=0)
        self.unread = -math.inf
        self.is_full = False

    def find_close(self, data: bytes = b"") -> bool:
        """True if the client's Close frame has been received, in `data` or before.

        After the first call, all received data comes here instead of to `read`.
        """
        if self._close_finder is None:
            self._close_finder = CloseFinder(self._opcode, self._left)
            data = self._data[self._position :] + self._pending + data
        return self._close_finder.find(data)

    def _read_frame(self, data: bytes, position: int) -> tuple[int, Ping | Close | None]:
        """Read a frame, or a part of a frame. Returns its end, and its Ping or Close, or None.

        The end is `position` if the head is incomplete.
        """
        if self._left < 0:
            begin = self._read_head(data, position)
            if begin < 0:
                return position, None
            position = begin
        part = data[position : position + self._left]
        position += len(part)
        self._left -= len(part)
        part = apply_mask(part, self._mask)
        turn = len(part) % 4
        self._mask = self._mask[turn:] + self._mask[:turn]
        if self._opcode < OP_CLOSE and not self._compressed:
            self._add(part, self._is_final and not self._left)
        elif self._left or self._frame:
            # At most MAX_CONTROL bytes, or the limit on a compressed message.
            self._frame += part
        if self._left:
            return position, None
        self._left = BETWEEN_FRAMES
        if self._frame:
            part, self._frame = bytes(self._frame), bytearray()
        if self._opcode >= OP_CLOSE:
            return position, self._end_control(part)
        self._end_data(part)
        return position, None

    def _read_head(self, data: bytes, start: int) -> int:
        """Read and check the received part of a frame's head. Raises Violation.

        Returns the start of the payload, or -1 if the head is incomplete.
        """
        size = len(data) - start
        first = data[start]
        opcode, is_final = first & 0x0F, bool(first & FINAL)
        self._check_first(first, opcode, is_final)
        if size == 1:
            return -1
        length = data[start + 1] - MASKED
        if length < 0:
            raise Violation(PROTOCOL_ERROR, "a frame is not masked")
        if opcode >= OP_CLOSE and length > MAX_CONTROL:
            raise Violation(PROTOCOL_ERROR, "a control frame is too long")
        begin = start + 6
        if length > MAX_CONTROL:
            if size < (4 if length == 126 else 10):
                return -1
            begin, length = _read_length(data, start + 2, length)
            if length < 0:
                raise Violation(PROTOCOL_ERROR, "the length of a frame is not minimal")
        compressed = bool(first & RSV1) if opcode else self._compressed
        # Compression may enlarge a message a little. The decompressed size is checked later.
        if opcode < OP_CLOSE and length > (
            self._max_size * 1.125 + 64 if compressed else self._max_size - len(self._message)
        ):
            _refuse_size()
        if start + size < begin:
            return -1
        self._mask = data[begin - 4 : begin]
        self._opcode, self._is_final, self._left = opcode, is_final, length
        if opcode in (OP_TEXT, OP_BINARY):
            self._type, self._compressed = opcode, compressed
            self._utf8 = UTF8Decoder() if opcode == OP_TEXT else None
        return begin

    def _check_first(self, first: int, opcode: int, is_final: bool) -> None:
        """Check the first byte: RSV bits, opcode, and the order of frames. Raises Violation."""
        if first & 0x30 or (
            first & RSV1 and (self._deflate is None or opcode not in (OP_TEXT, OP_BINARY))
        ):
            raise Violation(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode > OP_PONG or OP_BINARY < opcode < OP_CLOSE:
            raise Violation(PROTOCOL_ERROR, "an opcode is reserved")
        if opcode >= OP_CLOSE:
            if not is_final:
                raise Violation(PROTOCOL_ERROR, "a control frame is fragmented")
        elif self._type and opcode != OP_CONTINUATION:
            raise Violation(PROTOCOL_ERROR, "a message begins within another")
        elif not self._type and opcode == OP_CONTINUATION:
            raise Violation(PROTOCOL_ERROR, "a continuation frame continues nothing")

    def _add(self, part: bytes, is_end: bool) -> None:
        """Add a part of the message. `is_end`: its last part."""
        if self._utf8 is not None:
            try:
                self._utf8.decode(part, is_end)
            except UnicodeDecodeError:
                _refuse_text()
        self._message += part

    def _end_data(self, frame: bytes) -> None:
        """A frame of the message is complete. `frame`: its payload if it is compressed."""
        whole: bytes | bytearray = self._message
        if self._compressed:
            assert self._deflate is not None
            part = self._deflate.decompress(frame, self._is_final, self._max_size - len(whole))
            if self._is_final and not whole:
                whole = part
            else:
                self._add(part, self._is_final)
        if not self._is_final:
            return
        try:
            message = whole.decode() if self._type == OP_TEXT else bytes(whole)
        except UnicodeDecodeError:
            _refuse_text()
        self._type, self._compressed, self._message, self._utf8 = 0, False, bytearray(), None
        self.messages.append(message)
        self.unread += len(message)
        if len(self.messages) >= self._max_queue or self.unread > MAX_UNREAD:
            self.is_full = True

    def _end_control(self, payload: bytes) -> Ping | Close | None:
        if self._opcode == OP_PING:
            return Ping(payload)
        return read_close(payload) if self._opcode == OP_CLOSE else None


def _read_length(data: bytes, start: int, kind: int) -> tuple[int, int]:
    """Return the start of the payload, and its length in the 2 or 8 bytes at `start`.

    `kind`: the length in the second byte, 126 or 127. RFC 6455, 5.2: the length must use the
    shortest form, and its first bit must be 0. Otherwise it is returned as -1.
    """
    if kind == 126:
        length = int.from_bytes(data[start : start + 2], "big")
        return start + 6, length if length > MAX_CONTROL else -1
    length = int.from_bytes(data[start : start + 8], "big")
    return start + 12, length if length > 0xFFFF and length >> 63 == 0 else -1


def _refuse_size() -> NoReturn:
    raise Violation(MESSAGE_TOO_BIG, TOO_BIG)


def _refuse_text() -> NoReturn:
    raise Violation(INVALID_DATA, "a text is not UTF-8")
