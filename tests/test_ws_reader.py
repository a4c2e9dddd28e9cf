"""The reader of a WebSocket's frames, and the frames that are sent, as functions.

The tables of `ws_tables`, in any pieces (`gunicorn_asgi.websocket.reader`, `frames`, `close`).
"""

from __future__ import annotations

import itertools
import math
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from tables import each
from ws import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RSV1,
    TEXT,
    close,
    cont,
    fragments,
    frame,
    ping,
    text,
)
from ws_tables import (
    CLOSES,
    CONTROL,
    FRAGMENTS,
    HEADER,
    INVALID_UTF8,
    LIMIT,
    LIMITS,
    NO_CODE,
    Case,
    Outcome,
    read,
)

from gunicorn_asgi.errors import ApplicationError, Violation
from gunicorn_asgi.websocket.close import (
    MAX_REASON,
    Close,
    close_payload,
    echo_payload,
    read_close,
)
from gunicorn_asgi.websocket.deflate import Deflate
from gunicorn_asgi.websocket.frames import MIN_DEFLATE, control_frame, write_message
from gunicorn_asgi.websocket.reader import DECODED_PART, MAX_UNREAD, MIN_VIEW, FrameReader, Ping
from gunicorn_asgi.websocket.share import WORK_PER_STEP, WebSocketShare

TABLES: list[tuple[dict[str, Case], int]] = [
    (HEADER, 1 << 24),
    (FRAGMENTS, 1 << 24),
    (CONTROL, 1 << 24),
    (CLOSES, 1 << 24),
    (LIMITS, LIMIT),
]
CASES = [
    pytest.param(case, limit, id=name) for table, limit in TABLES for name, case in table.items()
]


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Cut `data`: whole, byte by byte, and in two at every place near its ends."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for i in {*range(1, min(len(data), 40)), *range(max(1, len(data) - 40), len(data))}:
        yield [data[:i], data[i:]]


def reader(
    max_size: float = math.inf, max_queue: int = 1 << 30, deflate: Deflate | None = None
) -> FrameReader:
    return FrameReader(max_size, max_queue, deflate)


def deflating(
    client_no_context_takeover: bool = False, server_no_context_takeover: bool = False
) -> Deflate:
    return Deflate(
        b"permessage-deflate", 15, 15, client_no_context_takeover, server_no_context_takeover
    )


# Received frames.


@each("case, limit", {param.id: param.values for param in CASES})
def test_the_tables_hold_in_any_pieces(case: Case, limit: int) -> None:
    expected = Outcome(
        list(case.messages), list(case.pongs), NO_CODE if case.close is None else case.close
    )
    for pieces in itertools.islice(cuts(case.data), 20 if len(case.data) > 4096 else None):
        assert read(pieces, limit) == expected


@each("case, limit", {param.id: param.values for param in CASES})
def test_the_tables_hold_in_steps_of_a_frame(case: Case, limit: int) -> None:
    """And where reading stops whenever a message has begun."""
    expected = Outcome(
        list(case.messages), list(case.pongs), NO_CODE if case.close is None else case.close
    )
    for pieces in itertools.islice(cuts(case.data), 3):
        assert read(pieces, limit, None, 1, WebSocketShare(math.inf)) == expected


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("work", [1, 7, WORK_PER_STEP])
def test_a_message_is_decompressed_and_decoded_in_steps_of_any_size(opcode: int, work: int) -> None:
    payload = "é☃𐍈x".encode() * 60_000
    message = payload.decode() if opcode == TEXT else payload
    frames = frame(opcode, compressed(payload), rsv=RSV1) + fragments(
        opcode, [payload[:300_001], payload[300_001:]], ping(b"p")
    )
    for pieces in ([frames], [frames[i : i + 1000] for i in range(0, len(frames), 1000)]):
        deflate = deflating(client_no_context_takeover=True)
        outcome = read(pieces, math.inf, deflate, work, WebSocketShare(math.inf))
        assert outcome == Outcome([message, message], [b"p"])


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize(
    "size", [0, 1, 125, 126, 127, MIN_VIEW - 1, MIN_VIEW, MIN_VIEW + 1, 65535, 65536, 65537]
)
def test_a_message_of_any_size_is_read_at_its_last_byte(opcode: int, size: int) -> None:
    payload = bytes(number % 91 + 32 for number in range(size))
    message = payload.decode() if opcode == TEXT else payload
    data = frame(opcode, payload)
    for end in {*range(min(len(data), 20)), *range(max(0, len(data) - 6), len(data))}:
        messages = reader(size)
        messages.read(data[:end])
        assert not messages.messages
        messages.read(data[end:])
        assert list(messages.messages) == [message]
        assert type(messages.messages[0]) is type(message)
        assert messages.unread == size


