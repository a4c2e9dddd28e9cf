"""The attacks of benchmarks/attacks.py are what they are called: other readers than the package's take them apart."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import attack_bytes
import h2raw
import hpack
import pytest

SIZES = {
    "bombs": attack_bytes.BOMBS_BYTES,
    "pings": attack_bytes.PACKET,
    "fragments": attack_bytes.PACKET,
    "pipelined": attack_bytes.PACKET,
    "one_byte_chunks": attack_bytes.PACKET,
    "continuations": attack_bytes.PACKET,
    "h2_settings": attack_bytes.PACKET,
    "h2_pings": attack_bytes.PACKET,
}


class Frame(NamedTuple):
    """A client's frame, as RFC 6455, 5.2, has it."""

    fin: bool
    rsv1: bool
    opcode: int
    data: bytes


def websocket_frames(data: bytes) -> list[Frame]:
    """All frames of a client. Fails where a part of one is left, or a length takes more bytes than it needs."""
    frames, at = [], 0
    while at < len(data):
        first, second = data[at : at + 2]
        assert second & 0x80, "a client's frame is masked"
        length, at = second & 0x7F, at + 2
        if length >= 126:
            size, least = (2, 126) if length == 126 else (8, 65536)
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
            assert length >= least
        key, at = data[at : at + 4], at + 4
        assert key == bytes(4), "the payload is as it stands"
        assert at + length <= len(data)
        frames.append(
            Frame(bool(first & 0x80), bool(first & 0x40), first & 0x0F, data[at : at + length])
        )
        at += length
    return frames


def h2_frames(data: bytes) -> list[h2raw.Frame]:
    """All frames of a client of HTTP/2. Fails where a part of one is left."""
    frames = list(h2raw.split(data))
    assert sum(9 + len(frame.payload) for frame in frames) == len(data)
    return frames


def block_of(frames: list[h2raw.Frame]) -> bytes:
    return b"".join(frame.payload for frame in frames)


@pytest.mark.parametrize("name", SIZES)
def test_a_payload_to_repeat_fills_a_packet_with_whole_units(name: str) -> None:
    payload = getattr(attack_bytes, name)()
    assert 0.9 * SIZES[name] <= len(payload) <= SIZES[name]


def test_each_deflate_bomb_inflates_to_fifteen_million_bytes() -> None:
    frames = websocket_frames(attack_bytes.bombs())
    assert len(frames) == 17
    assert all(frame.fin and frame.rsv1 and frame.opcode == 2 for frame in frames)
    assert len({frame.data for frame in frames}) == 1
    inflated = zlib.decompressobj(-15).decompress(frames[0].data + b"\x00\x00\xff\xff")
    assert len(inflated) == attack_bytes.BOMB_SIZE


def test_the_messages_of_one_connection_inflate_one_after_the_other() -> None:
    """A window is kept between messages, so that a second bomb must not end the stream."""
    decompressor = zlib.decompressobj(-15)
    for frame in websocket_frames(attack_bytes.bombs())[:2]:
        data = decompressor.decompress(frame.data + b"\x00\x00\xff\xff")
        assert (len(data), decompressor.eof) == (attack_bytes.BOMB_SIZE, False)


def test_an_unfinished_bomb_is_one_first_fragment() -> None:
    (frame,) = websocket_frames(attack_bytes.unfinished_bomb())
    assert (frame.fin, frame.rsv1, frame.opcode) == (False, True, 2)


@pytest.mark.parametrize("compressed", [False, True])
def test_fragments_are_empty_and_none_is_the_last(compressed: bool) -> None:
    first, *others = websocket_frames(
        attack_bytes.first_fragment(compressed) + attack_bytes.fragments()
    )
    assert (first.fin, first.rsv1, first.opcode) == (False, compressed, 1)
    assert set(others) == {(False, False, 0, b"")}


def test_pings_are_whole_and_empty() -> None:
    assert set(websocket_frames(attack_bytes.pings())) == {(True, False, 9, b"")}


