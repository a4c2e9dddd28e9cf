"""One exchange as the application sees it: docs/asgi.md, 1 to 19, 38 to 51, 58 to 71, 75 and 154 to 157.

Over HTTP/1.1, with either parser; nothing here is particular to it.
"""

from __future__ import annotations

import ast
import asyncio
import contextvars
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from inprocess import GET, Flag, Truncated, answer, hello, mirror, read_body, request, serve
from libraries import current_task, start_task, within
from ways import serving

from gunicorn_asgi.errors import ApplicationError, ClientDisconnected

pytestmark = pytest.mark.both_libraries

POST_5 = request("POST", "/", b"Content-Length: 5")
CHUNKED = request("POST", "/", b"Transfer-Encoding: chunked")
HANDSHAKE = request(
    "GET",
    "/",
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)
DISCONNECT = {"type": "http.disconnect"}


def part(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}


# receive().


@pytest.mark.parametrize(
    "data", [GET, request("POST", "/", b"Content-Length: 0"), b"GET / HTTP/1.0\r\n\r\n"]
)
def test_a_request_without_a_body_is_one_empty_message(parser: str, data: bytes) -> None:
    """docs/asgi.md, 42 and 43."""
    messages: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        messages.append(await receive())
        await answer(send)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(data)
        client.read_response()
        assert messages == [{"type": "http.request", "body": b"", "more_body": False}]


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_the_body_arrives_part_by_part_and_ends_once(parser: str, framing: str) -> None:
    """docs/asgi.md, 7, 39, 42, 44 and 45: the application runs on the head, and gets what there is."""
    got = [Flag(), Flag(), Flag()]
    messages: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got[0].set()
        while not messages or messages[-1]["more_body"]:
            messages.append(await receive())
            got[min(len(messages), 2)].set()
        await answer(send)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(POST_5 if framing == "length" else CHUNKED)
        got[0].wait()
        client.send(b"he" if framing == "length" else b"2\r\nhe\r\n")
        got[1].wait()
        client.send(b"llo" if framing == "length" else b"3\r\nllo\r\n0\r\n\r\n")
        assert client.read_response().status == 200
        assert b"".join(message["body"] for message in messages) == b"hello"
        assert [message["more_body"] for message in messages] == [True] * (len(messages) - 1) + [
            False
        ]
        assert all(
            type(message["body"]) is bytes and message["type"] == "http.request"
            for message in messages
        )


def test_parts_that_came_meanwhile_are_one_message(parser: str) -> None:
    go = Flag()
    messages: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.reached()
        messages.append(await receive())
        await answer(send)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(POST_5)
        for byte in (b"h", b"e", b"l", b"l", b"o"):
            client.send(byte)
        server.wait_unread(5)
        go.set()
        client.read_response()
        assert messages == [{"type": "http.request", "body": b"hello", "more_body": False}]


def test_behind_the_body_receive_waits_and_behind_the_response_it_says_so(parser: str) -> None:
    """docs/asgi.md, 46 and 47."""
    waiting = Flag()
    messages: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        listener = start_task(receive())
        await asyncio.sleep(0)
        waiting.set()
        assert not listener.done()
        await answer(send)
        messages.append(await listener)
        messages.extend([await receive(), await receive()])

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET)
        client.read_response()
        server.wait_until(lambda: len(messages) == 3)
        assert messages == [DISCONNECT] * 3
        assert client.is_open()


def test_an_unread_body_is_gone_behind_the_response(parser: str) -> None:
    """docs/asgi.md, 46: nothing but the end comes then."""
    messages: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        messages.append(await receive())

    with serve(app, parser) as server:
        client = server.connect()
        client.send(POST_5 + b"hello")
        client.read_response()
        server.wait_until(lambda: messages)
        assert messages == [DISCONNECT]


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("where", ["body", "response", "before the response"])
def test_a_client_that_goes_away_wakes_receive(parser: str, how: str, where: str) -> None:
    """docs/asgi.md, 46 to 48; a half-closed connection is only believed to be given up after a while, a reset one at once."""
    waiting, done = Flag(), Flag()
    messages: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if where != "body":
            await receive()
        if where == "response":
            await send(START)
            await send(part(b"x"))
        waiting.set()
        messages.extend([await receive(), await receive()])
        done.set()

    with serve(app, parser) as server:
        client = server.connect()
        client.send(POST_5 if where == "body" else GET)
        waiting.wait()
        if where == "response":
            client.recv_until(b"x\r\n")
        if how == "close":
            client.close()
            if where != "body":
                server.wait_half_closed()
                server.advance(2)
        else:
            client.reset()
        done.wait()
        assert messages == [DISCONNECT] * 2


