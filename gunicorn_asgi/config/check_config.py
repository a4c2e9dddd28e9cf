"""The worker's own checks in ``gunicorn --check-config``.

Gunicorn itself only loads the application there.
"""

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
    """Have Gunicorn check the worker, too, when it only checks or prints its configuration.

    Gunicorn then loads the application, and calls no method of a worker class. So its method for
    loading is wrapped. The wrapper checks after loading; in a serving process, it only loads.
    """
    load: Callable[[WSGIApplication], Any] = WSGIApplication.load

    def load_and_check(self: WSGIApplication) -> Any:
        application = load(self)
        if self.cfg.check_config or self.cfg.print_config:
            _check(self.cfg, application)
        return application

    WSGIApplication.load = load_and_check


class Stderr:
    """Gunicorn's logger for the checks, on the terminal."""

    def error(self, message: str, *args: object) -> None:
        sys.stderr.write(f"Error: {message % args}\n")

    def warning(self, message: str, *args: object) -> None:
        sys.stderr.write(f"Warning: {message % args}\n")


def _check(cfg: Config, application: object) -> None:
    """Raise SystemExit(1), with one sentence on stderr, if no worker could serve `application`."""
    log = Stderr()
    os.environ.update(cfg.env)  # as the arbiter does at boot
    try:
        worker_class = cfg.worker_class
    except Exception as error:  # noqa: BLE001 # from its import
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
