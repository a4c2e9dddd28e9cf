"""The worker in a running Gunicorn: loops, listeners, signals, the heartbeat, draining and exit codes (see `gunicorn_asgi.worker`)."""

from __future__ import annotations

import json
import math
import os
import re
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from process import (
    DEADLINE,
    GUNICORN_VERSION,
    LOOPS,
    NOTE,
    PARSERS,
    SETTINGS,
    Connection,
    Gunicorn,
    is_alive,
    poll,
    trusting_context,
    wait_until_gone,
)

pytestmark = pytest.mark.gunicorn

HOOKS = (
    NOTE
    + """
def worker_int(worker):
    note("worker_int")

def worker_abort(worker):
    note("worker_abort")

def worker_exit(server, worker):
    note("worker_exit")
"""
)
SOON = 8.0
"""Seconds that are long for what happens at once, and short beside the graceful timeouts of these tests."""


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Clock:
    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


# Boot.


@pytest.mark.smoke
@pytest.mark.parametrize("parser", PARSERS)
def test_one_line_at_boot_says_what_runs(tmp_path: Path, loop: str, parser: str) -> None:
    with Gunicorn(tmp_path, asgi_loop=loop, options={"http": parser}) as server:
        [line] = server.wait_for("gunicorn_asgi")
        assert re.search(
            rf"\[INFO\] gunicorn_asgi \d+\.\d+\S* on Gunicorn \d\S+, \w+ 3\.\d+\.\d\S*: loop {loop}, parser {parser}, protocols http/1\.1$",
            line,
        )
        assert (server.get("/loop").text == "uvloop.Loop") == (loop == "uvloop")
        assert server.stop() == 0
        assert not server.lines(r"\[(WARNING|ERROR|CRITICAL)\]")
        assert server.output == ""


def test_an_asgi_2_application_is_served(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "legacy:ASGI2") as server:
        assert server.get("/").text == "GET ['started']"


def test_an_object_with_an_asynchronous_call_is_served(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "legacy:framework") as server:
        assert server.get("/").text == "framework\n"


@pytest.mark.parametrize(
    ("app", "sentence"),
    [
        (
            "wsgi",
            r"The application <function wsgi at \w+> looks like a WSGI application: serve it with worker_class gthread, or wrap it in a2wsgi\.WSGIMiddleware\.",
        ),
        (
            "no_arguments",
            r'The application <function no_arguments at \w+> needs no arguments: .* name it with parentheses, as in "legacy:no_arguments\(\)"\.',
        ),
    ],
)
def test_what_is_no_asgi_application_stops_the_boot_with_one_sentence(
    tmp_path: Path, app: str, sentence: str
) -> None:
    with Gunicorn(tmp_path, f"legacy:{app}", wait=False) as server:
        assert server.wait() == 3
        assert server.lines(rf"\[ERROR\] {sentence}$")
        assert "Traceback" not in server.log


