"""Pure: received data that is not read yet."""

from __future__ import annotations

from ..http.request import Rules
from .request import check_partial_head, refuse_number_of_lines
from .states import HIGH_WATER, MAX_EMPTY_LINES


class Inbox:
    """The beginning of a head, or data of later requests.

    Both are bounded: by the limits of a head, and by HIGH_WATER.
    """

    __slots__ = ("_lines", "_position", "began", "data", "empty_lines")

    def __init__(self) -> None:
        self.data: bytes | bytearray = b""
        """Empty if nothing is there. Data of later requests begins at `_position`: many may arrive
        at once, and each of them would copy all others."""
        self._position = 0
        self._lines = 0
        """Ends of lines in the incomplete head."""
        self.began = 0.0
        """When the incomplete head began to arrive, on the loop's clock."""
        self.empty_lines = 0
        """Ignored empty lines before the next request."""

    @property
    def size(self) -> int:
        """Bytes that are not read."""
        return len(self.data) - self._position

    def passes_empty_line(self, data: bytes, position: int) -> bool:
        """Whether an empty line to be ignored begins at `position` (RFC 9112, 2.2)."""
        if data[position : position + 2] != b"\r\n" or self.empty_lines == MAX_EMPTY_LINES:
            return False
        self.empty_lines += 1
        return True

    def add_to_head(self, data: bytes, rules: Rules) -> bool:
        """Take the beginning of a head, or more of it. Returns whether it may be complete.

        Raises RequestError if no further data can make it valid.
        """
        held = self.data
        before = len(held)
        if not isinstance(held, bytearray):
            held = self.data = bytearray(held)
        held += data
        # The caller has found the first part to be incomplete.
        if before and (held.find(b"\r\n\r\n", max(0, before - 3)) >= 0 or held[:2] == b"\r\n"):
            return True
        check_partial_head(held, before, rules)
        self._lines = data.count(b"\n") + (self._lines if before else 0)
        if self._lines > rules.limit_fields + 1:
            refuse_number_of_lines(bytes(held), rules)
        return False

    def keep(self, data: bytes, position: int = 0) -> bool:
        """Take data of later requests, from `position` on.

        Returns whether to stop reading from the client.
        """
        if not self.data and position > len(data) // 2:
            self.data = data[position:]  # the rest would be kept with it
        elif not self.data:
            self.data, self._position = data, position
        else:
            if not isinstance(self.data, bytearray):
                self.data, self._position = bytearray(self.data[self._position :]), 0
            self.data += data[position:]
        return self.size > HIGH_WATER

    def take(self) -> tuple[bytes, int]:
        """Remove all data. Returns it with the position where it begins."""
        data, position = bytes(self.data), self._position
        self.clear()
        return data, position

    def clear(self) -> None:
        """Remove all data."""
        self.data, self._position = b"", 0
