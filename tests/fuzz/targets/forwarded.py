"""Forwarded fields: whatever a client writes, the proxy's own element decides."""

from __future__ import annotations

from ipaddress import ip_address

from gunicorn_asgi.errors import RequestError
from gunicorn_asgi.http.fields import VISIBLE
from gunicorn_asgi.http.forwarded import (
    MAX_NODES,
    ForwardedInfo,
    read_forwarded,
    read_x_forwarded_for,
)

NOT_VISIBLE = bytes(byte for byte in range(256) if byte not in VISIBLE)
OWN = ("192.0.2.1", 0)
"""The client, as the proxy has seen it."""


def is_trusted(address: str) -> bool:
    """The proxies' network, and no other."""
    return address.startswith("10.")


def check(data: bytes) -> None:
    # A field's value, as the parsers of heads give it.
    value = data.translate(None, NOT_VISIBLE).strip(b" \t")
    check_node(read_x_forwarded_for(is_trusted, [(b"x-forwarded-for", value)]))
    for line in (b"192.0.2.1", b"192.0.2.1, 10.0.0.1"):
        for headers in (
            [(b"x-forwarded-for", value), (b"x-forwarded-for", line)],
            [(b"x-forwarded-for", b"%b, %b" % (value, line))],
        ):
            hops = line.count(b",")
            assert read_x_forwarded_for(is_trusted, headers) == (OWN, None, None, hops), value
    try:
        check_node(read_forwarded(is_trusted, [(b"forwarded", value)]))
    except RequestError as error:
        check_error(error)
    for line in (
        b"for=192.0.2.1;proto=https;host=a",
        b'For="192.0.2.1" ; Proto=HTTPS;host="a", for=10.0.0.1;host=b',
    ):
        for headers in (
            [(b"forwarded", value), (b"forwarded", line)],
            [(b"forwarded", b"%b, %b" % (value, line))],
        ):
            try:
                found = read_forwarded(is_trusted, headers)
                assert found == (OWN, "https", "a", line.count(b",")), value
            except RequestError as error:
                check_error(error)


def check_error(error: RequestError) -> None:
    assert error.status == 400


def check_node(found: ForwardedInfo) -> None:
    node, scheme, _, hops = found
    assert hops is None or 0 <= hops < MAX_NODES
    assert scheme in (None, "http", "https")
    if node is not None:
        address, port = node
        assert str(ip_address(address)) == address
        assert 0 <= port <= 65535
