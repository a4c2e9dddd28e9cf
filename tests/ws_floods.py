"""Packets of WebSocket clients that ask for as much work as possible.

`benchmarks/turn_cost.py` measures their costs, and `test_ws_turn_limits.py` counts calls.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from floods import Flood
from ws import BINARY, RSV1, TEXT, binary, cont, frame, handshake, ping, pong, text

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate"


def compressed(payload: bytes) -> bytes:
    compressor = zlib.compressobj(9, wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def huffman_tables(count: int) -> bytes:
    """Blocks that have nothing but the codes of their symbols (RFC 1951, 3.2.7), all unused but the end of the block."""
    bits, size = 0, 0

    def put(value: int, width: int) -> None:
        nonlocal bits, size
        bits |= value << size
        size += width

    def zeros(number: int) -> None:
        put(1, 1)  # the code of symbol 18: a run of lengths 0
        put(number - 11, 7)

    for _ in range(count):
        put(0, 1)
        put(2, 2)
        put(29, 5)
        put(29, 5)
        put(18 - 4, 4)
        for symbol in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1):
            put(1 if symbol in (18, 1) else 0, 3)
        zeros(138)
        zeros(118)
        put(0, 1)  # the end of the block has a code of one bit
        zeros(29 + 30)
        put(0, 1)  # the end of the block
    return bits.to_bytes(-(-size // 8), "little")


BOMB = compressed(bytes(15_000_000))
TEXT_BOMB = compressed("é".encode() * 7_000_000)
_KINDS: dict[str, tuple[bytes, bytes]] = {
    # the frames at the start, and those that fill the packet
    "deflate bombs": (b"", frame(BINARY, BOMB, rsv=RSV1)),
    "deflate bombs of text": (b"", frame(TEXT, TEXT_BOMB, rsv=RSV1)),
    "small deflate bombs": (b"", frame(BINARY, compressed(bytes(30_000)), rsv=RSV1)),
    "a deflate bomb in one-byte fragments": (
        frame(BINARY, BOMB[:1], fin=False, rsv=RSV1),
        b"".join(cont(BOMB[i : i + 1], fin=False) for i in range(1, len(BOMB))),
    ),
    "empty compressed fragments": (frame(BINARY, fin=False, rsv=RSV1), cont(fin=False)),
    "empty compressed messages": (b"", frame(BINARY, b"\0", rsv=RSV1)),
    "final blocks": (frame(BINARY, fin=False, rsv=RSV1), cont(b"\3\0" * 60, fin=False)),
    "blocks of Huffman tables": (
        frame(BINARY, fin=False, rsv=RSV1),
        cont(huffman_tables(300), fin=False),
    ),
    "empty fragments": (binary(fin=False), cont(fin=False)),
    "messages of two fragments": (b"", text(fin=False) + cont()),
    "pings": (b"", ping()),
    "long pings": (b"", ping(bytes(125))),
    "pings within a message": (text("a", fin=False), ping()),
    "pongs": (b"", pong()),
    "empty messages": (b"", binary()),
    "empty messages and pings": (b"", binary() * 500 + ping()),
    "small messages": (b"", text("x" * 20)),
    "large messages": (b"", text("é" * 50_000)),
    "a message in large fragments": (binary(fin=False), cont(bytes(16_000), fin=False)),
}


def _filled(begin: bytes, unit: bytes) -> Callable[[int], bytes]:
    """A packet of just so many bytes: its last frame may be cut off."""
    return lambda size: (begin + unit * (size // len(unit) + 1))[:size]


WEBSOCKET = {
    kind: Flood(_filled(begin, unit), handshake(OFFER), "listens")
    for kind, (begin, unit) in _KINDS.items()
}
