"""Pure: the end of a request's body, and its content (RFC 9112, 6.2 and 7.1).

A framing takes the data as it comes. It returns the content, whether the body is complete, and the
data after the body. It reads a bounded number of lines at once, and keeps the rest of the data.
"""

from __future__ import annotations

import re
from enum import Enum

from ..errors import RequestError
from ..http.grammar import TOKEN_PATTERN

BodyPart = tuple[bytes, bool, bytes]
"""(content, whether the body is complete, the data after it)."""

MAX_CHUNK_LINE = 1024
"""Bytes of a chunk's size and extensions. RFC 9112, 7.1.1, asks for a limit on the extensions."""
MAX_STEP = 1024
"""Lines that are read at once: a chunk is one, and LINE_SIZE bytes of a long line count as one. It
takes about a millisecond."""
LINE_SIZE = 32

# RFC 9112, 7.1: chunk-size [ chunk-ext ]. 15 hexadecimal digits are 10^18 bytes. An extension is a
# token with an optional value, which is a token or a quoted string. "Bad" white space is allowed
# around ";" and "=" only, where it cannot be taken for a part of the size.
QUOTED_STRING = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15})((?:[ \t]*;[ \t]*"
    + TOKEN_PATTERN
    + rb"(?:[ \t]*=[ \t]*(?:"
    + TOKEN_PATTERN
    + rb"|"
    + QUOTED_STRING
    + rb"))?)*)"
)
TRAILER_LINE = re.compile(TOKEN_PATTERN + rb":[\t \x21-\x7e\x80-\xff]*")


class LengthFraming:
    """A body of ``content-length`` bytes."""

    __slots__ = ("left",)

    has_more = False
    """See `ChunkedFraming`."""

    def __init__(self, length: int) -> None:
        self.left = length

    def feed(self, data: bytes) -> BodyPart:
        """Take what belongs to the body."""
        left = self.left
        if len(data) < left:
            self.left = left - len(data)
            return data, False, b""
        self.left = 0
        return data[:left], True, data[left:]


class _Expected(Enum):
    SIZE = "the line with a chunk's size"
    DATA = "a chunk's data"
    END = "the line's end behind a chunk's data"
    TRAILER = "a trailer line, or the empty line that ends the body"


class ChunkedFraming:
    """A body in the chunked transfer coding.

    Trailers are checked and dropped: they must never become headers (RFC 9110, 6.5.1).
    """

    __slots__ = (
        "_data",
        "_expected",
        "_left",
        "_max_trailer_line",
        "_position",
        "_trailers_left",
        "has_more",
    )

    left = -1
    """The number of remaining bytes is unknown."""

    def __init__(self, max_trailers: int, max_trailer_line: int) -> None:
        self._expected = _Expected.SIZE
        self._left = 0
        self._data = b""
        """Received data that is not read, from `_position` on: an incomplete line, or more."""
        self._position = 0
        self.has_more = False
        """`feed` has stopped after MAX_STEP lines. Called without data, it continues."""
        self._trailers_left = max_trailers
        self._max_trailer_line = max_trailer_line

    def feed(self, data: bytes) -> BodyPart:
        """Take what belongs to the body. Raises RequestError for any deviation from the grammar."""
        content: list[bytes] = []
        position = 0
        if self._data:
            if not data:
                data, position = self._data, self._position
            else:
                data = self._data[self._position :] + data
                if self.has_more:  # one step at a time, however often data arrives
                    self._data, self._position = data, 0
                    return b"", False, b""
            self._data = b""
        self.has_more = False
        steps = MAX_STEP
        while True:
            if self._expected is _Expected.DATA:
                chunk = data[position : position + self._left]
                content.append(chunk)
                position += len(chunk)
                self._left -= len(chunk)
                if self._left:
                    return b"".join(content), False, b""
                if data[position : position + 2] == b"\r\n":
                    self._expected = _Expected.SIZE
                    position += 2
                else:
                    self._expected = _Expected.END
            if steps <= 0 and position < len(data):
                self._data, self._position, self.has_more = data, position, True
                return b"".join(content), False, b""
            end = self._line_end(data, position)
            if end < 0:
                self._data, self._position = data[position:], 0
                return b"".join(content), False, b""
            line = data[position:end]
            steps -= 1 + len(line) // LINE_SIZE
            position = end + 2
            if self._read_line(line):
                return b"".join(content), True, data[position:]

    def _line_end(self, data: bytes, start: int) -> int:
        """Return the end of the line that begins at `start`, or -1 if it has not come yet."""
        limit = MAX_CHUNK_LINE if self._expected is _Expected.SIZE else self._max_trailer_line
        if self._expected is _Expected.END:
            limit = 0
        end = data.find(b"\r\n", start, start + limit + 2)
        if end < 0:
            rest = data[start : start + limit + 2]
            # RFC 9112, 2.2: a bare LF does not end a line. Waiting for more would never end.
            if (
                len(rest) == limit + 2
                or b"\n" in rest
                or (b"\r" in rest[:-1])
                or (limit == 0 and rest not in (b"", b"\r"))
            ):
                raise self._error()
        return end

    def _read_line(self, line: bytes) -> bool:
        """Take one line without its end. Returns True if it is the last line of the body."""
        if self._expected is _Expected.SIZE:
            match = CHUNK_LINE.fullmatch(line)
            if match is None:
                raise self._error()
            self._left = int(match[1], 16)
            self._expected = _Expected.DATA if self._left else _Expected.TRAILER
        elif self._expected is _Expected.END:
            self._expected = _Expected.SIZE
        else:
            if not line:
                return True
            self._trailers_left -= 1
            if TRAILER_LINE.fullmatch(line) is None or self._trailers_left < 0:
                raise self._error()
        return False

    def _error(self) -> RequestError:
        return RequestError(400, f"Invalid chunked body: expected {self._expected.value}")


Framing = LengthFraming | ChunkedFraming
