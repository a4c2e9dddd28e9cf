"""Clients that count the requests lost by a server, which runs apps/answering.py.

They honour ``Connection: close``, never retry, and keep their connections. This module uses the
standard library only, for benchmarks/zero_loss.py.
"""

from __future__ import annotations

import itertools
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from strict import Address, Ask, Connection, Kind, LostError

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Loss:
    """A lost request, with details to find the reason."""

    kind: Kind
    detail: str
    at: float
    """Seconds since the load began."""
    request: str
    nth: int
    """The number of the request on its connection, from 1."""
    before: str
    """The request before it on this connection, and the worker of its answer."""

    def __str__(self) -> str:
        place = f"{self.nth} on its connection {self.before}"
        return f"{self.at:8.3f} s, {self.kind.value}: {self.request}, {place}: {self.detail}"


@dataclass
class Tally:
    """The results of all requests."""

    answered: int = 0
    connections: int = 0
    """Opened connections."""
    retried: int = 0
    """Repeated requests, over HTTP/2 only: the server had announced not to process them."""
    announced: int = 0
    """Kept connections that the server ended with ``Connection: close``."""
    slowest: float = 0.0
    """Duration of the longest request in seconds, including its connection."""
    pids: Counter[int] = field(default_factory=Counter)
    """Number of answers of each worker."""
    losses: list[Loss] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return self.answered + len(self.losses)

    @property
    def kinds(self) -> Counter[Kind]:
        return Counter(loss.kind for loss in self.losses)

    def add(self, other: Tally) -> None:
        self.answered += other.answered
        self.connections += other.connections
        self.retried += other.retried
        self.announced += other.announced
        self.slowest = max(self.slowest, other.slowest)
        self.pids += other.pids
        self.losses += other.losses

    def __str__(self) -> str:
        lost = "".join(f", {count} {kind.value}" for kind, count in self.kinds.items())
        made = f"{self.requests} requests, {self.connections} connections, {len(self.pids)} workers"
        return f"{made}, {len(self.losses)} lost{lost}"


def any_request(rng: random.Random, keep_alive: bool) -> Ask:
    """A random request. The shapes cover the states of a connection when its worker stops."""
    fields = "Host: test\r\n" if keep_alive else "Host: test\r\nConnection: close\r\n"
    seconds = round(rng.uniform(0.001, 0.03), 4)
    pause = rng.uniform(0.0, 0.01)
    shape = rng.random()
    if shape < 0.6:
        return Ask("GET", (f"GET / HTTP/1.1\r\n{fields}\r\n".encode(),), 0.0, b"")
    if shape < 0.75:
        return Ask(
            "slow GET", (f"GET /?seconds={seconds} HTTP/1.1\r\n{fields}\r\n".encode(),), 0.0, b""
        )
    if shape < 0.85:
        return Ask(
            "streamed GET",
            (f"GET /streamed?seconds={seconds} HTTP/1.1\r\n{fields}\r\n".encode(),),
            0.0,
            b"",
        )
    if shape < 0.9:
        return Ask(
            "GET in two parts", (b"GET / HT", f"TP/1.1\r\n{fields}\r\n".encode()), pause, b""
        )
    body = b"0123456789" * rng.randrange(1, 200)
    half = len(body) // 2
    head = f"POST / HTTP/1.1\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode()
    return Ask("POST in two parts", (head + body[:half], body[half:]), pause, body)


