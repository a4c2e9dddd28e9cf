"""A real `Server` on a real loop in a thread, with a real listening socket, and a raw client that takes nothing on trust.

The only things that are not the worker's own: the logger and the host, which record (`test_http1_connection` holds them against
Gunicorn's), and the clock, which can be put forward, so that no test has to sit out a deadline.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from certificates import client_context
from gunicorn.config import Config

from gunicorn_asgi.asgi.async_library import Asyncio, AsyncLibrary, make_library
from gunicorn_asgi.asgi.scope import Application
from gunicorn_asgi.config.gunicorn_settings import STAND_INS
from gunicorn_asgi.config.options import OPTIONS
from gunicorn_asgi.config.settings import Settings
from gunicorn_asgi.frozen import replace
from gunicorn_asgi.net.balance import WorkerRow
from gunicorn_asgi.net.transport import LINGER_SECONDS, LOST, OPEN, Handler, Transport
from gunicorn_asgi.server import Server

try:
    import uvloop
except ImportError:  # the h11 half of the suite runs anywhere
    uvloop = None

WAIT = 10.0
"""Seconds after which something that was waited for counts as never coming. No test depends on it unless it fails."""
ROUNDS = 10
"""Times that a time limit is waited for. The kernel of a client that does not read takes something of its own accord in fewer."""
TICK = 0.1
STEP = 1.0

T = TypeVar("T")


class Flag:
    """An event between the test's thread and the loop's."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def set(self) -> None:
        with self._lock:
            self._event.set()
            waiters, self._waiters = self._waiters, []
        for loop, waiter in waiters:
            loop.call_soon_threadsafe(
                lambda waiter=waiter: waiter.done() or waiter.set_result(None)
            )

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self) -> None:
        """For the test."""
        assert self._event.wait(WAIT), "it never happened"

    async def reached(self) -> None:
        """For the application."""
        with self._lock:
            if self._event.is_set():
                return
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append((asyncio.get_running_loop(), waiter))
        await waiter


@dataclass(frozen=True)
class Line:
    level: str
    text: str
    error: BaseException | None = None


class Log:
    """Of Gunicorn's logger what the server uses. A message that does not fit its arguments raises, as nowhere else."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def debug(self, message: str, *args: object) -> None:
        pass

    def info(self, message: str, *args: object) -> None:
        self.lines.append(Line("info", message % args))

    def warning(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        self.lines.append(Line("warning", message % args, exc_info))

    def error(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        self.lines.append(Line("error", message % args, exc_info))

    def exception(self, message: str, *args: object) -> None:
        self.lines.append(Line("error", message % args, sys.exc_info()[1]))

    def take(self, level: str) -> list[Line]:
        """The lines of that level; what nobody took of the errors fails the test in the end."""
        taken = [line for line in self.lines if line.level == level]
        self.lines = [line for line in self.lines if line.level != level]
        return taken


class Host:
    """Of Gunicorn's worker what the server needs."""

    def __init__(self, max_requests: int) -> None:
        self.nr = 0
        self.max_requests = max_requests
        self.retired = 0
        self.left: list[int] = []
        self.is_being_replaced = False

    def hand_over(self) -> bool:
        return False

    def retire(self) -> None:
        self.retired += 1

    def leave(self, code: int) -> None:
        self.left.append(code)


@dataclass
class Listening:
    """Gunicorn's wrapper around a listening socket, as far as it is looked at."""

    sock: socket.socket


class ByteByByte(Transport):
    """Data that arrives together is taken as if every byte had come alone."""

    def set_handler(self, handler: Handler) -> None:
        super().set_handler(handler)
        if self.state is OPEN:
            self.data_received = self.receive_bytes
            self.raw.set_protocol(self)

    def receive_bytes(self, data: bytes) -> None:
        for position in range(len(data)):
            if self.raw.is_closing():
                break
            # An upgrade replaces the handler.
            self.handler.data_received(data[position : position + 1])


