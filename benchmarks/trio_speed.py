"""Measure trio applications beside Hypercorn: ``python3 benchmarks/trio_speed.py``. Begins with the standard library.

The name is not that of the page, TRIO.md: servers import from this folder, and would take a trio.py here for the library.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from statistics import median

import apps
import bench_env
import measure
import report
import scenarios
import syscalls
import websocket
import websocket_scenarios
from instructions import Asking
from measure import NONE, Load, Sample
from servers import GUNICORN, Running, Server

OUTPUT = Path(__file__).resolve().parent / "TRIO.md"
PARTS = ("rate", "websocket", "syscalls")
MARK = report.MARK

# The servers.

OURS = "gunicorn_asgi trio"
ASYNCIO_LOOP = "gunicorn_asgi trio, asyncio's loop"
THREAD = "gunicorn_asgi trio, thread"
ASYNCIO = "gunicorn_asgi asyncio"
HYPERCORN = "hypercorn trio"
ANYCORN = "anycorn trio"
TRIO = ("--env", "GUNICORN_ASGI_ASYNC_LIBRARY=trio")
WORKER = ("-k", "gunicorn_asgi.Worker")
BIND = ("--bind", "127.0.0.1:{port}", "-w", "1", "-k", "trio", "--log-level", "warning", "{app}")

SERVERS = (
    Server(OURS, (*GUNICORN, *TRIO, *WORKER, "{app}")),
    Server(ASYNCIO_LOOP, (*GUNICORN, *TRIO, *WORKER, "--asgi-loop", "asyncio", "{app}")),
    Server(THREAD, (*GUNICORN, *TRIO, "-k", "trio_fallback.Worker", "{app}")),
    Server(ASYNCIO, (*GUNICORN, *WORKER, "{app}")),
    Server(HYPERCORN, ("hypercorn", *BIND)),
    Server(ANYCORN, ("anycorn", *BIND)),
)

# The scenarios.


@dataclass(frozen=True)
class Scenario(scenarios.Scenario):
    """One application at one number of connections."""

    connections: int = 1
    needs_trio: bool = False

    def is_offered(self, server: Server) -> bool:
        """Whether `server` can run the application."""
        return not self.needs_trio or server.name != ASYNCIO


CONNECTIONS = (1, 16, 64)


def _at_each(name: str, title: str, app: str, needs_trio: bool = False) -> list[Scenario]:
    return [
        Scenario(
            f"{name}-{connections}",
            f"{title}, {connections} connection{'s' if connections > 1 else ''}",
            app,
            apps.HELLO,
            connections=connections,
            needs_trio=needs_trio,
        )
        for connections in CONNECTIONS
    ]


def _waking(name: str, title: str, wakes: int) -> Scenario:
    return Scenario(
        name,
        f"{title}, {wakes} times in a request, one connection",
        f"trio_apps:{name}",
        apps.HELLO,
        parts=wakes,
        needs_trio=True,
    )


MANY, FEW = 100, 10
"""As in trio_apps, which needs trio."""
PLAIN, STARLETTE, QUART = "plain", "starlette", "quart"
WAKING = (
    _waking("turns", "trio.sleep(0)", MANY),
    _waking("values", "A value through a memory channel from another task", MANY),
    _waking("timers", "trio.sleep(0.0002)", FEW),
    _waking("sockets", "A byte arrives on a socket of trio", FEW),
    _waking("threads", "trio.to_thread.run_sync(int)", FEW),
)
SCENARIOS = (
    *_at_each(PLAIN, "A plain application", "apps:hello"),
    *_at_each(STARLETTE, "Starlette", "starlette_app:app"),
    *_at_each(QUART, "Quart-Trio", "quart_trio_app:app", needs_trio=True),
    *WAKING,
)
ALONE = f"{PLAIN}-1"
"""The request without wake-ups, which those with some are compared with."""
ECHOES = tuple(
    websocket_scenarios.Scenario(
        f"echo-{connections}",
        f"WebSocket, 32 bytes of text echoed, {connections} connection{'s' if connections > 1 else ''}",
        connections,
        32,
    )
    for connections in CONNECTIONS
)
COUNTED = (ALONE, "timers", "sockets", "threads")
"""Scenarios whose system calls are counted."""
COUNTED_SERVERS = (OURS, ASYNCIO_LOOP, THREAD, ASYNCIO)
"""Hypercorn and Anycorn close a connection after 1,000 requests, before the count is complete."""

TARGETS = {PLAIN: 0.2, STARLETTE: 0.35, QUART: 0.65}
"""Share of Hypercorn's CPU time of a request that is aimed at, at most."""
TARGET_CONNECTIONS = (16, 64)


