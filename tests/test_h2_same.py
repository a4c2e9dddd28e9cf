"""The same application over HTTP/1.1 and over HTTP/2 gives the same answer, and is told the same: sound ones and faulty ones.

Compared are the status, the fields but for those of the connection, the body and whether it is taken for whole, the 1xx responses, what the application
was told and what was raised in it, the lines of the log, and the line of the access log but for the protocol. Where an answer has to differ, the case
says what is other over HTTP/2, and why.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from accesslog import AccessLog, make_access
from gunicorn.config import Config
from gunicorn.glogging import Logger
from h2client import connect
from inprocess import HTTP2, Flag, InProcess, Truncated, answer, hello, read_body, serve
from libraries import is_trio, start_task

from gunicorn_asgi.errors import ApplicationError
from gunicorn_asgi.http.contract import Header
from gunicorn_asgi.observe.atoms import Atoms

pytestmark = pytest.mark.both_libraries

START: dict[str, Any] = {"type": "http.response.start", "status": 200}
BODY: dict[str, Any] = {"type": "http.response.body"}


class Watched:
    """An application, and all that happens to it."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.told: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [field for field in scope["headers"] if field[0] != b"transfer-encoding"]
        kept = {
            key: value
            for key, value in scope.items()
            if key not in ("http_version", "client", "headers")
        }
        self.told.append({**kept, "headers": headers, "client": scope["client"][0]})

        async def watched_receive() -> Any:
            message = await receive()
            last = self.told[-1]
            if (
                message["type"] == "http.request"
                and isinstance(last, dict)
                and last["type"] == "http.request"
                and last["more_body"]
            ):
                self.told[-1] = {
                    **message,
                    "body": last["body"] + message["body"],
                }  # in how many parts it comes is nobody's business
            else:
                self.told.append(message)
            return message

        async def watched_send(message: Any) -> None:
            try:
                await send(message)
            except Exception as error:
                self.told.append(("send raised", type(error).__name__, str(error)))
                raise

        try:
            await self._app(scope, watched_receive, watched_send)
        except BaseException as error:
            self.told.append(("left by", type(error).__name__, str(error)))
            raise
        self.told.append("returned")


@dataclass
class Outcome:
    """All that is compared."""

    status: int
    headers: list[Header]
    lengths: list[bytes]
    body: bytes
    is_whole: bool
    informed: list[int]
    told: list[Any] = field(default_factory=list)
    log: list[Any] = field(default_factory=list)
    access: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    name: str
    app: Any = hello
    method: str = "GET"
    target: str = "/"
    fields: tuple[Header, ...] = ()
    body: bytes | None = None
    is_declared: bool = True
    """The length of the body is."""
    authority: bytes = b"a"
    settings: Mapping[str, Any] = field(default_factory=dict)
    hooks: Mapping[str, Any] = field(default_factory=dict)
    but: Mapping[str, Any] = field(default_factory=dict)
    """What is other over HTTP/2."""
    because: str = ""


def comparable(headers: list[Header]) -> list[Header]:
    """In their order, without those of the connection and the length, whose place among them says nothing."""
    # 8.2.1: HTTP/2 allows no white space around a value, and in HTTP/1.1 it is none of it.
    found = [
        (name.lower(), value.strip())
        for name, value in headers
        if name.lower() not in (b"connection", b"transfer-encoding", b"content-length")
    ]
    return [
        (name, b"now" if name == b"date" and re.fullmatch(rb"\w{3}, \d\d .* GMT", value) else value)
        for name, value in found
    ]


def over_http1(server: InProcess, case: Case) -> Outcome:
    client = server.connect()
    framing = [] if case.body is None else [b"transfer-encoding: chunked"]
    if case.body is not None and case.is_declared:
        framing = [b"content-length: %d" % len(case.body)]
    lines = [f"{case.method} {case.target} HTTP/1.1".encode("latin-1"), b"host: " + case.authority]
    client.send(
        b"\r\n".join([*lines, *(b"%b: %b" % given for given in case.fields), *framing, b"", b""])
    )
    body = case.body or b""
    content = body if case.is_declared else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    is_waiting = (b"expect", b"100-continue") in case.fields
    if body and not is_waiting:
        client.send(content)
    informed = []
    is_whole = True
    while True:
        try:
            response = client.read_response(case.method)
        except Truncated as error:
            response, is_whole = error.response, False
        if response.status >= 200:
            break
        informed.append(response.status)
        if response.status == 100:
            client.send(content)
    headers = comparable(response.headers)
    return Outcome(
        response.status,
        headers,
        response.values(b"content-length"),
        response.body,
        is_whole,
        informed,
    )


