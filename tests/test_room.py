"""Room at the limit ``worker_connections``: who is closed for clients that wait, and who is not (`net.room`)."""

from __future__ import annotations

import itertools
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from h2client import connect as connect_h2
from inprocess import GET, HTTP2, OPEN, Client, Flag, InProcess, request, serve
from process import DEADLINE, LOOPS, Gunicorn, trusting_context
from test_proxy_header import ON as PROXY
from ways import certificate, server_context
from ws import connect as connect_websocket

from gunicorn_asgi.net.balance import WorkerRow, WorkerTable
from gunicorn_asgi.net.room import MAX_BATCH, Room
from gunicorn_asgi.net.transport import Transport
from gunicorn_asgi.server import Server

AGES = 3
"""Seconds after which no client is fresh."""
LONG: dict[str, Any] = {"keepalive": 1000, "head_timeout": 1000.0, "body_timeout": 1000.0}


class App:
    """Answers at once, except below `/slow`, and counts."""

    def __init__(self) -> None:
        self.go = Flag()
        self.heard: list[str] = []
        self.count = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            message = await receive()
            while message["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
                message = await receive()
            return
        self.count += 1
        if scope["path"] == "/slow":
            await self.go.reached()
        elif scope["path"] == "/listening":
            while (message := await receive())["type"] != "http.disconnect":
                pass
            self.heard.append(message["type"])
            return
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]}
        )
        await send({"type": "http.response.body", "body": b"hello"})


def ask(server: InProcess, client: Client) -> None:
    client.send(GET)
    assert client.read_response().body == b"hello"
    # A response that the client's system has not acknowledged is still on its way.
    server.wait_until(
        lambda: (
            not any(
                each.has_undelivered(unknown=False)
                for each in server.server.connections
                if each.state is OPEN
            )
        )
    )


def is_served(server: InProcess, start: Callable[[Client], None] = lambda client: None) -> Client:
    """An ordinary client is answered at once, without any deadline: the clock stands still."""
    client = server.connect()
    start(client)
    ask(server, client)
    return client


def count(server: InProcess) -> int:
    return server.call(lambda: server.server.acceptors.count)


def wait_count(server: InProcess, number: int) -> None:
    server.wait_until(lambda: server.server.acceptors.count == number)


def closed(server: InProcess) -> int:
    return server.call(lambda: server.server.acceptors.room.closed)


@contextmanager
def full(
    parser: str, limit: int = 3, app: App | None = None, **settings: Any
) -> Iterator[InProcess]:
    with serve(app or App(), parser, worker_connections=limit, **LONG, **settings) as server:
        server.stop_clock()
        yield server
        server.log.take("warning")


def is_ended(client: Client) -> bool:
    """Whether this side has ended the connection, in whatever way."""
    try:
        return client.sock.recv(1) == b""
    except ConnectionResetError:
        return True


# Who makes room.


def test_silent_clients_shut_nobody_out_and_the_oldest_goes(parser: str) -> None:
    with full(parser) as server:
        silent = []
        for number in range(3):
            silent.append(server.connect())
            wait_count(server, number + 1)
        server.advance(AGES)
        is_served(server)
        assert is_ended(silent[0])
        assert silent[1].is_open()
        assert silent[2].is_open()


def test_idle_keepalive_connections_make_room_the_longest_idle_first(parser: str) -> None:
    with full(parser) as server:
        clients = [server.connect() for _ in range(3)]
        for client in (*clients, clients[0]):
            ask(server, client)
            server.advance(2)
        is_served(server)
        assert is_ended(clients[1])
        ask(server, clients[0])
        ask(server, clients[2])


def test_a_slow_head_makes_room_after_silent_clients(parser: str) -> None:
    with full(parser, 2) as server:
        slow = server.connect()
        slow.send(b"GET / HTTP/1.1\r\n")
        server.wait_buffered()
        silent = server.connect()
        wait_count(server, 2)
        server.advance(AGES)
        is_served(server)
        assert is_ended(silent)
        server.advance(AGES)
        kept = is_served(server)  # the connection of the ordinary client before was idle
        slow.send(b"Host: a\r\n\r\n")
        assert slow.read_response().body == b"hello"
        slow.send(b"GET / HTTP/1.1\r\n")
        server.wait_buffered()
        kept.send(request("GET", "/slow"))
        server.wait_until(lambda: len(server.server.tasks) == 1)
        server.advance(AGES)
        is_served(server)
        assert is_ended(slow)
        server.server.app.go.set()
        assert kept.read_response().body == b"hello"


