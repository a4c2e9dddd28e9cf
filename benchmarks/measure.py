"""Measuring: what wrk says of the answers, and what ``/proc`` says of the processes that gave them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scenarios import REPORT
from servers import Running, pinned

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
WARM_UP_SECONDS = 1
GRACE_SECONDS = 15.0
"""What wrk may take beyond the time it was told to run."""


class LoadError(Exception):
    """wrk did not do its work."""


@dataclass(frozen=True)
class Load:
    """What wrk did."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: dict[str, int]
    """By kind, as wrk names them: connect, read, write, timeout, and status for every answer outside 2xx and 3xx."""


@dataclass(frozen=True)
class Sample:
    """One measurement of one server in one scenario."""

    rate: float
    """Requests per second."""
    cpu_us: float
    """Of user and system time, in all processes of the server, per request."""
    busy: float
    """Share of the server's core that this took, 1.0 being all of it."""
    p50_us: float
    p99_us: float
    others: float
    """Share of the server's core that processes which are none of the server's took, or another virtual machine."""
    memory: int
    """Bytes (PSS) of all processes of the server, after the load."""
    errors: dict[str, int]


def sample(server: Running, script: Path, connections: int, seconds: int, cpu: int) -> Sample:
    """Load a running server from core `cpu`, after a warm-up. Raises LoadError."""
    load(server.port, script, connections, WARM_UP_SECONDS, cpu)
    before, core_before, begun = cpu_seconds(server.pid), core_seconds(server.cpu), time.monotonic()
    done = load(server.port, script, connections, seconds, cpu)
    used, core_used, passed = cpu_seconds(server.pid) - before, core_seconds(server.cpu) - core_before, time.monotonic() - begun
    if not done.requests:
        raise LoadError(f"not one answer in {seconds} s, errors: {describe(done.errors) or 'none'}")
    return Sample(
        rate=done.requests / done.seconds,
        cpu_us=used / done.requests * 1e6,
        busy=used / done.seconds,
        p50_us=done.p50_us,
        p99_us=done.p99_us,
        others=max(0.0, core_used - used) / passed,
        memory=memory(server.pid),
        errors=done.errors,
    )


def load(port: int, script: Path, connections: int, seconds: int, cpu: int) -> Load:
    """Run wrk with one thread on core `cpu`. Raises LoadError."""
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--latency", "-s", str(script), f"http://127.0.0.1:{port}/"]
    try:
        with pinned(cpu):
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            output, _ = process.communicate(timeout=seconds + GRACE_SECONDS)
        finally:
            process.kill()
            process.wait()
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"wrk did not end within {GRACE_SECONDS:.0f} s of its time") from error
    for line in output.splitlines():
        if line.startswith(REPORT):
            report = json.loads(line.removeprefix(REPORT))
            return Load(report["requests"], report["duration_us"] / 1e6, report["p50_us"], report["p99_us"], report["errors"])
    raise LoadError(f"wrk says: {output.strip()[:300]}")


def describe(errors: dict[str, int]) -> str:
    """Errors for people, empty if there are none."""
    return ", ".join(f"{count:,} {kind}" for kind, count in errors.items() if count)


def cpu_seconds(session: int) -> float:
    """User and system time of all processes of a session, those that have ended and were waited for included."""
    # proc(5): utime, stime, cutime and cstime are the fields 14 to 17; `_stats` leaves out the first two.
    return sum(int(ticks) for fields in _stats(session) for ticks in fields[11:15]) / TICKS_PER_SECOND


def core_seconds(cpu: int) -> float:
    """What all processes together have taken of one core, and what the hypervisor took away from it; without interrupts."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{cpu}":
            user, nice, system, _idle, _iowait, _irq, _softirq, steal = map(int, ticks[:8])
            return (user + nice + system + steal) / TICKS_PER_SECOND
    raise LoadError(f"/proc/stat has no cpu{cpu}")


def memory(session: int) -> int:
    """Bytes of all processes of a session (PSS: what is shared with other processes counts in proportion)."""
    total = 0
    for pid in _pids(session):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def _pids(session: int) -> list[int]:
    return [pid for pid, _ in _processes(session)]


def _stats(session: int) -> list[list[str]]:
    return [fields for _, fields in _processes(session)]


def _processes(session: int) -> Iterator[tuple[int, list[str]]]:
    """The pid of each process in a session, and what ``/proc/<pid>/stat`` says behind its name."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                yield int(entry.name), fields
