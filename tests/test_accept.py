"""Accepting: how many, by whom, and what becomes of those that wait when a worker leaves (see `gunicorn_asgi.accept`)."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from certificates import Pair, make_authority
from inprocess import Flag, InProcess, request, serve
from process import GUNICORN_VERSION, LOOPS, Connection, Gunicorn

GET = request()


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_authority(tmp_path_factory.mktemp("certificate"), "server")


async def hello(scope, receive, send):  # type: ignore[no-untyped-def]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


# worker_connections.


def served(server: InProcess) -> int:
    server.settle()
    return server.host.nr


def test_connections_above_worker_connections_wait_until_there_is_room(parser: str) -> None:
    with serve(hello, parser, worker_connections=3) as server:
        clients = [server.connect() for _ in range(8)]
        for client in clients:
            client.send(GET)
        server.wait_until(lambda: server.host.nr == 3)
        assert served(server) == 3
        first = [number for number, client in enumerate(clients) if client.has_more()]
        assert len(first) == 3
        for expected, number in zip(range(4, 7), first, strict=True):
            assert clients[number].read_response().body == b"hello"
            clients[number].close()
            server.wait_until(lambda expected=expected: server.host.nr == expected)
            assert served(server) == expected
        for number in first:
            assert not clients[number].is_open()
        rest = [client for number, client in enumerate(clients) if number not in first]
        answered_now = [client for client in rest if client.has_more()]
        assert len(answered_now) == 3
        for client in answered_now:
            assert client.read_response().body == b"hello"
            client.close()
        for client in rest:
            if client not in answered_now:
                assert client.read_response().body == b"hello"
        assert not server.log.lines


def test_the_time_in_which_a_connection_waits_for_room_is_not_its_own(parser: str) -> None:
    with serve(hello, parser, worker_connections=1, head_timeout=5, keepalive=60) as server:
        first = server.connect()
        first.send(GET)
        assert first.read_response().body == b"hello"
        second = server.connect()
        server.settle()
        server.advance(20)
        first.close()
        server.wait_until(lambda: len(server.server.connections) == 1)
        second.send(GET)
        assert second.read_response().body == b"hello"


def test_what_waits_for_room_is_served_by_a_drain(parser: str) -> None:
    with serve(hello, parser, worker_connections=1) as server:
        clients = [server.connect() for _ in range(4)]
        clients[0].send(GET)
        assert clients[0].read_response().body == b"hello"
        for client in clients[1:]:
            client.send(GET)
        server.settle()
        server.run(server.server.drain(10, 1))
        for client in clients[1:]:
            response = client.read_response()
            assert response.body == b"hello"
            assert response[b"connection"] == b"close"


def test_a_client_that_waits_for_room_and_goes_away_leaves_nothing_behind(parser: str) -> None:
    with serve(hello, parser, worker_connections=1) as server:
        first = server.connect()
        first.send(GET)
        assert first.read_response().body == b"hello"
        for _ in range(3):
            server.connect().close()
        server.settle()
        first.close()
        server.wait_until(server.is_idle)
        last = server.connect()
        last.send(GET)
        assert last.read_response().body == b"hello"


def test_another_worker_takes_what_is_above_worker_connections(tmp_path: Path, loop: str) -> None:
    with Gunicorn(tmp_path, workers=2, worker_connections=3, keepalive=60, **_loop(loop)) as server, ExitStack() as stack:
        pids: Counter[bytes] = Counter()
        for _ in range(6):
            client = stack.enter_context(server.connect())
            client.get("/pid")
            pids[client.read_response()[2]] += 1
        assert sorted(pids.values()) == [3, 3]


def _loop(loop: str) -> dict[str, str]:
    return {"asgi_loop": loop} if len(LOOPS) > 1 else {}


# Fairness.


def test_a_burst_of_connections_is_shared_evenly(tmp_path: Path, loop: str) -> None:
    """Of three bursts the best, for a machine may be busy: without the rule, one worker takes about twice its share in all of them."""
    with Gunicorn(tmp_path, workers=4, keepalive=60, **_loop(loop)) as server:
        shares = [largest_share(server, 200) for _ in range(3)]
        assert min(shares) <= 1.5, shares


def largest_share(server: Gunicorn, count: int) -> float:
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(server.address)
            clients.append(Connection(sock))
        pids: Counter[bytes] = Counter()
        for client in clients:
            client.sock.settimeout(30)
            client.get("/pid")
            pids[client.read_response()[2]] += 1
    return max(pids.values()) / (count / 4)


# What waits in the kernel's queue.


@pytest.mark.parametrize("own_queue", [False, True], ids=["shared", "reuse_port"])
def test_what_has_connected_before_a_worker_leaves_is_served(tmp_path: Path, loop: str, own_queue: bool) -> None:
    with (
        Gunicorn(tmp_path, reuse_port=own_queue, bind=free_address() if own_queue else "127.0.0.1:0", **_loop(loop)) as server,
        ExitStack() as stack,
    ):
        [worker] = server.workers()
        address = server.address
        os.kill(worker, signal.SIGSTOP)
        clients = [Connection(stack.enter_context(socket.create_connection(address, 30))) for _ in range(20)]
        for client in clients:
            client.get("/pid")
        # To the master, whose end closes its own listener: nobody else is there to take them.
        server.kill(signal.SIGTERM)
        if not own_queue:
            server.wait_for("Handling signal: term")
        os.kill(worker, signal.SIGTERM)
        os.kill(worker, signal.SIGCONT)
        for client in clients:
            status, _, body = client.read_response()
            assert (status, body) == (200, str(worker).encode())
        assert server.wait() == 0


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.mark.skipif(GUNICORN_VERSION < (24, 0), reason="all workers share one queue")
def test_a_leaving_worker_with_a_queue_of_its_own_loses_no_connection(tmp_path: Path, loop: str) -> None:
    """Whoever would connect while it closes reaches another worker instead."""
    with Gunicorn(tmp_path, workers=2, reuse_port=True, bind=free_address(), max_requests=20, **_loop(loop)) as server:
        for _ in range(300):
            with server.connect() as client:
                client.get("/hello", "Connection: close\r\n")
                assert client.read_response()[0] == 200
        assert len(server.workers()) >= 1


# Out of descriptors.


def test_a_worker_without_descriptors_says_so_once_and_goes_on_when_it_has_some(tmp_path: Path, loop: str) -> None:
    config = """
