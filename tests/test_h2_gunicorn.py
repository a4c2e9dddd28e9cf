"""HTTP/2 in a running Gunicorn: how it starts, what the log says, real clients, and how its connections end with the worker (RFC 9113, 6.8)."""

from __future__ import annotations

import signal
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import Pair, make_authority
from process import LOOPS, Gunicorn

pytest.importorskip("h2")
from talk import ALL, REFUSED_STREAM, Talk, offering

SOON = 8.0
"""Seconds that are long for what happens at once, and short beside ``graceful_timeout`` and ``write_timeout``."""
CLEARTEXT = {"http2_cleartext": "both"}

Serving = Callable[..., Gunicorn]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_authority(tmp_path_factory.mktemp("certificate"), "localhost")


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["cleartext", "tls"])
def serving(request: pytest.FixtureRequest, tmp_path: Path, loop: str, certificate: Pair) -> Serving:
    """Gunicorn with HTTP/2, with TLS and without, on both loops."""

    def make(app: str = "main:app", **given: Any) -> Gunicorn:
        transport = certificate._asdict() if request.param == "tls" else CLEARTEXT
        own = {"graceful_timeout": 40, "keepalive": 60, "asgi_loop": loop, **transport}
        if len(LOOPS) == 1:
            del own["asgi_loop"]
        return Gunicorn.with_http2(tmp_path, app, **{**own, **given})

    return make


def talk(server: Gunicorn, **given: Any) -> Talk:
    """A connection of HTTP/2 to `server`, by ALPN or by prior knowledge."""
    sock = server.connect().sock
    if server.scheme == "https":
        sock = offering("h2").wrap_socket(sock)
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.selected_alpn_protocol() == "h2"
    return Talk(sock, **given)


def ends_soon(server: Gunicorn) -> bool:
    """Wait for the end of the master, which waits for its workers."""
    return server.wait(SOON) == 0


def complaints(server: Gunicorn) -> list[str]:
    return server.lines(r"\[(WARNING|ERROR|CRITICAL)\]|Traceback")


# Draining.


def test_goaway_comes_in_two_steps_and_what_runs_is_finished(serving: Serving) -> None:
    """RFC 9113, 6.8: first 2^31-1, and the last stream once the client must have seen that."""
    with serving() as server, talk(server) as client:
        running = client.ask("/duplex", "POST", end=False)
        client.wait(lambda: client.answers[running].body == b"begun\n")
        server.kill(signal.SIGTERM)
        client.wait(lambda: len(client.goaways) == 2)
        assert client.goaways == [(ALL, 0), (running, 0)]
        client.send(running, b"ended\n", end=True)
        assert client.read(running).body == b"begun\nended\n"
        assert client.answers[running].is_whole
        client.read_to_end()
        client.sock.close()
        assert ends_soon(server)
        assert not complaints(server)


def test_a_stream_that_was_on_its_way_when_goaway_was_sent_is_served(serving: Serving) -> None:
    """RFC 9113, 6.8: that is what the first of the two is for."""
    with serving(options={"lame_duck": 10.0}) as server, talk(server, holds_pings=True) as client:
        assert client.get("/hello").status == 200
        server.kill(signal.SIGTERM)
        client.wait(lambda: client.goaways)
        assert client.goaways == [(ALL, 0)]
        late = client.ask("/hello")
        assert client.read(late).body == b"hello\n"
        client.sock.close()
        assert ends_soon(server)
        assert not complaints(server)


def test_a_stream_behind_the_last_goaway_is_refused_as_retryable(serving: Serving) -> None:
    """RFC 9113, 6.8 and 8.7: one that a client begins all the same."""
    with serving() as server, talk(server) as client:
        running = client.ask("/duplex", "POST", end=False)
        client.wait(lambda: client.answers[running].body)
        server.kill(signal.SIGTERM)
        client.wait(lambda: len(client.goaways) == 2)
        late = client.ask("/hello")
        assert late > client.last_stream
        assert client.read(late).reset == REFUSED_STREAM
        client.send(running, b"", end=True)
        assert client.read(running).is_whole
        client.sock.close()
        assert ends_soon(server)


@pytest.mark.parametrize("holds_pings", [False, True], ids=["acknowledging", "silent"])
def test_an_idle_connection_does_not_hold_the_worker(serving: Serving, holds_pings: bool) -> None:
    with serving() as server, talk(server, holds_pings=holds_pings) as client:
        assert client.get("/hello").status == 200
        server.kill(signal.SIGTERM)
        client.read_to_end()
        assert client.goaways == [(ALL, 0), (1, 0)]
        assert ends_soon(server)
        assert not complaints(server)


def test_a_client_that_does_not_read_does_not_hold_the_worker(serving: Serving) -> None:
    """As those that look at a kept connection only when they need it again: it never sees the GOAWAY, nor the end."""
    with serving() as server, talk(server) as client:
        assert client.get("/hello").status == 200
        server.kill(signal.SIGTERM)
        assert ends_soon(server)
        assert not complaints(server)


