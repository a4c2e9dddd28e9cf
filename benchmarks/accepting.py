"""Measure how evenly workers share connections, and what one costs: ``python3 benchmarks/accepting.py``. Begins with the standard library."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

import bench_env

sys.path.insert(0, str(bench_env.ROOT / "tests"))  # fairness.py has its clients from there

import fairness
import instructions
import report
import run
from measure import describe
from scenarios import SCENARIOS, WrongAnswerError
from servers import GUNICORN, OURS, SERVERS, Server, StartError

OUTPUT = Path(__file__).resolve().parent / "ACCEPTING.md"
CLOSE = next(scenario for scenario in SCENARIOS if scenario.name == "close")
AT_A_TIME = (16, 1)
"""Connections that wrk has open: several wait when the server looks, or each comes alone."""
PARTS = ("fairness", "cost", "instructions")
FEW_ROUNDS = 10
"""Of what fairness has by default; a start and three bursts each."""
MARK = report.MARK


def _variant(name: str, worker: str, *settings: str) -> Server:
    return Server(f"{OURS} {name}", (*GUNICORN, "-k", worker, *settings, "{app}"))


PEERS = {server.name: server for server in SERVERS}
ASYNCIO = ("--asgi-loop", "asyncio")
AS_IT_IS = PEERS[OURS]
AS_IT_IS_ASYNCIO = _variant("asyncio", "gunicorn_asgi.Worker", *ASYNCIO)
OWN_QUEUES = _variant("reuse_port", "gunicorn_asgi.Worker", "--reuse-port")
LOOPS = _variant("by the loop", "acceptors.LoopAcceptorWorker")
LOOPS_ASYNCIO = _variant("asyncio, by the loop", "acceptors.LoopAcceptorWorker", *ASYNCIO)

SHARING = (
    AS_IT_IS,
    AS_IT_IS_ASYNCIO,
    OWN_QUEUES,
    LOOPS,
    PEERS["uvicorn-worker"],
    PEERS["gunicorn asgi"],
)
COSTING = (
    *(AS_IT_IS, LOOPS, AS_IT_IS_ASYNCIO, LOOPS_ASYNCIO),
    *(PEERS[name] for name in ("uvicorn", "uvicorn-worker", "gunicorn asgi", "granian")),
)
COUNTED = (AS_IT_IS, LOOPS, AS_IT_IS_ASYNCIO, LOOPS_ASYNCIO, PEERS["uvicorn"])
EVERY = tuple(dict.fromkeys((*SHARING, *COSTING)))


@dataclass
class Sharing:
    """How evenly one server has shared."""

    rounds: list[fairness.Shares] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Why there are not more rounds."""


@dataclass
class Results:
    """All that was measured, by the name of the server."""

    sharing: dict[str, Sharing] = field(default_factory=dict)
    cost: dict[int, dict[str, report.Result]] = field(default_factory=dict)
    """By connections at a time before that."""
    instructions: dict[str, float] = field(default_factory=dict)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    options = read_arguments(arguments)
    complaint = run.missing()
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    command = bench_env.command_line("accepting.py", arguments)
    return bench_env.conduct(
        __file__,
        options.inside,
        options.python,
        arguments,
        lambda: write(options, command),
        instructions.CountError,
        StartError,
        WrongAnswerError,
    )


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description="Measure how evenly workers share connections, and what a connection costs."
    )
    bench_env.add_arguments(parser)
    parser.add_argument(
        "--rounds",
        type=bench_env.positive,
        help="how often every server is measured in each part (default: 10)",
    )
    parser.add_argument(
        "--seconds", type=bench_env.positive, help="of each measurement of the cost (default: 3)"
    )
    bench_env.add_parts(parser, PARTS)
    parser.add_argument(
        "--servers",
        help=f"separated by commas (default: all of {', '.join(server.name for server in EVERY)})",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="the Markdown file to write (default: benchmarks/ACCEPTING.md; none with --quick)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round, one second: to see that all works, not for numbers",
    )
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else FEW_ROUNDS)
    options.seconds = options.seconds or (1 if options.quick else 3)
    bench_env.read_parts(parser, options, PARTS)
    if options.output is None and not options.quick:
        options.output = OUTPUT
    try:
        options.servers = bench_env.select(EVERY, options.servers)
    except ValueError as error:
        parser.error(str(error))
    return options


