"""Measuring: what a client says of the answers, and what ``/proc`` says of the processes that gave them."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from bench_env import make_certificate
from scenarios import REPORT, WrongAnswerError
from servers import (
    NO_VARIABLES,
    NotOfferedError,
    Running,
    Server,
    StartError,
    free_port,
    last_words,
    pinned,
    running,
)

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
WARM_UP_SECONDS = 1
GRACE_SECONDS = 15.0
"""What a client may take beyond the time it was told to run."""


class LoadError(Exception):
    """The client did not do its work."""


NONE = "none"
"""What is said of a server that does not have what a scenario asks for."""


@dataclass(frozen=True)
class Load:
    """What a client did."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: dict[str, int]
    """By kind, as the client names them."""


@dataclass(frozen=True)
class Sample:
    """One measurement of one server in one scenario."""

    rate: float
    """Requests per second."""
    cpu_us: float
    """Of user and system time, in all processes of the server, per request."""
    system_us: float
    """The system time of it."""
    busy: float
    """Share of the server's core that this took, 1.0 being all of it."""
    p50_us: float
    p99_us: float
    others: float
    """Share of the server's core that processes which are none of the server's took, or another virtual machine."""
    memory: int
    """Bytes (PSS) of all processes of the server, after the load."""
    errors: dict[str, int]
    client: float
    """Share of the client's core that the client took."""


class Scenario(Protocol):
    """What is known of a scenario here."""

    @property
    def app(self) -> str: ...
    @property
    def tls(self) -> bool: ...
    @property
    def logged(self) -> bool: ...
    def check(self, port: int) -> None: ...


AnyScenario = TypeVar("AnyScenario", bound=Scenario)
Measured = TypeVar("Measured")


def turns(
    scenarios: Sequence[AnyScenario],
    servers: Sequence[Server],
    rounds: int,
    others: int | None = None,
) -> list[tuple[int, AnyScenario, Server]]:
    """Round, scenario and server: within a scenario and a round one server behind the other, so that a machine that becomes slower does so
    for all of them, and in the opposite order in every other round. Servers that are not in MAIN have only `others` rounds."""
    return [
        (number, scenario, server)
        for number in range(rounds)
        for scenario in scenarios
        for server in (servers if number % 2 == 0 else reversed(servers))
        if others is None or number < others or server.is_main
    ]


