"""A raw WebSocket client that takes nothing on trust: it builds any frame, legal or not, and reads the server's by the letter of RFC 6455 and 7692.

And applications that many tests need: they hold what they are told against ASGI as they go.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from inprocess import Client, InProcess, Response
from ws2 import Client2, Stream2, assert_accepted2, extended_connect, split_fields

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
DATA_OPCODES = (CONTINUATION, TEXT, BINARY)
MAX_CONTROL = 125

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
"""The key of the example in RFC 6455, 1.3."""
MASK = b"\x37\xfa\x21\x3d"
"""The masking key of the examples in RFC 6455, 5.7."""
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

RSV1, RSV2, RSV3 = 4, 2, 1

VALID_CODES = (
    1000,
    1001,
    1002,
    1003,
    1007,
    1008,
    1009,
    1010,
    1011,
    1012,
    1013,
    1014,
    3000,
    3999,
    4000,
    4999,
)
"""Close codes that may be on the wire: RFC 6455, 7.4.1, IANA's registry (1012 to 1014), and 7.4.2."""
INVALID_CODES = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)


# Frames.


def masked(data: bytes, mask: bytes) -> bytes:
    """RFC 6455, 5.3."""
    if mask == b"\0\0\0\0":
        return data
    repeated = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(
        len(data), "big"
    )


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    length: int | None = None,
    width: int | None = None,
) -> bytes:
    """A client's frame (RFC 6455, 5.2).

    `rsv`: of RSV1 | RSV2 | RSV3. `mask`: None for a frame that is not masked. `length`: what the header says if that is not the payload's.
    `width`: the bits of the length, 7, 16 or 64, if they are not the fewest that can be.
    """
    if length is None:
        length = len(payload)
    if width is None:
        width = 7 if length < 126 else 16 if length < 65536 else 64
    first = fin << 7 | rsv << 4 | opcode
    has_mask = 0 if mask is None else 0x80
    if width == 7:
        header = struct.pack("!BB", first, has_mask | length)
    elif width == 16:
        header = struct.pack("!BBH", first, has_mask | 126, length)
    else:
        header = struct.pack("!BBQ", first, has_mask | 127, length)
    return header + payload if mask is None else header + mask + masked(payload, mask)


def text(data: str | bytes = b"", **kind: Any) -> bytes:
    return frame(TEXT, data.encode() if isinstance(data, str) else data, **kind)


def binary(data: bytes = b"", **kind: Any) -> bytes:
    return frame(BINARY, data, **kind)


def cont(data: str | bytes = b"", **kind: Any) -> bytes:
    return frame(CONTINUATION, data.encode() if isinstance(data, str) else data, **kind)


def ping(data: bytes = b"", **kind: Any) -> bytes:
    return frame(PING, data, **kind)


def pong(data: bytes = b"", **kind: Any) -> bytes:
    return frame(PONG, data, **kind)


def close(code: int | None = None, reason: str | bytes = b"", **kind: Any) -> bytes:
    """RFC 6455, 5.5.1; without a code there is no payload at all."""
    reason = reason.encode() if isinstance(reason, str) else reason
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason, **kind)


def fragments(opcode: int, parts: Iterable[bytes], between: bytes = b"", rsv: int = 0) -> bytes:
    """One message in as many frames as there are parts, and `between` two of them something else."""
    parts = list(parts)
    last = len(parts) - 1
    return between.join(
        frame(
            CONTINUATION if number else opcode, part, fin=number == last, rsv=0 if number else rsv
        )
        for number, part in enumerate(parts)
    )


# The handshake.


def handshake(
    *fields: bytes,
    target: str = "/",
    method: str = "GET",
    http: str = "1.1",
    connection: bytes | None = b"Upgrade",
    upgrade: bytes | None = b"websocket",
    key: bytes | None = KEY,
    version: bytes | None = b"13",
) -> bytes:
    """An opening handshake (RFC 6455, 4.1). What is None is left out, `fields` are added."""
    parts = (
        (b"Connection", connection),
        (b"Upgrade", upgrade),
        (b"Sec-WebSocket-Key", key),
        (b"Sec-WebSocket-Version", version),
    )
    lines = [b"%b: %b" % (name, value) for name, value in parts if value is not None]
    return b"\r\n".join(
        [f"{method} {target} HTTP/{http}".encode(), b"Host: a", *lines, *fields, b"", b""]
    )


