"""The client of http2.py: h2load, and what it says of the answers; and connections that only stay."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import apps
import measure
from http2_scenarios import CONNECTIONS, STREAMS, Scenario
from measure import Load, LoadError
from scenarios import STEP_SECONDS
from servers import Running

TOGETHER = CONNECTIONS * STREAMS
ENOUGH_SECONDS = 0.3
"""A run that is shorter tells little of the rate."""
MAX_SECONDS = 60.0
SETTLE_SECONDS = 0.5
FIRST = 20
"""Connections that come and go before the memory is measured, so that what the server loads and keeps once is not counted."""

RATE = re.compile(r"finished in \S+, ([\d.]+) req/s")
REQUESTS = re.compile(
    r"requests: (\d+) total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout"
)
STATUSES = re.compile(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx")
CONTENT = re.compile(r"\((\d+)\) data$", re.MULTILINE)


class H2Load:
    """h2load with one thread on one core, against a running server.

    It is told a number of requests and not a time: at the end of one, it forgets what is under way, which of large requests to a slow
    server is most of what there was.
    """

    def __init__(self, scenario: Scenario, port: int, folder: Path, cpu: int) -> None:
        self._scenario, self._cpu = scenario, cpu
        self._log = folder / "requests.log"
        uris = folder / "uris.txt"
        base = f"{'https' if scenario.tls else 'http'}://127.0.0.1:{port}"
        uris.write_text("".join(f"{base}{target}\n" for target in scenario.targets))
        self._command = [
            "h2load",
            "-t",
            "1",
            "-c",
            str(CONNECTIONS),
            "-m",
            str(STREAMS),
            "-i",
            str(uris),
            "--log-file",
            str(self._log),
        ]
        for name, value in scenario.headers:
            self._command += ["-H", f"{name}: {value}"]
        if scenario.size:
            body = folder / "body"
            body.write_bytes(bytes(scenario.size))
            self._command += ["-d", str(body)]
        self._rate = self._find_rate()

    def _find_rate(self) -> float:
        requests = TOGETHER
        while True:
            done = self._run(requests)
            if done.seconds >= ENOUGH_SECONDS or not done.requests:
                return done.requests / done.seconds
            requests *= 4

    def __call__(self, seconds: int) -> Load:
        """As many requests as will take about so long. Raises LoadError."""
        done = self._run(max(1, round(self._rate * seconds / TOGETHER)) * TOGETHER)
        self._rate = done.requests / done.seconds
        return done

    def _run(self, requests: int) -> Load:
        self._log.unlink(missing_ok=True)  # it would be written on
        output = measure.client([*self._command, "-n", str(requests)], self._cpu, MAX_SECONDS)
        rate, counts, statuses, content = (
            pattern.search(output) for pattern in (RATE, REQUESTS, STATUSES, CONTENT)
        )
        if rate is None or counts is None or statuses is None or content is None:
            raise LoadError(f"h2load says: {output.strip()[-300:]}")
        total, succeeded, failed, errored, timeout = map(int, counts.groups())
        errors = {
            "reset or lost": errored - timeout,
            "timeout": timeout,
            "status": failed - errored + int(statuses[2]),
            "unanswered": total - succeeded - failed,
            "of another length": int(int(content[1]) != succeeded * len(self._scenario.expected)),
        }
        if not succeeded:
            raise LoadError(f"not one answer, errors: {measure.describe(errors)}")
        times = sorted(int(line.rpartition("\t")[2]) for line in self._log.read_text().splitlines())
        return Load(
            succeeded,
            succeeded / float(rate[1]),
            times[len(times) // 2],
            times[len(times) * 99 // 100],
            errors,
        )


def memory_per_connection(server: Running, connections: int) -> tuple[float, int]:
    """Bytes that `connections` have taken each, on which one request was answered, and those of the server before. Raises LoadError."""
    _close(_open(server.port, FIRST))
    time.sleep(SETTLE_SECONDS)
    before = measure.memory(server.pid)
    opened = _open(server.port, connections)
    time.sleep(SETTLE_SECONDS)
    after = measure.memory(server.pid)
    _close(opened)
    return (after - before) / connections, before


def _open(port: int, count: int) -> list[socket.socket]:
    """Connections that have had an answer to their first request."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection

    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    client.send_headers(
        1,
        [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", f"127.0.0.1:{port}"),
            (":path", "/"),
        ],
        end_stream=True,
    )
    begin = client.data_to_send()
    opened = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port), timeout=STEP_SECONDS)
        opened.append(sock)
        sock.sendall(begin)
    for sock in opened:
        received = b""
        while apps.HELLO not in received:
            data = sock.recv(65536)
            if not data:
                raise LoadError("it has closed a connection")
            received += data
    return opened


def _close(opened: list[socket.socket]) -> None:
    for sock in opened:
        sock.close()
