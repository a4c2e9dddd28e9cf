"""Look for what a worker does not give back: ``python3 benchmarks/long_run.py --minutes 10``. Begins with the standard library."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

import bench_env
import measure
import report
from long_run_load import TLS, Done
from measure import LoadError
from scenarios import STEP_SECONDS
from servers import OURS, Running, Server, StartError, by_name, free_port, running

HERE = Path(__file__).resolve().parent
OUTPUT = HERE / "LONG_RUN.md"
LOAD = HERE / "long_run_load.py"
APP = "long_run_app:app"
ROUNDS, FEW_ROUNDS = 20, 8
WARM_UP = 0.25
"""The share of the rounds that is not looked at: what the worker loads once and keeps."""
LEAST_PER_MINUTE = 5000
GRACE_SECONDS = 60.0
"""What the clients may take beyond a round."""
SETTLE_SECONDS = 10.0
"""Time for a worker to become idle after its clients have gone."""
SETTLE_STEP_SECONDS = 0.5
HTTP2 = ("--http-protocols", "h2,h1", "--http2-cleartext", "both")
SETTINGS = (*HTTP2, "--log-level", "critical")
"""The errors are meant."""


@dataclass(frozen=True)
class Kind:
    """Something that a worker holds."""

    name: str
    title: str
    limit: float
    """It may grow so much from the warm-up to the end, by the slope."""
    unit: float = 1.0
    form: str = ",.0f"


KINDS = (
    Kind("memory", "resident memory, MiB", 2 * 2**20, 2**20, ",.2f"),
    Kind("objects", "objects of the garbage collector", 500),
    Kind("tasks", "tasks", 2),
    Kind("descriptors", "descriptors", 2),
)


@dataclass(frozen=True)
class Found:
    """What a worker held after so many connections."""

    connections: int
    held: dict[str, int]
    """By the name of the kind."""


@dataclass
class Outcome:
    """Of the whole run."""

    found: dict[str, list[Found]]
    """By the name of the worker, a round each."""
    done: Done


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line with the least squares; 0 where all x are the same."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def growth(found: Sequence[Found], kind: Kind) -> tuple[float, float]:
    """After the warm-up: for each connection, and for all of them."""
    measured = found[int(len(found) * WARM_UP) :]
    each = slope([(point.connections, point.held[kind.name]) for point in measured])
    return each, each * (measured[-1].connections - measured[0].connections)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 1 if something grows, or an answer was wrong."""
    options = read_arguments(arguments)
    complaint = bench_env.missing("openssl", "openssl")
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    command = bench_env.command_line("long_run.py", arguments)
    verdicts: list[str] = []
    code = bench_env.conduct(
        __file__,
        options.inside,
        options.python,
        arguments,
        lambda: verdicts.extend(write(options, command)),
        StartError,
        LoadError,
    )
    return code or bool(verdicts)


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description="Look for what a worker does not give back.")
    bench_env.add_arguments(parser)
    parser.add_argument("--minutes", type=bench_env.positive, help="of traffic (default: 10)")
    parser.add_argument(
        "--output",
        type=Path,
        help="the Markdown file to write (default: benchmarks/LONG_RUN.md; none with --quick)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one minute, and no file: to see that all works"
    )
    options = parser.parse_args(arguments)
    options.minutes = options.minutes or (1 if options.quick else 10)
    options.rounds = FEW_ROUNDS if options.quick else ROUNDS
    if options.output is None and not options.quick:
        options.output = OUTPUT
    return options


