"""permessage-deflate over the wire: RFC 7692, 5 to 7 (docs/asgi.md, 102)."""

from __future__ import annotations

import itertools
import random
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from gunicorn.config import Config
from inprocess import InProcess, serve
from tables import each
from ws import (
    BINARY,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    Deflate,
    Recorder,
    WebSocket,
    accepted,
    assert_accepted,
    binary,
    close,
    connect,
    cont,
    echo,
    fragments,
    frame,
    handshake,
    ping,
    pong,
    text,
)

pytestmark = pytest.mark.both_libraries

has_limit = pytest.mark.skipif(
    "websocket_max_message_size" not in Config().settings,
    reason="this Gunicorn has no such setting",
)

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate"
LEAST = 64
"""Bytes of the shortest compressed message."""


@pytest.fixture(scope="module")
def server(parser: str) -> Iterator[InProcess]:
    """An echo."""
    with ExitStack() as stack:
        yield stack.enter_context(serve(echo, parser))


def negotiate(server: InProcess, *offers: bytes) -> Deflate | None:
    """Return the server's answer to one line of offers, or to several."""
    client = server.connect()
    client.send(handshake(*(b"Sec-WebSocket-Extensions: " + offer for offer in offers)))
    deflate = accepted(client).deflate
    client.close()
    return deflate


# 7.1: the parameters.

SNCT, CNCT = b"server_no_context_takeover", b"client_no_context_takeover"
SBITS, CBITS = b"server_max_window_bits", b"client_max_window_bits"


def combinations() -> Iterator[bytes]:
    """Every combination of the parameters, and every number of bits."""
    for server_keeps, client_keeps in itertools.product((True, False), repeat=2):
        for server_bits in (b"", *(b"=%d" % bits for bits in (9, 10, 12, 15))):
            for client_bits in (None, b"", *(b"=%d" % bits for bits in (8, 9, 12, 15))):
                parameters = [b"permessage-deflate"]
                if not server_keeps:
                    parameters.append(SNCT)
                if server_bits:
                    parameters.append(SBITS + server_bits)
                if not client_keeps:
                    parameters.append(CNCT)
                if client_bits is not None:
                    parameters.append(CBITS + client_bits)
                yield b"; ".join(parameters)


def offered(offer: bytes) -> dict[bytes, bytes]:
    parameters = (part.strip().partition(b"=") for part in offer.split(b";")[1:])
    return {name.strip(): value.strip().strip(b'"') for name, _, value in parameters}


def assert_answers(deflate: Deflate | None, offer: bytes) -> None:
    """Check the answer to `offer` against RFC 7692, 7.1.1 and 7.1.2."""
    assert deflate is not None
    asked, told = offered(offer), deflate.parameters
    if SNCT in asked:
        assert SNCT in told, "7.1.1.1: the server accepts by including it"
    if SBITS in asked:
        assert SBITS in told, (
            "7.1.2.1: the server accepts by including it with the same or a smaller value"
        )
        assert int(told[SBITS]) <= int(asked[SBITS])
    if CBITS in told:
        assert CBITS in asked, "7.1.2.2: not if the offer has not"
        assert int(told[CBITS]) <= int(asked[CBITS] or b"15"), (
            "7.1.2.2: the same or a smaller value"
        )


def test_every_combination_of_parameters_is_answered(server: InProcess) -> None:
    for offer in combinations():
        assert_answers(negotiate(server, offer), offer)


@pytest.mark.parametrize("bits", range(9, 16))
def test_every_number_of_bits_is_accepted(server: InProcess, bits: int) -> None:
    for offer in (
        b"permessage-deflate; %b=%d" % (SBITS, bits),
        b"permessage-deflate; %b=%d" % (CBITS, bits),
    ):
        assert_answers(negotiate(server, offer), offer)


SPELLINGS = [
    b"permessage-deflate;server_no_context_takeover",
    b"permessage-deflate ; \t client_no_context_takeover",
    b'permessage-deflate; server_max_window_bits="10"',  # RFC 6455, 9.1: a token may be quoted
    b"permessage-deflate; server_max_window_bits = 10",
    b"permessage-deflate; client_max_window_bits; server_max_window_bits=10; client_no_context_takeover; server_no_context_takeover",
]


@pytest.mark.parametrize("offer", SPELLINGS)
def test_an_offer_may_have_any_order_and_white_space(server: InProcess, offer: bytes) -> None:
    """RFC 6455, 9.1, and RFC 9110, 5.6."""
    assert_answers(negotiate(server, offer), offer)