def over_http2(server: InProcess, case: Case) -> Outcome:
    client = connect(server)
    pseudo = [
        (b":method", case.method.encode()),
        (b":scheme", b"http"),
        (b":authority", case.authority),
    ]
    fields = [*pseudo, (b":path", case.target.encode("latin-1")), *case.fields]
    if case.body is not None and case.is_declared:
        fields.append((b"content-length", b"%d" % len(case.body)))
    stream = client.begin_raw(fields, end=case.body is None)
    if case.body is not None:
        if (b"expect", b"100-continue") in case.fields:
            client.wait_for(lambda: stream.informed or stream.is_over)
        if not stream.is_over:
            client.upload(stream, case.body)
    client.read_response(stream)
    assert not stream.values(b"connection")
    informed = [status for status, _ in stream.informed]
    headers = comparable(stream.headers)
    return Outcome(
        stream.status,
        headers,
        stream.values(b"content-length"),
        stream.body,
        stream.has_ended,
        informed,
    )


def run(parser: str, case: Case, over: Callable[[InProcess, Case], Outcome]) -> Outcome:
    app = Watched(case.app)
    log = AccessLog()
    with serve(
        app, parser, access=make_access(log, case.hooks), **{**HTTP2, **case.settings}
    ) as server:
        outcome = over(server, case)
        server.wait_until(lambda: not server.server.tasks and log.protocol)
        outcome.told = app.told
        lines = [line for level in ("info", "warning", "error") for line in server.log.take(level)]
        outcome.log = [
            (line.level, line.text, type(line.error).__name__, str(line.error)) for line in lines
        ]
        outcome.access = log.lines
        for told in (*app.told, *log.lines):  # which port this time
            _forget_port(told, server.address[1])
        assert log.protocol == ("HTTP/2.0" if over is over_http2 else log.protocol)
    return outcome


def _forget_port(told: Any, port: int) -> None:
    if isinstance(told, dict) and "server" in told:
        assert told["server"] == ("127.0.0.1", port)
        told["server"] = None
    elif (
        isinstance(told, tuple)
        and isinstance(told[-1], list)
        and ("SERVER_PORT", str(port)) in told[-1]
    ):
        told[-1].remove(("SERVER_PORT", str(port)))


# Applications.


def sends(*messages: dict[str, Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def says(status: int = 200, headers: Any = None, body: Any = b"hello") -> Any:
    start = {**START, "status": status}
    if headers is not None:
        start["headers"] = headers
    return sends(start, {**BODY, "body": body})


def raises(
    *messages: dict[str, Any], error: Callable[[], BaseException] = lambda: ValueError("its own")
) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        raise error()

    return app


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "headers": [(b"content-type", b"application/octet-stream")]})
    while True:
        message = await receive()
        await send({**BODY, "body": message["body"], "more_body": message["more_body"]})
        if not message["more_body"]:
            return


async def reads_twice(scope: Any, receive: Any, send: Any) -> None:
    await read_body(receive)
    await answer(send)
    assert (await receive())["type"] == "http.disconnect"
    assert (await receive())["type"] == "http.disconnect"


async def listens_before_it_answers(scope: Any, receive: Any, send: Any) -> None:
    await read_body(receive)
    listener = start_task(receive())
    await asyncio.sleep(0)
    assert not listener.done()
    await answer(send)
    assert (await listener)["type"] == "http.disconnect"


async def cancels_its_receive(scope: Any, receive: Any, send: Any) -> None:
    await read_body(receive)
    listener = start_task(receive())
    await asyncio.sleep(0)
    listener.cancel()
    await asyncio.wait([listener])
    await answer(send, b"cancelled" if listener.cancelled() else b"not cancelled")


async def cancels_itself(scope: Any, receive: Any, send: Any) -> None:
    if is_trio():
        raise asyncio.CancelledError  # no task of trio can cancel all of itself
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def sends_from_two_tasks(scope: Any, receive: Any, send: Any) -> None:
    async def write() -> None:
        for _ in range(3):
            await send({**BODY, "body": b"x", "more_body": True})
            await asyncio.sleep(0)

    await send(START)
    await asyncio.gather(start_task(write()), start_task(write()))
    await send(BODY)


