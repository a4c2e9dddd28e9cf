"""How long Gunicorn and its workers take to end."""

from __future__ import annotations

import os
import select
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployment import Deployment, deployed
from servers import Server
from strict import Ask, Connection
from turnover import children

GRACEFUL_SECONDS = 10
"""Gunicorn's graceful_timeout in these measurements: what reaches it was killed."""
IDLE = 8
"""Idle keep-alive connections."""

HELLO = Ask("GET", (b"GET / HTTP/1.1\r\nHost: test\r\n\r\n",), 0.0, b"")
SLOW = b"GET /streamed?seconds=300 HTTP/1.1\r\nHost: test\r\n\r\n"


@dataclass(frozen=True)
class Exit:
    """One way to end."""

    title: str
    number: signal.Signals
    idle: int = 0
    """Connections that have had a response, and wait."""
    slow: int = 0
    """Responses that have begun and do not end."""
    to_worker: bool = False
    """Whether one worker is told, instead of the master."""


EXITS = (
    Exit("TERM to a worker, no connection", signal.SIGTERM, to_worker=True),
    Exit("TERM, no connection", signal.SIGTERM),
    Exit(f"TERM to a worker, {IDLE} idle connections", signal.SIGTERM, idle=IDLE, to_worker=True),
    Exit(f"TERM, {IDLE} idle connections", signal.SIGTERM, idle=IDLE),
    Exit("QUIT, a running response and an idle connection", signal.SIGQUIT, idle=1, slow=1),
    Exit("INT, a running response and an idle connection", signal.SIGINT, idle=1, slow=1),
)


def seconds(server: Server, way: Exit, settings: Sequence[str]) -> float:
    """From the signal to the end of the process that it was sent to. Raises StartError and LostError."""
    # One worker: it serves, or nobody would have answered, and has all the connections.
    settings = [*settings, "--graceful-timeout", str(GRACEFUL_SECONDS)]
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        deployed(server, Path(name), 1, settings) as deployment,
        _clients(deployment, way),
    ):
        pid = min(children(deployment.master)) if way.to_worker else deployment.master
        return _measure(pid, way.number)


@contextmanager
def _clients(deployment: Deployment, way: Exit) -> Iterator[None]:
    """Idle connections, and such that wait for the rest of a response. They do not react to anything."""
    made = []
    try:
        for _ in range(way.idle):
            made.append(Connection(deployment.address, deployment.tls))
            made[-1].exchange(HELLO)
        for _ in range(way.slow):
            made.append(Connection(deployment.address, deployment.tls))
            made[-1].begin(SLOW)
        yield
    finally:
        for connection in made:
            connection.close()


def _measure(pid: int, number: int) -> float:
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        begun = time.monotonic()
        os.kill(pid, number)
        poll.poll(3000 * GRACEFUL_SECONDS)
        return time.monotonic() - begun
    finally:
        os.close(descriptor)