DECLINED = {
    # RFC 7692, 7.1: "has an unknown parameter", "an invalid value", "the same parameter more than
    # once"
    "an unknown parameter": b"permessage-deflate; foo",
    "an unknown parameter with a value": b"permessage-deflate; server_no_context_takeover; foo=1",
    "twice": b"permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    "twice the server's bits": b"permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
    "twice the client's bits": b"permessage-deflate; client_max_window_bits; client_max_window_bits=10",
    "a value where there is none": b"permessage-deflate; server_no_context_takeover=1",
    "a value where there is none, the client's": b"permessage-deflate; client_no_context_takeover=true",
    "no value where there is one": b"permessage-deflate; server_max_window_bits",
    **{
        f"the server's bits {value!r}": b"permessage-deflate; server_max_window_bits=" + value
        for value in (b"7", b"16", b"0", b"09", b"x", b"+9", b"1e1")
    },
    **{
        f"the client's bits {value!r}": b"permessage-deflate; client_max_window_bits=" + value
        for value in (b"7", b"16", b"0", b"010", b"x", b"-9")
    },
    # zlib cannot compress with so small a window, and 9 instead would break the agreement
    "the server's bits 8": b"permessage-deflate; server_max_window_bits=8",
    # not ours
    "another extension": b"permessage-bzip2",
    "an older extension": b"x-webkit-deflate-frame",
    "a longer name": b"permessage-deflate2",
}


@each("offer", DECLINED)
def test_an_offer_that_cannot_be_accepted_is_declined(server: InProcess, offer: bytes) -> None:
    """RFC 7692, 7.1: declined, not failed, and the connection is one without compression."""
    client = server.connect()
    client.send(handshake(b"Sec-WebSocket-Extensions: " + offer))
    ws = accepted(client)
    assert ws.deflate is None
    ws.send(text("a" * 200))
    assert ws.read_message() == "a" * 200
    ws.send(text("a", rsv=RSV1))
    assert ws.read_failure() == 1002


FALLBACKS = {
    # offers, and the index of the accepted one
    "the second": (
        [b"permessage-deflate; foo, permessage-deflate; server_max_window_bits=10"],
        b"permessage-deflate; server_max_window_bits=10",
    ),
    "the first": (
        [b"permessage-deflate; server_max_window_bits=9, permessage-deflate"],
        b"permessage-deflate; server_max_window_bits=9",
    ),
    "8 bits, then any": (
        [b"permessage-deflate; server_max_window_bits=8, permessage-deflate"],
        b"permessage-deflate",
    ),
    "behind another extension": (
        [b"foo; bar=1, permessage-deflate; client_no_context_takeover"],
        b"permessage-deflate; client_no_context_takeover",
    ),
    "in several lines": (
        [
            b"permessage-deflate; server_max_window_bits=16",
            b"foo",
            b"permessage-deflate; server_max_window_bits=11",
        ],
        b"permessage-deflate; server_max_window_bits=11",
    ),
    "the third": (
        [
            b"permessage-deflate; server_no_context_takeover=1, permessage-deflate; x, permessage-deflate; server_no_context_takeover"
        ],
        b"permessage-deflate; server_no_context_takeover",
    ),
    "a quoted value": (
        [b'foo; a="b"; c, permessage-deflate; server_max_window_bits="9"'],
        b"permessage-deflate; server_max_window_bits=9",
    ),
    "empty members": ([b", permessage-deflate ,,"], b"permessage-deflate"),
}


@pytest.mark.parametrize(("offers", "taken"), FALLBACKS.values(), ids=FALLBACKS.keys())
def test_the_first_acceptable_offer_is_taken(
    server: InProcess, offers: list[bytes], taken: bytes
) -> None:
    """RFC 7692, 5 and 7.1: the client's order of preference, in all lines (RFC 6455, 11.3.2)."""
    deflate = negotiate(server, *offers)
    assert_answers(deflate, taken)
    assert deflate is not None
    assert deflate.server_bits <= int(offered(taken).get(SBITS, b"15"))


MALFORMED = [
    b"permessage-deflate; =1",
    b"permessage-deflate; a=",
    b";",
    b"permessage-deflate;;",
    b"permessage-deflate; a b",
    b'permessage-deflate; a="b',
]


