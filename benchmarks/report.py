"""From measurements to Markdown."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from measure import NONE, Sample, describe
from servers import BASELINE, OURS, Server

MARK = "⚠"
DISTURBED = 0.03
"""The share of the server's core above which other processes are worth a remark."""


@dataclass
class Result:
    """One server in one scenario."""

    samples: dict[int, Sample] = field(default_factory=dict)
    """By round."""
    failure: str = ""
    """Why there are no more samples; empty if nothing went wrong."""

    @property
    def disturbed(self) -> float:
        """The share of the server's core that others took, in the worst round."""
        return max((sample.others for sample in self.samples.values()), default=0.0)

    @property
    def errors(self) -> dict[str, int]:
        """Of all rounds, by kind."""
        total: dict[str, int] = {}
        for sample in self.samples.values():
            for kind, count in sample.errors.items():
                total[kind] = total.get(kind, 0) + count
        return {kind: count for kind, count in total.items() if count}


Results = dict[tuple[str, str], Result]
"""By the names of scenario and server."""


def ratio(result: Result, baseline: Result | None) -> float | None:
    """Requests per second as a multiple of the baseline's: the median over the rounds, each compared within itself. None if there is none."""
    rounds = result.samples.keys() & baseline.samples.keys() if baseline is not None else ()
    if baseline is None or not rounds or result.failure or baseline.failure:
        return None
    return median(result.samples[number].rate / baseline.samples[number].rate for number in rounds)


def cpu_ratio(result: Result, baseline: Result | None) -> float | None:
    """How many requests the CPU time is enough for, as a multiple of the baseline's: the median over the rounds, each compared within itself."""
    rounds = result.samples.keys() & baseline.samples.keys() if baseline is not None else ()
    if baseline is None or not rounds or result.failure or baseline.failure:
        return None
    return median(
        baseline.samples[number].cpu_us / result.samples[number].cpu_us for number in rounds
    )


def cpu_us(result: Result) -> float | None:
    """Microseconds of CPU time of a request: the median over the rounds. None if there is none."""
    if result.failure or not result.samples:
        return None
    return median(sample.cpu_us for sample in result.samples.values())


