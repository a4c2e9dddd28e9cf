"""One connection of HTTP/2 as a function from frames to events and frames: RFC 9113, 5 to 8. `test_h2_oracle` holds it against h2."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from conftest import examples
from h2protocol import (
    LIMITS,
    REQUEST,
    RESPONSE,
    ask,
    begin,
    data,
    encode,
    given,
    goaways,
    make,
    receive,
    resets,
    take,
)
from h2raw import frame
from h2tables import GET
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gunicorn_asgi.frozen import replace
from gunicorn_asgi.http2 import frames
from gunicorn_asgi.http2.budget import CAPACITY
from gunicorn_asgi.http2.closed_streams import MAX_RESETS, MAX_SKIPPED_RANGES
from gunicorn_asgi.http2.control import FAILED
from gunicorn_asgi.http2.events import (
    Failed,
    Malformed,
    Opened,
    Received,
    Refused,
    Reset,
    ResponseAcknowledged,
)
from gunicorn_asgi.http2.frames import (
    DEFAULT_WINDOW_SIZE,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW_SIZE,
    PADDED,
    ErrorCode,
    FrameType,
)
from gunicorn_asgi.http2.limits import HTTP2Limits
from gunicorn_asgi.http2.outbox import STREAM_HIGH_WATER
from gunicorn_asgi.http2.protocol import Protocol
from gunicorn_asgi.http2.stream import (
    HALF_CLOSED_LOCAL,
    HALF_CLOSED_REMOTE,
    STREAM_CLOSED,
    STREAM_OPEN,
    Stream,
)

Header = tuple[bytes, bytes]


# Steps.


@pytest.mark.parametrize("max_step", [1, 2, 50])
def test_the_events_and_the_replies_are_the_same_in_any_steps(
    monkeypatch: pytest.MonkeyPatch, max_step: int
) -> None:
    sent = b"".join(
        [
            ask(1),
            data(1, 5),
            frames.ping(b"12345678", False),
            frames.settings([(frames.INITIAL_WINDOW_SIZE, 5)]),
            ask(3, end=True),
            frames.rst_stream(3, ErrorCode.CANCEL),
            frame(FrameType.HEADERS, END_STREAM, 5, REQUEST[:3]),
            frame(FrameType.CONTINUATION, END_HEADERS, 5, REQUEST[3:]),
            data(1, 7),
            data(1, 0, end=True),
            frame(0xFE, 0, 1),
            data(1, 1),  # behind the end
            ask(2),  # by no client
            frames.ping(b"87654321", False),
        ]
    )

    def outcome() -> tuple[list[object], list[Any], int]:
        protocol = begin()
        events = [
            (type(event).__name__, str(getattr(event, "stream", "")), getattr(event, "data", b""))
            for event in receive(protocol, sent, 0.0)
        ]
        return events, take(protocol), protocol.flow.window

    whole = outcome()
    monkeypatch.setattr(frames, "MAX_STEP", max_step)
    assert outcome() == whole
    assert whole[0][-1] == ("Failed", "", b"")


# Settings.


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ([0, 70_000, 5], None),
        ([MAX_WINDOW_SIZE - 10, 5], None),
        ([5, MAX_WINDOW_SIZE, 5], ErrorCode.FLOW_CONTROL_ERROR),
        ([MAX_WINDOW_SIZE + 1, 5], ErrorCode.FLOW_CONTROL_ERROR),
    ],
)
def test_of_several_windows_in_a_frame_each_is_checked_and_the_last_counts(
    values: list[int], code: ErrorCode | None
) -> None:
    """RFC 9113, 6.5.3 and 6.9.2."""
    protocol = begin()
    (opened,) = protocol.receive(ask(1), 0.0)
    protocol.receive(frames.window_update(1, 10), 0.0)
    events = protocol.receive(
        frames.settings([(frames.INITIAL_WINDOW_SIZE, value) for value in values]), 0.0
    )
    assert [event.code for event in events] == ([] if code is None else [code])
    if code is None:
        assert opened.stream.send_queue.window == values[-1] + 10
        assert protocol.outbox.initial_window == values[-1]


# Windows.


def test_an_empty_end_may_come_whatever_the_window_is() -> None:
    """RFC 9113, 6.9.1: it is below zero after SETTINGS that made it smaller (6.9.2)."""
    protocol = begin(acknowledge=False)
    (opened,) = protocol.receive(ask(1) + data(1, 5000), 0.0)[:1]
    protocol.receive(frames.SETTINGS_ACK, 0.0)
    assert opened.stream.receive_window == 1000 - 5000
    assert protocol.receive(data(1, 0, end=True), 0.0) == [Received(opened.stream, b"", True)]
    assert take(protocol) == []


@pytest.mark.parametrize("size", [1000, 1001])
def test_more_than_the_window_of_a_stream_resets_it(size: int) -> None:
    """RFC 9113, 6.9.1. What was sent counts for the connection all the same."""
    protocol = begin()
    protocol.receive(ask(1) + data(1, size), 0.0)
    protocol.flow.update_connection()
    found = take(protocol)
    assert resets(found) == ([(1, ErrorCode.FLOW_CONTROL_ERROR)] if size > 1000 else [])
    assert given(found) + sum(stream.unread for stream in protocol.streams.active.values()) == size


def test_until_our_settings_are_acknowledged_a_client_may_not_know_of_them() -> None:
    """RFC 9113, 6.9.2."""
    protocol = begin(replace(LIMITS, max_streams=100), acknowledge=False)
    (opened,) = protocol.receive(ask(1), 0.0)
    for size in (DEFAULT_WINDOW_SIZE % 16384, 16384, 16384, 16384):
        protocol.receive(data(1, size), 0.0)
    assert take(protocol) == []
    assert opened.stream.receive_window == 0
    protocol.receive(data(1, 1), 0.0)
    assert resets(take(protocol)) == [(1, ErrorCode.FLOW_CONTROL_ERROR)]


def test_what_is_sent_before_our_settings_are_known_leaves_the_others_their_window_too() -> None:
    """RFC 9113, 6.9.2: as much as without them, on the connection as on the stream. With window 1000, that is 65 times what it may be later."""
    limits = replace(LIMITS, max_streams=4, window=1000)
    protocol = begin(limits, acknowledge=False)
    parts = b"".join(data(1, 16_383) for _ in range(4))
    protocol.receive(ask(1) + parts + data(1, DEFAULT_WINDOW_SIZE - 4 * 16_383), 0.0)
    protocol.receive(frames.SETTINGS_ACK, 0.0)
    protocol.receive(b"".join(ask(number) + data(number, 1000) for number in (3, 5)), 0.0)
    (opened,) = protocol.receive(ask(7), 0.0)
    for _ in range(10):
        assert opened.stream.receive_window >= 500
        protocol.receive(data(7, 500), 0.0)
        protocol.flow.consume(opened.stream, 500)
    assert protocol.control.state is not FAILED
    assert resets(take(protocol)) == []


@pytest.mark.parametrize("others", [1, 2, 3])
def test_streams_that_nobody_reads_leave_the_others_their_whole_window(others: int) -> None:
    """However little of the connection's window they leave, what is read of another stream comes back to it in time."""
    limits = replace(LIMITS, max_streams=4, window=100_000)
    protocol = begin(limits)
    for other in range(others):
        protocol.receive(
            ask(1 + 2 * other) + b"".join(data(1 + 2 * other, 10_000) for _ in range(10)), 0.0
        )
    (opened,) = protocol.receive(ask(99), 0.0)
    for _ in range(100):
        assert opened.stream.receive_window >= 10_000  # a client that keeps the windows may go on
        protocol.receive(data(99, 10_000), 0.0)
        protocol.flow.consume(opened.stream, 10_000)
    assert protocol.control.state is not FAILED