def test_a_cancelled_receive_loses_nothing(parser: str) -> None:
    """docs/asgi.md, 49."""
    waiting, go = Flag(), Flag()
    bodies: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            listener = start_task(receive())
            await asyncio.sleep(0)
            listener.cancel()
            with pytest.raises(asyncio.CancelledError):
                await listener
        listener = start_task(receive())
        await asyncio.sleep(0)
        waiting.set()
        await go.reached()
        # the body is here, and the listener woken but not run: cancelling it now must not drop what it was to get
        listener.cancel()
        with suppress(asyncio.CancelledError):
            bodies.append((await listener)["body"])
        if not bodies:
            bodies.append(await read_body(receive))
        await answer(send, b"".join(bodies))

    with serve(app, parser) as server:
        client = server.connect()
        client.send(POST_5)
        waiting.wait()
        client.send(b"hello")
        server.wait_body_ended()
        go.set()
        assert client.read_response().body == b"hello"


def test_receive_with_a_time_limit_loses_nothing(parser: str) -> None:
    """docs/asgi.md, 49, as ``asyncio.wait_for`` and ``trio.move_on_after`` do it."""
    again = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with suppress(asyncio.TimeoutError):
            await within(receive(), 0.001)
        again.set()
        await answer(send, await read_body(receive))

    with serve(app, parser) as server:
        client = server.connect()
        client.send(POST_5)
        again.wait()
        client.send(b"hello")
        assert client.read_response().body == b"hello"


def test_two_that_receive_at_once_share_the_body_and_both_hear_the_end(parser: str) -> None:
    """Django listens beside reading (docs/asgi.md, 157)."""
    waiting = Flag()
    messages: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            while not messages or messages[-1]["type"] != "http.disconnect":
                messages.append(await receive())

        listeners = [start_task(listen()), start_task(listen())]
        await asyncio.sleep(0)
        waiting.set()
        while sum(len(message.get("body", b"")) for message in messages) < 5:
            await asyncio.sleep(0)
        await answer(send)
        await asyncio.gather(*listeners)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(POST_5)
        waiting.wait()
        client.send(b"he")
        client.send(b"llo")
        assert client.read_response().status == 200
        server.wait_until(lambda: not server.server.tasks)
        assert b"".join(message.get("body", b"") for message in messages) == b"hello"
        assert messages.count(DISCONNECT) in (1, 2)


# send() without a client.


@pytest.mark.parametrize("phase", ["before", "within"])
def test_send_raises_when_the_client_is_gone(parser: str, phase: str) -> None:
    """docs/asgi.md, 68 and 69: an OSError, which is no error in the log when it leaves the application."""
    waiting, done = Flag(), Flag()
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if phase == "within":
            await send(START)
            await send(part(b"x"))
        waiting.set()
        assert await receive() == DISCONNECT
        for _ in range(2):
            try:
                await send(START if phase == "before" else part(b"y"))
            except OSError as error:
                raised.append(error)
        done.set()
        raise raised[0]

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET)
        waiting.wait()
        client.reset()
        done.wait()
        assert [type(error) for error in raised] == [ClientDisconnected] * 2
    assert not server.log.take("error")


class Group(Exception):
    """As anyio's and Python's, on any Python."""

    def __init__(self, *exceptions: BaseException) -> None:
        super().__init__("group")
        self.exceptions = exceptions


