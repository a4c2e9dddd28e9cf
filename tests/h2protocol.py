"""The HTTP/2 protocol of a connection without a transport, for the tests of pure modules."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import hpack
from h2raw import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    Frame,
    frame,
    settings,
    split,
)
from h2tables import GET, Header
from rules import make_rules

from gunicorn_asgi.http.request import Rules
from gunicorn_asgi.http2.control import FAILED
from gunicorn_asgi.http2.events import Event
from gunicorn_asgi.http2.limits import HTTP2Limits
from gunicorn_asgi.http2.protocol import Protocol
from gunicorn_asgi.http2.request import read_request

RULES = make_rules()
LIMITS = HTTP2Limits(
    max_streams=4, window=1000, max_frame=16384, max_header_list=65536, has_websocket=True
)
HEAD = [(b":status", b"200")]


def encode(fields: Iterable[Header]) -> bytes:
    """A field block without changes of the table."""
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields])


REQUEST = encode(GET)
RESPONSE = encode(HEAD)


def ask(stream: int, end: bool = False, block: bytes = REQUEST) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)


def data(stream: int, size: int, end: bool = False) -> bytes:
    return frame(DATA, END_STREAM if end else 0, stream, bytes(size))


def make(limits: HTTP2Limits = LIMITS, rules: Rules = RULES) -> Protocol:
    """A new protocol, before the preface."""
    read = partial(
        read_request,
        rules=rules,
        max_list=limits.max_header_list,
        has_websocket=limits.has_websocket,
    )
    return Protocol(limits, read)


def begin(limits: HTTP2Limits = LIMITS, acknowledge: bool = True) -> Protocol:
    """A protocol after the preface and the SETTINGS frames."""
    protocol = make(limits)
    protocol.control.start()
    protocol.receive(PREFACE + settings() + (SETTINGS_ACK if acknowledge else b""), 0.0)
    take(protocol)
    return protocol


def receive(protocol: Protocol, data: bytes, now: float) -> list[Event]:
    """The events of `data`, in as many steps as it takes."""
    events = protocol.receive(data, now)
    while protocol.received.has_more and protocol.control.state is not FAILED:
        events += protocol.receive(b"", now)
    return events


def take(protocol: Protocol) -> list[Frame]:
    """The frames to be written."""
    found = list(split(b"".join(protocol.outbox.frames)))
    protocol.outbox.frames.clear()
    protocol.outbox.size = 0
    return found


def goaways(found: Iterable[Frame]) -> list[tuple[int, int]]:
    """The last stream and the code of each GOAWAY."""
    return [(frame.number, frame.code) for frame in found if frame.kind == GOAWAY]


def given(found: Iterable[Frame]) -> int:
    """Bytes by which the window of the connection was opened."""
    return sum(frame.number for frame in found if (frame.kind, frame.stream) == (WINDOW_UPDATE, 0))


def resets(found: Iterable[Frame]) -> list[tuple[int, int]]:
    """The stream and the code of each RST_STREAM."""
    return [(frame.stream, frame.number) for frame in found if frame.kind == RST_STREAM]