def test_behind_an_upgrade_the_body_waits_for_the_preface_beyond_what_every_client_takes() -> None:
    """RFC 7540, 3.2. curl 7.88 has room for 32 KiB behind the 101, and fails with more in one packet."""
    protocol = make()
    stream = protocol.start_upgraded(b"")
    take(protocol)
    protocol.streams.send_data(stream, bytes(200_000), True)
    protocol.streams.pump(200_000)
    assert sum(len(payload) for _, _, _, payload in take(protocol)) == 16384
    protocol.receive(frames.PREFACE + frames.settings([]), 0.0)
    protocol.streams.pump(200_000)
    assert (
        sum(len(payload) for kind, _, _, payload in take(protocol) if kind == FrameType.DATA)
        == DEFAULT_WINDOW_SIZE - 16384
    )


def test_after_an_upgrade_the_connection_has_the_window_that_it_would_have_without() -> None:
    """RFC 9113, 6.9.2: 65,535 bytes, however much the client takes on the stream."""
    protocol = make()
    stream = protocol.start_upgraded(b"")
    protocol.streams.send_data(stream, bytes(200_000), True)
    protocol.receive(frames.PREFACE + frames.settings([]) + frames.window_update(1, 200_000), 0.0)
    protocol.streams.pump(200_000)
    parts = [payload for kind, _, _, payload in take(protocol) if kind == FrameType.DATA]
    assert sum(map(len, parts)) == DEFAULT_WINDOW_SIZE


def test_the_window_of_a_stream_is_opened_again_at_half_of_it() -> None:
    """RFC 9113, 6.9: one WINDOW_UPDATE for many small parts, before the client has to stop."""
    protocol = begin()
    (opened, _) = protocol.receive(ask(1) + data(1, 1000), 0.0)
    protocol.flow.consume(opened.stream, 250)
    protocol.flow.consume(opened.stream, 249)
    assert take(protocol) == []
    protocol.flow.consume(opened.stream, 1)
    assert take(protocol) == [(FrameType.WINDOW_UPDATE, 0, 1, (500).to_bytes(4, "big"))]


def test_the_window_of_a_stream_that_the_client_has_ended_is_not_opened_again() -> None:
    protocol = begin()
    (opened, _) = protocol.receive(ask(1) + data(1, 1000, end=True), 0.0)
    protocol.flow.consume(opened.stream, 1000)
    assert take(protocol) == []


def test_the_window_of_the_connection_is_opened_again_at_half_of_it() -> None:
    protocol = begin(replace(LIMITS, max_streams=4, window=100_000))
    events = protocol.receive(b"".join(ask(id_) for id_ in (1, 3, 5, 7)), 0.0)
    streams = [event.stream for event in events]
    protocol.receive(b"".join(data(stream.id, 10_000) for stream in streams for _ in range(5)), 0.0)
    for stream in streams:
        protocol.flow.consume(stream, 49_999)
    for stream in streams[:3]:
        protocol.flow.consume(stream, 1)
    assert [id_ for _, _, id_, _ in take(protocol) if not id_] == []
    protocol.flow.consume(streams[3], 1)
    assert take(protocol)[-1] == (FrameType.WINDOW_UPDATE, 0, 0, (200_000).to_bytes(4, "big"))


@pytest.mark.parametrize(
    ("size", "updates"),
    [
        (999, []),
        (1000, []),
        (1001, [(1, 1)]),
        (67_535, [(1, 66_535)]),
        (67_536, [(1, 66_536), (0, 1)]),
        (100_000, [(1, 99_000), (0, 32_465)]),
    ],
)
def test_room_is_made_by_as_much_as_is_missing(size: int, updates: list[tuple[int, int]]) -> None:
    """RFC 9113, 6.9: on the stream and on the connection, and never by 0."""
    protocol = begin(replace(LIMITS, max_streams=2, window=1000))
    (opened,) = protocol.receive(ask(1), 0.0)
    for expected in (updates, []):
        protocol.flow.make_room(opened.stream, size)
        found = [(one.stream, one.number) for one in take(protocol)]
        assert found == expected
    assert opened.stream.receive_window == max(size, 1000)


# Padding.


@pytest.mark.parametrize("kind", [FrameType.DATA, FrameType.HEADERS])
@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05abcd"])
@pytest.mark.parametrize("stream", [1, 3, 5])
def test_padding_of_more_than_the_frame_fails_on_whatever_stream(
    kind: int, payload: bytes, stream: int
) -> None:
    """RFC 9113, 6.1 and 6.2: "MUST treat this as a connection error of type PROTOCOL_ERROR"; 4.2: FRAME_SIZE_ERROR for what is "too small to contain mandatory frame data"; 1 is open, 3 reset, 5 ended."""
    protocol = begin()
    events = protocol.receive(ask(1) + ask(3) + ask(5, end=True), 0.0)
    protocol.streams.reset(events[1].stream, ErrorCode.CANCEL)
    protocol.streams.send_head(events[2].stream, RESPONSE, True)
    (failed,) = protocol.receive(frame(kind, PADDED | END_HEADERS, stream, payload), 0.0)
    assert failed.code == (ErrorCode.PROTOCOL_ERROR if payload else ErrorCode.FRAME_SIZE_ERROR)


def test_padding_is_nobodys_to_read() -> None:
    """RFC 9113, 6.9.1: it counts against the windows, and is given back at once, for no application asks for it."""
    protocol = begin()
    (opened, _) = protocol.receive(
        ask(1) + frame(FrameType.DATA, PADDED, 1, b"\xc8" + b"ab" + bytes(200)), 0.0
    )
    assert opened.stream.unread == 2
    assert opened.stream.receive_window + opened.stream.consumed == LIMITS.window - 2


# A field block in several frames.


@pytest.mark.parametrize(
    "within",
    [
        frame(FrameType.CONTINUATION, END_HEADERS, 3, REQUEST),
        frame(FrameType.PRIORITY, 0, 1, bytes(5)),
        frame(FrameType.PRIORITY, 0, 3, bytes(5)),
        frame(0xFE, 0, 1),
        frames.ping(b"12345678", False),
        ask(1),
    ],
    ids=[
        "CONTINUATION of another stream",
        "PRIORITY",
        "PRIORITY of another stream",
        "an unknown type",
        "PING",
        "HEADERS",
    ],
)
def test_nothing_may_stand_within_a_field_block(within: bytes) -> None:
    """RFC 9113, 6.2 and 6.10: "a connection error", for another type as for another stream."""
    protocol = begin()
    assert protocol.receive(frame(FrameType.HEADERS, END_STREAM, 1, REQUEST[:3]), 0.0) == []
    failed = Failed(ErrorCode.PROTOCOL_ERROR, "a frame within a field block")
    assert protocol.receive(within, 0.0) == [failed]


