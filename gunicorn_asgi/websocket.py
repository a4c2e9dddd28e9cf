"""Pure: what a WebSocket is made of, on either version of HTTP: its negotiation, its frames, and the limits on both (RFC 6455, RFC 7692).

The websockets package negotiates, inflates and deflates, unmasks, and knows the close codes. The frames are read here, because each of them passes
here, and because of when they are refused: the package takes a length that is not minimal, waits for the whole payload of a frame whose first
byte is wrong, and leaves UTF-8 to be found faulty at the end of a message. It is the oracle of the tests instead (`tests/test_ws_oracle.py`).
"""

from __future__ import annotations

import codecs
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from websockets.exceptions import InvalidHeader, NegotiationError, PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Close as _Close
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension, parse_subprotocol
from websockets.utils import accept_key as _accept_key

from .errors import ApplicationError, RequestError
from .wire import Header

try:
    from websockets.speedups import apply_mask
except ImportError:  # built without its extension
    from websockets.utils import apply_mask

NORMAL_CLOSURE, GOING_AWAY, PROTOCOL_ERROR, NO_STATUS, ABNORMAL_CLOSURE = 1000, 1001, 1002, 1005, 1006
INVALID_DATA, MESSAGE_TOO_BIG, INTERNAL_ERROR, SERVICE_RESTART = 1007, 1009, 1011, 1012
"""Close codes (RFC 6455, 7.4.1; 1012 in IANA's registry). 1005 and 1006 are never on the wire: no code came, no Close came."""

FINAL, RSV1, MASKED = 0x80, 0x40, 0x80
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
WHOLE_TEXT, WHOLE_BINARY = FINAL | TEXT, FINAL | BINARY
MAX_CONTROL = 125
"""Bytes of a control frame's payload (RFC 6455, 5.5)."""
MAX_REASON = MAX_CONTROL - 2
LARGE = 4096
"""Bytes from which on a view is cheaper than a copy."""
MIN_DEFLATE = 64
"""Bytes of a message below which it is not compressed: what that saves of a packet is not worth the time (RFC 7692, 6: a sender may choose)."""
WINDOW_BITS, MEM_LEVEL = 12, 5
"""Of permessage-deflate: 38 KiB for what is sent and 11 for what is received, where zlib's own choice takes 264 and 44.
Messages of a few KiB, which most are, lose next to nothing by it."""


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


