"""The sharing of connections between workers (`gunicorn_asgi.net.balance`)."""

from __future__ import annotations

import pytest

from gunicorn_asgi.net.balance import LEEWAY, SLOTS, STALE_SECONDS, WorkerRow, WorkerTable


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def shares(counts: list[int], clock: Clock) -> list[WorkerRow]:
    table = WorkerTable()
    workers = [WorkerRow(table, age, clock) for age in range(1, len(counts) + 1)]
    for worker, count in zip(workers, counts, strict=True):
        worker.publish(count)
        worker.announce()
    return workers


def test_a_worker_alone_is_never_ahead() -> None:
    [worker] = shares([1000], Clock())
    assert not worker.is_ahead(1000)
    assert not worker.has_others()


@pytest.mark.parametrize(
    "counts",
    [[0, 0, 0, 0], [LEEWAY, 0, 0, 0], [100, 100, 100, 100], [110, 100, 95, 95], [9, 0], [13, 3]],
)
def test_workers_that_are_about_even_accept_at_once(counts: list[int]) -> None:
    workers = shares(counts, Clock())
    assert not any(worker.is_ahead(count) for worker, count in zip(workers, counts, strict=True))


@pytest.mark.parametrize("counts", [[8, 0, 0, 0], [130, 90, 90, 90], [100, 0], [10, 0], [14, 3]])
def test_a_worker_that_is_ahead_lets_the_others_accept_first(counts: list[int]) -> None:
    workers = shares(counts, Clock())
    assert [worker.is_ahead(count) for worker, count in zip(workers, counts, strict=True)] == [
        True
    ] + [False] * (len(counts) - 1)


def test_a_burst_is_shared_even_if_one_worker_is_always_the_first_to_wake() -> None:
    clock = Clock()
    counts = [0, 0, 0, 0]
    workers = shares(counts, clock)
    for _ in range(400):
        taker = next(
            number for number, worker in enumerate(workers) if not worker.is_ahead(counts[number])
        )
        counts[taker] += 1
        workers[taker].publish(counts[taker])
    assert max(counts) <= 1.25 * 100


def test_a_worker_that_has_stopped_or_is_blocked_does_not_count() -> None:
    clock = Clock()
    busy, leaving, stuck = shares([50, 0, 0], clock)
    leaving.withdraw()
    leaving.announce()
    assert busy.is_ahead(50)  # a blocked worker might still accept some
    clock.now += STALE_SECONDS / 2
    stuck.announce()
    assert busy.has_others()
    stuck.withdraw()
    for worker in (leaving, stuck):
        worker.announce()  # a worker that has stopped does not come back
    assert not busy.has_others()
    busy, stuck = shares([50, 0], clock)
    clock.now += STALE_SECONDS
    busy.announce()
    assert not busy.is_ahead(50)
    assert not busy.has_others()
    stuck.announce()
    assert busy.has_others()


def test_each_of_so_many_workers_has_a_row_of_its_own() -> None:
    table, clock = WorkerTable(), Clock()
    workers = [WorkerRow(table, age, clock) for age in range(1, SLOTS + 1)]
    for number, worker in enumerate(workers):
        worker.publish(number)
        worker.announce()
    assert sorted(table.counts) == list(range(SLOTS))
    assert list(table.seen) == [clock.now] * SLOTS


def test_two_workers_with_one_row_only_balance_worse() -> None:
    table = WorkerTable()
    first, second = WorkerRow(table, 1, Clock()), WorkerRow(table, 257, Clock())
    for share, count in ((first, 10), (second, 0)):
        share.publish(count)
        share.announce()
    assert not first.is_ahead(10)


def test_workers_stop_accepting_one_after_the_other() -> None:
    first, second = shares([0, 0], Clock())
    assert first.withdraw_if_others()
    assert not second.withdraw_if_others()
    assert second.has_others() is False
    assert first.withdraw_if_others()  # a second call changes nothing
    assert not second.withdraw_if_others()
