"""The cost budgets of one keep-alive GET and of one echoed WebSocket message, in counts that do not vary between runs.

They are told in docs/architecture.md, "The cost budget".

Speed that is measured in seconds belongs to `benchmarks/`. What is counted here are the causes of it: calls, writes, and what is put on the
loop. A change that goes over the budget has to find the calls again elsewhere.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from ws import echo, handshake, text

import gunicorn_asgi
from gunicorn_asgi.accept import Listener
from gunicorn_asgi.http1.connection import H1Connection
from gunicorn_asgi.server import Server
from gunicorn_asgi.settings import Settings

MAX_PYTHON_CALLS = 25
MAX_C_CALLS = 30
REQUEST = b"GET /hello HTTP/1.1\r\nHost: localhost:8000\r\n\r\n"


class NullTransport(asyncio.Transport):
    """A transport that goes nowhere. Keeps what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        info = {"peername": ("127.0.0.1", 40000), "sockname": ("127.0.0.1", 8000), "socket": SimpleNamespace(family=socket.AF_UNIX)}
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
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


def make_connection(app: Any, parser: str, transport: NullTransport, loop: asyncio.AbstractEventLoop) -> H1Connection:
    settings = Settings.read(Config(), {"http": parser}, {})
    host = SimpleNamespace(nr=0, max_requests=sys.maxsize, retire=lambda: None)
    server = Server(settings, app, host, SimpleNamespace(debug=lambda *_: None), None, loop)  # type: ignore[arg-type]  # nothing is logged
    listening = SimpleNamespace(sock=SimpleNamespace(getsockname=lambda: ("127.0.0.1", 8000)))
    connection = H1Connection(server, Listener(listening, "http", ""), ("127.0.0.1", 40000))  # type: ignore[arg-type]  # of the socket, its name is asked for
    transport.set_protocol(connection)
    connection.connection_made(transport)
    return connection


def measure(parser: str = "httptools") -> tuple[Counter[str], Counter[str], list[bytes]]:
    """Counts of one keep-alive GET after others on the same connection: (calls by kind, scheduled by kind, writes)."""
    loop = CountingLoop()
    loop.scheduled = Counter()
    scheduled: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    transport = NullTransport()

    def profile(_frame: Any, event: str, arg: Any) -> None:
        if event in {"call", "c_call"} and arg is not sys.setprofile:
            calls[event] += 1

    async def main() -> None:
        connection = make_connection(app, parser, transport, loop)
        for _ in range(3):
            connection.data_received(REQUEST)
        transport.written.clear()
        loop.scheduled.clear()
        sys.setprofile(profile)
        try:
            connection.data_received(REQUEST)
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
        calls, _, _ = measure()
        assert calls["call"] <= MAX_PYTHON_CALLS, calls

    def test_makes_few_c_calls(self) -> None:
        calls, _, _ = measure()
        assert calls["c_call"] <= MAX_C_CALLS, calls

    def test_writes_once(self) -> None:
        _, _, written = measure()
        assert len(written) == 1
        assert written[0].endswith(b"\r\n\r\nHello, world!")

    def test_schedules_nothing(self) -> None:
        _, scheduled, _ = measure()
        assert not scheduled


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
