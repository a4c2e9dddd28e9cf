"""The protocol beside the h2 package's server side, which is the oracle: the same frames, legal and not, give the same requests and errors.

They are given to ours in any pieces. Where the two differ, RFC 9113, 7541 or 8441 decides, in `Oracle`, by the sentence that stands there. Of the
tables of `h2tables`, the package is asked for its opinion, too. And the other way round: whatever ours sends, the package's client side
takes, and what it receives is what was sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from importlib.metadata import version
from typing import Any

import pytest
from conftest import examples
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import (
    FlowControlError,
    InvalidBodyLengthError,
    ProtocolError,
    TooManyStreamsError,
)
from h2.settings import Settings
from h2.stream import StreamClosedBy, StreamState
from h2protocol import LIMITS, begin, encode, goaways, make, receive, take
from h2raw import frame
from h2tables import GET, MALFORMED, REFUSED, WEBSOCKET, having
from hypothesis import given, settings
from hypothesis import strategies as st

from gunicorn_asgi.frozen import replace
from gunicorn_asgi.http2 import frames
from gunicorn_asgi.http2.events import (
    Failed,
    GoawayAcknowledged,
    GoawayReceived,
    Malformed,
    Opened,
    Received,
    Refused,
    Reset,
)
from gunicorn_asgi.http2.frames import (
    DEFAULT_WINDOW_SIZE,
    END_HEADERS,
    END_STREAM,
    HAS_PRIORITY,
    MAX_WINDOW_SIZE,
    PADDED,
    ErrorCode,
    FrameType,
)
from gunicorn_asgi.http2.limits import HTTP2Limits
from gunicorn_asgi.http2.literals import encode_fields
from gunicorn_asgi.http2.stream import STREAM_CLOSED, Stream

(
    DATA,
    HEADERS,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    PUSH_PROMISE,
    PING,
    GOAWAY,
    WINDOW_UPDATE,
    CONTINUATION,
) = FrameType

Header = tuple[bytes, bytes]
OWN = replace(LIMITS, max_streams=3, window=DEFAULT_WINDOW_SIZE)


@dataclass(frozen=True)
class Sent:
    """One frame of a client, or a HEADERS with its CONTINUATIONs."""

    kind: int
    stream: int
    payload: bytes = b""
    flags: int = 0
    fault: str = ""
    """What h2 and ours do not see in the same way, and cannot be told from the rest: "malformed", "refused", "short"..."""
    is_request: bool = False
    on_itself: bool = False
    """Its stream depends on itself."""
    cuts: tuple[int, ...] = ()
    """Where a field block goes on in another frame."""

    @property
    def data(self) -> bytes:
        if not self.cuts:
            return frame(self.kind, self.flags, self.stream, self.payload)
        points = sorted({min(cut, len(self.payload)) for cut in self.cuts})
        pieces = [
            self.payload[start:end]
            for start, end in zip([0, *points], [*points, None], strict=True)
        ]
        first = frame(self.kind, self.flags & ~END_HEADERS, self.stream, pieces[0])
        middle = [frame(CONTINUATION, 0, self.stream, piece) for piece in pieces[1:-1]]
        return b"".join([first, *middle, frame(CONTINUATION, END_HEADERS, self.stream, pieces[-1])])

    @property
    def content(self) -> bytes:
        """Of DATA: the payload without its padding."""
        if not self.flags & PADDED:
            return self.payload
        return self.payload[1 : len(self.payload) - self.payload[0]]

    @property
    def ends(self) -> bool:
        return bool(self.flags & END_STREAM)


@dataclass(frozen=True)
class Answer:
    """What the server does between two frames, on a stream that is open: a head, its end, or a reset."""

    stream: int
    kind: str


@dataclass
class Verdict:
    """What one frame came to."""

    connection: int | None = None
    """The code of the error that has ended it."""
    resets: list[tuple[int, int]] = field(default_factory=list)
    """(stream, code) of each stream error."""
    told: list[tuple[Any, ...]] = field(default_factory=list)
    """What the server hears."""
    replies: list[tuple[int, int, bytes]] = field(default_factory=list)
    """(type, flags, payload) of acknowledgements."""


def answers(verdict: Verdict, data: bytes) -> Verdict:
    """`verdict` with what was sent."""
    found: list[frames.Frame] = []
    frames.FrameBuffer(1 << 24).read(data, found)
    for kind, flags, stream, payload in found:
        if kind == GOAWAY:
            verdict.connection = int.from_bytes(payload[4:8], "big")
        elif kind == RST_STREAM:
            verdict.resets.append((stream, int.from_bytes(payload, "big")))
        elif kind in (SETTINGS, PING):
            verdict.replies.append((kind, flags, payload))
    return verdict


class Ours:
    """The protocol, and what its server would do."""

    def __init__(self, limits: HTTP2Limits = OWN) -> None:
        self.protocol = begin(limits)
        self.answered: set[int] = set()

    def feed(self, pieces: Iterable[bytes]) -> Verdict:
        verdict = Verdict()
        for piece in pieces:
            verdict.told += [
                told for event in receive(self.protocol, piece, 1e9) for told in self._tell(event)
            ]
        return answers(verdict, self.sent())

    def _tell(self, event: Any) -> Iterable[tuple[Any, ...]]:
        match event:
            case Opened(stream, (method, _, raw_path, query, read), has_ended):
                target = raw_path + (b"?" + query if query else b"")
                yield "request", stream.id, method.encode(), target, read.headers, has_ended
            case Refused(stream, _, _):
                yield "refused", stream.id
            case Received(stream, data, has_ended):
                yield "body", stream.id, data, has_ended
            case Reset(stream, code, None):
                yield "reset", stream.id, code
            case GoawayReceived():
                yield ("leaving",)
            case _:
                assert isinstance(event, (Failed, Malformed, Reset, GoawayAcknowledged))

    def act(self, answer: Answer) -> bool:
        """Returns whether it could."""
        stream = self.protocol.streams.active.get(answer.stream)
        if (
            stream is None
            or stream.send_queue.has_end_stream
            or (answer.kind == "end" and stream.id not in self.answered)
        ):
            return False
        if answer.kind == "reset":
            self.protocol.streams.reset(stream, ErrorCode.CANCEL)
        elif answer.kind == "end":
            self.protocol.streams.send_data(stream, b"", True)
        elif stream.id in self.answered:
            return False
        else:
            self.protocol.streams.send_head(stream, b"\x88", answer.kind == "whole")
            self.answered.add(stream.id)
        self.sent()
        return True

    def sent(self) -> bytes:
        data = b"".join(self.protocol.outbox.frames)
        self.protocol.outbox.frames.clear()
        return data


class Oracle:
    """The package, put right where the RFC is on our side."""

    def __init__(self) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        initial = {
            frames.MAX_CONCURRENT_STREAMS: 3,
            frames.MAX_HEADER_LIST_SIZE: 65536,
            frames.ENABLE_CONNECT_PROTOCOL: 1,
        }
        self.h2.local_settings = Settings(client=False, initial_values=initial)
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(OWN.connection_window - DEFAULT_WINDOW_SIZE)
        self.h2.receive_data(frames.PREFACE + frames.settings([]) + frames.SETTINGS_ACK)
        self.h2.data_to_send()
        self.reset_too: set[int] = set()
        """Streams of which both sides have sent RST_STREAM. 5.1: then nothing is on its way any more."""
        self.tunnels: set[int] = set()
        """Streams of an extended CONNECT."""
        self.answered: set[int] = set()
        """Streams whose response has begun. Their clients may end before the end of their content, as curl does."""
        self.is_over = False
        """It has nothing to say any more."""

    def act(self, answer: Answer) -> None:
        if answer.kind == "reset":
            self.h2.reset_stream(answer.stream, ErrorCode.CANCEL)
        elif answer.kind == "end":
            self.h2.end_stream(answer.stream)
        else:
            self.answered.add(answer.stream)
            self.h2.send_headers(
                answer.stream, [(b":status", b"200")], end_stream=answer.kind == "whole"
            )
        self.h2.data_to_send()

    def feed(self, sent: Sent) -> Verdict:
        if sent.kind == RST_STREAM and self._state(sent.stream) == "reset by us":
            self.reset_too.add(sent.stream)
        state, is_short = self._state(sent.stream), self._is_short(sent.stream)
        error: ProtocolError | None = None
        verdict = Verdict()
        try:
            verdict.told = [
                told
                for event in self.h2.receive_data(sent.data)
                for told in self._tell(event, sent)
            ]
        except ProtocolError as raised:
            error = raised
        verdict = answers(verdict, self.h2.data_to_send())
        self.tunnels.update(
            told[1] for told in verdict.told if told[0] == "request" and told[2] == b"CONNECT"
        )
        if (
            state == "open"
            and sent.kind == HEADERS
            and sent.ends
            and is_short
            and sent.stream not in self.answered
        ):
            sent = replace_fields(sent, fault=sent.fault or "malformed")
        right = self._put_right(sent, state, error, verdict)
        self.is_over = error is not None or right is not verdict or sent.kind == GOAWAY
        return right

    def _tell(self, event: Any, sent: Sent) -> Iterable[tuple[Any, ...]]:
        if isinstance(event, RequestReceived):
            if sent.fault == "refused":
                yield "refused", event.stream_id
                return
            fields = [(bytes(name), bytes(value)) for name, value in event.headers]
            pseudo = dict(field for field in fields if field[0][:1] == b":")
            plain = [field for field in fields if field[0][:1] != b":"]
            yield (
                *("request", event.stream_id, pseudo[b":method"], pseudo[b":path"]),
                *([(b"host", pseudo[b":authority"]), *plain], event.stream_ended is not None),
            )
        elif isinstance(event, DataReceived):
            if event.data or event.stream_ended:
                yield "body", event.stream_id, event.data, event.stream_ended is not None
        elif isinstance(event, TrailersReceived):
            yield "body", event.stream_id, b"", True
        elif isinstance(event, StreamReset):
            if event.remote_reset:
                yield "reset", event.stream_id, int(event.error_code)
        elif isinstance(event, ConnectionTerminated):
            yield ("leaving",)

    def _state(self, id_: int) -> str:
        """Of RFC 9113, 5.1, and how a stream that is closed came to be."""
        h2 = self.h2
        if id_ in h2.streams and not h2.streams[id_].closed:
            return (
                "ended by the client"
                if h2.streams[id_].state_machine.state is StreamState.HALF_CLOSED_REMOTE
                else "open"
            )
        if id_ % 2 == 0 or id_ > h2.highest_inbound_stream_id:
            return "idle"
        if id_ in self.reset_too:
            return "reset by the client"
        return {
            StreamClosedBy.SEND_RST_STREAM: "reset by us",
            StreamClosedBy.RECV_RST_STREAM: "reset by the client",
            None: "skipped",
        }.get(h2._stream_closed_by(id_), "ended")

    def _put_right(
        self, sent: Sent, state: str, error: ProtocolError | None, verdict: Verdict
    ) -> Verdict:
        kind, id_ = sent.kind, sent.stream
        is_there = state in ("open", "ended by the client")
        if kind == HEADERS and id_ % 2:
            return self._put_headers_right(sent, state, error, verdict)
        if kind == DATA and id_ % 2:
            return self._put_data_right(sent, state, error, verdict)
        if kind == PRIORITY and id_ and error is not None:
            # It takes both for errors of the connection. 6.3: "A PRIORITY frame with a length other than 5 octets MUST be treated as a stream error
            # of type FRAME_SIZE_ERROR"; RFC 7540, 5.3.1: "An endpoint MUST treat this as a stream error of type PROTOCOL_ERROR". Only an idle
            # stream cannot be reset (6.4).
            code = int(error.error_code)
            return Verdict(connection=code) if state == "idle" else Verdict(resets=[(id_, code)])
        if kind == RST_STREAM and len(sent.payload) == 4 and id_ and state == "idle":
            # It does not mind. 6.4: "If a RST_STREAM frame identifying an idle stream is received, the recipient MUST treat this as a connection
            # error of type PROTOCOL_ERROR."
            return Verdict(connection=ErrorCode.PROTOCOL_ERROR)
        if (
            kind == WINDOW_UPDATE
            and len(sent.payload) == 4
            and sent.payload[0] & 0x80
            and error is not None
        ):
            # It counts the bit that is reserved (6.9). 4.1 and 6.9: such a bit "MUST be ignored when receiving".
            return verdict if state == "idle" else Verdict()
        if kind == WINDOW_UPDATE and id_ and sent.payload == bytes(4):
            # It takes that for an error of the connection. 6.9: "A receiver MUST treat the receipt of a WINDOW_UPDATE frame with a flow-control
            # window increment of 0 as a stream error of type PROTOCOL_ERROR"; and of streams that are gone, as above.
            return (
                Verdict(resets=[(id_, ErrorCode.PROTOCOL_ERROR)])
                if is_there
                else Verdict()
                if state != "idle"
                else verdict
            )
        if kind == SETTINGS and id_ == 0 and sent.flags & frames.ACK and sent.payload:
            # It has PROTOCOL_ERROR. 6.5: "Receipt of a SETTINGS frame with the ACK flag set and a length field value other than 0 MUST be treated as
            # a connection error of type FRAME_SIZE_ERROR."
            return Verdict(connection=ErrorCode.FRAME_SIZE_ERROR)
        if kind == CONTINUATION:
            # It looks at the stream. 6.10: "A recipient that observes violation of this rule MUST respond with a connection error of type
            # PROTOCOL_ERROR."
            return Verdict(connection=ErrorCode.PROTOCOL_ERROR)
        return verdict

    def _put_headers_right(
        self, sent: Sent, state: str, error: ProtocolError | None, verdict: Verdict
    ) -> Verdict:
        id_ = sent.stream
        if sent.fault == "compression":
            # 4.3: "A decoding error in a field block MUST be treated as a connection error of type COMPRESSION_ERROR", also above a limit, and on
            # a stream that is closed; it has PROTOCOL_ERROR.
            return Verdict(connection=ErrorCode.COMPRESSION_ERROR)
        if sent.fault == "frame":
            return verdict
        if state == "reset by us":
            # 5.1: after sending RST_STREAM, "an endpoint MUST minimally process and then discard any frames it receives"
            return Verdict()
        if isinstance(error, TooManyStreamsError):
            if state == "idle":
                # 5.1.2: "MUST treat this as a stream error of type PROTOCOL_ERROR or REFUSED_STREAM"
                return Verdict(resets=[(id_, ErrorCode.REFUSED_STREAM)])
            # It looks at the limit first, though no stream would be opened.
            if state == "reset by the client":
                return Verdict(resets=[(id_, ErrorCode.STREAM_CLOSED)])
            return Verdict(
                connection=ErrorCode.STREAM_CLOSED if state == "ended" else ErrorCode.PROTOCOL_ERROR
            )
        is_no_request = not sent.is_request and not sent.fault  # but trailers
        if state == "idle" and (
            sent.on_itself
            or sent.fault == "malformed"
            or (sent.fault == "short" and sent.ends)
            or is_no_request
        ):
            # 8.1.1: "Malformed requests or responses that are detected MUST be treated as a stream error of type PROTOCOL_ERROR", of which one is
            # content that differs from its content-length, "none" included; RFC 7540, 5.3.1, as above.
            return Verdict(resets=[(id_, ErrorCode.PROTOCOL_ERROR)])
        if state == "open" and (sent.is_request or sent.fault == "malformed" or not sent.ends):
            # 8.1.1, as above, of trailers that come in the midst of the content, too, or have pseudo-header fields (8.1).
            return Verdict(resets=[(id_, ErrorCode.PROTOCOL_ERROR)])
        if state == "open" and id_ in self.tunnels:
            # It takes them for trailers. 8.5: "Frame types other than DATA or stream management frames (RST_STREAM, WINDOW_UPDATE, and PRIORITY) MUST
            # NOT be sent on a connected stream and MUST be treated as a stream error if received."
            return Verdict(resets=[(id_, ErrorCode.PROTOCOL_ERROR)])
        if state == "open" and sent.on_itself:
            # It is in order otherwise, and the priority of a stream whose client has nothing more to say is nobody's.
            return Verdict(told=[("body", id_, b"", True)])
        return verdict

    def _is_short(self, id_: int) -> bool:
        """Whether content is still to come by its content-length."""
        stream = self.h2.streams.get(id_)
        return stream is not None and stream._expected_content_length not in (
            None,
            stream._actual_content_length,
        )

    def _put_data_right(
        self, sent: Sent, state: str, error: ProtocolError | None, verdict: Verdict
    ) -> Verdict:
        id_ = sent.stream
        if (
            sent.fault == "frame"
            or state == "idle"
            or self.h2._inbound_flow_control_window_manager.current_window_size < 0
        ):
            return verdict
        if isinstance(error, FlowControlError):
            # 6.9.1: "a stream error or connection error of type FLOW_CONTROL_ERROR"; ours is no larger than it has to be.
            return Verdict(resets=[(id_, ErrorCode.FLOW_CONTROL_ERROR)])
        if isinstance(error, InvalidBodyLengthError):
            if error.actual_length < error.expected_length and id_ in self.answered:
                return Verdict(told=[("body", id_, sent.content, True)])
            # 8.1.1, as above.
            return Verdict(resets=[(id_, ErrorCode.PROTOCOL_ERROR)])
        if state == "reset by us":
            # 5.1, as above.
            return Verdict()
        if state == "ended":
            # 5.1: after END_STREAM, "MUST be treated as a connection error of type STREAM_CLOSED".
            return Verdict(connection=ErrorCode.STREAM_CLOSED)
        if state == "skipped":
            # 5.1.1: an identifier below those that are used is "unexpected", and "MUST [be answered] with a connection error of type PROTOCOL_ERROR".
            return Verdict(connection=ErrorCode.PROTOCOL_ERROR)
        return verdict


# Frames.

BLOCKS: dict[str, bytes] = {
    "": encode(GET),
    "post": encode([(b":method", b"POST"), *GET[1:], (b"x-custom", b"y")]),
    "adds": encode(GET) + b"\x40\x03x-a\x01b",  # RFC 7541, 6.2.1
    "short": encode([*GET, (b"content-length", b"300")]),
    "empty": encode([*GET, (b"content-length", b"0")]),
    "websocket": encode(WEBSOCKET),
    "malformed": encode([*GET, (b"connection", b"close")]),
    "refused": encode([*GET, (b"expect", b"nothing")]),
    "compression": encode(GET) + b"\xff\xff\x03",  # an index far behind the table
}
FAULTS = {"short", "malformed", "refused", "compression"}
TRAILERS = {
    "": encode([(b"x", b"y")]),
    "malformed": encode([(b":path", b"/")]),
    "compression": b"\x80",
}


@st.composite
def headers(
    draw: st.DrawFn, stream: int, blocks: dict[str, bytes], ends: st.SearchStrategy[bool]
) -> Sent:
    name = draw(st.sampled_from(sorted(blocks)))
    payload, flags, fault = (
        blocks[name],
        END_HEADERS | (END_STREAM if draw(ends) else 0),
        name if name in FAULTS else "",
    )
    depends = draw(st.sampled_from([None, None, None, 0, 99, stream]))
    if depends is not None:
        payload, flags = depends.to_bytes(4, "big") + b"\x10" + payload, flags | HAS_PRIORITY
    padding = draw(st.sampled_from([None, None, None, 0, 5, 255]))
    if padding is not None:
        payload, flags = bytes((padding,)) + payload + bytes(padding), flags | PADDED
        return Sent(
            HEADERS, stream, payload, flags, fault, blocks is not TRAILERS, depends == stream
        )
    return Sent(
        HEADERS,
        stream,
        payload,
        flags,
        fault,
        blocks is not TRAILERS,
        depends == stream,
        tuple(draw(st.lists(st.integers(5, max(5, len(payload))), max_size=3))),
    )


@st.composite
def data(draw: st.DrawFn, stream: int) -> Sent:
    flags = END_STREAM if draw(st.booleans()) else 0
    payload = bytes(draw(st.sampled_from([0, 0, 1, 100, 200, 300, 301, 16384, 16384, 16384])))
    padding = draw(st.sampled_from([None, None, None, 0, 7, 255]))
    if padding is not None and len(payload) < 16000:
        return Sent(DATA, stream, bytes((padding,)) + payload + bytes(padding), flags | PADDED)
    return Sent(DATA, stream, payload, flags)


def numbers(*values: int) -> st.SearchStrategy[bytes]:
    return st.sampled_from(values).map(lambda value: value.to_bytes(4, "big"))


SETTING = st.one_of(
    st.tuples(st.just(frames.INITIAL_WINDOW_SIZE), st.sampled_from([0, 1, DEFAULT_WINDOW_SIZE, MAX_WINDOW_SIZE])),
    st.tuples(st.just(frames.MAX_FRAME_SIZE), st.sampled_from([16384, 2**24 - 1])),
    st.tuples(st.sampled_from([frames.HEADER_TABLE_SIZE, frames.MAX_CONCURRENT_STREAMS, frames.MAX_HEADER_LIST_SIZE, 99]), st.integers(0, 2**32 - 1)),
    st.tuples(st.sampled_from([frames.ENABLE_PUSH, frames.ENABLE_CONNECT_PROTOCOL]), st.integers(0, 1)),
)  # fmt: skip
BAD_SETTING = st.one_of(
    st.tuples(
        st.just(frames.INITIAL_WINDOW_SIZE), st.sampled_from([MAX_WINDOW_SIZE + 1, 2**32 - 1])
    ),
    st.tuples(st.just(frames.MAX_FRAME_SIZE), st.sampled_from([0, 16383, 2**24])),
    st.tuples(
        st.sampled_from([frames.ENABLE_PUSH, frames.ENABLE_CONNECT_PROTOCOL]),
        st.integers(2, 2**32 - 1),
    ),
)


def of_connection() -> st.SearchStrategy[Sent]:
    """In order."""
    return st.one_of(
        st.builds(
            lambda values: Sent(SETTINGS, 0, frames.settings(values)[9:]),
            st.lists(SETTING, max_size=3),
        ),
        st.builds(
            Sent,
            st.just(PING),
            st.just(0),
            st.binary(min_size=8, max_size=8),
            st.sampled_from([0, 1, 0xFE]),
        ),
        st.builds(Sent, st.just(WINDOW_UPDATE), st.just(0), numbers(1, 70000)),
        st.builds(
            Sent,
            st.sampled_from([11, 99, 255]),
            st.sampled_from([0, 1, 2, 99]),
            st.binary(max_size=9),
            st.integers(0, 255),
        ),
        st.just(Sent(SETTINGS, 0, flags=frames.ACK)),
    )


def of_stream(stream: int) -> st.SearchStrategy[Sent]:
    """In order where there is the stream."""
    return st.one_of(
        data(stream),
        data(stream),
        headers(stream, TRAILERS, st.sampled_from([True, True, True, False])),
        st.builds(Sent, st.just(RST_STREAM), st.just(stream), numbers(0, 8, 99)),
        st.builds(
            Sent,
            st.just(WINDOW_UPDATE),
            st.just(stream),
            numbers(0, 1, 70000, MAX_WINDOW_SIZE, 2**31 + 5),
        ),
        st.builds(
            Sent,
            st.just(PRIORITY),
            st.just(stream),
            st.sampled_from([0, 3, stream]).map(lambda on: on.to_bytes(4, "big") + b"\x10"),
        ),
    )


def faults(stream: int) -> st.SearchStrategy[Sent]:
    """Frames that are never in order, with one fault each: which of two is found first, no sentence says."""
    other = st.just(stream)
    return st.one_of(
        st.builds(Sent, st.sampled_from([DATA, HEADERS, PRIORITY, RST_STREAM]), st.just(0), st.just(bytes(4))),
        st.builds(Sent, st.sampled_from([SETTINGS, PING, GOAWAY]), other, st.just(bytes(8))),
        st.builds(Sent, st.just(SETTINGS), st.just(0), st.sampled_from([1, 5, 7]).map(bytes)),
        st.builds(Sent, st.just(SETTINGS), st.just(0), st.just(bytes(6)), st.just(frames.ACK)),
        st.builds(lambda value: Sent(SETTINGS, 0, frames.settings([value])[9:]), BAD_SETTING),
        st.builds(Sent, st.just(PING), st.just(0), st.sampled_from([0, 7, 9]).map(bytes)),
        st.builds(Sent, st.just(GOAWAY), st.just(0), st.sampled_from([0, 7]).map(bytes)),
        st.builds(Sent, st.just(WINDOW_UPDATE), st.just(0), numbers(0, MAX_WINDOW_SIZE)),
        st.builds(Sent, st.just(WINDOW_UPDATE), other, st.sampled_from([0, 3, 5]).map(bytes)),
        st.builds(Sent, st.just(RST_STREAM), other, st.sampled_from([0, 3, 5]).map(bytes)),
        st.builds(Sent, st.just(PRIORITY), other, st.sampled_from([0, 4, 6]).map(bytes)),
        st.builds(Sent, st.just(PUSH_PROMISE), other, st.just(b"\0\0\0\2" + BLOCKS[""]), st.just(END_HEADERS)),
        st.builds(Sent, st.just(CONTINUATION), other, st.just(BLOCKS[""]), st.just(END_HEADERS)),
        st.builds(Sent, st.just(DATA), other, st.sampled_from([b"", b"\1", b"\5abcd"]), st.just(PADDED), st.just("frame")),
        st.builds(Sent, st.just(HEADERS), st.just(stream | 1), st.sampled_from([b"", b"\1", b"\xff" + BLOCKS[""]]), st.just(PADDED | END_HEADERS), st.just("frame")),
        st.builds(Sent, st.sampled_from([DATA, HEADERS, 99]), other, st.just(bytes(16385)), st.just(0), st.just("frame")),
        st.builds(lambda on: Sent(GOAWAY, 0, bytes(8) + on), st.binary(max_size=3)),
    )  # fmt: skip


@st.composite
def sequences(draw: st.DrawFn) -> list[Sent | Answer]:
    """Requests, bodies and answers that are mostly in order, one frame that is perhaps not, and more behind it."""
    sequence: list[Sent | Answer] = []
    opened = [1]
    sequence.append(
        draw(headers(1, {name: BLOCKS[name] for name in ("", "short", "adds")}, st.booleans()))
    )
    for _ in range(draw(st.integers(0, 14))):
        stream = draw(st.sampled_from(opened))
        match draw(
            st.sampled_from(
                [
                    "open",
                    "open",
                    "stream",
                    "stream",
                    "stream",
                    "answer",
                    "answer",
                    "connection",
                    "any",
                ]
            )
        ):
            case "open":
                opened.append(opened[-1] + draw(st.sampled_from([2, 2, 2, 6])))
                good = {
                    name: block
                    for name, block in BLOCKS.items()
                    if name not in ("malformed", "compression")
                }
                sequence.append(
                    draw(
                        headers(
                            opened[-1], good if draw(st.integers(0, 5)) else BLOCKS, st.booleans()
                        )
                    )
                )
            case "stream":
                sequence.append(draw(of_stream(stream)))
            case "answer":
                sequence.append(
                    Answer(stream, draw(st.sampled_from(["head", "end", "end", "whole", "reset"])))
                )
            case "connection":
                sequence.append(draw(of_connection()))
            case "any":
                stream = draw(st.sampled_from([stream, opened[-1] + 2, max(1, opened[-1] - 2), 2]))
                sequence.append(
                    draw(
                        st.one_of(
                            headers(stream, BLOCKS, st.booleans()),
                            of_stream(stream),
                            faults(stream),
                        )
                    )
                )
    return sequence


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """`data` in pieces: how long each is, and all the rest."""
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@settings(max_examples=examples(150), deadline=None)
@given(sequences(), st.lists(st.integers(1, 30), max_size=8))
def test_the_oracle_understands_the_same(sequence: list[Sent | Answer], sizes: list[int]) -> None:
    """RFC 9113, 4 to 8: what the server is told, and the scope and the code of every error."""
    ours, together, oracle = Ours(), Ours(), Oracle()
    waiting = b""
    all_of_ours, all_together = Verdict(), Verdict()

    def add(verdict: Verdict, to: Verdict) -> None:
        to.connection = to.connection if verdict.connection is None else verdict.connection
        to.resets += verdict.resets
        to.told += verdict.told
        to.replies += verdict.replies

    for item in sequence:
        if isinstance(item, Answer):
            add(together.feed([waiting]), all_together)
            waiting = b""
            could = ours.act(item)
            assert together.act(item) == could
            if could and not oracle.is_over:
                oracle.act(item)
            continue
        waiting += item.data
        verdict = ours.feed(cut(item.data, sizes))
        add(verdict, all_of_ours)
        if not oracle.is_over:
            assert verdict == oracle.feed(item), item
    add(together.feed([waiting]), all_together)
    assert all_together == all_of_ours


# The tables of `h2tables`.

ANSWERED = {"no host at all", "two hosts", "two hosts without an authority"}
"""8.3.1 and RFC 9110, 7.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that lacks a Host header field
and to any request message that contains more than one Host header field line". It takes them for malformed, which 8.1.1 lets be answered, too."""
LENIENT = {
    # 8.3.1: "exactly one valid value" of each
    *("an empty :method", "an empty :scheme", "a scheme that is none", "a scheme with its colon"),
    # 8.3.1: a path "starts with the / character", but for the asterisk of OPTIONS
    *(
        "a path without its slash",
        "a whole URI",
        "a query alone",
        "an asterisk of GET",
        "an asterisk and more",
    ),
    # RFC 9110, 8.6
    *("content-length twice", f"content-length: {b'1' * 19!r}"),
}
"""Rows of the table that it lets pass. So it does with names that are no tokens (RFC 9110, 5.1) and with control characters in values (5.5)."""


