"""Pure: frames of HTTP/2, from and to bytes (RFC 9113, 4 and 6). What a frame means is `protocol`'s."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client begins with (RFC 9113, 3.4)."""

(
    DATA,
    HEADERS,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    PUSH_PROMISE,
    PING,
    GOAWAY,
    WINDOW_UPDATE,
    CONTINUATION,
) = range(10)
"""Types of frames."""

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

MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65535
LEAST_MAX_FRAME_SIZE = 16384
MAX_STREAM_ID = 2**31 - 1

HEADER_SIZE = 9
_HEADER = struct.Struct(">HBBBL")
_SETTING = struct.Struct(">HL")
_NUMBER = struct.Struct(">L")
_GOAWAY = struct.Struct(">LL")


class Code(IntEnum):
    """Why a stream or a connection ends (RFC 9113, 7)."""

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
    """The client has broken a rule so that the connection ends with `code` (RFC 9113, 5.4.1)."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code


Frame = tuple[int, int, int, bytes]
"""(type, flags, stream, payload)."""


class FrameReader:
    """Cuts what comes into frames. Keeps no more than one that is not whole, which `max_size` limits."""

    __slots__ = ("_held", "_needed", "max_size")

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        """Bytes of the longest payload that is taken: our SETTINGS_MAX_FRAME_SIZE."""
        self._held = bytearray()
        self._needed = 0
        """Bytes that have to be there before it is worth to look again."""

    def read(self, data: bytes, frames: list[Frame]) -> None:
        """Append the frames that are whole now to `frames`. Raises ConnectionFailure behind those that came before a frame that is too long."""
        held = self._held
        if held:
            if len(held) + len(data) < self._needed:
                held += data
                return
            data = b"".join((held, data))
            held.clear()
        position, size = 0, len(data)
        while size - position >= HEADER_SIZE:
            high, low, kind, flags, stream = _HEADER.unpack_from(data, position)
            length = high << 8 | low
            if length > self.max_size:
                # 4.2: of a connection for a frame that could change the state of all of it; simply of the connection for every one.
                raise ConnectionFailure(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            end = position + HEADER_SIZE + length
            if end > size:
                self._needed = end - position
                break
            # 4.1: the reserved bit is ignored.
            frames.append((kind, flags, stream & MAX_STREAM_ID, data[position + HEADER_SIZE : end]))
            position = end
        else:
            self._needed = HEADER_SIZE
        if position < size:
            held += memoryview(data)[position:]


def header(length: int, kind: int, flags: int, stream: int) -> bytes:
    """What stands before a payload of `length` bytes (RFC 9113, 4.1)."""
    return _HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream)


def headers(stream: int, block: bytes, end: bool, max_size: int) -> list[bytes]:
    """A field block of any length as one HEADERS frame and as many CONTINUATION frames as it takes (RFC 9113, 4.3)."""
    flags = END_STREAM if end else 0
    if len(block) <= max_size:
        return [
            _HEADER.pack(len(block) >> 8, len(block) & 0xFF, HEADERS, flags | END_HEADERS, stream),
            block,
        ]
    pieces = []
    for start in range(0, len(block), max_size):
        piece = block[start : start + max_size]
        kind, own = (CONTINUATION, 0) if start else (HEADERS, flags)
        pieces += [
            header(
                len(piece),
                kind,
                own | (END_HEADERS if start + max_size >= len(block) else 0),
                stream,
            ),
            piece,
        ]
    return pieces


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame (RFC 9113, 6.5)."""
    payload = b"".join(_SETTING.pack(*value) for value in values)
    return header(len(payload), SETTINGS, 0, 0) + payload


SETTINGS_ACK = header(0, SETTINGS, ACK, 0)


def read_settings(payload: bytes) -> Iterable[tuple[int, int]]:
    """The values in the payload of a SETTINGS frame, which is a multiple of six bytes long."""
    return _SETTING.iter_unpack(payload)


def ping(payload: bytes, is_ack: bool) -> bytes:
    """A PING frame with its eight bytes (RFC 9113, 6.7)."""
    return header(8, PING, ACK if is_ack else 0, 0) + payload


def goaway(last: int, code: Code, reason: str) -> bytes:
    """A GOAWAY frame with `reason` as its debug data (RFC 9113, 6.8)."""
    payload = _GOAWAY.pack(last, code) + reason.encode("ascii", "backslashreplace")
    return header(len(payload), GOAWAY, 0, 0) + payload


def rst_stream(stream: int, code: Code) -> bytes:
    """An RST_STREAM frame (RFC 9113, 6.4)."""
    return header(4, RST_STREAM, 0, stream) + _NUMBER.pack(code)


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame (RFC 9113, 6.9)."""
    return header(4, WINDOW_UPDATE, 0, stream) + _NUMBER.pack(increment)


def read_number(payload: bytes) -> int:
    """The first four bytes of a payload, without the highest bit, which is reserved where it is not part of the number."""
    number: int = _NUMBER.unpack_from(payload)[0]
    return number & MAX_WINDOW
