"""Clients that count what a server loses. They honour ``Connection: close``, never retry, and open a connection only where they have none.

Nothing but the standard library: benchmarks/zero_loss.py uses it too. The server runs apps/answering.py.
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
    """One request that was lost, with what helps to find out why."""

    kind: Kind
    detail: str
    at: float
    """Seconds since the load began."""
    request: str
    nth: int
    """The number of the request on its connection, from 1."""
    before: str
    """The request before it on this connection, and the worker that answered it."""

    def __str__(self) -> str:
        return f"{self.at:8.3f} s, {self.kind.value}: {self.request}, {self.nth} on its connection {self.before}: {self.detail}"


@dataclass
class Tally:
    """What has become of the requests."""

    answered: int = 0
    connections: int = 0
    """That were opened."""
    announced: int = 0
    """Kept connections that the server ended with ``Connection: close``."""
    slowest: float = 0.0
    """Seconds that the longest request took, its connection included."""
    pids: Counter[int] = field(default_factory=Counter)
    """Who answered how many."""
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
        self.announced += other.announced
        self.slowest = max(self.slowest, other.slowest)
        self.pids += other.pids
        self.losses += other.losses

    def __str__(self) -> str:
        lost = "".join(f", {count} {kind.value}" for kind, count in self.kinds.items())
        return f"{self.requests} requests, {self.connections} connections, {len(self.pids)} workers, {len(self.losses)} lost{lost}"


def any_request(rng: random.Random, keep_alive: bool) -> Ask:
    """A request of one of the shapes in which a connection can be when its worker is told to stop."""
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
    """Seconds until a client's next request: often none, seldom so long that its connection is idle when a worker leaves."""
    shape = rng.random()
    if shape < 0.5:
        return 0.0
    return rng.uniform(0.0, 0.005) if shape < 0.88 else rng.uniform(0.0, 0.15)


class Load:
    """``with Load(address, requests=1000) as load``: clients in threads, which work until the requests are used up or `stop` is called.

    `connections` is the number of clients, each with one connection at a time: kept from request to request, or a new one for each without
    `keep_alive`. Without `requests` they go on until `stop`. `tls` makes it TLS. `ask` says what is requested.
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
    ) -> None:
        self.address = address
        self.ask = ask
        self.keep_alive = keep_alive
        self.tls = tls
        self.pids: set[int] = set()
        """Who has answered so far."""
        self.begun = time.monotonic()
        self._tickets = itertools.count() if requests is None else range(requests).__iter__()
        self._stopped = threading.Event()
        self._clients = [Client(self, random.Random(number)) for number in range(connections)]
        self._prober = Client(self, random.Random())

    def take(self) -> bool:
        """Whether there is one more request to be made."""
        return not self._stopped.is_set() and next(self._tickets, None) is not None

    def probe(self) -> None:
        """One more request, on a connection of its own: those that are kept do not come to a new worker. Not to be called by two threads."""
        self._prober.request(PROBE)

    def rest(self, seconds: float) -> None:
        """Wait, but not beyond `stop`."""
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
        """Whether any client still has something to do."""
        return any(client.is_alive() for client in self._clients)

    def wait(self, seconds: float) -> Tally:
        """Wait until all requests are made, then return what came of them. Stops, and raises TimeoutError, if that takes longer."""
        deadline = time.monotonic() + seconds
        for client in self._clients:
            client.join(max(0.0, deadline - time.monotonic()))
        if self.working:
            self.stop()
            raise TimeoutError(f"The load took more than {seconds} s: {self._total()}")
        return self.stop()

    def stop(self) -> Tally:
        """Make no more requests, wait for the answers to those that are made, and return what came of all. Raises what a client raised."""
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
    """One client, with at most one connection."""

    def __init__(self, load: Load, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self.tally = Tally()
        self.error: Exception | None = None
        """A fault of the client, not of the server."""
        self._load = load
        self._rng = rng
        self._connection: Connection | None = None

    def run(self) -> None:
        try:
            while self._load.take():
                wanted = self._load.ask(self._rng, self._load.keep_alive)
                pause = think(self._rng)
                if not self.request(wanted):
                    pause = max(
                        pause, 0.02
                    )  # where all is refused, that is not to use up the requests in no time
                self._load.rest(pause)
        except Exception as error:
            self.error = error
        finally:
            self._close()

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
