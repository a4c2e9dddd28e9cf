"""Pure: permessage-deflate, the compression of WebSocket messages (RFC 7692).

`negotiation` agrees on its parameters.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

from ..errors import Violation

WINDOW_BITS, MEM_LEVEL = 12, 5
"""zlib's parameters: 38 KiB of memory for sending and 11 for receiving. zlib's defaults take 264
and 44. Most messages have a few KiB, and are compressed nearly as well."""
DEFLATE_WINDOW = 32768
"""Bytes of the largest window of DEFLATE."""
MAX_FINAL_BLOCKS = 64
"""Blocks with BFINAL in one frame. zlib starts again after each. No sender needs more than one."""
TAIL = b"\x00\x00\xff\xff"
"""The end of the empty block after each flush of zlib. A message omits it (RFC 7692, 7.2.1)."""
TOO_BIG = "message too big"
"""The reason of a Close frame with 1009."""


class Deflate:
    """permessage-deflate with the agreed parameters.

    The first compressed message allocates zlib's memory: many connections never have one. zlib is
    called directly. The websockets package's extension makes two objects of each frame, and does
    not handle blocks with BFINAL.
    """

    __slots__ = (
        "_client_bits",
        "_client_no_context_takeover",
        "_compressor",
        "_decompressor",
        "_server_bits",
        "_server_no_context_takeover",
        "header",
    )

    def __init__(
        self,
        header: bytes,
        client_bits: int,
        server_bits: int,
        client_no_context_takeover: bool,
        server_no_context_takeover: bool,
    ) -> None:
        """`header`: the response's ``Sec-WebSocket-Extensions``. The windows have 2 ** bits bytes.

        A side without context takeover compresses each message without the earlier messages.
        """
        self.header = header
        self._client_bits = client_bits
        self._server_bits = server_bits
        self._client_no_context_takeover = client_no_context_takeover
        self._server_no_context_takeover = server_no_context_takeover
        self._compressor: Any = None
        self._decompressor: Any = None

    def compress(self, payload: bytes) -> bytes:
        """Compress a message to the payload of its one frame."""
        compressor = self._compressor or zlib.compressobj(
            wbits=-self._server_bits, memLevel=MEM_LEVEL
        )
        if not self._server_no_context_takeover:
            self._compressor = compressor
        data: bytes = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return data[: -len(TAIL)]

    def decompress(self, payload: bytes, is_final: bool, room: float) -> bytes:
        """Decompress the payload of a frame of a compressed message. `is_final`: its last frame.

        Raises Violation, at the latest after more than `room` bytes.
        """
        decompressor = self._decompressor or zlib.decompressobj(wbits=-self._client_bits)
        # One byte more than allowed: a full result is too long, and a result of the exact length
        # does not stay in zlib's buffer. For zlib, 0 means no limit.
        limit = 0 if room == math.inf else int(room) + 1
        try:
            data: bytes = decompressor.decompress(payload + TAIL if is_final else payload, limit)
            streams = 0
            while decompressor.eof and len(data) <= room:
                # RFC 7692, 7.2.1: a block with BFINAL ends zlib's stream, but neither the message
                # nor its context. The data of this frame is the known part of the context.
                streams += 1
                if streams > MAX_FINAL_BLOCKS:
                    raise Violation(1002, "too many final blocks")
                rest = decompressor.unused_data
                decompressor = zlib.decompressobj(
                    wbits=-self._client_bits, zdict=data[-DEFLATE_WINDOW:]
                )
                data += decompressor.decompress(rest, limit and limit - len(data))
        except zlib.error as error:
            raise Violation(1002, "decompression failed") from error
        if len(data) > room:
            raise Violation(1009, TOO_BIG)
        self._decompressor = None if is_final and self._client_no_context_takeover else decompressor
        return data
