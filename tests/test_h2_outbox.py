"""What waits to be sent, as functions: RFC 9113, 5.2 and 6.9."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import hpack
import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from inprocess import serve

from gunicorn_asgi.http2 import frames
from gunicorn_asgi.http2.budget import LEAST_FRAME, REPLIES
from gunicorn_asgi.http2.frames import (
    DATA,
    DEFAULT_WINDOW_SIZE,
    END_STREAM,
    MAX_WINDOW_SIZE,
    FrameType,
)
from gunicorn_asgi.http2.outbox import (
    MAX_READY,
    STREAM_HIGH_WATER,
    STREAM_LOW_WATER,
    Outbox,
    SendQueue,
)

MAX = 16384
ALL = 1 << 40
BLOCK = b"\x88"


def make(window: int = ALL) -> Outbox:
    """With as wide a window of the connection."""
    outbox: Outbox = Outbox()
    outbox.window = window
    return outbox


def take(outbox: Outbox) -> list[frames.Frame]:
    """What was to be written, as frames."""
    found: list[frames.Frame] = []
    frames.FrameBuffer(1 << 24).read(b"".join(outbox.frames), found)
    outbox.frames.clear()
    outbox.size = 0
    return found


def pump(outbox: Outbox, limit: int = ALL) -> tuple[list[SendQueue], list[SendQueue]]:
    ended: list[SendQueue] = []
    freed: list[SendQueue] = []
    outbox.pump(limit, ended, freed)
    return ended, freed


def sizes(found: Iterable[frames.Frame]) -> list[tuple[int, int]]:
    """(stream, bytes) of each."""
    return [(stream, len(payload)) for _, _, stream, payload in found]


# At once.


@pytest.mark.parametrize("end", [False, True])
def test_what_the_windows_allow_is_sent_at_once(end: bool) -> None:
    outbox, queue = make(100), SendQueue(1, 100)
    assert outbox.send_data(queue, b"x" * 100, end) is end
    assert take(outbox) == [(DATA, END_STREAM if end else 0, 1, b"x" * 100)]
    assert (outbox.window, queue.window, queue.size, queue.has_end_stream) == (0, 0, 0, end)
    assert not outbox.has_sendable


def test_nothing_is_sent_for_nothing() -> None:
    """An empty frame would say nothing, and cost."""
    outbox = make()
    assert not outbox.send_data(SendQueue(1, 100), b"", False)
    assert take(outbox) == []


@pytest.mark.parametrize(
    ("window", "connection"), [(0, 100), (100, 0), (0, 0), (-100, 100), (-100, 0)]
)
def test_an_empty_end_needs_no_window(window: int, connection: int) -> None:
    """RFC 9113, 6.9.1: "an empty DATA frame ... MAY be sent if there is no available space in either flow-control window"."""
    outbox, blocked = make(connection), SendQueue(3, 1000)
    outbox.send_data(blocked, bytes(1000), True)  # whoever waits
    outbox.frames.clear()
    queue = SendQueue(1, window)
    assert outbox.send_data(queue, b"", True)
    assert take(outbox) == [(DATA, END_STREAM, 1, b"")]
    assert not queue.size


@pytest.mark.parametrize(
    ("window", "connection"), [(99, ALL), (ALL, 99), (0, ALL), (ALL, 0), (-5, ALL)]
)
def test_what_they_do_not_is_queued(window: int, connection: int) -> None:
    outbox, queue = make(connection), SendQueue(1, window)
    assert not outbox.send_data(queue, b"x" * 100, True)
    assert take(outbox) == []
    assert queue.size
    assert pump(outbox) == ([], [])
    allowed = max(0, min(window, connection))
    assert sizes(take(outbox)) == ([(1, allowed)] if allowed else [])
    outbox.widen(queue, 100 - min(0, window))
    outbox.widen_connection(100)
    assert pump(outbox)[0] == [queue]
    assert take(outbox) == [(DATA, END_STREAM, 1, b"x" * (100 - allowed))]


def test_data_after_queued_data_stays_after_it() -> None:
    outbox, queue = make(), SendQueue(1, 3)
    outbox.send_data(queue, b"abcde", False)
    assert not outbox.send_data(queue, b"f", False)
    assert not outbox.send_data(queue, b"", True)
    outbox.widen(queue, 100)
    assert pump(outbox)[0] == [queue]
    assert [payload for *_, payload in take(outbox)] == [b"abcdef"]


def test_no_frame_is_longer_than_the_client_allows() -> None:
    """RFC 9113, 4.2."""
    outbox, queue = make(), SendQueue(1, ALL)
    assert not outbox.send_data(queue, bytes(3 * MAX + 5), True)
    assert pump(outbox)[0] == [queue]
    found = take(outbox)
    assert sizes(found) == [(1, MAX)] * 3 + [(1, 5)]
    assert [flags for _, flags, _, _ in found] == [0, 0, 0, END_STREAM]


@pytest.mark.parametrize(
    ("size", "ready", "is_sent"),
    [
        (16384, 0, True),
        (16385, 0, False),
        (1, 65535, True),
        (1, 65536, False),
    ],
)
def test_a_frame_is_sent_at_once_up_to_a_length_and_before_so_much_is_ready(
    size: int,
    ready: int,
    is_sent: bool,
) -> None:
    outbox, queue = make(), SendQueue(1, ALL)
    outbox.size = ready
    outbox.send_data(queue, bytes(size), False)
    assert sizes(take(outbox)) == ([(1, size)] if is_sent else [])
    assert queue.size == (0 if is_sent else size)


def test_no_more_is_made_ready_than_is_written_at_a_time() -> None:
    """Else an application that is never held back fills the memory, where the client's windows are wide and its hands slow."""
    outbox, queue = make(), SendQueue(1, ALL)
    for _ in range(100):
        outbox.send_data(queue, bytes(8192), False)
    assert outbox.size <= MAX_READY + 8192
    assert queue.size >= 800 * 1024 - outbox.size


