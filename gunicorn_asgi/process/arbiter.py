"""What this package adds to Gunicorn's arbiter: newer workers start beside those that leave.

The arbiter keeps ``workers`` processes. So it starts a replacement only when the old process has
gone, and nobody would serve meanwhile. With this module, workers that hand over, or that have
handed over and finish their requests, do not count. Everything else stays the arbiter's.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gunicorn.arbiter import Arbiter

from .roster import Roster

METHODS = ("manage_workers", "reload", "stop")
"""The arbiter's methods that are wrapped. Each does what it did, and a little besides."""
RELOAD_SECONDS = 60
"""Time for a configuration to be read on trial. The arbiter takes no signal meanwhile."""


hidden: dict[int, Any] = {}
"""The workers that the arbiter does not see while it compares their number with ``workers``, by
their process id."""


def close_inherited() -> None:
    """Close the heartbeat files of `hidden` workers, in a new worker. The others' are closed."""
    for worker in hidden.values():
        worker.tmp.close()


def can_hand_over() -> bool:
    """Whether this Gunicorn's arbiter is the one that `install` knows."""
    return all(hasattr(Arbiter, name) for name in (*METHODS, "WORKERS", "num_workers"))


def install(find_roster: Callable[[], Roster]) -> None:
    """Wrap the arbiter's METHODS, in the master, where the worker class is imported.

    `find_roster` returns the roster of this process. For workers of another class the wrappers do
    nothing.
    """
    if not can_hand_over():
        return
    manage, reload, stop = (getattr(Arbiter, name) for name in METHODS)
    reloading: list[Arbiter] = []
    """The arbiter while it reloads its configuration."""
    waits: list[int] = []
    """The arbiter's ``graceful_timeout``, while another value is in its place."""

    def manage_workers(self: Any) -> None:
        if not is_ours(self):
            find_roster().end()  # at a HUP to another worker class
            manage(self)
            return
        roster = find_roster()
        roster.keep([worker.age for worker in self.WORKERS.values()])
        roster.want(self.num_workers)
        hidden.update(_find_leaving(self, roster))
        for pid in hidden:
            del self.WORKERS[pid]
        try:
            manage(self)
        finally:
            self.WORKERS.update(hidden)
            _forget_ended(self)
            hidden.clear()
        if self in reloading and not waits:
            # No worker is forked until the value is back.
            waits.append(self.cfg.graceful_timeout)
            self.cfg.set("graceful_timeout", 0)

    def reload_configuration(self: Any) -> None:
        if is_ours(self) and not can_reload(self):
            self.log.error(
                "HUP: the configuration cannot be read (stderr says why), or not within %d s, so "
                "everything goes on as before; mend it, and send HUP again",
                RELOAD_SECONDS,
            )
            return
        # From Gunicorn 24 on, the arbiter waits for up to ``graceful_timeout`` until its old
        # workers have gone, and takes no signal meanwhile. But they hand over for as long as no
        # new worker serves, and a HUP to a mended release, or TERM, must not have to wait.
        reloading.append(self)
        try:
            reload(self)
        finally:
            reloading.clear()
            for seconds in waits:
                self.cfg.set("graceful_timeout", seconds)
            waits.clear()

    def stop_workers(self: Any, *args: Any, **kwargs: Any) -> None:
        if is_ours(self):
            find_roster().stop()
        stop(self, *args, **kwargs)

    for name, wrapper in zip(
        METHODS, (manage_workers, reload_configuration, stop_workers), strict=True
    ):
        setattr(Arbiter, name, wrapper)


def _find_leaving(arbiter: Any, roster: Roster) -> dict[int, Any]:
    """Return the workers beside which newer ones may run, at most as many as the arbiter keeps."""
    ages = roster.ages_besides()
    workers = [(pid, worker) for pid, worker in arbiter.WORKERS.items() if worker.age in ages]
    return dict(workers[: max(arbiter.num_workers, 1)])


def _forget_ended(arbiter: Any) -> None:
    """Finish the end of each worker that the arbiter took note of while the worker was hidden.

    Gunicorn 23 does so in a signal handler, and then knew nothing of it.
    """
    if os.getpid() != arbiter.pid:
        return  # a worker that ends: it was forked meanwhile
    for pid in hidden:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            worker = arbiter.WORKERS.pop(pid, None)
            if worker is not None:
                worker.tmp.close()
                arbiter.cfg.child_exit(arbiter, worker)
        except PermissionError:
            pass  # it runs, as another user


def can_reload(arbiter: Any) -> bool:
    """Return whether `arbiter` can read its configuration again.

    It is tried in a process of its own: a faulty file ends the process that reads it.
    """
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        outcome = b"-"
        try:
            # The arbiter's handlers wait for its loop. A file that hangs must not outlive it, for
            # this process has its listening sockets, too.
            for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)
            signal.alarm(RELOAD_SECONDS)
            arbiter.app.reload()
            arbiter.app.cfg.worker_class  # noqa: B018 # imports it
            outcome = b"+"
        except SystemExit:
            pass  # Gunicorn has written the reason
        except BaseException:  # noqa: BLE001 # anything that a configuration file raises
            traceback.print_exc()
        finally:
            os.write(writable, outcome)
            os._exit(0)
    os.close(writable)
    outcome = os.read(readable, 1)
    os.close(readable)
    with suppress(ChildProcessError):  # Gunicorn 23 takes every child that has ended
        os.waitpid(pid, 0)
    return outcome == b"+"


def is_ours(arbiter: Any) -> bool:
    return getattr(arbiter.worker_class, "serves_asgi", False)
