"""Measure this worker beside its peers: ``python3 benchmarks/run.py``. Needs nothing but the standard library to begin with."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import bench_env
import measure
import report
from scenarios import SCENARIOS, Scenario, WrongAnswerError
from servers import SERVERS, Server, StartError, free_port, last_words, running

HERE = Path(__file__).resolve().parent


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    options = read_arguments(arguments)
    complaint = missing()
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    command = bench_env.command_line("run.py", arguments)
    return bench_env.conduct(__file__, options.inside, options.python, arguments, lambda: write(options, command))


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description="Measure gunicorn_asgi beside its peers.")
    bench_env.add_arguments(parser)
    parser.add_argument("--rounds", type=bench_env.positive, help="how often every server is measured in every scenario (default: 5)")
    parser.add_argument("--seconds", type=bench_env.positive, help="of each measurement (default: 3)")
    parser.add_argument("--connections", type=bench_env.positive, default=16, help="that wrk keeps open (default: 16)")
    parser.add_argument("--scenarios", help=f"separated by commas (default: all of {', '.join(scenario.name for scenario in SCENARIOS)})")
    parser.add_argument("--servers", help=f"separated by commas (default: all of {', '.join(server.name for server in SERVERS)})")
    parser.add_argument("--output", type=Path, help="the Markdown file to write (default: benchmarks/RESULTS.md; none with --quick)")
    parser.add_argument("--quick", action="store_true", help="one round of one second: to see that all works, not for numbers")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 3)
    if options.output is None and not options.quick:
        options.output = HERE / "RESULTS.md"
    try:
        options.scenarios = bench_env.select(SCENARIOS, options.scenarios)
        options.servers = bench_env.select(SERVERS, options.servers)
    except ValueError as error:
        parser.error(str(error))
    return options


def missing() -> str:
    """What keeps this machine from measuring, in one sentence; empty if nothing does."""
    if not sys.platform.startswith("linux"):
        return "The benchmarks need Linux: they read /proc and pin processes to cores."
    if shutil.which("wrk") is None:
        return "The benchmarks need wrk, which is not installed here (Debian and Ubuntu: apt install wrk)."
    if len(os.sched_getaffinity(0)) < 2:
        return "The benchmarks need two CPU cores, one for the server and one for wrk."
    return ""


def write(options: argparse.Namespace, command: str) -> None:
    """Measure, print the report, and write it where it is wanted."""
    cores = sorted(os.sched_getaffinity(0))
    server_core, load_core = cores[0], cores[-1]
    facts = [
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{command}`"),
        ("method", f"{options.rounds} rounds of {options.seconds} s, {options.connections} connections"),
        ("cores", f"server on {server_core}, wrk on {load_core}"),
        *bench_env.facts(),
        ("wrk", _wrk_version()),
    ]
    results = measure_all(options, server_core, load_core)
    text = report.markdown(facts, options.scenarios, options.servers, results)
    print(text)
    if options.output is not None:
        options.output.write_text(text)
        print(f"Written to {options.output}", file=sys.stderr)


def measure_all(options: argparse.Namespace, server_core: int, load_core: int) -> report.Results:
    """Every server in every scenario in every round.

    The servers take turns within a scenario and a round, so that a machine that becomes slower does so for all of them, and in the
    opposite order in every other round. Each measurement starts its server anew. Keeping all of them stopped (SIGSTOP) in between
    would save half a minute a round, but Gunicorn's arbiter takes a stopped worker for a hung one, the pages that several processes
    share would belong to each of them in part, and the memory after a scenario would be that of all the ones before.
    """
    results = {(scenario.name, server.name): report.Result() for scenario in options.scenarios for server in options.servers}
    total = len(results) * options.rounds
    done = 0
    begun = time.monotonic()
    for number in range(options.rounds):
        for scenario in options.scenarios:
            for server in options.servers if number % 2 == 0 else reversed(options.servers):
                result = results[scenario.name, server.name]
                done += 1
                if result.failure:
                    continue
                measure_one(result, number, scenario, server, options, server_core, load_core)
                left = (time.monotonic() - begun) / done * (total - done)
                _progress(f"{done}/{total}, {left / 60:.0f} min left", scenario, server, result, number)
    return results


def measure_one(
    result: report.Result, number: int, scenario: Scenario, server: Server, options: argparse.Namespace, server_core: int, load_core: int
) -> None:
    """Start, check, load and end one server; add the sample of round `number`, or the failure, to `result`."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        script = folder / "load.lua"
        script.write_text(scenario.script(port))
        try:
            with running(server.command(scenario.app, port), port, folder, server_core) as process:
                scenario.check(port)
                result.samples[number] = measure.sample(process, script, options.connections, options.seconds, load_core)
        except (StartError, WrongAnswerError, measure.LoadError) as error:
            result.failure = f"{error} ({last_words(folder)})"


def _progress(position: str, scenario: Scenario, server: Server, result: report.Result, number: int) -> None:
    sample = result.samples.get(number)
    outcome = f"{sample.rate:,.0f} requests/s {measure.describe(sample.errors)}" if sample else f"fails: {result.failure}"
    print(f"[{position}] {scenario.name}, {server.name}: {outcome}", file=sys.stderr, flush=True)


def _wrk_version() -> str:
    done = subprocess.run(["wrk", "-v"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=bench_env.ASK_SECONDS)
    return done.stdout.partition(" Copyright")[0].strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
