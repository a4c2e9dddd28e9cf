"""The header of the PROXY protocol (`gunicorn_asgi.net.proxy_protocol`), by its sections."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gunicorn_asgi.http.forwarded import Node
from gunicorn_asgi.net.proxy_protocol import (
    MAX_V1,
    MAX_V2,
    NO_HEADER,
    TCP4,
    TCP6,
    UDP4,
    UDP6,
    UNIX_DATAGRAM,
    UNIX_STREAM,
    UNSPEC,
    V2_LOCAL,
    V2_PROXY,
    V2_SIGNATURE,
    Mode,
    ProxyHeader,
    read_proxy_header,
)

MODES: tuple[Mode, ...] = ("auto", "v1", "v2")
CLIENT4, SERVER4 = ("192.0.2.1", 4711), ("198.51.100.2", 443)
CLIENT6, SERVER6 = ("2001:db8::1", 4711), ("2001:db8::2", 443)
V1_LONGEST = b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"


def pack(*nodes: Node) -> bytes:
    addresses = b"".join(ip_address(address).packed for address, _ in nodes)
    return addresses + struct.pack(">HH", *(port for _, port in nodes))


def v2(family: int, payload: bytes = b"", command: int = V2_PROXY) -> bytes:
    return V2_SIGNATURE + struct.pack(">BBH", command, family, len(payload)) + payload


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


V1 = {
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\n": (CLIENT4, SERVER4),
    b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n": (("0.0.0.0", 0), ("255.255.255.255", 65535)),
    b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n": (CLIENT6, SERVER6),
    b"PROXY TCP6 2001:DB8:0:0:0:0:0:1 2001:0db8::0002 4711 443\r\n": (CLIENT6, SERVER6),
    b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 4711 443\r\n": (CLIENT4, SERVER4),
    b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n": (
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535),
    )
    * 2,
    b"PROXY UNKNOWN\r\n": (None, None),
    b"PROXY UNKNOWN \r\n": (None, None),
    b"PROXY UNKNOWN 192.0.2.1 nonsense \xff\0\r\n": (None, None),
    V1_LONGEST: (None, None),
}
V2 = {
    v2(TCP4, pack(CLIENT4, SERVER4)): (CLIENT4, SERVER4),
    v2(TCP6, pack(CLIENT6, SERVER6)): (CLIENT6, SERVER6),
    v2(TCP6, pack(("::ffff:192.0.2.1", 4711), ("::ffff:198.51.100.2", 443))): (CLIENT4, SERVER4),
    v2(TCP4, pack(CLIENT4, SERVER4) + tlv(0x02, b"example.org") + tlv(0x04, bytes(100))): (
        CLIENT4,
        SERVER4,
    ),
    v2(TCP6, pack(CLIENT6, SERVER6) + tlv(0xEA, b"\x01vpce-1")): (CLIENT6, SERVER6),
    v2(TCP4, pack(CLIENT4, SERVER4) + b"\x01no extension"): (
        CLIENT4,
        SERVER4,
    ),  # they are skipped
    v2(TCP4, pack(CLIENT4, SERVER4) + bytes(4096 - 12)): (CLIENT4, SERVER4),
    # Valid, but not served here: treated as UNSPEC.
    v2(UDP4, pack(CLIENT4, SERVER4)): (None, None),
    v2(UDP6, pack(CLIENT6, SERVER6)): (None, None),
    v2(UNIX_STREAM, bytes(216)): (None, None),
    v2(UNIX_STREAM, b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0") + tlv(0x04, b"")): (
        None,
        None,
    ),
    v2(UNIX_DATAGRAM, bytes(216)): (None, None),
    v2(UNSPEC): (None, None),
    v2(UNSPEC, b"whatever"): (None, None),
    # The proxy itself, a health check: the family is ignored, too.
    v2(UNSPEC, command=V2_LOCAL): (None, None),
    v2(TCP4, pack(CLIENT4, SERVER4), command=V2_LOCAL): (None, None),
    v2(TCP4, b"short", command=V2_LOCAL): (None, None),
    v2(0xFF, b"whatever", command=V2_LOCAL): (None, None),
}
HEADERS = [(data, "v1", *nodes) for data, nodes in V1.items()] + [
    (data, "v2", *nodes) for data, nodes in V2.items()
]
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(("data", "version", "client", "server"), HEADERS)
def test_a_header_has_client_server_and_length(
    data: bytes, version: str, client: Node | None, server: Node | None
) -> None:
    for mode in MODES:
        for tail in (b"", REQUEST, V2_SIGNATURE, b"PROXY ", b"\r\n\r\n", bytes(5000)):
            expected = (
                ProxyHeader(len(data), client, server) if mode in ("auto", version) else NO_HEADER
            )
            assert read_proxy_header(data + tail, mode) == expected


@pytest.mark.parametrize(("data", "version"), [(data, version) for data, version, *_ in HEADERS])
def test_a_truncated_header_needs_more_bytes(data: bytes, version: Mode) -> None:
    for end in range(len(data)):
        assert read_proxy_header(data[:end], version) is None, end
        assert read_proxy_header(data[:end], "auto") is None, end


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"PROXYTCP4",
        b"proxy TCP4 ",
        b"\r\nGET / HTTP/1.1\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        V2_SIGNATURE[:-1] + b"\r",
        b" PROXY TCP4 ",
    ],
)
def test_a_connection_that_begins_with_something_else_has_no_header(
    data: bytes, mode: Mode
) -> None:
    assert read_proxy_header(data, mode) is NO_HEADER


@pytest.mark.parametrize("mode", MODES)
def test_no_bytes_decide_nothing(mode: Mode) -> None:
    assert read_proxy_header(b"", mode) is None
    assert read_proxy_header(b"P", mode) is (NO_HEADER if mode == "v2" else None)
    assert read_proxy_header(b"\r\n\r\n", mode) is (NO_HEADER if mode == "v1" else None)


def test_the_longest_line_has_107_bytes() -> None:
    """2.1: a longer one is refused at once."""
    assert len(V1_LONGEST) == MAX_V1 == 107
    endless = b"PROXY UNKNOWN " + b"x" * 200
    assert read_proxy_header(endless[:106], "v1") is None
    assert read_proxy_header(endless[:105] + b"\r", "v1") is None
    for data in (
        endless[:107],
        endless,
        V1_LONGEST.replace(b"UNKNOWN", b"UNKNOWN "),
        endless[:106] + b"\r\n",
    ):
        with pytest.raises(ValueError, match="does not end within 107 bytes"):
            read_proxy_header(data, "v1")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"TCP4",
        b"UDP4 192.0.2.1 198.51.100.2 4711 443",
        b"tcp4 192.0.2.1 198.51.100.2 4711 443",
        b"UNKNOWNS",
        b" UNKNOWN",
        b"TCP4 192.0.2.1 198.51.100.2 4711",
        b"TCP4 192.0.2.1 198.51.100.2 4711 443 1",
        b"TCP4 192.0.2.1 198.51.100.2 4711 443 ",
        b"TCP4  192.0.2.1 198.51.100.2 4711 443",
        b"TCP4\t192.0.2.1 198.51.100.2 4711 443",
        b"TCP4 192.0.2.1 198.51.100.2 4711 443\r",
        b"TCP4 192.0.2.1 198.51.100.2 4711 443\nTCP4",
        b"TCP4 192.0.2.256 198.51.100.2 4711 443",
        b"TCP4 192.0.2.01 198.51.100.2 4711 443",
        b"TCP4 192.0.2.1 198.51.100 4711 443",
        b"TCP4 192.0.2.1/32 198.51.100.2 4711 443",
        b"TCP4 2001:db8::1 2001:db8::2 4711 443",
        b"TCP6 192.0.2.1 198.51.100.2 4711 443",
        b"TCP6 2001:db8::1%1 2001:db8::2 4711 443",
        b"TCP6 [2001:db8::1] 2001:db8::2 4711 443",
        b"TCP4 a b 4711 443",
        b"TCP4 192.0.2.1 198.51.100.2 65536 443",
        b"TCP4 192.0.2.1 198.51.100.2 4711 -1",
        b"TCP4 192.0.2.1 198.51.100.2 +4711 443",
        b"TCP4 192.0.2.1 198.51.100.2 04711 443",
        b"TCP4 192.0.2.1 198.51.100.2 4711 99999999999999",
        b"TCP4 192.0.2.1 198.51.100.2 4711 \xb2",
        b"TCP4 192.0.2.1 198.51.100.2 4711 4_4",
    ],
)
def test_a_malformed_line_is_refused(line: bytes) -> None:
    for mode in ("auto", "v1"):
        with pytest.raises(ValueError, match=r"^PROXY protocol: ") as caught:
            read_proxy_header(b"PROXY " + line + b"\r\n" + REQUEST, mode)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "data",
    [
        v2(TCP4, pack(CLIENT4, SERVER4), command=0x22),
        v2(TCP4, pack(CLIENT4, SERVER4), command=0x2F),
        v2(TCP4, pack(CLIENT4, SERVER4), command=0x11),
        v2(TCP4, pack(CLIENT4, SERVER4), command=0x31),
        v2(UNSPEC, command=0x01),
        *(v2(family, bytes(216)) for family in (0x01, 0x10, 0x13, 0x20, 0x30, 0x33, 0x41, 0xFF)),
        v2(TCP4),
        v2(TCP4, bytes(11)),
        v2(TCP6, bytes(35)),
        v2(UDP4, bytes(11)),
        v2(UDP6, bytes(35)),
        v2(UNIX_STREAM, bytes(215)),
        v2(UNIX_DATAGRAM, bytes(215)),
        v2(TCP4, bytes(MAX_V2 - 16 + 1)),
        v2(UNSPEC, bytes(65535)),
        v2(UNSPEC, bytes(65535), command=V2_LOCAL),
    ],
)
def test_a_malformed_header_is_refused_before_its_end_is_awaited(data: bytes) -> None:
    for mode in ("auto", "v2"):
        assert read_proxy_header(data[:15], mode) is None
        for end in (16, len(data)):
            with pytest.raises(ValueError, match=r"^PROXY protocol: ") as caught:
                read_proxy_header(data[:end], mode)
            assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("family", "size"),
    [(0x00, 0), (0x11, 12), (0x12, 12), (0x21, 36), (0x22, 36), (0x31, 216), (0x32, 216)],
)
def test_each_family_is_accepted_with_the_size_of_its_addresses(family: int, size: int) -> None:
    """2.2: extensions follow the addresses."""
    for length in (size, size + 1):
        header = read_proxy_header(v2(family, bytes(length)), "v2")
        assert header is not None
        assert header.length == 16 + length
    if size:
        with pytest.raises(ValueError, match="too short"):
            read_proxy_header(v2(family, bytes(size - 1)), "v2")


def test_without_a_header_nothing_is_removed_from_the_stream() -> None:
    assert NO_HEADER == (0, None, None)


def check(data: bytes, mode: Mode) -> ProxyHeader | None:
    """Read `data`, and check the result against the promises."""
    try:
        header = read_proxy_header(data, mode)
    except ValueError as error:
        if type(error) is not ValueError or not str(error).startswith("PROXY protocol: "):
            raise
        return None
    if header is None:
        assert len(data) < (MAX_V1 if data.startswith(b"P") else MAX_V2)
    else:
        assert header.length <= len(data)
        assert (header.client is None) == (header.server is None)
        for node in (header.client, header.server):
            assert node is None or (ip_address(node[0]) and 0 <= node[1] <= 65535)
    return header


MODE = st.sampled_from(MODES)
V1_WORDS = st.sampled_from(
    [b"TCP4", b"TCP6", b"UNKNOWN", b"192.0.2.1", b"2001:db8::1", b"::", b"443", b"0", b"", b"\xff"]
) | st.binary(max_size=8)


@given(st.binary(), MODE)
@example(b"PROXY \r\n", "v1")
def test_any_bytes_are_read_or_refused(data: bytes, mode: Mode) -> None:
    check(data, mode)


@given(st.lists(V1_WORDS, max_size=8), MODE)
def test_any_line_is_read_or_refused(words: list[bytes], mode: Mode) -> None:
    check(b" ".join([b"PROXY", *words]) + b"\r\n", mode)


@given(
    st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535), st.binary(max_size=300), MODE
)
@example(V2_PROXY, TCP6, 36, bytes(36), "v2")
def test_any_binary_header_is_read_or_refused(
    command: int, family: int, size: int, payload: bytes, mode: Mode
) -> None:
    check(V2_SIGNATURE + struct.pack(">BBH", command, family, size) + payload, mode)


@given(
    st.binary(max_size=40) | st.sampled_from([data for data, *_ in HEADERS]),
    st.binary(max_size=20),
    MODE,
)
def test_later_bytes_do_not_change_the_result(data: bytes, more: bytes, mode: Mode) -> None:
    header = check(data, mode)
    if header is not None:
        assert read_proxy_header(data + more, mode) == header


@given(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4))
    | st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
    st.integers(0, 65535),
    st.integers(0, 65535),
)
def test_both_versions_have_the_same_result(
    addresses: tuple[object, object], source: int, destination: int
) -> None:
    client, server = (str(addresses[0]), source), (str(addresses[1]), destination)
    family = 6 if ":" in client[0] else 4
    line = f"PROXY TCP{family} {client[0]} {server[0]} {source} {destination}\r\n".encode()
    binary = v2(TCP6 if family == 6 else TCP4, pack(client, server))
    one, two = read_proxy_header(line, "v1"), read_proxy_header(binary, "v2")
    assert one is not None
    assert two is not None
    assert one[1:] == two[1:]
    assert one.client is not None
    assert ip_address(one.client[0]) in (addresses[0], getattr(addresses[0], "ipv4_mapped", None))
