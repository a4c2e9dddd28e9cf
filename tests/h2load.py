"""The clients of `load` over HTTP/2, with several streams on each connection.

They honour GOAWAY, and repeat unprocessed requests: streams above the last stream of a GOAWAY, and
streams reset with REFUSED_STREAM (RFC 9113, 6.8 and 8.7). All other requests must be answered on
their connection.
"""

from __future__ import annotations

import random
import select
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import load
from h2client import ALL_STREAMS, REFUSED_STREAM, H2Client, Stream
from load import Loss
from strict import Address, Kind, LostError, open_socket

STREAMS = 6


class Load(load.Load):
    """A `load.Load` whose clients speak HTTP/2."""

    def __init__(self, address: Address, *, connections: int = 8, **how: Any) -> None:
        super().__init__(address, connections=connections, client=Client, **how)


@dataclass(frozen=True)
class Wanted:
    """One request. The answer is the worker's pid and the body."""

    path: str
    body: bytes = b""
    pause: float = 0.0
    """Seconds between the two halves of the body."""

    def __str__(self) -> str:
        return f"{'POST' if self.body else 'GET'} {self.path}"


def any_request(rng: random.Random) -> Wanted:
    seconds = round(rng.uniform(0.001, 0.03), 4)
    shape = rng.random()
    if shape < 0.5:
        return Wanted("/")
    if shape < 0.65:
        return Wanted(f"/?seconds={seconds}")
    if shape < 0.8:
        return Wanted(f"/streamed?seconds={seconds}")
    return Wanted("/", b"0123456789" * rng.randrange(1, 3000), rng.choice([0.0, 0.005]))


class Client(load.Client):
    """A client with at most one connection, and several streams on it."""

    def __init__(self, load: Load, rng: random.Random) -> None:
        super().__init__(load, rng)
        self._queue: deque[Wanted] = deque()
        """Requests to be made next."""
        self._asked: dict[Stream, Wanted] = {}
        """Requests of this connection without their answer."""
        self._is_done = False
        """The load has no more requests for this client."""

    def run(self) -> None:
        try:
            while self._queue or self._add_request():
                self._visit(is_probe=False)
        except Exception as error:
            self.error = error

    def probe(self) -> None:
        self._queue.append(Wanted("/"))
        self._visit(is_probe=True)

    def _add_request(self) -> bool:
        self._is_done = not self._load.take()
        if not self._is_done:
            self._queue.append(any_request(self._rng))
        return not self._is_done

    def _visit(self, is_probe: bool) -> None:
        """Make requests on a new connection until it ends, or until all are answered."""
        self.tally.connections += 1
        try:
            sock = open_socket(self._load.address, self._load.tls)
        except LostError as error:
            self._lose(error.kind, error.detail, self._queue.popleft())
            time.sleep(0.02)
            return
        with H2Client(sock) as h2:
            fault = "the connection ended"
            try:
                self._talk(h2, is_probe)
            except OSError as error:
                fault = repr(error)
            self._give_up(h2, fault)
            self.tally.announced += [last for last, _ in h2.goaways[:1]] == [ALL_STREAMS]

    def _talk(self, h2: H2Client, is_probe: bool) -> None:
        while True:
            while not h2.goaways and not h2.is_closed and len(self._asked) < STREAMS:
                if not self._queue and (
                    is_probe or self._rng.random() >= 0.9 or not self._add_request()
                ):
                    break
                self._ask(h2, self._queue.popleft())
            self._settle(h2)
            if h2.is_closed or (self._asked and all(_is_refused(one) for one in self._asked)):
                return
            if self._asked:
                h2.read_some()
            elif h2.goaways or (not self._queue and (is_probe or self._is_done)):
                return
            elif not self._queue and self._rng.random() < 0.5:
                self._rest(h2, self._rng.uniform(0.0, 0.1))

    def _ask(self, h2: H2Client, wanted: Wanted) -> None:
        if not wanted.body:
            self._asked[h2.begin("GET", wanted.path)] = wanted
            return
        length = (b"content-length", b"%d" % len(wanted.body))
        stream = h2.begin("POST", wanted.path, length, end=False)
        self._asked[stream] = wanted
        half = len(wanted.body) // 2
        for part, end in ((wanted.body[:half], False), (wanted.body[half:], True)):
            if stream.id > h2.last_stream or stream.is_over:
                return  # the server does not process it
            h2.upload(stream, part, end)
            if wanted.pause and not end:
                time.sleep(wanted.pause)

    def _rest(self, h2: H2Client, seconds: float) -> None:
        """Send nothing, but answer the server."""
        if select.select([h2.sock], [], [], seconds)[0]:
            h2.read_some()

    def _settle(self, h2: H2Client) -> None:
        """Check the complete answers."""
        for stream in [stream for stream in self._asked if stream.has_ended]:
            wanted = self._asked.pop(stream)
            pid, space, rest = stream.body.partition(b" ")
            if stream.status != 200:
                self._lose(Kind.STATUS, f"{stream.status} {stream.body[:100]!r}", wanted, stream)
            elif not pid.isdigit() or not space or rest != wanted.body:
                self._lose(Kind.MALFORMED, f"the body is {stream.body[:100]!r}", wanted, stream)
            else:
                self.tally.answered += 1
                self.tally.pids[int(pid)] += 1
                self._load.pids.add(int(pid))

    def _give_up(self, h2: H2Client, fault: str) -> None:
        """The connection has ended: repeat unprocessed requests, count the others as lost."""
        for stream, wanted in self._asked.items():
            if _is_refused(stream):
                self.tally.retried += 1
                self._queue.append(wanted)
            else:
                kind = Kind.TRUNCATED if stream.status else Kind.CLOSED
                self._lose(kind, f"{fault}: {stream}, {h2.goaways}", wanted, stream)
        self._asked.clear()

    def _lose(self, kind: Kind, detail: str, wanted: Wanted, stream: Stream | None = None) -> None:
        at = time.monotonic() - self._load.begun
        nth = (stream.id + 1) // 2 if stream else 1
        self.tally.losses.append(Loss(kind, detail, at, str(wanted), nth, ""))


def _is_refused(stream: Stream) -> bool:
    """Whether the server has announced not to process the request."""
    return not stream.status and (
        stream.id > stream.client.last_stream or stream.reset_code == REFUSED_STREAM
    )
