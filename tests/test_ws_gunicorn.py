"""WebSockets in a running Gunicorn: its log, its hooks, its counters, its limits and its signals, with real clients."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from accesslog import FORMAT, Lines
from certificates import make_authority
from gunicorn.config import Config
from nginx import NGINX, NGINX_CONF, is_listening
from process import (
    BOOT_LINE,
    DEADLINE,
    LOOPS,
    NOTE,
    SETTINGS,
    Gunicorn,
    poll,
    trusting_context,
    wait_until_gone,
)
from turnover import end, read_pid
from websockets.sync.client import unix_connect
from ws import close, text
from wsclient import HANDSHAKE, connect, connect_raw, exchange, read_close, read_refusal

from gunicorn_asgi.config.options import OPTIONS
from gunicorn_asgi.config.settings import Settings
from gunicorn_asgi.errors import ConfigError

APP = "sockets:app"
HOOKS = (
    NOTE
    + """
def worker_int(worker):
    note("worker_int")

def worker_exit(server, worker):
    note("worker_exit")
"""
)
LEAVING = ["shutdown", "shut down", "worker_exit", "atexit"]
"""The end of a worker, as `HOOKS` and the application note it."""
SOON = 8.0
"""Seconds that are long for what happens at once, and short beside the graceful timeouts of these tests."""
TROUBLE = r"was sent|\[(WARNING|ERROR|CRITICAL)\]|Traceback"


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def seen(server: Gunicorn) -> list[str]:
    """What was noted of the connections and of the worker's end."""
    return [
        event
        for event in server.events
        if not event.startswith(("loaded", "lifespan", "startup", "connect "))
    ]


# The access log.


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lines]:
    directory = tmp_path_factory.mktemp("access")
    options = {"ws_accept_timeout": 1.0}
    with Gunicorn(
        directory,
        APP,
        accesslog=str(directory / "access.log"),
        access_log_format=FORMAT,
        options=options,
    ) as server:
        yield Lines(server)
        assert server.stop() == 0


@pytest.mark.gunicorn
def test_a_websocket_has_its_line_at_its_end_with_its_duration_and_its_bytes(lines: Lines) -> None:
    server = lines.server
    begun = time.monotonic()
    with connect(
        server, "/a%20b/echo?first=1", {"X-One": "1"}, user_agent_header="me/1.0", compression=None
    ) as ws:
        opened = time.monotonic()
        assert exchange(ws, "hello") == "hello"
        assert exchange(ws, bytes(1000)) == bytes(1000)
        server.get("/slow?seconds=0.5&meanwhile")
        lines.one("meanwhile")
        assert not [line for line in lines.all() if "first=1" in line["r"]]  # it is not over
        shortest = time.monotonic() - opened
    line = lines.one("first=1")
    longest = time.monotonic() - begun
    microseconds = int(line["D"])
    assert shortest * 1e6 <= microseconds <= longest * 1e6
    assert line["M"] == str(microseconds // 1000)
    assert line["L"] == f"{microseconds / 1_000_000:.6f}"
    assert line["T"] == str(microseconds // 1_000_000)
    # The head is not counted; two messages are, with their headers of two and of four bytes, and a Close with a code.
    assert line["B"] == line["b"] == str(2 + 5 + 4 + 1000 + 2 + 2)
    expected = {
        "h": "127.0.0.1",
        "r": "GET /a%20b/echo?first=1 HTTP/1.1",
        "s": "101",
        "m": "GET",
        "U": "/a b/echo",
        "q": "first=1",
        "H": "HTTP/1.1",
        "a": "me/1.0",
        "{X-One}i": "1",
    }
    assert {name: line[name] for name in expected} == expected


@pytest.mark.gunicorn
def test_bytes_are_counted_as_they_go_out_compressed(lines: Lines) -> None:
    with connect(lines.server, "/echo?compressed") as ws:
        message = "again and " * 1000
        assert exchange(ws, message) == message
    assert 20 < int(lines.one("?compressed")["B"]) < 1000


@pytest.mark.gunicorn
def test_a_client_that_is_lost_ends_its_line(lines: Lines) -> None:
    with connect_raw(lines.server, "/echo?lost"):
        pass
    assert (lines.one("?lost")["s"], lines.one("?lost")["B"]) == ("101", "0")
    lines.server.wait_for_event("disconnect 1006")


@pytest.mark.gunicorn
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/reject", 403),
        ("/deny?status=401", 401),
        ("/deny?status=302", 302),
        ("/error", 500),
        ("/nothing", 500),
        ("/silent", 500),
    ],
)
def test_a_denied_handshake_has_a_line_with_the_status_that_was_sent(
    lines: Lines, path: str, status: int
) -> None:
    path += ("&" if "?" in path else "?") + f"denied={status}"
    # A client of HTTP: the denial comes in parts, which older ones of WebSocket do not understand. (/silent is ended by ws_accept_timeout.)
    headers = dict(line.split(": ", 1) for line in HANDSHAKE.splitlines())
    response = lines.server.get(path, headers=headers)
    assert response.status_code == status
    assert response.headers["connection"] == "close"
    if path.startswith("/deny"):
        assert response.content == b"who are you?\n"
        assert response.headers["x-answer"] == "42"
    line = lines.one(path)
    assert line["s"] == str(status)
    assert line["B"] == str(len(response.content))


