"""A part of a response that is too large for one write: it is sent in pieces, and nobody notices but the loop."""

from __future__ import annotations

import asyncio
from itertools import permutations
from typing import Any

import pytest
from inprocess import Flag, Truncated, is_over_trio
from libraries import start_task, within
from ways import Way, serving

from gunicorn_asgi.asgi.http import MAX_PIECE
from gunicorn_asgi.errors import ApplicationError, ClientDisconnected

pytestmark = pytest.mark.both_libraries

WAYS = ["1.0", "1.1", "tls", "h2", "h2-tls"]
SIZE = 3 * MAX_PIECE + 77
BODY = bytes(range(251)) * (SIZE // 251 + 1)
BODY = BODY[:SIZE]
START: dict[str, Any] = {"type": "http.response.start", "status": 200}


def part(body: Any, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def declared(size: int) -> dict[str, Any]:
    return {**START, "headers": [(b"content-length", b"%d" % size)]}


def get(asked: Way) -> Any:
    """A client that has asked, and reads nothing. `read` reads its response."""
    client = asked.connect(**({} if asked.is_h2 else {"receive_buffer": 65536}))
    if asked.is_h2:
        client.begin("GET", "/")
    else:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    return client


MESSAGES: dict[str, list[dict[str, Any]]] = {
    "whole": [START, part(BODY)],
    "whole with a length": [declared(SIZE), part(BODY)],
    "in the midst": [START, part(b"a", True), part(BODY, True), part(b"z")],
    "at first, with a length": [declared(SIZE + 1), part(BODY, True), part(b"z")],
    "at last": [START, part(b"a", True), part(BODY)],
    "twice": [START, part(BODY, True), part(BODY)],
    "just two pieces": [START, part(BODY[: 2 * MAX_PIECE])],
    "one byte more": [START, part(BODY[: MAX_PIECE + 1])],
    "one piece": [START, part(BODY[:MAX_PIECE])],
    "a bytearray": [START, part(bytearray(BODY))],
    "a view": [START, part(memoryview(BODY))],
    "a view of words": [START, part(memoryview(BODY[: SIZE // 4 * 4]).cast("I"))],
    "a view of every other byte": [START, part(memoryview(BODY + BODY)[::2])],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MESSAGES)
def test_a_large_part_arrives_as_it_was_sent(parser: str, way: str, name: str) -> None:
    messages = MESSAGES[name]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    with serving(app, parser, way) as asked:
        answer = asked.fetch()
        body = b"".join(bytes(message.get("body", b"")) for message in messages)
        assert answer.body == body
        assert answer.is_whole
        if len(messages) == 2:
            assert answer.values(b"content-length") == [b"%d" % len(body)]


@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_the_answer_to_head_has_the_length_of_a_large_body(parser: str, way: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(BODY))

    with serving(app, parser, way) as asked:
        answer = asked.fetch("HEAD")
        assert answer.body == b""
        assert answer.values(b"content-length") == [b"%d" % SIZE]


def test_the_connection_is_kept_after_a_large_body(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(BODY))

    with serving(app, parser, "1.1") as asked:
        client = asked.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        assert [client.read_response().body == BODY for _ in range(2)] == [True, True]


@pytest.mark.parametrize("way", ["1.1", "h2"])
@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_a_wrong_length_is_told_by_the_send_of_the_large_part(
    parser: str, way: str, size: int
) -> None:
    raised: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(declared(size))
        with pytest.raises(ApplicationError) as error:
            await send(part(BODY))
        raised.append(str(error.value))
        if size < SIZE:
            await send(part(BODY[:size]))  # nothing was written

    with serving(app, parser, way) as asked:
        answer = asked.fetch()
        assert answer.is_whole == (size < SIZE)
        how = "longer" if size < SIZE else "shorter"
        assert raised == [f"the body is 1 bytes {how} than its content-length"]


@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_send_waits_for_the_client_and_raises_once_it_is_gone(parser: str, way: str) -> None:
    ends: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        with pytest.raises(ClientDisconnected):
            await send(part(bytes(20 * MAX_PIECE)))
        ends.append("gone")

    with serving(app, parser, way) as asked:
        client = get(asked)
        asked.server.wait_clogged()
        assert not ends
        client.close()
        asked.server.wait_until(lambda: ends == ["gone"])


@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_a_part_that_another_task_sends_follows_the_large_part(parser: str, way: str) -> None:
    parts = (b"1", BODY, b"2")
    # trio lets tasks begin in any order.
    orders = permutations(parts) if is_over_trio(parser) else [parts]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        large = start_task(send(part(BODY, more=True)))
        await asyncio.sleep(0)
        others = [start_task(send(part(text, True))) for text in parts]
        await asyncio.gather(large, *others)
        await send(part(b"end"))

    with serving(app, parser, way) as asked:
        body = asked.fetch().body
        assert body in [BODY + b"".join(order) + b"end" for order in orders]


@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_a_part_after_a_large_part_that_was_the_last_is_ignored(parser: str, way: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        large = start_task(send(part(BODY)))
        await asyncio.sleep(0)
        await asyncio.gather(large, start_task(send(part(b"late"))))

    with serving(app, parser, way) as asked:
        assert asked.fetch().body == BODY


@pytest.mark.parametrize("way", ["1.1", "h2"])
@pytest.mark.parametrize("length", [None, SIZE * 10])
def test_a_response_ends_where_its_part_is_cancelled_between_two_pieces(
    parser: str, way: str, length: int | None
) -> None:
    """The application does not know how much was sent, so it cannot go on."""
    cancelled = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START if length is None else declared(length))
        await send(part(b"", more=True))
        with pytest.raises(asyncio.TimeoutError):
            await within(send(part(BODY * 10, more=True)), 0.1)
        assert (await receive())["type"] == "http.disconnect"
        with pytest.raises(ClientDisconnected):
            await send(part(b"more"))
        cancelled.set()

    with serving(app, parser, way) as asked:
        client = get(asked)
        cancelled.wait()
        if asked.is_h2:
            asked.server.wait_until(lambda: not asked.server.server.tasks)
            client.close()
        else:
            with pytest.raises((Truncated, ConnectionResetError)):
                client.read_response()


@pytest.mark.parametrize("way", ["1.1", "h2"])
def test_a_buffer_that_changes_after_send_does_not_change_the_response(
    parser: str, way: str
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        buffer = bytearray(BODY)
        await send(START)
        await send(part(buffer, more=True))
        buffer[:] = bytes(len(buffer))
        await send(part(b"end"))

    with serving(app, parser, way) as asked:
        assert asked.fetch().body == BODY + b"end"