# In turn.


def test_nobody_gets_past_those_that_wait_for_the_window_of_the_connection() -> None:
    outbox, first, second = make(0), SendQueue(1, ALL), SendQueue(3, ALL)
    outbox.send_data(first, b"x" * 100, True)
    outbox.widen_connection(60)
    outbox.send_data(second, b"y" * 50, True)
    assert take(outbox) == []
    pump(outbox)
    assert sizes(take(outbox)) == [(1, 60)]
    outbox.widen_connection(90)
    pump(outbox)
    assert sizes(take(outbox)) == [(3, 50), (1, 40)]


def test_queues_take_turns_frame_by_frame() -> None:
    outbox = make(0)
    queues = [SendQueue(number, ALL) for number in (1, 3, 5)]
    for queue, amount in zip(queues, (3, 1, 2), strict=True):
        outbox.send_data(queue, bytes(amount * MAX), True)
    outbox.widen_connection(ALL)
    ended, _ = pump(outbox)
    assert [stream for stream, _ in sizes(take(outbox))] == [1, 3, 5, 1, 5, 1]
    assert [queue.id for queue in ended] == [3, 5, 1]


def test_a_little_window_at_a_time_goes_round() -> None:
    """No stream starves where the connection's window is what is scarce."""
    outbox = make(0)
    queues = [SendQueue(number, ALL) for number in range(1, 9, 2)]
    for queue in queues:
        outbox.send_data(queue, bytes(MAX), False)
    seen = []
    for _ in range(8):
        outbox.widen_connection(10)
        pump(outbox)
        seen += [stream for stream, _ in sizes(take(outbox))]
    assert seen == [1, 3, 5, 7, 1, 3, 5, 7]


def test_who_has_more_waits_after_the_others_where_the_limit_ends_it() -> None:
    outbox = make(0)
    first, second = SendQueue(1, ALL), SendQueue(3, ALL)
    outbox.send_data(first, bytes(4 * MAX), False)
    outbox.send_data(second, bytes(4 * MAX), False)
    outbox.widen_connection(ALL)
    seen = []
    for _ in range(4):
        pump(outbox, limit=MAX)
        seen += [stream for stream, _ in sizes(take(outbox))]
    assert seen == [1, 3, 1, 3]


def test_a_queue_without_a_window_is_in_nobodys_way() -> None:
    outbox = make()
    stuck, other = SendQueue(1, 0), SendQueue(3, 100)
    outbox.send_data(stuck, b"abc", True)
    outbox.send_data(other, bytes(50), True)
    assert sizes(take(outbox)) == [(3, 50)]
    assert not outbox.has_sendable
    outbox.widen(stuck, 2)
    assert outbox.has_sendable
    pump(outbox)
    assert sizes(take(outbox)) == [(1, 2)]