def test_a_syntax_error_in_the_application_stops_the_boot(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("async def app(:\n")
    with Gunicorn(tmp_path, "broken:app", wait=False, pythonpath=str(tmp_path)) as server:
        assert server.wait() == 3
        assert "SyntaxError" in server.log


# Listeners.


def test_a_unix_socket_has_no_client_and_its_path_for_the_server(tmp_path: Path, loop: str) -> None:
    path = f"{tmp_path}/socket"
    with Gunicorn(tmp_path, bind=f"unix:{path}", asgi_loop=loop) as server:
        scope = server.get("/scope").json()
        assert (scope["client"], scope["server"], scope["scheme"]) == (None, [path, None], "http")


@pytest.mark.skipif(GUNICORN_VERSION < (25, 0), reason="this Gunicorn has no abstract unix sockets")
def test_an_abstract_unix_socket_is_served(tmp_path: Path) -> None:
    with (
        Gunicorn(tmp_path, bind=f"unix:\0gunicorn-asgi-test-{os.getpid()}") as server,
        server.connect() as client,
    ):
        client.get("/scope")
        scope = json.loads(client.read_response()[2])
        assert (scope["client"], scope["server"]) == (None, [server.address, None])
        # Gunicorn itself stumbles over it when it stops, so the worker is left to notice that its master is gone.
        [worker] = server.workers()
        server.kill(signal.SIGKILL)
        server.wait()
        wait_until_gone(worker)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6_addresses_are_pairs(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, bind="[::1]:0") as server, httpx.Client() as client:
        host, port = server.address
        scope = client.get(f"http://[{host}]:{port}/scope").json()
        assert scope["server"] == ["::1", port]
        assert scope["client"][0] == "::1"
        assert len(scope["client"]) == 2


def test_a_wildcard_is_not_the_server_that_a_client_came_to(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, bind="0.0.0.0:0") as server:
        port = server.address[1]
        assert httpx.get(f"http://127.0.0.1:{port}/scope").json()["server"] == ["127.0.0.1", port]
        assert httpx.get(f"http://127.0.0.2:{port}/scope").json()["server"] == ["127.0.0.2", port]


def test_every_bind_is_served_and_has_its_own_address(tmp_path: Path) -> None:
    path = f"{tmp_path}/socket"
    with Gunicorn(tmp_path, bind=["127.0.0.1:0", "127.0.0.1:0", f"unix:{path}"]) as server:
        assert len(server.addresses) == 2
        for host, port in server.addresses:
            assert httpx.get(f"http://{host}:{port}/scope").json()["server"] == [host, port]
        with httpx.Client(transport=httpx.HTTPTransport(uds=path)) as client:
            assert client.get("http://test/scope").json()["server"] == [path, None]


def test_workers_with_reuse_port_listen_for_themselves(tmp_path: Path) -> None:
    with socket.socket() as reservation:  # it does not listen, so nothing is sent to it
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reservation.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{reservation.getsockname()[1]}"
        with Gunicorn(tmp_path, bind=bind, reuse_port=True, workers=2) as server:
            seen: set[str] = set()

            def both() -> bool:
                seen.add(server.get("/pid").text)
                return len(seen) == 2

            poll(both, "an answer from each worker")
            assert server.stop() == 0


@pytest.mark.smoke
def test_a_preloaded_application_runs_on_the_loops_of_the_workers(
    tmp_path: Path, loop: str
) -> None:
    with Gunicorn(tmp_path, preload_app=True, workers=2, asgi_loop=loop) as server:
        pid = int(server.get("/pid").text)
        assert pid in server.workers()
        assert [event for event in server.events if event.startswith("loaded")] == [
            f"loaded {server.pid}"
        ]
        assert len([event for event in server.events if event.startswith("startup")]) == 2


@pytest.mark.skipif("root_path" not in SETTINGS, reason="this Gunicorn has no root_path")
@pytest.mark.parametrize("root_path", ["/api", "/api/"])
def test_root_path_is_in_the_scope_and_before_the_path(tmp_path: Path, root_path: str) -> None:
    with Gunicorn(tmp_path, root_path=root_path) as server:
        scope = server.get("/a/scope").json()
        assert (scope["root_path"], scope["path"], scope["raw_path"]) == (
            "/api",
            "/api/a/scope",
            "/api/a/scope",
        )


# TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("certificate")
    key, cert = str(directory / "key.pem"), str(directory / "cert.pem")
    new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    subprocess.run(
        [*new, "-subj", "/CN=localhost", "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    return {"keyfile": key, "certfile": cert}


@pytest.mark.smoke
def test_tls_is_served_and_its_scheme_is_https(
    tmp_path: Path, loop: str, certificate: dict[str, str]
) -> None:
    with Gunicorn(tmp_path, asgi_loop=loop, **certificate) as server:
        assert server.lines("protocols http/1.1 over TLS$")
        with server.client() as client:
            assert client.get("/scope").json()["scheme"] == "https"
            assert client.post("/echo", content=b"x" * 300_000).content == b"x" * 300_000
        with server.connect() as raw, trusting_context().wrap_socket(raw.sock) as sock:
            assert (sock.version() or "") >= "TLSv1.2"
            secure = Connection(sock)
            secure.get("/hello", "Connection: close\r\n")
            assert secure.read_all().endswith(b"\r\n\r\nhello\n")
        # Plain HTTP gets no HTTP.
        with server.connect() as raw:
            raw.get("/hello")
            assert b"HTTP" not in raw.read_all()
        assert server.get("/hello").status_code == 200
        assert server.stop() == 0
        assert not server.lines("Traceback|ERROR")


def test_a_slow_client_gets_all_of_its_response_over_tls(
    tmp_path: Path, loop: str, certificate: dict[str, str]
) -> None:
    """What TLS has encrypted is out of its sight: it must not be taken for sent, nor its connection for idle."""
    size = 6_000_000
    environment = {"GUNICORN_ASGI_WRITE_TIMEOUT": "1"}
    with (
        Gunicorn(tmp_path, asgi_loop=loop, keepalive=1, env=environment, **certificate) as server,
        server.connect() as raw,
    ):
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        with trusting_context().wrap_socket(raw.sock) as sock:
            Connection(sock).get(f"/large?size={size}")
            received, begun = 0, time.monotonic()
            while received < size:
                data = sock.recv(65536)
                assert data, f"cut off after {received} bytes"
                received += len(data)
                # A steady rate over several times keepalive and write_timeout, as a slow line has it.
                time.sleep(max(0.0, received / 1_500_000 - (time.monotonic() - begun)))


def test_an_idle_tls_client_does_not_hold_a_drain(
    tmp_path: Path, loop: str, certificate: dict[str, str]
) -> None:
    """A pooled connection that nobody looks at does not answer TLS' good-bye."""
    with (
        Gunicorn(
            tmp_path, asgi_loop=loop, keepalive=60, graceful_timeout=60, **certificate
        ) as server,
        server.connect() as raw,
        trusting_context().wrap_socket(raw.sock) as sock,
    ):
        Connection(sock).get("/hello")
        assert sock.recv(65536)
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 20
        assert "shutdown" in server.events


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("Host: a\r\nContent-Length: 500000", 200),  # answered without the body being read
        ("Content-Length: 500000", 400),
        ("Host: a\r\nContent-Length: 500000\r\nExpect: nothing", 417),
    ],
)
def test_a_tls_client_that_is_still_sending_gets_its_answer(
    tmp_path: Path, loop: str, certificate: dict[str, str], head: str, status: int
) -> None:
    with Gunicorn(tmp_path, asgi_loop=loop, **certificate) as server:
        with server.connect() as raw, trusting_context().wrap_socket(raw.sock) as sock:
            client = Connection(sock)
            client.get("/hello")
            client.read_response()
            client.send(f"POST /hello HTTP/1.1\r\n{head}\r\n\r\n".encode())
            assert select.select([sock], [], [], DEADLINE)[0]  # the answer
            for _ in range(5):
                client.send(b"x" * 100_000)
                server.get("/hello")  # the worker has read that, or has closed
            answer = client.read_response()
            assert (answer[0], answer[1]["connection"]) == (status, "close")
        assert server.stop() == 0


@pytest.mark.smoke
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("path", ["/hello", "/trickle"])
def test_a_client_that_resets_leaves_nothing_on_stderr(
    tmp_path: Path, loop: str, certificate: dict[str, str], tls: bool, path: str
) -> None:
    """asyncio has a warning for every write on a lost transport, and prints it where nobody has set up its logger."""
    with Gunicorn(tmp_path, asgi_loop=loop, **(certificate if tls else {})) as server:
        [worker] = server.workers()
        for _ in range(3):
            with (
                server.connect() as raw,
                trusting_context().wrap_socket(raw.sock) if tls else raw.sock as sock,
            ):
                client = Connection(sock)
                client.get("/hello")
                client.read_response()
                # All of it is there, the reset too, when the worker reads the first.
                os.kill(worker, signal.SIGSTOP)
                client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * 100)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.kill(worker, signal.SIGCONT)
            assert server.get("/hello").status_code == 200
        assert server.stop() == 0
        assert server.output == ""
        assert not server.lines("WARNING|ERROR")


