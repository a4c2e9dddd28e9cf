"""One case: connections, an application, the clock, and the ends. Then the invariants."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import math
import random
import sys
import traceback
import types
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from h2raw import PREFACE
from inprocess import Host, Listening, Log, make_settings

from gunicorn_asgi.asgi import websocket as asgi_websocket
from gunicorn_asgi.config.settings import Settings
from gunicorn_asgi.frozen import replace
from gunicorn_asgi.http1 import body
from gunicorn_asgi.http1 import connection as h1_connection
from gunicorn_asgi.http1.parser import available
from gunicorn_asgi.http2 import frames as h2_frames
from gunicorn_asgi.net.listener import Listener
from gunicorn_asgi.observe.access_log import Access
from gunicorn_asgi.server import Server
from gunicorn_asgi.websocket import close as ws_close
from gunicorn_asgi.websocket import deflate, reader
from gunicorn_asgi.websocket import frames as ws_frames

from . import traffic
from .loop import VirtualLoop
from .scripts import MAX_SIZE, Script
from .traffic import Traffic
from .transport import HIGH_WATER, FakeTransport
from .wire import Answer, WireError, read_http1, read_http2

KINDS: dict[str, tuple[str, Callable[[random.Random], Traffic]]] = {
    "HTTP/1.1 with h11": ("h11", traffic.http1),
    "HTTP/1.1 with httptools": ("httptools", traffic.http1),
    "HTTP/2": ("h11", traffic.http2),
    "WebSocket with h11": ("h11", traffic.websocket),
    "WebSocket with httptools": ("httptools", traffic.websocket),
    "WebSocket over HTTP/2": ("h11", traffic.websocket2),
}
"""The kinds of cases: the parser, and what the clients send."""
if available() != "httptools":
    KINDS = {name: kind for name, kind in KINDS.items() if kind[0] == "h11"}

MAX_MESSAGE = 50000
"""The limit on WebSocket messages in the cases."""
MAX_UNSENT = HIGH_WATER + 8 * (MAX_SIZE * 2 + 65536)
"""Bytes that may wait for a client that reads nothing: a few messages that an application has sent
from several tasks, and the answers to pings. Each task sends one message before it waits."""
MAX_HELD, MAX_HELD_H2 = 500_000, 2_000_000
"""Bytes of a client that a connection may hold: the limit on waiting data, a message, a packet, and
the copies that are being made of them. Over HTTP/2, the windows of eight streams come to that."""
FIRST_PORT = 8000
"""Each connection has a port of the server for itself: a client's address may be forwarded."""
LONG = 400
"""Seconds after which the default deadlines have passed, also where one follows the other: a client
that takes nothing has four of them, for its stream, an idle connection, the end, and the close."""


@cache
def settings_of(parser: str, **values: Any) -> Settings:
    # Also with a Gunicorn that has no setting for it.
    return replace(make_settings(parser, **values), websocket_max_message_size=MAX_MESSAGE)


def any_settings(rng: random.Random, parser: str, kind: str) -> Settings:
    values: dict[str, Any] = {"ws_per_message_deflate": rng.random() < 0.8}
    if "HTTP/2" in kind:
        values |= {
            "http_protocols": "h2,h1",
            "http2_cleartext": rng.choice(("both", "prior-knowledge")),
        }
        values["http2_max_concurrent_streams"] = rng.choice((2, 8))
    elif rng.random() < 0.2:
        values |= {"http_protocols": "h2,h1", "http2_cleartext": "both"}
    if rng.random() < 0.2:
        values["limit_concurrency"] = 2
    if rng.random() < 0.3:
        values["half_close"] = "disconnect"
    return settings_of(parser, **values)


