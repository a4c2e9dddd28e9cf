"""Count what is lost when workers are replaced: ``python3 benchmarks/zero_loss.py``. Needs nothing but the standard library to begin with."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

import bench_env

sys.path.insert(
    0, str(bench_env.ROOT / "tests")
)  # the clients, and what replaces workers, are those of tests/test_zero_loss.py

import exits
import turnover
from deployment import Deployment, deployed
from load import Load, Tally
from report import table
from servers import GUNICORN, OURS, SERVERS, Server, StartError, last_words
from strict import Kind

OUTPUT = Path(__file__).resolve().parent / "ZERO_LOSS.md"
WORKERS = 2
CONNECTIONS = 20
LONGEST_SECONDS = 600.0
"""Of one scenario with one server."""
SETTINGS = ("--keep-alive", "30")
"""An idle connection that ends earlier than after 30 s was ended by a worker that leaves."""

ASYNCIO = Server(
    f"{OURS} asyncio", (*GUNICORN, "-k", "gunicorn_asgi.Worker", "--asgi-loop", "asyncio", "{app}")
)
RUN = (
    *(server for server in SERVERS if server.name == OURS),
    ASYNCIO,
    *(s for s in SERVERS if s.name in ("uvicorn-worker", "gunicorn asgi")),
)


@dataclass(frozen=True)
class Scenario:
    """One way in which workers are replaced under load."""

    name: str
    title: str
    settings: tuple[str, ...] = ()
    disturb: Callable[[Deployment, Load, int], object] | None = None
    """Replaces workers, so many times; without it, the load does."""
    share: float = 1.0
    """Of `--requests`, or of `--times`."""
    keep_alive: bool = True
    tls: bool = False


def _reload(deployment: Deployment, load: Load, times: int) -> None:
    turnover.reload(deployment.master, load, times)


def _resize(deployment: Deployment, load: Load, times: int) -> None:
    turnover.resize(deployment.master, load, WORKERS + 1, times)


def _upgrade(deployment: Deployment, load: Load, times: int) -> None:
    for _ in range(times):
        turnover.upgrade(deployment.pidfile, load)


def _upgrade_daemon(deployment: Deployment, load: Load, times: int) -> None:
    for _ in range(times):
        turnover.upgrade_daemon(deployment.pidfile, load)


RECYCLE = ("--max-requests", "100", "--max-requests-jitter", "50")
REUSE = ("--reuse-port",)
SCENARIOS = (
    Scenario("recycle", "max_requests 100, jitter 50", RECYCLE),
    Scenario("recycle-close", "the same, a connection for each request", RECYCLE, keep_alive=False),
    Scenario("recycle-tls", "the same over TLS, kept connections", RECYCLE, share=0.2, tls=True),
    Scenario("hup", "HUP", (), _reload),
    Scenario("hup-close", "HUP, a connection for each request", (), _reload, keep_alive=False),
    Scenario("usr2", "USR2, then TERM to the old master", (), _upgrade, share=0.3),
    Scenario(
        "usr2-winch",
        "USR2, then WINCH and QUIT to the old master, as a daemon",
        ("--daemon",),
        _upgrade_daemon,
        share=0.3,
    ),
    Scenario(
        "usr2-close",
        "USR2, then TERM, a connection for each request",
        (),
        _upgrade,
        share=0.3,
        keep_alive=False,
    ),
    Scenario("resize", "TTIN and TTOU, three of each", (), _resize, share=0.3),
    Scenario(
        "resize-close",
        "TTIN and TTOU, a connection for each request",
        (),
        _resize,
        share=0.3,
        keep_alive=False,
    ),
    Scenario("reuse-recycle", "max_requests with reuse_port", (*RECYCLE, *REUSE)),
    Scenario(
        "reuse-recycle-close",
        "the same, a connection for each request",
        (*RECYCLE, *REUSE),
        keep_alive=False,
    ),
    Scenario("reuse-hup", "HUP with reuse_port", REUSE, _reload),
    Scenario(
        "reuse-hup-close",
        "the same, a connection for each request",
        REUSE,
        _reload,
        keep_alive=False,
    ),
)


@dataclass
class Result:
    """What came of one scenario with one server."""

    tally: Tally
    failure: str = ""
    """Why it did not come to its end; empty if it did."""


Results = dict[tuple[str, str], Result]
"""By the names of scenario and server."""
Times = dict[tuple[str, str], list[float]]
"""Seconds, by the title of an exit and the name of a server."""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    options = read_arguments(arguments)
    if not sys.platform.startswith("linux") or shutil.which("openssl") is None:
        print(
            "This needs Linux, whose /proc and pidfd it reads, and the openssl command, which makes a certificate.",
            file=sys.stderr,
        )
        return 2
    command = bench_env.command_line("zero_loss.py", arguments)
    return bench_env.conduct(
        __file__, options.inside, options.python, arguments, lambda: write(options, command)
    )


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description="Count the requests that are lost while Gunicorn replaces workers."
    )
    bench_env.add_arguments(parser)
    parser.add_argument(
        "--requests",
        type=bench_env.positive,
        help="of a scenario in which the requests replace the workers (default: 20000)",
    )
    parser.add_argument(
        "--times",
        type=bench_env.positive,
        help="that a signal replaces them in the others (default: 10)",
    )
    parser.add_argument(
        "--rounds", type=bench_env.positive, help="how often each exit is measured (default: 5)"
    )
    parser.add_argument(
        "--scenarios",
        help=f"separated by commas (default: all of {', '.join(each.name for each in SCENARIOS)})",
    )
    parser.add_argument(
        "--servers",
        help=f"separated by commas (default: all of {', '.join(server.name for server in RUN)})",
    )
    parser.add_argument(
        "--no-exits", action="store_true", help="do not measure how long it takes to end"
    )
    parser.add_argument("--losses", action="store_true", help="print each loss")
    parser.add_argument(
        "--logs", type=Path, help="a folder that the logs of the servers are copied to"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="the Markdown file to write (default: benchmarks/ZERO_LOSS.md; none with --quick)",
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of all: to see that it works")
    options = parser.parse_args(arguments)
    options.requests = options.requests or (2000 if options.quick else 20000)
    options.times = options.times or (1 if options.quick else 10)
    options.rounds = options.rounds or (1 if options.quick else 5)
    if options.output is None and not options.quick:
        options.output = OUTPUT
    try:
        options.scenarios = bench_env.select(SCENARIOS, options.scenarios)
        options.servers = bench_env.select(RUN, options.servers)
    except ValueError as error:
        parser.error(str(error))
    return options


def write(options: argparse.Namespace, command: str) -> None:
    """Count, print the report, and write it where it is wanted."""
    facts = [
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{command}`"),
        *bench_env.facts(),
    ]
    results: Results = {}
    for scenario in options.scenarios:
        for server in options.servers:
            results[scenario.name, server.name] = result = count(scenario, server, options)
            print(
                f"{scenario.name}, {server.name}: {result.failure or result.tally}",
                file=sys.stderr,
                flush=True,
            )
            if options.losses:
                print(
                    "".join(f"  {loss}\n" for loss in result.tally.losses),
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
    times: Times = {}
    for way in () if options.no_exits else exits.EXITS:
        for number in range(options.rounds):
            for server in options.servers if number % 2 == 0 else reversed(options.servers):
                times.setdefault((way.title, server.name), []).append(
                    exits.seconds(server, way, SETTINGS)
                )
        print(f"{way.title}: done", file=sys.stderr, flush=True)
    text = markdown(facts, options, results, times)
    print(text)
    if options.output is not None:
        options.output.write_text(text)
        print(f"Written to {options.output}", file=sys.stderr)


def count(scenario: Scenario, server: Server, options: argparse.Namespace) -> Result:
    """Start a server, load it while its workers are replaced, and end it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        settings = [
            *SETTINGS,
            "--log-level",
            "info" if options.logs else "warning",
            *scenario.settings,
        ]
        result = Result(Tally())
        try:
            with deployed(server, folder, WORKERS, settings, tls=scenario.tls) as deployment:
                _drive(scenario, deployment, options, result)
        except StartError as error:
            result.failure = f"{error} ({last_words(folder)})"
        if options.logs:
            options.logs.mkdir(exist_ok=True)
            shutil.copy(folder / "server.log", options.logs / f"{scenario.name}-{server.name}.log")
        return result