def test_what_was_accepted_before_listening_stops_is_answered(tmp_path: Path, loop: str) -> None:
    """asyncio accepts several at once, and makes connections of them in its next turn."""
    with (
        Gunicorn(tmp_path, asgi_loop=loop, keepalive=60, max_requests=3) as server,
        server.connect() as last,
        server.connect() as blocking,
    ):
        last.get("/hello")
        last.read_response()
        blocking.get("/block?seconds=0.5")
        server.wait_for_event("block begun")
        waiting = [server.connect() for _ in range(10)]
        for client in waiting:
            client.get("/hello")
        last.get("/hello")  # reaches max_requests
        for client in waiting:
            assert client.read_response()[0] == 200
            client.sock.close()


def test_the_ssl_context_hook_makes_the_context(
    tmp_path: Path, certificate: dict[str, str]
) -> None:
    config = (
        NOTE
        + "\ndef ssl_context(config, default):\n    note('ssl_context')\n    return default()\n"
    )
    with Gunicorn(tmp_path, config=config, **certificate) as server:
        assert server.get("/hello").status_code == 200
        assert "ssl_context" in server.events


@pytest.mark.parametrize(
    ("hook", "sentence"),
    [
        (
            "raise ValueError('no context today')",
            r"The ssl_context hook raised ValueError\('no context today'\)\.",
        ),
        ("pass", r"The ssl_context hook must return an ssl\.SSLContext, not None\."),
    ],
)
def test_an_ssl_context_hook_that_makes_no_context_stops_the_boot_and_is_never_plain_http(
    tmp_path: Path, certificate: dict[str, str], hook: str, sentence: str
) -> None:
    config = f"def ssl_context(config, default):\n    {hook}\n"
    with Gunicorn(tmp_path, config=config, wait=False, **certificate) as server:
        server.wait_for("Booting worker")
        answer = b""
        try:
            with server.connect() as raw:
                raw.get("/hello")
                answer = raw.read_all()
        except OSError:
            pass
        assert answer == b""
        assert server.wait() == 3
        assert server.lines(rf"\[ERROR\] {sentence}$")
        assert not server.lines("on Gunicorn|Traceback")


# TERM.


@pytest.mark.smoke
def test_term_drains(tmp_path: Path, loop: str) -> None:
    """All of it in one run: the running request ends, the idle connections do at once, nobody else is accepted, and what comes after."""
    with (
        Gunicorn(tmp_path, asgi_loop=loop, config=HOOKS, keepalive=60) as server,
        server.connect() as running,
        server.connect() as beginning,
        server.connect() as idle,
        server.connect() as silent,
    ):
        running.begin_upload("/duplex")
        running.read_until(b"begun\n\r\n")
        beginning.send(b"GET /hello HTTP/1.1\r\nHo")
        idle.get("/hello")
        assert idle.read_response()[0] == 200
        server.kill(signal.SIGTERM)
        # Connections without a request end at once.
        assert idle.read_all() == b""
        assert silent.read_all() == b""
        server.wait_until_refused()
        # A request that is being received is served, and told that its connection ends.
        beginning.send(b"st: test\r\n\r\n")
        status, headers, body = beginning.read_response()
        assert (status, headers["connection"], body) == (200, "close", b"hello\n")
        assert beginning.read_all() == b""
        # A request that is being answered runs to its end.
        running.chunk(b"more")
        assert running.read_until(b"more\r\n")
        assert server.running
        assert "shutdown" not in server.events
        running.chunk(b"")
        assert running.read_all() == b"0\r\n\r\n"
        assert server.wait() == 0
        assert server.events[-5:] == [
            "duplex end",
            "shutdown",
            "shut down",
            "worker_exit",
            "atexit",
        ]
        assert not server.lines(r"was sent|ERROR|WARNING|Traceback")


