"""The client in X-Forwarded-For and in ``Forwarded``, RFC 7239 (`gunicorn_asgi.http.forwarded`)."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

import pytest
from costs import count_calls
from hypothesis import example, given
from hypothesis import strategies as st

from gunicorn_asgi.errors import RequestError
from gunicorn_asgi.http.forwarded import (
    FORWARDED_READERS,
    MAX_FORWARDED,
    MAX_NODE,
    MAX_NODES,
    ForwardedInfo,
    Node,
    parse_forwarded,
    parse_node,
    read_forwarded,
    read_x_forwarded_for,
)

TRUSTED = ("10.0.0.1", "10.0.0.2", "2001:db8::10")


def is_trusted(address: str) -> bool:
    return address in TRUSTED


def x_forwarded_for(*values: bytes) -> Node | None:
    client, scheme, host, _ = read_x_forwarded_for(
        is_trusted, [(b"host", b"a"), *((b"x-forwarded-for", value) for value in values)]
    )
    assert scheme is host is None
    return client


def read(*values: bytes) -> ForwardedInfo:
    return read_forwarded(
        is_trusted, [(b"host", b"a"), *((b"forwarded", value) for value in values)]
    )


def forwarded(*values: bytes) -> tuple[Node | None, str | None]:
    return read(*values)[:2]


# One node.


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("192.0.2.1", ("192.0.2.1", 0)),
        ("192.0.2.1:4711", ("192.0.2.1", 4711)),
        ("192.0.2.1:0", ("192.0.2.1", 0)),
        ("192.0.2.1:65535", ("192.0.2.1", 65535)),
        ("2001:db8::1", ("2001:db8::1", 0)),
        ("2001:0DB8:0:0:0:0:0:1", ("2001:db8::1", 0)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("[2001:db8::1]:4711", ("2001:db8::1", 4711)),
        ("::ffff:192.0.2.1", ("192.0.2.1", 0)),
        ("[::ffff:c000:201]:80", ("192.0.2.1", 80)),
        ("fe80::1%eth0", ("fe80::1", 0)),
        ("[fe80::1%25]:80", ("fe80::1", 80)),
        ("192.0.2.1:_hidden", ("192.0.2.1", 0)),
    ],
)
def test_an_address_is_read_in_every_form_that_proxies_write(text: str, node: Node) -> None:
    assert parse_node(text) == node


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unknown",
        "_hidden",
        "unix:",
        "example.org",
        "256.0.0.1",
        "192.0.2",
        "192.0.2.01",
        "192.0.2.1:",
        "192.0.2.1:65536",
        "192.0.2.1:123456",
        "192.0.2.1:-1",
        "192.0.2.1: 1",
        "192.0.2.1:_",
        "192.0.2.1:\u0661",
        "192.0.2.1:80:90",
        "[2001:db8::1",
        "2001:db8::1]",
        "[2001:db8::1]80",
        "[2001:db8::1]:",
        "[]",
        "[]:80",
        "%",
        "%eth0",
        '"192.0.2.1"',
        "192.0.2.1:" + "9" * 5000,
        "0" * 5000,
    ],
)
def test_an_invalid_address_is_none(text: str) -> None:
    assert parse_node(text) is None


@given(st.text() | st.text("0123456789abcdef.:[]%_"))
def test_a_node_is_an_address_and_a_port_or_nothing(text: str) -> None:
    node = parse_node(text)
    if node is not None:
        address, port = node
        assert str(ip_address(address)) == address
        assert 0 <= port <= 65535


# X-Forwarded-For.


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ((), None),
        ((b"",), None),
        ((b" , ,",), None),
        ((b"192.0.2.1",), "192.0.2.1"),
        ((b"198.51.100.7, 192.0.2.1",), "192.0.2.1"),  # left: the client's own claim
        ((b"192.0.2.1, 10.0.0.1",), "192.0.2.1"),
        ((b"192.0.2.1,10.0.0.2\t,  10.0.0.1",), "192.0.2.1"),
        ((b"198.51.100.7, 192.0.2.1, 10.0.0.1",), "192.0.2.1"),
        ((b"10.0.0.2, 192.0.2.1, 10.0.0.1",), "192.0.2.1"),
        ((b"192.0.2.1", b"10.0.0.1"), "192.0.2.1"),
        ((b"198.51.100.7", b"192.0.2.1"), "192.0.2.1"),
        ((b"192.0.2.1", b"", b"10.0.0.1, "), "192.0.2.1"),
        ((b"10.0.0.2, 10.0.0.1",), "10.0.0.2"),  # all are trusted: the leftmost
        ((b"10.0.0.1",), "10.0.0.1"),
        ((b"192.0.2.1, 2001:DB8:0::10",), "192.0.2.1"),
        ((b"192.0.2.1, [2001:db8::10]:443",), "192.0.2.1"),
        ((b"192.0.2.1, ::ffff:10.0.0.1",), "192.0.2.1"),
        ((b"unknown",), None),
        ((b"192.0.2.1, unknown",), None),
        ((b"192.0.2.1, unknown, 10.0.0.1",), None),
        ((b"unknown, 192.0.2.1, 10.0.0.1",), "192.0.2.1"),
        ((b"\xff, 192.0.2.1",), "192.0.2.1"),
        ((b"192.0.2.1, \xff",), None),
    ],
)
def test_the_client_is_the_rightmost_untrusted_address(
    values: tuple[bytes, ...], client: str | None
) -> None:
    assert x_forwarded_for(*values) == ((client, 0) if client else None)


def test_the_port_is_the_clients() -> None:
    assert x_forwarded_for(b"198.51.100.7:1, 192.0.2.1:4711, 10.0.0.1:99") == ("192.0.2.1", 4711)
    assert x_forwarded_for(b"[2001:db8::1]:4711") == ("2001:db8::1", 4711)


ADDRESSES = (
    st.ip_addresses()
    .map(str)
    .filter(lambda text: parse_node(text) == (text, 0) and text not in TRUSTED)
)


@given(
    st.lists(st.text('0123456789abcdef.:[]%_, "'), max_size=3),
    ADDRESSES,
    st.lists(st.sampled_from(TRUSTED), max_size=4),
)
def test_a_clients_own_header_does_not_change_its_address(
    forged: list[str], address: str, proxies: list[str]
) -> None:
    """A proxy appends, to the same line or as another line."""
    appended = ", ".join([address, *proxies])
    assert x_forwarded_for(*(text.encode() for text in forged), appended.encode()) == (address, 0)
    assert x_forwarded_for(", ".join([*forged, appended]).encode()) == (address, 0)


def proxies(count: int, network: str = "2001:db8") -> list[bytes]:
    """Fields with the maximum of trusted proxies' addresses in each."""
    addresses = [f"{network}::{number:x}" for number in range(count)]
    return [", ".join(addresses[start : start + 500]).encode() for start in range(0, count, 500)]


