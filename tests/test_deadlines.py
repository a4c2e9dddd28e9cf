"""Deadlines as functions: the rule for progress, a request's body, and the tables (`net.deadlines`)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import pytest

from gunicorn_asgi.asgi.websocket_session import SESSION_DEADLINES, SessionDeadline
from gunicorn_asgi.http.contract import NEVER
from gunicorn_asgi.http.exchange import BodyDeadline
from gunicorn_asgi.http1.connection import H1_DEADLINES, H1Wait
from gunicorn_asgi.http1.websocket_transport import WEBSOCKET_DEADLINES, H1WebSocketWait
from gunicorn_asgi.http2.connection import H2_DEADLINES, H2Wait
from gunicorn_asgi.http2.exchange import EXCHANGE_DEADLINES, ExchangeWait
from gunicorn_asgi.http2.tunnel import TUNNEL_DEADLINES, TunnelWait
from gunicorn_asgi.net.deadlines import Progress
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
