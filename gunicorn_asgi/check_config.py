"""``gunicorn --check-config``: Gunicorn loads the application there, and nothing else; this adds the checks of the worker."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from gunicorn.app.wsgiapp import WSGIApplication

from .asgi.compat import single_callable
from .errors import ConfigError
from .interference import refuse_patches

if TYPE_CHECKING:
    from gunicorn.config import Config

OPTION = "--check-config"
SHORTEST = "--check"
"""The shortest form of it that argparse takes."""


def is_asked_for() -> bool:
    """Whether this process is a ``gunicorn --check-config``."""
    arguments = sys.argv[1:] + os.environ.get("GUNICORN_CMD_ARGS", "").split()
    return any(argument.startswith(SHORTEST) and OPTION.startswith(argument) for argument in arguments)


def install() -> None:
    """Have Gunicorn check the worker, too, once it has loaded the application. For a process that does nothing else.

    Gunicorn calls nothing of a worker class there, so its own method is replaced.
    """
    load: Callable[[WSGIApplication], Any] = WSGIApplication.load

    def load_and_check(self: WSGIApplication) -> Any:
        application = load(self)
        if self.cfg.check_config:
            _check(self.cfg, application)
        return application

    WSGIApplication.load = load_and_check


class Stderr:
    """A logger for the terminal of whoever checks."""

    def error(self, message: str, *args: object) -> None:
        sys.stderr.write(f"Error: {message % args}\n")

    def warning(self, message: str, *args: object) -> None:
        sys.stderr.write(f"Warning: {message % args}\n")


def _check(cfg: Config, application: object) -> None:
    """Raise SystemExit(1), with one sentence on stderr, if a worker could not serve `application` with this configuration."""
    log = Stderr()
    try:
        worker_class = cfg.worker_class
    except Exception as error:  # noqa: BLE001 # whatever importing it raises
        _fail(log, error)
    if isinstance(worker_class, str):
        _fail(log, ConfigError(f"Invalid value for setting worker_class: {worker_class!r} names no class."))
    check_config = getattr(worker_class, "check_config", None)
    if check_config is not None:
        check_config(cfg, log)
    if getattr(worker_class, "serves_asgi", False):
        try:
            single_callable(application)
            refuse_patches()
        except ConfigError as error:
            _fail(log, error)


def _fail(log: Stderr, error: Exception) -> NoReturn:
    log.error("%s", error)
    raise SystemExit(1) from None
