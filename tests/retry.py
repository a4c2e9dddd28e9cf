"""Run pytest, and once more the tests that have failed: ``python tests/retry.py ARGUMENTS``.

Tests with Gunicorn wait for processes, on processors that may have other things to do. A test that
passes at the second attempt is named among the failures of the first. One that is named there more
than once in a while has a fault, or finds one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

TESTS_FAILED = 1
"""Pytest's exit code."""


def main(arguments: Sequence[str]) -> int:
    """Return pytest's exit code."""
    command = [sys.executable, "-m", "pytest", *arguments]
    code = subprocess.call(command)
    if code != TESTS_FAILED:
        return code
    print("\nOnce more, for the tests that have failed:\n", flush=True)
    return subprocess.call([*command, "--last-failed"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