@dataclass
class Results:
    """All that was measured, by the names of scenario and server."""

    rate: report.Results = field(default_factory=dict)
    switches: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """Context switches of a request, a number for each round."""
    syscalls: dict[tuple[str, str], syscalls.Calls | str] = field(default_factory=dict)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 1 if a target is not met."""
    options = read_arguments(arguments)
    complaint = bench_env.missing("wrk", "wrk")
    if "syscalls" in options.parts:
        complaint = complaint or bench_env.missing("strace", "strace")
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    command = bench_env.command_line("trio_speed.py", arguments)
    short: list[str] = []
    code = bench_env.conduct(
        __file__,
        options.inside,
        options.python,
        arguments,
        lambda: short.extend(write(options, command)),
    )
    return code or int(bool(short))


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description="Measure trio applications beside Hypercorn.")
    bench_env.add_arguments(parser)
    parser.add_argument(
        "--rounds", type=bench_env.positive, help="of every measurement (default: 5)"
    )
    parser.add_argument(
        "--seconds", type=bench_env.positive, help="of every measurement (default: 3)"
    )
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    parser.add_argument("--scenarios", help="these, separated by commas (default: all)")
    parser.add_argument("--servers", help="these, separated by semicolons (default: all)")
    bench_env.add_write(parser, OUTPUT)
    bench_env.add_parts(parser, PARTS)
    options = parser.parse_args(arguments)
    bench_env.read_parts(parser, options, PARTS)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 3)
    options.others = None
    try:
        chosen = bench_env.select((*SCENARIOS, *ECHOES), options.scenarios)
        options.servers = _servers(options.servers)
    except ValueError as error:
        parser.error(str(error))
    options.scenarios = [scenario for scenario in SCENARIOS if scenario in chosen]
    options.echoes = [scenario for scenario in ECHOES if scenario in chosen]
    return options


def _servers(names: str | None) -> list[Server]:
    """Some of the names have commas. Raises ValueError."""
    wanted = [server.name for server in SERVERS] if names is None else names.split(";")
    unknown = set(wanted) - {server.name for server in SERVERS}
    if unknown:
        known = "; ".join(server.name for server in SERVERS)
        raise ValueError(f"there is no {'; '.join(sorted(unknown))}; there are {known}")
    return [server for server in SERVERS if server.name in wanted]


def write(options: argparse.Namespace, command: str) -> list[str]:
    """Measure, print the report, and write it where it is wanted; returns the targets that are not met."""
    cores = sorted(os.sched_getaffinity(0))
    facts = [
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{command}`"),
        ("method", f"{options.rounds} rounds of {options.seconds} s"),
        ("cores", f"server on {cores[0]}, client on {cores[-1]}"),
        *bench_env.facts(),
    ]
    results = Results()
    if "rate" in options.parts:
        measure_rate(options, results, cores[0], cores[-1])
    if "websocket" in options.parts:
        measure_echoes(options, results, cores[0], cores[-1])
    if "syscalls" in options.parts:
        count_calls(options, results)
    bench_env.write(markdown(facts, options, results), options.write)
    short = [what for what, _, _, is_met in targets(results) if not is_met]
    print("\n".join(f"Not met: {what}" for what in short), file=sys.stderr)
    return short


# Measuring.


def measure_rate(
    options: argparse.Namespace, results: Results, server_core: int, load_core: int
) -> None:
    """Every server in every scenario in every round, in turns."""
    turns = measure.turns(options.scenarios, options.servers, options.rounds)
    for done, (number, scenario, server) in enumerate(turns, 1):
        result = results.rate.setdefault((scenario.name, server.name), report.Result())
        if not scenario.is_offered(server):
            result.failure = NONE
        if result.failure:
            continue
        switches = results.switches.setdefault((scenario.name, server.name), [])

        def measured(
            process: Running,
            folder: Path,
            scenario: Scenario = scenario,
            switches: list[float] = switches,
        ) -> Sample:
            script = folder / "load.lua"
            script.write_text(scenario.script(process.port))
            load = partial(measure.wrk, process.port, script, scenario.connections, load_core)
            counting = Switches(process.pid, load)
            sample = measure.sample(process, counting, options.seconds)
            switches.append(counting.per_request)
            return sample

        sample, result.failure = measure.started(server, scenario, server_core, measured)
        if sample is not None:
            result.samples[number] = sample
        outcome = (
            f"{sample.rate:,.0f}/s, {sample.cpu_us:.1f} us, {switches[-1]:.2f} context switches"
            if sample
            else result.failure
        )
        measure.progress(f"{done}/{len(turns)}", scenario.name, server, outcome)


class Switches:
    """A load that counts the context switches of all threads of a server. That of the last call counts."""

    def __init__(self, session: int, load: Callable[[int], Load]) -> None:
        self._session = session
        self._load = load
        self.per_request = 0.0

    def __call__(self, seconds: int) -> Load:
        """Load for so many seconds."""
        before = measure.context_switches(self._session)
        done = self._load(seconds)
        passed = measure.context_switches(self._session) - before
        self.per_request = passed / max(1, done.requests)
        return done


def measure_echoes(
    options: argparse.Namespace, results: Results, server_core: int, client_core: int
) -> None:
    """Messages over WebSockets, each of which wakes a ``receive()``."""
    given = argparse.Namespace(**{**vars(options), "scenarios": options.echoes})
    found = websocket.Results()
    websocket.measure_rate(given, found, server_core, client_core)
    results.rate.update(found.rate)


def count_calls(options: argparse.Namespace, results: Results) -> None:
    """System calls of a request on one connection."""
    pairs = [
        (scenario, server)
        for scenario in options.scenarios
        for server in options.servers
        if scenario.name in COUNTED
        and server.name in COUNTED_SERVERS
        and scenario.is_offered(server)
    ]
    for scenario, server in pairs:
        results.syscalls.update(syscalls.attempts([_whole(scenario)], [server], _calls_counted))


def _whole(scenario: Scenario) -> Scenario:
    """`scenario` with so many requests as others have: some calls are made in few of its wake-ups."""
    return replace(scenario, parts=1)


def _calls_counted(scenario: Asking, server: Server, found: syscalls.Calls | str) -> None:
    outcome = found if isinstance(found, str) else syscalls.described(found)
    measure.progress("system calls", scenario.name, server, outcome)


# The report.

LEGEND = f"""\
One worker on one core, wrk or the client of websocket.py on the other. *{OURS}* is this worker on uvloop; *thread* is the same with a trio
whose guest mode it does not know, so that trio waits in a thread. *{ASYNCIO}* has no trio at all. Medians over the rounds; ratios are
taken within a round. *CPU* is user and system time of all processes and threads of the server. *{NONE}*: the application needs trio."""

WAKING_LEGEND = f"""\
Microseconds of CPU time of one wake-up: what a request takes longer than `{ALONE}`, divided by its wake-ups. A
request is alone on its server, so no two wake-ups share a turn of a loop. *echo* is a whole WebSocket message: it
wakes a `receive()`, is read, and is written."""

SWITCHES_LEGEND = """\
Of all threads of the server, for one request, those of its start and end left out."""

SYSCALLS_LEGEND = f"""\
Of all processes and threads of the server for one request, on one connection, counted by `strace -f -c` as syscalls.py does. Calls that come more seldom
than {syscalls.SELDOM} times a request are left out."""


def targets(results: Results) -> list[tuple[str, float, float, bool]]:
    """Of each target: its name, the aim, what was measured, and whether that is met."""
    found = []
    for app, most in TARGETS.items():
        for connections in TARGET_CONNECTIONS:
            name = f"{app}-{connections}"
            share = cpu_share(results, name, OURS)
            if share is not None:
                found.append((name, most, share, share <= most))
    return found


def cpu_share(results: Results, scenario: str, server: str) -> float | None:
    """CPU time of a request as a share of Hypercorn's: the median of the rounds. None if there is none."""
    ours = results.rate.get((scenario, server), report.Result(failure=NONE))
    return report.cpu_ratio(results.rate.get((scenario, HYPERCORN), report.Result()), ours)


