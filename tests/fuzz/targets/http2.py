"""HTTP/2 after the preface: frames mean the same in any pieces, and nothing but frames is answered."""

from __future__ import annotations

from typing import Any

from h2protocol import begin, take

from gunicorn_asgi.http2.protocol import Protocol

from . import pieces

MAX_REPLY = 64
"""Bytes of the answers to one byte of a client, at most: a WINDOW_UPDATE or RST_STREAM and a PING to
a frame of nine bytes."""


def check(data: bytes) -> None:
    found = [run(cut) for cut in ([data], pieces(data), [data[:9], data[9:]])]
    assert all(each == found[0] for each in found), found


def run(parts: list[bytes]) -> object:
    protocol = begin()
    events: list[object] = []
    frames: list[object] = []
    size = 0
    for part in parts:
        events += [describe(event) for event in receive(protocol, part)]
        sent = take(protocol)
        frames += sent
        size += sum(9 + len(frame.payload) for frame in sent)
    assert size <= 4096 + MAX_REPLY * sum(map(len, parts)), size
    return events, frames


def receive(protocol: Protocol, data: bytes) -> list[Any]:
    return list(protocol.receive(data, 0.0))


def describe(event: Any) -> object:
    """The event without objects that have no equality."""
    names = getattr(event, "_fields", None) or event.__match_args__
    values = [(name, getattr(event, name)) for name in names]
    return type(event).__name__, [(name, simple(value)) for name, value in values]


def simple(value: Any) -> object:
    if isinstance(value, tuple) and len(value) == 5 and hasattr(value[4], "headers"):
        return (*value[:4], value[4].headers, value[4].length)
    if isinstance(value, (bytes, str, int, bool, type(None))):
        return value
    return getattr(
        value, "id", str(value) if isinstance(value, Exception) else type(value).__name__
    )