@pytest.mark.parametrize("offer", MALFORMED)
def test_a_field_that_breaks_the_grammar_is_refused(server: InProcess, offer: bytes) -> None:
    """RFC 6455, 9.1: "MUST immediately _Fail the WebSocket Connection_"."""
    client = server.connect()
    client.send(handshake(b"Sec-WebSocket-Extensions: " + offer))
    assert client.read_response().status == 400
    assert client.read_rest() == b""
    server.log.take("warning")


def test_compression_can_be_switched_off(parser: str) -> None:
    """``ws_per_message_deflate``."""
    with serve(echo, parser, ws_per_message_deflate=False) as server:
        ws = connect(server, OFFER)
        assert ws.deflate is None
        ws.send(text("a" * 1000))
        assert ws.read_message() == "a" * 1000
        ws.send(text("a", rsv=RSV1))
        assert ws.read_failure() == 1002


def test_without_an_offer_there_is_no_compression(server: InProcess) -> None:
    """docs/asgi.md, 102."""
    client = server.connect()
    client.send(handshake())
    response = client.read_head()
    assert_accepted(response)
    assert not response.values(b"sec-websocket-extensions")


# 7.2: messages, with the agreed parameters. The client's zlib has the agreed window, and raises if
# the server has used a larger one.

SOURCE = random.Random(7692)
NOISE = SOURCE.randbytes(3000)
SAMPLES: list[str | bytes] = [
    "",
    b"",
    "x",
    "a" * LEAST,
    "é☃𐍈" * 500,
    NOISE,
    # each repeats itself at a distance that only some windows cover
    *(NOISE[:distance] * 4 for distance in (300, 600, 1200, 2400)),
    SOURCE.randbytes(5000) * 2,
    SOURCE.randbytes(9000) * 2,
    bytes(70_000),
    " ".join(str(number) for number in range(1000)),
]


@each("offer", list(combinations()))
def test_messages_go_both_ways_within_the_agreed_windows(
    server: InProcess, parser: str, offer: bytes
) -> None:
    """RFC 7692, 7.1 and 7.2: window bits and context takeover, both ways."""
    if parser == "httptools" and SBITS in offer and CBITS in offer:
        return  # the loop has no part in it
    client = server.connect()
    client.send(handshake(b"Sec-WebSocket-Extensions: " + offer))
    ws = accepted(client)
    for sample in SAMPLES:
        ws.send_compressed(sample)
        assert ws.read_message() == sample
    for sample in ("again" * 50, "again" * 50):
        ws.send_compressed(sample)
        assert ws.read_message() == sample
    assert ws.close() == (1000, "")


def test_without_bits_in_the_answer_a_client_uses_the_largest_window(server: InProcess) -> None:
    """RFC 7692, 7.1.2.2: without the parameter, the window has 32,768 bytes."""
    ws = connect(server, OFFER)
    assert ws.deflate is not None
    assert ws.deflate.client_bits == 15
    block = SOURCE.randbytes(16_000)
    for data in (block + block, block):
        ws.send_compressed(data)
        assert ws.read_message() == data


def sizes(ws: WebSocket, data: bytes, count: int = 2) -> list[int]:
    """Return the sizes of the server's frames for the same message, sent repeatedly."""
    found = []
    for _ in range(count):
        ws.send(binary(data))
        got = ws.read_frame()
        assert got.is_compressed
        assert got.fin
        assert ws.deflate is not None
        assert ws.deflate.decompress(got.payload) == data
        found.append(len(got.payload))
    return found


def test_the_server_keeps_its_context_unless_agreed_otherwise(server: InProcess) -> None:
    """RFC 7692, 7.1.1.1: with a context, the second of two equal messages is shorter."""
    data = SOURCE.randbytes(200)
    first, second = sizes(connect(server, OFFER + b"; server_no_context_takeover"), data)
    assert first == second
    ws = connect(server, OFFER)
    first, second = sizes(ws, data)
    assert ws.deflate is not None
    assert (second < 50) == ws.deflate.server_keeps


def test_short_messages_are_not_compressed(server: InProcess) -> None:
    """RFC 7692, 6: "An endpoint MAY send messages uncompressed". Compression would enlarge them."""
    ws = connect(server, OFFER)
    for length in (0, 1, LEAST - 1):
        ws.send(text("a" * length))
        got = ws.read_frame()
        assert (got.is_compressed, got.payload) == (False, b"a" * length)
    for length in (LEAST, 1000, 100_000):
        ws.send(text("a" * length))
        got = ws.read_frame()
        assert got.is_compressed
        assert len(got.payload) < length
        assert ws.deflate is not None
        assert ws.deflate.decompress(got.payload) == b"a" * length


