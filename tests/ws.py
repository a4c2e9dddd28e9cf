"""A raw WebSocket client over HTTP/1.1 and HTTP/2.

It builds any frame, legal or not, and checks the server's frames by RFC 6455 and RFC 7692. The
applications at the end check the messages of the server by ASGI.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import h2client
from conftest import PARSERS
from h2client import Header, Tunnel
from inprocess import HTTP2, Client, InProcess, Response, serve

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
"""Valid in a Close frame: RFC 6455, 7.4.1, IANA's registry (1012 to 1014), and 7.4.2."""
INVALID_CODES = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)


OVER_2 = " over HTTP/2"
WAYS = [*PARSERS, *(name + OVER_2 for name in PARSERS)]
"""HTTP/1.1 with each parser, and HTTP/2 on each loop: for suites that run on both versions."""


def serve_way(app: Any, way: str, **settings: Any) -> Any:
    """`inprocess.serve` for an element of WAYS."""
    parser = way.removesuffix(OVER_2)
    return serve(app, parser, **settings) if parser == way else serve2(app, parser, **settings)


@contextmanager
def serve2(app: Any, parser: str, **settings: Any) -> Iterator[InProcess]:
    """`inprocess.serve`, with HTTP/2 by prior knowledge."""
    with serve(app, parser, **HTTP2, **settings) as server:
        yield server


# Frames.


def masked(data: bytes, mask: bytes) -> bytes:
    """`data` with a mask applied (RFC 6455, 5.3)."""
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

    `rsv`: of RSV1 | RSV2 | RSV3. `mask`: None for a frame without a mask. `length`: the length in
    the header, if it differs from the payload's. `width`: the bits of the length, 7, 16 or 64, if
    they are not the fewest possible.
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
    """A Close frame (RFC 6455, 5.5.1). Without a code it has no payload."""
    reason = reason.encode() if isinstance(reason, str) else reason
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason, **kind)


def fragments(opcode: int, parts: Iterable[bytes], between: bytes = b"", rsv: int = 0) -> bytes:
    """One message, with a frame for each part and the bytes `between` two frames."""
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
    """An opening handshake (RFC 6455, 4.1), without the fields that are None, and with `fields`."""
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
    """The value of Sec-WebSocket-Accept (RFC 6455, 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def options(values: Iterable[bytes]) -> list[bytes]:
    """The members of a list field, in lower case."""
    return [option.strip().lower() for option in b",".join(values).split(b",")]


def assert_accepted(response: Response, key: bytes = KEY) -> None:
    """Check the fields of a 101 response (RFC 6455, 4.2.2; RFC 9110)."""
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


def extended_connect(
    target: bytes = b"/",
    fields: Iterable[Header] = (),
    *,
    version: bytes | None = b"13",
    protocol: bytes = b"websocket",
) -> list[Header]:
    """The fields of an extended CONNECT (RFC 8441, 4 and 5)."""
    own = [
        (b":method", b"CONNECT"),
        (b":protocol", protocol),
        (b":scheme", b"http"),
        (b":path", target),
        (b":authority", b"a"),
    ]
    return [*own, *([] if version is None else [(b"sec-websocket-version", version)]), *fields]


def assert_accepted2(response: Response) -> None:
    """Check the fields of a 200 response to the handshake (RFC 8441, 5; RFC 9110, 9.3.6)."""
    assert response.status == 200, response
    for name in (
        b"sec-websocket-accept",
        b"upgrade",
        b"connection",
        b"content-length",
        b"transfer-encoding",
        b"sec-websocket-version",
    ):
        assert not response.values(name), response
    assert len(response.values(b"date")) == 1
    assert len(response.values(b"server")) == 1


def split_fields(lines: Iterable[bytes]) -> list[Header]:
    """Lines of HTTP/1.1 as fields of HTTP/2."""
    pairs = [line.split(b":", 1) for line in lines]
    return [(name.lower(), value.strip()) for name, value in pairs]


EXTENSION = re.compile(rb"permessage-deflate((?:; ?[a-z_]+(?:=\d+)?)*)")
PARAMETER = re.compile(rb"; ?([a-z_]+)(?:=(\d+))?")
KNOWN_PARAMETERS = {
    b"server_no_context_takeover": False,
    b"client_no_context_takeover": False,
    b"server_max_window_bits": True,
    b"client_max_window_bits": True,
}
"""Whether a response has a value for the parameter (RFC 7692, 7.1)."""


class Deflate:
    """The client's side of permessage-deflate, as negotiated by the response."""

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
        """The payload of a whole message (RFC 7692, 7.2.1), using all agreed parameters."""
        if self._compressor is None or not self.client_keeps:
            self._compressor = zlib.compressobj(9, wbits=-max(self.client_bits, 9), memLevel=9)
        compressed = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        assert compressed.endswith(b"\0\0\xff\xff")
        return bytes(compressed[:-4])

    def decompress(self, data: bytes) -> bytes:
        """Raises zlib.error where the server exceeds the agreed parameters."""
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
    """The connection ended in order, between two frames."""


