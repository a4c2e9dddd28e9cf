"""Pure: Close frames: codes, payloads, and the search for the client's (RFC 6455, 5.5.1 and 7)."""

from __future__ import annotations

from typing import NamedTuple

from websockets.exceptions import ProtocolError
from websockets.frames import Close as _Close

from ..errors import ApplicationError, Violation
from .frames import BETWEEN_FRAMES, MASKED, MAX_CONTROL, OP_CLOSE

NORMAL_CLOSURE, GOING_AWAY, PROTOCOL_ERROR, NO_STATUS, ABNORMAL_CLOSURE = (
    1000,
    1001,
    1002,
    1005,
    1006,
)
INVALID_DATA, POLICY_VIOLATION, MESSAGE_TOO_BIG = 1007, 1008, 1009
INTERNAL_ERROR, SERVICE_RESTART = 1011, 1012
"""Close codes (RFC 6455, 7.4.1; 1012 in IANA's registry). Two are never on the wire: 1005 means a
Close frame without a code, 1006 no Close frame."""

MAX_REASON = MAX_CONTROL - 2
"""Bytes of the reason in a Close frame."""
MAX_SKIPPED_FRAMES = 10000
"""Frames that are skipped in search of a Close frame. Even an empty frame takes time."""
SKIPPED_FRAMES_PER_STEP = 500
"""Frames that are skipped at once: about half a millisecond."""


class Close(NamedTuple):
    code: int
    """NO_STATUS if the frame had none."""
    reason: str


def read_close(payload: bytes) -> Close:
    """Parse the payload of a Close frame: 1005 if it has no code. Raises Violation.

    RFC 6455, 5.5.1 and 7.4.
    """
    try:
        close = _Close.parse(payload)
        return Close(int(close.code), close.reason)
    except ProtocolError as error:
        raise Violation(PROTOCOL_ERROR, str(error)) from error
    except UnicodeDecodeError:
        raise Violation(INVALID_DATA, "the reason of a Close frame is not UTF-8") from None


def echo_payload(close: Close) -> bytes:
    """Return the payload that answers the client's `close`: its code, if any (RFC 6455, 5.5.1)."""
    return b"" if close.code == NO_STATUS else close.code.to_bytes(2, "big")


def close_payload(code: object, reason: object) -> bytes:
    """Return the payload of the application's Close frame. Raises ApplicationError."""
    if not isinstance(code, int) or not isinstance(reason, str):
        raise ApplicationError(
            "the 'code' of a close must be an int, and its 'reason' a str, "
            f"not {code!r} and {reason!r}"
        )
    try:
        payload = _Close(code, reason).serialize()
    except ProtocolError:
        raise ApplicationError(
            f"{code} is no close code that may be sent (RFC 6455, 7.4): "
            "expected 1000 to 1003, 1007 to 1014, or 3000 to 4999"
        ) from None
    except UnicodeEncodeError:
        raise ApplicationError(
            f"the 'reason' of a close has a lone surrogate: {reason!r}"
        ) from None
    if len(payload) > MAX_CONTROL:
        raise ApplicationError(
            f"the 'reason' of a close has {len(payload) - 2} bytes, "
            f"more than the {MAX_REASON} that fit (RFC 6455, 5.5)"
        )
    return payload


class CloseFinder:
    """Finds the client's Close frame, and skips all other frames (RFC 6455, 7.1.1 and 7.1.7).

    Only the length in its head decides about the end of a frame. So the frames after a violation
    are found, unless the violation is the length itself. A search takes several steps, so that
    very many frames do not hold the loop.
    """

    __slots__ = ("_data", "_frames", "_has_found", "_is_close", "_left", "has_more")

    def __init__(self, opcode: int, left: int) -> None:
        """Begin within a frame with `opcode`, before the last `left` bytes of its payload.

        BETWEEN_FRAMES instead of `left`: begin between two frames.
        """
        self._is_close = opcode == OP_CLOSE
        self._left = left
        self._data = b""
        """The received part of the next frame's head, or data for further steps."""
        self.has_more = False
        """Whether there is data for another step: `find` without data continues."""
        self._frames = 0
        """Number of frames that have ended."""
        self._has_found = False

    def find(self, data: bytes = b"") -> bool:
        """True if the whole Close frame has been received, in `data` or before.

        A call skips at most SKIPPED_FRAMES_PER_STEP frames.
        """
        if self._frames >= MAX_SKIPPED_FRAMES or self._has_found:
            return self._has_found
        if self._data:
            data = self._data + data
        position, size = 0, len(data)
        end = min(self._frames + SKIPPED_FRAMES_PER_STEP, MAX_SKIPPED_FRAMES)
        is_head = False
        while position < size and self._frames < end and not self._has_found:
            if self._left < 0:
                begin, length = _read_extent(data, position)
                if begin > size:
                    is_head = True
                    break
                self._is_close = data[position] & 0x0F == OP_CLOSE
                position, self._left = begin, length
            part = min(self._left, size - position)
            position += part
            self._left -= part
            if not self._left:
                self._left = BETWEEN_FRAMES
                self._frames += 1
                self._has_found = self._is_close
        is_over = self._has_found or self._frames >= MAX_SKIPPED_FRAMES
        self._data = b"" if is_over else data[position:]
        self.has_more = bool(self._data) and not is_head
        return self._has_found


def _read_extent(data: bytes, start: int) -> tuple[int, int]:
    """Return the start of the payload of the frame at `start`, and its length.

    The start is after the end of `data` if the head is incomplete.
    """
    begin = start + 2
    if begin > len(data):
        return begin, 0
    second = data[start + 1]
    length = second & 0x7F
    if length > MAX_CONTROL:
        begin += 2 if length == 126 else 8
        length = int.from_bytes(data[start + 2 : begin], "big")
    return begin + (4 if second & MASKED else 0), length
