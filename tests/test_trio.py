"""Applications written for trio: their tasks and contexts, cancellation by the server and by themselves, and groups of exceptions."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

import h2client
import pytest
import trio
from inprocess import (
    WAIT,
    AsyncioLoop,
    Flag,
    InProcess,
    Log,
    Truncated,
    UvloopLoop,
    answer,
    read_body,
    request,
    serve,
)
from ws import WAYS, serve_way, text
from ws import connect as connect_websocket

from gunicorn_asgi.asgi.async_library import Asyncio
from gunicorn_asgi.asgi.lifespan import Lifespan
from gunicorn_asgi.asgi.trio_library import Trio

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

START: dict[str, Any] = {"type": "http.response.start", "status": 200}
GRACE = 5.0


def part(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


serve_trio = partial(serve, library="trio")
serve_trio_way = partial(serve_way, library="trio")


class Peer:
    """A client with one request, over HTTP/1.1 or HTTP/2."""

    def __init__(self, server: InProcess, path: str = "/", body: bytes | None = None) -> None:
        """`body`: the part of a longer body that is sent, or None for a request without one."""
        self.is_h2 = bool(server.server.settings.http2)
        method = "GET" if body is None else "POST"
        self._client: Any
        if self.is_h2:
            self._client = h2client.connect(server)
            fields = [] if body is None else [(b"content-length", b"1000")]
            self._stream = self._client.begin(method, path, *fields, end=body is None)
            if body:
                self._client.upload(self._stream, body, end=False)
            return
        self._client = server.connect()
        fields = [] if body is None else [b"Content-Length: 1000"]
        self._client.send(request(method, path, *fields) + (body or b""))

    def send(self, data: bytes, end: bool = False) -> None:
        if self.is_h2:
            self._client.upload(self._stream, data, end)
        else:
            self._client.send(data)

    def leave(self) -> None:
        """Reset the stream, or the connection."""
        if self.is_h2:
            self._stream.cancel()
        else:
            self._client.reset()

    def read(self) -> tuple[int, bytes, bool]:
        """The status, the body, and whether it is complete."""
        if self.is_h2:
            self._client.wait_for(lambda: self._stream.is_over)
            return self._stream.status, self._stream.body, self._stream.has_ended
        try:
            response = self._client.read_response()
        except Truncated as error:
            return error.response.status, error.response.body, False
        return response.status, response.body, True


def errors(server: InProcess) -> list[str]:
    """The errors in the log, of which none is left."""
    return [line.text for line in server.log.take("error")]


# Tasks and contexts.

VARIABLE = ContextVar("VARIABLE", default="unset")


@pytest.mark.parametrize("way", WAYS)
def test_each_exchange_has_a_task_of_its_name_and_a_context_of_its_own(way: str) -> None:
    seen: list[tuple[str, str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        before = VARIABLE.get()
        VARIABLE.set(scope["path"])
        seen.append((trio.lowlevel.current_task().name, before))
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            await send({"type": "websocket.send", "text": VARIABLE.get()})
            await receive()
        else:
            await read_body(receive)
            await answer(send, VARIABLE.get().encode())

    with serve_trio_way(app, way) as server:
        first = Peer(server, "/a%C3%A4", b"x" * 999)
        server.wait_until(lambda: len(seen) == 1)
        websocket = connect_websocket(server, target="/w")
        second = Peer(server, "/b?query")
        assert second.read() == (200, b"/b", True)
        websocket.send(text("x"))
        assert websocket.read_message() == "/w"
        first.send(b"x", end=True)
        assert first.read() == (200, "/aä".encode(), True)
        websocket.client.close()
    names = sorted(name for name, _ in seen)
    assert names == ["GET /b", "POST /a%C3%A4", "WebSocket /w"]
    assert {before for _, before in seen} == {"unset"}


def test_the_name_of_a_task_is_bounded(parser: str) -> None:
    names = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        names.append(trio.lowlevel.current_task().name)
        await answer(send)

    with serve_trio(app, parser) as server:
        assert Peer(server, "/" + 2000 * "x").read()[0] == 200
    assert names == ["GET /" + 199 * "x"]


def test_tasks_and_threads_of_an_exchange_have_its_context(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        VARIABLE.set(scope["path"])
        found = []

        async def child() -> None:
            found.append(VARIABLE.get())
            found.append(await trio.to_thread.run_sync(VARIABLE.get))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(child)
        await answer(send, " ".join(found).encode())

    with serve_trio(app, parser) as server:
        peers = [Peer(server, f"/{number}") for number in range(4)]
        assert [peer.read()[1] for peer in peers] == [
            " ".join([f"/{number}"] * 4).encode() for number in range(4)
        ]


# Servers and lifespans without a socket: `Trio` by itself.


class Inside:
    """An async library on a loop of the test's own thread."""

    def __init__(self, parser: str, name: str) -> None:
        self.loop = UvloopLoop() if parser == "httptools" else AsyncioLoop()
        self.complaints: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.log = Log()
        self.crashes: list[BaseException] = []
        self.exits: list[BaseException] = []
        self.is_trio = name == "trio"
        self.library: Any = Asyncio(self.loop)
        if self.is_trio:
            self.library = Trio(self.loop, self.log, self.crashes.append)

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run `work` on the loop, while the library runs."""

        async def main() -> Any:
            await self.library.start()
            try:
                return await asyncio.wait_for(work(), WAIT)
            finally:
                await self.library.close(0.05)

        try:
            return self.loop.run_until_complete(main())
        except (SystemExit, KeyboardInterrupt) as error:
            self.exits.append(error)
            return None

    def lifespan(self, app: Any) -> Lifespan:
        return Lifespan(self.library.adapt(app), "on", self.log, self.exits.append, self.library)

    def start(self, work: Coroutine[Any, Any, None]) -> Any:
        """Start the task of an exchange."""
        return self.library.spawn(work, context=copy_context())


@pytest.fixture(params=["asyncio", "trio"])
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def inside(parser: str, library: str = "trio") -> Iterator[Inside]:
    inside = Inside(parser, library)
    try:
        yield inside
    finally:
        inside.loop.run_until_complete(asyncio.sleep(0))
        inside.loop.close()
    assert not inside.complaints
    assert not inside.log.take("error")


def test_a_lifespan_sees_the_context_of_the_worker_and_keeps_its_own(
    parser: str, library: str
) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set("of the lifespan")
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        seen.append(VARIABLE.get())
        await send({"type": "lifespan.shutdown.complete"})

    with inside(parser, library) as room:

        async def work() -> None:
            VARIABLE.set("of the worker")
            lifespan = room.lifespan(app)
            await lifespan.startup()
            seen.append(VARIABLE.get())
            await lifespan.shutdown(WAIT)

        room.run(work)
    assert seen == ["of the worker", "of the worker", "of the lifespan"]


def test_the_lifespan_is_a_task_of_that_name_beside_the_exchanges(parser: str) -> None:
    with inside(parser) as room:
        found = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            task = trio.lowlevel.current_task()
            found.append((task.name, task.parent_nursery))
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()

        async def exchange() -> None:
            found.append(("exchange", trio.lowlevel.current_task().parent_nursery))

        async def work() -> None:
            lifespan = room.lifespan(app)
            await lifespan.startup()
            task = room.start(exchange())
            while not task.done():
                await asyncio.sleep(0)
            await lifespan.shutdown(WAIT)

        room.run(work)
    assert [name for name, _ in found] == ["lifespan", "exchange"]
    assert found[0][1] is found[1][1]


# One task fails, and the others go on.


async def raise_own_cancellation() -> None:
    raise asyncio.CancelledError


async def raise_group_of_cancellations() -> None:
    raise BaseExceptionGroup("cancelled", [asyncio.CancelledError(), asyncio.CancelledError()])


async def raise_kept_cancellation() -> None:
    kept: list[BaseException] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            kept.append(error)
            raise
    raise kept[0]


async def raise_mixed_cancellations() -> None:
    try:
        await raise_kept_cancellation()
    except trio.Cancelled as error:
        raise BaseExceptionGroup("both", [error, asyncio.CancelledError()]) from None


class Own(BaseException):
    """As no application should raise."""


async def raise_own_base_exception() -> None:
    raise BaseExceptionGroup("of a nursery", [Own("fault")])


@pytest.mark.parametrize(
    ("fail", "text"),
    [
        (raise_own_cancellation, "ASGI application was cancelled, handling request GET /"),
        (raise_group_of_cancellations, "ASGI application was cancelled, handling request GET /"),
        (raise_kept_cancellation, "ASGI application was cancelled, handling request GET /"),
        (raise_mixed_cancellations, "ASGI application was cancelled, handling request GET /"),
        (raise_own_base_exception, "Error handling request GET /"),
    ],
)
def test_no_exception_of_one_application_cancels_the_others(
    parser: str, fail: Any, text: str
) -> None:
    waits = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/other":
            waits.set()
            await read_body(receive)
            await answer(send, b"other")
        else:
            await fail()

    with serve_trio(app, parser) as server:
        other = Peer(server, "/other", b"x" * 999)
        waits.wait()
        for _ in range(2):
            assert Peer(server).read() == (500, b"Internal Server Error", True)
            assert errors(server) == [text]
        other.send(b"x", end=True)
        assert other.read() == (200, b"other", True)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), Own(), SystemExit(3)], ids=repr)
def test_an_exception_that_leaves_a_task_does_not_end_the_run(
    parser: str, error: BaseException
) -> None:
    async def fail() -> None:
        raise error

    async def wait(seconds: float) -> None:
        await trio.sleep(seconds)

    with inside(parser) as room:
        tasks = []

        async def work() -> None:
            tasks.append(room.start(wait(0.01)))
            tasks.append(room.start(fail()))
            while not all(task.done() for task in tasks):
                await asyncio.sleep(0)

        room.run(work)
        if room.exits:  # it has left the loop, which the worker runs again
            assert room.exits == [error]
            room.loop.run_until_complete(asyncio.sleep(0.02))
            room.loop.run_until_complete(room.library.close(WAIT))
        assert [task.cancelled() for task in tasks] == [
            False,
            isinstance(error, asyncio.CancelledError),
        ]
        assert not room.crashes
        said = [context["exception"] for context in room.complaints]
        room.complaints.clear()
        assert said == ([error] if isinstance(error, Own) else [])


# The end of the run: closed, or by a fault.


async def wait_shielded() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def spin_shielded() -> None:
    with trio.CancelScope(shield=True):
        while True:
            await trio.lowlevel.checkpoint()


async def swallow() -> None:
    while True:
        with suppress(trio.Cancelled):
            await trio.sleep_forever()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("run", [wait_shielded, spin_shielded, swallow])
def test_no_task_can_hold_the_end_of_the_run(parser: str, run: Any) -> None:
    """The worker gives it the rest of ``graceful_timeout``: `Trio.close` returns in that time."""
    tasks: list[Any] = []
    ended: list[Any] = []
    with inside(parser) as room:

        async def work() -> None:
            task = room.start(run())
            task.add_done_callback(ended.append)
            tasks.append(task)
            await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()

        room.run(work)  # which closes the library
        (warning,) = room.log.take("warning")
        assert warning.text == "trio tasks of the application that did not end in time"
        assert ended == tasks
        assert tasks[0].cancelled()
        assert not room.library.tasks
        room.loop.run_until_complete(asyncio.sleep(0.01))  # nothing comes after that
        room.library = None
    tasks.clear()
    ended.clear()
    gc.collect()  # trio leaves its tasks as they were, and complains of their end


def test_the_end_of_the_run_cancels_and_waits_for_the_clean_up(parser: str) -> None:
    cleaned = []

    async def run() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.001)
                cleaned.append(True)

    with inside(parser) as room:

        async def work() -> None:
            room.start(run())
            await asyncio.sleep(0.001)

        room.run(work)
    assert cleaned


def fail_in_trio(_: object) -> trio.lowlevel.Abort:
    raise ValueError("in trio's own code")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", WAYS)
def test_after_a_fault_of_trio_every_request_gets_an_answer(way: str) -> None:
    """Until the worker has left, for which it is told."""
    waits = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/fails":
            with trio.move_on_after(0):
                await trio.lowlevel.wait_task_rescheduled(fail_in_trio)
        waits.set()
        await read_body(receive)

    lines: list[str] = []
    with (
        pytest.raises(AssertionError, match="internal error in Trio"),
        serve_trio_way(app, way) as server,
    ):
        running = Peer(server, "/waits", b"x")
        waits.wait()
        failing = Peer(server, "/fails")
        later = Peer(server, "/later")
        for peer in (running, failing, later):
            assert peer.read()[0] == 500
        running.leave()
        lines = errors(server)
    assert sorted(lines) == [
        f"ASGI application was cancelled, handling request {which}"
        for which in ("GET /fails", "GET /later", "POST /waits")
    ]
    gc.collect()


def test_no_task_begins_once_the_run_has_ended(parser: str) -> None:
    with inside(parser) as room:
        begun = []

        async def exchange() -> None:
            begun.append(True)

        async def work() -> None:
            pass

        room.run(work)
        task = room.start(exchange())
        room.loop.run_until_complete(asyncio.sleep(0))
        assert task.done()
        assert task.cancelled()
    assert not begun
