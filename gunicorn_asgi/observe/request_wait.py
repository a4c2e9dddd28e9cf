"""Pure: the time that a request waited before it arrived here, from a proxy's X-Request-Start."""

from __future__ import annotations

import re

REQUEST_START_NAMES = (b"x-request-start", b"x-queue-start")
"""The first of them counts."""
REQUEST_START = re.compile(rb"(?:t=)?([0-9]{10,19}(?:\.[0-9]{1,9})?)")
"""``t=1512379167.574`` (nginx) or ``1512379167574`` (Heroku)."""
END_OF_SECONDS = 1e11
"""No time is as many seconds since 1970. A larger number counts thousandths of them, or thousandths
of those, and so on."""
MAX_WAIT_S = 86400
"""Nobody waits so long: another time, of either sign, is nonsense, or by a clock that is wrong."""


def read_wait_us(request_start: bytes, began: float) -> int | None:
    """Return the microseconds from `request_start` to `began`, in seconds since 1970.

    None: the value is not a time. 0 if the proxy's clock is ahead of this machine's.
    """
    found = REQUEST_START.fullmatch(request_start)
    if found is None:
        return None
    started = float(found[1])
    while started >= END_OF_SECONDS:
        started /= 1000
    waited = began - started
    if abs(waited) > MAX_WAIT_S:
        return None
    return max(0, round(waited * 1_000_000))
