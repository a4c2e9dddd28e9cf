"""The running requests of a worker as lines of text: their age, and the calls that they wait in."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..http.contract import ASGIStream, ExchangeTask
from .printable import printable
from .stacks import name_calls, read_awaits

MAX_LISTED = 50
"""Requests, tasks and threads in a report, of each. The arbiter kills a second after ABRT."""
MAX_PATH = 200
HOLDS = "which holds the loop"

RunningExchanges = Mapping[ExchangeTask, tuple[ASGIStream, float]]
"""The tasks of running requests, each with its exchange and its start (``time.monotonic``)."""


def list_requests(
    running: RunningExchanges, blocking: ASGIStream | None = None, silence: float = 0.0
) -> list[str]:
    """Return a heading and a line for each running request, the oldest first.

    `blocking`: the exchange that has held the event loop for `silence` seconds.
    """
    now = time.monotonic()
    requests: list[tuple[float, ASGIStream, ExchangeTask | None]]
    requests = [(began, stream, task) for task, (stream, began) in list(running.items())]
    requests.sort(key=lambda request: request[0])
    if blocking is not None and not any(stream is blocking for _, stream, _ in requests):
        # Its task runs its first step: it began when the loop was blocked.
        requests.append((now - silence, blocking, None))
    return list_lines(
        "Running requests",
        [
            f"{title(stream)} for {now - began:.1f} s, "
            f"{HOLDS if stream is blocking else name_calls(read_awaits(task))}"
            for began, stream, task in requests[:MAX_LISTED]
        ],
        len(requests),
    )


def title(stream: ASGIStream) -> str:
    """Return the method and the path of a request."""
    return printable(f"{stream.method} {stream.raw_path[:MAX_PATH].decode('latin-1')}")


def list_lines(heading: str, lines: list[str], count: int) -> list[str]:
    """Return `heading` with `count`, the indented `lines`, and how many are left out."""
    more = [f"  and {count - len(lines)} more"] if count > len(lines) else []
    return [f"{heading}: {count}", *(f"  {line}" for line in lines), *more]
