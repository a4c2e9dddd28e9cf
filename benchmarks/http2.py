"""Measure HTTP/2 beside the peers: ``python3 benchmarks/http2.py``. Needs nothing but the standard library to begin with."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

import bench_env
import instructions
import report
import store
from http2_load import H2Load, memory_per_connection
from http2_scenarios import BASELINE, CONNECTIONS, SCENARIOS, SERVERS, STREAMS, Scenario
from measure import Sample, progress, sample, started, turns
from servers import OURS, Running, Server, pinned

OUTPUT = Path(__file__).resolve().parent / "HTTP2.md"
PARTS = ("rate", "memory", "instructions")
MARK = report.MARK

IDLE = SCENARIOS[0]
IDLE_ROUNDS = 2
"""At most: the memory hardly varies."""
COUNTED = tuple(
    scenario for scenario in SCENARIOS if scenario.name in {"hello", "varying", "streamed"}
)
"""Callgrind counts a copied block as one instruction a byte, which says nothing of large ones."""
COUNTED_SERVERS = tuple(server for server in SERVERS if server.name != BASELINE)
"""Hypercorn is killed before valgrind has written its count."""


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
    """All that was measured."""

    rate: report.Results = field(default_factory=dict)
    memory: dict[str, Idle] = field(default_factory=dict)
    """By the name of the server."""
    instructions: dict[tuple[str, str], float | str] = field(default_factory=dict)
    """Of a request, or what kept them from being counted, by the names of scenario and server."""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    options = read_arguments(arguments)
    complaint = bench_env.missing("h2load", "nghttp2-client")
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    command = bench_env.command_line("http2.py", arguments)
    return bench_env.conduct(
        __file__, options.inside, options.python, arguments, lambda: write(options, command)
    )


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description="Measure HTTP/2 of gunicorn_asgi beside its peers."
    )
    bench_env.add_arguments(parser)
    bench_env.add_measuring(parser, SCENARIOS, SERVERS, OUTPUT)
    parser.add_argument(
        "--idle",
        type=bench_env.positive,
        help="connections whose memory is measured (default: 2000, 200 with --quick)",
    )
    bench_env.add_parts(parser, PARTS)
    options = bench_env.read_measuring(parser, arguments, SCENARIOS, SERVERS, OUTPUT)
    bench_env.read_parts(parser, options, PARTS)
    options.idle = options.idle or (200 if options.quick else 2000)
    return options


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
        ("cores", f"server on {cores[0]}, h2load on {cores[-1]}"),
        *bench_env.facts(),
        (
            "h2load",
            subprocess.run(
                ["h2load", "--version"],
                stdout=subprocess.PIPE,
                text=True,
                timeout=bench_env.ASK_SECONDS,
            ).stdout.strip(),
        ),
    ]
    results = Results()
    if "rate" in options.parts:
        measure_rate(options, results, cores[0], cores[-1])
    if "memory" in options.parts:
        measure_memory(options, results, cores[0], cores[-1])
    if "instructions" in options.parts:
        count_instructions(options, results)
    if not options.quick:
        store.save("http2", results.rate, results.instructions)
    bench_env.write(markdown(facts, options, results), options.output)


# Measuring.


def measure_rate(
    options: argparse.Namespace, results: Results, server_core: int, load_core: int
) -> None:
    """Every server in every scenario in every round, in turns."""
    for number, scenario, server in turns(
        options.scenarios, options.servers, options.rounds, options.others
    ):
        result = results.rate.setdefault((scenario.name, server.name), report.Result())
        if result.failure:
            continue

        def measured(process: Running, folder: Path, scenario: Scenario = scenario) -> Sample:
            return sample(
                process, H2Load(scenario, process.port, folder, load_core), options.seconds
            )

        found, result.failure = started(server, scenario, server_core, measured)
        if found is not None:
            result.samples[number] = found
        outcome = f"{found.rate:,.0f}/s, {found.cpu_us:.1f} us" if found else result.failure
        progress(f"rate {number + 1}", scenario.name, server, outcome)


def measure_memory(
    options: argparse.Namespace, results: Results, server_core: int, load_core: int
) -> None:
    """Every server in every round, in turns."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (hard, hard)
    )  # of this process, and of those that it starts
    for number, scenario, server in turns(
        [IDLE], options.servers, min(options.rounds, IDLE_ROUNDS), options.others
    ):
        result = results.memory.setdefault(server.name, Idle())
        if result.failure:
            continue

        def measured(process: Running, _: Path) -> tuple[float, int]:
            with pinned(load_core):
                return memory_per_connection(process, options.idle)

        found, result.failure = started(server, scenario, server_core, measured)
        if found is not None:
            result.per_connection.append(found[0])
            result.before.append(found[1])
        progress(
            f"memory {number + 1}",
            "idle",
            server,
            result.failure or f"{result.per_connection[-1] / 1024:.1f} KiB",
        )