class AccessLines:
    """Gunicorn's logger, as far as it writes the access log, with its stock handler on memory."""

    def __init__(self) -> None:
        self._stream = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n", write_through=True)
        log = Logger.__new__(Logger)
        log.cfg = cfg = Config()
        cfg.set("accesslog", "-")
        cfg.set(
            "access_log_format", '%(s)s %(h)s %(B)s "%(f)s" "%(a)s" %({x-a}i)s %({x-a}o)s => %(r)s'
        )
        log.error_log = logging.getLogger("fuzz.error")
        log.access_log = logging.getLogger("fuzz.access")
        log.access_log.setLevel(logging.INFO)
        log.access_log.propagate = False
        log.access_log.addHandler(logging.StreamHandler(self._stream))
        self.access = Access(SimpleNamespace(cfg=cfg, log=log))  # type: ignore[arg-type]  # a worker, as far as it is asked

    def take(self) -> list[str]:
        self.access.flush()
        raw = self._stream.buffer
        assert isinstance(raw, io.BytesIO)
        text = raw.getvalue().decode()
        raw.seek(0)
        raw.truncate()
        return text.split("\n")[:-1]


access_lines = cache(AccessLines)


class Connection:
    """A client of a case."""

    def __init__(self, sent: Traffic, pieces: Iterator[bytes], alpn: str | None) -> None:
        self.traffic = sent
        self.alpn = alpn
        """As for `FakeTransport`."""
        self.pieces: Iterator[bytes] | None = pieces
        self.raw: Any = None
        self.server_side: Any = None
        self.is_patient = True
        """The client reads, and stays to the end."""
        self.answers: list[Answer] = []


