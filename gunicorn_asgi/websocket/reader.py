"""Pure: frames of a WebSocket's client, from bytes to messages and control frames (RFC 6455, 5).

The websockets package unmasks and knows the close codes. The frames are read here,
because each of them passes here, and because of when they are refused: the package takes a length that is not minimal, waits for the whole
payload of a frame whose first byte is wrong, and leaves UTF-8 to be found faulty at the end of a message. It is the oracle of the tests
instead (`tests/test_ws_oracle.py`).
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
"""Bytes, or characters, of messages that nobody has taken above which no further one is read."""
MIN_VIEW = 4096
"""Bytes from which on a view is cheaper than a copy."""

UTF8Decoder = codecs.getincrementaldecoder("utf-8")


class Ping(NamedTuple):
    payload: bytes


class FrameReader:
    """The client's frames, from bytes to messages and control frames (RFC 6455, 5).

    A frame is judged by its head, before there is any payload in memory; text as it comes. Of a message at most ``max_message_size`` bytes are
    kept, and no further message is read while there are enough that nobody has taken.
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
        # What was read and not taken.
        self.messages: deque[str | bytes] = deque()
        self.unread: float = 0
        """The length of all `messages`. Whoever takes one counts it off."""
        self.is_full = False
        """There are enough of them."""
        # What was not read: the beginning of a head, or what waits behind enough messages.
        self._data = b""
        self._position = 0
        """In that."""
        self._pending = bytearray()
        """What has come while there were enough messages: it may be very many pieces."""
        # The frame.
        self._left = BETWEEN_FRAMES
        """Bytes of its payload that are still to come."""
        self._opcode = 0
        self._is_final = True
        self._mask = b""
        self._frame = bytearray()
        """Its payload as far as it is here, where it counts only as a whole."""
        # The message.
        self._type = 0
        """TEXT or BINARY from the head of its first frame to its end."""
        self._compressed = False
        self._message = bytearray()
        self._utf8: codecs.IncrementalDecoder | None = None
        # The end.
        self._close_finder: CloseFinder | None = None

    def read(self, data: bytes = b"") -> Ping | Close | None:
        """Read what was left before and then `data`, up to a Ping or Close, which is returned. Pongs are passed over. Raises Violation.

        None: all is read, or there are enough messages, which `is_full` says until somebody resets it.
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
            # A message in one whole frame, as most are. Whatever is different, or not in order, is left to `_read_frame`.
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
                # `find_close` goes on from here: the frame at fault starts or continues here.
                self._data, self._position, self._left = data, before, left
                raise
            if control is not None or position == before:
                break
        if position < size:
            if control is None and not self.is_full:
                self._data = data[position:]
            else:  # there may be very many such stops in what came at once: no copy for each
                self._data, self._position = data, position
        return control

    def drop(self) -> None:
        """Keep no message that is read from now on: only the client's Close is waited for."""
        self.messages = deque(maxlen=0)
        self.unread = -math.inf
        self.is_full = False

    def find_close(self, data: bytes = b"") -> bool:
        """Whether the client's Close frame has been received, in `data` or before.

        From the first call on, what is received goes here instead of to `read`.
        """
        if self._close_finder is None:
            self._close_finder = CloseFinder(self._opcode, self._left)
            data = self._data[self._position :] + self._pending + data
        return self._close_finder.find(data)

    def _read_frame(self, data: bytes, position: int) -> tuple[int, Ping | Close | None]:
        """Any frame, or a part of one. Returns where it ends: at `position` if its head is not whole."""
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
            # At most MAX_CONTROL bytes, or what a compressed message may have.
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
        """Read and judge the head of a frame as far as it is here. Returns where the payload begins, -1 if the head goes on. Raises Violation."""
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
        # Compressed, a message may grow by a little. How much it is without is seen when it is decompressed.
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
        """The first byte: RSV bits, opcode, and whether that may come now."""
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
        """A part of the message, its last one if `is_end`."""
        if self._utf8 is not None:
            try:
                self._utf8.decode(part, is_end)
            except UnicodeDecodeError:
                _refuse_text()
        self._message += part

    def _end_data(self, frame: bytes) -> None:
        """A frame of the message is whole; `frame` is its payload if it is compressed."""
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
    """The length at `start` that does not fit into the second byte, where there is `kind` instead; before it, where the payload begins.

    -1: it is not minimal, or its first bit is set (RFC 6455, 5.2).
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
