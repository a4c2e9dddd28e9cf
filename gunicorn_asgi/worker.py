"""Gunicorn's side of a worker: the class that Gunicorn makes, runs and sends signals to."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import gunicorn
from gunicorn.errors import HaltServer
from gunicorn.workers import base

from .asgi.async_library import make_library
from .asgi.compat import failing, single_callable
from .asgi.endings import find_exit
from .asgi.lifespan import Lifespan
from .asgi.scope import Application
from .config import check_config, checks
from .config.boot_warnings import boot_warnings
from .config.options import Options
from .config.settings import Settings
from .config.tls_context import make_context, serving_context
from .errors import ConfigError, LifespanError
from .metrics.catalog import State
from .metrics.master import of_this_master
from .net.balance import WorkerRow, WorkerTable
from .net.own_queue import ClosedQueues
from .observe import access_log
from .observe.emergency_log import call_in_time
from .observe.log_failures import LogGuard
from .observe.printable import tolerate_any_character
from .observe.stalls import StallWatch
from .process import arbiter
from .process.boot import Boot, list_sources, log_boot
from .process.event_loop import EventLoop, new_loop
from .process.exits import exit_in_time, read_exit_code
from .process.handover import Handover
from .process.heartbeat import Heartbeat
from .process.interference import InterferenceWatch, find_loggers, refuse_patches
from .process.recycling import Recycling
from .process.roster import (
    BOOTING,
    HANDING_OVER,
    LEAVING,
    LEAVING_FIRST,
    NONE,
    SERVING,
    Roster,
)
from .process.shutdown import QUICK_SECONDS, ShutdownTimes, serve_on, shut_down
from .process.signals import SignalHandler, handle_stop_signals, ignore_signals
from .process.stop_request import StopRequest, wait_for_either
from .process.thread_limit import ThreadLimit
from .server import Server, load_protocols

if TYPE_CHECKING:
    from types import FrameType

    from gunicorn.config import Config
    from gunicorn.glogging import Logger
    from typing_extensions import Self, Unpack

EXIT_CODE_OF_EXCEPTION = 255
"""Gunicorn exits with -1 if an exception ends a worker."""
SHOWN_STATES = {
    BOOTING: State.STARTING,
    SERVING: State.SERVING,
    HANDING_OVER: State.HANDING_OVER,
    LEAVING: State.LEAVING,
    LEAVING_FIRST: State.LEAVING,
    NONE: State.ENDED,
}
"""The states of a worker in the numbers, by those in the roster."""


class Worker(base.Worker):  # type: ignore[misc]  # Gunicorn has no types
    """Serves an ASGI application: ``gunicorn -k gunicorn_asgi.Worker app:app``."""

    serves_asgi: ClassVar[bool] = True
    """For ``--check-config``: the application has to be an ASGI application."""
    options: ClassVar[Mapping[str, Any]] = {}
    """The options given to `configure`."""

    @classmethod
    def configure(cls, **options: Unpack[Options]) -> type[Self]:
        """Return a subclass with other options, for ``worker_class`` in ``gunicorn.conf.py``.

        The README lists the options. Gunicorn checks them when it starts. It stops with one
        sentence if an option is unknown or its value is not allowed.
        """
        return type(
            cls.__name__,
            (cls,),
            {"options": {**cls.options, **options}, "__module__": cls.__module__},
        )

    # In the master.

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        roster = _roster()
        if self.age == 1:
            roster.start_with(self.cfg.workers)
        roster.configure(self.cfg)
        self.row = roster.add(self.age)
        """The state of this worker, which the master and the other workers read."""
        self.share = WorkerRow(_worker_table(), self.age)
        try:
            self.metrics = of_this_master().prepare(self)
        except ConfigError as error:
            raise HaltServer(str(error), 1) from None

    @classmethod
    def check_config(cls, cfg: Config, log: Logger) -> None:
        """Stop the boot if a setting or option cannot work.

        The arbiter calls this once before it spawns workers, but not on HUP.
        """
        try:
            settings = Settings.read(cfg, cls.options, os.environ)
            load_protocols(settings)
            # A hook for the TLS context only runs in the workers, which use its context.
            if cfg.is_ssl and not checks.has_tls_hook(cfg):
                make_context(cfg, settings)
        except ConfigError as error:
            log.error("%s", error)  # noqa: TRY400 # one sentence, no traceback
            raise SystemExit(1) from None
        for warning in boot_warnings(cfg, settings):
            log.warning("%s", warning)

    # In the worker process: the boot.

    def init_process(self) -> None:
        """Become a worker; return when its work is done.

        Raises SystemExit if the exit code is not 0. Raises the exception that has ended the boot of
        one of the first workers: the arbiter then halts.
        """
        arbiter.close_inherited()
        self._closed_queues: ClosedQueues | None = None
        if self._has_own_queue and self.row.roster.count_serving():
            self._closed_queues = ClosedQueues(self.sockets)
        self._stop = StopRequest()
        self._boot = Boot(self.row, self._stop, self.log)
        self._times = ShutdownTimes(self.cfg.graceful_timeout, bool(self.cfg.reload))
        self._lifespan: Lifespan | None = None
        self._server: Server | None = None
        self._access: access_log.Access | None = None
        self._replaces_first = False
        """A newer worker may start before this one has left: the option ``handover``."""
        self._handover = Handover(self.row, self.cfg.graceful_timeout, self._request_stop, self.log)
        self._log_guard = LogGuard(sys.stderr)
        self._log_guard.install(*find_loggers(self.log))
        handle_stop_signals(self._handlers)
        if self.metrics is not None:
            self.metrics.start()
        try:
            self._prepare()
            super().init_process()
        except BaseException as error:
            if self.booted:
                self._end_run(error)
            else:
                self._end_boot(error)
            raise

    def _prepare(self) -> None:
        """Read the settings and make the loop.

        The application's import and hooks come later: they may ask for the current loop.
        """
        self.settings = Settings.read(self.cfg, self.options, {**os.environ, **self.cfg.env})
        load_protocols(self.settings)
        self._replaces_first = self.settings.handover and arbiter.can_hand_over()
        if self._closed_queues is not None and not self._replaces_first:
            self._closed_queues.open(self.settings.backlog)
        self._recycling = Recycling(self.settings, self.row, self._recycle, self.log)
        self.loop = new_loop(self.settings.asgi_loop)
        asyncio.set_event_loop(self.loop)
        self._event_loop = EventLoop(self.loop, self._exit_by, self.log)
        self._library = make_library(self.settings, self.loop, self.log, self._library_crashed)
        self._heartbeat = Heartbeat(self.timeout, self._beat, self._heartbeat_failed, self.log)
        self._stalls = StallWatch(
            self.settings.stall_warning_s,
            self._heartbeat.interval_s,
            self.loop,
            self.log,
            self._library.list_tasks,
        )

    def load_wsgi(self) -> None:
        """Load the application.

        Under ``reload``, a failed import becomes the response to every request until its file is
        mended.
        """
        try:
            self.wsgi = self.app.wsgi()
        except BaseException as error:
            if not self.cfg.reload or self._stop.is_made:
                raise
            self.log.exception("The application cannot be loaded")
            if self.reloader is not None:
                for path in list_sources(error):
                    self.reloader.add_extra_file(path)
            self.wsgi = failing("".join(traceback.format_exception(error)))
        refuse_patches()

    def _end_boot(self, error: BaseException) -> None:
        """Prepare the exit after `error`. Raises SystemExit unless Gunicorn is to log `error`."""
        code = self._boot.fail(error)
        self._prepare_exit(code)
        if self._boot.is_logged_here(error):
            raise SystemExit(code) from None

    # In the worker process: the event loop, and the exit.

    def run(self) -> None:
        """Serve until told to stop. Raises SystemExit if the exit code is not 0."""
        tolerate_any_character(*find_loggers(self.log))
        self._interference = InterferenceWatch(self._handlers, self.log, sys.stderr)
        self._stalls.start(EventLoop.run_to_end.__code__)
        try:
            code = self._event_loop.run_to_end(self._main(), "gunicorn_asgi main")
            status = self._stop.exit_code or code or 0
        finally:
            self._stalls.stop()
            self._event_loop.close(self._times.moment_s)
        self._prepare_exit(status)
        if status:
            sys.exit(status)

    def _end_run(self, error: BaseException) -> None:
        """Prepare the exit after `error`. Raises SystemExit unless Gunicorn is to log `error`."""
        if isinstance(error, SystemExit):
            return  # `run` has prepared the exit
        if isinstance(error, Exception):
            self._prepare_exit(EXIT_CODE_OF_EXCEPTION)
            return
        self.log.error("Exception in worker process", exc_info=error)
        self._prepare_exit(1)
        raise SystemExit(1) from None

    def _prepare_exit(self, code: int) -> None:
        """The loop has ended, and the process is about to end with `code`."""
        ignore_signals()
        self._flush_access_log()
        self._log_guard.tick(is_end=True)
        if self.metrics is not None:
            self.metrics.end()
        threads_until = self._times.threads_until(self._stop, self._boot.has_failed)
        # The arbiter closes its own descriptor before the process ends.
        heartbeat = os.dup(self.tmp.fileno())
        ThreadLimit(code, threads_until, heartbeat, self.log).install()

    async def _main(self) -> int:
        """Start up, serve, and shut down; return the exit code."""
        self._stop.attach(self.loop)
        if not self.alive:
            return 0  # told to stop while the application was loaded
        self.loop.add_reader(self.PIPE[0], self._on_pipe)
        self._heartbeat.start()
        try:
            await self._library.start()
            return await self._serve()
        finally:
            await self._library.close(self._times.moment_s)
            if self.metrics is not None:
                await self.metrics.close_page()
            self._heartbeat.stop()
            self.loop.remove_reader(self.PIPE[0])

    async def _serve(self) -> int:
        try:
            context = serving_context(self.cfg, self.settings)
            self._server = server = self._make_server()
            self._stalls.running = server.tasks
            self._lifespan = lifespan = Lifespan(
                server.app, self.settings.asgi_lifespan, self.log, self._exit_by, self._library
            )
            is_started = await self._start_application(server, lifespan)
        except (ConfigError, LifespanError) as error:
            return await self._boot.fail_in_loop(error)
        if is_started:
            server.acceptors.listen(self.sockets, context, self._closed_queues)
            self.row.state = SERVING
            if self._stop.is_made:  # by a signal in this moment
                self.row.state = LEAVING_FIRST
            self._recycling.look()  # the size without any request
            if self.metrics is not None:
                self.metrics.open_page()
            log_boot(self.settings, context is not None, self.log)
            await self._stop.requested.wait()
            await serve_on(server, self.row.roster, self._stop, self._handover.has_begun, self.log)
            await shut_down(server, lifespan, self._stop, self._times)
        return 0

    async def _start_application(self, server: Server, lifespan: Lifespan) -> bool:
        """Run the application's startup; return False if told to stop meanwhile.

        Raises LifespanError.
        """
        startup = asyncio.create_task(lifespan.startup(), name="gunicorn_asgi startup")
        await wait_for_either(startup, self._stop.requested)
        if self._stop.is_made:  # even if the startup has failed at the same moment
            startup.cancel()
            await asyncio.gather(startup, return_exceptions=True)
            await lifespan.shutdown(QUICK_SECONDS)
            return False
        try:
            startup.result()
        except LifespanError as error:
            server.app = self._library.adapt(self._failing_app(error))
        server.state = lifespan.state
        return True

    def _make_server(self) -> Server:
        """Make the server. Raises ConfigError if the application is no ASGI application."""
        try:
            app = single_callable(self.wsgi)
        except ConfigError as error:
            app = self._failing_app(error)
        metrics = self.metrics
        self._access = access = access_log.listen(self) if metrics is None else metrics.listen(self)
        server = Server(
            self.settings,
            self._library.adapt(app),
            self,
            self.log,
            access,
            self.loop,
            self.share,
            self._has_own_queue,
            self._library,
        )
        if metrics is not None:
            metrics.attach(server, lambda: SHOWN_STATES[self.row.state], self.log)
        return server

    @property
    def _has_own_queue(self) -> bool:
        """Whether no other worker accepts the connections of this worker's sockets."""
        # From Gunicorn 24 on, workers bind for themselves. Before, ``reuse_port`` only marked the
        # socket that all workers share.
        return bool(self.cfg.reuse_port) and gunicorn.version_info >= (24,)

    def _flush_access_log(self) -> None:
        if self._access is not None:
            self._access.flush()

    def _failing_app(self, error: ConfigError | LifespanError) -> Application:
        """Under ``reload``, return an application that shows `error`; raise it otherwise."""
        if not self.cfg.reload:
            raise error
        self.log.error("%s", error)
        return failing(str(error))

    # The heartbeat.

    def _beat(self) -> None:
        """Tell the arbiter that the loop runs, and do everything that is due as often."""
        self.notify()
        self._stalls.beat = time.monotonic()
        self._interference.look()
        self._log_guard.tick()
        if self._lifespan is not None:
            self._lifespan.look(time.monotonic())
        if self._server is not None:
            self._server.tick(self._heartbeat.interval_s)
        self._recycling.look()
        if self.metrics is not None:
            self.metrics.tick(self._heartbeat.interval_s)
        if os.getppid() != self.ppid and not self._stop.is_made:
            self.log.info("Parent changed, shutting down: %s", self)
            self._request_stop()

    def _heartbeat_failed(self) -> None:
        self._stalls.stop()
        self._request_stop()

    # Signals. The handlers are Python's, not the loop's: Python runs them between two bytecodes,
    # even if the application blocks the loop.

    @property
    def _handlers(self) -> Mapping[int, SignalHandler]:
        """The handlers of the signals that Gunicorn sends to its workers."""
        return {
            signal.SIGTERM: self.handle_exit,
            signal.SIGQUIT: self.handle_quit,
            signal.SIGINT: self.handle_quit,
            signal.SIGABRT: self.handle_abort,
            signal.SIGUSR1: self.handle_usr1,
        }

    def handle_exit(self, _sig: int, _frame: FrameType | None) -> None:
        """TERM: a graceful shutdown. After a HUP to the master, newer workers come first."""
        if self._replaces_first and self.row.may_hand_over and self.is_being_replaced:
            self._handover.begin(self.loop)
        else:
            self._request_stop()

    def handle_quit(self, _sig: int, _frame: FrameType | None) -> None:
        """QUIT and INT: a quick shutdown.

        A terminal sends INT to all processes, and then the arbiter sends QUIT: the hook runs once.
        """
        # Before the hook, since the other signal may come while it runs.
        is_first = self._stop.begin_quick()
        try:
            if is_first:
                self.cfg.worker_int(self)
        except Exception:  # asyncio would let it out of the loop
            self.log.exception("Exception in worker_int hook")
        finally:
            self._request_stop(quick=True)
            if not self._stop.is_awaited:
                # The application is being loaded. If it catches this, the process ends afterwards.
                sys.exit(0)

    def handle_abort(self, _sig: int, frame: FrameType | None) -> None:
        """ABRT: the arbiter has not seen a heartbeat for ``timeout``.

        Reports the blocking code, and exits from there. A worker that is not blocked shuts down: an
        operator has sent the signal.
        """
        is_blocked = True
        try:
            is_blocked = self._stalls.abort(frame)
            self.cfg.worker_abort(self)
        finally:
            exit_in_time(1)
            # The loop may not turn again. The signal may have interrupted the log, too.
            call_in_time(self._flush_access_log)
            self.leave(1)
            if is_blocked:
                sys.exit(1)

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:
        """USR1: reopen the log files."""
        self._log_guard.reopen(lambda: super(Worker, self).handle_usr1(sig, frame))
        self._stalls.reopen()

    # Other reasons to stop.

    def _request_stop(self, quick: bool = False, exit_code: int = 0) -> None:
        self.alive = False
        self.row.state = LEAVING if self._handover.has_begun else LEAVING_FIRST
        self._handover.stop()
        self._stop.make(quick, exit_code)

    def leave(self, code: int) -> None:
        """End the process quickly with `code`. The first code that is not 0 counts."""
        self._request_stop(quick=True, exit_code=code)

    def _exit_by(self, error: SystemExit | KeyboardInterrupt) -> None:
        """The application, or a signal handler during its code, ends the process.

        During lifespan.startup this is a failed startup.
        """
        if self._lifespan is None or self._stop.is_made or not self._lifespan.fail_startup(error):
            self.leave(read_exit_code(error, self.log))

    def _library_crashed(self, error: BaseException) -> None:
        """The application's tasks take no more steps: `error` has ended the library's run."""
        exit_error = find_exit(error)
        self.log.error(
            "%s was ended by %r, raised outside of all requests and the lifespan: this worker "
            "leaves, since its application cannot go on",
            self.settings.async_library,
            error,
            exc_info=None if exit_error is not None else error,
        )
        if exit_error is not None:
            self._exit_by(exit_error)
            return
        is_startup = self._lifespan is not None and self._lifespan.fail_startup(error)
        if not is_startup or self.cfg.reload:  # nothing could show the error, under reload
            self.leave(1)

    def _on_pipe(self) -> None:
        """Gunicorn's reloader thread has set `alive`. On asyncio, signals write here, too."""
        with suppress(BlockingIOError):
            os.read(self.PIPE[0], 4096)
        if not self.alive and not self._stop.is_made:
            self._request_stop()

    # Leaving for a newer worker.

    @property
    def is_being_replaced(self) -> bool:
        """Newer workers are on their way: the master was sent a HUP after it forked this one."""
        return self.row.is_outdated and not self.row.roster.is_ending

    def hand_over(self) -> bool:
        """``max_requests`` is reached. Return whether this worker serves on for now.

        It does until a newer worker serves in its place. Called again with each later request.
        """
        if self._replaces_first:
            self._recycling.demand("max_requests is reached")
        return self._replaces_first

    def retire(self) -> None:
        """This worker leaves, and is replaced when it has gone."""
        if not self._stop.is_made:
            self.log.info("Autorestarting worker after current request.")
            self._request_stop()

    def _recycle(self) -> None:
        """A limit is reached, and no other worker is being replaced."""
        if self._replaces_first:
            self._handover.begin(self.loop)
        elif self._server is not None:
            self._server.retire()


def setup() -> NoReturn:
    """Gunicorn calls this if ``worker_class`` names this module instead of the class."""
    raise RuntimeError(
        "Invalid value for setting worker_class: gunicorn_asgi.worker is a module; "
        "the class is gunicorn_asgi.Worker."
    )


check_config.install()


# Made in the master before its first worker, and inherited by all.


@cache
def _worker_table() -> WorkerTable:
    return WorkerTable()


@cache
def _roster() -> Roster:
    return Roster()


arbiter.install(_roster)
