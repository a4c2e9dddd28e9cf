"""What clients send: valid traffic from pieces of the grammar, mutations of it, and noise."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import h2raw
import hpack
import ws

MAX_PACKET = 65536
"""Bytes that arrive at once, at most."""


@dataclass
class Traffic:
    """All bytes of one client."""

    data: bytes
    is_valid: bool
    """Whether the client keeps to the protocol, so that each answer can be expected."""
    count: int = 0
    """Requests that are answered unless the server announces an earlier end; 0 if not known."""


# Mutations.

SPICES = (
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"\xff",
    b"\x80",
    b"0",
    b"\r\n\r\n",
    b"chunked",
    b"\x7f",
    b"%",
    b"-1",
    b"\x0b",
)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Change `data` in a few places."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(changed) + 1)
        size = rng.choice((1, 1, 2, 8, 100))
        kind = rng.randrange(6)
        if kind == 0:
            changed[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del changed[place : place + size]
        elif kind == 2:
            changed[place:place] = changed[place : place + size]
        elif kind == 3:
            changed[place:place] = rng.choice(SPICES)
        elif kind == 4 and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        else:
            other = rng.randrange(len(changed) + 1)
            changed[place:place] = changed[other : other + size]
    return bytes(changed)


def noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((1, 10, 100, 1000)))


def cut(rng: random.Random, data: bytes) -> Iterator[bytes]:
    """`data` in the pieces in which it arrives."""
    way = rng.randrange(4)
    if way == 0 and len(data) <= 2000:
        sizes = [1]
    elif way == 1:
        sizes = [MAX_PACKET]
    elif way == 2:
        sizes = [1, 2, 3, 5, 9, 50, 500]
    else:
        sizes = [10, 100, 1000, 16384, MAX_PACKET]
    position = 0
    while position < len(data):
        size = rng.choice(sizes) if position < 20000 else MAX_PACKET
        yield data[position : position + size]
        position += size


# HTTP/1.1.

METHODS = (
    b"GET",
    b"GET",
    b"GET",
    b"HEAD",
    b"POST",
    b"POST",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"PATCH",
    b"LIST",
    b"CONNECT",
    b"get",
)
TARGETS = (
    b"/",
    b"/",
    b"/a?b=c",
    b"/%0a%00%c3%a9%ff",
    b"*",
    b"http://a/b",
    b"/a b",
    b"",
    b"//a",
    b"/\x7f",
    b"/#",
    b"a:80",
)
LINES = (
    b"Host: a", b"Host: b", b"X-A: b", b"Cookie: a=b", b"Connection: close", b"Connection: keep-alive", b"Connection: TE", b"Expect: 100-continue",
    b"TE: trailers", b"Accept: */*", b"X-A: \xff", b"X_A: b", b"Content-Length: 0", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip",
    b"Upgrade: websocket", b"Upgrade: h2c", b" folded", b"X-Forwarded-For: 1.2.3.4", b"X-B: " + b"b" * 300, b"no colon", b"X-A : b", b"Expect: x",
)  # fmt: skip


def chunked(rng: random.Random, size: int) -> bytes:
    parts, left = [], size
    while left:
        part = min(left, rng.choice((1, 3, 100, 5000)))
        extension = rng.choice((b"", b"", b"", b";a=b", b' ; a="b"'))
        parts.append(b"%x%b\r\n%b\r\n" % (part, extension, b"y" * part))
        left -= part
    return b"".join([*parts, b"0\r\n", rng.choice((b"", b"", b"X-T: 1\r\n")), b"\r\n"])


def h1_request(rng: random.Random) -> bytes:
    """A valid request."""
    method = rng.choice(METHODS[:-3])
    target = rng.choice(TARGETS[:4])
    lines = [b"%b %b HTTP/1.%d" % (method, target, rng.random() < 0.9), b"Host: a"]
    lines += rng.sample(LINES[2:4] + LINES[8:11], rng.randrange(4))
    if rng.random() < 0.1:
        lines.append(rng.choice(LINES[4:6]))
    body = b""
    if rng.random() < 0.5 and method not in (b"GET", b"HEAD"):
        size = rng.choice((0, 1, 10, 1000, 20000))
        if rng.random() < 0.5 and lines[0].endswith(b"1"):
            lines.append(b"Transfer-Encoding: chunked")
            body = chunked(rng, size)
        else:
            lines.append(b"Content-Length: %d" % size)
            body = b"z" * size
        if rng.random() < 0.2:
            lines.append(b"Expect: 100-continue")
    return b"\r\n".join([*lines, b"", body])


def h1_pieces(rng: random.Random) -> bytes:
    """A request of any pieces: rarely a valid one."""
    version = rng.choice((b"1.1", b"1.1", b"1.1", b"1.0", b"2.0", b"1.9"))
    first = b"%b %b HTTP/%b" % (rng.choice(METHODS), rng.choice(TARGETS), version)
    lines = [first, *rng.choices(LINES, k=rng.randrange(8))]
    if rng.random() < 0.2:
        lines.append(
            b"Content-Length: " + rng.choice((b"5", b"+5", b"5, 5", b"05", b"-1", b"9" * 30))
        )
    end = rng.choice((b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"))
    return end.join(
        [*lines, b"", rng.choice((b"", b"12345", b"5\r\n12345\r\n0\r\n\r\n", b"g\r\n"))]
    )


def count_answered(requests: list[bytes]) -> int:
    """The number of requests up to the first that asks for the end of its connection."""
    for number, request in enumerate(requests, 1):
        keeps_alive = b"HTTP/1.1" in request or b"keep-alive" in request
        if b"Connection: close" in request or not keeps_alive:
            return number
    return len(requests)


def http1(rng: random.Random) -> Traffic:
    way = rng.random()
    if way < 0.45:
        requests = [h1_request(rng) for _ in range(rng.choice((1, 1, 2, 4, 20)))]
        return Traffic(b"".join(requests), True, count_answered(requests))
    if way < 0.55:
        return Traffic(flood1(rng), False)
    if way < 0.95:
        make = rng.choice((h1_request, h1_pieces))
        data = b"".join([make(rng) for _ in range(rng.choice((1, 2, 4)))])
        return Traffic(mutate(rng, data) if rng.random() < 0.6 else data, False)
    return Traffic(noise(rng), False)


def flood1(rng: random.Random) -> bytes:
    """More than a server should keep."""
    kind = rng.randrange(4)
    if kind == 0:
        return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1500000\r\n\r\n" + bytes(1500000)
    if kind == 1:
        return b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3000
    if kind == 2:
        return b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 40000
    return (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 20000
    )


# HTTP/2.

H2_FIELDS = (
    (b"x-a", b"b"), (b"cookie", b"a=b"), (b"te", b"trailers"), (b"te", b"gzip"), (b"connection", b"close"), (b"X-A", b"b"), (b"x-a", b"b\r\nc"),
    (b":path", b"/b"), (b":status", b"200"), (b":protocol", b"websocket"), (b"", b"b"), (b"x-a", b" b"), (b"x-a", b"\x00"), (b"x_a", b"b"), (b"x-a:", b"b"),
    (b"upgrade", b"h2c"), (b"transfer-encoding", b"chunked"), (b"content-length", b"10"), (b"content-length", b"x"), (b"host", b"b"), (b"expect", b"100-continue"), (b"x-b", b"b" * 2000),
)  # fmt: skip


class H2Client:
    """Makes frames. Its encoder has a table, as those of most clients."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.encoder = hpack.Encoder()
        self.stream = 1

    def block(self, method: bytes, fields: list[tuple[bytes, bytes]]) -> bytes:
        path = self.rng.choice(TARGETS[:3])
        pseudo = [
            (b":method", method),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"a"),
        ]
        return bytes(self.encoder.encode([*pseudo, *fields]))

    def strange_block(self) -> bytes:
        """Fields in any order, and some that no request has."""
        rng = self.rng
        fields = [
            (b":method", rng.choice(METHODS)),
            (b":scheme", rng.choice((b"http", b"http", b"https", b"ftp", b""))),
            (b":path", rng.choice(TARGETS)),
            (b":authority", rng.choice((b"a", b"a", b"a:80", b"", b"a b"))),
            *rng.choices(H2_FIELDS, k=rng.randrange(4)),
        ]
        if rng.random() < 0.3:
            rng.shuffle(fields)
        if rng.random() < 0.2:
            del fields[rng.randrange(len(fields))]
        return bytes(self.encoder.encode(fields))

    def request(self) -> bytes:
        """A valid request on a new stream."""
        rng, stream = self.rng, self.stream
        self.stream += 2
        method = rng.choice((b"GET", b"GET", b"HEAD", b"POST", b"PUT"))
        fields = rng.sample(H2_FIELDS[:3], rng.randrange(3))
        size = rng.choice((0, 1, 1000, 20000)) if method in (b"POST", b"PUT") else -1
        pad = rng.choice((-1, -1, -1, 0, 5))
        frames = [h2raw.headers(stream, self.block(method, fields), size < 0, pad=pad)]
        while size >= 0:
            part = min(size, rng.choice((1, 500, 16384)))
            size -= part
            frames.append(h2raw.data(stream, bytes(part), not size))
            size = size or -1
        return b"".join(frames)

    def websocket(self, deflate: bool) -> bytes:
        """An extended CONNECT, and frames of a WebSocket in DATA."""
        rng, stream = self.rng, self.stream
        self.stream += 2
        offer = [(b"sec-websocket-extensions", OFFER)] if deflate else []
        block = bytes(self.encoder.encode(ws.extended_connect(fields=offer)))
        frames = [h2raw.headers(stream, block, False)]
        for piece in cut(rng, ws_frames(rng, deflate)):
            frames += [
                h2raw.data(stream, piece[start : start + 16384])
                for start in range(0, len(piece), 16384)
            ]
        if rng.random() < 0.3:
            frames.append(h2raw.data(stream, b"", True))
        return b"".join(frames)

    def anything(self) -> bytes:
        """Any frame, on any stream."""
        rng = self.rng
        stream = rng.choice((0, 1, 1, 3, 5, 7, 2, self.stream, 2**31 - 1))
        kind = rng.randrange(12)
        if kind < 2:
            block = self.strange_block()
            block = mutate(rng, block) if rng.random() < 0.3 else block
            return h2raw.headers(stream, block, rng.random() < 0.5, whole=rng.random() < 0.9)
        if kind == 2:
            return h2raw.data(stream, bytes(rng.choice((0, 1, 500, 16384))), rng.random() < 0.3)
        if kind == 3:
            return h2raw.settings((rng.randrange(1, 10), rng.choice((0, 1, 100, 16384, 2**31 - 1))))
        if kind == 4:
            return h2raw.ping(rng.randbytes(8)) * rng.choice((1, 1, 50))
        if kind == 5:
            return h2raw.rst_stream(stream, rng.randrange(14))
        if kind == 6:
            return h2raw.window_update(stream, rng.choice((0, 1, 1000, 2**31 - 1)))
        if kind == 7:
            return h2raw.priority(stream, rng.choice((0, 1, stream)))
        if kind == 8:
            return h2raw.continuation(stream, rng.randbytes(5), rng.random() < 0.5)
        if kind == 9:
            return h2raw.goaway(1, 0, b"bye\r\n")
        if kind == 10:
            return h2raw.SETTINGS_ACK
        size = rng.choice((0, 4, 5, 8, 20000))
        return h2raw.frame(rng.randrange(256), rng.randrange(256), stream, bytes(size))


