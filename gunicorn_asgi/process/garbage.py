"""The garbage collector during imports: it would look at everything, and find hardly anything."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

FEW = 100_000
"""New objects before a collection. Importing a large framework makes as many."""


@contextmanager
def few_collections() -> Iterator[None]:
    """Collect seldom within the block. Afterwards, never look again at the objects of that time.

    The block may choose a threshold of its own, and may switch the collector off.
    """
    if sys.implementation.name != "cpython":  # other collectors have neither of the two
        yield
        return
    usual = gc.get_threshold()
    gc.set_threshold(FEW, *usual[1:])
    try:
        yield
    finally:
        if gc.get_threshold()[0] == FEW:
            gc.set_threshold(*usual)
        gc.freeze()
