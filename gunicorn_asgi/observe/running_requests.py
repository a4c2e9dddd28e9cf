"""The running requests of a worker as lines of text: their age, and the calls that they wait in."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..http.contract import ApplicationTask, ASGIStream
from .printable import printable
from .stacks import name_calls, read_awaits
from .tasks import HOLDS, NamedTask, describe_children, list_children

MAX_LISTED = 50
"""Requests, tasks and threads in a report, of each. The arbiter kills a second after ABRT."""
MAX_PATH = 200
"""Bytes of a request's path in a report, or in the name of its task."""

RunningExchanges = Mapping[ApplicationTask, tuple[ASGIStream, float]]
"""The tasks of running requests, each with its exchange and its start (``time.monotonic``)."""


def list_requests(
    running: RunningExchanges, blocking: ASGIStream | None = None, silence: float = 0.0
) -> list[str]:
    """Return a heading, and a line for each running request and each of its tasks.

    The oldest request comes first. `blocking`: the exchange whose own task has held the event loop
    for `silence` seconds.
    """
    now = time.monotonic()
    requests: list[tuple[float, ASGIStream, ApplicationTask | None]]
    requests = [(began, stream, task) for task, (stream, began) in list(running.items())]
    requests.sort(key=lambda request: request[0])
    if blocking is not None and not any(stream is blocking for _, stream, _ in requests):
        # Its task runs its first step: it began when the loop was blocked.
        requests.append((now - silence, blocking, None))
    lines: list[str] = []
    for began, stream, task in requests[:MAX_LISTED]:
        calls = HOLDS if stream is blocking else name_calls(read_awaits(task))
        lines.append(f"{title(stream)} for {now - began:.1f} s, {calls}")
        lines += [f"  {line}" for line in describe_children(task)]
    return list_lines("Running requests", lines, len(requests), len(requests) - MAX_LISTED)


def find_holder(running: RunningExchanges) -> tuple[ASGIStream, NamedTask] | None:
    """Return the exchange of which another task than its own holds the loop, and that task."""
    for task, (stream, _) in list(running.items()):
        for child in list_children(task)[:1]:
            if child.is_running:
                return stream, child
    return None


def title(stream: ASGIStream) -> str:
    """Return the method and the path of a request."""
    return printable(f"{stream.method} {stream.raw_path[:MAX_PATH].decode('latin-1')}")


def list_lines(heading: str, lines: list[str], count: int, left_out: int) -> list[str]:
    """Return `heading` with `count`, the indented `lines`, and how many are left out."""
    more = [f"  and {left_out} more"] if left_out > 0 else []
    return [f"{heading}: {count}", *(f"  {line}" for line in lines), *more]