def is_taken(fields: list[Header]) -> bool:
    oracle = Oracle()
    verdict = Verdict()
    try:
        oracle.h2.receive_data(b"".join(frames.headers(1, encode(fields), False, 16384)))
    except ProtocolError:
        return False
    return answers(verdict, oracle.h2.data_to_send()).resets == []


@pytest.mark.skipif(
    version("h2").startswith(("4.1", "4.2")),
    reason="it lets more names and values pass (RFC 9113, 8.2.1) than later versions",
)
def test_the_package_agrees_with_the_tables() -> None:
    """But for what is listed."""
    for name, fields in MALFORMED.items():
        if is_taken(fields):
            assert name in LENIENT or name.endswith((" in a name", " in a value")), name
    for name, (_, fields) in REFUSED.items():
        assert is_taken(fields) or name in ANSWERED, name
    for taken in (
        GET,
        WEBSOCKET,
        having((b":path", b"/a?b")),
        [*GET, (b"cookie", b"a"), (b"cookie", b"b"), (b"te", b"trailers")],
    ):
        assert is_taken(taken)


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (frames.ping(b"12345678", False), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(0, 1), ErrorCode.PROTOCOL_ERROR),
        (frames.SETTINGS_ACK, ErrorCode.PROTOCOL_ERROR),
        (Sent(HEADERS, 1, encode(GET), END_HEADERS).data, ErrorCode.PROTOCOL_ERROR),
        (frames.settings([]), None),
    ],
)
def test_the_first_frame_is_settings(first: bytes, code: ErrorCode | None) -> None:
    """RFC 9113, 3.4: the one thing of which the package has no opinion."""
    for pieces in (
        [frames.PREFACE + first],
        [frames.PREFACE, first],
        [bytes((byte,)) for byte in frames.PREFACE + first],
    ):
        protocol = make(OWN)
        failed = [
            event.code
            for piece in pieces
            for event in receive(protocol, piece, 0.0)
            if isinstance(event, Failed)
        ]
        assert failed == ([] if code is None else [code])


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", b"X", frames.PREFACE[1:]],
)
def test_a_preface_that_is_none_is_refused_by_both(data: bytes) -> None:
    """RFC 9113, 3.4."""
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        protocol = make(OWN)
        events = [event for piece in pieces for event in protocol.receive(piece, 0.0)]
        assert [event.code for event in events if isinstance(event, Failed)] == [
            ErrorCode.PROTOCOL_ERROR
        ]
    with pytest.raises(ProtocolError):
        H2Connection(H2Configuration(client_side=False)).receive_data(data)