@pytest.mark.parametrize("size", [1, 125, 126, 65535, 65536])
@pytest.mark.parametrize("kind", ["whole", "parts"])
def test_a_message_of_one_byte_more_than_the_limit_is_refused_with_1009(
    size: int, kind: str
) -> None:
    whole = (
        frame(BINARY, bytes(size))
        if kind == "whole"
        else frame(BINARY, b"\0", fin=False) + cont(bytes(size - 1))
    )
    assert read([whole], size) == Outcome([bytes(size)])
    for pieces in ([whole], [whole[:7], whole[7:]]):
        assert read(pieces, size - 1) == Outcome(code=1009)


def test_enough_messages_are_as_many_as_the_queue_takes() -> None:
    for data in (text("a") * 3, (frame(TEXT, b"a", fin=False) + cont(b"")) * 3):
        full = reader(max_queue=2)
        assert full.read(data) is None
        assert (list(full.messages), full.unread, full.is_stopped) == (["a", "a"], 2, True)
        more = reader(max_queue=3)
        more.read(text("a") * 2)
        assert not more.is_full


@pytest.mark.parametrize("parts", [1, 2])
def test_enough_messages_are_more_than_64_kib(parts: int) -> None:
    def message(size: int) -> bytes:
        return (
            frame(BINARY, bytes(size))
            if parts == 1
            else frame(BINARY, bytes(size), fin=False) + cont(b"")
        )

    full = reader()
    full.read(message(MAX_UNREAD - 1) + message(1))
    assert not full.is_full
    assert full.unread == MAX_UNREAD
    full.read(message(1) + message(2))
    assert full.is_full
    assert full.unread == MAX_UNREAD + 1
    assert len(full.messages) == 3


def test_data_received_while_full_is_read_later_in_its_order() -> None:
    full = reader(max_queue=1)
    data = b"".join(text(f"{number}") for number in range(6)) + ping(b"p") + text("6")
    assert full.read(data[:10]) is None
    for position in range(10, len(data)):
        assert full.read(data[position : position + 1]) is None
    assert len(full.messages) == 1
    got: list[Any] = []
    for _ in range(20):
        got += full.messages
        full.messages.clear()
        full.unread = 0
        full.resume(WORK_PER_STEP)
        if (control := full.read()) is not None:
            got.append(control)
    assert got == ["0", "1", "2", "3", "4", "5", Ping(b"p"), "6"]


def test_a_ping_is_returned_before_the_next_frame_is_read() -> None:
    both = reader()
    assert both.read(
        ping(b"1") + text("a") + ping(b"2") + frame(PONG, b"x") + text("b") + ping(b"3")[:3]
    ) == Ping(b"1")
    assert not both.messages
    assert both.read() == Ping(b"2")
    assert both.read() is None
    assert list(both.messages) == ["a", "b"]
    assert both.read(ping(b"3")[3:] + text("c")) == Ping(b"3")
    assert both.read(close(1001, "bye")) == Close(1001, "bye")
    assert list(both.messages)[2:] == ["c"]


def test_dropped_messages_are_not_kept_and_the_close_is_still_found() -> None:
    dropping = reader(max_queue=1)
    dropping.read(text("a") + text("b"))
    assert dropping.is_full
    dropping.drop()
    assert dropping.read(
        frame(BINARY, bytes(MAX_UNREAD + 1))
        + frame(TEXT, b"c", fin=False)
        + cont(b"d")
        + close(1001, "bye")
    ) == Close(1001, "bye")
    assert not dropping.messages
    assert not dropping.is_full


def test_a_compressed_frame_may_be_larger_than_its_message_by_a_little_and_no_more() -> None:
    """By an eighth and 64 bytes: incompressible data grows by less."""

    def head(length: int) -> bytes:
        return bytes((0xC0 | BINARY, 0x80 | 126)) + struct.pack("!H", length) + bytes(4)

    reader(1000, deflate=deflating()).read(head(1189))
    with pytest.raises(Violation) as caught:
        reader(1000, deflate=deflating()).read(head(1190))
    assert caught.value.code == 1009