def opening(rng: random.Random, wide: bool) -> bytes:
    window = 1 << 22 if wide else rng.choice((0, 1, 100, 65535, 1 << 20))
    frames = [
        h2raw.PREFACE,
        h2raw.settings((h2raw.INITIAL_WINDOW_SIZE, window)),
        h2raw.SETTINGS_ACK,
    ]
    if wide:
        frames.append(h2raw.window_update(0, 1 << 28))
    return b"".join(frames)


H2C = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABk\r\n\r\n"
)


def http2(rng: random.Random) -> Traffic:
    client, way = H2Client(rng), rng.random()
    if way < 0.1:
        client.stream = 3
        requests = [client.request() for _ in range(rng.choice((0, 1, 3)))]
        return Traffic(b"".join([H2C, opening(rng, True), *requests]), True)
    if way < 0.4:
        requests = [client.request() for _ in range(rng.choice((1, 2, 5)))]
        return Traffic(opening(rng, True) + b"".join(requests), True)
    if way < 0.95:
        parts = [opening(rng, rng.random() < 0.5)]
        parts += [
            client.request() if rng.random() < 0.5 else client.anything()
            for _ in range(rng.choice((1, 3, 10, 30)))
        ]
        data = b"".join(parts)
        return Traffic(mutate(rng, data) if rng.random() < 0.3 else data, False)
    return Traffic(opening(rng, False)[: rng.randrange(60)] + noise(rng), False)