def test_term_without_requests_ends_at_once(tmp_path: Path, loop: str) -> None:
    with (
        Gunicorn(tmp_path, asgi_loop=loop, keepalive=60, graceful_timeout=60) as server,
        server.connect() as idle,
        server.connect(),
    ):
        idle.get("/hello")
        idle.read_response()
        clock = Clock()
        assert server.stop() == 0
        assert clock.seconds < SOON
        assert not server.lines("was sent")


def test_a_request_that_comes_in_the_lame_duck_time_is_answered_and_told_that_its_connection_ends(
    tmp_path: Path, loop: str
) -> None:
    with (
        Gunicorn(tmp_path, asgi_loop=loop, keepalive=60, options={"lame_duck": 4}) as server,
        server.connect() as idle,
    ):
        idle.get("/hello")
        assert idle.read_response()[1]["connection"] is None
        with server.connect() as other:
            other.begin_upload("/duplex")
            other.read_until(b"begun\n\r\n")
            server.kill(signal.SIGTERM)
            server.wait_until_refused()
            other.chunk(b"")
            other.read_until(b"0\r\n\r\n")
            # Neither was told, for the response of the one was complete, and that of the other begun.
            for client in (idle, other):
                client.get("/hello")
                status, headers, body = client.read_response()
                assert (status, headers["connection"], body) == (200, "close", b"hello\n")
        assert idle.read_all() == b""
        assert server.wait() == 0


def test_term_repeated_is_term_once(tmp_path: Path, loop: str) -> None:
    with Gunicorn(tmp_path, asgi_loop=loop, config=HOOKS) as server, server.connect() as running:
        [worker] = server.workers()
        running.begin_upload("/duplex")
        running.read_until(b"begun\n\r\n")
        server.kill(signal.SIGTERM)
        for part in (b"one", b"two", b"three"):
            os.kill(worker, signal.SIGTERM)
            running.chunk(part)
            running.read_until(part + b"\r\n")
        running.chunk(b"")
        assert running.read_all() == b"0\r\n\r\n"
        poll(lambda: [os.kill(worker, signal.SIGTERM)] if is_alive(worker) else [True])
        assert server.wait() == 0
        assert server.events.count("shutdown") == 1
        assert server.events.count("worker_exit") == 1
        assert "worker_int" not in server.events
        assert not server.lines("was sent")


def test_an_application_that_listens_hears_of_the_end_in_time_and_completes_its_response(
    tmp_path: Path,
) -> None:
    with Gunicorn(tmp_path, graceful_timeout=3) as server, server.connect() as client:
        client.get("/listening")
        client.read_until(b"begun\n\r\n")
        server.kill(signal.SIGTERM)
        assert client.read_all() == b"6\r\nended\n\r\n0\r\n\r\n"
        assert server.wait() == 0
        assert server.events[-4:] == ["http.disconnect", "shutdown", "shut down", "atexit"]
        assert not server.lines("was sent|WARNING|ERROR")


@pytest.mark.smoke
def test_a_request_that_never_ends_is_cancelled_before_the_arbiter_kills(
    tmp_path: Path, loop: str
) -> None:
    with (
        Gunicorn(tmp_path, asgi_loop=loop, config=HOOKS, graceful_timeout=3) as server,
        server.connect() as client,
    ):
        client.get("/stuck")
        client.read_until(b"begun\n\r\n")
        clock = Clock()
        assert server.stop() == 0
        assert clock.seconds > 1
        # It does not look whole.
        assert client.read_all() == b""
        assert server.events[-6:] == [
            "http.disconnect",
            "cancelled",
            "shutdown",
            "shut down",
            "worker_exit",
            "atexit",
        ]
        assert server.lines(
            r"\[WARNING\] 1 responses were not complete, and 1 applications running, at the end of graceful_timeout$"
        )
        assert not server.lines("was sent")


def test_an_application_that_refuses_to_be_cancelled_cannot_hold_the_worker(
    tmp_path: Path, loop: str
) -> None:
    with (
        Gunicorn(tmp_path, asgi_loop=loop, config=HOOKS, graceful_timeout=3) as server,
        server.connect() as client,
    ):
        client.get("/deaf")
        client.read_until(b"begun\n\r\n")
        assert server.stop() == 0
        assert [event for event in server.events if event != "cancelled"][-3:] == [
            "shut down",
            "worker_exit",
            "atexit",
        ]
        assert not server.lines("was sent")


def test_a_client_that_does_not_read_cannot_hold_the_worker(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, config=HOOKS, graceful_timeout=3) as server, server.connect() as client:
        client.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 20000000\r\n\r\n")
        for _ in range(20):
            client.send(b"x" * 1_000_000)
        client.read_until(b"\r\n\r\n")
        assert server.stop() == 0
        assert server.events[-3:] == ["shut down", "worker_exit", "atexit"]
        assert not server.lines("was sent")


