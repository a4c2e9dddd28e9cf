"""Deadlines as functions: the rule for progress, a request's body, and the tables (`net.deadlines`)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import pytest

from gunicorn_asgi.asgi.websocket_session import SESSION_DEADLINES, SessionDeadline
from gunicorn_asgi.http.contract import NEVER
from gunicorn_asgi.http.exchange import RATE_SECONDS, BodyDeadline, RatedBodyDeadline
from gunicorn_asgi.http1.connection import H1_DEADLINES, H1Wait
from gunicorn_asgi.http1.websocket_transport import WEBSOCKET_DEADLINES, H1WebSocketWait
from gunicorn_asgi.http2.connection import H2_DEADLINES, H2Wait
from gunicorn_asgi.http2.exchange import EXCHANGE_DEADLINES, ExchangeWait
from gunicorn_asgi.http2.tunnel import TUNNEL_DEADLINES, TunnelWait
from gunicorn_asgi.net.deadlines import Progress, RatedProgress, make_progress
from gunicorn_asgi.net.transport import DEADLINES, TransportWait


class Stream:
    """An exchange, as far as the deadline of its body looks at it."""

    def __init__(self, awaits_body: bool) -> None:
        self.awaits_body = awaits_body


def body(awaits_continue: bool = False) -> Any:
    """The deadline of a body that began at 100, with a limit of 10 seconds."""
    return BodyDeadline(10.0, 100.0, awaits_continue)


# Progress.


def test_a_client_that_takes_nothing_within_the_limit_is_stuck() -> None:
    progress = Progress(60.0)
    progress.start(100.0, 5)
    assert progress.deadline == 160.0
    assert not progress.is_stuck(159.9, 5)
    assert progress.is_stuck(160.0, 5)


def test_the_limit_starts_anew_with_each_look_that_finds_progress() -> None:
    progress = Progress(60.0)
    progress.start(100.0, 5)
    assert not progress.is_stuck(150.0, 6)
    assert progress.deadline == 210.0
    assert not progress.is_stuck(209.9, 6)
    assert progress.is_stuck(210.0, 6)


def test_a_look_at_the_deadline_itself_counts_progress() -> None:
    progress = Progress(60.0)
    progress.start(100.0, 5)
    assert not progress.is_stuck(500.0, 6)
    assert progress.deadline == 560.0


def test_a_count_that_begins_with_the_next_look_starts_the_limit_then() -> None:
    progress = Progress(60.0)
    progress.start_at(100.0)
    assert progress.deadline == 100.0
    assert not progress.is_stuck(100.5, 0)
    assert progress.deadline == 160.5
    assert not progress.is_stuck(160.4, 0)
    assert progress.is_stuck(160.5, 0)


def test_a_count_that_falls_is_progress_too() -> None:
    """Where only the buffer tells, fewer bytes in it mean that some have left."""
    progress = Progress(60.0)
    progress.start(100.0, 5)
    assert progress.has_moved(4)
    assert not progress.has_moved(4)


def test_nobody_is_stuck_while_nothing_has_to_leave() -> None:
    progress = Progress(60.0)
    assert progress.deadline == NEVER
    progress.start(100.0, 5)
    progress.stop()
    assert not progress.is_stuck(1e9, 5)


# A minimal rate.


def rated() -> RatedProgress:
    """A client that has to take 50 bytes a second, and some within 60 s. Data has to leave from 100 on; 7 bytes have."""
    progress = RatedProgress(60.0, 50)
    progress.start(100.0, 7)
    return progress


def test_a_client_below_the_rate_is_stuck_after_the_stretch_and_not_before() -> None:
    progress = rated()
    assert progress.deadline == 110.0
    assert not progress.is_stuck(109.9, 506)
    assert progress.deadline == 110.0
    assert progress.is_stuck(110.0, 506)


def test_a_client_at_the_rate_begins_a_new_stretch() -> None:
    progress = rated()
    assert not progress.is_stuck(110.0, 507)
    assert progress.deadline == 120.0
    assert progress.is_stuck(120.0, 1006)


def test_a_fast_beginning_is_no_credit_for_a_slow_end() -> None:
    progress = rated()
    assert not progress.is_stuck(110.0, 1_000_000)
    assert progress.is_stuck(120.0, 1_000_400)


def test_the_rate_holds_for_the_time_until_a_late_look() -> None:
    assert rated().is_stuck(120.0, 900)
    assert not rated().is_stuck(120.0, 1007)


def test_a_client_for_whom_nothing_waits_is_not_slow() -> None:
    progress = rated()
    assert not progress.is_stuck(110.0, 8, has_waiting=False)
    assert progress.deadline == 120.0


def test_a_rate_that_is_kept_does_not_end_the_other_limit() -> None:
    progress = RatedProgress(8.0, 50)
    progress.start(100.0, 7)
    assert progress.deadline == 108.0
    assert progress.is_stuck(108.0, 7)


def test_the_limit_for_any_progress_starts_anew_with_progress_only() -> None:
    progress = RatedProgress(15.0, 50)
    progress.start(100.0, 0)
    assert not progress.is_stuck(109.0, 600)
    assert not progress.is_stuck(110.0, 600)
    assert progress.deadline == 120.0  # the next stretch; the limit would be 124
    assert progress.is_stuck(124.0, 600)


def test_a_rate_counts_from_the_first_look_where_nothing_was_counted_before() -> None:
    progress = RatedProgress(60.0, 50)
    progress.start_at(100.0)
    assert not progress.is_stuck(100.0, 7)
    assert progress.deadline == 110.0
    assert progress.is_stuck(110.0, 8)


def test_a_rate_is_kept_where_the_count_falls() -> None:
    progress = RatedProgress(60.0, 50)
    progress.start(100.0, 10_000)
    assert not progress.is_stuck(110.0, 9_000)
    assert progress.is_stuck(120.0, 8_900)


def test_nobody_is_slow_while_nothing_has_to_leave_or_the_loop_was_blocked() -> None:
    progress = rated()
    progress.postpone(5.0)
    assert progress.deadline == 115.0
    assert not progress.is_stuck(114.9, 8)
    progress.stop()
    assert not progress.is_stuck(1e9, 8)
    assert progress.deadline == NEVER


def test_only_an_option_makes_a_rate() -> None:
    assert type(make_progress(60.0, 0)) is Progress
    assert type(make_progress(60.0, 1)) is RatedProgress


# The body of a request.


def test_a_body_is_overdue_while_the_application_waits_for_it() -> None:
    deadline = body()
    assert not deadline.is_overdue(109.9, Stream(True))
    assert deadline.is_overdue(110.0, Stream(True))


def test_a_part_of_a_body_starts_its_limit_anew() -> None:
    deadline = body()
    deadline.received(105.0)
    assert deadline.at == 115.0
    assert not deadline.is_overdue(114.9, Stream(True))


def test_a_client_may_be_slow_while_the_application_does_not_wait() -> None:
    deadline = body()
    assert not deadline.is_overdue(110.0, Stream(False))
    assert deadline.at == 120.0


@pytest.mark.parametrize("now", [100.0, 1e9])
def test_a_client_that_was_not_told_to_continue_has_no_deadline(now: float) -> None:
    """RFC 9110, 10.1.1."""
    deadline = body(awaits_continue=True)
    assert deadline.next_at(now) == NEVER
    assert not deadline.is_overdue(now, Stream(True))
    deadline.received(now)
    assert deadline.next_at(now) == now + 10.0


def test_a_deadline_that_has_passed_starts_anew_when_it_is_set() -> None:
    """The client was not to blame: something else was waited for."""
    deadline = body()
    assert deadline.next_at(109.0) == 110.0
    assert deadline.next_at(110.0) == 120.0


def test_the_time_of_a_blocked_loop_does_not_count() -> None:
    deadline = body()
    deadline.postpone(30.0)
    assert not deadline.is_overdue(139.9, Stream(True))


# The rate of a body.


def rated_body(awaits_continue: bool = False) -> Any:
    """A body that began at 100, with a limit of 30 seconds, and 50 bytes a second."""
    return RatedBodyDeadline(30.0, 100.0, awaits_continue, 50)


def look(deadline: Any, seconds: range, step: int, awaits_body: bool = True) -> list[int]:
    """Look once a second, while `step` bytes arrive in each. Returns when the body was overdue."""
    overdue = []
    for second in seconds:
        if step:
            deadline.received(float(second))
        if deadline.next_at(float(second)) <= second and deadline.is_overdue(
            float(second), Stream(awaits_body), second * step
        ):
            overdue.append(second)
    return overdue


def test_a_body_below_the_rate_is_overdue_after_the_stretch() -> None:
    assert look(rated_body(), range(100, 115), 49)[0] == 100 + RATE_SECONDS


def test_a_body_at_the_rate_is_never_overdue() -> None:
    assert look(rated_body(), range(100, 1000), 50) == []


def test_an_application_that_does_not_wait_begins_a_new_stretch() -> None:
    deadline = rated_body()
    assert look(deadline, range(100, 109), 1) == []
    assert look(deadline, range(109, 110), 1, awaits_body=False) == []
    assert look(deadline, range(110, 125), 1)[0] == 120


def test_a_time_without_looks_begins_a_new_stretch() -> None:
    """The body was not read, or the client had to take the response first."""
    deadline = rated_body()
    assert look(deadline, range(100, 109), 1) == []
    assert look(deadline, range(120, 135), 1)[0] == 130


def test_a_body_has_no_rate_before_100_continue_nor_where_nobody_counts() -> None:
    deadline = rated_body(awaits_continue=True)
    assert deadline.next_at(100.0) == NEVER
    assert not deadline.is_overdue(500.0, Stream(True), 0)
    deadline = rated_body()
    for second in range(100, 130):
        assert not deadline.is_overdue(float(second), Stream(True), None)
    assert deadline.is_overdue(130.0, Stream(True), None)  # the other limit


def test_the_time_of_a_blocked_loop_is_not_part_of_a_stretch() -> None:
    deadline = rated_body()
    assert look(deadline, range(100, 105), 1) == []
    deadline.postpone(30.0)
    assert look(deadline, range(135, 145), 1)[0] == 140


# The tables.


@pytest.mark.parametrize(
    ("kinds", "table"),
    [
        (TransportWait, DEADLINES),
        (H1Wait, H1_DEADLINES),
        (H1WebSocketWait, WEBSOCKET_DEADLINES),
        (H2Wait, H2_DEADLINES),
        (ExchangeWait, EXCHANGE_DEADLINES),
        (TunnelWait, TUNNEL_DEADLINES),
        (SessionDeadline, SESSION_DEADLINES),
    ],
)
def test_each_kind_of_deadline_has_one_row(kinds: type[IntEnum], table: Mapping[Any, Any]) -> None:
    assert list(table) == sorted(table)
    assert set(table) == set(kinds)
