"""The clients of load.py over HTTP/2: several streams at once on a connection, which honour GOAWAY and begin again what it has not taken.

RFC 9113, 6.8 and 8.7: a stream above the last one of a GOAWAY, and one that ends with REFUSED_STREAM, was not processed. Everything else has to be
answered on its connection.
"""

from __future__ import annotations

import random
import select
import socket
import ssl
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from strict import Address
from talk import ALL, REFUSED_STREAM, Answer, Talk

if TYPE_CHECKING:
    from typing_extensions import Self

TIMEOUT = 20.0
"""Seconds in which every answer is there."""
STREAMS = 6


@dataclass(frozen=True)
class Wanted:
    """One request: the path, and the body of a POST, which is the answer behind the worker's pid."""

    path: str
    body: bytes
    pause: float
    """Seconds between the two halves of the body."""


def any_request(rng: random.Random) -> Wanted:
    seconds = round(rng.uniform(0.001, 0.03), 4)
    shape = rng.random()
    if shape < 0.5:
        return Wanted("/", b"", 0.0)
    if shape < 0.65:
        return Wanted(f"/?seconds={seconds}", b"", 0.0)
    if shape < 0.8:
        return Wanted(f"/streamed?seconds={seconds}", b"", 0.0)
    return Wanted("/", b"0123456789" * rng.randrange(1, 3000), rng.choice([0.0, 0.005]))


@dataclass
class Tally:
    """What has become of the requests."""

    answered: int = 0
    retried: int = 0
    connections: int = 0
    announced: int = 0
    """Connections that the server has ended in two steps."""
    pids: Counter[int] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.answered += other.answered
        self.retried += other.retried
        self.connections += other.connections
        self.announced += other.announced
        self.pids += other.pids
        self.losses += other.losses


