"""The clients of deploys.py: a steady load, and each request with the time that it took and how it ended."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from strict import Address, Kind

if TYPE_CHECKING:
    from typing_extensions import Self

KEPT_CLIENTS = 10
KEPT_PAUSE_SECONDS = 0.125
"""From the beginning of a kept connection's request to its next one, or to its answer if that takes longer."""
NEW_PAUSE_SECONDS = 0.02
"""From one new connection to the next, whether or not those before it are answered."""
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Request:
    """What came of one request."""

    begun: float
    """By time.monotonic()."""
    seconds: float
    pid: int = 0
    """Of the worker that has answered."""
    error: str = ""
    """How the request was lost; empty if it was not."""

    @property
    def ended(self) -> float:
        return self.begun + self.seconds


class _LostError(Exception):
    """With the text of `Request.error`."""


@dataclass
class Load:
    """``async with Load(address) as load``: two kinds of clients ask for `path` until the end of the block.

    Those of the one kind keep their connections. The others open a connection for each request, at a fixed rate: they do not wait for
    the answers before, as the visitors of a site do not. None retries, and all honour ``Connection: close``.
    """

    address: Address
    tls: ssl.SSLContext | None = None
    path: str = "/"
    requests: list[Request] = field(default_factory=list)
    """Those that have ended."""
    pids: set[int] = field(default_factory=set)
    """Workers that have answered."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _is_stopped: bool = False

    async def __aenter__(self) -> Self:
        for number in range(KEPT_CLIENTS):
            self._start(self._keep(number * KEPT_PAUSE_SECONDS / KEPT_CLIENTS))
        self._start(self._open_new())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Begin no more requests, and wait for the answers to those that have begun."""
        self._is_stopped = True
        while self._tasks:
            done, _ = await asyncio.wait(set(self._tasks))
            for task in done:
                task.result()

    async def ask(self) -> Request:
        """One request on a connection of its own."""
        client = Client(self.address, self.tls)
        request = await client.ask(self.path, keep_alive=False)
        self._add(request)
        return request

    def since(self, start: float, before: float = float("inf")) -> list[Request]:
        """Requests that were running after `start`, and began before `before`."""
        return [each for each in self.requests if each.ended > start and each.begun < before]

    def _start(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _add(self, request: Request) -> None:
        self.requests.append(request)
        if not request.error:
            self.pids.add(request.pid)

    async def _keep(self, delay: float) -> None:
        await asyncio.sleep(delay)
        client = Client(self.address, self.tls)
        while not self._is_stopped:
            request = await client.ask(self.path, keep_alive=True)
            self._add(request)
            await asyncio.sleep(max(0.0, request.begun + KEPT_PAUSE_SECONDS - time.monotonic()))
        client.close()

    async def _open_new(self) -> None:
        due = time.monotonic()
        while not self._is_stopped:
            self._start(self._ask_once())
            due += NEW_PAUSE_SECONDS
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _ask_once(self) -> None:
        await self.ask()


class Client:
    """At most one connection."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None) -> None:
        self._address = address
        self._tls = tls
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._has_response = False
        """Whether a part of the response has arrived."""

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def ask(self, path: str, *, keep_alive: bool) -> Request:
        """Make a request. It never raises."""
        begun, pid, error = time.monotonic(), 0, ""
        is_last = True
        try:
            pid, is_last = await asyncio.wait_for(
                self._exchange(path, keep_alive), PATIENCE_SECONDS
            )
        except _LostError as lost:
            error = str(lost)
        except (asyncio.TimeoutError, TimeoutError):  # one and the same from Python 3.11 on
            error = Kind.TIMEOUT.value
        except asyncio.IncompleteReadError as incomplete:
            is_begun = self._has_response or incomplete.partial
            error = (Kind.TRUNCATED if is_begun else Kind.CLOSED).value
        except OSError:
            error = Kind.RESET.value
        except (ValueError, LookupError, asyncio.LimitOverrunError):
            error = Kind.MALFORMED.value
        if is_last:
            self.close()
        return Request(begun, time.monotonic() - begun, pid, error)

    async def _exchange(self, path: str, keep_alive: bool) -> tuple[int, bool]:
        """Returns the pid of the worker, and whether the connection ends."""
        reader, writer = await self._connect()
        self._has_response = False
        fields = "Host: test\r\n" if keep_alive else "Host: test\r\nConnection: close\r\n"
        writer.write(f"GET {path} HTTP/1.1\r\n{fields}\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        self._has_response = True
        status, *lines = head.split("\r\n")
        found = dict(line.split(": ", 1) for line in lines if ": " in line)
        body = await reader.readexactly(int(found["content-length"]))
        code = status.split(" ")[1]
        if code != "200":
            self.close()
            raise _LostError(code)
        return int(body.split()[1]), not keep_alive or found.get("connection") == "close"

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None:
            if self._streams[0].at_eof() or self._streams[0].exception() is not None:
                raise _LostError(Kind.IDLE.value)
            return self._streams
        name = "localhost" if self._tls else None
        try:
            if isinstance(self._address, str):
                self._streams = await asyncio.open_unix_connection(
                    self._address, ssl=self._tls, server_hostname=name
                )
            else:
                self._streams = await asyncio.open_connection(
                    *self._address, ssl=self._tls, server_hostname=name
                )
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise _LostError(Kind.REFUSED.value) from error
        except OSError as error:
            raise _LostError((Kind.HANDSHAKE if self._tls else Kind.RESET).value) from error
        return self._streams


def errors(requests: Iterable[Request]) -> Counter[str]:
    """Lost requests by kind."""
    return Counter(each.error for each in requests if each.error)


def percentile(requests: Iterable[Request], share: float) -> float:
    """Seconds that this share of the answered requests took at most; 0 if none was answered."""
    seconds = sorted(each.seconds for each in requests if not each.error)
    return seconds[min(len(seconds) - 1, int(len(seconds) * share))] if seconds else 0.0


async def read_stream(address: Address) -> asyncio.StreamWriter:
    """Open an event stream and read its beginning; to be closed."""
    assert not isinstance(address, str)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET /events HTTP/1.1\r\nHost: test\r\n\r\n")
    with suppress(asyncio.IncompleteReadError):
        await asyncio.wait_for(reader.readuntil(b"data:"), PATIENCE_SECONDS)
    return writer
