"""Files as bodies: ``http.response.pathsend`` and ``http.response.zerocopysend`` (docs/asgi.md, 124 to 136), on every way that a response can go.

Every test counts the descriptors of the process before and behind it: none may be left open on any path.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
from inprocess import GET, WAIT, Flag, Truncated, is_over_trio, request, serve
from libraries import start_task, turn
from process import LOOPS, NOTE, Gunicorn, poll
from ways import SHUT, WAYS, Way, certificate, descriptors, serving

from gunicorn_asgi.asgi import files
from gunicorn_asgi.asgi.opener import Opener
from gunicorn_asgi.errors import ApplicationError, ClientDisconnected
from gunicorn_asgi.net import sendfile, transport
from gunicorn_asgi.net.sendfile import FileTransfer

pytestmark = pytest.mark.both_libraries

BIG = 8_000_000
"""More than the buffers of two sockets hold."""
SIZES = [
    0,
    1,
    files.MIN_SENDFILE - 1,
    files.MIN_SENDFILE,
    files.MIN_SENDFILE + 1,
    3 * files.PIECE + 7,
    3_000_000,
]
START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}


def start(*headers: tuple[bytes, bytes], status: int = 200, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers, **more}


def length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % size


def path_of(path: Any) -> dict[str, Any]:
    return {"type": "http.response.pathsend", "path": str(path)}


def sends(path: Any, raised: list[BaseException]) -> Any:
    """An application that sends the file at `path`, and notes what that raises."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            await send(path_of(path))
        except BaseException as error:
            raised.append(error)
            raise

    return app


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


@cache
def content(size: int) -> bytes:
    """Random bytes, the same for each size."""
    return random.Random(size).randbytes(size)


@pytest.fixture(autouse=True)
def _no_descriptor_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    # The files of a Gunicorn are open in other processes. The first one leaves a socket here.
    if sys.platform != "linux" or request.node.get_closest_marker("gunicorn"):
        yield
        return
    certificate()
    before = descriptors()
    yield
    poll(
        lambda: descriptors() == before,
        f"as few descriptors as before: {descriptors() - before}",
        WAIT,
    )


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


class Counted(FileTransfer):
    """A transfer that is counted."""

    made: ClassVar[list[FileTransfer]] = []

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.made.append(self)


@pytest.fixture
def transfers(monkeypatch: pytest.MonkeyPatch) -> list[FileTransfer]:
    """Those that are made: files that go past this process."""
    Counted.made.clear()
    monkeypatch.setattr(transport, "FileTransfer", Counted)
    return Counted.made


# Whole files.


@pytest.mark.parametrize("size", SIZES)
def test_a_file_arrives_as_it_is_with_its_length(
    parser: str, way: str, make: Any, size: int
) -> None:
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
@pytest.mark.parametrize("size", [files.MIN_SENDFILE - 1, files.MIN_SENDFILE, 1_000_000])
def test_sendfile_is_used_for_what_is_large_where_nothing_is_between_file_and_socket(
    parser: str, way: str, make: Any, transfers: list[FileTransfer], size: int
) -> None:
    with serving(sending(start(), path_of(make(size))), parser, way) as asked:
        assert asked.fetch().body == content(size)
        assert len(transfers) == (size >= files.MIN_SENDFILE and way in ("1.1", "1.0", "unix"))


def test_sendfile_false_turns_it_off(parser: str, make: Any, transfers: list[FileTransfer]) -> None:
    with serving(
        sending(start(), path_of(make(1_000_000))), parser, "1.1", sendfile=False
    ) as asked:
        assert asked.fetch().body == content(1_000_000)
        assert not transfers


@pytest.mark.parametrize("size", [0, 10, 1_000_000])
def test_head_has_the_length_and_no_body(parser: str, way: str, make: Any, size: int) -> None:
    """docs/asgi.md, 133."""
    with serving(sending(start(), path_of(make(size))), parser, way) as asked:
        client = asked.connect()
        for _ in range(1 if way == "1.0" else 2):
            answer = asked.ask(client, "HEAD")
            assert (answer.is_whole, answer.body) == (True, b"")
            if size:
                assert answer.values(b"content-length") == [b"%d" % size]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [204, 304])
def test_204_and_304_have_no_body_and_say_nothing_of_one(
    parser: str, way: str, make: Any, status: int, method: str
) -> None:
    """RFC 9110, 8.6: of a 204 not even its length."""
    with serving(sending(start(status=status), path_of(make(1_000_000))), parser, way) as asked:
        client = asked.connect()
        for _ in range(1 if way == "1.0" else 2):
            answer = asked.ask(client, method)
            assert (answer.status, answer.is_whole, answer.body) == (status, True, b"")
            if status == 204:
                assert answer.values(b"content-length") == []


@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_what_was_declared_is_the_whole_of_a_longer_file(
    parser: str, way: str, make: Any, size: int
) -> None:
    """docs/asgi.md, 134: it has grown since somebody looked."""
    with serving(sending(start(length(size - 10)), path_of(make(size))), parser, way) as asked:
        answer = asked.fetch()
        assert (answer.is_whole, answer.body) == (True, content(size)[:-10])


