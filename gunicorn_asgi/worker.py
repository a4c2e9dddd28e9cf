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
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import gunicorn
from gunicorn import sock
from gunicorn.arbiter import Arbiter
from gunicorn.workers import base

from . import access, checks
from .asgi.compat import failing, single_callable
from .asgi.lifespan import Lifespan
from .balance import Board, Share
from .errors import ConfigError, LifespanError
from .server import Server
from .settings import Settings
from .stalls import StallWatch, exit_in_time
from .version import __version__

if TYPE_CHECKING:
    from types import FrameType

    from gunicorn.config import Config
    from gunicorn.glogging import Logger
    from typing_extensions import Self, Unpack

    from .settings import Options

ALPN = {"h1": "http/1.1", "h2": "h2"}
"""What Gunicorn calls the versions of HTTP, and TLS does (RFC 7301)."""
QUICK_SECONDS = 1.0
"""What lifespan.shutdown may take after QUIT and INT: the arbiter kills 2 s after it sent one of them during a drain."""
RELOAD_SECONDS = 2.0
"""What is left to running requests under ``reload``."""
RESPAWN_PAUSE_SECONDS = 1.0
"""How long a respawned worker whose startup failed waits before it leaves, for the arbiter replaces it at once."""


class Worker(base.Worker):  # type: ignore[misc]  # Gunicorn has no types
    """Serves an ASGI application: ``gunicorn -k gunicorn_asgi.Worker app:app``."""

    options: ClassVar[Mapping[str, Any]] = {}
    """What `configure` was given."""

    @classmethod
    def configure(cls, **options: Unpack[Options]) -> type[Self]:
        """A subclass with other options, for ``worker_class`` in ``gunicorn.conf.py``. The options are listed in the README.

        They are checked when Gunicorn starts, which stops with one sentence where one is unknown or its value not allowed.
        """
        return type(cls.__name__, (cls,), {"options": {**cls.options, **options}, "__module__": cls.__module__})

    # In the master.

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.share = Share(_board().of(self.cfg), self.age)

    @classmethod
    def check_config(cls, cfg: Config, log: Logger) -> None:
        """Called once by the arbiter before it spawns workers, but not on HUP: stops the boot if a setting or option cannot work."""
        try:
            settings = Settings.read(cfg, cls.options, os.environ)
        except ConfigError as error:
            log.error("%s", error)  # noqa: TRY400 # one sentence, no traceback
            raise SystemExit(1) from None
        for warning in checks.warnings(cfg, settings):
            log.warning("%s", warning)

    # In the worker process.

    def load_wsgi(self) -> None:
        """Load the application. Under ``reload`` a syntax error is shown to whoever asks, until the file is mended."""
        try:
            self.wsgi = self.app.wsgi()
        except SyntaxError as error:
            if not self.cfg.reload:
                raise
            self.log.exception("The application cannot be loaded")
            if self.reloader is not None and error.filename is not None:
                self.reloader.add_extra_file(error.filename)
            self.wsgi = failing("".join(traceback.format_exception(error)))

    def init_process(self) -> None:
        """Become a worker; returns when its work is done."""
        self._stopping: asyncio.Event | None = None
        self._quick = False
        """QUIT or INT has come."""
        self._exit_code = 0
        self._stop_time = 0.0
        # Gunicorn sets the handlers later. Until then the master's are in force, which would only take note of what was meant for this worker,
        # and a signal that stops it is not sent twice.
        for number, handler in ((signal.SIGTERM, self.handle_exit), (signal.SIGQUIT, self.handle_quit), (signal.SIGINT, self.handle_quit)):
            signal.signal(number, handler)
        try:
            self.settings = Settings.read(self.cfg, self.options, {**os.environ, **self.cfg.env})
        except ConfigError as error:
            code = self._boot_error(error)
            if code != Arbiter.WORKER_BOOT_ERROR and not self._stopped:
                time.sleep(RESPAWN_PAUSE_SECONDS)
            raise SystemExit(code) from None
        self.loop = _new_loop(self.settings.asgi_loop)
        # Before the application is imported and hooks run, which may ask for the current loop.
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(self._on_loop_error)
        self._server: Server | None = None
        # self.timeout is half of the setting; 0 is none.
        self._interval = min(1.0, self.timeout / 2) if self.timeout else 1.0
        self._stalls = StallWatch(self.settings.stall_warning_s, self._interval, self.loop, self.log)
        super().init_process()

    def run(self) -> None:
        """Serve until told to stop. Leaves with SystemExit if the exit code is not 0."""
        self._stalls.start()
        try:
            status = self.loop.run_until_complete(self.loop.create_task(self._main(), name="gunicorn_asgi main")) or self._exit_code
        finally:
            self._stalls.stop()
            self._close_loop()
        # The arbiter repeats itself. What comes while the interpreter winds up, with its handlers gone, must not look like a crash.
        # (Blocked first: one that has come and was not handled when its handler goes would be told of on stderr.)
        numbers = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGUSR1)
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        if status:
            sys.exit(status)

    def _close_loop(self) -> None:
        """Cancel whatever the application has left running, give it a moment, and close."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=self._moment))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

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
            app = single_callable(self.wsgi)
            context = self._ssl_context()
            self._server = server = Server(
                self.settings, app, self, self.log, access.listen(self), self.loop, self.share, self._has_own_queue
            )
        except ConfigError as error:
            return await self._boot_failed(error)
        self._stalls.running = server.tasks
        lifespan = Lifespan(app, self.settings.asgi_lifespan, self.log)
        startup = asyncio.create_task(lifespan.startup(), name="gunicorn_asgi startup")
        stop = asyncio.create_task(self._stopping.wait(), name="gunicorn_asgi signals")
        await asyncio.wait({startup, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not startup.done():  # told to stop before the application was ready
            startup.cancel()
            await asyncio.wait({startup})
            return 0
        try:
            startup.result()
        except LifespanError as error:
            stop.cancel()
            return await self._boot_failed(error)
        server.state = lifespan.state
        server.acceptors.listen(self.sockets, context)
        self._log_boot(context)
        await stop
        await self._stop(server, lifespan)
        return 0

    def _boot_error(self, error: Exception) -> int:
        """Log what keeps this worker from its work; returns the exit code."""
        self.log.error("%s", error)
        if self.age <= self.cfg.workers:
            return int(Arbiter.WORKER_BOOT_ERROR)
        # The arbiter halts on a boot error, and the healthy workers with it. One that was to replace another only fails for itself, and
        # not in a tight loop.
        self.log.error("Worker %s could not replace another; the next try is in %.0f s", self.pid, RESPAWN_PAUSE_SECONDS)
        return 1

    async def _boot_failed(self, error: Exception) -> int:
        code = self._boot_error(error)
        assert self._stopping is not None
        if code != Arbiter.WORKER_BOOT_ERROR:
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
        await self._unless_quick(server.drain(end - min(3.0, span / 5) - moment - time.monotonic(), moment))
        if self._is_quick.is_set():
            await server.abort(moment)
        await self._unless_quick(lifespan.shutdown(max(end - time.monotonic(), moment)))
        if self._is_quick.is_set():
            await lifespan.shutdown(QUICK_SECONDS)

    @property
    def _moment(self) -> float:
        """Seconds that a cancelled task has to notice."""
        return min(0.5, self.settings.graceful_timeout_s / 20)

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
        try:
            context: ssl.SSLContext = sock.ssl_context(self.cfg)
        except Exception as error:  # whatever OpenSSL, or the ssl_context hook, has to say: never plain HTTP instead
            raise ConfigError(f"The TLS context cannot be made from certfile, keyfile and their like: {error!r}.") from error
        # RFC 7301: the server's order counts. Who selects none of them is served HTTP/1.1, also where that is not among them, as in Gunicorn.
        context.set_alpn_protocols([ALPN[name] for name in self.settings.http_protocols])
        return context

    def _log_boot(self, context: ssl.SSLContext | None) -> None:
        protocols = [ALPN[name] for name in self.settings.http_protocols if name == "h1" or context is not None]
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
            self.log.debug("%s: %r", context["message"], error)
        else:
            self.log.error("%s", context["message"], exc_info=error)

    # Signals. Their handlers are Python's, not the loop's: they run between two bytecodes even where the application blocks the loop.

    @property
    def _stopped(self) -> bool:
        return self._stop_time != 0.0

    def _stop_soon(self, quick: bool = False) -> None:
        """Wake `_serve` to stop. The arbiter repeats TERM: only the first counts, and QUIT or INT after it."""
        self.alive = False
        self._quick = self._quick or quick
        if not self._stopped:
            self._stop_time = time.monotonic()
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
        first, self._quick = not self._quick, True  # before the hook, within which the other signal may come
        try:
            if first:
                self.cfg.worker_int(self)
        except Exception:  # whatever the hook raises: asyncio would let it out of the loop
            self.log.exception("Exception in worker_int hook")
        finally:
            self._stop_soon(quick=True)
            if self._stopping is None:
                sys.exit(0)  # the application is being loaded, and if it does not let this through, ends behind it

    def handle_abort(self, _sig: int, frame: FrameType | None) -> None:
        """ABRT: the arbiter has not seen a heartbeat for ``timeout``. Says why, and leaves from wherever the loop is stuck."""
        try:
            self._stalls.abort(frame)
            self.cfg.worker_abort(self)
        finally:
            exit_in_time(1)
            self.leave(1)
            sys.exit(1)

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:
        """USR1: reopen the log files."""
        super().handle_usr1(sig, frame)
        self._stalls.reopen()

    def leave(self, code: int) -> None:
        """End the process quickly with `code`."""
        self._exit_code = code
        self._stop_soon(quick=True)

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


@cache
def _board() -> Board:
    """The one of this master: made before its first worker, and inherited by all."""
    return Board()


def _new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        import uvloop  # noqa: PLC0415 # may not be installed

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()
