"""Pure: responses of the Runtime API, from bytes (RFC 9112, as far as a client needs it)."""

from __future__ import annotations

import re
from typing import NamedTuple

from ..http.grammar import CONTENT_LENGTH, TOKEN_PATTERN

MAX_HEAD = 1048576
"""Bytes of the longest head. The client context of an invocation is in one of its fields."""
MAX_BODY = 33554432
"""Bytes of the longest body, several times the largest event (6 MB)."""
MAX_CHUNK_LINE = 256
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?")
FIELD_LINES = re.compile(rb"(?:%b:[\t\x20-\x7e\x80-\xff]*\r\n)*" % TOKEN_PATTERN)
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")


class Response(NamedTuple):
    """A whole response."""

    status: int
    fields: dict[str, str]
    """By their names in lower case. Of a repeated field, the last value."""
    body: bytes
    keeps_connection: bool


class InvalidResponse(Exception):
    """The bytes are no response of HTTP/1."""


class ResponseReader:
    """Reads one response. `feed` returns it as soon as it is complete."""

    def __init__(self) -> None:
        self.has_begun = False
        """Whether anything has arrived, valid or not."""
        self._data = bytearray()
        self._status = 0
        self._fields: dict[str, str] = {}
        self._keeps_connection = False
        self._length: int | None = None
        """Bytes of the body; None for a chunked body, and for one that ends with the connection."""
        self._is_chunked = False
        self._body = bytearray()

    def feed(self, data: bytes) -> Response | None:
        """Take received bytes. Raises InvalidResponse."""
        self.has_begun = True
        self._data += data
        while not self._status:
            if not self._read_head():
                return None
        if self._is_chunked:
            is_whole = self._read_chunks()
        else:
            self._body += self._data
            self._data.clear()
            is_whole = self._length is not None and len(self._body) >= self._length
        if len(self._body) > MAX_BODY:
            raise InvalidResponse(f"the body is longer than {MAX_BODY} bytes")
        if not is_whole:
            return None
        if self._data or (self._length is not None and len(self._body) > self._length):
            raise InvalidResponse("there are bytes after the response")
        return self._make(self._keeps_connection)

    def feed_eof(self) -> Response | None:
        """The connection has ended. Returns a response that ends with it, or None."""
        is_whole = self._status and self._length is None and not self._is_chunked
        return self._make(False) if is_whole else None

    def _make(self, keeps_connection: bool) -> Response:
        return Response(self._status, self._fields, bytes(self._body), keeps_connection)

    def _read_head(self) -> bool:
        """Read a head, and forget it if its status is 1xx. Returns whether there was one."""
        end = self._data.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD:
            if len(self._data) > MAX_HEAD:
                raise InvalidResponse(f"the head is longer than {MAX_HEAD} bytes")
            return False
        first, _, section = bytes(self._data[: end + 2]).partition(b"\r\n")
        del self._data[: end + 4]
        match = STATUS_LINE.fullmatch(first)
        if match is None:
            raise InvalidResponse(f"{first[:80]!r} is no status line")
        status = int(match[2])
        if FIELD_LINES.fullmatch(section) is None:
            raise InvalidResponse(f"{section[:80]!r} are no field lines")
        fields: dict[str, str] = {}
        for line in section.decode("utf-8", "replace").split("\r\n")[:-1]:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip(" \t")
        if status >= 200:
            self._status, self._fields = status, fields
            option = fields.get("connection", "").lower()
            # RFC 9112, 9.3.
            self._keeps_connection = (
                option == "keep-alive" if match[1] == b"0" else option != "close"
            )
            self._read_framing()
        return True

    def _read_framing(self) -> None:
        """RFC 9112, 6.3."""
        if self._status in (204, 304):
            self._length = 0
        elif "transfer-encoding" in self._fields:
            if self._fields["transfer-encoding"].lower() != "chunked":
                raise InvalidResponse("its transfer coding is not chunked")
            self._is_chunked = True
        elif "content-length" in self._fields:
            value = self._fields["content-length"].encode()
            if CONTENT_LENGTH.fullmatch(value) is None:
                raise InvalidResponse(f"content-length is {value!r}")
            self._length = int(value)

    def _read_chunks(self) -> bool:
        """Read the chunks that are here (RFC 9112, 7.1). Returns whether the last one is."""
        while True:
            line_end = self._data.find(b"\r\n")
            if line_end < 0 or line_end > MAX_CHUNK_LINE:
                if len(self._data) > MAX_CHUNK_LINE:
                    raise InvalidResponse("the line of a chunk is too long")
                return False
            match = CHUNK_SIZE.fullmatch(self._data[:line_end])
            if match is None:
                raise InvalidResponse(f"{bytes(self._data[:line_end])!r} is no size of a chunk")
            size = int(match[1], 16)
            begin, end = line_end + 2, line_end + 2 + size
            if size == 0:
                return self._read_trailers(begin)
            if len(self._data) < end + 2:
                if size > MAX_BODY:
                    raise InvalidResponse("a chunk is too long")
                return False
            if self._data[end : end + 2] != b"\r\n":
                raise InvalidResponse("a chunk has no end")
            self._body += self._data[begin:end]
            del self._data[: end + 2]

    def _read_trailers(self, begin: int) -> bool:
        """Skip the trailers after the last chunk. Returns whether they are complete."""
        if self._data[begin : begin + 2] == b"\r\n":
            del self._data[: begin + 2]
            return True
        end = self._data.find(b"\r\n\r\n", begin)
        if end < 0:
            if len(self._data) > MAX_HEAD:
                raise InvalidResponse("the trailers are too long")
            return False
        del self._data[: end + 4]
        return True
