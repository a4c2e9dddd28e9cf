"""Check the speed that is aimed at, and print what falls short: ``python3 benchmarks/targets.py``. Needs nothing but the standard library to begin with."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import bench_env
import http2
import http2_scenarios
import idle
import imports
import instructions
import report
import run
import scenarios
import store
import syscalls
import websocket
import websocket_scenarios
from measure import LoadError
from servers import BASELINE, GRANIAN, OURS, Server, StartError, by_name
from servers import SERVERS as HTTP1_SERVERS

# The targets.


@dataclass(frozen=True)
class Rate:
    """Requests per second as a multiple of Uvicorn's, and CPU time of a request as a multiple of Granian's."""

    script: str
    """That measures it: run, websocket or http2."""
    scenario: str
    least: float
    most_cpu: float | None


RATES = (
    # script, scenario, requests/s against Uvicorn at least, CPU time against Granian's at most
    Rate("run", "hello", 1.65, 0.72),
    Rate("run", "varying", 1.35, 1.0),
    Rate("run", "proxied", 1.35, 1.0),
    Rate("run", "post", 1.65, 0.46),
    Rate("run", "streamed", 2.6, 0.55),
    Rate("run", "events", 1.2, 1.35),
    Rate("run", "large", 1.2, 0.95),
    Rate("run", "logged", 2.2, None),
    Rate("run", "tls", 1.3, 1.1),
    Rate("run", "tls-large", 1.15, 1.4),
    Rate("run", "tls-close", 1.3, 1.65),
    Rate("run", "close", 1.8, 1.35),
    Rate("run", "pipelined", 1.9, 0.75),
    Rate("run", "fastapi", 1.12, 1.05),
    Rate("websocket", "small", 1.8, 0.4),
    Rate("websocket", "kilobyte", 1.8, 0.4),
    Rate("http2", "varying", 1.9, 1.3),  # against Uvicorn with zttp
)


@dataclass(frozen=True)
class Calls:
    """System calls of one request."""

    scenario: str
    what: str
    names: frozenset[str]
    most: float | None
    least: float | None = None


READS = frozenset({"read", "readv", "recvfrom", "recvmsg"})
WRITES = frozenset({"write", "writev", "sendto", "sendmsg", "sendfile"})
ONE_EACH = ("hello", "varying", "proxied", "post", "large")

CALLS = (
    *(Calls(scenario, "reads", READS, 1) for scenario in ONE_EACH),
    *(Calls(scenario, "writes", WRITES, 1) for scenario in ONE_EACH),
    Calls("streamed", "reads", READS, 1),
    Calls("streamed", "writes", WRITES, 3),
    # Each part leaves in the turn in which it was sent.
    Calls("events", "writes", WRITES, 101, least=100),
    Calls("close", "reads", READS, 1),
    Calls("close", "writes", WRITES, 1),
    # One is that of the loop, which asks what kind of socket it has; one is for the scope.
    Calls("close", "getsockname", frozenset({"getsockname"}), 2),
    Calls("close", "getsockopt", frozenset({"getsockopt"}), 0),
)

INSTRUCTIONS = (
    # script, scenario, thousands of a request at most
    ("run", "hello", 66),
    ("run", "varying", 100),
    ("run", "proxied", 112),
    ("run", "post", 84),
    ("run", "large", 72),
    ("run", "streamed", 205),
    ("run", "close", 178),
    ("http2", "varying", 135),
)

OTHER_PYTHON = "python3.11"
OTHER_COUNTED = (*run.COUNTED, "events", "pipelined", "fastapi")
"""Scenarios in which a request there has at most Uvicorn's instructions."""

IMPORT_MS = 45.0
LOG_LINE_US = 11.0
IDLE_CONNECTIONS = 10_000
TICK_MS = 2.0
BESIDE_IDLE = 1.05
"""A request's CPU time beside idle connections as a multiple of that alone: what measurements differ by."""

# What a worker has not imported where an option has switched it off.
OFF: tuple[tuple[str, dict[str, str], tuple[str, ...]], ...] = (
    ("HTTP/2, off by default", {}, ("gunicorn_asgi.http2", "hpack", "h2")),
    (
        "WebSocket with ws=none",
        {"GUNICORN_ASGI_WS": "none"},
        ("gunicorn_asgi.websocket", "gunicorn_asgi.asgi.websocket", "websockets"),
    ),
)

IMPORTS = 15
"""Times that the package is imported, each in a process of its own."""

PARTS = ("rate", "log", "syscalls", "instructions", "python", "import", "idle")


# What is found.


@dataclass(frozen=True)
class Finding:
    """One target beside what was measured."""

    part: str
    what: str
    target: str
    measured: str
    met: bool


