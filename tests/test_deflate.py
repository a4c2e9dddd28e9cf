"""permessage-deflate as functions: RFC 7692, 7.2 (`gunicorn_asgi.websocket.deflate`)."""

from __future__ import annotations

import math
import random
import zlib
from typing import Any

import pytest

from gunicorn_asgi.errors import Violation
from gunicorn_asgi.websocket.deflate import DEFLATE_WINDOW, MAX_FINAL_BLOCKS, MAX_INFLATED, Deflate

TAIL = b"\0\0\xff\xff"
PAYLOAD = bytes(number * number % 251 for number in range(2000))


def agreed(
    client_no_context_takeover: bool = False,
    server_no_context_takeover: bool = False,
    client_bits: int = 15,
    server_bits: int = 15,
) -> Deflate:
    return Deflate(
        b"permessage-deflate",
        client_bits,
        server_bits,
        client_no_context_takeover,
        server_no_context_takeover,
    )


def flushed(compressor: Any, payload: bytes) -> bytes:
    """Compress one message, without the tail."""
    data: bytes = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert data.endswith(TAIL)
    return data[:-4]


def final(payload: bytes, context: bytes = b"") -> bytes:
    """A block with BFINAL, which may refer to `context`."""
    compressor = (
        zlib.compressobj(wbits=-15, zdict=context) if context else zlib.compressobj(wbits=-15)
    )
    return compressor.compress(payload) + compressor.flush(zlib.Z_FINISH)


EMPTY = zlib.compressobj(wbits=-15).flush(zlib.Z_SYNC_FLUSH)[:-4]


def inflate(deflate: Deflate, payload: bytes, is_final: bool, room: float = math.inf) -> bytes:
    """Decompress the payload of a frame, in as many steps as it takes."""
    data = deflate.decompress(payload, True, is_final, room)
    while deflate.has_more:
        data += deflate.decompress_more(room - len(data))
    return data


def code_of(deflate: Deflate, payload: bytes, room: float = math.inf) -> int:
    with pytest.raises(Violation) as caught:
        inflate(deflate, payload, True, room)
    return caught.value.code


@pytest.mark.parametrize("forgets", [False, True])
def test_sent_messages_share_a_context_unless_agreed_otherwise(forgets: bool) -> None:
    deflate = agreed(server_no_context_takeover=forgets)
    first, second = deflate.compress(PAYLOAD), deflate.compress(PAYLOAD)
    assert (first == second) is forgets
    assert not first.endswith(TAIL)
    decompressor = zlib.decompressobj(wbits=-15)
    assert decompressor.decompress(first + TAIL) == PAYLOAD
    if forgets:
        decompressor = zlib.decompressobj(wbits=-15)
    assert decompressor.decompress(second + TAIL) == PAYLOAD


@pytest.mark.parametrize("bits", [9, 12, 15])
def test_each_side_has_its_own_window(bits: int) -> None:
    """A reference beyond the window is an error."""
    far = bytes(number * 7 % 256 for number in range(256)) + PAYLOAD + PAYLOAD[::-1] * 3
    repeated = far + far
    data = agreed(client_bits=15, server_bits=bits).compress(repeated) + TAIL
    decompressor = zlib.decompressobj(wbits=-bits)
    assert b"".join(decompressor.decompress(data[i : i + 1]) for i in range(len(data))) == repeated
    wide = flushed(zlib.compressobj(wbits=-15), repeated)

    def read(deflate: Deflate) -> bytes:
        """Feed byte by byte: zlib sees the whole of one piece beyond its window."""
        return b"".join(
            inflate(deflate, wide[i : i + 1], False, math.inf) for i in range(len(wide))
        )

    if bits < 15:
        with pytest.raises(Violation):
            read(agreed(client_bits=bits, server_bits=15))
    else:
        assert read(agreed(client_bits=bits, server_bits=9)) == repeated


def test_received_messages_share_a_context_unless_agreed_otherwise() -> None:
    compressor = zlib.compressobj(wbits=-15)
    first, second = flushed(compressor, PAYLOAD), flushed(compressor, PAYLOAD)
    keeping, forgetting = agreed(), agreed(client_no_context_takeover=True)
    for deflate in (keeping, forgetting):
        # In parts. Only the last part ends the message.
        assert (
            inflate(deflate, first[:100], False, math.inf)
            + inflate(deflate, first[100:], True, math.inf)
            == PAYLOAD
        )
    assert inflate(keeping, second, True, math.inf) == PAYLOAD
    assert code_of(forgetting, second) == 1002
    assert inflate(forgetting, first, True, math.inf) == PAYLOAD


