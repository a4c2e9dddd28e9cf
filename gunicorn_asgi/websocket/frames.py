"""Pure: what a WebSocket is made of, on either version of HTTP: its frames, and the limits on what comes (RFC 6455).

The websockets package unmasks and knows the close codes. The frames are read here,
because each of them passes here, and because of when they are refused: the package takes a length that is not minimal, waits for the whole
payload of a frame whose first byte is wrong, and leaves UTF-8 to be found faulty at the end of a message. It is the oracle of the tests
instead (`tests/test_ws_oracle.py`).
"""

from __future__ import annotations

import codecs
import math
import struct
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, NoReturn

from websockets.exceptions import ProtocolError
from websockets.frames import Close as _Close

from ..errors import ApplicationError, Violation
from .deflate import TOO_BIG, Deflate

try:
    from websockets.speedups import apply_mask
except ImportError:  # built without its extension
    from websockets.utils import apply_mask

NORMAL_CLOSURE, GOING_AWAY, PROTOCOL_ERROR, NO_STATUS, ABNORMAL_CLOSURE = (
    1000,
    1001,
    1002,
    1005,
    1006,
)
INVALID_DATA, MESSAGE_TOO_BIG, INTERNAL_ERROR, SERVICE_RESTART = 1007, 1009, 1011, 1012
"""Close codes (RFC 6455, 7.4.1; 1012 in IANA's registry). 1005 and 1006 are never on the wire: no code came, no Close came."""

FINAL, RSV1, MASKED = 0x80, 0x40, 0x80
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
WHOLE_TEXT, WHOLE_BINARY = FINAL | TEXT, FINAL | BINARY
MAX_CONTROL = 125
"""Bytes of a control frame's payload (RFC 6455, 5.5)."""
MAX_REASON = MAX_CONTROL - 2
MAX_SKIPPED = 10000
"""Frames that are skipped in search of a Close: each takes its time, even an empty one."""
HIGH_WATER = 65536
"""Bytes, or characters, of messages that nobody has taken above which no further one is read."""
LARGE = 4096
"""Bytes from which on a view is cheaper than a copy."""
MIN_DEFLATE = 64
"""Bytes of a message below which it is not compressed: what that saves of a packet is not worth the time (RFC 7692, 6: a sender may choose)."""


@dataclass(frozen=True)
class Limits:
    """What a WebSocket may take. Seconds are infinite where there is no limit."""

    max_message_size: float
    """``websocket_max_message_size`` in bytes of the message itself, decompressed."""
    max_queue: int
    """Messages in front of the application from which on nothing more is read."""
    ping_interval_s: float
    ping_timeout_s: float
    accept_timeout_s: float
    close_timeout_s: float
    max_lifetime_s: float
    deflate: bool


class State(IntEnum):
    """How far the WebSocket is. Only ever grows."""

    CONNECTING = 0
    """The application has not accepted it: this is an exchange of HTTP."""
    OPEN = 1
    CLOSING = 2
    """This side has sent a Close frame, and waits for the client's."""
    CLOSED = 3


class Ping(NamedTuple):
    payload: bytes


class Close(NamedTuple):
    code: int
    """NO_STATUS if the frame had none."""
    reason: str


# What is received.

AT_BORDER = -1