def test_a_connection_that_is_made_while_the_worker_leaves_hears_of_it(serving: Serving) -> None:
    """It was accepted before; its handshake, or its preface, came behind."""
    with serving(options={"lame_duck": 5.0}) as server, talk(server) as busy:
        running = busy.ask("/duplex", "POST", end=False)
        busy.wait(lambda: busy.answers[running].body)
        with server.connect() as connection:
            assert server.get("/hello").status_code == 200  # accepted behind it
            server.kill(signal.SIGTERM)
            busy.wait(lambda: busy.goaways)
            sock = connection.sock
            if server.scheme == "https":
                sock = offering("h2").wrap_socket(sock)
            with Talk(sock) as late:
                stream = late.ask("/hello")
                assert late.read(stream).body == b"hello\n"
                late.wait(lambda: len(late.goaways) == 2)
                assert late.goaways == [(ALL, 0), (stream, 0)]
                late.read_to_end()
        busy.send(running, b"", end=True)
        assert busy.read(running).is_whole
        busy.sock.close()
        assert ends_soon(server)
        assert not complaints(server)


@pytest.mark.parametrize("sends", ["nothing", "a preface"])
def test_a_connection_that_is_made_at_the_very_end_and_says_nothing_does_not_hold_the_worker(serving: Serving, sends: str) -> None:
    with serving(options={"lame_duck": 0.0, "head_timeout": 60.0}) as server, talk(server) as busy:
        running = busy.ask("/duplex", "POST", end=False)
        busy.wait(lambda: busy.answers[running].body)
        with server.connect() as connection:
            assert server.get("/hello").status_code == 200
            if server.scheme == "https":
                # The handshake is begun, so that it is under way when the worker leaves.
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                tls = offering("h2").wrap_bio(incoming, outgoing)
                with pytest.raises(ssl.SSLWantReadError):
                    tls.do_handshake()
                connection.send(outgoing.read())
                server.kill(signal.SIGTERM)
                busy.wait(lambda: len(busy.goaways) == 2)
                while True:
                    try:
                        tls.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        incoming.write(connection.sock.recv(65536))
                connection.send(outgoing.read())
            else:
                server.kill(signal.SIGTERM)
                busy.wait(lambda: len(busy.goaways) == 2)
            if sends == "a preface":
                preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
                if server.scheme == "https":
                    tls.write(preface)
                    preface = outgoing.read()
                try:
                    connection.send(preface)
                except OSError:
                    assert server.scheme == "http"  # it was closed already, which is as good
            busy.send(running, b"", end=True)
            assert busy.read(running).is_whole
            busy.sock.close()
            assert ends_soon(server)


def test_a_large_response_is_whole_though_the_connection_ends_behind_it(serving: Serving) -> None:
    """What the client says meanwhile, WINDOW_UPDATE above all, must not cut it off."""
    size = 8_000_000
    with serving() as server, talk(server, window=1_000_000) as client:
        stream = client.ask(f"/large?size={size}")
        client.h2.increment_flow_control_window(2**30)
        client.flush()
        client.wait(lambda: client.answers[stream].body)
        server.kill(signal.SIGTERM)
        answer = client.answers[stream]
        while not answer.has_ended:
            assert not client.has_ended, len(answer.body)
            client.receive()
            time.sleep(0.002)
        assert (answer.is_whole, len(answer.body)) == (True, size)
        client.sock.close()
        assert ends_soon(server)
        assert not complaints(server)


def test_quit_ends_everything_at_once(serving: Serving) -> None:
    with serving() as server, talk(server) as client:
        running = client.ask("/stuck")
        client.wait(lambda: client.answers[running].body == b"begun\n")
        server.kill(signal.SIGQUIT)
        client.read_to_end()
        assert ends_soon(server)
        assert not client.answers[running].is_whole
        assert client.last_stream == running
        assert "cancelled" in server.events


def test_a_stream_that_does_not_end_is_cut_at_the_end_of_graceful_timeout(serving: Serving) -> None:
    with serving(graceful_timeout=3) as server, talk(server) as client:
        running = client.ask("/listening")
        stuck = client.ask("/stuck")
        client.wait(lambda: client.answers[stuck].body and client.answers[running].body)
        server.kill(signal.SIGTERM)
        assert client.read(running).body == b"begun\nended\n"  # it listens
        client.read_to_end()
        assert not client.answers[stuck].is_whole
        assert server.wait() == 0
        assert server.lines("1 responses were not complete, and 1 applications running, at the end of graceful_timeout")


def test_hup_moves_clients_to_new_workers_with_the_new_configuration(serving: Serving) -> None:
    with serving() as server, talk(server) as client:
        first = client.get("/pid").body
        server.configure(raw_env=["NAME=value"])
        server.kill(signal.SIGHUP)
        client.read_to_end()
        assert client.goaways[-1] == (1, 0)
        server.wait_for("gunicorn_asgi .* on Gunicorn", 2)
        with talk(server) as another:
            assert another.get("/pid").body != first
            assert another.get("/environ?name=NAME").body == b"value"
        assert not complaints(server)


def test_max_requests_counts_streams_and_ends_connections_behind_theirs(serving: Serving) -> None:
    with serving(max_requests=5) as server, talk(server) as client:
        streams = [client.ask("/pid") for _ in range(5)]
        assert len({client.read(stream).body for stream in streams}) == 1
        client.wait(lambda: len(client.goaways) == 2)
        assert client.goaways == [(ALL, 0), (streams[-1], 0)]
        client.read_to_end()
        server.wait_for("Autorestarting worker after current request")
        assert not complaints(server)