# The other way.


@dataclass
class Exchange:
    """A response, as it was sent and as it came."""

    stream: Stream
    fields: list[Header] = field(default_factory=list)
    sent: bytearray = field(default_factory=bytearray)
    has_trailers: bool = False
    is_reset: bool = False
    got_fields: list[Header] = field(default_factory=list)
    got: bytearray = field(default_factory=bytearray)
    got_trailers: list[Header] = field(default_factory=list)
    has_ended: bool = False
    uploaded: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)


TRAILER = (b"x-trailer", b"z")
BODY = bytes(range(251)) * 1200


def each_frame(sent: bytes) -> Iterator[bytes]:
    """Cut whole frames (RFC 9113, 4.1)."""
    while sent:
        end = 9 + int.from_bytes(sent[:3], "big")
        yield sent[:end]
        sent = sent[end:]


class Pair:
    """The package's client, which drives, and our server."""

    def __init__(self, window: int, max_streams: int, initial: list[tuple[int, int]]) -> None:
        self.limits = replace(LIMITS, window=window, max_streams=max_streams)
        self.protocol = make(self.limits)
        self.protocol.control.start()
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.client.initiate_connection()
        self.exchanges: dict[int, Exchange] = {}
        self.client.update_settings(dict(initial))
        self.now = 1.0
        self.swap()

    def swap(self) -> None:
        """Until neither has anything to say. The package raises for whatever it does not take."""
        while True:
            self.protocol.streams.pump(1 << 20)
            ours = b"".join(self.protocol.outbox.frames)
            self.protocol.outbox.frames.clear()
            self.protocol.outbox.size = 0
            # Frame by frame: within one call, the package does not apply what a SETTINGS ACK allows.
            for piece in each_frame(ours):
                for event in self.client.receive_data(piece):
                    self.heard(event)
            theirs = self.client.data_to_send()
            self.now += 10.0  # nobody floods
            for event in receive(self.protocol, theirs, self.now):
                self.told(event)
            if not ours and not theirs:
                return

    def told(self, event: Any) -> None:
        match event:
            case Opened(stream, _, _):
                self.exchanges[stream.id] = Exchange(stream)
            case Received(stream, data, _):
                self.exchanges[stream.id].received += data
                self.protocol.flow.consume(stream, stream.unread)
            case Reset(stream, _, reason):
                assert reason is None, reason
                self.exchanges[stream.id].is_reset = True
            case _:
                raise AssertionError(event)

    def heard(self, event: Any) -> None:
        assert not isinstance(event, ConnectionTerminated)
        exchange = self.exchanges.get(getattr(event, "stream_id", 0) or 0)
        if exchange is None:
            return
        if isinstance(event, ResponseReceived):
            exchange.got_fields = [(bytes(name), bytes(value)) for name, value in event.headers]
        elif isinstance(event, DataReceived):
            exchange.got += event.data
            assert exchange.sent.startswith(exchange.got)
        elif isinstance(event, TrailersReceived):
            exchange.got_trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
        elif isinstance(event, StreamEnded):
            exchange.has_ended = True
        elif isinstance(event, StreamReset):
            assert exchange.is_reset

    def open(self, size: int) -> None:
        """A request with as much of a body as the windows allow at a time."""
        if (
            max(len(self.protocol.streams.active), self.client.open_outbound_streams)
            >= self.limits.max_streams
        ):
            return
        id_ = self.client.get_next_available_stream_id()
        self.client.send_headers(id_, GET, end_stream=not size)
        self.swap()
        exchange = self.exchanges[id_]
        exchange.uploaded += BODY[:size]
        left = bytes(exchange.uploaded)
        while left:
            room = min(
                self.client.local_flow_control_window(id_),
                self.client.max_outbound_frame_size,
                len(left),
            )
            assert room > 0, "an upload that is read never waits"
            self.client.send_data(id_, left[:room], end_stream=room == len(left))
            left = left[room:]
            self.swap()
        assert exchange.received == exchange.uploaded

    def answer(self, exchange: Exchange, fields: list[Header], size: int, end: str) -> None:
        """More of a response: its head if it has none."""
        stream, protocol = exchange.stream, self.protocol
        if stream.state is STREAM_CLOSED or stream.send_queue.has_end_stream:
            return
        if end == "end" and not size and exchange.fields:
            # RFC 9113, 6.9.1: DATA without data needs no window. The package refuses it where SETTINGS have made that smaller than nothing.
            self.swap()
            if (
                stream.id in self.client.streams
                and self.client.remote_flow_control_window(stream.id) < 0
            ):
                self.take(exchange, 1 << 20)
            if stream.state is STREAM_CLOSED:
                return
        if not exchange.fields:
            block, _, _ = encode_fields(fields)
            exchange.fields = [(b":status", b"200"), *fields]
            protocol.streams.send_head(stream, b"\x88" + block, not size and end == "end")
        if stream.send_queue.has_end_stream:
            return
        start = len(exchange.sent) % 251
        exchange.sent += BODY[start : start + size]
        protocol.streams.send_data(stream, BODY[start : start + size], end == "end")
        if end == "trailers":
            exchange.has_trailers = True
            protocol.streams.send_trailers(stream, encode_fields([TRAILER])[0])

    def take(self, exchange: Exchange, size: int) -> None:
        """The client gives back some of what it has received."""
        id_ = exchange.stream.id
        if not exchange.has_ended and not exchange.is_reset and id_ in self.client.streams:
            self.client.increment_flow_control_window(size, id_)
        self.client.increment_flow_control_window(size)
        self.swap()

    def finish(self) -> None:
        """All that is on its way arrives, once there is room."""
        for exchange in self.exchanges.values():
            self.answer(exchange, [], 0, "end")
        self.swap()
        for _ in range(200):
            waiting = [
                exchange for exchange in self.exchanges.values() if exchange.stream.send_queue.size
            ]
            if not waiting:
                break
            for exchange in waiting:
                self.take(exchange, 1 << 20)
        for exchange in self.exchanges.values():
            if not exchange.is_reset:
                assert exchange.got_fields == exchange.fields
                assert exchange.got == exchange.sent
                assert exchange.has_ended
                assert exchange.got_trailers == ([TRAILER] if exchange.has_trailers else [])
        assert self.protocol.streams.active == {}


