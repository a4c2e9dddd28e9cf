"""What happens on a connection between and around its exchanges: RFC 9112, 7 to 9; deadlines, bounds and order."""

from __future__ import annotations

import asyncio
import inspect
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from gunicorn.glogging import Logger
from inprocess import (
    GET,
    TICK,
    Flag,
    Host,
    Log,
    Truncated,
    answer,
    hello,
    mirror,
    read_body,
    request,
    serve,
)
from libraries import start_task
from ways import serving

from gunicorn_asgi.asgi import http
from gunicorn_asgi.errors import ClientDisconnected, RequestError
from gunicorn_asgi.http1.states import HIGH_WATER, MAX_DISCARD
from gunicorn_asgi.observe.access_log import Access
from gunicorn_asgi.worker import Worker

pytestmark = pytest.mark.both_libraries

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
CHUNKED = request("POST", "/", b"Transfer-Encoding: chunked")
GARBAGE = b"\x00\x01garbage\r\n\r\n"


def part(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def post(length: int, *fields: bytes) -> bytes:
    return request("POST", "/", b"Content-Length: %d" % length, *fields)


class Gate:
    """An application that says its path, once it is let. ``/open`` is always let."""

    def __init__(self) -> None:
        self.called = Flag()
        self.go = Flag()
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        self.called.set()
        if scope["path"] != "/open":
            await self.go.reached()
        await answer(send, scope["path"].encode())


class Listener:
    """An application that reads its body and then listens for the end; ends without a response when it hears it."""

    def __init__(self) -> None:
        self.listens = Flag()
        self.heard = Flag()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await self._receive(receive)
            if message["type"] == "http.disconnect":
                self.heard.set()
                return

    async def _receive(self, receive: Any) -> Any:
        self.listens.set()
        return await receive()


async def reads(scope: Any, receive: Any, send: Any) -> None:
    with suppress(EOFError):
        await answer(send, await read_body(receive))


# The fakes.


@pytest.mark.parametrize("name", ["info", "warning", "error", "exception"])
def test_the_log_takes_what_gunicorns_takes(name: str) -> None:
    theirs = inspect.signature(getattr(Logger, name))
    ours = inspect.signature(getattr(Log, name))
    theirs.bind(
        None,
        "message %s",
        "argument",
        **{key: None for key in ours.parameters if key == "exc_info"},
    )


def test_the_host_has_what_the_worker_has() -> None:
    for name, member in vars(Host).items():
        if not name.startswith("_"):
            assert (
                inspect.signature(getattr(Worker, name)).parameters.keys()
                == inspect.signature(member).parameters.keys()
            )


# Keep-alive.


def test_an_idle_connection_is_closed_after_keepalive(parser: str, tmp_path: Path) -> None:
    """Without a response, as there is no request. On a unix socket, where the kernel of the client
    acknowledges nothing late.
    """
    with serve(hello, parser, bind=str(tmp_path / "socket"), keepalive=5) as server:
        client = server.connect()
        client.send(GET)
        client.read_response()
        server.advance(4.5)
        assert client.is_open()
        server.advance(4.5)
        assert client.is_open()
        server.advance(5 + 3 * TICK)
        assert client.read_rest() == b""
        assert not server.log.lines


def test_keepalive_0_closes_every_connection_after_its_response(parser: str) -> None:
    with serve(hello, parser, keepalive=0) as server:
        for data in (GET, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"):
            client = server.connect()
            client.send(data + GET)
            response = client.read_response()
            assert response[b"connection"] == b"close"
            assert client.read_rest() == b""


def test_the_keepalive_time_does_not_run_during_a_request(parser: str) -> None:
    gate = Gate()
    with serve(gate, parser, keepalive=1) as server:
        client = server.connect()
        client.send(request(target="/slow") + request(target="/slow"))
        gate.called.wait()
        server.advance(1000)
        assert not client.has_more()
        gate.go.set()
        assert client.read_response().body == b"/slow"
        assert client.read_response().body == b"/slow"


def test_many_requests_on_one_connection(parser: str) -> None:
    with serve(reads, parser) as server:
        client = server.connect()
        for number in range(300):
            body = b"%d" % number
            client.send(
                request("POST", "/", body=body)
                if number % 3
                else CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            )
            assert client.read_response().body == body
        assert server.host.nr == 300


def test_max_requests_ends_the_connection_with_its_response(parser: str) -> None:
    with serve(hello, parser, max_requests=3) as server:
        client = server.connect()
        for number in range(3):
            client.send(GET)
            response = client.read_response()
            assert response.values(b"connection") == ([b"close"] if number == 2 else [])
        assert client.read_rest() == b""
        assert server.host.retired == 1
        assert server.host.nr == 3


# Deadlines.


def test_a_connection_that_sends_nothing_is_closed_after_head_timeout(parser: str) -> None:
    """In silence: nothing was asked."""
    with serve(hello, parser, head_timeout=10) as server:
        client = server.connect()
        server.wait_connected()
        server.advance(9)
        server.settle()
        assert not client.has_more()
        server.advance(2)
        assert client.read_rest() == b""
        assert not server.log.lines


@pytest.mark.parametrize("data", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r"])
@pytest.mark.parametrize("before", [0, 1], ids=["first", "second"])
def test_a_head_that_does_not_arrive_is_answered_with_408(
    parser: str, data: bytes, before: int
) -> None:
    """RFC 9110, 15.5.9; its time runs from its first byte."""
    with serve(hello, parser, head_timeout=10, keepalive=2) as server:
        client = server.connect()
        for _ in range(before):
            client.send(GET)
            client.read_response()
        client.send(data)
        server.wait_buffered()
        server.advance(9)
        server.settle()
        assert not client.has_more()
        server.advance(2)
        response = client.read_response()
        assert response.status == 408
        assert response[b"connection"] == b"close"
        assert client.read_rest() == b""
        (line,) = server.log.take("warning")
        assert line.text.startswith("Invalid request from ip=127.0.0.1: ")


def test_the_time_of_the_first_head_begins_with_the_connection(parser: str) -> None:
    with serve(hello, parser, head_timeout=10) as server:
        client = server.connect()
        server.wait_connected()
        server.stop_clock()
        server.advance(6)
        client.send(b"GET")
        server.wait_buffered()
        server.advance(3)
        assert not client.has_more()
        server.advance(2)
        assert client.read_response().status == 408
        server.log.take("warning")


def test_a_head_that_comes_drop_by_drop_gains_no_time(parser: str) -> None:
    with serve(hello, parser, head_timeout=10) as server:
        client = server.connect()
        for number in range(1, 7):
            client.send(b"x")
            server.wait_buffered(number)
            server.advance(1.9)
        assert client.read_response().status == 408
        server.log.take("warning")


def test_a_body_that_does_not_arrive_is_answered_with_408(parser: str) -> None:
    listener = Listener()
    with serve(listener, parser, body_timeout=30) as server:
        for data in (post(5), post(5) + b"hel", CHUNKED, CHUNKED + b"5\r\nhel"):
            listener.listens, listener.heard = Flag(), Flag()
            client = server.connect()
            client.send(data)
            listener.listens.wait()
            server.settle()
            server.advance(29)
            server.settle()
            assert not client.has_more()
            server.advance(2)
            response = client.read_response()
            assert response.status == 408
            assert response[b"connection"] == b"close"
            assert client.read_rest() == b""
            listener.heard.wait()
            (line,) = server.log.take("warning")
            assert line.text.startswith("Invalid request from ip=127.0.0.1: ")


def test_each_byte_of_a_body_gives_it_time_again(parser: str) -> None:
    with serve(reads, parser, body_timeout=30) as server:
        client = server.connect()
        client.send(post(10))
        for number in range(9):
            client.send(b"x")
            server.wait_body_left(9 - number)
            server.advance(25)
        client.send(b"x")
        assert client.read_response().body == b"x" * 10


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_body_that_does_not_arrive_within_its_response_breaks_that_off(
    parser: str, version: bytes
) -> None:
    """Nobody may take the response for whole: without a length, to HTTP/1.0, only a reset can say so."""
    ended = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"half"))
        assert (await receive())["type"] == "http.disconnect"
        ended.set()

    with serve(app, parser, body_timeout=30) as server:
        client = server.connect()
        client.send(post(5).replace(b"HTTP/1.1", b"HTTP/" + version))
        client.recv_until(b"half")
        server.advance(31)
        ended.wait()
        if version == b"1.1":
            assert client.read_rest() == b"\r\n"
        else:
            with pytest.raises(ConnectionResetError):
                client.read_rest()


def test_no_time_runs_while_the_client_waits_for_100(parser: str) -> None:
    """It holds the body back until the application asks for it; only then is it the client who is waited for."""
    called, go = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.set()
        await go.reached()
        await reads(scope, receive, send)

    with serve(app, parser, body_timeout=30) as server:
        client = server.connect()
        client.send(post(5, b"Expect: 100-continue"))
        called.wait()
        server.advance(100)
        server.settle()
        assert not client.has_more()
        go.set()
        assert client.read_response().status == 100
        server.advance(31)
        assert client.read_response().status == 408
        server.log.take("warning")


def test_no_time_runs_while_the_application_does_not_ask_for_the_body(parser: str) -> None:
    """``body_timeout`` is for when the application waits for it: a busy application is no reason to refuse the request."""
    called, go = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.set()
        await go.reached()
        await reads(scope, receive, send)

    with serve(app, parser, body_timeout=30) as server:
        client = server.connect()
        client.send(post(5) + b"he")
        called.wait()
        server.advance(100)
        go.set()
        client.send(b"llo")
        response = client.read_response()
        assert (response.status, response.body) == (200, b"hello")


def test_no_time_runs_while_reading_is_paused(parser: str) -> None:
    go = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.reached()
        await reads(scope, receive, send)

    size = 4 * 1024 * 1024
    with serve(app, parser, body_timeout=30) as server:
        client = server.connect()
        client.send(post(size))
        sent = client.push(size)
        server.wait_paused()
        server.advance(100)
        go.set()
        sender = threading.Thread(target=client.send, args=(b"x" * (size - sent),))
        sender.start()
        assert len(client.read_response().body) == size
        sender.join()


def test_a_client_that_reads_nothing_is_reset_after_write_timeout(parser: str) -> None:
    raised = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            while True:
                await send(part(b"x" * 65536))
        except ClientDisconnected:
            raised.set()
            raise

    with serve(app, parser, write_timeout=60) as server:
        client = server.connect(receive_buffer=8192)
        client.send(GET)
        server.wait_clogged()
        server.advance(59)
        assert not raised.is_set()
        server.advance_until(raised.is_set, 60)
        with pytest.raises(ConnectionResetError):
            client.read_rest()


@pytest.mark.parametrize("fields", [[], [b"Connection: close"]], ids=["kept", "closing"])
def test_a_client_that_reads_slowly_is_not_reset(parser: str, fields: list[bytes]) -> None:
    size = 8 * 1024 * 1024

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x" * size)

    with serve(app, parser, write_timeout=60) as server:
        client = server.connect(receive_buffer=8192)
        client.send(request("GET", "/", *fields))
        server.wait_clogged()
        before = server.unsent()
        for _ in range(3):
            while len(client.buffer) < 4096 or server.unsent() >= before:
                assert client.receive()
            before = server.unsent()
            server.advance(59)
        assert len(client.read_response().body) == size


@pytest.mark.parametrize("body", ["length", "chunked"])
def test_a_client_that_sends_but_reads_nothing_is_reset_too(parser: str, body: str) -> None:
    """What arrives meanwhile, even the end of the body, does not turn off the clock for what does not leave."""
    raised = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            while True:
                await send(part(b"x" * 65536))
        except ClientDisconnected:
            raised.set()
            raise

    with serve(app, parser, write_timeout=60, body_timeout=1000) as server:
        client = server.connect(receive_buffer=8192)
        client.send(post(10) if body == "length" else CHUNKED)
        server.wait_clogged()
        client.send(b"hello" if body == "length" else b"5\r\nhello\r\n")
        server.wait_unread(5)
        client.send(b"hello" if body == "length" else b"5\r\nhello\r\n0\r\n\r\n")
        server.wait_unread(10)
        server.advance_until(raised.is_set, 60)


@pytest.mark.parametrize("way", ["1.1", "unix"])
@pytest.mark.parametrize("fields", [[], [b"Connection: close"]], ids=["kept", "closing"])
def test_a_response_that_nobody_takes_does_not_hold_the_connection_for_ever(
    monkeypatch: pytest.MonkeyPatch, parser: str, way: str, fields: list[bytes]
) -> None:
    """Complete for the application, but still in the buffer."""
    monkeypatch.setattr(http, "MAX_PIECE", 8 * 1024 * 1024)  # more than the kernel takes
    with serving(
        lambda scope, receive, send: answer(send, b"x" * 8 * 1024 * 1024),
        parser,
        way,
        write_timeout=60,
    ) as asked:
        server = asked.server
        client = asked.connect(receive_buffer=8192)
        client.send(request("GET", "/", *fields))
        server.wait_clogged()
        server.wait_until(lambda: not server.server.tasks)
        server.advance(58)
        assert not server.call(server.is_idle)
        times = server.advance_until(
            lambda: not server.server.connections, 59 if way == "1.1" else 3
        )
        assert way == "1.1" or times == 1


# Pipelining.


def test_pipelined_requests_are_answered_in_their_order(parser: str) -> None:
    """RFC 9112, 9.3.2; one after the other."""
    gate = Gate()
    with serve(gate, parser) as server:
        client = server.connect()
        client.send(b"".join(request(target=f"/{number}") for number in range(5)))
        gate.called.wait()
        server.settle()
        assert gate.paths == ["/0"]
        assert not client.has_more()
        gate.go.set()
        assert [client.read_response().body for _ in range(5)] == [
            b"/%d" % number for number in range(5)
        ]


@pytest.mark.parametrize("count", [1, 31, 32, 33, 64, 65, 500])
def test_any_number_of_pipelined_requests_is_answered(parser: str, count: int) -> None:
    with serve(mirror, parser) as server:
        client = server.connect()
        client.send(
            b"".join(
                request("POST" if number % 2 else "GET", f"/{number}", body=b"x" * (number % 3))
                for number in range(count)
            )
        )
        for number in range(count):
            assert f"'path': '/{number}'".encode() in client.read_response().body
        assert client.is_open()


@pytest.mark.parametrize("cut", [1, 7, 100, 1000])
def test_pipelined_requests_may_be_cut_anywhere(parser: str, cut: int) -> None:
    requests = [
        request("POST" if number % 2 else "GET", f"/{number}", body=b"x" * (number % 5))
        for number in range(40)
    ]
    data = b"".join(requests)
    with serve(mirror, parser) as server:
        client = server.connect()
        for start in range(0, len(data), cut):
            client.send(data[start : start + cut])
        for number in range(40):
            assert f"'path': '/{number}'".encode() in client.read_response().body


def test_a_request_of_another_client_does_not_wait_for_a_long_pipeline(parser: str) -> None:
    order: list[str] = []
    blocked, go = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        order.append(scope["path"])
        if scope["path"] == "/block":
            blocked.set()
            go.wait()  # the loop itself, so that all of the rest has arrived when it goes on
        await answer(send)

    with serve(app, parser) as server:
        one, two = server.connect(), server.connect()
        two.send(GET)
        two.read_response()
        one.send(request(target="/block"))
        assert blocked.wait(10)
        one.send(GET * 400)
        two.send(request(target="/two"))
        go.set()
        two.read_response()
        for _ in range(401):
            one.read_response()
        assert order.index("/two") < 200


def test_a_client_that_sends_behind_a_request_that_is_stuck_is_stalled(parser: str) -> None:
    """What waits in memory has a bound."""
    gate = Gate()
    with serve(gate, parser) as server:
        client = server.connect()
        client.send(request(target="/stuck"))
        gate.called.wait()
        # An endless header of the next request: never refused, for it is not looked at yet.
        client.send(b"GET /open HTTP/1.1\r\nHost: a\r\nX: ")
        sent = client.push(64 * 1024 * 1024)
        assert sent < 32 * 1024 * 1024  # of which the kernel holds the most
        server.wait_paused()
        assert server.held() <= HIGH_WATER + 512 * 1024  # one read more
        gate.go.set()
        assert client.read_response().body == b"/stuck"
        assert client.read_response().status == 431
        server.log.take("warning")


def test_what_was_held_is_served_when_the_request_before_is(parser: str) -> None:
    gate = Gate()
    count = 10_000
    with serve(gate, parser) as server:
        client = server.connect()
        client.send(request(target="/slow"))
        gate.called.wait()
        sender = threading.Thread(target=client.send, args=(request(target="/open") * count,))
        sender.start()
        server.wait_paused()
        gate.go.set()
        assert client.read_response().body == b"/slow"
        for _ in range(count):
            assert client.read_response().body == b"/open"
        sender.join()


def test_a_client_that_pipelines_and_reads_nothing_is_stalled(parser: str) -> None:
    """No response is begun while the one before does not leave."""
    body = b"x" * 100_000
    with serve(lambda scope, receive, send: answer(send, body), parser) as server:
        client = server.connect(receive_buffer=8192)
        client.send(GET * 1000)
        server.wait_clogged()
        server.settle()
        assert server.host.nr < 500
        assert server.unsent() < 4 * len(body)
        for _ in range(1000):
            assert client.read_response().body == body
        assert client.is_open()


def test_garbage_behind_a_request_never_gets_into_its_response(parser: str) -> None:
    """The garbage is refused after the response, in its turn."""
    half, go = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"half"))
        half.set()
        await go.reached()
        await send(part(b"whole", False))

    with serve(app, parser) as server:
        for first in (GET, CHUNKED + b"2\r\nok\r\n0\r\n\r\n"):
            half, go = Flag(), Flag()
            client = server.connect()
            client.send(first)
            half.wait()
            client.send(GARBAGE)
            server.wait_buffered()
            go.set()
            assert client.read_response().body == b"halfwhole"
            assert client.read_response().status == 400
            assert client.read_rest() == b""
            assert len(server.log.take("warning")) == 1