# WebSocket.

OFFER = b"permessage-deflate; client_max_window_bits"
TEXTS = (b"", b"a", "é".encode(), b"x" * 300, b"x" * 5000)


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-9)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def ws_frames(rng: random.Random, deflate: bool, is_valid: bool = False) -> bytes:
    """Frames of a client: messages in fragments, control frames between, and mostly a Close."""
    frames = []
    for _ in range(rng.choice((0, 1, 3, 10))):
        payload = rng.choice(TEXTS)
        packs = deflate and rng.random() < 0.6
        if packs:
            payload = deflated(payload)
        opcode = rng.choice((ws.TEXT, ws.BINARY))
        pieces = [payload] if rng.random() < 0.6 else [payload[:1], payload[1:2], payload[2:]]
        between = ws.ping(b"p") if rng.random() < 0.2 else b""
        frames.append(ws.fragments(opcode, pieces, between, ws.RSV1 if packs else 0))
        if rng.random() < 0.2:
            frames.append(rng.choice((ws.ping(b"q" * 125), ws.pong())))
        if not is_valid and rng.random() < 0.2:
            frames.append(any_frame(rng))
    if rng.random() < 0.6:
        frames.append(ws.close(rng.choice((1000, 1001, 4999)), "bye"))
    return b"".join(frames)


