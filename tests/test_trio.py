"""Applications written for trio: their tasks and contexts, cancellation by the server and by themselves, and groups of exceptions."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import h2client
import pytest
import trio
import trio.testing
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
from libraries import is_trio
from ways import descriptors
from ws import WAYS, serve_way, text
from ws import connect as connect_websocket

from gunicorn_asgi.asgi import files
from gunicorn_asgi.asgi.async_library import Asyncio
from gunicorn_asgi.asgi.lifespan import Lifespan
from gunicorn_asgi.asgi.trio_library import Trio
from gunicorn_asgi.errors import ClientDisconnected, LifespanError

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


def test_a_pipelined_request_has_nothing_of_the_context_of_the_one_before(parser: str) -> None:
    """It begins within the ``send()`` that ends the one before."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set("of another exchange")
        await answer(send)

    with serve_trio(app, parser) as server:
        client = server.connect()
        client.send(request() * 3)
        assert [client.read_response().body for _ in range(3)] == [b"ok"] * 3
    assert seen == ["unset"] * 3


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
    with trio.CancelScope() as limit:
        limit.cancel()
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


def test_a_group_of_cancellations_is_no_error_of_a_task(parser: str, library: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise BaseExceptionGroup("of a group", [asyncio.CancelledError()])

    with serve(app, parser, library=library) as server:
        assert Peer(server).read() == (500, b"Internal Server Error", True)
        assert errors(server) == ["ASGI application was cancelled, handling request GET /"]
        server.run(asyncio.sleep(0.01))
        gc.collect()  # asyncio complains of an error that nobody has retrieved


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
        assert room.exits == ([error] if isinstance(error, SystemExit) else [])
        if room.exits:  # it has left the loop, which the worker runs again
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
        assert "did not end in time: 1 (exchange, in test_trio:" in warning.text
        assert ended == tasks
        assert tasks[0].cancelled()
        assert not room.library.tasks
        room.loop.run_until_complete(asyncio.sleep(0.01))  # nothing comes after that
        room.library = None
        complaints = room.complaints
    tasks.clear()
    ended.clear()
    gc.collect()  # trio leaves its tasks as they were, and complains of their end
    assert not complaints


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
        pytest.raises(AssertionError, match="in trio's own code"),
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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("where", ["nursery", "system task", "cancelled"])
def test_a_shield_does_not_hide_that_the_run_is_going_to_end(parser: str, where: str) -> None:
    """The run ends after its last task, and no new task can do anything until then."""
    fault = ValueError("of a task beside the exchanges")

    async def fail() -> None:
        raise fault

    async def crash() -> None:
        nursery = trio.lowlevel.current_task().parent_nursery
        assert nursery is not None
        if where == "nursery":
            nursery.start_soon(fail)
        elif where == "system task":
            trio.lowlevel.spawn_system_task(fail)
        else:
            nursery.cancel_scope.cancel()

    with inside(parser) as room:

        async def work() -> None:
            room.start(wait_shielded())
            await asyncio.sleep(0.001)
            room.start(crash())
            while not room.crashes:
                await asyncio.sleep(0.01)

        room.run(work)
        (error,) = room.crashes
        assert error is fault if where != "cancelled" else "cancelled" in str(error)
        assert len(room.log.take("warning")) == 1  # about the shielded task
        room.library = None
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_nursery_that_is_never_left_does_not_end_the_run(parser: str) -> None:
    """As an asynchronous generator leaves it that nobody closes."""
    ended = Flag()
    nurseries = []

    async def run() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/other":
            await read_body(receive)
        else:
            nurseries.append(trio.open_nursery())
            nursery = await nurseries[0].__aenter__()
            nursery.start_soon(run)
            await trio.lowlevel.checkpoint()
        await answer(send, b"answer")

    with (
        pytest.raises(AssertionError, match="Cancel scope stack corrupted") as complaints,
        serve_trio(app, parser) as server,
    ):
        other = Peer(server, "/other", b"x" * 999)
        assert Peer(server).read() == (200, b"answer", True)
        ended.wait()
        other.send(b"x", end=True)
        assert other.read() == (200, b"answer", True)
    assert str(complaints.value).count("RuntimeError") == 1
    nurseries.clear()
    gc.collect()


def test_an_abort_function_that_raises_is_no_error_of_the_caller(parser: str) -> None:
    async def wait() -> None:
        await trio.lowlevel.wait_task_rescheduled(fail_in_trio)

    with inside(parser) as room:

        async def work() -> None:
            task = room.start(wait())
            await asyncio.sleep(0.001)
            assert task.cancel()
            (complaint,) = room.complaints
            assert "in trio's own code" in str(complaint["exception"])
            room.complaints.clear()
            assert task.task is not None
            trio.lowlevel.reschedule(task.task)

        room.run(work)


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


# The server cancels.


class Site:
    """An application that waits at the place given by its path, and notes how the wait ends."""

    def __init__(self) -> None:
        self.waits = Flag()
        self.ended: list[Any] = []
        self.cleaned = 0
        """Clean-ups under a shield that were complete."""
        self.refused = 0
        """Waits in a clean-up without a shield."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.wait(scope["path"], receive, send)
        except BaseException as error:
            self.ended.append(type(error))
            for call in (partial(trio.sleep, 0), partial(send, part(b"late"))):
                try:
                    await call()
                except trio.Cancelled:
                    self.refused += 1
            with trio.CancelScope(shield=True):
                await trio.sleep(0.001)
                self.cleaned += 1
            raise
        else:
            self.ended.append(None)

    async def wait(self, path: str, receive: Any, send: Any) -> None:
        if path == "/send":
            await send(START)
            self.waits.set()
            while True:
                await send(part(b"x" * 100_000))
        elif path == "/pieces":
            await send(START)
            self.waits.set()
            await send(part(b"x" * 50_000_000))
        elif path == "/polls":
            self.waits.set()
            while True:
                await receive()
        elif path == "/nursery":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.wait, "/send", receive, send)
                nursery.start_soon(self.wait, "/sleep", receive, send)
        elif path == "/swallows":
            self.waits.set()
            for _ in range(100):
                with suppress(trio.Cancelled):
                    await receive()
                with suppress(trio.Cancelled):
                    await trio.sleep_forever()
                    return
            raise ValueError("was cancelled for ever")
        else:
            self.waits.set()
            await trio.sleep_forever()


PLACES = ["/sleep", "/send", "/pieces", "/polls", "/nursery"]


def assert_cancelled(site: Site) -> None:
    """A ``send()`` that the end of the response has woken says so; every later wait raises."""
    (ended,) = site.ended
    assert issubclass(ended, (trio.Cancelled, ClientDisconnected, BaseExceptionGroup))
    assert (site.refused, site.cleaned) == (2, 1)


@pytest.mark.parametrize("path", ["/sleep", "/polls"])
@pytest.mark.parametrize("way", WAYS)
def test_an_application_is_cancelled_after_the_grace_for_a_client_that_left(
    way: str, path: str
) -> None:
    site = Site()
    with serve_trio_way(site, way, asgi_disconnect_grace_period=GRACE) as server:
        peer = Peer(server, path)
        site.waits.wait()
        peer.leave()
        server.wait_lost()
        server.stop_clock()
        server.advance(GRACE - 1)
        server.settle()
        assert not site.ended
        server.advance(2)
        server.wait_until(lambda: site.ended)
        server.wait_until(lambda: not server.server.tasks)
    assert_cancelled(site)


@pytest.mark.parametrize("way", WAYS)
def test_the_application_of_a_websocket_is_cancelled_after_the_grace(way: str) -> None:
    cancelled = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(sys.exc_info()[0])

    with serve_trio_way(app, way, asgi_disconnect_grace_period=GRACE) as server:
        client = connect_websocket(server)
        client.client.reset()
        server.wait_lost()
        assert not cancelled
        server.advance(GRACE + 2)
        server.wait_until(lambda: cancelled)
    assert cancelled == [trio.Cancelled]


@pytest.mark.parametrize("path", PLACES)
@pytest.mark.parametrize("way", WAYS)
def test_request_timeout_cancels_and_answers(way: str, path: str) -> None:
    site = Site()
    with serve_trio_way(site, way, request_timeout=100, write_timeout=1000) as server:
        peer = Peer(server, path)
        site.waits.wait()
        server.settle()
        server.call(make_older, server)
        server.wait_until(lambda: site.ended)
        if path in ("/sleep", "/polls"):
            assert peer.read()[0] == 503
        else:
            with suppress(ConnectionError):
                assert not peer.read()[2]
        (warning,) = server.log.take("warning")
        assert "request_timeout is 100 s: GET " + path in warning.text
        server.wait_until(lambda: not server.server.tasks)
    assert_cancelled(site)


def make_older(server: InProcess) -> None:
    tasks = server.server.tasks
    for task, (stream, began) in list(tasks.items()):
        tasks[task] = stream, began - 200
    server.server.tick(0.1)


@pytest.mark.parametrize("path", ["/sleep", "/polls", "/nursery"])
@pytest.mark.parametrize("way", WAYS)
def test_the_end_of_a_drain_cancels(way: str, path: str) -> None:
    site = Site()
    with serve_trio_way(site, way) as server:
        Peer(server, path)
        site.waits.wait()
        server.run(server.server.shut_down(0.04, WAIT))
        assert not server.server.tasks
        (warning,) = server.log.take("warning")
        assert "1 applications running" in warning.text
    assert_cancelled(site)


def test_an_application_that_swallows_its_cancellation_is_cancelled_at_each_wait(
    parser: str,
) -> None:
    site = Site()
    with serve_trio(site, parser) as server:
        peer = Peer(server, "/swallows")
        site.waits.wait()
        peer.leave()
        server.wait_lost()
        (task,) = server.server.tasks
        for _ in range(2):  # once and for all
            server.call(task.cancel)
        server.wait_until(lambda: not server.server.tasks)
        assert site.ended == [ValueError]
        assert [line.text for line in server.log.take("error")] == [
            "Error handling request GET /swallows"
        ]


@pytest.mark.parametrize("path", ["/sleep", "/swallows"])
def test_a_task_that_is_cancelled_before_its_first_step_runs_nothing(
    parser: str, path: str
) -> None:
    site = Site()
    with serve_trio(site, parser) as server:
        client = server.connect()
        server.wait_connected()

        def work() -> None:
            (transport,) = server.server.connections
            transport.data_received(request("GET", path))
            (task,) = server.server.tasks
            task.cancel()
            task.cancel()

        server.call(work)
        assert client.read_response().status == 500
        assert errors(server) == [f"ASGI application was cancelled, handling request GET {path}"]
        server.wait_until(lambda: not server.server.tasks)
    assert not site.waits.is_set()
    assert not site.ended


def test_what_a_cancelled_application_raises_instead_is_logged(parser: str) -> None:
    waits = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        waits.set()
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("of the clean-up")

    with serve_trio(app, parser, request_timeout=100) as server:
        peer = Peer(server)
        waits.wait()
        server.call(make_older, server)
        assert peer.read()[0] == 503
        server.wait_until(lambda: not server.server.tasks)
        (line,) = server.log.take("error")
        assert isinstance(line.error, ValueError)
        server.log.take("warning")


# The application cancels.


@pytest.mark.parametrize("way", WAYS)
def test_a_receive_that_runs_into_a_time_limit_loses_nothing_of_the_body(way: str) -> None:
    timed_out = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while len(body) < 1000:
            with trio.move_on_after(0.001) as limit:
                body += (await receive())["body"]
            if limit.cancelled_caught:
                timed_out.set()
        await answer(send, body)

    with serve_trio_way(app, way) as server:
        sent = bytes(range(250)) * 4
        peer = Peer(server, body=sent[:1])
        timed_out.wait()
        for position in range(1, 991, 90):
            peer.send(sent[position : position + 90])
            server.settle()
        peer.send(sent[991:], end=True)
        assert peer.read() == (200, sent, True)


@pytest.mark.parametrize("deadline", [-1.0, 0.0])
@pytest.mark.parametrize("way", WAYS)
def test_a_scope_whose_deadline_has_passed_loses_nothing(way: str, deadline: float) -> None:
    """A ``receive()`` returns what is there, or raises. A ``send()`` sends nothing."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        for _ in range(3):
            with trio.CancelScope(deadline=trio.current_time() + deadline) as limit:
                body += (await receive())["body"]
                continue
            assert limit.cancelled_caught
        with pytest.raises(trio.TooSlowError), trio.fail_after(0):
            await send(START)
        if len(body) < 1000:
            body += await read_body(receive)
        await answer(send, body)

    with serve_trio_way(app, way) as server:
        peer = Peer(server, body=b"x" * 999)
        peer.send(b"x", end=True)
        assert peer.read() == (200, b"x" * 1000, True)


@pytest.mark.parametrize("way", WAYS)
def test_a_message_and_a_cancellation_in_the_same_turn_lose_nothing(way: str) -> None:
    """In both orders: the data wakes the ``receive()``, and then its scope is cancelled, or before."""
    waits = Flag()
    scopes: list[trio.CancelScope] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        received = []
        while sum(map(len, received)) < 1000:
            with trio.CancelScope() as limit:
                scopes.append(limit)
                waits.set()
                received.append((await receive())["body"])
        await answer(send, b"".join(received))

    with serve_trio_way(app, way) as server:
        peer = Peer(server, body=b"x")
        server.wait_until(lambda: len(scopes) == 2)

        def stream() -> Any:
            ((stream, _),) = server.server.tasks.values()
            return stream

        def feed(data: bytes) -> None:
            stream().feed_data(data)

        def cancel() -> None:
            scopes[-1].cancel()

        def wait_for_receive() -> None:
            server.wait_until(lambda: stream().is_waiting)

        sent = 1
        orders = [
            (partial(feed, b"y"), cancel),
            (cancel, partial(feed, b"y")),
            (partial(feed, b"y"), cancel, partial(feed, b"y"), cancel),
            (cancel, partial(feed, b"y"), cancel, partial(feed, b"y")),
        ]
        for order in orders:
            wait_for_receive()
            server.call(lambda order=order: [step() for step in order])
            sent += sum(isinstance(step, partial) for step in order)
            server.settle()
        wait_for_receive()
        assert [limit.cancelled_caught for limit in scopes].count(True) >= 2
        server.call(feed, b"z" * (1000 - sent))
        assert peer.read() == (200, b"x" + b"y" * (sent - 1) + b"z" * (1000 - sent), True)


@pytest.mark.parametrize("way", WAYS)
def test_a_send_that_runs_into_a_time_limit_can_be_followed_by_an_end(way: str) -> None:
    """The response has begun: the client sees that it is incomplete, and the log says why."""
    caught = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            with trio.fail_after(0.05):
                while True:
                    await send(part(b"x" * 100_000))
        except trio.TooSlowError:
            caught.set()
            raise

    with serve_trio_way(app, way) as server:
        peer = Peer(server)
        caught.wait()
        with suppress(ConnectionError):
            status, _, is_whole = peer.read()
            assert (status, is_whole) == (200, False)
        server.wait_until(lambda: not server.server.tasks)
        (line,) = server.log.take("error")
        assert isinstance(line.error, trio.TooSlowError)


@pytest.mark.parametrize("way", WAYS)
def test_a_send_that_is_cancelled_while_it_waits_for_room_has_sent_its_part(way: str) -> None:
    """Only the wait was cancelled. So the application can go on after it."""
    caught = Flag()
    sent = []
    limit = trio.CancelScope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        with limit:
            while True:
                await trio.lowlevel.checkpoint_if_cancelled()  # then send() begins
                sent.append(len(sent))
                await send(part(b"%8d" % sent[-1] * 12_500))
        caught.set()
        await send(part(b"end", more=False))

    with serve_trio_way(app, way) as server:
        peer = Peer(server)
        server.wait_clogged()
        server.settle()
        server.call(limit.cancel)
        caught.wait()
        status, body, is_whole = peer.read()
        assert (status, is_whole) == (200, True)
    assert body == b"".join(b"%8d" % number * 12_500 for number in sent) + b"end"


@pytest.mark.parametrize("way", WAYS)
def test_a_long_part_that_is_cancelled_between_its_pieces_aborts_the_response(way: str) -> None:
    """The application cannot know how much of it was sent."""
    raised = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        with trio.move_on_after(0.05) as limit:
            await send(part(b"x" * 50_000_000))
        assert limit.cancelled_caught
        try:
            await send(part(b"more"))
        except ClientDisconnected as error:
            raised.append(error)
            raise

    with serve_trio_way(app, way) as server:
        peer = Peer(server)
        server.wait_until(lambda: raised)
        with suppress(ConnectionError):
            assert not peer.read()[2]


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Files are opened and read in threads, which wait until this is set."""
    ready = threading.Event()
    opening, reading = files._open, files.os.pread

    def slow_open(path: str) -> Any:
        assert ready.wait(WAIT)
        return opening(path)

    def slow_read(*how: int) -> bytes:
        assert ready.wait(WAIT)
        return reading(*how)

    monkeypatch.setattr(files.OPENER, "open", lambda *_: -1)
    monkeypatch.setattr(files, "_open", slow_open)
    monkeypatch.setattr(files, "NOWAIT", 0)
    monkeypatch.setattr(files.os, "pread", slow_read)
    yield ready
    ready.set()


@pytest.fixture
def hidden_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """In tasks of trio, asyncio finds no running loop: so does trio-asyncio, once it is imported."""
    find, get = asyncio.events._get_running_loop, asyncio.get_running_loop

    def find_outside() -> Any:
        return None if is_trio() else find()

    def get_outside() -> Any:
        if is_trio():
            raise RuntimeError("no running event loop")
        return get()

    monkeypatch.setattr(asyncio.events, "_get_running_loop", find_outside)
    monkeypatch.setattr(asyncio.events, "get_running_loop", get_outside)


@pytest.mark.usefixtures("hidden_loop")
@pytest.mark.parametrize("extension", ["pathsend", "zerocopysend"])
@pytest.mark.parametrize("way", WAYS)
def test_a_file_and_a_body_are_sent_without_the_running_loop(
    way: str, extension: str, tmp_path: Path, slow_disk: threading.Event
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    slow_disk.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"begun"
        assert (await receive())["body"] == b", and gone on"
        await send(START)
        with path.open("rb") as file:
            message = {"path": str(path)} if extension == "pathsend" else {"file": file}
            await send({"type": f"http.response.{extension}", **message})

    with serve_trio_way(app, way) as server:
        peer = Peer(server, body=b"begun")
        server.wait_until(lambda: bool(server.server.tasks))
        peer.send(b", and gone on")
        assert peer.read() == (200, b"x" * 10_000, True)


@pytest.mark.usefixtures("hidden_loop")
def test_a_lifespan_waits_without_the_running_loop(parser: str) -> None:
    got = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.append(await receive())
        await send({"type": "lifespan.startup.complete"})
        got.append(await receive())
        await send({"type": "lifespan.shutdown.complete"})
        await receive()  # until the task is cancelled

    with inside(parser) as room:

        async def work() -> None:
            lifespan = room.lifespan(app)
            await lifespan.startup()
            await asyncio.sleep(0.01)
            await lifespan.shutdown(0.4)

        room.run(work)
    assert [message["type"] for message in got] == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.parametrize("extension", ["pathsend", "zerocopysend"])
@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_a_thread_opens_or_reads_for_nobody_any_more_is_closed(
    way: str, extension: str, tmp_path: Path, slow_disk: threading.Event
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        with path.open("rb") as file:
            message = {"path": str(path)} if extension == "pathsend" else {"file": file}
            with trio.move_on_after(0.01) as limit:
                await send({"type": f"http.response.{extension}", **message})
        assert limit.cancelled_caught
        await send(part(b"without it", more=False))

    with serve_trio_way(app, way) as server:
        assert Peer(server).read() == (200, b"without it", True)
        slow_disk.set()
        server.wait_until(lambda: str(path) not in descriptors())


@pytest.mark.parametrize("way", WAYS)
def test_the_messages_of_a_websocket_survive_time_limits(way: str) -> None:
    count, timed_out = 200, Flag()
    received: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while len(received) < count:
            # Mostly the limit has passed before the call, or passes while messages are queued.
            with trio.move_on_after(0.001 * (len(received) % 3)) as limit:
                received.append((await receive())["text"])
            if limit.cancelled_caught:
                timed_out.set()
                with trio.move_on_after(0.01):
                    received.append((await receive())["text"])
        await send({"type": "websocket.send", "text": "all"})
        await receive()

    with serve_trio_way(app, way) as server:
        client = connect_websocket(server)
        for start in range(0, count, 50):
            client.send(b"".join(text(str(number)) for number in range(start, start + 50)))
            server.settle()
        assert client.read_message() == "all"
        timed_out.wait()
        client.client.close()
    assert received == [str(number) for number in range(count)]


@pytest.mark.parametrize("way", WAYS)
def test_a_message_of_a_websocket_in_the_turn_of_a_cancellation_is_kept(way: str) -> None:
    scopes: list[trio.CancelScope] = []
    received: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})

        async def take() -> None:
            while len(received) < 10:
                with trio.CancelScope() as limit:
                    scopes.append(limit)
                    received.append((await receive())["text"])

        async with trio.open_nursery() as nursery:  # the second waits in another way
            nursery.start_soon(take)
            nursery.start_soon(take)
            while len(received) < 10:
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        await send({"type": "websocket.send", "text": "all"})
        await receive()

    with serve_trio_way(app, way) as server:
        client = connect_websocket(server)
        server.wait_until(lambda: len(scopes) >= 2)
        server.settle()
        ((stream, _),) = server.call(lambda: list(server.server.tasks.values()))

        def cancel_all() -> None:
            for scope in scopes:
                scope.cancel()

        for number in range(0, 10, 2):
            first, second = text(str(number)), text(str(number + 1))

            def both(first: bytes = first, second: bytes = second) -> None:
                stream.feed_data(first)
                cancel_all()
                stream.feed_data(second)

            server.call(both)
            server.settle()
        assert client.read_message() == "all"
        client.client.close()
    assert sorted(received) == [str(number) for number in range(10)]


@pytest.mark.parametrize("way", WAYS)
def test_a_websockets_send_that_is_cancelled_while_it_waits_has_sent_its_message(way: str) -> None:
    caught = Flag()
    sent = []
    limit = trio.CancelScope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        with limit:
            while True:
                await trio.lowlevel.checkpoint_if_cancelled()  # then send() begins
                sent.append(f"{len(sent):8}" * 12_500)
                await send({"type": "websocket.send", "text": sent[-1]})
        caught.set()
        await send({"type": "websocket.send", "text": "end"})
        await receive()

    with serve_trio_way(app, way) as server:
        client = connect_websocket(server)
        server.wait_clogged()
        server.settle()
        server.call(limit.cancel)
        caught.wait()
        for message in [*sent, "end"]:
            assert client.read_message() == message
        client.client.close()


@pytest.mark.parametrize("way", WAYS)
def test_one_of_two_receives_is_cancelled_alone(way: str) -> None:
    waiting = Flag()
    scope_of_first: list[trio.CancelScope] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bodies = []

        async def first() -> None:
            with trio.CancelScope() as limit:
                scope_of_first.append(limit)
                await read_body(receive)
            assert limit.cancelled_caught

        async def second() -> None:
            await trio.testing.wait_all_tasks_blocked()
            waiting.set()
            bodies.append(await read_body(receive))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            nursery.start_soon(second)
        await answer(send, bodies[0])

    with serve_trio_way(app, way) as server:
        peer = Peer(server, body=b"")
        waiting.wait()
        server.settle()
        server.call(scope_of_first[0].cancel)
        server.settle()
        peer.send(b"x" * 1000, end=True)
        assert peer.read() == (200, b"x" * 1000, True)


@pytest.mark.parametrize("way", WAYS)
def test_a_nursery_ends_a_receive_with_the_response_and_a_response_with_the_client(
    way: str,
) -> None:
    """As frameworks do: one task listens for the disconnect, the other streams."""
    ended = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            ended.append("listen")
            nursery.cancel_scope.cancel()

        async def stream() -> None:
            await send(START)
            await send(part(b"part"))
            if scope["path"] == "/endless":
                while True:
                    await send(part(b"part"))
                    await trio.sleep(0.001)
            await send(part(b"", more=False))
            ended.append("stream")
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(stream)

    with serve_trio_way(app, way) as server:
        assert Peer(server).read() == (200, b"part", True)
        server.wait_until(lambda: not server.server.tasks)
        assert "stream" in ended
        ended.clear()
        peer = Peer(server, "/endless")
        server.wait_until(lambda: server.server.tasks)
        server.settle()
        peer.leave()
        server.wait_until(lambda: not server.server.tasks)


@pytest.mark.parametrize("way", WAYS)
def test_a_shield_lets_a_clean_up_send_its_answer(way: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with trio.move_on_after(0.001):
            try:
                await trio.sleep_forever()
            finally:
                with pytest.raises(trio.Cancelled):
                    await answer(send, b"too early")
                with trio.CancelScope(shield=True):
                    await answer(send, b"cleaned up")

    with serve_trio_way(app, way) as server:
        assert Peer(server).read() == (200, b"cleaned up", True)


@pytest.mark.parametrize("way", WAYS)
def test_an_application_that_repeats_its_calls_without_a_wait_can_be_cancelled(way: str) -> None:
    """The pauses in calls that return at once are checkpoints: `exchange.pace`."""
    ended = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        for call in (receive, partial(send, part(b"ignored"))):
            with trio.move_on_after(0.01) as limit:
                while True:
                    await call()
            ended.append(limit.cancelled_caught)

    with serve_trio_way(app, way) as server:
        assert Peer(server).read()[0] == 200
        assert Peer(server).read()[0] == 200  # others are served meanwhile
        server.wait_until(lambda: not server.server.tasks)
    assert ended == [True] * 4


# Groups of exceptions, of nurseries and of task groups.


async def raise_in_group(library: str, *errors: BaseException) -> None:
    """Raise `errors` in tasks of the library's own group, which raises them as one."""

    async def fail(error: BaseException) -> None:
        if library == "trio":
            await trio.testing.wait_all_tasks_blocked()
        raise error

    if library == "trio":
        async with trio.open_nursery() as nursery:
            for error in errors:
                nursery.start_soon(fail, error)
    elif library == "asyncio":
        async with asyncio.TaskGroup() as group:
            for error in errors:
                group.create_task(fail(error))
    else:
        async with anyio.create_task_group() as tasks:
            for error in errors:
                tasks.start_soon(fail, error)


GROUPS = [
    ("trio", "trio"),
    ("anyio", "trio"),
    ("anyio", "asyncio"),
    pytest.param(
        "asyncio",
        "asyncio",
        marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="has no TaskGroup"),
    ),
]
"""The library of the group, and the option ``async_library``."""


