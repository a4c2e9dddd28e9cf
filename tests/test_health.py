"""Health checks (option ``health_path``): what the server answers, to whom, and what it leaves to the application."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from accesslog import AccessLog, make_access
from h2client import connect
from inprocess import GET, HTTP2, Flag, InProcess, answer, request, serve
from process import SETTINGS, Gunicorn, poll

pytestmark = pytest.mark.both_libraries

CHECKED = {"health_path": "/healthz"}
CHECK = request("GET", "/healthz")


class Site:
    """An application that says which method it was asked with, and can be held."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.called = Flag()
        self.go = Flag()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        self.called.set()
        if scope["path"] == "/held":
            await self.go.reached()
        await answer(send, scope["method"].encode())


def leave_service(server: InProcess) -> None:
    def work() -> None:
        server.server.is_out_of_service = True

    server.call(work)


def test_a_check_is_answered_without_the_application(parser: str) -> None:
    site, log = Site(), AccessLog()
    with serve(site, parser, access=make_access(log), **CHECKED) as server:
        client = server.connect()
        for target in ("/healthz", "/healthz?deep=1", "http://a/healthz"):
            client.send(request("GET", target))
            response = client.read_response()
            assert (response.status, response.body) == (200, b"ok\n")
            assert response[b"content-type"] == b"text/plain; charset=utf-8"
            assert response[b"cache-control"] == b"no-store"
            assert (response[b"content-length"], response[b"server"]) == (b"3", b"gunicorn")
            assert response[b"date"]
        client.send(GET)
        assert client.read_response().body == b"GET"
        assert site.paths == ["/"]
        server.settle()
        assert [line[1] for line in log.lines] == ["/"]
        assert server.host.nr == 1


def test_a_check_out_of_service_is_answered_with_503_and_the_application_serves_on(
    parser: str,
) -> None:
    with serve(Site(), parser, **CHECKED) as server:
        client = server.connect()
        leave_service(server)
        client.send(CHECK)
        response = client.read_response()
        assert (response.status, response.body) == (503, b"going away\n")
        assert response.values(b"connection") == []
        client.send(GET)
        assert client.read_response().status == 200


def test_a_head_has_the_fields_of_the_get_and_no_body(parser: str) -> None:
    with serve(Site(), parser, **CHECKED) as server:
        client = server.connect()
        client.send(request("HEAD", "/healthz") + GET)
        response = client.read_response("HEAD")
        assert (response.status, response[b"content-length"]) == (200, b"3")
        assert client.read_response().body == b"GET"


def test_checks_and_requests_can_be_pipelined(parser: str) -> None:
    with serve(Site(), parser, **CHECKED) as server:
        client = server.connect()
        client.send(CHECK + GET + CHECK + CHECK + GET)
        bodies = [client.read_response().body for _ in range(5)]
        assert bodies == [b"ok\n", b"GET", b"ok\n", b"ok\n", b"GET"]
        assert server.host.nr == 2


@pytest.mark.parametrize("delivery", ["whole", "bytes"])
@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
    ids=["length", "chunked"],
)
def test_the_body_of_a_check_is_skipped(parser: str, delivery: str, body: bytes) -> None:
    with serve(Site(), parser, delivery=delivery, **CHECKED) as server:
        client = server.connect()
        client.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + body + GET)
        assert client.read_response().body == b"ok\n"
        assert client.read_response().body == b"GET"


def test_a_check_of_http10_ends_its_connection(parser: str) -> None:
    with serve(Site(), parser, **CHECKED) as server:
        client = server.connect()
        client.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        response = client.read_response()
        assert (response.status, response.body) == (200, b"ok\n")
        assert response[b"connection"] == b"close"
        assert client.read_rest() == b""


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/healthz"),
        ("OPTIONS", "/healthz"),
        ("GET", "/healthz/"),
        ("GET", "/health%7A"),
        ("GET", "//healthz"),
        ("GET", "/HEALTHZ"),
        ("GET", "/"),
    ],
)
def test_other_methods_and_paths_are_the_applications(
    parser: str, method: str, target: str
) -> None:
    site = Site()
    with serve(site, parser, **CHECKED) as server:
        client = server.connect()
        client.send(request(method, target))
        assert client.read_response(method).body == method.encode()
        assert len(site.paths) == server.host.nr == 1