def test_the_unread_rest_of_an_answered_upload_makes_room(parser: str) -> None:
    with full(parser, 1) as server:
        uploading = server.connect()
        uploading.send(request("POST", "/", b"Content-Length: 1000") + b"begun")
        assert uploading.read_response().body == b"hello"
        is_served(server)
        assert is_ended(uploading)


def test_busy_connections_never_make_room_and_who_waits_is_served_after_them(parser: str) -> None:
    app = App()
    with full(parser, app=app) as server:
        busy = [server.connect() for _ in range(3)]
        for client in busy:
            client.send(request("GET", "/slow"))
        server.wait_until(lambda: app.count == 3)
        waiting = server.connect()
        waiting.send(GET)
        server.advance(100)
        server.settle()
        assert app.count == 3
        app.go.set()
        for client in busy:
            assert client.read_response().body == b"hello"
        assert waiting.read_response().body == b"hello"
        assert closed(server) == 1


def test_an_upload_that_the_application_reads_is_busy(parser: str) -> None:
    with full(parser, 1) as server:
        uploading = server.connect()
        uploading.send(request("POST", "/listening", b"Content-Length: 10") + b"begun")
        server.wait_until(lambda: server.server.app.count == 1)
        waiting = server.connect()
        waiting.send(GET)
        server.advance(20)
        assert closed(server) == 0
        uploading.close()
        assert waiting.read_response().body == b"hello"


def test_a_response_that_the_client_is_taking_is_busy(parser: str) -> None:
    async def large(scope: Any, receive: Any, send: Any) -> None:
        size = 0 if scope["path"] == "/" else 8_000_000
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": bytes(size)})

    with serve(large, parser, worker_connections=1, write_timeout=1000.0, **LONG) as server:
        reading = server.connect(receive_buffer=65536)
        reading.send(request("GET", "/large"))
        server.wait_clogged()
        waiting = server.connect()
        waiting.send(GET)
        server.advance(20)
        assert len(reading.read_response().body) == 8_000_000
        assert waiting.read_response().status == 200


def test_a_websocket_is_busy(parser: str) -> None:
    with full(parser, 1) as server:
        websocket = connect_websocket(server)
        waiting = server.connect()
        waiting.send(GET)
        server.advance(5)
        assert server.call(lambda: server.server.acceptors.room.closed) == 0
        websocket.client.close()
        assert waiting.read_response().body == b"hello"


# Clients that have left.


def test_a_client_that_has_left_makes_room_after_idle_ones(parser: str) -> None:
    """It is told to its application, which has ``asgi_disconnect_grace_period`` to end."""
    app = App()
    with full(parser, 2, app, asgi_disconnect_grace_period=3.0) as server:
        left = server.connect()
        left.send(request("GET", "/listening"))
        left.send_eof()
        server.wait_half_closed()
        idle = server.connect()
        ask(server, idle)
        is_served(server)
        assert is_ended(idle)
        assert app.heard == []
        server.connect().send(request("GET", "/slow"))  # in place of the one before
        server.wait_until(lambda: app.count == 4)
        assert app.heard == []
        is_served(server)
        assert app.heard == ["http.disconnect"]
        assert is_ended(left)
        app.go.set()


def test_a_half_closed_client_is_served_while_there_is_room(parser: str) -> None:
    app = App()
    with full(parser, 2, app) as server:
        left = server.connect()
        left.send(request("GET", "/slow"))
        left.send_eof()
        server.wait_half_closed()
        is_served(server)
        server.advance(30)
        app.go.set()
        assert left.read_response().body == b"hello"