def accept_key(key: bytes) -> bytes:
    """RFC 6455, 4.2.2."""
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def options(values: Iterable[bytes]) -> list[bytes]:
    """The members of a list field, in lower case."""
    return [option.strip().lower() for option in b",".join(values).split(b",")]


def assert_accepted(response: Response, key: bytes = KEY) -> None:
    """RFC 6455, 4.2.2, and RFC 9110: what a 101 must and must not have."""
    assert response.status == 101, response
    assert response[b"upgrade"].lower() == b"websocket"
    assert options(response.values(b"connection")) == [b"upgrade"]
    assert response[b"sec-websocket-accept"] == accept_key(key)
    # RFC 9110, 8.6, and RFC 9112, 6.1.
    assert not response.values(b"content-length")
    assert not response.values(b"transfer-encoding")
    assert not response.values(b"sec-websocket-version")
    assert len(response.values(b"date")) == 1
    assert len(response.values(b"server")) == 1


EXTENSION = re.compile(rb"permessage-deflate((?:; ?[a-z_]+(?:=\d+)?)*)")
PARAMETER = re.compile(rb"; ?([a-z_]+)(?:=(\d+))?")
KNOWN_PARAMETERS = {
    b"server_no_context_takeover": False,
    b"client_no_context_takeover": False,
    b"server_max_window_bits": True,
    b"client_max_window_bits": True,
}
"""Whether they have a value, in a response (RFC 7692, 7.1)."""


class Deflate:
    """permessage-deflate as the response has it, from the client's side."""

    def __init__(self, value: bytes) -> None:
        match = EXTENSION.fullmatch(value)
        assert match is not None, value
        found = PARAMETER.findall(match[1])
        self.parameters = dict(found)
        assert len(found) == len(self.parameters), value
        for name, number in found:
            assert KNOWN_PARAMETERS[name] == bool(number), value
            if number:
                assert number in {b"%d" % bits for bits in range(8, 16)}, value
        self.server_keeps = b"server_no_context_takeover" not in self.parameters
        self.client_keeps = b"client_no_context_takeover" not in self.parameters
        self.server_bits = int(self.parameters.get(b"server_max_window_bits", b"15"))
        self.client_bits = int(self.parameters.get(b"client_max_window_bits", b"15"))
        self._compressor: Any = None
        self._decompressor: Any = None

    def compress(self, data: bytes) -> bytes:
        """The payload of a whole message (RFC 7692, 7.2.1), with all that was agreed on made use of."""
        if self._compressor is None or not self.client_keeps:
            self._compressor = zlib.compressobj(9, wbits=-max(self.client_bits, 9), memLevel=9)
        compressed = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        assert compressed.endswith(b"\0\0\xff\xff")
        return bytes(compressed[:-4])

    def decompress(self, data: bytes) -> bytes:
        """Raises zlib.error where the server has used more than was agreed on."""
        if self._decompressor is None or not self.server_keeps:
            self._decompressor = zlib.decompressobj(wbits=-self.server_bits)
        return bytes(self._decompressor.decompress(data + b"\0\0\xff\xff"))


@dataclass(frozen=True)
class Frame:
    opcode: int
    payload: bytes
    fin: bool = True
    is_compressed: bool = False


class EndedError(Exception):
    """The connection ended, properly, where a frame could have begun."""