def test_messages_that_are_not_compressed_come_between(server: InProcess) -> None:
    """RFC 7692, 6. They do not change the contexts."""
    ws = connect(server, OFFER)
    for number in range(5):
        for data in (f"compressed {number}" * 20, f"plain {number}" * 20):
            if data.startswith("plain"):
                ws.send(text(data))
                ws.send(fragments(TEXT, [data[:10].encode(), data[10:].encode()]))
                assert ws.read_message() == data
            else:
                ws.send_compressed(data)
            assert ws.read_message() == data


@pytest.mark.parametrize("read_size", [0, 1])
@pytest.mark.parametrize("offer", [OFFER, OFFER + b"; client_no_context_takeover"])
def test_a_compressed_message_is_cut_anywhere(parser: str, offer: bytes, read_size: int) -> None:
    """RFC 7692, 6.1 and 7.2.1: RSV1 on the first frame, control frames between, empty frames."""
    with serve(echo, parser, read_size=read_size if parser == "h11" else 0) as server:
        ws = connect(server, offer)
        assert ws.deflate is not None
        message = "a message that is é☃𐍈 " * 3
        for cut in range(30):
            data = ws.deflate.compress(message.encode())
            parts = [data[:cut], b"", data[cut:]] if cut % 2 else [data[:cut], data[cut:], b""]
            ws.send(fragments(TEXT, parts, ping(b"%d" % cut) + pong(), rsv=RSV1))
            assert ws.read_message() == message
        assert ws.pongs == [b"%d" % cut for cut in range(30) for _ in range(2)]
        data = ws.deflate.compress(message.encode())
        ws.send(fragments(TEXT, [b"%c" % byte for byte in data], rsv=RSV1))
        assert ws.read_message() == message


EXAMPLES: dict[str, tuple[list[bytes], list[str]]] = {
    # payloads of whole messages
    "7.2.3.1: one compressed block": ([bytes.fromhex("f248cdc9c90700")], ["Hello"]),
    "7.2.3.2: sharing the window": (
        [bytes.fromhex("f248cdc9c90700"), bytes.fromhex("f200110000")],
        ["Hello", "Hello"],
    ),
    "7.2.3.3: no compression": ([bytes.fromhex("000500faff48656c6c6f00")], ["Hello"]),
    "7.2.3.4: BFINAL": ([bytes.fromhex("f348cdc9c9070000")], ["Hello"]),
    "7.2.3.4: BFINAL, and messages behind it": (
        [
            bytes.fromhex("f348cdc9c9070000"),
            bytes.fromhex("f248cdc9c90700"),
            bytes.fromhex("f348cdc9c9070000"),
        ],
        ["Hello", "Hello", "Hello"],
    ),
    "7.2.3.5: two blocks": (
        [bytes.fromhex("f248050000 00ffff cac9c90700".replace(" ", ""))],
        ["Hello"],
    ),
    "7.2.3.6: an empty message": (
        [b"\0", b"\0", bytes.fromhex("f248cdc9c90700")],
        ["", "", "Hello"],
    ),
    "7.2.1: blocks behind one with BFINAL": (
        [bytes.fromhex("f348cdc9c90700f248cdc9c90700")],
        ["HelloHello"],
    ),
    "an empty block with BFINAL": (
        [bytes.fromhex("030000"), bytes.fromhex("f248cdc9c90700")],
        ["", "Hello"],
    ),
}


@pytest.mark.parametrize(("payloads", "expected"), EXAMPLES.values(), ids=EXAMPLES.keys())
def test_the_examples_of_rfc_7692(
    server: InProcess, payloads: list[bytes], expected: list[str]
) -> None:
    """RFC 7692, 7.2.3: also in two frames each, and without context takeover if they allow it."""
    for offer in (OFFER, OFFER + b"; client_no_context_takeover"):
        if len(payloads) > 1 and payloads[1].startswith(b"\xf2\0") and offer != OFFER:
            continue
        for cut in (0, 2, 3, 7):
            ws = connect(server, offer)
            for payload, message in zip(payloads, expected, strict=True):
                ws.send(
                    fragments(TEXT, [payload[:cut], payload[cut:]], ping(), rsv=RSV1)
                    if cut
                    else text(payload, rsv=RSV1)
                )
                assert ws.read_message() == message
            ws.client.close()


# Refused messages.