def test_a_window_may_be_below_zero() -> None:
    """RFC 9113, 6.9.2."""
    outbox, queue = make(), SendQueue(1, 100)
    outbox.send_data(queue, bytes(200), True)
    pump(outbox)
    outbox.widen(queue, -100)
    assert queue.window == -100
    outbox.widen(queue, 100)
    assert not outbox.has_sendable
    outbox.widen(queue, 1)
    pump(outbox)
    assert sizes(take(outbox)) == [(1, 100), (1, 1)]


def test_a_window_that_is_made_smaller_holds_who_stands_in_the_line() -> None:
    outbox, queue = make(0), SendQueue(1, 100)
    outbox.send_data(queue, bytes(100), True)
    outbox.widen(queue, -100)
    outbox.widen_connection(100)
    assert pump(outbox) == ([], [])
    assert take(outbox) == []
    assert not outbox.has_sendable
    outbox.widen(queue, 100)
    assert pump(outbox)[0] == [queue]


@pytest.mark.parametrize("queued", [0, 5])
def test_a_window_above_the_largest_is_an_error(queued: int) -> None:
    """RFC 9113, 6.9.1."""
    outbox, queue = make(DEFAULT_WINDOW_SIZE), SendQueue(1, 0)
    outbox.send_data(queue, bytes(queued), False)
    assert outbox.widen(queue, MAX_WINDOW_SIZE)
    assert not outbox.widen(queue, 1)
    assert outbox.widen_connection(MAX_WINDOW_SIZE - DEFAULT_WINDOW_SIZE)
    assert not outbox.widen_connection(1)


# Trailers.


@pytest.mark.parametrize("window", [0, 3, 5])
def test_trailers_come_after_the_data(window: int) -> None:
    """RFC 9113, 8.1: and END_STREAM is theirs."""
    outbox, queue = make(), SendQueue(1, window)
    outbox.send_data(queue, b"abcde", False)
    assert outbox.send_trailers(queue, BLOCK) is (window == 5)
    outbox.widen(queue, 100)
    assert pump(outbox)[0] == ([] if window == 5 else [queue])
    *data, trailers = take(outbox)
    assert b"".join(payload for *_, payload in data) == b"abcde"
    assert all((kind, flags) == (DATA, 0) for kind, flags, _, _ in data)
    assert trailers == (FrameType.HEADERS, END_STREAM | frames.END_HEADERS, 1, BLOCK)
    assert queue.has_end_stream


def test_trailers_need_no_window() -> None:
    """RFC 9113, 6.9: only DATA is subject to it."""
    outbox, queue = make(0), SendQueue(1, 0)
    assert outbox.send_trailers(queue, BLOCK)
    assert [kind for kind, *_ in take(outbox)] == [FrameType.HEADERS]


# Who gives up.


def test_what_is_forgotten_is_not_sent_and_in_nobodys_way() -> None:
    outbox = make(0)
    gone, other = SendQueue(1, ALL), SendQueue(3, ALL)
    for queue in (gone, other):
        outbox.send_data(queue, b"abc", False)
    outbox.send_trailers(gone, BLOCK)
    outbox.discard(gone)
    outbox.discard(gone)
    assert not gone.size
    outbox.widen(gone, 5)
    outbox.widen_connection(100)
    assert pump(outbox) == ([], [])
    assert sizes(take(outbox)) == [(3, 3)]


# Marks.


def test_who_was_clogged_is_told_once_at_the_mark() -> None:
    outbox, queue = make(), SendQueue(1, 0)
    outbox.send_data(queue, bytes(STREAM_HIGH_WATER + 10), False)
    queue.is_paused = True
    outbox.widen(queue, STREAM_HIGH_WATER + 9 - STREAM_LOW_WATER)
    assert pump(outbox) == ([], [])
    outbox.widen(queue, 1)
    assert pump(outbox) == ([], [queue])
    outbox.widen(queue, 1)
    assert pump(outbox) == ([], [])


def test_frames_that_had_to_be_small_cost_tokens_and_others_give_some() -> None:
    outbox, queue = make(), SendQueue(1, LEAST_FRAME - 1)
    outbox.send_data(queue, bytes(3 * LEAST_FRAME), False)
    pump(outbox)
    assert outbox.frame_cost > 0
    outbox.frame_cost = 0
    outbox.widen(queue, LEAST_FRAME)
    pump(outbox)
    assert outbox.frame_cost == -REPLIES
    outbox.widen(queue, ALL)
    outbox.frame_cost = 0
    pump(outbox)  # all that there was
    outbox.send_data(queue, b"x", True)
    assert outbox.frame_cost == -2 * REPLIES


