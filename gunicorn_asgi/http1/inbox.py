"""Pure: what a connection has received and not read yet."""

from __future__ import annotations

from ..http.request import Rules
from .request import check_partial_head
from .states import HIGH_WATER, MAX_EMPTY_LINES


class Inbox:
    """The beginning of a head, or what came behind the current request. Both have a bound: what a head may have, and HIGH_WATER."""

    __slots__ = ("began", "data", "empty_lines")

    def __init__(self) -> None:
        self.data = bytearray()
        self.began = 0.0
        """When the head did that is here in part, on the loop's clock."""
        self.empty_lines = 0
        """Before the next request."""

    def passes_empty_line(self, data: bytes) -> bool:
        """Whether `data` begins with an empty line that is to be ignored (RFC 9112, 2.2: at least one before a request is)."""
        if data[:2] != b"\r\n" or self.empty_lines == MAX_EMPTY_LINES:
            return False
        self.empty_lines += 1
        return True

    def add_to_head(self, data: bytes, rules: Rules) -> bool:
        """Take the beginning of a head, or what follows on it. Returns whether all of it may be here now, so that it is to be read again.

        Raises RequestError if nothing that follows can make it a valid one.
        """
        held = self.data
        before = len(held)
        held += data
        # Where nothing was held, whoever gives it has found already that it is not whole.
        if before and (held.find(b"\r\n\r\n", max(0, before - 3)) >= 0 or held[:2] == b"\r\n"):
            return True
        check_partial_head(held, before, rules)
        return False

    def hold(self, data: bytes) -> bool:
        """Take what belongs to later requests. Returns whether this is enough: no more should be read from the client."""
        self.data += data
        return len(self.data) > HIGH_WATER

    def take(self) -> bytes:
        """All of it, to be read."""
        data = bytes(self.data)
        self.data.clear()
        return data
