"""Measure WebSocket beside the peers: ``python3 benchmarks/websocket.py``. Needs nothing but the standard library to begin with."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import bench_env
import instructions
import report
from measure import GRACE_SECONDS, LoadError, Sample, describe
from scenarios import REPORT, WrongAnswerError
from servers import BASELINE, OURS, Running, Server, StartError, free_port, last_words, pinned, running
from websocket_scenarios import APP, LIMIT, SCENARIOS, SERVERS, Job, NoDeflateError, Scenario

HERE = Path(__file__).resolve().parent
OUTPUT = HERE / "WEBSOCKET.md"
PARTS = ("rate", "memory", "instructions")
MARK = report.MARK
NONE = "none"
"""In place of a number where the server does not speak permessage-deflate."""

IDLE = (
    Scenario("idle", "without permessage-deflate", 1, 1024),
    Scenario("idle-deflate", "with permessage-deflate", 1, 1024, deflate=True),
)
IDLE_ROUNDS = 3
"""At most: the memory hardly varies."""
IDLE_SECONDS = 300.0
"""For all of the connections to be opened and closed again."""
COUNTED_SERVERS = tuple(server for server in SERVERS if server.name not in {"gunicorn asgi", "hypercorn", "daphne"})
"""Valgrind does not know all instructions of `gunicorn_h1c`, is killed with Hypercorn before it has written, and takes minutes for Daphne."""
COUNTED = tuple(scenario for scenario in SCENARIOS if scenario.name != "large" and scenario.in_flight == 1)
"""Callgrind counts a copied block as one instruction a byte, which says nothing of large ones."""


@dataclass(frozen=True)
class Echoes(Sample):
    """One measurement. A request is a message that came back."""

    client: float
    """Share of the client's core that the client took, 1.0 being all of it."""


@dataclass
class Idle:
    """The memory of idle connections of one server."""

    per_connection: list[float] = field(default_factory=list)
    """Bytes, by round."""
    before: list[int] = field(default_factory=list)
    """Bytes of the server without connections, by round."""
    failure: str = ""


@dataclass
class Results:
    """All that was measured, by the names of scenario and server."""

    rate: report.Results = field(default_factory=dict)
    memory: dict[tuple[str, str], Idle] = field(default_factory=dict)
    instructions: dict[tuple[str, str], float | str] = field(default_factory=dict)
    """Of a message, or what kept them from being counted."""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    options = read_arguments(arguments)
    complaint = missing()
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    command = bench_env.command_line("websocket.py", arguments)
    return bench_env.conduct(__file__, options.inside, options.python, arguments, lambda: write(options, command))


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description="Measure WebSocket echoes of gunicorn_asgi beside its peers.")
    bench_env.add_arguments(parser)
    parser.add_argument("--rounds", type=bench_env.positive, help="how often every server is measured in every scenario (default: 5)")
    parser.add_argument("--seconds", type=bench_env.positive, help="of each measurement of the rate (default: 3)")
    parser.add_argument("--idle", type=bench_env.positive, help="connections whose memory is measured (default: 5000, 500 with --quick)")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"separated by commas (default: all of {', '.join(PARTS)})")
    parser.add_argument("--scenarios", help=f"of rate and instructions, separated by commas (default: all of {_names(SCENARIOS)})")
    parser.add_argument("--servers", help=f"separated by commas (default: all of {_names(SERVERS)})")
    parser.add_argument("--output", type=Path, help="the Markdown file to write (default: benchmarks/WEBSOCKET.md; none with --quick)")
    parser.add_argument("--quick", action="store_true", help="one round of one second: to see that all works, not for numbers")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 3)
    options.idle = options.idle or (500 if options.quick else 5000)
    options.parts = options.parts.split(",")
    if options.output is None and not options.quick:
        options.output = OUTPUT
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    try:
        options.scenarios = bench_env.select(SCENARIOS, options.scenarios)
        options.servers = bench_env.select(SERVERS, options.servers)
    except ValueError as error:
        parser.error(str(error))
    most = _allow_files() - 200
    if "memory" in options.parts and options.idle > most:
        print(f"No process may have more files open than {most + 200}: the memory is that of {most} connections.", file=sys.stderr)
        options.idle = most
    if "instructions" in options.parts and shutil.which("valgrind") is None:
        print("Without valgrind (Debian and Ubuntu: apt install valgrind) no instructions are counted.", file=sys.stderr)
        options.parts.remove("instructions")
    return options


