"""What 10,000 idle connections cost a worker, and a request beside them. For targets.py."""

from __future__ import annotations

import resource
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import measure
from scenarios import STEP_SECONDS, Scenario
from servers import OURS, Running, by_name, free_port, pinned, running

SETTINGS = {"GUNICORN_CMD_ARGS": "--worker-connections 20000 --keep-alive 600"}
SETTLE_SECONDS = 2.0
SPARE_FILES = 200
AT_ONCE = 500
"""Connections that are opened before the first answer is awaited; Gunicorn's backlog is 2,048."""
# Closed by a reset: no port stays taken for a minute.
LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Idle:
    """Of one round."""

    connections: int
    tick_ms: float
    """CPU time in a second in which nothing happens, beyond that without connections. The tick comes once a second."""
    alone_us: float
    """CPU time of a request on the only connection."""
    beside_us: float
    """The same beside the idle ones."""


def allowed(connections: int) -> int:
    """So many, or as many as this process may open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the server's, too
    return min(connections, hard - SPARE_FILES)


def measured(
    scenario: Scenario, connections: int, seconds: int, server_core: int, load_core: int
) -> Idle:
    """One round, with a server of its own. Raises StartError, WrongAnswerError, LoadError, OSError."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        script = folder / "load.lua"
        script.write_text(scenario.script(port))
        command = by_name(OURS).command(scenario.app, port)
        with running(command, port, folder, server_core, SETTINGS) as server:
            scenario.check(port)
            alone_us = _request_us(server, script, seconds, load_core)
            without = _quiet_ms(server, seconds)
            with pinned(load_core), _opened(scenario, port, connections):
                quiet = _quiet_ms(server, seconds)
                beside_us = _request_us(server, script, seconds, load_core)
    return Idle(connections, quiet - without, alone_us, beside_us)


def _request_us(server: Running, script: Path, seconds: int, load_core: int) -> float:
    measure.wrk(server.port, script, 1, load_core, measure.WARM_UP_SECONDS)
    before = measure.cpu_ns(server.pid)
    load = measure.wrk(server.port, script, 1, load_core, seconds)
    if not load.requests or any(load.errors.values()):
        raise measure.LoadError(f"errors: {measure.describe(load.errors) or 'no answers'}")
    return (measure.cpu_ns(server.pid) - before) / 1000 / load.requests


def _quiet_ms(server: Running, seconds: int) -> float:
    """CPU time in a second in which nobody asks."""
    time.sleep(SETTLE_SECONDS)
    before, begun = measure.cpu_ns(server.pid), time.monotonic()
    time.sleep(seconds)
    return (measure.cpu_ns(server.pid) - before) / 1e6 / (time.monotonic() - begun)


@contextmanager
def _opened(scenario: Scenario, port: int, connections: int) -> Iterator[None]:
    """So many connections that have had an answer to their first request."""
    request = scenario.request(port).encode()
    with ExitStack() as stack:
        for first in range(0, connections, AT_ONCE):
            some = []
            for _ in range(first, min(first + AT_ONCE, connections)):
                sock = stack.enter_context(
                    socket.create_connection(("127.0.0.1", port), timeout=STEP_SECONDS)
                )
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
                sock.sendall(request)
                some.append(sock)
            for sock in some:
                if not sock.recv(65536).endswith(scenario.expected):
                    raise measure.LoadError("an idle connection had no answer to its request")
        yield
