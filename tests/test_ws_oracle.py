"""The reader of frames, compared with the websockets package: an oracle.

The same frames, valid and invalid, give the same messages and code. Our reader gets them in any
pieces. Where the two differ, a sentence of RFC 6455 or RFC 7692 decides: it stands in `Oracle`. The
package also reads the tables of `ws_tables`, which test the server in `test_ws_frames`.
"""

from __future__ import annotations

import codecs
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import examples
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close as TheirClose
from websockets.protocol import State
from websockets.server import ServerProtocol
from ws import (
    BINARY,
    CLOSE,
    CONTINUATION,
    INVALID_CODES,
    KEY,
    MASK,
    PING,
    PONG,
    RSV1,
    TEXT,
    VALID_CODES,
    close,
    fragments,
    frame,
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
    TRUNCATED_UTF8,
    VALID_UTF8,
    Case,
    Outcome,
    read,
)

from gunicorn_asgi.errors import ApplicationError
from gunicorn_asgi.websocket.close import close_payload
from gunicorn_asgi.websocket.deflate import Deflate
from gunicorn_asgi.websocket.negotiation import accept_key, negotiate_deflate
from gunicorn_asgi.websocket.share import WebSocketShare

has_oracle = pytest.mark.skipif(
    not hasattr(ServerProtocol(state=State.OPEN), "current_size"),
    reason="in this version of websockets, what is put right has other names",
)


@dataclass(frozen=True)
class Sent:
    """One frame of a client."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    mask: bytes | None = MASK
    width: int | None = None

    @property
    def data(self) -> bytes:
        return frame(
            self.opcode, self.payload, fin=self.fin, rsv=self.rsv, mask=self.mask, width=self.width
        )

    @property
    def is_minimal(self) -> bool:
        size = len(self.payload)
        return self.width in (None, 7 if size < 126 else 16 if size < 65536 else 64)


class Oracle:
    """The package's result, frame by frame, corrected where the RFC decides for our reader."""

    def __init__(self, limit: float, extension: PerMessageDeflate | None) -> None:
        self._limit = None if limit == math.inf else int(limit)
        self.protocol = ServerProtocol(state=State.OPEN, max_size=self._limit)
        self.protocol.extensions = [] if extension is None else [extension]
        self._utf8: codecs.IncrementalDecoder | None = None
        self._parts: list[Any] = []
        self.outcome = Outcome()

    def feed(self, sent: Sent) -> None:
        outcome, protocol = self.outcome, self.protocol
        if outcome.code is not None:
            return
        within = protocol.current_size is not None
        is_in_order = sent.opcode >= CLOSE or within == (sent.opcode == CONTINUATION)
        # The package counts a control frame against the limit of the message around it.
        # RFC 6455, 5.4: "the message" consists of data frames.
        protocol.max_message_size = None if sent.opcode >= CLOSE else self._limit
        if sent.opcode == CLOSE:
            # It refuses a Close within a message. 5.4: "Control frames MAY be injected in the
            # middle of a fragmented message."
            protocol.current_size = None
        protocol.receive_data(sent.data)
        self.take()
        if protocol.close_sent is not None and outcome.code is None:
            outcome.code = int(protocol.close_sent.code)
        if not sent.is_minimal:
            # It accepts any length. 5.2: "in all cases, the minimal number of bytes MUST be used to
            # encode the length".
            heard, pinged = self._counts
            del outcome.messages[heard:], outcome.pings[pinged:]
            outcome.code = 1002
        elif outcome.code == 1009 and (sent.rsv or not is_in_order):
            # Two faults in one frame, and no sentence decides between them: our reader checks
            # the first byte first.
            outcome.code = 1002

    def take(self) -> None:
        outcome = self.outcome
        self._counts = len(outcome.messages), len(outcome.pings)
        for event in self.protocol.events_received():
            if event.opcode == PING:
                outcome.pings.append(bytes(event.data))
            elif event.opcode in (CONTINUATION, TEXT, BINARY):
                self._take_data(event)

    def _take_data(self, event: Any) -> None:
        """The package leaves UTF-8 to its caller. 8.1: invalid UTF-8 must fail the connection."""
        if event.opcode != CONTINUATION:
            self._utf8 = codecs.getincrementaldecoder("utf-8")() if event.opcode == TEXT else None
            self._parts = []
        data = bytes(event.data)
        try:
            self._parts.append(data if self._utf8 is None else self._utf8.decode(data, event.fin))
        except UnicodeDecodeError:
            self.outcome.code = 1007
            return
        if event.fin:
            self.outcome.messages.append((b"" if self._utf8 is None else "").join(self._parts))