def deflated(data: bytes, final: bool = False) -> bytes:
    """Compress one message, without any context."""
    compressor = zlib.compressobj(9, wbits=-15)
    if final:
        return compressor.compress(data) + compressor.flush(zlib.Z_FINISH) + b"\0"
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


HELLO = deflated(b"Hello")
SYNC = b"\0\0\xff\xff"
"""The end of a message that a sender omits (RFC 7692, 7.2.1)."""
FAILURES: dict[str, tuple[bytes, set[int]]] = {
    # RFC 7692, 6: only the first frame of a message, and no control frame
    "RSV1 on a continuation": (
        text(HELLO[:3], rsv=RSV1, fin=False) + cont(HELLO[3:], rsv=RSV1),
        {1002},
    ),
    "RSV1 on a continuation only": (text("a", fin=False) + cont(HELLO, rsv=RSV1), {1002}),
    "RSV1 on a ping": (ping(b"x", rsv=RSV1), {1002}),
    "RSV1 on a pong": (pong(b"x", rsv=RSV1), {1002}),
    "RSV1 on a Close": (close(1000, rsv=RSV1), {1002}),
    "RSV1 on a ping within a message": (
        text(HELLO[:3], rsv=RSV1, fin=False) + ping(rsv=RSV1),
        {1002},
    ),
    "RSV1 and RSV2": (text(HELLO, rsv=RSV1 | RSV2), {1002}),
    "RSV2": (text("a", rsv=RSV2), {1002}),
    "RSV3": (text("a", rsv=RSV3), {1002}),
    "a text within a compressed text": (text(HELLO[:3], rsv=RSV1, fin=False) + text("a"), {1002}),
    # invalid DEFLATE
    "a reserved type of block": (text(b"\x07\x00", rsv=RSV1), {1002, 1007}),
    "a stored block whose lengths differ": (
        binary(b"\x00\x05\x00\x00\x00hello", rsv=RSV1),
        {1002, 1007},
    ),
    "a distance beyond the beginning": (
        binary(bytes.fromhex("f200110000"), rsv=RSV1),
        {1002, 1007},
    ),
    "a tree that is none": (binary(b"\x04\xff\xff\xff\xff\xff\xff", rsv=RSV1), {1002, 1007}),
    "bad data in the second frame": (
        fragments(BINARY, [HELLO + SYNC, b"\x07\x00"], rsv=RSV1),
        {1002, 1007},
    ),
    "bad data in a long message": (
        binary(deflated(NOISE)[:2500] + b"\xff" * 2500, rsv=RSV1),
        {1002, 1007},
    ),
    "final blocks without end": (
        binary(deflated(b"x", final=True)[:-1] * 1000, rsv=RSV1),
        {1002, 1007},
    ),
    # RFC 6455, 8.1, after decompression
    "no UTF-8": (text(deflated(b"caf\xe9 au lait"), rsv=RSV1), {1007}),
    "no UTF-8, in frames": (
        fragments(TEXT, [b"%c" % byte for byte in deflated(b"caf\xe9 au lait" * 5)], rsv=RSV1),
        {1007},
    ),
    "a character that is not whole": (text(deflated(b"abc\xe2\x82"), rsv=RSV1), {1007}),
}


@pytest.mark.parametrize(("data", "codes"), FAILURES.values(), ids=FAILURES.keys())
def test_invalid_compressed_messages_are_refused(parser: str, data: bytes, codes: set[int]) -> None:
    """RFC 7692, 6 and 7.2.2. The application receives the client's code."""
    app = Recorder()
    with serve(app, parser) as server:
        ws = connect(server, OFFER)
        ws.send(data + text("late") + ping())
        code = ws.read_failure()
        assert code in codes
        server.wait_until(lambda: app.ended)
        assert app.messages == {"/": []}
        assert app.ended["/"][0] == code


# The limit is on the decompressed size.

LIMIT = 100_000


@pytest.fixture(scope="module")
def limited(parser: str) -> Iterator[InProcess]:
    """An echo with a limit."""
    with ExitStack() as stack:
        yield stack.enter_context(serve(echo, parser, websocket_max_message_size=LIMIT))


EXACT = {
    "zeros": bytes(LIMIT),
    "noise": SOURCE.randbytes(LIMIT),
    "words": (b"word %d " * 20_000 % tuple(range(20_000)))[:LIMIT],
    "short": None,
}