REFUSED = {
    "426": HANDSHAKE.replace("Version: 13", "Version: 8"),
    "426 without a version": HANDSHAKE.replace("Sec-WebSocket-Version: 13\r\n", ""),
    "400": HANDSHAKE.replace("Sec-WebSocket-Key: ", "Sec-WebSocket-Key: short"),
    "400 without a key": HANDSHAKE.replace("Sec-WebSocket-Key", "X-Key"),
    "400 with a body": HANDSHAKE + "Content-Length: 1\r\n",
}


@pytest.mark.gunicorn
@pytest.mark.parametrize("what", REFUSED)
def test_a_refused_handshake_has_a_line_and_never_reaches_the_application(
    lines: Lines, what: str
) -> None:
    path = f"/echo?refused={what.replace(' ', '-')}"
    before = len(lines.server.lines("Invalid request from ip=127.0.0.1: "))
    with lines.server.connect() as client:
        client.get(path, REFUSED[what])
        status, headers, body = client.read_response()
        assert client.read_all() == b""
    assert str(status) == what[:3]
    assert "close" in headers.get_all("connection")
    if status == 426:
        assert "upgrade" in headers.get_all("connection")
        assert (headers["sec-websocket-version"], headers["upgrade"]) == ("13", "websocket")
    line = lines.one(path + " ")
    assert (line["s"], line["m"], line["U"]) == (what[:3], "GET", "/echo")
    assert line["B"] == str(len(body))
    assert len(lines.server.lines("Invalid request from ip=127.0.0.1: ")) == before + 1
    assert path.partition("?")[2] not in str(lines.server.events)


# Hooks and statsd.


@pytest.mark.gunicorn
def test_the_hooks_are_called_once_before_the_application_and_at_the_end(tmp_path: Path) -> None:
    config = (
        NOTE
        + """
def pre_request(worker, req):
    note("pre", req.method, req.uri, req.scheme)

def post_request(worker, req, environ, resp):
    note("post", req.uri, environ["REQUEST_METHOD"], environ["HTTP_UPGRADE"], environ["wsgi.url_scheme"], resp.status, resp.sent)
"""
    )
    with Gunicorn(tmp_path, APP, config=config) as server:
        with connect(server, "/tidy", compression=None) as ws:
            assert exchange(ws, "hello") == "hello"
            assert seen(server) == ["pre GET /tidy http"]
        server.wait_for_event("post /tidy GET websocket http 101 Switching Protocols 11")
        server.wait_for_event("tidied")
        assert [event.split()[0] for event in server.events[3:5]] == ["pre", "connect"]
        assert len([event for event in server.events if event.startswith(("pre ", "post "))]) == 2


@pytest.mark.gunicorn
def test_a_pre_request_that_raises_refuses_the_handshake_with_500(tmp_path: Path) -> None:
    with Gunicorn(
        tmp_path, APP, config="def pre_request(worker, req):\n    raise ValueError('not today')\n"
    ) as server:
        assert read_refusal(server, "/echo").status_code == 500
        assert len(server.lines("Exception in pre_request hook")) == 1
        assert "connect /echo" not in server.events


