"""The time limit of a request (option ``request_timeout``): what is cancelled, what its client sees, and what is left alone."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from accesslog import AccessLog, make_access
from h2client import CANCEL, connect
from inprocess import (
    GET,
    HTTP2,
    Flag,
    InProcess,
    Truncated,
    answer,
    is_over_trio,
    read_body,
    request,
    serve,
)
from ws import connect as connect_websocket
from ws import echo, text

from gunicorn_asgi.asgi.http import HTTPStream

pytestmark = pytest.mark.both_libraries

START: dict[str, Any] = {"type": "http.response.start", "status": 200}
LIMIT = {"request_timeout": 100}


def part(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


class Site:
    """An application that stops at a place given by the path, for ever, and then in the way given by the query."""

    def __init__(self) -> None:
        self.waits = Flag()
        self.goes_on = Flag()
        self.ended: list[tuple[str, Any]] = []
        self.cancelled = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        try:
            if path == "/quick":
                await answer(send)
                return
            if path == "/started":
                await send(START)
            elif path == "/begun":
                await send(START)
                await send(part(b"begun"))
            elif path == "/declared":
                await send({**START, "headers": [(b"content-length", b"100")]})
                await send(part(b"begun"))
            elif path == "/after":
                await answer(send, b"whole")
            elif path == "/body":
                self.waits.set()
                await read_body(receive)
            await self.wait(scope["query_string"] == b"swallows")
            if path == "/after":
                self.ended.append((path, None))
            else:
                await answer(send, b"late")
        except BaseException as error:
            self.ended.append((path, type(error)))
            raise

    async def wait(self, swallows: bool) -> None:
        self.waits.set()
        while True:
            try:
                await self.goes_on.reached()
            except asyncio.CancelledError:
                self.cancelled += 1
                if not swallows:
                    raise
            else:
                return


def grow_older(server: InProcess, seconds: float) -> None:
    """Let all running applications have begun so much earlier, and the clock tick."""

    def work() -> None:
        tasks = server.server.tasks
        for task, (stream, began) in list(tasks.items()):
            tasks[task] = stream, began - seconds
        server.server.tick(1.0)

    server.call(work)


@pytest.mark.parametrize("path", ["/nothing", "/started"])
def test_a_request_without_an_answer_gets_503_and_its_application_is_cancelled(
    parser: str, path: str
) -> None:
    site, log = Site(), AccessLog()
    with serve(site, parser, access=make_access(log), **LIMIT) as server:
        client = server.connect()
        client.send(request("GET", path))
        site.waits.wait()
        grow_older(server, 99)
        server.settle()
        assert site.ended == []
        grow_older(server, 2)
        response = client.read_response()
        assert (response.status, response[b"connection"]) == (503, b"close")
        assert response.body == b"The application did not answer in time\n"
        assert client.read_rest() == b""
        server.wait_until(lambda: site.ended)
        assert site.ended == [(path, asyncio.CancelledError)]
        assert [line[4] for line in log.lines] == [503]
        (line,) = server.log.take("warning")
        assert line.text.startswith(
            f"request_timeout is 100 s: GET {path} has run for 101.0 s and is cancelled. It was in "
        )
        if not is_over_trio(parser):  # there, the step of asyncio ends the calls
            assert re.search(
                r" > test_request_timeout:\d+ wait > inprocess:\d+ reached$", line.text
            )


@pytest.mark.parametrize("path", ["/begun", "/declared"])
def test_a_response_that_has_begun_is_shown_to_be_incomplete(parser: str, path: str) -> None:
    site, log = Site(), AccessLog()
    with serve(site, parser, access=make_access(log), **LIMIT) as server:
        client = server.connect()
        client.send(request("GET", path))
        site.waits.wait()
        grow_older(server, 101)
        with pytest.raises((Truncated, ConnectionResetError)):
            client.read_response()
        server.wait_until(lambda: site.ended)
        assert [(line[4], line[5]) for line in log.lines] == [(200, 5)]
        assert len(server.log.take("warning")) == 1


def test_a_response_that_ends_with_its_connection_is_reset(parser: str) -> None:
    site = Site()
    with serve(site, parser, **LIMIT) as server:
        client = server.connect()
        client.send(b"GET /begun HTTP/1.0\r\n\r\n")
        site.waits.wait()
        client.recv_until(b"begun")
        grow_older(server, 101)
        with pytest.raises(ConnectionResetError):
            client.read_rest()
        server.log.take("warning")


def test_an_application_that_swallows_its_cancellation_is_cancelled_no_more_than_twice(
    parser: str,
) -> None:
    """The second time is that after ``asgi_disconnect_grace_period``. Its client has the answer at once."""
    site = Site()
    with serve(site, parser, asgi_disconnect_grace_period=5, **LIMIT) as server:
        server.stop_clock()
        client = server.connect()
        client.send(request("GET", "/nothing?swallows"))
        site.waits.wait()
        grow_older(server, 101)
        assert client.read_response().status == 503
        client.close()
        for _ in range(5):
            grow_older(server, 100)
            server.advance(50)
            server.settle()
        if is_over_trio(parser):
            assert site.cancelled >= 2  # each wait in a scope that is cancelled
        else:
            assert site.cancelled == 2
        assert len(server.log.take("warning")) == 1
        site.goes_on.set()
        server.wait_until(lambda: site.ended)
        [(_, error)] = site.ended
        if not is_over_trio(parser):
            assert issubclass(error, OSError)  # its late send()


def test_an_upload_is_limited_as_well(parser: str) -> None:
    site = Site()
    with serve(site, parser, body_timeout=0, **LIMIT) as server:
        client = server.connect()
        client.send(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf")
        site.waits.wait()
        server.settle()
        grow_older(server, 101)
        assert client.read_response().status == 503
        server.wait_until(lambda: site.ended)
        assert site.ended == [("/body", asyncio.CancelledError)]
        server.log.take("warning")


def test_pipelined_requests_after_it_are_not_answered(parser: str) -> None:
    site = Site()
    with serve(site, parser, **LIMIT) as server:
        client = server.connect()
        client.send(GET + request("GET", "/quick"))
        site.waits.wait()
        grow_older(server, 101)
        assert client.read_response().status == 503
        assert client.read_rest() == b""
        server.log.take("warning")


def test_what_runs_after_a_response_is_left_alone(parser: str) -> None:
    site = Site()
    with serve(site, parser, **LIMIT) as server:
        client = server.connect()
        client.send(request("GET", "/after"))
        assert client.read_response().body == b"whole"
        grow_older(server, 1000)
        server.settle()
        assert site.ended == []
        site.goes_on.set()
        server.wait_until(lambda: site.ended)
        assert site.ended == [("/after", None)]
        assert server.log.take("warning") == []


def test_a_websocket_is_left_alone_and_hides_no_request_after_it(parser: str) -> None:
    site = Site()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (echo if scope["type"] == "websocket" else site)(scope, receive, send)

    with serve(app, parser, **LIMIT) as server:
        websocket = connect_websocket(server)
        client = server.connect()
        client.send(request("GET", "/nothing"))
        site.waits.wait()
        grow_older(server, 101)
        assert client.read_response().status == 503
        websocket.send(text("still here"))
        assert websocket.read_message() == "still here"
        websocket.client.close()
        assert len(server.log.take("warning")) == 1


def test_an_application_whose_client_has_gone_has_its_own_time(parser: str) -> None:
    site = Site()
    with serve(site, parser, asgi_disconnect_grace_period=1000, **LIMIT) as server:
        server.stop_clock()
        client = server.connect()
        client.send(request("GET", "/nothing"))
        site.waits.wait()
        client.reset()
        server.wait_lost()
        grow_older(server, 500)
        server.settle()
        assert site.cancelled == 0
        assert server.log.take("warning") == []
        site.goes_on.set()


def test_without_the_option_nothing_is_limited(parser: str) -> None:
    site = Site()
    with serve(site, parser) as server:
        client = server.connect()
        client.send(GET)
        site.waits.wait()
        grow_older(server, 1e6)
        site.goes_on.set()
        assert client.read_response().body == b"late"


def test_a_file_that_is_being_sent_ends_with_its_connection(parser: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb") as content:
        content.truncate(64 * 1024 * 1024)
    ended: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            await send({"type": "http.response.pathsend", "path": str(file)})
        except BaseException as error:
            ended.append(type(error))
            raise

    log = AccessLog()
    with serve(
        app, parser, access=make_access(log), bind=str(tmp_path / "socket"), **LIMIT
    ) as server:
        client = server.connect()
        client.send(GET)
        client.read_head()
        server.wait_until(
            lambda: any(transport.is_blocked for transport in server.server.connections)
        )
        grow_older(server, 101)
        size = len(client.read_rest())
        assert 0 < size < 64 * 1024 * 1024
        server.wait_until(lambda: ended)
        assert ended == [asyncio.CancelledError]
        assert [line[5] for line in log.lines] == [size]
        server.log.take("warning")


def test_over_http2_only_its_stream_ends(parser: str) -> None:
    site, log = Site(), AccessLog()
    with serve(site, parser, access=make_access(log), **LIMIT, **HTTP2) as server:
        client = connect(server)
        nothing, begun = client.begin("GET", "/nothing"), client.begin("GET", "/begun")
        client.wait_for(lambda: begun.body == b"begun")
        grow_older(server, 50)
        young = client.begin("GET", "/young")
        client.synchronize()
        server.settle()
        grow_older(server, 51)
        assert client.read_response(nothing).status == 503
        assert begun.read_reset() == CANCEL
        server.wait_until(lambda: len(site.ended) == 2)
        assert {path for path, _ in site.ended} == {"/nothing", "/begun"}
        site.goes_on.set()
        assert client.read_response(young).body == b"late"
        assert client.get("GET", "/quick").body == b"ok"
        server.settle()
        assert sorted(line[4] for line in log.lines) == [200, 200, 200, 503]
        assert len(server.log.take("warning")) == 2
        client.close()


def test_over_http2_an_application_that_swallows_its_cancellation_keeps_no_other_request(
    parser: str,
) -> None:
    site = Site()
    with serve(site, parser, asgi_disconnect_grace_period=5, **LIMIT, **HTTP2) as server:
        server.stop_clock()
        client = connect(server)
        stream = client.begin("GET", "/nothing?swallows")
        site.waits.wait()
        grow_older(server, 101)
        assert client.read_response(stream).status == 503
        for _ in range(5):
            grow_older(server, 100)
            server.advance(20)
            server.settle()
        if is_over_trio(parser):
            assert site.cancelled >= 2  # each wait in a scope that is cancelled
        else:
            assert site.cancelled == 2
        assert client.get("GET", "/quick").body == b"ok"
        assert len(server.log.take("warning")) == 1
        site.goes_on.set()
        client.close()


def test_a_fault_at_the_limit_does_not_end_the_heartbeat(
    parser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, error: Any) -> None:
        raise RuntimeError("a fault")

    site = Site()
    with serve(site, parser, **LIMIT) as server:
        server.stop_clock()
        client = server.connect()
        client.send(GET)
        site.waits.wait()
        with monkeypatch.context() as patch:
            patch.setattr(HTTPStream, "refuse", refuse)
            grow_older(server, 101)
        (line,) = server.log.take("error")
        assert line.text == "Error at the time limit of a request"
        server.log.take("warning")
        site.goes_on.set()
        assert client.read_response().status == 200
