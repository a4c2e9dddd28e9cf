"""Frames of HTTP/2 as functions: RFC 9113, 4 and 6. What is made here is read by hyperframe, and what that makes is read here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from costs import buffered, count_calls
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tables import each

from gunicorn_asgi.http2 import frames
from gunicorn_asgi.http2.frames import (
    MAX_STEP,
    ConnectionFailure,
    ErrorCode,
    FrameBuffer,
    FrameType,
)

MAX = 16384

Sent = tuple[int, int, int, bytes]


def raw(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def read(*pieces: bytes, max_size: int = MAX) -> list[Sent]:
    found: list[Sent] = []
    reader = FrameBuffer(max_size)
    for piece in pieces:
        cut(reader, piece, found)
    return found


def cut(reader: FrameBuffer, data: bytes, found: list[Sent]) -> None:
    """Read `data` in as many steps as it takes."""
    reader.read(data, found)
    while reader.has_more:
        before = len(found)
        reader.read(b"", found)
        assert found[before:] or not reader.has_more


def parse(data: bytes) -> list[Any]:
    """What hyperframe makes of it."""
    parsed = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        parsed.append(frame)
        data = data[9 + length :]
    return parsed


@pytest.fixture(params=[MAX_STEP, 1], autouse=True, scope="module")
def max_step(request: pytest.FixtureRequest) -> Iterator[int]:
    """Everything here holds however few frames are cut at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "MAX_STEP", request.param)
        yield request.param


# Reading.

SEQUENCES: dict[str, list[Sent]] = {
    "nothing": [],
    "no payload": [(4, 1, 0, b"")],
    "one byte": [(0, 1, 1, b"x")],
    "the longest": [(0, 0, 1, bytes(MAX))],
    "several": [(1, 5, 1, b"abc"), (0, 0, 1, b""), (0, 1, 1, b"x" * 300), (6, 0, 0, b"12345678")],
    "unknown type and flags": [(0xFF, 0xFF, 2**31 - 1, b"abc"), (10, 0, 0, b"")],
    "a payload like a header": [(0, 0, 1, raw(0, 0, 1, b"")), (0, 1, 1, b"")],
}


