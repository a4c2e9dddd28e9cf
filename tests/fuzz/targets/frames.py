"""WebSocket frames: the reader and the websockets package understand the same, in any pieces.

The bytes describe frames. So most of them are nearly valid, and the oracle of
`tests/test_ws_oracle.py` corrects the package where the RFC decides against it.
"""

from __future__ import annotations

import math
from typing import Any

from test_ws_oracle import OFFERS, Sent, agree, ask
from websockets.protocol import State
from websockets.server import ServerProtocol
from ws_tables import read

from . import pieces

HAS_ORACLE = hasattr(ServerProtocol(state=State.OPEN), "current_size")
LIMITS = (math.inf, 1 << 24, 125, 30, 10, 1)


def check(data: bytes) -> None:
    kind, data = data[0] if data else 0, data[1:]
    offer = (*OFFERS, None, None, None)[kind % 6]
    # The package limits the compressed size.
    limit = math.inf if offer else LIMITS[kind // 6 % 6]
    frames = list(read_frames(data))
    wire = b"".join(sent.data for sent in frames)
    agreed: Any = agree(offer) if offer else (None, None)
    found = read([wire], limit, agreed[0])
    again = agree(offer)[0] if offer else None
    assert read(pieces(wire), limit, again) == found, frames
    raw = [read(cut, limit, agree(offer)[0] if offer else None) for cut in ([data], pieces(data))]
    assert raw[0] == raw[1], data
    if HAS_ORACLE:
        expected = ask(frames, limit, agreed[1])
        if not (offer and agreed[1].has_seen_final_block):
            assert found == expected, frames


def read_frames(data: bytes) -> Any:
    """A first byte as on the wire, then the length of the payload with the mask's bit inverted."""
    position = 0
    while position + 2 <= len(data):
        first, second = data[position], data[position + 1]
        position += 2
        size = second & 0x7F
        payload = data[position : position + size]
        position += size
        width = None
        if size > 120:  # a longer one than there is data for
            payload = payload + bytes((126, 300, 65535, 65536)[size % 4])
            width = (None, None, 16, 64)[size // 4 % 4]
            if width == 16 and len(payload) > 65535:
                width = None
        yield Sent(
            first & 15,
            payload,
            bool(first & 0x80),
            first >> 4 & 7,
            None if second & 0x80 else b"\x37\xfa\x21\x3d",
            width,
        )