def test_lifespan_shutdown_comes_after_the_last_response(tmp_path: Path) -> None:
    with Gunicorn(tmp_path) as server, server.connect() as client:
        client.begin_upload("/upload")
        server.wait_for_event("upload begun")
        server.kill(signal.SIGTERM)
        server.wait_for("Handling signal: term")
        client.chunk(b"all")
        client.chunk(b"")
        assert client.read_response()[2] == b"all"
        assert server.wait() == 0
        assert server.events[-4:] == ["upload read", "shutdown", "shut down", "atexit"]


def test_term_while_the_application_is_imported_is_obeyed_when_it_is(tmp_path: Path) -> None:
    with Gunicorn(
        tmp_path, "importing:app", env={"TEST_IMPORT_SECONDS": "1"}, config=HOOKS, wait=False
    ) as server:
        server.wait_for_event("importing")
        assert server.stop() == 0
        assert server.events == ["importing", "worker_exit"]
        assert not server.lines("was sent|on Gunicorn|ERROR")


# QUIT and INT.


def test_quit_while_the_application_is_imported_leaves_at_once(tmp_path: Path) -> None:
    with Gunicorn(
        tmp_path, "importing:app", env={"TEST_IMPORT_SECONDS": "3600"}, config=HOOKS, wait=False
    ) as server:
        server.wait_for_event("importing")
        clock = Clock()
        assert server.stop(signal.SIGQUIT) == 0
        assert clock.seconds < SOON
        assert server.events == ["importing", "worker_int", "SystemExit", "worker_exit"]
        assert not server.lines("was sent|on Gunicorn|ERROR")


@pytest.mark.smoke
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
def test_quit_and_int_are_obeyed_also_by_an_import_that_lets_nothing_through(
    tmp_path: Path, number: int
) -> None:
    env = {"TEST_IMPORT_SECONDS": "3600", "TEST_IMPORT_SWALLOWS": "1"}
    # Only an end of its own comes in time.
    with Gunicorn(
        tmp_path, "importing:app", env=env, config=HOOKS, wait=False, graceful_timeout=600
    ) as server:
        server.wait_for_event("importing")
        [worker] = server.workers()
        os.kill(worker, number)
        wait_until_gone(worker)
        assert server.events[:4] == ["importing", "worker_int", "SystemExit", "worker_exit"]
        assert not server.lines("was sent|on Gunicorn|ERROR")


@pytest.mark.smoke
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
def test_quit_and_int_leave_quickly(tmp_path: Path, loop: str, number: int) -> None:
    with (
        Gunicorn(tmp_path, asgi_loop=loop, config=HOOKS, graceful_timeout=60) as server,
        server.connect() as client,
    ):
        client.get("/stuck")
        client.read_until(b"begun\n\r\n")
        clock = Clock()
        assert server.stop(number) == 0
        assert clock.seconds < SOON
        assert client.read_all() == b""
        assert [event for event in server.events if event != "http.disconnect"][-6:] == [
            "worker_int",
            "cancelled",
            "shutdown",
            "shut down",
            "worker_exit",
            "atexit",
        ]
        assert not server.lines("was sent|ERROR")


def test_ctrl_c_calls_worker_int_once(tmp_path: Path, loop: str) -> None:
    # A terminal sends INT to the master and the workers, and then the master QUIT to the workers.
    with Gunicorn(tmp_path, asgi_loop=loop, config=HOOKS, workers=2) as server:
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait() == 0
        assert server.events.count("worker_int") == 2
        assert server.events.count("shut down") == 2
        assert server.events.count("worker_exit") == 2
        assert not server.lines("was sent|ERROR|Traceback")


def test_a_worker_int_that_raises_is_logged_and_the_worker_shuts_down(
    tmp_path: Path, loop: str
) -> None:
    config = HOOKS + "\ndef worker_int(worker):\n    raise ValueError('of the hook')\n"
    with Gunicorn(tmp_path, asgi_loop=loop, config=config) as server:
        assert server.stop(signal.SIGQUIT) == 0
        assert server.events[-4:] == ["shutdown", "shut down", "worker_exit", "atexit"]
        assert len(server.lines(r"\[ERROR\] Exception in worker_int hook$")) == 1
        assert len(server.lines("^ValueError: of the hook$")) == 1
        assert not server.lines("Exception in worker process|exited with code")


def test_a_slow_lifespan_shutdown_is_bounded_after_quit(tmp_path: Path) -> None:
    with Gunicorn(
        tmp_path, config=HOOKS, graceful_timeout=60, env={"TEST_SHUTDOWN_SECONDS": "3600"}
    ) as server:
        clock = Clock()
        assert server.stop(signal.SIGQUIT) == 0
        assert clock.seconds < SOON
        assert server.events[-3:] == ["shutdown", "worker_exit", "atexit"]
        assert server.lines(r"\[ERROR\] ASGI lifespan.shutdown was not complete after 1\.0 s$")