LEGAL = st.fixed_dictionaries(
    {},
    optional={
        frames.INITIAL_WINDOW_SIZE: st.sampled_from(
            [0, 1, 100, 16384, DEFAULT_WINDOW_SIZE, 1 << 20]
        ),
        frames.MAX_FRAME_SIZE: st.sampled_from([16384, 16385, 100000, 2**24 - 1]),
        frames.HEADER_TABLE_SIZE: st.sampled_from([0, 1, 4096, 65536]),
        frames.MAX_HEADER_LIST_SIZE: st.sampled_from([100000, 2**32 - 1]),
        frames.ENABLE_PUSH: st.sampled_from([0, 1]),
        frames.MAX_CONCURRENT_STREAMS: st.integers(1, 2**31 - 1),
    },
)
PARTS = st.sampled_from([0, 0, 1, 100, 16383, 16384, 16385, 70000, 300000])
RESPONSES = st.lists(
    st.tuples(st.sampled_from([b"set-cookie", b"x", b"content-type", b"etag"]), st.sampled_from([b"", b"a", b"text/plain", b"v" * 300, b"v" * 20000])),
    max_size=3,
)  # fmt: skip


@settings(max_examples=examples(120), deadline=None)
@given(
    st.data(),
    st.sampled_from([1, 100, DEFAULT_WINDOW_SIZE, 1 << 20]),
    st.sampled_from([1, 3, 100]),
    LEGAL,
)
def test_a_client_takes_all_that_is_sent(
    data: st.DataObject, window: int, max_streams: int, initial: dict[int, int]
) -> None:
    """RFC 9113, 5 to 8: after any legal SETTINGS and WINDOW_UPDATEs; and gets what was sent, and no more than its windows allow."""
    pair = Pair(window, max_streams, list(initial.items()))
    for _ in range(data.draw(st.integers(1, 12))):
        what = data.draw(
            st.sampled_from(
                [
                    "open",
                    "open",
                    "answer",
                    "answer",
                    "answer",
                    "take",
                    "take",
                    "settings",
                    "reset",
                    "cancel",
                    "ping",
                ]
            )
        )
        if what == "open":
            pair.open(data.draw(st.sampled_from([0, 0, 1, 300])))
        elif what == "settings":
            pair.client.update_settings(data.draw(LEGAL))
        elif what == "ping":
            pair.client.ping(b"12345678")
        elif pair.exchanges:
            exchange = pair.exchanges[data.draw(st.sampled_from(sorted(pair.exchanges)))]
            if what == "answer":
                pair.answer(
                    exchange,
                    data.draw(RESPONSES),
                    data.draw(PARTS),
                    data.draw(st.sampled_from(["", "", "end", "trailers"])),
                )
            elif what == "take":
                pair.take(exchange, data.draw(st.sampled_from([1, 10, 16384, 1 << 20])))
            elif what == "reset" and exchange.stream.state is not STREAM_CLOSED:
                exchange.is_reset = True
                pair.protocol.streams.reset(exchange.stream, ErrorCode.CANCEL)
            elif what == "cancel" and not exchange.has_ended and not exchange.is_reset:
                exchange.is_reset = True
                pair.client.reset_stream(exchange.stream.id, ErrorCode.CANCEL)
        if data.draw(st.booleans()):
            pair.swap()
    pair.swap()
    pair.finish()
    pair.protocol.control.announce()
    pair.protocol.control.refuse_streams()
    pair.protocol.control.fail(ErrorCode.INTERNAL_ERROR, "an end")
    last = max(pair.exchanges, default=0)
    found = take(pair.protocol)
    # One at a time, for it hears nothing behind the first.
    for kind, flags, stream, payload in found[:1]:
        (event,) = pair.client.receive_data(frame(kind, flags, stream, payload))
        assert isinstance(event, ConnectionTerminated)
    assert goaways(found) == [(2**31 - 1, 0), (last, 0), (last, ErrorCode.INTERNAL_ERROR)]