def ask(
    frames: Iterable[Sent], limit: float = math.inf, extension: PerMessageDeflate | None = None
) -> Outcome:
    oracle = Oracle(limit, extension)
    for sent in frames:
        oracle.feed(sent)
    return oracle.outcome


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut `data` into pieces of these lengths, and the rest."""
    pieces = []
    for size in cuts:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


# Frames.

TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(list(VALID_UTF8.values()))).map(str.encode)
INVALID = st.sampled_from([invalid for invalid, _ in INVALID_UTF8.values()])
PAYLOADS = st.one_of(
    TEXTS, INVALID, st.binary(max_size=20), st.sampled_from([124, 125, 126, 127, 300]).map(bytes)
)
MASKS = st.one_of(st.just(MASK), st.binary(min_size=4, max_size=4))
CODES = st.one_of(st.sampled_from([*VALID_CODES, *INVALID_CODES]), st.integers(0, 65535))
CLOSE_PAYLOADS = st.one_of(
    st.just(b""),
    st.builds(
        lambda code, reason: code.to_bytes(2, "big") + reason,
        CODES,
        st.one_of(TEXTS, INVALID, st.just(b"x" * 123), st.just(b"x" * 124)),
    ),
    st.binary(max_size=3),
)


@st.composite
def messages(draw: st.DrawFn) -> list[Sent]:
    """A valid message, except perhaps for its UTF-8: in fragments, with control frames between."""
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    data = draw(st.one_of(TEXTS, TEXTS, TEXTS, PAYLOADS))
    pieces = cut(data, draw(st.lists(st.integers(0, 8), max_size=4)))
    frames = []
    for number, piece in enumerate(pieces):
        frames.append(
            Sent(
                CONTINUATION if number else opcode,
                piece,
                number == len(pieces) - 1,
                mask=draw(MASKS),
            )
        )
        if number < len(pieces) - 1:
            frames += draw(st.lists(controls(), max_size=1))
    return frames


def controls() -> st.SearchStrategy[Sent]:
    return st.builds(Sent, st.sampled_from([PING, PONG]), st.binary(max_size=125), mask=MASKS)


def ends(fits: st.SearchStrategy[int]) -> st.SearchStrategy[Sent]:
    """A frame with one fault, or a Close. `fits`: the opcode of data that is valid here."""
    either = st.one_of(fits, fits, st.sampled_from([PING, PONG, CLOSE]))
    misplaced = st.sampled_from([CONTINUATION, TEXT, BINARY])
    return st.one_of(
        st.builds(Sent, st.just(CLOSE), CLOSE_PAYLOADS, mask=MASKS),
        st.builds(Sent, either, st.just(b""), rsv=st.integers(1, 7)),
        st.builds(Sent, either, st.binary(max_size=125), mask=st.none()),
        st.builds(
            Sent, st.sampled_from([3, 4, 5, 6, 7, 11, 12, 13, 14, 15]), st.binary(max_size=5)
        ),
        st.builds(Sent, either, st.binary(max_size=125), width=st.sampled_from([16, 64])),
        st.builds(Sent, fits, st.just(bytes(126)), width=st.just(64)),
        st.builds(Sent, misplaced, PAYLOADS, fin=st.booleans()),
        st.builds(
            Sent, st.sampled_from([CLOSE, PING, PONG]), st.binary(max_size=5), fin=st.just(False)
        ),
        st.builds(
            Sent, st.sampled_from([CLOSE, PING, PONG]), st.sampled_from([126, 127]).map(bytes)
        ),
        st.builds(
            Sent,
            fits,
            st.one_of(INVALID, st.sampled_from(list(TRUNCATED_UTF8.values()))),
            fin=st.booleans(),
        ),
        st.builds(Sent, fits, st.sampled_from([9, 29, 31, 124, 126]).map(bytes), fin=st.booleans()),
        frames_of_any_kind(),
    )


def frames_of_any_kind() -> st.SearchStrategy[Sent]:
    return st.builds(
        Sent,
        st.sampled_from([CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, 3, 15]),
        PAYLOADS,
        fin=st.booleans(),
        rsv=st.sampled_from([0, 0, 0, 1, 4]),
        mask=st.one_of(MASKS, MASKS, st.none()),
        width=st.sampled_from([None, None, 16, 64]),
    )


@st.composite
def sequences(draw: st.DrawFn) -> list[Sent]:
    """Valid messages and control frames, perhaps an incomplete message, a frame that is perhaps
    invalid, and further frames."""
    frames = [sent for part in draw(st.lists(PARTS, max_size=2)) for sent in part]
    begun = draw(
        st.sampled_from(
            [
                None,
                Sent(TEXT, "é".encode(), fin=False),
                Sent(TEXT, b"\xc3", fin=False),
                Sent(BINARY, b"b", fin=False),
            ]
        )
    )
    if begun is not None:
        frames += [begun, *draw(st.lists(controls(), max_size=1))]
    frames.append(
        draw(ends(st.sampled_from([TEXT, BINARY]) if begun is None else st.just(CONTINUATION)))
    )
    return frames + [sent for part in draw(st.lists(PARTS, max_size=1)) for sent in part]


PARTS = st.one_of(messages(), messages(), messages(), controls().map(lambda sent: [sent]))
CUTS = st.lists(st.one_of(st.integers(1, 3), st.integers(1, 200)), max_size=60)
LIMITS_OF_SIZE = st.sampled_from([math.inf, math.inf, 1 << 24, 125, 30, 10, 1])


@has_oracle
@settings(max_examples=examples(200), deadline=None)
@given(sequences(), CUTS, LIMITS_OF_SIZE)
@example([Sent(TEXT, b"a", fin=False), Sent(CLOSE, b"\x03\xe8")], [], math.inf)
@example([Sent(TEXT, b"a", fin=False), Sent(PING, b"x" * 9), Sent(CONTINUATION, b"")], [], 5)
@example([Sent(TEXT, b"a" * 10, fin=False), Sent(CONTINUATION, b"")], [], 10)
@example([Sent(BINARY, bytes(65535), width=64)], [], math.inf)
@example([Sent(PING, bytes(65536))], [], math.inf)
@example(
    [Sent(BINARY, bytes(65536)), Sent(TEXT, b"x" * 65535), Sent(PING)],
    [1, 1, 1, 1, 5, 4, 60000],
    math.inf,
)
def test_the_oracle_understands_the_same(frames: list[Sent], cuts: list[int], limit: float) -> None:
    """RFC 6455, 5 to 8."""
    data = b"".join(sent.data for sent in frames)
    expected = ask(frames, limit)
    assert read([data], limit) == expected
    assert read(cut(data, cuts), limit) == expected
    assert read(cut(data, cuts), limit, None, 1, WebSocketShare(math.inf)) == expected
    if len(data) < 500:
        assert read([b"%c" % byte for byte in data], limit) == expected


# permessage-deflate.

OFFERS = [
    b"permessage-deflate",
    b"permessage-deflate; client_no_context_takeover",
    b"permessage-deflate; client_max_window_bits=9; server_no_context_takeover",
]


class TheirDeflate(PerMessageDeflate):
    """The package's compression, which drops data after a block with BFINAL.

    RFC 7692, 7.2.1: "an endpoint MAY use" such blocks.
    """

    decoder: Any
    _has_seen_final = False

    def __delattr__(self, name: str) -> None:
        # Without context takeover, the package forgets its decompressor after each message.
        if name == "decoder":
            self._has_seen_final |= self.decoder.eof
        super().__delattr__(name)

    @property
    def has_seen_final_block(self) -> bool:
        return self._has_seen_final or getattr(getattr(self, "decoder", None), "eof", False)


def agree(offer: bytes) -> tuple[Deflate, TheirDeflate]:
    """Our compression and the package's, with the same parameters."""
    deflate = negotiate_deflate([(b"sec-websocket-extensions", offer)])
    assert deflate is not None
    forgets = b"client_no_context_takeover" in deflate.header
    bits = int(deflate.header.partition(b"client_max_window_bits=")[2].partition(b";")[0] or b"15")
    return deflate, TheirDeflate(forgets, False, bits, 15)


