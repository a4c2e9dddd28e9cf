"""Targets for coverage-guided fuzzing: each module has a function ``check(data)``, and a corpus.

``check`` takes any bytes, and raises where a rule does not hold. ``tests/test_fuzz_targets.py`` runs
it over the corpus. ``python -m tests.fuzz.targets NAME`` looks for more, with atheris.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

NAMES = ("head", "http2", "frames", "proxy", "forwarded")
CORPUS = Path(__file__).parent / "corpus"


def load(name: str) -> Callable[[bytes], None]:
    check: Callable[[bytes], None] = import_module(f"{__name__}.{name}").check
    return check


def pieces(data: bytes) -> list[bytes]:
    """`data` in pieces of lengths that follow from it: short ones first, for a long one is slow."""
    found, position = [], 0
    while position < len(data):
        size = (1 + data[position] % 7 * 3) * (1 if position < 1000 else 1000)
        found.append(data[position : position + size])
        position += size
    return found