def post_worker_init(worker):
    import os, resource
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 30, used + 30))
"""
    with Gunicorn(tmp_path, keepalive=60, config=config, **_loop(loop)) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(60)]
        server.wait_for(r"\[ERROR\] Cannot accept connections: .*Too many open files")
        for client in clients[:50]:
            client.sock.close()
        clients[-1].get("/hello")
        assert clients[-1].read_response()[0] == 200
        assert len(server.lines("Cannot accept")) == 1
        assert "Traceback" not in server.log


# The TLS handshake.


def test_a_tls_handshake_has_a_deadline(tmp_path: Path, loop: str, certificate: Pair) -> None:
    with Gunicorn(tmp_path, **certificate._asdict(), options={"tls_handshake_timeout": 0.5}, **_loop(loop)) as server:
        with server.connect() as client:
            client.send(b"\x16\x03\x01")
            assert client.read_all() == b""
        assert server.get("/hello").status_code == 200
        assert not server.lines(r"\[(WARNING|ERROR)\]")


@pytest.mark.parametrize("workers", [1, 2])
def test_failed_handshakes_do_not_count_as_connections(tmp_path: Path, loop: str, certificate: Pair, workers: int) -> None:
    with Gunicorn(tmp_path, workers=workers, **certificate._asdict(), worker_connections=2, **_loop(loop)) as server:
        for _ in range(10):
            with server.connect() as client:
                client.get("/")
                client.read_all()
        assert server.get("/hello").status_code == 200


def test_a_handshake_that_does_not_end_does_not_hold_a_worker(tmp_path: Path, loop: str, certificate: Pair) -> None:
    settings = {**certificate._asdict(), "graceful_timeout": 600, **_loop(loop)}
    with Gunicorn(tmp_path, **settings, options={"tls_handshake_timeout": 600}) as server, server.connect() as client:
        client.send(b"\x16\x03\x01")
        assert server.get("/hello").status_code == 200
        assert server.stop() == 0
        assert client.read_all() == b""


# limit_concurrency.


def test_requests_above_limit_concurrency_get_503_with_retry_after(parser: str) -> None:
    go = Flag()

    async def waits(scope, receive, send):  # type: ignore[no-untyped-def]
        if scope["path"] == "/wait":
            await go.reached()
        await hello(scope, receive, send)

    with serve(waits, parser, limit_concurrency=2) as server:
        waiting = [server.connect() for _ in range(2)]
        for client in waiting:
            client.send(request("GET", "/wait"))
        server.wait_until(lambda: len(server.server.tasks) == 2)
        for _ in range(3):
            client = server.connect()
            client.send(GET)
            response = client.read_response()
            assert response.status == 503
            assert response[b"retry-after"] == b"1"
            assert response[b"connection"] == b"close"
            assert client.read_rest() == b""
        server.advance(1)
        [line] = server.log.take("warning")
        assert line.text == "Answered with 503, for limit_concurrency is 2: 3"
        go.set()
        for client in waiting:
            assert client.read_response().body == b"hello"
        client = server.connect()
        client.send(GET)
        assert client.read_response().body == b"hello"
