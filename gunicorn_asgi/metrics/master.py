"""The master's part in the numbers: the shared memory, the listening socket, and who has which row.

Nothing of it is loaded before the numbers are on.
"""

from __future__ import annotations

import atexit
import math
import os
import weakref
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from ..config.settings import Settings
from ..errors import ConfigError

if TYPE_CHECKING:
    from .listening import MetricsSocket
    from .reporter import Reporter
    from .table import MetricsTable


class MasterSideWorker(Protocol):
    """Gunicorn's worker object, which the master makes before it forks, and keeps meanwhile."""

    cfg: Any
    log: Any
    options: Any


class MasterMetrics:
    """The numbers of one master."""

    def __init__(self) -> None:
        self._configuration: object = None
        """Gunicorn's configuration that was looked at. At a HUP there is a new object."""
        self._is_on = False
        self._table: MetricsTable | None = None
        self._socket: MetricsSocket | None = None
        self._owners: list[weakref.ref[Any]] = []
        """The workers, by the slots of their rows. The master drops one when it has ended."""

    def prepare(self, worker: MasterSideWorker) -> Reporter | None:
        """Return the reporter of a worker that is about to be forked; None if numbers are off.

        Raises ConfigError if the first worker cannot have its socket.
        """
        if worker.cfg is not self._configuration:
            is_first = self._configuration is None
            self._configuration = worker.cfg
            try:
                self._configure(worker)
            except ConfigError as error:
                if is_first:
                    raise
                worker.log.error("%s The numbers are not shown.", error)  # noqa: TRY400 # one sentence
        if not self._is_on:
            return None
        from .reporter import Reporter  # noqa: PLC0415 # only where numbers are on

        row = self._take_row(worker)
        if row is None:
            worker.log.warning("There are too many workers for the shared numbers")
            return None
        return Reporter(row, self._socket)

    def _configure(self, worker: MasterSideWorker) -> None:
        """Turn the numbers on or off, and listen. Raises ConfigError."""
        cfg = worker.cfg
        try:
            settings = Settings.read(cfg, worker.options, {**os.environ, **cfg.env})
        except ConfigError:
            return  # the worker says so itself, and ends
        self._is_on = is_on(settings, cfg)
        if self._is_on and self._table is None:
            from .table import MetricsTable  # noqa: PLC0415 # only where numbers are on

            self._table = MetricsTable()
        self._listen(settings, worker)

    def _listen(self, settings: Settings, worker: MasterSideWorker) -> None:
        cfg, address, old = worker.cfg, settings.metrics_bind, self._socket
        if old is not None:
            if old.address == address and old.is_there:
                return
            self._socket = None
            atexit.unregister(old.close)
            old.close()
        if address is None:
            return
        from .listening import MetricsSocket  # noqa: PLC0415 # only where numbers are on

        # Gunicorn's variable: this master was started by USR2.
        may_share = "GUNICORN_PID" in os.environ
        self._socket = MetricsSocket(address, cfg.umask, cfg.uid, cfg.gid, may_share)
        # Workers inherit it, and do nothing but close their copy.
        atexit.register(self._socket.close)
        worker.log.info("Numbers of all workers: %s", self._socket)

    def _take_row(self, worker: MasterSideWorker) -> Any:
        from .table import SLOTS  # noqa: PLC0415 # only where numbers are on

        assert self._table is not None
        owners = self._owners
        slot = next((n for n, owner in enumerate(owners) if owner() is None), len(owners))
        if slot == SLOTS:
            return None
        owners[slot : slot + 1] = [weakref.ref(worker)]
        return self._table.take(slot)


def is_on(settings: Settings, cfg: Any) -> bool:
    """Whether anybody is shown the numbers."""
    has_statsd = bool(cfg.statsd_host) and settings.statsd_interval_s < math.inf
    return settings.metrics_bind is not None or has_statsd


@cache
def of_this_master() -> MasterMetrics:
    """Return the numbers of this master: made before its first worker, and inherited by all."""
    return MasterMetrics()