def trusts_all(_address: str) -> bool:
    return True


def test_only_the_nearest_proxies_are_read_of_any_number() -> None:
    # In networks of their own, since an address that was read before costs less.
    few = [(b"x-forwarded-for", value) for value in proxies(1000, "2001:db7")]
    many = [(b"x-forwarded-for", value) for value in proxies(50_000)]
    assert count_calls(lambda: read_x_forwarded_for(trusts_all, many)) < 2 * count_calls(
        lambda: read_x_forwarded_for(trusts_all, few)
    )
    seen: list[str] = []
    client, *_ = read_x_forwarded_for(lambda address: not seen.append(address), many)
    assert len(seen) == MAX_NODES - 1  # the last one read is the client, trusted or not
    assert client == (f"2001:db8::{50_000 - MAX_NODES:x}", 0)


def test_a_client_is_found_behind_the_maximum_of_proxies_and_not_behind_more() -> None:
    trusted = b", ".join([b"10.0.0.1"] * (MAX_NODES - 1))
    assert x_forwarded_for(b"192.0.2.1, " + trusted) == ("192.0.2.1", 0)
    assert x_forwarded_for(b"192.0.2.1, 10.0.0.2, " + trusted) == ("10.0.0.2", 0)
    assert x_forwarded_for(b"192.0.2.1" + b"," * MAX_NODES) is None


