"""The states of the workers, and who may leave (`gunicorn_asgi.process.roster`, `handover`, `recycling`, `shutdown.serve_on`)."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from inprocess import Log

from gunicorn_asgi.config.settings import Settings
from gunicorn_asgi.errors import ConfigError
from gunicorn_asgi.process import handover, shutdown
from gunicorn_asgi.process.handover import Handover
from gunicorn_asgi.process.recycling import Recycling
from gunicorn_asgi.process.roster import (
    BOOTING,
    HANDING_OVER,
    LEAVING,
    LEAVING_FIRST,
    NONE,
    SERVING,
    SLOTS,
    Roster,
    RosterRow,
    WorkerState,
)
from gunicorn_asgi.process.shutdown import serve_on
from gunicorn_asgi.process.stop_request import StopRequest


def make(*states: WorkerState, wanted: int = 2) -> list[RosterRow]:
    """Workers of one master, the oldest first."""
    roster = Roster()
    roster.configure(object())
    roster.start_with(wanted)
    rows = [roster.add(age) for age in range(1, len(states) + 1)]
    for row, state in zip(rows, states, strict=True):
        row.state = state
    return rows


def test_a_worker_boots_until_it_says_otherwise() -> None:
    [row] = make(BOOTING)
    assert row.state is BOOTING
    assert not row.may_hand_over


@pytest.mark.parametrize(
    ("states", "may_leave"),
    [
        ([HANDING_OVER, HANDING_OVER, BOOTING, BOOTING], []),
        # One after the other, so that two serve at any time.
        ([HANDING_OVER, HANDING_OVER, SERVING, BOOTING], [1]),
        # The first may be blocked. The second does not wait for it.
        ([HANDING_OVER, HANDING_OVER, SERVING, SERVING], [1, 2]),
        ([LEAVING, HANDING_OVER, SERVING, BOOTING], []),
        ([LEAVING, HANDING_OVER, SERVING, SERVING], [2]),
        ([SERVING, HANDING_OVER, BOOTING], []),
        ([SERVING, HANDING_OVER, SERVING], [2]),
        # A newer worker that has died does not serve.
        ([SERVING, HANDING_OVER, NONE], []),
        ([HANDING_OVER, HANDING_OVER, NONE, NONE], []),
    ],
)
def test_a_worker_has_a_successor_once_enough_others_serve(
    states: list[WorkerState], may_leave: list[int]
) -> None:
    rows = make(*states)
    assert [row.age for row in rows if row.state is HANDING_OVER and row.has_successor] == may_leave


def test_nobody_waits_for_a_successor_where_none_will_come() -> None:
    rows = make(HANDING_OVER, HANDING_OVER)
    rows[0].roster.end()
    assert all(row.has_successor for row in rows)


def test_with_fewer_workers_than_before_some_need_no_successor() -> None:
    rows = make(HANDING_OVER, HANDING_OVER, HANDING_OVER, BOOTING, wanted=3)
    rows[0].roster.want(1)
    assert rows[0].has_successor


def test_a_new_configuration_makes_all_older_workers_outdated() -> None:
    rows = make(SERVING, SERVING)
    roster = rows[0].roster
    assert not any(row.is_outdated for row in rows)
    assert not roster.is_served_since(rows[0].generation)
    roster.configure(object())
    newer = roster.add(3)
    assert [row.is_outdated for row in (*rows, newer)] == [True, True, False]
    assert not roster.is_served_since(rows[0].generation)
    newer.state = SERVING
    assert roster.is_served_since(rows[0].generation)


def test_the_same_configuration_is_counted_once() -> None:
    [row] = make(SERVING)
    configuration = object()
    row.roster.configure(configuration)
    generation = row.roster.generation
    row.roster.configure(configuration)
    assert row.roster.generation == generation


def test_a_master_that_goes_on_with_a_new_configuration_does_not_end() -> None:
    [row] = make(SERVING)
    row.roster.end()
    assert row.roster.is_ending
    row.roster.configure(object())
    assert not row.roster.is_ending


def test_the_first_workers_are_no_replacements() -> None:
    assert [row.is_replacement for row in make(*[SERVING] * 3, wanted=2)] == [False, False, True]


def test_newer_workers_run_beside_those_that_hand_over_or_have_handed_over() -> None:
    [row, *_] = make(BOOTING, SERVING, HANDING_OVER, LEAVING, LEAVING_FIRST)
    assert row.roster.ages_besides() == {3, 4}
    assert row.roster.count_serving() == 2


def test_the_row_of_a_dead_worker_is_free_for_another() -> None:
    rows = make(*[SERVING] * SLOTS)
    roster = rows[0].roster
    roster.keep([row.age for row in rows if row.age != 7])
    assert rows[6].state is NONE
    assert roster.count_serving() == SLOTS - 1
    row = roster.add(1000)
    assert row.slot == rows[6].slot
    assert row.state is BOOTING


def test_the_row_of_a_living_worker_is_never_given_away() -> None:
    [old] = make(HANDING_OVER)
    roster = old.roster
    for age in range(2, 4 * SLOTS):
        roster.add(age)
        roster.keep([1])
    assert old.state is HANDING_OVER
    assert roster.ages[old.slot] == 1


# Handing over.

LOOKS = 20
"""Turns of the loop in which a worker looks for a newer one, in these tests."""


def hand_over(row: RosterRow, limit_s: float, *changes: Callable[[], None]) -> list[bool]:
    """Whether the worker of `row` has left: before the first of `changes`, and after each."""
    found: list[bool] = []

    async def run() -> None:
        left: list[bool] = []
        worker = Handover(row, limit_s, lambda: left.append(True), Log())
        loop = asyncio.get_running_loop()
        worker.begin(loop)
        worker.begin(loop)  # the arbiter may repeat TERM
        assert row.state is HANDING_OVER
        for change in (None, *changes):
            if change is not None:
                change()
            for _ in range(LOOKS):
                await asyncio.sleep(0)
            assert len(left) < 2
            found.append(bool(left))
        worker.stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handover, "LOOK_SECONDS", 0)
        asyncio.run(run())
    return found


def set_state(row: RosterRow, state: WorkerState) -> Callable[[], None]:
    return lambda: setattr(row, "state", state)


def test_a_worker_hands_over_until_a_newer_one_serves() -> None:
    row, newer = make(SERVING, BOOTING, wanted=1)
    assert hand_over(row, math.inf, set_state(newer, SERVING)) == [False, True]


@pytest.mark.parametrize("end", [Roster.stop, Roster.end])
def test_a_worker_hands_over_until_the_master_stops_or_has_another_worker_class(
    end: Callable[[Roster], None],
) -> None:
    [row] = make(SERVING, wanted=1)
    assert hand_over(row, 0, lambda: end(row.roster)) == [False, True]


@pytest.mark.parametrize(("limit_s", "leaves"), [(0, True), (math.inf, False)])
def test_two_releases_do_not_serve_side_by_side_for_longer_than_the_limit(
    limit_s: float, leaves: bool
) -> None:
    """One worker of the new release serves, and a second one cannot start."""
    _, row = make(LEAVING, SERVING)
    row.roster.configure(object())
    newer = row.roster.add(3)
    # While no worker of the new release serves, there is no limit.
    assert hand_over(row, limit_s, set_state(newer, SERVING)) == [False, leaves]


def test_without_a_new_configuration_the_limit_does_not_count() -> None:
    """At ``max_requests``, say: nothing but a newer worker ends the handing over."""
    row, _ = make(SERVING, SERVING)
    assert hand_over(row, 0) == [False]


# Recycling.

MIB = 1024 * 1024


class Limits:
    """A worker with limits, whose size and time a test sets."""

    def __init__(self, row: RosterRow, **options: Any) -> None:
        self.rss: int | None = 50 * MIB
        self.now = 1000.0
        self.begun = 0
        self.log = Log()
        settings = Settings.read(Config(), options, {})
        self.recycling = Recycling(
            settings, row, self._begin, self.log, lambda: self.rss, lambda: self.now
        )

    def _begin(self) -> None:
        self.begun += 1


def test_a_worker_without_limits_is_not_replaced() -> None:
    [row] = make(SERVING)
    limits = Limits(row)
    limits.now, limits.rss = 1e9, 1 << 40
    limits.recycling.look()
    assert not limits.begun
    assert not limits.log.lines


def test_a_worker_that_has_grown_above_max_rss_is_replaced_and_says_why() -> None:
    [row] = make(SERVING)
    limits = Limits(row, max_rss=60 * MIB)
    limits.recycling.look()
    assert not limits.begun
    limits.rss = 61 * MIB
    limits.recycling.look()
    assert limits.begun == 1
    assert [line.text for line in limits.log.take("info")] == [
        "Autorestarting worker: max_rss is reached, with 61 MiB"
    ]


def test_a_worker_that_starts_above_max_rss_is_not_replaced_for_ever() -> None:
    [row] = make(SERVING)
    limits = Limits(row, max_rss=40 * MIB)
    for _ in range(3):
        limits.recycling.look()
    assert not limits.begun
    [line] = limits.log.take("warning")
    assert "max_rss is 40 MiB, and this worker has 50 MiB already at its start" in line.text


def test_memory_that_a_startup_takes_counts_as_had_at_the_start() -> None:
    [row] = make(BOOTING)
    limits = Limits(row, max_rss=60 * MIB)
    limits.recycling.look()  # heartbeats go on during lifespan.startup
    limits.rss = 70 * MIB
    row.state = SERVING
    for _ in range(3):
        limits.recycling.look()
    assert not limits.begun
    [line] = limits.log.take("warning")
    assert "this worker has 70 MiB already at its start" in line.text


def test_a_size_that_the_system_does_not_tell_is_no_limit() -> None:
    [row] = make(SERVING)
    limits = Limits(row, max_rss=1)
    limits.rss = None
    limits.recycling.look()
    assert not limits.begun


def test_a_worker_that_has_run_for_max_lifetime_is_replaced() -> None:
    [row] = make(SERVING)
    limits = Limits(row, max_lifetime=60)
    limits.now += 59
    limits.recycling.look()
    assert not limits.begun
    limits.now += 1
    limits.recycling.look()
    assert limits.begun == 1


def test_jitter_adds_to_a_limit_and_takes_nothing_from_it() -> None:
    [row] = make(SERVING)
    many = [
        Limits(
            row,
            max_lifetime=60,
            max_lifetime_jitter=30,
            max_rss=100 * MIB,
            max_rss_jitter=50 * MIB,
        ).recycling
        for _ in range(50)
    ]
    ends = [each.ends_at for each in many]
    sizes = [each.max_rss for each in many]
    assert 1060 <= min(ends) < max(ends) <= 1090
    assert 100 * MIB <= min(sizes) < max(sizes) <= 150 * MIB


@pytest.mark.parametrize("busy", [BOOTING, HANDING_OVER, LEAVING, LEAVING_FIRST])
def test_one_worker_is_replaced_after_the_other(busy: WorkerState) -> None:
    row, other = make(SERVING, busy)
    limits = Limits(row)
    limits.recycling.demand("max_requests is reached")
    limits.recycling.look()
    assert not limits.begun
    other.state = SERVING
    limits.recycling.look()
    assert limits.begun == 1


def test_a_worker_that_leaves_anyway_is_not_replaced_for_a_limit() -> None:
    [row] = make(LEAVING)
    limits = Limits(row)
    limits.recycling.demand("max_requests is reached")
    assert not limits.begun


def test_no_limit_is_infinity() -> None:
    settings = Settings.read(Config(), {}, {})
    assert settings.max_rss == settings.max_lifetime_s == math.inf


# stop_delay.


@pytest.mark.parametrize(("delay", "graceful_timeout"), [(22.5, 30), (40, 30), (0.75, 1), (1, 0)])
def test_a_stop_delay_that_leaves_no_time_for_requests_is_refused(
    delay: float, graceful_timeout: int
) -> None:
    cfg = Config()
    cfg.set("graceful_timeout", graceful_timeout)
    with pytest.raises(ConfigError, match=r"^Invalid value for option stop_delay: .* must be less"):
        Settings.read(cfg, {"stop_delay": delay}, {})
    assert Settings.read(cfg, {"stop_delay": 0}, {}).stop_delay_s == 0


def stopping(stop_delay: float = 20) -> tuple[Any, Roster, StopRequest]:
    """A server with the option, its master's workers, and the request to stop that it has got."""
    settings = Settings.read(Config(), {"stop_delay": stop_delay}, {})
    stop = StopRequest()
    stop.make()
    return SimpleNamespace(settings=settings, is_out_of_service=False), Roster(), stop


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_worker_of_a_master_that_stops_serves_on_until_a_quick_stop(is_replaced: bool) -> None:
    server, roster, stop = stopping()
    roster.stop()

    async def run() -> None:
        stop.attach(asyncio.get_running_loop())
        task = asyncio.create_task(serve_on(server, roster, stop, is_replaced, Log()))
        for _ in range(LOOKS):
            await asyncio.sleep(0)
        assert not task.done()
        assert server.is_out_of_service
        stop.make(quick=True)
        await asyncio.wait_for(task, 10)

    asyncio.run(run())


def test_a_stop_delay_counts_from_the_request_to_stop() -> None:
    server, roster, stop = stopping()
    stop.requested_at = time.monotonic() - 20
    roster.stop()
    asyncio.run(asyncio.wait_for(serve_on(server, roster, stop, False, Log()), 10))
    assert server.is_out_of_service


@pytest.mark.parametrize("has_other_class", [False, True])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_worker_of_a_master_that_goes_on_does_not_serve_on(
    is_replaced: bool, has_other_class: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine stays in service: at a HUP, for a limit, or by TERM to one worker."""
    monkeypatch.setattr(shutdown, "NOTICE_SECONDS", 0)
    server, roster, stop = stopping()
    if has_other_class:  # since a HUP
        roster.end()
    asyncio.run(asyncio.wait_for(serve_on(server, roster, stop, is_replaced, Log()), 10))
    assert not server.is_out_of_service