def sipping(size: int) -> type[Transport]:
    """A transport that reads at most `size` bytes at once. Only asyncio's can be told."""

    class Sipping(Transport):
        def connection_made(self, transport: asyncio.Transport) -> None:
            transport.max_size = size
            super().connection_made(transport)

    return Sipping


class _Clock:
    """Puts a loop's time forward."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


class AsyncioLoop(_Clock, asyncio.SelectorEventLoop):
    pass


if uvloop is not None:

    class UvloopLoop(_Clock, uvloop.Loop):
        pass

else:
    UvloopLoop = AsyncioLoop


class InProcess:
    """What `serve` hands out."""

    def __init__(self, loop: Any, server: Server, log: Log, host: Host, address: Any) -> None:
        self.loop = loop
        self.server = server
        self.log = log
        self.host = host
        self.address = address
        self.clients: list[Client] = []
        self.beat: asyncio.Task[None] | None = None
        self.is_hurrying = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(2 * WAIT)

    def call(self, function: Callable[..., T], *args: object) -> T:
        """Call a function on the server's loop."""

        async def work() -> T:
            return function(*args)

        return self.run(work())

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Until `condition`, looked at on the loop, holds."""
        assert self.run(_until(condition)), "it never came true"

    def stop_clock(self) -> None:
        """From now on no deadline passes but in `advance`, however long the test takes."""
        assert self.beat is not None
        self.call(self.beat.cancel)

    def advance(self, seconds: float) -> None:
        """Put the clock forward, and sweep the connections as the worker does."""
        self.call(self._advance, seconds)

    def _advance(self, seconds: float) -> None:
        # In steps of a second, for a clock that jumps is taken for a loop that was blocked.
        self.server.tick(STEP)
        while seconds > 0:
            self.loop.ahead += min(STEP, seconds)
            seconds -= STEP
            self.server.tick(STEP)
        self.server.tick(TICK)

    def end_lingering(self) -> None:
        """Put the clock past the time in which rests of requests are read after a response."""
        self.settle()
        self.advance(LINGER_SECONDS + 3 * TICK)

    def hurry(self) -> None:
        """Let the clock run ten times as fast from now on."""
        self.is_hurrying = True

    def advance_until(self, condition: Callable[[], object], seconds: float) -> int:
        """Put the clock forward by `seconds` until `condition`, looked at on the loop, holds. Returns how often that was.

        For a client that reads nothing, on TCP: its kernel acknowledges late, and then takes a little more (RFC 1122, 4.2.3.2). A time limit
        that ends when nothing was taken starts anew with that. On a unix socket, nothing moves unless it is read, so once is enough.
        """
        for times in range(ROUNDS):
            if self.call(condition):
                return times
            self.advance(seconds)
            self.settle()
        self.wait_until(condition)
        return ROUNDS

    def settle(self) -> None:
        """Let the loop turn until what has arrived is dealt with: each turn polls the sockets."""
        self.run(_turns(20))

    def connect(self, receive_buffer: int = 0) -> Client:
        client = Client(self.address, receive_buffer)
        self.clients.append(client)
        return client

    def is_idle(self) -> bool:
        return (
            not self.server.connections
            and not self.server.tasks
            and not self.server.acceptors.pending
        )

    # What a test has to wait for that no client can see. All of the connection's inside that is known here, in one place.

    def _wait_connection(self, condition: Callable[[Any], object]) -> None:
        self.wait_until(
            lambda: any(condition(connection) for connection in self.server.connections)
        )

    def wait_connected(self) -> None:
        self._wait_connection(lambda connection: True)

    def wait_half_closed(self) -> None:
        """The end of what the client sends has arrived."""
        self._wait_connection(lambda transport: getattr(transport.handler, "is_half_closed", False))

    def wait_lost(self) -> None:
        """The transport is closed, or the stream of HTTP/2, and the application still running."""
        self._wait_connection(
            lambda connection: (
                connection.state is LOST
                or any(exchange.phase.name == "LOST" for exchange in exchanges(connection))
            )
        )

    def wait_clogged(self) -> None:
        """What is written does not leave: on the transport, or on a stream of HTTP/2."""
        self._wait_connection(
            lambda connection: (
                connection.is_writing_paused
                or any(exchange.queue.is_paused for exchange in exchanges(connection))
            )
        )

    def wait_paused(self) -> None:
        """Nothing is read any more, or of a WebSocket over HTTP/2 nothing credited."""
        self._wait_connection(
            lambda connection: (
                connection.is_reading_paused
                or any(
                    exchange.tunnel is not None and exchange.tunnel.is_reading_paused
                    for exchange in exchanges(connection)
                )
            )
        )

    def wait_buffered(self, size: int = 1) -> None:
        """That much of a later request, or of the beginning of one, is here."""
        self._wait_connection(lambda connection: connection.handler.inbox.size >= size)

    def wait_unread(self, size: int) -> None:
        """That much of the body waits for the application."""
        self._wait_connection(
            lambda connection: (
                connection.handler.stream and connection.handler.stream.unread >= size
            )
        )

    def wait_body_ended(self) -> None:
        """The last of the body is here."""
        self._wait_connection(
            lambda connection: (
                connection.handler.stream
                and connection.handler.stream.body.name in ("RECEIVED", "TAKEN")
            )
        )

    def wait_body_left(self, size: int) -> None:
        """That much of a body with a length is still to come."""
        self._wait_connection(
            lambda connection: (
                connection.handler._framing and connection.handler._framing.left == size
            )
        )

    def wait_gone(self) -> None:
        """The transports of all connections are closed."""
        self.wait_until(
            lambda: all(connection.state is LOST for connection in self.server.connections)
        )

    def exchanges(self) -> int:
        """How many of HTTP/2 are not over."""
        return self.call(
            lambda: sum(len(exchanges(connection)) for connection in self.server.connections)
        )

    def wait_settled(self) -> None:
        """Every exchange of HTTP/2 is over, and no stream is left; the connections may stay."""
        self.wait_until(
            lambda: (
                not any(
                    exchanges(connection) or _streams(connection)
                    for connection in self.server.connections
                )
            )
        )

    def wait_queued(self, size: int = 1) -> None:
        """That much waits for the window of a stream of HTTP/2."""
        self._wait_connection(
            lambda connection: any(
                exchange.queue.size >= size for exchange in exchanges(connection)
            )
        )

    def wait_streams_unread(self, size: int) -> None:
        """That much of the bodies of HTTP/2 waits for applications."""
        self._wait_connection(
            lambda connection: (
                sum(exchange.h2_stream.unread for exchange in exchanges(connection)) >= size
            )
        )

    def count_writes(self) -> list[int]:
        """The size of each write to the transport of the only connection, from now on."""
        sizes: list[int] = []

        class Counting:
            def __init__(self, transport: Any) -> None:
                self._transport = transport

            def __getattr__(self, name: str) -> Any:
                return getattr(self._transport, name)

            def write(self, data: bytes) -> None:
                sizes.append(len(data))
                self._transport.write(data)

        def work() -> None:
            (connection,) = self.server.connections
            connection.raw = Counting(connection.raw)

        self.call(work)
        return sizes

    def abort_and(self, callback: Callable[[], object], turns: int) -> None:
        """End the transport of the only connection, and call back so many turns of the loop later."""

        def later(left: int) -> None:
            if left:
                self.loop.call_soon(later, left - 1)
            else:
                callback()

        def work() -> None:
            (connection,) = self.server.connections
            later(turns)
            connection.raw.abort()

        self.call(work)

    def held(self) -> int:
        """Bytes that wait for their turn."""
        return self.call(
            lambda: sum(connection.handler.inbox.size for connection in self.server.connections)
        )

    def unsent(self) -> int:
        """Bytes in the transports' buffers, and on streams of HTTP/2."""

        def count(connection: Any) -> int:
            waiting = sum(exchange.queue.size for exchange in exchanges(connection))
            return int(connection.raw.get_write_buffer_size()) + waiting

        return self.call(lambda: sum(map(count, self.server.connections)))


