"""Parts of a body that are sent within one turn of the loop leave together, and none is lost.

docs/architecture.md: `net.turn` and `http1.writer`.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from inprocess import AsyncioLoop, Flag, Truncated, UvloopLoop, request, serve
from tables import each

from gunicorn_asgi.http1.writer import MAX_LONE_PARTS
from gunicorn_asgi.net.turn import GATHER_SIZE, Turn

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
LENGTHS = [None, 30]
"""The ``content-length`` of responses: none, so that they are chunked, or one."""


def start(length: int | None, **more: Any) -> dict[str, Any]:
    headers = [] if length is None else [(b"content-length", b"%d" % length)]
    return {**START, "headers": headers, **more}


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


@pytest.fixture
def sends_at_once(parser: str) -> None:
    """Skip where the loop keeps what is written until its turn ends: it gathers by itself."""

    async def unsent() -> int:
        ours, theirs = socket.socketpair()
        with theirs:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_unix_connection(asyncio.Protocol, sock=ours)
            transport.write(b"a")
            size = transport.get_write_buffer_size()
            transport.abort()
        return size

    loop = (UvloopLoop if parser == "httptools" else AsyncioLoop)()
    try:
        if loop.run_until_complete(unsent()):
            pytest.skip("this uvloop gathers by itself")
    finally:
        loop.close()


# The turn.


class Recorder:
    """Something that gathers, and notes in `flushed` when it has to write."""

    def __init__(self, name: str, flushed: list[str]) -> None:
        self.name = name
        self.flushed = flushed

    def flush(self) -> None:
        self.flushed.append(self.name)


def test_a_turn_ends_once_for_all_after_what_is_ready_now() -> None:
    async def work() -> list[str]:
        loop = asyncio.get_running_loop()
        turn, events = Turn(loop), list[str]()
        turn.begin()
        for name in ("first", "second"):
            turn.gather(Recorder(name, events))
        loop.call_soon(events.append, "next turn")
        number = turn.number
        assert turn.has_begun
        await asyncio.sleep(0)
        assert not turn.has_begun
        assert turn.number != number
        await asyncio.sleep(0)
        return events

    assert asyncio.run(work()) == ["first", "second", "next turn"]


def test_what_is_gathered_while_a_turn_ends_leaves_in_the_next() -> None:
    async def work() -> list[str]:
        turn, events = Turn(asyncio.get_running_loop()), list[str]()

        class Again(Recorder):
            def flush(self) -> None:
                super().flush()
                if len(self.flushed) < 3:
                    turn.begin()
                    turn.gather(self)

        turn.begin()
        turn.gather(Again("a", events))
        for count in (1, 2, 3, 3):
            await asyncio.sleep(0)
            assert len(events) == count
        return events

    assert asyncio.run(work()) == ["a"] * 3


# The writer.


@each("length", LENGTHS)
@pytest.mark.usefixtures("sends_at_once")
def test_the_first_part_leaves_at_once_and_the_others_of_the_turn_together(
    parser: str, length: int | None
) -> None:
    go = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.reached()
        await send(start(length))
        for number in range(5):
            await send(part(b"%d" % number * 5))
        await send(part(b"5" * 5, more=False))

    with serve(app, parser) as server:
        client = server.connect()
        client.send(request())
        server.wait_connected()
        server.settle()
        sizes = server.count_writes()
        go.set()
        response = client.read_response()
        assert response.body == b"".join(b"%d" % number * 5 for number in range(6))
        assert len(sizes) == 2
        if length is None:
            assert response.chunks == [b"0" * 5, response.body[5:]]


@each("length", LENGTHS)
@each("version", ["1.0", "1.1"])
def test_a_part_leaves_in_its_turn_however_long_the_next_one_takes(
    parser: str, length: int | None, version: str
) -> None:
    """An event stream. The client has both events before the application sends another."""
    flags = [Flag() for _ in range(3)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(length))
        for flag in flags:
            for body in (b"first", b"other"):
                await send(part(body))
            await flag.reached()
        await send(part(b"", more=False))

    with serve(app, parser) as server:
        client = server.connect()
        client.send(request(version=version))
        for flag in flags:
            client.recv_until(b"first")
            client.recv_until(b"other")
            assert client.buffer in (b"", b"\r\n")
            flag.set()
        if version == "1.0" and length is None:
            assert client.read_rest() == b""


@pytest.mark.usefixtures("sends_at_once")
def test_parts_that_are_alone_leave_at_once_and_later_ones_of_a_turn_still_together(
    parser: str,
) -> None:
    """An event stream that once has much to tell."""
    alone, together = 3 * MAX_LONE_PARTS + 1, 6 * MAX_LONE_PARTS

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(None))
        for _ in range(alone):
            await send(part(b"alone"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        for _ in range(together):
            await send(part(b"burst"))
        await send(part(b"", more=False))

    with serve(app, parser) as server:
        client = server.connect()
        client.send(request())
        server.wait_connected()
        sizes = server.count_writes()
        response = client.read_response()
        assert response.body == b"alone" * alone + b"burst" * together
        assert response.chunks is not None
        assert response.chunks[:alone] == [b"alone"] * alone
        # A first part that is followed, and others gathered, in both turns of the burst (64 messages
        # take a turn); the end.
        assert len(response.chunks) <= alone + MAX_LONE_PARTS + 4
        assert len(sizes) <= alone + MAX_LONE_PARTS + 5


@pytest.mark.usefixtures("sends_at_once")
def test_most_parts_that_are_alone_schedule_nothing(parser: str) -> None:
    count = 20 * MAX_LONE_PARTS

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(None))
        for _ in range(count):
            await send(part(b"alone"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await send(part(b"", more=False))

    with serve(app, parser) as server:
        before = server.server.turn.number
        client = server.connect()
        client.send(request())
        assert client.read_response().body == b"alone" * count
        followed = server.server.turn.number - before
        assert 0 < followed <= count / MAX_LONE_PARTS + MAX_LONE_PARTS + 1


@each("length", LENGTHS)
@each("ending", ["raise", "return", "short"])
def test_parts_before_a_failure_arrive_and_the_message_is_not_complete(
    parser: str, length: int | None, ending: str
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(length))
        for number in range(3):
            await send(part(b"%d" % number * 5))
        if ending == "raise" or (ending == "short" and length is None):
            raise ZeroDivisionError
        if ending == "short":
            await send(part(b"3", more=False))

    with serve(app, parser) as server:
        client = server.connect()
        client.send(request())
        with pytest.raises(Truncated) as caught:
            client.read_response()
        body = caught.value.response.body
        assert body[:15] == b"000001111122222"
        assert body[15:] == (b"3" if ending == "short" and length else b"")
        assert len(server.log.take("error")) == 1


@pytest.mark.usefixtures("sends_at_once")
def test_trailers_follow_all_parts(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(None, trailers=True))
        for number in range(3):
            await send(part(b"%d" % number, more=number < 2))
        await send({"type": "http.response.trailers", "headers": [(b"a", b"b")]})

    with serve(app, parser) as server:
        client = server.connect()
        client.send(request("GET", "/", b"TE: trailers", b"Connection: close"))
        data = client.read_rest().partition(b"\r\n\r\n")[2]
        assert data == b"1\r\n0\r\n2\r\n12\r\n0\r\na: b\r\n\r\n"


@each("length", LENGTHS)
def test_a_file_follows_the_parts_before_it_and_precedes_those_after_it(
    parser: str, length: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"f" * 10)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(length))
        with path.open("rb") as file:
            for body in (b"a" * 5, b"b" * 5):
                await send(part(body))
            await send(
                {"type": "http.response.zerocopysend", "file": file, "count": 10, "more_body": True}
            )
            for body in (b"c" * 5, b"d" * 5):
                await send(part(body))
        await send(part(b"", more=False))

    with serve(app, parser) as server:
        client = server.connect()
        client.send(request())
        assert client.read_response().body == b"aaaaabbbbbffffffffffcccccddddd"


@each("length", LENGTHS)
def test_responses_to_pipelined_requests_follow_in_order(parser: str, length: int | None) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(length))
        for number in range(6):
            await send(part(scope["raw_path"] + b"%03d" % number, more=number < 5))

    paths = [b"/%d" % number for number in range(5)]  # 5 bytes each with the number of a part
    with serve(app, parser) as server:
        client = server.connect()
        client.send(b"".join(request("GET", path.decode()) for path in paths))
        for path in paths:
            assert client.read_response().body == b"".join(
                path + b"%03d" % number for number in range(6)
            )


def test_a_response_to_head_has_no_body(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(None))
        for number in range(4):
            await send(part(b"x" * 100, more=number < 3))

    with serve(app, parser) as server:
        client = server.connect()
        client.send(request("HEAD") + request("HEAD", "/", b"Connection: close"))
        for _ in range(2):
            assert client.read_response("HEAD").status == 200
        assert client.read_rest() == b""


@each("size", [1024, GATHER_SIZE - 1, GATHER_SIZE])
@each("length", [None, 10**12])
def test_an_application_that_never_waits_is_stopped_by_a_client_that_does_not_read(
    parser: str, size: int, length: int | None
) -> None:
    """``send()`` waits at the loop's high-water mark, and no part is lost or counted twice."""
    stop, sent = Flag(), [0]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(length))
        while not stop.is_set():
            sent[0] += 1
            await send(part(b"%08x" % sent[0] + b"x" * (size - 8)))
        raise ZeroDivisionError

    with serve(app, parser) as server:
        client = server.connect(receive_buffer=4096)
        client.send(request())
        server.wait_clogged()
        stop.set()
        server.settle()
        count = sent[0]
        assert server.unsent() <= GATHER_SIZE + size + 100
        with pytest.raises(Truncated) as caught:
            client.read_response()
        assert sent[0] == count
        body = caught.value.response.body
        assert len(body) == count * size
        assert [int(body[at : at + 8], 16) for at in range(0, len(body), size)] == [
            *range(1, count + 1)
        ]
        server.log.take("error")


def test_parts_for_a_client_that_goes_away_harm_nobody(parser: str) -> None:
    gone = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(None))
        try:
            while True:
                for _ in range(3):
                    await send(part(b"x" * 100))
                await asyncio.sleep(0)
        finally:
            gone.set()

    with serve(app, parser) as server:
        others = [server.connect() for _ in range(2)]
        for client in others:
            client.send(request())
            client.recv_until(b"x" * 100)
        others[0].reset()
        gone.wait()
        others[1].buffer.clear()
        while len(others[1].buffer) < 10000:
            assert others[1].receive()
        others[1].reset()