def test_garbage_behind_a_closing_request_is_not_even_looked_at(parser: str) -> None:
    with serve(hello, parser) as server:
        client = server.connect()
        client.send(request("GET", "/", b"Connection: close") + GARBAGE)
        assert client.read_response().body == b"ok"
        assert client.read_rest() == b""


# A client that has closed its side.


def test_a_half_closed_client_gets_its_response(parser: str) -> None:
    """RFC 9112, 9.6."""
    for target in ("/open", "/slow"):
        gate = Gate()
        with serve(gate, parser) as server:
            client = server.connect()
            client.send(request(target=target))
            client.send_eof()
            if target == "/slow":
                server.wait_half_closed()
            gate.go.set()
            assert client.read_response().body == target.encode()
            assert client.read_rest() == b""


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("count", [2, 40, 400])
def test_a_half_closed_client_gets_all_its_responses(parser: str, count: int, slow: bool) -> None:
    gate = Gate()
    with serve(gate, parser) as server:
        client = server.connect()
        client.send(
            request(target="/slow" if slow else "/open") + request(target="/open") * (count - 1)
        )
        client.send_eof()
        if slow:
            server.wait_half_closed()
            gate.go.set()
        for _ in range(count):
            assert client.read_response().status == 200
        assert client.read_rest() == b""


