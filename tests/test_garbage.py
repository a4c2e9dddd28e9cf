"""The garbage collector during imports."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from gunicorn_asgi.process.garbage import FEW, few_collections

pytestmark = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="nothing is done to other collectors"
)


@pytest.fixture(autouse=True)
def usual() -> Iterator[tuple[int, int, int]]:
    """The thresholds of the collector, as they were and will be."""
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)
    gc.unfreeze()


def test_collections_are_seldom_until_all_is_loaded_and_what_is_loaded_is_not_looked_at_again(
    usual: tuple[int, int, int],
) -> None:
    with few_collections():
        assert gc.get_threshold() == (FEW, *usual[1:])
        loaded = [[]]  # type: ignore[var-annotated]
        assert any(each is loaded for each in gc.get_objects())
    assert gc.get_threshold() == usual
    assert not any(each is loaded for each in gc.get_objects())


def test_an_error_ends_it(usual: tuple[int, int, int]) -> None:
    with pytest.raises(ImportError), few_collections():
        raise ImportError
    assert gc.get_threshold() == usual


def test_the_application_may_choose_for_itself() -> None:
    with few_collections():
        gc.set_threshold(12345, 6, 7)
    assert gc.get_threshold()[:2] == (12345, 6)
    with few_collections():
        gc.disable()
    try:
        assert not gc.isenabled()
    finally:
        gc.enable()
