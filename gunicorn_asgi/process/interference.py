"""An application's changes to its process that interfere with the worker.

Libraries make such changes for their own programs: a signal handler, a configuration of logging,
gevent's patches of the standard library. No event tells of them, so the worker looks.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TextIO

from ..errors import ConfigError
from ..observe.log import Log

PATCHERS = (
    (
        "gevent.monkey",
        "is_module_patched",
        "gevent.monkey.patch_all()",
        ("thread", "socket", "select"),
    ),
    (
        "eventlet.patcher",
        "is_monkey_patched",
        "eventlet.monkey_patch()",
        ("thread", "socket", "select"),
    ),
)
"""A module that patches the standard library, its function for asking, the usual call to patch, and
the parts that asyncio needs unpatched."""


def find_loggers(log: object) -> list[logging.Logger]:
    """Return the loggers of ``logging`` that Gunicorn's `log` writes to, if its class has any."""
    found = (getattr(log, name, None) for name in ("error_log", "access_log"))
    return [logger for logger in found if isinstance(logger, logging.Logger)]


def refuse_patches() -> None:
    """Raise ConfigError if a library has patched asyncio's base in the standard library."""
    for module, function, call, parts in PATCHERS:
        is_patched = getattr(sys.modules.get(module), function, None)
        if is_patched is not None and any(is_patched(part) for part in parts):
            raise ConfigError(
                f"The application has called {call}, and no asyncio event loop runs on what that "
                "replaces: remove the call, or serve the application with worker_class "
                f"{module.partition('.')[0]}."
            )


class InterferenceWatch:
    """Warns once for each replaced signal handler, and once for each disabled logger."""

    def __init__(
        self, handlers: Mapping[int, Callable[..., Any]], log: Log, stderr: TextIO | None
    ) -> None:
        """`handlers` are the worker's own, by signal number.

        A disabled logger is reported to `stderr`, since the log itself is silent.
        """
        self._handlers = dict(handlers)
        self._log = log
        self._stderr = stderr
        self._loggers = find_loggers(log)

    def look(self) -> None:
        """Look at the process; to be called in each heartbeat."""
        for number, handler in list(self._handlers.items()):
            current = signal.getsignal(number)
            if current != handler:
                del self._handlers[number]
                self._log.warning(
                    "The application, or a hook, has replaced the worker's handler of %s with %r. "
                    "Unless that calls the handler it has replaced, the worker does not learn what "
                    "Gunicorn tells it by this signal: call that handler, or do the work in "
                    "lifespan.shutdown and install none",
                    signal.Signals(number).name,
                    current,
                )
        for logger in self._loggers.copy():
            if logger.disabled:
                self._loggers.remove(logger)
                self._write(
                    "gunicorn_asgi: the application's logging configuration has disabled the "
                    f"logger {logger.name}, so that its lines are lost; set "
                    "disable_existing_loggers to False there\n"
                )

    def _write(self, line: str) -> None:
        if self._stderr is not None:
            # A closed stream, or one without a reader, must not end the heartbeat.
            with suppress(OSError, ValueError):
                self._stderr.write(line)
                self._stderr.flush()
