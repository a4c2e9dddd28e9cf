"""The resident memory of this process (RSS): a number to show, and a limit (``max_rss``)."""

from __future__ import annotations

import os
from pathlib import Path

STATM = Path("/proc/self/statm")
"""Linux: the sizes of this process, in pages. The second number is the resident set."""


def resident_bytes() -> int | None:
    """Return the bytes of this process's resident set; None where the system does not tell."""
    try:
        return int(STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
