"""The numbers of a worker: what is counted, what is shown, and what the workers of a master share (see docs/numbers.md)."""

from __future__ import annotations

import gc
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h2client
import pytest
from accesslog import AccessLog
from gunicorn.config import Config
from inprocess import (
    GET,
    Client,
    Flag,
    InProcess,
    Log,
    answer,
    hello,
    make_settings,
    mirror,
    read_body,
    request,
    serve,
)
from ws import OVER_2, WAYS, connect, echo, serve2, serve_way

from gunicorn_asgi.errors import ConfigError
from gunicorn_asgi.metrics import exposition, gauges
from gunicorn_asgi.metrics.catalog import (
    BORN,
    BUCKETS,
    COUNTERS,
    FIRST_COUNTER,
    GAUGES,
    METRICS,
    PID,
    PLACES,
    SEEN,
    STATE,
    STATES,
    UNKNOWN,
    WIDTH,
    Kind,
    Metric,
    State,
)
from gunicorn_asgi.metrics.counting import CountingAccess, counting_transport
from gunicorn_asgi.metrics.exposition import (
    Snapshot,
    list_gauges,
    make_json,
    make_text,
    take_snapshot,
)
from gunicorn_asgi.metrics.gauges import Gauges, Lag
from gunicorn_asgi.metrics.listening import MetricsSocket
from gunicorn_asgi.metrics.master import MasterMetrics
from gunicorn_asgi.metrics.page import MAX_CONNECTIONS, PageLog, page_settings
from gunicorn_asgi.metrics.statsd import StatsdGauges
from gunicorn_asgi.metrics.table import SLOTS, MetricsTable
from gunicorn_asgi.observe.resident_memory import resident_bytes

NOW = 1000.0
DOCS = Path(__file__).parent.parent / "docs"


def make_row(**values: float) -> list[float]:
    """A row with these values at the first place of each metric, or at these facts."""
    row = [0.0] * WIDTH
    facts = {"seen": SEEN, "pid": PID, "state": STATE, "born": BORN}
    for name, value in {"seen": NOW, "pid": 7, "state": 1, "born": NOW - 60, **values}.items():
        row[facts[name] if name in facts else PLACES[name]] = float(value)
    return row


def snapshot(*rows: list[float], totals: list[float] | None = None) -> Snapshot:
    return take_snapshot(totals or [0.0] * WIDTH, rows, NOW)


