"""Count the user-space instructions of one request: ``python3 benchmarks/instructions.py``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import bench_env
from measure import NONE, NotOfferedError
from scenarios import SCENARIOS, Scenario, WrongAnswerError
from servers import BASELINE, OURS, SERVERS, Server, StartError, free_port, last_words, running

FEW, MANY = 320, 2240
"""Requests of the two runs, whole batches where 16 are pipelined. The first ones, in which the interpreter still specializes its code, are in both."""
START_SECONDS = 180.0
STOP_SECONDS = 120.0
"""Programs are about fifty times slower under valgrind."""
PATIENCE = {
    "GUNICORN_CMD_ARGS": "--timeout 600 --graceful-timeout 60",
    "PYTHONHASHSEED": "0",
    "UV_USE_IO_URING": "0",
}
"""So that the arbiter does not take a slow worker for a hung one, and nothing differs between runs. Valgrind does not know io_uring."""


class CountError(Exception):
    """There is no count."""


class Asking(Protocol):
    """What is known of a scenario here: that of HTTP, or of WebSocket, where a message is what a request is there."""

    @property
    def app(self) -> str: ...
    @property
    def closes(self) -> bool: ...
    @property
    def pipeline(self) -> int: ...
    def ask(self, port: int, times: int) -> None: ...


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    options = read_arguments(arguments)
    if shutil.which("valgrind") is None:
        print(
            "This needs valgrind, which is not installed here (Debian and Ubuntu: apt install valgrind).",
            file=sys.stderr,
        )
        return 2
    scenarios = [
        scenario for scenario in SCENARIOS if scenario.name in options.scenarios.split(",")
    ]
    return bench_env.conduct(
        __file__,
        options.inside,
        options.python,
        arguments,
        lambda: report(scenarios),
        CountError,
        StartError,
        WrongAnswerError,
    )


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description="Count the instructions of a request in gunicorn_asgi and in Uvicorn."
    )
    bench_env.add_arguments(parser)
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument(
        "--scenarios",
        default="hello",
        help=f"separated by commas, of {', '.join(names)} (default: hello)",
    )
    options = parser.parse_args(arguments)
    unknown = set(options.scenarios.split(",")) - set(names)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return options


def report(scenarios: Sequence[Scenario]) -> None:
    """Print the instructions of one request for both servers."""
    ours, baseline = (
        next(server for server in SERVERS if server.name == name) for name in (OURS, BASELINE)
    )
    for scenario in scenarios:
        own, other = instructions(ours, scenario), instructions(baseline, scenario)
        print(
            f"{scenario.name}: {OURS} {own:,.0f}, {BASELINE} {other:,.0f} instructions per request, ratio {own / other:.2f}",
            flush=True,
        )


def instructions(server: Server, scenario: Asking) -> float:
    """User-space instructions of one request, in all processes of `server`. Raises CountError, StartError, WrongAnswerError."""
    count(
        server, scenario, FEW, tool=()
    )  # writes the bytecode of what was edited since, or the first run would count compiling it
    few, many = (count(server, scenario, requests) for requests in (FEW, MANY))
    if many <= few:
        raise CountError(
            f"{server.name} counted {few:,} for {FEW} requests and {many:,} for {MANY}: something disturbed valgrind"
        )
    return (many - few) / (MANY - FEW)


def attempt(server: Server, scenario: Asking) -> float | str:
    """The same; what keeps them from being counted in place of an exception."""
    try:
        return instructions(server, scenario)
    except NotOfferedError:
        return NONE
    except (StartError, WrongAnswerError, CountError) as error:
        return str(error)


CALLGRIND = (
    "valgrind",
    "--tool=callgrind",
    "--quiet",
    "--trace-children=yes",
    "--callgrind-out-file={folder}/callgrind.%p",
)


def count(server: Server, scenario: Asking, requests: int, tool: Sequence[str] = CALLGRIND) -> int:
    """Instructions of a whole run of `server`, from its start to its end, with so many requests on one connection, or each on its own where
    the scenario closes them; 0 without a tool."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        command = [
            *(argument.format(folder=folder) for argument in tool),
            *server.command(scenario.app, port),
        ]
        with running(
            command,
            port,
            folder,
            max(os.sched_getaffinity(0)),
            PATIENCE,
            START_SECONDS,
            STOP_SECONDS,
        ):
            _await_answer(scenario, port)
            if scenario.closes:
                for _ in range(requests):
                    scenario.ask(port, 1)
            else:
                scenario.ask(port, requests // scenario.pipeline)
        totals = [_total(path) for path in folder.glob("callgrind.*")]
        if tool and (not totals or 0 in totals):
            raise CountError(
                f"{server.name} was killed before valgrind wrote its count ({last_words(folder)})"
            )
        return sum(totals)


def _await_answer(scenario: Asking, port: int) -> None:
    """Gunicorn listens long before its worker, slowed down as it is, answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with suppress(WrongAnswerError):
            scenario.ask(port, 1)
            return
    raise CountError(f"there was no right answer within {START_SECONDS:.0f} s")


def _total(path: Path) -> int:
    """Of the file of one process; 0 if it was not written to its end."""
    for line in path.read_text().splitlines():
        if line.startswith(("summary:", "totals:")):
            return int(line.split()[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
