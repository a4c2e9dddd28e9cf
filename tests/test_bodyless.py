"""An application that goes on to send a body which nobody gets: HEAD, 204 and 304 (RFC 9110, 6.4.1).

For its client the response is complete, so no client will ever leave because of it, and nothing that is sent says that one has.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from inprocess import Flag, request
from ways import SHUT, WAYS, serving

from gunicorn_asgi.errors import ClientDisconnected

pytestmark = pytest.mark.both_libraries

START = {"type": "http.response.start", "status": 200, "headers": []}
PART = {"type": "http.response.body", "body": b"x" * 100, "more_body": True}
GRACE = 3
Raised = list[BaseException]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def endless(raised: Raised, status: int, pause: float | None) -> Any:
    """Sends for ever."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "status": status if scope["path"] == "/endless" else 200})
        if scope["path"] != "/endless":
            await send({**PART, "more_body": False})
            return
        try:
            while True:
                await send(PART)
                if pause is not None:
                    await asyncio.sleep(pause)
        except BaseException as error:
            raised.append(error)
            raise

    return app


@pytest.mark.parametrize("pause", [0.01, None], ids=["paced", "without a pause"])
@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_an_application_that_goes_on_is_told_that_nobody_listens(
    parser: str, way: str, method: str, status: int, pause: float | None
) -> None:
    """And the connection is there for the next request."""
    raised: Raised = []
    with serving(endless(raised, status, pause), parser, way, keepalive=60) as asked:
        client = asked.connect()
        answer = asked.ask(client, method, path="/endless")
        assert (answer.status, answer.body, answer.is_whole) == (status, b"", True)
        if way != "1.0":
            if asked.is_h2:
                assert asked.ask(client).body == b"x" * 100
            else:
                client.send(request())
        asked.server.advance(GRACE - 1)
        assert not raised
        asked.server.advance(3)
        asked.server.wait_until(lambda: not asked.server.server.tasks)
        assert [type(error) for error in raised] == [ClientDisconnected]
        if way != "1.0":
            assert (
                asked.ask(client).body if asked.is_h2 else client.read_response().body
            ) == b"x" * 100


@pytest.mark.parametrize("way", ["1.1", "unix", "tls", "h2"])
@pytest.mark.parametrize("leave", ["close", "reset", "half"])
def test_it_is_told_so_too_where_the_client_has_left(parser: str, way: str, leave: str) -> None:
    raised: Raised = []
    with serving(endless(raised, 200, 0.01), parser, way, keepalive=60) as asked:
        client = asked.connect()
        asked.ask(client, "HEAD", path="/endless")
        if leave == "half" and way in ("1.1", "unix"):
            client.send_eof()
        else:
            client.reset() if leave == "reset" and way != "unix" else client.close()
        for _ in range(GRACE + 3):
            asked.server.advance(1)
            asked.server.run(asyncio.sleep(0.03))  # the application's pause
        asked.server.wait_until(lambda: not asked.server.server.tasks)
        assert [type(error) for error in raised] == [ClientDisconnected]


@pytest.mark.parametrize("way", ["1.1", "tls", "h2"])
def test_one_that_does_not_heed_it_is_cancelled(parser: str, way: str) -> None:
    ended = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            while True:
                with suppress(OSError):
                    await send(PART)
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    with serving(app, parser, way, keepalive=60) as asked:
        asked.ask(asked.connect(), "HEAD")
        asked.server.advance(2 * GRACE + 4)
        ended.wait()
        asked.server.wait_until(lambda: not asked.server.server.tasks)


def test_one_that_listens_hears_it(parser: str, way: str) -> None:
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(PART)
        while not heard or heard[-1]["type"] != "http.disconnect":
            heard.append(await receive())

    with serving(app, parser, way, keepalive=60) as asked:
        asked.ask(asked.connect(), "HEAD")
        asked.server.advance(GRACE + 3)
        asked.server.wait_until(lambda: not asked.server.server.tasks)
        assert heard[-1] == {"type": "http.disconnect"}


def test_one_that_is_through_in_time_notices_nothing(parser: str, way: str) -> None:
    """Also its work behind the response."""
    sent, through, go = Flag(), Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(200):
            await send(PART)
        await send({**PART, "more_body": False})
        sent.set()
        await go.reached()
        through.set()

    with serving(app, parser, way, keepalive=60) as asked:
        client = asked.connect()
        asked.ask(client, "HEAD")
        sent.wait()
        asked.server.advance(10 * GRACE)
        go.set()
        through.wait()


@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_while_the_body_of_the_request_is_still_coming(parser: str, way: str) -> None:
    """It may take all the time that its parts may have, and the application as well."""
    raised: Raised = []
    with serving(
        endless(raised, 204, 0.01), parser, way, keepalive=60, body_timeout=1000.0
    ) as asked:
        client = asked.connect()
        if asked.is_h2:
            client.begin("POST", "/endless", end=False)
        else:
            client.send(request("POST", "/endless", b"Content-Length: 100000") + b"x")
        asked.server.wait_until(lambda: asked.server.server.tasks)
        asked.server.settle()
        asked.server.advance(GRACE + 3)
        asked.server.wait_until(lambda: not asked.server.server.tasks)
        assert [type(error) for error in raised] == [ClientDisconnected]


@pytest.mark.parametrize("method", ["HEAD", "POST"])
@pytest.mark.parametrize("end", [False, True])
def test_what_still_comes_of_the_request_changes_nothing(
    parser: str, method: str, end: bool
) -> None:
    raised: Raised = []
    with serving(
        endless(raised, 204, 0.01), parser, "h2", keepalive=60, body_timeout=1000.0
    ) as asked:
        client = asked.connect()
        stream = client.begin(method, "/endless", end=False)
        client.wait_for(lambda: stream.status)
        for number in range(GRACE + 3):
            if end:
                client.upload(stream, b"", True) if number == 0 else None
            elif not raised:
                client.upload(stream, b"x", False)
            asked.server.settle()
            asked.server.advance(1)
            asked.server.run(asyncio.sleep(0.03))
        asked.server.wait_until(lambda: not asked.server.server.tasks)
        assert [type(error) for error in raised] == [ClientDisconnected]


@pytest.mark.parametrize("way", ["h2", "h2-tls"])
def test_many_of_them_do_not_use_up_the_streams_for_long(parser: str, way: str) -> None:
    raised: Raised = []
    with serving(
        endless(raised, 200, 0.05), parser, way, keepalive=60, http2_max_concurrent_streams=10
    ) as asked:
        client = asked.connect(**SHUT)
        for _ in range(20):
            assert asked.ask(client, "HEAD", path="/endless").is_whole
        asked.server.advance(GRACE + 3)
        asked.server.wait_until(lambda: not asked.server.server.tasks)
        assert asked.ask(client).body == b"x" * 100
