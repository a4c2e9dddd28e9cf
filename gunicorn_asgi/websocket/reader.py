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
from io import BytesIO
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
from .share import INPUT_PER_WORK, UNCOUNTED, WebSocketShare

try:
    from websockets.speedups import apply_mask
except ImportError:  # built without its extension
    from websockets.utils import apply_mask

WHOLE_TEXT, WHOLE_BINARY = FINAL | OP_TEXT, FINAL | OP_BINARY
MAX_UNREAD = 65536
"""Bytes, or characters, of unread messages. Above it, no further message is read."""
MIN_VIEW = 4096
"""Bytes of the shortest payload for which a memoryview is cheaper than a copy."""
MAX_HEAD = 14
"""Bytes of the longest head of a frame: two, a length of eight, and a mask."""
WHOLE_MESSAGES = range(1024)
"""Whole messages that are read in one step. Each takes half a microsecond."""
COMPRESSED_PART = 4096
"""Bytes of a compressed frame that are gathered before they are decompressed.

So the result does not depend on the packets, and a byte at a time costs no more than necessary."""
DECODED_PART = 131072
"""Bytes of a text that are decoded at once. 16 MiB in one piece would hold the loop for 20 ms."""

UTF8Decoder = codecs.getincrementaldecoder("utf-8")


class Ping(NamedTuple):
    payload: bytes


