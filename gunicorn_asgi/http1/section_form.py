"""Pure: the form of a field section: the parts that its client repeats, and the lines between them.

A client sends mostly the same lines again, in the same order, beside a few that change: a cookie, a
request's identifier. So a connection compares the parts that were equal before as a whole, and only
the lines between them are read.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..http.request import KnownSection, Pattern


class SectionForm:
    """The form of a connection's last field section."""

    __slots__ = ("_end", "_parts", "known", "pattern")

    def __init__(
        self, parts: Sequence[bytes], end: bytes, pattern: Pattern, known: KnownSection
    ) -> None:
        self._parts = parts
        """The bytes before each line that changes, CRLF included."""
        self._end = end
        """The bytes after the last of them."""
        self.pattern = pattern
        self.known = known

    @classmethod
    def of(
        cls, version: str, lines: Sequence[bytes], pattern: Pattern, known: KnownSection
    ) -> SectionForm | None:
        """Return the form of a section of these `lines`; None if all of them are remembered."""
        if not known[2]:
            return None
        parts, part = [], b"HTTP/%b" % version.encode()
        for line, header in zip(lines, pattern, strict=True):
            part += b"\r\n"
            if header is None:
                parts.append(part)
                part = b""
            else:
                part += line
        return cls(parts, part + b"\r\n\r\n", pattern, known)

    def split(self, section: bytes) -> list[bytes] | None:
        """Return the lines of `section` that may change, or None if it has another form."""
        lines = []
        position = 0
        for part in self._parts:
            if not section.startswith(part, position):
                return None
            start = position + len(part)
            position = section.find(b"\r\n", start)
            lines.append(section[start:position])
        return lines if section[position:] == self._end else None