def test_int_ends_a_drain(tmp_path: Path, loop: str) -> None:
    with (
        Gunicorn(tmp_path, asgi_loop=loop, config=HOOKS, graceful_timeout=60) as server,
        server.connect() as client,
        server.connect() as idle,
    ):
        idle.get("/hello")
        idle.read_response()
        client.get("/stuck")
        client.read_until(b"begun\n\r\n")
        server.kill(signal.SIGTERM)
        assert idle.read_all() == b""  # it drains
        clock = Clock()
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait() == 0
        assert clock.seconds < SOON
        assert server.events.count("worker_int") == 1
        assert server.events[-5:] == ["cancelled", "shutdown", "shut down", "worker_exit", "atexit"]
        assert not server.lines("was sent")


@pytest.mark.skipif(
    GUNICORN_VERSION < (25, 0), reason="this Gunicorn does not hear INT while it stops"
)
def test_int_to_the_master_ends_a_drain_with_a_slow_shutdown_before_it_kills(
    tmp_path: Path,
) -> None:
    env = {"TEST_SHUTDOWN_SECONDS": "3600"}
    with (
        Gunicorn(tmp_path, config=HOOKS, graceful_timeout=60, env=env) as server,
        server.connect() as client,
        server.connect() as idle,
    ):
        idle.get("/hello")
        idle.read_response()
        client.get("/stuck")
        client.read_until(b"begun\n\r\n")
        server.kill(signal.SIGTERM)
        assert idle.read_all() == b""
        assert server.stop(signal.SIGINT) == 0
        assert server.events[-4:] == ["cancelled", "shutdown", "worker_exit", "atexit"]
        assert not server.lines("was sent")


def test_quit_during_the_lifespan_shutdown_of_a_drain_ends_it(tmp_path: Path) -> None:
    env = {"TEST_SHUTDOWN_SECONDS": "3600"}
    with Gunicorn(tmp_path, config=HOOKS, graceful_timeout=60, env=env) as server:
        [worker] = server.workers()
        server.kill(signal.SIGTERM)
        server.wait_for_event("shutdown")
        clock = Clock()
        os.kill(worker, signal.SIGQUIT)
        assert server.wait() == 0
        assert clock.seconds < SOON
        assert server.events[-2:] == ["worker_exit", "atexit"]


def test_a_worker_that_was_told_to_quit_is_replaced(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, config=HOOKS) as server:
        [first] = server.workers()
        os.kill(first, signal.SIGQUIT)
        server.wait_for("on Gunicorn", 2)
        assert server.get("/pid").text != str(first)
        assert server.events.count("worker_int") == 1


# ABRT and the heartbeat.


@pytest.mark.smoke
def test_a_blocked_loop_is_aborted_with_its_hook_and_the_worker_replaced(
    tmp_path: Path, loop: str
) -> None:
    with (
        Gunicorn(tmp_path, asgi_loop=loop, config=HOOKS, timeout=1) as server,
        server.connect() as client,
    ):
        [first] = server.workers()
        client.get("/block?seconds=3600")
        server.wait_for_event("block begun")
        server.wait_for("on Gunicorn", 2)
        assert client.read_all() == b""
        assert not is_alive(first)
        assert server.get("/hello").text == "hello\n"
        assert server.lines("WORKER TIMEOUT")
        assert server.lines(rf"Worker \(pid:{first}\) exited with code 1")
        events = [event for event in server.events if event.startswith("worker_")]
        assert events == ["worker_abort", "worker_exit"]
        assert not server.lines("SIGKILL|SIGABRT")


def test_the_heartbeat_goes_on_in_slow_requests_and_in_the_drain_and_the_shutdown(
    tmp_path: Path, loop: str
) -> None:
    env = {"TEST_SHUTDOWN_SECONDS": "2.5"}
    with (
        Gunicorn(tmp_path, asgi_loop=loop, timeout=1, env=env) as server,
        server.connect() as client,
    ):
        [first] = server.workers()
        client.get("/slow?seconds=2.5")
        assert client.read_response()[2] == b"slow\n"
        client.get("/slow?seconds=2.5")
        server.wait_for_event("slow begun", 2)
        # To the worker, for the master does not look at heartbeats while it stops itself.
        os.kill(first, signal.SIGTERM)
        assert client.read_response()[2] == b"slow\n"
        server.wait_for(rf"Worker exiting \(pid: {first}\)")
        assert server.events.count("shut down") == 1
        assert not server.lines("WORKER TIMEOUT|was sent|ERROR")


def test_a_heartbeat_that_fails_ends_the_worker_and_says_why(tmp_path: Path) -> None:
    config = (
        HOOKS
        + """
def post_worker_init(worker):
    def notify():
        raise ValueError("no heartbeat")

    if worker.age == 1:
        worker.notify = notify
"""
    )
    with Gunicorn(tmp_path, config=config, wait=False) as server:
        server.wait_for(r"\[ERROR\] The heartbeat failed$")
        server.wait_for("^ValueError: no heartbeat$")
        server.wait_for("Booting worker", 2)
        assert server.get("/hello").text == "hello\n"
        assert server.events.count("worker_exit") == 1
        assert server.stop() == 0


# What the application does to the loop.