class FrameReader:
    """The client's frames, from bytes to messages and control frames (RFC 6455, 5).

    A frame is judged by its head, before there is any payload in memory; text as it comes. Of a message at most ``max_message_size`` bytes are
    kept, and no further message is read while there are enough that nobody has taken.
    """

    __slots__ = (
        "_behind",
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
        self._behind = bytearray()
        """What has come while there were enough messages: it may be very many pieces."""
        # The frame.
        self._left = AT_BORDER
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
            self._behind += data
            return None
        position = 0
        if self._behind:
            self._behind += data
            data = bytes(self._behind)
            self._behind = bytearray()
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
                        data[begin:end] if length < LARGE else memoryview(data)[begin:end],
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
                    if len(messages) >= self._max_queue or self.unread > HIGH_WATER:
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
            data = self._data[self._position :] + self._behind + data
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
        if self._opcode < CLOSE and not self._compressed:
            self._add(part, self._is_final and not self._left)
        elif self._left or self._frame:
            # At most MAX_CONTROL bytes, or what a compressed message may have.
            self._frame += part
        if self._left:
            return position, None
        self._left = AT_BORDER
        if self._frame:
            part, self._frame = bytes(self._frame), bytearray()
        if self._opcode >= CLOSE:
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
        if opcode >= CLOSE and length > MAX_CONTROL:
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
        if opcode < CLOSE and length > (
            self._max_size * 1.125 + 64 if compressed else self._max_size - len(self._message)
        ):
            _refuse_size()
        if start + size < begin:
            return -1
        self._mask = data[begin - 4 : begin]
        self._opcode, self._is_final, self._left = opcode, is_final, length
        if opcode in (TEXT, BINARY):
            self._type, self._compressed = opcode, compressed
            self._utf8 = UTF8() if opcode == TEXT else None
        return begin

    def _check_first(self, first: int, opcode: int, is_final: bool) -> None:
        """The first byte: RSV bits, opcode, and whether that may come now."""
        if first & 0x30 or (
            first & RSV1 and (self._deflate is None or opcode not in (TEXT, BINARY))
        ):
            raise Violation(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode > PONG or BINARY < opcode < CLOSE:
            raise Violation(PROTOCOL_ERROR, "an opcode is reserved")
        if opcode >= CLOSE:
            if not is_final:
                raise Violation(PROTOCOL_ERROR, "a control frame is fragmented")
        elif self._type and opcode != CONTINUATION:
            raise Violation(PROTOCOL_ERROR, "a message begins within another")
        elif not self._type and opcode == CONTINUATION:
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
            message = whole.decode() if self._type == TEXT else bytes(whole)
        except UnicodeDecodeError:
            _refuse_text()
        self._type, self._compressed, self._message, self._utf8 = 0, False, bytearray(), None
        self.messages.append(message)
        self.unread += len(message)
        if len(self.messages) >= self._max_queue or self.unread > HIGH_WATER:
            self.is_full = True

    def _end_control(self, payload: bytes) -> Ping | Close | None:
        if self._opcode == PING:
            return Ping(payload)
        return read_close(payload) if self._opcode == CLOSE else None


class CloseFinder:
    """Finds the client's Close frame, and skips all else unread (RFC 6455, 7.1.1 and 7.1.7).

    A frame ends where the length in its head says, whatever else is wrong with it. So the frames
    that follow a violation are found, except where that length has no end.
    """

    __slots__ = ("_frames", "_has_found", "_head", "_is_close", "_left")

    def __init__(self, opcode: int, left: int) -> None:
        """Begin within a frame of that `opcode`, with `left` bytes of its payload to come.

        AT_BORDER: begin between two frames.
        """
        self._is_close = opcode == CLOSE
        self._left = left
        self._head = b""
        """The head of the next frame, as far as it is here: at most 13 bytes."""
        self._frames = 0
        """Number of frames that have ended."""
        self._has_found = False

    def find(self, data: bytes) -> bool:
        """Whether the whole Close frame has been received, in `data` or before."""
        if self._head:
            data = self._head + data
            self._head = b""
        position, size = 0, len(data)
        while position < size and self._frames < MAX_SKIPPED and not self._has_found:
            if self._left < 0:
                begin, length = _read_extent(data, position)
                if begin > size:
                    self._head = data[position:]
                    break
                self._is_close = data[position] & 0x0F == CLOSE
                position, self._left = begin, length
            part = min(self._left, size - position)
            position += part
            self._left -= part
            if not self._left:
                self._left = AT_BORDER
                self._frames += 1
                self._has_found = self._is_close
        return self._has_found


def _read_extent(data: bytes, start: int) -> tuple[int, int]:
    """Where the payload of the frame at `start` begins, and its length.

    The payload begins after the end of `data` if the head is not whole.
    """
    begin = start + 2
    if begin > len(data):
        return begin, 0
    second = data[start + 1]
    length = second & 0x7F
    if length > MAX_CONTROL:
        begin += 2 if length == 126 else 8
        length = int.from_bytes(data[start + 2 : begin], "big")
    return begin + (4 if second & MASKED else 0), length


def _read_length(data: bytes, start: int, kind: int) -> tuple[int, int]:
    """The length at `start` that does not fit into the second byte, where there is `kind` instead; before it, where the payload begins.

    -1: it is not minimal, or its first bit is set (RFC 6455, 5.2).
    """
    if kind == 126:
        length = int.from_bytes(data[start : start + 2], "big")
        return start + 6, length if length > MAX_CONTROL else -1
    length = int.from_bytes(data[start : start + 8], "big")
    return start + 12, length if length > 0xFFFF and length >> 63 == 0 else -1


UTF8 = codecs.getincrementaldecoder("utf-8")


def read_close(payload: bytes) -> Close:
    """The code and the reason of a Close frame; 1005 if it has none. Raises Violation (RFC 6455, 5.5.1 and 7.4)."""
    try:
        close = _Close.parse(payload)
        return Close(int(close.code), close.reason)
    except ProtocolError as error:
        raise Violation(PROTOCOL_ERROR, str(error)) from error
    except UnicodeDecodeError:
        raise Violation(INVALID_DATA, "the reason of a Close frame is not UTF-8") from None


def echo_payload(close: Close) -> bytes:
    """What answers the client's Close frame: its code (RFC 6455, 5.5.1), or nothing where it had none."""
    return b"" if close.code == NO_STATUS else close.code.to_bytes(2, "big")


def _refuse_size() -> NoReturn:
    raise Violation(MESSAGE_TOO_BIG, TOO_BIG)


def _refuse_text() -> NoReturn:
    raise Violation(INVALID_DATA, "a text is not UTF-8")


# What is sent.

_SMALL_HEADS = {
    opcode: [bytes((FINAL | opcode, length)) for length in range(126)] for opcode in (TEXT, BINARY)
}


def data_frame(data: Any, text: Any, deflate: Deflate | None) -> bytes:
    """A message as one frame: `data`, or `text`, of which one is None. Raises ApplicationError (statement 90)."""
    if text is None:
        opcode = BINARY
        payload: bytes = data if type(data) is bytes else _as_bytes(data)
    else:
        opcode = TEXT
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


def close_payload(code: object, reason: object) -> bytes:
    """The payload of the Close frame that the application asks for. Raises ApplicationError."""
    if not isinstance(code, int) or not isinstance(reason, str):
        raise ApplicationError(
            f"the 'code' of a close must be an int, and its 'reason' a str, not {code!r} and {reason!r}"
        )
    try:
        payload = _Close(code, reason).serialize()
    except ProtocolError:
        raise ApplicationError(
            f"{code} is no close code that may be sent (RFC 6455, 7.4): expected 1000 to 1003, 1007 to 1014, or 3000 to 4999"
        ) from None
    except UnicodeEncodeError:
        raise ApplicationError(
            f"the 'reason' of a close has a lone surrogate: {reason!r}"
        ) from None
    if len(payload) > MAX_CONTROL:
        raise ApplicationError(
            f"the 'reason' of a close has {len(payload) - 2} bytes, more than the {MAX_REASON} that fit (RFC 6455, 5.5)"
        )
    return payload
