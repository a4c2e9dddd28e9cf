"""Minimal rates of bodies and of reading: ``min_body_rate`` and ``min_read_rate``, over every version of HTTP."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from h2.settings import SettingCodes
from h2client import CANCEL
from inprocess import Flag, InProcess, request
from ways import Way, serving
from ws import OVER_2, serve_way
from ws import WAYS as WS_WAYS
from ws import connect as connect_websocket

from gunicorn_asgi.errors import ClientDisconnected
from gunicorn_asgi.http.exchange import RATE_SECONDS

RATE = 500
LONG = {"body_timeout": 1000.0, "write_timeout": 1000.0, "keepalive": 1000}
ENOUGH = int(2 * RATE_SECONDS) + 3
"""Seconds after which a slow client was looked at after a whole stretch."""
linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not tell")


# Bodies.


class Reading:
    """Reads a body, and waits before that if it is told to."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.size = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            self.messages.append(message["type"])
            if message["type"] == "http.disconnect":
                return
            self.size += len(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % self.size})


class Uploading:
    """A client that sends a body of unknown length, in any version of HTTP."""

    def __init__(self, asked: Way) -> None:
        self.asked = asked
        self.client = asked.connect()
        if asked.is_h2:
            self.stream = self.client.begin("POST", "/", end=False)
        else:
            self.client.send(request("POST", "/", b"Transfer-Encoding: chunked"))

    def send(self, size: int) -> None:
        if self.asked.is_h2:
            self.client.upload(self.stream, bytes(size), end=False)
        else:
            self.client.send(b"%x\r\n%b\r\n" % (size, bytes(size)))

    def end(self) -> tuple[int, bytes]:
        if self.asked.is_h2:
            self.client.upload(self.stream, b"")
        else:
            self.client.send(b"0\r\n\r\n")
        return self.answer()

    def answer(self) -> tuple[int, bytes]:
        if self.asked.is_h2:
            self.client.wait_for(lambda: self.stream.has_ended, "the response")
            return self.stream.status, self.stream.body
        response = self.client.read_response()
        return response.status, response.body


def trickle(server: InProcess, client: Uploading, size: int, seconds: int) -> None:
    """Send `size` bytes each second, until the application has heard of the end."""
    app = server.server.app
    for _ in range(seconds):
        if "http.disconnect" in app.messages:
            return
        before = app.size
        client.send(size)
        server.wait_until(lambda before=before: app.size >= before + size)
        server.advance(1)
        server.settle()


@linux
@pytest.mark.parametrize("way", ["1.1", "tls", "h2", "h2-tls"])
def test_a_body_below_the_rate_gets_408(parser: str, way: str) -> None:
    app = Reading()
    with serving(app, parser, way, min_body_rate=RATE, **LONG) as asked:
        asked.server.stop_clock()
        client = Uploading(asked)
        trickle(asked.server, client, 100, ENOUGH)
        assert app.messages[-1] == "http.disconnect"
        assert client.answer()[0] == 408
        assert app.size >= 100 * (RATE_SECONDS - 1)
        [line] = asked.server.log.take("warning")
        assert "The body of the request did not arrive in time" in line.text


@pytest.mark.parametrize("way", ["1.1", "tls", "h2"])
def test_a_body_above_the_rate_is_read_to_its_end(parser: str, way: str) -> None:
    with serving(Reading(), parser, way, min_body_rate=RATE, **LONG) as asked:
        asked.server.stop_clock()
        client = Uploading(asked)
        trickle(asked.server, client, 2 * RATE, ENOUGH)
        assert client.end() == (200, b"%d" % (2 * RATE * ENOUGH))


@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_without_the_option_a_slow_body_is_read_to_its_end(parser: str, way: str) -> None:
    with serving(Reading(), parser, way, **LONG) as asked:
        client = Uploading(asked)
        trickle(asked.server, client, 10, ENOUGH)
        assert client.end() == (200, b"%d" % (10 * ENOUGH))


def test_a_slow_body_at_a_unix_socket_has_no_rate(parser: str) -> None:
    with serving(Reading(), parser, "unix", min_body_rate=RATE, **LONG) as asked:
        client = Uploading(asked)
        trickle(asked.server, client, 10, ENOUGH)
        assert client.end() == (200, b"%d" % (10 * ENOUGH))


