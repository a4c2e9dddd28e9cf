"""Measure this worker beside its peers: ``python3 benchmarks/run.py``. Needs nothing but the standard library to begin with."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import bench_env
import measure
import report
from scenarios import SCENARIOS, Scenario
from servers import BASELINE, SERVERS, Running, Server

OUTPUT = Path(__file__).resolve().parent / "RESULTS.md"


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
        default=16,
        help="that wrk keeps open (default: 16)",
    )
    bench_env.add_measuring(parser, SCENARIOS, SERVERS, OUTPUT)
    return bench_env.read_measuring(parser, arguments, SCENARIOS, SERVERS, OUTPUT)


def missing() -> str:
    """What keeps this machine from measuring, in one sentence; empty if nothing does."""
    return bench_env.missing("wrk", "wrk")


def write(options: argparse.Namespace, command: str) -> None:
    """Measure, print the report, and write it where it is wanted."""
    cores = sorted(os.sched_getaffinity(0))
    server_core, load_core = cores[0], cores[-1]
    facts = [
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{command}`"),
        (
            "method",
            f"{options.rounds} rounds of {options.seconds} s, {options.connections} connections",
        ),
        ("cores", f"server on {server_core}, wrk on {load_core}"),
        *bench_env.facts(),
        ("wrk", _wrk_version()),
    ]
    results = measure_all(options, server_core, load_core)
    bench_env.write(markdown(facts, options, results), options.output)


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
    turns = measure.turns(options.scenarios, options.servers, options.rounds)
    begun = time.monotonic()
    for done, (number, scenario, server) in enumerate(turns, 1):
        result = results[scenario.name, server.name]
        if result.failure:
            continue
        measure_one(result, number, scenario, server, options, server_core, load_core)
        left = (time.monotonic() - begun) / done * (len(turns) - done)
        sample = result.samples.get(number)
        outcome = (
            f"{sample.rate:,.0f} requests/s {measure.describe(sample.errors)}"
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
        return measure.sample(
            process,
            partial(measure.wrk, process.port, script, options.connections, load_core),
            options.seconds,
        )

    sample, result.failure = measure.started(server, scenario, server_core, measured)
    if sample is not None:
        result.samples[number] = sample


LEGEND = f"""\
Medians over the rounds. *CPU* is user and system time of all processes of the server per request, *busy* how much of its core that took: clearly
below 100 %, it was not the server that set the pace. *Memory* is the PSS of all its processes after the load. *{BASELINE} = 1* is the
ratio of requests/s within a round. There is no latency of pipelined requests: wrk's histogram is wrong for them. A cell with {report.MARK} has errors or no
measurement at all; what happened stands below its table."""


def markdown(
    facts: Sequence[tuple[str, str]], options: argparse.Namespace, results: report.Results
) -> str:
    """The whole report."""
    scenarios, servers = options.scenarios, options.servers
    parts = ["# Results", report.facts_list(facts), LEGEND]
    parts += [
        f"## Requests per second, {BASELINE} = 1",
        report.overview(scenarios, servers, results),
    ]
    for scenario in scenarios:
        latency = () if scenario.pipeline > 1 else (report.P50, report.P99)
        columns = [report.cpu("request"), report.BUSY, *latency, report.MEMORY]
        parts.append("## " + report.section(scenario, servers, results, columns))
    return "\n\n".join(parts) + "\n"


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