def test_frames_have_the_shortest_length_field() -> None:
    for size in (0, 125, 126, 65535, 65536):
        (frame,) = websocket_frames(attack_bytes.frame(attack_bytes.FIN | 2, bytes(size)))
        assert len(frame.data) == size


def test_a_handshake_offers_compression_where_it_is_asked_for() -> None:
    assert b"permessage-deflate" in attack_bytes.handshake(deflate=True)
    assert b"Extensions" not in attack_bytes.handshake()


def test_a_head_of_many_lines_is_one_head() -> None:
    head = attack_bytes.many_lines()
    assert head.count(b"\r\n") == attack_bytes.LINES + 3
    assert head.index(b"\r\n\r\n") == len(head) - 4


def test_table_size_updates_come_first_in_one_field_block() -> None:
    frames = h2_frames(attack_bytes.table_size_updates())
    first, *others = frames
    assert (first.kind, first.stream, first.flags) == (h2raw.HEADERS, 1, h2raw.END_STREAM)
    assert all((each.kind, each.stream) == (h2raw.CONTINUATION, 1) for each in others)
    assert [each.flags for each in others] == [0] * (len(others) - 1) + [h2raw.END_HEADERS]
    assert max(len(each.payload) for each in frames) <= attack_bytes.MAX_FRAME
    block = block_of(frames)
    assert block == b"\x20" * attack_bytes.UPDATES + attack_bytes.GET_BLOCK


def test_field_blocks_are_what_a_decoder_reads() -> None:
    decoder = hpack.Decoder()
    assert decoder.decode(attack_bytes.GET_BLOCK) == [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "127.0.0.1"),
    ]
    assert (":path", "/count") in decoder.decode(attack_bytes.post_block(b"/count"))
    assert decoder.decode(attack_bytes.FIELD) == [("a", "b")]


def test_a_rapid_reset_opens_and_cancels_each_stream_once() -> None:
    frames = h2_frames(attack_bytes.rapid_reset())
    opened, cancelled = frames[::2], frames[1::2]
    streams = list(range(1, 2 * attack_bytes.STREAMS, 2))
    assert [frame.stream for frame in opened] == streams == [frame.stream for frame in cancelled]
    assert {(frame.kind, frame.flags) for frame in opened} == {
        (h2raw.HEADERS, h2raw.END_STREAM | h2raw.END_HEADERS)
    }
    assert {(frame.kind, frame.number) for frame in cancelled} == {(h2raw.RST_STREAM, h2raw.CANCEL)}


def test_data_of_one_byte_stays_within_the_default_window_and_does_not_end_its_stream() -> None:
    head, *frames = h2_frames(attack_bytes.one_byte_data())
    assert (head.kind, head.flags) == (h2raw.HEADERS, h2raw.END_HEADERS)
    assert {(each.kind, each.flags, each.stream, each.payload) for each in frames} == {
        (h2raw.DATA, 0, 1, b"x")
    }
    assert len(frames) < h2raw.DEFAULT_WINDOW


def test_a_continuation_flood_never_ends_its_field_block() -> None:
    first, *others = h2_frames(attack_bytes.unfinished_block() + attack_bytes.continuations())
    assert not first.flags & h2raw.END_HEADERS
    assert {(each.kind, each.flags, each.stream) for each in others} == {(h2raw.CONTINUATION, 0, 1)}


def test_floods_of_settings_and_pings_ask_for_an_answer_each() -> None:
    for payload, kind in (
        (attack_bytes.h2_settings(), h2raw.SETTINGS),
        (attack_bytes.h2_pings(), h2raw.PING),
    ):
        assert {(each.kind, each.flags, each.stream) for each in h2_frames(payload)} == {
            (kind, 0, 0)
        }
    assert h2_frames(attack_bytes.h2_opening().removeprefix(h2raw.PREFACE))[0].kind == (
        h2raw.SETTINGS
    )
