"""Count the user-space instructions of one request: ``python3 benchmarks/instructions.py``."""

from __future__ import annotations

import argparse
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, TypeVar

import bench_env
from measure import NONE, adapted, pids
from scenarios import SCENARIOS, WrongAnswerError
from servers import (
    BASELINE,
    GRANIAN,
    OURS,
    SERVERS,
    NotOfferedError,
    Running,
    Server,
    StartError,
    free_port,
    last_words,
    running,
)

FEW, MANY = 320, 1920
"""Requests before the count, in which the interpreter specializes its code, and in it: whole batches where 16 are pipelined. So many parts where a response has several."""
START_SECONDS = 180.0
STOP_SECONDS = 1.0
"""The count is taken before a server ends."""
CONTROL_SECONDS = 60.0
PATIENCE = {
    "GUNICORN_CMD_ARGS": "--timeout 600 --graceful-timeout 60",
    "PYTHONHASHSEED": "0",
    "UV_USE_IO_URING": "0",
}
"""So that the arbiter does not take a slow worker for a hung one, and nothing differs between runs. Valgrind does not know io_uring."""
COUNTED = (OURS, BASELINE, GRANIAN)


class CountError(Exception):
    """There is no count."""


class Asking(Protocol):
    """What is known of a scenario here: that of HTTP, or of WebSocket, where a message is what a request is there."""

    @property
    def name(self) -> str: ...
    @property
    def app(self) -> str: ...
    @property
    def closes(self) -> bool: ...
    @property
    def pipeline(self) -> int: ...
    @property
    def parts(self) -> int: ...
    @property
    def tls(self) -> bool: ...
    @property
    def logged(self) -> bool: ...
    def ask(self, port: int, times: int) -> None: ...


AnyAsking = TypeVar("AnyAsking", bound=Asking)
Found = TypeVar("Found")


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    options = read_arguments(arguments)
    complaint = bench_env.missing("valgrind", "valgrind")
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    return bench_env.conduct(
        __file__, options.inside, options.python, arguments, lambda: report(options)
    )


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description="Count the instructions of a request in gunicorn_asgi and in its peers."
    )
    bench_env.add_arguments(parser)
    add_counting(parser, f"{OURS},{BASELINE}")
    return read_counting(parser, arguments)


def add_counting(parser: argparse.ArgumentParser, servers: str) -> None:
    """The arguments of a script that counts something of single requests."""
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument(
        "--scenarios",
        default="hello",
        help=f"separated by commas, of {', '.join(names)} (default: hello)",
    )
    parser.add_argument(
        "--servers",
        default=servers,
        help=f"separated by commas, of {', '.join(server.name for server in SERVERS)} (default: {servers})",
    )