class Violation(Exception):
    """The client has broken the protocol, and the connection ends with `code` (RFC 6455, 7.1.7)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Ping(NamedTuple):
    payload: bytes


class Close(NamedTuple):
    code: int
    """NO_STATUS if the frame had none."""
    reason: str


Event = str | bytes | Ping | Close
"""A message (text, or bytes), or a control frame that asks for something."""


# Negotiation.


def read_subprotocols(headers: Iterable[Header]) -> list[str]:
    """What the client offers, in its order, from any number of header lines. Raises RequestError (RFC 6455, 11.3.4)."""
    try:
        return [name for value in _values(headers, b"sec-websocket-protocol") for name in parse_subprotocol(value)]
    except InvalidHeader as error:
        raise RequestError(400, "Invalid Sec-WebSocket-Protocol: not a list of tokens") from error


def negotiate_deflate(headers: Iterable[Header]) -> Deflate | None:
    """Take the first offer of permessage-deflate that can be taken (RFC 7692, 5 and 7). Raises RequestError for what is no offer (RFC 6455, 9.1)."""
    try:
        offers = [offer for value in _values(headers, b"sec-websocket-extensions") for offer in parse_extension(value)]
    except InvalidHeader as error:
        raise RequestError(400, "Invalid Sec-WebSocket-Extensions: not a list of extensions") from error
    for name, parameters in offers:
        if name == FACTORY.name:
            try:
                agreed, extension = FACTORY.process_request_params(parameters, ())
            except NegotiationError:
                continue
            return Deflate(build_extension([(name, list(agreed))]).encode(), extension)
    return None


def accept_key(key: bytes) -> bytes:
    """``Sec-WebSocket-Accept`` for a ``Sec-WebSocket-Key`` (RFC 6455, 4.2.2)."""
    return _accept_key(key.decode()).encode()


FACTORY = ServerPerMessageDeflateFactory(
    server_max_window_bits=WINDOW_BITS, client_max_window_bits=WINDOW_BITS, compress_settings={"memLevel": MEM_LEVEL}
)


def _values(headers: Iterable[Header], name: bytes) -> list[str]:
    return [value.decode("latin-1") for other, value in headers if other == name]


class Deflate:
    """permessage-deflate as agreed. zlib's memory is taken with the first message that needs it: many a connection never has one."""

    __slots__ = ("_agreed", "_extension", "header")

    def __init__(self, header: bytes, extension: PerMessageDeflate) -> None:
        self.header = header
        """``Sec-WebSocket-Extensions`` of the answer."""
        self._agreed = (
            extension.remote_no_context_takeover,
            extension.local_no_context_takeover,
            extension.remote_max_window_bits,
            extension.local_max_window_bits,
        )
        self._extension: PerMessageDeflate | None = None

    def _zlib(self) -> PerMessageDeflate:
        if self._extension is None:
            self._extension = PerMessageDeflate(*self._agreed, compress_settings={"memLevel": MEM_LEVEL})
        return self._extension

    def compress(self, opcode: int, payload: bytes) -> bytes:
        """The payload of the one frame of a message."""
        return bytes(self._zlib().encode(Frame(Opcode(opcode), payload)).data)

    def decompress(self, opcode: int, payload: bytes, is_final: bool, room: float) -> bytes:
        """The payload of one frame of a compressed message. Raises Violation, at the latest when `room` bytes are exceeded."""
        extension = self._zlib()
        frame = Frame(Opcode(opcode), payload, is_final, rsv1=opcode != CONTINUATION)
        try:
            # One more than allowed, so that what fits to the byte is not held back within zlib.
            data = extension.decode(frame, max_size=None if room == math.inf else int(room) + 1).data
        except PayloadTooBig:
            _refuse_size()
        except ProtocolError as error:
            raise Violation(PROTOCOL_ERROR, "decompression failed") from error
        if len(data) > room:
            _refuse_size()
        decoder = getattr(extension, "decoder", None)
        if decoder is not None and decoder.eof:
            # RFC 7692, 7.2.3.5: a block with BFINAL ends zlib's stream, but not the context.
            extension.decoder = zlib.decompressobj(wbits=-extension.remote_max_window_bits, zdict=data)
        return bytes(data)


# What is received.

AT_BORDER = -1