@pytest.mark.parametrize("pieces", [1, 4])
def test_a_field_block_in_several_frames_may_have_four_times_the_largest_list(pieces: int) -> None:
    """RFC 9113, 10.5.1: it cannot be skipped, but need not be kept without a bound."""
    protocol = begin(replace(LIMITS, max_header_list=100))
    parts = [frame(FrameType.CONTINUATION, 0, 1, bytes(400 // pieces)) for _ in range(pieces)]
    assert protocol.receive(frame(FrameType.HEADERS, 0, 1) + b"".join(parts), 0.0) == []
    failed = Failed(ErrorCode.ENHANCE_YOUR_CALM, "a field block that is far too long")
    assert protocol.receive(frame(FrameType.CONTINUATION, 0, 1, b"\0"), 0.0) == [failed]


@pytest.mark.parametrize("id_", [0, 2, 4])
def test_a_client_opens_streams_with_odd_numbers_alone(id_: int) -> None:
    """RFC 9113, 5.1.1."""
    found = begin().receive(ask(id_), 0.0)
    assert found == [Failed(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {id_}")]


@pytest.mark.parametrize("size", [0, 4, 5])
def test_headers_have_room_for_the_priority_that_they_say_they_have(size: int) -> None:
    """RFC 9113, 6.2: five bytes. Where no field follows, only the stream ends."""
    flags = END_HEADERS | END_STREAM | frames.HAS_PRIORITY
    (event,) = begin().receive(frame(FrameType.HEADERS, flags, 1, bytes(size)), 0.0)
    failed = Failed(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without room for their priority")
    assert isinstance(event, Malformed) if size == 5 else event == failed


# The end of a stream.


@pytest.mark.parametrize("frame", [ask(1, end=True), data(1, 5), data(1, 0, end=True)])
def test_frames_after_the_end_of_a_stream_reset_it(frame: bytes) -> None:
    """RFC 9113, 5.1, half-closed (remote): "a stream error of type STREAM_CLOSED"."""
    protocol = begin()
    protocol.receive(ask(1, end=True) + frame, 0.0)
    assert resets(take(protocol)) == [(1, ErrorCode.STREAM_CLOSED)]
    assert not protocol.streams.active


@pytest.mark.parametrize("by_us", [False, True])
def test_nothing_is_sent_on_a_stream_that_was_reset(by_us: bool) -> None:
    """RFC 9113, 5.1 and 6.4."""
    protocol = begin()
    (opened,) = protocol.receive(ask(1), 0.0)
    protocol.streams.send_head(opened.stream, RESPONSE, False)
    protocol.streams.send_data(opened.stream, bytes(50000), True)
    take(protocol)
    if by_us:
        protocol.streams.reset(opened.stream, ErrorCode.CANCEL)
    else:
        protocol.receive(frames.rst_stream(1, ErrorCode.CANCEL), 0.0)
    assert protocol.streams.pump(1 << 20) == ([], [])
    assert resets(take(protocol)) == ([(1, ErrorCode.CANCEL)] if by_us else [])
    assert not protocol.outbox.has_sendable


# GOAWAY.


def test_the_last_stream_never_becomes_a_later_one() -> None:
    """RFC 9113, 6.8: "Endpoints MUST NOT increase the value they send in the last stream identifier"."""
    protocol = begin()
    protocol.receive(ask(1), 0.0)
    protocol.control.announce()
    protocol.receive(ask(3), 0.0)
    protocol.control.refuse_streams()
    protocol.control.refuse_streams()
    protocol.receive(ask(5), 0.0)
    protocol.control.fail(ErrorCode.INTERNAL_ERROR, "")
    found = take(protocol)
    assert goaways(found) == [(2**31 - 1, 0), (3, 0), (3, ErrorCode.INTERNAL_ERROR)]
    assert resets(found) == [(5, ErrorCode.REFUSED_STREAM)]
    assert protocol.streams.last_id == 5


def test_a_connection_that_has_failed_says_no_more_that_it_will_end() -> None:
    protocol = begin()
    protocol.control.fail(ErrorCode.INTERNAL_ERROR, "")
    assert goaways(take(protocol)) == [(0, ErrorCode.INTERNAL_ERROR)]
    protocol.control.refuse_streams()
    assert take(protocol) == []


def test_a_failure_tells_of_the_last_stream_that_was_begun() -> None:
    protocol = begin()
    protocol.receive(ask(1) + ask(7), 0.0)
    assert isinstance(protocol.receive(frame(FrameType.PING, 0, 0), 0.0)[0], Failed)
    assert goaways(take(protocol)) == [(7, ErrorCode.FRAME_SIZE_ERROR)]
    assert protocol.receive(ask(9), 0.0) == []


def test_the_reason_of_a_failure_fits_into_a_frame() -> None:
    """RFC 9113, 4.2, whatever is quoted."""
    protocol = begin()
    protocol.receive(ask(1, block=b"\x7f" + b"\xff" * 16000), 0.0)
    (frame,) = take(protocol)
    assert len(frame[3]) < 1000


# What costs something.

FLOODS: dict[str, bytes] = {
    "PING": frames.ping(b"12345678", False),
    "PING that acknowledges": frames.ping(b"12345678", True),
    "SETTINGS": frames.settings([]),
    "SETTINGS that acknowledge": frames.SETTINGS_ACK,
    "PRIORITY of an idle stream": frame(FrameType.PRIORITY, 0, 99, bytes(5)),
    "PRIORITY of a closed stream": frame(FrameType.PRIORITY, 0, 5, bytes(5)),
    "PRIORITY of a wrong size, of a closed stream": frame(FrameType.PRIORITY, 0, 5, bytes(4)),
    "PRIORITY on itself, of a closed stream": frame(FrameType.PRIORITY, 0, 5, b"\0\0\0\5\0"),
    "an unknown type": frame(0xFE, 0, 0),
    "WINDOW_UPDATE": frames.window_update(0, 1),
    "WINDOW_UPDATE of a stream": frames.window_update(1, 1),
    "WINDOW_UPDATE of a closed stream": frames.window_update(5, 1),
    "WINDOW_UPDATE by 0 of a closed stream": frames.window_update(5, 0),
    "DATA without data": data(1, 0),
    "DATA that is all padding": frame(FrameType.DATA, PADDED, 1, b"\0"),
    "DATA on a stream that was reset by us": data(3, 0),
    "DATA on a stream that was reset by the client": data(7, 0),
    "HEADERS on a stream that was reset by us": ask(3),
    "HEADERS on a stream that was reset by the client": ask(7),
    "RST_STREAM of a closed stream": frames.rst_stream(5, ErrorCode.CANCEL),
    "GOAWAY": frames.goaway(0, ErrorCode.NO_ERROR, ""),
}


@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS.keys())
def test_no_frame_may_be_repeated_for_ever(frame: bytes) -> None:
    """RFC 9113, 10.5: 1 is open, 3 was reset by us, 5 has ended, 7 was reset by the client."""
    protocol = begin()
    events = protocol.receive(ask(1) + ask(3) + ask(5, end=True) + ask(7), 0.0)
    protocol.streams.reset(events[1].stream, ErrorCode.CANCEL)
    protocol.streams.send_head(events[2].stream, RESPONSE, True)
    protocol.receive(frames.rst_stream(7, ErrorCode.CANCEL), 0.0)
    for _ in range(CAPACITY + LIMITS.window + 50):  # what may have been on its way is free
        if protocol.receive(frame, 0.0)[-1:] == [
            Failed(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")
        ]:
            return
        take(protocol)
    raise AssertionError("it may")


@pytest.mark.parametrize("end", [False, True])
def test_no_request_may_be_repeated_for_ever_that_comes_to_nothing(end: bool) -> None:
    """CVE-2023-44487 and its kin: reset by the client, malformed, or above the limit."""
    blocks = {
        "reset": REQUEST,
        "malformed": encode([*GET, (b"connection", b"close")]),
        "above": REQUEST,
    }
    for what, block in blocks.items():
        protocol = begin()
        if what == "above":
            protocol.receive(b"".join(ask(stream) for stream in (1, 3, 5, 7)), 0.0)
        for stream in range(9, 2 * CAPACITY + 100, 2):
            frame = ask(stream, end, block) + (
                frames.rst_stream(stream, ErrorCode.CANCEL) if what == "reset" else b""
            )
            if protocol.receive(frame, 0.0)[-1:] == [
                Failed(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")
            ]:
                break
        else:
            raise AssertionError(what)


def how_many(protocol: Protocol, frame: bytes) -> int:
    """How often the client may send `frame` at once."""
    failed = Failed(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")
    for count in range(3 * CAPACITY):
        if protocol.receive(frame, 0.0)[-1:] == [failed]:
            return count
        take(protocol)
    raise AssertionError("for ever")


@pytest.mark.parametrize(("values", "cost"), [(0, 5), (1, 6), (95, 100)])
def test_settings_cost_a_token_more_for_each_value(values: int, cost: int) -> None:
    """RFC 9113, 10.5: a frame may hold thousands, and each may change all windows."""
    protocol = begin()
    frame = frames.settings([(frames.HEADER_TABLE_SIZE, 4096)] * values)
    assert how_many(protocol, frame) == (CAPACITY - 5) // cost  # without those of the beginning


@pytest.mark.parametrize(("size", "cost"), [(0, 10), (5000, 20)])
def test_a_refused_request_costs_more_for_each_kib_of_its_fields(size: int, cost: int) -> None:
    """RFC 9113, 10.5: they are in the log."""
    block = encode([*GET, (b"expect", b"nothing"), *[(b"x", b"y" * size)] * 2])
    protocol = begin()
    for count in range(CAPACITY):
        (event,) = protocol.receive(ask(2 * count + 1, block=block), 0.0)
        if isinstance(event, Failed):
            break
        assert isinstance(event, Refused)
        protocol.streams.reset(event.stream, ErrorCode.CANCEL)
        take(protocol)
    assert count == (CAPACITY - 5) // cost


def test_the_next_stream_is_the_last_of_a_client_that_was_charged_too_much() -> None:
    protocol = begin()
    protocol.budget.take(CAPACITY - 5)
    assert isinstance(protocol.receive(ask(1), 0.0)[0], Opened)
    protocol.budget.take(1)
    failed = Failed(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")
    assert protocol.receive(ask(3), 0.0) == [failed]


def test_data_that_is_sent_pays_for_as_many_answers() -> None:
    """RFC 9113, 10.5: a client answers it by WINDOW_UPDATE and PING."""
    ping = frames.ping(b"12345678", False)
    protocol = begin()
    protocol.outbox.frame_cost = -50
    assert protocol.settle() is None
    assert protocol.outbox.frame_cost == 0
    assert how_many(protocol, ping) == how_many(begin(), ping) + 50


def test_frames_for_a_small_window_fail_the_connection_that_has_no_tokens_left() -> None:
    """RFC 9113, 10.5, and CVE-2019-9511."""
    protocol = begin()
    for _ in range(CAPACITY // 5 - 1):
        protocol.outbox.frame_cost = 5
        assert protocol.settle() is None
    assert protocol.settle() is None
    protocol.outbox.frame_cost = 1
    failed = Failed(ErrorCode.ENHANCE_YOUR_CALM, "a window that allows next to nothing")
    assert protocol.settle() == failed
    assert protocol.control.state is FAILED
    assert goaways(take(protocol)) == [(0, ErrorCode.ENHANCE_YOUR_CALM)]


def costs(begun: bytes, frame: bytes, reset: bool = False) -> int:
    """The tokens that `frame` costs on a connection after `begun`."""
    counts = []
    for last in (b"", frame):
        protocol = begin()
        events = protocol.receive(begun, 0.0)
        if reset:
            protocol.streams.reset(events[0].stream, ErrorCode.CANCEL)
        protocol.receive(last, 0.0)
        counts.append(how_many(protocol, frames.ping(b"12345678", False)))
    return counts[0] - counts[1]


@pytest.mark.parametrize(
    ("sizes", "cost"),
    [([1000], 0), ([1001], 5), ([500, 500], 0), ([500, 501], 5), ([500, 500, 1], 5)],
)
def test_data_after_our_reset_is_free_up_to_the_window_left(sizes: list[int], cost: int) -> None:
    """RFC 9113, 5.1: so much may have been on its way."""
    assert costs(ask(1), b"".join(data(1, size) for size in sizes), reset=True) == cost


@pytest.mark.parametrize(
    ("frame", "cost"),
    [(data(1, 0), 1), (data(1, 1), 0), (data(1, 0, end=True), 0), (data(1, 1, end=True), 0)],
    ids=["nothing", "a byte", "the end", "a byte and the end"],
)
def test_of_a_body_only_what_brings_nothing_costs_something(frame: bytes, cost: int) -> None:
    """RFC 9113, 10.5, and CVE-2019-9518."""
    assert costs(ask(1), frame) == cost


def test_an_upload_that_was_refused_may_still_be_on_its_way() -> None:
    """RFC 9113, 5.1: data after our RST_STREAM is dropped, and costs nothing if it is not in small pieces."""
    limits = HTTP2Limits(
        max_streams=4, window=1 << 24, max_frame=16384, max_header_list=65536, has_websocket=False
    )
    protocol = begin(limits)
    (opened,) = protocol.receive(ask(1), 0.0)
    protocol.streams.reset(opened.stream, ErrorCode.NO_ERROR)
    for _ in range(1024):
        assert protocol.receive(data(1, 16384), 0.0) == []
    assert protocol.control.state is not FAILED
    protocol.flow.update_connection()
    assert given(take(protocol)) == 1024 * 16384


@pytest.mark.parametrize("id_", [1, 3])
def test_headers_on_a_closed_stream_do_not_open_it_again(id_: int) -> None:
    """RFC 9113, 5.1: a connection error. Also on the newest one, whose number is not above itself (5.1.1)."""
    protocol = begin()
    for opened in protocol.receive(ask(1, end=True) + ask(3, end=True), 0.0):
        protocol.streams.send_head(opened.stream, RESPONSE, True)
    assert not protocol.streams.active
    take(protocol)
    (event,) = protocol.receive(ask(id_, end=True), 0.0)
    assert isinstance(event, Failed)
    assert event.code == ErrorCode.STREAM_CLOSED
    assert goaways(take(protocol)) == [(3, ErrorCode.STREAM_CLOSED)]


@pytest.mark.parametrize("frame", [ask, partial(data, size=1)], ids=["HEADERS", "DATA"])
@pytest.mark.parametrize("later", [0, 2 * MAX_SKIPPED_RANGES])
@pytest.mark.parametrize("first", [1, 3, 5])
def test_a_number_that_was_left_out_is_not_taken_for_one_that_was_used(
    first: int,
    later: int,
    frame: Callable[[int], bytes],
) -> None:
    """RFC 9113, 5.1.1 and 5.1: PROTOCOL_ERROR for it, however many follow in order."""
    used = [first, first + 6, *(first + 8 + 2 * number for number in range(later))]
    for id_ in range(1, first + 8, 2):
        protocol = begin()
        for one in used:
            (opened,) = protocol.receive(ask(one, end=True), 0.0)
            protocol.streams.send_head(opened.stream, RESPONSE, True)
        (failed,) = protocol.receive(frame(id_), 0.0)
        assert failed.code == (ErrorCode.STREAM_CLOSED if id_ in used else ErrorCode.PROTOCOL_ERROR)


def test_the_last_64_gaps_of_numbers_that_were_left_out_are_remembered() -> None:
    for id_, code in ((1, ErrorCode.STREAM_CLOSED), (5, ErrorCode.PROTOCOL_ERROR)):
        protocol = begin()
        for one in range(3, 3 + 4 * (MAX_SKIPPED_RANGES + 1), 4):
            (opened,) = protocol.receive(ask(one, end=True), 0.0)
            protocol.streams.send_head(opened.stream, RESPONSE, True)
        (failed,) = protocol.receive(data(id_, 1), 0.0)
        assert failed.code == code


def test_headers_on_the_newest_stream_after_its_reset_are_dropped() -> None:
    """RFC 9113, 5.1: they may have been on their way."""
    protocol = begin()
    (opened,) = protocol.receive(ask(1), 0.0)
    protocol.streams.reset(opened.stream, ErrorCode.NO_ERROR)
    take(protocol)
    assert protocol.receive(ask(1, end=True), 0.0) == []
    assert take(protocol) == []
    assert not protocol.streams.active


@pytest.mark.parametrize(
    ("length", "sizes", "is_whole"),
    [
        (5, [5, 0], True),
        (5, [4, 1], True),
        (5, [1, 0, 4], True),
        (5, [4], False),
        (5, [4, 0], False),
        (5, [6, 0], False),
        (5, [3, 3, 0], False),
        (5, [5, 1, 0], False),
        (0, [0], True),
        (0, [1, 0], False),
    ],
)
def test_a_body_has_the_length_that_is_declared(
    length: int,
    sizes: list[int],
    is_whole: bool,
) -> None:
    """RFC 9113, 8.1.1. One that is longer resets its stream before the end comes."""
    protocol = begin()
    protocol.receive(ask(1, block=encode([*GET, (b"content-length", b"%d" % length)])), 0.0)
    total = 0
    for place, size in enumerate(sizes, 1):
        total += size
        end = place == len(sizes)
        events = protocol.receive(data(1, size, end), 0.0)
        if total > length or (end and not is_whole):
            assert resets(take(protocol)) == [(1, ErrorCode.PROTOCOL_ERROR)]
            assert isinstance(events[-1], Reset)
            assert not is_whole
            return
        assert all(isinstance(event, Received) for event in events)
    assert is_whole


ON_ITSELF = {id_: id_.to_bytes(4, "big") + b"\0" for id_ in (1, 2, 3, 9)}


@pytest.mark.parametrize(
    ("id_", "payload", "ends", "code"),
    [
        (1, bytes(5), "nothing", None),
        (1, bytes(4), "the stream", ErrorCode.FRAME_SIZE_ERROR),
        (1, ON_ITSELF[1], "the stream", ErrorCode.PROTOCOL_ERROR),
        (3, bytes(5), "nothing", None),
        (3, bytes(6), "what is over", ErrorCode.FRAME_SIZE_ERROR),
        (3, ON_ITSELF[3], "what is over", ErrorCode.PROTOCOL_ERROR),
        (2, bytes(5), "nothing", None),
        (2, ON_ITSELF[2], "the connection", ErrorCode.PROTOCOL_ERROR),
        (9, bytes(5), "nothing", None),
        (9, bytes(4), "the connection", ErrorCode.FRAME_SIZE_ERROR),
        (9, ON_ITSELF[9], "the connection", ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_a_priority_ends_something_only_by_its_faults(
    id_: int,
    payload: bytes,
    ends: str,
    code: ErrorCode | None,
) -> None:
    """RFC 9113, 6.3, and 6.4: there is no RST_STREAM of an idle stream. 1 is open, 3 has ended."""
    protocol = begin()
    events = protocol.receive(ask(1) + ask(3, end=True), 0.0)
    protocol.streams.send_head(events[1].stream, RESPONSE, True)
    take(protocol)
    found = protocol.receive(frame(FrameType.PRIORITY, 0, id_, payload), 0.0)
    written = take(protocol)
    kinds = {"nothing": [], "the stream": [Reset], "what is over": [], "the connection": [Failed]}
    assert [type(event) for event in found] == kinds[ends]
    assert resets(written) == ([(id_, code)] if ends in {"the stream", "what is over"} else [])
    assert goaways(written) == ([(3, code)] if ends == "the connection" else [])


def test_the_last_1024_streams_that_were_reset_are_remembered() -> None:
    """RFC 9113, 5.1: what comes on another one is no longer taken for something on its way."""
    protocol = begin()
    for id_ in range(1, 2 * MAX_RESETS, 2):
        (opened,) = protocol.receive(ask(id_), 0.0)
        protocol.streams.reset(opened.stream, ErrorCode.CANCEL)
    assert protocol.receive(data(1, 1), 0.0) == []
    (opened,) = protocol.receive(ask(2 * MAX_RESETS + 1), 0.0)
    protocol.streams.reset(opened.stream, ErrorCode.CANCEL)
    assert protocol.receive(data(3, 1), 0.0) == []
    assert [event.code for event in protocol.receive(data(1, 1), 0.0)] == [ErrorCode.STREAM_CLOSED]


def test_a_body_may_end_short_of_its_length_only_after_the_response() -> None:
    """RFC 9113, 8.1.1, and 5.1: on a stream that both sides have ended nothing more is sent."""
    block = encode([*GET, (b"content-length", b"5")])
    protocol = begin()
    first, second = protocol.receive(ask(1, block=block) + ask(3, block=block), 0.0)
    protocol.streams.send_head(first.stream, RESPONSE, True)
    take(protocol)
    events = protocol.receive(data(1, 4, end=True) + data(3, 4, end=True), 0.0)
    assert events[0] == Received(first.stream, bytes(4), True)
    assert isinstance(events[1], Reset)
    assert resets(take(protocol)) == [(3, ErrorCode.PROTOCOL_ERROR)]
    assert first.stream.state is second.stream.state is STREAM_CLOSED


def test_a_request_without_content_may_say_so() -> None:
    """RFC 9113, 8.1.1, and RFC 9110, 8.6."""
    (event,) = begin().receive(ask(1, True, encode([*GET, (b"content-length", b"0")])), 0.0)
    assert isinstance(event, Opened)


@pytest.mark.parametrize("id_", [2, 4, 5])
@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("DATA", partial(data, size=1)),
        ("RST_STREAM", partial(frames.rst_stream, code=ErrorCode.CANCEL)),
        ("WINDOW_UPDATE", partial(frames.window_update, increment=1)),
    ],
)
def test_nothing_but_headers_and_priority_comes_on_an_idle_stream(
    name: str,
    frame: Callable[[int], bytes],
    id_: int,
) -> None:
    """RFC 9113, 5.1. 3 has ended and is not idle; even numbers are, however small."""
    protocol = begin()
    for opened in protocol.receive(ask(1, end=True) + ask(3, end=True), 0.0):
        protocol.streams.send_head(opened.stream, RESPONSE, True)
    failed = Failed(ErrorCode.PROTOCOL_ERROR, f"{name} on stream {id_}, which is idle")
    assert protocol.receive(frame(id_), 0.0) == [failed]


@pytest.mark.parametrize("by_reset", [False, True])
def test_after_its_own_reset_nothing_of_a_client_was_on_its_way(by_reset: bool) -> None:
    """RFC 9113, 5.1. A stream that ended without a reset is not reset by that of the client."""
    protocol = begin()
    (opened,) = protocol.receive(ask(1, end=True), 0.0)
    if by_reset:
        protocol.streams.reset(opened.stream, ErrorCode.CANCEL)
    else:
        protocol.streams.send_head(opened.stream, RESPONSE, True)
    assert protocol.receive(frames.rst_stream(1, ErrorCode.CANCEL), 0.0) == []
    take(protocol)
    found = protocol.receive(data(1, 1), 0.0)
    assert [event.code for event in found] == ([] if by_reset else [ErrorCode.STREAM_CLOSED])
    assert resets(take(protocol)) == ([(1, ErrorCode.STREAM_CLOSED)] if by_reset else [])


def test_a_client_may_open_as_many_streams_as_the_limit_says() -> None:
    """RFC 9113, 5.1.2."""
    protocol = begin(replace(LIMITS, max_streams=4))
    events = protocol.receive(b"".join(ask(stream) for stream in (1, 3, 5, 7, 9)), 0.0)
    assert [event.stream.id for event in events] == [1, 3, 5, 7]
    assert resets(take(protocol)) == [(9, ErrorCode.REFUSED_STREAM)]


@pytest.mark.parametrize("frame", [frames.rst_stream(1, ErrorCode.CANCEL), data(1, 1001)])
@pytest.mark.parametrize("has_application", [False, True])
def test_the_application_of_a_stream_that_ends_early_counts_at_once(
    has_application: bool,
    frame: bytes,
) -> None:
    """By the client, or by its fault: in the same packet it may open the next."""
    protocol = begin()
    (opened,) = protocol.receive(ask(1), 0.0)
    stream: Any = opened.stream
    stream.exchange = object() if has_application else None
    assert isinstance(protocol.receive(frame, 0.0)[0], Reset)
    assert protocol.streams.abandoned == has_application


@pytest.mark.parametrize("abandoned", [4, 5])
def test_applications_whose_streams_are_gone_count_up_to_twice_the_limit(abandoned: int) -> None:
    """CVE-2023-44487: a client that resets its streams may not start as many as it likes."""
    protocol = begin(replace(LIMITS, max_streams=4))
    protocol.receive(ask(1) + ask(3) + ask(5), 0.0)
    protocol.streams.abandoned = abandoned
    events = protocol.receive(ask(7), 0.0)
    assert len(events) == (abandoned == 4)
    assert resets(take(protocol)) == ([] if events else [(7, ErrorCode.REFUSED_STREAM)])


def test_the_window_of_the_connection_is_opened_to_what_the_client_may_send() -> None:
    """RFC 9113, 6.9.2: it begins with 65,535 whatever the SETTINGS say."""
    limits = replace(LIMITS, max_streams=100, window=100_000)
    protocol = make(limits)
    protocol.control.start()
    updates = [
        one.number
        for one in take(protocol)
        if (one.kind, one.stream) == (FrameType.WINDOW_UPDATE, 0)
    ]
    assert updates == [limits.connection_window - DEFAULT_WINDOW_SIZE]


def test_a_client_may_use_all_of_the_connections_window_and_no_more() -> None:
    """RFC 9113, 6.9.1."""
    protocol = begin(replace(LIMITS, max_streams=1, window=DEFAULT_WINDOW_SIZE))
    protocol.receive(ask(1) + b"".join(data(1, DEFAULT_WINDOW_SIZE // 5) for _ in range(5)), 0.0)
    assert protocol.control.state is not FAILED
    failed = Failed(ErrorCode.FLOW_CONTROL_ERROR, "more than the window of the connection")
    assert protocol.receive(data(1, 1), 0.0) == [failed]


def test_the_window_of_the_connection_is_not_opened_by_nothing() -> None:
    """RFC 9113, 6.9: a client fails with a WINDOW_UPDATE by 0."""
    limits = replace(LIMITS, max_streams=1, window=DEFAULT_WINDOW_SIZE)
    protocol = make(limits)
    protocol.control.start()
    assert [kind for kind, _, _, _ in take(protocol)] == [FrameType.SETTINGS]


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [
        (frames.ENABLE_PUSH, 0, None),
        (frames.ENABLE_PUSH, 1, None),
        (frames.ENABLE_PUSH, 2, ErrorCode.PROTOCOL_ERROR),
        (frames.INITIAL_WINDOW_SIZE, 0, None),
        (frames.INITIAL_WINDOW_SIZE, 2**31 - 1, None),
        (frames.INITIAL_WINDOW_SIZE, 2**31, ErrorCode.FLOW_CONTROL_ERROR),
        (frames.MAX_FRAME_SIZE, 2**14 - 1, ErrorCode.PROTOCOL_ERROR),
        (frames.MAX_FRAME_SIZE, 2**14, None),
        (frames.MAX_FRAME_SIZE, 2**24 - 1, None),
        (frames.MAX_FRAME_SIZE, 2**24, ErrorCode.PROTOCOL_ERROR),
        (frames.ENABLE_CONNECT_PROTOCOL, 1, None),
        (frames.ENABLE_CONNECT_PROTOCOL, 2, ErrorCode.PROTOCOL_ERROR),
        (frames.HEADER_TABLE_SIZE, 2**32 - 1, None),
        (frames.MAX_CONCURRENT_STREAMS, 2**32 - 1, None),
        (0xFFFF, 2**32 - 1, None),
    ],
)
def test_a_clients_setting_has_its_bounds(setting: int, value: int, code: ErrorCode | None) -> None:
    """RFC 9113, 6.5.2; RFC 8441, 3."""
    found = begin().receive(frames.settings([(setting, value)]), 0.0)
    assert [event.code for event in found if isinstance(event, Failed)] == ([code] if code else [])


def test_a_client_is_woken_by_what_it_is_to_be_told_or_else_by_a_ping() -> None:
    """RFC 9113, 6.7 and 6.9. The answer to that PING means nothing."""
    protocol = begin()
    (opened, _) = protocol.receive(ask(1) + data(1, 1), 0.0)
    protocol.control.wake_client()
    ((kind, flags, stream, payload),) = take(protocol)
    assert (kind, flags, stream, len(payload)) == (FrameType.PING, 0, 0, 8)
    assert protocol.receive(frames.ping(payload, True), 0.0) == []
    protocol.flow.consume(opened.stream, 1)
    protocol.control.wake_client()
    assert take(protocol) == [(FrameType.WINDOW_UPDATE, 0, 0, (1).to_bytes(4, "big"))]


def test_the_preface_with_its_settings_and_each_field_block_are_awaited() -> None:
    """RFC 9113, 3.4 and 4.3. Each is another object, so that each has a time of its own."""
    protocol = make()
    first = protocol.incomplete
    protocol.receive(frames.PREFACE, 0.0)
    assert protocol.incomplete is first is not None
    protocol.receive(frames.settings([]), 0.0)
    assert protocol.incomplete is None
    seen: list[object] = []
    for stream in (1, 3):
        protocol.receive(frame(FrameType.HEADERS, END_STREAM, stream, REQUEST[:3]), 0.0)
        seen.append(protocol.incomplete)
        protocol.receive(frame(FrameType.CONTINUATION, 0, stream, b""), 0.0)
        assert protocol.incomplete is seen[-1]
        protocol.receive(frame(FrameType.CONTINUATION, END_HEADERS, stream, REQUEST[3:]), 0.0)
        assert protocol.incomplete is None
    assert None not in seen
    assert seen[0] is not seen[1]


# What the client has seen.


@pytest.mark.parametrize("id_", [1, 2**31 - 1])
def test_a_client_says_that_it_has_seen_what_was_sent_on_a_stream(id_: int) -> None:
    """By the answer to a PING (RFC 9113, 6.7), which it sends once it has read all that came before."""
    protocol = begin()
    (opened,) = protocol.receive(ask(id_), 0.0)
    protocol.streams.send_head(opened.stream, RESPONSE, True)
    protocol.control.ask_for_response(opened.stream)
    kinds = take(protocol)
    assert [kind for kind, _, _, _ in kinds] == [FrameType.HEADERS, FrameType.PING]
    _, flags, stream, payload = kinds[1]
    assert (flags, stream, len(payload)) == (0, 0, 8)
    assert protocol.receive(frames.ping(payload, False), 0.0) == []  # a PING of its own
    assert protocol.receive(frames.ping(payload, True), 0.0) == [
        ResponseAcknowledged(opened.stream)
    ]
    protocol.streams.reset(opened.stream, ErrorCode.NO_ERROR)
    assert protocol.receive(frames.ping(payload, True), 0.0) == []


# Anything, in any order.


PICK = st.integers(0, 5)
has_streams = precondition(lambda self: self.protocol.streams.active)


class Machine(RuleBasedStateMachine):
    """A client that is mostly in order, and a server that answers, with all that both know of windows beside it."""

    @initialize(
        window=st.sampled_from([1, 100, 1000, DEFAULT_WINDOW_SIZE, 100000]),
        max_streams=st.sampled_from([1, 3, 100]),
        initial=st.sampled_from([0, 10, DEFAULT_WINDOW_SIZE, MAX_WINDOW_SIZE]),
    )
    def start(self, window: int, max_streams: int, initial: int) -> None:
        self.limits = replace(LIMITS, window=window, max_streams=max_streams)
        self.protocol = begin(self.limits, acknowledge=False)
        self.now = 0.0
        self.next_id = 1
        self.opened: list[Stream] = []
        self.is_acknowledged = False
        self.windows: dict[int, int] = {}
        """What the client may still send on each stream, by what it was told."""
        self.window = self.limits.connection_window
        self.sending: dict[int, int] = {}
        """What it has allowed us, by what it told; below 0 where it changed its mind."""
        self.sending_all = DEFAULT_WINDOW_SIZE
        self.initial = DEFAULT_WINDOW_SIZE
        self.answered: set[int] = set()
        self.ended: set[int] = set()
        self.reset_by_us: list[int] = []
        self.was_reset: set[int] = set()
        """The streams that either side has reset."""
        self.settings(initial)

    def receive(self, frame: bytes) -> list[Any]:
        self.now += 1.0  # nothing here is a flood
        events = self.protocol.receive(frame, self.now)
        assert not any(isinstance(event, Failed) for event in events)
        self.look()
        return events

    def look(self) -> None:
        """What we send is what the windows allow, and what it says of windows is heard by the client."""
        for sent in take(self.protocol):
            kind, flags, id_, payload = sent
            if kind == FrameType.WINDOW_UPDATE and id_:
                assert id_ in self.windows
                self.windows[id_] += sent.number
                assert self.windows[id_] <= MAX_WINDOW_SIZE
            elif kind == FrameType.WINDOW_UPDATE:
                self.window += sent.number
                assert self.window <= MAX_WINDOW_SIZE
            elif kind == FrameType.DATA:
                self.sending[id_] -= len(payload)
                self.sending_all -= len(payload)
                assert not payload or min(self.sending[id_], self.sending_all) >= 0
            elif kind == FrameType.RST_STREAM:
                self.forget(id_)
                self.reset_by_us.append(id_)
                self.was_reset.add(id_)
            assert kind != FrameType.GOAWAY
            if kind in (FrameType.DATA, FrameType.HEADERS):
                assert id_ not in self.ended
                if flags & END_STREAM:
                    self.ended.add(id_)

    def pick(self, number: int) -> Stream:
        """One of those that there are."""
        streams = list(self.protocol.streams.active.values())
        return streams[number % len(streams)]

    def forget(self, id_: int) -> None:
        self.windows.pop(id_, None)

    # The client.

    @rule(end=st.booleans(), refused=st.booleans())
    def open(self, end: bool, refused: bool) -> None:
        id_, self.next_id = self.next_id, self.next_id + 2
        is_full = len(self.protocol.streams.active) >= self.limits.max_streams
        self.windows[id_] = (
            self.limits.window
            if self.is_acknowledged
            else max(self.limits.window, DEFAULT_WINDOW_SIZE)
        )
        self.sending[id_] = self.initial
        block = encode([*GET, (b"expect", b"nothing")]) if refused else REQUEST
        events = self.receive(ask(id_, end, block))
        if is_full:
            assert events == []
            assert id_ not in self.windows
            return
        assert [type(event) for event in events] == [Refused if refused else Opened]
        if end:
            self.forget(id_)
        self.opened.append(events[0].stream)

    @rule()
    def malformed(self) -> None:
        id_, self.next_id = self.next_id, self.next_id + 2
        is_full = len(self.protocol.streams.active) >= self.limits.max_streams
        events = self.receive(ask(id_, True, encode([*GET, (b"connection", b"close")])))
        assert [type(event) for event in events] == ([] if is_full else [Malformed])

    @has_streams
    @rule(
        pick=PICK,
        size=st.one_of(st.integers(0, 300), st.integers(0, 16000)),
        padding=st.sampled_from([0, 0, 1, 200]),
        end=st.booleans(),
    )
    def body(self, pick: int, size: int, padding: int, end: bool) -> None:
        """As much as the windows allow."""
        stream = self.pick(pick)
        if stream.state not in (STREAM_OPEN, HALF_CLOSED_LOCAL) or stream.id not in self.windows:
            return
        room = max(0, min(self.windows[stream.id], self.window))
        padding = padding if room >= padding + 1 else 0
        size = min(size, room - padding - 1 if padding else room)
        flags = (END_STREAM if end else 0) | (PADDED if padding else 0)
        payload = (bytes((padding,)) if padding else b"") + bytes(size) + bytes(padding)
        self.windows[stream.id] -= len(payload)
        self.window -= len(payload)
        events = self.receive(frame(FrameType.DATA, flags, stream.id, payload))
        assert events == ([Received(stream, bytes(size), end)] if size or end else [])
        if end:
            self.forget(stream.id)

    @has_streams
    @rule(pick=PICK)
    def too_much(self, pick: int) -> None:
        stream = self.pick(pick)
        if (
            stream.id in self.windows
            and stream.state is STREAM_OPEN
            and 0 <= self.windows[stream.id] < min(16384, self.window)
        ):
            size = self.windows[stream.id] + 1
            self.window -= size
            assert isinstance(self.receive(data(stream.id, size))[0], Reset)
            assert stream.id not in self.windows

    @has_streams
    @rule(pick=PICK, size=st.integers(0, 500))
    def after_the_end(self, pick: int, size: int) -> None:
        stream = self.pick(pick)
        if stream.state is HALF_CLOSED_REMOTE and size <= self.window:
            self.window -= size
            assert [type(event) for event in self.receive(data(stream.id, size))] == [Reset]

    @precondition(lambda self: self.reset_by_us)
    @rule(pick=PICK, size=st.integers(0, 500))
    def late(self, pick: int, size: int) -> None:
        """Behind our RST_STREAM: what was on its way."""
        gone = self.reset_by_us
        if size <= self.window:
            self.window -= size
            id_ = gone.pop(-1 - pick % len(gone))
            assert (
                self.receive(
                    data(id_, size)
                    + frames.window_update(id_, 5)
                    + frames.rst_stream(id_, ErrorCode.CANCEL)
                )
                == []
            )

    @has_streams
    @rule(pick=PICK, by_us=st.booleans())
    def reset(self, pick: int, by_us: bool) -> None:
        stream = self.pick(pick)
        if by_us:
            self.protocol.streams.reset(stream, ErrorCode.CANCEL)
            self.look()
        else:
            self.forget(stream.id)
            self.was_reset.add(stream.id)
            assert self.receive(frames.rst_stream(stream.id, ErrorCode.CANCEL)) == [
                Reset(stream, ErrorCode.CANCEL, None)
            ]
        assert stream.state is STREAM_CLOSED
        self.protocol.flow.consume(stream, 5)  # an application that has not heard of it

    @has_streams
    @rule(pick=PICK, increment=st.one_of(st.integers(1, 1000), st.just(100000)))
    def more(self, pick: int, increment: int) -> None:
        stream = self.pick(pick)
        if self.sending[stream.id] + increment <= MAX_WINDOW_SIZE:
            self.sending[stream.id] += increment
            self.receive(frames.window_update(stream.id, increment))

    @rule(increment=st.one_of(st.integers(1, 1000), st.just(100000)))
    def more_for_all(self, increment: int) -> None:
        self.sending_all += increment
        self.receive(frames.window_update(0, increment))

    @rule(initial=st.sampled_from([0, 1, 500, DEFAULT_WINDOW_SIZE]))
    def settings(self, initial: int) -> None:
        if all(
            self.sending[id_] + initial - self.initial <= MAX_WINDOW_SIZE
            for id_ in self.protocol.streams.active
        ):
            for id_ in self.sending:
                self.sending[id_] += initial - self.initial
            self.initial = initial
            self.receive(frames.settings([(frames.INITIAL_WINDOW_SIZE, initial)]))

    @precondition(lambda self: not self.is_acknowledged)
    @rule()
    def acknowledge(self) -> None:
        self.is_acknowledged = True
        for id_ in self.windows:
            self.windows[id_] -= max(0, DEFAULT_WINDOW_SIZE - self.limits.window)
        self.receive(frames.SETTINGS_ACK)

    # The server.

    @has_streams
    @rule(pick=PICK, part=st.floats(0, 1))
    def read(self, pick: int, part: float) -> None:
        stream = self.pick(pick)
        self.protocol.flow.consume(
            stream, int(stream.unread * part) if part < 0.9 else stream.unread
        )
        self.look()

    def begin_answer(self, stream: Stream) -> bool:
        """Whether more of it may be sent."""
        if stream.id not in self.answered:
            self.answered.add(stream.id)
            self.protocol.streams.send_head(stream, RESPONSE, False)
        return not stream.send_queue.has_end_stream

    @has_streams
    @rule(pick=PICK)
    def answer_without_body(self, pick: int) -> None:
        stream = self.pick(pick)
        if stream.id not in self.answered:
            self.answered.add(stream.id)
            self.protocol.streams.send_head(stream, RESPONSE, True)
            self.look()

    @has_streams
    @rule(
        pick=PICK,
        size=st.one_of(st.integers(0, 300), st.integers(0, STREAM_HIGH_WATER)),
        end=st.booleans(),
    )
    def send(self, pick: int, size: int, end: bool) -> None:
        stream = self.pick(pick)
        if self.begin_answer(stream):
            self.protocol.streams.send_data(stream, bytes(size), end)
        self.look()

    @has_streams
    @rule(pick=PICK)
    def send_trailers(self, pick: int) -> None:
        stream = self.pick(pick)
        if self.begin_answer(stream):
            self.protocol.streams.send_trailers(stream, encode([(b"x", b"y")]))
        self.look()

    @rule(limit=st.sampled_from([1, 10000, 1 << 30]))
    def pump(self, limit: int) -> None:
        ended, _ = self.protocol.streams.pump(limit)
        assert all(
            stream.send_queue.has_end_stream and not stream.send_queue.size for stream in ended
        )
        self.look()

    # What always holds.

    @invariant()
    def windows_are_conserved(self) -> None:
        """RFC 9113, 6.9: no byte of a window is ever lost, or counted twice."""
        protocol = self.protocol
        assert self.window >= 0
        credit = self.limits.connection_window - self.window - self.unread
        assert credit >= 0
        # Whatever nobody reads: a client whose other bodies are read never waits for more.
        assert self.window > 0 or not credit
        base = (
            self.limits.window
            if self.is_acknowledged
            else max(self.limits.window, DEFAULT_WINDOW_SIZE)
        )
        for stream in protocol.streams.active.values():
            if stream.id in self.windows:
                assert stream.receive_window == self.windows[stream.id]
                assert stream.receive_window + stream.unread + stream.consumed == base
                # A client whose body is read never waits for more.
                assert stream.state is not STREAM_OPEN or stream.unread or stream.receive_window > 0

    @invariant()
    def windows_are_those_of_the_client(self) -> None:
        assert self.protocol.outbox.window == self.sending_all
        for stream in self.protocol.streams.active.values():
            assert stream.send_queue.window == self.sending[stream.id]

    @invariant()
    def memory_is_bounded(self) -> None:
        protocol = self.protocol
        assert len(protocol.streams.active) <= self.limits.max_streams
        assert all(stream.state is not STREAM_CLOSED for stream in protocol.streams.active.values())
        assert self.unread <= self.limits.connection_window

    @property
    def unread(self) -> int:
        return sum(stream.unread for stream in self.protocol.streams.active.values())

    def teardown(self) -> None:
        """With all the room that it takes, all is sent, and nothing is left."""
        if not hasattr(self, "protocol"):
            return
        protocol = self.protocol
        self.settings(DEFAULT_WINDOW_SIZE)
        self.more_for_all(1 << 30)
        for stream in list(protocol.streams.active.values()):
            self.sending[stream.id] += 1 << 30
            self.receive(frames.window_update(stream.id, 1 << 30))
            if self.begin_answer(stream):
                protocol.streams.send_data(stream, b"end", True)
        self.pump(1 << 40)
        assert not protocol.outbox.has_sendable
        assert not protocol.outbox.frames
        assert {stream.state for stream in protocol.streams.active.values()} <= {HALF_CLOSED_LOCAL}
        for stream in list(protocol.streams.active.values()):
            assert stream.send_queue.size == 0
            assert self.receive(data(stream.id, 0, end=True)) == [Received(stream, b"", True)]
        assert not protocol.streams.active
        assert self.ended.issuperset(
            stream.id for stream in self.opened if stream.id not in self.was_reset
        )
        protocol.flow.update_connection()
        self.look()
        assert self.window == self.limits.connection_window


Machine.TestCase.settings = settings(
    max_examples=examples(100), stateful_step_count=40, deadline=None
)
TestAnything = Machine.TestCase