@pytest.mark.parametrize("sequence", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_frames_are_found_in_any_pieces(sequence: list[Sent]) -> None:
    """RFC 9113, 4.1."""
    data = b"".join(raw(*sent) for sent in sequence)
    assert read(data) == sequence
    assert read(*[data[at : at + 1] for at in range(len(data))]) == sequence
    for tail in (b"\x00", b"\x00\x00\x05\x00\x00\x00\x00\x00\x01abcd"):
        assert read(data + tail) == sequence
        assert read(data + tail[:1], tail[1:]) == sequence


ANY = st.tuples(
    st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary(max_size=40)
)


@settings(deadline=None)
@given(st.lists(ANY, max_size=6), st.lists(st.integers(1, 60), max_size=12))
@example([(0, 0, 1, b"a"), (0, 0, 1, b"b")], [10, 5, 4])
def test_where_the_data_is_cut_makes_no_difference(sequence: list[Sent], cuts: list[int]) -> None:
    data = b"".join(raw(*sent) for sent in sequence)
    pieces = []
    for size in cuts:
        pieces.append(data[:size])
        data = data[size:]
    assert read(*pieces, data) == sequence


def test_the_reserved_bit_is_ignored() -> None:
    """RFC 9113, 4.1: "The value of this bit ... MUST be ignored when receiving"."""
    assert read(raw(0, 0, 2**31 + 5, b"x")) == [(0, 0, 5, b"x")]


@pytest.mark.parametrize("kind", [0, 1, 4, 9, 0xFF])
@pytest.mark.parametrize("max_size", [MAX, MAX + 5, 2**24 - 1])
def test_a_frame_that_is_too_long_fails_by_its_header_and_after_the_frames_before_it(
    kind: int, max_size: int
) -> None:
    """RFC 9113, 4.2."""
    found: list[Sent] = []
    reader = FrameBuffer(max_size)
    if max_size == 2**24 - 1:
        reader.read(
            b"\xff\xff\xff" + bytes((kind, 0, 0, 0, 0, 1)) + b"x", found
        )  # no frame can be longer
        assert found == []
        return
    with pytest.raises(ConnectionFailure) as caught:
        cut(reader, raw(0, 0, 1, b"ab") + raw(kind, 0, 1, bytes(max_size + 1))[:9], found)
    assert caught.value.code == ErrorCode.FRAME_SIZE_ERROR
    assert found == [(0, 0, 1, b"ab")]


def test_no_more_is_kept_than_a_frame_that_is_not_whole() -> None:
    found: list[Sent] = []
    reader = FrameBuffer(MAX)
    frame = raw(0, 0, 1, bytes(MAX))
    for _ in range(5):
        cut(reader, frame + frame[:-1], found)
        assert sum(map(len, buffered(reader))) == len(frame) - 1
        cut(reader, frame[-1:], found)
        assert not buffered(reader)
    assert len(found) == 10


def test_a_frame_in_single_bytes_is_not_looked_at_again_for_each() -> None:
    """So that what comes byte by byte does not cost the square of its length."""
    reader = FrameBuffer(MAX)
    found: list[Sent] = []
    frame = raw(0, 0, 1, bytes(100))
    reader.read(frame[:20], found)
    costs = [count_calls(partial(reader.read, b"x", found)) for _ in frame[20:]]
    assert found
    assert max(costs[:-1]) < costs[-1] / 2


# Writing.


def test_settings_are_read_by_others() -> None:
    """RFC 9113, 6.5."""
    values = [
        (frames.MAX_CONCURRENT_STREAMS, 100),
        (frames.INITIAL_WINDOW_SIZE, 2**31 - 1),
        (frames.ENABLE_CONNECT_PROTOCOL, 1),
    ]
    (frame,) = parse(frames.settings(values))
    assert isinstance(frame, SettingsFrame)
    assert (frame.stream_id, frame.flags, frame.settings) == (0, set(), dict(values))
    assert list(frames.read_settings(frames.settings(values)[9:])) == values
    (acknowledgement,) = parse(frames.SETTINGS_ACK)
    assert acknowledgement.flags == {"ACK"}
    assert acknowledgement.settings == {}


@pytest.mark.parametrize("is_ack", [False, True])
def test_a_ping_is_read_by_others(is_ack: bool) -> None:
    """RFC 9113, 6.7."""
    (frame,) = parse(frames.ping(b"12345678", is_ack))
    assert isinstance(frame, PingFrame)
    assert (frame.stream_id, frame.opaque_data, frame.flags) == (
        0,
        b"12345678",
        {"ACK"} if is_ack else set(),
    )


@each("code", ErrorCode)
@pytest.mark.parametrize("last", [0, 1, 2**31 - 1])
def test_a_goaway_is_read_by_others(last: int, code: ErrorCode) -> None:
    """RFC 9113, 6.8; what is not ASCII in its reason is written so that it is."""
    (frame,) = parse(frames.goaway(last, code, "why\xe9"))
    assert isinstance(frame, GoAwayFrame)
    assert (frame.stream_id, frame.last_stream_id, frame.error_code, frame.additional_data) == (
        0,
        last,
        code,
        b"why\\xe9",
    )


def test_an_rst_stream_is_read_by_others() -> None:
    """RFC 9113, 6.4."""
    (frame,) = parse(frames.rst_stream(2**31 - 1, ErrorCode.CANCEL))
    assert isinstance(frame, RstStreamFrame)
    assert (frame.stream_id, frame.error_code) == (2**31 - 1, ErrorCode.CANCEL)


@pytest.mark.parametrize(("stream", "increment"), [(0, 1), (1, 2**31 - 1)])
def test_a_window_update_is_read_by_others(stream: int, increment: int) -> None:
    """RFC 9113, 6.9."""
    (frame,) = parse(frames.window_update(stream, increment))
    assert (frame.stream_id, frame.window_increment) == (stream, increment)
    assert frames.read_number(frames.window_update(stream, increment)[9:]) == increment


@pytest.mark.parametrize("size", [0, 1, MAX - 1, MAX, MAX + 1, 2 * MAX, 2 * MAX + 1, 70000])
@pytest.mark.parametrize("end", [False, True])
def test_a_field_block_is_one_headers_and_as_many_continuations_as_it_takes(
    size: int, end: bool
) -> None:
    """RFC 9113, 4.3 and 6.10: END_STREAM stands on the first of them, END_HEADERS on the last."""
    block = bytes(number % 251 for number in range(size))
    first, *rest = parse(b"".join(frames.headers(7, block, end, MAX)))
    assert isinstance(first, HeadersFrame)
    assert all(isinstance(frame, ContinuationFrame) for frame in rest)
    assert {frame.stream_id for frame in (first, *rest)} == {7}
    assert all(len(frame.data) == MAX for frame in (first, *rest)[:-1])
    assert b"".join(frame.data for frame in (first, *rest)) == block
    assert ("END_STREAM" in first.flags) is end
    assert ["END_HEADERS" in frame.flags for frame in (first, *rest)] == [False] * len(rest) + [
        True
    ]


@pytest.mark.parametrize("length", [0, 255, 256, 65535, 65536, 2**24 - 1])
def test_the_length_in_a_header_has_three_bytes(length: int) -> None:
    """RFC 9113, 4.1."""
    frame, parsed = Frame.parse_frame_header(
        memoryview(frames.header(length, FrameType.DATA, frames.END_STREAM, 3))
    )
    assert isinstance(frame, DataFrame)
    assert (parsed, frame.stream_id, frame.flags) == (length, 3, {"END_STREAM"})


def test_numbers_are_those_of_the_standard() -> None:
    """RFC 9113, 6 and 11; RFC 8441, 3."""
    kinds = [
        FrameType.DATA,
        FrameType.HEADERS,
        FrameType.PRIORITY,
        FrameType.RST_STREAM,
        FrameType.SETTINGS,
        FrameType.PUSH_PROMISE,
        FrameType.PING,
    ]
    assert [*kinds, FrameType.GOAWAY, FrameType.WINDOW_UPDATE, FrameType.CONTINUATION] == list(
        range(10)
    )
    assert SettingsFrame.HEADER_TABLE_SIZE == frames.HEADER_TABLE_SIZE
    assert SettingsFrame.MAX_HEADER_LIST_SIZE == frames.MAX_HEADER_LIST_SIZE
    assert SettingsFrame.ENABLE_CONNECT_PROTOCOL == frames.ENABLE_CONNECT_PROTOCOL
    assert [code.value for code in ErrorCode] == list(range(14))


# Steps.


def test_a_step_cuts_frames_of_a_bounded_weight(max_step: int) -> None:
    reader = FrameBuffer(MAX)
    one = raw(FrameType.DATA, 0, 1, b"x")
    steps: list[int] = []
    data = one * (2 * max_step + 1)
    while True:
        found: list[Sent] = []
        reader.read(data, found)
        steps.append(len(found))
        data = b""
        if not reader.has_more:
            break
    assert steps == [max_step, max_step, 1]


@pytest.mark.parametrize(
    ("kind", "size", "most"),
    [
        (FrameType.DATA, MAX, 1000),
        (FrameType.HEADERS, 0, 34),
        (FrameType.HEADERS, 4000, 1),
        (FrameType.CONTINUATION, 4000, 1),
        (FrameType.SETTINGS, 600, 53),
        (FrameType.RST_STREAM, 4, 100),
    ],
)
def test_fields_and_settings_weigh_more_than_data(
    max_step: int, kind: FrameType, size: int, most: int
) -> None:
    found: list[Sent] = []
    FrameBuffer(MAX).read(raw(kind, 0, 1, bytes(size)) * 1001, found)
    assert len(found) == (most if max_step > 1 else 1)


def test_data_that_comes_before_a_step_follows_the_data_that_is_kept(max_step: int) -> None:
    reader = FrameBuffer(MAX)
    found: list[Sent] = []
    sent = [(0, 0, number, b"") for number in range(max_step + 2)]
    data = b"".join(raw(*frame) for frame in sent)
    reader.read(data[:-5], found)
    for late in data[-5:]:
        assert reader.has_more
        reader.read(bytes((late,)), found)
        assert len(found) == max_step  # it takes no step
    while reader.has_more:
        reader.read(b"", found)
    assert found == sent
    assert not buffered(reader)