async def works_on(scope: Any, receive: Any, send: Any) -> None:
    await answer(send)
    await asyncio.sleep(0)
    await send({"type": "ignored, for it comes too late"})


async def catches(scope: Any, receive: Any, send: Any) -> None:
    """Its faults are its own: it may still answer."""
    faults: list[Any] = [
        BODY,
        {"type": "http.response.unknown"},
        {"type": "http.response.start"},
        {**START, "status": "200"},
        {**START, "status": 99},
        {**START, "headers": [("a", "b")]},
        {},
        None,
    ]
    for message in faults:
        with suppress(Exception):  # told
            await send(message)
    await answer(send, headers=[(b"x", b"y")])


async def a_part_at_a_time(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    for number in range(70):
        await send({**BODY, "body": b"%d," % number, "more_body": True})
    await send(BODY)


async def says_numbers(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, headers=((b"x", b"%d" % number) for number in range(3)))


class Group(Exception):
    """As anyio's and Python's, on any Python."""

    def __init__(self, *exceptions: BaseException) -> None:
        super().__init__("group")
        self.exceptions = exceptions


async def sends_an_open_file(scope: Any, receive: Any, send: Any) -> None:
    with Path(__file__).open("rb") as file:
        await send(START)
        await send(
            {
                "type": "http.response.zerocopysend",
                "file": file,
                "offset": 10,
                "count": 1000,
                "more_body": True,
            }
        )
        await send({"type": "http.response.zerocopysend", "file": file})


HINT: dict[str, Any] = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}
FILE: dict[str, Any] = {"type": "http.response.pathsend", "path": __file__}
FILE_SIZE = b"%d" % Path(__file__).stat().st_size