def test_a_handshake_of_a_websocket_is_the_applications(parser: str) -> None:
    kinds: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kinds.append(scope["type"])

    log = AccessLog()
    with serve(app, parser, access=make_access(log), **CHECKED) as server:
        client = server.connect()
        upgrade = (
            *(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
        client.send(request("GET", "/healthz", *upgrade))
        assert client.read_response().status == 500
        assert kinds == ["websocket"]
        server.wait_until(lambda: log.lines)
        assert server.host.nr == 1
        server.log.take("error")


def test_without_the_option_the_path_is_the_applications(parser: str) -> None:
    with serve(Site(), parser) as server:
        client = server.connect()
        client.send(CHECK)
        assert client.read_response().body == b"GET"


def test_a_check_is_free_of_limit_concurrency(parser: str) -> None:
    site = Site()
    with serve(site, parser, limit_concurrency=1, **CHECKED) as server:
        held, client = server.connect(), server.connect()
        held.send(request("GET", "/held"))
        site.called.wait()
        client.send(CHECK)
        assert client.read_response().status == 200
        other = server.connect()
        other.send(GET)
        assert other.read_response().status == 503
        site.go.set()
        assert held.read_response().body == b"GET"
        server.log.take("warning")


def test_a_check_counts_for_no_limit_and_calls_no_hook(parser: str) -> None:
    called: list[str] = []
    hooks = {
        "pre_request": lambda worker, req: called.append(req.path),
        "post_request": lambda worker, req, environ, resp: called.append(req.path),
    }
    access = make_access(AccessLog(), hooks)
    with serve(Site(), parser, access=access, max_requests=2, **CHECKED, **HTTP2) as server:
        client, client2 = server.connect(), connect(server)
        for _ in range(3):
            client.send(CHECK)
            client.read_response()
            client2.get("GET", "/healthz")
        assert server.host.retired == 0
        assert called == []
        client.send(request("GET", "/counted"))
        client.read_response()
        server.settle()
        assert called == ["/counted"] * 2
        client2.close()


def test_the_path_is_that_of_the_request_whatever_the_root_path(parser: str) -> None:
    if "root_path" not in SETTINGS:
        pytest.skip("this Gunicorn has no root_path")
    with serve(Site(), parser, root_path="/app", **CHECKED) as server:
        client = server.connect()
        client.send(CHECK)
        assert client.read_response().body == b"ok\n"


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_a_check_need_not_begin_with_script_name(parser: str, http2: bool) -> None:
    """A load balancer asks past the proxy that knows of it. Other requests of the path are refused as before."""

    def ask(method: str, target: str) -> tuple[int, bytes]:
        if http2:
            client2 = connect(server)
            stream = client2.get(method, target, (b"SCRIPT_NAME".lower(), b"/app"))
            client2.close()
            return stream.status, stream.body
        client = server.connect()
        client.send(request(method, target, b"SCRIPT_NAME: /app"))
        response = client.read_response(method)
        return response.status, response.body

    with serve(Site(), parser, **CHECKED, **HTTP2) as server:
        assert ask("GET", "/healthz") == (200, b"ok\n")
        assert ask("GET", "/app/x") == (200, b"GET")
        assert ask("GET", "/health")[0] == 500
        assert ask("POST", "/healthz")[0] == 500
        server.log.take("warning")


def test_a_check_during_a_drain_is_200_and_says_that_the_connection_ends(parser: str) -> None:
    with serve(Site(), parser, keepalive=1000, lame_duck=1000, **CHECKED) as server:
        client = server.connect()
        client.send(CHECK)
        assert client.read_response().values(b"connection") == []
        drained = asyncio.run_coroutine_threadsafe(server.server.shut_down(200, 0.5), server.loop)
        server.wait_until(lambda: not server.server.keeps_alive)
        client.send(CHECK)
        response = client.read_response()
        assert (response.status, response[b"connection"]) == (200, b"close")
        assert client.read_rest() == b""
        client.close()
        drained.result(10)


def test_over_http2(parser: str) -> None:
    site, log = Site(), AccessLog()
    with serve(
        site, parser, access=make_access(log), limit_concurrency=1, **CHECKED, **HTTP2
    ) as server:
        client = connect(server)
        held = client.begin("GET", "/held")
        site.called.wait()
        for method, body in (("GET", b"ok\n"), ("HEAD", b"")):
            stream = client.get(method, "/healthz?x")
            assert (stream.status, stream.body) == (200, body)
            assert (stream[b"content-length"], stream[b"cache-control"]) == (b"3", b"no-store")
            assert stream[b"date"]
        assert client.get("GET", "/healthz", body=b"skipped").body == b"ok\n"
        leave_service(server)
        assert client.get("GET", "/healthz").status == 503
        site.go.set()
        assert client.read_response(held).body == b"GET"
        assert client.get("POST", "/healthz").body == b"POST"
        assert site.paths == ["/held", "/healthz"]
        assert server.host.nr == 2
        client.close()
        server.settle()
        assert [line[:2] for line in log.lines] == [("GET", "/held"), ("POST", "/healthz")]


def test_a_check_by_an_upgrade_to_http2_is_one(parser: str) -> None:
    log = AccessLog()
    with serve(Site(), parser, access=make_access(log), **CHECKED, **HTTP2) as server:
        client = server.connect()
        upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: ")
        client.send(request("GET", "/healthz", *upgrade))
        assert client.read_head().status == 101
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        assert client.recv_until(b"ok\n")
        assert server.host.nr == 0
        assert log.lines == []


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_a_running_gunicorn_answers_checks_and_does_not_log_them(tmp_path: Path) -> None:
    variable = "GUNICORN_ASGI_HEALTH_PATH=/healthz"
    access = tmp_path / "access.log"
    with Gunicorn(tmp_path, raw_env=[variable], accesslog=str(access)) as server:
        with server.client() as client:
            response = client.get("/healthz")
            assert (response.status_code, response.text) == (200, "ok\n")
            client.get("/")
        poll(lambda: "GET / HTTP/1.1" in access.read_text(), "the line of the other request")
        assert "/healthz" not in access.read_text()
        assert server.stop() == 0
