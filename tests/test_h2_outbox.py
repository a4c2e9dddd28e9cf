"""What waits to be sent, as functions: RFC 9113, 5.2 and 6.9."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inprocess import serve

from gunicorn_asgi.http2 import frames
from gunicorn_asgi.http2.budget import ANSWERS, LEAST_FRAME
from gunicorn_asgi.http2.frames import DATA, DEFAULT_WINDOW, END_STREAM, MAX_WINDOW
from gunicorn_asgi.http2.outbox import HIGH_WATER, LOW_WATER, MAX_READY, Lane, Outbox

MAX = 16384
ALL = 1 << 40
BLOCK = b"\x88"


def make(window: int = ALL) -> Outbox[Lane]:
    """With as wide a window of the connection."""
    outbox: Outbox[Lane] = Outbox()
    outbox.window = window
    return outbox


def take(outbox: Outbox[Lane]) -> list[frames.Frame]:
    """What was to be written, as frames."""
    found: list[frames.Frame] = []
    frames.FrameReader(1 << 24).read(b"".join(outbox.frames), found)
    outbox.frames.clear()
    outbox.size = 0
    return found


def pump(outbox: Outbox[Lane], limit: int = ALL) -> tuple[list[Lane], list[Lane]]:
    ended: list[Lane] = []
    freed: list[Lane] = []
    outbox.pump(limit, ended, freed)
    return ended, freed


def sizes(found: Iterable[frames.Frame]) -> list[tuple[int, int]]:
    """(stream, bytes) of each."""
    return [(stream, len(payload)) for _, _, stream, payload in found]


# At once.


@pytest.mark.parametrize("end", [False, True])
def test_what_the_windows_allow_is_sent_at_once(end: bool) -> None:
    outbox, lane = make(100), Lane(1, 100)
    assert outbox.put(lane, b"x" * 100, end) is end
    assert take(outbox) == [(DATA, END_STREAM if end else 0, 1, b"x" * 100)]
    assert (outbox.window, lane.window, lane.queued, lane.has_ended) == (0, 0, 0, end)
    assert not outbox.has_more


def test_nothing_is_sent_for_nothing() -> None:
    """An empty frame would say nothing, and cost."""
    outbox = make()
    assert not outbox.put(Lane(1, 100), b"", False)
    assert take(outbox) == []


@pytest.mark.parametrize(
    ("window", "connection"), [(0, 100), (100, 0), (0, 0), (-100, 100), (-100, 0)]
)
def test_an_empty_end_needs_no_window(window: int, connection: int) -> None:
    """RFC 9113, 6.9.1: "an empty DATA frame ... MAY be sent if there is no available space in either flow-control window"."""
    outbox, blocked = make(connection), Lane(3, 1000)
    outbox.put(blocked, bytes(1000), True)  # whoever waits
    outbox.frames.clear()
    lane = Lane(1, window)
    assert outbox.put(lane, b"", True)
    assert take(outbox) == [(DATA, END_STREAM, 1, b"")]
    assert not lane.is_waiting


@pytest.mark.parametrize(
    ("window", "connection"), [(99, ALL), (ALL, 99), (0, ALL), (ALL, 0), (-5, ALL)]
)
def test_what_they_do_not_is_queued(window: int, connection: int) -> None:
    outbox, lane = make(connection), Lane(1, window)
    assert not outbox.put(lane, b"x" * 100, True)
    assert take(outbox) == []
    assert lane.is_waiting
    assert pump(outbox) == ([], [])
    allowed = max(0, min(window, connection))
    assert sizes(take(outbox)) == ([(1, allowed)] if allowed else [])
    outbox.open(lane, 100 - min(0, window))
    outbox.open_connection(100)
    assert pump(outbox)[0] == [lane]
    assert take(outbox) == [(DATA, END_STREAM, 1, b"x" * (100 - allowed))]


def test_what_comes_behind_something_queued_stays_behind_it() -> None:
    outbox, lane = make(), Lane(1, 3)
    outbox.put(lane, b"abcde", False)
    assert not outbox.put(lane, b"f", False)
    assert not outbox.put(lane, b"", True)
    outbox.open(lane, 100)
    assert pump(outbox)[0] == [lane]
    assert [payload for *_, payload in take(outbox)] == [b"abcdef"]


def test_no_frame_is_longer_than_the_client_allows() -> None:
    """RFC 9113, 4.2."""
    outbox, lane = make(), Lane(1, ALL)
    assert not outbox.put(lane, bytes(3 * MAX + 5), True)
    assert pump(outbox)[0] == [lane]
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
    outbox, lane = make(), Lane(1, ALL)
    outbox.size = ready
    outbox.put(lane, bytes(size), False)
    assert sizes(take(outbox)) == ([(1, size)] if is_sent else [])
    assert lane.queued == (0 if is_sent else size)


def test_no_more_is_made_ready_than_is_written_at_a_time() -> None:
    """Else an application that is never held back fills the memory, where the client's windows are wide and its hands slow."""
    outbox, lane = make(), Lane(1, ALL)
    for _ in range(100):
        outbox.put(lane, bytes(8192), False)
    assert outbox.size <= MAX_READY + 8192
    assert lane.queued >= 800 * 1024 - outbox.size