class FrameReader:
    """The client's frames, from bytes to messages and control frames (RFC 6455, 5).

    A frame is judged by its head, before there is any payload in memory; text as it comes. Of a message at most ``max_message_size`` bytes are kept.
    """

    __slots__ = (
        "_compressed",
        "_deflate",
        "_frame",
        "_is_final",
        "_left",
        "_mask",
        "_max_size",
        "_message",
        "_opcode",
        "_position",
        "_type",
        "_utf8",
        "data",
    )

    def __init__(self, max_size: float, deflate: Deflate | None) -> None:
        self._max_size = max_size
        self._deflate = deflate
        self.data = b""
        """Not read yet. If this is empty, so is `read`."""
        self._position = 0
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
        """TEXT or BINARY while there is one."""
        self._compressed = False
        self._message = bytearray()
        self._utf8: codecs.IncrementalDecoder | None = None

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        self.data = self.data[self._position :] + data if self.data else data
        self._position = 0

    def read(self) -> Event | None:
        """The next message or control frame, or None if more has to come. Pongs are passed over. Raises Violation."""
        data = self.data
        start = self._position
        size = len(data)
        # A whole message in one whole frame, as most are. Whatever is not in order is left to `_read_frame`.
        if not self._type and self._left < 0 and size - start > 5:
            first = data[start]
            if first == WHOLE_TEXT or first == WHOLE_BINARY:  # noqa: SIM109 # a set is slower
                length = data[start + 1] - MASKED
                start += 6
                if length > MAX_CONTROL:
                    if length == 126:
                        start += 2
                        length = int.from_bytes(data[start - 6 : start - 4], "big")
                        is_minimal = length > MAX_CONTROL
                    else:
                        start += 8
                        length = int.from_bytes(data[start - 12 : start - 4], "big")
                        is_minimal = length > 0xFFFF
                    if not is_minimal:
                        return self._read_frame()
                end = start + length
                if 0 <= length <= self._max_size and end <= size:
                    if length < LARGE:
                        payload = apply_mask(data[start:end], data[start - 4 : start])
                    else:
                        payload = apply_mask(memoryview(data)[start:end], data[start - 4 : start])
                    if end == size:
                        self.data = b""
                    self._position = end
                    if first == WHOLE_BINARY:
                        return payload
                    try:
                        return payload.decode()
                    except UnicodeDecodeError:
                        _refuse_text()
        return self._read_frame() if size else None

    def _read_frame(self) -> Event | None:
        """Any frame, in any number of parts."""
        while self._left >= 0 or self._read_head():
            start = self._position
            part = self.data[start : start + self._left]
            self._position = start + len(part)
            self._left -= len(part)
            if self._position == len(self.data):
                self.data = b""
                self._position = 0
            part = apply_mask(part, self._mask)
            turn = len(part) % 4
            self._mask = self._mask[turn:] + self._mask[:turn]
            if self._opcode >= CLOSE or self._compressed:
                # At most MAX_CONTROL bytes, or what a compressed message may have.
                self._frame += part
            else:
                self._add(part, not self._left)
            if self._left:
                return None
            self._left = AT_BORDER
            event = self._end_control() if self._opcode >= CLOSE else self._end_data()
            if event is not None:
                return event
        return None

    def _read_head(self) -> bool:
        """Read and judge the head of a frame as far as it is here; whether that is all of it. Raises Violation."""
        data, start = self.data, self._position
        size = len(data) - start
        if size == 0:
            return False
        first = data[start]
        opcode, is_final = first & 0x0F, bool(first & FINAL)
        self._check_first(first, opcode, is_final)
        if size == 1:
            return False
        length = data[start + 1] - MASKED
        if length < 0:
            raise Violation(PROTOCOL_ERROR, "a frame is not masked")
        if opcode >= CLOSE and length > MAX_CONTROL:
            raise Violation(PROTOCOL_ERROR, "a control frame is too long")
        wide = {126: 2, 127: 8}.get(length, 0)
        if size < 2 + wide:
            return False
        if wide:
            length = int.from_bytes(data[start + 2 : start + 2 + wide], "big")
            # RFC 6455, 5.2: the minimal number of bytes, and the most significant bit 0.
            if length <= (MAX_CONTROL if wide == 2 else 0xFFFF) or length >> 63:
                raise Violation(PROTOCOL_ERROR, "the length of a frame is not minimal")
        compressed = bool(first & RSV1) if opcode else self._compressed
        # Compressed, a message may grow by a little. How much it is without is seen when it is decompressed.
        if opcode < CLOSE and length > (self._max_size * 1.125 + 64 if compressed else self._max_size - len(self._message)):
            _refuse_size()
        if size < 6 + wide:
            return False
        self._mask = data[start + 2 + wide : start + 6 + wide]
        self._position = start + 6 + wide
        self._opcode, self._is_final, self._left = opcode, is_final, length
        if opcode in (TEXT, BINARY):
            self._type, self._compressed = opcode, compressed
            self._utf8 = UTF8() if opcode == TEXT else None
        return True

    def _check_first(self, first: int, opcode: int, is_final: bool) -> None:
        """The first byte: RSV bits, opcode, and whether that may come now."""
        if first & 0x30 or (first & RSV1 and (self._deflate is None or opcode not in (TEXT, BINARY))):
            raise Violation(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode > PONG or BINARY < opcode < CLOSE:
            raise Violation(PROTOCOL_ERROR, "an opcode is reserved")
        if opcode >= CLOSE:
            if not is_final:
                raise Violation(PROTOCOL_ERROR, "a control frame is fragmented")
        elif bool(self._type) != (opcode == CONTINUATION):
            raise Violation(
                PROTOCOL_ERROR, "a continuation frame continues nothing" if opcode == CONTINUATION else "a message is not complete"
            )

    def _add(self, part: bytes, is_end_of_frame: bool) -> None:
        """A part of the message."""
        if self._utf8 is not None:
            try:
                self._utf8.decode(part, self._is_final and is_end_of_frame)
            except UnicodeDecodeError:
                _refuse_text()
        self._message += part

    def _end_data(self) -> str | bytes | None:
        if self._compressed:
            assert self._deflate is not None
            room = self._max_size - len(self._message)
            self._add(self._deflate.decompress(self._opcode, bytes(self._frame), self._is_final, room), True)
            self._frame = bytearray()
        if not self._is_final:
            return None
        message = self._message.decode() if self._type == TEXT else bytes(self._message)
        self._type, self._compressed, self._message, self._utf8 = 0, False, bytearray(), None
        return message

    def _end_control(self) -> Event | None:
        payload, self._frame = bytes(self._frame), bytearray()
        if self._opcode == PING:
            return Ping(payload)
        if self._opcode == PONG:
            return None
        return read_close(payload)


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
    raise Violation(MESSAGE_TOO_BIG, "message too big")


def _refuse_text() -> NoReturn:
    raise Violation(INVALID_DATA, "a text is not UTF-8")


# What is sent.

_SMALL_HEADS = {first: [bytes((first, length)) for length in range(126)] for first in (WHOLE_TEXT, WHOLE_BINARY)}


def data_frame(opcode: int, payload: bytes, deflate: Deflate | None) -> tuple[bytes, bytes]:
    """A message as one frame: its head, and its payload."""
    size = len(payload)
    if deflate is not None and size >= MIN_DEFLATE:
        data = deflate.compress(opcode, payload)
        return _head(FINAL | RSV1 | opcode, len(data)), data
    if size < 126:
        return _SMALL_HEADS[FINAL | opcode][size], payload
    return _head(FINAL | opcode, size), payload


def _head(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return bytes((first, 126)) + length.to_bytes(2, "big")
    return bytes((first, 127)) + length.to_bytes(8, "big")


def control_frame(opcode: int, payload: bytes) -> bytes:
    """A Ping, Pong or Close frame: `payload` has at most 125 bytes."""
    return _head(FINAL | opcode, len(payload)) + payload


def close_payload(code: object, reason: object) -> bytes:
    """The payload of the Close frame that the application asks for. Raises ApplicationError."""
    if not isinstance(code, int) or not isinstance(reason, str):
        raise ApplicationError(f"the 'code' of a close must be an int, and its 'reason' a str, not {code!r} and {reason!r}")
    try:
        payload = _Close(code, reason).serialize()
    except ProtocolError:
        raise ApplicationError(
            f"{code} is no close code that may be sent (RFC 6455, 7.4): expected 1000 to 1003, 1007 to 1014, or 3000 to 4999"
        ) from None
    except UnicodeEncodeError:
        raise ApplicationError(f"the 'reason' of a close has a lone surrogate: {reason!r}") from None
    if len(payload) > MAX_CONTROL:
        raise ApplicationError(f"the 'reason' of a close has {len(payload) - 2} bytes, more than the {MAX_REASON} that fit (RFC 6455, 5.5)")
    return payload