def count_instructions(options: argparse.Namespace, results: Results) -> None:
    """Once: they hardly vary."""

    def show(scenario: Scenario, server: Server, found: float | str) -> None:
        outcome = found if isinstance(found, str) else f"{found:,.0f}"
        progress("instructions", scenario.name, server, outcome)

    results.instructions = instructions.attempts(
        _counted_scenarios(options), _counted_servers(options), show
    )


def _counted_scenarios(options: argparse.Namespace) -> list[Scenario]:
    return [scenario for scenario in options.scenarios if scenario in COUNTED]


def _counted_servers(options: argparse.Namespace) -> list[Server]:
    return [server for server in options.servers if server in COUNTED_SERVERS]


# The report.

LEGEND = f"""\
One worker on one core, h2load with {CONNECTIONS} connections and {STREAMS} streams on each on the other; cleartext with prior knowledge, but for `tls`. Before each measurement
another client has looked at the answers; of those that were measured, status and length were. A cell with {MARK} has errors or no measurement at all;
what happened stands below its table."""

RATE_LEGEND = f"""\
Medians over the rounds. *CPU* is user and system time of all processes of the server per request, *busy* how much of its core that took, *client* what h2load took of
its own: where *busy* is clearly below 100 % it was not the server that set the pace. *Memory* is the PSS of all the server's processes after the load. *{BASELINE} = 1* is
the ratio within a round."""

OURS_LEGEND = f"""\
How many times the requests per second of each peer *{OURS}* serves, within a round, and the same for each second of CPU time, which also holds where
h2load or others set the pace."""

MEMORY_LEGEND = """\
What the PSS of all processes of the server has grown by, divided by the connections: {idle:,} of them, on each of which one request has been answered. Median over the
rounds. *Server* is the PSS before. What the kernel keeps for a connection is not in it."""

INSTRUCTIONS_LEGEND = f"""\
User-space instructions of one request, counted by callgrind as instructions.py does: {instructions.MANY} requests on one connection, {STREAMS} at once. The kernel
is not in it."""

COLUMNS = (
    *report.cpu("request"),
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
    parts = ["# HTTP/2", report.facts_list(facts), LEGEND]
    if results.rate:
        parts += [
            f"## Requests per second, {BASELINE} = 1",
            report.overview(scenarios, servers, results.rate, baseline=BASELINE),
        ]
        peers = [server for server in servers if server.name != OURS]
        if len(peers) < len(servers):
            parts += ["## This worker beside each", OURS_LEGEND]
            for title, value in (
                ("requests per second", report.ratio),
                ("requests per second of CPU time", report.cpu_ratio),
            ):
                parts += [
                    f"### As a multiple of their {title}",
                    report.multiples(scenarios, peers, results.rate, value),
                ]
        parts += ["## The scenarios", RATE_LEGEND]
        parts += [
            "### " + report.section(scenario, servers, results.rate, COLUMNS, baseline=BASELINE)
            for scenario in scenarios
        ]
    if results.memory:
        parts += [
            "## Memory of an idle connection",
            MEMORY_LEGEND.format(idle=options.idle),
            _memory(servers, results.memory),
        ]
    if results.instructions:
        counted = _counted_scenarios(options), _counted_servers(options)
        parts += [
            "## Instructions of a request",
            INSTRUCTIONS_LEGEND,
            report.counts(*counted, results.instructions, OURS),
        ]
    return "\n\n".join(parts) + "\n"


def _memory(servers: Sequence[Server], found: dict[str, Idle]) -> str:
    rows = [["server", "KiB per connection", "server MiB"]]
    remarks = []
    for server in servers:
        result = found[server.name]
        if result.failure:
            remarks.append(f"{MARK} {server.name}: {result.failure}")
            rows.append([report.name(server), f"{MARK} fails", ""])
        else:
            numbers = (
                f"{median(result.per_connection) / 1024:.1f}",
                f"{median(result.before) / 2**20:.1f}",
            )
            rows.append([report.name(server), *numbers])
    return "\n\n".join([report.table(rows), *remarks])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