# Forwarded.


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("", []),
        (" ", []),
        (",;, ;", []),
        ("for=192.0.2.1", [{"for": "192.0.2.1"}]),
        (
            "For=192.0.2.1;Proto=http;by=203.0.113.43",
            [{"for": "192.0.2.1", "proto": "http", "by": "203.0.113.43"}],
        ),
        ('for="[2001:db8::1]:4711"', [{"for": "[2001:db8::1]:4711"}]),
        ("for=[2001:db8::1]:4711", [{"for": "[2001:db8::1]:4711"}]),
        ("for=1, for=2", [{"for": "1"}, {"for": "2"}]),
        ("for=1 ,\tfor=2 ; proto=https", [{"for": "1"}, {"for": "2", "proto": "https"}]),
        (" , for=1,, ;proto=http;,", [{"for": "1"}, {"proto": "http"}]),
        (r'for="a\"b\\c,;d"', [{"for": 'a"b\\c,;d'}]),
        ('for=""', [{"for": ""}]),
        ("secret=x;for=_hidden", [{"secret": "x", "for": "_hidden"}]),
    ],
)
def test_forwarded_is_a_list_of_elements_of_pairs(
    text: str, elements: list[dict[str, str]]
) -> None:
    """RFC 7239, 4. Empty elements are valid (RFC 9110, 5.6.1)."""
    assert list(parse_forwarded(text.strip(" "))) == elements


@pytest.mark.parametrize(
    "text",
    [
        "192.0.2.1",
        "for",
        "for=",
        "=1",
        "for =1",
        "for= 1",
        "for=1 proto=http",
        'for="1',
        'for=1"',
        'for="1"2',
        'for="1\\',
        "for=1;for=2",
        "for=1;FOR=2",
        "for=a@b",
        "for=\xff",
        # Patterns that must not take very long.
        "for=1" + " " * 8000 + "x",
        "for=" + "a" * 8000 + "@",
        "for=" + ":a" * 4000 + "@",
        "a" * 8000,
        'for="' + r"\a" * 4000,
    ],
)
def test_a_malformed_forwarded_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        list(parse_forwarded(text))
    assert caught.value.status == 400
    assert not caught.value.is_logged


@pytest.mark.parametrize(
    ("values", "client", "scheme"),
    [
        ((), None, None),
        ((b",",), None, None),
        ((b"for=192.0.2.1",), ("192.0.2.1", 0), None),
        ((b'for="192.0.2.1:4711";proto=https',), ("192.0.2.1", 4711), "https"),
        ((b'For="[2001:db8::1]:4711";PROTO=HTTPS',), ("2001:db8::1", 4711), "https"),
        ((b"for=192.0.2.1;proto=http",), ("192.0.2.1", 0), "http"),
        ((b"for=192.0.2.1;proto=wss",), ("192.0.2.1", 0), "https"),
        ((b"for=192.0.2.1;proto=gopher",), ("192.0.2.1", 0), "http"),
        # The scheme is from the proxy that the client has connected to: not from a connection
        # between two proxies, and never from the client.
        ((b"for=192.0.2.1;proto=https, for=10.0.0.1;proto=http",), ("192.0.2.1", 0), "https"),
        ((b"for=192.0.2.1, for=10.0.0.1;proto=https",), ("192.0.2.1", 0), None),
        ((b"for=10.0.0.2;proto=https, for=192.0.2.1;proto=http",), ("192.0.2.1", 0), "http"),
        ((b"for=10.0.0.2;proto=https", b"for=192.0.2.1;proto=http"), ("192.0.2.1", 0), "http"),
        ((b"for=10.0.0.2;proto=https, for=10.0.0.1;proto=http",), ("10.0.0.2", 0), "https"),
        ((b"for=192.0.2.1, for=unknown;proto=https",), None, "https"),
        ((b"for=_hidden;proto=https, for=10.0.0.1",), None, "https"),
        ((b"for=192.0.2.1, proto=https",), None, "https"),
    ],
)
def test_forwarded_has_client_and_scheme(
    values: tuple[bytes, ...], client: Node | None, scheme: str | None
) -> None:
    assert forwarded(*values) == (client, scheme)