def test_invalid_deflate_is_refused() -> None:
    assert code_of(agreed(), b"\xff\xff\xff") == 1002


@pytest.mark.parametrize("more", [0, 1, 100])
@pytest.mark.parametrize("size", [0, 1, 2000])
def test_the_limit_is_exact(size: int, more: int) -> None:
    data = flushed(zlib.compressobj(wbits=-15), PAYLOAD[:size]) if size else EMPTY
    assert inflate(agreed(), data, True, size + more) == PAYLOAD[:size]
    if size:
        assert code_of(agreed(), data, size - 1) == 1009


def test_a_final_block_ends_neither_the_message_nor_its_context() -> None:
    """7.2.1. For zlib it is the end of the stream."""
    data = (
        final(PAYLOAD)
        + final(PAYLOAD, context=PAYLOAD)
        + flushed(zlib.compressobj(wbits=-15, zdict=PAYLOAD * 2), PAYLOAD)
    )
    assert len(data) < 2 * len(final(PAYLOAD))
    assert inflate(agreed(), data, True, math.inf) == PAYLOAD * 3
    assert inflate(agreed(), data, True, 3 * len(PAYLOAD)) == PAYLOAD * 3


def test_the_context_after_a_final_block_is_the_last_32_kib() -> None:
    long = bytes(number * number % 65521 % 256 for number in range(DEFLATE_WINDOW + 5000))
    data = final(long) + final(long[-1000:], context=long[-DEFLATE_WINDOW:])
    assert inflate(agreed(), data, True, math.inf) == long + long[-1000:]


@pytest.mark.parametrize("cut", [0, 1, 5000, 30_000])
def test_the_context_after_a_final_block_is_the_data_of_all_steps(cut: int) -> None:
    """Whether the frame is decompressed at once, in steps for its size, or in parts."""
    source = random.Random(1951)
    long = source.randbytes(DEFLATE_WINDOW - 100) + source.randbytes(3000)
    data = final(long) + final(long[-20_000:], context=long[-DEFLATE_WINDOW:])
    assert len(data) < len(long) + 2000
    deflate = agreed()
    got = b""
    for part, is_end in ((data[:cut], False), (data[cut:], True)):
        got += deflate.decompress(part, is_end, True, math.inf)
        while deflate.has_more:
            got += deflate.decompress_more(math.inf)
    assert got == long + long[-20_000:]


@pytest.mark.parametrize("payload", [bytes(3_000_000), PAYLOAD * 500], ids=["zeros", "data"])
def test_a_step_makes_no_more_than_its_size(payload: bytes) -> None:
    """However little the message has on the wire."""
    data = flushed(zlib.compressobj(wbits=-15), payload)
    deflate = agreed()
    got = [deflate.decompress(data, True, True, math.inf)]
    while deflate.has_more:
        got.append(deflate.decompress_more(math.inf))
    assert max(map(len, got)) == MAX_INFLATED
    assert b"".join(got) == payload


@pytest.mark.parametrize("size", [1, 1999])
def test_the_limit_is_exact_after_a_final_block_that_fills_it(size: int) -> None:
    """The data after the block is not ignored."""
    data = final(PAYLOAD[:size]) + final(b"x")
    assert inflate(agreed(), data, True, size + 1) == PAYLOAD[:size] + b"x"
    assert code_of(agreed(), data, size) == 1009
    assert inflate(agreed(), final(PAYLOAD[:size]) + final(b""), True, size) == PAYLOAD[:size]


def test_the_number_of_final_blocks_in_one_frame_is_limited() -> None:
    assert (
        inflate(agreed(), final(b"x") * MAX_FINAL_BLOCKS, True, math.inf) == b"x" * MAX_FINAL_BLOCKS
    )
    assert code_of(agreed(), final(b"x") * (MAX_FINAL_BLOCKS + 1)) == 1002
    assert code_of(agreed(), final(b"x") * 1000, 10) == 1009  # whichever comes first
