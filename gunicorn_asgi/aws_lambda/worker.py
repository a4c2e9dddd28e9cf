"""The worker for AWS Lambda: invocations of the Runtime API, as requests to the application."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gunicorn.arbiter import Arbiter

from ..asgi.async_library import load_trio
from ..asgi.scope import Application
from ..base_worker import BaseWorker
from ..config.settings import Settings
from ..errors import ConfigError, LifespanError
from ..process.boot import log_boot
from ..process.garbage import few_collections
from .environment import read_environment, read_runtime_api, refuse, refuse_outside
from .event_function import Function, load_function
from .failure import Failure
from .invocations import Invocations
from .runtime_api import report_failed_boot

if TYPE_CHECKING:
    from gunicorn.config import Config


class LambdaWorker(BaseWorker):
    """Serves an ASGI application on AWS Lambda: ``-k gunicorn_asgi.LambdaWorker app:app``."""

    may_hand_over = False
    """Two workers would poll for more invocations than AWS Lambda hands out."""
    halts_on_failed_boot = True
    """AWS Lambda then begins anew."""

    @classmethod
    def read_settings(cls, cfg: Config, environment: Mapping[str, str]) -> Settings:
        lambda_environment = read_environment(environment)
        if not (cfg.check_config or cfg.print_config):
            refuse_outside(lambda_environment)
        settings = super().read_settings(cfg, environment)
        refuse(cfg, settings, lambda_environment)
        return settings

    @classmethod
    def load_modules(cls, settings: Settings) -> None:
        if settings.async_library == "trio":
            load_trio()

    @classmethod
    def boot_failed(cls, error: BaseException) -> None:
        """Tell AWS Lambda, which has no other way to know why."""
        try:
            address = read_runtime_api(os.environ)
        except ConfigError:
            return
        if address:
            report_failed_boot(address, _describe(error))

    def prepare(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Printed lines would come late, or never: the environment is frozen, and killed.
            sys.stdout.reconfigure(line_buffering=True)
        self._environment = read_environment({**os.environ, **self.cfg.env})

    def load_wsgi(self) -> None:
        name = self.settings.lambda_event_function
        with few_collections():
            super().load_wsgi()
            self._function: Function | None = load_function(name) if name else None

    def make_server(self, app: Application) -> Invocations:
        self._invocations = Invocations(
            self.settings,
            app,
            self._function,
            self,
            self.log,
            self.access,
            self.loop,
            self.library,
            self._environment,
        )
        return self._invocations

    def begin_serving(self) -> None:
        self._invocations.start()

    def log_boot(self) -> None:
        mode = "streaming" if self.settings.lambda_streams else "buffered"
        concurrency = self._environment.max_concurrency
        service = f"AWS Lambda, responses {mode}, invocations at once {concurrency}"
        log_boot(self.settings, service, self.log)

    def fail(self, reason: str) -> None:
        """The Runtime API cannot be used any more: end the master, and with it the environment."""
        self.log.error("%s", reason)
        self.leave(Arbiter.WORKER_BOOT_ERROR)


def _describe(error: BaseException) -> Failure:
    if isinstance(error, (ConfigError, LifespanError)):
        return Failure(f"Runtime.{type(error).__name__}", str(error))
    cause = error.__cause__ or error
    return Failure.of(cause, with_stack=True)
