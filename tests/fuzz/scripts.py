"""Applications that follow random scripts: well-behaved ones, and ones that break every rule of ASGI."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gunicorn_asgi.errors import ApplicationError, ClientDisconnected
from gunicorn_asgi.observe.printable import printable

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

FILE = str(Path(__file__).parent / "__init__.py")
ID = b"x-call"
"""The header by which a response on the wire is known as that of a call."""
SIZES = (0, 1, 10, 10, 10, 300, 5000, 70000)
MAX_SIZE = 70000
MAX_MESSAGES = 200
"""Messages after which an application stops to read: a client may send more than a case has time for."""


class OwnError(Exception):
    """Raised by an application."""


class OwnBaseError(BaseException):
    """Raised by an application, and not to be caught by ``except Exception``."""


@dataclass
class Call:
    """One call of the application."""

    number: int
    scope: dict[str, Any]
    status: int | None = None
    """Of the response that this call has completed, as far as it knows."""
    size: int = 0
    """Bytes of its body."""
    is_over: bool = False

    def __post_init__(self) -> None:
        scope = self.scope
        target = (
            scope["raw_path"] + (b"?" if scope["query_string"] else b"") + scope["query_string"]
        )
        method = scope.get("method", "CONNECT" if scope["http_version"] == "2" else "GET")
        version = "2.0" if scope["http_version"] == "2" else scope["http_version"]
        self.request = f"{method} {printable(target)} HTTP/{version}".replace('"', '\\"')
        """As in the access log."""


@dataclass
class Script:
    """An application, and what became of its calls."""

    rng: random.Random
    is_good: bool
    """Whether it keeps the rules of ASGI, and answers."""
    is_deaf: bool
    """Whether it never reads, and waits for ever."""
    calls: list[Call] = field(default_factory=list)
    raised: list[BaseException] = field(default_factory=list)
    """What has left the application, for the server to handle."""
    problems: list[str] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    """Tasks of the application's own."""

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        rng = random.Random(self.rng.random())
        call = Call(len(self.calls), dict(scope))
        self.calls.append(call)
        run = Run(self, call, rng, receive, send)
        try:
            await run.start()
        except BaseException as error:
            self.raised.append(error)
            raise
        finally:
            call.is_over = True


