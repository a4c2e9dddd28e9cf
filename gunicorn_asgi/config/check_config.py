"""``gunicorn --check-config``: Gunicorn loads the application there, and nothing else; this adds the checks of the worker."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from gunicorn.app.wsgiapp import WSGIApplication

from ..asgi.compat import single_callable
from ..errors import ConfigError
from ..process.interference import refuse_patches

if TYPE_CHECKING:
    from gunicorn.config import Config


def install() -> None:
    """Have Gunicorn check the worker, too, where it only checks (or prints) its configuration.

    Gunicorn loads the application there, and calls nothing of a worker class. So its method that loads is
    replaced by one that does the same, and checks afterwards. In a process that serves, it does no more.
    """
    load: Callable[[WSGIApplication], Any] = WSGIApplication.load

    def load_and_check(self: WSGIApplication) -> Any:
        application = load(self)
        if self.cfg.check_config or self.cfg.print_config:
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
    os.environ.update(cfg.env)  # as the arbiter does it at the boot
    try:
        worker_class = cfg.worker_class
    except Exception as error:  # noqa: BLE001 # whatever importing it raises
        _fail(log, error)
    if isinstance(worker_class, str):
        _fail(
            log,
            ConfigError(
                f"Invalid value for setting worker_class: {worker_class!r} names no class."
            ),
        )
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
