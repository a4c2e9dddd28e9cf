"""Measure WebSocket beside the peers: ``python3 benchmarks/websocket.py``. Needs nothing but the standard library to begin with."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import bench_env
import instructions
import report
import store
from measure import GRACE_SECONDS, NONE, LoadError, Sample, progress, started, turns
from scenarios import REPORT
from servers import BASELINE, Running, Server, pinned
from websocket_scenarios import LIMIT, SCENARIOS, SERVERS, Job, Scenario

HERE = Path(__file__).resolve().parent
OUTPUT = HERE / "WEBSOCKET.md"
PARTS = ("rate", "memory", "instructions")
MARK = report.MARK

IDLE = (
    Scenario("idle", "without permessage-deflate", 1, 1024),
    Scenario("idle-deflate", "with permessage-deflate", 1, 1024, deflate=True),
)
IDLE_ROUNDS = 2
"""At most: the memory hardly varies."""
IDLE_SECONDS = 300.0
"""For all of the connections to be opened and closed again."""
COUNTED_SERVERS = tuple(
    server for server in SERVERS if server.name not in {"gunicorn asgi", "hypercorn", "daphne"}
)
"""Valgrind does not know all instructions of `gunicorn_h1c`, is killed with Hypercorn before it has written, and takes minutes for Daphne."""
COUNTED = tuple(
    scenario for scenario in SCENARIOS if scenario.name != "large" and scenario.in_flight == 1
)
"""Callgrind counts a copied block as one instruction a byte, which says nothing of large ones."""


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
    complaint = bench_env.missing()
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    command = bench_env.command_line("websocket.py", arguments)
    return bench_env.conduct(
        __file__, options.inside, options.python, arguments, lambda: write(options, command)
    )


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description="Measure WebSocket echoes of gunicorn_asgi beside its peers."
    )
    bench_env.add_arguments(parser)
    bench_env.add_measuring(parser, SCENARIOS, SERVERS, OUTPUT)
    parser.add_argument(
        "--idle",
        type=bench_env.positive,
        help="connections whose memory is measured (default: 5000, 500 with --quick)",
    )
    bench_env.add_parts(parser, PARTS)
    options = bench_env.read_measuring(parser, arguments, SCENARIOS, SERVERS, OUTPUT)
    bench_env.read_parts(parser, options, PARTS)
    options.idle = options.idle or (500 if options.quick else 5000)
    most = _allow_files() - 200
    if "memory" in options.parts and options.idle > most:
        print(
            f"No process may have more files open than {most + 200}: the memory is that of {most} connections.",
            file=sys.stderr,
        )
        options.idle = most
    return options


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
        (
            "method",
            f"{options.rounds} rounds; rate: {options.seconds} s each; memory: {options.idle:,} connections",
        ),
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
    if not options.quick:
        store.save("websocket", results.rate, results.instructions)
    bench_env.write(markdown(facts, options, results), options.output)


# Measuring.


def measure_rate(
    options: argparse.Namespace, results: Results, server_core: int, client_core: int
) -> None:
    """Every server in every scenario in every round, in turns."""
    for number, scenario, server in turns(
        options.scenarios, options.servers, options.rounds, options.others
    ):
        result = results.rate.setdefault((scenario.name, server.name), report.Result())
        if result.failure:
            continue

        def measured(process: Running, _: Path, scenario: Scenario = scenario) -> Sample:
            job = Job(scenario, process.port, process.pid, process.cpu, seconds=options.seconds)
            return Sample(**_client(job, client_core, options.seconds + GRACE_SECONDS))

        sample, result.failure = started(server, scenario, server_core, measured)
        if sample is not None:
            result.samples[number] = sample
        outcome = f"{sample.rate:,.0f}/s, {sample.cpu_us:.1f} us" if sample else result.failure
        progress(f"rate {number + 1}", scenario.name, server, outcome)


def measure_memory(
    options: argparse.Namespace, results: Results, server_core: int, client_core: int
) -> None:
    """Every server in every round, in turns."""
    for number, scenario, server in turns(
        IDLE, options.servers, min(options.rounds, IDLE_ROUNDS), options.others
    ):
        result = results.memory.setdefault((scenario.name, server.name), Idle())
        if result.failure:
            continue

        def measured(process: Running, _: Path, scenario: Scenario = scenario) -> dict[str, int]:
            return _client(
                Job(scenario, process.port, process.pid, process.cpu, idle=options.idle),
                client_core,
                IDLE_SECONDS,
            )

        found, result.failure = started(server, scenario, server_core, measured)
        if found is not None:
            result.per_connection.append((found["after"] - found["before"]) / options.idle)
            result.before.append(found["before"])
        outcome = result.failure or f"{result.per_connection[-1] / 1024:.1f} KiB"
        progress(f"memory {number + 1}", scenario.name, server, outcome)


def count_instructions(options: argparse.Namespace, results: Results) -> None:
    """Once: they hardly vary."""

    def show(scenario: Scenario, server: Server, found: float | str) -> None:
        outcome = found if isinstance(found, str) else f"{found:,.0f}"
        progress("instructions", scenario.name, server, outcome)

    results.instructions = instructions.attempts(
        _counted_scenarios(options), _counted(options), show
    )


def _counted_scenarios(options: argparse.Namespace) -> list[Scenario]:
    return [scenario for scenario in options.scenarios if scenario in COUNTED]


def _counted(options: argparse.Namespace) -> list[Server]:
    return [server for server in options.servers if server in COUNTED_SERVERS]


def _client(job: Job, core: int, seconds: float) -> dict[str, Any]:
    """Run the client on its core; returns its report. Raises LoadError."""
    command = [sys.executable, "-m", "websocket_load", job.dumps()]
    try:
        with pinned(core):
            done = subprocess.run(
                command,
                cwd=HERE,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=seconds,
            )
    except subprocess.TimeoutExpired as error:
        raise LoadError("the client did not end in time") from error
    for line in done.stdout.splitlines():
        if line.startswith(REPORT):
            return dict(json.loads(line.removeprefix(REPORT)))
    raise LoadError(f"the client says: {done.stdout.strip()[-300:]}")


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
User-space instructions of one message on one connection, counted by callgrind as instructions.py does: {instructions.MANY} messages, one after the other, so
that each wakes the server. The kernel is not in it."""