def exchanges(connection: Any) -> list[Any]:
    """Of HTTP/2, those that are not over."""
    return list(getattr(connection.handler, "exchanges", ()))


def _streams(connection: Any) -> Any:
    return (
        connection.handler.protocol.streams.active
        if hasattr(connection.handler, "protocol")
        else ()
    )


async def _until(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.001)
    return True


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


OPTION_NAMES = {option.name for option in OPTIONS} | {
    option.name for option in STAND_INS if option.name not in Config().settings
}


def make_settings(parser: str = "h11", **values: Any) -> Settings:
    """Settings as the worker reads them, of Gunicorn's settings and this package's options."""
    # To read them takes longer than to serve a request, and most tests ask for the same ones.
    is_hashable = all(isinstance(value, Hashable) for value in values.values())
    read = _read_settings if is_hashable else _read_settings.__wrapped__
    return read(parser, **values)


@lru_cache(typed=True)
def _read_settings(parser: str, **values: Any) -> Settings:
    cfg = Config()
    options = {"http": parser}
    for name, value in values.items():
        if name in OPTION_NAMES:
            options[name] = value
        elif name != "asgi_disconnect_grace_period":
            cfg.set(name, value)
    settings = Settings.read(cfg, options, {})
    # Also with a Gunicorn that has no such setting.
    return replace(
        settings,
        disconnect_grace_s=values.get("asgi_disconnect_grace_period", settings.disconnect_grace_s),
    )


