"""Streams at the end of a worker (option ``stream_drain_delay``): which are told, when, and how their responses end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from h2client import connect
from inprocess import GET, HTTP2, Flag, InProcess, Truncated, request, serve
from libraries import ForBoth
from process import DEADLINE, Gunicorn

pytestmark = pytest.mark.both_libraries

START: dict[str, Any] = {"type": "http.response.start", "status": 200}
DELAY = {"stream_drain_delay": 20, "lame_duck": 0, "keepalive": 1000}
SECONDS = 1000


def part(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


class Site:
    """A stream that begins as its path says, waits for ``http.disconnect``, and ends as its query says."""

    def __init__(self) -> None:
        self.waits = Flag()
        self.begins = Flag()
        self.told: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        start = START
        if path == "/length":
            start = {**START, "headers": [(b"content-length", b"9")]}
        if path == "/late":
            self.waits.set()
            await self.begins.reached()
        if path != "/upload":
            assert not (await receive())["more_body"]
        if path != "/silent":
            await send(start)
            if path != "/head":
                await send(part(b"begun"))
        self.waits.set()
        while (message := await receive())["type"] == "http.request":
            pass
        self.told.append(path)
        assert message == {"type": "http.disconnect"}
        if scope["query_string"] != b"returns":
            if path == "/silent":
                await send(start)
            await send(part(b"last", False))


@contextmanager
def draining(server: InProcess) -> Iterator[Future[None]]:
    """A graceful shutdown with SECONDS for requests, on a clock that only tests move."""
    server.stop_clock()
    drained = asyncio.run_coroutine_threadsafe(server.server.shut_down(SECONDS, 0.5), server.loop)
    server.wait_until(lambda: not server.server.keeps_alive)
    yield drained
    drained.result(10)


def advance(server: InProcess, seconds: float) -> None:
    server.advance(seconds)
    server.settle()


@pytest.mark.parametrize("path", ["/begun", "/head"])
def test_a_stream_is_told_after_the_delay_and_ends_cleanly(parser: str, path: str) -> None:
    site = Site()
    with serve(site, parser, **DELAY) as server:
        client = server.connect()
        client.send(request("GET", path))
        site.waits.wait()
        with draining(server) as drained:
            advance(server, 18)
            assert site.told == []
            advance(server, 3)
            response = client.read_response()
            assert response.body == (b"begunlast" if path == "/begun" else b"last")
            assert client.read_rest() == b""
            client.close()
            server.wait_until(drained.done)


def test_a_response_that_the_application_does_not_end_is_shown_to_be_incomplete(
    parser: str,
) -> None:
    """It may be a download: nobody may take it for whole. The log has no error."""
    site = Site()
    with serve(site, parser, **DELAY) as server:
        client = server.connect()
        client.send(request("GET", "/begun?returns"))
        site.waits.wait()
        with draining(server):
            advance(server, 21)
            with pytest.raises(Truncated):
                client.read_response()
            client.close()
        assert server.log.lines == []


@pytest.mark.parametrize("path", ["/silent", "/length"])
def test_a_response_that_has_not_begun_or_has_a_length_keeps_its_time(
    parser: str, path: str
) -> None:
    site = Site()
    with serve(site, parser, **DELAY) as server:
        client = server.connect()
        client.send(request("GET", path))
        site.waits.wait()
        with draining(server):
            advance(server, SECONDS / 2)
            assert site.told == []
            client.reset()


def test_an_upload_keeps_its_time_and_is_told_once_it_is_whole(parser: str) -> None:
    site = Site()
    with serve(site, parser, body_timeout=0, **DELAY) as server:
        client = server.connect()
        client.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf")
        site.waits.wait()
        with draining(server):
            advance(server, 100)
            assert site.told == []
            client.send(b"rest")
            server.wait_body_ended()
            advance(server, 2)
            assert client.read_response().body == b"begunlast"
            client.close()


def test_a_stream_that_begins_after_the_moment_is_told_with_the_next_tick(parser: str) -> None:
    site = Site()
    with serve(site, parser, **DELAY) as server:
        client = server.connect()
        client.send(request("GET", "/late"))
        site.waits.wait()
        with draining(server):
            advance(server, 100)
            site.begins.set()
            client.read_head()
            server.settle()
            assert site.told == []
            advance(server, 1)
            assert client.recv_until(b"0\r\n\r\n").endswith(b"last\r\n0\r\n\r\n")
            client.close()


def test_the_delay_is_at_most_half_of_the_time_for_requests(parser: str) -> None:
    site = Site()
    with serve(site, parser, **{**DELAY, "stream_drain_delay": 10 * SECONDS}) as server:
        client = server.connect()
        client.send(GET)
        site.waits.wait()
        with draining(server):
            advance(server, SECONDS / 2 - 2)
            assert site.told == []
            advance(server, 3)
            assert client.read_response().body == b"begunlast"
            client.close()


def test_without_the_option_a_stream_has_all_the_time(parser: str) -> None:
    site = Site()
    with serve(site, parser, lame_duck=0) as server:
        client = server.connect()
        client.send(GET)
        site.waits.wait()
        with draining(server):
            advance(server, SECONDS - 3)
            assert site.told == []
            client.reset()


def test_over_http2(parser: str) -> None:
    site = Site()
    with serve(site, parser, **DELAY, **HTTP2) as server:
        client = connect(server)
        streams = {
            target: client.begin("GET", target)
            for target in ("/begun", "/head", "/begun?returns", "/silent", "/length")
        }
        client.wait_for(lambda: len(streams["/length"].body) == 5)
        with draining(server):
            advance(server, 21)
            for target in ("/begun", "/head"):
                assert client.read_response(streams[target]).body.endswith(b"last")
                assert streams[target].has_ended
            assert streams["/begun?returns"].read_reset()
            client.synchronize()
            assert not streams["/silent"].is_over
            assert not streams["/length"].is_over
            assert sorted(site.told) == ["/begun", "/begun", "/head"]
            client.close()


def starlette_site(waits: Flag, ended: list[str]) -> Any:
    """Streams as users of Starlette write them. Each waits a turn of the loop between two looks."""
    anyio = pytest.importorskip("anyio")
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def asks(request: Any) -> Any:
        async def events() -> Any:
            yield b"data: 1\n\n"
            waits.set()
            while not await request.is_disconnected():
                await anyio.sleep(0.001)
            yield b"event: end\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def silent(_request: Any) -> Any:
        async def parts() -> Any:
            try:
                yield b"begun"
                waits.set()
                await anyio.sleep_forever()
            finally:
                ended.append("generator")

        return StreamingResponse(parts())

    return ForBoth(Starlette(routes=[Route("/asks", asks), Route("/", silent)]))


def test_a_stream_of_starlette_that_asks_ends_cleanly(parser: str) -> None:
    waits = Flag()
    with serve(starlette_site(waits, []), parser, **DELAY) as server:
        client = server.connect()
        client.send(request("GET", "/asks"))
        waits.wait()
        with draining(server):
            advance(server, 21)
            assert client.read_response().body == b"data: 1\n\nevent: end\n\n"
            client.close()


def sse_starlette_site(waits: Flag, ended: list[str]) -> Any:
    """An event stream as users of sse-starlette write it: it asks nobody."""
    anyio = pytest.importorskip("anyio")
    sse_starlette = pytest.importorskip("sse_starlette")
    from starlette.applications import Starlette
    from starlette.routing import Route

    async def stream(request: Any) -> Any:
        async def events() -> Any:
            try:
                yield {"data": "1"}
                waits.set()
                await anyio.sleep_forever()
            finally:
                ended.append("generator")

        async def closed(message: Any) -> None:
            ended.append(message["type"])

        return sse_starlette.EventSourceResponse(events(), client_close_handler_callable=closed)

    return ForBoth(Starlette(routes=[Route("/", stream)]))


def end_watchers(server: InProcess) -> None:
    """sse-starlette leaves a task on the loop that looks for Uvicorn's signals."""

    def work() -> None:
        for task in asyncio.all_tasks():
            if "_shutdown_watcher" in repr(task):
                task.cancel()

    server.call(work)
    server.settle()


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_a_stream_of_starlette_that_does_not_ask_is_cancelled_after_the_grace_period(
    parser: str, http2: bool
) -> None:
    waits, ended = Flag(), list[str]()
    site = starlette_site(waits, ended)
    with serve(site, parser, **DELAY, **(HTTP2 if http2 else {})) as server:
        if http2:
            client2 = connect(server)
            reading = client2.begin()
        else:
            client = server.connect()
            client.send(GET)
        waits.wait()
        with draining(server):
            advance(server, 22)
            assert not ended
            advance(server, 2)
            server.wait_until(lambda: ended == ["generator"])
            if http2:
                assert reading.read_reset()
                client2.close()
            else:
                with pytest.raises(Truncated):
                    client.read_response()
                client.close()
        assert server.log.lines == []


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_a_stream_of_sse_starlette_is_cancelled_and_shown_to_be_incomplete(
    parser: str, http2: bool
) -> None:
    waits, ended = Flag(), list[str]()
    site = sse_starlette_site(waits, ended)
    with serve(site, parser, **DELAY, **(HTTP2 if http2 else {})) as server:
        if http2:
            client2 = connect(server)
            stream = client2.begin()
        else:
            client = server.connect()
            client.send(GET)
        waits.wait()
        with draining(server):
            advance(server, 21)
            if http2:
                assert stream.read_reset()
                assert stream.body == b"data: 1\r\n\r\n"
                client2.close()
            else:
                with pytest.raises(Truncated) as caught:
                    client.read_response()
                assert caught.value.response.body == b"data: 1\r\n\r\n"
                client.close()
            server.wait_until(lambda: len(ended) == 2)
            assert sorted(ended) == ["generator", "http.disconnect"]
            end_watchers(server)
        assert server.log.lines == []


@pytest.mark.gunicorn
def test_a_stream_does_not_hold_a_running_gunicorn_for_the_whole_graceful_timeout(
    tmp_path: Path,
) -> None:
    variable = "GUNICORN_ASGI_STREAM_DRAIN_DELAY=0.1"
    with Gunicorn(
        tmp_path, raw_env=[variable], graceful_timeout=10 * int(DEADLINE), timeout=2
    ) as server:
        with server.connect() as connection:
            connection.get("/listening")
            connection.read_until(b"begun\n")
            server.kill(signal.SIGTERM)
            assert connection.read_all().endswith(b"ended\n\r\n0\r\n\r\n")
        assert server.wait() == 0