def parse(text: str) -> dict[str, Any]:
    """The families of a page by name, as Prometheus reads them."""
    from prometheus_client.parser import text_string_to_metric_families

    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Every sample of a page: its name and its label values in order."""
    return {
        (sample.name.removeprefix("gunicorn_asgi_"), *sample.labels.values()): sample.value
        for family in parse(text).values()
        for sample in family.samples
    }


# The catalogue.


def test_every_metric_has_a_name_as_prometheus_advises() -> None:
    # OpenMetrics, and the parser, know a counter by its name without the suffix.
    names = [metric.full_name.removesuffix("_total") for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"gunicorn_asgi_[a-z0-9_]+", metric.full_name)
        assert (metric.kind is Kind.COUNTER) == metric.name.endswith("_total")
        assert bool(metric.label) == bool(metric.values)
        assert metric.help


def test_no_two_numbers_of_a_row_share_a_place() -> None:
    taken = [SEEN, PID, STATE, BORN]
    for metric in (*COUNTERS, *GAUGES):
        taken += range(PLACES[metric.name], PLACES[metric.name] + metric.size)
    assert taken == list(range(WIDTH))


def metrics_table() -> str:
    """The table of the page about numbers."""
    lines = ["| Metric | Type | Label | Meaning |", "|---|---|---|---|"]
    for metric in METRICS:
        values = ", ".join(f"`{value}`" for value in metric.values)
        label = f"`{metric.label}`: {values}" if metric.label else ""
        if metric.kind is Kind.HISTOGRAM:
            label = f"`le`: {', '.join(f'{bound:g}' for bound in BUCKETS)}, +Inf"
        lines.append(f"| `{metric.name}` | {metric.kind.value} | {label} | {metric.help} |")
    return "\n".join(lines)


def test_the_page_lists_every_metric_with_its_type_labels_and_meaning() -> None:
    page = (DOCS / "numbers.md").read_text()
    found = re.search(r"<!-- metrics: begin .*?-->\n(.*?)\n?<!-- metrics: end -->", page, re.DOTALL)
    assert found is not None
    assert found[1] == metrics_table(), (
        "put the output of `PYTHONPATH=tests python -m test_metrics` between the marks of docs/numbers.md"
    )


SAMPLES = {
    metric.full_name + suffix
    for metric in METRICS
    for suffix in (("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",))
}
"""The names that an expression may ask for."""


def test_the_dashboard_is_json_and_asks_for_existing_metrics() -> None:
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    assert dashboard["schemaVersion"] >= 36
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    asked: set[str] = set()
    for panel in panels:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            names = set(re.findall(r"gunicorn_asgi_\w+", target["expr"]))
            assert names
            assert target["expr"].count("(") == target["expr"].count(")")
            asked |= names
    assert not asked - SAMPLES
    shown = {name.removesuffix("_bucket") for name in asked}
    assert shown == {metric.full_name for metric in METRICS}, "a metric that no panel shows"


def test_the_alerts_ask_for_existing_metrics_and_are_explained() -> None:
    text = (DOCS / "alerts.yml").read_text()
    page = (DOCS / "numbers.md").read_text()
    names = re.findall(r"- alert: (\w+)", text)
    assert len(names) == 5
    for rule in text.split("- alert: ")[1:]:
        assert set(re.findall(r"^        (\w+):", rule, re.MULTILINE)) >= {
            "expr",
            "labels",
            "annotations",
        }
        asked = set(re.findall(r"gunicorn_asgi_\w+", rule))
        assert asked
        assert not asked - SAMPLES
        values = set(re.findall(r'(?:state|status)=~?"([^"]*)"', rule))
        known = {value for metric in METRICS for value in metric.values}
        assert not {value for each in values for value in each.split("|")} - known
    assert re.findall(r"^\| `(Gunicorn\w+)` \|", page, re.MULTILINE) == names


# The text of Prometheus.


def test_the_parser_of_prometheus_reads_every_metric_with_its_type_and_help() -> None:
    families = parse(make_text(snapshot(make_row())))
    assert {family.name for family in families.values()} == {
        metric.full_name.removesuffix("_total") for metric in METRICS
    }
    for metric in METRICS:
        family = families[metric.full_name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind.value, metric.help)
        assert family.samples


def test_counters_are_the_sums_of_living_and_former_workers_without_a_label_of_theirs() -> None:
    text = make_text(
        snapshot(
            make_row(pid=7, requests_total=3),
            make_row(pid=8, requests_total=4),
            make_row(pid=0, seen=0, requests_total=5),
            totals=make_row(requests_total=6),
        )
    )
    found = parse(text)["gunicorn_asgi_requests"].samples
    assert [(sample.labels, sample.value) for sample in found] == [({}, 18)]


def test_gauges_are_those_of_each_living_worker() -> None:
    rows = [make_row(pid=8, websockets=1), make_row(pid=7, websockets=2), make_row(pid=9, seen=0)]
    found = samples(make_text(snapshot(*rows)))
    assert {key: value for key, value in found.items() if key[0] == "websockets"} == {
        ("websockets", "7"): 2,
        ("websockets", "8"): 1,
    }


def test_the_buckets_of_the_histogram_are_cumulated() -> None:
    first = PLACES["request_duration_seconds"]
    row = make_row()
    row[first], row[first + 2], row[first + len(BUCKETS)] = 5.0, 2.0, 1.0
    row[first + len(BUCKETS) + 1] = 100.5
    found = samples(make_text(snapshot(row)))
    counts = [value for key, value in found.items() if key[0] == "request_duration_seconds_bucket"]
    assert counts == [5, 5, *[7] * (len(BUCKETS) - 2), 8]
    assert found["request_duration_seconds_bucket", "0.025"] == 7
    assert found["request_duration_seconds_bucket", "+Inf"] == 8
    assert found["request_duration_seconds_count",] == 8
    assert found["request_duration_seconds_sum",] == 100.5


def test_a_silent_worker_shows_its_silence_and_its_state_and_no_old_gauges() -> None:
    found = samples(make_text(snapshot(make_row(seen=NOW - 5, websockets=3))))
    assert found["worker_silent_seconds", "7"] == 5
    assert found["worker_state", "7", "serving"] == 1
    assert found["worker_age_seconds", "7"] == 60
    assert not [key for key in found if key[0] in {metric.name for metric in GAUGES}]


def test_a_worker_that_loads_its_application_is_not_silent() -> None:
    row = make_row(state=STATES.index(State.STARTING), seen=NOW - 50)
    found = samples(make_text(snapshot(row)))
    assert found["worker_silent_seconds", "7"] == 0
    assert [key[2] for key, value in found.items() if key[0] == "worker_state" and value] == [
        "starting"
    ]


def test_a_gauge_that_the_system_does_not_tell_is_left_out() -> None:
    state = snapshot(make_row(resident_memory_bytes=UNKNOWN))
    assert not [key for key in samples(make_text(state)) if key[0] == "resident_memory_bytes"]
    assert json.loads(make_json(state))["workers"][0]["gauges"]["resident_memory_bytes"] is None


def test_help_and_label_values_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = 'quote " backslash \\ and\na line'
    metric = Metric("requests_total", Kind.COUNTER, odd, "odd", (odd,))
    monkeypatch.setattr(exposition, "COUNTERS", (metric,))
    family = parse(make_text(snapshot(make_row(requests_total=1))))["gunicorn_asgi_requests"]
    assert family.documentation == odd
    assert [sample.labels for sample in family.samples] == [{"odd": odd}]


# JSON.


def test_json_has_the_same_facts() -> None:
    rows = [make_row(pid=7, requests_total=3), make_row(pid=8, requests_total=4, tasks=2)]
    facts = json.loads(make_json(snapshot(*rows)))
    assert facts["totals"]["requests_total"] == 7
    assert set(facts["totals"]) == {metric.name for metric in COUNTERS}
    one, two = facts["workers"]
    assert (one["pid"], one["state"], one["age_seconds"], one["silent_seconds"]) == (
        7,
        "serving",
        60,
        0,
    )
    assert (one["counters"]["requests_total"], two["counters"]["requests_total"]) == (3, 4)
    assert set(two["gauges"]) == {metric.name for metric in GAUGES}
    assert two["gauges"]["tasks"] == 2
    assert two["gauges"]["connections"] == {"idle": 0, "busy": 0, "handshaking": 0}


# The table.


def test_a_row_that_is_given_to_another_worker_leaves_its_counters_in_the_totals() -> None:
    table = MetricsTable()
    table.take(0).write(make_row(requests_total=3, tasks=5))
    table.take(1).write(make_row(requests_total=4))
    before = take_snapshot(*table.read(), NOW).totals
    table.take(0)
    totals, rows = table.read()
    assert take_snapshot(totals, rows, NOW).totals[FIRST_COUNTER:][0] == 7
    assert before[PLACES["requests_total"]] == 7
    assert totals[PLACES["requests_total"]] == 3
    assert list(rows[0]) == [0.0] * WIDTH
    assert totals[PLACES["tasks"]] == 0


def test_a_worker_that_ends_leaves_its_counters_in_its_row() -> None:
    table = MetricsTable()
    row = table.take(0)
    row.write(make_row(requests_total=3))
    row.end()
    state = take_snapshot(*table.read(), NOW)
    assert (state.totals[PLACES["requests_total"]], state.workers) == (3, [])


def test_reading_ends_even_if_the_master_was_killed_while_it_changed_rows() -> None:
    table = MetricsTable()
    table.take(0).write(make_row(requests_total=3))
    table._heads[0] += 1
    assert take_snapshot(*table.read(), NOW).totals[PLACES["requests_total"]] == 3


# The master.


class Worker:
    """Of Gunicorn's worker what the master's side asks for."""

    def __init__(self, cfg: Config, log: Log, **options: Any) -> None:
        self.cfg = cfg
        self.log = log
        self.options = options


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def master() -> Iterator[MasterMetrics]:
    made = MasterMetrics()
    yield made
    if made._socket is not None:
        made._socket.close()


def test_numbers_that_nobody_is_shown_are_not_counted(master: MasterMetrics, log: Log) -> None:
    assert master.prepare(Worker(Config(), log)) is None
    cfg = Config()
    cfg.set("statsd_host", "127.0.0.1:9")
    assert master.prepare(Worker(cfg, log, statsd_interval=0)) is None
    again = Config()
    again.set("statsd_host", "127.0.0.1:9")
    assert master.prepare(Worker(again, log)) is not None


def test_a_worker_has_a_row_of_its_own_until_the_master_drops_it(
    master: MasterMetrics, log: Log
) -> None:
    cfg = Config()
    workers = [Worker(cfg, log, metrics_bind="127.0.0.1:0") for _ in range(4)]
    slots = [master.prepare(worker)._row.slot for worker in workers]  # type: ignore[union-attr]  # they are on
    assert slots == [0, 1, 2, 3]
    del workers[1]
    gc.collect()
    late = [Worker(cfg, log, metrics_bind="127.0.0.1:0") for _ in range(2)]
    assert [master.prepare(worker)._row.slot for worker in late] == [1, 4]  # type: ignore[union-attr]  # they are on


def test_more_workers_than_rows_are_served_without_numbers(master: MasterMetrics, log: Log) -> None:
    cfg = Config()
    workers = [Worker(cfg, log, metrics_bind="127.0.0.1:0") for _ in range(SLOTS + 1)]
    assert [master.prepare(worker) is None for worker in workers] == [False] * SLOTS + [True]
    assert len(log.take("warning")) == 1


def test_an_address_that_is_taken_stops_the_first_worker_and_no_later_one(
    master: MasterMetrics, log: Log
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"metrics_bind: cannot listen at {bind}: .*in use"):
            MasterMetrics().prepare(Worker(Config(), log, metrics_bind=bind))
        assert master.prepare(Worker(Config(), log)) is None
        assert master.prepare(Worker(Config(), log, metrics_bind=bind)) is not None
        (line,) = log.take("error")
        assert bind in line.text


def test_a_name_that_no_host_can_have_is_refused_with_a_sentence(log: Log) -> None:
    host = "a" * 70
    with pytest.raises(ConfigError, match=f"cannot listen at {host}:1: ."):
        MasterMetrics().prepare(Worker(Config(), log, metrics_bind=f"{host}:1"))


def test_the_master_of_a_usr2_listens_at_the_same_address(
    master: MasterMetrics, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = MetricsSocket(("127.0.0.1", 0), 0, -1, -1, False)
    try:
        bind = str(first)
        monkeypatch.setenv("GUNICORN_PID", "1")
        assert master.prepare(Worker(Config(), log, metrics_bind=bind)) is not None
        assert str(master._socket) == bind
    finally:
        first.close()


def test_a_hup_keeps_the_socket_unless_its_address_changes(
    master: MasterMetrics, log: Log, tmp_path: Path
) -> None:
    path = tmp_path / "numbers"
    master.prepare(Worker(Config(), log, metrics_bind=f"unix:{path}"))
    first = master._socket
    master.prepare(Worker(Config(), log, metrics_bind=f"unix:{path}"))
    assert master._socket is first
    master.prepare(Worker(Config(), log, metrics_bind="127.0.0.1:0"))
    assert master._socket is not first
    assert not path.exists()
    master.prepare(Worker(Config(), log))
    assert master._socket is None


def test_a_unix_socket_is_removed_by_the_process_that_has_made_it_unless_another_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "numbers"
    first = MetricsSocket(str(path), 0o077, -1, -1, False)
    assert path.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ConfigError, match="another process listens there"):
        MetricsSocket(str(path), 0, -1, -1, False)
    second = MetricsSocket(str(path), 0, -1, -1, True)  # the master of a USR2
    first.close()
    assert path.exists()
    with monkeypatch.context() as forked:
        forked.setattr("os.getpid", lambda: 1)
        second.close()
    assert path.exists()
    third = MetricsSocket(str(path), 0, -1, -1, False)  # nobody listens there any more
    third.close()
    assert not path.exists()
    path.write_text("a file")
    with pytest.raises(ConfigError, match="no socket"):
        MetricsSocket(str(path), 0, -1, -1, False)


# Statsd.


class Sink:
    """A logger class with Gunicorn's method for gauges."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, float]] = []
        self.warnings: list[str] = []
        self.error: Exception | None = None

    def gauge(self, name: str, value: float) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append((name, value))

    def warning(self, message: str, *args: object) -> None:
        self.warnings.append(message % args)


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def test_statsd_gets_the_sums_and_of_lags_the_largest() -> None:
    rows = [
        make_row(pid=7, running_requests=2, loop_lag_seconds=0.5, received_bytes_total=10),
        make_row(pid=8, running_requests=3, loop_lag_seconds=0.25),
        make_row(pid=9, running_requests=9, seen=NOW - 9),
    ]
    sent = dict(list_gauges(snapshot(*rows)))
    assert sent["gunicorn.running_requests"] == 5
    assert sent["gunicorn.loop_lag_seconds"] == 0.5
    assert sent["gunicorn.received_bytes_total"] == 10
    assert sent["gunicorn.worker_state.serving"] == 3
    assert sent["gunicorn.worker_silent_seconds"] == 9
    assert sent["gunicorn.connections.busy"] == 0
    assert not {"gunicorn.requests_total", "gunicorn.responses_total.2xx"} & set(sent)