def _drive(
    scenario: Scenario, deployment: Deployment, options: argparse.Namespace, result: Result
) -> None:
    """Fills `result`."""
    number = max(
        1, round(scenario.share * (options.times if scenario.disturb else options.requests))
    )
    requests = None if scenario.disturb else number
    load = deployment.load(
        requests=requests, connections=CONNECTIONS, keep_alive=scenario.keep_alive
    )
    try:
        with load:
            if scenario.disturb is None:
                load.wait(LONGEST_SECONDS)
            else:
                scenario.disturb(deployment, load, number)
    except TimeoutError as error:
        result.failure = str(error)
    result.tally = load.stop()


# The report.

LEGEND = f"""\
{WORKERS} workers and {CONNECTIONS} connections; `keepalive` is 30 s, so that no idle connection ends by itself. The clients honour `Connection: close`, never retry, and open a
connection only where they have none. Their requests are quick and slow, streamed, in two parts and with a body; their pauses go from none to
150 ms, so that connections of every state are there when a worker is told to leave. Every request without its right and whole answer is lost, also one that
was to be sent on a kept connection which the server had ended without having said so (*closed while idle*): a client that looks before it sends is
spared most of these, and sends anew."""

EXITS_LEGEND = f"""\
Seconds from the signal until the process that it was sent to has ended, which is the master if nothing else is said: median and longest. The master looks for workers that have ended
each 0.1 s. `graceful_timeout` is {exits.GRACEFUL_SECONDS} s, one worker. The clients do nothing, and do not close."""


