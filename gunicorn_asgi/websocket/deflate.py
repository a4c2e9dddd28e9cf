"""Pure: permessage-deflate, the compression of WebSocket messages (RFC 7692). What it is to be is agreed on in `negotiation`."""

from __future__ import annotations

import math
import zlib
from typing import Any

from ..errors import Violation

WINDOW_BITS, MEM_LEVEL = 12, 5
"""Of permessage-deflate: 38 KiB for what is sent and 11 for what is received, where zlib's own choice takes 264 and 44.
Messages of a few KiB, which most are, lose next to nothing by it."""
DEFLATE_WINDOW = 32768
"""Bytes that DEFLATE can refer back to."""
MAX_FINAL_BLOCKS = 64
"""Blocks with BFINAL in one frame: zlib begins anew behind each, and no sender needs more than one."""
TAIL = b"\x00\x00\xff\xff"
"""Of an empty block, which ends what zlib flushes, and is left out of a message (RFC 7692, 7.2.1)."""
TOO_BIG = "message too big"
"""The reason of a Close with 1009."""


class Deflate:
    """permessage-deflate as agreed. zlib's memory is taken with the first message that needs it: many a connection never has one.

    It is asked directly, not by the package's extension: that makes two frames of each, and says nothing of blocks with BFINAL.
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
        """`header` is ``Sec-WebSocket-Extensions`` of the answer. Each side has a window of 2 ** bits; one that `forgets` takes no context
        over from one message to the next.
        """
        self.header = header
        self._client_bits = client_bits
        self._server_bits = server_bits
        self._client_no_context_takeover = client_no_context_takeover
        self._server_no_context_takeover = server_no_context_takeover
        self._compressor: Any = None
        self._decompressor: Any = None

    def compress(self, payload: bytes) -> bytes:
        """The payload of the one frame of a message."""
        compressor = self._compressor or zlib.compressobj(
            wbits=-self._server_bits, memLevel=MEM_LEVEL
        )
        if not self._server_no_context_takeover:
            self._compressor = compressor
        data: bytes = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return data[: -len(TAIL)]

    def decompress(self, payload: bytes, is_final: bool, room: float) -> bytes:
        """The payload of one frame of a compressed message, the last one if `is_final`.

        Raises Violation, at the latest when `room` bytes are exceeded.
        """
        decompressor = self._decompressor or zlib.decompressobj(wbits=-self._client_bits)
        # One more than allowed: so a full one is too many, and what fits to the byte is not held back within zlib. 0 is no limit to it.
        limit = 0 if room == math.inf else int(room) + 1
        try:
            data: bytes = decompressor.decompress(payload + TAIL if is_final else payload, limit)
            streams = 0
            while decompressor.eof and len(data) <= room:
                # RFC 7692, 7.2.1: a block with BFINAL ends zlib's stream, but neither the message nor its context. Of that, this frame is known.
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
