"""Pure: a field section as checked fields, with a memory of lines that clients share.

A line is a field by itself (RFC 9112, 5: folding is refused). So a line that the parser library has
accepted once has the same meaning in every request of every connection, and is not parsed again.
All other lines of a section go to the library in one call.

The memory has the lines of `SHARED_NAMES` only: fields whose values many clients share, and none
that may be a secret. A cookie, ``authorization`` and every unknown name are parsed each time.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RequestError
from ..http.grammar import Header
from ..http.memory import SAMPLE, Memory
from ..http.request import Pattern
from .parser import FieldParser

SHARED_NAMES = frozenset(
    name.encode()
    for name in (
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "access-control-request-headers",
        "access-control-request-method",
        "cache-control",
        "cdn-loop",
        "connection",
        "content-encoding",
        "content-type",
        "dnt",
        "host",
        "origin",
        "pragma",
        "priority",
        "sec-ch-ua",
        "sec-ch-ua-mobile",
        "sec-ch-ua-platform",
        "sec-fetch-dest",
        "sec-fetch-mode",
        "sec-fetch-site",
        "sec-fetch-user",
        "sec-gpc",
        "sec-purpose",
        "sec-websocket-extensions",
        "sec-websocket-version",
        "te",
        "transfer-encoding",
        "upgrade",
        "upgrade-insecure-requests",
        "user-agent",
        "via",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-forwarded-server",
        "x-requested-with",
    )
)
"""Names whose lines may be remembered. None of them has an underscore. A content-length has too
many values, and the meaning of an Expect depends on it."""
MAX_LINES = 1024
"""Lines of one generation (see `http.memory`)."""
MAX_LINE = 256
"""Bytes of a line that may be remembered. So all lines take less than 2 MB."""


class FieldLines:
    """Field lines of all connections of a worker, checked by one parser library."""

    __slots__ = ("_memory", "_parse", "_parsed")

    def __init__(self, parse: FieldParser) -> None:
        self._parse = parse
        self._memory: Memory[bytes, Header] = Memory(MAX_LINES)
        self._parsed = 0
        """The count for `should_read`."""

    def match(self, lines: Sequence[bytes]) -> Pattern:
        """Return the fields of the lines that are remembered."""
        return tuple(map(self._memory.recent.get, lines))

    def should_read(self, lines: Sequence[bytes]) -> bool:
        """Return whether `lines`, which `match` did not find, need `read` and not only `parse`.

        They do if one of them would soon be forgotten, although it is in use. And each `SAMPLE`-th
        time, or no new line beside known ones would ever be remembered.
        """
        self._parsed += 1
        if self._parsed < SAMPLE and not self._memory.has_older(lines):
            return False
        self._parsed = 0
        return True

    def parse(self, lines: Sequence[bytes]) -> list[Header]:
        """Return the fields in `lines`, of which none is remembered.

        Raises RequestError(400) for an invalid line.
        """
        headers = self._parse(b"\r\n".join(lines))
        if len(headers) != len(lines):
            raise RequestError(400, "Invalid HTTP header: a line is not one field")
        return headers

    def read(
        self, lines: Sequence[bytes], pattern: Pattern | None = None
    ) -> tuple[list[Header], Pattern]:
        """Return the fields in `lines`, and their pattern. Remembers lines for later sections.

        `pattern`: the result of `match`. Raises RequestError(400) for an invalid line.
        """
        memory = self._memory
        if pattern is None:
            pattern = self.match(lines)
        if memory.has_older(lines):
            for line, header in zip(lines, pattern, strict=True):
                if header is None:
                    memory.recall(line)
            pattern = self.match(lines)
        if not any(pattern):
            unknown, headers = lines, self.parse(lines) if lines else []
            parsed = headers
        else:
            unknown = [line for line, header in zip(lines, pattern, strict=True) if header is None]
            parsed = self.parse(unknown) if unknown else []
            rest = iter(parsed)
            headers = [header or next(rest) for header in pattern]
        taken = memory.sample(len(unknown))
        for index in taken:
            line, header = unknown[index], parsed[index]
            if header[0] in SHARED_NAMES and len(line) <= MAX_LINE:
                memory.put(line, header)
        return headers, self.match(lines) if taken else pattern