def test_one_worker_sends_for_all_once_in_the_interval() -> None:
    table, clock = MetricsTable(), Clock()
    sinks = [Sink(), Sink()]
    senders = [StatsdGauges(sink, 10.0, clock) for sink in sinks]
    rows = [table.take(0), table.take(1)]

    def tick(seconds: float, living: int) -> list[int]:
        clock.now += seconds
        for row in rows[len(rows) - living :]:
            row.write(make_row(seen=clock.now))
        before = [len(sink.sent) for sink in sinks]
        for row, sender in zip(rows, senders, strict=True):
            sender.tick(row, lambda: snapshot(make_row()))
        return [len(sink.sent) - count for sink, count in zip(sinks, before, strict=True)]

    assert tick(9, 2) == [0, 0]
    (first, second) = tick(1, 2)
    assert first > 20
    assert second == 0
    assert tick(1, 2) == [0, 0]
    senders.pop(0)
    rows_of_first = rows.pop(0)
    rows_of_first.end()
    sinks.pop(0)
    assert tick(10, 1) == [first]


def test_a_logger_that_fails_costs_a_line_and_no_heartbeat() -> None:
    table, clock, sink = MetricsTable(), Clock(), Sink()
    sink.error = ValueError("no gauges")
    sender = StatsdGauges(sink, 10.0, clock)
    for _ in range(3):
        clock.now += 10
        sender.tick(table.take(0), lambda: snapshot(make_row()))
    (line,) = sink.warnings
    assert line.startswith("Gauges could not be sent to statsd: ValueError")


