"""The agreements of a WebSocket's handshake (`gunicorn_asgi.websocket.negotiation`)."""

from __future__ import annotations

from typing import Any

import pytest

from gunicorn_asgi.errors import ApplicationError, RequestError
from gunicorn_asgi.websocket.negotiation import (
    MAX_OFFER,
    negotiate_deflate,
    read_headers,
    read_subprotocols,
)


@pytest.mark.parametrize("lines", [1, 2])
def test_an_offer_as_long_as_the_limit_is_read(lines: int) -> None:
    """The limit counts all lines of a field together."""

    def offer(name: bytes, size: int) -> list[tuple[bytes, bytes]]:
        return [
            (b"x", b"y" * MAX_OFFER),
            *[(name, b"a" * (size // lines))] * (lines - 1),
            (name, b"a" * (size - size // lines * (lines - 1))),
        ]

    assert (
        sum(map(len, read_subprotocols(offer(b"sec-websocket-protocol", MAX_OFFER)))) == MAX_OFFER
    )
    assert negotiate_deflate(offer(b"sec-websocket-extensions", MAX_OFFER)) is None
    for read, name in (
        (read_subprotocols, b"sec-websocket-protocol"),
        (negotiate_deflate, b"sec-websocket-extensions"),
    ):
        with pytest.raises(RequestError) as caught:
            read(offer(name, MAX_OFFER + 1))
        assert caught.value.status == 431


@pytest.mark.parametrize(
    "field",
    [
        None,
        5,
        (),
        [],
        (b"a",),
        ("upgrade", b"b"),
        (None, b"b"),
        b"upgrade",
        "ab",
        (b"x", b"y", b"z"),
    ],
)
def test_the_form_of_a_header_is_checked_when_it_is_encoded(field: Any) -> None:
    assert read_headers([(b"a", b"b"), field]) == [(b"a", b"b"), field]


@pytest.mark.parametrize(
    "name", [b"upgrade", b"UPGRADE", b"sec-websocket-accept", b"Sec-WebSocket-Anything"]
)
def test_a_header_of_the_handshake_is_refused_by_its_name(name: bytes) -> None:
    """RFC 6455, 4.2.2."""
    for field in ((name, b"x"), [name, b"x"], (name,)):
        with pytest.raises(ApplicationError) as caught:
            read_headers(iter([(b"a", b"b"), field]))
        assert repr(name) in str(caught.value)
