"""The lifespan of the application in one worker: startup, the shared state, shutdown.

See the ASGI specification, "Lifespan Protocol".
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Literal

from ..errors import ApplicationError, LifespanError
from ..http.contract import ApplicationTask
from ..observe.log import Log
from ..observe.tasks import describe_task
from .async_library import Asyncio, AsyncLibrary
from .endings import find_exit, is_only, without_cancellations
from .exchange import Waiters, is_set_within, wait, wake
from .scope import Application, Message, lifespan_scope

CLEANUP_SECONDS = 1.0
"""Time for an application to return after its answer to lifespan.shutdown."""
CANCEL_SECONDS = 0.1
"""Time for a cancelled application to end."""
LONG_STARTUP_SECONDS = 60.0
"""Time between two warnings about a startup that goes on."""


class LifespanPhase(Enum):
    """The next step that is expected of the application."""

    NEW = "to receive lifespan.startup"
    STARTING = "to answer lifespan.startup"
    RUNNING = "to wait for lifespan.shutdown"
    STOPPING = "to answer lifespan.shutdown"
    OVER = "nothing"


class Lifespan:
    """Calls the application with a lifespan scope, and keeps it between startup and shutdown.

    `mode` is Gunicorn's ``asgi_lifespan``. ``on`` requires the protocol. ``auto`` does without it
    if the application raises or returns instead of answering. ``off`` never calls the application.
    `leave` is called if the application ends the process (``sys.exit()``) after its startup.
    """

    def __init__(
        self,
        app: Application,
        mode: Literal["auto", "on", "off"],
        log: Log,
        leave: Callable[[SystemExit | KeyboardInterrupt], object],
        library: AsyncLibrary | None = None,
    ) -> None:
        self._app = app
        self._mode = mode
        self._log = log
        self._leave = leave
        self._library = library
        self._loop: asyncio.AbstractEventLoop | None = None
        self._state: dict[str, Any] = {}
        self._phase = LifespanPhase.NEW
        self._has_started = False
        """The application has sent lifespan.startup.complete."""
        self._has_received_shutdown = False
        self._failure: str | None = None
        """The reason why the worker must not serve."""
        self._answered = asyncio.Event()
        self._is_shutting_down = False
        """``receive()`` may return lifespan.shutdown."""
        self._receiving: Waiters = []
        self._task: ApplicationTask | None = None
        self._ended = asyncio.Event()
        """The application has ended."""
        self._began = self._warns_at = math.inf
        """The start of the startup, and the next warning about it (``time.monotonic``)."""
        self._is_cancelled = False
        """This object has cancelled the task: a CancelledError is no failure of the application."""

    @property
    def state(self) -> Mapping[str, Any] | None:
        """The state of the application, to be copied for every request. None without lifespan."""
        return self._state if self._has_started else None

    async def startup(self) -> None:
        """Run the application's startup, which has no time limit.

        Raises LifespanError if the worker must not serve.
        """
        if self._mode == "off":
            return
        self._loop = asyncio.get_running_loop()
        library = self._library or Asyncio(self._loop)
        self._began = time.monotonic()
        self._warns_at = self._began + LONG_STARTUP_SECONDS
        self._task = library.create_task(self._run(library), name="lifespan")
        try:
            await self._answered.wait()
        except asyncio.CancelledError:
            await self._cancel()
            raise
        finally:
            self._warns_at = math.inf
        if self._failure is not None:
            await self._cancel()
            raise LifespanError(self._failure)

    def look(self, now: float) -> None:
        """Warn about a startup that takes long; to be called in each heartbeat."""
        if now < self._warns_at:
            return
        self._warns_at = now + LONG_STARTUP_SECONDS
        self._log.warning(
            "ASGI lifespan.startup has run for %.0f s, and has no time limit. It is %s. Until its "
            "end this worker serves nobody: clients wait, or are served by other workers if there "
            "are any. Give what it waits for a timeout, or do it in a task after the startup",
            now - self._began,
            describe_task(self._task),
        )

    async def shutdown(self, timeout: float) -> None:
        """Run the application's shutdown, for at most `timeout` seconds; then cancel and log."""
        task = self._task
        if task is None or task.done():
            return
        if self._phase is LifespanPhase.RUNNING:
            self._phase = LifespanPhase.STOPPING
            self._answered.clear()
            self._is_shutting_down = True
            wake(self._receiving)
        if self._phase is LifespanPhase.STOPPING:  # also if an earlier call was cancelled
            if not await is_set_within(timeout, self._answered):
                self._log.error("ASGI lifespan.shutdown was not complete after %.1f s", timeout)
            else:
                # Most applications return now, some clean up first.
                await is_set_within(min(timeout / 4, CLEANUP_SECONDS), self._ended)
        await self._cancel()

    async def _cancel(self) -> None:
        task = self._task
        if task is not None and not task.done():
            self._is_cancelled = True
            task.cancel()
            await is_set_within(CANCEL_SECONDS, self._ended)

    # The application.

    async def _run(self, library: AsyncLibrary) -> None:
        try:
            await self._app(lifespan_scope(self._state), self._receive, self._send)
        except BaseException as error:
            if self._handle_exception(error, library):
                raise
        else:
            self._returned()
        finally:
            self._phase = LifespanPhase.OVER
            self._answered.set()
            self._ended.set()

    def _handle_exception(self, error: BaseException, library: AsyncLibrary) -> bool:
        """The application has raised. Returns whether `error` is to be raised again.

        It is if this object has cancelled the application.

        `_run` must not name the error: see `exchange.run_application`.
        """
        reason = without_cancellations(error, library.cancelled)
        # GeneratorExit: the run of trio has ended without it.
        if self._is_cancelled and (reason is None or isinstance(error, GeneratorExit)):
            return True
        exit_error = find_exit(error)
        if exit_error is not None:
            self._exited(exit_error)
        elif library.cancels_tasks_at_end and is_only(error, library.cancelled):
            self._lost()
        else:
            self._raised(reason or error)
        return False

    def fail_startup(self, error: BaseException) -> bool:
        """The application ends the process, in its lifespan or in another task or callback.

        This fails a startup in every mode. Returns whether the startup fails, or has failed before.
        """
        if self._failure is not None:
            return True
        if self._task is None or self._phase not in (LifespanPhase.NEW, LifespanPhase.STARTING):
            return False
        self._failure = f"ASGI lifespan.startup raised {error!r}"
        self._answered.set()
        return True

    def _exited(self, error: SystemExit | KeyboardInterrupt) -> None:
        if not self.fail_startup(error):
            self._leave(error)

    def _lost(self) -> None:
        """The library ends, and with it every task. The reason is logged elsewhere."""
        if self._phase in (LifespanPhase.NEW, LifespanPhase.STARTING):
            self._failure = "ASGI lifespan.startup was cancelled"
        elif self._failure is None:
            self._log.error("ASGI lifespan was cancelled")

    def _raised(self, error: BaseException) -> None:
        if self._phase in (LifespanPhase.NEW, LifespanPhase.STARTING):
            if self._mode == "on":
                self._failure = f"ASGI lifespan.startup raised {error!r}"
                self._log.error("ASGI lifespan.startup failed", exc_info=error)
            elif self._phase is LifespanPhase.STARTING:
                # ASGI: the server continues without lifespan. An error in the startup is more
                # likely here than an application without lifespan.
                self._log.warning(
                    "ASGI lifespan.startup raised; serving without lifespan (asgi_lifespan = auto)",
                    exc_info=error,
                )
            else:
                self._log.info("ASGI lifespan is not supported by the application")
        elif self._failure is None:
            self._log.error("ASGI lifespan raised", exc_info=error)

    def _returned(self) -> None:
        if self._phase in (LifespanPhase.NEW, LifespanPhase.STARTING):
            if self._mode == "on":
                self._failure = (
                    "the application returned from its lifespan before lifespan.startup.complete"
                )
            else:
                self._log.info("ASGI lifespan is not supported by the application")

    async def _receive(self) -> Message:
        if self._phase is LifespanPhase.NEW:
            self._phase = LifespanPhase.STARTING
            return {"type": "lifespan.startup"}
        # There is no third message. An asyncio.Event would look for the running loop: see
        # `exchange.wait_until_done`.
        while not self._is_shutting_down or self._has_received_shutdown:
            assert self._loop is not None
            await wait(self._receiving, self._loop)
        self._has_received_shutdown = True
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message.get("type")
        if kind in ("lifespan.startup.complete", "lifespan.startup.failed"):
            if self._phase not in (LifespanPhase.NEW, LifespanPhase.STARTING):
                raise ApplicationError(f"{kind!r} was not expected: the startup is over")
            if kind == "lifespan.startup.complete":
                self._phase = LifespanPhase.RUNNING
                self._has_started = True
            else:
                self._phase = LifespanPhase.OVER
                self._failure = "ASGI lifespan.startup failed: " + (
                    message.get("message") or "no reason given"
                )
        elif kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            if self._phase is not LifespanPhase.STOPPING:
                raise ApplicationError(f"{kind!r} was not expected: there was no lifespan.shutdown")
            self._phase = LifespanPhase.OVER
            if kind == "lifespan.shutdown.failed":
                self._log.error(
                    "ASGI lifespan.shutdown failed: %s", message.get("message") or "no reason given"
                )
        else:
            raise ApplicationError(f"expected a lifespan message, not {kind!r}")
        self._answered.set()
