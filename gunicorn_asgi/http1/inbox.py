"""Pure: received data that is not read yet."""

from __future__ import annotations

from ..http.request import Rules
from .request import check_partial_head
from .states import HIGH_WATER, MAX_EMPTY_LINES


class Inbox:
    """The beginning of a head, or data of later requests.

    Both are bounded: by the limits of a head, and by HIGH_WATER.
    """

    __slots__ = ("began", "data", "empty_lines")

    def __init__(self) -> None:
        self.data = bytearray()
        self.began = 0.0
        """When the incomplete head began to arrive, on the loop's clock."""
        self.empty_lines = 0
        """Ignored empty lines before the next request."""

    def passes_empty_line(self, data: bytes) -> bool:
        """Whether `data` begins with an empty line to be ignored (RFC 9112, 2.2)."""
        if data[:2] != b"\r\n" or self.empty_lines == MAX_EMPTY_LINES:
            return False
        self.empty_lines += 1
        return True

    def add_to_head(self, data: bytes, rules: Rules) -> bool:
        """Take the beginning of a head, or more of it. Returns whether it may be complete.

        Raises RequestError if no further data can make it valid.
        """
        held = self.data
        before = len(held)
        held += data
        # The caller has found the first part to be incomplete.
        if before and (held.find(b"\r\n\r\n", max(0, before - 3)) >= 0 or held[:2] == b"\r\n"):
            return True
        check_partial_head(held, before, rules)
        return False

    def keep(self, data: bytes) -> bool:
        """Take data of later requests. Returns whether to stop reading from the client."""
        self.data += data
        return len(self.data) > HIGH_WATER

    def take(self) -> bytes:
        """Remove all data, and return it."""
        data = bytes(self.data)
        self.data.clear()
        return data
