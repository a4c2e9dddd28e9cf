"""The worker that serves connections: the class that Gunicorn makes, runs and sends signals to."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

import gunicorn
from gunicorn.errors import HaltServer

from .asgi.scope import Application
from .base_worker import BaseWorker
from .config import checks
from .config.boot_warnings import boot_warnings
from .config.settings import Settings
from .config.tls_context import ALPN, make_context, serving_context
from .errors import ConfigError
from .metrics.catalog import State
from .metrics.master import of_this_master
from .net.balance import WorkerRow, WorkerTable
from .net.own_queue import ClosedQueues
from .process.boot import log_boot
from .process.roster import BOOTING, HANDING_OVER, LEAVING, LEAVING_FIRST, NONE, SERVING
from .server import Server, load_protocols

if TYPE_CHECKING:
    from ssl import SSLContext

    from gunicorn.config import Config

SHOWN_STATES = {
    BOOTING: State.STARTING,
    SERVING: State.SERVING,
    HANDING_OVER: State.HANDING_OVER,
    LEAVING: State.LEAVING,
    LEAVING_FIRST: State.LEAVING,
    NONE: State.ENDED,
}
"""The states of a worker in the numbers, by those in the roster."""


class Worker(BaseWorker):
    """Serves an ASGI application: ``gunicorn -k gunicorn_asgi.Worker app:app``."""

    # In the master.

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.share = WorkerRow(_worker_table(), self.age)
        try:
            self.metrics = of_this_master().prepare(self)
        except ConfigError as error:
            raise HaltServer(str(error), 1) from None

    @classmethod
    def check_settings(cls, cfg: Config, settings: Settings) -> None:
        super().check_settings(cfg, settings)
        # A hook for the TLS context only runs in the workers, which use its context.
        if cfg.is_ssl and not checks.has_tls_hook(cfg):
            make_context(cfg, settings)

    @classmethod
    def boot_warnings(cls, cfg: Config, settings: Settings) -> Iterable[str]:
        return boot_warnings(cfg, settings, os.environ)

    @classmethod
    def load_modules(cls, settings: Settings) -> None:
        load_protocols(settings)

    # In the worker process.

    def init_process(self) -> None:
        self._closed_queues: ClosedQueues | None = None
        if self._has_own_queue and self.row.roster.count_serving():
            self._closed_queues = ClosedQueues(self.sockets)
        super().init_process()

    def prepare(self) -> None:
        if self._closed_queues is not None and not self.replaces_first:
            self._closed_queues.open(self.settings.backlog)

    def make_server(self, app: Application) -> Server:
        self._context: SSLContext | None = serving_context(self.cfg, self.settings)
        server = Server(
            self.settings,
            app,
            self,
            self.log,
            self.access,
            self.loop,
            self.share,
            self._has_own_queue,
            self.library,
        )
        if self.metrics is not None:
            self.metrics.attach(server, lambda: SHOWN_STATES[self.row.state], self.log)
        self._acceptors = server.acceptors
        return server

    def begin_serving(self) -> None:
        self._acceptors.listen(self.sockets, self._context, self._closed_queues)

    def log_boot(self) -> None:
        settings, has_tls = self.settings, self._context is not None
        protocols = [ALPN[name] for name in settings.http_protocols if name == "h1" or has_tls]
        if settings.http2 and settings.http2_cleartext != "off":
            protocols.append(f"h2c ({settings.http2_cleartext})")
        log_boot(
            settings,
            f"parser {settings.http}, protocols {', '.join(protocols) or ALPN['h1']}"
            + (" over TLS" if has_tls else ""),
            self.log,
        )

    @property
    def _has_own_queue(self) -> bool:
        """Whether no other worker accepts the connections of this worker's sockets."""
        # From Gunicorn 24 on, workers bind for themselves. Before, ``reuse_port`` only marked the
        # socket that all workers share.
        return bool(self.cfg.reuse_port) and gunicorn.version_info >= (24,)


def setup() -> NoReturn:
    """Gunicorn calls this if ``worker_class`` names this module instead of the class."""
    raise RuntimeError(
        "Invalid value for setting worker_class: gunicorn_asgi.worker is a module; "
        "the class is gunicorn_asgi.Worker."
    )


@cache
def _worker_table() -> WorkerTable:
    """Made in the master before its first worker, and inherited by all."""
    return WorkerTable()