class WebSocket:
    """A client after its handshake."""

    def __init__(self, client: Client | Tunnel, deflate: Deflate | None = None) -> None:
        self.client = client
        self.deflate = deflate
        self.pongs: list[bytes] = []
        """Payloads of the pongs before and within the messages that were read."""
        self.pings: list[bytes] = []
        self._within_message = False
        self._closed = False

    def send(self, data: bytes) -> None:
        self.client.send(data)

    def send_compressed(self, data: str | bytes, **kind: Any) -> None:
        self.send(self.compressed(data, **kind))

    def compressed(self, data: str | bytes, **kind: Any) -> bytes:
        """A compressed message in one frame."""
        assert self.deflate is not None
        opcode, data = (TEXT, data.encode()) if isinstance(data, str) else (BINARY, data)
        return frame(opcode, self.deflate.compress(data), rsv=RSV1, **kind)

    def read_frame(self) -> Frame:
        """The next frame, checked by itself. Raises EndedError."""
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
        """The next message. Notes pings and pongs before and within it; fails at a Close frame."""
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
        """Code and reason of the server's Close, which must follow at once or after pongs."""
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
        """Check that the connection ends in order, without more data."""
        rest = self.client.read_rest()
        assert rest == b"", rest

    def read_failure(self) -> int | None:
        """The server fails the connection (RFC 6455, 7.1.7). Returns the code of its Close.

        It ends the connection without waiting for the client's Close.
        """
        code, _ = self.read_close()
        self.read_end()
        return code

    def answer_close(self) -> tuple[int | None, str]:
        """Answer the server's Close. Returns its code and reason."""
        code, reason = self.read_close()
        self.send(close(code))
        self.read_end()
        return code, reason

    def close(self, code: int | None = 1000, reason: str = "") -> tuple[int | None, str]:
        """Begin to close. Returns code and reason of the server's Close.

        The server ends the connection first (RFC 6455, 7.1.1).
        """
        self.send(close(code, reason))
        answer = self.read_close()
        self.read_end()
        return answer

    def is_alive(self) -> bool:
        """Whether the server answers a ping."""
        try:
            self.send(ping(b"alive?"))
            return self.read_pong() == b"alive?"
        except (OSError, AssertionError, EndedError):
            return False

    def _read_header(self) -> bytes:
        while len(self.client.buffer) < 2:
            if not self.client.receive():
                assert not self.client.buffer, "the connection ended within a frame"
                raise EndedError
        return self.client.take(2)

    def _read(self, size: int) -> bytes:
        while len(self.client.buffer) < size:
            assert self.client.receive(), "the connection ended within a frame"
        return self.client.take(size)


def connect(
    server: InProcess,
    *fields: bytes,
    target: str = "/",
    early: bytes = b"",
    receive_buffer: int = 0,
    tls: bool = False,
) -> WebSocket:
    """A client with an accepted handshake, over HTTP/2 where `server` speaks it.

    `early`: frames in the packet of the handshake.
    """
    if server.server.settings.http2:
        connection = h2client.connect(server, receive_buffer=receive_buffer, tls=tls)
        return accepted2(
            connection.tunnel(extended_connect(target.encode(), split_fields(fields)), early)
        )
    client = server.connect(receive_buffer)
    if tls:
        client.start_tls()
    client.send(handshake(*fields, target=target) + early)
    return accepted(client)


def shake_hands(server: InProcess, way: str) -> Client | Tunnel:
    """A client that has sent its handshake."""
    if OVER_2 in way:
        return h2client.connect(server).tunnel(extended_connect())
    client = server.connect()
    client.send(handshake())
    return client


def accepted(client: Client) -> WebSocket:
    """Read the acceptance of a handshake that was sent."""
    response = client.read_head()
    assert_accepted(response)
    return WebSocket(client, _agreed(response))


def accepted2(stream: Tunnel) -> WebSocket:
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
    """The next message, or None after the last."""
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
    """Accepts each WebSocket, and notes all messages by its path.

    `ended`: code and reason of the disconnects, by path.
    """

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
