"""The boot of a worker: its failure, and the line about a successful boot."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import gunicorn
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError

from ..asgi.exchange import is_set_within
from ..config.settings import Settings
from ..errors import ConfigError, LifespanError
from ..observe.log import Log
from ..version import __version__
from .roster import RosterRow
from .stop_request import StopRequest

PYTHON_NAMES = {"cpython": "CPython", "pypy": "PyPy"}
"""Python's implementations in the log. The module `platform` takes a millisecond to tell."""
RESPAWN_PAUSE_SECONDS = 1.0
"""Pause of a failed replacement before its exit, since the arbiter replaces it at once."""


class Boot:
    """The boot of one worker: logs the exception that ends it, and chooses the exit code.

    The arbiter halts if one of its first workers fails to boot. A replacement must not halt it,
    since other workers may be serving: its exit code is 1. It pauses before, for the arbiter tries
    again at once.
    """

    def __init__(
        self, row: RosterRow, stop: StopRequest, log: Log, always_halts: bool = False
    ) -> None:
        """`always_halts`: the failure of a replacement halts the arbiter as well."""
        self._roster = row.roster
        self._is_replacement = row.is_replacement and not always_halts
        self._stop = stop
        self._log = log
        self.has_failed = False

    def is_logged_here(self, error: BaseException) -> bool:
        """Return whether this worker logs `error`, if it has to be logged; else Gunicorn does."""
        return (
            self._is_replacement
            or self._stop.is_made
            or isinstance(error, ConfigError)
            or not isinstance(error, Exception)
        )

    def fail(self, error: BaseException) -> int:
        """Log `error`, pause if necessary, and return the exit code."""
        if self._stop.is_made:
            return self._stop.exit_code  # `error` is the SystemExit of QUIT, or comes from it
        code = self._log_failure(error)
        if self._is_replacement:
            time.sleep(RESPAWN_PAUSE_SECONDS)
        return code

    async def fail_in_loop(self, error: ConfigError | LifespanError) -> int:
        """Log `error`, pause if necessary until a request to stop, and return the exit code."""
        code = self._log_failure(error)
        if self._is_replacement:
            await is_set_within(RESPAWN_PAUSE_SECONDS, self._stop.requested)
        return code

    def _log_failure(self, error: BaseException) -> int:
        self.has_failed = True
        if isinstance(error, (ConfigError, LifespanError)):
            self._log.error("%s", error)
        elif isinstance(error, (SystemExit, KeyboardInterrupt)):
            self._log.error(
                "The application has ended its own import, or a hook the boot: %r", error
            )
        elif self.is_logged_here(error):
            self._log.error("Exception in worker process", exc_info=error)
        if not self._is_replacement:
            is_import = isinstance(error, AppImportError)
            return int(Arbiter.APP_LOAD_ERROR if is_import else Arbiter.WORKER_BOOT_ERROR)
        self._log.error(
            "Worker %s could not replace another: those that serve go on serving (%d); "
            "the next try is in %.0f s",
            os.getpid(),
            self._roster.count_serving(),
            RESPAWN_PAUSE_SECONDS,
        )
        return 1


def list_sources(error: BaseException) -> list[str]:
    """Return the source files in which `error` and its causes were raised.

    A failed import is in no list of modules, so a reloader does not know its file.
    """
    return [path for path in dict.fromkeys(_source_files(error)) if Path(path).is_file()]


def _source_files(error: BaseException | None) -> Iterator[str]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # `raise error from error` is its own cause
        seen.add(id(error))
        if isinstance(error, SyntaxError) and error.filename is not None:
            yield error.filename  # the file of the faulty syntax
        yield from (frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
        error = error.__cause__ or error.__context__


def log_boot(settings: Settings, service: str, log: Log) -> None:
    """Log the worker's versions and loop, its `service`, and its library if it is not asyncio."""
    log.info(
        "gunicorn_asgi %s on Gunicorn %s, %s %s: loop %s, %s%s",
        __version__,
        gunicorn.__version__,
        PYTHON_NAMES.get(sys.implementation.name, sys.implementation.name),
        sys.version.partition(" ")[0],
        settings.asgi_loop,
        service,
        f", application on {settings.async_library}" if settings.async_library != "asyncio" else "",
    )