def is_over_trio(parser: str) -> bool:
    """Whether `parser` is a `conftest.TrioParser`."""
    return getattr(parser, "is_over_trio", False)


@contextmanager
def serve(
    app: Application,
    parser: str = "h11",
    *,
    delivery: str = "whole",
    read_size: int = 0,
    state: dict[str, Any] | None = None,
    access: Any = None,
    max_requests: int = sys.maxsize,
    bind: tuple[str, int] | str = ("127.0.0.1", 0),
    tls: ssl.SSLContext | None = None,
    share: WorkerRow | None = None,
    has_own_queue: bool = False,
    library: str = "asyncio",
    **settings: Any,
) -> Iterator[InProcess]:
    """Serve `app`, written for `library`, on `bind`, an address or the path of a unix socket, until the block ends. Then nothing may be left: no task, no connection, no error that nobody expected.

    The httptools half of the suite runs on uvloop, the h11 half on asyncio, as without the compiled dependencies. If `parser` is a
    `conftest.TrioParser`, then `app` is written for asyncio as ever, and runs as an application of trio.
    """
    if is_over_trio(parser):
        from libraries import as_trio

        app, library = as_trio(app), "trio"
    loop = UvloopLoop() if parser == "httptools" else AsyncioLoop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    thread = threading.Thread(target=_run_loop, args=(loop,), name="server", daemon=True)
    family = (
        socket.AF_UNIX
        if isinstance(bind, str)
        else socket.AF_INET6
        if ":" in bind[0]
        else socket.AF_INET
    )
    listening = Listening(socket.create_server(bind, family=family))
    if family != socket.AF_UNIX:
        # As Gunicorn does: what is accepted inherits it. asyncio would, but only for a socket that knows the number of its protocol.
        listening.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    log, host = Log(), Host(max_requests)
    thread.start()

    async def start() -> tuple[Server, AsyncLibrary]:
        chosen = replace(
            make_settings(parser, async_library=library, **settings),
            asgi_loop="uvloop" if parser == "httptools" else "asyncio",
        )
        tasks = make_library(
            chosen, loop, log, lambda error: complaints.append({"exception": error})
        )
        await tasks.start()
        adapted = tasks.adapt(app)
        server = Server(chosen, adapted, host, log, access, loop, share, has_own_queue, tasks)
        server.state = state
        if delivery == "bytes":
            server.transport_class = ByteByByte
        elif read_size:
            server.transport_class = sipping(read_size)
        server.acceptors.listen([listening], tls)
        server.tick(TICK)
        return server, tasks

    try:
        server, tasks = asyncio.run_coroutine_threadsafe(start(), loop).result(WAIT)
        inside = InProcess(loop, server, log, host, listening.sock.getsockname())
        beat = inside.beat = inside.call(lambda: loop.create_task(_beat(inside)))
        try:
            yield inside
            for client in inside.clients:
                client.close()
            inside.wait_until(inside.is_idle)
        finally:
            for client in inside.clients:
                client.close()
            inside.run(_stop(server, beat, tasks))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT)
        assert not thread.is_alive(), "the loop is stuck"
        loop.close()
        listening.sock.close()
    assert not complaints, complaints
    assert not log.take("error"), "an error was logged that the test did not expect"


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        asyncio.set_event_loop(None)