def write(options: argparse.Namespace, command: str) -> None:
    """Measure, print the report, and write it where it is wanted."""
    cores = sorted(os.sched_getaffinity(0))
    facts = [
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{command}`"),
        ("method", f"{options.rounds} rounds; cost: {options.seconds} s each"),
        ("cores", f"fairness: all; cost: server on {cores[0]}, wrk on {cores[-1]}"),
        *bench_env.facts(),
    ]
    results = Results()
    if "fairness" in options.parts:
        measure_sharing(options, results)
    if "cost" in options.parts:
        measure_cost(options, results, cores[0], cores[-1])
    if "instructions" in options.parts:
        counted = _chosen(COUNTED, options)
        found = instructions.on_all_cores(
            lambda server, core: instructions.instructions(server, CLOSE, core), counted
        )
        for server, count in zip(counted, found, strict=True):
            results.instructions[server.name] = count
            _progress("instructions", server, f"{count:,.0f}")
    bench_env.write(markdown(facts, options, results), options.output)


def measure_sharing(options: argparse.Namespace, results: Results) -> None:
    """Every server in every round, in turns."""
    for number, server in _turns(SHARING, options):
        sharing = results.sharing.setdefault(server.name, Sharing())
        try:
            sharing.rounds.append(fairness.measure(server))
        except (StartError, fairness.UnansweredError, TimeoutError) as error:
            sharing.failures.append(str(error))
        _progress(
            f"fairness {number + 1}",
            server,
            sharing.failures[-1] if sharing.failures else str(sharing.rounds[-1]),
        )


def measure_cost(
    options: argparse.Namespace, results: Results, server_core: int, load_core: int
) -> None:
    """Every server in every round, in turns."""
    for connections in AT_A_TIME:
        found = results.cost.setdefault(connections, {})
        how = argparse.Namespace(seconds=options.seconds, connections=connections)
        for number, server in _turns(COSTING, options):
            result = found.setdefault(server.name, report.Result())
            if not result.failure:
                run.measure_one(result, number, CLOSE, server, how, server_core, load_core)
                _progress(
                    f"cost {connections}, {number + 1}",
                    server,
                    result.failure or f"{result.samples[number].cpu_us:.1f} us",
                )


def _turns(servers: Sequence[Server], options: argparse.Namespace) -> list[tuple[int, Server]]:
    """Round and server: one server behind the other, and in the opposite order in every other round, for a machine is not always the same."""
    chosen = _chosen(servers, options)
    return [
        (number, server)
        for number in range(options.rounds)
        for server in (chosen if number % 2 == 0 else reversed(chosen))
    ]


def _chosen(servers: Sequence[Server], options: argparse.Namespace) -> list[Server]:
    return [server for server in servers if server in options.servers]


def _progress(part: str, server: Server, outcome: str) -> None:
    print(
        f"{time.strftime('%H:%M:%S')} {part}, {server.name}: {outcome}", file=sys.stderr, flush=True
    )


# The report.

LEGEND = f"""\
**{OURS}** is what this checkout does: it accepts by itself. *By the loop* is the same with the loop's own `create_server`, which others use. All is on uvloop where no other
loop is named."""

SHARING_LEGEND = f"""\
{fairness.WORKERS} workers; the connections of the worker that has most, as a multiple of what each had if all had the same: median, and worst of the rounds. 1.00 is
even, {fairness.WORKERS}.00 is one worker for all; dice would come to 1.10 of {fairness.BURST}. *Short* are {fairness.BURST} connections at once with one request and `Connection: close`, *kept* are {fairness.BURST} at once
that stay open. Then one of the workers gets TERM, and when the one in its place has answered, {fairness.MORE} come at once: *replaced* is the largest share of all that are open then, and
*newcomer* that of the new worker, which had none of those before. Client and workers share the machine's cores."""

COST_LEGEND = f"""\
The scenario `close` of run.py: connections with one request each, one worker on a core of its own. *CPU* is user and system time of all processes of the server per connection,
*{OURS} = 1* its ratio within a round, *others* the share of that core which other processes took in the median and the worst round."""

INSTRUCTIONS_LEGEND = f"""\
User-space instructions of one connection with one request, counted by callgrind as instructions.py does: {instructions.MANY} connections, one
after the other, so that each is accepted alone. The kernel is not in it."""


def markdown(
    facts: Sequence[tuple[str, str]], options: argparse.Namespace, results: Results
) -> str:
    """The whole report."""
    parts = ["# Accepting", "\n".join(f"- {name}: {value}" for name, value in facts), LEGEND]
    if results.sharing:
        parts += ["## Fairness", SHARING_LEGEND, _sharing(results.sharing)]
    if results.cost:
        parts += ["## CPU time of a connection", COST_LEGEND]
        for connections, found in results.cost.items():
            parts += [
                f"### {connections} at a time" if connections > 1 else "### One at a time",
                _cost(found),
            ]
    if results.instructions:
        parts += [
            "## Instructions of a connection",
            INSTRUCTIONS_LEGEND,
            _instructions(results.instructions),
        ]
    return "\n\n".join(parts) + "\n"


COLUMNS: dict[str, tuple[Callable[[fairness.Shares], float], Callable[..., float]]] = {
    "short": (lambda shares: shares.short, max),
    "kept": (lambda shares: shares.kept, max),
    "replaced": (lambda shares: shares.replaced, max),
    "newcomer": (lambda shares: shares.newcomer, min),
}
"""What is in the column, and which of several is the worst."""


def _sharing(found: dict[str, Sharing]) -> str:
    rows = [["largest share", *COLUMNS]]
    remarks = []
    for name, sharing in found.items():
        cells = []
        for value, worst in COLUMNS.values():
            values = [value(shares) for shares in sharing.rounds]
            cells.append(
                f"{median(values):.2f}, {worst(values):.2f}" if values else f"{MARK} fails"
            )
        rows.append([_name(name), *cells])
        if sharing.failures:
            remarks.append(
                f"{MARK} {name}: {len(sharing.failures)} rounds failed, the last one: {sharing.failures[-1]}"
            )
    return "\n\n".join([report.table(rows), *remarks])


def _cost(found: dict[str, report.Result]) -> str:
    rows = [
        ["server", "CPU us", "lowest to highest", f"{OURS} = 1", "connections/s", "busy", "others"]
    ]
    remarks = []
    baseline = found.get(OURS, report.Result()).samples
    for name, result in found.items():
        if result.failure:
            remarks.append(f"{MARK} {name}: {result.failure}")
        if result.errors:
            remarks.append(f"{MARK} {name}: errors over all rounds: {describe(result.errors)}")
        samples = result.samples
        if not samples:
            rows.append([_name(name), f"{MARK} fails", *[""] * 5])
            continue
        costs = [sample.cpu_us for sample in samples.values()]
        ratios = [
            samples[number].cpu_us / baseline[number].cpu_us
            for number in samples.keys() & baseline.keys()
        ]
        others = [sample.others for sample in samples.values()]
        rows.append(
            [
                *(
                    _name(name),
                    f"{median(costs):.1f}",
                    f"{min(costs):.1f} to {max(costs):.1f}",
                    f"{median(ratios):.2f}" if ratios else "",
                ),
                *(
                    f"{median(sample.rate for sample in samples.values()):,.0f}",
                    f"{median(sample.busy for sample in samples.values()):.0%}",
                ),
                f"{median(others):.0%}, {max(others):.0%}",
            ]
        )
    return "\n\n".join([report.table(rows), *remarks])


def _instructions(found: dict[str, float]) -> str:
    rows = [["server", "instructions", f"{OURS} = 1"]]
    for name, count in found.items():
        rows.append(
            [_name(name), f"{count:,.0f}", f"{count / found[OURS]:.2f}" if OURS in found else ""]
        )
    return report.table(rows)


def _name(name: str) -> str:
    return f"**{name}**" if name == OURS else name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
