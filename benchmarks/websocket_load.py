"""The client of websocket.py, a process of its own on a core of its own: ``python -m websocket_load JOB``, where a job is JSON.

A client that takes longer for a message than the server measures itself. This one has no event loop, only an epoll and its connections (websocket_client.py).
"""

from __future__ import annotations

import gc
import json
import select
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

import measure
from scenarios import REPORT, STEP_SECONDS
from websocket_client import Book, Client
from websocket_scenarios import Job

WARM_UP_SECONDS = 1.0
SETTLE_SECONDS = 1.0
CLOSE_SECONDS = 3.0
TIMED = 8
"""Latency is that of every eighth connection."""
FIRST = 20
"""Connections that come and go before the memory is measured, so that what the server loads and keeps once is not counted."""


class Clients:
    """Connections that are driven together."""

    def __init__(self, job: Job, book: Book) -> None:
        self._job, self._book = job, book
        self._epoll = select.epoll()
        self._by_fd: dict[int, Client] = {}
        self._blocked: set[int] = set()

    def connect(self, count: int) -> list[Client]:
        """Open so many, one after the other. Raises measure.LoadError."""
        return [self._connect(number) for number in range(count)]

    def _connect(self, number: int) -> Client:
        client = Client(self._job, self._book, timed=not self._job.idle and number % TIMED == 0)
        self._by_fd[client.socket.fileno()] = client
        self._epoll.register(client.socket, select.EPOLLIN)
        return client

    def run(self, seconds: float) -> float:
        """Have them do what they do; returns the seconds that it really was."""
        begun = now = time.monotonic()
        while now < begun + seconds and self._by_fd:
            for fd, events in self._epoll.poll(begun + seconds - now):
                client = self._by_fd[fd]
                if events & select.EPOLLOUT:
                    client.write()
                if events & ~select.EPOLLOUT:
                    client.read()
                if client.gone:
                    self._drop(fd)
                elif client.blocked != (fd in self._blocked):
                    self._watch(fd, client.blocked)
            now = time.monotonic()
        return now - begun

    def until_answered(self, clients: Sequence[Client]) -> None:
        """Until each has had an answer. Raises measure.LoadError."""
        deadline = time.monotonic() + STEP_SECONDS
        while not all(client.received or client.gone for client in clients):
            self.run(0.01)
            if time.monotonic() > deadline:
                raise measure.LoadError(f"no answer within {STEP_SECONDS:.0f} s on a connection")

    def disconnect(self) -> None:
        """Close all, with a handshake, for which there is a limit."""
        for client in self._by_fd.values():
            client.say_goodbye()
        self.run(CLOSE_SECONDS)
        for fd in list(self._by_fd):
            self._drop(fd)

    def _watch(self, fd: int, blocked: bool) -> None:
        self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT if blocked else select.EPOLLIN)
        (self._blocked.add if blocked else self._blocked.discard)(fd)

    def _drop(self, fd: int) -> None:
        client = self._by_fd.pop(fd)
        self._blocked.discard(fd)
        with suppress(OSError):
            self._epoll.unregister(fd)
        client.socket.close()


def load(job: Job) -> dict[str, object]:
    """Measure; returns the fields of a sample. Raises measure.LoadError."""
    clients = Clients(job, Book(job.scenario))
    every = clients.connect(job.scenario.connections)
    for client in every:
        client.begin(job.scenario.in_flight)
    clients.run(WARM_UP_SECONDS)
    gc.collect()
    gc.freeze()
    for client in every:
        client.latencies.clear()
    counts = [client.received for client in every]
    before, core, own = (
        measure.cpu_times(job.session),
        measure.core_seconds(job.cpu),
        time.process_time(),
    )
    passed = clients.run(job.seconds)
    own = time.process_time() - own
    after, core = measure.cpu_times(job.session), measure.core_seconds(job.cpu) - core
    system = after.system - before.system
    used = after.user - before.user + system
    done = [client.received - count for client, count in zip(every, counts, strict=True)]
    latencies = sorted(latency for client in every for latency in client.latencies)
    memory = measure.memory(job.session)
    clients.disconnect()
    errors = {"stalled": done.count(0)}
    for client in every:
        for kind, count in client.errors.items():
            errors[kind] = errors.get(kind, 0) + count
    total = sum(done)
    if not total or not latencies:
        raise measure.LoadError(
            f"not one answer in {job.seconds} s, errors: {measure.describe(errors) or 'none'}"
        )
    return {
        "rate": total / passed,
        "cpu_us": used / total * 1e6,
        "system_us": system / total * 1e6,
        "busy": used / passed,
        "p50_us": latencies[len(latencies) // 2] / 1000,
        "p99_us": latencies[len(latencies) * 99 // 100] / 1000,
        "others": max(0.0, core - used) / passed,
        "memory": memory,
        "errors": errors,
        "client": own / passed,
    }


def idle(job: Job) -> dict[str, object]:
    """Open connections on each of which one message is echoed; returns the server's memory before and after. Raises measure.LoadError."""
    clients = Clients(job, Book(job.scenario))
    _echo_once(clients, FIRST)
    clients.disconnect()
    time.sleep(SETTLE_SECONDS)
    before = measure.memory(job.session)
    every = _echo_once(clients, job.idle)
    clients.run(SETTLE_SECONDS)
    after = measure.memory(job.session)
    errors = sum(sum(client.errors.values()) for client in every)
    if errors:
        raise measure.LoadError(f"{errors} errors on {job.idle} connections")
    clients.disconnect()
    return {"before": before, "after": after}


def _echo_once(clients: Clients, count: int) -> list[Client]:
    every = clients.connect(count)
    for client in every:
        client.open = False
        client.begin(1)
    clients.until_answered(every)
    for client in every:
        client.open = True  # from here on its end is an error
    return every


def main() -> int:
    """Returns the exit code."""
    job = Job.loads(sys.argv[1])
    try:
        found = idle(job) if job.idle else load(job)
    except measure.LoadError as error:
        print(error)
        return 1
    print(REPORT + json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