@pytest.mark.parametrize("size", [0, 1000, 1_000_000])
def test_a_file_that_is_shorter_than_declared_is_a_500(
    parser: str, way: str, make: Any, size: int
) -> None:
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
    "missing": (_missing, os.strerror(errno.ENOENT)),
    "below a file": (_below_a_file, os.strerror(errno.ENOTDIR)),
    "a directory": (lambda tmp_path: tmp_path, "not a regular file"),
    "a FIFO": (_fifo, "not a regular file"),
    "a socket": (_socket, "cannot be sent"),
    "a device": (lambda _: "/dev/null", "not a regular file"),
    "unreadable": (_forbidden, os.strerror(errno.EACCES)),
    "too long": (lambda tmp_path: tmp_path / ("x" * 300), os.strerror(errno.ENAMETOOLONG)),
    "a lone surrogate": (lambda _: "/\ud800", "cannot be sent"),
}


@pytest.mark.parametrize("what", NO_FILES)
@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_what_cannot_be_sent_is_a_500_and_no_word_of_a_client_that_is_gone(
    parser: str, way: str, tmp_path: Path, what: str
) -> None:
    make, reason = NO_FILES[what]
    path = make(tmp_path)
    raised: list[BaseException] = []

    with serving(sends(path, raised), parser, way) as asked:
        answer = asked.fetch()
        assert (answer.status, answer.body) == (500, b"Internal Server Error")
        assert len(asked.server.log.take("error")) == 1
    assert isinstance(raised[0], ApplicationError)
    assert not isinstance(raised[0], OSError)
    assert reason in str(raised[0])
    assert repr(str(path)) in str(raised[0])


@pytest.mark.parametrize("name", ["file", "missing", "below/file", "\ud800"])
def test_a_folder_that_is_known_is_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What opens a file at once knows whose folder is on a local file system: the root's is not that of the process."""
    opener = Opener()
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    descriptor = os.open("file", files.FLAGS)
    opener.learn("file", descriptor)
    os.close(descriptor)
    assert opener.open("/usr", files.FLAGS) == -1  # though it could be opened at once
    assert opener.open(f"/{name}", files.FLAGS) == -1
    found = opener.open(name, files.FLAGS)
    assert found == -1 or name == "file"
    if found >= 0:
        os.close(found)


@pytest.mark.parametrize(
    "path", [None, b"/etc/hostname", "", "/etc/host\0name", 3, Path("/etc/hostname")], ids=repr
)
def test_a_path_is_a_str(parser: str, path: Any) -> None:
    """docs/asgi.md, 131."""
    with serving(
        sending(START, {"type": "http.response.pathsend", "path": path}), parser, "1.1"
    ) as asked:
        assert asked.fetch().status == 500
        (line,) = asked.server.log.take("error")
        assert str(line.error) == f"'path' must be the path of a file as a str, not {path!r}"