def test_a_logger_without_gauges_gets_none() -> None:
    clock = Clock()
    sender = StatsdGauges(SimpleNamespace(), 10.0, clock)
    clock.now += 100
    sender.tick(MetricsTable().take(0), lambda: pytest.fail("nobody wants it"))


# The address.


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("127.0.0.1:9108", ("127.0.0.1", 9108)),
        ("numbers.internal:0", ("numbers.internal", 0)),
        ("[::1]:9108", ("::1", 9108)),
        ("[fe80::1%eth0]:9108", ("fe80::1%eth0", 9108)),
        ("unix:/run/a b/numbers", "/run/a b/numbers"),
    ],
)
def test_an_address_is_written_as_gunicorns_bind(text: str, address: Any) -> None:
    assert make_settings(metrics_bind=text).metrics_bind == address


# The reporter and its page.


def test_a_number_that_cannot_be_taken_costs_a_line_and_no_heartbeat(
    master: MasterMetrics, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = master.prepare(Worker(Config(), log, metrics_bind="127.0.0.1:0"))
    assert reporter is not None
    reporter.start()
    with serve(hello) as server:
        server.call(reporter.attach, server.server, lambda: State.SERVING, log)
        server.call(reporter.tick, 1.0)
        (worker,) = server.call(reporter.snapshot).workers
        assert (worker.pid, worker.state) == (os.getpid(), State.SERVING)

        def fail() -> float:
            raise RuntimeError

        monkeypatch.setattr(gauges, "resident_bytes", fail)
        before = reporter._values[SEEN]
        for _ in range(3):
            server.call(reporter.tick, 1.0)
        assert reporter._values[SEEN] > before
        (line,) = log.take("warning")
        assert line.text.startswith("Numbers could not be taken: RuntimeError")


def test_the_page_has_defaults_whatever_the_application_has() -> None:
    given = make_settings(
        "h11",
        keepalive=75,
        limit_concurrency=1,
        head_timeout=99,
        server_header="me",
        worker_connections=1,
    )
    own = page_settings(given)
    assert (own.http, own.asgi_loop, own.server_header) == ("h11", given.asgi_loop, "me")
    assert (own.keepalive_s, own.head_timeout_s) == (0, 5)
    assert (own.websocket, own.http2) == (None, False)
    assert own.limit_concurrency == own.worker_connections == MAX_CONNECTIONS
    assert own.forwarded_allow_ips == ()


def test_lines_of_the_page_name_the_option(log: Log) -> None:
    page = PageLog(log)
    page.warning("worker_connections is %d", 32)
    page.error("an error")
    page.info("a line")
    page.debug("nothing")
    assert [line.text for line in log.lines] == [
        "metrics_bind: worker_connections is 32",
        "metrics_bind: an error",
        "metrics_bind: a line",
    ]


# Counting, in process.


class Counted:
    """A server whose exchanges, bytes and connections are counted."""

    def __init__(self, server: InProcess, values: list[float]) -> None:
        self.server = server
        self.values = values
        server.call(setattr, server.server, "transport_class", counting_transport(values))
        self.gauges = Gauges(server.server, values)

    def __getitem__(self, name: str) -> float:
        """A number by its name, with ``.`` and the value of its label."""
        name, _, label = name.partition(".")
        self.server.call(self.gauges.refresh)
        metric = next(metric for metric in METRICS if metric.name == name)
        return self.values[PLACES[name] + (metric.values.index(label) if label else 0)]

    def wait(self, name: str, value: float) -> None:
        """Wait until a number is `value`: the end of an exchange may come after its response."""

        def is_there() -> bool:
            self.gauges.refresh()
            place, _, label = name.partition(".")
            metric = next(metric for metric in METRICS if metric.name == place)
            offset = metric.values.index(label) if label else 0
            return self.values[PLACES[place] + offset] == value

        self.server.wait_until(is_there)


def count_access(values: list[float], is_logged: bool = False) -> CountingAccess:
    access = CountingAccess(
        SimpleNamespace(cfg=Config(), log=AccessLog(), nr=0),  # type: ignore[arg-type]  # a worker, as far as it is asked
        values,
    )
    if not is_logged:
        access.is_needed = access.needs_headers = False
    return access


@pytest.fixture
def values() -> list[float]:
    return [0.0] * WIDTH


async def routes(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/fails":
        raise ValueError("the application's own")
    await answer(send, b"0123456789", int(scope["path"][1:]))


@pytest.mark.parametrize("is_logged", [False, True])
def test_responses_are_counted_by_class_with_bodies_and_durations(
    parser: str, values: list[float], is_logged: bool
) -> None:
    access = count_access(values, is_logged)
    with serve(routes, parser, access=access) as server:
        counted = Counted(server, values)
        client = server.connect()
        for status in (200, 201, 301, 404, 503):
            client.send(request("GET", f"/{status}"))
            assert client.read_response().status == status
        client.send(request("GET", "/fails"))
        assert client.read_response().status == 500
        server.log.take("error")
        counted.wait("responses_total.5xx", 2)
        assert [counted[f"responses_total.{name}"] for name in ("2xx", "3xx", "4xx")] == [2, 1, 1]
        assert counted["requests_total"] == 6
        assert counted["response_body_bytes_total"] == 5 * 10 + len("Internal Server Error")
        first = PLACES["request_duration_seconds"]
        assert sum(values[first : first + len(BUCKETS) + 1]) == 6
        assert values[first + len(BUCKETS) + 1] > 0
        assert counted["refused_requests_total.500"] == 0
        assert len(access._log.lines) == (6 if is_logged else 0)


def test_a_client_that_leaves_before_its_response_is_a_499(
    parser: str, values: list[float]
) -> None:
    called, go = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.set()
        await go.reached()

    with serve(app, parser, access=count_access(values)) as server:
        counted = Counted(server, values)
        client = server.connect()
        client.send(GET)
        called.wait()
        client.reset()
        server.wait_lost()
        assert counted["connections.busy"] == 0
        assert counted["running_requests"] == 1
        go.set()
        counted.wait("responses_total.499", 1)
        server.wait_until(server.is_idle)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "400"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", "414"),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", "505"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n", "400"),
    ],
)
def test_a_refused_request_is_counted_by_its_status_and_class_once(
    parser: str, values: list[float], data: bytes, status: str
) -> None:
    with serve(mirror, parser, access=count_access(values)) as server:
        counted = Counted(server, values)
        client = server.connect()
        client.send(data)
        assert client.read_response().status == int(status)
        counted.wait(f"refused_requests_total.{status}", 1)
        counted.wait(f"responses_total.{status[0]}xx", 1)
        server.log.take("warning")