@pytest.mark.gunicorn
def test_statsd_counts_a_websocket_once_at_its_end(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(10)
        settings = {"statsd_host": f"127.0.0.1:{statsd.getsockname()[1]}", "statsd_prefix": "test"}
        with Gunicorn(tmp_path, APP, **settings) as server:
            with connect(server, "/echo") as ws:
                assert exchange(ws, "hello") == "hello"
            assert read_refusal(server, "/reject").status_code == 403
            with server.connect() as client:
                client.get("/echo", REFUSED["426"])
                assert client.read_response()[0] == 426
            packets: list[str] = []
            while len([packet for packet in packets if ".request.status." in packet]) < 3:
                packets.append(statsd.recv(2000).decode())
    counts = [packet.split("|")[0] for packet in packets if ".gunicorn.request" in packet]
    assert counts.count("test.gunicorn.requests:1") == 3
    assert [
        counts.count(f"test.gunicorn.request.status.{status}:1") for status in (101, 403, 426)
    ] == [1, 1, 1]
    assert (
        len([count for count in counts if count.startswith("test.gunicorn.request.duration:")]) == 3
    )


# Draining.


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_term_closes_with_1012_and_the_application_may_still_clean_up(
    tmp_path: Path, loop: str
) -> None:
    with Gunicorn(tmp_path, APP, asgi_loop=loop, config=HOOKS) as server:
        with connect(server, "/tidy") as ws:
            assert exchange(ws, "hello") == "hello"
            server.kill(signal.SIGTERM)
            assert read_close(ws)[0] == 1012
        assert server.wait() == 0
        assert seen(server) == ["disconnect 1012", "tidied", *LEAVING]
        assert not server.lines(TROUBLE)


@pytest.mark.gunicorn
def test_what_was_sent_before_term_is_still_answered(tmp_path: Path) -> None:
    """Messages that the application has not taken yet stay readable before the disconnect."""
    with Gunicorn(tmp_path, APP) as server:
        [worker] = server.workers()
        with connect(server, "/echo") as ws:
            assert exchange(ws, "hello") == "hello"
            # All of it is there when the worker goes on.
            os.kill(worker, signal.SIGSTOP)
            ws.send("late")
            os.kill(worker, signal.SIGTERM)
            os.kill(worker, signal.SIGCONT)
            assert ws.recv(DEADLINE) == "late"
            assert read_close(ws)[0] == 1012


@pytest.mark.gunicorn
def test_a_handshake_without_an_answer_is_ended_by_a_drain(tmp_path: Path) -> None:
    with (
        Gunicorn(
            tmp_path, APP, config=HOOKS, options={"ws_accept_timeout": 0}, graceful_timeout=3
        ) as server,
        server.connect() as client,
    ):
        client.get("/silent", HANDSHAKE)
        server.wait_for_event("silent begun")
        assert server.stop() == 0
        assert b" 101 " not in client.read_all()
        assert seen(server)[-4:] == LEAVING
        assert not server.lines("was sent")


@pytest.mark.gunicorn
def test_hup_closes_with_1012_and_clients_come_back_to_a_new_worker(
    tmp_path: Path, loop: str
) -> None:
    with Gunicorn(tmp_path, APP, asgi_loop=loop, config=HOOKS) as server:
        [first] = server.workers()
        with connect(server, "/tidy") as ws, connect(server, "/pid") as other:
            assert other.recv(DEADLINE) == str(first)
            server.kill(signal.SIGHUP)
            assert read_close(ws)[0] == 1012
            assert read_close(other)[0] == 1012
        # As long as the old one has not stopped listening, it may take a connection, which then ends in the same way.
        wait_until_gone(first)
        with connect(server, "/pid") as ws:
            assert ws.recv(DEADLINE) != str(first)
        assert seen(server)[:7] == ["disconnect 1012", "disconnect 1012", "tidied", *LEAVING]
        assert not server.lines(TROUBLE)


@pytest.mark.gunicorn
def test_ttou_closes_those_of_the_worker_that_leaves_and_no_others(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, APP, workers=2) as server, ExitStack() as stack:
        # Gunicorn ends the older one. Each logs its own start, so the log may have them in any order.
        leaving, staying = sorted(server.workers())
        of: dict[int, list[Any]] = {leaving: [], staying: []}
        for _ in range(100):
            ws = stack.enter_context(connect(server, "/pid"))
            of[int(ws.recv(DEADLINE))].append(ws)
            if all(of.values()):
                break
        server.kill(signal.SIGTTOU)
        for ws in of[leaving]:
            assert read_close(ws)[0] == 1012
        wait_until_gone(leaving)
        for ws in of[staying]:
            assert exchange(ws, "hello") == "hello"
        assert not server.lines(TROUBLE)


@pytest.mark.gunicorn
def test_max_requests_counts_websockets_and_closes_those_that_are_open(
    tmp_path: Path, loop: str
) -> None:
    with Gunicorn(tmp_path, APP, asgi_loop=loop, config=HOOKS, max_requests=3) as server:
        [first] = server.workers()
        with connect(server, "/tidy") as one, connect(server, "/tidy") as two:
            for ws in (one, two):
                assert exchange(ws, "hello") == "hello"
            assert not server.lines("Autorestarting")
            with connect(server, "/tidy") as last:  # it is still served
                for ws in (one, two, last):
                    assert read_close(ws)[0] == 1012
        wait_until_gone(first)
        server.wait_for(BOOT_LINE, 2)
        with connect(server, "/pid") as ws:
            assert ws.recv(DEADLINE) != str(first)
        assert seen(server)[:3] == ["disconnect 1012"] * 3
        assert seen(server)[3:10] == ["tidied"] * 3 + LEAVING
        assert len(server.lines("Autorestarting worker")) == 1
        assert not server.lines(TROUBLE)


PROGRAM = "from gunicorn.app.wsgiapp import run; run()"
"""What the installed ``gunicorn`` does: USR2 runs what was run before, by its path."""


@pytest.mark.gunicorn
@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
def test_an_upgrade_of_the_master_closes_with_1012_and_clients_come_back_to_the_new_one(
    tmp_path: Path,
) -> None:
    script, pidfile = tmp_path / "gunicorn", tmp_path / "pid"
    script.write_text(PROGRAM)
    with Gunicorn(tmp_path, APP, program=(str(script),), pidfile=str(pidfile)) as server:
        [first] = server.workers()
        with connect(server, "/tidy") as ws:
            server.kill(signal.SIGUSR2)
            beside = tmp_path / "pid.2"
            new = poll(lambda: read_pid(beside), "the pidfile of a new master")
            try:
                server.wait_for(BOOT_LINE, 2)
                assert exchange(ws, "hello") == "hello"
                server.kill(signal.SIGTERM)
                assert read_close(ws)[0] == 1012
                assert server.wait() == 0
                with connect(server, "/pid") as other:
                    assert other.recv(DEADLINE) != str(first)
                assert seen(server)[:5] == [
                    "disconnect 1012",
                    "tidied",
                    "shutdown",
                    "shut down",
                    "atexit",
                ]
                assert not server.lines(TROUBLE)
            finally:
                end(new)


@pytest.mark.gunicorn
def test_ws_drain_delay_is_waited_for_and_messages_flow_meanwhile(
    tmp_path: Path, loop: str
) -> None:
    with (
        Gunicorn(
            tmp_path, APP, asgi_loop=loop, config=HOOKS, options={"ws_drain_delay": 2.0}
        ) as server,
        connect(server, "/tidy") as ws,
    ):
        assert exchange(ws, "before") == "before"
        begun = time.monotonic()
        server.kill(signal.SIGTERM)
        server.wait_until_refused()
        assert exchange(ws, "meanwhile") == "meanwhile"
        assert read_close(ws)[0] == 1012
        assert time.monotonic() - begun >= 2.0
        assert server.wait() == 0
        assert seen(server) == ["disconnect 1012", "tidied", *LEAVING]


@pytest.mark.gunicorn
def test_a_websocket_that_ends_by_itself_in_ws_drain_delay_ends_the_drain(tmp_path: Path) -> None:
    with Gunicorn(
        tmp_path, APP, config=HOOKS, options={"ws_drain_delay": 3600}, graceful_timeout=3600
    ) as server:
        with connect(server, "/tidy") as ws:
            begun = time.monotonic()
            server.kill(signal.SIGTERM)
            server.wait_until_refused()
            assert exchange(ws, "meanwhile") == "meanwhile"
        assert server.wait() == 0
        assert time.monotonic() - begun < SOON
        assert seen(server) == ["disconnect 1000", "tidied", *LEAVING]


@pytest.mark.gunicorn
def test_a_ws_drain_delay_longer_than_graceful_timeout_leaves_time_for_the_end(
    tmp_path: Path,
) -> None:
    with Gunicorn(
        tmp_path, APP, config=HOOKS, options={"ws_drain_delay": 3600}, graceful_timeout=5
    ) as server:
        with connect(server, "/tidy?seconds=0") as ws:
            server.kill(signal.SIGTERM)
            assert read_close(ws)[0] == 1012
        assert server.wait() == 0
        assert seen(server) == ["disconnect 1012", "tidied", *LEAVING]
        assert not server.lines("was sent")


@pytest.mark.gunicorn
def test_the_heartbeat_goes_on_in_ws_drain_delay(tmp_path: Path) -> None:
    with (
        Gunicorn(tmp_path, APP, timeout=1, options={"ws_drain_delay": 3.0}) as server,
        connect(server, "/tidy") as ws,
    ):
        [first] = server.workers()
        # To the worker, for the master does not look at heartbeats while it stops itself.
        os.kill(first, signal.SIGTERM)
        assert read_close(ws)[0] == 1012
        wait_until_gone(first)
        assert not server.lines("WORKER TIMEOUT|was sent")


@pytest.mark.gunicorn
def test_a_client_that_does_not_answer_the_close_holds_a_drain_for_ws_close_timeout_only(
    tmp_path: Path, loop: str
) -> None:
    settings: dict[str, Any] = {"options": {"ws_close_timeout": 1.0}, "graceful_timeout": 60}
    with (
        Gunicorn(tmp_path, APP, asgi_loop=loop, config=HOOKS, **settings) as server,
        connect_raw(server, "/tidy") as ws,
    ):
        begun = time.monotonic()
        server.kill(signal.SIGTERM)
        assert ws.read_close()[0] == 1012
        assert server.wait() == 0
        assert time.monotonic() - begun < 30
        assert seen(server) == ["disconnect 1012", "tidied", *LEAVING]


@pytest.mark.gunicorn
def test_a_client_that_does_not_answer_the_close_cannot_hold_the_worker_beyond_graceful_timeout(
    tmp_path: Path,
) -> None:
    settings: dict[str, Any] = {"options": {"ws_close_timeout": 3600}, "graceful_timeout": 3}
    with (
        Gunicorn(tmp_path, APP, config=HOOKS, **settings) as server,
        connect_raw(server, "/tidy") as ws,
    ):
        server.kill(signal.SIGTERM)
        assert ws.read_close()[0] == 1012
        assert server.wait() == 0
        assert seen(server) == ["disconnect 1012", "tidied", *LEAVING]
        assert not server.lines("was sent")


@pytest.mark.gunicorn
def test_a_client_that_does_not_read_cannot_hold_the_worker(tmp_path: Path) -> None:
    with (
        Gunicorn(tmp_path, APP, config=HOOKS, graceful_timeout=3) as server,
        connect_raw(server, "/send?size=1000000&count=30"),
    ):
        assert server.stop() == 0
        assert seen(server)[-4:] == LEAVING
        assert not server.lines("was sent")


@pytest.mark.gunicorn
def test_an_application_that_does_not_end_is_cancelled_before_the_arbiter_kills(
    tmp_path: Path, loop: str
) -> None:
    with Gunicorn(tmp_path, APP, asgi_loop=loop, config=HOOKS, graceful_timeout=3) as server:
        with connect(server, "/stubborn") as stubborn, connect(server, "/ignorant") as ignorant:
            server.kill(signal.SIGTERM)
            assert read_close(stubborn)[0] == 1012
            assert read_close(ignorant)[0] == 1012
            assert server.wait() == 0
        assert seen(server) == ["disconnect 1012", "cancelled", "cancelled", *LEAVING]
        assert len(server.lines(r"\[WARNING\] .* at the end of graceful_timeout$")) == 1
        assert not server.lines("was sent|ERROR")


@pytest.mark.gunicorn
def test_an_application_that_refuses_to_be_cancelled_cannot_hold_the_worker(tmp_path: Path) -> None:
    with (
        Gunicorn(tmp_path, APP, config=HOOKS, graceful_timeout=3) as server,
        connect(server, "/deaf") as ws,
    ):
        server.kill(signal.SIGTERM)
        assert read_close(ws)[0] == 1012
        assert server.wait() == 0
        assert [event for event in seen(server) if event != "cancelled"][-4:] == LEAVING
        assert not server.lines("was sent")


@pytest.mark.gunicorn
def test_an_application_that_only_sends_hears_of_the_end_by_an_oserror(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, APP, config=HOOKS) as server, connect(server, "/chatter") as ws:
        assert ws.recv(DEADLINE) == "tick"
        server.kill(signal.SIGTERM)
        assert read_close(ws)[0] == 1012
        assert server.wait() == 0
        assert seen(server) == ["OSError ClientDisconnected", "disconnect 1012", *LEAVING]
        assert not server.lines(TROUBLE)


@pytest.mark.gunicorn
@pytest.mark.skipif(
    "asgi_disconnect_grace_period" not in SETTINGS,
    reason="this Gunicorn has no asgi_disconnect_grace_period",
)
@pytest.mark.parametrize("how", ["Close", "lost"])
def test_an_application_whose_client_has_gone_is_cancelled_after_the_grace_period(
    tmp_path: Path, how: str
) -> None:
    with Gunicorn(tmp_path, APP, asgi_disconnect_grace_period=1) as server:
        with connect_raw(server, "/stubborn") as ws:
            if how == "Close":
                ws.send(close(4000, "bye"))
                assert ws.read_close() == (4000, "")
        server.wait_for_event("cancelled")
        assert seen(server) == [
            "disconnect 4000 bye" if how == "Close" else "disconnect 1006",
            "cancelled",
        ]
        assert not server.lines(TROUBLE)


@pytest.mark.gunicorn
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
def test_quit_and_int_are_quick(tmp_path: Path, loop: str, number: int) -> None:
    with (
        Gunicorn(tmp_path, APP, asgi_loop=loop, config=HOOKS, graceful_timeout=60) as server,
        ExitStack() as stack,
    ):
        clients = [
            stack.enter_context(connect(server, path))
            for path in ("/echo", "/stubborn", "/ignorant")
        ]
        begun = time.monotonic()
        assert server.stop(number) == 0
        assert time.monotonic() - begun < SOON
        for ws in clients:
            assert read_close(ws)[0] in (1006, 1012)
        assert seen(server)[0] == "worker_int"
        assert seen(server)[-4:] == LEAVING
        assert not server.lines("was sent|ERROR")


@pytest.mark.gunicorn
def test_quit_ends_a_drain_that_waits_for_ws_drain_delay(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"options": {"ws_drain_delay": 3600}, "graceful_timeout": 3600}
    with (
        Gunicorn(tmp_path, APP, config=HOOKS, **settings) as server,
        connect(server, "/echo") as ws,
    ):
        [worker] = server.workers()
        server.kill(signal.SIGTERM)
        server.wait_until_refused()
        assert exchange(ws, "meanwhile") == "meanwhile"
        begun = time.monotonic()
        os.kill(worker, signal.SIGQUIT)
        assert server.wait() == 0
        assert time.monotonic() - begun < SOON
        assert seen(server)[-4:] == LEAVING


@pytest.mark.gunicorn
def test_a_reload_does_not_wait_for_an_open_websocket(tmp_path: Path) -> None:
    """A browser's tab must not hold new code up. The wait is that of a drain under ``reload``, see RELOAD_SECONDS in `worker`."""
    settings: dict[str, Any] = {
        "reload": True,
        "reload_engine": "poll",
        "graceful_timeout": 3600,
        "options": {"ws_drain_delay": 3600},
    }
    watched = tmp_path / "watched.txt"
    watched.write_text("one")
    with (
        Gunicorn(tmp_path, APP, reload_extra_files=[str(watched)], **settings) as server,
        connect(server, "/stubborn") as ws,
    ):
        [first] = server.workers()
        changed = 0.0

        def is_replaced() -> bool:
            # Gunicorn's reloader does not see what changes before its first look.
            nonlocal changed
            if not server.lines("Worker reloading") and time.monotonic() - changed > 3:
                stat = watched.stat()
                os.utime(watched, (stat.st_mtime + 10, stat.st_mtime + 10))
                changed = time.monotonic()
            return len(server.lines(BOOT_LINE)) > 1

        poll(is_replaced, "a new worker")
        assert read_close(ws)[0] == 1012
        wait_until_gone(first)


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_sys_exit_in_a_websocket_ends_the_worker_with_its_code(tmp_path: Path, loop: str) -> None:
    with Gunicorn(tmp_path, APP, asgi_loop=loop, config=HOOKS) as server:
        [first] = server.workers()
        with connect(server, "/leave"):
            wait_until_gone(first)
        server.wait_for(BOOT_LINE, 2)
        assert server.lines(rf"Worker \(pid:{first}\) exited with code 7")
        assert not server.lines("Traceback")


# How many.


@pytest.mark.gunicorn
def test_worker_connections_counts_websockets_and_what_is_above_it_waits(
    tmp_path: Path, loop: str
) -> None:
    with (
        Gunicorn(tmp_path, APP, asgi_loop=loop, worker_connections=2) as server,
        connect(server, "/echo") as first,
        connect(server, "/echo") as second,
        server.connect() as waiting,
    ):
        waiting.get("/echo", HANDSHAKE)
        for _ in range(3):
            assert exchange(first, "hello") == exchange(second, "hello") == "hello"
        assert not select.select([waiting.sock], [], [], 0)[0]
        assert server.events.count("connect /echo") == 2
        first.close()
        assert waiting.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")


@pytest.mark.gunicorn
def test_limit_concurrency_answers_a_handshake_above_it_with_503(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, APP, options={"limit_concurrency": 1}) as server:
        with connect(server, "/tidy?seconds=0") as ws:
            response = read_refusal(server, "/echo")
            assert (
                response.status_code,
                response.headers["retry-after"],
                response.headers["connection"],
            ) == (503, "1", "close")
            assert server.get("/hello").status_code == 503
            assert exchange(ws, "hello") == "hello"
        server.wait_for_event("tidied")
        poll(lambda: server.get("/hello").status_code == 200)
        with connect(server, "/echo") as ws:
            assert exchange(ws, "hello") == "hello"
        server.wait_for("Answered with 503, for limit_concurrency is 1: ")


@pytest.mark.gunicorn
def test_many_at_once(tmp_path: Path, loop: str) -> None:
    with (
        Gunicorn(tmp_path, APP, asgi_loop=loop, workers=2, config=HOOKS) as server,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(connect_raw(server, "/echo")) for _ in range(200)]
        for number, client in enumerate(clients):
            client.send(text(f"{number}"))
        for number, client in enumerate(clients):
            assert client.read_message() == f"{number}"
        server.kill(signal.SIGTERM)
        for client in clients:
            code, _ = client.read_close()
            assert code == 1012
            client.send(close(code))
        assert server.wait() == 0
        assert server.events.count("disconnect 1012") == 200
        assert not server.lines(TROUBLE)


# Where it listens, and behind what.


def read_scope(server: Gunicorn, headers: dict[str, str] | None = None) -> dict[str, Any]:
    with connect(server, "/scope", headers) as ws:
        scope: dict[str, Any] = json.loads(ws.recv(DEADLINE))
    return scope


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_wss_is_served(tmp_path: Path, loop: str) -> None:
    pair = make_authority(tmp_path, "localhost")
    with Gunicorn(tmp_path, APP, asgi_loop=loop, config=HOOKS, **pair._asdict()) as server:
        assert read_scope(server)["scheme"] == "wss"
        with connect(server, "/tidy") as ws:
            large = os.urandom(900_000)
            assert exchange(ws, large) == large
            assert exchange(ws, "ü" * 100_000) == "ü" * 100_000
            server.kill(signal.SIGTERM)
            assert read_close(ws)[0] == 1012
        assert server.wait() == 0
        assert seen(server)[-6:] == ["disconnect 1012", "tidied", *LEAVING]
        assert server.output == ""
        assert not server.lines(TROUBLE)


@pytest.mark.gunicorn
def test_a_websocket_on_a_unix_socket(tmp_path: Path, loop: str) -> None:
    path = f"{tmp_path}/socket"
    with Gunicorn(tmp_path, APP, bind=f"unix:{path}", asgi_loop=loop) as server:
        scope = read_scope(server)
        assert (scope["client"], scope["server"], scope["scheme"]) == (None, [path, None], "ws")
        assert (
            read_scope(server, {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.1"})[
                "scheme"
            ]
            == "wss"
        )
        with connect(server, "/echo") as ws:
            large = os.urandom(900_000)
            assert exchange(ws, large) == large


@pytest.mark.gunicorn
@pytest.mark.parametrize(
    ("header", "value", "scheme"),
    [
        ("X-Forwarded-Proto", "https", "wss"),
        ("X-Forwarded-Proto", "wss", "wss"),  # Traefik
        ("X-Forwarded-Proto", "http", "ws"),
        ("X-Forwarded-Proto", "ws", "ws"),
        ("X-Forwarded-Ssl", "on", "wss"),
        ("X-Nothing", "https", "ws"),
    ],
)
def test_a_trusted_proxy_says_whether_it_is_wss(
    tmp_path: Path, header: str, value: str, scheme: str
) -> None:
    with Gunicorn(tmp_path, APP) as server:
        scope = read_scope(server, {header: value, "X-Forwarded-For": "192.0.2.1"})
        assert (scope["scheme"], scope["client"]) == (scheme, ["192.0.2.1", 0])


@pytest.mark.gunicorn
def test_forwarded_says_it_too(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, APP, options={"proxy_headers": "forwarded"}) as server:
        for proto, scheme in (("https", "wss"), ("wss", "wss"), ("ws", "ws")):
            scope = read_scope(server, {"Forwarded": f"for=192.0.2.1;proto={proto}"})
            assert (scope["scheme"], scope["client"]) == (scheme, ["192.0.2.1", 0])


@pytest.mark.gunicorn
@pytest.mark.parametrize("value", ["https", "wss"])
def test_nobody_else_says_it(tmp_path: Path, value: str) -> None:
    with Gunicorn(tmp_path, APP, forwarded_allow_ips="10.0.0.1", keepalive=3) as server:
        scope = read_scope(server, {"X-Forwarded-Proto": value, "X-Forwarded-For": "192.0.2.1"})
        assert (scope["scheme"], scope["client"][0]) == ("ws", "127.0.0.1")


DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.gunicorn
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_the_nginx_of_the_documentation_passes_websockets_on_and_requests_as_before(
    tmp_path: Path,
) -> None:
    (location,) = re.findall(
        r"```nginx\n(location.*?)```", (DOCS / "proxies.md").read_text(), re.DOTALL
    )
    table, headers, _ = re.findall(
        r"```nginx\n(.*?)```", (DOCS / "websocket.md").read_text(), re.DOTALL
    )
    assert location.count('proxy_set_header Connection "";') == 1
    location = location.replace('proxy_set_header Connection "";', headers)
    pair = make_authority(tmp_path, "localhost")
    socket_path = f"{tmp_path}/nginx.socket"
    with Gunicorn(tmp_path, APP, config=HOOKS) as server:
        # Over TCP, for nginx is nobody where root starts it, and has no way into this directory.
        conf = NGINX_CONF.format(
            directory=tmp_path,
            location=f"ssl_certificate {pair.certfile}; ssl_certificate_key {pair.keyfile}; {location}",
            below="",
        )
        conf = (
            conf.replace("http {", f"http {{ {table}", 1)
            .replace("nginx.socket;", "nginx.socket ssl;")
            .replace("http://unix:/run/app.sock", server.url)
        )
        (tmp_path / "nginx.conf").write_text(conf)
        nginx = subprocess.Popen(
            [str(NGINX), "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")],
            stderr=subprocess.DEVNULL,
        )
        try:
            poll(lambda: is_listening(socket_path), "nginx")
            with unix_connect(
                socket_path, uri="wss://localhost/scope", ssl=trusting_context()
            ) as ws:
                assert json.loads(ws.recv(DEADLINE))["scheme"] == "wss"
            with httpx.Client(
                transport=httpx.HTTPTransport(uds=socket_path, verify=trusting_context()),
                timeout=DEADLINE,
            ) as http:
                assert http.get("https://localhost/hello").text == "hello\n"
                assert http.get("https://localhost/scope").json()["scheme"] == "https"
                assert "connection" not in dict(
                    http.get("https://localhost/scope").json()["headers"]
                )
            with unix_connect(
                socket_path, uri="wss://localhost/tidy", ssl=trusting_context()
            ) as ws:
                assert exchange(ws, bytes(100_000)) == bytes(100_000)
                server.kill(signal.SIGTERM)
                assert read_close(ws)[0] == 1012
            assert server.wait() == 0
            assert seen(server)[-6:] == ["disconnect 1012", "tidied", *LEAVING]
        finally:
            nginx.terminate()
            nginx.wait(DEADLINE)


# A stuck worker.


@pytest.mark.gunicorn
def test_the_report_of_a_stuck_worker_names_the_websocket(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, APP, options={"stall_warning": 0.2}, timeout=3600) as server:
        with connect(server, "/echo?secret"), connect(server, "/block?secret") as ws:
            ws.send("now")
            server.wait_for_event("block begun")
            server.wait_for(
                r"\[WARNING\] The event loop has not turned for \d+\.\d s, in GET /block\. "
            )
            os.kill(server.workers()[0], signal.SIGABRT)
            server.wait_for(
                r"\[CRITICAL\] Aborted: the event loop has not turned for \d+\.\d s, in GET /block\. "
            )
            server.wait_for(BOOT_LINE, 2)
            # The exit is raised within this application, if there is time for a Close frame.
            assert read_close(ws)[0] in (1006, 1011)
        assert (
            len(
                server.lines(
                    r"^  GET /echo for \d+\.\d s, in .*sockets:\d+ echo > sockets:\d+ serve > gunicorn_asgi\."
                )
            )
            == 2
        )
        assert "secret" not in server.log


# Settings and options.


needs_setting = pytest.mark.skipif(
    "websocket_max_message_size" not in SETTINGS,
    reason="this Gunicorn has no websocket_max_message_size",
)


@pytest.mark.gunicorn
@needs_setting
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_message_above_websocket_max_message_size_is_1009(
    tmp_path: Path, loop: str, compression: str | None
) -> None:
    """Also for a client that reads nothing until it has sent all of it."""
    with Gunicorn(tmp_path, APP, asgi_loop=loop, websocket_max_message_size=1000) as server:
        for size in (1001, 8_000_000):
            with connect(server, "/echo", compression=compression) as ws:
                assert exchange(ws, bytes(1000)) == bytes(1000)
                ws.send(os.urandom(size))
                assert read_close(ws)[0] == 1009
        server.wait_for_event("disconnect 1009 message too big", 2)
        assert (
            len(
                server.lines(
                    r"\[WARNING\] Invalid WebSocket frame from ip=127\.0\.0\.1: message too big$"
                )
            )
            == 2
        )


LIMIT = 16 * 1024 * 1024
"""The default of Gunicorn's setting."""


@pytest.mark.gunicorn
def test_the_default_limit_is_16_mib_with_any_gunicorn(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, APP) as server:
        with connect(server, "/echo", compression=None, max_size=None) as ws:
            assert exchange(ws, bytes(LIMIT)) == bytes(LIMIT)
        with connect_raw(server, "/echo") as raw:
            # The head of a frame is enough.
            raw.send(b"\x82\xff" + (LIMIT + 1).to_bytes(8, "big"))
            assert raw.read_close()[0] == 1009


@pytest.mark.gunicorn
@needs_setting
def test_without_a_limit_messages_may_be_larger(tmp_path: Path) -> None:
    with (
        Gunicorn(tmp_path, APP, websocket_max_message_size=0) as server,
        connect(server, "/echo", compression=None, max_size=None) as ws,
    ):
        assert exchange(ws, bytes(LIMIT + 1)) == bytes(LIMIT + 1)


@pytest.mark.gunicorn
def test_ws_none_is_plain_http(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, APP, options={"ws": "none"}) as server:
        response = read_refusal(server, "/hello")
        assert (response.status_code, response.body) == (200, b"hello\n")
        with server.connect() as client:
            for _ in range(2):
                client.get("/hello", HANDSHAKE)
                status, headers, body = client.read_response()
                assert (status, headers["connection"], headers["upgrade"], body) == (
                    200,
                    None,
                    None,
                    b"hello\n",
                )
        assert not server.lines(TROUBLE)


@pytest.mark.gunicorn
def test_ws_per_message_deflate_is_a_switch(tmp_path: Path) -> None:
    for value, expected in (("true", "permessage-deflate"), ("false", None)):
        with (
            Gunicorn(
                tmp_path / value, APP, env={"GUNICORN_ASGI_WS_PER_MESSAGE_DEFLATE": value}
            ) as server,
            connect(server, "/echo") as ws,
        ):
            assert (ws.response.headers.get("Sec-WebSocket-Extensions") or "").partition(";")[
                0
            ] == (expected or "")
            assert exchange(ws, "hello " * 100) == "hello " * 100


WRONG: list[tuple[str, Any]] = [
    ("ws", "websockets"),
    ("ws", True),
    ("ws_max_queue", -1),
    ("ws_max_queue", 1.5),
    ("ws_ping_interval", -1),
    ("ws_ping_interval", "20"),
    ("ws_ping_timeout", float("nan")),
    ("ws_ping_timeout", None),
    ("ws_per_message_deflate", 1),
    ("ws_per_message_deflate", "deflate"),
    ("ws_accept_timeout", -0.5),
    ("ws_close_timeout", float("inf")),
    ("ws_max_lifetime", -1),
    ("ws_message_timeout", "5 min"),
    ("ws_memory_limit", -1),
    ("ws_memory_limit", 0.5),
    ("ws_drain_delay", -1),
    ("ws_drain_delay", True),
]


def test_every_option_of_websockets_is_tried_with_a_wrong_value() -> None:
    assert {name for name, _ in WRONG} == {
        option.name for option in OPTIONS if option.name == "ws" or option.name.startswith("ws_")
    }


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}-{value}" for name, value in WRONG])
def test_a_wrong_value_of_an_option_is_refused_with_one_sentence(name: str, value: Any) -> None:
    option = next(option for option in OPTIONS if option.name == name)
    variable = f"GUNICORN_ASGI_{name.upper()}"
    for configured, environment, said in (
        ({name: value}, {}, name),
        ({}, {variable: f"x{value}"}, variable),
    ):
        with pytest.raises(ConfigError) as caught:
            Settings.read(Config(), configured, environment)
        given = value if configured else f"x{value}"
        assert (
            str(caught.value)
            == f"Invalid value for option {said}: {given!r} must be {option.allowed}."
        )


@pytest.mark.gunicorn
def test_a_wrong_option_stops_the_boot_with_one_sentence(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, APP, wait=False, options={"ws_ping_interval": "often"}) as server:
        assert server.wait() == 1
        [error] = server.lines(r"\[(WARNING|ERROR|CRITICAL)\]")
        assert (
            "[ERROR] Invalid value for option ws_ping_interval: 'often' must be a number of seconds, "
            in error
        )
        assert "Traceback" not in server.log + server.output
