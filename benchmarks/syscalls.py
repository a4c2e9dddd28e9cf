"""Count the system calls of one request: ``python3 benchmarks/syscalls.py``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import bench_env
from instructions import (
    AnyAsking,
    Asking,
    CountError,
    add_counting,
    ask,
    on_all_pairs,
    read_counting,
    served,
)
from measure import NONE
from scenarios import WrongAnswerError
from servers import BASELINE, GRANIAN, OURS, NotOfferedError, Server, StartError, last_words

FEW, MANY = 320, 1120
"""Requests of the two runs, whole batches where 16 are pipelined. So many parts where a response has several."""
END_SECONDS = 20.0
SELDOM = 0.05
"""Calls for a request that are not shown: those of timers."""
STRACE = ("strace", "-f", "-c", "-o", "{folder}/calls")

Calls = Mapping[str, float]
"""Of one request, by name."""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    options = read_arguments(arguments)
    complaint = bench_env.missing("strace", "strace")
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    return bench_env.conduct(
        __file__, options.inside, options.python, arguments, lambda: report(options)
    )


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description="Count the system calls of a request in gunicorn_asgi and in its peers."
    )
    bench_env.add_arguments(parser)
    add_counting(parser, f"{OURS},{BASELINE},{GRANIAN}")
    return read_counting(parser, arguments)


def report(options: argparse.Namespace) -> None:
    """Print the system calls of one request."""

    def show(scenario: Asking, server: Server, found: Calls | str) -> None:
        outcome = found if isinstance(found, str) else described(found)
        print(f"{scenario.name}: {server.name}: {outcome}", flush=True)

    attempts(options.scenarios, options.servers, show)


def attempts(
    scenarios: Sequence[AnyAsking],
    servers: Sequence[Server],
    progress: Callable[[AnyAsking, Server, Calls | str], None] = lambda *_: None,
) -> dict[tuple[str, str], Calls | str]:
    """Of all pairs, by the names of scenario and server; what keeps one from being counted in its place."""
    return on_all_pairs(attempt, scenarios, servers, progress)


def attempt(server: Server, scenario: Asking, core: int) -> Calls | str:
    """The system calls of one request; what keeps them from being counted in place of an exception."""
    try:
        return calls(server, scenario, core)
    except NotOfferedError:
        return NONE
    except (StartError, WrongAnswerError, CountError) as error:
        return str(error)


def calls(server: Server, scenario: Asking, core: int) -> Calls:
    """System calls of one request, in all processes of `server`. Raises CountError, StartError, WrongAnswerError, NotOfferedError."""
    requests = [number // scenario.parts for number in (FEW, MANY)]
    few, many = (count(server, scenario, number, core) for number in requests)
    each = {name: (many[name] - few[name]) / (requests[1] - requests[0]) for name in many}
    return {name: number for name, number in each.items() if number >= SELDOM}


def count(server: Server, scenario: Asking, requests: int, core: int) -> Counter[str]:
    """Of a whole run with so many requests, by name. Raises CountError, StartError, WrongAnswerError, NotOfferedError."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        tool = [argument.format(folder=folder) for argument in STRACE]
        with served(server, scenario, tool, folder, core) as process:
            ask(scenario, process.port, requests)
            # strace ignores signals. It writes when the server has ended.
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            os.kill(int(children.split()[0]), signal.SIGTERM)
            deadline = time.monotonic() + END_SECONDS
            while time.monotonic() < deadline:
                found = _read((folder / "calls").read_text())
                if found:
                    return found
                time.sleep(0.05)
        raise CountError(f"strace has not written its count ({last_words(folder)})")


def _read(table: str) -> Counter[str]:
    """Of the table of ``strace -c``: its fourth column has the calls, the last one the name, and there may be one with errors between."""
    rows = (line.split() for line in table.splitlines())
    return Counter(
        {
            row[-1]: int(row[3])
            for row in rows
            if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"
        }
    )


def described(found: Calls) -> str:
    """For people: the most frequent first."""
    ordered = sorted(found.items(), key=lambda item: (-round(item[1], 1), item[0]))
    total = sum(found.values())
    return f"{total:.1f}: " + ", ".join(f"{name} {number:.1f}" for name, number in ordered)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