async def _beat(inside: InProcess) -> None:
    while True:
        if inside.is_hurrying:
            inside._advance(STEP)
        else:
            inside.server.tick(TICK)
        await asyncio.sleep(TICK)


async def _stop(server: Server, beat: asyncio.Task[None], library: AsyncLibrary) -> None:
    await server.abort()
    beat.cancel()
    with suppress(asyncio.CancelledError):
        await beat
    await _turns(5)
    left: set[Any] = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if not isinstance(library, Asyncio):
        left |= await _stop_trio(library)
    assert not left, left
    await asyncio.get_running_loop().shutdown_asyncgens()


async def _stop_trio(library: Any) -> set[Any]:
    """End the run of trio. Returns the tasks that were left in it."""
    from libraries import running

    # A run that has failed takes no more steps.
    left = set() if library.is_over else {*library._nursery.child_tasks, *running}
    await library.close(WAIT)
    assert library.is_over, "tasks that do not end"
    return left


# The client.


class Truncated(Exception):
    """The connection ended within a response; `response` is what there was of it."""

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response


@dataclass
class Response:
    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = field(default=b"", repr=False)
    chunks: list[bytes] = field(default_factory=list, repr=False)
    framing: str = ""
    """``none``, ``length``, ``chunked`` or ``close``."""

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]

    def __getitem__(self, name: bytes) -> bytes:
        (value,) = self.values(name)
        return value


STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) ([\t \x21-\x7e\x80-\xff]*)")
FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([\t \x21-\x7e\x80-\xff]*)")
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]+")