def missing() -> str:
    """What keeps this machine from measuring, in one sentence; empty if nothing does."""
    if not sys.platform.startswith("linux"):
        return "The benchmarks need Linux: they read /proc and pin processes to cores."
    if len(os.sched_getaffinity(0)) < 2:
        return "The benchmarks need two CPU cores, one for the server and one for the client."
    return ""


def _names(named: Sequence[bench_env.Named]) -> str:
    return ", ".join(item.name for item in named)


def _allow_files() -> int:
    """Let this process, and those it starts, open as many files as it may; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def write(options: argparse.Namespace, command: str) -> None:
    """Measure, print the report, and write it where it is wanted."""
    cores = sorted(os.sched_getaffinity(0))
    facts = [
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{command}`"),
        ("method", f"{options.rounds} rounds; rate: {options.seconds} s each; memory: {options.idle:,} connections"),
        ("cores", f"server on {cores[0]}, client on {cores[-1]}"),
        *bench_env.facts(),
    ]
    results = Results()
    if "rate" in options.parts:
        measure_rate(options, results, cores[0], cores[-1])
    if "memory" in options.parts:
        measure_memory(options, results, cores[0], cores[-1])
    if "instructions" in options.parts:
        count_instructions(options, results)
    text = markdown(facts, options, results)
    print(text)
    if options.output is not None:
        options.output.write_text(text)
        print(f"Written to {options.output}", file=sys.stderr)


# Measuring.


def measure_rate(options: argparse.Namespace, results: Results, server_core: int, client_core: int) -> None:
    """Every server in every scenario in every round, in turns."""

    def measured(server: Running, scenario: Scenario) -> Echoes:
        job = Job(scenario, server.port, server.pid, server.cpu, seconds=options.seconds)
        return Echoes(**_client(job, client_core, options.seconds + GRACE_SECONDS))

    for number, scenario, server in _turns(options.scenarios, options.servers, options.rounds):
        result = results.rate.setdefault((scenario.name, server.name), report.Result())
        if result.failure:
            continue
        sample, result.failure = _started(server, scenario, server_core, measured)
        if sample is not None:
            result.samples[number] = sample
        _progress(f"rate {number + 1}", scenario, server, f"{sample.rate:,.0f}/s, {sample.cpu_us:.1f} us" if sample else result.failure)


def measure_memory(options: argparse.Namespace, results: Results, server_core: int, client_core: int) -> None:
    """Every server in every round, in turns."""

    def measured(server: Running, scenario: Scenario) -> dict[str, int]:
        return _client(Job(scenario, server.port, server.pid, server.cpu, idle=options.idle), client_core, IDLE_SECONDS)

    for number, scenario, server in _turns(IDLE, options.servers, min(options.rounds, IDLE_ROUNDS)):
        result = results.memory.setdefault((scenario.name, server.name), Idle())
        if result.failure:
            continue
        found, result.failure = _started(server, scenario, server_core, measured)
        if found is not None:
            result.per_connection.append((found["after"] - found["before"]) / options.idle)
            result.before.append(found["before"])
        _progress(f"memory {number + 1}", scenario, server, result.failure or f"{result.per_connection[-1] / 1024:.1f} KiB")


def count_instructions(options: argparse.Namespace, results: Results) -> None:
    """Once: they hardly vary."""
    for scenario in (scenario for scenario in options.scenarios if scenario in COUNTED):
        for server in _counted(options):
            key = scenario.name, server.name
            try:
                count = instructions.instructions(server, scenario)
                results.instructions[key] = count
                _progress("instructions", scenario, server, f"{count:,.0f}")
            except NoDeflateError:
                results.instructions[key] = NONE
            except (StartError, WrongAnswerError, instructions.CountError) as error:
                results.instructions[key] = str(error)
                _progress("instructions", scenario, server, str(error))


def _counted(options: argparse.Namespace) -> list[Server]:
    return [server for server in options.servers if server in COUNTED_SERVERS]


def _turns(scenarios: Sequence[Scenario], servers: Sequence[Server], rounds: int) -> list[tuple[int, Scenario, Server]]:
    """Round, scenario and server: one server behind the other, and in the opposite order in every other round, for a machine is not always the same."""
    return [
        (number, scenario, server)
        for number in range(rounds)
        for scenario in scenarios
        for server in (servers if number % 2 == 0 else reversed(servers))
    ]


Measured = TypeVar("Measured")


def _started(
    server: Server, scenario: Scenario, core: int, measured: Callable[[Running, Scenario], Measured]
) -> tuple[Measured | None, str]:
    """Start a server, check it, have it measured, and end it; returns what was measured, or None and why."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        try:
            with running(server.command(APP, port), port, folder, core) as process:
                scenario.check(port)
                return measured(process, scenario), ""
        except NoDeflateError:
            return None, NONE
        except (StartError, WrongAnswerError, LoadError) as error:
            return None, f"{error} ({last_words(folder)})"


