"""The Gunicorn side: options, signals, the heartbeat, loading the application, exit codes, and when to drain."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import ssl
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

import gunicorn
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError
from gunicorn.workers import base

from .asgi.compat import failing, single_callable
from .asgi.lifespan import Lifespan
from .asgi.scope import Application
from .config import check_config, checks
from .config.settings import Settings
from .config.tls_context import make_context
from .errors import ConfigError, LifespanError
from .net.balance import WorkerRow, WorkerTable
from .observe import access_log as access
from .observe.printable import printable, tolerate_any_character
from .observe.stalls import StallWatch
from .process.exits import HURRY_SECONDS, ThreadLimit, exit_in_time, read_exit_code
from .process.interference import Watch, find_loggers, refuse_patches
from .server import Server
from .version import __version__

if TYPE_CHECKING:
    from types import FrameType

    from gunicorn.config import Config
    from gunicorn.glogging import Logger
    from typing_extensions import Self, Unpack

    from .config.settings import Options

ALPN = {"h1": "http/1.1", "h2": "h2"}
"""What Gunicorn calls the versions of HTTP, and TLS does (RFC 7301)."""
QUICK_SECONDS = 1.0
"""What lifespan.shutdown may take after QUIT and INT: the arbiter kills 2 s after it sent one of them during a drain."""
ARBITER_QUICK_SECONDS = 2.0
"""The arbiter kills so long after QUIT or INT that it got during a drain."""
RELOAD_SECONDS = 2.0
"""Time limit under ``reload`` for running requests, and for threads of the application."""
RESPAWN_PAUSE_SECONDS = 1.0
"""How long a respawned worker whose startup failed waits before it leaves, for the arbiter replaces it at once."""
T = TypeVar("T")


class Worker(base.Worker):  # type: ignore[misc]  # Gunicorn has no types
    """Serves an ASGI application: ``gunicorn -k gunicorn_asgi.Worker app:app``."""

    serves_asgi: ClassVar[bool] = True
    """For `check_config`: the application has to be an ASGI application."""
    options: ClassVar[Mapping[str, Any]] = {}
    """What `configure` was given."""

    @classmethod
    def configure(cls, **options: Unpack[Options]) -> type[Self]:
        """A subclass with other options, for ``worker_class`` in ``gunicorn.conf.py``. The options are listed in the README.

        They are checked when Gunicorn starts, which stops with one sentence where one is unknown or its value not allowed.
        """
        return type(
            cls.__name__,
            (cls,),
            {"options": {**cls.options, **options}, "__module__": cls.__module__},
        )

    # In the master.

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        board = _board()
        if self.age == 1:
            board.first_workers = self.cfg.workers
        self.is_replacement = self.age > board.first_workers
        """Other workers may be serving: this one must not end them if it cannot start."""
        self.share = WorkerRow(board.for_configuration(self.cfg), self.age)

    @classmethod
    def check_config(cls, cfg: Config, log: Logger) -> None:
        """Called once by the arbiter before it spawns workers, but not on HUP: stops the boot if a setting or option cannot work."""
        try:
            settings = Settings.read(cfg, cls.options, os.environ)
            if cfg.is_ssl and not checks.has_tls_hook(
                cfg
            ):  # a hook is run where its context is used
                make_context(cfg)
        except ConfigError as error:
            log.error("%s", error)  # noqa: TRY400 # one sentence, no traceback
            raise SystemExit(1) from None
        for warning in checks.warnings(cfg, settings):
            log.warning("%s", warning)

    # In the worker process.

    def load_wsgi(self) -> None:
        """Load the application.

        Under ``reload``, an import that fails shows its traceback to whoever asks, until the file is mended.
        """
        try:
            self.wsgi = self.app.wsgi()
        except BaseException as error:
            if not self.cfg.reload or self._stopped:
                raise
            self.log.exception("The application cannot be loaded")
            self._watch_sources(error)
            self.wsgi = failing("".join(traceback.format_exception(error)))
        refuse_patches()

    def _watch_sources(self, error: BaseException) -> None:
        """Have the reloader watch the files that `error` came from: a module whose import has failed is in no list of modules."""
        if self.reloader is not None:
            for path in dict.fromkeys(_source_files(error)):
                if Path(path).is_file():
                    self.reloader.add_extra_file(path)

    def init_process(self) -> None:
        """Become a worker; returns when its work is done.

        Leaves with SystemExit if the exit code is not 0, or with the exception that has ended the boot of
        one of the first workers: the arbiter then halts.
        """
        self._stopping: asyncio.Event | None = None
        self._quick = False
        """QUIT or INT has come."""
        self._exit_code = 0
        self._stop_time = self._quick_time = 0.0
        self._lifespan: Lifespan | None = None
        self._has_failed = False
        """The boot has."""
        # Gunicorn sets the handlers later. Until then the master's are in force, which would only take note of what was meant for this worker,
        # and a signal that stops it is not sent twice.
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
            signal.signal(number, self._handlers[number])
        try:
            self._prepare()
            super().init_process()
        except BaseException as error:
            if self.booted and isinstance(error, SystemExit):
                raise  # from `run`
            code = self._fail(error)
            self._wind_up(code)
            if self._is_ours_to_log(error):
                raise SystemExit(code) from None
            raise  # the arbiter logs it, and leaves with that code

    def _is_ours_to_log(self, error: BaseException) -> bool:
        """Whether this worker logs `error`, where it has to be logged; otherwise Gunicorn does."""
        is_quiet = self.is_replacement or self._stopped or isinstance(error, ConfigError)
        return not isinstance(error, Exception) or (is_quiet and not self.booted)

    def _fail(self, error: BaseException) -> int:
        """Log what has ended the boot, and let the arbiter wait where it would try again at once; returns the exit code."""
        if self.booted and isinstance(error, Exception):
            return 255  # Gunicorn exits with -1
        if self.booted:
            self.log.error("Exception in worker process", exc_info=error)
            return 1
        if self._stopped:
            return self._exit_code  # whatever the import has made of the SystemExit of QUIT
        code = self._boot_error(error)
        if self.is_replacement:
            time.sleep(RESPAWN_PAUSE_SECONDS)
        return code

    def _prepare(self) -> None:
        """Read the settings, and make the loop, before the application is imported and hooks run: they may ask for the current loop."""
        self.settings = Settings.read(self.cfg, self.options, {**os.environ, **self.cfg.env})
        self.loop = _new_loop(self.settings.asgi_loop)
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(self._on_loop_error)
        self._server: Server | None = None
        # self.timeout is half of the setting; 0 is none.
        self._interval = min(1.0, self.timeout / 2) if self.timeout else 1.0
        self._stalls = StallWatch(
            self.settings.stall_warning_s, self._interval, self.loop, self.log
        )

    def run(self) -> None:
        """Serve until told to stop. Leaves with SystemExit if the exit code is not 0."""
        tolerate_any_character(*find_loggers(self.log))
        self._interference = Watch(self._handlers, self.log, sys.stderr)
        self._stalls.start(Worker._run_to_end.__code__)
        try:
            code = self._run_to_end(self._main(), "gunicorn_asgi main")
            status = self._exit_code or code or 0
        finally:
            self._stalls.stop()
            self._close_loop()
        self._wind_up(status)
        if status:
            sys.exit(status)

    def _wind_up(self, status: int) -> None:
        """The loop has ended, and the process is about to, with this exit code."""
        # The arbiter repeats itself. What comes while the interpreter winds up, with its handlers gone, must not look like a crash.
        # (Blocked first: one that has come and was not handled when its handler goes would be told of on stderr.)
        numbers = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGUSR1)
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        # A copy of the descriptor, since the arbiter closes its own before the process ends.
        ThreadLimit(status, self._threads_until(), os.dup(self.tmp.fileno()), self.log).install()

    def _threads_until(self) -> float:
        """When threads of the application have to have ended, on the clock of ``time.monotonic``."""
        now = time.monotonic()
        if self._has_failed or not self._stopped:
            return now + HURRY_SECONDS
        graceful: float = self.cfg.graceful_timeout
        margin = min(0.5, graceful / 10) + self._moment  # for the arbiter, and for atexit handlers
        end = self._stop_time + graceful - margin
        if self._quick:
            end = min(
                end,
                now + HURRY_SECONDS,
                self._quick_time + min(ARBITER_QUICK_SECONDS, graceful) - margin,
            )
        elif self.cfg.reload:
            end = min(end, max(self._stop_time + RELOAD_SECONDS, now + self._moment))
        return end

    def _close_loop(self) -> None:
        """Cancel whatever the application has left running, give it a moment, and close."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._run_to_end(asyncio.wait(tasks, timeout=self._moment), "gunicorn_asgi tasks")
        with suppress(asyncio.TimeoutError):  # of a generator that does not end when it is closed
            self._run_to_end(
                asyncio.wait_for(self.loop.shutdown_asyncgens(), self._moment),
                "gunicorn_asgi generators",
            )
        self.loop.close()

    def _run_to_end(self, work: Coroutine[Any, Any, T], name: str) -> T | None:
        """Run the loop until `work` is done, and return its result; None if SystemExit or KeyboardInterrupt has ended it.

        asyncio lets these two out of tasks and callbacks of the application, and stops the loop. It goes on here, so that the worker
        shuts down in good order.
        """
        task = self.loop.create_task(work, name=name)
        while not task.done():
            try:
                self.loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as error:
                self._leave_by(error)
        return (
            None if isinstance(task.exception(), (SystemExit, KeyboardInterrupt)) else task.result()
        )

    async def _main(self) -> int:
        """Start up, serve, drain, shut down; returns the exit code."""
        self._is_quick = asyncio.Event()
        self._stopping = asyncio.Event()
        if not self.alive:
            return 0  # told to stop while the application was loaded
        self.loop.add_reader(self.PIPE[0], self._on_pipe)
        beat = asyncio.create_task(self._beat(), name="gunicorn_asgi heartbeat")
        beat.add_done_callback(self._beat_done)
        try:
            return await self._serve()
        finally:
            beat.cancel()
            self.loop.remove_reader(self.PIPE[0])

    async def _serve(self) -> int:
        assert self._stopping is not None
        try:
            context = self._ssl_context()
            app = self._application()
            self._server = server = Server(
                self.settings,
                app,
                self,
                self.log,
                access.listen(self),
                self.loop,
                self.share,
                self._has_own_queue,
            )
        except ConfigError as error:
            return await self._boot_failed(error)
        self._stalls.running = server.tasks
        self._lifespan = lifespan = Lifespan(
            app, self.settings.asgi_lifespan, self.log, self._leave_by
        )
        startup = asyncio.create_task(lifespan.startup(), name="gunicorn_asgi startup")
        stop = asyncio.create_task(self._stopping.wait(), name="gunicorn_asgi signals")
        await asyncio.wait({startup, stop}, return_when=asyncio.FIRST_COMPLETED)
        if (
            self._stopped
        ):  # told to stop before the application was ready, or at the moment at which it failed
            startup.cancel()
            await asyncio.gather(startup, return_exceptions=True)
            await lifespan.shutdown(QUICK_SECONDS)
            return 0
        try:
            startup.result()
        except LifespanError as error:
            if not self.cfg.reload:
                stop.cancel()
                return await self._boot_failed(error)
            self.log.error("%s", error)  # noqa: TRY400 # one sentence, no traceback
            server.app = failing(str(error))
        server.state = lifespan.state
        server.acceptors.listen(self.sockets, context)
        self._log_boot(context)
        await stop
        await self._stop(server, lifespan)
        return 0

    def _application(self) -> Application:
        """The application as it is to be called. Raises ConfigError for what is none; under ``reload``, that is shown instead."""
        try:
            return single_callable(self.wsgi)
        except ConfigError as error:
            if not self.cfg.reload:
                raise
            self.log.error("%s", error)  # noqa: TRY400 # one sentence, no traceback
            return failing(str(error))

    def _boot_error(self, error: BaseException) -> int:
        """Log what keeps this worker from its work; returns the exit code."""
        self._has_failed = True
        if isinstance(error, (ConfigError, LifespanError)):
            self.log.error("%s", error)
        elif isinstance(error, (SystemExit, KeyboardInterrupt)):
            self.log.error(
                "The application has ended its own import, or a hook the boot: %r", error
            )
        elif self._is_ours_to_log(error):
            self.log.error("Exception in worker process", exc_info=error)
        if not self.is_replacement:
            return int(
                Arbiter.APP_LOAD_ERROR
                if isinstance(error, AppImportError)
                else Arbiter.WORKER_BOOT_ERROR
            )
        # The arbiter halts on a boot error, and the healthy workers with it. One that was to replace another only fails for itself, and
        # not in a tight loop.
        self.log.error(
            "Worker %s could not replace another; the next try is in %.0f s",
            self.pid,
            RESPAWN_PAUSE_SECONDS,
        )
        return 1

    async def _boot_failed(self, error: Exception) -> int:
        code = self._boot_error(error)
        assert self._stopping is not None
        if self.is_replacement:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), RESPAWN_PAUSE_SECONDS)
        return code

    async def _stop(self, server: Server, lifespan: Lifespan) -> None:
        """Drain, then shut the application down, all before the arbiter loses its patience. QUIT and INT cut either short."""
        # The arbiter counts from the moment before it sends the signal, and kills. Kept from it: a margin for the arbiter's own steps, a
        # moment for each of ours that ends what does not end by itself, and time for lifespan.shutdown.
        graceful = self.settings.graceful_timeout_s
        moment = self._moment
        span = graceful - min(0.5, graceful / 10) - 2 * moment
        if self.cfg.reload:
            # A developer waits, and has saved a file: a stream that never ends must not hold the new code up.
            span = min(span, RELOAD_SECONDS)
        end = self._stop_time + span
        await self._unless_quick(
            server.drain(end - min(3.0, span / 5) - moment - time.monotonic(), moment)
        )
        if self._is_quick.is_set():
            await server.abort(moment)
        await self._unless_quick(lifespan.shutdown(max(end - time.monotonic(), moment)))
        if self._is_quick.is_set():
            await lifespan.shutdown(QUICK_SECONDS)

    @property
    def _moment(self) -> float:
        """Seconds that a cancelled task has to notice."""
        seconds: float = self.cfg.graceful_timeout
        return min(0.5, seconds / 20)

    async def _unless_quick(self, step: Coroutine[Any, Any, None]) -> None:
        """Run one step of stopping; cancel it when QUIT or INT comes."""
        task = asyncio.create_task(step, name="gunicorn_asgi stop")
        quick = asyncio.create_task(self._is_quick.wait(), name="gunicorn_asgi signals")
        await asyncio.wait({task, quick}, return_when=asyncio.FIRST_COMPLETED)
        quick.cancel()
        if task.cancel():
            await asyncio.wait({task})
        else:
            task.result()

    @property
    def _has_own_queue(self) -> bool:
        # Since 24 the workers bind for themselves; before, ``reuse_port`` only marked the one socket of all.
        return bool(self.cfg.reuse_port) and gunicorn.version_info >= (24,)

    def _ssl_context(self) -> ssl.SSLContext | None:
        if not self.cfg.is_ssl:
            return None
        context = make_context(self.cfg)
        # RFC 7301: the server's order counts. Who selects none of them is served HTTP/1.1, also where that is not among them, as in Gunicorn.
        context.set_alpn_protocols([ALPN[name] for name in self.settings.http_protocols])
        return context

    def _log_boot(self, context: ssl.SSLContext | None) -> None:
        protocols = [
            ALPN[name]
            for name in self.settings.http_protocols
            if name == "h1" or context is not None
        ]
        if self.settings.http2 and self.settings.http2_cleartext != "off":
            protocols.append(f"h2c ({self.settings.http2_cleartext})")
        self.log.info(
            "gunicorn_asgi %s on Gunicorn %s, %s %s: loop %s, parser %s, protocols %s%s",
            __version__,
            gunicorn.__version__,
            platform.python_implementation(),
            platform.python_version(),
            self.settings.asgi_loop,
            self.settings.http,
            ", ".join(protocols) or ALPN["h1"],
            " over TLS" if context is not None else "",
        )

    # The heartbeat.

    async def _beat(self) -> None:
        """Tell the arbiter that the loop turns, at least four times in ``timeout``, and sweep the connections."""
        while True:
            self.notify()
            self._stalls.beat = time.monotonic()
            self._interference.look()
            if self._server is not None:
                self._server.tick(self._interval)
            if os.getppid() != self.ppid and not self._stopped:
                self.log.info("Parent changed, shutting down: %s", self)
                self._stop_soon()
            await asyncio.sleep(self._interval)

    def _beat_done(self, beat: asyncio.Task[None]) -> None:
        """Without a heartbeat the arbiter would kill: better to leave, and to say why."""
        if not beat.cancelled() and beat.exception() is not None:
            self.log.error("The heartbeat failed", exc_info=beat.exception())
            self._stalls.stop()
            self._stop_soon()

    def _on_loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What asyncio would print: into Gunicorn's log. Of what the network does (a failed TLS handshake, a reset) only the fact."""
        error = context.get("exception")
        if isinstance(error, OSError):  # ssl.SSLError is one
            self.log.debug("%s: %r", printable(context["message"]), error)
        else:
            self.log.error("%s", printable(context["message"]), exc_info=error)

    # Signals. Their handlers are Python's, not the loop's: they run between two bytecodes even where the application blocks the loop.

    @property
    def _handlers(self) -> Mapping[int, Callable[[int, FrameType | None], None]]:
        """The handlers of the signals that Gunicorn sends to its workers."""
        return {
            signal.SIGTERM: self.handle_exit,
            signal.SIGQUIT: self.handle_quit,
            signal.SIGINT: self.handle_quit,
            signal.SIGABRT: self.handle_abort,
            signal.SIGUSR1: self.handle_usr1,
        }

    @property
    def _stopped(self) -> bool:
        return self._stop_time != 0.0

    def _stop_soon(self, quick: bool = False) -> None:
        """Wake `_serve` to stop. The arbiter repeats TERM: only the first counts, and QUIT or INT after it."""
        self.alive = False
        self._quick = self._quick or quick
        now = time.monotonic()
        self._stop_time = self._stop_time or now
        if quick:
            self._quick_time = self._quick_time or now
        if self._stopping is not None:
            with suppress(RuntimeError):  # the loop is closed: it has stopped
                self.loop.call_soon_threadsafe(self._stopping.set)
                if quick:
                    self.loop.call_soon_threadsafe(self._is_quick.set)

    def handle_exit(self, _sig: int, _frame: FrameType | None) -> None:
        """TERM: drain."""
        self._stop_soon()

    def handle_quit(self, _sig: int, _frame: FrameType | None) -> None:
        """QUIT and INT: leave quickly. A terminal sends INT to all, and then the arbiter QUIT: the hook runs once."""
        first, self._quick = (
            not self._quick,
            True,
        )  # before the hook, within which the other signal may come
        try:
            if first:
                self.cfg.worker_int(self)
        except Exception:  # whatever the hook raises: asyncio would let it out of the loop
            self.log.exception("Exception in worker_int hook")
        finally:
            self._stop_soon(quick=True)
            if self._stopping is None:
                sys.exit(
                    0
                )  # the application is being loaded, and if it does not let this through, ends behind it

    def handle_abort(self, _sig: int, frame: FrameType | None) -> None:
        """ABRT: the arbiter has not seen a heartbeat for ``timeout``. Says why, and leaves from wherever the loop is stuck.

        An operator may send it to a worker that is not stuck: that shuts down.
        """
        is_blocked = True
        try:
            is_blocked = self._stalls.abort(frame)
            self.cfg.worker_abort(self)
        finally:
            exit_in_time(1)
            self.leave(1)
            if is_blocked:
                sys.exit(1)

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:
        """USR1: reopen the log files."""
        super().handle_usr1(sig, frame)
        self._stalls.reopen()

    def leave(self, code: int) -> None:
        """End the process quickly with `code`; the first that is not 0 counts."""
        self._exit_code = self._exit_code or code
        self._stop_soon(quick=True)

    def _leave_by(self, error: SystemExit | KeyboardInterrupt) -> None:
        """The application, or a signal handler in the midst of it, ends the process. In its startup, that is a failed startup."""
        if self._lifespan is None or self._stopped or not self._lifespan.fail_startup(error):
            self.leave(read_exit_code(error, self.log))

    def _on_pipe(self) -> None:
        """Gunicorn's reloader thread has set `alive` and written to its pipe; on asyncio, signals write to it too."""
        with suppress(BlockingIOError):
            os.read(self.PIPE[0], 4096)
        if not self.alive and not self._stopped:
            self._stop_soon()

    def retire(self) -> None:
        """``max_requests`` is reached."""
        if not self._stopped:
            self.log.info("Autorestarting worker after current request.")
            self._stop_soon()


def _source_files(error: BaseException | None) -> Iterator[str]:
    """The files in which `error`, and what has led to it, was raised; for a syntax error, that of the syntax."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # `raise error from error` is its own cause
        seen.add(id(error))
        if isinstance(error, SyntaxError) and error.filename is not None:
            yield error.filename
        yield from (frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
        error = error.__cause__ or error.__context__


def setup() -> NoReturn:
    """Gunicorn calls this where ``worker_class`` names this module in place of the class."""
    raise RuntimeError(
        "Invalid value for setting worker_class: gunicorn_asgi.worker is a module; the class is gunicorn_asgi.Worker."
    )


check_config.install()


@cache
def _board() -> WorkerTable:
    """The one of this master: made before its first worker, and inherited by all."""
    return WorkerTable()


def _new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        import uvloop  # noqa: PLC0415 # may not be installed

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()