class Case:
    """One case. Everything random comes from `rng`."""

    def __init__(self, kind: str, rng: random.Random) -> None:
        parser, make_traffic = KINDS[kind]
        self.kind = kind
        self.rng = rng
        self.loop = VirtualLoop()
        self.log = Log()
        self.host = Host(3 if rng.random() < 0.05 else sys.maxsize)
        self.lines = access_lines()
        self.script = Script(rng, rng.random() < 0.5, rng.random() < 0.1)
        self.server: Any = None
        self.settings = any_settings(rng, parser, kind)
        self.connections = [
            self.make_client(make_traffic) for _ in range(rng.choice((1, 1, 1, 2, 3)))
        ]
        self.is_stopped = False
        """The worker has begun to stop."""
        self.problems: list[str] = []

    def make_client(self, make_traffic: Callable[[random.Random], Traffic]) -> Connection:
        sent = make_traffic(self.rng)
        alpn = None
        if self.rng.random() < 0.3:
            alpn = "h2" if sent.data.startswith(PREFACE) else "http/1.1"
        return Connection(sent, traffic.cut(self.rng, sent.data), alpn)

    # The course of events.

    def run(self) -> list[str]:
        """Run the case. Returns the invariants that did not hold."""
        loop, rng = self.loop, self.rng
        asyncio.set_event_loop(loop)
        try:
            self.on_loop(self.start)
            for _ in range(MAX_STEPS):
                if not any(each.pieces for each in self.connections):
                    break
                rng.choices((*STEPS,), (*STEPS.values(),))[0](self)
                if rng.random() < 0.5:
                    loop.settle()
            loop.settle()
            self.check_memory()
            self.end()
            self.check()
        except (SystemExit, KeyboardInterrupt) as error:
            self.problems.append(f"{error!r} has left the loop")
        except Exception:
            self.problems.append(f"the case itself: {traceback.format_exc()}")
        finally:
            asyncio.set_event_loop(None)
            self.lines.take()
            self.drop_all()
        return self.problems

    def start(self) -> None:
        self.server = Server(
            self.settings, self.script, self.host, self.log, self.lines.access, self.loop
        )
        self.server.tick(1.0)
        for number, each in enumerate(self.connections):
            address = ("127.0.0.1", FIRST_PORT + number)
            listening = Listening(SimpleNamespace(getsockname=lambda name=address: name))  # type: ignore[arg-type]  # its name is asked for
            listener = Listener(listening, "http" if each.alpn is None else "https", "")
            each.server_side = self.server.connect(listener, ("127.0.0.1", 40000 + number))
            each.raw = FakeTransport(self.loop, each.server_side, address, each.alpn)
            each.raw.connect()

    def on_loop(self, function: Callable[..., Any], *args: Any) -> None:
        self.loop.call_soon(function, *args)
        self.loop.turn()

    def advance(self, seconds: float) -> None:
        # The worker ticks once a second. A long time passes in longer steps, announced as such.
        step = 1.0 if seconds < LONG else 5.0
        self.on_loop(self.server.tick, step)
        for _ in range(math.ceil(seconds / step)):
            self.loop.now += step
            self.on_loop(self.server.tick, step)
            self.loop.settle()

    def any_connection(self) -> Connection:
        return self.rng.choice(self.connections)

    # Steps.

    def deliver(self) -> None:
        each = self.any_connection()
        for _ in range(self.rng.choice((1, 3, 20))):
            piece = next(each.pieces, None) if each.pieces else None
            if piece is None:
                each.pieces = None
                return
            self.on_loop(each.raw.send, piece)

    def clog(self) -> None:
        each = self.any_connection()
        each.is_patient = False
        each.raw.allow(self.rng.choice((0, 1, 1000, 100000)))

    def unclog(self) -> None:
        self.on_loop(self.any_connection().raw.allow, math.inf)

    def pass_time(self) -> None:
        seconds = self.rng.choice((1, 1, 3, 11, 31, 70))
        if seconds > 1:
            for each in self.connections:
                each.is_patient = False  # a deadline of the request may pass
        self.advance(seconds)
        self.check_memory()

    def stall(self) -> None:
        """The loop was blocked, so no deadline has passed."""
        self.loop.now += self.rng.choice((2.0, 15.0, 100.0))
        self.on_loop(self.server.tick, 1.0)

    def half_close(self) -> None:
        each = self.any_connection()
        each.is_patient = False
        each.pieces = None
        self.on_loop(each.raw.send_eof)

    def lose(self) -> None:
        each = self.any_connection()
        each.is_patient = False
        each.pieces = None
        error = self.rng.choice(
            (None, ConnectionResetError(104, "reset"), TimeoutError(110, "late"))
        )
        self.on_loop(each.raw.lose, error)

    def drain(self) -> None:
        if not self.is_stopped:
            self.is_stopped = True
            self.on_loop(self.begin_drain)

    def begin_drain(self) -> None:
        task = self.loop.create_task(self.server.shut_down(self.rng.choice((2, 20)), 2.0))
        self.script.tasks.append(task)

    # The end.

    def end(self) -> None:
        """All clients leave, and the worker stops."""
        loop, rng = self.loop, self.rng
        way = rng.choice((0, 1, 2, 2, 3))
        if way == 0:
            self.drain()
        elif way == 1:
            for each in self.connections:
                each.is_patient = False
            self.is_stopped = True
            self.on_loop(self.begin_abort)
        elif way == 2:
            self.advance(LONG)
            self.check_idle_is_closed()
        for each in self.connections:
            self.on_loop(each.raw.allow, math.inf)
        loop.settle()
        if way != 1:
            self.check_answers()
        for each in self.connections:
            self.on_loop(each.raw.send_eof)
        self.advance(3)
        for each in self.connections:
            self.on_loop(each.raw.lose, None)
        self.advance(LONG)
        for task in self.script.tasks:
            task.cancel()
        loop.settle()
        # Twice, for applications may ignore a cancellation.
        for _ in range(2):
            self.on_loop(self.begin_abort)
            self.advance(5)

    def begin_abort(self) -> None:
        self.script.tasks.append(self.loop.create_task(self.server.abort()))

    def drop_all(self) -> None:
        """Whatever is left has been reported."""
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        for _ in range(20):
            try:
                self.loop.turn()
            except (SystemExit, KeyboardInterrupt):
                continue
        self.loop.close()

    # Invariants.

    def check(self) -> None:
        for name, found in self.broken():
            self.problems.append(f"{name}: {found}"[:1500])

    def broken(self) -> Iterator[tuple[str, object]]:
        """Each line is an invariant, and what breaks it."""
        server, loop, script, raws = (
            self.server,
            self.loop,
            self.script,
            [each.raw for each in self.connections],
        )
        yield from (("the loop has no unhandled error", each) for each in loop.complaints)
        yield from (
            ("receive() and send() raise only what ASGI knows", each) for each in script.problems
        )
        yield from (
            ("the transport is used as asyncio allows", each)
            for raw in raws
            for each in raw.problems
        )
        yield from (("each connection ends", raw.taken) for raw in raws if not raw.is_lost)
        yield from (("no connection is left", each) for each in server.connections)
        yield from (("no application is left", each) for each in server.tasks)
        yield from (("no task is left", each) for each in asyncio.all_tasks(loop))
        yield from (("no timer is left", each) for each in loop.timers())
        yield from (("no call is left", each) for each in script.calls if not each.is_over)
        yield from (
            ("unsent bytes are bounded", raw.max_buffer)
            for raw in raws
            if raw.max_buffer > MAX_UNSENT
        )
        yield from (
            ("the log has the application's errors only", each)
            for each in self.log.lines
            if not self.is_expected(each)
        )
        yield from (
            ("no line has a control character", each)
            for each in self.log.lines
            if not each.text.isprintable()
        )
        yield from self.broken_access_log()

    def is_expected(self, line: Any) -> bool:
        if line.level == "warning":
            return line.text.startswith(EXPECTED_WARNINGS)
        is_own = line.error is None or any(line.error is each for each in self.script.raised)
        return is_own and line.text.startswith(EXPECTED_ERRORS)

    def broken_access_log(self) -> Iterator[tuple[str, object]]:
        lines, calls = self.lines.take(), self.script.calls
        yield from (
            ("no line has a control character", line) for line in lines if not line.isprintable()
        )
        left = Counter(line.rpartition(" => ")[2] for line in lines)
        left.subtract(call.request for call in calls)
        yield from (
            ("each request has its line", f"{request!r}: {lines}")
            for request, count in left.items()
            if count < 0
        )
        # What is left are refusals, which no application has seen.
        good = sum(line[:3].isdigit() and int(line[:3]) < 400 for line in lines)
        if good > len(calls):
            yield "no request has two lines", f"{len(calls)} calls, {lines}"
        if "HTTP/2" not in self.kind and sum(left.values()) > len(self.connections):
            yield "a refusal is the last on its connection", f"{len(calls)} calls, {lines}"

    def check_memory(self) -> None:
        for each in self.connections:
            size = held(each.server_side)
            if size > (MAX_HELD_H2 if "HTTP/2" in self.kind else MAX_HELD):
                self.problems.append(f"a connection's memory is bounded: {size} bytes")

    def check_idle_is_closed(self) -> None:
        """No client stays connected for ever, unless an application works for one of them."""
        if not all(each.is_over for each in self.script.calls):
            return
        if self.server.count_busy():
            self.problems.append(f"no exchange is left: {self.server.connections}")
        for each in self.connections:
            if not each.raw.is_lost:
                self.problems.append(f"an idle connection is closed: {each.server_side!r}")

    def check_answers(self) -> None:
        """Everything on the wire can be read, and each client that stayed has its answers whole."""
        calls = self.script.calls
        for number, each in enumerate(self.connections):
            own = [call for call in calls if call.scope["server"][1] == FIRST_PORT + number]
            try:
                each.answers = self.read(each, own)
            except WireError as error:
                self.problems.append(f"the answers can be read: {error}")
                continue
            if not (each.is_patient and each.traffic.is_valid and self.script.is_good):
                continue
            for call in own:
                self.check_answer(each, call)
            if all(call.is_over for call in own) and not self.is_stopped:
                self.check_count(each)

    def check_count(self, each: Connection) -> None:
        """Each request has an answer, and the connection does not end unannounced."""
        found, count = each.answers, each.traffic.count
        is_announced = bool(found) and (found[-1].is_last or found[-1].status == 101)
        if count and len(found) != count and not (len(found) < count and is_announced):
            self.problems.append(f"each request is answered: {count}, {found}"[:1000])

    def read(self, each: Connection, own: list[Any]) -> list[Answer]:
        data, sent = bytes(each.raw.taken), bytes(each.raw.delivered)
        websockets = {call.number for call in own if call.scope["type"] == "websocket"}
        if data.startswith(b"HTTP/1.1 ") or not data:
            methods = [
                call.scope.get("method", "GET") for call in own if call.scope["http_version"] != "2"
            ]
            return read_http1(data, methods, sent, not each.is_patient)
        return read_http2(data, sent, websockets)

    def check_answer(self, each: Connection, call: Any) -> None:
        if call.status is None or call.scope["type"] == "websocket":
            return
        found = [answer for answer in each.answers if answer.call == call.number]
        size = 0 if call.scope["method"] == "HEAD" else call.size
        if [(answer.status, answer.size, answer.is_whole) for answer in found] != [
            (call.status, size, True)
        ]:
            self.problems.append(f"an answer arrives whole: {call} {found}"[:1000])