def _client(job: Job, core: int, seconds: float) -> dict[str, Any]:
    """Run the client on its core; returns its report. Raises LoadError."""
    command = [sys.executable, "-m", "websocket_load", job.dumps()]
    try:
        with pinned(core):
            done = subprocess.run(
                command, cwd=HERE, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
            )
    except subprocess.TimeoutExpired as error:
        raise LoadError("the client did not end in time") from error
    for line in done.stdout.splitlines():
        if line.startswith(REPORT):
            return dict(json.loads(line.removeprefix(REPORT)))
    raise LoadError(f"the client says: {done.stdout.strip()[-300:]}")


def _progress(part: str, scenario: Scenario, server: Server, outcome: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {part}, {scenario.name}, {server.name}: {outcome}", file=sys.stderr, flush=True)


# The report.

LEGEND = f"""\
An echo application behind each server, one worker on one core, the client on another; *{LIMIT}* is an echo server in C and Cython without ASGI, as the limit. Every
answer was compared with its message. A cell with {MARK} has errors or no measurement at all; what happened stands below its table. *{NONE}*: the server
does not speak permessage-deflate."""

RATE_LEGEND = f"""\
Medians over the rounds. *CPU* is user and system time of all processes of the server per echoed message, *busy* how much of its core that took, *client* what the
client took of its own: where *busy* is clearly below 100 % it was not the server that set the pace. Latency is that of every eighth connection. *Memory* is the PSS of all the
server's processes under the load. *{BASELINE} = 1* is the ratio within a round; that of the CPU time also holds where the client or others set the pace."""

MEMORY_LEGEND = """\
What the PSS of all processes of the server has grown by, divided by the connections: {idle:,} of them, on each of which one message of 1 KiB has been echoed. Median
over the rounds. *Server* is the PSS before. What the kernel keeps for a connection is not in it."""

INSTRUCTIONS_LEGEND = f"""\
User-space instructions of one message on one connection, counted by callgrind as instructions.py does: ({instructions.MANY} - {instructions.FEW}) messages, one after the other, so
that each wakes the server. The kernel is not in it."""


def markdown(facts: Sequence[tuple[str, str]], options: argparse.Namespace, results: Results) -> str:
    """The whole report."""
    parts = ["# WebSocket", "\n".join(f"- {name}: {value}" for name, value in facts), LEGEND]
    if results.rate:
        parts += ["## Messages", RATE_LEGEND, f"### Messages per second, {BASELINE} = 1", _overview(options, results.rate, report.ratio)]
        parts += [f"### Messages per second of CPU time, {BASELINE} = 1", _overview(options, results.rate, _cpu_ratio)]
        parts += [_section(scenario, options.servers, results.rate) for scenario in options.scenarios]
    if results.memory:
        parts += ["## Memory of an idle connection", MEMORY_LEGEND.format(idle=options.idle), _memory(options.servers, results.memory)]
    if results.instructions:
        parts += ["## Instructions of a message", INSTRUCTIONS_LEGEND, _instructions(options, results.instructions)]
    return "\n\n".join(parts) + "\n"


def _overview(
    options: argparse.Namespace, found: report.Results, value: Callable[[report.Result, report.Result | None], float | None]
) -> str:
    rows = [["server", *(scenario.name for scenario in options.scenarios)]]
    for server in options.servers:
        cells = []
        for scenario in options.scenarios:
            result = found[scenario.name, server.name]
            cells.append(_cell(result, value(result, found.get((scenario.name, BASELINE)))))
        rows.append([_name(server), *cells])
    return report.table(rows)


def _cpu_ratio(result: report.Result, baseline: report.Result | None) -> float | None:
    """How many messages the CPU time is enough for, as a multiple of the baseline's: the median over the rounds, each compared within itself."""
    rounds = result.samples.keys() & baseline.samples.keys() if baseline is not None else ()
    if baseline is None or not rounds:
        return None
    return median(baseline.samples[number].cpu_us / result.samples[number].cpu_us for number in rounds)


def _cell(result: report.Result, value: float | None) -> str:
    if result.failure:
        return NONE if result.failure == NONE else f"{MARK} fails"
    if value is None:
        return ""
    return f"{MARK} {value:.2f}" if result.errors else f"{value:.2f}"


def _section(scenario: Scenario, servers: Sequence[Server], found: report.Results) -> str:
    rows = [["server", "messages/s", "lowest to highest", f"{BASELINE} = 1", "CPU us", "busy", "client", "p50 us", "p99 us", "memory MiB"]]
    remarks, disturbed = [], []
    for server in servers:
        result = found[scenario.name, server.name]
        rows.append([_name(server), *_cells(result, found.get((scenario.name, BASELINE)))])
        if result.failure not in {"", NONE}:
            remarks.append(f"{MARK} {server.name}: {result.failure}")
        if result.errors:
            remarks.append(f"{MARK} {server.name}: errors over all rounds: {describe(result.errors)}")
        if result.disturbed > report.DISTURBED:
            disturbed.append(f"{server.name} {result.disturbed:.0%}")
    if disturbed:
        remarks.append(f"Other processes took of the server's core, in the worst round: {', '.join(disturbed)}.")
    return "\n\n".join([f"### {scenario.title} (`{scenario.name}`)", report.table(rows), *remarks])


def _cells(result: report.Result, baseline: report.Result | None) -> list[str]:
    samples = [sample for sample in result.samples.values() if isinstance(sample, Echoes)]
    if result.failure or not samples:
        return [_cell(result, None), *[""] * 8]
    rates = [sample.rate for sample in samples]
    return [
        f"{MARK} {median(rates):,.0f}" if result.errors else f"{median(rates):,.0f}",
        f"{min(rates):,.0f} to {max(rates):,.0f}",
        _cell(result, report.ratio(result, baseline)),
        f"{median(sample.cpu_us for sample in samples):,.1f}",
        f"{median(sample.busy for sample in samples):.0%}",
        f"{median(sample.client for sample in samples):.0%}",
        f"{median(sample.p50_us for sample in samples):,.0f}",
        f"{median(sample.p99_us for sample in samples):,.0f}",
        f"{median(sample.memory for sample in samples) / 2**20:.1f}",
    ]


def _memory(servers: Sequence[Server], found: dict[tuple[str, str], Idle]) -> str:
    rows = [["KiB per connection", *(scenario.title for scenario in IDLE), "server MiB"]]
    remarks = []
    for server in servers:
        results = [found[scenario.name, server.name] for scenario in IDLE]
        cells = [
            (NONE if result.failure == NONE else f"{MARK} fails") if result.failure else f"{median(result.per_connection) / 1024:.1f}"
            for result in results
        ]
        before = results[0].before
        rows.append([_name(server), *cells, f"{median(before) / 2**20:.1f}" if before else ""])
        remarks += [f"{MARK} {server.name}: {result.failure}" for result in results if result.failure not in {"", NONE}]
    return "\n\n".join([report.table(rows), *remarks])


def _instructions(options: argparse.Namespace, found: dict[tuple[str, str], float | str]) -> str:
    scenarios = [scenario for scenario in options.scenarios if scenario in COUNTED]
    rows = [["server", *(name for scenario in scenarios for name in (scenario.name, f"{BASELINE} = 1"))]]
    remarks = []
    for server in _counted(options):
        cells = []
        for scenario in scenarios:
            count, baseline = found[scenario.name, server.name], found.get((scenario.name, BASELINE))
            if count == NONE:
                cells += [NONE, ""]
            elif isinstance(count, str):
                cells += [f"{MARK} fails", ""]
                remarks.append(f"{MARK} {server.name}, {scenario.name}: {count}")
            else:
                cells += [f"{count:,.0f}", f"{count / baseline:.2f}" if isinstance(baseline, float) else ""]
        rows.append([_name(server), *cells])
    return "\n\n".join([report.table(rows), *remarks])


def _name(server: Server) -> str:
    return f"**{server.name}**" if server.name == OURS else server.name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
