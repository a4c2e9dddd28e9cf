"""Pure: rows as the text format of Prometheus (0.0.4), and as JSON.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from .catalog import (
    BORN,
    BUCKETS,
    COUNTERS,
    GAUGES,
    PID,
    PLACES,
    SEEN,
    STATE,
    STATES,
    WORKER_GAUGES,
    Kind,
    Metric,
    Row,
    State,
)

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
STALE_SECONDS = 3.5
"""After this time without a heartbeat, which is due every second, the gauges of a worker are too
old to be shown. Its age, its state and its silence are still shown."""

Series = tuple[Mapping[str, str], float]
"""Labels and a value."""


class Worker(NamedTuple):
    """A living worker."""

    pid: int
    state: State
    age_s: float
    silent_s: float
    row: Row

    @property
    def is_silent(self) -> bool:
        """Whether its event loop seems to be blocked."""
        return self.silent_s > STALE_SECONDS


class Snapshot(NamedTuple):
    """The numbers of a service at one time."""

    totals: Row
    """The counters of all workers since the master has started."""
    workers: Sequence[Worker]
    """The living workers, by their process ids."""


def take_snapshot(totals: Row, rows: Sequence[Row], now: float) -> Snapshot:
    """Make the numbers of a service from the rows of its workers. `now`: ``time.monotonic``."""
    sums = [math.fsum(column) for column in zip(totals, *rows, strict=True)]
    workers = [
        Worker(
            int(row[PID]),
            STATES[int(row[STATE])],
            max(0.0, now - row[BORN]),
            _silence(row, now),
            row,
        )
        for row in rows
        if row[SEEN]
    ]
    return Snapshot(sums, sorted(workers, key=lambda worker: worker.pid))


def _silence(row: Row, now: float) -> float:
    """The time without a heartbeat. There is none yet while the application is loaded."""
    return 0.0 if STATES[int(row[STATE])] is State.STARTING else max(0.0, now - row[SEEN])


# Prometheus.


def make_text(snapshot: Snapshot) -> str:
    """The whole page in the text format."""
    return "\n".join([*_lines(snapshot), ""])


def _lines(snapshot: Snapshot) -> Iterator[str]:
    for metric in COUNTERS:
        yield from _head(metric)
        if metric.kind is Kind.HISTOGRAM:
            yield from _histogram_lines(metric, snapshot.totals)
        else:
            for labels, value in _series(metric, snapshot.totals):
                yield _line(metric.full_name, labels, value)
    for metric in GAUGES:
        yield from _head(metric)
        for worker in snapshot.workers:
            if not worker.is_silent:
                for labels, value in _series(metric, worker.row):
                    if not math.isnan(value):
                        yield _line(metric.full_name, _with_pid(worker, labels), value)
    for metric in WORKER_GAUGES:
        yield from _head(metric)
        for worker in snapshot.workers:
            for labels, value in _facts(metric, worker):
                yield _line(metric.full_name, _with_pid(worker, labels), value)


def _head(metric: Metric) -> Iterator[str]:
    text = metric.help.replace("\\", "\\\\").replace("\n", "\\n")
    yield f"# HELP {metric.full_name} {text}"
    yield f"# TYPE {metric.full_name} {metric.kind.value}"


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    text = ",".join(f'{label}="{_escape(value)}"' for label, value in labels.items())
    return f"{name}{{{text}}} {_number(value)}" if text else f"{name} {_number(value)}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def _histogram_lines(metric: Metric, row: Row) -> Iterator[str]:
    counts, total, seconds = _histogram(metric, row)
    for bound, count in zip([*map(_number, BUCKETS), "+Inf"], [*counts, total], strict=True):
        yield _line(metric.full_name + "_bucket", {"le": bound}, count)
    yield _line(metric.full_name + "_sum", {}, seconds)
    yield _line(metric.full_name + "_count", {}, total)


def _with_pid(worker: Worker, labels: Mapping[str, str]) -> Mapping[str, str]:
    return {"worker": str(worker.pid), **labels}


# Values.


def _series(metric: Metric, row: Row) -> list[Series]:
    first = PLACES[metric.name]
    if not metric.label:
        return [({}, row[first])]
    return [({metric.label: value}, row[first + n]) for n, value in enumerate(metric.values)]


def _histogram(metric: Metric, row: Row) -> tuple[list[float], float, float]:
    """The cumulated counts by bucket, the count of all, and the sum of the seconds."""
    first = PLACES[metric.name]
    end = first + metric.size - 1
    *counts, total = accumulate(row[first:end])
    return counts, total, row[end]


def _facts(metric: Metric, worker: Worker) -> list[Series]:
    match metric.name:
        case "worker_age_seconds":
            return [({}, worker.age_s)]
        case "worker_silent_seconds":
            return [({}, worker.silent_s)]
        case _:
            return [
                ({metric.label: value}, float(value == worker.state.value))
                for value in metric.values
            ]


# JSON.


def make_json(snapshot: Snapshot) -> str:
    """The same facts for programs: ``{"totals": {...}, "workers": [{...}, ...]}``."""
    facts = {
        "totals": _counters(snapshot.totals),
        "workers": [
            {
                "pid": worker.pid,
                "state": worker.state.value,
                "age_seconds": worker.age_s,
                "silent_seconds": worker.silent_s,
                "counters": _counters(worker.row),
                "gauges": None
                if worker.is_silent
                else {metric.name: _plain(metric, worker.row) for metric in GAUGES},
            }
            for worker in snapshot.workers
        ],
    }
    return json.dumps(facts, indent=1)


def _counters(row: Row) -> dict[str, Any]:
    return {metric.name: _plain(metric, row) for metric in COUNTERS}


def _plain(metric: Metric, row: Row) -> Any:
    """The value of `metric`: a number, or an object by label; None for an unknown one."""
    if metric.kind is Kind.HISTOGRAM:
        counts, total, seconds = _histogram(metric, row)
        buckets = dict(zip(map(_number, BUCKETS), map(_whole, counts), strict=True))
        return {"buckets": buckets, "sum": seconds, "count": _whole(total)}
    values = [_whole(value) for _, value in _series(metric, row)]
    return dict(zip(metric.values, values, strict=True)) if metric.label else values[0]


def _whole(value: float) -> float | None:
    if math.isnan(value):
        return None
    return int(value) if value.is_integer() else value


# Statsd.

STATSD_PREFIX = "gunicorn."


def list_gauges(snapshot: Snapshot) -> list[tuple[str, float]]:
    """The gauges of the whole service, by the names that statsd gets.

    The sums over the workers, and of what is no amount the largest. Counters that Gunicorn does not
    send itself are among them, as gauges.
    """
    awake = [worker for worker in snapshot.workers if not worker.is_silent]
    found: list[tuple[str, float]] = []
    for metric in COUNTERS:
        if metric.name not in SENT_BY_GUNICORN:
            found += [
                (_dotted(metric, labels), value)
                for labels, value in _series(metric, snapshot.totals)
            ]
    for metric in GAUGES:
        join = max if metric.name in NOT_ADDED else math.fsum
        columns = zip(*[_series(metric, worker.row) for worker in awake], strict=True)
        for column in columns:
            value = join(value for _, value in column)
            if not math.isnan(value):
                found.append((_dotted(metric, column[0][0]), value))
    for metric in WORKER_GAUGES:
        per_worker = [_facts(metric, worker) for worker in snapshot.workers]
        join = math.fsum if metric.label else max
        for column in zip(*per_worker, strict=True):
            found.append((_dotted(metric, column[0][0]), join(value for _, value in column)))
    return found


SENT_BY_GUNICORN = {"requests_total", "responses_total", "request_duration_seconds"}
"""``gunicorn.requests``, ``gunicorn.request.status.200`` and ``gunicorn.request.duration``."""
NOT_ADDED = {"loop_lag_seconds", "loop_lag_max_seconds"}
"""Gauges of which the largest of all workers counts, not the sum."""


def _dotted(metric: Metric, labels: Mapping[str, str]) -> str:
    return STATSD_PREFIX + ".".join([metric.name, *labels.values()])
