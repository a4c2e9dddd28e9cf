"""103 Early Hints (``http.response.early_hint``, docs/asgi.md, 145 to 147; RFC 8297)."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from contextlib import suppress
from typing import Any

import pytest
from inprocess import Flag, request
from libraries import within
from ways import SHUT, WAYS, serving

from gunicorn_asgi.asgi.exchange import PARTS_PER_TURN
from gunicorn_asgi.errors import ApplicationError

pytestmark = pytest.mark.both_libraries

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
CSS, JS = b"</a.css>; rel=preload; as=style", b"</b.js>; rel=preload; as=script"
CAN = [way for way in WAYS if way != "1.0"]


def body(data: bytes = b"hello", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def hint(*links: Any) -> dict[str, Any]:
    return {"type": "http.response.early_hint", "links": links}


def sending(*messages: dict[str, Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def told(*links: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
    return 103, [(b"link", link) for link in links]


ORDERS: dict[str, tuple[list[dict[str, Any]], list[Any]]] = {
    "before the start": ([hint(CSS, JS), START, body()], [told(CSS, JS)]),
    "behind the start": ([START, hint(CSS), body()], [told(CSS)]),
    "several": (
        [hint(CSS), hint(JS), START, hint(CSS, JS), body()],
        [told(CSS), told(JS), told(CSS, JS)],
    ),
    "without a link": ([hint(), START, body()], []),
    "any iterable": (
        [{"type": "http.response.early_hint", "links": dict.fromkeys([CSS])}, START, body()],
        [told(CSS)],
    ),
    "within the body": ([START, body(b"hel", True), hint(CSS), body(b"lo")], []),
    "behind it": ([START, body(), hint(CSS)], []),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("way", CAN)
def test_hints_go_before_the_head_and_never_behind_it(parser: str, way: str, order: str) -> None:
    """docs/asgi.md, 145 to 147."""
    messages, expected = ORDERS[order]
    with serving(sending(*messages), parser, way) as asked:
        client = asked.connect()
        for _ in range(2):
            answer = asked.ask(client)
            assert (answer.is_whole, answer.status, answer.body, answer.hints) == (
                True,
                200,
                b"hello",
                expected,
            )


@pytest.mark.parametrize("order", ORDERS)
def test_http_1_0_never_gets_one(parser: str, order: str) -> None:
    """RFC 9110, 15.2."""
    with serving(sending(*ORDERS[order][0]), parser, "1.0") as asked:
        answer = asked.fetch()
        assert (answer.status, answer.body, answer.hints) == (200, b"hello", [])


def test_the_bytes_of_one(parser: str) -> None:
    with serving(sending(hint(CSS, JS), START, body()), parser, "1.1") as asked:
        client = asked.connect()
        client.send(request())
        assert client.recv_until(
            b"\r\n\r\n"
        ) == b"HTTP/1.1 103 Early Hints\r\nlink: %b\r\nlink: %b\r\n\r\n" % (CSS, JS)
        assert client.read_response().body == b"hello"


@pytest.mark.parametrize("way", CAN)
@pytest.mark.parametrize(
    "links", [None, 3, b"x", "x", ("x",), (None,), (b"a\r\nb: c",), (b"a\0",)], ids=repr
)
def test_what_is_no_link_raises_at_once_and_the_response_is_still_to_come(
    parser: str, way: str, links: Any
) -> None:
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.early_hint", "links": links})
        except ApplicationError as error:
            raised.append(error)
        await send(START)
        await send(body())

    with serving(app, parser, way) as asked:
        answer = asked.fetch()
        assert (answer.status, answer.hints) == (200, [])
    assert len(raised) == 1


@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_beside_a_100_continue_both_come_in_their_order(parser: str, way: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(hint(CSS))
        assert (await receive())["body"] == b"hello"
        await send(hint(JS))
        await send(START)
        await send(body())

    with serving(app, parser, way) as asked:
        client = asked.connect()
        if asked.is_h2:
            stream = client.begin("POST", "/", (b"expect", b"100-continue"), end=False)
            client.wait_for(lambda: len(stream.informed) == 2)
            client.upload(stream, b"hello")
            client.read_response(stream)
            statuses = [status for status, _ in stream.informed]
            assert (stream.status, stream.body) == (200, b"hello")
        else:
            client.send(request("POST", "/", b"Content-Length: 5", b"Expect: 100-continue"))
            statuses = [client.read_head().status, client.read_head().status]
            client.send(b"hello")
            statuses.append(client.read_head().status)
            assert client.read_response().body == b"hello"
        assert statuses == [103, 100, 103]


def test_an_exception_behind_a_hint_is_a_clean_500(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(hint(CSS))
        raise ValueError("nothing")

    for way in ("1.1", "h2"):
        with serving(app, parser, way) as asked:
            answer = asked.fetch()
            assert (answer.status, answer.is_whole, len(answer.hints)) == (500, True, 1)
            assert len(asked.server.log.take("error")) == 1


@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_a_client_that_takes_none_is_waited_for(parser: str, way: str) -> None:
    """An endless stream of hints does not fill the memory."""
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        while True:
            await send(hint(b"<%b>" % (b"x" * 60_000)))
            sent += 1
            assert sent < 1000

    with serving(app, parser, way) as asked:
        client = asked.connect(receive_buffer=65536)
        client.begin() if asked.is_h2 else client.send(request())
        asked.server.wait_clogged()
        asked.server.settle()
        # Over HTTP/2, what is written in one turn of the loop.
        assert asked.server.unsent() < (PARTS_PER_TURN * 61_000 if asked.is_h2 else 200_000)
        client.close()


def test_one_that_gives_up_such_a_hint_is_still_held_back_by_windows(parser: str) -> None:
    """HTTP/2: the room for the hint is not that for the body."""
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        with suppress(asyncio.TimeoutError):
            while True:
                await within(send(hint(b"<%b>" % (b"x" * 60_000))), 0.3)
        given_up.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while sent < 1000:
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
            sent += 1

    given_up = Flag()
    with serving(app, parser, "h2") as asked:
        client = asked.connect(**SHUT, receive_buffer=65536)
        client.opens_window = False
        stream = client.begin()
        stream.opens_window = False
        given_up.wait()
        client.wait_for(lambda: stream.status == 200)
        asked.server.wait_queued()
        client.synchronize()
        assert sent < 3
        client.close()


# Clients that know them.

NODE = """
const request = require("http").get(process.argv[1])
const seen = []
request.on("information", info => seen.push([info.statusCode, info.headers.link]))
request.on("response", response => { response.resume(); response.on("end", () => console.log(JSON.stringify([...seen, response.statusCode]))) })
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_node_hears_them(parser: str) -> None:
    with serving(sending(hint(CSS), hint(JS), START, body()), parser, "1.1") as asked:
        host, port = asked.server.address
        done = subprocess.run(
            ["node", "-e", NODE, f"http://{host}:{port}"],
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert json.loads(done.stdout) == [[103, CSS.decode()], [103, JS.decode()], 200]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(
    ("way", "option"), [("1.1", "--http1.1"), ("h2", "--http2-prior-knowledge")]
)
def test_curl_shows_them(parser: str, way: str, option: str) -> None:
    with serving(sending(hint(CSS), START, body()), parser, way) as asked:
        host, port = asked.server.address
        done = subprocess.run(
            ["curl", "-si", option, f"http://{host}:{port}/"],
            capture_output=True,
            timeout=60,
            check=False,
        )
        if done.returncode == 2 or done.returncode == 1:
            pytest.skip("this curl has no HTTP/2")
        first, _, rest = done.stdout.partition(b"\r\n\r\n")
        assert first.split()[1] == b"103"
        assert b"link: " + CSS in first
        assert rest.split()[1] == b"200"
        assert rest.endswith(b"\r\n\r\nhello")
