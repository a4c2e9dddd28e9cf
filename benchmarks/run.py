"""Measure this worker beside its peers: ``python3 benchmarks/run.py``. Needs nothing but the standard library to begin with."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import bench_env
import instructions
import measure
import report
import store
import syscalls
from scenarios import SCENARIOS, Scenario
from servers import BASELINE, OURS, SERVERS, Running, Server, by_name

OUTPUT = Path(__file__).resolve().parent / "RESULTS.md"
CONNECTIONS = 64
PARTS = ("rate", "syscalls", "instructions")
COUNTED = ("hello", "varying", "proxied", "post", "large", "streamed", "close")
"""Names of the scenarios whose system calls and instructions are counted."""
CALLS_COUNTED = (*COUNTED, "events")


@dataclass
class Results:
    """All that was measured, by the names of scenario and server."""

    rate: report.Results = field(default_factory=dict)
    syscalls: dict[tuple[str, str], syscalls.Calls | str] = field(default_factory=dict)
    """Of a request, or what kept them from being counted."""
    instructions: dict[tuple[str, str], float | str] = field(default_factory=dict)
    """Likewise."""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    options = read_arguments(arguments)
    complaint = missing()
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    command = bench_env.command_line("run.py", arguments)
    return bench_env.conduct(
        __file__, options.inside, options.python, arguments, lambda: write(options, command)
    )


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description="Measure gunicorn_asgi beside its peers.")
    bench_env.add_arguments(parser)
    parser.add_argument(
        "--connections",
        type=bench_env.positive,
        default=CONNECTIONS,
        help=f"that wrk keeps open (default: {CONNECTIONS})",
    )
    parser.add_argument(
        "--beside",
        metavar="INTERPRETER",
        help="on which this worker and Uvicorn run, too, as further rows (default: none)",
    )
    bench_env.add_measuring(parser, SCENARIOS, SERVERS, OUTPUT)
    bench_env.add_parts(parser, PARTS)
    options = bench_env.read_measuring(parser, arguments, SCENARIOS, SERVERS, OUTPUT)
    bench_env.read_parts(parser, options, PARTS)
    return options


def missing() -> str:
    """What keeps this machine from measuring, in one sentence; empty if nothing does."""
    return bench_env.missing("wrk", "wrk")


def write(options: argparse.Namespace, command: str) -> None:
    """Measure, print the report, and write it where it is wanted."""
    cores = sorted(os.sched_getaffinity(0))
    server_core, load_core = cores[0], cores[-1]
    beside, absent = rows_beside(options.beside) if options.beside else ([], "")
    options.servers += beside
    facts = [
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{command}`"),
        (
            "method",
            f"{options.rounds} rounds of {options.seconds} s{_few(options)}, {options.connections} connections",
        ),
        ("cores", f"server on {server_core}, wrk on {load_core}"),
        *bench_env.facts(),
        ("wrk", _wrk_version()),
    ]
    if options.beside:
        facts.append(("beside", absent or ", ".join(server.name for server in beside)))
    results = Results()
    if "rate" in options.parts:
        results.rate = measure_all(options, server_core, load_core)
    if "syscalls" in options.parts:
        chosen = [scenario for scenario in options.scenarios if scenario.name in CALLS_COUNTED]
        results.syscalls = syscalls.attempts(chosen, _peers(options), counting_progress)
    if "instructions" in options.parts:
        chosen = [scenario for scenario in options.scenarios if scenario.name in COUNTED]
        results.instructions = instructions.attempts(chosen, _counted(options), counting_progress)
    if not options.quick:
        store.save("run", results.rate, results.instructions, results.syscalls)
    bench_env.write(markdown(facts, options, results), options.output)


def rows_beside(interpreter: str) -> tuple[list[Server], str]:
    """This worker and Uvicorn on another interpreter; none, and why, if they cannot be installed there."""
    try:
        python, version = bench_env.beside(interpreter)
    except bench_env.SetupError as error:
        return [], f"left out, because this failed: {str(error).splitlines()[0]}"
    return [by_name(name).on(python, version) for name in (OURS, BASELINE)], ""


def _few(options: argparse.Namespace) -> str:
    if options.others is None or options.others >= options.rounds:
        return ""
    main = ", ".join(server.name for server in options.servers if server.is_main)
    return f" for {main}, {options.others} for the others"


def _counted(options: argparse.Namespace) -> list[Server]:
    names = instructions.COUNTED
    return [
        server for server in options.servers if server.name.removesuffix(server.variant) in names
    ]


def _peers(options: argparse.Namespace) -> list[Server]:
    return [server for server in _counted(options) if not server.variant]


def counting_progress(
    scenario: instructions.Asking, server: Server, found: syscalls.Calls | float | str
) -> None:
    """One line on stderr."""
    if isinstance(found, float):
        measure.progress("instructions", scenario.name, server, f"{found:,.0f}")
    else:
        outcome = found if isinstance(found, str) else syscalls.described(found)
        measure.progress("system calls", scenario.name, server, outcome)


def measure_all(options: argparse.Namespace, server_core: int, load_core: int) -> report.Results:
    """Every server in every scenario in every round.

    Each measurement starts its server anew. Keeping all of them stopped (SIGSTOP) in between
    would save half a minute a round, but Gunicorn's arbiter takes a stopped worker for a hung one, the pages that several processes
    share would belong to each of them in part, and the memory after a scenario would be that of all the ones before.
    """
    results = {
        (scenario.name, server.name): report.Result()
        for scenario in options.scenarios
        for server in options.servers
    }
    turns = measure.turns(options.scenarios, options.servers, options.rounds, options.others)
    begun = time.monotonic()
    for done, (number, scenario, server) in enumerate(turns, 1):
        result = results[scenario.name, server.name]
        if result.failure:
            continue
        measure_one(result, number, scenario, server, options, server_core, load_core)
        left = (time.monotonic() - begun) / done * (len(turns) - done)
        sample = result.samples.get(number)
        outcome = (
            f"{sample.rate:,.0f} requests/s, {sample.cpu_us:.1f} us {measure.describe(sample.errors)}"
            if sample
            else f"fails: {result.failure}"
        )
        measure.progress(
            f"{done}/{len(turns)}, {left / 60:.0f} min left", scenario.name, server, outcome
        )
    return results


def measure_one(
    result: report.Result,
    number: int,
    scenario: Scenario,
    server: Server,
    options: argparse.Namespace,
    server_core: int,
    load_core: int,
) -> None:
    """Start, check, load and end one server; add the sample of round `number`, or the failure, to `result`."""

    def measured(process: Running, folder: Path) -> measure.Sample:
        script = folder / "load.lua"
        script.write_text(scenario.script(process.port))
        scheme = "https" if scenario.tls else "http"
        sample = measure.sample(
            process,
            partial(
                measure.wrk, process.port, script, options.connections, load_core, scheme=scheme
            ),
            options.seconds,
        )
        if scenario.logged:
            _check_log(folder / server.log_file, sample.rate * options.seconds)
        return sample

    sample, result.failure = measure.started(server, scenario, server_core, measured)
    if sample is not None:
        result.samples[number] = sample


def _check_log(path: Path, requests: float) -> None:
    """Raises LoadError."""
    with path.open("rb") as log:
        lines = sum(piece.count(b"\n") for piece in iter(lambda: log.read(1 << 20), b""))
    if lines < requests:
        raise measure.LoadError(f"its access log has {lines:,} lines for {requests:,.0f} requests")


SYSCALLS_LEGEND = f"""\
System calls of all processes of the server for one request, counted by `strace -c`: ({syscalls.MANY} - {syscalls.FEW}) requests on one connection, one after the other, or
each on a connection of its own in `close`. Under load, one `epoll_pwait` serves several requests. Calls that come more seldom than {syscalls.SELDOM} times a request are left out."""

INSTRUCTIONS_LEGEND = f"""\
User-space instructions of one request, counted by callgrind as instructions.py does: {instructions.MANY} requests on one connection, one after the other. The kernel is not in it. The
ratio is to {BASELINE} on the same interpreter. A copied block counts as one instruction a byte, which says little of large ones."""

LEGEND = f"""\
Medians over the rounds. *CPU* is user and system time of all processes of the server per request, in *user* and *system* apart, *busy* how much of its core that took: clearly
below 100 %, it was not the server that set the pace. *Memory* is the PSS of all its processes after the load. *{BASELINE} = 1* is the
ratio of requests/s within a round, to {BASELINE} on the same interpreter. There is no latency of pipelined requests: wrk's histogram is wrong for them. A cell with {report.MARK} has errors or no
measurement at all; what happened stands below its table."""


def markdown(
    facts: Sequence[tuple[str, str]], options: argparse.Namespace, results: Results
) -> str:
    """The whole report."""
    scenarios, servers = options.scenarios, options.servers
    parts = ["# Results", report.facts_list(facts), LEGEND]
    if results.rate:
        parts += [
            f"## Requests per second, {BASELINE} = 1",
            report.overview(scenarios, servers, results.rate),
            "## CPU time per request",
            "In microseconds: user and system time of all processes of the server.",
            report.cpu_overview(scenarios, servers, results.rate),
        ]
    if results.syscalls:
        parts += ["## System calls of a request", SYSCALLS_LEGEND, _syscalls(options, results)]
    if results.instructions:
        counted = [scenario for scenario in scenarios if scenario.name in COUNTED]
        parts += [
            "## Instructions of a request",
            INSTRUCTIONS_LEGEND,
            report.counts(counted, _counted(options), results.instructions),
        ]
    for scenario in scenarios if results.rate else ():
        latency = () if scenario.pipeline > 1 else (report.P50, report.P99)
        cpu = report.cpu("request", scenario.parts)
        columns = [*cpu, report.BUSY, *latency, report.MEMORY]
        parts.append("## " + report.section(scenario, servers, results.rate, columns))
    return "\n\n".join(parts) + "\n"


def _syscalls(options: argparse.Namespace, results: Results) -> str:
    rows = [["scenario", "server", "all", "by name"]]
    for (scenario, server), found in results.syscalls.items():
        if isinstance(found, str):
            rows.append([scenario, server, f"{report.MARK} fails", found])
        else:
            total, _, names = syscalls.described(found).partition(": ")
            rows.append([scenario, server, total, names])
    return report.table(rows, words=(0, 1, 3))


def _wrk_version() -> str:
    done = subprocess.run(
        ["wrk", "-v"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=bench_env.ASK_SECONDS,
    )
    return done.stdout.partition(" Copyright")[0].strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