class Client:
    """A raw connection. Reads responses by the grammar and accepts nothing beside it."""

    def __init__(self, address: Any, receive_buffer: int = 0) -> None:
        unix = isinstance(address, str)
        self.sock = socket.socket(
            socket.AF_UNIX if unix else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        )
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(WAIT)
        self.sock.connect(address)
        if not unix:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()

    @property
    def name(self) -> tuple[str, int]:
        return self.sock.getsockname()

    def start_tls(self) -> None:
        """Shake hands, and trust whoever it is."""
        self.sock = client_context().wrap_socket(self.sock)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_eof(self) -> None:
        """Close this half: no more requests, but the responses are still waited for."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Go away without a word."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def push(self, limit: int) -> int:
        """Send until the server takes no more, at most `limit` bytes; returns how many went."""
        sent, block = 0, b"x" * 65536
        self.sock.settimeout(0.3)
        try:
            while sent < limit:
                sent += self.sock.send(block)
        except TimeoutError:
            pass
        self.sock.settimeout(WAIT)
        return sent

    def receive(self) -> bool:
        """Read once into `buffer`. Returns False at the end of the connection."""
        data = self.sock.recv(65536)
        self.buffer += data
        return bool(data)

    def take(self, size: int) -> bytes:
        """Remove that many bytes from `buffer`."""
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def recv_until(self, end: bytes) -> bytes:
        """Everything up to and with `end`."""
        while end not in self.buffer:
            assert self.receive(), f"the connection ended before {end!r}: {self.buffer!r}"
        return self.take(self.buffer.index(end) + len(end))

    def read_rest(self) -> bytes:
        """Everything up to the end of the connection."""
        while self.receive():
            pass
        return self.take(len(self.buffer))

    def has_more(self) -> bool:
        """Whether something has already arrived; for what must not have."""
        self.sock.setblocking(False)
        try:
            self.receive()
        except BlockingIOError:
            pass
        finally:
            self.sock.settimeout(WAIT)
        return bool(self.buffer)

    def read_head(self) -> Response:
        head = self.recv_until(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        match = STATUS_LINE.fullmatch(first)
        assert match is not None, first
        headers = []
        for line in lines:
            parts = FIELD_LINE.fullmatch(line)
            assert parts is not None, line
            headers.append((parts[1], parts[2]))
        return Response(int(match[1]), match[2], headers)

    def read_response(self, method: str = "GET") -> Response:
        """The next response, whole. Raises Truncated if the connection ends before it does."""
        response = self.read_head()
        lengths, codings = response.values(b"content-length"), response.values(b"transfer-encoding")
        assert len(lengths) + len(codings) <= 1, response
        if response.status < 200 or response.status == 204:
            assert not lengths, response
            assert not codings, response
        if method == "HEAD" or response.status < 200 or response.status in (204, 304):
            response.framing = "none"
        elif codings:
            assert codings == [b"chunked"]
            response.framing = "chunked"
            try:
                self._read_chunks(response)
            finally:
                response.body = b"".join(response.chunks) + response.body
        elif lengths:
            response.framing = "length"
            assert lengths[0].isdigit()
            response.body = self._read_exactly(int(lengths[0]), response)
        else:
            response.framing = "close"
            response.body = self.read_rest()
        return response

    def _read_chunks(self, response: Response) -> None:
        while True:
            size = self._read_line(response)
            assert CHUNK_SIZE.fullmatch(size), size
            chunk = self._read_exactly(int(size, 16), response)
            assert self._read_line(response) == b""
            if not chunk:
                break
            response.chunks.append(chunk)

    def _read_line(self, response: Response) -> bytes:
        while b"\r\n" not in self.buffer:
            if not self.receive():
                raise Truncated(response)
        return self.take(self.buffer.index(b"\r\n") + 2)[:-2]

    def _read_exactly(self, size: int, response: Response) -> bytes:
        while len(self.buffer) < size:
            if not self.receive():
                response.body += self.take(len(self.buffer))
                raise Truncated(response)
        return self.take(size)

    def is_open(self) -> bool:
        """Whether the server answers one more request. Only asks."""
        try:
            self.send(GET)
            return bool(self.read_response().status)
        except (OSError, AssertionError):
            return False


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def request(
    method: str = "GET", target: str = "/", *fields: bytes, version: str = "1.1", body: bytes = b""
) -> bytes:
    """A plain request with Host, `fields` and, where there is one, the length of its body."""
    lines = [f"{method} {target} HTTP/{version}".encode(), b"Host: a", *fields]
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


# Applications that many tests need.

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def read_body(receive: Receive) -> bytes:
    """The whole body; raises EOFError if the client goes away before its end."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise EOFError
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


async def answer(send: Send, body: bytes = b"ok", status: int = 200, headers: Any = ()) -> None:
    """A response of one message."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def hello(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Says ``ok`` and reads nothing."""
    await answer(send)


async def mirror(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answers with the scope and the body, as Python literals."""
    try:
        body = await read_body(receive)
    except EOFError:
        return
    await answer(send, repr({**scope, "body": body}).encode())


HTTP2: dict[str, Any] = {"http_protocols": "h2,h1", "http2_cleartext": "both"}
"""Settings for `serve`: HTTP/2, however it begins."""
