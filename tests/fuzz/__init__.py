"""Random connections against a real `Server`: ``python -m tests.fuzz``. See docs/architecture.md, "Fuzzing".

A case is a few connections on fake transports, an application that follows a random script, and a
clock that only the case moves. Everything in a case follows from its name, ``SEED:NUMBER``.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The other modules of the tests, where pytest has not put them on the path.
_TESTS = str(Path(__file__).parent.parent)
if _TESTS not in sys.path:
    sys.path.insert(0, _TESTS)
