"""Files as bodies: ``http.response.pathsend`` and ``http.response.zerocopysend`` (ASGI statements 124 to 136), on every way that a response can go.

Every test counts the descriptors of the process before and behind it: none may be left open on any path.
"""

from __future__ import annotations

import asyncio
import io
import os
import resource
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from inprocess import GET, WAIT, Flag, Truncated, request, serve
from process import LOOPS, Gunicorn, poll
from ways import WAYS, Way, certificate, descriptors, serving

from gunicorn_asgi import connection
from gunicorn_asgi.asgi import files
from gunicorn_asgi.errors import ApplicationError, ClientDisconnected
from gunicorn_asgi.sendfile import Transfer

BIG = 8_000_000
"""More than the buffers of two sockets hold."""
SIZES = [0, 1, files.SMALL - 1, files.SMALL, files.SMALL + 1, 3 * files.PIECE + 7, 3_000_000]
START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}


def start(*headers: tuple[bytes, bytes], status: int = 200, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers, **more}


def length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % size


def path_of(path: Any) -> dict[str, Any]:
    return {"type": "http.response.pathsend", "path": str(path)}


def part_of(file: Any, more: bool = False, **where: Any) -> dict[str, Any]:
    return {"type": "http.response.zerocopysend", "file": file, "more_body": more, **where}


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def sending(*messages: dict[str, Any]) -> Any:
    """An application that sends these."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def content(size: int) -> bytes:
    """Of which no part is like another one."""
    return b"".join(b"%08x" % number for number in range(size // 8 + 1))[:size]


@pytest.fixture(autouse=True)
def _no_descriptor_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    certificate()
    before = descriptors()
    yield
    poll(lambda: descriptors() == before, f"as few descriptors as before: {descriptors() - before}", WAIT)


@pytest.fixture
def make(tmp_path: Path) -> Callable[[int], Path]:
    """A file of that size."""

    def make(size: int) -> Path:
        path = tmp_path / f"file{size}"
        path.write_bytes(content(size))
        return path

    return make


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Counted(Transfer):
    """A transfer that is counted."""

    made: ClassVar[list[Transfer]] = []

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.made.append(self)


@pytest.fixture
def transfers(monkeypatch: pytest.MonkeyPatch) -> list[Transfer]:
    """Those that are made: files that go past this process."""
    Counted.made.clear()
    monkeypatch.setattr(connection, "Transfer", Counted)
    return Counted.made


# Whole files.


@pytest.mark.parametrize("size", SIZES)
def test_a_file_arrives_as_it_is_with_its_length(parser: str, way: str, make: Any, size: int) -> None:
    path = make(size)
    with serving(sending(start(), path_of(path)), parser, way) as asked:
        client = asked.connect()
        for _ in range(1 if way == "1.0" else 2):
            answer = asked.ask(client)
            assert answer.is_whole
            assert answer.body == content(size)
            assert answer.values(b"content-length") == [b"%d" % size]
            assert answer.values(b"transfer-encoding") == []


def test_a_declared_length_is_not_doubled(parser: str, way: str, make: Any) -> None:
    with serving(sending(start(length(200_000)), path_of(make(200_000))), parser, way) as asked:
        answer = asked.fetch()
        assert (answer.values(b"content-length"), answer.body) == ([b"200000"], content(200_000))


@pytest.mark.parametrize("way", ["1.1", "1.0", "unix", "h2", "tls"])
@pytest.mark.parametrize("size", [files.SMALL, 1_000_000])
def test_sendfile_is_used_for_what_is_large_where_nothing_is_between_file_and_socket(
    parser: str, way: str, make: Any, transfers: list[Transfer], size: int
) -> None:
    with serving(sending(start(), path_of(make(size))), parser, way) as asked:
        assert asked.fetch().body == content(size)
        assert len(transfers) == (size > files.SMALL and way in ("1.1", "1.0", "unix"))


def test_sendfile_false_turns_it_off(parser: str, make: Any, transfers: list[Transfer]) -> None:
    with serving(sending(start(), path_of(make(1_000_000))), parser, "1.1", sendfile=False) as asked:
        assert asked.fetch().body == content(1_000_000)
        assert not transfers


@pytest.mark.parametrize("size", [0, 10, 1_000_000])
def test_head_has_the_length_and_no_body(parser: str, way: str, make: Any, size: int) -> None:
    """Statement 133."""
    with serving(sending(start(), path_of(make(size))), parser, way) as asked:
        client = asked.connect()
        for _ in range(1 if way == "1.0" else 2):
            answer = asked.ask(client, "HEAD")
            assert (answer.is_whole, answer.body) == (True, b"")
            if size:
                assert answer.values(b"content-length") == [b"%d" % size]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [204, 304])
def test_204_and_304_have_no_body_and_say_nothing_of_one(parser: str, way: str, make: Any, status: int, method: str) -> None:
    """RFC 9110, 8.6: of a 204 not even its length."""
    with serving(sending(start(status=status), path_of(make(1_000_000))), parser, way) as asked:
        client = asked.connect()
        for _ in range(1 if way == "1.0" else 2):
            answer = asked.ask(client, method)
            assert (answer.status, answer.is_whole, answer.body) == (status, True, b"")
            if status == 204:
                assert answer.values(b"content-length") == []


@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_what_was_declared_is_the_whole_of_a_longer_file(parser: str, way: str, make: Any, size: int) -> None:
    """Statement 134: it has grown since somebody looked."""
    with serving(sending(start(length(size - 10)), path_of(make(size))), parser, way) as asked:
        answer = asked.fetch()
        assert (answer.is_whole, answer.body) == (True, content(size)[:-10])


@pytest.mark.parametrize("size", [0, 1000, 1_000_000])
def test_a_file_that_is_shorter_than_declared_is_a_500(parser: str, way: str, make: Any, size: int) -> None:
    with serving(sending(start(length(size + 10)), path_of(make(size))), parser, way) as asked:
        assert asked.fetch().status == 500
        (line,) = asked.server.log.take("error")
        assert str(line.error) == "the file is 10 bytes shorter than its content-length"


def test_head_may_declare_what_it_likes(parser: str, way: str, make: Any) -> None:
    with serving(sending(start(length(77)), path_of(make(10))), parser, way) as asked:
        assert asked.fetch("HEAD").values(b"content-length") == [b"77"]


# What is no file.


def _missing(tmp_path: Path) -> Any:
    return tmp_path / "missing"


def _below_a_file(tmp_path: Path) -> Any:
    (tmp_path / "file").write_bytes(b"x")
    return tmp_path / "file" / "below"


def _fifo(tmp_path: Path) -> Any:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def _socket(tmp_path: Path) -> Any:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
    return tmp_path / "socket"


def _forbidden(tmp_path: Path) -> Any:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    path = tmp_path / "forbidden"
    path.write_bytes(b"x")
    path.chmod(0)
    return path


NO_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (_missing, "No such file or directory"),
    "below a file": (_below_a_file, "Not a directory"),
    "a directory": (lambda tmp_path: tmp_path, "not a regular file"),
    "a FIFO": (_fifo, "not a regular file"),
    "a socket": (_socket, "cannot be sent"),
    "a device": (lambda _: "/dev/null", "not a regular file"),
    "unreadable": (_forbidden, "Permission denied"),
    "too long": (lambda tmp_path: tmp_path / ("x" * 300), "File name too long"),
    "a lone surrogate": (lambda _: "/\ud800", "cannot be sent"),
}


@pytest.mark.parametrize("what", NO_FILES)
@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_what_cannot_be_sent_is_a_500_and_no_word_of_a_client_that_is_gone(parser: str, way: str, tmp_path: Path, what: str) -> None:
    make, reason = NO_FILES[what]
    path = make(tmp_path)
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            await send(path_of(path))
        except BaseException as error:
            raised.append(error)
            raise

    with serving(app, parser, way) as asked:
        answer = asked.fetch()
        assert (answer.status, answer.body) == (500, b"Internal Server Error")
        assert len(asked.server.log.take("error")) == 1
    assert isinstance(raised[0], ApplicationError)
    assert not isinstance(raised[0], OSError)
    assert reason in str(raised[0])


@pytest.mark.parametrize("path", [None, b"/etc/hostname", "", "/etc/host\0name", 3, Path("/etc/hostname")], ids=repr)
def test_a_path_is_a_str(parser: str, path: Any) -> None:
    """Statement 131."""
    with serving(sending(START, {"type": "http.response.pathsend", "path": path}), parser, "1.1") as asked:
        assert asked.fetch().status == 500
        (line,) = asked.server.log.take("error")
        assert str(line.error) == f"'path' must be the path of a file as a str, not {path!r}"


def test_a_relative_path_is_that_of_the_process(parser: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starlette passes on what its user gives to FileResponse."""
    path = make(1000)
    monkeypatch.chdir(path.parent)
    with serving(sending(START, path_of(path.name)), parser, "1.1") as asked:
        assert asked.fetch().body == content(1000)