@pytest.mark.parametrize(
    "wrap",
    [lambda error: error, Group, lambda error: Group(Group(error), error)],
    ids=["bare", "group", "groups"],
)
def test_a_disconnect_that_leaves_the_application_is_not_logged(parser: str, wrap: Any) -> None:
    """docs/asgi.md, 15 and 69, also when a task group has wrapped it."""
    waiting = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        waiting.set()
        await receive()
        try:
            await answer(send)
        except OSError as error:
            raise wrap(error) from None

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET)
        waiting.wait()
        client.reset()
        server.wait_until(server.is_idle)
        assert not server.log.take("error")


def test_what_a_disconnect_has_ended_is_released_at_once(parser: str) -> None:
    """A cycle would leave it to the garbage collector, which would close its generators much later."""
    waiting, released = Flag(), Flag()

    class Resource:
        def __del__(self) -> None:
            released.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        resource = Resource()
        await receive()
        waiting.set()
        await receive()
        await answer(send)
        del resource

    gc.disable()
    try:
        with serve(app, parser) as server:
            client = server.connect()
            client.send(GET)
            waiting.wait()
            client.reset()
            released.wait()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda error: Group(error, ValueError("other")),
        lambda _: OSError("other"),
        lambda _: ConnectionResetError("a database"),
        lambda _: Group(),
    ],
    ids=["group", "OSError", "reset", "empty group"],
)
def test_another_error_is_logged_though_the_client_is_gone(parser: str, wrap: Any) -> None:
    waiting = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        waiting.set()
        await receive()
        try:
            await answer(send)
        except OSError as error:
            raise wrap(error) from None

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET)
        waiting.wait()
        client.reset()
        server.wait_until(server.is_idle)
        (line,) = server.log.take("error")
        assert line.error is not None


def test_an_error_of_the_disconnect_kind_is_logged_while_the_client_is_there(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ClientDisconnected("of another connection")

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET)
        assert client.read_response().status == 500
        (line,) = server.log.take("error")
        assert isinstance(line.error, ClientDisconnected)


# How an application may end.


class Odd(BaseException):
    pass


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        RuntimeError("x"),
        OSError("x"),
        Odd("x"),
        Group(ValueError("x")),
        StopAsyncIteration(),
        GeneratorExit(),
    ],
)
@pytest.mark.parametrize("when", ["at once", "after receive", "after start"])
def test_an_exception_before_the_first_body_is_a_clean_500(
    parser: str, error: BaseException, when: str
) -> None:
    """docs/asgi.md, 13, 58 and 67; logged once, with its traceback."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if when != "at once":
            await receive()
        if when == "after start":
            await send(
                {
                    "type": "http.response.start",
                    "status": 201,
                    "headers": [(b"content-length", b"100"), (b"x-secret", b"y")],
                }
            )
        raise error

    with serve(app, parser) as server:
        for method in ("GET", "HEAD"):
            client = server.connect()
            client.send(request(method) + GET)
            response = client.read_response(method)
            assert (response.status, response.body) == (
                500,
                b"" if method == "HEAD" else b"Internal Server Error",
            )
            assert response[b"content-type"] == b"text/plain; charset=utf-8"
            assert response[b"content-length"] == b"21"
            assert response[b"connection"] == b"close"
            assert not response.values(b"x-secret")
            assert client.read_rest() == b""
            (line,) = server.log.take("error")
            assert line.error is error
            assert line.error.__traceback__ is not None
            assert f"{method} /" in line.text


@pytest.mark.parametrize(
    "data",
    [GET, b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"],
    ids=["1.1", "1.0", "1.0 keep-alive"],
)
@pytest.mark.parametrize("declared", [False, True], ids=["unknown", "declared"])
@pytest.mark.parametrize("how", ["raise", "return"])
def test_a_response_that_breaks_off_does_not_look_whole(
    parser: str, data: bytes, declared: bool, how: str
) -> None:
    """docs/asgi.md, 66 and 67: no last chunk, less than the length, and a reset where the end of the connection would be the end of the body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "headers": [(b"content-length", b"10")] if declared else []})
        await send(part(b"half"))
        if how == "raise":
            raise ValueError("broken")

    with serve(app, parser) as server:
        client = server.connect()
        client.send(data)
        with pytest.raises((Truncated, ConnectionResetError)) as caught:
            client.read_response()
        if not declared and b"1.0" in data:
            assert caught.type is ConnectionResetError
        (line,) = server.log.take("error")
        assert (line.error is not None) is (how == "raise")