class Titled(Protocol):
    """What is known of a scenario here."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...


@dataclass(frozen=True)
class Column:
    """One number of a sample, of which the table has the median."""

    title: str
    value: Callable[[Sample], float]
    spec: str
    """How it is formatted."""


BUSY = Column("busy", lambda sample: sample.busy, ".0%")
CLIENT = Column("client", lambda sample: sample.client, ".0%")
P50 = Column("p50 us", lambda sample: sample.p50_us, ",.0f")
P99 = Column("p99 us", lambda sample: sample.p99_us, ",.0f")
MEMORY = Column("memory MiB", lambda sample: sample.memory / 2**20, ".1f")


def cpu(what: str, parts: int = 1) -> tuple[Column, ...]:
    """The CPU time of one of `what`, user and system time of it, and what one of its `parts` takes, where it has several."""
    columns = (
        Column(f"CPU us/{what}", lambda sample: sample.cpu_us, ",.1f"),
        Column("user", lambda sample: sample.cpu_us - sample.system_us, ",.1f"),
        Column("system", lambda sample: sample.system_us, ",.1f"),
    )
    if parts == 1:
        return columns
    return (*columns, Column("CPU us/part", lambda sample: sample.cpu_us / parts, ",.2f"))


def facts_list(facts: Sequence[tuple[str, str]]) -> str:
    """What stands at the beginning of a report."""
    return "\n".join(f"- {name}: {value}" for name, value in facts)


def overview(
    scenarios: Sequence[Titled],
    servers: Sequence[Server],
    results: Results,
    value: Callable[[Result, Result | None], float | None] = ratio,
    baseline: str = BASELINE,
) -> str:
    """One number of each server in each scenario."""
    rows = [["server", *(scenario.name for scenario in scenarios)]]
    for server in servers:
        cells = []
        for scenario in scenarios:
            result = results.get((scenario.name, server.name), Result())
            beside = results.get((scenario.name, server.peer(baseline)))
            cells.append(_cell(result, value(result, beside)))
        rows.append([name(server), *cells])
    return table(rows)


def cpu_overview(scenarios: Sequence[Titled], servers: Sequence[Server], results: Results) -> str:
    """The microseconds of a request of each server in each scenario."""
    rows = [["server", *(scenario.name for scenario in scenarios)]]
    for server in servers:
        found = [results.get((scenario.name, server.name), Result()) for scenario in scenarios]
        rows.append([name(server), *(_cell(result, cpu_us(result), 1) for result in found)])
    return table(rows)


def multiples(
    scenarios: Sequence[Titled],
    peers: Sequence[Server],
    results: Results,
    value: Callable[[Result, Result | None], float | None],
) -> str:
    """How many times as good as each of its peers this worker is."""
    return overview(
        scenarios,
        peers,
        results,
        lambda peer, ours: value(ours, peer) if ours is not None else None,
        OURS,
    )


def section(
    scenario: Titled,
    servers: Sequence[Server],
    results: Results,
    columns: Sequence[Column],
    what: str = "requests",
    baseline: str = BASELINE,
) -> str:
    """All numbers of one scenario, with what there is to say about them, below its title."""
    rows = [
        [
            "server",
            f"{what}/s",
            "lowest to highest",
            f"{baseline} = 1",
            *(column.title for column in columns),
        ]
    ]
    remarks, disturbed = [], []
    for server in servers:
        result = results.get((scenario.name, server.name), Result())
        rows.append(
            [
                name(server),
                *_cells(result, results.get((scenario.name, server.peer(baseline))), columns),
            ]
        )
        if result.failure not in {"", NONE}:
            remarks.append(f"{MARK} {server.name}: {result.failure}")
        if result.errors:
            remarks.append(
                f"{MARK} {server.name}: errors over all rounds: {describe(result.errors)}"
            )
        if result.disturbed > DISTURBED:
            disturbed.append(f"{server.name} {result.disturbed:.0%}")
    if disturbed:
        remarks.append(
            f"Other processes took of the server's core, in the worst round: {', '.join(disturbed)}."
        )
    return "\n\n".join([f"{scenario.title} (`{scenario.name}`)", table(rows), *remarks])


def _cells(result: Result, baseline: Result | None, columns: Sequence[Column]) -> list[str]:
    samples = list(result.samples.values())
    if result.failure or not samples:
        return [_cell(result, None), *[""] * (2 + len(columns))]
    rates = [sample.rate for sample in samples]
    return [
        f"{MARK} {median(rates):,.0f}" if result.errors else f"{median(rates):,.0f}",
        f"{min(rates):,.0f} to {max(rates):,.0f}",
        _cell(result, ratio(result, baseline)),
        *(
            format(median(column.value(sample) for sample in samples), column.spec)
            for column in columns
        ),
    ]


def _cell(result: Result, value: float | None, digits: int = 2) -> str:
    if result.failure:
        return NONE if result.failure == NONE else f"{MARK} fails"
    if value is None:
        return ""
    return f"{MARK} {value:,.{digits}f}" if result.errors else f"{value:,.{digits}f}"


def counts(
    scenarios: Sequence[Titled],
    servers: Sequence[Server],
    found: Mapping[tuple[str, str], float | str],
    baseline: str = BASELINE,
) -> str:
    """Instructions by the names of scenario and server, or what kept them from being counted. The ratio is to `baseline` on the same interpreter."""
    rows = [
        ["server", *(cell for scenario in scenarios for cell in (scenario.name, f"{baseline} = 1"))]
    ]
    remarks = []
    for server in servers:
        cells = []
        for scenario in scenarios:
            count = found[scenario.name, server.name]
            other = found.get((scenario.name, server.peer(baseline)))
            if count == NONE:
                cells += [NONE, ""]
            elif isinstance(count, str):
                cells += [f"{MARK} fails", ""]
                remarks.append(f"{MARK} {server.name}, {scenario.name}: {count}")
            else:
                cells += [
                    f"{count:,.0f}",
                    f"{count / other:.2f}" if isinstance(other, float) else "",
                ]
        rows.append([name(server), *cells])
    return "\n\n".join([table(rows), *remarks])


def name(server: Server) -> str:
    """As the first cell of a row."""
    return f"**{server.name}**" if server.name == server.peer(OURS) else server.name


def table(rows: Sequence[Sequence[str]], words: Container[int] = (0,)) -> str:
    """The first row is the header. The columns of these numbers are words, to the left; the others are numbers."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = [
        "-" * width if number in words else "-" * (width - 1) + ":"
        for number, width in enumerate(widths)
    ]
    lines = []
    for row in [rows[0], rule, *rows[1:]]:
        cells = [
            cell.ljust(width) if number in words else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