def test_an_error_in_a_callback_of_the_application_is_logged_and_harms_no_request(
    tmp_path: Path, loop: str
) -> None:
    with Gunicorn(tmp_path, asgi_loop=loop) as server, server.client() as client:
        assert client.get("/callback").text == "called\n"
        server.wait_for(r"\[ERROR\] Exception in callback")
        server.wait_for("^ValueError: in a callback$")
        assert client.get("/hello").text == "hello\n"
        assert server.output == ""


@pytest.mark.smoke
def test_sys_exit_in_a_request_ends_the_worker_with_its_code(tmp_path: Path, loop: str) -> None:
    with Gunicorn(tmp_path, asgi_loop=loop, config=HOOKS) as server, server.connect() as client:
        [first] = server.workers()
        client.get("/leave")
        client.read_all()
        wait_until_gone(first)
        server.wait_for("on Gunicorn", 2)
        assert server.lines(rf"Worker \(pid:{first}\) exited with code 7")
        assert server.events.count("worker_exit") == 1
        assert not server.lines("Traceback")
        assert server.stop() == 0


# Other signals, and the parent.


@pytest.mark.smoke
def test_usr1_reopens_the_logs_and_disturbs_no_request(tmp_path: Path, loop: str) -> None:
    access_log = tmp_path / "access.log"
    with (
        Gunicorn(tmp_path, asgi_loop=loop, accesslog=str(access_log)) as server,
        server.connect() as running,
        server.client() as client,
    ):
        [worker] = server.workers()
        running.begin_upload("/duplex")
        running.read_until(b"begun\n\r\n")
        client.get("/hello?before")
        poll(lambda: "/hello?before" in access_log.read_text())
        for path in (access_log, server.error_log):
            path.rename(f"{path}.1")
        server.kill(signal.SIGUSR1)
        poll(lambda: access_log.exists() and server.error_log.exists())
        # The master reopens them too, so that they are there does not say that the worker has: the next line does.

        def written() -> bool:
            client.get("/hello?after")
            return "/hello?after" in access_log.read_text()

        poll(written)
        assert "/hello?before" not in access_log.read_text()
        running.chunk(b"more")
        running.chunk(b"")
        assert running.read_all().startswith(b"4\r\nmore\r\n0\r\n\r\n")
        assert server.stop() == 0
        assert server.lines(rf"Worker exiting \(pid: {worker}\)")


@pytest.mark.smoke
def test_hup_replaces_the_workers_with_new_settings_while_the_old_finish(
    tmp_path: Path, loop: str
) -> None:
    with (
        Gunicorn(tmp_path, asgi_loop=loop, raw_env=["GREETING=one"]) as server,
        server.connect() as running,
    ):
        [first] = server.workers()
        assert server.get("/environ?name=GREETING").text == "one"
        running.begin_upload("/duplex")
        running.read_until(b"begun\n\r\n")
        server.configure(raw_env=["GREETING=two", "GUNICORN_ASGI_SERVER_HEADER=second"])
        server.kill(signal.SIGHUP)
        server.wait_for("on Gunicorn", 2)

        def replaced() -> httpx.Response | None:
            response = server.get("/environ?name=GREETING")
            return response if response.text == "two" else None

        assert poll(replaced).headers["server"] == "second"
        assert is_alive(first)
        running.chunk(b"more")
        running.chunk(b"")
        assert running.read_all() == b"4\r\nmore\r\n0\r\n\r\n"
        wait_until_gone(first)
        assert server.running
        assert len(server.workers()) == 1
        assert not server.lines("was sent|ERROR")


@pytest.mark.parametrize("what", ["idle", "busy"])
def test_a_worker_whose_master_is_gone_leaves(tmp_path: Path, loop: str, what: str) -> None:
    with (
        Gunicorn(tmp_path, asgi_loop=loop, config=HOOKS, graceful_timeout=2) as server,
        server.connect() as client,
    ):
        [worker] = server.workers()
        if what == "busy":
            client.get("/stuck")
            client.read_until(b"begun\n\r\n")
        server.kill(signal.SIGKILL)
        server.wait(5)
        wait_until_gone(worker)
        assert server.events[-3:] == ["shut down", "worker_exit", "atexit"]
        assert server.lines("Parent changed, shutting down")


# max_requests.


def test_max_requests_replaces_the_worker_and_loses_no_request(tmp_path: Path, loop: str) -> None:
    with (
        Gunicorn(
            tmp_path,
            asgi_loop=loop,
            max_requests=4,
            max_requests_jitter=3,
            keepalive=60,
            options={"handover": False},
        ) as server,
        server.client() as client,
    ):
        pids: list[str] = []
        closed = 0
        for _ in range(60):
            response = client.get("/pid")
            assert response.status_code == 200
            pids.append(response.text)
            closed += response.headers.get("connection") == "close"
        # In runs of 4 to 7 requests.
        runs = [pids.count(pid) for pid in dict.fromkeys(pids)]
        assert len(runs) >= 8
        assert all(4 <= run <= 7 for run in runs[:-1])
        assert closed in (len(runs) - 1, len(runs))
        assert len(server.lines(r"Autorestarting worker after current request\.$")) == closed
        assert not server.lines("was sent|ERROR|WARNING")


