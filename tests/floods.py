"""Packets that ask for as much work as possible, and the cost of each turn of the loop that they cause.

`benchmarks/turn_cost.py` measures the costs in CPU time, `test_turn_limits_http.py` counts calls. Those of WebSockets are in
`ws_floods.py`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import h2raw
from inprocess import Host, Log, answer, make_settings

from gunicorn_asgi.net.listener import Listener
from gunicorn_asgi.net.transport import Transport
from gunicorn_asgi.server import Server

PACKET = 262144
"""Bytes that asyncio and uvloop read at once, at most."""

App = Callable[[Any, Any, Any], Awaitable[None]]


# The packets.


def repeated(unit: bytes) -> Callable[[int], bytes]:
    """A packet of as many of `unit` as fit."""
    return lambda size: unit * (size // len(unit))


@dataclass(frozen=True)
class Flood:
    """One kind of input."""

    packet: Callable[[int], bytes]
    """A packet of about so many bytes."""
    before: bytes = b""
    """What the client has sent before, in a packet of its own."""
    app: str = "reads"
    is_h2: bool = False


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def head_of(line: bytes) -> Callable[[int], bytes]:
    start = b"GET / HTTP/1.1\r\nHost: a\r\n"
    return lambda size: start + line * ((size - len(start) - 2) // len(line)) + b"\r\n"


def varying_heads(size: int) -> bytes:
    """Requests of which no two have a line in common, with as many lines as are allowed."""
    made, length, number = [], 0, 0
    while length < size:
        lines = b"".join(b"x%d: %d\r\n" % (index, number) for index in range(98))
        made.append(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % lines)
        length += len(made[-1])
        number += 1
    return b"".join(made)


HTTP1: dict[str, Flood] = {
    "one-byte chunks": Flood(repeated(b"1\r\nx\r\n"), CHUNKED),
    "one-byte chunks that nobody reads": Flood(repeated(b"1\r\nx\r\n"), CHUNKED, "waits"),
    "one-byte chunks after the response": Flood(repeated(b"1\r\nx\r\n"), CHUNKED, "answers"),
    "one-byte chunks after their head": Flood(
        lambda size: CHUNKED + b"1\r\nx\r\n" * ((size - len(CHUNKED)) // 6)
    ),
    "chunks with long extensions": Flood(repeated(b"1;" + b"a=b;" * 200 + b"a\r\nx\r\n"), CHUNKED),
    "chunks with blanks in extensions": Flood(
        repeated(b"1" + b" ;a" * 300 + b" " * 100 + b";a\r\nx\r\n"), CHUNKED
    ),
    "trailer lines": Flood(repeated(b"a:\r\n"), CHUNKED + b"0\r\n"),
    "long trailer lines": Flood(repeated(b"a:" + b"b" * 8000 + b"\r\n"), CHUNKED + b"0\r\n"),
    "a body with a length": Flood(repeated(b"x"), UPLOAD),
    "a head of short lines": Flood(head_of(b"a:\r\n")),
    "a head of long lines": Flood(head_of(b"a:" + b"b" * 8000 + b"\r\n")),
    "the rest of a head of short lines": Flood(repeated(b"a:\r\n"), GET[:-2]),
    "empty lines": Flood(repeated(b"\r\n")),
    "pipelined requests": Flood(repeated(GET)),
    "pipelined requests with many lines": Flood(varying_heads),
    "pipelined requests of HTTP/1.0": Flood(
        repeated(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    ),
    "pipelined requests with small bodies": Flood(
        repeated(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    ),
    "pipelined requests with errors": Flood(repeated(b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n")),
}

OPENED = h2raw.PREFACE + h2raw.frame(h2raw.SETTINGS, 0, 0)
GET_BLOCK = b"\x82\x86\x84\x41\x01a"
POST_BLOCK = b"\x83\x86\x84\x41\x01a"


def headers(stream: int, block: bytes, end: bool = True) -> bytes:
    flags = h2raw.END_HEADERS | (h2raw.END_STREAM if end else 0)
    return h2raw.frame(h2raw.HEADERS, flags, stream, block)


POSTED = OPENED + headers(1, POST_BLOCK, end=False)


def on_streams(make: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """A packet of what `make` returns for each stream, one after the other."""

    def packet(size: int) -> bytes:
        made, length, stream = [], 0, 3
        while length < size:
            made.append(make(stream))
            length += len(made[-1])
            stream += 2
        return b"".join(made)

    return packet


def long_block(unit: bytes) -> Callable[[int], bytes]:
    """A request whose field block has as many of `unit` as fit, in HEADERS and CONTINUATION."""

    def packet(size: int) -> bytes:
        block = GET_BLOCK + unit * ((size - 1000) // len(unit))
        parts = [block[start : start + 16384] for start in range(0, len(block), 16384)]
        kinds = [h2raw.HEADERS, *[h2raw.CONTINUATION] * (len(parts) - 1)]
        flags = [h2raw.END_STREAM, *[0] * (len(parts) - 1)]
        flags[-1] |= h2raw.END_HEADERS
        return b"".join(
            h2raw.frame(kind, flag, 3, part)
            for kind, flag, part in zip(kinds, flags, parts, strict=True)
        )

    return packet


INDEXED = b"\x93"
"""One field of the static table: accept."""
SETTING = struct.pack(">HL", h2raw.INITIAL_WINDOW_SIZE, 100000)

HTTP2: dict[str, Flood] = {
    "one-byte DATA": Flood(repeated(h2raw.data(1, b"x")), POSTED),
    "one-byte DATA that nobody reads": Flood(repeated(h2raw.data(1, b"x")), POSTED, "waits"),
    "padded DATA": Flood(repeated(h2raw.data(1, b"x", pad=1)), POSTED),
    "DATA after the response": Flood(repeated(h2raw.data(1, b"x")), POSTED, "answers"),
    "DATA of 16 KiB": Flood(repeated(h2raw.data(1, b"x" * 16384)), POSTED),
    "empty DATA": Flood(repeated(h2raw.data(1)), POSTED),
    "SETTINGS": Flood(repeated(h2raw.frame(h2raw.SETTINGS, 0, 0)), POSTED),
    "SETTINGS of many windows": Flood(
        repeated(h2raw.frame(h2raw.SETTINGS, 0, 0, SETTING * 990)),
        OPENED + b"".join(headers(stream, POST_BLOCK, end=False) for stream in range(1, 201, 2)),
    ),
    "SETTINGS of one window": Flood(
        repeated(h2raw.frame(h2raw.SETTINGS, 0, 0, SETTING)),
        OPENED + b"".join(headers(stream, POST_BLOCK, end=False) for stream in range(1, 201, 2)),
    ),
    "acknowledgements": Flood(repeated(h2raw.frame(h2raw.SETTINGS, h2raw.ACK, 0)), POSTED),
    "PING": Flood(repeated(h2raw.frame(h2raw.PING, 0, 0, b"12345678")), POSTED),
    "PRIORITY": Flood(repeated(h2raw.priority(1)), POSTED),
    "WINDOW_UPDATE": Flood(repeated(h2raw.frame(h2raw.WINDOW_UPDATE, 0, 0, b"\0\0\0\1")), POSTED),
    "WINDOW_UPDATE of a stream": Flood(
        repeated(h2raw.frame(h2raw.WINDOW_UPDATE, 0, 1, b"\0\0\0\1")), POSTED
    ),
    "unknown frames": Flood(repeated(h2raw.frame(99, 0, 0)), POSTED),
    "RST_STREAM": Flood(repeated(h2raw.rst_stream(1)), POSTED),
    "RST_STREAM of each request": Flood(
        on_streams(lambda stream: headers(stream, GET_BLOCK) + h2raw.rst_stream(stream)), OPENED
    ),
    "requests": Flood(on_streams(lambda stream: headers(stream, GET_BLOCK)), OPENED),
    "requests that wait": Flood(
        on_streams(lambda stream: headers(stream, GET_BLOCK)), OPENED, "waits"
    ),
    "requests of many indexed fields": Flood(
        on_streams(lambda stream: headers(stream, GET_BLOCK + INDEXED * 90)), OPENED
    ),
    "requests of many varying fields": Flood(
        on_streams(
            lambda stream: headers(
                stream,
                GET_BLOCK + b"".join(b"\0\4x-%02d\6%06d" % (index, stream) for index in range(98)),
            )
        ),
        OPENED,
    ),
    "requests of too many fields": Flood(
        on_streams(lambda stream: headers(stream, GET_BLOCK + INDEXED * 1500)), OPENED
    ),
    "malformed requests": Flood(on_streams(lambda stream: headers(stream, b"\x82")), OPENED),
    "a request of 6,000 indexed fields": Flood(lambda size: long_block(INDEXED)(7000), OPENED),
    "a request of 8,000 fields for the table": Flood(
        lambda size: long_block(b"\x40\1a\0")(32000), OPENED
    ),
    "a request of far too many fields": Flood(long_block(INDEXED), OPENED),
    "a block of table sizes": Flood(long_block(b"\x20"), OPENED),
    "trailers of 6,000 fields": Flood(lambda size: headers(1, INDEXED * 6000), POSTED),
    "cookies in small parts": Flood(
        on_streams(lambda stream: headers(stream, GET_BLOCK + b"\x60\1a" + b"\xbe" * 1200)), OPENED
    ),
    "CONTINUATION": Flood(
        repeated(h2raw.frame(h2raw.CONTINUATION, 0, 3, b"\x93")),
        OPENED + h2raw.frame(h2raw.HEADERS, h2raw.END_STREAM, 3, GET_BLOCK),
    ),
    "empty CONTINUATION": Flood(
        repeated(h2raw.frame(h2raw.CONTINUATION, 0, 3)),
        OPENED + h2raw.frame(h2raw.HEADERS, h2raw.END_STREAM, 3, GET_BLOCK),
    ),
}
HTTP2 = {
    name: Flood(flood.packet, flood.before, flood.app, is_h2=True) for name, flood in HTTP2.items()
}


# The applications.


async def reads(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await answer(send)


async def waits(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.get_running_loop().create_future()


async def answers(scope: Any, receive: Any, send: Any) -> None:
    await answer(send)


async def listens(scope: Any, receive: Any, send: Any) -> None:
    """Reads all messages of a WebSocket."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


