"""Less than a minute of `tests.fuzz`: a number of cases of each kind, the same ones in every run.

``python -m tests.fuzz --seconds 3600`` runs others.
"""

from __future__ import annotations

import pytest
from conftest import examples
from fuzz.case import KINDS, run_case

SEED = 1
CASES = 200
"""Cases of each kind, which take a few seconds."""


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_clients_and_applications_do_the_invariants_hold(kind: str) -> None:
    first = [*KINDS].index(kind)
    for number in range(first, examples(CASES) * len(KINDS), len(KINDS)):
        _, problems = run_case(SEED, number)
        assert not problems, f"python -m tests.fuzz --replay {SEED}:{number}"