@pytest.mark.smoke
def test_max_requests_is_logged_once_and_what_runs_beside_the_last_request_finishes(
    tmp_path: Path,
) -> None:
    with (
        Gunicorn(tmp_path, max_requests=2, options={"handover": False}) as server,
        server.connect() as running,
        server.connect() as client,
    ):
        running.begin_upload("/duplex")
        running.read_until(b"begun\n\r\n")
        client.send(b"GET /pid HTTP/1.1\r\nHost: test\r\n\r\n" * 3)
        answer = client.read_all()
        # The pipelined ones behind the one that closes are not answered: the client sends them again.
        assert answer.count(b"HTTP/1.1 200 OK") == 1
        assert answer.count(b"connection: close") == 1
        running.chunk(b"more")
        running.chunk(b"")
        assert running.read_all() == b"4\r\nmore\r\n0\r\n\r\n"
        server.wait_for("on Gunicorn", 2)
        assert len(server.lines("Autorestarting worker")) == 1


# Reloading.


@pytest.fixture
def reloading(tmp_path: Path) -> Iterator[tuple[Gunicorn, Path]]:
    path = tmp_path / "changing.py"
    path.write_text(APP.format(text="one"))
    with Gunicorn(
        tmp_path, "changing:app", pythonpath=str(tmp_path), reload=True, reload_engine="poll"
    ) as server:
        assert server.get("/").text == "one"
        yield server, path


APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({{"type": "http.response.start", "status": 200}})
    await send({{"type": "http.response.body", "body": b"{text}"}})
"""


def change(path: Path, text: str) -> None:
    """Write `path` so that its modification is seen whatever the clock of the file system."""
    before = path.stat().st_mtime
    path.write_text(text)
    os.utime(path, (before + 10, before + 10))


def change_until(server: Gunicorn, path: Path, source: str, text: str) -> None:
    """Write `source` until `text` is answered: again now and then, for Gunicorn's reloader does not see what changes before its first look."""
    changed = -math.inf

    def answered() -> bool:
        nonlocal changed
        if time.monotonic() - changed > 8:
            change(path, source)
            changed = time.monotonic()
        try:
            return text in server.get("/").text
        except httpx.TransportError:  # between two workers
            return False

    poll(answered, f"the answer {text!r}")


@pytest.mark.smoke
def test_reload_serves_the_changed_application(reloading: tuple[Gunicorn, Path]) -> None:
    server, path = reloading
    change_until(server, path, APP.format(text="two"), "two")
    assert server.lines("Worker reloading")
    assert not server.lines("was sent|ERROR")


def test_reload_does_not_wait_for_an_endless_stream(tmp_path: Path) -> None:
    path = tmp_path / "changing.py"
    path.write_text(APP.format(text="one") + "    await __import__('asyncio').Event().wait()\n")
    settings: dict[str, Any] = {
        "pythonpath": str(tmp_path),
        "reload": True,
        "reload_engine": "poll",
        "graceful_timeout": 1000,
    }
    with Gunicorn(tmp_path, "changing:app", **settings) as server:
        assert server.get("/").text == "one"
        change_until(server, path, APP.format(text="two"), "two")


FAILING_STARTUP = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("async def app(:\n", "SyntaxError"),
        ("import nosuch\n", "ModuleNotFoundError: No module named 'nosuch'"),
        ("app = missing_name\n", "NameError"),
        ("import helper\nfrom helper import app\n", "ZeroDivisionError"),
        ("import sys\nsys.exit('no licence')\n", "SystemExit: no licence"),
        ("raise BaseException('unusual')\n", "BaseException: unusual"),
        (
            "error = ValueError('its own cause')\nraise error from error\n",
            "ValueError: its own cause",
        ),
        ("application = None\n", "Failed to find attribute 'app'"),
        ("def app(environ, start_response): ...\n", "looks like a WSGI application"),
        (FAILING_STARTUP, "ASGI lifespan.startup failed: no database"),
    ],
)
def test_reload_shows_why_an_application_cannot_be_loaded_until_it_is_mended(
    reloading: tuple[Gunicorn, Path], source: str, shown: str
) -> None:
    server, path = reloading
    helper = path.parent / "helper.py"
    helper.write_text("1 / 0\n")
    change_until(server, path, source, shown)
    response = server.get("/")
    assert (response.status_code, response.headers["content-type"]) == (
        500,
        "text/plain; charset=utf-8",
    )
    if "helper" in source:  # it is the file that has raised which is mended
        change_until(server, helper, APP.format(text="two"), "two")
    else:
        change_until(server, path, APP.format(text="two"), "two")
    assert server.lines("Booting worker")
    assert not server.lines("was sent|Worker failed to boot")


def test_an_application_that_cannot_be_loaded_may_be_mended_from_the_first_start_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "changing.py"
    path.write_text("import nosuch\n")
    with Gunicorn(
        tmp_path, "changing:app", pythonpath=str(tmp_path), reload=True, reload_engine="poll"
    ) as server:
        assert "No module named 'nosuch'" in server.get("/").text
        change_until(server, path, APP.format(text="two"), "two")