def markdown(
    facts: Sequence[tuple[str, str]], options: argparse.Namespace, results: Results, times: Times
) -> str:
    """The whole report."""
    parts = [
        "# Lost requests",
        "\n".join(f"- {name}: {value}" for name, value in facts),
        LEGEND,
        _overview(options, results),
    ]
    parts += [_section(scenario, options, results) for scenario in options.scenarios]
    if times:
        parts += ["## How long it takes to end", EXITS_LEGEND, _exits(options, times)]
    return "\n\n".join(parts) + "\n"


def _overview(options: argparse.Namespace, results: Results) -> str:
    rows = [["lost", *(_name(server) for server in options.servers)]]
    for scenario in options.scenarios:
        found = [results[scenario.name, server.name] for server in options.servers]
        rows.append([f"`{scenario.name}`", *(_lost(result) for result in found)])
    return f"## Lost of all requests\n\n{table(rows)}"


def _lost(result: Result) -> str:
    if not result.tally.requests:
        return "⚠ fails"
    return (
        f"{'⚠ ' if result.failure else ''}{len(result.tally.losses):,} of {result.tally.requests:,}"
    )


def _section(scenario: Scenario, options: argparse.Namespace, results: Results) -> str:
    found = {server.name: results[scenario.name, server.name] for server in options.servers}
    kinds = [kind for kind in Kind if any(result.tally.kinds[kind] for result in found.values())]
    rows = [
        [
            "server",
            "requests",
            "connections",
            "workers",
            "told to close",
            "slowest s",
            "lost",
            *(kind.value for kind in kinds),
        ]
    ]
    remarks = []
    for server in options.servers:
        result = found[server.name]
        tally = result.tally
        numbers = [tally.requests, tally.connections, len(tally.pids), tally.announced]
        lost = [len(tally.losses), *(tally.kinds[kind] for kind in kinds)]
        rows.append(
            [
                _name(server),
                *(f"{n:,}" for n in numbers),
                f"{tally.slowest:.2f}",
                *(f"{n:,}" for n in lost),
            ]
        )
        if result.failure:
            remarks.append(f"⚠ {server.name}: {result.failure}")
    return "\n\n".join(
        [
            f"## {scenario.title[0].upper()}{scenario.title[1:]} (`{scenario.name}`)",
            table(rows),
            *remarks,
        ]
    )


def _exits(options: argparse.Namespace, times: Times) -> str:
    rows = [["seconds", *(_name(server) for server in options.servers)]]
    for way in exits.EXITS:
        found = [times[way.title, server.name] for server in options.servers]
        rows.append([way.title, *(f"{median(each):.2f}, {max(each):.2f}" for each in found)])
    return table(rows)


def _name(server: Server) -> str:
    return f"**{server.name}**" if server in (RUN[0], ASYNCIO) else server.name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