COLUMNS = (
    *report.cpu("message"),
    report.BUSY,
    report.CLIENT,
    report.P50,
    report.P99,
    report.MEMORY,
)


def markdown(
    facts: Sequence[tuple[str, str]], options: argparse.Namespace, results: Results
) -> str:
    """The whole report."""
    scenarios, servers = options.scenarios, options.servers
    parts = ["# WebSocket", report.facts_list(facts), LEGEND]
    if results.rate:
        parts += [
            "## Messages",
            RATE_LEGEND,
            f"### Messages per second, {BASELINE} = 1",
            report.overview(scenarios, servers, results.rate),
        ]
        parts.append(f"### Messages per second of CPU time, {BASELINE} = 1")
        parts.append(report.overview(scenarios, servers, results.rate, report.cpu_ratio))
        parts += [
            "### " + report.section(scenario, servers, results.rate, COLUMNS, "messages")
            for scenario in scenarios
        ]
    if results.memory:
        parts += [
            "## Memory of an idle connection",
            MEMORY_LEGEND.format(idle=options.idle),
            _memory(servers, results.memory),
        ]
    if results.instructions:
        parts += [
            "## Instructions of a message",
            INSTRUCTIONS_LEGEND,
            report.counts(_counted_scenarios(options), _counted(options), results.instructions),
        ]
    return "\n\n".join(parts) + "\n"


def _memory(servers: Sequence[Server], found: dict[tuple[str, str], Idle]) -> str:
    rows = [["KiB per connection", *(scenario.title for scenario in IDLE), "server MiB"]]
    remarks = []
    for server in servers:
        results = [found[scenario.name, server.name] for scenario in IDLE]
        cells = [
            (NONE if result.failure == NONE else f"{MARK} fails")
            if result.failure
            else f"{median(result.per_connection) / 1024:.1f}"
            for result in results
        ]
        before = results[0].before
        rows.append(
            [report.name(server), *cells, f"{median(before) / 2**20:.1f}" if before else ""]
        )
        remarks += [
            f"{MARK} {server.name}: {result.failure}"
            for result in results
            if result.failure not in {"", NONE}
        ]
    return "\n\n".join([report.table(rows), *remarks])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
