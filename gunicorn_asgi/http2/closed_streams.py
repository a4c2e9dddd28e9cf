"""Pure: how streams have closed, which decides about later frames (RFC 9113, 5.1)."""

from __future__ import annotations

from enum import Enum

from .frames import ConnectionFailure, ErrorCode

MAX_RESETS = 1024
"""The number of remembered streams that were closed by RST_STREAM."""
MAX_SKIPPED_RANGES = 64
"""The number of remembered gaps in the client's stream identifiers."""
BY_CLIENT = -1


class LateFrame(Enum):
    """HEADERS or DATA on a closed stream, if they are no connection error."""

    IN_FLIGHT = "sent before the client knew of our RST_STREAM"
    TOO_MUCH = "the same, but more than the window of the stream"
    AFTER_ITS_RESET = "sent after the client's own RST_STREAM"


class ClosedStreams:
    """Streams closed without END_STREAM: reset by either side, or skipped by the client."""

    def __init__(self) -> None:
        self.resets: dict[int, int] = {}
        """Bytes possibly in flight after our RST_STREAM, or BY_CLIENT."""
        self.skipped: list[range] = []
        """Identifiers left out by the client: a later stream closes them (5.1.1)."""

    def add_reset(self, id_: int, window: int) -> None:
        """We reset the stream while the client could send `window` bytes on it."""
        self._remember(id_, max(0, window))

    def add_client_reset(self, id_: int) -> None:
        """The client reset the stream."""
        self._remember(id_, BY_CLIENT)

    def _remember(self, id_: int, left: int) -> None:
        self.resets[id_] = left
        if len(self.resets) > MAX_RESETS:
            del self.resets[next(iter(self.resets))]

    def add_skipped(self, ids: range) -> None:
        """The client has left these identifiers out."""
        self.skipped.append(ids)
        del self.skipped[:-MAX_SKIPPED_RANGES]

    def reset_received(self, id_: int) -> None:
        """RST_STREAM on a closed stream: it crossed ours, so nothing later was in flight (5.1)."""
        if id_ in self.resets:
            self.resets[id_] = BY_CLIENT

    def late_frame(self, id_: int, size: int, last_id: int) -> LateFrame:
        """HEADERS, or DATA of `size` bytes, on a closed stream. `last_id`: the client's latest.

        Raises ConnectionFailure where the stream was not reset.
        """
        left = self.resets.get(id_)
        if left is None:
            if any(id_ in skipped for skipped in self.skipped):
                # 5.1.1
                raise ConnectionFailure(
                    ErrorCode.PROTOCOL_ERROR, f"stream {id_} after stream {last_id}"
                )
            # 5.1
            raise ConnectionFailure(
                ErrorCode.STREAM_CLOSED, f"a frame on stream {id_} after its end"
            )
        if left == BY_CLIENT:
            return LateFrame.AFTER_ITS_RESET
        if size > left:
            return LateFrame.TOO_MUCH
        # 5.1: it may have been in flight, as far as the window of the stream went.
        self.resets[id_] = left - size
        return LateFrame.IN_FLIGHT