def wake_up_us(results: Results, scenario: Scenario, server: str) -> float | None:
    """Microseconds of CPU time of one wake-up: the median of the rounds. None if there is none."""
    alone = results.rate.get((ALONE, server), report.Result())
    waking = results.rate.get((scenario.name, server), report.Result())
    rounds = alone.samples.keys() & waking.samples.keys()
    if alone.failure or waking.failure or not rounds:
        return None
    return median(
        (waking.samples[number].cpu_us - alone.samples[number].cpu_us) / scenario.parts
        for number in rounds
    )


def markdown(
    facts: Sequence[tuple[str, str]], options: argparse.Namespace, results: Results
) -> str:
    """The whole report."""
    servers, chosen = options.servers, options.scenarios
    requests = [scenario for scenario in chosen if scenario not in WAKING]
    parts = ["# trio", report.facts_list(facts), LEGEND]
    if targets(results):
        parts += [f"## Targets: CPU time of a request, {HYPERCORN} = 1", _targets(results)]
    if "rate" in options.parts:
        parts += [
            "## CPU time of a request",
            "In microseconds.",
            report.cpu_overview(requests, servers, results.rate),
            f"## CPU time of a request, {HYPERCORN} = 1",
            _shares(requests, servers, results),
            "## One wake-up",
            WAKING_LEGEND,
            _wake_ups(options, results),
            "## Context switches",
            SWITCHES_LEGEND,
            _switches(chosen, servers, results),
        ]
    if results.syscalls:
        parts += ["## System calls of a request", SYSCALLS_LEGEND, _syscalls(results)]
    if "rate" in options.parts:
        parts += [_section(scenario, servers, results) for scenario in chosen]
    if "websocket" in options.parts:
        parts += [_section(scenario, servers, results, "message") for scenario in options.echoes]
    return "\n\n".join(parts) + "\n"