@pytest.mark.parametrize(
    ("window", "cost"),
    [(10, -REPLIES), (9, 1), (1, 1)],
    ids=["all that there was", "less", "a byte"],
)
def test_a_small_frame_costs_a_token_only_where_the_window_made_it_small(
    window: int,
    cost: int,
) -> None:
    outbox, queue = make(), SendQueue(1, 0)
    outbox.send_data(queue, bytes(10), True)
    outbox.widen(queue, window)
    pump(outbox)
    assert sizes(take(outbox)) == [(1, window)]
    assert outbox.frame_cost == cost


@pytest.mark.parametrize(("size", "answers"), [(300, 2), (511, 2), (512, 3), (5120, 12)])
@pytest.mark.parametrize("is_held", [False, True], ids=["at once", "queued"])
def test_data_pays_for_two_answers_and_one_more_for_each_512_bytes(
    size: int,
    answers: int,
    is_held: bool,
) -> None:
    outbox, queue = make(), SendQueue(1, ALL)
    outbox.is_paused = is_held
    outbox.send_data(queue, bytes(size), False)
    pump(outbox)
    assert outbox.frame_cost == -answers


def test_there_is_more_to_send_only_while_the_window_of_the_connection_is_open() -> None:
    """Or whoever asks would turn in a loop."""
    outbox, queue = make(100), SendQueue(1, ALL)
    outbox.send_data(queue, bytes(101), True)
    assert outbox.has_sendable
    pump(outbox)
    assert sizes(take(outbox)) == [(1, 100)]
    assert not outbox.has_sendable
    outbox.widen_connection(1)
    assert outbox.has_sendable
    assert pump(outbox) == ([queue], [])
    assert not outbox.has_sendable


def test_a_queue_whose_window_is_used_up_is_not_more_to_send() -> None:
    outbox, queue = make(), SendQueue(1, 100)
    outbox.send_data(queue, bytes(101), True)
    assert pump(outbox, 100) == ([], [])
    assert sizes(take(outbox)) == [(1, 100)]
    assert not outbox.has_sendable
    outbox.widen(queue, 1)
    assert outbox.has_sendable


# Everything.


@dataclass
class Model:
    """What was given to a queue, and what has come of it."""

    queue: SendQueue
    given: bytearray = field(default_factory=bytearray)
    got: bytearray = field(default_factory=bytearray)
    end: str = ""
    is_gone: bool = False
    told_end: bool = False
    """By what `put`, `end` or `pump` returned."""
    seen_end: bool = False
    """By the frames."""


class Client:
    """Does what an application, and a client, might do, and checks what comes."""

    def __init__(self) -> None:
        self.outbox = make(DEFAULT_WINDOW_SIZE)
        self.window = DEFAULT_WINDOW_SIZE
        self.windows: dict[int, int] = {}
        self.models: dict[int, Model] = {}
        self.counter = 0

    def open(self, window: int) -> None:
        id_ = 2 * len(self.models) + 1
        self.windows[id_] = window
        self.models[id_] = Model(SendQueue(id_, window))

    def put(self, model: Model, size: int, end: bool) -> None:
        if model.end or model.is_gone:
            return
        data = bytes((self.counter + number) % 251 for number in range(size))
        self.counter += size
        model.given += data
        model.end = "data" if end else ""
        model.told_end = self.outbox.send_data(model.queue, data, end)
        assert model.told_end <= end

    def trailers(self, model: Model) -> None:
        if not model.end and not model.is_gone:
            model.end = "trailers"
            model.told_end = self.outbox.send_trailers(model.queue, BLOCK)

    def forget(self, model: Model) -> None:
        self.check()
        model.is_gone = True
        self.outbox.discard(model.queue)

    def give(self, model: Model, increment: int) -> None:
        self.check()
        self.windows[model.queue.id] += increment
        self.outbox.widen(model.queue, increment)

    def give_all(self, increment: int) -> None:
        self.window += increment
        self.outbox.widen_connection(increment)

    def pump(self, limit: int) -> None:
        ended, freed = pump(self.outbox, limit)
        for queue in ended:
            assert not self.models[queue.id].told_end
            self.models[queue.id].told_end = True
        assert not freed
        self.check()

    def check(self) -> None:
        """Nothing above a window or a frame's size, nothing after an end or a farewell, all in its order."""
        for kind, flags, id_, payload in take(self.outbox):
            model = self.models[id_]
            assert not model.is_gone
            assert not model.seen_end
            assert len(payload) <= self.outbox.max_frame_size
            model.seen_end = bool(flags & END_STREAM)
            if kind == FrameType.HEADERS:
                assert model.end == "trailers"
                assert model.got == model.given
                continue
            self.window -= len(payload)
            self.windows[id_] -= len(payload)
            if payload:
                assert self.window >= 0
                assert self.windows[id_] >= 0
            model.got += payload
            assert model.given.startswith(model.got)
        assert self.outbox.window == self.window
        for model in self.models.values():
            assert model.queue.window == self.windows[model.queue.id]
            assert model.seen_end == model.told_end
            if not model.is_gone:
                assert model.queue.size == len(model.given) - len(model.got)

    def drain(self) -> None:
        """With all the window that it takes, everything arrives, and nobody waits longer than one turn of all the others."""
        for model in self.models.values():
            self.give(model, 10**6)
        self.window += 10**8
        self.outbox.widen_connection(10**8)
        for _ in range(10**4):
            if not self.outbox.has_sendable:
                break
            waiting = [model for model in self.models.values() if model.queue.size]
            before = {model.queue.id: len(model.got) for model in waiting}
            for _ in waiting:
                self.pump(1)
            assert all(len(model.got) > before[model.queue.id] for model in waiting)
        for model in self.models.values():
            if not model.is_gone:
                assert model.got == model.given
                assert model.seen_end == bool(model.end)
                assert not model.queue.size
        assert not self.outbox.has_sendable


