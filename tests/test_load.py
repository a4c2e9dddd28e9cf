"""That the clients of `load`, and the connection of `strict`, count what a server does, and nothing else: what they say of this package's worker rests on it."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import strict
from load import PROBE, Load
from process import trusting_context
from strict import Ask, Connection, Kind, LostError

GET = Ask("GET", (b"GET / HTTP/1.1\r\nHost: test\r\n\r\n",), 0.0, b"")
POST = Ask(
    "POST", (b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\na", b"b"), 0.01, b"ab"
)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n42 "
LAST = b"HTTP/1.1 200 OK\r\nConnection: Keep, CLOSE\r\nContent-Length: 3\r\n\r\n42 "
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server:
    """Answers each request with the next of `answers`, and then ends the connection, with a reset if `resets`."""

    def __init__(self, answers: tuple[bytes, ...], resets: bool = False) -> None:
        self._answers = answers
        self._resets = resets
        self._stopped = False
        self._sock = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.address: tuple[str, int] = self._sock.getsockname()
        self.ended = threading.Semaphore(0)
        """Of connections."""

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stopped = True
            socket.create_connection(self.address).close()  # wakes accept
            self._thread.join()
            self._sock.close()

    def _serve(self) -> None:
        while True:
            sock, _ = self._sock.accept()
            with sock:
                if self._stopped:
                    return
                for answer in self._answers:
                    data = sock.recv(65536)
                    if data.startswith(b"POST") and not data.endswith(b"ab"):
                        sock.recv(65536)
                    sock.sendall(answer)
                if not self._answers:
                    sock.recv(65536)
                if self._resets:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.ended.release()


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (Kind.CLOSED, b""),
        (Kind.TRUNCATED, OK[:1]),
        (Kind.TRUNCATED, OK[:30]),
        (Kind.TRUNCATED, OK[:-1]),
        (Kind.TRUNCATED, CHUNKED + b"3\r\n42 \r\n"),
        (Kind.TRUNCATED, CHUNKED + b"3\r\n42 \r\n0\r\n"),
        (Kind.STATUS, OK.replace(b"200 OK", b"503 Service Unavailable")),
        (Kind.STATUS, OK.replace(b"200 OK", b"100 Continue")),
        (Kind.MALFORMED, OK.replace(b"HTTP/1.1", b"HTTP/1.0")),
        (Kind.MALFORMED, OK.replace(b"200 OK", b"200")),
        (Kind.MALFORMED, OK.replace(b"Content-Length", b"Content Length")),
        (
            Kind.MALFORMED,
            OK.replace(b"Content-Length: 3", b"Content-Length: 3\r\nContent-Length: 3"),
        ),
        (
            Kind.MALFORMED,
            OK.replace(b"Content-Length: 3", b"Content-Length: 3\r\nTransfer-Encoding: chunked"),
        ),
        (Kind.MALFORMED, OK.replace(b"Content-Length: 3\r\n", b"")),
        (Kind.MALFORMED, OK + OK),
        (Kind.MALFORMED, OK[:-3] + b"hi!"),
        (Kind.MALFORMED, CHUNKED + b"3;\r\n42 \r\n0\r\n\r\n"),
        (Kind.MALFORMED, CHUNKED + b"3\r\n42 0\r\n\r\n"),
    ],
)
def test_a_faulty_answer_is_a_loss_of_its_kind(kind: Kind, answer: bytes) -> None:
    server = Server((answer,))
    with server.running():
        assert lost(Connection(server.address, None), GET) is kind


@pytest.mark.parametrize(("kind", "answers"), [(Kind.RESET, ()), (Kind.TRUNCATED, (OK[:-1],))])
def test_a_reset_is_told_from_an_end(kind: Kind, answers: tuple[bytes, ...]) -> None:
    server = Server(answers, resets=True)
    with server.running():
        assert lost(Connection(server.address, None), GET) is kind


def lost(connection: Connection, request: Ask) -> Kind:
    """Make a request that is lost."""
    try:
        with pytest.raises(LostError) as caught:
            connection.exchange(request)
    finally:
        connection.close()
    return caught.value.kind


@pytest.mark.parametrize("resets", [False, True])
def test_a_kept_connection_that_has_ended_is_a_loss(resets: bool) -> None:
    server = Server((OK,), resets)
    with server.running():
        connection = Connection(server.address, None)
        assert connection.exchange(GET) == (42, False)
        server.ended.acquire()
        assert lost(connection, GET) is Kind.IDLE


def test_right_answers_of_every_framing_are_no_loss() -> None:
    server = Server(
        (OK, CHUNKED + b"1\r\n4\r\n2\r\n2 \r\n0\r\n\r\n", OK.replace(b": 3", b": 5") + b"ab", LAST)
    )
    with server.running():
        connection = Connection(server.address, None)
        assert [connection.exchange(request) for request in (GET, GET, POST, GET)] == [
            (42, False)
        ] * 3 + [(42, True)]
        connection.close()


def test_what_is_lost_is_not_tried_again() -> None:
    server = Server(())
    with server.running(), Load(server.address, requests=7, connections=2) as clients:
        tally = clients.wait(60)
    assert (tally.requests, tally.answered, tally.connections) == (7, 0, 7)
    assert set(tally.kinds) == {Kind.CLOSED}


def test_a_connection_is_kept_until_it_is_said_to_end() -> None:
    """The server ends them all; only where it says so the client may take another."""
    server = Server((CHUNKED + b"3\r\n42 \r\n0\r\n\r\n", LAST))
    with (
        server.running(),
        Load(server.address, requests=6, connections=1, ask=lambda *_: GET) as clients,
    ):
        tally = clients.wait(60)
    assert (tally.requests, tally.answered, tally.connections, tally.announced) == (6, 6, 3, 3)
    assert tally.pids == {42: 6}


def test_without_keep_alive_each_request_has_a_connection() -> None:
    server = Server((LAST,))
    with (
        server.running(),
        Load(
            server.address, requests=5, connections=2, keep_alive=False, ask=lambda *_: PROBE
        ) as clients,
    ):
        tally = clients.wait(60)
    assert (tally.answered, tally.connections, tally.losses) == (5, 5, [])


def test_nobody_listening_is_refused(unused: tuple[str, int]) -> None:
    with Load(unused, requests=3, connections=1) as clients:
        tally = clients.wait(60)
    assert tally.kinds == {Kind.REFUSED: 3}


@pytest.fixture
def unused() -> Iterator[tuple[str, int]]:
    """An address that is taken, and where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


def test_silence_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert lost(Connection(sock.getsockname(), None), GET) is Kind.TIMEOUT


def test_an_end_within_the_handshake_is_told_from_one_behind_it() -> None:
    server = Server(())
    with (
        server.running(),
        Load(server.address, requests=2, connections=1, tls=trusting_context()) as clients,
    ):
        tally = clients.wait(60)
    assert tally.kinds == {Kind.HANDSHAKE: 2}