@st.composite
def compressed_sequences(draw: st.DrawFn, offer: bytes) -> list[Sent]:
    """Messages in fragments, compressed and not. Some are damaged."""
    bits = 9 if b"bits=9" in offer else 12
    compressor = zlib.compressobj(wbits=-bits)
    frames: list[Sent] = []
    for _ in range(draw(st.integers(1, 5))):
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        data = draw(st.one_of(TEXTS, PAYLOADS)) * draw(st.sampled_from([1, 1, 20, 200]))
        rsv = draw(st.sampled_from([RSV1, RSV1, RSV1, 0]))
        if rsv:
            if b"client_no_context_takeover" in offer:
                compressor = zlib.compressobj(wbits=-bits)
            data = (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
            if draw(st.integers(0, 4)) == 0:
                damaged = bytearray(data)
                damaged[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
                data = bytes(damaged)
        pieces = cut(data, draw(st.lists(st.integers(0, 30), max_size=3)))
        for number, piece in enumerate(pieces):
            frames.append(
                Sent(
                    CONTINUATION if number else opcode,
                    piece,
                    number == len(pieces) - 1,
                    0 if number else rsv,
                    mask=draw(MASKS),
                )
            )
            if number < len(pieces) - 1:
                frames += draw(st.lists(controls(), max_size=1))
    return frames


@has_oracle
@settings(max_examples=examples(150), deadline=None)
@given(st.data(), CUTS)
def test_the_oracle_inflates_the_same(data: st.DataObject, cuts: list[int]) -> None:
    """RFC 7692, 6 and 7. Without a limit: the package limits the compressed size, and takes a
    remaining size of 0 for no limit."""
    offer = data.draw(st.sampled_from(OFFERS))
    frames = data.draw(compressed_sequences(offer))
    deflate, extension = agree(offer)
    expected = ask(frames, math.inf, extension)
    assume(not extension.has_seen_final_block)  # damage may set its bit
    wire = b"".join(sent.data for sent in frames)
    assert read([wire], math.inf, deflate) == expected
    deflate, _ = agree(offer)
    assert read(cut(wire, cuts), math.inf, deflate) == expected
    deflate, _ = agree(offer)
    assert read(cut(wire, cuts), math.inf, deflate, 1, WebSocketShare(math.inf)) == expected


@settings(max_examples=examples(100), deadline=None)
@given(
    st.binary(min_size=1, max_size=300),
    st.integers(-2, 2),
    st.lists(st.integers(1, 40), max_size=4),
)
def test_the_limit_of_a_compressed_message_is_exact(
    data: bytes, more: int, cuts: list[int]
) -> None:
    """docs/asgi.md, 102: the decompressed size counts, in any number of frames."""
    deflate, _ = agree(OFFERS[0])
    data *= 8
    limit = len(data) + more
    payload = zlib.compressobj(wbits=-12)
    compressed = (payload.compress(data) + payload.flush(zlib.Z_SYNC_FLUSH))[:-4]
    outcome = read([fragments(BINARY, cut(compressed, cuts), rsv=RSV1)], limit, deflate)
    if more >= 0:
        assert outcome == Outcome([data])
    else:
        assert outcome == Outcome(code=1009)


# The tables of `ws_tables`.


def understand(case: Case, limit: int) -> Outcome:
    """Read bytes with the package, which are not a list of frames."""
    oracle = Oracle(limit, None)
    oracle.protocol.receive_data(case.data)
    oracle.take()
    close_sent = oracle.protocol.close_sent
    if oracle.outcome.code is None and close_sent is not None:
        oracle.outcome.code = int(close_sent.code)
    return oracle.outcome


DIFFERENT = {
    # RFC 6455, 5.2: "in all cases, the minimal number of bytes MUST be used to encode the length"
    "16 bits": HEADER,
    "64 bits": HEADER,
    "whose length is too long": HEADER,
    # 5.2: "the most significant bit MUST be 0"
    "2**6": HEADER,
    # 5.4: "Control frames MAY be injected in the middle of a fragmented message"
    "a Close within": FRAGMENTS,
    "a Close with a reason within": FRAGMENTS,
    # 7.4.1: "message that is too big", and control frames are not of the message (5.4)
    "control frames do not count": LIMITS,
    # waiting for the rest of an invalid frame is not forbidden, but takes memory
    "RSV1": HEADER,
    "RSV2": HEADER,
    "RSV3": HEADER,
    "two bytes": {**FRAGMENTS, **CONTROL},
}
"""Parts of the names of rows with another result in the package."""


@pytest.mark.parametrize(
    ("table", "limit"),
    [
        (HEADER, 1 << 24),
        (FRAGMENTS, 1 << 24),
        (CONTROL, 1 << 24),
        (CLOSES, 1 << 24),
        (LIMITS, LIMIT),
    ],
)
def test_the_package_agrees_with_the_tables(table: dict[str, Case], limit: int) -> None:
    """Except for the list above."""
    for name, case in table.items():
        outcome = understand(case, limit)
        expected = Outcome(
            list(case.messages), list(case.pongs), NO_CODE if case.close is None else case.close
        )
        if outcome != expected:
            assert any(
                part in name and name in different for part, different in DIFFERENT.items()
            ), (name, outcome)


@given(
    CODES,
    st.one_of(
        st.text(max_size=130), st.sampled_from(["é" * 61, "é" * 62, "x" * 123, "x" * 124, "\ud800"])
    ),
)
@settings(max_examples=examples(200), deadline=None)
def test_a_close_has_the_same_rules_both_ways(code: int, reason: str) -> None:
    """RFC 6455, 7.4 and 5.5: the application may send the codes that a client may send."""
    try:
        expected: bytes | None = TheirClose(code, reason).serialize()
    except (ProtocolError, UnicodeEncodeError):
        expected = None
    if expected is not None and len(expected) > 125:
        expected = None
    try:
        payload: bytes | None = close_payload(code, reason)
    except ApplicationError:
        payload = None
    assert payload == expected
    if payload is not None:
        assert read([frame(CLOSE, payload)]).code == code


def test_the_key_of_the_example_is_answered() -> None:
    """RFC 6455, 1.3."""
    assert accept_key(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_reading_stops_after_a_close() -> None:
    """RFC 6455, 5.5.1."""
    assert read([text("a") + close(1001) + text("b") + close(1000)]) == Outcome(["a"], [], 1001)