class Run:
    """One call, as it is made."""

    def __init__(
        self, script: Script, call: Call, rng: random.Random, receive: Receive, send: Send
    ) -> None:
        self.script = script
        self.call = call
        self.rng = rng
        self._receive = receive
        self._send = send
        self.mark = [(ID, b"%d" % call.number)]
        self.has_ignored_cancellation = False

    async def start(self) -> None:
        kind = self.call.scope["type"]
        if self.script.is_deaf:
            if kind == "websocket":
                await self.send({"type": "websocket.accept"})
            await self.hang()
        elif self.script.is_good:
            await (self.answer() if kind == "http" else self.converse())
        else:
            await self.misbehave()

    # The two callables, and the only exceptions that they may raise.

    async def receive(self) -> Any:
        try:
            return await self._receive()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.script.problems.append(f"receive() raised {error!r}")
            raise

    async def send(self, message: Any) -> None:
        try:
            await self._send(message)
        except (asyncio.CancelledError, ApplicationError, ClientDisconnected):
            raise
        except BaseException as error:
            self.script.problems.append(f"send({str(message)[:200]}) raised {error!r}")
            raise

    # Applications that keep the rules.

    async def answer(self) -> None:
        rng, size = self.rng, 0
        if rng.random() < 0.7:
            for _ in range(MAX_MESSAGES):
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    return
                if not message["more_body"]:
                    break
        if rng.random() < 0.2:
            await asyncio.sleep(rng.choice((0, 0.5, 3)))
        status = rng.choice((200, 200, 200, 204, 304, 404, 500))
        parts = [b"x" * rng.choice(SIZES) for _ in range(rng.choice((1, 1, 1, 2, 5)))]
        if status in (204, 304):
            parts = [b""]
        headers = [*self.mark]
        if rng.random() < 0.4 and status not in (204, 304):
            headers.append((b"content-length", b"%d" % sum(map(len, parts))))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        for number, part in enumerate(parts):
            if rng.random() < 0.1:
                await asyncio.sleep(0)
            more = number < len(parts) - 1
            await self.send({"type": "http.response.body", "body": part, "more_body": more})
            size += len(part)
        self.call.status, self.call.size = status, size
        if rng.random() < 0.1:
            await self.receive()

    async def converse(self) -> None:
        rng = self.rng
        assert (await self.receive())["type"] == "websocket.connect"
        if rng.random() < 0.1:
            await self.send({"type": "websocket.close"})
            return
        await self.send({"type": "websocket.accept", "headers": self.mark})
        for _ in range(MAX_MESSAGES):
            message = await self.receive()
            if message["type"] == "websocket.disconnect":
                return
            if rng.random() < 0.7:
                reply = {key: message[key] for key in ("text", "bytes") if key in message}
                await self.send({"type": "websocket.send", **reply})
            if rng.random() < 0.02:
                break
        if rng.random() < 0.5:
            await self.send({"type": "websocket.close", "code": 4000, "reason": "é"})

    # Applications that do anything.

    async def misbehave(self) -> None:
        for _ in range(self.rng.choice((0, 1, 2, 3, 5, 8))):
            try:
                await self.act()
            except (ApplicationError, ClientDisconnected, OwnError):
                if self.rng.random() < 0.4:
                    raise
            except asyncio.CancelledError:
                if self.has_ignored_cancellation or self.rng.random() < 0.8:
                    raise
                self.has_ignored_cancellation = True
            except OwnBaseError:
                if self.rng.random() < 0.9:
                    raise

    async def act(self) -> None:
        rng = self.rng
        await rng.choices((*ACTS,), (*ACTS.values(),))[0](self)

    async def any_receive(self) -> None:
        if self.rng.random() < 0.5:
            await self.receive()
        else:
            with suppress(TimeoutError, asyncio.TimeoutError):  # two classes before 3.11
                await asyncio.wait_for(self.receive(), self.rng.choice((0, 0.1, 2)))

    async def any_send(self) -> None:
        await self.send(any_message(self.rng, self.call.scope["type"], self.mark))

    async def send_in_order(self) -> None:
        rng = self.rng
        if self.call.scope["type"] == "websocket":
            await self.send({"type": "websocket.accept"})
            for _ in range(rng.randrange(4)):
                await self.send({"type": "websocket.send", "text": "x" * rng.choice(SIZES)})
            return
        trailers = rng.random() < 0.3
        await self.send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": self.mark,
                "trailers": trailers,
            }
        )
        for _ in range(rng.randrange(4)):
            body = b"x" * rng.choice(SIZES)
            await self.send({"type": "http.response.body", "body": body, "more_body": True})
        if rng.random() < 0.7:
            await self.send({"type": "http.response.body"})
        if trailers:
            await self.send({"type": "http.response.trailers", "headers": [(b"x-t", b"1")]})

    async def send_file(self) -> None:
        rng = self.rng
        await self.send({"type": "http.response.start", "status": 200, "headers": self.mark})
        if rng.random() < 0.5:
            await self.send({"type": "http.response.pathsend", "path": FILE})
            return
        with Path(FILE).open("rb") as file:
            message = {
                "type": "http.response.zerocopysend",
                "file": file,
                "offset": rng.choice((0, 5)),
            }
            if rng.random() < 0.5:
                message |= {"count": rng.choice((0, 10, 10**6)), "more_body": rng.random() < 0.5}
            await self.send(message)

    async def sleep(self) -> None:
        await asyncio.sleep(self.rng.choice((0, 0, 0.2, 5)))

    async def fail(self) -> None:
        raise self.rng.choice((OwnError, OwnError, OwnBaseError, asyncio.CancelledError))("own\r\n")

    async def exit(self) -> None:
        raise self.rng.choice((SystemExit(3), KeyboardInterrupt(), GeneratorExit()))

    async def cancel_itself(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if self.rng.random() < 0.7:
            await asyncio.sleep(0)

    async def hang(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def spawn(self) -> None:
        """A task that goes on when the application has returned."""
        self.script.tasks.append(asyncio.get_running_loop().create_task(self.act_later()))

    async def act_later(self) -> None:
        try:
            for _ in range(self.rng.randrange(1, 4)):
                await asyncio.sleep(self.rng.choice((0, 1)))
                await (self.any_send() if self.rng.random() < 0.6 else self.any_receive())
        except (ApplicationError, ClientDisconnected):
            pass

    async def change_scope(self) -> None:
        self.call.scope["headers"].clear()
        self.call.scope["path"] = None


ACTS: dict[Callable[[Run], Awaitable[None]], int] = {
    Run.any_receive: 8,
    Run.any_send: 10,
    Run.send_in_order: 6,
    Run.send_file: 2,
    Run.sleep: 3,
    Run.fail: 2,
    Run.exit: 1,
    Run.cancel_itself: 1,
    Run.hang: 1,
    Run.spawn: 2,
    Run.change_scope: 1,
}


def any_value(rng: random.Random) -> Any:
    return rng.choice(
        (
            None, True, 0, 1, -1, 2**70, 1.5, "", "a", "\ud800", "a\r\nb: c", b"", b"a", b"a\r\nb: c", b"\0", b"\xff", bytearray(b"a"), memoryview(b"a"),
            [], (), {}, [(b"a", b"b")], [[b"a", b"b"]], [(b"a", b"b\r\nc: d")], [(b"a\n", b"b")], [("a", "b")], [b"ab"], [(b"a",)], object(), [None],
            [(b"content-length", b"3")], [(b"transfer-encoding", b"chunked")], [(b"connection", b"close")], 200, 204, 304, 101, 1000, 3000, FILE,
        )
    )  # fmt: skip


def any_message(rng: random.Random, kind: str, mark: list[Any]) -> Any:
    """A message that fits the scope's type, more or less."""
    if rng.random() < 0.05:
        return any_value(rng)
    is_other = rng.random() < 0.1
    table = HTTP_KEYS if (kind == "http") is not is_other else WEBSOCKET_KEYS
    name = rng.choice((*table,))
    message: dict[str, Any] = {"type": name}
    for key in table[name]:
        if rng.random() < 0.7:
            message[key] = good_value(rng, key, mark) if rng.random() < 0.75 else any_value(rng)
    if rng.random() < 0.03:
        message["type"] = any_value(rng)
    return message


HTTP_KEYS: dict[str, tuple[str, ...]] = {
    "http.response.start": ("status", "headers", "trailers"),
    "http.response.body": ("body", "more_body"),
    "http.response.trailers": ("headers", "more_trailers"),
    "http.response.early_hint": ("links",),
    "http.response.pathsend": ("path",),
    "http.response.zerocopysend": ("file", "offset", "count", "more_body"),
}
WEBSOCKET_KEYS: dict[str, tuple[str, ...]] = {
    "websocket.accept": ("subprotocol", "headers"),
    "websocket.send": ("bytes", "text"),
    "websocket.close": ("code", "reason"),
    "websocket.http.response.start": ("status", "headers", "trailers"),
    "websocket.http.response.body": ("body", "more_body"),
}


def good_value(rng: random.Random, key: str, mark: list[Any]) -> Any:
    if key == "headers":
        return rng.choice((mark, [], [(b"x-a", b"b")], [(b"content-length", b"10")]))
    if key in ("body", "bytes"):
        return b"x" * rng.choice(SIZES)
    if key == "text":
        return "é" * rng.choice(SIZES)
    if key == "status":
        return rng.choice((200, 204, 304, 404, 999))
    if key == "path":
        return rng.choice((FILE, FILE, "/", "/no/such/file"))
    values = {"links": [b"</a>; rel=preload"], "code": 3000, "reason": "r", "subprotocol": "b"}
    return values.get(key, rng.random() < 0.5)