APPS: dict[str, App] = {"reads": reads, "waits": waits, "answers": answers, "listens": listens}


# A connection on nothing.


class NullTransport(asyncio.Transport):
    """A transport that goes nowhere. The client takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.is_paused = False
        self.written = 0
        self.writes: list[int] = []
        self._is_closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        info = {
            "sockname": ("127.0.0.1", 8000),
            "socket": SimpleNamespace(family=socket.AF_UNIX),  # of which the kernel tells nothing
        }
        return info.get(name, default)

    def write(self, data: Any) -> None:
        self.written += len(data)
        self.writes.append(len(data))

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol: Any = protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    abort = close


Measure = Callable[[Callable[[], object]], float]
"""Calls a function, and returns what it cost."""


def unmeasured(function: Callable[[], object]) -> float:
    function()
    return 0.0


@dataclass
class Costs:
    """What a packet has cost."""

    received: float = 0.0
    """In `data_received`."""
    turns: list[float] = field(default_factory=list)
    """In each turn of the loop after it that continued with the packet."""

    @property
    def most(self) -> float:
        return max([self.received, *self.turns])

    @property
    def total(self) -> float:
        return self.received + sum(self.turns)


class Connection:
    """One connection of a server, on a NullTransport."""

    def __init__(self, app: App, parser: str, is_h2: bool) -> None:
        self.loop: Any = asyncio.SelectorEventLoop()
        self.log = Log()
        settings = make_settings(
            parser,
            **({"http_protocols": "h2", "http2_cleartext": "prior-knowledge"} if is_h2 else {}),
        )
        host: Any = Host(sys.maxsize)
        self.server = Server(settings, app, host, self.log, None, self.loop)
        listening: Any = SimpleNamespace(
            sock=SimpleNamespace(getsockname=lambda: ("127.0.0.1", 8000))
        )
        self.raw = NullTransport()
        self.transport: Transport = self.server.connect(
            Listener(listening, "http", ""), ("127.0.0.1", 40000)
        )
        self.raw.set_protocol(self.transport)
        self._later(self.transport.connection_made, self.raw)

    def _later(self, function: Callable[..., object], *args: object) -> None:
        self.loop.call_soon(function, *args)
        self.turn()

    def turn(self) -> None:
        """Run the callbacks that are ready now."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def receive(self, data: bytes) -> None:
        self._later(lambda: self.raw.protocol.data_received(data))

    def settle(self, measure: Measure = unmeasured) -> list[float]:
        """Run the loop until nothing is left to do. Returns what each turn has cost."""
        costs: list[float] = []
        quiet = 0
        while quiet < 5:
            costs.append(measure(self.turn))
            is_busy = self.loop._ready or len(self.server.work_queue)
            quiet = 0 if is_busy else quiet + 1
        return costs

    def cost(self, packet: bytes, measure: Measure) -> Costs:
        """The costs of `packet`, until nothing is left of it."""
        costs = Costs()

        def received() -> None:
            costs.received = measure(lambda: self.raw.protocol.data_received(packet))

        self._later(received)
        costs.turns = self.settle(measure)
        return costs

    def close(self) -> None:
        """End the connection and its applications, however they are."""
        self._later(self.raw.protocol.connection_lost, None)
        self.loop.run_until_complete(self.server.abort(0.0))
        for _ in range(5):
            self.turn()
        assert not asyncio.all_tasks(self.loop)
        self.loop.close()


def cost(flood: Flood, parser: str, size: int, measure: Measure) -> Costs:
    """The costs of one packet of `flood`, of about `size` bytes, on a new connection."""
    connection = Connection(APPS[flood.app], parser, flood.is_h2)
    try:
        if flood.before:
            connection.receive(flood.before)
            connection.settle()
        return connection.cost(flood.packet(size), measure)
    finally:
        connection.close()