def test_the_end_of_a_clients_side_between_two_responses_loses_none(parser: str) -> None:
    """It arrives in the very turn of the loop in which the first is complete, and the second not begun."""
    blocked, release = threading.Event(), threading.Event()
    gate = Gate()
    with serve(gate, parser) as server:
        client = server.connect()
        client.send(request(target="/slow") + request(target="/open"))
        gate.called.wait()
        server.wait_buffered()

        def block() -> None:
            gate.go.set()  # wakes the application in the next turn
            blocked.set()
            release.wait()

        server.loop.call_soon_threadsafe(block)
        assert blocked.wait(10)
        client.send_eof()
        release.set()
        assert client.read_response().body == b"/slow"
        assert client.read_response().body == b"/open"
        assert client.read_rest() == b""


def test_the_last_response_to_a_half_closed_client_says_close(parser: str) -> None:
    gate = Gate()
    with serve(gate, parser) as server:
        client = server.connect()
        client.send(request(target="/slow") + request(target="/slow"))
        client.send_eof()
        server.wait_half_closed()
        gate.go.set()
        assert client.read_response().values(b"connection") == []
        assert client.read_response().values(b"connection") == [b"close"]
        assert client.read_rest() == b""


def test_the_application_hears_of_a_half_closed_client_after_a_moment(parser: str) -> None:
    """Most who close their side are gone altogether; and returning then is what an application should do, no error."""
    listener = Listener()
    with serve(listener, parser) as server:
        client = server.connect()
        client.send(GET)
        listener.listens.wait()
        client.send_eof()
        server.wait_half_closed()
        server.settle()
        assert not listener.heard.is_set()
        server.advance(2)
        listener.heard.wait()
        server.wait_until(server.is_idle)
        client.read_rest()
        assert not server.log.take("error")


