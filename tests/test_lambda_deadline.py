"""The deadline of an invocation (`gunicorn_asgi.aws_lambda.deadline`), by a clock that stands still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from gunicorn_asgi.aws_lambda.deadline import MARGIN_SECONDS, Deadline
from gunicorn_asgi.aws_lambda.invocation import Invocation

NOW = 1_700_000_000.0


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock is moved by hand."""

    now = 50.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    monkeypatch.setattr(time, "time", lambda: NOW)
    loop = Loop()
    yield loop
    loop.close()


def deadline_in(seconds: float, loop: Loop) -> Deadline:
    return Deadline(Invocation(b"{}", "id", int((NOW + seconds) * 1000)), loop)


def test_an_application_is_cancelled_a_quarter_of_a_second_before_the_deadline(loop: Loop) -> None:
    deadline = deadline_in(30, loop)
    assert deadline.left_s == pytest.approx(30)
    assert deadline.near_s == pytest.approx(30 - MARGIN_SECONDS)


def test_a_very_short_invocation_keeps_nine_tenths_of_its_time(loop: Loop) -> None:
    assert deadline_in(1, loop).near_s == pytest.approx(0.9)
    assert deadline_in(0.1, loop).near_s == pytest.approx(0.09)


@pytest.mark.parametrize("seconds", [0, -5])
def test_a_deadline_that_has_passed_leaves_no_time(seconds: float, loop: Loop) -> None:
    deadline = deadline_in(seconds, loop)
    assert (deadline.left_s, deadline.near_s) == (0, 0)


def test_time_that_passes_in_one_jump_counts(loop: Loop) -> None:
    deadline = deadline_in(30, loop)
    loop.now += 29.9
    assert deadline.left_s == pytest.approx(0.1)
    assert deadline.near_s == 0


def test_the_action_is_called_when_the_deadline_is_near_and_not_after_disarming(loop: Loop) -> None:
    called: list[int] = []
    deadlines = [deadline_in(30, loop) for _ in range(2)]
    for number, deadline in enumerate(deadlines):
        deadline.arm(lambda number=number: called.append(number))  # type: ignore[misc]
    deadlines[1].disarm()
    loop.now += 30
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert called == [0]
