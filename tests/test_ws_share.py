"""The memory of the messages of all WebSockets of a worker (`gunicorn_asgi.websocket.share`)."""

from __future__ import annotations

import math

from gunicorn_asgi.websocket.share import UNCOUNTED, MessageMemory

LIMIT = 10 * UNCOUNTED


class Holder:
    def __init__(self) -> None:
        self.given_up: list[tuple[int, float]] = []

    def give_up_memory(self, size: int, limit: float) -> None:
        self.given_up.append((size, limit))


def test_a_holder_of_little_does_not_count() -> None:
    memory, holder = MessageMemory(LIMIT), Holder()
    assert not memory.hold(holder, UNCOUNTED)
    assert memory.total == 0
    assert memory.hold(holder, UNCOUNTED + 1)
    assert memory.total == UNCOUNTED + 1


def test_the_latest_size_counts() -> None:
    memory, holder, other = MessageMemory(LIMIT), Holder(), Holder()
    for size in (2, 5, 3):
        assert memory.hold(holder, size * UNCOUNTED)
    memory.hold(other, 4 * UNCOUNTED)
    assert memory.total == 7 * UNCOUNTED
    assert not memory.hold(holder, 0)
    assert memory.total == 4 * UNCOUNTED


def test_above_the_limit_the_largest_gives_up_and_no_other() -> None:
    memory = MessageMemory(LIMIT)
    small, large, last = Holder(), Holder(), Holder()
    memory.hold(small, 2 * UNCOUNTED)
    memory.hold(large, 5 * UNCOUNTED)
    assert memory.hold(last, 3 * UNCOUNTED)  # as much as the limit
    assert not large.given_up
    assert memory.hold(last, 4 * UNCOUNTED)
    assert large.given_up == [(5 * UNCOUNTED, LIMIT)]
    assert not small.given_up
    assert not last.given_up
    assert memory.total == 6 * UNCOUNTED


def test_the_largest_may_be_the_one_that_takes_more() -> None:
    memory, small, large = MessageMemory(LIMIT), Holder(), Holder()
    memory.hold(small, 2 * UNCOUNTED)
    assert not memory.hold(large, 50 * UNCOUNTED)
    assert large.given_up == [(50 * UNCOUNTED, LIMIT)]
    assert memory.total == 2 * UNCOUNTED


def test_without_a_limit_nobody_gives_up() -> None:
    memory, holder = MessageMemory(math.inf), Holder()
    assert memory.hold(holder, 1 << 50)
    assert not holder.given_up
