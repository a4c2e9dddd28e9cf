"""The cost budgets of one GET, over HTTP/1.1 and HTTP/2, and of one echoed WebSocket message, in counts that do not vary between runs.

They are told in docs/architecture.md, "The cost budget".

Speed that is measured in seconds belongs to `benchmarks/`. What is counted here are the causes of it: calls, writes, and what is put on the
loop. A change that goes over the budget has to find the calls again elsewhere.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from test_metrics import count_access
from ws import echo, handshake, text

import gunicorn_asgi
from gunicorn_asgi.asgi.async_library import AsyncLibrary
from gunicorn_asgi.config.settings import Settings
from gunicorn_asgi.http.memory import SAMPLE
from gunicorn_asgi.http1.connection import H1Connection
from gunicorn_asgi.http2 import frames
from gunicorn_asgi.metrics.catalog import FIRST_COUNTER, PLACES, WIDTH
from gunicorn_asgi.metrics.counting import counting_transport
from gunicorn_asgi.net.listener import Listener
from gunicorn_asgi.net.transport import Handler, Transport
from gunicorn_asgi.server import Server

MAX_PYTHON_CALLS = 25
MAX_C_CALLS = 30
WARM = SAMPLE + 4
"""Requests until this one is certainly remembered, whatever other tests have left in the memory."""
REQUEST = b"GET /hello HTTP/1.1\r\nHost: localhost:8000\r\n\r\n"


class NullTransport(asyncio.Transport):
    """A transport that goes nowhere. Keeps what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        info = {
            "peername": ("127.0.0.1", 40000),
            "sockname": ("127.0.0.1", 8000),
            "socket": SimpleNamespace(family=socket.AF_UNIX),
        }
        return info.get(name, default)

    def write(self, data: bytes) -> None:  # type: ignore[override]  # nothing else is written
        self.written.append(data)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        pass


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts what is scheduled on it."""

    scheduled: Counter[str]

    def call_soon(self, *args: Any, **kwargs: Any) -> Any:
        self.scheduled["call_soon"] += 1
        return super().call_soon(*args, **kwargs)

    def call_at(self, *args: Any, **kwargs: Any) -> Any:
        self.scheduled["timer"] += 1
        return super().call_at(*args, **kwargs)

    def create_future(self) -> Any:
        self.scheduled["future"] += 1
        return super().create_future()


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain")],
        }
    )
    await send({"type": "http.response.body", "body": b"Hello, world!"})


def make_connection(
    app: Any,
    parser: str,
    transport: NullTransport,
    loop: asyncio.AbstractEventLoop,
    handler: Callable[[Transport], Handler] = H1Connection,
    values: list[float] | None = None,
    library: AsyncLibrary | None = None,
) -> Transport:
    """With `values`, exchanges and bytes are counted in it, and no log listens."""
    settings = Settings.read(Config(), {"http": parser}, {})
    host = SimpleNamespace(
        nr=0, max_requests=sys.maxsize, retire=lambda: None, hand_over=lambda: False
    )
    log: Any = SimpleNamespace(debug=lambda *_: None)  # nothing is logged
    server = Server(settings, app, host, log, None, loop, library=library)  # type: ignore[arg-type]  # parts of them
    listening = SimpleNamespace(sock=SimpleNamespace(getsockname=lambda: ("127.0.0.1", 8000)))
    server.make_handler = handler
    if values is not None:
        server.access = count_access(values)
        server.transport_class = counting_transport(values)
    connection = server.connect(Listener(listening, "http", ""), ("127.0.0.1", 40000))  # type: ignore[arg-type]  # its name is asked for
    transport.set_protocol(connection)
    connection.connection_made(transport)
    return connection


def measure(
    requests: Sequence[bytes],
    handler: Callable[[Transport], Handler] = H1Connection,
    values: list[float] | None = None,
) -> tuple[Counter[str], Counter[str], list[bytes]]:
    """Counts of the last of `requests`, after others on the same connection: (calls by kind, scheduled by kind, writes)."""
    loop = CountingLoop()
    loop.scheduled = Counter()
    scheduled: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    transport = NullTransport()

    def profile(_frame: Any, event: str, arg: Any) -> None:
        if event in {"call", "c_call"} and arg is not sys.setprofile:
            calls[event] += 1

    async def main() -> None:
        make_connection(app, "httptools", transport, loop, handler, values)
        for request in requests[:-1]:
            transport.get_protocol().data_received(request)  # type: ignore[attr-defined]  # a Transport
        receive = transport.get_protocol().data_received  # type: ignore[attr-defined]  # a Transport
        transport.written.clear()
        loop.scheduled.clear()
        sys.setprofile(profile)
        try:
            receive(requests[-1])
        finally:
            sys.setprofile(None)
            scheduled.update(loop.scheduled)

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    return calls, scheduled, transport.written


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks start eagerly from Python 3.12 on")
class TestKeepAliveGet:
    def test_makes_few_python_calls(self) -> None:
        calls, _, _ = measure([REQUEST] * WARM)
        assert calls["call"] <= MAX_PYTHON_CALLS, calls

    def test_makes_few_c_calls(self) -> None:
        calls, _, _ = measure([REQUEST] * WARM)
        assert calls["c_call"] <= MAX_C_CALLS, calls

    def test_writes_once(self) -> None:
        _, _, written = measure([REQUEST] * WARM)
        assert len(written) == 1
        assert written[0].endswith(b"\r\n\r\nHello, world!")

    def test_schedules_nothing(self) -> None:
        _, scheduled, _ = measure([REQUEST] * WARM)
        assert not scheduled


MAX_PYTHON_CALLS_H2 = 54
MAX_C_CALLS_H2 = 44


def get_h2(stream: int, block: bytes) -> bytes:
    return b"".join(frames.headers(stream, block, True, frames.LEAST_MAX_FRAME_SIZE))


FIRST = b"\x82\x86\x84\x41\x09localhost\x7a\x04test"
"""A GET whose host and user agent go into the table..."""
REPEATED = b"\x82\x86\x84\xbf\xbe"
"""...and the same again, as most clients send it: a byte for each field."""
OPENED_H2 = b"".join(
    [
        frames.PREFACE,
        frames.settings([]),
        get_h2(1, FIRST),
        *[get_h2(stream, REPEATED) for stream in (3, 5, 7)],
    ]
)


def detect(transport: Transport) -> Handler:
    from gunicorn_asgi.protocol_detection import ProtocolDetection

    return ProtocolDetection(transport)


def measure_h2(
    *streams: int, values: list[float] | None = None
) -> tuple[Counter[str], Counter[str], list[bytes]]:
    """The same counts of a GET on each of these streams in one packet."""
    packet = b"".join([get_h2(stream, REPEATED) for stream in streams])
    return measure([OPENED_H2, packet], detect, values)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks start eagerly from Python 3.12 on")
class TestGetOverHTTP2:
    def test_makes_few_python_calls(self) -> None:
        calls, _, _ = measure_h2(9)
        assert calls["call"] <= MAX_PYTHON_CALLS_H2, calls

    def test_makes_few_c_calls(self) -> None:
        calls, _, _ = measure_h2(9)
        assert calls["c_call"] <= MAX_C_CALLS_H2, calls

    def test_writes_once(self) -> None:
        _, _, written = measure_h2(9)
        assert len(written) == 1
        assert written[0].endswith(
            frames.header(13, frames.FrameType.DATA, frames.END_STREAM, 9) + b"Hello, world!"
        )

    def test_schedules_nothing(self) -> None:
        _, scheduled, _ = measure_h2(9)
        assert not scheduled

    def test_writes_once_for_all_streams_of_a_packet(self) -> None:
        _, scheduled, written = measure_h2(9, 11, 13, 15)
        assert len(written) == 1
        assert written[0].count(b"Hello, world!") == 4
        assert not scheduled


NUMBERS = (9, 6)
"""Calls of Python and C functions for each GET where its numbers are counted, and no log listens."""
NUMBERS_H2 = (10, 6)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks start eagerly from Python 3.12 on")
class TestNumbers:
    """The numbers of `metrics_bind`. While they are off, the budgets above hold."""

    def test_a_get_makes_few_calls_more(self) -> None:
        values = [0.0] * WIDTH
        calls, scheduled, written = measure([REQUEST] * WARM, values=values)
        plain, _, _ = measure([REQUEST] * WARM)
        more = calls["call"] - plain["call"], calls["c_call"] - plain["c_call"]
        assert more[0] <= NUMBERS[0], more
        assert more[1] <= NUMBERS[1], more
        assert len(written) == 1
        assert not scheduled
        assert values[PLACES["received_bytes_total"]] == WARM * len(REQUEST)

    def test_a_get_over_http2_makes_few_calls_more(self) -> None:
        values = [0.0] * WIDTH
        calls, scheduled, written = measure_h2(9, values=values)
        plain, _, _ = measure_h2(9)
        more = calls["call"] - plain["call"], calls["c_call"] - plain["c_call"]
        assert more[0] <= NUMBERS_H2[0], more
        assert more[1] <= NUMBERS_H2[1], more
        assert len(written) == 1
        assert not scheduled
        assert sum(values[FIRST_COUNTER:]) > 0


PACKAGE = str(Path(gunicorn_asgi.__file__).parent)
MAX_PYTHON_CALLS_PER_MESSAGE = 9
MAX_C_CALLS_PER_MESSAGE = 16
MESSAGE = text("x" * 32)


def measure_echo(data: bytes) -> tuple[Counter[str], Counter[str], list[bytes]]:
    """The same counts of `data`, from the packet to the echo and the wait for the next one. Of the calls those of this package."""
    loop = CountingLoop()
    loop.scheduled = Counter()
    scheduled: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    transport = NullTransport()

    def profile(frame: Any, event: str, arg: Any) -> None:
        # Not the loop's own, which vary with the loop.
        if event in {"call", "c_call"} and frame.f_code.co_filename.startswith(PACKAGE):
            calls[event] += 1

    async def main() -> None:
        connection = make_connection(echo, "h11", transport, loop)
        connection.data_received(handshake())
        protocol: Any = transport.get_protocol()
        for _ in range(3):
            protocol.data_received(data)
            await asyncio.sleep(0)
        transport.written.clear()
        loop.scheduled.clear()
        sys.setprofile(profile)
        try:
            protocol.data_received(data)
            await asyncio.sleep(0)
        finally:
            sys.setprofile(None)
            scheduled.update(loop.scheduled)
            scheduled["call_soon"] -= 1  # this sleep's
        transport.get_protocol().connection_lost(None)
        await asyncio.sleep(0)

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    return calls, scheduled, transport.written


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks start eagerly from Python 3.12 on")
class TestEcho:
    def test_makes_few_python_calls(self) -> None:
        calls, _, _ = measure_echo(MESSAGE)
        assert 0 < calls["call"] <= MAX_PYTHON_CALLS_PER_MESSAGE, calls

    def test_makes_few_c_calls(self) -> None:
        calls, _, _ = measure_echo(MESSAGE)
        assert 0 < calls["c_call"] <= MAX_C_CALLS_PER_MESSAGE, calls

    def test_writes_once(self) -> None:
        _, _, written = measure_echo(MESSAGE)
        assert written == [b"\x81\x20" + b"x" * 32]

    def test_wakes_the_application_once_and_sets_no_timer(self) -> None:
        _, scheduled, _ = measure_echo(MESSAGE)
        assert scheduled == {"call_soon": 1, "future": 1}

    def test_wakes_the_application_once_for_all_messages_of_a_packet(self) -> None:
        _, scheduled, written = measure_echo(MESSAGE * 8)
        assert len(written) == 8
        assert scheduled == {"call_soon": 1, "future": 1}


MAX_PYTHON_CALLS_OVER_TRIO = 38
MAX_C_CALLS_OVER_TRIO = 39


def measure_trio(*, has_deadline: bool = False) -> tuple[Counter[str], Counter[str], list[bytes]]:
    """The same counts of a GET in a task of trio, from the packet to the end of the task.

    Of the calls those of this package, so that they do not depend on trio's version. With
    `has_deadline`, another task of trio waits for its deadline meanwhile.
    """
    trio_library = pytest.importorskip("gunicorn_asgi.asgi.trio_library")
    import trio

    loop = CountingLoop()
    loop.scheduled = Counter()
    scheduled: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    transport = NullTransport()
    errors: list[BaseException] = []

    def profile(frame: Any, event: str, arg: Any) -> None:
        if event in {"call", "c_call"} and frame.f_code.co_filename.startswith(PACKAGE):
            calls[event] += 1

    async def main() -> None:
        log: Any = SimpleNamespace(warning=lambda *_: None)
        library = trio_library.Trio(loop, log, errors.append)
        await library.start()
        if has_deadline:
            library.create_task(trio.sleep(600), name="waits")
        connection = make_connection(
            library.adapt(app), "httptools", transport, loop, library=library
        )
        for _ in range(WARM):
            connection.data_received(REQUEST)
            await asyncio.sleep(0)
        transport.written.clear()
        loop.scheduled.clear()
        sys.setprofile(profile)
        try:
            connection.data_received(REQUEST)
            await asyncio.sleep(0)
        finally:
            sys.setprofile(None)
            scheduled.update(loop.scheduled)
            scheduled["call_soon"] -= 1  # this sleep's
        await library.close(1.0)

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert not errors
    return calls, scheduled, transport.written


class TestGetOverTrio:
    """On every Python: no task of trio starts eagerly."""

    def test_makes_few_python_calls(self) -> None:
        calls, _, _ = measure_trio()
        assert 0 < calls["call"] <= MAX_PYTHON_CALLS_OVER_TRIO, calls

    def test_makes_few_c_calls(self) -> None:
        calls, _, _ = measure_trio()
        assert 0 < calls["c_call"] <= MAX_C_CALLS_OVER_TRIO, calls

    def test_writes_once(self) -> None:
        _, _, written = measure_trio()
        assert len(written) == 1

    def test_takes_one_turn_of_trio_and_sets_no_timer(self) -> None:
        """A turn that leaves trio's deadlines alone leaves the timer alone."""
        for has_deadline in (False, True):
            _, scheduled, _ = measure_trio(has_deadline=has_deadline)
            assert scheduled == {"call_soon": 1}, has_deadline