@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_a_body_that_nobody_waits_for_has_no_rate(parser: str, way: str) -> None:
    go = Flag()
    reading = Reading()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await go.reached()
        await reading(scope, receive, send)

    with serving(late, parser, way, min_body_rate=RATE, **LONG) as asked:
        client = Uploading(asked)
        asked.server.wait_until(lambda: len(asked.server.server.tasks) == 1)
        client.send(10)
        asked.server.advance(100)
        go.set()
        assert client.end() == (200, b"10")


# Responses and messages.


class Sending:
    """Sends as long as the client takes it."""

    def __init__(self) -> None:
        self.sent = 0
        self.error: BaseException | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.accept"})
            else:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                if scope["type"] == "websocket":
                    await send({"type": "websocket.send", "bytes": bytes(16384)})
                else:
                    part = {"type": "http.response.body", "body": bytes(16384)}
                    await send({**part, "more_body": True})
                self.sent += 1
        except BaseException as error:
            self.error = error
            raise


def read_slowly(server: InProcess, sock: Any, size: int, seconds: int) -> None:
    """Take `size` bytes each second, unless the application has ended."""
    for _ in range(seconds):
        if server.server.app.error is not None:
            return
        sock.recv(size)
        server.settle()
        server.advance(1)


@pytest.mark.parametrize("way", ["1.1", "unix"])
def test_a_client_that_reads_below_the_rate_is_reset(parser: str, way: str) -> None:
    app = Sending()
    with serving(app, parser, way, min_read_rate=RATE, **LONG) as asked:
        server = asked.server
        client = asked.connect(receive_buffer=4096)
        client.send(request())
        server.wait_clogged()
        # Its system may take more of its own accord at first.
        for _ in range(6):
            read_slowly(server, client.sock, 10, ENOUGH)
        server.wait_until(lambda: app.error is not None)
        assert isinstance(app.error, ClientDisconnected)
        server.wait_until(server.is_idle)


@pytest.mark.parametrize("way", ["1.1", "unix"])
def test_a_client_that_reads_above_the_rate_is_not_reset(parser: str, way: str) -> None:
    app = Sending()
    with serving(app, parser, way, min_read_rate=RATE, **LONG) as asked:
        client = asked.connect(receive_buffer=65536)
        client.send(request())
        asked.server.wait_clogged()
        read_slowly(asked.server, client.sock, 131072, 60)
        assert app.error is None


def test_without_the_option_a_slow_reader_is_not_reset(parser: str) -> None:
    app = Sending()
    with serving(app, parser, "unix", **LONG) as asked:
        client = asked.connect()
        client.send(request())
        asked.server.wait_clogged()
        read_slowly(asked.server, client.sock, 10, 60)
        assert app.error is None


def test_a_stream_whose_window_opens_below_the_rate_is_reset(parser: str) -> None:
    app = Sending()
    with serving(app, parser, "h2", min_read_rate=RATE, **LONG) as asked:
        server = asked.server
        client = asked.connect(settings={SettingCodes.INITIAL_WINDOW_SIZE: 0})
        slow, fast = client.begin(), client.begin()
        slow.opens_window = fast.opens_window = False
        server.wait_queued()
        for _ in range(ENOUGH):
            if not slow.is_over:
                client.open_window(10, slow)
            client.open_window(2 * RATE, fast)
            client.synchronize()
            server.advance(1)
        client.synchronize()
        assert slow.reset_code == CANCEL
        assert not fast.is_over
        assert len(fast.body) == 2 * RATE * ENOUGH


@pytest.mark.parametrize("way", WS_WAYS)
def test_a_websocket_whose_client_reads_below_the_rate_is_ended(way: str) -> None:
    app = Sending()
    with serve_way(app, way, min_read_rate=RATE, ws_ping_interval=0, **LONG) as server:
        websocket = connect_websocket(server, receive_buffer=4096)
        if OVER_2 in way:
            server.wait_queued()
        else:
            server.wait_clogged()
        sock = websocket.client.sock
        for _ in range(6):
            if app.error is None and OVER_2 not in way:
                read_slowly(server, sock, 10, ENOUGH)
            elif app.error is None:
                server.advance(ENOUGH)
        server.wait_until(lambda: app.error is not None)
