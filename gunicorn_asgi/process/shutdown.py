"""The steps of a graceful shutdown, and their share of ``graceful_timeout``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from ..asgi.exchange import is_set_within
from ..asgi.lifespan import Lifespan
from ..asgi.scope import Application
from ..config.settings import Settings
from ..observe.log import Log
from ..observe.running_requests import RunningExchanges
from .roster import Roster
from .stop_request import StopRequest, wait_for_either
from .thread_limit import QUICK_THREAD_SECONDS

QUICK_SECONDS = 1.0
"""Time limit for lifespan.shutdown after QUIT and INT."""
ARBITER_QUICK_SECONDS = 2.0
"""Time from QUIT or INT during a graceful shutdown until the arbiter kills."""
RELOAD_SECONDS = 2.0
"""Time limit under ``reload`` for running requests, and for threads of the application."""
NOTICE_SECONDS = 0.3
"""Time in which the master, too, is told to stop, if it is."""
LIFESPAN_SECONDS = 3.0
"""Time reserved for lifespan.shutdown, at most."""


class WorkerServer(Protocol):
    """The server of a worker, which brings requests to the application, as the worker sees it."""

    app: Application
    state: Mapping[str, Any] | None
    """The state of the lifespan, to be copied for every request."""
    is_out_of_service: bool
    """Gunicorn stops, and load balancers are to choose another server."""

    @property
    def settings(self) -> Settings: ...

    @property
    def tasks(self) -> RunningExchanges:
        """The running requests."""

    def tick(self, interval: float) -> None:
        """The heartbeat, about every `interval` seconds."""

    def retire(self) -> None:
        """The worker is to leave, and to serve until it is told to stop."""

    async def shut_down(self, seconds: float, abort_seconds: float) -> None:
        """Let running requests finish, for at most `seconds`.

        Then abort the rest, within `abort_seconds`.
        """

    async def abort(self, seconds: float) -> None:
        """Abort everything, and give the cancelled applications `seconds` to clean up."""


class ShutdownTimes:
    """The division of ``graceful_timeout`` among the steps of a shutdown.

    The arbiter counts from the moment before it sends the signal, and then kills. So the steps end
    earlier, by a margin for the arbiter's own steps and for ``atexit`` handlers.
    """

    def __init__(self, graceful_timeout_s: float, is_reloading: bool) -> None:
        self._graceful_timeout_s = graceful_timeout_s
        self._is_reloading = is_reloading
        self._margin_s = min(0.5, graceful_timeout_s / 10)
        self.moment_s = min(0.5, graceful_timeout_s / 20)
        """Time for a cancelled task to notice."""

    @property
    def span_s(self) -> float:
        """Time from the request to stop until the end of lifespan.shutdown."""
        # The requests and lifespan.shutdown may have to be cancelled, which takes a moment each.
        span = self._graceful_timeout_s - self._margin_s - 2 * self.moment_s
        # A developer has saved a file, and an endless stream must not delay the new code.
        return min(span, RELOAD_SECONDS) if self._is_reloading else span

    @property
    def lifespan_s(self) -> float:
        """The part of `span_s` reserved for lifespan.shutdown."""
        return min(LIFESPAN_SECONDS, self.span_s / 5)

    def threads_until(self, stop: StopRequest, has_failed: bool) -> float:
        """Return the end of the time for threads of the application (``time.monotonic``).

        `has_failed` is about the boot.
        """
        now = time.monotonic()
        if has_failed or not stop.is_made:
            return now + QUICK_THREAD_SECONDS
        margin = self._margin_s + self.moment_s
        end = stop.requested_at + self._graceful_timeout_s - margin
        if stop.is_quick:
            killed_at = stop.quick_at + min(ARBITER_QUICK_SECONDS, self._graceful_timeout_s)
            return min(end, now + QUICK_THREAD_SECONDS, killed_at - margin)
        if self._is_reloading:
            return min(end, max(stop.requested_at + RELOAD_SECONDS, now + self.moment_s))
        return end


async def serve_on(
    server: WorkerServer, roster: Roster, stop: StopRequest, is_replaced: bool, log: Log
) -> None:
    """Serve on for ``stop_delay`` if it is the master that stops. QUIT and INT shorten it.

    Then this machine is out of service, and says so to a load balancer. If only this worker leaves,
    the machine goes on. `is_replaced`: a newer worker has taken its place.
    """
    seconds = server.settings.stop_delay_s
    if not is_replaced:
        # systemd may tell the workers a moment before the master.
        until = stop.requested_at + min(NOTICE_SECONDS, seconds)
        while not (roster.is_stopping or stop.is_quick) and time.monotonic() < until:  # noqa: ASYNC110 # the master's memory has no event
            await asyncio.sleep(0.02)
    server.is_out_of_service = roster.is_stopping
    left = stop.requested_at + seconds - time.monotonic()
    if roster.is_stopping and left > 0 and not stop.is_quick:
        log.info("Serving on for %.1f s, the option stop_delay, before the shutdown", left)
        await is_set_within(left, stop.quick)


async def shut_down(
    server: WorkerServer, lifespan: Lifespan, stop: StopRequest, times: ShutdownTimes
) -> None:
    """Let requests finish, then shut the application down. QUIT and INT shorten both."""
    moment = times.moment_s
    end = stop.requested_at + times.span_s
    requests_s = end - times.lifespan_s - moment - time.monotonic()
    await _unless_quick(server.shut_down(requests_s, moment), stop)
    if stop.quick.is_set():
        await server.abort(moment)
    await _unless_quick(lifespan.shutdown(max(end - time.monotonic(), moment)), stop)
    if stop.quick.is_set():
        await lifespan.shutdown(QUICK_SECONDS)


async def _unless_quick(step: Coroutine[Any, Any, None], stop: StopRequest) -> None:
    """Run one step of a shutdown, and cancel it when QUIT or INT comes."""
    task = asyncio.create_task(step, name="gunicorn_asgi stop")
    await wait_for_either(task, stop.quick)
    if task.cancel():
        await asyncio.wait({task})
    else:
        task.result()