def test_a_response_to_a_client_that_has_left_is_not_taken_for_complete(parser: str) -> None:
    """Its length is the end of the connection, so the end has to be a reset."""
    go = Flag()

    async def streams(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        if scope["path"] == "/slow":
            await go.reached()
        await send({"type": "http.response.body", "body": b"end"})

    with serve(streams, parser, worker_connections=1, **LONG) as server:
        left = server.connect()
        left.send(request("GET", "/slow", version="1.0"))
        left.send_eof()
        server.wait_half_closed()
        waiting = server.connect()
        waiting.send(GET)
        assert waiting.read_response().body == b"partend"
        left.recv_until(b"part")
        with pytest.raises(ConnectionResetError):
            left.read_rest()
        go.set()


def test_a_lost_transport_does_not_count_while_its_application_runs(parser: str) -> None:
    app = App()
    with full(parser, 2, app, asgi_disconnect_grace_period=1000.0, limit_concurrency=5) as server:
        for number in range(5):
            client = server.connect()
            client.send(request("GET", "/slow"))
            server.wait_until(lambda number=number: app.count == number + 1)
            client.reset()
            wait_count(server, 0)
        assert closed(server) == 0
        assert len(server.server.tasks) == 5  # `limit_concurrency` counts them
        client = server.connect()
        client.send(GET)
        assert client.read_response().status == 503
        client.close()
        app.go.set()
        server.wait_until(server.is_idle)
        assert server.call(lambda: server.server.lost) == set()


def test_a_reset_that_was_not_read_makes_room(parser: str) -> None:
    """Reading is paused, so that only the kernel knows of it."""
    app = App()
    with full(parser, 1, app, asgi_disconnect_grace_period=3.0) as server:
        gone = server.connect()
        gone.send(request("GET", "/slow"))
        server.wait_until(lambda: app.count == 1)
        gone.push(1 << 20)
        server.wait_paused()
        gone.reset()
        is_served(server)
        app.go.set()


def test_a_client_that_does_not_notice_the_end_makes_room(parser: str) -> None:
    with full(parser, 2) as server:
        for _ in range(2):
            invalid = server.connect()
            invalid.send(b"nonsense\r\n\r\n")
            assert invalid.read_response().status == 400
        server.wait_until(
            lambda: {each.state.name for each in server.server.connections} == {"LINGERING"}
        )
        is_served(server)


# TLS, the PROXY protocol and HTTP/2.


def test_a_tls_handshake_that_does_not_go_on_makes_room(parser: str) -> None:
    with full(parser, tls=server_context()) as server:
        pending = [server.connect() for _ in range(3)]
        wait_count(server, 3)
        server.advance(AGES)
        is_served(server, Client.start_tls)
        assert is_ended(pending[0])
        assert server.call(lambda: len(server.server.acceptors.pending)) == 2


def test_an_idle_connection_over_tls_makes_room_whether_the_client_answers_or_not(
    parser: str,
) -> None:
    with full(parser, tls=server_context()) as server:
        clients = [is_served(server, Client.start_tls) for _ in range(3)]
        server.advance(AGES)
        for _ in range(3):
            is_served(server, Client.start_tls)
            server.advance(AGES)
        for client in clients:
            assert client.sock.recv(1) == b""  # the end of TLS, and not only of TCP


def test_a_connection_whose_client_does_not_see_the_end_holds_no_place_and_is_gone_soon(
    parser: str,
) -> None:
    with full(parser, 1, tls=server_context()) as server:
        is_served(server, Client.start_tls)  # reads nothing more

        def work() -> tuple[int, int]:
            server.server.acceptors.room.make(1)
            return server.server.acceptors.count, len(server.server.connections)

        assert server.call(work) == (0, 1)
        server.wait_until(lambda: not server.server.connections)  # without any tick


def test_a_connection_before_its_proxy_header_makes_room(parser: str) -> None:
    with full(parser, proxy_protocol=PROXY) as server:
        pending = [server.connect() for _ in range(3)]
        wait_count(server, 3)
        server.advance(AGES)
        is_served(server)
        assert is_ended(pending[0])


def test_a_connection_that_is_made_while_it_is_given_up_is_gone(parser: str) -> None:
    """uvloop closes it without a `connection_lost`."""

    class GivenUp(Transport):
        def connection_made(self, transport: Any) -> None:
            task = server.server.acceptors.pending[self]
            super().connection_made(transport)
            assert task is not None
            task.cancel()

    with full(parser, proxy_protocol=PROXY) as server:
        server.server.transport_class = GivenUp
        client = server.connect()
        client.send(b"GET / HTTP/1.1\r\n")
        assert is_ended(client)
        server.wait_until(server.is_idle)


@pytest.mark.parametrize("tls", [False, True])
def test_an_idle_connection_of_http2_makes_room_and_is_told_by_goaway(
    parser: str, tls: bool
) -> None:
    context = {"tls": server_context()} if tls else {}
    with full(parser, 2, **context, **HTTP2) as server:
        client = connect_h2(server, tls=tls)
        assert client.get("GET", "/").status == 200
        server.advance(AGES)
        busy = connect_h2(server, tls=tls)
        stream = busy.begin("GET", "/slow")
        server.wait_until(lambda: server.server.app.count == 2)
        is_served(server, Client.start_tls if tls else lambda client: None)
        client.read_to_the_end()
        assert client.goaways == [(1, 0)]
        server.server.app.go.set()
        assert busy.read_response(stream).status == 200


def test_a_connection_of_http2_with_a_stream_never_makes_room(parser: str) -> None:
    with full(parser, 1, **HTTP2) as server:
        busy = connect_h2(server)
        stream = busy.begin("GET", "/slow")
        server.wait_until(lambda: server.server.app.count == 1)
        waiting = server.connect()
        waiting.send(GET)
        server.advance(5)
        assert closed(server) == 0
        server.server.app.go.set()
        assert busy.read_response(stream).status == 200
        assert busy.goaways == []
        busy.close()
        assert waiting.read_response().body == b"hello"


def test_who_waits_at_a_unix_socket_is_served(parser: str, tmp_path: Path) -> None:
    with full(parser, bind=str(tmp_path / "socket")) as server:
        for _ in range(6):
            is_served(server)


# What is not lost.


def test_a_request_in_the_kernels_buffer_is_not_lost(parser: str) -> None:
    with full(parser, 2) as server:
        first, second = server.connect(), server.connect()
        ask(server, first)
        server.advance(AGES)
        ask(server, second)

        def work() -> None:
            first.send(GET)  # the loop has no turn between this and the choice
            server.server.acceptors.room.make(1)

        server.call(work)
        assert first.read_response().body == b"hello"
        assert is_ended(second)


def test_a_request_over_http2_that_crosses_goaway_is_answered_or_not_begun(parser: str) -> None:
    app = App()
    with full(parser, 1, app, **HTTP2) as server:
        client = connect_h2(server)
        assert client.get("GET", "/").status == 200

        def work() -> None:
            server.server.acceptors.room.make(1)
            stream.append(client.begin("GET", "/"))

        stream: list[Any] = []
        server.call(work)
        client.read_to_the_end()
        [(last, code)] = client.goaways
        assert code == 0
        assert stream[0].has_ended is (last >= stream[0].id)
        assert app.count == 1 + stream[0].has_ended


def test_a_request_that_is_lost_by_a_close_was_not_begun(parser: str) -> None:
    """So a client may send it again: the connection was kept (RFC 9112, 9.3.1), and no byte of an answer came."""
    app, answered, retried = App(), [0], [0]
    lock = threading.Lock()
    with serve(app, parser, worker_connections=4, keepalive=1000) as server:

        def work() -> None:
            sock = socket.create_connection(server.address, DEADLINE)
            for _ in range(8):
                time.sleep(0.06)  # so that the last response is acknowledged, mostly
                while True:
                    try:
                        sock.sendall(GET)
                        data = sock.recv(65536)
                    except (ConnectionResetError, BrokenPipeError):
                        data = b""
                    if data:
                        break
                    sock.close()
                    sock = socket.create_connection(server.address, DEADLINE)
                    with lock:
                        retried[0] += 1
                assert data.endswith(b"hello")
                with lock:
                    answered[0] += 1
            sock.close()

        threads = [threading.Thread(target=work) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert answered == [96]
        assert app.count == 96
        assert closed(server) > 0
        server.log.take("warning")


# What it costs.


def test_no_more_connections_than_the_limit_and_a_batch_are_open(
    parser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, seen = 20, [0]
    opened = Server.opened

    def counting(self: Server, transport: Any) -> None:
        opened(self, transport)
        seen[0] = max(seen[0], len(self.connections) + len(self.acceptors.pending))

    monkeypatch.setattr(Server, "opened", counting)
    with serve(App(), parser, worker_connections=limit, tls=server_context(), **LONG) as server:
        for _ in range(100):
            server.connect()
        is_served(server, Client.start_tls)
        assert seen[0] <= limit + MAX_BATCH
        assert count(server) <= limit
        server.log.take("warning")


def test_a_flood_of_clients_makes_the_worker_choose_once_in_a_pause(
    parser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = []
    choose = Room._choose

    def counting(self: Room, count: int) -> Any:
        chosen = choose(self, count)
        choices.append((server.loop.time(), len(chosen)))
        return chosen

    monkeypatch.setattr(Room, "_choose", counting)
    with full(parser, 16) as server:
        for _ in range(100):
            server.connect()
        is_served(server)
        assert sum(size for _, size in choices) >= 85
        assert max(size for _, size in choices) == 4  # of 16
        assert all(
            later - earlier >= 0.019 for (earlier, _), (later, _) in itertools.pairwise(choices)
        )


def test_a_worker_lets_others_accept_that_have_room(parser: str) -> None:
    table = WorkerTable()
    other = WorkerRow(table, 2)
    other.announce()
    other.publish(1)
    with full(parser, 2, share=WorkerRow(table, 1)) as server:
        clients = [is_served(server) for _ in range(2)]
        waiting = server.connect()
        waiting.send(GET)
        server.advance(1)
        server.settle()
        assert not waiting.has_more()
        assert closed(server) == 0
        other.publish(2)
        assert waiting.read_response().body == b"hello"
        assert closed(server) == 1
        assert sum(client.is_open() for client in clients) == 1


def test_the_log_says_how_many_were_closed_once_a_minute(parser: str) -> None:
    with serve(App(), parser, worker_connections=2, **LONG) as server:
        server.stop_clock()
        for _ in range(5):
            is_served(server)
        server.advance(1)
        [line] = server.log.take("warning")
        assert line.text == (
            "worker_connections is 2, and that many connections were open: 3 of them were closed "
            "to make room. Open now: 2, of which 2 have no request in progress. If most have none, "
            "lower keepalive; otherwise add workers, or raise worker_connections if the "
            "application has room for more."
        )
        for _ in range(4):
            is_served(server)
        server.advance(30)
        assert server.log.take("warning") == []
        server.advance(31)
        [line] = server.log.take("warning")
        assert "4 of them were closed" in line.text


def test_a_worker_that_leaves_makes_no_room(parser: str) -> None:
    with full(parser, 2) as server:
        for _ in range(2):
            is_served(server)
        server.connect()
        server.run(server.server.shut_down(10, 1))
        assert server.call(lambda: server.server.acceptors.room.is_resting) is False


# The attacks, on a real worker.


@pytest.fixture(scope="module")
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(1024, before[0]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def silent(client: socket.socket) -> None:
    pass


def keeps_alive(client: socket.socket) -> None:
    client.sendall(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")


def has_left(client: socket.socket) -> None:
    client.sendall(b"GET /slow?seconds=1000 HTTP/1.1\r\nHost: a\r\n\r\n")
    client.shutdown(socket.SHUT_WR)


def has_reset(client: socket.socket) -> None:
    client.sendall(b"GET /slow?seconds=1000 HTTP/1.1\r\nHost: a\r\n\r\n")
    Client.reset(client_of(client))


def client_of(sock: socket.socket) -> Client:
    client = Client.__new__(Client)
    client.sock = sock
    return client


ATTACKS = [(silent, 60), (silent, 120), (keeps_alive, 60), (has_left, 120), (has_reset, 120)]
EVERYTHING = {"keepalive": 600, "worker_connections": 50, "options": {"head_timeout": 600}}


@pytest.mark.gunicorn
@pytest.mark.parametrize("loop", LOOPS)
def test_no_attack_on_the_places_of_a_worker_shuts_out_an_ordinary_client(
    tmp_path: Path, loop: str, many_descriptors: None
) -> None:
    with Gunicorn(tmp_path, asgi_loop=loop, **EVERYTHING) as server:
        for attack, number in ATTACKS:
            with ExitStack() as stack:
                for _ in range(number):
                    sock = stack.enter_context(socket.create_connection(server.address, DEADLINE))
                    attack(sock)
                assert server.get("/hello").status_code == 200
        server.wait_for("worker_connections is 50, .* were closed to make room")
        assert not server.lines("Traceback|ERROR")


@pytest.mark.gunicorn
@pytest.mark.parametrize("loop", LOOPS)
def test_no_attack_over_tls_shuts_out_an_ordinary_client(
    tmp_path: Path, loop: str, many_descriptors: None
) -> None:
    settings = {**EVERYTHING, **certificate()._asdict()}
    settings["options"] = {"head_timeout": 600, "tls_handshake_timeout": 600}
    with Gunicorn(tmp_path, asgi_loop=loop, **settings) as server:
        for shakes_hands in (False, True):
            with ExitStack() as stack:
                for _ in range(60):
                    sock = stack.enter_context(socket.create_connection(server.address, DEADLINE))
                    if shakes_hands:
                        sock = stack.enter_context(trusting_context().wrap_socket(sock))
                        keeps_alive(sock)
                assert server.get("/hello").status_code == 200
        assert not server.lines("Traceback|ERROR")