PROBE = Ask(
    "GET of its own", (b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",), 0.0, b""
)


def think(rng: random.Random) -> float:
    """Seconds until the next request of a client.

    Often 0, rarely long enough for an idle connection when a worker stops.
    """
    shape = rng.random()
    if shape < 0.5:
        return 0.0
    return rng.uniform(0.0, 0.005) if shape < 0.88 else rng.uniform(0.0, 0.15)


class Load:
    """``with Load(address, requests=1000) as load``: clients in threads.

    They work until they have made all requests, or until `stop` is called.

    `connections`: the number of clients, each with at most one connection. `keep_alive`: they keep
    it between requests. Without `requests` they continue until `stop`. `ask` makes the requests,
    and `client` the clients.
    """

    def __init__(
        self,
        address: Address,
        *,
        requests: int | None = None,
        connections: int = 20,
        keep_alive: bool = True,
        tls: ssl.SSLContext | None = None,
        ask: Callable[[random.Random, bool], Ask] = any_request,
        client: Callable[[Load, random.Random], Client] | None = None,
    ) -> None:
        self.address = address
        self.ask = ask
        self.keep_alive = keep_alive
        self.tls = tls
        self.pids: set[int] = set()
        """Workers that have answered."""
        self.begun = time.monotonic()
        self._tickets = itertools.count() if requests is None else range(requests).__iter__()
        self._stopped = threading.Event()
        make = client or Client
        self._clients = [make(self, random.Random(number)) for number in range(connections)]
        self._prober = make(self, random.Random())

    def take(self) -> bool:
        """Whether a client is to make another request."""
        return not self._stopped.is_set() and next(self._tickets, None) is not None

    def probe(self) -> None:
        """Make another request on a new connection, since kept connections reach no new worker.

        Not thread-safe.
        """
        self._prober.probe()

    def rest(self, seconds: float) -> None:
        """Wait, at most until `stop`."""
        if seconds:
            self._stopped.wait(seconds)

    def __enter__(self) -> Self:
        self.begun = time.monotonic()
        for client in self._clients:
            client.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def working(self) -> bool:
        """Whether any client is still at work."""
        return any(client.is_alive() for client in self._clients)

    def wait(self, seconds: float) -> Tally:
        """Wait until all requests are made. Returns their results.

        Stops and raises TimeoutError after so many seconds.
        """
        deadline = time.monotonic() + seconds
        for client in self._clients:
            client.join(max(0.0, deadline - time.monotonic()))
        if self.working:
            self.stop()
            raise TimeoutError(f"The load took more than {seconds} s: {self._total()}")
        return self.stop()

    def stop(self) -> Tally:
        """Make no more requests, and wait for the answers. Returns the results of all requests.

        Raises the error of a client.
        """
        self._stopped.set()
        for client in self._clients:
            client.join()
        for client in self._clients:
            if client.error is not None:
                raise client.error
        return self._total()

    def _total(self) -> Tally:
        total = Tally()
        for client in (*self._clients, self._prober):
            total.add(client.tally)
        total.losses.sort(key=lambda loss: loss.at)
        return total


class Client(threading.Thread):
    """A client with at most one connection."""

    def __init__(self, load: Load, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self.tally = Tally()
        self.error: Exception | None = None
        """A fault of the client itself."""
        self._load = load
        self._rng = rng
        self._connection: Connection | None = None

    def run(self) -> None:
        try:
            while self._load.take():
                wanted = self._load.ask(self._rng, self._load.keep_alive)
                pause = think(self._rng)
                if not self.request(wanted):
                    # Refused requests must not use up all requests at once.
                    pause = max(pause, 0.02)
                self._load.rest(pause)
        except Exception as error:
            self.error = error
        finally:
            self._close()

    def probe(self) -> None:
        """Make a request on a new connection."""
        self.request(PROBE)

    def request(self, wanted: Ask) -> bool:
        """Make a request; returns whether it was answered."""
        begun = time.monotonic()
        connection = self._connection
        try:
            if connection is None:
                self.tally.connections += 1
                self._connection = connection = Connection(self._load.address, self._load.tls)
            pid, is_last = connection.exchange(wanted)
        except LostError as error:
            nth, before = (
                (1, "") if connection is None else (connection.requests, connection.before)
            )
            self.tally.losses.append(
                Loss(error.kind, error.detail, begun - self._load.begun, wanted.name, nth, before)
            )
            self._close()
            return False
        self.tally.answered += 1
        self.tally.pids[pid] += 1
        self.tally.slowest = max(self.tally.slowest, time.monotonic() - begun)
        self._load.pids.add(pid)
        self.tally.announced += self._load.keep_alive and is_last and wanted is not PROBE
        if is_last or not self._load.keep_alive:
            self._close()
        return True

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def await_true(probe: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until `probe` returns something true. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {seconds} s")
        time.sleep(0.02)