SIZES = st.one_of(st.integers(0, 40), st.sampled_from([0, 1, 255, 256, MAX, MAX + 1, 40000, 70000]))


@settings(max_examples=examples(150), deadline=None)
@given(st.data(), st.sampled_from([MAX, MAX, 20000, 100]))
def test_nothing_is_lost_reordered_or_above_a_window(data: st.DataObject, max_frame: int) -> None:
    """RFC 9113, 6.9.1, whatever is put and opened when."""
    client = Client()
    client.outbox.max_frame_size = max_frame
    client.open(data.draw(SIZES))
    for _ in range(data.draw(st.integers(1, 25))):
        model = client.models[data.draw(st.sampled_from(sorted(client.models)))]
        match data.draw(
            st.sampled_from(
                [
                    "open",
                    "put",
                    "put",
                    "put",
                    "trailers",
                    "forget",
                    "give",
                    "take",
                    "all",
                    "pump",
                    "pump",
                ]
            )
        ):
            case "open":
                client.open(data.draw(st.integers(-50, 50) | SIZES))
            case "put":
                client.put(
                    model, data.draw(SIZES), data.draw(st.sampled_from([False, False, True]))
                )
            case "trailers":
                client.trailers(model)
            case "forget":
                client.forget(model)
            case "give":
                client.give(model, data.draw(SIZES))
            case "take":
                client.give(model, -data.draw(SIZES))
            case "all":
                client.check()
                client.give_all(data.draw(SIZES))
            case "pump":
                client.pump(data.draw(st.sampled_from([1, MAX, ALL])))
    client.check()
    client.drain()


def test_an_application_is_held_back_by_a_client_that_does_not_read(parser: str) -> None:
    """docs/asgi.md, 14: however wide the windows that it has opened, and however small the parts."""
    sent, limit = 0, 64 << 20

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with contextlib.suppress(OSError):
            while sent < limit:
                await send({"type": "http.response.body", "body": bytes(8192), "more_body": True})
                sent += 8192
                await asyncio.sleep(0)

    request = hpack.Encoder().encode(
        [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]
    )
    with serve(app, parser, http_protocols="h1,h2", http2_cleartext="prior-knowledge") as inside:
        client = inside.connect(receive_buffer=4096)
        client.send(
            frames.PREFACE
            + frames.settings([(frames.INITIAL_WINDOW_SIZE, MAX_WINDOW_SIZE)])
            + frames.window_update(0, MAX_WINDOW_SIZE - DEFAULT_WINDOW_SIZE)
            + b"".join(frames.headers(1, request, True, MAX))
        )
        inside.wait_clogged()
        before = -1
        while before != sent:
            before = sent
            inside.settle()
        assert before < 16 << 20  # what the kernel takes comes on top of our own
        assert inside.unsent() < 1 << 20
