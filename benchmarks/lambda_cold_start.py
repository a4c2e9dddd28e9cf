"""Measure the cold start on AWS Lambda beside awslambdaric with Mangum: ``python3 benchmarks/lambda_cold_start.py``. Begins with the standard library."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from queue import Empty
from statistics import median

import bench_env
import measure
import report
from lambda_api import Response, RuntimeApi, serving
from lambda_app import HELLO, SLOW_SECONDS
from servers import pinned

OUTPUT = Path(__file__).resolve().parent / "LAMBDA.md"
PARTS = ("imports", "start", "concurrency", "warm")
STEP_SECONDS = 60.0
AIM_MS = 50
"""A start may take so much longer than that of awslambdaric with Mangum."""
CONCURRENCY = 16
WARM_UP, INVOCATIONS = 200, 2000
"""Invocations before those that are counted, and these."""


class RuntimeFailedError(Exception):
    """A runtime did not do what is measured."""


@dataclass(frozen=True)
class Runtime:
    """One way to run an application on AWS Lambda."""

    name: str
    arguments: tuple[str, ...]
    """``{app}`` stands for the application. The program lies beside the interpreter."""
    imports: str = ""
    """The statement that imports what it consists of; empty if that of another one is measured."""
    has_bytecode: bool = True

    def command(self, app: str) -> list[str]:
        """The command that serves `app`, ``module:name``."""
        program, *arguments = self.arguments
        return [
            str(Path(sys.executable).with_name(program)),
            *(argument.format(app=app) for argument in arguments),
        ]


OURS = "gunicorn_asgi"
COMMAND = f"{OURS}, gunicorn"
UVLOOP = f"{OURS}, uvloop"
THEIRS = "awslambdaric, Mangum"
_PYTHON = ("python", "-m", "gunicorn_asgi")
_SETTINGS = (
    *("-k", "gunicorn_asgi.LambdaWorker", "--timeout", "0"),
    # Gunicorn binds a socket that no one uses: to a port that is free.
    *("--bind", "127.0.0.1:0", "{app}"),
)
_ASYNCIO = ("--asgi-loop", "asyncio")
_QUIET = "--no-control-socket"
_OUR_IMPORTS = "import gunicorn.app.wsgiapp, gunicorn.arbiter, gunicorn_asgi.aws_lambda.worker"
RUNTIMES = (
    Runtime(OURS, (*_PYTHON, *_ASYNCIO, _QUIET, *_SETTINGS), _OUR_IMPORTS),
    Runtime(COMMAND, ("gunicorn", *_ASYNCIO, _QUIET, *_SETTINGS)),
    Runtime(f"{OURS}, control socket", (*_PYTHON, *_ASYNCIO, *_SETTINGS)),
    Runtime(UVLOOP, (*_PYTHON, "--asgi-loop", "uvloop", _QUIET, *_SETTINGS)),
    Runtime(
        f"{OURS}, no .pyc",
        (*_PYTHON, *_ASYNCIO, _QUIET, *_SETTINGS),
        _OUR_IMPORTS,
        has_bytecode=False,
    ),
    Runtime(
        THEIRS,
        ("python", "-m", "awslambdaric", "handler.handler"),
        "import awslambdaric.bootstrap, mangum",
    ),
)
MAIN = (OURS, THEIRS)
"""The runtimes that are measured in more than their start."""
WARM = (OURS, UVLOOP, THEIRS)
APPS = {"plain": "lambda_app:plain", "starlette": "starlette_app:app"}
SLOW = "lambda_app:slow"


@dataclass(frozen=True)
class Start:
    """One cold start."""

    next_ms: float
    """Milliseconds from the start of the process until it asked for its first invocation."""
    response_ms: float
    """The same, until its first response."""
    cpu_ms: float
    """CPU time of all its processes until then."""


@dataclass(frozen=True)
class Concurrency:
    """Slow invocations at once."""

    processes: int
    memory: int
    """Bytes (PSS) of all processes, while all invocations run."""
    seconds: float
    """Until the last response."""


@dataclass
class Results:
    """All that was measured, in the order of rounds."""

    imports: dict[str, list[float]] = field(default_factory=dict)
    """Milliseconds of CPU time, by runtime. The name of the interpreter alone is empty."""
    starts: dict[tuple[str, str], list[Start]] = field(default_factory=dict)
    """By application and runtime."""
    concurrency: dict[str, list[Concurrency]] = field(default_factory=dict)
    warm_us: dict[str, list[float]] = field(default_factory=dict)
    """Microseconds of CPU time of one invocation, by runtime."""

    def start(self, app: str, runtime: str, value: Callable[[Start], float]) -> float:
        """The median of `value` over the rounds."""
        return median(value(start) for start in self.starts[app, runtime])


@dataclass(frozen=True)
class Target:
    """Milliseconds above awslambdaric with Mangum, by two measures."""

    name: str
    lowest: float
    """Between the fastest of both."""
    middle: float
    """Between the medians of both."""

    @property
    def is_met(self) -> bool:
        return self.lowest <= AIM_MS


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 1 if a target is not met."""
    options = read_arguments(arguments)
    complaint = bench_env.missing()
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    command = bench_env.command_line("lambda_cold_start.py", arguments)
    short: list[str] = []
    code = bench_env.conduct(
        __file__,
        options.inside,
        options.python,
        arguments,
        lambda: short.extend(write(options, command)),
        RuntimeFailedError,
    )
    return code or int(bool(short))


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description="Measure the cold start on AWS Lambda.")
    bench_env.add_arguments(parser)
    parser.add_argument(
        "--rounds", type=bench_env.positive, help="of every measurement (default: 20)"
    )
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--runtimes", help="these, separated by semicolons (default: all)")
    bench_env.add_write(parser, OUTPUT)
    bench_env.add_parts(parser, PARTS)
    options = parser.parse_args(arguments)
    bench_env.read_parts(parser, options, PARTS)
    options.rounds = options.rounds or (3 if options.quick else 20)
    names = [runtime.name for runtime in RUNTIMES]
    wanted = names if options.runtimes is None else options.runtimes.split(";")
    if unknown := set(wanted) - set(names):
        parser.error(f"there is no {'; '.join(sorted(unknown))}; there are {'; '.join(names)}")
    options.runtimes = [runtime for runtime in RUNTIMES if runtime.name in wanted]
    return options