def at_most(part: str, what: str, limit: float, found: float | str, form: str = ".2f") -> Finding:
    """`found` is what kept it from being measured where it is no number."""
    return _compared(part, what, f"<= {limit:g}", found, lambda number: number <= limit, form)


def at_least(part: str, what: str, limit: float, found: float | str, form: str = ".2f") -> Finding:
    """Likewise."""
    return _compared(part, what, f">= {limit:g}", found, lambda number: number >= limit, form)


def _compared(
    part: str,
    what: str,
    target: str,
    found: float | str,
    meets: Callable[[float], bool],
    form: str,
) -> Finding:
    if isinstance(found, str):
        return Finding(part, what, target, f"not measured: {found}", met=False)
    # As it is printed: 1.004 writes are one.
    shown = format(found, form)
    return Finding(part, what, target, shown, meets(float(shown)))


# Rates.


class Rates:
    """What run.py, websocket.py and http2.py measure: taken from their last results, or measured now."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._found: dict[str, report.Results] = {
            script: _enough(store.load(script).rate, options.rounds) if options.stored else {}
            for script in SERVERS
        }

    def measure(self, script: str, names: Sequence[str], servers: Sequence[str]) -> None:
        """Measure those of the scenarios that are not there for all of the servers."""
        found = self._found[script]
        needed = {name for name in names if any((name, server) not in found for server in servers)}
        options = argparse.Namespace(
            rounds=self._options.rounds,
            seconds=self._options.seconds,
            others=None,
            connections=run.CONNECTIONS,
            scenarios=[scenario for scenario in SCENARIOS[script] if scenario.name in needed],
            servers=[server for server in SERVERS[script] if server.name in servers],
        )
        if needed:
            found.update(MEASURING[script](options))

    def result(self, script: str, scenario: str, server: str) -> report.Result:
        """Of what was measured."""
        return self._found[script].get((scenario, server), report.Result(failure="no results"))


def _enough(found: report.Results, rounds: int) -> report.Results:
    """Those with so many rounds."""
    return {key: result for key, result in found.items() if len(result.samples) >= rounds}


def _run_rates(options: argparse.Namespace) -> report.Results:
    return run.measure_all(options, *_cores())


def _websocket_rates(options: argparse.Namespace) -> report.Results:
    results = websocket.Results()
    websocket.measure_rate(options, results, *_cores())
    return results.rate


def _http2_rates(options: argparse.Namespace) -> report.Results:
    results = http2.Results()
    http2.measure_rate(options, results, *_cores())
    return results.rate


MEASURING: dict[str, Callable[[argparse.Namespace], report.Results]] = {
    "run": _run_rates,
    "websocket": _websocket_rates,
    "http2": _http2_rates,
}
SCENARIOS: dict[str, Sequence[Any]] = {
    "run": scenarios.SCENARIOS,
    "websocket": websocket_scenarios.SCENARIOS,
    "http2": http2_scenarios.SCENARIOS,
}
SERVERS: dict[str, Sequence[Server]] = {
    "run": HTTP1_SERVERS,
    "websocket": websocket_scenarios.SERVERS,
    "http2": http2_scenarios.SERVERS,
}
BESIDE = {"run": BASELINE, "websocket": BASELINE, "http2": f"{BASELINE} zttp"}
"""Uvicorn, by the script."""


def _cores() -> tuple[int, int]:
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def _both(
    first: report.Result, second: report.Result, value: Callable[[Any], float]
) -> float | str:
    """The median of the ratio within a round, or what went wrong."""
    failure = first.failure or second.failure
    rounds = first.samples.keys() & second.samples.keys()
    if failure or not rounds:
        return failure or "no round has both"
    errors = {**first.errors, **second.errors}
    if errors:
        return f"errors: {', '.join(errors)}"
    return median(value(first.samples[each]) / value(second.samples[each]) for each in rounds)


def check_rates(options: argparse.Namespace, rates: Rates) -> list[Finding]:
    """Every rate, and every CPU time."""
    wanted = [target for target in RATES if _wanted(options, target.scenario)]
    for script in SERVERS:
        names = [target.scenario for target in wanted if target.script == script]
        rates.measure(script, names, (OURS, BESIDE[script], GRANIAN))
    findings = []
    for target in wanted:
        label = target.scenario if target.script == "run" else f"{target.script}: {target.scenario}"
        ours, uvicorn, granian = (
            rates.result(target.script, target.scenario, server)
            for server in (OURS, BESIDE[target.script], GRANIAN)
        )
        found = _both(ours, uvicorn, lambda sample: sample.rate)
        findings.append(
            at_least(
                "rate", f"{label}, requests/s, {BESIDE[target.script]} = 1", target.least, found
            )
        )
        if target.most_cpu is not None:
            found = _both(ours, granian, lambda sample: sample.cpu_us)
            findings.append(
                at_most("rate", f"{label}, CPU time, {GRANIAN} = 1", target.most_cpu, found)
            )
    return findings


def check_log(_options: argparse.Namespace, rates: Rates) -> list[Finding]:
    """What a line of the access log costs."""
    rates.measure("run", ("hello", "logged"), (OURS,))
    plain, logged = (rates.result("run", name, OURS) for name in ("hello", "logged"))
    rounds = plain.samples.keys() & logged.samples.keys()
    found = (
        plain.failure
        or logged.failure
        or median(logged.samples[each].cpu_us - plain.samples[each].cpu_us for each in rounds)
    )
    return [at_most("log", "a line of the access log, us of CPU time", LOG_LINE_US, found, ".1f")]


# Counts.


def check_syscalls(options: argparse.Namespace, _rates: Rates) -> list[Finding]:
    """System calls by name."""
    if shutil.which("strace") is None:
        return [_missing("syscalls", "strace")]
    wanted = [target for target in CALLS if _wanted(options, target.scenario)]
    found: dict[tuple[str, str], Any] = dict(store.load("run").syscalls) if options.stored else {}
    names = {target.scenario for target in wanted if (target.scenario, OURS) not in found}
    chosen = [scenario for scenario in scenarios.SCENARIOS if scenario.name in names]
    found |= syscalls.attempts(chosen, [by_name(OURS)], run.counting_progress)
    findings = []
    for target in wanted:
        calls = found[target.scenario, OURS]
        number = (
            calls
            if isinstance(calls, str)
            else sum(count for name, count in calls.items() if name in target.names)
        )
        label = f"{target.scenario}, {target.what}"
        if target.least is not None:
            findings.append(at_least("syscalls", label, target.least, number, ".1f"))
        if target.most is not None:
            findings.append(at_most("syscalls", label, target.most, number, ".1f"))
    return findings


def check_instructions(options: argparse.Namespace, _rates: Rates) -> list[Finding]:
    """Of this worker, on the interpreter that runs this."""
    if shutil.which("valgrind") is None:
        return [_missing("instructions", "valgrind")]
    findings = []
    for script in ("run", "http2"):
        wanted = [
            (name, most)
            for where, name, most in INSTRUCTIONS
            if where == script and _wanted(options, name)
        ]
        stored = store.load(script).instructions if options.stored else {}
        ours = next(server for server in SERVERS[script] if server.name == OURS)
        found = _counted(script, [name for name, _ in wanted], [ours], stored)
        for name, most in wanted:
            label = name if script == "run" else f"{script}: {name}"
            findings.append(
                at_most("instructions", f"{label}, thousands", most, found[name, OURS], ".1f")
            )
    return findings


def check_python(options: argparse.Namespace, _rates: Rates) -> list[Finding]:
    """Instructions beside Uvicorn's on another interpreter."""
    if shutil.which("valgrind") is None:
        return [_missing("python", "valgrind")]
    wanted = [name for name in OTHER_COUNTED if _wanted(options, name)]
    servers, absent = run.rows_beside(options.beside)
    if absent:
        return [Finding("python", options.beside, "", absent, met=False)]
    stored = store.load("run").instructions if options.stored else {}
    found = _counted("run", wanted, servers, stored)
    findings = []
    for name in wanted:
        ours, uvicorn = (found[name, server.name] for server in servers)
        ratio = (
            ours / uvicorn
            if isinstance(ours, float) and isinstance(uvicorn, float)
            else str(ours if isinstance(ours, str) else uvicorn)
        )
        label = f"{name}, instructions{servers[0].variant}, {BASELINE} = 1"
        findings.append(at_most("python", label, 1.0, ratio))
    return findings