def compressed(payload: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_compressed_message_in_parts_is_compressed_as_a_whole(count: int) -> None:
    """RFC 7692, 6: RSV1 in the first frame counts for the message."""
    payload = "é".encode() * 300
    data = compressed(payload)
    size = -(-len(data) // count)
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    frames = b"".join(
        frame(0 if number else TEXT, part, fin=part is parts[-1], rsv=0 if number else RSV1)
        + ping(b"%d" % number)
        for number, part in enumerate(parts)
    )
    for pieces in cuts(frames + text("after")):
        outcome = read(pieces, deflate=deflating(client_no_context_takeover=True))
        assert outcome.messages == [payload.decode(), "after"]
        assert outcome.code is None


@pytest.mark.parametrize(
    "data", [data for data, _ in INVALID_UTF8.values()], ids=INVALID_UTF8.keys()
)
def test_a_text_that_is_not_utf_8_is_refused_with_1007(data: bytes) -> None:
    for frames in (frame(TEXT, data), frame(TEXT, b"", fin=False) + cont(data)):
        for pieces in cuts(text("before") + frames):
            assert read(pieces) == Outcome(["before"], code=1007)
    assert read([frame(TEXT, compressed(data), rsv=RSV1)], deflate=deflating()) == Outcome(
        code=1007
    )


def test_the_bytes_of_a_long_text_are_freed_once_it_is_decoded() -> None:
    """It comes in two packets, so it is decoded in several parts."""
    payload = "é".encode() * (2 * DECODED_PART)
    reading = reader(1 << 24)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        data = text(payload)
        reading.read(data[:1000])
        reading.read(data[1000:])
        del data
        while not reading.messages:
            reading.resume(WORK_PER_STEP)
            reading.read()
        assert reading.messages.popleft() == payload.decode()
        assert tracemalloc.get_traced_memory()[0] - before < DECODED_PART
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("opcode", [CONTINUATION, CLOSE, PING, PONG])
def test_rsv1_is_for_the_first_frame_of_a_message_only(opcode: int) -> None:
    """RFC 7692, 6."""
    begun = frame(BINARY, compressed(b"a" * 100)[:3], fin=False, rsv=RSV1)
    with pytest.raises(Violation) as caught:
        reader(deflate=deflating()).read(begun + frame(opcode, b"", rsv=RSV1))
    assert caught.value.code == 1002


@pytest.mark.parametrize("cut", range(1, 4))
def test_the_limit_of_a_compressed_message_holds_for_all_its_parts_together(cut: int) -> None:
    payload = bytes(range(256)) * 4
    data = compressed(payload)
    frames = frame(BINARY, data[: len(data) * cut // 4], fin=False, rsv=RSV1) + cont(
        data[len(data) * cut // 4 :]
    )
    assert read([frames], len(payload), deflating()) == Outcome([payload])
    assert read([frames], len(payload) - 1, deflating()) == Outcome(code=1009)


def test_the_limit_of_a_message_concerns_no_control_frame() -> None:
    reason = "a reason" * 15
    assert read(
        [
            ping(b"p" * 125)
            + frame(BINARY, b"ab", fin=False)
            + ping(b"p" * 125)
            + cont(b"")
            + close(1001, reason)
        ],
        2,
    ) == Outcome([b"ab"], [b"p" * 125] * 2, 1001)
    assert reader(0).read(close(1001, reason)) == Close(1001, reason)


ZEROS = bytes(4)
"""A mask that changes nothing, so the payload has the same bytes on the wire."""


def test_a_frame_within_the_payload_of_another_is_payload() -> None:
    inner = text("inner", mask=ZEROS)
    for opcode in (PING, BINARY):
        outer = frame(opcode, inner, mask=ZEROS)
        for end in range(1, len(outer)):
            outcome = read([outer[:end], outer[end:]])
            assert (outcome.pings or outcome.messages) == [inner]


@pytest.mark.parametrize("size", [4, 124, 125])
def test_a_short_length_is_not_read_from_the_bytes_that_follow(size: int) -> None:
    """Those bytes would be a valid length of 64 bits, and all its bytes are here."""
    first, second = b"\0\1\0\1".ljust(size, b"x"), bytes(70_000)
    assert read([frame(BINARY, first, mask=ZEROS) + frame(BINARY, second)]) == Outcome(
        [first, second]
    )


def test_a_length_of_16_bits_is_not_read_from_the_bytes_before_it() -> None:
    first, second = b"x\1\0", bytes(300)
    assert read([frame(BINARY, first, mask=ZEROS) + frame(BINARY, second)]) == Outcome(
        [first, second]
    )


# Sent frames.


def data_frame(data: Any, text: Any, deflate: Deflate | None) -> bytes:
    """The frame of a message."""
    written: list[bytes] = []
    write_message(written.append, data, text, deflate)
    return b"".join(written)


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x00"),
        (1, b"\x01"),
        (125, b"\x7d"),
        (126, b"\x7e\x00\x7e"),
        (65535, b"\x7e\xff\xff"),
        (65536, b"\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_frame_has_the_shortest_length(size: int, head: bytes) -> None:
    """RFC 6455, 5.2."""
    assert data_frame(b"x" * size, None, None) == b"\x82" + head + b"x" * size
    assert data_frame(None, "x" * size, None) == b"\x81" + head + b"x" * size
    if size <= 125:
        assert control_frame(PING, b"x" * size) == b"\x89" + head + b"x" * size
        assert control_frame(CLOSE, b"x" * size) == b"\x88" + head + b"x" * size


@pytest.mark.parametrize("is_text", [False, True])
def test_short_messages_are_not_compressed(is_text: bool) -> None:
    def sent(size: int) -> bytes:
        return (
            data_frame(None, "x" * size, deflating())
            if is_text
            else data_frame(b"x" * size, None, deflating())
        )

    opcode = TEXT if is_text else BINARY
    assert sent(MIN_DEFLATE - 1) == bytes((0x80 | opcode, MIN_DEFLATE - 1)) + b"x" * (
        MIN_DEFLATE - 1
    )
    whole = sent(MIN_DEFLATE)
    assert whole[:2] == bytes((0xC0 | opcode, len(whole) - 2))
    assert (
        zlib.decompressobj(wbits=-15).decompress(whole[2:] + b"\0\0\xff\xff") == b"x" * MIN_DEFLATE
    )


@pytest.mark.parametrize("data", [bytearray(b"ab"), memoryview(b"ab")])
def test_bytes_may_be_anything_like_bytes(data: Any) -> None:
    assert data_frame(data, None, None) == b"\x82\x02ab"


def test_a_subclass_of_str_is_a_text() -> None:
    class Text(str):
        __slots__ = ()

    assert data_frame(None, Text("ab"), None) == b"\x81\x02ab"


@pytest.mark.parametrize(
    ("data", "message", "words"),
    [
        (None, None, "not None"),
        ("ab", None, "not str"),
        (5, None, "not int"),
        (b"a", "a", "not bytes and str"),
        (None, b"a", "not None and bytes"),
        (b"a", b"a", "not bytes and bytes"),
    ],
)
def test_a_message_is_either_bytes_or_a_text(data: Any, message: Any, words: str) -> None:
    with pytest.raises(ApplicationError, match=words):
        data_frame(data, message, None)


def test_the_reason_of_a_close_may_have_123_bytes() -> None:
    """RFC 6455, 5.5."""
    assert MAX_REASON == 123
    assert close_payload(1000, "é" * 61 + "x") == b"\x03\xe8" + "é".encode() * 61 + b"x"
    with pytest.raises(ApplicationError, match="has 124 bytes, more than the 123"):
        close_payload(1000, "é" * 62)


@pytest.mark.parametrize(("code", "reason"), [("1000", ""), (None, ""), (1000, None), (1000, b"")])
def test_the_code_of_a_close_is_an_int_and_its_reason_a_str(code: Any, reason: Any) -> None:
    with pytest.raises(ApplicationError, match="must be an int"):
        close_payload(code, reason)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 70_000, -1])
def test_a_code_that_is_never_sent_is_refused(code: int) -> None:
    """RFC 6455, 7.4."""
    with pytest.raises(ApplicationError, match="no close code"):
        close_payload(code, "")


def test_a_lone_surrogate_is_no_text() -> None:
    with pytest.raises(ApplicationError, match="surrogate"):
        data_frame(None, "\ud800", None)
    with pytest.raises(ApplicationError, match="surrogate"):
        close_payload(1000, "\ud800")


def test_a_close_is_answered_with_its_code_alone() -> None:
    assert echo_payload(read_close(b"\x03\xe9bye")) == b"\x03\xe9"
    assert echo_payload(read_close(b"")) == b""