async def never_called(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError


def with_length(
    *lengths: bytes, body: bytes = b"hello", status: int = 200, more: bool = False
) -> Any:
    start = {
        **START,
        "status": status,
        "headers": [(b"content-length", length) for length in lengths],
    }
    return sends(start, {**BODY, "body": body, "more_body": more})


BIG = bytes(range(256)) * 4096

CASES = [
    # Sound ones.
    Case("plain"),
    Case("no headers", says()),
    Case("empty body", says(body=b"")),
    Case("no body key", sends(START, BODY)),
    Case(
        "own headers in their order",
        says(
            headers=[
                (b"b", b"1"),
                (b"a", b"2"),
                (b"b", b"3"),
                (b"set-cookie", b"x=1"),
                (b"set-cookie", b"y=2"),
            ]
        ),
    ),
    Case("names in upper case", says(headers=[(b"X-Own", b"1"), (b"Content-Type", b"text/plain")])),
    Case("white space around a value", says(headers=[(b"x-own", b"\t 1 2 ")])),
    Case("an empty value", says(headers=[(b"x-own", b"")])),
    Case("obs-text in a value", says(headers=[(b"x-own", b"\xe4\xff")])),
    Case("headers in lists", says(headers=[[b"x-own", b"1"], [b"content-length", b"5"]])),
    Case("headers from a generator", says_numbers),
    Case(
        "a header value as bytearray",
        says(headers=[(b"x-own", bytearray(b"1")), (b"x-view", memoryview(b"2"))]),
    ),
    Case("a body as bytearray", says(body=bytearray(b"hello"))),
    Case("a body as memoryview", says(body=memoryview(b"hello"))),
    Case("an own date and server", says(headers=[(b"date", b"never"), (b"server", b"mine")])),
    Case("an own server that is empty", says(headers=[(b"server", b"")])),
    Case("no server header", settings={"server_header": ""}),
    Case("no date header", settings={"date_header": False}),
    Case("a status of its own", says(799)),
    Case("a status with an empty body", says(599, body=b"")),
    Case(
        "a keep-alive of its own",
        says(headers=[(b"connection", b"keep-alive"), (b"keep-alive", b"5"), (b"x", b"y")]),
        but={"headers": [(b"x", b"y"), (b"date", b"now"), (b"server", b"gunicorn")]},
        because="8.2.2: no fields of the connection",
    ),
    Case(
        "its own transfer-encoding",
        says(headers=[(b"transfer-encoding", b"chunked"), (b"x", b"y")]),
    ),
    Case("connection: close", says(headers=[(b"connection", b"close")])),
    Case("streamed", a_part_at_a_time),
    Case(
        "streamed with a length",
        sends(
            {**START, "headers": [(b"content-length", b"4")]},
            {**BODY, "body": b"ab", "more_body": True},
            {**BODY, "body": b"cd"},
        ),
    ),
    Case(
        "streamed, and ended by nothing",
        sends(START, {**BODY, "body": b"ab", "more_body": True}, BODY),
    ),
    Case(
        "streamed, with nothing first",
        sends(START, {**BODY, "more_body": True}, {**BODY, "body": b"ab"}),
    ),
    Case("a big body", says(body=BIG)),
    Case(
        "a big body in parts",
        sends(START, *[{**BODY, "body": BIG[:70000], "more_body": True}] * 5, BODY),
    ),
    *[
        Case(f"HEAD, {name}", app, "HEAD")
        for name, app in (
            ("plain", hello),
            ("empty", says(body=b"")),
            ("with length", with_length(b"5")),
            ("with a length and no body", with_length(b"5", body=b"")),
            ("streamed", a_part_at_a_time),
            ("unauthorized", says(401)),
            ("304", says(304)),
            ("204", says(204)),
            ("raises", raises()),
            ("returns", sends()),
            ("returns within", sends(START, {**BODY, "more_body": True})),
        )
    ],
    *[
        Case(f"{status}, {name}", app)
        for status in (204, 304)
        for name, app in (
            ("plain", says(status, body=b"")),
            ("with a body", says(status)),
            ("with a length", with_length(b"5", status=status, body=b"")),
            ("with length 0", with_length(b"0", status=status, body=b"")),
            (
                "streamed",
                sends({**START, "status": status}, {**BODY, "body": b"x", "more_body": True}, BODY),
            ),
            ("with a length and a body", with_length(b"5", status=status)),
        )
    ],
    Case("205", says(205, body=b"")),
    Case("a length", with_length(b"5")),
    Case("a length given twice", with_length(b"5", b"5")),
    Case("later messages", sends(START, BODY, BODY, START, {"type": "unknown"})),
    Case("extra keys", sends({**START, "x": 1}, {**BODY, "y": 2})),
    Case("work behind the response", works_on),
    Case("two tasks", sends_from_two_tasks),
    # With extensions.
    Case("early hints", sends(HINT, START, HINT, BODY)),
    Case("early hints that are none", sends({**HINT, "links": [b"a\nb"]}, START, BODY)),
    *[
        Case(f"{method} {name}", app, method)
        for method in ("GET", "HEAD")
        for name, app in (
            ("a file", sends({**START, "headers": [(b"content-length", FILE_SIZE)]}, FILE)),
            ("a file without a length", sends(START, FILE)),
            (
                "a file that is longer",
                sends({**START, "headers": [(b"content-length", b"10")]}, FILE),
            ),
            (
                "a file that is shorter",
                sends({**START, "headers": [(b"content-length", FILE_SIZE + b"0")]}, FILE),
            ),
            ("no such file", sends(START, {**FILE, "path": "/no/such"})),
            ("an open file", sends_an_open_file),
        )
    ],
    # Faulty ones.
    Case("two lengths", with_length(b"5", b"6")),
    Case("a length that is none", with_length(b"five")),
    Case("a length of two", with_length(b"5, 5")),
    Case("a negative length", with_length(b"-1")),
    Case("too long", with_length(b"4")),
    Case("too short", with_length(b"6")),
    Case(
        "too short, in parts",
        sends(
            {**START, "headers": [(b"content-length", b"6")]},
            {**BODY, "body": b"ab", "more_body": True},
            {**BODY, "body": b"cd"},
        ),
    ),
    Case(
        "too long, in parts",
        sends(
            {**START, "headers": [(b"content-length", b"3")]},
            {**BODY, "body": b"ab", "more_body": True},
            {**BODY, "body": b"cd"},
        ),
    ),
    Case("nothing of a length", with_length(b"6", body=b"")),
    *[
        Case(f"a header {value!r}", says(headers=value))
        for value in (
            [("x", "y")],
            [(b"x", "y")],
            [("x", b"y")],
            [(b"x", 1)],
            [(b"x",)],
            [(b"x", b"y", b"z")],
            [None],
            5,
            [(b"x", None)],
            [(b"x y", b"z")],
            [(b"", b"z")],
            [(b":status", b"200")],
            [(b"x:", b"z")],
            [(b"x\r\ny", b"z")],
            [(b"\xe4", b"z")],
            [(b"x", b"a\r\nb: c")],
            [(b"x", b"a\nb")],
            [(b"x", b"a\x00b")],
            [(b"x", b"a\x7fb")],
            [(b"x", bytearray(b"a\nb"))],
        )
    ],
    *[Case(f"a status {value!r}", says(value)) for value in ("200", 99, 1000, None, 200.0)],
    Case("a body that is text", says(body="hello")),
    Case(
        "a body that is text, later",
        sends(START, {**BODY, "body": b"x", "more_body": True}, {**BODY, "body": "y"}),
    ),
    Case("two starts", sends(START, START)),
    Case("two starts, later", sends(START, {**BODY, "body": b"x", "more_body": True}, START)),
    Case("the body first", sends(BODY, START)),
    Case("an unknown message", sends({"type": "http.response.push"})),
    Case(
        "an unknown message within",
        sends(START, {**BODY, "body": b"x", "more_body": True}, {"type": "x"}),
    ),
    Case("no message at all", sends({})),
    Case("its faults caught", catches),
    Case("no response", sends()),
    Case("only a start", sends(START)),
    Case("half a response", sends(START, {**BODY, "body": b"x", "more_body": True})),
    Case(
        "half a response with a length",
        sends(
            {**START, "headers": [(b"content-length", b"5")]},
            {**BODY, "body": b"x", "more_body": True},
        ),
    ),
    Case("raises first", raises()),
    Case("raises behind the start", raises(START)),
    Case("raises within the body", raises(START, {**BODY, "body": b"x", "more_body": True})),
    Case(
        "raises behind a big part", raises(START, {**BODY, "body": BIG[:8192], "more_body": True})
    ),
    Case("raises behind the end", raises(START, BODY)),
    Case("raises an OSError", raises(error=lambda: ConnectionResetError("a database"))),
    Case("raises a group", raises(START, error=lambda: Group(ValueError("a"), OSError("b")))),
    Case("cancels itself", cancels_itself),
    # Requests.
    Case("an echo", echo, "POST", body=b"hello"),
    Case("an echo without a length", echo, "POST", body=b"hello", is_declared=False),
    Case("an echo of nothing", echo, "POST", body=b""),
    Case("a big echo", echo, "PUT", body=BIG),
    Case("a big body that is read", reads_twice, "POST", body=BIG),
    Case("a big body without a length", reads_twice, "POST", body=BIG, is_declared=False),
    Case("a body that nobody reads", hello, "POST", body=b"hello"),
    Case("a body that nobody reads, and an error", raises(), "POST", body=b"hello"),
    Case("no body that is read twice", reads_twice),
    Case("a listener", listens_before_it_answers),
    Case("a listener behind a body", listens_before_it_answers, "POST", body=b"hello"),
    Case("a listener that is cancelled", cancels_its_receive),
    Case("a GET with a body", echo, body=b"hello"),
    Case("a DELETE", hello, "DELETE"),
    Case("a method of its own", hello, "PURGE"),
    Case("a path", target="/a%20b/%C3%A4%2Fc?d=%20e&f"),
    Case("a path that is no UTF-8", target="/%ff%C3"),
    Case("a path that is not decoded twice", target="/%2541"),
    Case("a broken escape", target="/%zz%4"),
    Case("a path with dots", target="/a/../b//c"),
    Case("an empty query", target="/?"),
    Case("a query with another", target="/a?b?c"),
    Case("the asterisk", hello, "OPTIONS", "*"),
    Case(
        "fields",
        fields=(
            (b"x-one", b"1"),
            (b"x-two", b"2"),
            (b"x-one", b"3"),
            (b"x-empty", b""),
            (b"x-obs", b"\xe4"),
        ),
    ),
    Case("an underscore", fields=((b"x_one", b"1"), (b"x-two", b"2"))),
    Case(
        "an underscore that is refused",
        never_called,
        fields=((b"x_one", b"1"),),
        settings={"header_map": "refuse"},
    ),
    Case("te: trailers", fields=((b"te", b"trailers"),)),
    Case(
        "a proxied client",
        fields=((b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-proto", b"https")),
    ),
    Case(
        "contradictory schemes",
        never_called,
        fields=((b"x-forwarded-proto", b"https"), (b"x-forwarded-ssl", b"off")),
    ),
    Case("a root path", target="/root/%41", fields=((b"script_name", b"/root"),)),
    Case(
        "a root path that the path has not",
        never_called,
        target="/else",
        fields=((b"script_name", b"/root"),),
    ),
    Case("an authority with a port", authority=b"a.example:8080"),
    Case("an authority in brackets", authority=b"[::1]:8080"),
    Case(
        "expects, and is read", echo, "POST", body=b"hello", fields=((b"expect", b"100-continue"),)
    ),
    Case(
        "expects, and is not read",
        hello,
        "POST",
        body=b"hello",
        fields=((b"expect", b"100-continue"),),
    ),
    Case(
        "expects, and is refused",
        says(403),
        "POST",
        body=b"hello",
        fields=((b"expect", b"100-continue"),),
    ),
    Case("expects without a body", echo, fields=((b"expect", b"100-continue"),)),
    # Refused ones.
    Case("a host that is none", never_called, authority=b"a b"),
    Case("a host with a user", never_called, authority=b"u@a"),
    Case("a host with a bad port", never_called, authority=b"a:70000"),
    Case("a target that is not ASCII", never_called, target="/\xe4"),
    Case("a target with a fragment", never_called, target="/a#b"),
    Case("expects something else", never_called, "POST", fields=((b"expect", b"a miracle"),)),
    Case("a method in lower case", never_called, "get"),
    Case(
        "a method in lower case that is permitted",
        hello,
        "get",
        settings={"permit_unconventional_http_method": True},
    ),
    Case("a method that is too long", never_called, "A" * 21),
    Case("a long line", never_called, target="/" + "a" * 4100),
    Case("a line as long as may be", target="/" + "a" * (4094 - len("GET / HTTP/1.1"))),
    Case("a line a byte too long", never_called, target="/" + "a" * (4095 - len("GET / HTTP/1.1"))),
    Case("many fields", never_called, fields=tuple((b"x-%d" % n, b"") for n in range(120))),
    Case("a long field", never_called, fields=((b"x", b"a" * 9000),)),
    Case("a long field and HEAD", never_called, "HEAD", fields=((b"x", b"a" * 9000),)),
    Case(
        "a long field and a body",
        never_called,
        "POST",
        fields=((b"x", b"a" * 9000),),
        body=b"hello",
    ),
]


def compare(case: Case, first: Outcome, second: Outcome) -> None:
    for name, expected in case.but.items():
        assert getattr(second, name) == expected, case.because
        setattr(second, name, getattr(first, name))
    assert second == first


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_answer_is_the_same(parser: str, case: Case) -> None:
    compare(case, run(parser, case, over_http1), run(parser, case, over_http2))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_above_the_limit_on_concurrency(parser: str, method: str) -> None:
    """503 with Retry-After, a line in the access log, and one warning for all of a second."""
    case = Case("no room", app := Crowded(), method, settings={"limit_concurrency": 1})
    outcomes = []
    for over in (over_http1, over_http2):
        app.is_first = True
        outcomes.append(run(parser, case, behind_another(over, app)))
    compare(case, *outcomes)
    assert outcomes[0].status == 503
    assert (b"retry-after", b"1") in outcomes[0].headers


class Crowded:
    """Its first call waits until it is told to go on."""

    def __init__(self) -> None:
        self.is_first = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert self.is_first
        self.is_first = False
        self.goes_on, self.waits = Flag(), Flag()
        self.waits.set()
        await self.goes_on.reached()
        await answer(send)


def behind_another(
    over: Callable[[InProcess, Case], Outcome], app: Crowded
) -> Callable[[InProcess, Case], Outcome]:
    """`over`, while another exchange of the same kind is under way."""

    def work(server: InProcess, case: Case) -> Outcome:
        client = connect(server)
        stream = client.begin()
        server.wait_until(lambda: server.server.tasks)
        app.waits.wait()
        outcome = over(server, case)
        app.goes_on.set()
        assert client.read_response(stream).status == 200
        server.advance(1)
        return outcome

    return work


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("hook", ["pre_request", "post_request"])
def test_a_hook_that_raises(parser: str, hook: str, method: str) -> None:
    """``pre_request``: a 500 in the application's place. ``post_request``: too late to harm."""

    def raise_early(worker: object, req: object) -> None:
        raise ValueError("the hook's own")

    def raise_late(worker: object, req: object, environ: object, resp: object) -> None:
        raise ValueError("the hook's own")

    if hook == "pre_request":
        case = Case("hook", never_called, method, hooks={hook: raise_early})
    else:
        case = Case("hook", hello, method, hooks={hook: raise_late})
    outcomes = run(parser, case, over_http1), run(parser, case, over_http2)
    compare(case, *outcomes)
    assert outcomes[1].status == (500 if hook == "pre_request" else 200)
    assert f"Exception in {hook} hook" in outcomes[1].access


def test_each_request_that_reaches_the_application_counts(parser: str) -> None:
    """``max_requests``: over both versions the same number, and the worker is told once that it is reached."""

    def count(ask: Callable[[InProcess], None]) -> tuple[int, int]:
        with serve(hello, parser, max_requests=3, **HTTP2) as server:
            ask(server)
            return server.host.nr, server.host.retired

    def ask_http1(server: InProcess) -> None:
        server.connect().send(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
        client = server.connect()
        assert [client.is_open() for _ in range(4)] == [True, True, True, False]

    def ask_http2(server: InProcess) -> None:
        client = connect(server)
        streams = [
            client.begin_raw(
                [
                    (b":method", b"GET"),
                    (b":scheme", b"http"),
                    (b":authority", b"a b"),
                    (b":path", b"/"),
                ]
            )
        ]
        streams += [client.begin() for _ in range(3)]
        assert [client.read_response(stream).status for stream in streams] == [400] + [200] * 3

    assert count(ask_http1) == count(ask_http2) == (3, 1)


def test_connect_is_not_implemented(parser: str) -> None:
    """RFC 9110, 9.3.6: 501. Over HTTP/2 it has neither scheme nor path (RFC 9113, 8.5), so the log has no target."""
    log = AccessLog()
    with serve(never_called, parser, access=make_access(log), **HTTP2) as server:
        first = server.connect()
        first.send(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n")
        response = first.read_response()
        client = connect(server)
        stream = client.read_response(
            client.begin_raw([(b":method", b"CONNECT"), (b":authority", b"a:443")])
        )
        assert (stream.status, stream.body) == (response.status, response.body)
        assert [line[:2] + line[4:6] for line in log.lines] == [
            ("CONNECT", target, 501, len(response.body)) for target in ("a:443", "-")
        ]
        assert len(server.log.take("warning")) == 2


MALFORMED = [
    ("TE", [(b"te", b"gzip")], "8.2.2: TE may say trailers and nothing else"),
    ("connection", [(b"connection", b"close")], "8.2.2"),
    ("a name in upper case", [(b"X", b"1")], "8.2"),
    ("white space before a value", [(b"x", b" 1")], "8.2.1"),
    ("two lengths", [(b"content-length", b"5"), (b"content-length", b"6")], "8.1.1"),
]


@pytest.mark.parametrize(
    ("fields", "reason"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED]
)
def test_what_is_malformed_over_http2_has_no_answer(
    parser: str, fields: list[Header], reason: str
) -> None:
    """RFC 9113, 8.1.1: where HTTP/1.1 answers, or takes it, there is RST_STREAM with PROTOCOL_ERROR; the line in the access log says 400."""
    log = AccessLog()
    with serve(never_called, parser, access=make_access(log), **HTTP2) as server:
        client = connect(server)
        stream = client.read_response(client.begin("GET", "/", *fields))
        assert (stream.reset_code, stream.status) == (1, 0), reason
        assert [line[4] for line in log.lines] == [400]
        assert client.get("GET", "/", (b"te", b"gzip")).reset_code == 1, "the connection goes on"
        assert len(server.log.take("warning")) == 2


# A status that is not that of a final response.


@pytest.mark.parametrize("status", [100, 101, 102, 103, 199])
def test_an_interim_status_is_no_response(parser: str, status: int) -> None:
    """RFC 9110, 15.2; ASGI, "Response Start": raised out of the send() that brought it, which may then be another. Otherwise it is a 500."""
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({**START, "status": status})
        except ApplicationError as error:
            told.append(str(error))
            if scope["path"] == "/":
                raise
        await answer(send)

    for target, expected in (("/", 500), ("/other", 200)):
        case = Case("interim", app, "GET", target)
        outcomes = run(parser, case, over_http1), run(parser, case, over_http2)
        compare(case, *outcomes)
        assert [outcome.status for outcome in outcomes] == [expected] * 2
    assert len(told) == 4
    assert all(f"from 200 to 999, that of a final response, not {status}" in text for text in told)
    assert all(("'http.response.early_hint'" in text) == (status == 103) for text in told)


# Targets.

TARGETS = {
    "/#": "it has a fragment, or a '#' that is not encoded as %23",
    "/a?b#c": "it has a fragment, or a '#' that is not encoded as %23",
    "/\xe9": "not printable ASCII",
    "/\x7f": "not printable ASCII",
    "/#\xe9": "not printable ASCII",
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_refused_for_its_own_reason(parser: str, target: str) -> None:
    """RFC 9112, 3.2; RFC 3986, 4.3."""
    if target == "/\x7f":
        outcomes = [
            run(parser, Case("target", never_called, "GET", target), over_http1)
        ]  # RFC 9113, 8.2.1: malformed over HTTP/2
    else:
        case = Case("target", never_called, "GET", target)
        outcomes = [run(parser, case, over_http1), run(parser, case, over_http2)]
    for outcome in outcomes:
        assert (outcome.status, outcome.body) == (
            400,
            f"Invalid request target: {TARGETS[target]}\n".encode(),
        )


# Cookies.

COOKIES = (
    (b"x-one", b"1"),
    (b"cookie", b"a=b,c"),
    (b"x-one", b"2"),
    (b"cookie", b"d=e"),
    (b"cookie", b"f=g"),
)
JOINED = "a=b,c; d=e; f=g"


class CookieLog(AccessLog):
    """What the access log can say of cookies."""

    def __init__(self) -> None:
        super().__init__()
        self.cookies: list[Any] = []

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        super().access(resp, req, environ, request_time)
        atoms = Atoms(Logger(Config()), req, resp)
        told = [atoms["{cookie}i"], atoms["{HTTP_COOKIE}e"]]
        whole = dict(atoms)
        told += [whole["{cookie}i"], whole["{http_cookie}e"], environ["HTTP_COOKIE"]]
        self.cookies.append(
            (resp.status_code, told, [name for name, _ in req.headers].count("COOKIE"))
        )


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        ("/", (), 200),
        ("/#", (), 400),
        ("/", ((b"expect", b"x"),), 417),
        ("/", ((b"te", b"gzip"),), 0),
    ],
    ids=["passed on", "refused", "refused by a field", "malformed"],
)
def test_the_log_and_the_hooks_see_one_cookie_field(
    parser: str, path: str, more: Any, status: int
) -> None:
    """RFC 9113, 8.2.3: the parts that the client has sent are joined for whoever is told of the request."""
    log = CookieLog()
    told: list[Any] = []

    def pre_request(worker: object, req: Any) -> None:
        told.append([value for name, value in req.headers if name == "COOKIE"])

    def post_request(worker: object, req: Any, environ: Any, resp: object) -> None:
        told.append(
            [*(value for name, value in req.headers if name == "COOKIE"), environ["HTTP_COOKIE"]]
        )

    hooks = {"pre_request": pre_request, "post_request": post_request}
    with serve(hello, parser, access=make_access(log, hooks), **HTTP2) as server:
        client = connect(server)
        for _ in range(2):  # the second one is remembered
            assert client.get("GET", path, *COOKIES, *more).status == status
        server.wait_until(lambda: len(log.cookies) == 2)
        assert log.cookies == [(status or 400, [JOINED] * 5, 1)] * 2
        assert told == ([[JOINED], [JOINED, JOINED]] * 2 if status == 200 else [])
        server.log.take("warning")


def test_several_cookie_fields_over_http_1_are_one_in_the_environ(parser: str) -> None:
    """A client should not send them (RFC 6265, 5.4). The scope has them as they came, and an environ, which has one of each name, without a comma."""
    log = CookieLog()
    app = Watched(hello)
    with serve(app, parser, access=make_access(log)) as server:
        client = server.connect()
        client.send(
            b"GET / HTTP/1.1\r\nhost: a\r\n"
            + b"".join(b"%b: %b\r\n" % field for field in COOKIES)
            + b"\r\n"
        )
        assert client.read_response().status == 200
        server.wait_until(lambda: log.cookies)
        assert app.told[0]["headers"] == [(b"host", b"a"), *COOKIES]
        assert log.cookies == [(200, ["f=g", JOINED, "f=g", JOINED, JOINED], 3)]


def test_cookies_of_an_upgraded_request_are_joined(parser: str) -> None:
    """Its scope is one of HTTP/2 (RFC 7540, 3.2; RFC 9113, 8.2.3)."""
    app = Watched(hello)
    with serve(app, parser, **HTTP2) as server:
        lines = b"GET / HTTP/1.1\r\nhost: a\r\n" + b"".join(
            b"%b: %b\r\n" % field for field in COOKIES
        )
        client = connect(server, upgrade=lines)
        assert client.read_response(client.streams[1]).status == 200
        cookies = [field for field in app.told[0]["headers"] if field[0] == b"cookie"]
        assert cookies == [(b"cookie", JOINED.encode())]
