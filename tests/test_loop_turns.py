"""An application that asks again and again after the end does not hold the event loop.

So other requests are served meanwhile, and the application itself can be cancelled.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from inprocess import Flag, answer, request
from ways import Way, serving
from ws import WAYS, connect, serve_way, shake_hands

from gunicorn_asgi.asgi.exchange import PARTS_PER_TURN

TRANSPORTS = ["1.1", "tls", "h2", "h2-tls"]
PATIENCE = 1000
"""Calls without a turn of the loop after which an application counts as holding it. More than are ever sent at once."""
START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
BODY: dict[str, Any] = {"type": "http.response.body", "body": b""}
PART = {**BODY, "more_body": True}

Call = Callable[[], Awaitable[Any]]


class Spinning:
    """Calls something for ever, as a careless application does, whatever it raises or returns.

    An application that holds the loop would hang its test. This one gives up, and the failure is logged.
    """

    def __init__(self) -> None:
        self.begun = Flag()
        self.stopped = Flag()
        self.cancelled = Flag()

    async def spin(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        turns: list[None] = [None]
        calls = 0
        try:
            while not self.stopped.is_set():
                if turns:
                    turns.clear()
                    loop.call_soon(turns.append, None)
                    calls = 0
                calls += 1
                assert calls < PATIENCE, "the loop does not turn"
                with suppress(Exception):
                    await call()
                if calls > 2 or turns:
                    self.begun.set()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def on(path: str, app: Any) -> Any:
    """`app` on that path, and a plain answer on all others."""

    async def site(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == path:
            await app(scope, receive, send)
        else:
            await answer(send)

    return site


def assert_serves(asked: Way) -> None:
    assert asked.fetch(path="/other").status == 200


def begin_upload(asked: Way) -> Any:
    """A client that has sent half a body."""
    client = asked.connect()
    if asked.is_h2:
        stream = client.begin("POST", "/spin", end=False)
        client.upload(stream, b"half", end=False)
    else:
        client.send(request("POST", "/spin", b"Content-Length: 8") + b"half")
    return client


def begin_get(asked: Way, method: str = "GET") -> Any:
    client = asked.connect()
    if asked.is_h2:
        client.begin(method, "/spin", (b"te", b"trailers"))
    else:
        client.send(request(method, "/spin", b"TE: trailers"))
    return client


# After the client has gone.


def receives(receive: Any, send: Any) -> Call:
    return receive  # type: ignore[no-any-return]


def starts(receive: Any, send: Any) -> Call:
    return partial(send, START)


def both(receive: Any, send: Any) -> Call:
    async def call() -> None:
        await receive()
        await send(START)

    return call


@pytest.mark.parametrize("what", [receives, starts, both])
def test_an_application_that_ignores_a_lost_client_is_cancelled_and_others_are_served(
    parser: str, transport: str, what: Callable[[Any, Any], Call]
) -> None:
    spinning = Spinning()
    reading = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"half"
        reading.set()
        assert (await receive())["type"] == "http.disconnect"
        await spinning.spin(what(receive, send))

    with serving(on("/spin", app), parser, transport, asgi_disconnect_grace_period=30) as asked:
        client = begin_upload(asked)
        reading.wait()
        client.close()
        spinning.begun.wait()
        assert_serves(asked)
        assert not spinning.cancelled.is_set()
        asked.server.advance(32)
        spinning.cancelled.wait()


def test_a_loop_that_waits_for_the_end_of_a_body_ends_with_its_client(
    parser: str, transport: str
) -> None:
    """As applications are written: what it looks for never comes."""
    spinning = Spinning()
    reading = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def read() -> None:
            message = await receive()
            reading.set()
            assert message.get("more_body") is not False

        await spinning.spin(read)

    with serving(on("/spin", app), parser, transport) as asked:
        client = begin_upload(asked)
        reading.wait()
        client.close()
        spinning.begun.wait()
        asked.server.wait_lost()
        asked.server.advance(10)
        spinning.cancelled.wait()


def tells_at_once(call: Call) -> bool:
    """Whether it returns or raises without waiting; if it waits, it is cancelled, as frameworks do that poll."""
    step = call()
    assert isinstance(step, Coroutine)
    try:
        step.send(None)
    except (StopIteration, OSError):
        return True
    step.close()
    return False


def leave_amid_upload(asked: Way, reading: Flag, over: Flag) -> None:
    """Be gone once the application is `reading`; it goes on when the server knows, and ends."""
    client = begin_upload(asked)
    reading.wait()
    client.close()
    asked.server.wait_lost()
    over.set()
    asked.server.wait_until(asked.server.is_idle)


def test_a_disconnect_is_told_at_once_but_for_a_few_times(parser: str, transport: str) -> None:
    """A framework that polls learns of it, whoever else was told before, and at the latest when it asks again."""
    reading, over = Flag(), Flag()
    told: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        reading.set()
        await over.reached()
        told.append(tells_at_once(partial(send, START)))
        told.extend(tells_at_once(receive) for _ in range(200))

    with serving(on("/spin", app), parser, transport) as asked:
        leave_amid_upload(asked, reading, over)
    assert told[:PARTS_PER_TURN].count(True) == PARTS_PER_TURN - 1
    assert all(told[:5])
    assert told.count(False) == 201 // PARTS_PER_TURN
    assert not any(first is second is False for first, second in itertools.pairwise(told))


def test_starlette_sees_that_the_client_has_gone_as_often_as_it_looks(
    parser: str, transport: str
) -> None:
    requests = pytest.importorskip("starlette.requests")
    reading, over = Flag(), Flag()
    seen: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        reading.set()
        await over.reached()
        with suppress(OSError):
            await send(START)
        seen.extend([await requests.Request(scope, receive).is_disconnected() for _ in range(5)])

    with serving(on("/spin", app), parser, transport) as asked:
        leave_amid_upload(asked, reading, over)
    assert seen == [True] * 5


def test_a_client_that_will_send_no_more_is_told_of_again_and_again(parser: str) -> None:
    spinning = Spinning()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        await spinning.spin(receive)
        await answer(send)

    with serving(on("/spin", app), parser, "1.1") as asked:
        client = begin_get(asked)
        asked.server.wait_until(lambda: asked.server.server.tasks)
        client.send_eof()
        asked.server.wait_half_closed()
        asked.server.advance(3)
        spinning.begun.wait()
        assert_serves(asked)
        spinning.stopped.set()
        assert client.read_response().status == 200


# After the response.


@pytest.mark.parametrize("what", [receives, starts, both])
def test_an_application_that_goes_on_after_its_response_lets_others_be_served(
    parser: str, transport: str, what: Callable[[Any, Any], Call]
) -> None:
    """It is not cancelled: it may be a background task."""
    spinning = Spinning()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        await spinning.spin(what(receive, send))

    with serving(on("/spin", app), parser, transport) as asked:
        client = asked.connect()
        assert asked.ask(client, path="/spin").is_whole
        spinning.begun.wait()
        assert asked.ask(client, path="/other").is_whole
        assert_serves(asked)
        spinning.stopped.set()


# Messages that are refused.

REFUSED: dict[str, tuple[list[dict[str, Any]], Any]] = {
    "no dict": ([], None),
    "no type": ([], {}),
    "a body before its head": ([], BODY),
    "debug": ([], {"type": "http.response.debug", "info": {}}),
    "a faulty header": ([], {**START, "headers": [("x", b"1")]}),
    "a faulty status": ([], {**START, "status": 0}),
    "a second head": ([START], START),
    "a body that is none": ([START], {**BODY, "body": "text"}),
    "a released view": ([START], {**BODY, "body": memoryview(b"")[::2]}),
    "no path": ([START], {"type": "http.response.pathsend", "path": "/no/such/file"}),
    "no file": ([START], {"type": "http.response.zerocopysend", "file": None}),
    "a hint that is none": ([], {"type": "http.response.early_hint", "links": 1}),
    "trailers that nobody expects": ([START], {"type": "http.response.trailers"}),
    "another body": ([{**START, "trailers": True}, BODY], BODY),
    "trailers that may not be": (
        [{**START, "trailers": True}, BODY],
        {"type": "http.response.trailers", "headers": [(b"host", b"a")]},
    ),
}
ENDLESS: dict[str, tuple[list[dict[str, Any]], Any]] = {
    "empty parts": ([START], PART),
    "hints": ([], {"type": "http.response.early_hint", "links": [b"</>"]}),
    "no hints": ([], {"type": "http.response.early_hint", "links": []}),
    "late hints": ([START, PART], {"type": "http.response.early_hint", "links": [b"</>"]}),
    "trailers": (
        [{**START, "trailers": True}, BODY],
        {"type": "http.response.trailers", "headers": [], "more_trailers": True},
    ),
}


@pytest.mark.parametrize("version", ["1.1", "h2"])
@pytest.mark.parametrize(
    ("what", "method"),
    [
        *((what, "GET") for what in [*REFUSED, *ENDLESS]),
        ("empty parts", "HEAD"),
        ("late hints", "HEAD"),
    ],
)
def test_an_application_that_sends_without_an_end_lets_others_be_served(
    parser: str, version: str, what: str, method: str
) -> None:
    spinning = Spinning()
    before, message = {**REFUSED, **ENDLESS}[what]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for earlier in before:
            await send(earlier)
        await spinning.spin(partial(send, message))
        with suppress(Exception):
            await answer(send)

    with serving(on("/spin", app), parser, version) as asked:
        client = begin_get(asked, method)
        spinning.begun.wait()
        assert_serves(asked)
        spinning.stopped.set()
        client.close()
        asked.server.wait_until(asked.server.is_idle)
        for line in asked.server.log.take("error"):  # some responses were never whole
            assert not isinstance(line.error, AssertionError), line


# Reading what is there.


def test_an_application_that_reads_a_long_body_lets_the_loop_turn(
    parser: str, transport: str
) -> None:
    """All that is here is one message, and more comes with a turn of the loop only."""
    size = 4_000_000
    reading = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        loop = asyncio.get_running_loop()
        await reading.reached()
        turns: list[None] = []
        left, calls = size, 0
        while left:
            if turns or not calls:
                turns.clear()
                loop.call_soon(turns.append, None)
                calls = 0
            calls += 1
            assert calls < 4, "the loop does not turn"
            left -= len((await receive())["body"])
        await answer(send)

    with serving(on("/spin", app), parser, transport) as asked:
        client = asked.connect()
        reading.set()
        if asked.is_h2:
            stream = client.begin("POST", "/spin", end=False)
            client.upload(stream, bytes(size))
            assert client.read_response(stream).status == 200
        else:
            client.send(request("POST", "/spin", b"Content-Length: %d" % size) + bytes(size))
            assert client.read_response().status == 200


# WebSockets.

ACCEPT: dict[str, Any] = {"type": "websocket.accept"}
CLOSE: dict[str, Any] = {"type": "websocket.close"}
TEXT: dict[str, Any] = {"type": "websocket.send", "text": "x"}
REFUSED_OPEN: dict[str, Any] = {
    "no dict": None,
    "no type": {},
    "accept": ACCEPT,
    "nothing": {"type": "websocket.send"},
    "a code": {**CLOSE, "code": 1},
}
REFUSED_CONNECTING: dict[str, Any] = {
    "no dict": None,
    "a message": TEXT,
    "a faulty header": {**ACCEPT, "headers": [("x", b"1")]},
    "a subprotocol": {**ACCEPT, "subprotocol": "x"},
    "a status": {"type": "websocket.http.response.start", "status": 100},
}


def websocket(app: Any) -> Any:
    async def site(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            assert (await receive())["type"] == "websocket.connect"
            await app(receive, send)
        else:
            await answer(send)

    return site


CALLS: dict[str, Callable[[Any, Any], Call]] = {
    "receive": receives,
    "send": lambda receive, send: partial(send, TEXT),
    "close": lambda receive, send: partial(send, CLOSE),
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("is_closed_by", ["client", "loss", "application"])
def test_an_application_that_ignores_the_end_of_its_websocket_is_cancelled(
    way: str, what: str, is_closed_by: str
) -> None:
    spinning = Spinning()

    async def app(receive: Any, send: Any) -> None:
        await send(ACCEPT)
        if is_closed_by == "application":
            await send(CLOSE)
        assert (await receive())["type"] == "websocket.disconnect"
        await spinning.spin(CALLS[what](receive, send))

    with serve_way(websocket(app), way, asgi_disconnect_grace_period=30) as server:
        ws = connect(server)
        if is_closed_by == "client":
            ws.close()
        elif is_closed_by == "application":
            ws.answer_close()
        for client in server.clients:
            client.close()
        spinning.begun.wait()
        server.settle()
        assert not spinning.cancelled.is_set()
        server.advance(32)
        spinning.cancelled.wait()


@pytest.mark.parametrize("what", [*CALLS, *REFUSED_OPEN])
def test_an_application_that_goes_on_after_its_close_or_a_fault_lets_the_loop_turn(
    way: str, what: str
) -> None:
    spinning = Spinning()

    async def app(receive: Any, send: Any) -> None:
        await send(ACCEPT)
        if what in CALLS:
            await send(CLOSE)
        await spinning.spin(
            CALLS[what](receive, send) if what in CALLS else partial(send, REFUSED_OPEN[what])
        )

    with serve_way(websocket(app), way) as server:
        ws = connect(server)
        if what in CALLS:
            ws.answer_close()
        spinning.begun.wait()
        server.settle()
        spinning.stopped.set()
        if what not in CALLS:
            assert ws.read_close()[0] == 1000


@pytest.mark.parametrize(
    ("what", "is_denied"),
    [
        *((what, True) for what in [*CALLS, *REFUSED_CONNECTING]),
        *((what, False) for what in REFUSED_CONNECTING),
    ],
)
def test_an_application_that_goes_on_before_or_after_a_denial_lets_the_loop_turn(
    way: str, what: str, is_denied: bool
) -> None:
    spinning = Spinning()

    async def app(receive: Any, send: Any) -> None:
        if is_denied:
            await send(CLOSE)
        await spinning.spin(
            CALLS[what](receive, send) if what in CALLS else partial(send, REFUSED_CONNECTING[what])
        )
        if not is_denied:
            await send(CLOSE)

    with serve_way(websocket(app), way) as server:
        client = shake_hands(server, way)
        spinning.begun.wait()
        server.settle()
        spinning.stopped.set()
        assert client.read_response().status == 403
