"""Pure: every metric, its place in the row of a worker, and its meaning.

A row is a list of floats: first the facts about the worker, then its counters, then its gauges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from itertools import accumulate
from typing import NamedTuple, Protocol

Row = Sequence[float]
"""The numbers of one worker."""


class Values(Protocol):
    """The numbers of one worker, to write to: its row in the shared memory, or a list in tests."""

    def __getitem__(self, place: int, /) -> float: ...
    def __setitem__(self, place: int, value: float, /) -> None: ...


PREFIX = "gunicorn_asgi_"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0)
"""Upper bounds of the histogram, in seconds."""
CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "499")
"""Classes of a status. 499, for a client that left before its response, is a class of its own."""
REFUSALS = ("400", "408", "414", "417", "431", "500", "501", "503", "505", "other")
"""Statuses of the server's own answers."""


class Kind(Enum):
    """The types of metrics in the text format of Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class State(Enum):
    """The state of a worker, as the others see it. The order is that of the numbers in a row."""

    STARTING = "starting"
    """The application is loaded, or its startup runs."""
    SERVING = "serving"
    HANDING_OVER = "handing_over"
    """It serves until a newer worker does."""
    LEAVING = "leaving"
    """It finishes what it has. It accepts no more, unless ``stop_delay`` goes on."""
    ENDED = "ended"
    """Its process is gone, or about to go."""


STATES = tuple(State)


class Metric(NamedTuple):
    """One metric. A label makes a series, and a place in the row, of each of its values."""

    name: str
    """Without PREFIX."""
    kind: Kind
    help: str
    label: str = ""
    values: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        return PREFIX + self.name

    @property
    def size(self) -> int:
        """The number of its places in a row."""
        if self.kind is Kind.HISTOGRAM:
            return len(BUCKETS) + 2  # above the last bound, and the sum
        return len(self.values) or 1


COUNTERS = (
    Metric(
        "requests_total",
        Kind.COUNTER,
        "Requests given to the application. The handshake of a WebSocket is one.",
    ),
    Metric(
        "responses_total",
        Kind.COUNTER,
        "Exchanges that have ended, by the class of their status; 499: the client left before its "
        "response began. Refused requests are among them.",
        "status",
        CLASSES,
    ),
    Metric(
        "refused_requests_total",
        Kind.COUNTER,
        "Requests answered by the server in place of the application, by status; 503 is "
        "limit_concurrency, or request_timeout.",
        "status",
        REFUSALS,
    ),
    Metric(
        "response_body_bytes_total", Kind.COUNTER, "Bytes of response bodies, without their framing"
    ),
    Metric(
        "accepted_connections_total", Kind.COUNTER, "Connections accepted, after their handshake"
    ),
    Metric(
        "connections_closed_for_room_total",
        Kind.COUNTER,
        "Idle connections closed at the limit worker_connections for clients that waited",
    ),
    Metric("received_bytes_total", Kind.COUNTER, "Bytes received from clients, after decryption"),
    Metric("sent_bytes_total", Kind.COUNTER, "Bytes written for clients, before encryption"),
    Metric(
        "request_duration_seconds",
        Kind.HISTOGRAM,
        "Time from the head of a request to the end of its response. WebSockets are not among "
        "them, nor requests whose head was refused.",
    ),
)
"""Metrics of the whole service: the sums over all workers since the master has started."""

GAUGES = (
    Metric(
        "connections",
        Kind.GAUGE,
        "Connections: handshaking (accepted; the TLS handshake or the PROXY header is awaited), "
        "busy (a request or a WebSocket is in progress), idle (all others)",
        "state",
        ("idle", "busy", "handshaking"),
    ),
    Metric("websockets", Kind.GAUGE, "Open WebSockets"),
    Metric("http2_streams", Kind.GAUGE, "Streams of HTTP/2 in progress, WebSockets included"),
    Metric("running_requests", Kind.GAUGE, "Requests and WebSockets whose application runs"),
    Metric("tasks", Kind.GAUGE, "Tasks of the event loop: the server's, and the application's"),
    Metric("unsent_bytes", Kind.GAUGE, "Bytes written for clients that wait in this process"),
    Metric("loop_lag_seconds", Kind.GAUGE, "How late the event loop ran the last heartbeat"),
    Metric(
        "loop_lag_max_seconds", Kind.GAUGE, "The largest loop_lag_seconds of the last 60 seconds"
    ),
    Metric("resident_memory_bytes", Kind.GAUGE, "Resident memory of the process (RSS)"),
)
"""Metrics of each worker, with its process id as the label ``worker``. A worker writes them."""

WORKER_GAUGES = (
    Metric("worker_age_seconds", Kind.GAUGE, "Time since the worker was started"),
    Metric(
        "worker_silent_seconds",
        Kind.GAUGE,
        "Time since the event loop of the worker last ran its heartbeat, which is due every second",
    ),
    Metric(
        "worker_state",
        Kind.GAUGE,
        "1 for the state of the worker: starting, serving, handing_over, leaving",
        "state",
        tuple(state.value for state in STATES[:-1]),
    ),
)
"""Metrics of each worker that the answering worker makes from the facts below, also of a worker
that is blocked."""

METRICS = (*COUNTERS, *GAUGES, *WORKER_GAUGES)

# Places in a row. The facts come first.
SEEN = 0
"""When the worker last wrote its row (``time.monotonic``, the same for all processes); 0: never."""
PID = 1
STATE = 2
"""The index in STATES."""
BORN = 3
"""When the worker was started (``time.monotonic``)."""
FACTS = 4

_ENDS = list(accumulate([metric.size for metric in (*COUNTERS, *GAUGES)], initial=FACTS))
PLACES = dict(zip([metric.name for metric in (*COUNTERS, *GAUGES)], _ENDS[:-1], strict=True))
"""The first place of each metric that is in a row."""
FIRST_COUNTER = FACTS
FIRST_GAUGE = PLACES[GAUGES[0].name]
WIDTH = _ENDS[-1]
"""The number of places in a row."""

UNKNOWN = math.nan
"""A gauge that this system does not tell."""


def class_place(status: int) -> int:
    """The place that counts a response with `status`."""
    first = PLACES["responses_total"]
    if status == 499:
        return first + CLASSES.index("499")
    return first + min(max(status // 100, 1), 5) - 1


def refusal_place(status: int) -> int:
    """The place that counts a request refused with `status`."""
    text = str(status)
    index = REFUSALS.index(text) if text in REFUSALS else len(REFUSALS) - 1
    return PLACES["refused_requests_total"] + index