def test_an_application_may_answer_otherwise_where_a_file_cannot_be_opened(parser: str, way: str, tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            await send(path_of(tmp_path))
        except ApplicationError:
            await send(body(b"sorry"))

    with serving(app, parser, way) as asked:
        assert asked.fetch().body == b"sorry"


# The order of messages.


@pytest.mark.parametrize(
    ("before", "last", "reason"),
    [
        ([], "path", "'http.response.pathsend' is a whole body: expected between 'http.response.start' and any other part"),
        ([START, body(b"x", True)], "path", "'http.response.pathsend' is a whole body: expected between 'http.response.start' and any other part"),
        ([], "part", "expected 'http.response.start' before 'http.response.zerocopysend'"),
    ],
)
@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_what_comes_at_the_wrong_time_raises(parser: str, way: str, make: Any, before: Any, last: str, reason: str) -> None:
    """Statements 128 and 132."""
    path = make(100)
    raised: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(message)
        with path.open("rb") as file:
            with pytest.raises(ApplicationError) as caught:
                await send(path_of(path) if last == "path" else part_of(file))
            raised.append(str(caught.value))
        if not before:
            await send(START)
        await send(body(b"y"))

    with serving(app, parser, way) as asked:
        assert asked.fetch().is_whole
    assert raised == [reason]


@pytest.mark.parametrize("behind", ["path", "body", "start"])
def test_behind_a_whole_file_nothing_counts(parser: str, way: str, make: Any, behind: str) -> None:
    """Statement 61."""
    path = make(100_000)
    message = {"path": path_of(path), "body": body(b"x"), "start": START}[behind]
    with serving(sending(START, path_of(path), message), parser, way) as asked:
        client = asked.connect()
        for _ in range(1 if way == "1.0" else 2):
            assert asked.ask(client).body == content(100_000)


@pytest.mark.parametrize("other", ["body", "more", "part", "path"])
def test_while_a_file_is_sent_nothing_else_may_be(parser: str, make: Any, other: str) -> None:
    """Two ``send()`` at once: what is written to the transport meanwhile would stand in the midst of the file, or behind the next response."""
    path = make(BIG)
    raised: list[BaseException] = []
    tried = {"/": Flag(), "/again": Flag()}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        sender = asyncio.ensure_future(send(path_of(path)))
        await until_sending(asked.server)
        with path.open("rb") as file:
            message = {"body": body(b"x"), "more": body(b"x", True), "part": part_of(file), "path": path_of(path)}[other]
            try:
                await send(message)
            except ApplicationError as error:
                raised.append(error)
        tried[scope["path"]].set()
        await sender

    with serving(app, parser, "1.1") as asked:
        client = asked.connect()
        for target, flag in tried.items():
            client.send(request("GET", target))
            flag.wait()
            assert client.read_response().body == content(BIG)
    assert len(raised) == 2


async def until_sending(server: Any) -> None:
    """Until a file is on its way, and the client takes no more of it."""
    left = -1
    while True:
        found = [connection._transfer.left for connection in server.server.connections if connection._transfer is not None]
        if found and found[0] == left:
            return
        left = found[0] if found else -1
        await asyncio.sleep(0.02)


def test_while_a_file_is_opened_another_answer_wins(parser: str, make: Any, transfers: list[Transfer]) -> None:
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        sender = asyncio.ensure_future(send(path_of(path)))
        await asyncio.sleep(0)
        await send(body(b"first"))
        try:
            await sender
        except ApplicationError as error:
            raised.append(error)

    path = make(BIG)
    with serving(app, parser, "1.1") as asked:
        client = asked.connect()
        for _ in range(2):
            assert asked.ask(client).body == b"first"
    assert [str(error) for error in raised] == ["the response was sent while the file of 'http.response.pathsend' was opened"] * 2
    assert not transfers


@pytest.mark.parametrize("way", ["1.1", "tls", "h2"])
def test_a_send_that_outlives_its_exchange_ends(parser: str, way: str, make: Any) -> None:
    """The application has returned, and left a task behind."""
    path = make(BIG)
    ended = Flag()
    got: list[BaseException | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        sender = asyncio.ensure_future(send(path_of(path)))

        def note(sender: Any) -> None:
            got.append(sender.exception())
            ended.set()

        sender.add_done_callback(note)
        while not any(task_is_waiting(stream) for stream in streams(asked.server)):
            await asyncio.sleep(0.01)

    with serving(app, parser, way) as asked:
        client = asked.connect(**({"window": 1000} if way == "h2" else {}))
        if way == "h2":
            client.ask()
        else:
            client.send(GET)
        ended.wait()
        assert isinstance(got[0], ClientDisconnected)
        (line,) = asked.server.log.take("error")
        assert line.text == "ASGI application returned without completing its response to GET /"


def streams(server: Any) -> list[Any]:
    return [stream for connection in server.server.connections for stream in connection._streams()]


def task_is_waiting(stream: Any) -> bool:
    """For the client to take what was sent."""
    return bool(stream._clogged and stream._waiters)
