"""Measure deploys under load: ``python3 benchmarks/deploys.py``. Begins with the standard library."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import bench_env

sys.path.insert(0, str(bench_env.ROOT / "tests"))  # turnover, fronts and strict are there

if TYPE_CHECKING:
    from deploy_scenarios import Outcome

OUTPUT = Path(__file__).resolve().parent / "DEPLOYS.md"
MARK = "⚠"


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    options = read_arguments(arguments)
    if not sys.platform.startswith("linux") or shutil.which("openssl") is None:
        print(
            "This needs Linux, whose /proc it reads, and the openssl command, which makes a certificate.",
            file=sys.stderr,
        )
        return 2
    command = bench_env.command_line("deploys.py", arguments)
    return bench_env.conduct(
        __file__, options.inside, options.python, arguments, lambda: write(options, command), ValueError
    )  # fmt: skip


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description="Measure what clients see of deploys: how long they wait, and what they lose."
    )
    bench_env.add_arguments(parser)
    parser.add_argument("--only", help="these scenarios, separated by commas (default: all)")
    parser.add_argument("--servers", help="these servers, separated by commas (default: all)")
    parser.add_argument(
        "--import-seconds",
        type=float,
        metavar="SECONDS",
        help="that the application takes to import (default: 4)",
    )
    parser.add_argument(
        "--logs", type=Path, help="a folder that the logs of the servers are copied to"
    )
    bench_env.add_write(parser, OUTPUT)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="an import of one second and a second of load before it: to see that all works",
    )
    options = parser.parse_args(arguments)
    options.import_seconds = options.import_seconds or (1.0 if options.quick else 4.0)
    options.seconds = 1.0 if options.quick else 4.0
    return options


def write(options: argparse.Namespace, command: str) -> None:
    """Measure, print the report, and write it where it is wanted. Raises ValueError for a name that is none."""
    from deploy_scenarios import SCENARIOS, TARGETS, measure

    scenarios = bench_env.select(SCENARIOS, options.only)
    targets = bench_env.select(TARGETS, options.servers)
    facts = [
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{command}`"),
        *bench_env.facts(),
    ]
    sections, overview = [], {}
    for scenario in scenarios:
        found: dict[str, Outcome | str] = {}
        for target in targets:
            reason = scenario.missing(target)
            if scenario.needs_haproxy and shutil.which("haproxy") is None:
                reason = "haproxy is not installed here"
            if reason:
                found[target.name] = reason
                continue
            with tempfile.TemporaryDirectory(prefix="bench-") as name:
                folder = Path(name)
                found[target.name] = outcome = asyncio.run(
                    measure(scenario, target, folder, options.import_seconds, options.seconds)
                )
                if options.logs:
                    _copy_logs(folder, options.logs, f"{scenario.name}-{target.name}")
            print(f"{scenario.name}, {target.name}: {outcome}", file=sys.stderr, flush=True)
        sections.append(_section(scenario.name, scenario.title, found))
        overview[scenario.name] = [_summary(found[target.name]) for target in targets]
    text = "\n\n".join(
        [
            "# Deploys",
            "\n".join(f"- {name}: {value}" for name, value in facts),
            _legend(options.import_seconds),
            _overview([target.name for target in targets], overview),
            *sections,
        ]
    )
    bench_env.write(text + "\n", options.write)


def _copy_logs(folder: Path, to: Path, name: str) -> None:
    to.mkdir(exist_ok=True)
    for number, log in enumerate(sorted(folder.rglob("server.log"))):
        shutil.copy(log, to / f"{name}-{number}.log")


# The report.

LEGEND = """\
What clients see while a new release of an application takes over that takes {seconds:g} s to import. There are two workers if nothing else is said, and about 130 requests a second: ten
clients keep their connections and ask eight times a second each; fifty connections a second are opened for one request each, whether or not those before them are answered.
No client retries, and all honour `Connection: close`.

- *slowest*: the longest time that a request took which was running at the deploy or after it. *p50* and *p99* are those before it.
- *errors*: requests without their answer. A number is a status, 503 that of HAProxy. *closed while idle*: the server had ended a kept connection without having said so.
- *new after*: seconds from the signal to the first answer of a new worker. *old gone after*: to the end of the last old worker, or of the master where it is told to end.
- *at most*: workers that have run at once, counted every {look:g} s."""


def _legend(seconds: float) -> str:
    from deploy_scenarios import LOOK_SECONDS

    return LEGEND.format(seconds=seconds, look=LOOK_SECONDS)


def _overview(names: Sequence[str], overview: dict[str, list[str]]) -> str:
    from report import table

    rows = [["slowest answer in s, lost requests", *map(_bold, names)]]
    rows += [[f"`{name}`", *cells] for name, cells in overview.items()]
    return f"## The slowest answers, and what was lost\n\n{table(rows)}"


def _summary(outcome: Outcome | str) -> str:
    if isinstance(outcome, str):
        return ""
    mark = f"{MARK} " if outcome.failure else ""
    if not outcome.requests:
        return (
            f"{mark}{_seconds(outcome.gone_after)} to end"
            if outcome.gone_after
            else f"{MARK} fails"
        )
    return f"{mark}{outcome.slowest:.2f}, {outcome.errors.total()} of {outcome.requests:,}"


def _section(name: str, title: str, found: dict[str, Outcome | str]) -> str:
    from report import table

    rows = [
        ["server", "requests", "p50 ms", "p99 ms", "slowest s", "new after s", "old gone after s",
         "at most", "replaced", "lost", "errors"],
    ]  # fmt: skip
    remarks = []
    for server, outcome in found.items():
        if isinstance(outcome, str):
            remarks.append(f"{server}: {outcome}")
            continue
        errors = ", ".join(f"{count} {kind}" for kind, count in outcome.errors.most_common())
        rows.append(
            [
                _bold(server),
                *_requests(outcome),
                _seconds(outcome.served_after),
                _seconds(outcome.gone_after),
                str(outcome.most or ""),
                str(outcome.replaced or ""),
                str(outcome.errors.total()) if outcome.requests else "",
                errors,
            ]
        )
        if outcome.failure:
            remarks.append(f"{MARK} {server}: {outcome.failure}")
    heading = f"## {title[0].upper()}{title[1:]} (`{name}`)"
    tables = [table(rows, words=(0, len(rows[0]) - 1))] if len(rows) > 1 else []
    return "\n\n".join([heading, *tables, *remarks])


def _requests(outcome: Outcome) -> list[str]:
    """Empty cells where there was no load."""
    if not outcome.requests:
        return [""] * 4
    return [
        f"{outcome.requests:,}",
        f"{outcome.p50 * 1000:.1f}",
        f"{outcome.p99 * 1000:.1f}",
        f"{outcome.slowest:.2f}",
    ]


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _bold(name: str) -> str:
    return f"**{name}**" if name.startswith("gunicorn_asgi") else name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