def test_a_relative_path_is_that_of_the_process(
    parser: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starlette passes on what its user gives to FileResponse."""
    path = make(1000)
    monkeypatch.chdir(path.parent)
    with serving(sending(START, path_of(path.name)), parser, "1.1") as asked:
        assert asked.fetch().body == content(1000)


def test_an_application_may_answer_otherwise_where_a_file_cannot_be_opened(
    parser: str, way: str, tmp_path: Path
) -> None:
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
        (
            [],
            "path",
            "'http.response.pathsend' is a whole body: expected between 'http.response.start' and any other part",
        ),
        (
            [START, body(b"x", True)],
            "path",
            "'http.response.pathsend' is a whole body: expected between 'http.response.start' and any other part",
        ),
        ([], "part", "expected 'http.response.start' before 'http.response.zerocopysend'"),
    ],
)
@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_what_comes_at_the_wrong_time_raises(
    parser: str, way: str, make: Any, before: Any, last: str, reason: str
) -> None:
    """docs/asgi.md, 128 and 132."""
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
    """docs/asgi.md, 61."""
    path = make(100_000)
    message = {"path": path_of(path), "body": body(b"x"), "start": START}[behind]
    with serving(sending(START, path_of(path), message), parser, way) as asked:
        client = asked.connect()
        for _ in range(1 if way == "1.0" else 2):
            assert asked.ask(client).body == content(100_000)


@pytest.mark.parametrize("way", ["tls", "h2", "chunked"])
@pytest.mark.parametrize("other", ["body", "part"])
def test_while_a_file_passes_through_nothing_else_may_be_sent(
    parser: str, way: str, make: Any, other: str
) -> None:
    """It would stand in the midst of the file."""
    path = make(BIG)
    raised: list[BaseException] = []
    tried = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        with path.open("rb") as file:
            sender = start_task(send(part_of(file, True) if way == "chunked" else path_of(path)))
            while not any(task_is_waiting(stream) for stream in streams(asked.server)):
                await asyncio.sleep(0.01)
            try:
                await send(body(b"x", True) if other == "body" else part_of(file, True))
            except ApplicationError as error:
                raised.append(error)
            tried.set()
            await sender
            await send(body(b"end" if way == "chunked" else b""))

    with serving(app, parser, "1.1" if way == "chunked" else way) as asked:
        client = asked.connect()
        stream = client.begin() if asked.is_h2 else client.send(GET)
        tried.wait()
        response = client.read_response(stream) if asked.is_h2 else client.read_response()
        assert response.body == content(BIG) + (b"end" if way == "chunked" else b"")
    assert [str(error) for error in raised] == [
        f"a file is being sent: expected {'http.response.body' if other == 'body' else 'http.response.zerocopysend'!r} after it"
    ]


@pytest.mark.parametrize("other", ["body", "more", "part", "path"])
def test_while_a_file_is_sent_nothing_else_may_be(parser: str, make: Any, other: str) -> None:
    """Two ``send()`` at once: what is written to the transport meanwhile would stand in the midst of the file, or behind the next response."""
    path = make(BIG)
    raised: list[BaseException] = []
    tried = {"/": Flag(), "/again": Flag()}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        sender = start_task(send(path_of(path)))
        await until_sending(asked.server)
        with path.open("rb") as file:
            message = {
                "body": body(b"x"),
                "more": body(b"x", True),
                "part": part_of(file),
                "path": path_of(path),
            }[other]
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
        found = [
            connection.delivery_count()
            for connection in server.server.connections
            if connection.is_sending_file
        ]
        if found and found[0] == left:
            return
        left = found[0] if found else -1
        await asyncio.sleep(0.02)


def test_while_a_file_is_opened_another_answer_wins(
    parser: str, make: Any, transfers: list[FileTransfer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.OPENER, "open", lambda *_: -1)  # in a thread, always
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        sender = start_task(send(path_of(path)))
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
    assert [str(error) for error in raised] == [
        "the response was sent while the file of 'http.response.pathsend' was opened"
    ] * 2
    assert not transfers


@pytest.mark.parametrize("way", ["1.1", "tls", "h2"])
def test_a_send_that_outlives_its_exchange_ends(parser: str, way: str, make: Any) -> None:
    """The application has returned, and left a task behind."""
    path = make(BIG)
    ended = Flag()
    got: list[BaseException | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        sender = start_task(send(path_of(path)))

        def note(sender: Any) -> None:
            got.append(sender.exception())
            ended.set()

        sender.add_done_callback(note)
        while not any(task_is_waiting(stream) for stream in streams(asked.server)):
            await asyncio.sleep(0.01)

    with serving(app, parser, way) as asked:
        client = asked.connect(**(SHUT if way == "h2" else {}))
        if way == "h2":
            client.begin()
        else:
            client.send(GET)
        ended.wait()
        assert isinstance(got[0], ClientDisconnected)
        (line,) = asked.server.log.take("error")
        assert line.text == "ASGI application returned without completing its response to GET /"


def streams(server: Any) -> list[Any]:
    return [
        stream
        for connection in server.server.connections
        for stream in connection.handler.streams()
    ]


def task_is_waiting(stream: Any) -> bool:
    """For the client to take what was sent."""
    return stream.is_writing_paused and stream.is_waiting


# A file that changes, and a client that does not read, or leaves.


def test_a_file_is_the_one_that_was_opened(parser: str, way: str, make: Any) -> None:
    """Whatever becomes of its name: deleted while it is sent, and replaced before it is closed."""
    path = make(BIG)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        sender = start_task(send(path_of(path)))
        while not any(task_is_waiting(stream) for stream in streams(asked.server)):
            await asyncio.sleep(0.01)
        path.unlink()
        path.write_bytes(b"another")
        going.set()
        await sender

    going = Flag()
    with serving(app, parser, way) as asked:
        client = asked.connect()
        if asked.is_h2:
            stream = client.begin()
            going.wait()
            assert client.read_response(stream).body == content(BIG)
        else:
            client.send(request(version=asked.version))
            going.wait()
            assert client.read_response().body == content(BIG)


@pytest.mark.parametrize("way", ["1.1", "unix", "tls", "h2"])
def test_a_file_that_becomes_shorter_ends_the_connection_and_is_told(
    parser: str, way: str, make: Any
) -> None:
    """docs/asgi.md, 134: nobody may take it for whole."""
    path = make(BIG)
    waiting, cut = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        sender = start_task(send(path_of(path)))
        while not any(task_is_waiting(stream) for stream in streams(asked.server)):
            await asyncio.sleep(0.01)
        waiting.set()
        await cut.reached()
        await sender

    with serving(app, parser, way) as asked:
        client = asked.connect()
        if asked.is_h2:
            stream = client.begin()
            waiting.wait()
            os.truncate(path, 10)
            cut.set()
            assert client.read_response(stream).reset_code == 2  # INTERNAL_ERROR
        else:
            client.send(GET)
            waiting.wait()
            os.truncate(path, 10)
            cut.set()
            with pytest.raises((Truncated, ConnectionError)):
                client.read_response()
        asked.server.wait_until(lambda: not asked.server.server.tasks)
        (line,) = asked.server.log.take("error")
        assert "shorter than it was" in str(line.error)


@pytest.mark.parametrize("end", ["reset", "close"])
@pytest.mark.parametrize("taken", [0, 100, 300_000])
@pytest.mark.parametrize("way", ["1.1", "unix", "tls", "h2"])
def test_a_client_that_leaves_halfway_is_no_error(
    parser: str, way: str, make: Any, taken: int, end: str
) -> None:
    """``send()`` says so, and the file is closed."""
    path = make(BIG)
    raised: list[BaseException] = []

    with serving(sends(path, raised), parser, way) as asked:
        client = asked.connect()
        if asked.is_h2:
            stream = client.begin()
            client.wait_for(lambda: len(stream.body) >= taken)
        else:
            client.send(GET)
            while len(client.buffer) < taken:
                client.receive()
        asked.server.wait_until(
            lambda: any(task_is_waiting(stream) for stream in streams(asked.server))
        )
        client.reset() if end == "reset" and way != "unix" else client.close()
        asked.server.wait_until(asked.server.is_idle)
        assert [type(error) for error in raised] == [ClientDisconnected]
        assert not asked.server.log.take("warning")


def test_a_refused_upload_is_told_that_its_connection_closes(parser: str, make: Any) -> None:
    """RFC 9112, 9.6: the rest of the body, which nobody reads, is too long to be waited for. As with any answer that is whole."""
    with serving(sending(START, path_of(make(200_000))), parser, "1.1") as asked:
        client = asked.connect()
        client.send(request("POST", "/", b"Content-Length: 10000000") + b"x" * 1000)
        response = client.read_response()
        assert (response.body, response[b"connection"]) == (content(200_000), b"close")
        assert client.read_rest() == b""


LEASE = """
import fcntl, os, signal, sys, time
file = os.open(sys.argv[1], os.O_RDWR)
asked = []
signal.signal(signal.SIGIO, lambda *_: asked.append(1))
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
while not asked:
    time.sleep(0.01)
time.sleep(0.2)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
print("given up", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has leases")
def test_a_file_that_somebody_has_a_lease_of_is_waited_for(parser: str, make: Any) -> None:
    """fcntl(2): file servers have them, and give them up when they are asked."""
    path = make(100_000)
    holder = subprocess.Popen(
        [sys.executable, "-c", LEASE, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == "held\n"
        with serving(sending(START, path_of(path)), parser, "1.1") as asked:
            assert asked.fetch().body == content(100_000)
        assert holder.stdout.readline() == "given up\n"


def test_a_slow_client_holds_no_thread_and_no_memory_and_nobody_up(parser: str, make: Any) -> None:
    path = make(40_000_000)
    with serving(sending(START, path_of(path)), parser, "1.1") as asked:
        slow = [asked.connect() for _ in range(40)]
        for client in slow:
            client.send(GET)
        asked.server.wait_until(
            lambda: [task_is_waiting(stream) for stream in streams(asked.server)] == [True] * 40
        )
        assert asked.server.unsent() == 0  # what waits is on the disk
        assert asked.server.run(answers_from_a_thread()) == "here"
        assert asked.ask(asked.connect(), "HEAD").values(b"content-length") == [b"40000000"]
        whole = path.read_bytes()
        for client in slow[:2]:
            assert client.read_response().body == whole


async def answers_from_a_thread() -> str:
    """Whether one of the executor's is free."""
    loop = asyncio.get_running_loop()
    return await asyncio.wait_for(loop.run_in_executor(None, lambda: "here"), WAIT)


async def threads_have_ended() -> None:
    """Those of the executor; it takes no more then."""
    await asyncio.get_running_loop().shutdown_default_executor()


@pytest.mark.parametrize("way", ["tls", "h2"])
def test_what_waits_for_a_slow_client_is_bounded_where_a_file_passes_through(
    parser: str, way: str, make: Any
) -> None:
    with serving(sending(START, path_of(make(BIG))), parser, way) as asked:
        client = asked.connect(**(SHUT if way == "h2" else {}))
        client.begin() if way == "h2" else client.send(GET)
        asked.server.wait_until(
            lambda: any(task_is_waiting(stream) for stream in streams(asked.server))
        )
        queued = asked.server.call(
            lambda: sum(exchange.queue.size for exchange in (h2_exchanges(asked.server)))
        )
        assert asked.server.unsent() + queued < 1_000_000
        client.close()


def h2_exchanges(server: Any) -> list[Any]:
    return [
        exchange
        for connection in server.server.connections
        for exchange in getattr(connection.handler, "exchanges", ())
    ]


def test_a_client_that_takes_nothing_has_write_timeout(parser: str, make: Any) -> None:
    with serving(sending(START, path_of(make(BIG))), parser, "1.1", write_timeout=20.0) as asked:
        client = asked.connect()
        client.send(GET)
        asked.server.run(until_sending(asked.server))
        asked.server.advance(15)
        assert not asked.server.is_idle()
        asked.server.advance(30)
        asked.server.wait_until(asked.server.is_idle)
        with pytest.raises((Truncated, ConnectionResetError)):
            client.read_response()


def test_a_client_that_takes_little_has_all_the_time(parser: str, make: Any) -> None:
    with serving(
        sending(START, path_of(make(2 * BIG))), parser, "1.1", write_timeout=20.0
    ) as asked:
        client = asked.connect(receive_buffer=65536)
        client.send(GET)
        for _ in range(4):
            asked.server.run(until_sending(asked.server))
            asked.server.advance(15)
            for _ in range(30):
                client.receive()
        assert client.read_response().body == content(2 * BIG)


def test_a_client_that_has_closed_its_side_has_as_much(parser: str, make: Any) -> None:
    """RFC 9112, 9.6: its request was whole."""
    with serving(sending(START, path_of(make(BIG))), parser, "1.1", write_timeout=20.0) as asked:
        client = asked.connect()
        client.send(GET)
        asked.server.run(until_sending(asked.server))
        asked.server.advance(10)
        client.send_eof()
        asked.server.wait_half_closed()
        asked.server.advance(8)
        assert client.read_response().body == content(BIG)
        assert client.read_rest() == b""


@pytest.mark.parametrize("way", ["1.1", "unix", "tls", "h2", "h2-tls"])
def test_behind_the_last_piece_nothing_is_waited_for(
    parser: str, way: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind the last part of any body: the rest is the connection's."""
    monkeypatch.setattr(files, "PIECE", BIG)
    path = make(BIG)
    sent = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(path_of(path))
        sent.set()

    with serving(app, parser, way, sendfile=False) as asked:
        client = asked.connect(**(SHUT if asked.is_h2 else {}))
        stream = client.begin() if asked.is_h2 else client.send(GET)
        sent.wait()
        if not asked.is_h2:
            assert client.read_response().body == content(BIG)
            return
        stream.cancel()
        asked.server.wait_settled()
        gone = client.begin()
        sent.wait()
        assert not gone.has_ended
        client.close()
        asked.server.wait_until(asked.server.is_idle)


def test_pipelined_requests_behind_a_file_wait_for_it(parser: str, make: Any) -> None:
    with serving(sending(START, path_of(make(2_000_000))), parser, "1.1") as asked:
        client = asked.connect()
        client.send(GET + request("HEAD") + GET + request("GET", "/", b"Connection: close"))
        assert client.read_response().body == content(2_000_000)
        assert client.read_response("HEAD").status == 200
        assert client.read_response().body == content(2_000_000)
        assert client.read_response().body == content(2_000_000)
        assert client.read_rest() == b""


# An application that loses its patience.


def expect_incomplete(asked: Way, cancelled: Flag) -> None:
    """Ask, read once it is `cancelled`, and expect a response that is not complete."""
    client = asked.connect()
    if asked.is_h2:
        stream = client.begin()
        cancelled.wait()
        assert not client.read_response(stream).has_ended
    else:
        client.send(GET)
        cancelled.wait()
        with pytest.raises((Truncated, ConnectionError)):
            client.read_response()


@pytest.mark.parametrize("way", ["1.1", "tls", "h2"])
def test_an_application_that_is_cancelled_while_it_sends_leaves_nothing_open(
    parser: str, way: str, make: Any
) -> None:
    path = make(BIG)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        sender = start_task(send(path_of(path)))
        while not any(task_is_waiting(stream) for stream in streams(asked.server)):
            await asyncio.sleep(0.01)
        cancelled.set()
        sender.cancel()
        await sender

    cancelled = Flag()
    with serving(app, parser, way) as asked:
        expect_incomplete(asked, cancelled)
        (line,) = asked.server.log.take("error")
        assert line.text == "ASGI application was cancelled, handling request GET /"


def test_what_was_sent_counts_where_an_application_sends_the_rest_otherwise(
    parser: str, make: Any, transfers: list[FileTransfer]
) -> None:
    path = make(BIG)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        sender = start_task(send(path_of(path)))
        await until_sending(asked.server)
        left = transfers[0].left
        sender.cancel()
        await asyncio.wait([sender])
        cancelled.set()
        with pytest.raises(ApplicationError, match="1 bytes longer"):
            await send(body(content(BIG)[-left:] + b"x"))
        await send(body(content(BIG)[-left:]))

    cancelled = Flag()
    with serving(app, parser, "1.1") as asked:
        client = asked.connect()
        client.send(GET)
        cancelled.wait()
        assert client.read_response().body == content(BIG)


@pytest.mark.parametrize("way", ["1.1", "tls", "h2"])
def test_a_body_without_a_length_that_lacks_a_part_of_a_file_does_not_look_complete(
    parser: str, way: str, make: Any
) -> None:
    """Nobody knows how much of it was sent (RFC 9112, 8; RFC 9113, 8.1.1)."""
    path = make(BIG)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(body(b"first", more=True))
        with path.open("rb") as file:
            message = {"type": "http.response.zerocopysend", "file": file, "more_body": True}
            sender = start_task(send(message))
            while not any(task_is_waiting(stream) for stream in streams(asked.server)):
                await asyncio.sleep(0.01)
            sender.cancel()
            await asyncio.wait([sender])
        with pytest.raises(OSError, match="gone"):
            await send(body(b"last"))
        cancelled.set()

    cancelled = Flag()
    with serving(app, parser, way) as asked:
        expect_incomplete(asked, cancelled)


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Opening and reading wait until this is set."""
    ready = threading.Event()
    real_open, real_pread = os.open, os.pread

    def slow_open(*args: Any, **kwargs: Any) -> int:
        if threading.current_thread().name not in ("server", "MainThread"):
            assert ready.wait(WAIT)
        return real_open(*args, **kwargs)

    def slow_pread(*args: Any) -> bytes:
        assert ready.wait(WAIT)
        return real_pread(*args)

    monkeypatch.setattr(files.OPENER, "open", lambda *_: -1)  # in a thread, always
    monkeypatch.setattr(files.os, "open", slow_open)
    monkeypatch.setattr(files.os, "pread", slow_pread)
    yield ready
    ready.set()


def test_a_disk_that_takes_its_time_holds_nobody_up(
    parser: str, make: Any, slow_disk: threading.Event
) -> None:
    path = make(1000)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(path_of(path) if scope["path"] == "/file" else body(b"other"))

    with serving(app, parser, "1.1") as asked:
        waiting, other = asked.connect(), asked.connect()
        waiting.send(request("GET", "/file"))
        assert asked.ask(other).body == b"other"
        slow_disk.set()
        assert waiting.read_response().body == content(1000)


def test_a_file_that_is_opened_for_nobody_is_closed(
    parser: str, make: Any, slow_disk: threading.Event
) -> None:
    path = make(1000)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        sender = start_task(send(path_of(path)))
        await asyncio.sleep(0.05)
        sender.cancel()
        await asyncio.wait([sender])
        await send(body(b"too slow"))

    with serving(app, parser, "1.1") as asked:
        assert asked.fetch().body == b"too slow"
        slow_disk.set()
        asked.server.run(threads_have_ended())
        asked.server.wait_until(lambda: str(path) not in descriptors())


def test_a_client_that_leaves_while_a_file_is_opened_is_cancelled_after_its_grace(
    parser: str, make: Any, slow_disk: threading.Event
) -> None:
    raised: list[BaseException] = []
    path = make(1000)

    with serving(sends(path, raised), parser, "1.1") as asked:
        client = asked.connect()
        client.send(GET)
        asked.server.wait_until(lambda: asked.server.server.tasks)
        client.reset()
        asked.server.wait_lost()
        asked.server.advance(8)
        asked.server.wait_until(asked.server.is_idle)
        slow_disk.set()
        asked.server.run(threads_have_ended())
        asked.server.wait_until(lambda: str(path) not in descriptors())
    assert [type(error) for error in raised] == [asyncio.CancelledError]


def test_a_read_that_nobody_waits_for_any_more_has_a_descriptor_of_its_own(
    parser: str, make: Any, slow_disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of one that is closed may be another file's by the time that the thread gets to it."""
    monkeypatch.setattr(files, "NOWAIT", 0)
    path = make(1000)
    seen: list[bytes] = []
    pread = files.os.pread

    def noting(*args: Any) -> bytes:
        seen.append(pread(*args))
        return seen[-1]

    monkeypatch.setattr(files.os, "pread", noting)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        with path.open("rb") as file:
            sender = start_task(send(part_of(file)))
            await asyncio.sleep(0.05)
            sender.cancel()
            await asyncio.wait([sender])
        await send(body(b"too slow"))

    with serving(app, parser, "1.1") as asked:
        assert asked.fetch().body == b"too slow"
        slow_disk.set()
        poll(lambda: seen == [content(1000)])


def test_without_a_descriptor_for_the_socket_a_file_is_read(
    parser: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EMFILE."""
    real = os.dup
    files_of_process = set()

    def full(descriptor: int) -> int:
        files_of_process.add(descriptor)
        raise OSError(24, "Too many open files")

    with serving(sending(START, path_of(make(1_000_000))), parser, "1.1") as asked:
        monkeypatch.setattr(sendfile.os, "dup", full)
        assert asked.fetch().body == content(1_000_000)
    assert files_of_process
    assert real is not os.dup


def test_what_sendfile_does_not_take_is_read(
    parser: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EINVAL of file systems that have no pages to give."""

    def refuse(*_: Any) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(sendfile.os, "sendfile", refuse)
    with serving(sending(START, path_of(make(1_000_000))), parser, "1.1") as asked:
        client = asked.connect()
        for _ in range(2):
            assert asked.ask(client).body == content(1_000_000)


class Access:
    """What the access log is told."""

    needs_headers = True

    def __init__(self) -> None:
        self.sent: list[int] = []

    def begin(self, *_: Any) -> Any:
        return type("Record", (), {"response_headers": None})()

    def end(self, _record: Any, _status: int, sent: int) -> None:
        self.sent.append(sent)


def test_the_log_counts_what_was_sent_of_a_file(parser: str, make: Any) -> None:
    access = Access()
    with serving(sending(START, path_of(make(BIG))), parser, "1.1", access=access) as asked:
        assert asked.fetch().is_whole
        client = asked.connect()
        client.send(GET)
        asked.server.run(until_sending(asked.server))
        client.reset()
        asked.server.wait_until(asked.server.is_idle)
    whole, part = access.sent
    assert whole == BIG
    assert 0 < part < BIG


# Parts of files.

FILE = content(500_000)


def parts_app(make_file: Callable[[], Any], *parts: Any, head: dict[str, Any] = START) -> Any:
    """An application that sends these parts of one file, or other messages; at its end, ``positions`` has where the file stands."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with make_file() as file:
            await send(head)
            for part in parts:
                await send(part_of(file, **part) if "type" not in part else part)
            app.positions.append(file.tell())  # type: ignore[attr-defined]  # also: it is not closed (docs/asgi.md, 129)

    app.positions = []  # type: ignore[attr-defined]
    return app


PARTS: dict[str, tuple[list[dict[str, Any]], bytes, int]] = {
    "all of it": ([{}], FILE, 500_000),
    "from an offset": ([{"offset": 100_000}], FILE[100_000:], 0),
    "so many bytes": ([{"count": 300_000}], FILE[:300_000], 300_000),
    "few bytes": ([{"count": 10}], FILE[:10], 10),
    "from an offset so many": ([{"offset": 7, "count": 200_000}], FILE[7:200_007], 0),
    "none": ([{"count": 0}], b"", 0),
    "from its end": ([{"offset": 500_000}], b"", 0),
    "from behind its end": ([{"offset": 600_000}], b"", 0),
    "several": (
        [{"count": 100_000, "more": True}, {"count": 100_000, "more": True}, {}],
        FILE,
        500_000,
    ),
    "backwards": (
        [{"offset": 400_000, "more": True}, {"offset": 0, "count": 5}],
        FILE[400_000:] + FILE[:5],
        0,
    ),
    "between others": ([body(b"<", True), {"more": True}, body(b">")], b"<" + FILE + b">", 500_000),
    "behind others": ([body(b"<", True), {"count": 70_000}], b"<" + FILE[:70_000], 70_000),
    "nothing between": (
        [{"count": 0, "more": True}, {"count": 80_000, "more": True}, body(b"")],
        FILE[:80_000],
        80_000,
    ),
}


@pytest.mark.parametrize("what", PARTS)
def test_parts_of_a_file_are_parts_of_the_body(
    parser: str, way: str, tmp_path: Path, what: str
) -> None:
    """docs/asgi.md, 124 to 130: identical bytes whatever the framing, and where no offset was given the position behind them."""
    path = tmp_path / "file"
    path.write_bytes(FILE)
    parts, expected, position = PARTS[what]
    for head in (START, start(length(len(expected)))):
        app = parts_app(lambda: path.open("rb"), *parts, head=head)
        with serving(app, parser, way) as asked:
            client = asked.connect()
            answer = asked.ask(client)
            assert (answer.is_whole, answer.body) == (True, expected)
            if way != "1.0":
                answer = asked.ask(client, "HEAD")
                assert (answer.is_whole, answer.body) == (True, b"")
            asked.server.wait_until(
                lambda app=app: len(app.positions) == (1 if way == "1.0" else 2)
            )
        assert set(app.positions) == {position}


def test_an_endless_row_of_parts_lets_others_have_their_turn(parser: str, make: Any) -> None:
    """A client that reads fast enough never makes it wait."""
    path = make(files.MIN_SENDFILE)
    turns = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal turns

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await turn()

        counting = start_task(count())
        with path.open("rb") as file:
            await send(START)
            for _ in range(30):
                await send(part_of(file, more=True, offset=0))
            await send(body(b""))
        counting.cancel()

    with serving(app, parser, "1.0") as asked:
        assert len(asked.fetch().body) == 30 * files.MIN_SENDFILE
        # trio lets the tasks of a turn run in any order.
        assert turns >= (29 if is_over_trio(parser) else 30)


def test_a_part_is_from_where_the_application_reads(parser: str, tmp_path: Path) -> None:
    """docs/asgi.md, 125: not from where the buffer before the descriptor has read to."""
    path = tmp_path / "file"
    path.write_bytes(FILE)

    def open_file() -> Any:
        file = path.open("rb")
        assert file.read(10) == FILE[:10]
        return file

    with serving(parts_app(open_file, {}), parser, "1.1") as asked:
        assert asked.fetch().body == FILE[10:]


def test_a_descriptor_is_a_file_too(parser: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(FILE)
    positions: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.lseek(descriptor, 5, os.SEEK_SET)
            await send(START)
            await send(part_of(descriptor, more=True, count=100_000))
            positions.append(os.lseek(descriptor, 0, os.SEEK_CUR))
            await send(part_of(descriptor))
        finally:
            os.close(descriptor)

    with serving(app, parser, "1.1") as asked:
        assert asked.fetch().body == FILE[5:]
    assert positions == [100_005]


def test_a_file_that_grows_is_what_was_announced_and_too_many_bytes_are_an_error(
    parser: str, way: str, make: Any
) -> None:
    path = make(200_000)
    with serving(
        parts_app(lambda: path.open("rb"), {}, head=start(length(150_000))), parser, way
    ) as asked:
        assert asked.fetch().body == content(200_000)[:150_000]
    with serving(
        parts_app(lambda: path.open("rb"), {"count": 200_000}, head=start(length(150_000))),
        parser,
        way,
    ) as asked:
        assert asked.fetch().status == 500
        (line,) = asked.server.log.take("error")
        assert str(line.error) == "the body is 50000 bytes longer than its content-length"


@pytest.mark.parametrize("number", [-1, True, 1.5, "1", b"1"], ids=repr)
@pytest.mark.parametrize("name", ["offset", "count"])
def test_offset_and_count_are_numbers_of_bytes(
    parser: str, make: Any, name: str, number: Any
) -> None:
    path = make(10)
    with serving(parts_app(lambda: path.open("rb"), {name: number}), parser, "1.1") as asked:
        assert asked.fetch().status == 500
        (line,) = asked.server.log.take("error")
        assert str(line.error) == f"{name!r} must be a number of bytes or None, not {number!r}"


def _closed(path: Path) -> Any:
    file = path.open("rb")
    file.close()
    return file


def _pipe(_: Path) -> Any:
    read, write = os.pipe()
    os.close(write)
    return os.fdopen(read, "rb")


NOT_FILES: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda _: None,
    "bytes": lambda _: b"x",
    "memory": lambda _: io.BytesIO(b"x"),
    "a closed one": _closed,
    "text": lambda path: path.open(),
    "a pipe": _pipe,
    "a socket": lambda _: socket.socket(),
    "a descriptor of none": lambda _: 1 << 20,
    "no descriptor": lambda _: 1 << 40,
    "a bool": lambda _: True,
}


@pytest.mark.parametrize("what", NOT_FILES)
@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_what_has_no_descriptor_of_a_file_raises(
    parser: str, way: str, make: Any, what: str
) -> None:
    """docs/asgi.md, 124."""
    path = make(10)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        file = NOT_FILES[what](path)
        try:
            await send(START)
            await send(part_of(file))
        finally:
            if hasattr(file, "close"):
                file.close()

    with serving(app, parser, way) as asked:
        assert asked.fetch().status == 500
        (line,) = asked.server.log.take("error")
        assert isinstance(line.error, ApplicationError)
        assert str(line.error).startswith("'file' must be ")


def test_more_bytes_than_there_are_raise(parser: str, make: Any) -> None:
    path = make(10)
    with serving(
        parts_app(lambda: path.open("rb"), {"offset": 3, "count": 8}), parser, "1.1"
    ) as asked:
        assert asked.fetch().status == 500
        (line,) = asked.server.log.take("error")
        assert str(line.error) == "'count' is 8, and after offset 3 the file has 7 bytes"


def test_a_descriptor_that_cannot_be_read_is_a_500_where_nothing_is_written(
    parser: str, way: str, make: Any
) -> None:
    path = make(1000)
    with serving(parts_app(lambda: path.open("ab"), {"offset": 0}), parser, way) as asked:
        assert asked.fetch().status == 500
        (line,) = asked.server.log.take("error")
        assert str(line.error).startswith("the file cannot be read: ")


# With Gunicorn around it.

APP = """
import os
PATH = os.environ["TEST_FILE"]
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.pathsend", "path": PATH})
"""


@contextmanager
def gunicorn(tmp_path: Path, path: Path, loop: str, **given: Any) -> Iterator[Gunicorn]:
    (tmp_path / "filing.py").write_text(APP)
    env = {"TEST_FILE": str(path), **given.pop("env", {})}
    with Gunicorn(
        tmp_path, "filing:app", asgi_loop=loop, pythonpath=str(tmp_path), env=env, **given
    ) as server:
        yield server


@pytest.mark.gunicorn
@pytest.mark.smoke
@pytest.mark.parametrize("loop", LOOPS)
def test_a_worker_that_is_told_to_stop_finishes_its_file(
    tmp_path: Path, make: Any, loop: str
) -> None:
    path = make(BIG)
    with gunicorn(tmp_path, path, loop) as server, server.connect() as client:
        client.get("/")
        client.read_until(b"\r\n\r\n")
        server.kill(signal.SIGTERM)
        server.wait_for("Handling signal: term")
        assert client.read_all() == content(BIG)
        assert server.wait() == 0
        assert not server.lines(r"\[(WARNING|ERROR|CRITICAL)\]")


@pytest.mark.gunicorn
@pytest.mark.parametrize("loop", LOOPS)
def test_at_the_end_of_graceful_timeout_a_file_ends_with_a_reset(
    tmp_path: Path, make: Any, loop: str
) -> None:
    path = make(BIG)
    with gunicorn(tmp_path, path, loop, graceful_timeout=2) as server, server.connect() as client:
        client.get("/")
        client.read_until(b"\r\n\r\n")
        assert server.stop() == 0
        assert len(client.read_all()) < BIG
        assert server.lines(
            "1 responses were not complete, and 1 applications running, at the end of graceful_timeout"
        )


@pytest.mark.gunicorn
@pytest.mark.parametrize(("value", "expected"), [("no", False), ("yes", True)])
def test_the_environment_turns_sendfile_off(
    tmp_path: Path, make: Any, value: str, expected: bool
) -> None:
    """Gunicorn's ``SENDFILE``."""
    config = """
from gunicorn_asgi.net import transport
class Noted(transport.FileTransfer):
    def __init__(self, *args):
        note("sendfile")
        super().__init__(*args)
transport.FileTransfer = Noted
"""
    path = make(1_000_000)
    with gunicorn(
        tmp_path, path, LOOPS[0], env={"SENDFILE": value}, config=NOTE + config
    ) as server:
        assert server.get("/").content == content(1_000_000)
        assert server.events.count("sendfile") == expected


def test_a_worker_without_a_free_descriptor_answers_500(tmp_path: Path, make: Any) -> None:
    """EMFILE for the file itself."""
    path = make(1_000_000)
    real = os.open

    def full(name: Any, *args: Any, **kwargs: Any) -> int:
        if name == str(path):
            raise OSError(24, "Too many open files")
        return real(name, *args, **kwargs)

    with (
        pytest.MonkeyPatch.context() as patch,
        serve(sending(START, path_of(path)), "h11") as server,
    ):
        patch.setattr(files.os, "open", full)
        client = server.connect()
        client.send(GET)
        assert client.read_response().status == 500
        (line,) = server.log.take("error")
        assert "Too many open files" in str(line.error)