# In turn.


def test_nobody_gets_past_those_that_wait_for_the_window_of_the_connection() -> None:
    outbox, first, second = make(0), Lane(1, ALL), Lane(3, ALL)
    outbox.put(first, b"x" * 100, True)
    outbox.open_connection(60)
    outbox.put(second, b"y" * 50, True)
    assert take(outbox) == []
    pump(outbox)
    assert sizes(take(outbox)) == [(1, 60)]
    outbox.open_connection(90)
    pump(outbox)
    assert sizes(take(outbox)) == [(3, 50), (1, 40)]


def test_lanes_take_turns_frame_by_frame() -> None:
    outbox = make(0)
    lanes = [Lane(number, ALL) for number in (1, 3, 5)]
    for lane, amount in zip(lanes, (3, 1, 2), strict=True):
        outbox.put(lane, bytes(amount * MAX), True)
    outbox.open_connection(ALL)
    ended, _ = pump(outbox)
    assert [stream for stream, _ in sizes(take(outbox))] == [1, 3, 5, 1, 5, 1]
    assert [lane.id for lane in ended] == [3, 5, 1]


def test_a_little_window_at_a_time_goes_round() -> None:
    """No stream starves where the connection's window is what is scarce."""
    outbox = make(0)
    lanes = [Lane(number, ALL) for number in range(1, 9, 2)]
    for lane in lanes:
        outbox.put(lane, bytes(MAX), False)
    seen = []
    for _ in range(8):
        outbox.open_connection(10)
        pump(outbox)
        seen += [stream for stream, _ in sizes(take(outbox))]
    assert seen == [1, 3, 5, 7, 1, 3, 5, 7]


def test_who_has_more_waits_behind_the_others_where_the_limit_ends_it() -> None:
    outbox = make(0)
    first, second = Lane(1, ALL), Lane(3, ALL)
    outbox.put(first, bytes(4 * MAX), False)
    outbox.put(second, bytes(4 * MAX), False)
    outbox.open_connection(ALL)
    seen = []
    for _ in range(4):
        pump(outbox, limit=MAX)
        seen += [stream for stream, _ in sizes(take(outbox))]
    assert seen == [1, 3, 1, 3]


def test_a_lane_without_a_window_is_in_nobodys_way() -> None:
    outbox = make()
    stuck, other = Lane(1, 0), Lane(3, 100)
    outbox.put(stuck, b"abc", True)
    outbox.put(other, bytes(50), True)
    assert sizes(take(outbox)) == [(3, 50)]
    assert not outbox.has_more
    outbox.open(stuck, 2)
    assert outbox.has_more
    pump(outbox)
    assert sizes(take(outbox)) == [(1, 2)]


def test_a_window_may_be_below_zero() -> None:
    """RFC 9113, 6.9.2."""
    outbox, lane = make(), Lane(1, 100)
    outbox.put(lane, bytes(200), True)
    pump(outbox)
    outbox.open(lane, -100)
    assert lane.window == -100
    outbox.open(lane, 100)
    assert not outbox.has_more
    outbox.open(lane, 1)
    pump(outbox)
    assert sizes(take(outbox)) == [(1, 100), (1, 1)]


def test_a_window_that_is_made_smaller_holds_who_stands_in_the_line() -> None:
    outbox, lane = make(0), Lane(1, 100)
    outbox.put(lane, bytes(100), True)
    outbox.open(lane, -100)
    outbox.open_connection(100)
    assert pump(outbox) == ([], [])
    assert take(outbox) == []
    assert not outbox.has_more
    outbox.open(lane, 100)
    assert pump(outbox)[0] == [lane]


@pytest.mark.parametrize("queued", [0, 5])
def test_a_window_above_the_largest_is_an_error(queued: int) -> None:
    """RFC 9113, 6.9.1."""
    outbox, lane = make(DEFAULT_WINDOW), Lane(1, 0)
    outbox.put(lane, bytes(queued), False)
    assert outbox.open(lane, MAX_WINDOW)
    assert not outbox.open(lane, 1)
    assert outbox.open_connection(MAX_WINDOW - DEFAULT_WINDOW)
    assert not outbox.open_connection(1)