@pytest.mark.parametrize("start", [False, True], ids=["nothing", "start only"])
def test_an_application_that_returns_without_a_body_is_a_500(parser: str, start: bool) -> None:
    """docs/asgi.md, 66."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if start:
            await send(START)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET)
        response = client.read_response()
        assert (response.status, response.body) == (500, b"Internal Server Error")
        assert client.read_rest() == b""
        (line,) = server.log.take("error")
        assert line.error is None


@pytest.mark.parametrize("version", ["1.1", "h2"])
@pytest.mark.parametrize("sent", [[], [START], [START, part(b"")], [START, part(b"a"), part(b"b")]])
def test_an_application_that_returns_amid_a_streamed_response_is_logged_as_such(
    parser: str, version: str, sent: list[dict[str, Any]]
) -> None:
    """And not as one that has sent nothing, which gets another answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in sent:
            await send(message)

    with serving(app, parser, version) as way:
        found = way.fetch()
        assert (found.status, found.is_whole) == ((200, False) if len(sent) > 1 else (500, True))
        (line,) = way.server.log.take("error")
        what = "completing its response to" if len(sent) > 1 else "sending a response to"
        assert line.text == f"ASGI application returned without {what} GET /"


def test_an_exception_behind_the_response_is_logged_and_harms_nothing(parser: str) -> None:
    """As in background work of frameworks."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        if scope["path"] == "/raise":
            raise ValueError("afterwards")

    with serve(app, parser) as server:
        client = server.connect()
        for target in ("/raise", "/", "/raise", "/"):
            client.send(request("GET", target))
            assert client.read_response().body == b"ok"
        lines = server.log.take("error")
        assert [type(line.error) for line in lines] == [ValueError] * 2


def test_work_behind_the_response_does_not_hold_up_the_next_request(parser: str) -> None:
    """The response is complete, so the connection is free (docs/asgi.md, 61), and the work goes on without it."""
    go = Flag()
    finished: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        if scope["path"] == "/work":
            await go.reached()
            finished.append(scope["path"])

    with serve(app, parser) as server:
        client = server.connect()
        client.send(request("GET", "/work"))
        assert client.read_response().body == b"ok"
        client.send(GET)
        assert client.read_response().body == b"ok"
        client.close()
        server.wait_until(lambda: not server.server.connections)
        assert not finished
        go.set()
        server.wait_until(lambda: finished)


def test_an_application_that_is_cancelled_by_itself_is_a_500(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET)
        assert client.read_response().status == 500
        assert len(server.log.take("error")) == 1


@pytest.mark.parametrize("is_websocket", [False, True], ids=["request", "WebSocket"])
def test_an_application_that_is_cancelled_before_its_first_step_leaves_nothing(
    parser: str, is_websocket: bool
) -> None:
    """Before Python 3.12, its task takes the first step in a later turn of the loop."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    with serve(app, parser) as server:
        client = server.connect()
        server.wait_connected()

        def begin_and_cancel() -> None:
            [connection] = server.server.connections
            connection.data_received(HANDSHAKE if is_websocket else GET)
            for task in list(server.server.tasks):
                task.cancel()

        server.call(begin_and_cancel)
        assert client.read_response().status == 500
        client.close()
        server.wait_until(server.is_idle)
        assert [line.text for line in server.log.take("error")] == [
            "ASGI application was cancelled, handling request GET /"
        ]