def any_frame(rng: random.Random) -> bytes:
    payload = rng.choice((b"", b"\xff", rng.randbytes(5), bytes(126), deflated(bytes(100000))))
    return ws.frame(
        rng.randrange(16),
        payload,
        fin=rng.random() < 0.7,
        rsv=rng.choice((0, 0, 4, 2, 1)),
        mask=None if rng.random() < 0.1 else rng.randbytes(4),
        length=None if rng.random() < 0.9 else rng.choice((5, 2**63, 2**40)),
    )


def handshake(rng: random.Random, deflate: bool, is_valid: bool) -> bytes:
    fields = [b"Sec-WebSocket-Extensions: " + OFFER] if deflate else []
    if rng.random() < 0.3:
        fields.append(b"Sec-WebSocket-Protocol: a, b")
    data = ws.handshake(*fields)
    return data if is_valid or rng.random() < 0.8 else mutate(rng, data)


def websocket(rng: random.Random) -> Traffic:
    deflate, way = rng.random() < 0.5, rng.random()
    is_valid = way < 0.4
    frames = ws_frames(rng, deflate, is_valid)
    if not is_valid and frames and rng.random() < 0.5:
        frames = mutate(rng, frames)
    if way > 0.95:
        frames += rng.choice((ws.text(b"x" * 100), ws.ping(b"x"), ws.cont(b"", fin=False))) * 10000
    return Traffic(handshake(rng, deflate, is_valid) + frames, is_valid)


def websocket2(rng: random.Random) -> Traffic:
    client = H2Client(rng)
    parts = [opening(rng, rng.random() < 0.7)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        parts.append(client.websocket(rng.random() < 0.5))
        if rng.random() < 0.2:
            parts.append(client.anything())
    data = b"".join(parts)
    return Traffic(mutate(rng, data) if rng.random() < 0.2 else data, False)