def test_a_request_above_limit_concurrency_is_counted_as_refused(
    parser: str, values: list[float]
) -> None:
    called, go = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.set()
        await go.reached()
        await answer(send)

    with serve(app, parser, access=count_access(values), limit_concurrency=1) as server:
        counted = Counted(server, values)
        first, second = server.connect(), server.connect()
        first.send(GET)
        called.wait()
        second.send(GET)
        assert second.read_response().status == 503
        counted.wait("refused_requests_total.503", 1)
        go.set()
        assert first.read_response().status == 200
        server.advance(2)
        server.log.take("warning")


def test_the_bytes_of_a_connection_are_those_on_the_wire(parser: str, values: list[float]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, await read_body(receive))

    with serve(app, parser, access=count_access(values)) as server:
        counted = Counted(server, values)
        client = server.connect()
        body = b"x" * 300_000
        data = request("POST", "/", b"Content-Length: %d" % len(body)) + body
        client.send(data)
        received = 0

        def receive() -> bool:
            nonlocal received
            before = len(client.buffer)
            is_open = Client.receive(client)
            received += len(client.buffer) - before
            return is_open

        client.receive = receive  # type: ignore[method-assign]  # it is counted
        assert client.read_response().body == body
        client.send(GET)
        client.read_response()
        counted.wait("received_bytes_total", len(data) + len(GET))
        counted.wait("sent_bytes_total", received)
        assert counted["accepted_connections_total"] == 1