def test_an_application_that_ignores_a_disconnect_is_cancelled_after_the_grace_period(
    parser: str,
) -> None:
    """Gunicorn's ``asgi_disconnect_grace_period``; the cancellation is no error."""
    waiting, cancelled = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET)
        waiting.wait()
        client.reset()
        server.wait_lost()
        server.advance(2)
        assert not cancelled.is_set()
        server.advance(2)
        cancelled.wait()
        server.wait_until(server.is_idle)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SystemExit(7), 7),
        (SystemExit(3), 1),
        (SystemExit(), 0),
        (SystemExit("bye"), 1),
        (KeyboardInterrupt(), 1),
    ],
)
def test_an_application_that_exits_ends_the_process(
    parser: str, error: BaseException, code: int
) -> None:
    """As it would anywhere else; the loop goes on until the worker has left in order."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET)
        client.read_rest()
        server.wait_until(lambda: server.host.left)
        assert server.host.left == [code]
        if error.args == ("bye",):
            assert "bye" in str(server.log.take("error"))
        assert len(server.log.take("warning")) == (
            error.args == (3,) or (code == 1 and not error.args)
        )  # 3 would stop Gunicorn


@pytest.mark.parametrize("length", [(), ((b"content-length", b"5"),)])
def test_an_exit_within_a_response_ends_its_connection(parser: str, length: Any) -> None:
    """The worker serves on for a moment. A further response would become a part of this one."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        raise SystemExit(7)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET + GET)
        with pytest.raises(Truncated):
            client.read_response()
        assert not client.read_rest()
        assert server.host.nr == 1


def test_log_lines_cannot_be_forged_by_a_path(parser: str) -> None:
    """The path is the client's: decoded, it may have line ends in it (CWE-117)."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/":
            raise ValueError("x")

    with serve(app, parser) as server:
        for target in ("/a%0d%0a[CRITICAL]%20forged%1b[0m", "/"):
            client = server.connect()
            client.send(request("GET", target))
            assert client.read_response().status == 500
        for line in server.log.take("error"):
            assert line.text.isprintable(), line.text


# One application's call knows nothing of another.


def test_each_request_is_one_call_in_a_task_of_its_own(parser: str) -> None:
    """docs/asgi.md, 1, 8 and 19."""
    tasks: list[Any] = []
    loops: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(current_task())
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        assert current_task() is tasks[-1]
        await answer(send)

    with serve(app, parser) as server:
        client = server.connect()
        for _ in range(3):
            client.send(GET)
            client.read_response()
        client.send(GET * 3)
        for _ in range(3):
            client.read_response()
        assert None not in tasks
        assert len(set(tasks)) == 6
        assert set(loops) == {server.loop}
        assert server.call(lambda: server.host.nr) == 6


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.mark.parametrize("kind", ["quick", "slow"])
def test_context_variables_do_not_leak(parser: str, kind: str) -> None:
    """Between requests of one connection, pipelined or not, nor of two."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(variable.get())
        variable.set(scope["path"])
        if kind == "slow":
            await asyncio.sleep(0)
        assert variable.get() == scope["path"]
        await answer(send)

    with serve(app, parser) as server:
        for _ in range(2):
            client = server.connect()
            client.send(request("GET", "/a"))
            client.read_response()
            client.send(request("GET", "/b") + request("GET", "/c"))
            client.read_response()
            client.read_response()
        assert seen == ["unset"] * 6


def test_the_state_is_a_copy_for_each_request(parser: str) -> None:
    """docs/asgi.md, 18 and 38: shallow."""
    shared: list[str] = []
    state = {"shared": shared, "mine": 1}
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope["state"]))
        scope["state"]["mine"] = 2
        scope["state"]["new"] = 3
        scope["state"]["shared"].append("x")
        await answer(send)

    with serve(app, parser, state=state) as server:
        client = server.connect()
        client.send(GET * 2)
        client.read_response()
        client.read_response()
        assert seen == [{"shared": shared, "mine": 1}] * 2
        assert state == {"shared": ["x", "x"], "mine": 1}


def test_without_a_lifespan_there_is_no_state(parser: str) -> None:
    """docs/asgi.md, 38; without one the key is absent."""
    with serve(mirror, parser) as server:
        client = server.connect()
        client.send(GET)
        assert "state" not in ast.literal_eval(client.read_response().body.decode())


