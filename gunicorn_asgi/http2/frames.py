"""Pure: frames of HTTP/2, from and to bytes (RFC 9113, 4 and 6). `protocol` interprets them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes from a client (RFC 9113, 3.4)."""


class FrameType(IntEnum):
    """The types of frames (RFC 9113, 6)."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9


# Global names for the types in each response.
DATA, HEADERS = FrameType.DATA, FrameType.HEADERS

# Flags.
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

# Settings (RFC 9113, 6.5.2; RFC 8441, 3).
(
    HEADER_TABLE_SIZE,
    ENABLE_PUSH,
    MAX_CONCURRENT_STREAMS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
) = range(1, 7)
ENABLE_CONNECT_PROTOCOL = 8

MAX_WINDOW_SIZE = 2**31 - 1
DEFAULT_WINDOW_SIZE = 65535
LEAST_MAX_FRAME_SIZE = 16384
"""The initial value of SETTINGS_MAX_FRAME_SIZE, and the smallest allowed."""
MAX_STREAM_ID = 2**31 - 1

HEADER_SIZE = 9
_HEADER = struct.Struct(">HBBBL")
_SETTING = struct.Struct(">HL")
_NUMBER = struct.Struct(">L")
_GOAWAY = struct.Struct(">LL")


class ErrorCode(IntEnum):
    """The reason why a stream or a connection ends (RFC 9113, 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class ConnectionFailure(Exception):
    """A connection error: the client broke the protocol (RFC 9113, 5.4.1)."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


Frame = tuple[int, int, int, bytes]
"""(type, flags, stream, payload)."""

MAX_STEP = 1000
"""The weight of frames that are cut at once. To handle them takes about two milliseconds."""
WEIGHTS = [1] * 256
"""The weight of a frame by its type..."""
WEIGHTS[HEADERS] = 30
WEIGHTS[FrameType.RST_STREAM] = WEIGHTS[FrameType.SETTINGS] = 10
PAYLOAD_SHIFTS = [31] * 256
"""...and n, where 2 ** n bytes of its payload weigh 1 more. In a field block, each byte can be a
field. In DATA, the number of bytes means no work: no frame has 2 ** 31."""
PAYLOAD_SHIFTS[HEADERS] = PAYLOAD_SHIFTS[FrameType.CONTINUATION] = 2
PAYLOAD_SHIFTS[FrameType.SETTINGS] = 6


class FrameBuffer:
    """Cuts received bytes into frames, a bounded number at once.

    Keeps the rest, or at most one incomplete frame.
    """

    __slots__ = ("_buffer", "_position", "_rest", "has_more", "max_size", "needed")

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        """Bytes of the longest accepted payload: our SETTINGS_MAX_FRAME_SIZE."""
        self._buffer = bytearray()
        self.needed = 0
        """The buffer is read again once it has so many bytes."""
        self.has_more = False
        """`read` has stopped after frames of MAX_STEP. Called without data, it continues."""
        self._rest = b""
        """Data that is not cut, from `_position` on, if it `has_more`."""
        self._position = 0

    @property
    def buffered(self) -> int:
        """Bytes of the incomplete frame."""
        return len(self._buffer)

    def read(self, data: bytes, frames: list[Frame]) -> None:
        """Append complete frames to `frames`: all of them, unless it then `has_more`.

        Raises ConnectionFailure for a frame above `max_size`, after the frames before it.
        """
        buffer = self._buffer
        position = 0
        if self.has_more:
            if data:  # one step at a time, however often data arrives
                self._rest, self._position = self._rest[self._position :] + data, 0
                return
            data, position = self._rest, self._position
            self._rest, self.has_more = b"", False
        elif buffer:
            if len(buffer) + len(data) < self.needed:
                buffer += data
                return
            data = b"".join((buffer, data))
            buffer.clear()
        size, max_size, room = len(data), self.max_size, MAX_STEP
        while size - position >= HEADER_SIZE:
            if room <= 0:
                self._rest, self._position, self.has_more = data, position, True
                return
            high, low, kind, flags, stream = _HEADER.unpack_from(data, position)
            length = high << 8 | low
            if length > max_size:
                # 4.2: a connection error in a frame with consequences for the whole connection, a
                # stream error otherwise. Here it is always a connection error.
                raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            start = position + HEADER_SIZE
            end = start + length
            if end > size:
                self.needed = end - position
                break
            # 4.1: the reserved bit is ignored.
            frames.append((kind, flags, stream & MAX_STREAM_ID, data[start:end]))
            position = end
            room -= WEIGHTS[kind] + (length >> PAYLOAD_SHIFTS[kind])
        else:
            self.needed = HEADER_SIZE
        if position < size:
            buffer += memoryview(data)[position:]


def header(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The header of a frame with a payload of `length` bytes (RFC 9113, 4.1)."""
    return _HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream)


def headers(stream: int, block: bytes, end: bool, max_size: int) -> list[bytes]:
    """A field block as HEADERS, with CONTINUATION frames where it is longer than `max_size`.

    Returns parts to be written in their order (RFC 9113, 4.3).
    """
    flags = END_STREAM if end else 0
    size = len(block)
    if size <= max_size:
        return [
            _HEADER.pack(size >> 8, size & 0xFF, HEADERS, flags | END_HEADERS, stream),
            block,
        ]
    parts = []
    kind = HEADERS
    for start in range(0, size, max_size):
        part = block[start : start + max_size]
        if start + max_size >= size:
            flags |= END_HEADERS
        parts += [header(len(part), kind, flags, stream), part]
        kind, flags = FrameType.CONTINUATION, 0
    return parts


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame (RFC 9113, 6.5)."""
    payload = b"".join(_SETTING.pack(*value) for value in values)
    return header(len(payload), FrameType.SETTINGS, 0, 0) + payload


SETTINGS_ACK = header(0, FrameType.SETTINGS, ACK, 0)


def read_settings(payload: bytes) -> Iterable[tuple[int, int]]:
    """The values in a SETTINGS frame. Its payload has a multiple of six bytes."""
    return _SETTING.iter_unpack(payload)


def ping(payload: bytes, is_ack: bool) -> bytes:
    """A PING frame with its eight bytes (RFC 9113, 6.7)."""
    return header(8, FrameType.PING, ACK if is_ack else 0, 0) + payload


def goaway(last: int, code: ErrorCode, reason: str) -> bytes:
    """A GOAWAY frame with `reason` as its debug data (RFC 9113, 6.8)."""
    payload = _GOAWAY.pack(last, code) + reason.encode("ascii", "backslashreplace")
    return header(len(payload), FrameType.GOAWAY, 0, 0) + payload


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    """An RST_STREAM frame (RFC 9113, 6.4)."""
    return header(4, FrameType.RST_STREAM, 0, stream) + _NUMBER.pack(code)


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame (RFC 9113, 6.9)."""
    return header(4, FrameType.WINDOW_UPDATE, 0, stream) + _NUMBER.pack(increment)


def read_number(payload: bytes) -> int:
    """The first four bytes of a payload as a number of 31 bits, without the highest bit."""
    number: int = _NUMBER.unpack_from(payload)[0]
    return number & MAX_WINDOW_SIZE
