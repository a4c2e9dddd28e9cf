"""Responses over the wire: RFC 9110, 6 to 10, and 15; RFC 9112, 4 to 7 and 9; docs/asgi.md, 52 to 75."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import pytest
from inprocess import (
    GET,
    Client,
    Flag,
    InProcess,
    Response,
    Truncated,
    answer,
    hello,
    read_body,
    request,
    serve,
)
from libraries import start_task
from tables import each

from gunicorn_asgi.errors import ApplicationError

pytestmark = pytest.mark.both_libraries

Messages = list[dict[str, Any]]

HEAD = request("HEAD")
GET10 = b"GET / HTTP/1.0\r\n\r\n"
GET10_KEEP = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: Any = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


class Script:
    """An application that sends what it is told to, and keeps what that raised."""

    def __init__(self) -> None:
        self.messages: Messages = []
        self.raised: list[Exception] = []
        self.catches = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/next":
            await answer(send, b"next")
            return
        for message in self.messages:
            try:
                await send(message)
            except Exception as error:
                self.raised.append(error)
                if not self.catches:
                    raise


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def server(script: Script, parser: str) -> Iterator[InProcess]:
    with serve(script, parser) as server:
        yield server


NEXT = request(target="/next")


def is_kept(client: Client) -> bool:
    """Whether the connection answers a further request, in its own place."""
    try:
        client.send(NEXT)
        return client.read_response().body == b"next"
    except (OSError, AssertionError):
        assert not client.buffer
        return False


def exchange(
    server: InProcess, script: Script, data: bytes, *messages: dict[str, Any], method: str = "GET"
) -> tuple[Response, bool]:
    """The response to `data`, and whether the connection is kept."""
    script.messages = list(messages)
    client = server.connect()
    client.send(data)
    response = client.read_response(method)
    kept = is_kept(client) if response.framing != "close" else False
    client.close()
    return response, kept


def fields(response: Response) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in response.headers if name not in (b"date", b"server")]


# Framing.

LENGTH_2 = (b"content-length", b"2")
CHUNKED = (b"transfer-encoding", b"chunked")
KEEP = (b"connection", b"keep-alive")
CLOSE = (b"connection", b"close")


@pytest.mark.parametrize(
    ("data", "messages", "expected", "content", "kept"),
    [
        # one message: its length is known
        (GET, [start(), body(b"ok")], [LENGTH_2], b"ok", True),
        (GET, [start(), body()], [(b"content-length", b"0")], b"", True),
        (GET, [start(), {"type": "http.response.body"}], [(b"content-length", b"0")], b"", True),
        (GET10, [start(), body(b"ok")], [LENGTH_2, CLOSE], b"ok", False),
        (GET10_KEEP, [start(), body(b"ok")], [LENGTH_2, KEEP], b"ok", True),
        # a declared length
        (GET, [start(200, LENGTH_2), body(b"ok")], [LENGTH_2], b"ok", True),
        (GET, [start(200, LENGTH_2), body(b"o", True), body(b"k")], [LENGTH_2], b"ok", True),
        (
            GET,
            [start(200, LENGTH_2), body(b"", True), body(b"ok", True), body()],
            [LENGTH_2],
            b"ok",
            True,
        ),
        (
            GET10_KEEP,
            [start(200, LENGTH_2), body(b"o", True), body(b"k")],
            [LENGTH_2, KEEP],
            b"ok",
            True,
        ),
        (
            GET10,
            [start(200, LENGTH_2), body(b"o", True), body(b"k")],
            [LENGTH_2, CLOSE],
            b"ok",
            False,
        ),
        # docs/asgi.md, 57: a stream of unknown length
        (GET, [start(), body(b"o", True), body(b"k")], [CHUNKED], b"ok", True),
        (GET, [start(), body(b"", True), body()], [CHUNKED], b"", True),
        (
            GET,
            [start(), body(b"o", True), body(b"", True), body(b"k", True), body()],
            [CHUNKED],
            b"ok",
            True,
        ),
        (GET10, [start(), body(b"o", True), body(b"k")], [CLOSE], b"ok", False),
        (GET10_KEEP, [start(), body(b"o", True), body(b"k")], [CLOSE], b"ok", False),
        (GET10_KEEP, [start(), body(b"", True), body()], [CLOSE], b"", False),
        # docs/asgi.md, 56: the application's transfer-encoding is ignored
        (GET, [start(200, CHUNKED), body(b"ok")], [LENGTH_2], b"ok", True),
        (
            GET,
            [start(200, (b"Transfer-Encoding", b"gzip, chunked")), body(b"o", True), body(b"k")],
            [CHUNKED],
            b"ok",
            True,
        ),
        (GET, [start(200, CHUNKED, LENGTH_2), body(b"ok")], [LENGTH_2], b"ok", True),
        (GET10, [start(200, CHUNKED), body(b"o", True), body(b"k")], [CLOSE], b"ok", False),
    ],
)
def test_the_end_of_a_body_is_told_in_one_way(
    server: InProcess,
    script: Script,
    data: bytes,
    messages: Messages,
    expected: Any,
    content: bytes,
    kept: bool,
) -> None:
    """RFC 9112, 6 and 7; docs/asgi.md, 53, 56, 57 and 60."""
    response, is_open = exchange(server, script, data, *messages)
    assert (fields(response), response.body, is_open) == (expected, content, kept)
    assert not script.raised


@pytest.mark.parametrize(
    "data",
    [GET, GET10_KEEP, HEAD, b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"],
    ids=["GET", "GET 1.0", "HEAD", "HEAD 1.0"],
)
@pytest.mark.parametrize("status", [204, 304])
@each("headers", [[], [LENGTH_2], [CHUNKED], [(b"content-length", b"0")]])
@each(
    "messages", [[body()], [body(b"ok")], [body(b"o", True), body(b"k")], [body(b"", True), body()]]
)
def test_204_and_304_have_no_body(
    server: InProcess, script: Script, data: bytes, status: int, headers: Any, messages: Messages
) -> None:
    """RFC 9110, 6.4.1, 8.6 and 15.4.5; docs/asgi.md, 64: a 304 keeps its content-length, a 204 has none."""
    response, kept = exchange(
        server, script, data, start(status, *headers), *messages, method=data[:4].decode().strip()
    )
    assert response.status == status
    assert response.body == b""
    assert response.values(b"content-length") == [
        value for name, value in headers if name == b"content-length" and status == 304
    ]
    assert response.values(b"transfer-encoding") == []
    assert kept
    assert not script.raised


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([start(), body(b"ok")], [LENGTH_2]),
        ([start(200, LENGTH_2), body()], [LENGTH_2]),
        ([start(200, LENGTH_2), body(b"ok")], [LENGTH_2]),
        ([start(200, LENGTH_2), body(b"okok")], [LENGTH_2]),
        ([start(200, LENGTH_2), body(b"o", True), body(b"k")], [LENGTH_2]),
        ([start(), body(b"o", True), body(b"k")], [CHUNKED]),
        ([start(), body()], []),
        ([start(404), body(b"no")], [LENGTH_2]),
    ],
)
def test_head_has_the_fields_of_get_and_no_body(
    server: InProcess, script: Script, messages: Messages, expected: Any
) -> None:
    """RFC 9110, 9.3.2; docs/asgi.md, 64."""
    response, kept = exchange(server, script, HEAD, *messages, method="HEAD")
    assert fields(response) == expected
    assert kept
    assert not script.raised
    response, kept = exchange(
        server,
        script,
        b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        *messages,
        method="HEAD",
    )
    assert fields(response) == [field for field in expected if field != CHUNKED] + [KEEP]
    assert kept


@pytest.mark.parametrize("status", [200, 299, 418, 451, 507, 599, 600, 999, HTTPStatus.IM_A_TEAPOT])
def test_any_status_is_sent(server: InProcess, script: Script, status: int) -> None:
    """docs/asgi.md, 74."""
    response, kept = exchange(server, script, GET, start(status), body(b"ok"))
    assert response.status == int(status)
    assert response.reason == (
        HTTPStatus(status).phrase.encode() if status in list(HTTPStatus) else b""
    )
    assert response.body == b"ok"
    assert kept


# The length.


@pytest.mark.parametrize(
    ("messages", "received", "whose"),
    [
        ([start(200, LENGTH_2), body(b"okok")], b"", 1),
        ([start(200, LENGTH_2), body(b"okok", True)], b"", 1),
        ([start(200, LENGTH_2), body(b"o", True), body(b"kok")], b"o", 2),
        ([start(200, LENGTH_2), body(b"ok", True), body(b"x")], b"ok", 2),
        ([start(200, (b"content-length", b"0")), body(b"x")], b"", 1),
    ],
)
def test_a_body_longer_than_its_length_raises_and_is_not_sent(
    server: InProcess, script: Script, messages: Messages, received: bytes, whose: int
) -> None:
    """docs/asgi.md, 65."""
    script.messages = messages
    client = server.connect()
    client.send(GET)
    if whose == 1:  # nothing was written yet
        assert client.read_response().status == 500
    else:
        assert client.recv_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
        assert client.read_rest() == received
    assert client.read_rest() == b""
    (error,) = script.raised
    assert isinstance(error, ApplicationError)
    assert "longer" in str(error)
    (line,) = server.log.take("error")
    assert line.error is error


@pytest.mark.parametrize(
    "messages",
    [
        [start(200, LENGTH_2), body(b"o")],
        [start(200, LENGTH_2), body(b"")],
        [start(200, LENGTH_2), body(b"o", True), body(b"")],
        [start(200, LENGTH_2), body(b"", True), body(b"o")],
    ],
)
@pytest.mark.parametrize("data", [GET, GET10, GET10_KEEP])
def test_a_body_shorter_than_its_length_raises_and_ends_the_connection(
    server: InProcess, script: Script, messages: Messages, data: bytes
) -> None:
    """docs/asgi.md, 65; RFC 9112, 8: nobody can take it for whole."""
    script.messages = messages
    client = server.connect()
    client.send(data + NEXT)
    with pytest.raises(Truncated):
        client.read_response()
    (error,) = script.raised
    assert isinstance(error, ApplicationError)
    assert "shorter" in str(error)
    (line,) = server.log.take("error")
    assert line.error is error


# Headers.


def test_headers_keep_their_order_and_bytes(server: InProcess, script: Script) -> None:
    """docs/asgi.md, 54 and 40."""
    headers = [
        (b"b", b"1"),
        (b"set-cookie", b"x=1"),
        (b"A", b"\xe9 \xff"),
        (b"set-cookie", b"y=2"),
        (b"empty", b""),
        (b"tab", b"a\tb"),
    ]
    response, _ = exchange(server, script, GET, start(200, *headers), body(b"ok"))
    assert fields(response) == [*headers, LENGTH_2]


@pytest.mark.parametrize(
    "headers",
    [
        lambda: iter([(b"a", b"b"), LENGTH_2]),
        lambda: (field for field in [(b"a", b"b"), LENGTH_2]),
        lambda: ((b"a", b"b"), LENGTH_2),
        lambda: [[b"a", b"b"], list(LENGTH_2)],
        {b"a": b"b", b"content-length": b"2"}.items,
    ],
)
def test_headers_may_be_any_iterable(
    server: InProcess, script: Script, headers: Callable[[], Any]
) -> None:
    response, _ = exchange(
        server,
        script,
        GET,
        {"type": "http.response.start", "status": 200, "headers": headers()},
        body(b"ok"),
    )
    assert fields(response) == [(b"a", b"b"), LENGTH_2]


def test_headers_may_be_left_out(server: InProcess, script: Script) -> None:
    """docs/asgi.md, 53."""
    response, _ = exchange(
        server, script, GET, {"type": "http.response.start", "status": 200}, body(b"ok")
    )
    assert fields(response) == [LENGTH_2]


BAD_STARTS: dict[str, dict[str, Any]] = {
    "str name": start(200, ("a", b"b")),
    "str value": start(200, (b"a", "b")),
    "bad name": start(200, (b"a b", b"c")),
    "name with a colon": start(200, (b"a:", b"c")),
    "pseudo header": start(200, (b":status", b"200")),
    "empty name": start(200, (b"", b"c")),
    "name with CRLF": start(200, (b"a\r\nb", b"c")),
    "value with CRLF": start(200, (b"a", b"b\r\nset-cookie: c")),
    "value with LF": start(200, (b"a", b"b\nc")),
    "value with CR": start(200, (b"a", b"b\rc")),
    "value with NUL": start(200, (b"a", b"b\0c")),
    "value with DEL": start(200, (b"a", b"b\x7fc")),
    "value with ESC": start(200, (b"a", b"b\x1bc")),
    "not a pair": start(200, (b"a",)),
    "bad content-length": start(200, (b"content-length", b"x")),
    "negative content-length": start(200, (b"content-length", b"-1")),
    "two content-lengths": start(200, (b"content-length", b"1"), (b"content-length", b"2")),
    "headers None": {"type": "http.response.start", "status": 200, "headers": None},
    "no status": {"type": "http.response.start", "headers": []},
    "str status": {"type": "http.response.start", "status": "200"},
    "None status": {"type": "http.response.start", "status": None},
    "float status": {"type": "http.response.start", "status": 200.0},
    "status 99": start(99),
    "status 1000": start(1000),
    "status 0": start(0),
    "status -1": start(-1),
    "status True": start(True),
    "status 100": start(100),
    "status 199": start(199),
}


@pytest.mark.parametrize("message", BAD_STARTS.values(), ids=BAD_STARTS.keys())
def test_a_faulty_start_raises_there_and_becomes_a_clean_500(
    server: InProcess, script: Script, message: dict[str, Any]
) -> None:
    """docs/asgi.md, 10, 11, 55 and 58."""
    response, kept = exchange(server, script, GET, message, body(b"never"))
    assert response.status == 500
    assert response[b"content-type"] == b"text/plain; charset=utf-8"
    assert response.body == b"Internal Server Error"
    assert not kept
    (error,) = script.raised
    assert isinstance(error, ApplicationError)
    (line,) = server.log.take("error")
    assert line.error is error


@pytest.mark.parametrize("message", BAD_STARTS.values(), ids=BAD_STARTS.keys())
def test_behind_a_faulty_start_a_correct_one_may_be_sent(
    server: InProcess, script: Script, message: dict[str, Any]
) -> None:
    script.catches = True
    response, kept = exchange(server, script, GET, message, start(418), body(b"ok"))
    assert (response.status, response.body) == (418, b"ok")
    assert fields(response) == [LENGTH_2]
    assert kept
    assert len(script.raised) == 1


BAD_MESSAGES: dict[str, Any] = {
    "unknown type": {"type": "http.response.foo"},
    "websocket type": {"type": "websocket.send", "bytes": b""},
    "request type": {"type": "http.request"},
    "no type": {"status": 200},
    "None for the type": {"type": None},
    "list for the type": {"type": []},
    "empty": {},
    "None": None,
    "str": "http.response.start",
    "list": [],
}


@pytest.mark.parametrize("message", BAD_MESSAGES.values(), ids=BAD_MESSAGES.keys())
@pytest.mark.parametrize("place", ["before start", "before body", "within the body"])
def test_a_faulty_message_raises_there_and_harms_nothing(
    server: InProcess, script: Script, message: Any, place: str
) -> None:
    """docs/asgi.md, 9 and 10."""
    script.catches = True
    good = [start(), body(b"o", True), body(b"k")]
    good.insert({"before start": 0, "before body": 1, "within the body": 2}[place], message)
    response, kept = exchange(server, script, GET, *good)
    assert (response.status, response.body, kept) == (200, b"ok", True)
    (error,) = script.raised
    assert isinstance(error, ApplicationError)


@pytest.mark.parametrize("data", ["text", None, 5, [b"a"], ["a"], {}], ids=repr)
@pytest.mark.parametrize("place", ["first", "second"])
def test_a_body_that_is_no_bytes_raises(
    server: InProcess, script: Script, data: Any, place: str
) -> None:
    """docs/asgi.md, 11."""
    script.catches = True
    good = [start(), body(b"o", True), body(b"k")]
    good.insert(1 if place == "first" else 2, body(data, True))
    response, _ = exchange(server, script, GET, *good)
    assert response.body == b"ok"
    (error,) = script.raised
    assert isinstance(error, ApplicationError)
    assert type(data).__name__ in str(error)


def test_a_body_before_the_start_raises(server: InProcess, script: Script) -> None:
    """docs/asgi.md, 62."""
    script.catches = True
    response, _ = exchange(server, script, GET, body(b"early"), start(), body(b"ok"))
    assert response.body == b"ok"
    (error,) = script.raised
    assert isinstance(error, ApplicationError)


@pytest.mark.parametrize("place", [1, 2])
def test_a_second_start_raises(server: InProcess, script: Script, place: int) -> None:
    """docs/asgi.md, 63."""
    script.catches = True
    good = [start(201), body(b"o", True), body(b"k")]
    good.insert(place, start(500))
    response, _ = exchange(server, script, GET, *good)
    assert (response.status, response.body) == (201, b"ok")
    (error,) = script.raised
    assert isinstance(error, ApplicationError)


@pytest.mark.parametrize(
    "extra",
    [body(b"x"), start(), {"type": "foo"}, {}, body("x", True)],
    ids=["body", "start", "unknown", "no type", "str body"],
)
@pytest.mark.parametrize(
    "first",
    [
        [start(), body(b"ok")],
        [start(), body(b"o", True), body(b"k")],
        [start(200, LENGTH_2), body(b"ok")],
    ],
)
def test_messages_behind_a_complete_response_are_ignored(
    server: InProcess, script: Script, extra: dict[str, Any], first: Messages
) -> None:
    """docs/asgi.md, 61."""
    response, kept = exchange(server, script, GET, *first, extra, extra)
    assert (response.body, kept, script.raised) == (b"ok", True, [])


def test_further_keys_in_a_message_are_ignored(server: InProcess, script: Script) -> None:
    """docs/asgi.md, 12."""
    response, kept = exchange(
        server, script, GET, {**start(), "x": 1, "trailers": False}, {**body(b"ok"), "y": object()}
    )
    assert (response.body, kept) == (b"ok", True)


@pytest.mark.parametrize(
    "kind",
    [
        bytearray,
        memoryview,
        lambda data: memoryview(bytearray(data)),
        lambda data: memoryview(data + data)[: len(data)],
    ],
)
def test_other_views_of_bytes_are_bodies(
    server: InProcess, script: Script, kind: Callable[[bytes], Any]
) -> None:
    """docs/asgi.md, 75."""
    response, _ = exchange(server, script, GET, start(), body(kind(b"ok")))
    assert (response.body, response[b"content-length"]) == (b"ok", b"2")
    response, _ = exchange(server, script, GET, start(), body(kind(b"o"), True), body(kind(b"k")))
    assert response.body == b"ok"


def test_a_view_of_numbers_counts_in_bytes(server: InProcess, script: Script) -> None:
    numbers = array("I", [1, 2, 3])
    response, kept = exchange(server, script, GET, start(), body(memoryview(numbers)))
    assert (response.body, kept) == (numbers.tobytes(), True)


def test_a_body_that_changes_after_it_was_sent_is_not_changed(parser: str) -> None:
    """docs/asgi.md, 75: it is copied where it is not written at once."""
    size = 4 * 1024 * 1024

    async def app(scope: Any, receive: Any, send: Any) -> None:
        data = bytearray(b"a" * size)
        await send(start(200, (b"content-length", b"%d" % (2 * size))))
        await send(body(memoryview(data), True))
        data[:] = b"b" * size
        await send(body(data))

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET)
        assert client.read_response().body == b"a" * size + b"b" * size


def test_an_empty_first_part_flushes_the_head(parser: str) -> None:
    """docs/asgi.md, 59: for what is opened long before there is anything to say."""
    for data, framing in ((GET, CHUNKED), (GET10, CLOSE)):
        go = Flag()

        async def app(scope: Any, receive: Any, send: Any, go: Flag = go) -> None:
            await send(start())
            await send(body(b"", True))
            await go.reached()
            await send(body(b"ok"))

        with serve(app, parser) as server:
            client = server.connect()
            client.send(data)
            response = client.read_head()
            assert framing in response.headers
            assert not client.has_more()
            go.set()
            assert client.read_rest() if data is GET10 else client.recv_until(b"0\r\n\r\n")


def test_the_start_is_not_written_before_the_first_body(parser: str) -> None:
    """docs/asgi.md, 58."""
    started, go = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(202))
        started.set()
        await go.reached()
        raise ValueError("in between")

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET)
        started.wait()
        server.settle()
        assert not client.has_more()
        go.set()
        assert client.read_response().status == 500
        assert client.read_rest() == b""
        (line,) = server.log.take("error")
        assert isinstance(line.error, ValueError)


# Date and Server.


def test_date_and_server_are_there_once(server: InProcess, script: Script) -> None:
    """RFC 9110, 6.6.1 and 10.2.4; docs/asgi.md, 73."""
    response, _ = exchange(server, script, GET, start(), body(b"ok"))
    assert response[b"server"] == b"gunicorn"
    assert parsedate_to_datetime(response[b"date"].decode()).tzinfo is not None
    assert response[b"date"].endswith(b" GMT")


@pytest.mark.parametrize(
    "headers",
    [[(b"date", b"mine")], [(b"Server", b"mine")], [(b"DATE", b"mine"), (b"server", b"mine")]],
    ids=["date", "server", "both"],
)
def test_the_application_may_bring_its_own_date_and_server(
    server: InProcess, script: Script, headers: Any
) -> None:
    response, _ = exchange(server, script, GET, start(200, *headers), body(b"ok"))
    own = {name.lower() for name, _ in headers}
    for name in (b"date", b"server"):
        assert (response[name] == b"mine") is (name in own)  # and once, or this raises


@pytest.mark.parametrize(
    ("date", "name"), [(True, ""), (False, "gunicorn"), (False, ""), (True, "my server/1.0")]
)
def test_date_and_server_can_be_turned_off_and_replaced(parser: str, date: bool, name: str) -> None:
    with serve(hello, parser, date_header=date, server_header=name) as server:
        client = server.connect()
        for data in (GET, b"bad\r\n\r\n"):
            client.send(data)
            response = client.read_response()
            assert response.values(b"server") == ([name.encode()] if name else [])
            assert len(response.values(b"date")) == date
        server.log.take("warning")


def test_the_date_is_refreshed_on_a_long_connection(server: InProcess, script: Script) -> None:
    script.messages = [start(), body(b"ok")]
    client = server.connect()
    client.send(GET)
    first = client.read_response()[b"date"]
    server.wait_until(lambda: first not in server.server.default_lines[0])
    client.send(GET)
    assert client.read_response()[b"date"] != first


# Connection.


@pytest.mark.parametrize(
    ("fields_", "kept"),
    [
        ([], True),
        ([b"Connection: close"], False),
        ([b"Connection: CLOSE"], False),
        ([b"Connection: foo, Close"], False),
        ([b"Connection: foo", b"Connection: close"], False),
        ([b"Connection: keep-alive"], True),
        ([b"Connection: keep-alive, close"], False),
        ([b"Connection: foo"], True),
    ],
)
def test_the_client_may_close(
    server: InProcess, script: Script, fields_: list[bytes], kept: bool
) -> None:
    """RFC 9112, 9.6; docs/asgi.md, 72: exactly one ``connection: close`` announces it."""
    response, is_open = exchange(
        server, script, request("GET", "/", *fields_), start(), body(b"ok")
    )
    assert response.values(b"connection") == ([] if kept else [b"close"])
    assert is_open is kept


@pytest.mark.parametrize(
    ("values", "sent", "kept"),
    [
        ([b"close"], [b"close"], False),
        ([b"Close"], [b"close"], False),
        ([b"foo, close"], [b"foo", b"close"], False),
        ([b"close", b"close"], [b"close"], False),
        ([b"keep-alive"], [], True),
        ([b"keep-alive", b"close"], [b"close"], False),
        ([b"foo"], [b"foo"], True),
        ([b""], [], True),
    ],
)
@pytest.mark.parametrize(
    "parts", [[body(b"ok")], [body(b"o", True), body(b"k")]], ids=["one", "two"]
)
def test_the_application_may_close(
    server: InProcess,
    script: Script,
    values: list[bytes],
    sent: list[bytes],
    kept: bool,
    parts: Messages,
) -> None:
    response, is_open = exchange(
        server, script, GET, start(200, *((b"connection", value) for value in values)), *parts
    )
    assert response.values(b"connection") == sent
    assert response.body == b"ok"
    assert is_open is kept


def test_the_application_cannot_keep_what_the_client_closes(
    server: InProcess, script: Script
) -> None:
    for data in (request("GET", "/", b"Connection: close"), GET10):
        response, kept = exchange(
            server, script, data, start(200, (b"connection", b"keep-alive")), body(b"ok")
        )
        assert response.values(b"connection") == [b"close"]
        assert not kept


def test_what_comes_behind_a_closing_request_is_not_answered(
    server: InProcess, script: Script
) -> None:
    """RFC 9112, 9.6."""
    script.messages = [start(), body(b"ok")]
    for data in (request("GET", "/", b"Connection: close"), GET10):
        client = server.connect()
        client.send(data + NEXT)
        assert client.read_response().body == b"ok"
        assert client.read_rest() == b""


def test_a_closing_connection_gives_the_client_the_whole_response(parser: str) -> None:
    """RFC 9112, 9.6: no reset while the client is still sending."""
    size = 2 * 1024 * 1024

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x" * size, headers=[(b"connection", b"close")])

    with serve(app, parser) as server:
        for data in (
            GET + b"y" * 100_000,
            request("POST", "/", b"Content-Length: 300000") + b"y" * 200_000,
        ):
            client = server.connect()
            client.send(data)
            assert len(client.read_response().body) == size
            assert client.read_rest() == b""


# 100 (Continue).

EXPECT = request("POST", "/", b"Expect: 100-continue", b"Content-Length: 5")


async def reads(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, await read_body(receive))


@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_100_is_sent_when_the_body_is_first_asked_for(parser: str, framing: bytes) -> None:
    """RFC 9110, 10.1.1; docs/asgi.md, 50."""
    called, go = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.set()
        await go.reached()
        await reads(scope, receive, send)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(request("POST", "/", b"Expect: 100-continue", framing))
        called.wait()
        server.settle()
        assert not client.has_more()
        go.set()
        informed = client.read_response()
        assert informed.status == 100
        assert informed.headers == []
        assert not client.has_more()
        client.send(b"hello" if framing.startswith(b"C") else b"5\r\nhello\r\n0\r\n\r\n")
        response = client.read_response()
        assert (response.status, response.body) == (200, b"hello")
        assert client.is_open()


def test_100_is_not_sent_to_http_1_0(parser: str) -> None:
    with serve(reads, parser) as server:
        client = server.connect()
        client.send(EXPECT.replace(b"HTTP/1.1", b"HTTP/1.0"))
        server.settle()
        assert not client.has_more()
        client.send(b"hello")
        assert client.read_response().body == b"hello"


def test_100_is_not_sent_when_the_body_is_on_its_way(parser: str) -> None:
    with serve(reads, parser) as server:
        client = server.connect()
        client.send(EXPECT + b"hello")
        assert client.read_response().body == b"hello"
        client.send(EXPECT + b"h")
        # part of it is here: the client has not waited
        server.settle()
        client.send(b"ello")
        response = client.read_response()
        assert (response.status, response.body) == (200, b"hello")


@pytest.mark.parametrize("parts", ["whole", "streamed"])
def test_100_is_never_sent_behind_a_final_status(parser: str, parts: str) -> None:
    """And a client that was told nothing is not made to send its body: the connection is closed."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if parts == "whole":
            await answer(send, b"no", 403)
        else:
            await send(start(403))
            await send(body(b"no", True))
            await send(body())
        assert (await receive())["type"] == "http.disconnect"

    with serve(app, parser) as server:
        client = server.connect()
        client.send(EXPECT)
        response = client.read_response()
        assert (response.status, response.body) == (403, b"no")
        if parts == "whole":
            assert response[b"connection"] == b"close"
        assert client.read_rest() == b""


def test_receive_within_a_streamed_response_sends_no_100(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(200))
        await send(body(b"o", True))
        assert (await receive())["body"] == b"hello"
        await send(body(b"k"))

    with serve(app, parser) as server:
        client = server.connect()
        client.send(EXPECT)
        assert client.recv_until(b"o\r\n").startswith(b"HTTP/1.1 200 ")
        server.settle()
        assert not client.has_more()
        client.send(b"hello")
        assert client.recv_until(b"0\r\n\r\n") == b"1\r\nk\r\n0\r\n\r\n"


def test_100_is_sent_once(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        first, second = start_task(receive()), start_task(receive())
        done, _ = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        await answer(send, done.pop().result()["body"])
        await asyncio.wait({first, second})

    with serve(app, parser) as server:
        client = server.connect()
        client.send(EXPECT)
        assert client.read_response().status == 100
        client.send(b"hello")
        assert client.read_response().body == b"hello"