def leaves(error: BaseException | None) -> list[type[BaseException]]:
    """The types of the exceptions in a group that are none."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [type(error)]


@pytest.mark.parametrize(("group", "library"), GROUPS)
@pytest.mark.parametrize("is_begun", [False, True], ids=["", "begun"])
def test_a_group_with_an_error_is_a_500_or_an_abort_and_only_the_error_is_logged(
    parser: str, group: str, library: str, is_begun: bool
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if is_begun:
            await send(START)
            await send(part(b"begun"))
        await raise_in_group(group, ValueError("fault"))

    with serve(app, parser, library=library) as server:
        if is_begun:
            assert Peer(server).read() == (200, b"begun", False)
        else:
            assert Peer(server).read() == (500, b"Internal Server Error", True)
        (line,) = server.log.take("error")
        assert line.text == "Error handling request GET /"
        assert leaves(line.error) == [ValueError]
        assert isinstance(line.error, Exception)


@pytest.mark.parametrize(("group", "library"), GROUPS)
@pytest.mark.parametrize(
    "mixture", ["cancellations", "cancellations and an error", "disconnects", "mixed disconnects"]
)
def test_a_group_after_the_clients_end_is_logged_only_for_its_errors(
    parser: str, group: str, library: str, mixture: str
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = ClientDisconnected("the client is gone")
        if mixture == "disconnects":
            await raise_in_group(group, gone, ClientDisconnected("the client is gone"))
        elif mixture == "mixed disconnects":
            raise BaseExceptionGroup("nested", [gone, asyncio.CancelledError()])
        elif mixture == "cancellations":
            raise BaseExceptionGroup("nested", [asyncio.CancelledError()])
        else:
            raise BaseExceptionGroup("nested", [asyncio.CancelledError(), ValueError("fault")])

    with serve(app, parser, library=library) as server:
        peer = Peer(server)
        server.wait_until(lambda: server.server.tasks)
        server.settle()
        peer.leave()
        server.wait_until(lambda: not server.server.tasks)
        lines = server.log.take("error")
        assert [leaves(line.error) for line in lines] == (
            [[ValueError]] if mixture.endswith("error") else []
        )


@pytest.mark.parametrize(("group", "library"), GROUPS)
@pytest.mark.parametrize("error", [SystemExit(7), KeyboardInterrupt()], ids=repr)
def test_an_exit_in_a_group_leaves_the_worker(
    parser: str, group: str, library: str, error: BaseException
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if group == "trio" or library == "trio":
            await raise_in_group(group, error, ValueError("beside"))
        else:  # asyncio lets an exit out of the loop where it is raised in a task of its own
            raise BaseExceptionGroup("of a task group", [ValueError("beside"), error])

    with serve(app, parser, library=library) as server:
        client = Peer(server)
        server.wait_until(lambda: server.host.left)
        server.wait_until(lambda: not server.server.tasks)
        code = 7 if isinstance(error, SystemExit) else server.host.left[0]
        assert server.host.left == [code]
        del client
        server.log.take("error")


@pytest.mark.parametrize(("group", "library"), GROUPS)
def test_a_group_of_cancellations_alone_is_a_cancellation_by_the_server(
    parser: str, group: str, library: str
) -> None:
    waits = Flag()
    ended: list[Any] = []

    async def wait() -> None:
        waits.set()
        await (trio.sleep_forever() if library == "trio" else asyncio.Event().wait())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            if group == "trio":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait)
                    nursery.start_soon(wait)
            elif group == "asyncio":
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(wait())
                    tasks.create_task(wait())
            else:
                async with anyio.create_task_group() as anyio_tasks:
                    anyio_tasks.start_soon(wait)
                    anyio_tasks.start_soon(wait)
        except BaseException as error:
            ended.extend(leaves(error))
            raise

    with serve(app, parser, library=library, request_timeout=100) as server:
        peer = Peer(server)
        waits.wait()
        server.settle()
        server.call(make_older, server)
        assert peer.read()[0] == 503
        server.wait_until(lambda: not server.server.tasks)
        assert len(server.log.take("warning")) == 1
    assert {*ended} == {trio.Cancelled if library == "trio" else asyncio.CancelledError}


# The same in the lifespan.


async def start_up(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})


@pytest.mark.parametrize(("group", "library"), GROUPS)
def test_a_group_with_an_error_in_the_lifespan_is_logged(
    parser: str, group: str, library: str
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start_up(scope, receive, send)
        await raise_in_group(group, ValueError("fault"))

    with inside(parser, library) as room:

        async def work() -> None:
            lifespan = room.lifespan(app)
            await lifespan.startup()
            while not room.log.lines:
                await asyncio.sleep(0.001)
            await lifespan.shutdown(WAIT)

        room.run(work)
        (line,) = room.log.take("error")
        assert line.text == "ASGI lifespan raised"
        assert leaves(line.error) == [ValueError]


@pytest.mark.parametrize("library", ["asyncio", "trio"])
@pytest.mark.parametrize("when", ["startup", "later"])
def test_an_exit_in_a_group_in_the_lifespan_ends_the_process(
    parser: str, library: str, when: str
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if when == "later":
            await start_up(scope, receive, send)
        raise BaseExceptionGroup("nested", [ValueError("beside"), SystemExit(7)])

    with inside(parser, library) as room:

        async def work() -> None:
            lifespan = room.lifespan(app)
            if when == "startup":
                with pytest.raises(LifespanError, match=r"raised SystemExit\(7\)"):
                    await lifespan.startup()
            else:
                await lifespan.startup()
                while not room.exits:
                    await asyncio.sleep(0.001)
            await lifespan.shutdown(WAIT)

        room.run(work)
        assert [repr(error) for error in room.exits] == ["SystemExit(7)"] * (when == "later")


@pytest.mark.parametrize("library", ["asyncio", "trio"])
@pytest.mark.parametrize("is_answered", [True, False])
def test_a_lifespan_that_is_cancelled_at_the_end_says_nothing(
    parser: str, library: str, is_answered: bool
) -> None:
    ended: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start_up(scope, receive, send)
        try:
            await receive()
            if is_answered:
                await send({"type": "lifespan.shutdown.complete"})
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever)
                tasks.start_soon(anyio.sleep_forever)
        except BaseException as error:
            ended.extend(leaves(error))
            raise

    with inside(parser, library) as room:

        async def work() -> None:
            lifespan = room.lifespan(app)
            await lifespan.startup()
            await lifespan.shutdown(0.01)

        room.run(work)
        lines = room.log.take("error")
        assert [line.text for line in lines] == (
            [] if is_answered else ["ASGI lifespan.shutdown was not complete after 0.0 s"]
        )
    assert {*ended} == {trio.Cancelled if library == "trio" else asyncio.CancelledError}


@pytest.mark.parametrize("library", ["asyncio", "trio"])
@pytest.mark.parametrize("error", ["alone", "in a group"])
def test_a_lifespan_that_cancels_itself_has_failed(parser: str, library: str, error: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if error == "alone":
            raise asyncio.CancelledError
        raise BaseExceptionGroup("nested", [asyncio.CancelledError()])

    with inside(parser, library) as room:

        async def work() -> None:
            with pytest.raises(LifespanError, match="CancelledError"):
                await room.lifespan(app).startup()

        room.run(work)
        (line,) = room.log.take("error")
        assert line.text == "ASGI lifespan.startup failed"