def _counted(
    script: str,
    names: Sequence[str],
    servers: Sequence[Server],
    stored: dict[tuple[str, str], float],
) -> dict[tuple[str, str], float | str]:
    """Thousands of instructions, of each scenario and server; what is not stored is counted now."""
    needed = {
        name for name in names if any((name, server.name) not in stored for server in servers)
    }
    chosen = [scenario for scenario in SCENARIOS[script] if scenario.name in needed]
    now = instructions.attempts(chosen, servers, run.counting_progress)
    return {
        key: found if isinstance(found, str) else found / 1000
        for key, found in {**stored, **now}.items()
    }


# The rest.


def check_import(_options: argparse.Namespace, _rates: Rates) -> list[Finding]:
    """What the import costs, and that what is off is not imported."""
    core = _cores()[0]
    findings = []
    try:
        for what, variables, prefixes in OFF:
            loaded = [
                name for name in imports.of_worker(core, variables) if name.startswith(prefixes)
            ]
            findings.append(
                at_most("import", f"{what}, modules imported", 0, float(len(loaded)), ".0f")
            )
        modules = imports.of_package(imports.of_worker(core, {}))
    except StartError as error:
        return [Finding("import", "a worker", "", f"not measured: {error}", met=False)]
    found = median(imports.cpu_ms(core, modules) for _ in range(IMPORTS))
    findings.append(
        at_most("import", "import beyond Gunicorn, ms of CPU time", IMPORT_MS, found, ".1f")
    )
    return findings


