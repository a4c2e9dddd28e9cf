"""Pure: the header of the PROXY protocol, versions 1 and 2. It comes first on a connection.

Sections are from https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt.
"""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, NamedTuple

from ..http.forwarded import Node, canonical

Mode = Literal["auto", "v1", "v2"]


class ProxyHeader(NamedTuple):
    """The PROXY header of a connection, or NO_HEADER."""

    length: int
    """Bytes of the header, to be removed from the stream; 0 if there is none."""
    client: Node | None
    """None if the proxy does not know the client, or is the client itself (LOCAL).

    Then the addresses of the connection count.
    """
    server: Node | None
    """The address to which the client has connected, or None as for `client`."""


NO_HEADER = ProxyHeader(0, None, None)

V1_PREFIX = b"PROXY "
MAX_V1 = 107
"""Bytes of the longest header of version 1, including CRLF (2.1)."""
V1_FAMILIES: dict[str, type[IPv4Address | IPv6Address]] = {"TCP4": IPv4Address, "TCP6": IPv6Address}
V1_PORT = re.compile("0|[1-9][0-9]{0,4}")

V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V2_FIXED = 16
"""Bytes before the addresses (2.2)."""
MAX_V2 = V2_FIXED + 4096
"""Bytes of the longest accepted header of version 2. After at most 216 bytes of addresses there are
extensions, such as a client's certificate."""
V2_LOCAL, V2_PROXY = 0x20, 0x21
"""Byte 13: version and command."""
UNSPEC, TCP4, UDP4, TCP6, UDP6, UNIX_STREAM, UNIX_DATAGRAM = (
    0x00,
    0x11,
    0x12,
    0x21,
    0x22,
    0x31,
    0x32,
)
ADDRESS_SIZES = {
    UNSPEC: 0,
    TCP4: 12,
    UDP4: 12,
    TCP6: 36,
    UDP6: 36,
    UNIX_STREAM: 216,
    UNIX_DATAGRAM: 216,
}
"""Family and protocol, with the bytes of their addresses. All other values are invalid."""


def read_proxy_header(data: bytes, mode: Mode) -> ProxyHeader | None:
    """Read the header from `data`, the beginning of a connection.

    Returns None if more bytes are needed. Returns NO_HEADER if `data` does not begin with a version
    in `mode`. Raises ValueError for a malformed header, with a text for the log.
    """
    if mode != "v1" and _may_begin(data, V2_SIGNATURE):
        return _read_v2(data)
    if mode != "v2" and _may_begin(data, V1_PREFIX):
        return _read_v1(data)
    return NO_HEADER


def _may_begin(data: bytes, prefix: bytes) -> bool:
    return data.startswith(prefix) or prefix.startswith(data)


def _read_v1(data: bytes) -> ProxyHeader | None:
    """Read version 1 (2.1): ``PROXY TCP4 192.0.2.1 192.0.2.2 1024 80 CRLF``."""
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise ValueError(f"PROXY protocol: the line does not end within {MAX_V1} bytes")
        return None
    words = data[len(V1_PREFIX) : end].decode("latin-1").split(" ")
    length = end + len(b"\r\n")
    if words[0] == "UNKNOWN":  # 2.1: the rest of the line is ignored
        return ProxyHeader(length, None, None)
    family = V1_FAMILIES.get(words[0])
    if family is None or len(words) != 5:
        raise ValueError(f"PROXY protocol: invalid line {data[:end]!r}")
    _, source, destination, source_port, destination_port = words
    try:
        client = _v1_address(family, source), _v1_port(source_port)
        server = _v1_address(family, destination), _v1_port(destination_port)
    except ValueError:
        raise ValueError(f"PROXY protocol: invalid address or port in {data[:end]!r}") from None
    return ProxyHeader(length, client, server)


def _v1_address(family: type[IPv4Address | IPv6Address], text: str) -> str:
    if "%" in text:
        raise ValueError(text)  # a zone, which ipaddress would accept
    return canonical(family(text))


def _v1_port(text: str) -> int:
    if V1_PORT.fullmatch(text) is None or int(text) > 65535:
        raise ValueError(text)
    return int(text)


def _read_v2(data: bytes) -> ProxyHeader | None:
    """Read version 2 (2.2).

    A signature, version and command, family and protocol, a length, and the number of bytes in that
    length for addresses and extensions.
    """
    if len(data) < V2_FIXED:
        return None
    command, family, size = struct.unpack_from(">BBH", data, len(V2_SIGNATURE))
    length = V2_FIXED + size
    if command not in (V2_LOCAL, V2_PROXY):
        raise ValueError(f"PROXY protocol: invalid version and command 0x{command:02x}")
    if length > MAX_V2:
        raise ValueError(f"PROXY protocol: a header of {length} bytes is longer than {MAX_V2}")
    if command == V2_PROXY:  # LOCAL: the family is ignored, too
        if family not in ADDRESS_SIZES:
            raise ValueError(f"PROXY protocol: invalid family and protocol 0x{family:02x}")
        if size < ADDRESS_SIZES[family]:
            raise ValueError(
                f"PROXY protocol: {size} bytes are too short for addresses "
                f"of family and protocol 0x{family:02x}"
            )
    if len(data) < length:
        return None
    if command == V2_LOCAL:
        return ProxyHeader(length, None, None)
    return ProxyHeader(length, *_v2_addresses(family, data))


def _v2_addresses(family: int, data: bytes) -> tuple[Node | None, Node | None]:
    """Return (client, server). Datagrams and unix sockets count as UNSPEC: (None, None)."""
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    if family == TCP4:
        first, second, source_port, destination_port = struct.unpack_from(">4s4sHH", data, V2_FIXED)
        source, destination = IPv4Address(first), IPv4Address(second)
    elif family == TCP6:
        first, second, source_port, destination_port = struct.unpack_from(
            ">16s16sHH", data, V2_FIXED
        )
        source, destination = IPv6Address(first), IPv6Address(second)
    else:
        return None, None
    return (canonical(source), source_port), (canonical(destination), destination_port)