def test_what_one_request_does_to_its_scope_no_other_sees(parser: str) -> None:
    """docs/asgi.md, 18."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(repr(scope))
        scope["asgi"]["version"] = "x"
        scope["asgi"].clear()
        scope["extensions"]["x"] = {}
        scope["headers"].append((b"x", b"y"))
        scope["headers"].clear()
        scope["new"] = 1
        await answer(send)

    with serve(app, parser) as server:
        client = server.connect()
        for _ in range(3):
            client.send(GET)
            client.read_response()
        client.send(GET * 3)
        for _ in range(3):
            client.read_response()
        assert len(set(seen)) == 1


def test_the_types_in_a_scope_are_those_of_the_specification(parser: str) -> None:
    """docs/asgi.md, 3 to 5, 17, 20 to 37 and 154."""
    scopes: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await answer(send)

    with serve(app, parser, state={}) as server:
        client = server.connect()
        client.send(GET)
        client.read_response()
        (scope,) = scopes
        assert {name: type(value) for name, value in scope.items()} == {
            "type": str,
            "asgi": dict,
            "http_version": str,
            "method": str,
            "scheme": str,
            "path": str,
            "raw_path": bytes,
            "query_string": bytes,
            "root_path": str,
            "headers": list,
            "client": tuple,
            "server": tuple,
            "extensions": dict,
            "state": dict,
        }
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
        names = [
            "http.response.pathsend",
            "http.response.zerocopysend",
            "http.response.early_hint",
            "http.response.trailers",
        ]
        assert scope["extensions"] == {name: {} for name in names}
        assert all(type(name) is bytes and type(value) is bytes for name, value in scope["headers"])
        assert type(scope["client"][1]) is int
        assert type(scope["server"][1]) is int


def test_a_unix_socket_has_no_client_and_a_path_for_the_server(parser: str, tmp_path: Path) -> None:
    """docs/asgi.md, 36 and 37; its peer is trusted, as in Gunicorn."""
    path = str(tmp_path / "socket")
    with serve(mirror, parser, bind=path, forwarded_allow_ips="10.0.0.1") as server:
        client = server.connect()
        client.send(request("GET", "/", b"X-Forwarded-Proto: https"))
        scope = ast.literal_eval(client.read_response().body.decode())
        assert (scope["client"], scope["server"], scope["scheme"]) == (None, (path, None), "https")
        client.send(b"bad\r\n\r\n")
        assert client.read_response().status == 400
        (line,) = server.log.take("warning")
        assert line.text.startswith("Invalid request from ip=: ")


def test_a_response_that_breaks_off_on_a_unix_socket(parser: str, tmp_path: Path) -> None:
    """It has no reset; the end of the connection is all that can be said."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"half"))
        raise ValueError

    with serve(app, parser, bind=str(tmp_path / "socket")) as server:
        client = server.connect()
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        with suppress(ConnectionResetError):
            client.read_rest()
        server.log.take("error")


@pytest.mark.parametrize(
    ("address", "to"), [("0.0.0.0", "127.0.0.1"), ("::1", "::1"), ("::", "::1")]
)
def test_the_server_is_the_address_that_the_client_has_reached(
    parser: str, address: str, to: str
) -> None:
    """docs/asgi.md, 36 and 37, also where the socket listens on all addresses."""
    if ":" in to and not has_ipv6():
        pytest.skip("no IPv6 here")
    with serve(mirror, parser, bind=(address, 0)) as server:
        port = server.address[1]
        server.address = (to, port)
        client = server.connect()
        client.send(GET)
        scope = ast.literal_eval(client.read_response().body.decode())
        assert scope["server"] == (to, port)
        assert scope["client"] == client.name[:2]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


# Back-pressure, as the application sees it.


def test_send_waits_for_a_client_that_does_not_read(parser: str) -> None:
    """docs/asgi.md, 71: what is sent does not pile up in memory."""
    block = b"x" * 65536
    sent: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "headers": [(b"content-length", b"%d" % (len(block) * 200))]})
        for number in range(200):
            await send(part(block, number < 199))
            sent.append(number)

    with serve(app, parser) as server:
        client = server.connect(receive_buffer=8192)
        client.send(GET)
        server.wait_clogged()
        count = len(sent)
        assert count < 150
        server.settle()
        assert len(sent) == count
        assert server.unsent() < 4 * len(block)
        assert client.read_response().body == block * 200
        assert client.is_open()