def test_too_many_proxies_in_forwarded_are_refused_before_all_are_read() -> None:
    element = b"for=10.0.0.1"
    assert forwarded(b", ".join([b"for=192.0.2.1", *[element] * (MAX_NODES - 1)])) == (
        ("192.0.2.1", 0),
        None,
    )

    def refuse(count: int) -> None:
        with suppress(RequestError):
            forwarded(*[b", ".join([element] * 500)] * (count // 500))

    with pytest.raises(
        RequestError, match=r"^Invalid Forwarded: more than 100 elements$"
    ) as caught:
        forwarded(b", ".join([element] * (MAX_NODES + 1)))
    assert caught.value.status == 400
    assert count_calls(lambda: refuse(50_000)) < 2 * count_calls(lambda: refuse(1000))


@given(st.text('for=proto,;" \\[]:._0129'), ADDRESSES, st.booleans())
@example('x="', "192.0.2.1", True)
@example('for=10.0.0.1;x="\\', "192.0.2.1", False)
def test_no_forged_forwarded_hides_what_the_proxy_appends(
    forged: str, address: str, same_line: bool
) -> None:
    """If the client could make it unreadable, the request is refused."""
    appended = f'for="[{address}]";proto=http' if ":" in address else f"for={address};proto=http"
    values = (
        [f"{forged}, {appended}".encode()] if same_line else [forged.encode(), appended.encode()]
    )
    with suppress(RequestError):
        assert forwarded(*values) == ((address, 0), "http")


@given(
    st.sampled_from(sorted(FORWARDED_READERS)),
    st.lists(st.tuples(st.sampled_from([b"x-forwarded-for", b"forwarded"]), st.binary())),
)
def test_any_bytes_are_read_or_refused(reader: str, headers: list[tuple[bytes, bytes]]) -> None:
    with suppress(RequestError):
        client, scheme, _, hops = FORWARDED_READERS[reader](is_trusted, headers)
        assert client is None or ip_address(client[0])
        assert scheme in (None, "http", "https")
        assert hops is None or 0 <= hops < MAX_NODES


def test_a_forwarded_as_long_as_the_limit_is_read() -> None:
    field = b"for=192.0.2.1"
    assert forwarded(field + b"," * (MAX_FORWARDED - len(field))) == (("192.0.2.1", 0), None)
    with pytest.raises(RequestError, match="longer than"):
        forwarded(field + b"," * (MAX_FORWARDED - len(field) + 1))


def test_a_node_as_long_as_the_limit_is_read() -> None:
    """With a zone, which may have any length."""
    assert parse_node("fe80::1%".ljust(MAX_NODE, "x")) == ("fe80::1", 0)
    assert parse_node("fe80::1%".ljust(MAX_NODE + 1, "x")) is None


@pytest.mark.parametrize("filling", [b",", b";", b"for=1;", b", "])
def test_a_long_forwarded_of_any_content_is_refused(filling: bytes) -> None:
    """Separators without elements take time, too."""
    fields = [(b"forwarded", filling * 1000)] * 50
    with pytest.raises(RequestError, match="longer than") as caught:
        read_forwarded(lambda _: True, fields)
    assert caught.value.status == 400