def write(options: argparse.Namespace, command: str) -> list[str]:
    """Run, print the report, and write it where it is wanted. Returns what does not hold."""
    cores = sorted(os.sched_getaffinity(0))
    facts = [
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{command}`"),
        ("cores", f"workers on {cores[0]}, clients on {cores[-1]}"),
        *bench_env.facts(),
    ]
    outcome = run(options, cores[0], cores[-1])
    wrong = verdicts_of(options.minutes, outcome)
    bench_env.write(markdown(facts, outcome, wrong), options.output)
    return wrong


def run(options: argparse.Namespace, server_core: int, load_core: int) -> Outcome:
    """Traffic in rounds. After each, when all clients have gone, both workers tell what they hold. Raises StartError, LoadError."""
    ours = by_name(OURS)
    *arguments, app = ours.arguments
    ours = replace(ours, arguments=(*arguments, *SETTINGS, app))
    seconds = max(1, options.minutes * 60 // options.rounds)
    outcome = Outcome({"plain": [], "TLS": []}, Done())
    with ExitStack() as stack:
        workers = {
            "plain": _started(stack, ours, server_core),
            "TLS": _started(stack, ours.adapted(tls=True, logged=False), server_core),
        }
        for number in range(1, options.rounds + 1):
            outcome.done.add(_round(workers, seconds, number, load_core))
            for name, worker in workers.items():
                held = _settled(worker, tls=name == "TLS")
                found = outcome.found[name]
                found.append(Found(outcome.done.connections, held))
                _progress(f"{number}/{options.rounds}", name, found[-1])
                if held["pid"] != found[0].held["pid"]:
                    raise LoadError("a worker has ended meanwhile")
    return outcome


def _started(stack: ExitStack, server: Server, core: int) -> Running:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    bench_env.make_certificate(folder)
    port = free_port()
    return stack.enter_context(running(server.command(APP, port), port, folder, core))


def _round(workers: Mapping[str, Running], seconds: int, number: int, core: int) -> Done:
    ports = (str(workers["plain"].port), str(workers["TLS"].port))
    command = [sys.executable, str(LOAD), *ports, str(seconds), str(number)]
    output = measure.client(command, core, seconds + GRACE_SECONDS)
    try:
        return Done.loads(output.strip().splitlines()[-1])
    except (IndexError, ValueError, KeyError) as error:
        raise LoadError(f"the clients say: {output.strip()[-500:]}") from error


def _settled(worker: Running, tls: bool) -> dict[str, int]:
    """What a worker holds when no task is left but those of this question, or when it should be so."""
    deadline = time.monotonic() + SETTLE_SECONDS
    held = _diagnosed(worker, tls)
    while time.monotonic() < deadline:
        time.sleep(SETTLE_STEP_SECONDS)
        before, held = held, _diagnosed(worker, tls)
        if all(held[name] == before[name] for name in ("tasks", "descriptors", "objects")):
            break
    return held


def _diagnosed(worker: Running, tls: bool) -> dict[str, int]:
    if tls:
        connection: HTTPConnection = HTTPSConnection(
            "127.0.0.1", worker.port, timeout=STEP_SECONDS, context=TLS
        )
    else:
        connection = HTTPConnection("127.0.0.1", worker.port, timeout=STEP_SECONDS)
    try:
        connection.request("GET", "/diagnosis", headers={"Connection": "close"})
        held: dict[str, int] = json.loads(connection.getresponse().read())
    except (OSError, HTTPException, ValueError) as error:
        raise LoadError(f"a worker does not tell what it holds: {error!r}") from error
    finally:
        connection.close()
    return held


def _progress(position: str, name: str, found: Found) -> None:
    held = ", ".join(
        f"{found.held[kind.name] / kind.unit:{kind.form}} {kind.name}" for kind in KINDS
    )
    print(
        f"{time.strftime('%H:%M:%S')} {position}, {name}: {found.connections:,} connections, {held}",
        file=sys.stderr,
        flush=True,
    )


# The report.


def verdicts_of(minutes: int, outcome: Outcome) -> list[str]:
    """What does not hold, a sentence each."""
    wrong = [
        f"{name}, {kind.title}: grown by {grown / kind.unit:{kind.form}}"
        for name, found in outcome.found.items()
        for kind in KINDS
        for grown in [growth(found, kind)[1]]
        if grown > kind.limit
    ]
    done = outcome.done
    if done.connections < minutes * LEAST_PER_MINUTE:
        wrong.append(f"there were {done.connections:,} connections only")
    wrong += [f"{count} times {failure}" for failure, count in done.failures.most_common(20)]
    return wrong


LEGEND = """\
Two workers with HTTP/2, one with TLS, have mixed traffic in rounds. After each round, when all clients have gone and the garbage is collected, each tells what it
holds. *Grown* is the slope of a line through all rounds after the first quarter, for one connection, and for all connections of those rounds. It may be as much as the *limit*."""


def markdown(facts: Sequence[tuple[str, str]], outcome: Outcome, wrong: Sequence[str]) -> str:
    """The whole report."""
    rows = [
        ["worker", "", "after the warm-up", "at the end", "grown per connection", "grown", "limit"]
    ]
    for name, found in outcome.found.items():
        for kind in KINDS:
            each, grown = growth(found, kind)
            values = (found[int(len(found) * WARM_UP)].held, found[-1].held)
            rows.append(
                [
                    name,
                    kind.title,
                    *(f"{value[kind.name] / kind.unit:{kind.form}}" for value in values),
                    f"{each:.4f}" if kind.unit == 1 else f"{each:.1f} bytes",
                    f"{grown / kind.unit:{kind.form}}",
                    f"{kind.limit / kind.unit:{kind.form}}",
                ]
            )
    done = outcome.done
    kinds = [["traffic", "connections"]] + [
        [name.replace("_", " "), f"{count:,}"] for name, count in done.kinds.most_common()
    ]
    verdict = "**Passed.**" if not wrong else "**Failed.**"
    return (
        "\n\n".join(
            [
                "# A long run",
                report.facts_list([*facts, ("connections", f"{done.connections:,}")]),
                LEGEND,
                verdict,
                *(f"{report.MARK} {each}" for each in wrong),
                report.table(rows, (0, 1)),
                report.table(kinds),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