def test_the_bytes_of_a_file_that_the_kernel_sends_are_counted(
    parser: str, values: list[float], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        length = [(b"content-length", b"3000000")]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.pathsend", "path": str(path)})

    with serve(app, parser, access=count_access(values)) as server:
        counted = Counted(server, values)
        client = server.connect()
        client.send(GET)
        head = client.recv_until(b"\r\n\r\n")
        while len(client.buffer) < 3_000_000:
            client.receive()
        counted.wait("sent_bytes_total", len(head) + 3_000_000)


def test_connections_are_idle_or_busy_or_handshaking(
    parser: str, values: list[float], tmp_path: Path
) -> None:
    called, go = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.set()
        await go.reached()
        await answer(send)

    with serve(app, parser, access=count_access(values), proxy_protocol=True) as server:
        counted = Counted(server, values)
        silent, busy, idle = server.connect(), server.connect(), server.connect()
        proxy = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n"
        busy.send(proxy + GET)
        called.wait()
        idle.send(proxy)
        counted.wait("connections.handshaking", 1)
        counted.wait("connections.idle", 1)
        assert counted["connections.busy"] == 1
        assert counted["running_requests"] == 1
        go.set()
        assert busy.read_response().status == 200
        counted.wait("connections.idle", 2)
        assert counted["connections.busy"] == 0
        silent.close()


def test_bytes_that_do_not_leave_are_a_gauge(parser: str, values: list[float]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x" * 20_000_000)

    with serve(app, parser, access=count_access(values)) as server:
        counted = Counted(server, values)
        client = server.connect(receive_buffer=4096)
        client.send(GET)
        server.wait_clogged()
        assert counted["unsent_bytes"] > 0
        client.reset()
        server.wait_until(server.is_idle)
        assert counted["unsent_bytes"] == 0


@pytest.mark.parametrize("way", WAYS)
def test_websockets_are_a_gauge_and_in_no_duration(values: list[float], way: str) -> None:
    streams = int(OVER_2 in way)
    with serve_way(echo, way, access=count_access(values)) as server:
        counted = Counted(server, values)
        websocket = connect(server)
        counted.wait("websockets", 1)
        assert counted["http2_streams"] == streams
        assert counted["connections.busy"] == 1
        websocket.close()
        counted.wait("websockets", 0)
        counted.wait("responses_total.2xx" if streams else "responses_total.1xx", 1)
        first = PLACES["request_duration_seconds"]
        assert sum(values[first : first + len(BUCKETS) + 2]) == 0


def test_the_streams_of_http2_are_a_gauge(values: list[float], parser: str) -> None:
    called, go = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/2":
            called.set()
        await go.reached()
        await answer(send)

    with serve2(app, parser, access=count_access(values)) as server:
        counted = Counted(server, values)
        client = h2client.connect(server)
        streams = [client.begin("GET", path) for path in ("/1", "/2")]
        called.wait()
        assert counted["http2_streams"] == 2
        assert counted["connections.busy"] == 1
        go.set()
        for stream in streams:
            assert client.read_response(stream).status == 200
        counted.wait("http2_streams", 0)
        counted.wait("responses_total.2xx", 2)


def test_very_many_connections_are_looked_at_in_several_turns(
    values: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges, "AT_ONCE", 2)
    with serve(hello, access=count_access(values)) as server:
        counted = Counted(server, values)
        clients = [server.connect() for _ in range(5)]
        server.wait_until(lambda: len(server.server.connections) == 5)
        steps: list[int] = []
        go_on = counted.gauges._go_on

        def step() -> bool:
            has_more = go_on()
            steps.append(len(counted.gauges._left))
            return has_more

        monkeypatch.setattr(counted.gauges, "_go_on", step)
        server.call(counted.gauges.refresh)
        server.settle()
        assert steps == [3, 1, 0]
        assert values[PLACES["connections"]] == 5
        clients[0].close()
        server.wait_until(lambda: len(server.server.connections) == 4)
        server.call(counted.gauges.refresh)
        server.settle()
        assert values[PLACES["connections"]] == 4


def test_the_lag_is_the_lateness_of_the_heartbeat_and_the_worst_of_a_minute() -> None:
    lag = Lag()
    assert lag.tick(100.0, 1.0) == (0, 0)
    assert lag.tick(101.5, 1.0) == (0.5, 0.5)
    assert lag.tick(102.75, 1.0) == (0.25, 0.5)
    assert lag.tick(103.0, 1.0) == (0, 0.5)
    assert lag.tick(104.0, 58.0) == (0, 0.5)
    assert lag.tick(161.6, 1.0) == (0, 0.25)
    assert lag.tick(162.6, 1.0) == (0, 0.25)
    assert lag.tick(163.6, 1.0) == (0, 0)


def test_the_resident_memory_is_known_on_linux() -> None:
    if not Path("/proc/self/statm").exists():
        assert resident_bytes() is None
    else:
        assert 2**20 < (resident_bytes() or 0) < 2**36


if __name__ == "__main__":
    print(metrics_table())
