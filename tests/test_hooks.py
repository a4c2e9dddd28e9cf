"""Gunicorn's hooks, called when and with what a WSGI worker calls them.

The callers are `gunicorn_asgi.worker` and `gunicorn_asgi.observe.access_log`.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from process import LOOPS, NOTE, Gunicorn, poll

pytestmark = pytest.mark.gunicorn

CONFIG = (
    NOTE
    + """
import json

def pre_request(worker, req):
    note("pre", json.dumps([worker.pid, req.method, req.path, req.query, req.uri, req.version, dict(req.headers).get("X-ONE")]))
    if "pre_raises" in req.query:
        raise ValueError("the hook's own")

def post_request(worker, req, environ, resp):
    note("post", json.dumps([req.uri, environ, resp.status, resp.status_code, resp.headers, resp.sent]))
    if "post_raises" in req.query:
        raise ValueError("the hook's own")
"""
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    with Gunicorn(tmp_path_factory.mktemp("hooks"), config=CONFIG, accesslog=os.devnull) as server:
        yield server
        assert server.stop() == 0


def noted(server: Gunicorn, kind: str, part: str) -> list[Any]:
    """What the hook `kind` has noted of the request whose URI has `part`."""
    events = [
        event.removeprefix(kind)
        for event in server.events
        if event.startswith(kind) and part in event
    ]
    return [json.loads(event) for event in events]


def wait_for(server: Gunicorn, part: str) -> list[Any]:
    """What post_request was given for the request whose URI has `part`: [uri, environ, status, status_code, headers, sent]."""
    [found] = poll(lambda: noted(server, "post", part), f"post_request of {part!r}")
    return list(found)


def test_pre_request_sees_the_request_before_the_application(server: Gunicorn) -> None:
    assert server.get("/a%20b/hello?first=1", headers={"X-One": "1"}).status_code == 200
    wait_for(server, "first=1")
    [seen] = noted(server, "pre", "first=1")
    assert seen == [
        server.workers()[0],
        "GET",
        "/a%20b/hello",
        "first=1",
        "/a%20b/hello?first=1",
        [1, 1],
        "1",
    ]


def test_post_request_sees_the_environ_and_the_response(server: Gunicorn) -> None:
    server.request(
        "POST",
        "/a%20b/echo?second=1",
        content=b"12345",
        headers={"X-One": "1", "Content-Type": "text/x"},
    )
    uri, environ, status, code, headers, sent = wait_for(server, "second=1")
    assert (uri, status, code, sent) == ("/a%20b/echo?second=1", "200 OK", 200, 5)
    assert ["content-type", "text/plain"] in headers
    host, port = server.address
    expected = {
        "REQUEST_METHOD": "POST",
        "RAW_URI": "/a%20b/echo?second=1",
        "PATH_INFO": "/a b/echo",
        "QUERY_STRING": "second=1",
        "SCRIPT_NAME": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": "http",
        "CONTENT_TYPE": "text/x",
        "CONTENT_LENGTH": "5",
        "HTTP_X_ONE": "1",
        "HTTP_HOST": f"{host}:{port}",
    }
    assert {key: environ.get(key) for key in expected} == expected
    assert int(environ["REMOTE_PORT"]) > 0
    assert environ["SERVER_SOFTWARE"].startswith("gunicorn/")


def test_repeated_headers_are_joined_in_the_environ(server: Gunicorn) -> None:
    with server.connect() as client:
        client.get("/hello?joined", "X-A: 1\r\nx-a: 2\r\n")
        client.read_response()
    assert wait_for(server, "?joined")[1]["HTTP_X_A"] == "1,2"


@pytest.mark.parametrize(
    ("path", "status", "sent"),
    [
        ("/error", "500 Internal Server Error", 21),
        ("/nothing", "500 Internal Server Error", 21),
        ("/late_error", "200 OK", 6),
    ],
)
def test_post_request_is_called_after_an_exception_as_well(
    server: Gunicorn, path: str, status: str, sent: int
) -> None:
    with server.connect() as client:
        client.get(f"{path}?failed")
        client.read_all()
    _, environ, seen, _, _, seen_sent = wait_for(server, f"{path}?failed")
    assert (seen, seen_sent) == (status, sent)
    assert environ["REQUEST_METHOD"] == "GET"


def test_post_request_is_called_when_the_client_has_gone_before_the_response(
    server: Gunicorn,
) -> None:
    with server.connect() as client:
        client.get("/silent?gone")
        server.wait_for_event("silent begun")
    uri, environ, status, code, headers, sent = wait_for(server, "/silent?gone")
    assert (uri, environ["QUERY_STRING"], code, headers, sent) == (
        "/silent?gone",
        "gone",
        499,
        [],
        0,
    )
    assert status.startswith("499")


def test_the_hooks_are_called_once_for_each_of_several_requests_on_a_connection(
    server: Gunicorn,
) -> None:
    with server.connect() as client:
        client.send(b"GET /hello?many HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        for _ in range(3):
            client.read_until(b"\r\n\r\nhello\n")
    poll(lambda: len(noted(server, "post", "?many")) == 3)
    assert len(noted(server, "pre", "?many")) == 3


def test_a_pre_request_that_raises_is_answered_with_500_and_logged_once(server: Gunicorn) -> None:
    before = len(server.lines("Exception in pre_request hook"))
    with server.connect() as client:
        client.get("/slow?pre_raises")
        status, headers, body = client.read_response()
        assert (status, headers["connection"]) == (500, "close")
        assert b"hook" not in body
    assert len(server.lines("Exception in pre_request hook")) == before + 1
    assert len(server.lines("^ValueError: the hook's own$")) == before + 1
    assert "slow begun" not in server.events
    assert not server.lines("Invalid request")


def test_a_post_request_that_raises_is_logged_and_the_connection_lives_on(server: Gunicorn) -> None:
    before = len(server.lines("Exception in post_request hook"))
    with server.connect() as client:
        for _ in range(2):
            client.get("/hello?post_raises")
            assert client.read_response()[0] == 200
        poll(lambda: len(server.lines("Exception in post_request hook")) == before + 2)


def test_a_post_request_of_three_arguments_is_called_as_gunicorn_calls_it(tmp_path: Path) -> None:
    config = (
        NOTE
        + "\ndef post_request(worker, req, environ):\n    note(req.method, environ['RAW_URI'])\n"
    )
    with Gunicorn(tmp_path, config=config) as server:
        server.get("/hello?three")
        server.wait_for_event("GET /hello?three")


def test_the_default_pre_request_writes_its_debug_line(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, loglevel="debug") as server:
        server.get("/hello?debug")
        server.wait_for(r"\[DEBUG\] GET /hello")


@pytest.mark.smoke
@pytest.mark.parametrize("loop", LOOPS)
def test_post_worker_init_and_the_application_see_the_event_loop_that_will_serve(
    tmp_path: Path, loop: str
) -> None:
    config = (
        NOTE
        + """
