"""What hostile clients, and a worker under stress, have brought up: one test for each way in which it once went wrong."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any

import pytest
from inprocess import GET, Flag, answer, hello, read_body, request, serve

from gunicorn_asgi.http1.states import MAX_EMPTY_LINES

CHUNKED = (b"Host: x", b"Transfer-Encoding: chunked")


async def refuses(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once, without the body."""
    await answer(send, b"no")


async def listens(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def test_the_time_in_which_the_loop_was_blocked_does_not_count_for_deadlines(parser: str) -> None:
    """uvloop runs timers before it reads: what came meanwhile is read only behind the sweep."""

    def blocked_for(seconds: float) -> None:
        server.loop.ahead += seconds
        server.server.tick(0.1)

    with serve(hello, parser, keepalive=2) as server:
        client = server.connect()
        client.send(GET)
        assert client.read_response().body == b"ok"
        server.call(blocked_for, 60.0)
        client.send(GET)
        assert client.read_response().body == b"ok"
        server.advance(4)
        assert client.read_rest() == b""


def test_a_few_empty_lines_before_a_request_are_ignored_and_a_flood_is_refused(parser: str) -> None:
    with serve(hello, parser) as server:
        client = server.connect()
        for _ in range(2):  # counted for each request
            client.send(b"\r\n" * MAX_EMPTY_LINES + GET)
            assert client.read_response().status == 200
        client.send(b"\r\n" * (MAX_EMPTY_LINES + 1) + GET)
        assert client.read_response().status == 400
        client = server.connect()
        for _ in range(MAX_EMPTY_LINES):
            client.send(b"\r")
            server.settle()
            client.send(b"\n")
            server.settle()
        client.send(b"\r\n")
        assert client.read_response().status == 400
        server.log.take("warning")


def test_a_refusal_of_head_has_no_body_wherever_it_comes(parser: str) -> None:
    """RFC 9110, 9.3.2."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with suppress(EOFError):
            await answer(send, await read_body(receive))

    with serve(app, parser) as server:
        for first, second in ((b"", b"no\r\n"), (b"no\r\n", b"")):
            client = server.connect()
            client.send(request("HEAD", "/", CHUNKED[1]) + first)
            server.settle()
            if second:
                client.send(second)
            assert client.read_response("HEAD").status == 400
            assert client.read_rest() == b""
        server.log.take("warning")


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_a_client_that_leaves_is_noticed_behind_more_than_is_read(parser: str, leave: str) -> None:
    """Reading is paused by what is pipelined, so that the loop itself would never see it go (statement 48)."""
    heard = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await listens(scope, receive, send)
        heard.set()

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET + request("POST", "/", b"Content-Length: 200000"))
        client.send(b"x" * 200_000)
        server.settle()
        getattr(client, leave)()
        for _ in range(20):
            server.settle()
            server.advance(2)
            if heard.is_set():
                break
        heard.wait()
        server.advance(10)


def test_a_reset_in_answer_to_an_early_response_leaves_nothing_behind(parser: str) -> None:
    """asyncio's transports raise where such a connection is to be half closed. That nothing is left is asserted when the server stops."""
    with serve(refuses, parser) as server:
        for _ in range(40):
            sock = socket.create_connection(server.address)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(request("POST", "/", b"Content-Length: 200000") + b"x" * 1000)
            sock.close()
        server.settle()
        server.advance(60)


@pytest.mark.parametrize("held", [b"GET / HT", request("POST", "/", b"Content-Length: 50000") + b"x"], ids=["head", "answered"])
def test_what_nobody_answers_does_not_hold_a_drain(parser: str, held: bytes) -> None:
    with serve(refuses, parser, keepalive=1000, lame_duck=0, head_timeout=1000, body_timeout=1000) as server:
        client = server.connect()
        client.send(held)
        if held.startswith(b"POST"):
            assert client.read_response().body == b"no"
        server.settle()
        drained = asyncio.run_coroutine_threadsafe(server.server.drain(500, 0.5), server.loop)
        server.settle()
        server.advance(5)
        server.settle()
        client.close()
        drained.result(10)
        server.log.take("warning")
