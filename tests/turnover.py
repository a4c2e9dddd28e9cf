"""Replacements of Gunicorn's workers, or of its master, during a `load.Load`.

For Linux only: it looks for processes in /proc. This module uses the standard library only, for
benchmarks/zero_loss.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

from load import Load, await_true

SECONDS = 60.0
"""Time limit for one replacement, longer than ``graceful_timeout``."""


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    return _stat(pid)[0] not in ("", "Z", "X")


def children(pid: int) -> set[int]:
    """The living child processes of a master: its workers, and a new master after USR2."""
    found = set()
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            state, parent = _stat(int(path.name))
            if parent == str(pid) and state not in ("Z", "X"):
                found.add(int(path.name))
    return found


def _stat(pid: int) -> tuple[str, str]:
    """State and parent of a process; empty if it does not exist."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "", ""
    return fields[0], fields[1]


def await_end(pids: set[int], what: str) -> None:
    """Wait until none of the processes runs."""
    await_true(lambda: not any(is_alive(pid) for pid in pids), f"the end of {what}", SECONDS)


def await_workers(load: Load, master: int, count: int, old: AbstractSet[int] = frozenset()) -> None:
    """Wait until `master` has so many workers besides `old`, and each has answered a request.

    Signals to a worker without signal handlers are lost: its master then waits for
    ``graceful_timeout``.
    """

    def serving() -> bool:
        new = children(master) - old
        if new <= load.pids:
            return len(new) >= count
        load.probe()
        return False

    await_true(serving, f"the answers of {count} new workers of {master}", SECONDS)


def reload(master: int, load: Load, times: int) -> None:
    """HUP, repeated after the end of each reload: new workers, then TERM to the old ones."""
    for _ in range(times):
        old = children(master)
        os.kill(master, signal.SIGHUP)
        await_end(old, f"the workers before HUP, {old},")
        await_workers(load, master, len(old), old)


def resize(master: int, load: Load, by: int, times: int) -> None:
    """TTIN and TTOU: start `by` more workers, then stop as many of the oldest, so many times.

    `by` is above the number of workers, so that all are replaced. Signals go one at a time: a
    process does not notice a second signal of the same kind before it has handled the first.
    """
    for _ in range(times):
        before = children(master)
        most = len(before) + by
        for number in range(len(before) + 1, most + 1):
            os.kill(master, signal.SIGTTIN)
            _await_count(master, number)
        for number in range(most - 1, len(before) - 1, -1):
            os.kill(master, signal.SIGTTOU)
            _await_count(master, number)
        await_workers(load, master, len(before), before)


def _await_count(master: int, count: int) -> None:
    await_true(
        lambda: len(children(master)) == count, f"the count of {count} workers of {master}", SECONDS
    )


def upgrade(pidfile: Path, load: Load) -> int:
    """USR2, then TERM to the old master once the new master serves. Returns the new pid."""
    old = read_pid(pidfile)
    new = _start_another(pidfile, load)
    workers = children(old) - {new}
    os.kill(old, signal.SIGTERM)
    await_end({old, *workers}, "the old master")
    _await_promotion(pidfile, new)
    return new


def upgrade_daemon(pidfile: Path, load: Load) -> int:
    """USR2, then WINCH to the old master, and QUIT after the end of its workers.

    Only a daemon stops its workers at WINCH.
    """
    old = read_pid(pidfile)
    new = _start_another(pidfile, load)
    workers = children(old) - {new}
    os.kill(old, signal.SIGWINCH)
    await_end(workers, "the old workers")
    os.kill(old, signal.SIGQUIT)
    await_end({old}, "the old master")
    _await_promotion(pidfile, new)
    return new


def end(master: int) -> None:
    """TERM to a master, and wait for it and its workers."""
    pids = {master, *children(master)}
    os.kill(master, signal.SIGTERM)
    await_end(pids, f"the master {master}")


def read_pid(pidfile: Path) -> int:
    """The pid in `pidfile`; 0 if there is none."""
    # Not every version of Gunicorn writes another file and renames it.
    with suppress(FileNotFoundError, ValueError):
        return int(pidfile.read_text())
    return 0


def _start_another(pidfile: Path, load: Load) -> int:
    """USR2; returns the pid of the new master once it serves."""
    old = read_pid(pidfile)
    count = len(children(old))
    os.kill(old, signal.SIGUSR2)
    beside = pidfile.with_name(pidfile.name + ".2")
    await_true(lambda: read_pid(beside), "the pidfile of a new master", SECONDS)
    new = read_pid(beside)
    await_workers(load, new, count)
    return new


def _await_promotion(pidfile: Path, new: int) -> None:
    """The new master takes over the pidfile within a second after the end of the old master."""
    await_true(lambda: read_pid(pidfile) == new, "the new master's taking over", SECONDS)