class FrameReader:
    """Reads the client's frames to messages and control frames (RFC 6455, 5).

    The head of a frame is checked before its payload is in memory, text as it comes. At most
    ``max_message_size`` bytes of a message are kept.

    Reading stops while the application has enough unread messages (`is_full`). It also stops after
    a step of work, whatever the frames are, and where the session has to look at a message
    (`is_at_checkpoint`). `resume` continues.
    """

    __slots__ = (
        "_close_finder",
        "_compressed",
        "_data",
        "_deflate",
        "_first_checkpoint",
        "_frame",
        "_has_rest",
        "_is_final",
        "_is_inflating",
        "_left",
        "_mask",
        "_max_queue",
        "_max_size",
        "_message",
        "_opcode",
        "_pending",
        "_position",
        "_share",
        "_size",
        "_texts",
        "_type",
        "_undecoded",
        "_utf8",
        "checkpoint",
        "is_at_checkpoint",
        "is_dropping",
        "is_stopped",
        "messages",
        "unread",
    )

    def __init__(
        self,
        max_size: float,
        max_queue: int,
        deflate: Deflate | None,
        share: WebSocketShare | None = None,
    ) -> None:
        """`share`: of all WebSockets of the worker. Without it, there are no checkpoints."""
        # Set once.
        self._max_size = max_size
        self._max_queue = max_queue
        self._deflate = deflate
        self._share = WebSocketShare(math.inf) if share is None else share
        self._first_checkpoint = math.inf if share is None else 0
        # The unread messages.
        self.messages: deque[str | bytes] = deque()
        self.unread: float = 0
        """The length of all `messages`. The stream that takes a message subtracts its length."""
        self.is_dropping = False
        """All messages are discarded."""
        self.is_stopped = False
        """Nothing is read until `resume`: see the class."""
        # The unread bytes: an incomplete head, or data after a stop.
        self._has_rest = False
        """There are unread bytes, or a message is not decompressed or decoded to its end."""
        self._data = b""
        self._position = 0
        """The start of the unread bytes in `_data`."""
        self._pending = bytearray()
        """Data received while `is_stopped`. It may come in very many pieces."""
        # The frame.
        self._left = BETWEEN_FRAMES
        """Remaining bytes of the payload."""
        self._opcode = 0
        self._is_final = True
        self._mask = b""
        self._frame = bytearray()
        """The received part of the payload, of a control frame or of a COMPRESSED_PART."""
        # The message.
        self._type = 0
        """OP_TEXT or OP_BINARY, from the head of the first frame to the end of the message."""
        self._compressed = False
        self._message = BytesIO()
        """The message so far. Its `getvalue` makes no copy, which would take 5 ms for 16 MiB."""
        self._size = 0
        """Bytes of the message so far. None of them is kept while messages are discarded."""
        self._utf8: codecs.IncrementalDecoder | None = None
        self._is_inflating = False
        """A received part is not decompressed to its end."""
        self._undecoded = memoryview(b"")
        """The rest of a complete text that is being decoded."""
        self._texts: list[str] | None = None
        """Its decoded parts; None if no text is being decoded."""
        self.checkpoint: float = self._first_checkpoint
        """The size of the message in progress at which the session looks at it."""
        self.is_at_checkpoint = False
        # The end.
        self._close_finder: CloseFinder | None = None

    @property
    def is_full(self) -> bool:
        """Whether there are enough unread messages."""
        return len(self.messages) >= self._max_queue or self.unread > MAX_UNREAD

    @property
    def is_within_message(self) -> bool:
        """Whether a message has begun, and is not complete."""
        return bool(self._type)

    @property
    def held(self) -> int:
        """Bytes of the message in progress, of unread messages and of unread data."""
        unread = 0 if self.is_dropping else int(self.unread)
        data = len(self._data) - self._position + len(self._pending)
        return (0 if self.is_dropping else self._size) + unread + data

    def read(self, data: bytes = b"") -> Ping | Close | None:  # noqa: C901 # calls cost too much
        """Read the unread bytes and `data`, up to a Ping or Close. Raises Violation.

        Returns the Ping or Close. Returns None when all is read, or when reading stops:
        `is_stopped` is then true, until `resume`. Pongs are ignored.
        """
        if self.is_stopped:
            self._pending += data
            self._has_rest = True
            return None
        position = 0
        rest = self._has_rest
        if rest:
            data, position = self._take_rest(data)
        messages = self.messages
        share = self._share
        control = None
        is_slow = False
        size = len(data)
        for count in WHOLE_MESSAGES:
            if position >= size or self.is_stopped:
                break
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
                        self.is_stopped = True
                    position = end
                    continue
            before, left = position, self._left
            try:
                position, control = self._read_frame(data, position)
            except Violation:
                # `find_close` continues from here, where the faulty frame starts or continues.
                self._data, self._position, self._left = data, before, left
                raise
            is_slow = True
            share.work_left -= 1
            if share.work_left < 0 and position < size:
                self.is_stopped = True
            if control is not None:
                share.work_left -= count // 4
                break
            if position == before:
                break
        else:
            self.is_stopped = True
        if position < size or rest or is_slow:
            self._end_step(data, position, control is None)
        return control

    def resume(self, work: int = 0) -> None:
        """Have `read` go on after a stop, with `work` more for this step."""
        if work:
            self._share.work_left = work
        self.is_stopped = self.is_at_checkpoint = False

    def pass_checkpoint(self) -> bool:
        """The session has looked at the message. Returns whether it has just begun."""
        has_begun = bool(self._type) and self.checkpoint == 0
        if self._type:
            self.checkpoint = self._size + UNCOUNTED
        self.is_at_checkpoint = False
        self.is_stopped = self.is_full or self._share.work_left < 0
        return has_begun

    def _take_rest(self, data: bytes) -> tuple[bytes, int]:
        """Return the next bytes to read, and the position in them. Raises Violation."""
        if self._is_inflating or self._texts is not None:
            self._pending += data
            data = b""
            self._continue_message()
        rest, position = self._data, self._position
        if len(rest) - position < MAX_HEAD:
            # The start of a head, or nothing.
            data = b"".join((rest[position:], self._pending, data))
            position = 0
            self._pending = bytearray()
        else:
            # What has come later follows in a step of its own, without copies of the rest.
            self._pending += data
            data = rest
        self._data, self._position = b"", 0
        self._has_rest = self._is_inflating or self._texts is not None
        return data, position

    def _end_step(self, data: bytes, position: int, is_incomplete: bool) -> None:
        """Keep the unread bytes of `data`, and look for a checkpoint.

        `is_incomplete`: unless reading has stopped, the rest of `data` is an incomplete head.
        """
        if self._type and self._size >= self.checkpoint:
            self.is_stopped = self.is_at_checkpoint = True
        if position < len(data):
            self._has_rest = True
            if is_incomplete and not self.is_stopped:
                self._data = data[position:]
            else:
                # No copy: the same data may have very many stops.
                self._data, self._position = data, position
        if self._pending:
            self._has_rest = True
            if is_incomplete:
                self.is_stopped = True  # what has come later is read in the next step

    def _check_work(self, work: int) -> None:
        """`work` was done: stop for this turn after a whole step."""
        self._share.work_left -= work
        if self._share.work_left < 0:
            self.is_stopped = True

    def drop(self) -> None:
        """Discard all messages from now on. Only the client's Close frame still counts."""
        self.messages = deque(maxlen=0)
        self.unread = -math.inf
        self.is_dropping = True
        self._message = BytesIO()
        self.resume()

    def free_message(self) -> None:
        """Free the memory of the message in progress. Nothing is read any more."""
        self._message, self._frame, self._size = BytesIO(), bytearray(), 0
        self._undecoded, self._texts = memoryview(b""), None

    def free(self) -> None:
        """Free the memory of everything that was received. Nothing is read any more."""
        self.drop()
        self.free_message()
        self._data, self._position, self._pending = b"", 0, bytearray()

    def find_close(self, data: bytes = b"") -> bool:
        """True if the client's Close frame has been received, in `data` or before.

        After the first call, all received data comes here instead of to `read`.
        """
        if self._close_finder is None:
            self._close_finder = CloseFinder(self._opcode, self._left)
            data = self._data[self._position :] + self._pending + data
        return self._close_finder.find(data)

    @property
    def is_finding_close(self) -> bool:
        """Whether `find_close` has data for another step."""
        return self._close_finder is not None and self._close_finder.has_more

    def _read_frame(self, data: bytes, position: int) -> tuple[int, Ping | Close | None]:
        """Read a frame, or a part of a frame. Returns its end, and its Ping or Close, or None.

        The end is `position` if the head is incomplete.
        """
        if self._left < 0:
            begin = self._read_head(data, position)
            if begin < 0:
                return position, None
            position = begin
        size = self._left
        is_compressed = self._compressed and self._opcode < OP_CLOSE
        if is_compressed and size > COMPRESSED_PART - len(self._frame):
            size = COMPRESSED_PART - len(self._frame)
        part = data[position : position + size]
        position += len(part)
        self._left -= len(part)
        is_complete = len(part) == size
        part = apply_mask(part, self._mask)
        turn = len(part) % 4
        self._mask = self._mask[turn:] + self._mask[:turn]
        is_data = self._opcode < OP_CLOSE
        if is_data and not is_compressed:
            is_end = self._is_final and not self._left
            self._add(part, is_end)
            if not self._left:
                self._left = BETWEEN_FRAMES
                if is_end:
                    self._end_message(self._message.getvalue())
            return position, None
        if not is_complete or self._frame:
            self._frame += part
        if not is_complete:
            return position, None
        if self._frame:
            part, self._frame = bytes(self._frame), bytearray()
        if not self._left:
            self._left = BETWEEN_FRAMES
        if not is_data:
            return position, self._end_control(part)
        assert self._deflate is not None
        self._share.work_left -= len(part) // INPUT_PER_WORK
        room = self._max_size - self._size
        self._inflate(self._deflate.decompress(part, self._left < 0, self._is_final, room))
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
            self._max_size * 1.125 + 64 if compressed else self._max_size - self._size
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
        self._size += len(part)
        if not self.is_dropping:
            self._message.write(part)

    def _inflate(self, data: bytes) -> None:
        """Add decompressed `data`, and what follows it as far as this step allows."""
        deflate = self._deflate
        assert deflate is not None
        while deflate.has_more:
            self._add(data, False)
            self._check_work(2 + len(data) // 1024)
            if self.is_stopped:
                self._is_inflating = self._has_rest = True
                return
            data = deflate.decompress_more(self._max_size - self._size)
        self._is_inflating = False
        is_end = self._is_final and self._left < 0
        if is_end and not self._size:
            self._size = len(data)
            self._end_message(data)
            return
        self._add(data, is_end)
        if is_end:
            self._end_message(self._message.getvalue())

    def _end_message(self, whole: bytes) -> None:
        """The message is complete: decode it, as far as this step allows."""
        self._share.work_left -= len(whole) // 4096
        if self._type == OP_BINARY:
            self._append(whole)
        elif len(whole) <= DECODED_PART or whole.isascii():
            try:
                message = whole.decode()
            except UnicodeDecodeError:
                _refuse_text()
            self._append(message)
        else:
            self._undecoded, self._texts = memoryview(whole), []
            self._utf8 = UTF8Decoder()
            self._message = BytesIO()
            self._decode()

    def _decode(self) -> None:
        """Decode a long text, which was checked before, as far as this step allows."""
        texts, decoder = self._texts, self._utf8
        assert texts is not None
        assert decoder is not None
        while self._undecoded:
            texts.append(decoder.decode(self._undecoded[:DECODED_PART]))
            self._undecoded = self._undecoded[DECODED_PART:]
            self._check_work(DECODED_PART // 1024)
            if self.is_stopped and self._undecoded:
                self._has_rest = True
                return
        # An empty view would keep all bytes of the message.
        self._texts, self._undecoded = None, memoryview(b"")
        self._append("".join(texts))

    def _continue_message(self) -> None:
        """Go on to decompress or to decode a message. Raises Violation."""
        deflate = self._deflate
        if self._is_inflating:
            assert deflate is not None
            self._inflate(deflate.decompress_more(self._max_size - self._size))
        else:
            self._decode()

    def _append(self, message: str | bytes) -> None:
        """The message is complete. Its memory was counted, if it is large."""
        if self.checkpoint > UNCOUNTED + self._first_checkpoint:
            self.is_stopped = self.is_at_checkpoint = True
        self.checkpoint = self._first_checkpoint
        self._type, self._compressed, self._utf8 = 0, False, None
        self._message, self._size = BytesIO(), 0
        self.messages.append(message)
        self.unread += len(message)
        if len(self.messages) >= self._max_queue or self.unread > MAX_UNREAD:
            self.is_stopped = True

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
