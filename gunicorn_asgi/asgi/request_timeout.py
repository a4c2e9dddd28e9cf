"""The time limit of a request: ``request_timeout``."""

from __future__ import annotations

from ..errors import RequestError
from ..http.contract import ApplicationTask
from ..observe.log import Log
from ..observe.running_requests import RunningExchanges, title
from ..observe.tasks import describe_task
from .http import HTTPStream

TIMED_OUT = RequestError(503, "The application did not answer in time", is_logged=True)


def cancel_overdue(running: RunningExchanges, limit_s: float, now: float, log: Log) -> None:
    """Answer for applications that run longer than `limit_s`, and cancel each of them once.

    `running` has the exchange of each and the time when it began, the oldest first; `now` is on
    the same clock. An application whose client has its response, or has gone, is left alone, and
    so is a WebSocket.
    """
    overdue: list[tuple[ApplicationTask, HTTPStream, float]] = []
    for task, (stream, began) in running.items():
        if now - began < limit_s:
            break
        if isinstance(stream, HTTPStream) and stream.is_unanswered:
            overdue.append((task, stream, now - began))
    for task, stream, age in overdue:
        try:
            log.warning(
                "request_timeout is %g s: %s has run for %.1f s and is cancelled. It was %s",
                limit_s,
                title(stream),
                age,
                describe_task(task),
            )
            stream.refuse(TIMED_OUT)
        except Exception:  # the fault of one exchange must not end the heartbeat
            log.exception("Error at the time limit of a request")
