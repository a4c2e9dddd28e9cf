"""Pure: the header that the PROXY protocol puts before everything else on a connection, versions 1 and 2.

The sections named here are those of its specification, https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt.
"""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, NamedTuple

from ..http.forwarded import Node, canonical

Mode = Literal["auto", "v1", "v2"]


class ProxyHeader(NamedTuple):
    """The header that a connection begins with, or that it begins with none."""

    length: int
    """Bytes of it, to be taken off the stream; 0 where there is none."""
    client: Node | None
    """None where the proxy does not tell, or speaks for itself: then the addresses of the connection count."""
    server: Node | None
    """What the client had connected to; None as for `client`."""


NO_HEADER = ProxyHeader(0, None, None)

V1_PREFIX = b"PROXY "
MAX_V1 = 107
"""Bytes of the longest header of version 1, its CRLF included (2.1)."""
V1_FAMILIES: dict[str, type[IPv4Address | IPv6Address]] = {"TCP4": IPv4Address, "TCP6": IPv6Address}
V1_PORT = re.compile("0|[1-9][0-9]{0,4}")

V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V2_FIXED = 16
"""Bytes up to the addresses (2.2)."""
MAX_V2 = V2_FIXED + 4096
"""Bytes of the longest header of version 2 that is taken. Behind at most 216 of addresses there are extensions, such as a client's certificate."""
V2_LOCAL, V2_PROXY = 0x20, 0x21
"""Version and command."""
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
"""Family and protocol, and how many bytes its addresses take. All others are invalid."""


def read_proxy_header(data: bytes, mode: Mode) -> ProxyHeader | None:
    """Read the header that a connection begins with, `data` being what has come of it so far.

    None while more is needed to tell. NO_HEADER where it does not begin with one of the versions in `mode`. Raises ValueError for a malformed
    header; its text is for the log.
    """
    if mode != "v1" and _may_begin(data, V2_SIGNATURE):
        return _read_v2(data)
    if mode != "v2" and _may_begin(data, V1_PREFIX):
        return _read_v1(data)
    return NO_HEADER


def _may_begin(data: bytes, prefix: bytes) -> bool:
    return data.startswith(prefix) or prefix.startswith(data)


def _read_v1(data: bytes) -> ProxyHeader | None:
    """2.1: ``PROXY TCP4 192.0.2.1 192.0.2.2 1024 80 CRLF``."""
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise ValueError(f"PROXY protocol: the line does not end within {MAX_V1} bytes")
        return None
    words = data[len(V1_PREFIX) : end].decode("latin-1").split(" ")
    length = end + len(b"\r\n")
    if words[0] == "UNKNOWN":  # whatever stands behind it is to be ignored
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
        raise ValueError(text)  # a zone, which ipaddress would take
    return canonical(family(text))


def _v1_port(text: str) -> int:
    if V1_PORT.fullmatch(text) is None or int(text) > 65535:
        raise ValueError(text)
    return int(text)


def _read_v2(data: bytes) -> ProxyHeader | None:
    """2.2: a signature, version and command, family and protocol, a length, and as many bytes of addresses and extensions."""
    if len(data) < V2_FIXED:
        return None
    command, family, size = struct.unpack_from(">BBH", data, len(V2_SIGNATURE))
    length = V2_FIXED + size
    if command not in (V2_LOCAL, V2_PROXY):
        raise ValueError(f"PROXY protocol: invalid version and command 0x{command:02x}")
    if length > MAX_V2:
        raise ValueError(f"PROXY protocol: a header of {length} bytes is longer than {MAX_V2}")
    if command == V2_PROXY:  # with LOCAL, the family is to be ignored, too
        if family not in ADDRESS_SIZES:
            raise ValueError(f"PROXY protocol: invalid family and protocol 0x{family:02x}")
        if size < ADDRESS_SIZES[family]:
            raise ValueError(
                f"PROXY protocol: {size} bytes are too short for addresses of family and protocol 0x{family:02x}"
            )
    if len(data) < length:
        return None
    if command == V2_LOCAL:
        return ProxyHeader(length, None, None)
    return ProxyHeader(length, *_v2_addresses(family, data))


def _v2_addresses(family: int, data: bytes) -> tuple[Node | None, Node | None]:
    """(client, server). What is valid, but not served here, is to be treated as UNSPEC: datagrams, unix sockets."""
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