def _section(
    scenario: Scenario | websocket_scenarios.Scenario,
    servers: Sequence[Server],
    results: Results,
    what: str = "request",
) -> str:
    columns = (
        *report.cpu(what, scenario.parts),
        *(report.BUSY, report.CLIENT, report.P50, report.P99, report.MEMORY),
    )
    return "## " + report.section(scenario, servers, results.rate, columns, f"{what}s", HYPERCORN)


def _targets(results: Results) -> str:
    rows = [["scenario", "aim", "measured", ""]]
    rows += [
        [name, f"{most:.2f}", f"{share:.2f}", "met" if is_met else f"{MARK} not met"]
        for name, most, share, is_met in targets(results)
    ]
    return report.table(rows, words=(0, 3))


def _shares(chosen: Sequence[Scenario], servers: Sequence[Server], results: Results) -> str:
    rows = [["server", *(scenario.name for scenario in chosen)]]
    for server in servers:
        shares = [cpu_share(results, scenario.name, server.name) for scenario in chosen]
        rows.append([server.name, *(_number(share, ".2f") for share in shares)])
    return report.table(rows)


def _wake_ups(options: argparse.Namespace, results: Results) -> str:
    waking = [scenario for scenario in options.scenarios if scenario in WAKING]
    echo = ECHOES[0].name
    rows = [["server", *(scenario.name for scenario in waking), "echo"]]
    for server in options.servers:
        costs = [wake_up_us(results, scenario, server.name) for scenario in waking]
        costs.append(report.cpu_us(results.rate.get((echo, server.name), report.Result())))
        rows.append([server.name, *(_number(cost, ".1f") for cost in costs)])
    return report.table(rows)


def _switches(chosen: Sequence[Scenario], servers: Sequence[Server], results: Results) -> str:
    rows = [["server", *(scenario.name for scenario in chosen)]]
    for server in servers:
        found = [results.switches.get((scenario.name, server.name)) for scenario in chosen]
        rows.append(
            [server.name, *(_number(median(each), ".2f") if each else "" for each in found)]
        )
    return report.table(rows)


def _syscalls(results: Results) -> str:
    rows = [["scenario", "server", "all", "by name"]]
    for (scenario, server), found in results.syscalls.items():
        if isinstance(found, str):
            rows.append([scenario, server, f"{MARK} fails", found])
        else:
            total, _, names = syscalls.described(found).partition(": ")
            rows.append([scenario, server, total, names])
    return report.table(rows, words=(0, 1, 3))


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
