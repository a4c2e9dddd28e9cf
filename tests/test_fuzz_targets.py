"""The targets of coverage-guided fuzzing (`tests.fuzz.targets`), over their corpus and parts of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.targets import CORPUS, NAMES, load

FILES = [path for name in NAMES for path in sorted((CORPUS / name).iterdir())]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_target_holds_for_its_corpus(path: Path) -> None:
    check, data = load(path.parent.name), path.read_bytes()
    check(data)
    for end in range(0, len(data), 1 + len(data) // 20):
        check(data[:end])
        check(data[end:])
        check(data[:end] + data[end + 1 :])
        check(data + data[end:])


def test_each_target_has_a_corpus() -> None:
    assert {path.parent.name for path in FILES} == set(NAMES)