# Trailers.


@pytest.mark.parametrize("window", [0, 3, 5])
def test_trailers_come_behind_the_data(window: int) -> None:
    """RFC 9113, 8.1: and END_STREAM is theirs."""
    outbox, lane = make(), Lane(1, window)
    outbox.put(lane, b"abcde", False)
    assert outbox.end(lane, BLOCK) is (window == 5)
    outbox.open(lane, 100)
    assert pump(outbox)[0] == ([] if window == 5 else [lane])
    *data, trailers = take(outbox)
    assert b"".join(payload for *_, payload in data) == b"abcde"
    assert all((kind, flags) == (DATA, 0) for kind, flags, _, _ in data)
    assert trailers == (frames.HEADERS, END_STREAM | frames.END_HEADERS, 1, BLOCK)
    assert lane.has_ended


def test_trailers_need_no_window() -> None:
    """RFC 9113, 6.9: only DATA is subject to it."""
    outbox, lane = make(0), Lane(1, 0)
    assert outbox.end(lane, BLOCK)
    assert [kind for kind, *_ in take(outbox)] == [frames.HEADERS]


# Who gives up.


def test_what_is_forgotten_is_not_sent_and_in_nobodys_way() -> None:
    outbox = make(0)
    gone, other = Lane(1, ALL), Lane(3, ALL)
    for lane in (gone, other):
        outbox.put(lane, b"abc", False)
    outbox.end(gone, BLOCK)
    outbox.forget(gone)
    outbox.forget(gone)
    assert not gone.is_waiting
    outbox.open(gone, 5)
    outbox.open_connection(100)
    assert pump(outbox) == ([], [])
    assert sizes(take(outbox)) == [(3, 3)]


# Marks.


def test_who_was_clogged_is_told_once_at_the_mark() -> None:
    outbox, lane = make(), Lane(1, 0)
    outbox.put(lane, bytes(HIGH_WATER + 10), False)
    lane.is_clogged = True
    outbox.open(lane, HIGH_WATER + 9 - LOW_WATER)
    assert pump(outbox) == ([], [])
    outbox.open(lane, 1)
    assert pump(outbox) == ([], [lane])
    outbox.open(lane, 1)
    assert pump(outbox) == ([], [])


def test_frames_that_had_to_be_small_cost_points_and_others_give_some() -> None:
    outbox, lane = make(), Lane(1, LEAST_FRAME - 1)
    outbox.put(lane, bytes(3 * LEAST_FRAME), False)
    pump(outbox)
    assert outbox.points > 0
    outbox.points = 0
    outbox.open(lane, LEAST_FRAME)
    pump(outbox)
    assert outbox.points == -ANSWERS
    outbox.open(lane, ALL)
    outbox.points = 0
    pump(outbox)  # all that there was
    outbox.put(lane, b"x", True)
    assert outbox.points == -2 * ANSWERS


@pytest.mark.parametrize(
    ("window", "cost"),
    [(10, -ANSWERS), (9, 1), (1, 1)],
    ids=["all that there was", "less", "a byte"],
)
def test_a_small_frame_costs_a_point_only_where_the_window_made_it_small(
    window: int,
    cost: int,
) -> None:
    outbox, lane = make(), Lane(1, 0)
    outbox.put(lane, bytes(10), True)
    outbox.open(lane, window)
    pump(outbox)
    assert sizes(take(outbox)) == [(1, window)]
    assert outbox.points == cost


@pytest.mark.parametrize(("size", "answers"), [(300, 2), (511, 2), (512, 3), (5120, 12)])
@pytest.mark.parametrize("is_held", [False, True], ids=["at once", "queued"])
def test_data_pays_for_two_answers_and_one_more_for_each_512_bytes(
    size: int,
    answers: int,
    is_held: bool,
) -> None:
    outbox, lane = make(), Lane(1, ALL)
    outbox.is_held = is_held
    outbox.put(lane, bytes(size), False)
    pump(outbox)
    assert outbox.points == -answers


def test_there_is_more_to_send_only_while_the_window_of_the_connection_is_open() -> None:
    """Or whoever asks would turn in a loop."""
    outbox, lane = make(100), Lane(1, ALL)
    outbox.put(lane, bytes(101), True)
    assert outbox.has_more
    pump(outbox)
    assert sizes(take(outbox)) == [(1, 100)]
    assert not outbox.has_more
    outbox.open_connection(1)
    assert outbox.has_more
    assert pump(outbox) == ([lane], [])
    assert not outbox.has_more


