"""WebSocket clients for the tests: the one of the ``websockets`` package, and one that sends and sees single frames."""

from __future__ import annotations

import ssl
import struct
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import pytest
from process import DEADLINE, Connection, Gunicorn, trusting_context
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync import client

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""What RFC 6455 (1.3) makes of this key."""
HANDSHAKE = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def connect(
    server: Gunicorn, path: str, headers: dict[str, str] | None = None, **arguments: Any
) -> AbstractContextManager[Any]:
    """Connect as a browser would; to be used by ``with``, whose end closes. `arguments` are those of ``websockets.sync.client.connect``."""
    sock = server.connect().sock
    sock.settimeout(None)  # the client's thread reads for as long as it is open
    arguments.update(additional_headers=headers, open_timeout=DEADLINE, close_timeout=DEADLINE)
    if isinstance(server.address, str):
        return client.unix_connect(uri=f"ws://localhost{path}", sock=sock, **arguments)
    host, port = server.address
    if server.scheme == "https":
        context = trusting_context()
        # The client reads in a thread of its own. With TLS 1.3, that may read session tickets just while the request is written, which OpenSSL does
        # not allow at once: now and then, the request is never sent.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return client.connect(f"wss://{host}:{port}{path}", sock=sock, ssl=context, **arguments)
    return client.connect(f"ws://{host}:{port}{path}", sock=sock, **arguments)


def exchange(ws: Any, message: str | bytes) -> str | bytes:
    """Send a message, and return the next that comes."""
    ws.send(message)
    answer: str | bytes = ws.recv(DEADLINE)
    return answer


def read_close(ws: Any) -> tuple[int, str]:
    """Wait for the peer's Close, behind messages that are passed over; returns its code and reason, 1006 where the connection ends without one."""
    while True:
        try:
            ws.recv(DEADLINE)
        except ConnectionClosed as error:
            return (1006, "") if error.rcvd is None else (error.rcvd.code, error.rcvd.reason)


def read_refusal(
    server: Gunicorn, path: str, headers: dict[str, str] | None = None, **arguments: Any
) -> Any:
    """Connect, and return the response that denies it: `status_code`, `headers` and `body`."""
    with pytest.raises(InvalidStatus) as caught, connect(server, path, headers, **arguments):
        pass
    return caught.value.response


class Frame(NamedTuple):
    """What a server has sent."""

    opcode: int
    payload: bytes


class RawWebSocket:
    """A client that does nothing by itself: it answers neither a Ping nor a Close."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def open(self, path: str, headers: str = "") -> bytes:
        """Shake hands; returns the head of the response."""
        self.connection.get(path, HANDSHAKE + headers)
        head = self.connection.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert ACCEPT in head
        return head

    def send(self, opcode: int, payload: bytes = b"") -> None:
        """Send a whole frame of less than 126 bytes."""
        self.connection.send(frame(opcode, payload))

    def read(self) -> Frame:
        """Read a frame that is neither a fragment nor compressed."""
        first, size = self._read(2)
        assert first & 0xF0 == 0x80, hex(first)
        if size == 126:
            size = int.from_bytes(self._read(2), "big")
        elif size == 127:
            size = int.from_bytes(self._read(8), "big")
        return Frame(first & 0x0F, self._read(size))

    def read_close(self) -> tuple[int, str]:
        """Read up to the peer's Close, past other frames; returns its code and reason."""
        while (got := self.read()).opcode != CLOSE:
            pass
        return int.from_bytes(got.payload[:2], "big"), got.payload[2:].decode()

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.connection.sock.recv(size - len(data))
            assert part, f"the connection ended after {data!r}"
            data += part
        return data


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """A client's frame, masked with zeros, which leave the payload as it is."""
    assert len(payload) < 126
    return struct.pack("!BBI", 0x80 | opcode, 0x80 | len(payload), 0) + payload


def close_payload(code: int, reason: str = "") -> bytes:
    """What a Close frame carries."""
    return code.to_bytes(2, "big") + reason.encode()