class WebSocket:
    """A client behind its handshake."""

    def __init__(self, client: Client | Stream2, deflate: Deflate | None = None) -> None:
        self.client = client
        self.deflate = deflate
        self.pongs: list[bytes] = []
        """Payloads of the pongs that came before, or within, the messages that were read."""
        self.pings: list[bytes] = []
        self._within_message = False
        self._closed = False

    def send(self, data: bytes) -> None:
        self.client.send(data)

    def send_compressed(self, data: str | bytes, **kind: Any) -> None:
        self.send(self.compressed(data, **kind))

    def compressed(self, data: str | bytes, **kind: Any) -> bytes:
        """One message in one frame."""
        assert self.deflate is not None
        opcode, data = (TEXT, data.encode()) if isinstance(data, str) else (BINARY, data)
        return frame(opcode, self.deflate.compress(data), rsv=RSV1, **kind)

    def read_frame(self) -> Frame:
        """The next frame, checked for all that can be wrong with it alone. Raises EndedError."""
        first, second = self._read_header()
        fin, rsv, opcode = bool(first & 0x80), first >> 4 & 7, first & 15
        assert not second & 0x80, "5.1: a server must not mask"
        length = second & 127
        if length == 126:
            (length,) = struct.unpack("!H", self._read(2))
            assert length > 125, "5.2: the fewest bytes must be used"
        elif length == 127:
            (length,) = struct.unpack("!Q", self._read(8))
            assert 65535 < length < 1 << 63, "5.2: the fewest bytes must be used"
        assert opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG), (
            f"5.2: opcode {opcode} is reserved"
        )
        assert not self._closed, "5.5.1: nothing may follow a Close"
        if opcode >= CLOSE:
            assert fin, "5.5: a control frame must not be fragmented"
            assert length <= MAX_CONTROL, "5.5: a control frame has at most 125 bytes"
            assert not rsv, "5.2: no extension uses this bit here"
            self._closed = opcode == CLOSE
        else:
            assert (opcode == CONTINUATION) == self._within_message, (
                "5.4: fragments follow each other"
            )
            self._within_message = not fin
            assert rsv in (0, RSV1), "5.2: no extension uses these bits"
            assert not rsv or (self.deflate is not None and opcode != CONTINUATION), "RFC 7692, 6.1"
        return Frame(opcode, self._read(length), fin, rsv == RSV1)

    def read_message(self) -> str | bytes:
        """The next message, whole. Pings and pongs before and within it are noted; a Close fails."""
        first = self._read_data_frame()
        parts, part = [first.payload], first
        while not part.fin:
            part = self._read_data_frame()
            parts.append(part.payload)
        data = b"".join(parts)
        if first.is_compressed:
            assert self.deflate is not None
            data = self.deflate.decompress(data)
        return data.decode() if first.opcode == TEXT else data

    def _read_data_frame(self) -> Frame:
        while True:
            got = self.read_frame()
            if got.opcode == PONG:
                self.pongs.append(got.payload)
            elif got.opcode == PING:
                self.pings.append(got.payload)
            else:
                assert got.opcode in DATA_OPCODES, got
                return got

    def read_pong(self) -> bytes:
        """The payload of the next frame, which must be a pong."""
        got = self.read_frame()
        assert got.opcode == PONG, got
        return got.payload

    def read_ping(self) -> bytes:
        got = self.read_frame()
        assert got.opcode == PING, got
        return got.payload

    def read_close(self) -> tuple[int | None, str]:
        """Code and reason of the server's Close, which must be the next frame but for pongs."""
        while True:
            got = self.read_frame()
            if got.opcode != PONG:
                break
            self.pongs.append(got.payload)
        assert got.opcode == CLOSE, got
        if not got.payload:
            return None, ""
        assert len(got.payload) > 1, "5.5.1: a code has two bytes"
        (code,) = struct.unpack("!H", got.payload[:2])
        assert code in VALID_CODES or 3000 <= code < 5000, f"7.4: {code} must not be on the wire"
        return code, got.payload[2:].decode()

    def read_end(self) -> None:
        """The end of the connection, an orderly one and at once."""
        rest = self.client.read_rest()
        assert rest == b"", rest

    def read_failure(self) -> int | None:
        """The server fails the connection: a Close, and the end without waiting for ours (RFC 6455, 7.1.7). Returns the code."""
        code, _ = self.read_close()
        self.read_end()
        return code

    def answer_close(self) -> tuple[int | None, str]:
        """The server begins to close, and the client agrees: returns what the server has said."""
        code, reason = self.read_close()
        self.send(close(code))
        self.read_end()
        return code, reason

    def close(self, code: int | None = 1000, reason: str = "") -> tuple[int | None, str]:
        """Begin to close, and wait for the server's Close and the end (RFC 6455, 7.1.1: the server closes first)."""
        self.send(close(code, reason))
        answer = self.read_close()
        self.read_end()
        return answer

    def is_alive(self) -> bool:
        """Whether the server answers a ping. Only asks."""
        try:
            self.send(ping(b"alive?"))
            return self.read_pong() == b"alive?"
        except (OSError, AssertionError, EndedError):
            return False

    def _read_header(self) -> bytes:
        while len(self.client.buffer) < 2:
            if not self.client._more():
                assert not self.client.buffer, "the connection ended within a frame"
                raise EndedError
        return self.client._take(2)

    def _read(self, size: int) -> bytes:
        while len(self.client.buffer) < size:
            assert self.client._more(), "the connection ended within a frame"
        return self.client._take(size)


