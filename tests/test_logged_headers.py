"""The log, the atoms and the hooks see the response headers that went out, or none: never refused ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from accesslog import AccessLog, make_access
from inprocess import Flag, answer, read_body, request
from ways import Way, serving
from ws import WAYS, serve_way, shake_hands

from gunicorn_asgi.errors import ApplicationError

VERSIONS = ["1.1", "h2"]
GOOD = [(b"x", b"good")]
START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": GOOD}
ACCEPT: dict[str, Any] = {"type": "websocket.accept"}
WENT_OUT = [("x", "good")]


class Told:
    """What the log and the hook ``post_request`` were given at each end: (status, headers)."""

    def __init__(self) -> None:
        self.log = AccessLog()
        self.hooked: list[tuple[int, list[tuple[str, str]]]] = []
        self.access = make_access(self.log, {"post_request": self._post_request})

    def _post_request(self, _worker: Any, _req: Any, _environ: Any, resp: Any) -> None:
        self.hooked.append((resp.status_code, resp.headers))

    def take(self) -> list[tuple[int, list[tuple[str, str]]]]:
        logged = [(line[4], line[6]) for line in self.log.lines]
        assert logged == self.hooked
        return logged


@contextmanager
def asking(app: Any, parser: str, version: str, **settings: Any) -> Iterator[tuple[Way, Told]]:
    told = Told()
    with serving(app, parser, version, access=told.access, **settings) as way:
        yield way, told


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def once(*fields: Any) -> Iterator[Any]:
    """They can be iterated over a single time."""
    return iter(fields)


def released() -> memoryview:
    view = memoryview(b"x")
    view.release()
    return view


REFUSED: dict[str, Callable[[], dict[str, Any]]] = {
    "str name": lambda: {"headers": [("x", b"refused")]},
    "str value": lambda: {"headers": [(b"x", "refused")]},
    "control character": lambda: {"headers": [(b"x", b"refused\n")]},
    "no token": lambda: {"headers": [(b"x y", b"refused")]},
    "no pair": lambda: {"headers": [(b"x", b"refused"), b"y"]},
    "no fields": lambda: {"headers": 1},
    "None": lambda: {"headers": None},
    "iterator": lambda: {"headers": once((b"x", b"refused"), ("y", b"z"))},
    "released view": lambda: {"headers": [(b"x", released())]},
    "content-length": lambda: {"headers": [(b"x", b"refused"), (b"content-length", b"-1")]},
    "content-lengths": lambda: {"headers": [(b"content-length", b"1"), (b"content-length", b"2")]},
    "status": lambda: {"status": 99, "headers": [(b"x", b"refused")]},
}


@pytest.fixture(params=REFUSED)
def refused(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {**START, **REFUSED[request.param]()}


async def try_all(send: Any) -> None:
    for make in REFUSED.values():
        await try_to_send(send, {**START, **make()})


async def try_to_send(send: Any, message: dict[str, Any]) -> None:
    with pytest.raises((ApplicationError, ValueError)):
        await send(message)


def test_headers_that_were_refused_are_not_seen_when_the_client_leaves(
    parser: str, version: str, refused: dict[str, Any]
) -> None:
    waiting = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await try_to_send(send, refused)
        waiting.set()
        await receive()
        await receive()

    with asking(app, parser, version) as (way, told):
        leave_before_the_response(way, waiting)
        assert told.take() == [(499, [])]


def leave_before_the_response(way: Way, waiting: Flag) -> None:
    client = way.connect()
    if way.is_h2:
        client.begin()
    else:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    waiting.wait()
    client.close()
    way.server.wait_until(way.server.is_idle)


def test_headers_that_were_held_and_did_not_go_out_are_not_seen(parser: str, version: str) -> None:
    waiting = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        waiting.set()
        await receive()
        await receive()

    with asking(app, parser, version) as (way, told):
        leave_before_the_response(way, waiting)
        assert told.take() == [(499, [])]


def test_the_headers_that_come_after_refused_ones_are_seen(parser: str, version: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await try_all(send)
        await answer(send, headers=GOOD)

    with asking(app, parser, version) as (way, told):
        assert way.fetch().values(b"x") == [b"good"]
        way.server.wait_until(lambda: told.hooked)
        assert told.take() == [(200, WENT_OUT)]


def test_the_headers_before_refused_ones_are_seen(parser: str, version: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await try_all(send)
        await send({"type": "http.response.body"})

    with asking(app, parser, version) as (way, told):
        assert way.fetch().values(b"x") == [b"good"]
        way.server.wait_until(lambda: told.hooked)
        assert told.take() == [(200, WENT_OUT)]


@pytest.mark.parametrize("is_started", [False, True])
def test_of_a_response_that_a_500_replaces_the_headers_of_that_are_seen(
    parser: str, version: str, is_started: bool
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if is_started:
            await send(START)
        await send({**START, "headers": [("x", b"refused")]})

    with asking(app, parser, version) as (way, told):
        found = way.fetch()
        assert (found.status, found.values(b"x")) == (500, [])
        way.server.wait_until(lambda: told.hooked)
        [(status, headers)] = told.take()
        assert (status, dict(headers)["content-type"]) == (500, "text/plain; charset=utf-8")
        assert "x" not in dict(headers)
        assert len(way.server.log.take("error")) == 1


def test_of_a_response_that_a_refusal_replaces_no_headers_are_seen(
    parser: str, version: str
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        with pytest.raises(EOFError):
            await read_body(receive)

    with asking(app, parser, version, body_timeout=5) as (way, told):
        client = way.connect()
        if way.is_h2:
            stream = client.begin("POST", "/", end=False)
            client.synchronize()
        else:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        way.server.wait_until(lambda: way.server.server.tasks)
        way.server.advance(6)
        response = client.read_response(stream) if way.is_h2 else client.read_response()
        assert (response.status, response.values(b"x")) == (408, [])
        assert told.take() == [(408, [])]
        assert len(way.server.log.take("warning")) == 1


@pytest.mark.parametrize(
    "make", [bytearray, lambda value: memoryview(bytearray(value))], ids=["bytearray", "memoryview"]
)
def test_a_value_that_changes_later_is_seen_as_it_went_out(
    parser: str, version: str, make: Any
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        value = make(b"good")
        headers = [[b"x", value]]
        await send({**START, "headers": headers})
        await send({"type": "http.response.body", "more_body": True})
        value[:] = b"late"
        headers[0][0] = b"y"
        headers.append([b"z", b"late"])
        if isinstance(value, memoryview):
            value.release()
        await send({"type": "http.response.body"})

    with asking(app, parser, version) as (way, told):
        assert way.fetch().values(b"x") == [b"good"]
        way.server.wait_until(lambda: told.hooked)
        assert told.take() == [(200, WENT_OUT)]


@pytest.mark.parametrize("is_logged", [True, False])
def test_headers_of_an_iterator_are_taken_once_whoever_listens(
    parser: str, version: str, is_logged: bool
) -> None:
    errors: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({**START, "headers": once((b"x", b"1"), ("y", b"2"), (b"z", b"3"))})
        except ApplicationError as error:
            errors.append(str(error))
        await answer(send, headers=once(*GOOD))

    told = Told()
    with serving(app, parser, version, access=told.access if is_logged else None) as way:
        assert way.fetch().values(b"x") == [b"good"]
    assert errors == ["a header name must be bytes, not str ('y')"]
    assert told.take() == ([(200, WENT_OUT)] if is_logged else [])


def test_trailers_and_early_hints_are_not_among_the_headers(parser: str, version: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</a>; rel=preload"]})
        await try_to_send(send, {"type": "http.response.early_hint", "links": [b"refused\n"]})
        await send({**START, "trailers": True})
        await send({"type": "http.response.body"})
        await try_to_send(send, {"type": "http.response.trailers", "headers": [("x", b"refused")]})
        await send({"type": "http.response.trailers", "headers": [(b"x", b"late")]})

    with asking(app, parser, version) as (way, told):
        client = way.connect()
        if way.is_h2:
            assert client.get("GET", "/", (b"te", b"trailers")).trailers == [(b"x", b"late")]
        else:
            client.send(request("GET", "/", b"TE: trailers", b"Connection: close"))
            assert client.read_rest().endswith(b"\r\n0\r\nx: late\r\n\r\n")
        way.server.wait_until(lambda: told.hooked)
        assert told.take() == [(200, WENT_OUT)]


# WebSockets.

REFUSED_ACCEPTS: dict[str, dict[str, Any]] = {
    "str name": {"headers": [("x", b"refused")]},
    "control character": {"headers": [(b"x", b"refused\n")]},
    "the server's": {"headers": [(b"x", b"refused"), (b"upgrade", b"x")]},
    "subprotocol": {"subprotocol": "refused", "headers": [(b"x", b"refused")]},
}


async def try_all_accepts(send: Any) -> None:
    for given in REFUSED_ACCEPTS.values():
        await try_to_send(send, {**ACCEPT, **given})


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=REFUSED_ACCEPTS)
def refused_accept(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {**ACCEPT, **REFUSED_ACCEPTS[request.param]}


def test_headers_of_an_accept_that_was_refused_are_not_seen_when_the_client_leaves(
    way: str, refused_accept: dict[str, Any]
) -> None:
    told, waiting, left = Told(), Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await try_to_send(send, refused_accept)
        waiting.set()
        assert (await receive())["type"] == "websocket.disconnect"
        left.set()

    with serve_way(app, way, access=told.access) as server:
        client = shake_hands(server, way)
        waiting.wait()
        client.close()
        for connection in server.clients:
            connection.close()
        left.wait()
        server.wait_until(lambda: told.hooked)
        assert told.take() == [(499, [])]


@pytest.mark.parametrize("denial", ["websocket.close", "websocket.http.response.start", None])
def test_of_a_handshake_that_is_denied_after_a_refused_accept_the_headers_of_the_denial_are_seen(
    way: str, denial: str | None
) -> None:
    told = Told()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await try_all_accepts(send)
        if denial == "websocket.close":
            await send({"type": denial})
        elif denial is not None:
            await try_to_send(send, {"type": denial, "status": 404, "headers": [("x", b"refused")]})
            await send({"type": denial, "status": 404, "headers": GOOD})
            await send({"type": "websocket.http.response.body"})

    with serve_way(app, way, access=told.access) as server:
        expected = {"websocket.close": 403, "websocket.http.response.start": 404, None: 500}[denial]
        assert shake_hands(server, way).read_response().status == expected
        server.wait_until(lambda: told.hooked)
        [(status, headers)] = told.take()
        assert status == expected
        assert dict(headers).get("x") == ("good" if expected == 404 else None)
        assert len(server.log.take("error")) == (expected == 500)


def test_the_headers_of_the_accept_are_seen(way: str) -> None:
    told = Told()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await try_all_accepts(send)
        value = bytearray(b"good")
        await send({**ACCEPT, "headers": [(b"x", value)]})
        value[:] = b"late"
        await send({"type": "websocket.close"})

    with serve_way(app, way, access=told.access) as server:
        assert shake_hands(server, way).read_head().status in (101, 200)
        for connection in server.clients:
            connection.close()
        server.wait_until(lambda: told.hooked)
        [(_, headers)] = told.take()
        assert dict(headers)["x"] == "good"