def write(options: argparse.Namespace, command: str) -> list[str]:
    """Measure, print the report, and write it where it is wanted; returns the targets that are not met."""
    cores = sorted(os.sched_getaffinity(0))
    facts = [
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{command}`"),
        ("method", f"{options.rounds} rounds"),
        ("cores", f"runtime on {cores[0]}, Runtime API on {cores[-1]}"),
        *bench_env.facts(),
    ]
    results = Results()
    with tempfile.TemporaryDirectory(prefix="bench-") as name, pinned(cores[-1]):
        folder = Folder(Path(name), cores[0])
        for part in options.parts:
            {
                "imports": measure_imports,
                "start": measure_starts,
                "concurrency": measure_concurrency,
                "warm": measure_warm,
            }[part](folder, options, results)
    bench_env.write(markdown(facts, options, results), options.write)
    short = [target.name for target in targets(results) if not target.is_met]
    print("\n".join(f"Not met: {what}" for what in short), file=sys.stderr)
    return short


# Running.

COMPILE = """
import py_compile, sys, sysconfig
library = sysconfig.get_path("stdlib")
for module in list(sys.modules.values()):
    file = getattr(module, "__file__", None) or ""
    if file.startswith(library) and file.endswith(".py") and "site-packages" not in file:
        py_compile.compile(file)
"""
"""Compiles the modules of the standard library that are loaded, and no others."""


class Folder:
    """A folder with compiled bytecode and the handlers for Mangum. It is home of all runtimes, which run on one core."""

    def __init__(self, path: Path, core: int) -> None:
        self._path = path
        self._core = core
        for runtime in RUNTIMES:
            if not runtime.has_bytecode:
                self.cpu_of_code(runtime, f"{runtime.imports}, starlette.applications\n{COMPILE}")

    def environment(self, runtime: Runtime) -> dict[str, str]:
        """Nothing of this process's that would change a start, but the path."""
        bytecode = self._path / ("all" if runtime.has_bytecode else "library")
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._path),
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(map(str, (bench_env.ROOT, bench_env.HERE))),
            "PYTHONPYCACHEPREFIX": str(bytecode),
            **({} if runtime.has_bytecode else {"PYTHONDONTWRITEBYTECODE": "1"}),
        }

    def cpu_of_code(self, runtime: Runtime, code: str) -> float:
        """Milliseconds of CPU time that a new interpreter takes for `code`. Raises RuntimeFailedError."""
        with pinned(self._core):
            process = subprocess.Popen(
                [sys.executable, "-c", f"{code}\nimport os\nos._exit(0)"],
                env=self.environment(runtime),
                cwd=self._path,
            )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeFailedError(f"This ended with {process.returncode}: {code}")
        return (used.ru_utime + used.ru_stime) * 1000

    @contextmanager
    def started(
        self, runtime: Runtime, app: str, invocations: int, concurrency: int = 0
    ) -> Iterator[Running]:
        """Start `runtime` while so many invocations wait, and end all its processes on every way out."""
        home = self._path / app.replace(":", "-")
        home.mkdir(exist_ok=True)
        module, _, attribute = app.partition(":")
        (home / "handler.py").write_text(
            f"from mangum import Mangum\nfrom {module} import {attribute}\nhandler = Mangum({attribute})\n"
        )
        with serving() as api, (self._path / "output.log").open("wb") as log:
            api.invoke(invocations)
            environment = {
                **self.environment(runtime),
                "AWS_LAMBDA_RUNTIME_API": api.address,
                "AWS_LAMBDA_FUNCTION_NAME": "f",
                "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
            }
            if concurrency:
                environment["AWS_LAMBDA_MAX_CONCURRENCY"] = str(concurrency)
            with pinned(self._core):
                begun = time.monotonic()
                process = subprocess.Popen(
                    runtime.command(app),
                    env=environment,
                    cwd=home,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            try:
                yield Running(process.pid, api, begun, self._path / "output.log")
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(STEP_SECONDS)


@dataclass(frozen=True)
class Running:
    """A runtime that has been started."""

    pid: int
    """It leads a session of its own."""
    api: RuntimeApi
    begun: float
    """When it was started (``time.monotonic``)."""
    output: Path

    def response(self) -> Response:
        """Wait for its next response. Raises RuntimeFailedError."""
        try:
            response = self.api.responses.get(timeout=STEP_SECONDS)
        except Empty:
            raise RuntimeFailedError(f"There is no response ({self.last_words()})") from None
        if response.is_error or HELLO not in response.body:
            raise RuntimeFailedError(f"{response.body!r} ({self.last_words()})")
        return response

    def last_words(self) -> str:
        """The end of what it printed."""
        return self.output.read_text(errors="replace")[-500:].strip()


def _progress(position: str, what: str, runtime: str, outcome: str) -> None:
    line = f"{time.strftime('%H:%M:%S')} {position}, {what}, {runtime}: {outcome}"
    print(line, file=sys.stderr, flush=True)


def _turns(options: argparse.Namespace, rounds: int) -> Iterator[tuple[str, Runtime, bool]]:
    """Each round, in the opposite order every other time: its name, the runtime, and whether it counts. The first does not."""
    for number in range(rounds + 1):
        runtimes = options.runtimes if number % 2 else options.runtimes[::-1]
        for runtime in runtimes:
            yield f"{number}/{rounds}", runtime, number > 0


def measure_imports(folder: Folder, options: argparse.Namespace, results: Results) -> None:
    """The imports alone, and the interpreter alone, without the end of the process."""
    for _, runtime, counts in _turns(options, options.rounds):
        if not runtime.imports:
            continue
        for name, code in (("", "pass"), (runtime.name, runtime.imports)):
            cpu_ms = folder.cpu_of_code(runtime, code)
            if counts:
                results.imports.setdefault(name, []).append(cpu_ms)
    for name, found in results.imports.items():
        _progress("all", "imports", name or "interpreter", f"{median(found):.0f} ms")


def measure_starts(folder: Folder, options: argparse.Namespace, results: Results) -> None:
    """From the start of the process to its first response."""
    for app, target in APPS.items():
        for position, runtime, counts in _turns(options, options.rounds):
            with folder.started(runtime, target, 1) as process:
                response = process.response()
                cpu_ms = measure.cpu_ns(process.pid) / 1e6
                asked_at = process.api.first_next or response.at
            start = Start(
                (asked_at - process.begun) * 1000, (response.at - process.begun) * 1000, cpu_ms
            )
            if counts:
                results.starts.setdefault((app, runtime.name), []).append(start)
            outcome = f"{start.response_ms:.0f} ms, {cpu_ms:.0f} ms of CPU time"
            _progress(position, app, runtime.name, outcome)


def measure_concurrency(folder: Folder, options: argparse.Namespace, results: Results) -> None:
    """Slow invocations at once: processes and memory while they run."""
    for position, runtime, counts in _turns(options, min(options.rounds, 3)):
        if runtime.name not in MAIN:
            continue
        with folder.started(runtime, SLOW, 1, CONCURRENCY) as process:
            process.response()
            begun = time.monotonic()
            process.api.invoke(CONCURRENCY)
            time.sleep(SLOW_SECONDS / 2)
            found = len(measure.pids(process.pid)), measure.memory(process.pid)
            last = max(process.response().at for _ in range(CONCURRENCY))
        if counts:
            results.concurrency.setdefault(runtime.name, []).append(
                Concurrency(*found, last - begun)
            )
        outcome = f"{found[0]} processes, {found[1] / 2**20:.0f} MiB, {last - begun:.2f} s"
        _progress(position, "concurrency", runtime.name, outcome)


def measure_warm(folder: Folder, options: argparse.Namespace, results: Results) -> None:
    """One invocation after the other."""
    for position, runtime, counts in _turns(options, min(options.rounds, 5)):
        if runtime.name not in WARM:
            continue
        with folder.started(runtime, APPS["plain"], WARM_UP) as process:
            for _ in range(WARM_UP):
                process.response()
            before = measure.cpu_ns(process.pid)
            process.api.invoke(INVOCATIONS)
            for _ in range(INVOCATIONS):
                process.response()
            warm_us = (measure.cpu_ns(process.pid) - before) / 1000 / INVOCATIONS
        if counts:
            results.warm_us.setdefault(runtime.name, []).append(warm_us)
        _progress(position, "warm", runtime.name, f"{warm_us:.0f} us")


# The report.

LEGEND = f"""\
A stand-in of the Runtime API on one core, the runtime on the other. An invocation waits when the process starts, as in a cold
start. The tables have medians over the rounds; the runtimes take turns. The targets are judged by the fastest start of each: a start
does the same work each time, and whatever it takes longer is the machine's doing.

- *{OURS}* is `python -m gunicorn_asgi -k gunicorn_asgi.LambdaWorker --timeout 0 --no-control-socket --asgi-loop asyncio`.
- *{COMMAND}* is the same with the command `gunicorn` in place of `python -m gunicorn_asgi`.
- *control socket* is without `--no-control-socket`, *uvloop* with `--asgi-loop uvloop`.
- *no .pyc* has no compiled bytecode but the standard library's: all packages are compiled at every start.
- *{THEIRS}* is `python -m awslambdaric handler.handler`."""

STARTS_LEGEND = """\
Milliseconds from the start of the process: until its first `GET /next`, where Lambda's init ends, and until its first
response. *CPU* is user and system time of all its processes until then."""

CONCURRENCY_LEGEND = f"""\
{CONCURRENCY} invocations of {SLOW_SECONDS:.0f} s at once, with AWS_LAMBDA_MAX_CONCURRENCY={CONCURRENCY}. Memory is PSS: a page that processes share counts once."""


def targets(results: Results) -> list[Target]:
    """Those that were measured."""
    found = []
    if OURS in results.imports and THEIRS in results.imports:
        found.append(_target("CPU of imports", results.imports[OURS], results.imports[THEIRS]))
    for app in APPS:
        times = {
            name: [start.response_ms for start in starts]
            for (measured, name), starts in results.starts.items()
            if measured == app
        }
        found += [
            _target(f"first response, {app}, {name}", times[name], times[THEIRS])
            for name in (OURS, COMMAND)
            if name in times and THEIRS in times
        ]
    return found


def _target(name: str, ours: Sequence[float], theirs: Sequence[float]) -> Target:
    return Target(name, min(ours) - min(theirs), median(ours) - median(theirs))


def markdown(
    facts: Sequence[tuple[str, str]], options: argparse.Namespace, results: Results
) -> str:
    """The whole report."""
    parts = ["# AWS Lambda", report.facts_list(facts), LEGEND]
    if targets(results):
        rows = [["", "aim", "lowest", "median", ""]]
        rows += [
            [
                target.name,
                f"{AIM_MS}",
                f"{target.lowest:.0f}",
                f"{target.middle:.0f}",
                "met" if target.is_met else f"{report.MARK} not met",
            ]
            for target in targets(results)
        ]
        title = f"## Targets: milliseconds above {THEIRS}"
        parts += [title, report.table(rows, words=(0, 4))]
    if results.imports:
        rows = [["runtime", "CPU ms", "lowest"]]
        rows += [
            [name or "the interpreter alone", f"{median(found):.0f}", f"{min(found):.0f}"]
            for name, found in results.imports.items()
        ]
        parts += ["## CPU time of the imports", report.table(rows)]
    for app, target in APPS.items():
        if any(app == measured for measured, _ in results.starts):
            parts += [f"## Cold start, `{target}`", STARTS_LEGEND, _starts(app, options, results)]
    if results.concurrency:
        rows = [["runtime", "processes", "memory MiB", "seconds"]]
        for name, each in results.concurrency.items():
            memory = median(found.memory for found in each) / 2**20
            rows.append(
                [
                    name,
                    f"{median(found.processes for found in each):.0f}",
                    f"{memory:.1f}",
                    f"{median(found.seconds for found in each):.2f}",
                ]
            )
        title = f"## {CONCURRENCY} slow invocations at once"
        parts += [title, CONCURRENCY_LEGEND, report.table(rows)]
    if results.warm_us:
        rows = [["runtime", "CPU us", "lowest to highest"]]
        rows += [
            [name, f"{median(found):,.0f}", f"{min(found):,.0f} to {max(found):,.0f}"]
            for name, found in results.warm_us.items()
        ]
        what = f"A GET in the form of HTTP API v2, `{APPS['plain']}`, {INVOCATIONS:,} one after the other."
        parts += ["## CPU time of one invocation", what, report.table(rows)]
    return "\n\n".join(parts) + "\n"


def _starts(app: str, options: argparse.Namespace, results: Results) -> str:
    rows = [["runtime", "first /next", "first response", "lowest to highest", "CPU ms"]]
    for runtime in options.runtimes:
        times = [start.response_ms for start in results.starts[app, runtime.name]]
        rows.append(
            [
                runtime.name,
                f"{results.start(app, runtime.name, lambda start: start.next_ms):.0f}",
                f"{median(times):.0f}",
                f"{min(times):.0f} to {max(times):.0f}",
                f"{results.start(app, runtime.name, lambda start: start.cpu_ms):.0f}",
            ]
        )
    return report.table(rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