def test_an_application_that_does_not_listen_may_take_its_time_for_a_half_closed_client(
    parser: str,
) -> None:
    gate = Gate()
    with serve(gate, parser) as server:
        client = server.connect()
        client.send(request(target="/slow"))
        client.send_eof()
        server.wait_half_closed()
        server.advance(1000)
        server.settle()
        gate.go.set()
        assert client.read_response().body == b"/slow"


@pytest.mark.parametrize("waiting", [0, 100_000])
def test_with_half_close_disconnect_a_fin_cancels_the_application(
    parser: str, waiting: int
) -> None:
    """One that neither receives nor sends, also while pipelined requests keep reading paused."""
    cancelled, started = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with serve(app, parser, half_close="disconnect", asgi_disconnect_grace_period=30) as server:
        client = server.connect()
        client.send(GET)
        started.wait()
        client.send(GET * (waiting // len(GET)))
        if waiting:
            server.wait_paused()
        client.send_eof()
        if waiting:
            server.advance(2)
        server.wait_gone()
        assert not cancelled.is_set()
        server.advance(31)
        cancelled.wait()
        server.wait_until(server.is_idle)
        assert not server.log.take("error")


def test_with_half_close_disconnect_the_application_hears_of_it_at_once(parser: str) -> None:
    listener = Listener()
    with serve(listener, parser, half_close="disconnect") as server:
        client = server.connect()
        client.send(GET)
        listener.listens.wait()
        client.send_eof()
        listener.heard.wait()
        server.wait_until(server.is_idle)
        assert client.read_rest() == b""
        assert not server.log.take("error")


def test_with_half_close_disconnect_what_was_answered_by_then_is_sent(parser: str) -> None:
    with serve(hello, parser, half_close="disconnect") as server:
        client = server.connect()
        client.send(GET)
        client.send_eof()
        assert client.read_response().body == b"ok"
        assert client.read_rest() == b""


def test_the_application_hears_of_a_half_closed_client_that_reads_again(parser: str) -> None:
    """While the client takes nothing, that is what is timed."""
    heard, sent = Flag(), Flag()
    received: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        listener = start_task(receive())
        await send(START)
        for _ in range(200):
            await send(part(b"x" * 65536))
        sent.set()
        assert (await listener)["type"] == "http.disconnect"
        heard.set()
        await send(part(b"end", False))

    with serve(app, parser) as server:
        client = server.connect(receive_buffer=8192)
        client.send(GET)
        server.wait_clogged()
        client.send_eof()
        server.wait_half_closed()
        server.advance(5)
        reader = threading.Thread(target=lambda: received.append(client.read_response().body))
        reader.start()
        sent.wait()
        server.settle()
        server.advance(5)
        heard.wait()
        reader.join()
        assert received[0].endswith(b"xend")


@pytest.mark.parametrize(
    "partial",
    [b"G", GET[:-2], b"\r\n", post(5), post(5) + b"hell", CHUNKED + b"5\r\nhello\r\n"],
    ids=["letter", "head", "CRLF", "no body", "body", "chunks"],
)
@pytest.mark.parametrize("slow", [False, True])
def test_what_a_half_closed_client_left_incomplete_is_not_waited_for(
    parser: str, partial: bytes, slow: bool
) -> None:
    """The rest will never come: no deadline has to pass for that, and it is nothing to complain about."""
    go = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await go.reached()
        await reads(scope, receive, send)

    with serve(app, parser, keepalive=1000) as server:
        client = server.connect()
        client.send(request(target="/slow" if slow else "/") + partial)
        client.send_eof()
        if slow:
            server.wait_half_closed()
        go.set()
        assert client.read_response().status == 200
        assert client.read_rest() == b""
        server.wait_until(server.is_idle)


def test_a_client_that_closes_before_it_asked_for_anything(parser: str) -> None:
    with serve(hello, parser) as server:
        for data in (b"", b"G", GET[:-1]):
            client = server.connect()
            client.send(data)
            client.send_eof()
            assert client.read_rest() == b""
        server.wait_until(server.is_idle)
        assert not server.log.lines


def test_a_client_that_resets_at_any_time_leaves_nothing_behind(parser: str) -> None:
    gate = Gate()
    with serve(gate, parser, keepalive=1000) as server:
        for data in (
            b"",
            b"G",
            GET,
            GET * 100,
            post(5) + b"he",
            CHUNKED + b"5\r\nhe",
            request(target="/open"),
            b"bad\r\n\r\n",
        ):
            client = server.connect()
            client.send(data)
            client.reset()
        gate.go.set()
        server.wait_until(server.is_idle)
        server.log.take("warning")


# Bodies that nobody reads.


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (post(5), b"hello"),
        (post(MAX_DISCARD), b"x" * MAX_DISCARD),
        (CHUNKED, b"5\r\nhello\r\n0\r\n\r\n"),
        (CHUNKED, b"8000\r\n" + b"x" * 0x8000 + b"\r\n0\r\nA: b\r\n\r\n"),
    ],
    ids=["length", "length at the bound", "chunked", "longer chunks"],
)
@pytest.mark.parametrize("when", ["with the head", "behind the response", "in pieces"])
def test_an_unread_body_within_the_bound_is_drained(
    parser: str, head: bytes, body: bytes, when: str
) -> None:
    """docs/asgi.md, 51; RFC 9112, 9.3: so that the next request is found behind it."""
    with serve(hello, parser) as server:
        client = server.connect()
        for _ in range(2):
            client.send(head + body if when == "with the head" else head)
            response = client.read_response()
            assert response.body == b"ok"
            assert response.values(b"connection") == []
            if when == "behind the response":
                client.send(body + GET)
                assert client.read_response().body == b"ok"
            elif when == "in pieces":
                half = len(body) // 2
                client.send(body[:half])
                server.settle()
                client.send(body[half:])
        assert client.is_open()


