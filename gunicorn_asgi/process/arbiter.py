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
    if can_hand_over():
        wrappers = Wrappers(find_roster)
        for name in METHODS:
            setattr(Arbiter, name, _as_method(getattr(wrappers, name)))


def _as_method(wrapper: Callable[..., None]) -> Callable[..., None]:
    """Return a function that passes the arbiter on: a bound method would not get it."""

    def method(arbiter: Any, *args: Any, **named: Any) -> None:
        wrapper(arbiter, *args, **named)

    return method


class Wrappers:
    """The wrapped methods, by their names. Each takes the arbiter, and calls the original."""

    def __init__(self, find_roster: Callable[[], Roster]) -> None:
        self._find_roster = find_roster
        self._manage_workers, self._reload, self._stop = (
            getattr(Arbiter, name) for name in METHODS
        )
        self._is_reloading = False
        self._graceful_timeout: int | None = None
        """The arbiter's setting, while another value is in its place."""

    def manage_workers(self, arbiter: Any) -> None:
        """Start and stop workers, without a look at those that leave."""
        roster = self._find_roster()
        if not is_ours(arbiter):
            roster.end()  # at a HUP to another worker class
            self._manage_workers(arbiter)
            return
        roster.keep([worker.age for worker in arbiter.WORKERS.values()])
        roster.want(arbiter.num_workers)
        hidden.update(_find_leaving(arbiter, roster))
        for pid in hidden:
            del arbiter.WORKERS[pid]
        try:
            self._manage_workers(arbiter)
        finally:
            arbiter.WORKERS.update(hidden)
            _forget_ended(arbiter)
            hidden.clear()
        if self._is_reloading and self._graceful_timeout is None:
            # No worker is forked until the value is back.
            self._graceful_timeout = arbiter.cfg.graceful_timeout
            arbiter.cfg.set("graceful_timeout", 0)

    def reload(self, arbiter: Any) -> None:
        """Read the configuration again if it can be read, and do not wait for the old workers.

        From Gunicorn 24 on, the arbiter waits for up to ``graceful_timeout`` until they have gone,
        and takes no signal meanwhile. But they hand over for as long as no new worker serves, and a
        HUP to a mended release, or TERM, must not have to wait.
        """
        if is_ours(arbiter) and not can_reload(arbiter):
            arbiter.log.error(
                "HUP: the configuration cannot be read (stderr says why), or not within %d s, so "
                "everything goes on as before; mend it, and send HUP again",
                RELOAD_SECONDS,
            )
            return
        self._is_reloading = True
        try:
            self._reload(arbiter)
        finally:
            self._is_reloading = False
            if self._graceful_timeout is not None:
                arbiter.cfg.set("graceful_timeout", self._graceful_timeout)
                self._graceful_timeout = None

    def stop(self, arbiter: Any, *args: Any, **named: Any) -> None:
        """Stop all workers, also those that hand over."""
        if is_ours(arbiter):
            self._find_roster().stop()
        self._stop(arbiter, *args, **named)


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
