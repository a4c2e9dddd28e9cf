"""From measurements to Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from measure import Sample, describe
from scenarios import Scenario
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


def markdown(facts: Sequence[tuple[str, str]], scenarios: Sequence[Scenario], servers: Sequence[Server], results: Results) -> str:
    """The whole report."""
    parts = ["# Results", "\n".join(f"- {name}: {value}" for name, value in facts), LEGEND, _overview(scenarios, servers, results)]
    parts += [_section(scenario, servers, results) for scenario in scenarios]
    return "\n\n".join(parts) + "\n"


LEGEND = f"""\
Medians over the rounds. *CPU* is user and system time of all processes of the server per request, *busy* how much of its core that took: clearly
below 100 %, it was not the server that set the pace. *Memory* is the PSS of all its processes after the load. *{BASELINE} = 1* is the
ratio of requests/s within a round. There is no latency of pipelined requests: wrk's histogram is wrong for them. A cell with {MARK} has errors or no
measurement at all; what happened stands below its table."""


def _overview(scenarios: Sequence[Scenario], servers: Sequence[Server], results: Results) -> str:
    rows = [["requests/s", *(scenario.name for scenario in scenarios)]]
    for server in servers:
        cells = [_ratio_cell(results.get((scenario.name, server.name)), results.get((scenario.name, BASELINE))) for scenario in scenarios]
        rows.append([_name(server), *cells])
    return f"## Requests per second, {BASELINE} = 1\n\n{table(rows)}"


def _section(scenario: Scenario, servers: Sequence[Server], results: Results) -> str:
    rows = [["server", "requests/s", "lowest to highest", f"{BASELINE} = 1", "CPU us/request", "busy", "p50 us", "p99 us", "memory MiB"]]
    remarks, disturbed = [], []
    baseline = results.get((scenario.name, BASELINE))
    for server in servers:
        result = results.get((scenario.name, server.name), Result())
        rows.append([_name(server), *_cells(result, baseline, scenario.pipeline > 1)])
        if result.failure:
            remarks.append(f"{MARK} {server.name}: {result.failure}")
        if result.disturbed > DISTURBED:
            disturbed.append(f"{server.name} {result.disturbed:.0%}")
        if result.errors:
            remarks.append(f"{MARK} {server.name}: errors over all rounds: {describe(result.errors)}")
    if disturbed:
        remarks.append(f"Other processes took of the server's core, in the worst round: {', '.join(disturbed)}.")
    return f"## {scenario.title} (`{scenario.name}`)\n\n{table(rows)}" + "".join(f"\n\n{remark}" for remark in remarks)


def _cells(result: Result, baseline: Result | None, pipelined: bool) -> list[str]:
    samples = list(result.samples.values())
    if result.failure or not samples:
        return [f"{MARK} fails" if result.failure else "", *[""] * 7]
    rates = [sample.rate for sample in samples]
    return [
        f"{MARK} {median(rates):,.0f}" if result.errors else f"{median(rates):,.0f}",
        f"{min(rates):,.0f} to {max(rates):,.0f}",
        _ratio_cell(result, baseline),
        f"{median(sample.cpu_us for sample in samples):.1f}",
        f"{median(sample.busy for sample in samples):.0%}",
        "" if pipelined else f"{median(sample.p50_us for sample in samples):,.0f}",
        "" if pipelined else f"{median(sample.p99_us for sample in samples):,.0f}",
        f"{median(sample.memory for sample in samples) / 2**20:.1f}",
    ]


def _ratio_cell(result: Result | None, baseline: Result | None) -> str:
    if result is None:
        return ""
    if result.failure:
        return f"{MARK} fails"
    value = ratio(result, baseline)
    if value is None:
        return ""
    return f"{MARK} {value:.2f}" if result.errors else f"{value:.2f}"


def _name(server: Server) -> str:
    return f"**{server.name}**" if server.name == OURS else server.name


def table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the header, the first column is to the left, the others are numbers."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in [rows[0], rule, *rows[1:]]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
