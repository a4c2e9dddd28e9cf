"""Trailers of a response (``http.response.trailers``, docs/asgi.md, 148 to 152; RFC 9112, 7.1.2; RFC 9113, 8.1)."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from typing import Any

import pytest
from inprocess import Flag, request
from libraries import start_task
from ways import SHUT, WAYS, serving

from gunicorn_asgi.errors import ApplicationError

pytestmark = pytest.mark.both_libraries

TE = b"TE: trailers"
SUM = (b"x-sum", b"1")
START: dict[str, Any] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"trailer", b"x-sum")],
    "trailers": True,
}
LENGTH: dict[str, Any] = {**START, "headers": [(b"content-length", b"5")]}
CAN = [way for way in WAYS if way != "1.0"]


def body(data: bytes = b"hello", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def trailers(*headers: Any, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.trailers", "headers": headers, "more_trailers": more}


def sending(*messages: dict[str, Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def raw(client: Any, method: str = "GET", *fields: bytes) -> bytes:
    """What comes behind the head of the response, and behind that a whole second response, whose head begins it."""
    client.send(request(method, "/", *fields) + request("GET", "/", b"Connection: close"))
    client.recv_until(b"\r\n\r\n")
    found: bytes = client.read_rest()
    return found[: found.rindex(b"HTTP/1.1 200 OK")]


@pytest.mark.parametrize("te", [TE, b"te: gzip, Trailers", b"TE:trailers;q=1,deflate"])
def test_they_stand_behind_the_last_chunk(parser: str, te: bytes) -> None:
    """RFC 9112, 7.1.2, and RFC 9110, 10.1.4: ``trailers`` has no weight."""
    with serving(
        sending(START, body(more=True), body(b""), trailers(SUM, (b"x-two", b"2"))), parser, "1.1"
    ) as asked:
        expected = b"" if b";q" in te else b"x-sum: 1\r\nx-two: 2\r\n"
        assert raw(asked.connect(), "GET", te) == b"5\r\nhello\r\n0\r\n" + expected + b"\r\n"


@pytest.mark.parametrize("way", ["h2", "h2-tls"])
def test_over_http2_they_end_the_stream(parser: str, way: str) -> None:
    with serving(sending(START, body(more=True), body(), trailers(SUM)), parser, way) as asked:
        client = asked.connect()
        for _ in range(2):
            answer = asked.ask(client, "GET", TE)
            assert (answer.is_whole, answer.body, answer.trailers) == (True, b"hellohello", [SUM])


def test_over_http2_they_wait_behind_what_the_window_holds_back(parser: str) -> None:
    with serving(sending(START, body(b"x" * 3000), trailers(SUM)), parser, "h2") as asked:
        client = asked.connect(**SHUT)
        stream = client.begin("GET", "/", (b"te", b"trailers"))
        stream.opens_window = False
        client.wait_for(lambda: len(stream.body) == 1000)
        asked.server.wait_until(lambda: not asked.server.server.tasks)
        assert stream.trailers is None
        client.open_window(5000, stream)
        client.read_response(stream)
        assert (stream.has_ended, len(stream.body), stream.trailers) == (True, 3000, [SUM])


# Where they cannot be sent.


@pytest.mark.parametrize("start", [START, LENGTH], ids=["chunked", "length"])
@pytest.mark.parametrize("way", WAYS)
def test_without_te_they_are_swallowed_and_the_response_is_complete(
    parser: str, way: str, start: Any
) -> None:
    """docs/asgi.md, 150."""
    with serving(sending(start, body(), trailers(SUM), trailers(SUM)), parser, way) as asked:
        client = asked.connect()
        for _ in range(1 if way == "1.0" else 2):
            answer = asked.ask(client)
            assert (answer.is_whole, answer.body, answer.trailers) == (True, b"hello", None)


@pytest.mark.parametrize("way", ["1.1", "1.0"])
def test_with_a_length_there_is_no_place_for_them(parser: str, way: str) -> None:
    """docs/asgi.md, 151."""
    with serving(sending(LENGTH, body(), trailers(SUM)), parser, way) as asked:
        client = asked.connect()
        for _ in range(1 if way == "1.0" else 2):
            answer = asked.ask(client, "GET", TE)
            assert (answer.is_whole, answer.body, answer.values(b"content-length")) == (
                True,
                b"hello",
                [b"5"],
            )


def test_over_http2_a_length_is_no_hindrance(parser: str) -> None:
    with serving(sending(LENGTH, body(), trailers(SUM)), parser, "h2") as asked:
        answer = asked.fetch("GET", TE)
        assert (answer.is_whole, answer.body, answer.trailers) == (True, b"hello", [SUM])


def test_http_1_0_has_none(parser: str) -> None:
    with serving(sending(START, body(), trailers(SUM)), parser, "1.0") as asked:
        answer = asked.fetch("GET", TE, b"Connection: keep-alive")
        assert (answer.is_whole, answer.body) == (True, b"hello")


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
@pytest.mark.parametrize("way", CAN)
def test_without_a_body_there_are_none(parser: str, way: str, method: str, status: int) -> None:
    with serving(sending({**START, "status": status}, body(), trailers(SUM)), parser, way) as asked:
        client = asked.connect()
        for _ in range(2):
            answer = asked.ask(client, method, TE)
            assert (answer.status, answer.is_whole, answer.body, answer.trailers) == (
                status,
                True,
                b"",
                None,
            )


# What the application says.


@pytest.mark.parametrize(("way", "more"), [("1.1", []), ("1.1", [SUM]), ("h2", []), ("h2", [SUM])])
def test_they_may_come_in_parts(parser: str, way: str, more: Any) -> None:
    """docs/asgi.md, 149."""
    with serving(
        sending(
            START, body(), trailers((b"a", b"1"), more=True), trailers(more=True), trailers(*more)
        ),
        parser,
        way,
    ) as asked:
        if way == "h2":
            assert asked.fetch("GET", TE).trailers == [(b"a", b"1"), *more]
        else:
            assert raw(asked.connect(), "GET", TE).endswith(
                b"0\r\na: 1\r\n" + b"x-sum: 1\r\n" * len(more) + b"\r\n"
            )


@pytest.mark.parametrize("way", CAN)
def test_none_at_all_are_an_ordinary_end(parser: str, way: str) -> None:
    with serving(sending(START, body(), trailers()), parser, way) as asked:
        client = asked.connect()
        for _ in range(2):
            answer = asked.ask(client, "GET", TE)
            assert (answer.is_whole, answer.body) == (True, b"hello")


@pytest.mark.parametrize("ends", ["returns", "is told to"])
@pytest.mark.parametrize("way", CAN)
def test_a_promise_that_is_not_kept_ends_cleanly(parser: str, way: str, ends: str) -> None:
    """docs/asgi.md, 152: the body was whole, and the next request is answered."""
    waiting = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(body())
        if ends == "is told to":
            await receive()
            waiting.set()
            assert (await receive())["type"] == "http.disconnect"

    with serving(app, parser, way) as asked:
        client = asked.connect()
        if ends == "returns":
            for _ in range(2):
                answer = asked.ask(client, "GET", TE)
                assert (answer.is_whole, answer.body, answer.trailers) == (True, b"hello", None)
        elif asked.is_h2:
            stream = client.begin("GET", "/", (b"te", b"trailers"))
            waiting.wait()
            asked.server.call(
                lambda: [
                    transport.handler.ask_to_end() for transport in asked.server.server.connections
                ]
            )
            assert client.read_response(stream).has_ended
        else:
            client.send(request("GET", "/", TE))
            waiting.wait()
            asked.server.call(
                lambda: [
                    transport.handler.ask_to_end() for transport in asked.server.server.connections
                ]
            )
            assert client.read_response().body == b"hello"


@pytest.mark.parametrize("way", ["1.1", "tls", "h2"])
def test_an_exception_behind_the_body_is_no_clean_end(parser: str, way: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(body())
        raise ValueError("no sum")

    with serving(app, parser, way) as asked:
        assert asked.fetch("GET", TE).is_whole is False
        (line,) = asked.server.log.take("error")
        assert str(line.error) == "no sum"


BAD: list[tuple[Any, str]] = [
    ((b"x y", b"1"), "a header name must be a token (RFC 9110, 5.6.2), not b'x y'"),
    ((b":status", b"200"), "a header name must be a token (RFC 9110, 5.6.2), not b':status'"),
    ((b"x", b"1\r\ny: 2"), "the value of header b'x' has a control character: b'1\\r\\ny: 2'"),
    (("x", b"1"), "a header name must be bytes, not str ('x')"),
    ((b"x",), "a header must be a pair of a name and a value, not (b'x',)"),
    *(
        ((name, b"1"), f"{name!r} must not be in trailers (RFC 9110, 6.5.1)")
        for name in (
            b"content-length",
            b"Transfer-Encoding",
            b"connection",
            b"host",
            b"trailer",
            b"content-type",
            b"content-encoding",
            b"te",
        )
    ),
]


@pytest.mark.parametrize(("field", "reason"), BAD, ids=[repr(field) for field, _ in BAD])
@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_what_may_not_be_one_raises_and_nothing_is_written(
    parser: str, way: str, field: Any, reason: str
) -> None:
    """RFC 9110, 6.5.1: a length, a coding or a type comes too late; and no CR or LF gets out. The application may still do better."""
    raised: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(body())
        try:
            await send(trailers(field))
        except ApplicationError as error:
            raised.append(str(error))
        await send(trailers(SUM))

    with serving(app, parser, way) as asked:
        if way == "h2":
            assert asked.fetch("GET", TE).trailers == [SUM]
        else:
            assert raw(asked.connect(), "GET", TE) == b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"
    assert set(raised) == {reason}


@pytest.mark.parametrize("headers", [None, 3, b"x"], ids=repr)
def test_they_are_pairs(parser: str, headers: Any) -> None:
    with serving(
        sending(START, body(), {"type": "http.response.trailers", "headers": headers}),
        parser,
        "1.1",
    ) as asked:
        assert not asked.fetch("GET", TE).is_whole
        (line,) = asked.server.log.take("error")
        assert isinstance(line.error, ApplicationError)


ORDERS: dict[str, list[dict[str, Any]]] = {
    "before the start": [trailers(SUM)],
    "before the body": [START, trailers(SUM)],
    "within the body": [START, body(more=True), trailers(SUM)],
    "not promised": [
        {"type": "http.response.start", "status": 200},
        body(more=True),
        trailers(SUM),
    ],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_at_the_wrong_time_they_raise(parser: str, way: str, order: str) -> None:
    """docs/asgi.md, 148."""
    with serving(sending(*ORDERS[order]), parser, way) as asked:
        answer = asked.fetch("GET", TE)
        assert answer.status == 500 or not answer.is_whole
        (line,) = asked.server.log.take("error")
        assert (
            str(line.error)
            == "expected 'http.response.trailers' after the body of a response that was started with 'trailers' True"
        )


@pytest.mark.parametrize(
    "message",
    [
        body(b"x"),
        {"type": "http.response.pathsend", "path": "/x"},
        {"type": "http.response.zerocopysend", "file": 0},
    ],
)
@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_behind_the_body_only_they_may_come(parser: str, way: str, message: Any) -> None:
    with serving(sending(START, body(), message), parser, way) as asked:
        assert not asked.fetch("GET", TE).is_whole
        (line,) = asked.server.log.take("error")
        assert isinstance(line.error, ApplicationError)


def test_a_file_may_have_some(parser: str, tmp_path: Any) -> None:
    (tmp_path / "file").write_bytes(b"x" * 200_000)
    for way in ("1.1", "h2"):
        with serving(
            sending(
                START,
                {"type": "http.response.pathsend", "path": str(tmp_path / "file")},
                trailers(SUM),
            ),
            parser,
            way,
        ) as asked:
            if way == "h2":
                assert asked.fetch("GET", TE).trailers == [SUM]
            else:
                assert raw(asked.connect(), "GET", TE).endswith(b"\r\n0\r\nx-sum: 1\r\n\r\n")


def test_until_they_have_come_the_client_is_there_and_then_the_exchange_is_over(
    parser: str,
) -> None:
    """``receive()`` says ``http.disconnect`` once the response is complete, and not at the end of its body."""
    order: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        listener = start_task(receive())
        listener.add_done_callback(lambda _: order.append("disconnect"))
        await send(START)
        await send(body())
        await asyncio.sleep(0.01)
        order.append("trailers")
        await send(trailers(SUM))
        await listener

    with serving(app, parser, "1.1") as asked:
        client = asked.connect()
        client.send(request("GET", "/", TE))
        client.recv_until(b"0\r\nx-sum: 1\r\n\r\n")
        asked.server.wait_until(lambda: len(order) == 2)
    assert order == ["trailers", "disconnect"]


def test_a_client_that_leaves_before_them_is_no_error(parser: str) -> None:
    waiting = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(body())
        await receive()
        waiting.set()
        assert (await receive())["type"] == "http.disconnect"
        await send(trailers(SUM))

    for way in ("1.1", "h2"):
        with serving(app, parser, way) as asked:
            client = asked.connect()
            client.begin("GET", "/", (b"te", b"trailers")) if asked.is_h2 else client.send(
                request("GET", "/", TE)
            )
            waiting.wait()
            client.reset()
            asked.server.wait_until(asked.server.is_idle)


# A client that knows them.

NODE = """
const [module, url] = process.argv.slice(1)
if (module === "http") {
  require("http").get(url, {headers: {TE: "trailers"}}, response => {
    let body = ""
    response.on("data", data => body += data)
    response.on("end", () => console.log(JSON.stringify([body, response.trailers])))
  })
} else {
  const client = require("http2").connect(url)
  const stream = client.request({":path": "/", "te": "trailers"})
  let body = "", trailers = null
  stream.on("data", data => body += data)
  stream.on("trailers", headers => trailers = {...headers})
  stream.on("close", () => { console.log(JSON.stringify([body, trailers])); client.close() })
}
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize(("module", "way"), [("http", "1.1"), ("http2", "h2")])
def test_node_reads_them(parser: str, module: str, way: str) -> None:
    with serving(sending(START, body(), trailers(SUM)), parser, way) as asked:
        host, port = asked.server.address
        done = subprocess.run(
            ["node", "-e", NODE, module, f"http://{host}:{port}"],
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert json.loads(done.stdout) == ["hello", {"x-sum": "1"}]