class Load:
    """``with Load(address) as load``: clients in threads, each with one connection and up to STREAMS requests on it at once, until `stop`, or until they
    have made as many `requests`. What turnover.py wants of a load it has, too: `pids`, and `probe`.
    """

    def __init__(
        self,
        address: Address,
        *,
        requests: int | None = None,
        connections: int = 8,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address = address
        self.tls = tls
        self.pids: set[int] = set()
        self._left = requests
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._clients = [Client(self, random.Random(number)) for number in range(connections)]
        self._prober = Client(self, random.Random())

    def take(self) -> bool:
        """Whether there is one more request to be made."""
        with self._lock:
            if self._stopped.is_set() or self._left == 0:
                return False
            if self._left is not None:
                self._left -= 1
            return True

    @property
    def is_over(self) -> bool:
        return self._stopped.is_set() or self._left == 0

    def probe(self) -> None:
        """One more request, on a connection of its own."""
        self._prober.serve([Wanted("/", b"", 0.0)])

    def __enter__(self) -> Self:
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

    def wait(self, seconds: float) -> Tally:
        """Wait until all requests are answered, and return what came of them."""
        deadline = time.monotonic() + seconds
        for client in self._clients:
            client.join(max(0.0, deadline - time.monotonic()))
        return self.stop()

    def stop(self) -> Tally:
        """Begin no more requests, wait for the answers, and return what came of all. Raises what a client raised."""
        self._stopped.set()
        total = Tally()
        for client in self._clients:
            client.join()
            if client.error is not None:
                raise client.error
        for client in (*self._clients, self._prober):
            total.add(client.tally)
        return total


class Client(threading.Thread):
    """One client, with one connection at a time."""

    def __init__(self, load: Load, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self.tally = Tally()
        self.error: Exception | None = None
        self._load = load
        self._rng = rng

    def run(self) -> None:
        again: list[Wanted] = []
        try:
            while again or not self._load.is_over:
                again = self.serve(again, goes_on=True)
        except Exception as error:
            self.error = error

    def serve(self, queue: list[Wanted], goes_on: bool = False) -> list[Wanted]:
        """Make the requests of `queue`, and more if it `goes_on`, on a new connection until that ends. Returns what has to be begun again."""
        self.tally.connections += 1
        try:
            sock = self._connect()
        except OSError as error:
            self.tally.losses.append(f"no connection: {error!r}")
            time.sleep(0.02)
            return queue
        with Visit(sock) as visit:
            try:
                again = visit.run(self._load, self._rng, queue, goes_on)
            except OSError as error:
                visit.fault = repr(error)
                again = visit.unprocessed()
            self.tally.answered += visit.answered
            self.tally.retried += len(again)
            self.tally.announced += [last for last, _ in visit.talk.goaways[:1]] == [ALL]
            self.tally.pids += visit.pids
            self._load.pids.update(visit.pids)
            self.tally.losses += visit.losses
            return again

    def _connect(self) -> socket.socket:
        load = self._load
        sock = socket.socket(socket.AF_UNIX if isinstance(load.address, str) else socket.AF_INET)
        sock.settimeout(TIMEOUT)
        try:
            sock.connect(load.address)
            return (
                sock
                if load.tls is None
                else load.tls.wrap_socket(sock, server_hostname="localhost")
            )
        except OSError:
            sock.close()
            raise


class Visit:
    """One connection, and what is asked on it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.talk = Talk(sock)
        self.answered = 0
        self.pids: Counter[int] = Counter()
        self.losses: list[str] = []
        self.fault = ""
        self._asked: dict[int, Wanted] = {}
        """Those that are not answered yet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def run(
        self, load: Load, rng: random.Random, again: list[Wanted], goes_on: bool
    ) -> list[Wanted]:
        talk, queue = self.talk, deque(again)
        while True:
            while not talk.goaways and not talk.has_ended and len(self._asked) < STREAMS:
                if not queue and not (
                    goes_on
                    and rng.random() < 0.9
                    and load.take()
                    and not queue.append(any_request(rng))
                ):
                    break
                self._ask(queue.popleft())
            self._settle()
            if not self._asked:
                if talk.goaways or talk.has_ended:
                    return [*self.unprocessed(), *queue]
                if not queue and (not goes_on or load.is_over):
                    return []
                if not queue and rng.random() < 0.5:
                    self._rest(rng.uniform(0.0, 0.1))
                continue
            if talk.has_ended:
                return [*self.unprocessed(), *queue]
            talk.receive()

    def _ask(self, wanted: Wanted) -> None:
        talk = self.talk
        if not wanted.body:
            self._asked[talk.ask(wanted.path)] = wanted
            return
        stream = talk.ask(
            wanted.path, "POST", [("content-length", str(len(wanted.body)))], end=False
        )
        self._asked[stream] = wanted
        half = len(wanted.body) // 2
        for part, end in ((wanted.body[:half], False), (wanted.body[half:], True)):
            if stream > talk.last_stream or talk.answers[stream].has_ended:
                return  # it is not taken
            talk.send(stream, part, end=end)
            if wanted.pause and not end:
                time.sleep(wanted.pause)

    def _rest(self, seconds: float) -> None:
        """Idle, but awake: the server may have something to say."""
        if select.select([self.sock], [], [], seconds)[0]:
            self.talk.receive()

    def _settle(self) -> None:
        """Look at the answers that are whole."""
        for stream in [stream for stream in self._asked if self.talk.answers[stream].is_whole]:
            wanted, answer = self._asked.pop(stream), self.talk.answers.pop(stream)
            pid, space, rest = answer.body.partition(b" ")
            if answer.status != 200 or not pid.isdigit() or not space or rest != wanted.body:
                self.losses.append(
                    f"{wanted.path}: a wrong answer, {answer.status} {answer.body[:100]!r}"
                )
            else:
                self.answered += 1
                self.pids[int(pid)] += 1
        if self._asked and all(self._is_refused(stream) for stream in self._asked):
            self.talk.has_ended = True  # nothing more is to be expected of it

    def _is_refused(self, stream: int) -> bool:
        answer: Answer = self.talk.answers[stream]
        return not answer.status and (
            stream > self.talk.last_stream or answer.reset == REFUSED_STREAM
        )

    def unprocessed(self) -> list[Wanted]:
        """What may be begun again of that which was not answered; the rest is lost."""
        again = []
        for stream, wanted in self._asked.items():
            if self._is_refused(stream):
                again.append(wanted)
            else:
                state = (
                    f"{self.talk.answers[stream]}, {self.talk.goaways}, {self.fault or 'closed'}"
                )
                self.losses.append(f"{wanted.path} on stream {stream}: {state}")
        self._asked.clear()
        return again