@pytest.mark.parametrize("how", ["reset", "timeout"])
def test_a_send_that_waits_is_released_when_the_client_goes_away(parser: str, how: str) -> None:
    """docs/asgi.md, 70."""
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            while True:
                await send(part(b"x" * 65536))
        except OSError as error:
            raised.append(error)
            raise

    with serve(app, parser, write_timeout=5) as server:
        client = server.connect(receive_buffer=8192)
        client.send(GET)
        server.wait_clogged()
        if how == "reset":
            client.reset()
        else:
            server.advance_until(lambda: raised, 6)
        server.wait_until(lambda: raised)
        assert type(raised[0]) is ClientDisconnected


def test_a_cancelled_send_that_waited_has_sent_its_message_once(parser: str) -> None:
    block = b"x" * 65536
    numbers: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        number = 0
        while True:
            message = start_task(send(part(b"%07d" % number + block)))
            await asyncio.sleep(0)
            number += 1
            if not message.done():
                message.cancel()
                with suppress(asyncio.CancelledError):
                    await message
                break
        numbers.append(number)
        await send(part(b"", False))

    with serve(app, parser) as server:
        client = server.connect(receive_buffer=8192)
        client.send(GET)
        server.wait_until(lambda: numbers)
        body = client.read_response().body
        assert [body[start : start + 7] for start in range(0, len(body), 65543)] == [
            b"%07d" % i for i in range(numbers[0])
        ]


def test_a_generator_of_the_application_is_closed_with_its_client(parser: str) -> None:
    """docs/asgi.md, 156: a stream that never ends by itself."""
    closed = Flag()

    async def stream() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0)
        finally:
            closed.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        parts = stream()
        try:
            async for data in parts:
                await send(part(data))
        finally:
            await parts.aclose()

    with serve(app, parser) as server:
        client = server.connect()
        client.send(GET)
        client.recv_until(b"x" * 1000)
        client.reset()
        closed.wait()


# Messages while the response is not the application's any more.


def test_a_refused_body_ends_the_exchange_for_the_application(parser: str) -> None:
    """The client was answered with 400: receive() says that it is gone, send() raises."""
    raised: list[BaseException] = []
    messages: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        messages.append(await receive())
        messages.append(await receive())
        try:
            await answer(send)
        except OSError as error:
            raised.append(error)
            raise

    with serve(app, parser) as server:
        client = server.connect()
        client.send(CHUNKED + b"5\r\nhello\r\n")
        server.wait_until(lambda: messages)
        client.send(b"no\r\n")
        assert client.read_response().status == 400
        assert client.read_rest() == b""
        server.wait_until(lambda: raised)
        assert messages == [
            {"type": "http.request", "body": b"hello", "more_body": True},
            DISCONNECT,
        ]
        assert len(server.log.take("warning")) == 1


def test_a_refused_body_within_a_response_breaks_it_off(parser: str) -> None:
    go = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"half"))
        await receive()
        go.set()
        assert await receive() == DISCONNECT
        with pytest.raises(ClientDisconnected):
            await send(part(b"", False))

    with serve(app, parser) as server:
        client = server.connect()
        client.send(CHUNKED + b"5\r\nhello\r\n")
        client.recv_until(b"half\r\n")
        client.send(b"no\r\n")
        assert client.read_rest() == b""
        assert len(server.log.take("warning")) == 1


def test_an_application_that_ignores_a_refusal_is_cancelled_after_the_grace_period(
    parser: str,
) -> None:
    """For it the client is gone, as when the connection is lost."""
    waiting, cancelled = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with serve(app, parser) as server:
        client = server.connect()
        client.send(CHUNKED)
        waiting.wait()
        client.send(b"no\r\n")
        assert client.read_response().status == 400
        client.close()
        server.log.take("warning")
        server.settle()
        server.advance(4)
        server.settle()
        server.advance(4)
        server.wait_until(cancelled.is_set)


def test_a_hello_needs_nothing_but_two_messages(parser: str) -> None:
    with serve(hello, parser) as server:
        client = server.connect()
        client.send(GET)
        assert client.read_response().body == b"ok"


def test_misuse_is_an_error_of_the_application() -> None:
    assert issubclass(ApplicationError, RuntimeError)
    assert issubclass(ClientDisconnected, OSError)