def check_idle(options: argparse.Namespace, _rates: Rates) -> list[Finding]:
    """Idle connections, and a request beside them."""
    connections = idle.allowed(IDLE_CONNECTIONS)
    hello = next(scenario for scenario in scenarios.SCENARIOS if scenario.name == "hello")
    try:
        rounds = [
            idle.measured(hello, connections, options.seconds, *_cores())
            for _ in range(options.rounds)
        ]
    except (StartError, LoadError, scenarios.WrongAnswerError, OSError) as error:
        return [Finding("idle", f"{connections:,} idle connections", "", f"{error!r}", met=False)]
    label = f"{connections:,} idle connections"
    tick = median(each.tick_ms for each in rounds)
    request = median(each.beside_us / each.alone_us for each in rounds)
    return [
        at_most("idle", f"{label}, ms of CPU time a tick", TICK_MS, tick),
        at_most("idle", f"{label}, CPU time of a request, alone = 1", BESIDE_IDLE, request),
    ]


def _missing(part: str, program: str) -> Finding:
    return Finding(part, "all", "", f"not measured: {program} is not installed here", met=False)


def _wanted(options: argparse.Namespace, scenario: str) -> bool:
    return options.scenarios is None or scenario in options.scenarios


CHECKS: dict[str, Callable[[argparse.Namespace, Rates], list[Finding]]] = {
    "rate": check_rates,
    "log": check_log,
    "syscalls": check_syscalls,
    "instructions": check_instructions,
    "python": check_python,
    "import": check_import,
    "idle": check_idle,
}


# The command.


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 1 if something falls short."""
    options = read_arguments(arguments)
    complaint = bench_env.missing()
    for program, package in (("wrk", "wrk"), ("h2load", "nghttp2-client")):
        if "rate" in options.only:
            complaint = complaint or bench_env.missing(program, package)
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    short: list[Finding] = []
    code = bench_env.conduct(
        __file__,
        options.inside,
        options.python,
        arguments,
        lambda: short.extend(check(options)),
    )
    return code or int(bool(short))


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description="Check the targets of speed and print what falls short."
    )
    bench_env.add_arguments(parser)
    names = list(
        dict.fromkeys(
            [target.scenario for target in RATES]
            + [target.scenario for target in CALLS]
            + [name for _, name, _ in INSTRUCTIONS]
        )
    )
    parser.add_argument(
        "--only",
        default=",".join(PARTS),
        help=f"parts, separated by commas (default: all of {', '.join(PARTS)})",
    )
    parser.add_argument(
        "--scenarios", help=f"separated by commas (default: all of {', '.join(names)})"
    )
    parser.add_argument(
        "--stored",
        action="store_true",
        help="take what run.py, websocket.py and http2.py measured last, and measure only what is not there",
    )
    parser.add_argument(
        "--rounds", type=bench_env.positive, help="of every measurement (default: 3)"
    )
    parser.add_argument(
        "--seconds", type=bench_env.positive, help="of every measurement (default: 2)"
    )
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    parser.add_argument(
        "--beside",
        default=OTHER_PYTHON,
        metavar="INTERPRETER",
        help=f"of the part python (default: {OTHER_PYTHON})",
    )
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (1 if options.quick else 2)
    for option, known in (("only", PARTS), ("scenarios", names)):
        text = getattr(options, option)
        if text is None:
            continue
        unknown = set(text.split(",")) - set(known)
        if unknown:
            parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        setattr(options, option, text.split(","))
    return options


def check(options: argparse.Namespace) -> list[Finding]:
    """Measure and print; returns what falls short."""
    if options.stored:
        for script in SERVERS:
            stored = store.load(script)
            if stored.checkout:
                print(f"{script}.py: measured {stored.date}, checkout {stored.checkout}")
                if stored.checkout != bench_env.commit():
                    print(f"  but this is {bench_env.commit()}")
    rates = Rates(options)
    findings = [
        finding
        for part in PARTS
        if part in options.only
        for finding in CHECKS[part](options, rates)
    ]
    rows = [["target", "part", "aim", "measured", ""]]
    rows += [
        [each.what, each.part, each.target, each.measured, "" if each.met else "short"]
        for each in findings
    ]
    print(report.table(rows, words=(0, 1, 4)))
    short = [each for each in findings if not each.met]
    if not short:
        print(f"\nAll {len(findings)} targets are met.")
        return []
    print(f"\n{len(short)} of {len(findings)} targets are not met:")
    for each in short:
        print(f"- {each.what}: {each.measured}, aim {each.target}")
    return short


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
