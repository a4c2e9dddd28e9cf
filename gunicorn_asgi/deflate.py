"""Pure: permessage-deflate, the compression of WebSocket messages, as the websockets package has it (RFC 7692)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable

from websockets.exceptions import InvalidHeader, NegotiationError, PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension

from .errors import RequestError, Violation
from .wire import Header

WINDOW_BITS, MEM_LEVEL = 12, 5
"""Of permessage-deflate: 38 KiB for what is sent and 11 for what is received, where zlib's own choice takes 264 and 44.
Messages of a few KiB, which most are, lose next to nothing by it."""
MAX_WINDOW = 32768
"""Bytes that DEFLATE can refer back to."""
MAX_STREAMS = 64
"""Blocks with BFINAL in one frame: zlib begins anew behind each, and no sender needs more than one."""
TOO_BIG = "message too big"
"""The reason of a Close with 1009."""

FACTORY = ServerPerMessageDeflateFactory(
    server_max_window_bits=WINDOW_BITS, client_max_window_bits=WINDOW_BITS, compress_settings={"memLevel": MEM_LEVEL}
)


def negotiate_deflate(headers: Iterable[Header]) -> Deflate | None:
    """Take the first offer of permessage-deflate that can be taken (RFC 7692, 5 and 7). Raises RequestError for what is no offer (RFC 6455, 9.1)."""
    values = [value.decode("latin-1") for name, value in headers if name == b"sec-websocket-extensions"]
    try:
        offers = [offer for value in values for offer in parse_extension(value)]
    except InvalidHeader as error:
        raise RequestError(400, "Invalid Sec-WebSocket-Extensions: not a list of extensions") from error
    for name, parameters in offers:
        if name == FACTORY.name:
            try:
                agreed, extension = FACTORY.process_request_params(parameters, ())
            except NegotiationError:
                continue
            return Deflate(build_extension([(name, list(agreed))]).encode(), extension)
    return None


class Deflate:
    """permessage-deflate as agreed. zlib's memory is taken with the first message that needs it: many a connection never has one."""

    __slots__ = ("_agreed", "_extension", "_forgets", "header")

    def __init__(self, header: bytes, extension: PerMessageDeflate) -> None:
        self.header = header
        """``Sec-WebSocket-Extensions`` of the answer."""
        self._forgets = extension.remote_no_context_takeover
        """The client begins each message without a context. `decompress` sees to that."""
        self._agreed = (False, extension.local_no_context_takeover, extension.remote_max_window_bits, extension.local_max_window_bits)
        self._extension: PerMessageDeflate | None = None

    def _zlib(self) -> PerMessageDeflate:
        if self._extension is None:
            self._extension = PerMessageDeflate(*self._agreed, compress_settings={"memLevel": MEM_LEVEL})
        return self._extension

    def compress(self, opcode: int, payload: bytes) -> bytes:
        """The payload of the one frame of a message."""
        return bytes(self._zlib().encode(Frame(Opcode(opcode), payload)).data)

    def decompress(self, opcode: int, payload: bytes, is_final: bool, room: float) -> bytes:
        """The payload of one frame of a compressed message. Raises Violation, at the latest when `room` bytes are exceeded."""
        extension = self._zlib()
        bits = -extension.remote_max_window_bits
        if self._forgets and opcode != Opcode.CONT:
            extension.decoder = zlib.decompressobj(wbits=bits)
        # One more than allowed, so that what fits to the byte is not held back within zlib.
        limit = None if room == math.inf else int(room) + 1
        try:
            data = bytes(extension.decode(Frame(Opcode(opcode), payload, is_final, rsv1=opcode != Opcode.CONT), max_size=limit).data)
            streams = 0
            while extension.decoder.eof:
                # RFC 7692, 7.2.1: a block with BFINAL ends zlib's stream, but neither the message nor its context.
                streams += 1
                if streams > MAX_STREAMS:
                    raise ProtocolError("too many final blocks")
                rest = extension.decoder.unused_data
                extension.decoder = zlib.decompressobj(wbits=bits, zdict=data[-MAX_WINDOW:])
                data += extension.decoder.decompress(rest, 0 if limit is None else max(1, limit - len(data)))
        except PayloadTooBig:
            raise Violation(1009, TOO_BIG) from None
        except (ProtocolError, zlib.error) as error:
            raise Violation(1002, "decompression failed") from error
        if len(data) > room:
            raise Violation(1009, TOO_BIG)
        if self._forgets and is_final:
            del extension.decoder  # and its memory
        return data