def read_counting(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line, with the scenarios and the servers themselves in place of their names."""
    options = parser.parse_args(arguments)
    try:
        options.scenarios = bench_env.select(SCENARIOS, options.scenarios)
        options.servers = bench_env.select(SERVERS, options.servers)
    except ValueError as error:
        parser.error(str(error))
    return options


def report(options: argparse.Namespace) -> None:
    """Print the instructions of one request."""
    for scenario in options.scenarios:
        found = attempts([scenario], options.servers)
        baseline = found.get((scenario.name, BASELINE))
        for server in options.servers:
            count = found[scenario.name, server.name]
            if isinstance(count, str):
                print(f"{scenario.name}: {server.name} fails: {count}", flush=True)
                continue
            ratio = (
                f", {count / baseline:.2f} of {BASELINE}"
                if isinstance(baseline, float) and server.name != BASELINE
                else ""
            )
            print(
                f"{scenario.name}: {server.name} {count:,.0f} instructions per request{ratio}",
                flush=True,
            )


def attempts(
    scenarios: Sequence[AnyAsking],
    servers: Sequence[Server],
    progress: Callable[[AnyAsking, Server, float | str], None] = lambda *_: None,
) -> dict[tuple[str, str], float | str]:
    """Of all pairs, by the names of scenario and server; what keeps one from being counted in its place."""
    return on_all_pairs(attempt, scenarios, servers, progress)


def on_all_pairs(
    count: Callable[[Server, AnyAsking, int], Found],
    scenarios: Sequence[AnyAsking],
    servers: Sequence[Server],
    progress: Callable[[AnyAsking, Server, Found], None],
) -> dict[tuple[str, str], Found]:
    """Call `count` for all pairs, as many at once as there are cores; by the names of scenario and server."""

    def one(pair: tuple[AnyAsking, Server], core: int) -> Found:
        scenario, server = pair
        found = count(server, scenario, core)
        progress(scenario, server, found)
        return found

    pairs = [(scenario, server) for scenario in scenarios for server in servers]
    return {
        (scenario.name, server.name): found
        for (scenario, server), found in zip(pairs, on_all_cores(one, pairs), strict=True)
    }


Item = TypeVar("Item")


def on_all_cores(work: Callable[[Item, int], Found], items: Sequence[Item]) -> list[Found]:
    """What `work` returns for each item, each time with a core that is its own meanwhile."""
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    cores = os.sched_getaffinity(0)
    for core in cores:
        free.put(core)

    def on_one(item: Item) -> Found:
        core = free.get()
        try:
            return work(item, core)
        finally:
            free.put(core)

    with ThreadPoolExecutor(len(cores)) as pool:
        return list(pool.map(on_one, items))


def attempt(server: Server, scenario: Asking, core: int) -> float | str:
    """The instructions of one request; what keeps them from being counted in place of an exception."""
    try:
        return instructions(server, scenario, core)
    except NotOfferedError:
        return NONE
    except (StartError, WrongAnswerError, CountError) as error:
        return str(error)


CALLGRIND = (
    *("valgrind", "--tool=callgrind", "--quiet", "--trace-children=yes"),
    # The start is not counted: that makes it four times as fast.
    *("--instr-atstart=no", "--callgrind-out-file={folder}/callgrind.%p"),
)


def instructions(server: Server, scenario: Asking, core: int | None = None) -> float:
    """User-space instructions of one request, in all processes of `server` on `core`, by default the last one.

    The requests are on one connection, or each on its own where the scenario closes them. Raises CountError, StartError,
    WrongAnswerError, NotOfferedError.
    """
    few, many = FEW // scenario.parts, MANY // scenario.parts
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        tool = [argument.format(folder=folder) for argument in CALLGRIND]
        with served(server, scenario, tool, folder, core) as process:
            ask(scenario, process.port, few)
            _control(process, "--instr=on")
            ask(scenario, process.port, many)
            _control(process, "--dump")
            # The files of the dumps have a number at their end, those that the end writes do not.
            total = sum(_total(path) for path in folder.glob("callgrind.*.*"))
        if not total:
            raise CountError(f"valgrind has not written its count ({last_words(folder)})")
        return total / many


@contextmanager
def served(
    server: Server, scenario: Asking, tool: Sequence[str], folder: Path, core: int | None = None
) -> Iterator[Running]:
    """`server` under a tool that makes it slow, once it answers. Raises CountError, StartError, NotOfferedError."""
    port = free_port()
    command = adapted(server, scenario.tls, scenario.logged, folder).command(scenario.app, port)
    with running(
        [*tool, *command],
        port,
        folder,
        max(os.sched_getaffinity(0)) if core is None else core,
        PATIENCE,
        START_SECONDS,
        STOP_SECONDS,
    ) as process:
        _await_answer(scenario, port)
        yield process


def ask(scenario: Asking, port: int, requests: int) -> None:
    """So many, on one connection unless the scenario closes it. Raises WrongAnswerError."""
    if scenario.closes:
        for _ in range(requests):
            scenario.ask(port, 1)
    else:
        scenario.ask(port, requests // scenario.pipeline)


def _control(process: Running, order: str) -> None:
    """Tell callgrind in all processes of a server. Raises CountError."""
    for pid in pids(process.pid):
        try:
            done = subprocess.run(
                ["callgrind_control", order, str(pid)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=CONTROL_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise CountError("callgrind_control did not end") from error
        if done.returncode or "OK" not in done.stdout:
            raise CountError(f"callgrind_control says: {done.stdout.strip()[-200:]}")


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