def started(
    server: Server,
    scenario: Scenario,
    core: int,
    measured: Callable[[Running, Path], Measured],
    variables: Mapping[str, str] = NO_VARIABLES,
) -> tuple[Measured | None, str]:
    """Start a server, with `variables` in its environment, check it, have it measured, with a folder for files, and end it; returns what was measured, or None and why."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        try:
            command = adapted(server, scenario.tls, scenario.logged, folder).command(
                scenario.app, port
            )
            with running(command, port, folder, core, variables) as process:
                scenario.check(port)
                return measured(process, folder), ""
        except NotOfferedError:
            return None, NONE
        except (StartError, WrongAnswerError, LoadError) as error:
            return None, f"{error} ({last_words(folder)})"


def adapted(server: Server, tls: bool, logged: bool, folder: Path) -> Server:
    """`server` with TLS, or with an access log, and what it needs for that in `folder`. Raises NotOfferedError."""
    if tls:
        make_certificate(folder)
    return server.adapted(tls, logged)


def progress(position: str, scenario: str, server: Server, outcome: str) -> None:
    """One line on stderr."""
    print(
        f"{time.strftime('%H:%M:%S')} {position}, {scenario}, {server.name}: {outcome}",
        file=sys.stderr,
        flush=True,
    )


def sample(server: Running, load: Callable[[int], Load], seconds: int) -> Sample:
    """Load a running server for so many seconds, after a warm-up. Raises LoadError."""
    load(WARM_UP_SECONDS)
    before, core_before, client_before, begun = (
        cpu_times(server.pid),
        core_seconds(server.cpu),
        _children_seconds(),
        time.monotonic(),
    )
    done = load(seconds)
    after, core_used, passed = (
        cpu_times(server.pid),
        core_seconds(server.cpu) - core_before,
        time.monotonic() - begun,
    )
    system = after.system - before.system
    used = after.user - before.user + system
    if not done.requests:
        raise LoadError(f"not one answer in {seconds} s, errors: {describe(done.errors) or 'none'}")
    return Sample(
        rate=done.requests / done.seconds,
        cpu_us=used / done.requests * 1e6,
        system_us=system / done.requests * 1e6,
        busy=used / done.seconds,
        p50_us=done.p50_us,
        p99_us=done.p99_us,
        others=max(0.0, core_used - used) / passed,
        memory=memory(server.pid),
        errors=done.errors,
        client=(_children_seconds() - client_before) / passed,
    )


def wrk(
    port: int, script: Path, connections: int, cpu: int, seconds: int, scheme: str = "http"
) -> Load:
    """Run wrk with one thread on core `cpu`. Raises LoadError."""
    command = [
        "wrk",
        "-t",
        "1",
        "-c",
        str(connections),
        "-d",
        f"{seconds}s",
        "--latency",
        "-s",
        str(script),
        f"{scheme}://127.0.0.1:{port}/",
    ]
    output = client(command, cpu, seconds + GRACE_SECONDS)
    for line in output.splitlines():
        if line.startswith(REPORT):
            report = json.loads(line.removeprefix(REPORT))
            return Load(
                report["requests"],
                report["duration_us"] / 1e6,
                report["p50_us"],
                report["p99_us"],
                report["errors"],
            )
    raise LoadError(f"wrk says: {output.strip()[:300]}")


def client(command: Sequence[str], cpu: int, seconds: float) -> str:
    """Run a client on core `cpu` to its end, for which it has so many seconds; returns what it says. Raises LoadError."""
    try:
        with pinned(cpu):
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        try:
            output, _ = process.communicate(timeout=seconds)
        finally:
            process.kill()
            process.wait()
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{command[0]} did not end within {seconds:.0f} s") from error
    return output


def describe(errors: dict[str, int]) -> str:
    """Errors for people, empty if there are none."""
    return ", ".join(f"{count:,} {kind}" for kind, count in errors.items() if count)


@dataclass(frozen=True)
class CpuTimes:
    """In seconds."""

    user: float
    system: float


def cpu_times(session: int) -> CpuTimes:
    """Of all processes of a session, those that have ended and were waited for included."""
    # proc(5): utime, stime, cutime and cstime are the fields 14 to 17; `_stats` leaves out the first two.
    ticks = [[int(field) for field in fields[11:15]] for fields in _stats(session)]
    return CpuTimes(
        sum(user + children for user, _, children, _ in ticks) / TICKS_PER_SECOND,
        sum(system + children for _, system, _, children in ticks) / TICKS_PER_SECOND,
    )


def cpu_ns(session: int) -> int:
    """Nanoseconds that all threads of the living processes of a session have run: for times that `cpu_times` is too coarse for."""
    total = 0
    for pid in pids(session):
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(OSError):
                total += int(path.read_text().split()[0])
    return total


def context_switches(session: int) -> int:
    """Of all threads of the living processes of a session, since each of them began."""
    total = 0
    for pid in pids(session):
        for path in Path(f"/proc/{pid}/task").glob("*/status"):
            with suppress(OSError):
                for line in path.read_text().splitlines():
                    if line.startswith(("voluntary_ctxt", "nonvoluntary_ctxt")):
                        total += int(line.split()[1])
    return total


def _children_seconds() -> float:
    """User and system time of all processes that this one has started and that have ended: the clients."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    for pid in pids(session):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def pids(session: int) -> list[int]:
    """Of all processes of a session."""
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
