"""The costs of code in memory and calls, measured from outside."""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def count_calls(function: Callable[[], object]) -> int:
    """Calls of Python and C functions in `function`, and a few more."""
    calls = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def living(kind: type[T], before: Iterable[T] = ()) -> list[T]:
    """All objects of `kind` in this process, without those in `before`."""
    gc.collect()
    known = {id(thing) for thing in before}
    return [
        thing
        for thing in gc.get_objects()
        if issubclass(type(thing), kind) and id(thing) not in known
    ]


def buffered(owner: object) -> list[Any]:
    """The non-empty bytes and bytearrays of `owner`."""
    things = gc.get_referents(owner)
    return [thing for thing in things if type(thing) in (bytes, bytearray) and thing]


def queued(owner: object) -> list[Any]:
    """The elements of the lists and deques of `owner`."""
    things = gc.get_referents(owner)
    return [part for thing in things if type(thing) in (list, deque) for part in thing]


def are_kept(things: Sequence[object]) -> list[bool]:
    """For each object: whether it has references besides its place in `things`.

    The caller must have no other references.
    """
    (alone,) = [sys.getrefcount(thing) for thing in [bytes(3000)]]
    return [sys.getrefcount(thing) > alone for thing in things]