STEPS: dict[Callable[[Case], None], float] = {
    Case.deliver: 20,
    Case.clog: 1,
    Case.unclog: 1.5,
    Case.pass_time: 1,
    Case.stall: 0.3,
    Case.half_close: 0.5,
    Case.lose: 0.5,
    Case.drain: 0.2,
}
MAX_STEPS = 400

SMALL_STEPS = (
    (body, "MAX_STEP", 20),
    (h1_connection, "MAX_PIPELINED", 1),
    (h2_frames, "MAX_STEP", 3),
    (reader, "COMPRESSED_PART", 50),
    (reader, "DECODED_PART", 1000),
    (deflate, "MAX_INFLATED", 1000),
    (ws_close, "SKIPPED_FRAMES_PER_STEP", 5),
    (asgi_websocket, "MAX_DEFLATE", 1000),
    (ws_frames, "DEFLATED_PART", 500),
)
"""Limits on a step of work, so small that the traffic of a case takes several steps."""

EXPECTED_WARNINGS = (
    "Invalid ",
    "Answered with 503",
    "The application has ",
    *(f"{number} responses were not complete" for number in range(50)),
)
EXPECTED_ERRORS = (
    "Error handling request ",
    "ASGI application returned without ",
    "ASGI application was cancelled, ",
    "ASGI application did not answer ",
)

