"""Gunicorn's side of every worker: its boot, event loop, signals, lifespan and exit.

A subclass says where requests come from: `worker.Worker` from connections,
`aws_lambda.worker.LambdaWorker` from AWS Lambda.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from gunicorn.workers import base

from .asgi.async_library import make_library
from .asgi.compat import failing, single_callable
from .asgi.endings import find_exit
from .asgi.lifespan import Lifespan
from .asgi.scope import Application
from .config import check_config
from .config.options import Options
from .config.settings import Settings
from .errors import ConfigError, LifespanError
from .observe import access_log
from .observe.emergency_log import call_in_time
from .observe.log_failures import LogGuard
from .observe.printable import tolerate_any_character
from .observe.stalls import StallWatch
from .process import arbiter
from .process.boot import Boot, list_sources
from .process.event_loop import EventLoop, new_loop
from .process.exits import exit_in_time, read_exit_code
from .process.handover import Handover
from .process.heartbeat import Heartbeat
from .process.interference import InterferenceWatch, find_loggers, refuse_patches
from .process.recycling import Recycling
from .process.roster import LEAVING, LEAVING_FIRST, SERVING, Roster
from .process.shutdown import QUICK_SECONDS, ShutdownTimes, WorkerServer, serve_on, shut_down
from .process.signals import SignalHandler, handle_stop_signals, ignore_signals
from .process.stop_request import StopRequest, wait_for_either
from .process.thread_limit import ThreadLimit

if TYPE_CHECKING:
    from types import FrameType

    from gunicorn.config import Config
    from gunicorn.glogging import Logger
    from typing_extensions import Self, Unpack

    from .metrics.reporter import Reporter

EXIT_CODE_OF_EXCEPTION = 255
"""Gunicorn exits with -1 if an exception ends a worker."""


class BaseWorker(base.Worker):  # type: ignore[misc]  # Gunicorn has no types
    """Runs an ASGI application in a process of Gunicorn.

    A subclass makes the server, which brings the requests: `make_server`, `begin_serving`.
    """

    serves_asgi: ClassVar[bool] = True
    """For ``--check-config``: the application has to be an ASGI application."""
    may_hand_over: ClassVar[bool] = True
    """A newer worker may serve at the same time as this one, until this one leaves."""
    halts_on_failed_boot: ClassVar[bool] = False
    """A failed boot ends the master, also if this worker replaces another."""
    options: ClassVar[Mapping[str, Any]] = {}
    """The options given to `configure`."""
    metrics: Reporter | None = None
    """The numbers of this worker, if they are shown anywhere."""

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

    @classmethod
    def check_config(cls, cfg: Config, log: Logger) -> None:
        """Stop the boot if a setting or option cannot work.

        The arbiter calls this once before it spawns workers, but not on HUP.
        """
        try:
            settings = cls.read_settings(cfg, os.environ)
            cls.check_settings(cfg, settings)
        except ConfigError as error:
            log.error("%s", error)  # noqa: TRY400 # one sentence, no traceback
            if not cfg.check_config:
                cls.boot_failed(error)
            raise SystemExit(1) from None
        for warning in cls.boot_warnings(cfg, settings):
            log.warning("%s", warning)

    @classmethod
    def read_settings(cls, cfg: Config, environment: Mapping[str, str]) -> Settings:
        """Read the configuration. Raises ConfigError for a value that cannot work here."""
        return Settings.read(cfg, cls.options, environment)

    @classmethod
    def check_settings(cls, cfg: Config, settings: Settings) -> None:
        """Check in the master what `read_settings` does not. Raises ConfigError."""
        cls.load_modules(settings)

    @classmethod
    def boot_warnings(cls, _cfg: Config, _settings: Settings) -> Iterable[str]:
        """Return warnings about settings that work, but probably not as meant."""
        return ()

    @classmethod
    def load_modules(cls, settings: Settings) -> None:
        """Import what `settings` switch on. Raises ConfigError.

        The master does it, so that workers share the memory, and a worker before it becomes another
        user (Gunicorn's ``user``): that user may not be allowed to read the modules.
        """
        raise NotImplementedError

    @classmethod
    def boot_failed(cls, error: BaseException) -> None:
        """`error` ends the boot, in the master or in a first worker: no request will be served.

        For a platform that has to be told. The log has its line from elsewhere.
        """

    # In the worker process: the boot.

    def init_process(self) -> None:
        """Become a worker; return when its work is done.

        Raises SystemExit if the exit code is not 0. Raises the exception that has ended the boot of
        one of the first workers: the arbiter then halts.
        """
        arbiter.close_inherited()
        self._stop = StopRequest()
        self._boot = Boot(self.row, self._stop, self.log, self.halts_on_failed_boot)
        self._times = ShutdownTimes(self.cfg.graceful_timeout, bool(self.cfg.reload))
        self._lifespan: Lifespan | None = None
        self._server: WorkerServer | None = None
        self.access: access_log.Access | None = None
        self.replaces_first = False
        """A newer worker may start before this one has left: the option ``handover``."""
        self._handover = Handover(self.row, self.cfg.graceful_timeout, self._request_stop, self.log)
        self._log_guard = LogGuard(sys.stderr)
        self._log_guard.install(*find_loggers(self.log))
        handle_stop_signals(self._handlers)
        if self.metrics is not None:
            self.metrics.start()
        try:
            self._make_parts()
            super().init_process()
        except BaseException as error:
            if self.booted:
                self._end_run(error)
            else:
                self._end_boot(error)
            raise

    def _make_parts(self) -> None:
        """Read the settings, and make the loop and what works in it.

        The application's import and hooks come later: they may ask for the current loop.
        """
        self.settings = self.read_settings(self.cfg, {**os.environ, **self.cfg.env})
        self.load_modules(self.settings)
        self.replaces_first = (
            self.may_hand_over and self.settings.handover and arbiter.can_hand_over()
        )
        self.prepare()
        self._recycling = Recycling(self.settings, self.row, self._recycle, self.log)
        self.loop = new_loop(self.settings.asgi_loop)
        asyncio.set_event_loop(self.loop)
        self._event_loop = EventLoop(self.loop, self._exit_by, self.log)
        self.library = make_library(self.settings, self.loop, self.log, self._library_crashed)
        self._heartbeat = Heartbeat(self.timeout, self._beat, self._heartbeat_failed, self.log)
        self._stalls = StallWatch(
            self.settings.stall_warning_s,
            self._heartbeat.interval_s,
            self.loop,
            self.log,
            self.library.list_tasks,
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
        if not (self._stop.is_made or self.row.is_replacement):
            self.boot_failed(error)
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
            await self.library.start()
            return await self._serve()
        finally:
            await self.library.close(self._times.moment_s)
            if self.metrics is not None:
                await self.metrics.close_page()
            self._heartbeat.stop()
            self.loop.remove_reader(self.PIPE[0])

    async def _serve(self) -> int:
        try:
            self._server = server = self._make_server()
            self._stalls.running = server.tasks
            self._lifespan = lifespan = Lifespan(
                server.app, self.settings.asgi_lifespan, self.log, self._exit_by, self.library
            )
            is_started = await self._start_application(server, lifespan)
        except (ConfigError, LifespanError) as error:
            if not self.row.is_replacement:
                self.boot_failed(error)
            return await self._boot.fail_in_loop(error)
        if is_started:
            self.begin_serving()
            self.row.state = SERVING
            if self._stop.is_made:  # by a signal in this moment
                self.row.state = LEAVING_FIRST
            self._recycling.look()  # the size without any request
            if self.metrics is not None:
                self.metrics.open_page()
            self.log_boot()
            await self._stop.requested.wait()
            await serve_on(server, self.row.roster, self._stop, self._handover.has_begun, self.log)
            await shut_down(server, lifespan, self._stop, self._times)
        return 0

    async def _start_application(self, server: WorkerServer, lifespan: Lifespan) -> bool:
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
            server.app = self.library.adapt(self._failing_app(error))
        server.state = lifespan.state
        return True

    def _make_server(self) -> WorkerServer:
        """Make the server. Raises ConfigError if the application is no ASGI application."""
        try:
            app = single_callable(self.wsgi)
        except ConfigError as error:
            app = self._failing_app(error)
        metrics = self.metrics
        self.access = access_log.listen(self) if metrics is None else metrics.listen(self)
        return self.make_server(self.library.adapt(app))

    def _flush_access_log(self) -> None:
        if self.access is not None:
            self.access.flush()

    def _failing_app(self, error: ConfigError | LifespanError) -> Application:
        """Under ``reload``, return an application that shows `error`; raise it otherwise."""
        if not self.cfg.reload:
            raise error
        self.log.error("%s", error)
        return failing(str(error))

    # For subclasses.

    def prepare(self) -> None:
        """The settings are read, and the application is not loaded. May raise ConfigError."""

    def make_server(self, app: Application) -> WorkerServer:
        """Return the server that brings requests to `app`. May raise ConfigError."""
        raise NotImplementedError

    def begin_serving(self) -> None:
        """Have the server bring requests: the application has started."""
        raise NotImplementedError

    def log_boot(self) -> None:
        """Log that this worker serves, and how."""
        raise NotImplementedError

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
        if self.replaces_first and self.row.may_hand_over and self.is_being_replaced:
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
        self._log_guard.reopen(lambda: super(BaseWorker, self).handle_usr1(sig, frame))
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
        if self.replaces_first:
            self._recycling.demand("max_requests is reached")
        return self.replaces_first

    def retire(self) -> None:
        """This worker leaves, and is replaced when it has gone."""
        if not self._stop.is_made:
            self.log.info("Autorestarting worker after current request.")
            self._request_stop()

    def _recycle(self) -> None:
        """A limit is reached, and no other worker is being replaced."""
        if self.replaces_first:
            self._handover.begin(self.loop)
        elif self._server is not None:
            self._server.retire()


check_config.install()


# Made in the master before its first worker, and inherited by all.


@cache
def _roster() -> Roster:
    return Roster()


arbiter.install(_roster)
