"""What hostile clients, and a worker under stress, have brought up: one test for each way in which it once went wrong."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from certificates import client_context, make_authority
from inprocess import GET, Client, Flag, answer, hello, read_body, request, serve

from gunicorn_asgi.http1.states import MAX_EMPTY_LINES
from gunicorn_asgi.net.proxy_protocol import V2_SIGNATURE

CHUNKED = (b"Host: x", b"Transfer-Encoding: chunked")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_authority(tmp_path_factory.mktemp("certificate"), "server"))
    return context


async def refuses(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once, without the body."""
    await answer(send, b"no")


async def listens(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def test_the_time_in_which_the_loop_was_blocked_does_not_count_for_deadlines(
    parser: str, tmp_path: Path
) -> None:
    """uvloop runs timers before it reads: what came meanwhile is read only behind the sweep."""

    def blocked_for(seconds: float) -> None:
        server.loop.ahead += seconds
        server.server.tick(0.1)

    with serve(hello, parser, bind=str(tmp_path / "socket"), keepalive=2) as server:
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
    """Reading is paused by what is pipelined, so that the loop itself would never see it go (docs/asgi.md, 48).

    It is less than the kernel takes for a socket: the end behind more than that has not arrived.
    """
    heard = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await listens(scope, receive, send)
        heard.set()

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET + request("POST", "/", b"Content-Length: 100000"))
        client.send(b"x" * 100_000)
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


@pytest.mark.parametrize(
    "held",
    [b"GET / HT", request("POST", "/", b"Content-Length: 50000") + b"x"],
    ids=["head", "answered"],
)
def test_what_nobody_answers_does_not_hold_a_drain(parser: str, held: bytes) -> None:
    with serve(
        refuses, parser, keepalive=1000, lame_duck=0, head_timeout=1000, body_timeout=1000
    ) as server:
        client = server.connect()
        client.send(held)
        if held.startswith(b"POST"):
            assert client.read_response().body == b"no"
        server.settle()
        drained = asyncio.run_coroutine_threadsafe(server.server.shut_down(500, 0.5), server.loop)
        server.settle()
        server.advance(5)
        server.settle()
        client.close()
        drained.result(10)
        server.log.take("warning")


@pytest.mark.parametrize("proxy_protocol", [False, True])
def test_who_resets_behind_a_request_is_still_no_trusted_peer(
    parser: str, proxy_protocol: bool
) -> None:
    """On Linux a connection that was reset has no peer any more, as one on a unix socket has none, but what came before is still read."""
    seen = []

    async def notes(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["method"], scope["client"], scope["scheme"], scope["root_path"]))
        await answer(send)

    forged = (b"X-Forwarded-For: 203.0.113.7", b"X-Forwarded-Proto: https", b"SCRIPT_NAME: /forged")
    with serve(
        notes, parser, forwarded_allow_ips="10.9.9.9", proxy_protocol=proxy_protocol
    ) as server:
        names = []

        def attack() -> None:
            # The loop does not turn meanwhile: when it sees the connections, they are reset.
            for _ in range(10):
                client = server.connect()
                names.append(client.name)
                client.send(request("POST", "/", *forged))
                client.reset()

        server.call(attack)
        last = server.connect()
        last.send(GET)
        assert last.read_response().status == 200
        server.wait_until(lambda: len(server.server.connections) == 1)
        *attacks, control = seen
        assert control == ("GET", last.name, "http", "")
        assert len(attacks) == 10 or sys.platform != "linux"
        assert set(attacks) <= {("POST", name, "http", "") for name in names}


# What connects, and goes away again.

MESS = [
    b"GET / HT",
    b"GET / HTTP/1.1\r\nHost: a\r\nX-",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345",
    GET,
    GET * 40,
    GET + b"GET",
    b"\r\n\r\n",
    b"\x00",
    b"nonsense\r\n\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n" + GET,
    b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n",
    b"PROXY TCP4 203.0",
    b"PROXY nonsense\r\n",
    V2_SIGNATURE + b"\x20\x00\x00\x00" + GET,
    V2_SIGNATURE + b"\x21\x11\x00\x0c\x00",
    V2_SIGNATURE[:5],
    b"\x16\x03\x01",
    b"\x16\x03\x01\x00\x05hello",
    b"\x15\x03\x03\x00\x02\x02\x28",
]
"""What clients send that vanish, take fright, are something else or mean ill."""
WORKER_CONNECTIONS = 5


# CPython 3.10 does not close its own transport of a handshake that fails, and complains of that.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function _SSLProtocolTransport:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("listener", ["plain", "proxy", "tls", "proxy and tls"])
def test_whatever_connects_and_goes_away_no_connection_counts_for_ever(
    parser: str, listener: str, tls: ssl.SSLContext
) -> None:
    rng = random.Random(f"{parser} {listener}")
    mess = [*MESS, client_hello()]
    context = tls if "tls" in listener else None
    settings = {"worker_connections": WORKER_CONNECTIONS, "proxy_protocol": "proxy" in listener}
    with serve(hello, parser, tls=context, **settings) as server:
        for _ in range(75):
            clients = [server.connect() for _ in range(20)]
            while clients:
                with suppress(OSError):  # it was refused already
                    misbehave(rng, mess, clients.pop(rng.randrange(len(clients))))
                if rng.random() < 0.1:
                    server.settle()
            server.wait_until(server.is_idle)
            if context is not None:
                client = server.connect()
                client.start_tls()
                misbehave(rng, mess, client)
        # Whoever waits in the socket's queue is accepted before this client.
        client = server.connect()
        if context is not None:
            client.start_tls()
        client.send(GET)
        assert client.read_response().body == b"ok"
        client.close()
        server.wait_until(server.is_idle)
        # As many as there may be at a time are served, so none of the places is taken.
        clients = [server.connect() for _ in range(WORKER_CONNECTIONS)]
        for client in clients:
            if context is not None:
                client.start_tls()
            client.send(GET)
            assert client.read_response().body == b"ok"


def client_hello() -> bytes:
    """How TLS begins."""
    outgoing = ssl.MemoryBIO()
    tls = client_context().wrap_bio(ssl.MemoryBIO(), outgoing)
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def misbehave(rng: random.Random, mess: list[bytes], client: Client) -> None:
    """Do something of which no good comes, and go away."""
    if rng.random() < 0.8:
        data = rng.choice(mess)
        client.send(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)
    if rng.random() < 0.2:
        client.send_eof()
    if rng.random() < 0.5:
        client.reset()
    else:
        client.close()