PASSIVE = (
    type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType, types.FrameType, types.CoroutineType, asyncio.Future,
    asyncio.AbstractEventLoop, Server, FakeTransport, Settings, Script, Log, Host, Access,
)  # fmt: skip
"""What a connection refers to and shares with all others, and the application's own."""


def held(root: object) -> int:
    """Bytes of all texts that a connection refers to, however it keeps them."""
    seen: set[int] = set()
    found, size = [root], 0
    while found:
        thing = found.pop()
        if id(thing) in seen or isinstance(thing, PASSIVE):
            continue
        seen.add(id(thing))
        if isinstance(thing, (bytes, bytearray, str)):
            size += sys.getsizeof(thing)
        elif isinstance(thing, types.MethodType):
            found.append(thing.__self__)
        else:
            found += gc.get_referents(thing)
    return size


def run_case(seed: int, number: int) -> tuple[str, list[str]]:
    """Run the case ``seed:number``. Returns its kind, and the invariants that did not hold."""
    kind = [*KINDS][number % len(KINDS)]
    with pytest.MonkeyPatch.context() as patch:
        if random.Random(f"steps {seed}:{number}").random() < 0.5:
            for module, name, value in SMALL_STEPS:
                patch.setattr(module, name, value)
        return kind, Case(kind, random.Random(f"{seed}:{number}")).run()