@has_limit
@pytest.mark.parametrize("kind", [name for name in EXACT if name != "short"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_message_as_large_as_allowed_is_accepted(
    limited: InProcess, kind: str, count: int
) -> None:
    """Compressible or not, and in any number of frames."""
    data = EXACT[kind]
    assert data is not None
    ws = connect(limited, OFFER)
    assert ws.deflate is not None
    for _ in range(2):
        payload = ws.deflate.compress(data)
        step = -(-len(payload) // count)
        ws.send(
            fragments(
                BINARY,
                [payload[start : start + step] for start in range(0, len(payload), step)],
                ping(),
                rsv=RSV1,
            )
        )
        assert ws.read_message() == data


@has_limit
@pytest.mark.parametrize("extra", [1, 100, 50_000])
@pytest.mark.parametrize("kind", ["zeros", "noise", "words"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_message_larger_than_allowed_is_refused(
    limited: InProcess, kind: str, count: int, extra: int
) -> None:
    """RFC 7692, 8; docs/asgi.md, 102: the decompressed size counts."""
    data = EXACT[kind]
    assert data is not None
    ws = connect(limited, OFFER)
    payload = deflated(data + data[:extra])
    step = -(-len(payload) // count)
    ws.send(
        fragments(
            BINARY,
            [payload[start : start + step] for start in range(0, len(payload), step)],
            rsv=RSV1,
        )
    )
    assert ws.read_failure() == 1009


@has_limit
def test_frames_that_announce_more_than_a_message_can_be_are_refused_before_their_payload(
    limited: InProcess,
) -> None:
    """No compression makes a message ten times as large."""
    for length in (10 * LIMIT, 1 << 40, (1 << 63) - 1):
        ws = connect(limited, OFFER)
        ws.send(binary(length=length, rsv=RSV1))
        assert ws.read_failure() == 1009


BOMB = deflated(bytes(50 << 20))
"""50 KiB that become 50 MiB."""


@has_limit
@pytest.mark.parametrize(
    "data",
    [
        frame(BINARY, BOMB, rsv=RSV1),
        frame(TEXT, BOMB, rsv=RSV1),
        fragments(BINARY, [BOMB[:100], BOMB[100:]], rsv=RSV1),
        frame(BINARY, BOMB, rsv=RSV1, fin=False),
        fragments(BINARY, [b"", BOMB], rsv=RSV1),
        # full to the last byte: the remaining limit is 0, for some implementations no limit
        fragments(
            BINARY,
            [
                (zlib_ := zlib.compressobj(9, wbits=-15)).compress(bytes(LIMIT))
                + zlib_.flush(zlib.Z_SYNC_FLUSH),
                BOMB,
            ],
            rsv=RSV1,
        ),
        frame(BINARY, deflated(bytes(LIMIT), final=True)[:-1] + BOMB, rsv=RSV1),
    ],
    ids=[
        "a frame",
        "a text",
        "two frames",
        "not the last",
        "an empty one first",
        "behind a full message",
        "behind BFINAL",
    ],
)
def test_a_bomb_is_stopped_at_the_limit(limited: InProcess, data: bytes) -> None:
    """docs/asgi.md, 102: 1009. The memory depends on the limit and not on the bomb."""
    ws = connect(limited, OFFER)
    tracemalloc.start()
    try:
        ws.send(data)
        assert ws.read_failure() == 1009
        assert tracemalloc.get_traced_memory()[1] < 20 * LIMIT + 4 * len(data)
    finally:
        tracemalloc.stop()


@has_limit
def test_the_limit_holds_for_messages_that_are_not_compressed(limited: InProcess) -> None:
    ws = connect(limited, OFFER)
    ws.send(binary(bytes(LIMIT), mask=bytes(4)))
    assert ws.read_message() == bytes(LIMIT)
    ws.send(binary(length=LIMIT + 1))
    assert ws.read_failure() == 1009


def test_control_frames_are_never_compressed(server: InProcess) -> None:
    """RFC 7692, 6. The test client refuses such frames."""
    ws = connect(server, OFFER)
    ws.send(ping(b"a" * 125))
    assert ws.read_pong() == b"a" * 125
    assert ws.close(1000, "a" * 123)[0] == 1000


def test_a_sent_message_is_compressed_as_a_whole(parser: str) -> None:
    """One message, one frame: large ones, too, in both types."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": NOISE * 1000})
        await send({"type": "websocket.send", "text": "é" * 500_000})
        await receive()

    with serve(app, parser) as server:
        ws = connect(server, OFFER)
        assert ws.read_message() == NOISE * 1000
        assert ws.read_message() == "é" * 500_000
        ws.close()