def test_a_lane_whose_window_is_used_up_is_not_more_to_send() -> None:
    outbox, lane = make(), Lane(1, 100)
    outbox.put(lane, bytes(101), True)
    assert pump(outbox, 100) == ([], [])
    assert sizes(take(outbox)) == [(1, 100)]
    assert not outbox.has_more
    outbox.open(lane, 1)
    assert outbox.has_more


# Everything.


@dataclass
class Model:
    """What was given to a lane, and what has come of it."""

    lane: Lane
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
        self.outbox = make(DEFAULT_WINDOW)
        self.window = DEFAULT_WINDOW
        self.windows: dict[int, int] = {}
        self.models: dict[int, Model] = {}
        self.counter = 0

    def open(self, window: int) -> None:
        id_ = 2 * len(self.models) + 1
        self.windows[id_] = window
        self.models[id_] = Model(Lane(id_, window))

    def put(self, model: Model, size: int, end: bool) -> None:
        if model.end or model.is_gone:
            return
        data = bytes((self.counter + number) % 251 for number in range(size))
        self.counter += size
        model.given += data
        model.end = "data" if end else ""
        model.told_end = self.outbox.put(model.lane, data, end)
        assert model.told_end <= end

    def trailers(self, model: Model) -> None:
        if not model.end and not model.is_gone:
            model.end = "trailers"
            model.told_end = self.outbox.end(model.lane, BLOCK)

    def forget(self, model: Model) -> None:
        self.check()
        model.is_gone = True
        self.outbox.forget(model.lane)

    def give(self, model: Model, increment: int) -> None:
        self.check()
        self.windows[model.lane.id] += increment
        self.outbox.open(model.lane, increment)

    def give_all(self, increment: int) -> None:
        self.window += increment
        self.outbox.open_connection(increment)

    def pump(self, limit: int) -> None:
        ended, freed = pump(self.outbox, limit)
        for lane in ended:
            assert not self.models[lane.id].told_end
            self.models[lane.id].told_end = True
        assert not freed
        self.check()

    def check(self) -> None:
        """Nothing above a window or a frame's size, nothing behind an end or a farewell, all in its order."""
        for kind, flags, id_, payload in take(self.outbox):
            model = self.models[id_]
            assert not model.is_gone
            assert not model.seen_end
            assert len(payload) <= self.outbox.max_frame
            model.seen_end = bool(flags & END_STREAM)
            if kind == frames.HEADERS:
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
            assert model.lane.window == self.windows[model.lane.id]
            assert model.seen_end == model.told_end
            if not model.is_gone:
                assert model.lane.queued == len(model.given) - len(model.got)

    def drain(self) -> None:
        """With all the window that it takes, everything arrives, and nobody waits longer than one turn of all the others."""
        for model in self.models.values():
            self.give(model, 10**6)
        self.window += 10**8
        self.outbox.open_connection(10**8)
        for _ in range(10**4):
            if not self.outbox.has_more:
                break
            waiting = [model for model in self.models.values() if model.lane.is_waiting]
            before = {model.lane.id: len(model.got) for model in waiting}
            for _ in waiting:
                self.pump(1)
            assert all(len(model.got) > before[model.lane.id] for model in waiting)
        for model in self.models.values():
            if not model.is_gone:
                assert model.got == model.given
                assert model.seen_end == bool(model.end)
                assert not model.lane.is_waiting
        assert not self.outbox.has_more


SIZES = st.one_of(st.integers(0, 40), st.sampled_from([0, 1, 255, 256, MAX, MAX + 1, 40000, 70000]))


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([MAX, MAX, 20000, 100]))
def test_nothing_is_lost_reordered_or_above_a_window(data: st.DataObject, max_frame: int) -> None:
    """RFC 9113, 6.9.1, whatever is put and opened when."""
    client = Client()
    client.outbox.max_frame = max_frame
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
    """docs/asgi.md, 71: however wide the windows that it has opened, and however small the parts."""
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
            + frames.settings([(frames.INITIAL_WINDOW_SIZE, MAX_WINDOW)])
            + frames.window_update(0, MAX_WINDOW - DEFAULT_WINDOW)
            + b"".join(frames.headers(1, request, True, MAX))
        )
        inside.wait_clogged()
        before = -1
        while before != sent:
            before = sent
            inside.settle()
        assert before < 16 << 20  # what the kernel takes comes on top of our own
        assert inside.unsent() < 1 << 20
