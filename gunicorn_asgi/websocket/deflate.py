"""Pure: permessage-deflate, the compression of WebSocket messages (RFC 7692).

`negotiation` agrees on its parameters.
"""

from __future__ import annotations

import zlib
from typing import Any

from ..errors import Violation

WINDOW_BITS, MEM_LEVEL = 12, 5
"""zlib's parameters: 38 KiB of memory for sending and 11 for receiving. zlib's defaults take 264
and 44. Most messages have a few KiB, and are compressed nearly as well."""
DEFLATE_WINDOW = 32768
"""Bytes of the largest window of DEFLATE."""
MAX_INFLATED = 32768
"""Bytes that are decompressed at once. 15 KB may become 15 MB, which would hold the loop."""
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
        "_context",
        "_decompressor",
        "_final_blocks",
        "_is_final",
        "_is_frame_end",
        "_rest",
        "_server_bits",
        "_server_no_context_takeover",
        "has_more",
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
        # Received.
        self._decompressor: Any = None
        self.has_more = False
        """The part of a frame is not decompressed to its end."""
        self._rest = b""
        """The bytes of the part that zlib has not taken."""
        self._is_frame_end = self._is_final = False
        """As in the latest call of `decompress`."""
        self._final_blocks = 0
        """Blocks with BFINAL in this frame."""
        self._context = b""
        """The last data of this frame, if it is not complete."""

    def compress(self, payload: bytes | memoryview, is_final: bool = True) -> bytes:
        """Compress a message, or a part of one, to the payload of its one frame.

        `is_final`: the part is the message's last.
        """
        compressor = self._compressor or zlib.compressobj(
            wbits=-self._server_bits, memLevel=MEM_LEVEL
        )
        self._compressor = None if is_final and self._server_no_context_takeover else compressor
        data: bytes = compressor.compress(payload)
        if not is_final:
            return data
        return (data + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(TAIL)]

    def decompress(self, payload: bytes, is_frame_end: bool, is_final: bool, room: float) -> bytes:
        """Decompress a part of a frame's payload, to at most MAX_INFLATED bytes.

        `decompress_more` continues while `has_more`. `is_frame_end`: the part is the frame's last.
        `is_final`: the frame is the message's last. Raises Violation, at the latest after more than
        `room` bytes.
        """
        is_message_end = is_frame_end and is_final
        if is_message_end and not self.has_more:
            payload += TAIL
        self._is_frame_end, self._is_final = is_frame_end, is_final
        decompressor = self._decompressor or zlib.decompressobj(wbits=-self._client_bits)
        # One byte more than allowed: a full result is too long.
        limit = MAX_INFLATED if room >= MAX_INFLATED else int(room) + 1
        try:
            data: bytes = decompressor.decompress(payload, limit)
        except zlib.error as error:
            raise Violation(1002, "decompression failed") from error
        if len(data) > room:
            raise Violation(1009, TOO_BIG)
        if decompressor.eof:
            decompressor = self._start_after_final_block(decompressor.unused_data, data)
        else:
            self._rest = decompressor.unconsumed_tail
            # After a result of the exact length, zlib may have more in its buffer.
            self.has_more = bool(self._rest) or len(data) == limit
            if self.has_more or not is_frame_end:
                self._context = (self._context + data)[-DEFLATE_WINDOW:]
        if is_frame_end and not self.has_more:
            self._final_blocks, self._context = 0, b""
            if is_final and self._client_no_context_takeover:
                decompressor = None
        self._decompressor = decompressor
        return data

    def decompress_more(self, room: float) -> bytes:
        """Continue with the part that was given to `decompress`. Raises Violation."""
        return self.decompress(self._rest, self._is_frame_end, self._is_final, room)

    def _start_after_final_block(self, rest: bytes, data: bytes) -> Any:
        """Make a new decompressor for `rest`, after the last `data` of the one before.

        RFC 7692, 7.2.1: a block with BFINAL ends zlib's stream, but neither the message nor its
        context. The data of this frame is the known part of the context.
        """
        self._final_blocks += 1
        if self._final_blocks > MAX_FINAL_BLOCKS:
            raise Violation(1002, "too many final blocks")
        self._rest = rest
        self.has_more = bool(rest)
        self._context = (self._context + data)[-DEFLATE_WINDOW:]
        return zlib.decompressobj(wbits=-self._client_bits, zdict=self._context)