def test_an_unread_body_over_the_bound_ends_the_connection(parser: str) -> None:
    """And says so in the response, which the client gets though it is still sending."""
    with serve(hello, parser) as server:
        client = server.connect()
        client.send(post(MAX_DISCARD + 1))
        response = client.read_response()
        assert (response.body, response[b"connection"]) == (b"ok", b"close")
        client.send(b"x" * 1000)
        assert client.read_rest() == b""


def test_an_unread_chunked_body_over_the_bound_ends_the_connection(parser: str) -> None:
    with serve(hello, parser) as server:
        client = server.connect()
        client.send(CHUNKED)
        assert client.read_response().body == b"ok"
        for _ in range(10):
            client.send(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        assert client.read_rest() == b""


def test_an_unread_body_that_does_not_come_ends_the_connection(parser: str) -> None:
    """Without a second answer to the same request."""
    with serve(hello, parser, body_timeout=30) as server:
        client = server.connect()
        client.send(post(5))
        assert client.read_response().body == b"ok"
        server.advance(31)
        assert client.read_rest() == b""


def test_an_unread_body_that_is_malformed_ends_the_connection(parser: str) -> None:
    """Without a second answer to the same request: a client would take it for the answer to its next."""
    with serve(hello, parser) as server:
        client = server.connect()
        client.send(CHUNKED)
        assert client.read_response().body == b"ok"
        client.send(b"no\r\n" + GET)
        assert client.read_rest() == b""
        server.log.take("warning")


def test_a_client_that_goes_away_in_a_drained_body(parser: str) -> None:
    with serve(hello, parser) as server:
        for how in ("close", "reset"):
            client = server.connect()
            client.send(post(5) + b"he")
            client.read_response()
            getattr(client, how)()
        server.wait_until(server.is_idle)


def test_a_lingering_close_does_not_last(parser: str) -> None:
    """The client was told, but does not go: two seconds, or one MiB."""
    with serve(hello, parser) as server:
        client = server.connect()
        client.send(b"bad\r\n\r\n")
        assert client.read_response().status == 400
        assert client.read_rest() == b""
        server.advance_until(server.is_idle, 3)

        client = server.connect()
        client.send(b"bad\r\n\r\n")
        assert client.read_response().status == 400
        with pytest.raises(OSError):
            for _ in range(1000):
                client.send(b"x" * 65536)
        server.wait_until(server.is_idle)
        server.log.take("warning")


# Bodies that are read slowly.


def test_a_body_that_is_not_read_is_not_taken_in(parser: str) -> None:
    """Read back-pressure: the client is stalled until the application goes on."""
    called, go = Flag(), Flag()
    unread: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.set()
        await go.reached()
        size = 0
        while True:
            message = await receive()
            unread.append(len(message["body"]))
            size += len(message["body"])
            if not message["more_body"]:
                break
        await answer(send, b"%d" % size)

    size = 64 * 1024 * 1024
    with serve(app, parser) as server:
        client = server.connect()
        client.send(post(size))
        called.wait()
        sent = client.push(size)
        assert sent < size // 2
        server.wait_paused()
        go.set()
        sender = threading.Thread(target=client.send, args=(bytes(size - sent),))
        sender.start()
        assert client.read_response().body == b"%d" % size
        sender.join()
        assert max(unread) <= HIGH_WATER + 512 * 1024


def test_an_echo_of_any_size_gets_through(parser: str) -> None:
    """Both directions at once, both with their brakes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send(part(message["body"], more))

    body = bytes(range(256)) * 40_000
    with serve(app, parser) as server:
        for data in (
            post(len(body)) + body,
            CHUNKED
            + b"".join(
                b"1000\r\n" + body[i : i + 4096] + b"\r\n" for i in range(0, len(body), 4096)
            )
            + b"0\r\n\r\n",
        ):
            client = server.connect()
            sender = threading.Thread(target=client.send, args=(data,))
            sender.start()
            assert client.read_response().body == body
            sender.join()
            assert client.is_open()


def test_an_application_that_gives_up_a_paused_body(parser: str) -> None:
    """The connection is closed, and the client still gets the response."""
    called, go = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.set()
        await go.reached()
        await answer(send, b"enough")

    with serve(app, parser) as server:
        client = server.connect()
        client.send(post(10_000_000))
        called.wait()
        client.send(b"x" * 200_000)
        server.wait_paused()
        go.set()
        response = client.read_response()
        assert (response.body, response[b"connection"]) == (b"enough", b"close")
        assert client.read_rest() == b""


# The end of the server.


def test_a_drain_ends_idle_connections_and_lets_busy_ones_finish(parser: str) -> None:
    gate = Gate()
    with serve(gate, parser, keepalive=1000, lame_duck=0) as server:
        idle, busy, fresh = server.connect(), server.connect(), server.connect()
        idle.send(request(target="/open"))
        idle.read_response()
        busy.send(request(target="/slow"))
        gate.called.wait()
        server.wait_until(lambda: len(server.server.connections) == 3)
        drained = asyncio.run_coroutine_threadsafe(server.server.shut_down(5, 0.5), server.loop)
        assert idle.read_rest() == b""
        assert fresh.read_rest() == b""
        gate.go.set()
        response = busy.read_response()
        assert (response.body, response[b"connection"]) == (b"/slow", b"close")
        assert busy.read_rest() == b""
        busy.close()
        drained.result(10)


def test_a_drain_does_not_wait_for_a_head_that_dribbles_behind_a_response(parser: str) -> None:
    """It had come while the response was running, whose head went out before the drain."""
    go = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"begun"))
        await go.reached()
        await send({"type": "http.response.body", "body": b""})

    with serve(app, parser, keepalive=1000, lame_duck=0, head_timeout=1000) as server:
        client = server.connect()
        client.send(GET)
        client.recv_until(b"begun\r\n")
        client.send(b"GET / HT")
        server.wait_buffered()
        drained = asyncio.run_coroutine_threadsafe(server.server.shut_down(60, 0.5), server.loop)
        server.settle()
        go.set()
        client.recv_until(b"0\r\n\r\n")
        server.settle()
        server.advance_until(drained.done, 5)


def test_a_request_that_crosses_the_beginning_of_a_drain_is_answered(parser: str) -> None:
    """And told that it was the last: the client cannot have known."""
    with serve(hello, parser, keepalive=1000, lame_duck=1000) as server:
        client = server.connect()
        client.send(GET)
        assert client.read_response().values(b"connection") == []
        drained = asyncio.run_coroutine_threadsafe(server.server.shut_down(200, 0.5), server.loop)
        server.wait_until(lambda: not server.server.keeps_alive)
        client.send(GET)
        assert client.read_response()[b"connection"] == b"close"
        assert client.read_rest() == b""
        client.close()
        drained.result(10)


def test_the_end_of_the_graceful_time_resets_what_is_left(parser: str) -> None:
    cancelled = Flag()
    called = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "headers": [(b"content-length", b"10")]})
        await send(part(b"half"))
        called.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET)
        called.wait()
        server.run(server.server.shut_down(0.2, 0.5))
        cancelled.wait()
        with pytest.raises((ConnectionResetError, Truncated)):
            client.read_response()
        assert len(server.log.take("warning")) == 1


def test_the_end_of_the_graceful_time_cancels_what_ignores_a_lost_client(parser: str) -> None:
    recorder, gate, cancelled = Recorder(), Gate(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await gate(scope, receive, send)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with serve(app, parser, access=recorder) as server:
        client = server.connect()
        client.send(GET)
        gate.called.wait()
        client.reset()
        server.wait_lost()
        server.run(server.server.shut_down(0.2, 0.5))
        cancelled.wait()
        assert recorder.ended == [(499, 0)]
        server.log.take("warning")


def test_a_drain_within_a_response_ends_its_connection(parser: str) -> None:
    """Though its head had promised to keep it."""
    go = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"half"))
        await go.reached()
        await send(part(b"whole", False))

    with serve(app, parser, lame_duck=0) as server:
        client = server.connect()
        client.send(GET)
        response = client.read_head()
        assert response.values(b"connection") == []
        drained = asyncio.run_coroutine_threadsafe(server.server.shut_down(100, 0.5), server.loop)
        server.wait_until(lambda: not server.server.keeps_alive)
        go.set()
        assert client.read_rest() == b"4\r\nhalf\r\n5\r\nwhole\r\n0\r\n\r\n"
        client.close()
        drained.result(10)


def test_a_listening_application_hears_that_the_graceful_time_ends(parser: str) -> None:
    listener = Listener()
    with serve(listener, parser) as server:
        client = server.connect()
        client.send(GET)
        listener.listens.wait()
        server.run(server.server.shut_down(1, 0.5))
        listener.heard.wait()
        client.read_rest()
        server.log.take("error")
        server.log.take("warning")


# The log of what was served.


class Record:
    def __init__(self) -> None:
        self.response_headers: list[tuple[bytes, bytes]] = []


class Recorder:
    """What the access log gets to know."""

    needs_headers = True

    def __init__(self) -> None:
        self.begun = 0
        self.ended: list[tuple[int, int]] = []
        self.refusals: list[tuple[bytes, int]] = []
        self.replacements: list[int] = []

    fails = False

    def begin(
        self,
        method,
        raw_path,
        query,
        version,
        scheme,
        headers,
        client,
        server,
        script_name,
        proxied_client,
        takes_request_start,
    ):
        if self.fails:
            raise RequestError(500, "Internal Server Error", is_logged=True)
        self.begun += 1
        return Record()

    def end(self, record, status, sent):
        self.ended.append((status, sent))

    def replaced(self, status):
        self.replacements.append(status)

    def refused(self, head, status, sent, scheme, client, server, seconds):
        self.refusals.append((head.partition(b"\r\n")[0], status))


@pytest.mark.parametrize("name", ["begin", "end", "replaced", "refused"])
def test_the_recorder_takes_what_the_access_log_takes(name: str) -> None:
    assert (
        inspect.signature(getattr(Recorder, name)).parameters.keys()
        == inspect.signature(getattr(Access, name)).parameters.keys()
    )


def test_every_exchange_is_logged_once_with_what_went_out(parser: str) -> None:
    recorder = Recorder()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/stream":
            await send(START)
            await send(part(b"abc"))
            await send(part(b"de", False))
        elif scope["path"] == "/fail":
            raise ValueError
        elif scope["path"] == "/half":
            await send(START)
            await send(part(b"abc"))
            raise ValueError
        else:
            await reads(scope, receive, send)

    with serve(app, parser, access=recorder) as server:
        for data, method, entry in (
            (request("POST", body=b"hello"), "POST", (200, 5)),
            (request("HEAD", "/stream"), "HEAD", (200, 0)),
            (request(target="/stream"), "GET", (200, 5)),
            (request(target="/fail"), "GET", (500, 21)),
        ):
            client = server.connect()
            client.send(data)
            client.read_response(method)
            server.settle()
            assert recorder.ended.pop() == entry
        client = server.connect()
        client.send(request(target="/half"))
        with pytest.raises(Truncated):
            client.read_response()
        server.settle()
        assert recorder.ended.pop() == (200, 3)
        client = server.connect()
        client.send(GET * 100)
        for _ in range(100):
            client.read_response()
        server.settle()
        assert recorder.ended == [(200, 0)] * 100
        assert recorder.begun == 105
        assert not recorder.refusals
        server.log.take("error")


def test_every_refusal_is_logged_once_with_what_was_asked(parser: str) -> None:
    recorder = Recorder()
    with serve(reads, parser, access=recorder, head_timeout=10, body_timeout=20) as server:
        for data, entry in (
            (b"GET /a HTTP/1.1\r\n\r\n", (b"GET /a HTTP/1.1", 400)),
            (b"GET /a HTTP/2.0\r\n\r\n", (b"GET /a HTTP/2.0", 505)),
            (b"\x00", (b"\x00", 400)),
        ):
            client = server.connect()
            client.send(data)
            assert client.read_response().status == entry[1]
            server.settle()
            assert recorder.refusals.pop() == entry
        assert not recorder.begun
        client = server.connect()
        client.send(b"GET /a HT")
        server.wait_buffered()
        server.advance(11)
        assert client.read_response().status == 408
        server.settle()
        assert recorder.refusals.pop() == (b"GET /a HT", 408)
        # A body: the application has begun with it.
        for data, status in ((CHUNKED + b"no\r\n", 400), (post(5), 408)):
            client = server.connect()
            client.send(data)
            if status == 408:
                server.wait_until(lambda: server.server.tasks)
                server.advance(21)
            assert client.read_response().status == status
            server.settle()
            assert [entry[0] for entry in recorder.ended] == [status]
            recorder.ended.clear()
        assert not recorder.refusals
        assert recorder.replacements == [400, 408]
        server.log.take("warning")


def test_a_client_that_goes_away_before_the_response_is_logged_as_499(parser: str) -> None:
    recorder, listener = Recorder(), Listener()
    with serve(listener, parser, access=recorder) as server:
        client = server.connect()
        client.send(GET)
        listener.listens.wait()
        client.reset()
        server.wait_until(server.is_idle)
        assert recorder.ended == [(499, 0)]


def test_a_pre_request_hook_that_raises_is_a_500(parser: str) -> None:
    """The operator's fault, not the client's: no warning of an invalid request."""
    recorder = Recorder()
    recorder.fails = True
    with serve(hello, parser, access=recorder) as server:
        client = server.connect()
        client.send(GET * 2)
        assert client.read_response().status == 500
        assert client.read_rest() == b""
        assert not server.log.lines


def test_the_state_of_a_connection_can_be_read(parser: str) -> None:
    gate = Gate()
    with serve(gate, parser) as server:
        client = server.connect()
        client.send(request(target="/slow"))
        gate.called.wait()
        text = server.call(lambda: repr(next(iter(server.server.connections))))
        assert "RESPONDING" in text
        assert "WAITING" in text
        assert "/slow" in text
        gate.go.set()
        client.read_response()


def test_a_body_may_end_while_reading_is_paused_for_it(parser: str) -> None:
    """asyncio's TLS of Python 3.10 hands over what it has decrypted, paused or not. The next request is read."""
    go, length = Flag(), HIGH_WATER + 2

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.reached()
        await answer(send, b"%d" % len(await read_body(receive)))

    with serve(app, parser) as server:
        client = server.connect()
        client.send(request("POST", "/", b"Content-Length: %d" % length) + bytes(length - 1))
        server.wait_paused()
        (transport,) = server.server.connections
        server.call(transport.data_received, b"x")
        go.set()
        assert client.read_response().body == b"%d" % length
        client.send(GET)
        assert client.read_response().body == b"0"