import asyncio

def post_worker_init(worker):
    loop = asyncio.get_event_loop()
    note("init", type(loop).__module__.split(".")[0])
    loop.call_soon(lambda: note("called on", type(asyncio.get_running_loop()).__module__.split(".")[0]))
"""
    )
    with Gunicorn(tmp_path, config=config, asgi_loop=loop) as server:
        assert server.get("/hello").status_code == 200
        assert f"init {loop}" in server.events
        assert f"called on {loop}" in server.events
        # asyncio warns in development mode of a loop that is made by asking for it, and of one that is never closed.
        assert server.stop() == 0
        assert server.output == ""


@pytest.mark.smoke
def test_every_hook_of_a_workers_life_is_called_in_its_order(tmp_path: Path) -> None:
    names = {
        "post_fork": 2,
        "post_worker_init": 1,
        "worker_int": 1,
        "worker_exit": 2,
        "child_exit": 2,
    }
    config = NOTE + "".join(
        f"\ndef {name}({', '.join('abcd'[:count])}):\n    note({name!r})\n"
        for name, count in names.items()
    )
    with Gunicorn(tmp_path, config=config) as server:
        [worker] = server.workers()
        os.kill(worker, signal.SIGQUIT)
        server.wait_for("on Gunicorn", 2)
        first = [event for event in server.events if event in names][:5]
        assert first == ["post_fork", "post_worker_init", "worker_int", "worker_exit", "child_exit"]
        assert server.stop() == 0
        last = [event for event in server.events if event in names][5:]
        assert last == ["post_fork", "post_worker_init", "worker_exit", "child_exit"]


def test_worker_abort_can_say_where_the_worker_hangs(tmp_path: Path) -> None:
    config = (
        NOTE
        + """
def worker_abort(worker):
    import sys, traceback
    note("abort", "time.sleep" in "".join(traceback.format_stack(sys._getframe())))
"""
    )
    with Gunicorn(tmp_path, config=config, timeout=1) as server, server.connect() as client:
        client.get("/block?seconds=3600")
        server.wait_for_event("block begun")
        server.wait_for_event("abort True")
        server.wait_for("WORKER TIMEOUT")
        assert re.search(r"WORKER TIMEOUT \(pid:\d+\)", server.log)