def connect(
    server: InProcess,
    *fields: bytes,
    target: str = "/",
    early: bytes = b"",
    receive_buffer: int = 0,
    tls: bool = False,
) -> WebSocket:
    """A client whose handshake was accepted, over HTTP/2 where that is served. `early`: frames in the handshake's packet."""
    if server.server.settings.http2:
        connection = Client2(server, receive_buffer, tls=tls)
        stream = connection.open(extended_connect(target.encode(), split_fields(fields)), early)
        return accepted2(stream)
    client = server.connect(receive_buffer)
    if tls:
        client.start_tls()
    client.send(handshake(*fields, target=target) + early)
    return accepted(client)


def accepted(client: Client) -> WebSocket:
    """The handshake is sent: read the answer to it."""
    response = client.read_head()
    assert_accepted(response)
    return WebSocket(client, _agreed(response))


def accepted2(stream: Stream2) -> WebSocket:
    """The same over HTTP/2."""
    response = stream.read_head()
    assert_accepted2(response)
    return WebSocket(stream, _agreed(response))


def _agreed(response: Response) -> Deflate | None:
    offered = response.values(b"sec-websocket-extensions")
    assert len(offered) <= 1, offered
    return Deflate(offered[0]) if offered else None


# Applications.

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CONNECT: Message = {"type": "websocket.connect"}
ACCEPT: Message = {"type": "websocket.accept"}


def disconnect(code: int, reason: str = "") -> Message:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def received(data: str | bytes) -> Message:
    return {"type": "websocket.receive", "text" if isinstance(data, str) else "bytes": data}


def sent(data: str | bytes) -> Message:
    return {"type": "websocket.send", "text" if isinstance(data, str) else "bytes": data}


async def accept(receive: Receive, send: Send, **message: Any) -> None:
    """The first two messages of every WebSocket."""
    assert await receive() == CONNECT
    await send({**ACCEPT, **message})


async def read(receive: Receive) -> str | bytes | None:
    """The next message, or None where there are no more."""
    message = await receive()
    if message["type"] == "websocket.disconnect":
        assert_is_disconnect(message)
        return None
    assert message["type"] == "websocket.receive", message
    (key,) = message.keys() - {"type"}  # docs/asgi.md, 87, and one key
    data = message[key]
    assert type(data) is {"text": str, "bytes": bytes}[key], message
    return data


def assert_is_disconnect(message: Message) -> None:
    """docs/asgi.md, 96 and 97."""
    assert message.keys() == {"type", "code", "reason"}
    assert type(message["code"]) is int, message
    assert type(message["reason"]) is str, message


async def echo(scope: Any, receive: Receive, send: Send) -> None:
    """Sends back every message as it is."""
    await accept(receive, send)
    while (data := await read(receive)) is not None:
        await send(sent(data))


@dataclass
class Recorder:
    """Accepts and notes, by the path of the connection, all that it is told; `ended` are the paths whose disconnect has come."""

    messages: dict[str, list[str | bytes]] = field(default_factory=dict)
    ended: dict[str, tuple[int, str]] = field(default_factory=dict)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        got = self.messages.setdefault(scope["path"], [])
        await accept(receive, send)
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                assert_is_disconnect(message)
                self.ended[scope["path"]] = message["code"], message["reason"]
                return
            assert message["type"] == "websocket.receive", message
            (key,) = message.keys() - {"type"}
            assert type(message[key]) is {"text": str, "bytes": bytes}[key], message
            got.append(message[key])
