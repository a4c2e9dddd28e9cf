"""What the connections of every version of HTTP have in common: addresses, the transport's two brakes, and the deadline."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import sys
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .asgi.scope import Address
    from .server import Listener, Server

NEVER = math.inf
MAX_TLS_WRITE = 65536
"""Bytes that are given to TLS at once."""
TCP_GONE = (7, 8)
"""The states CLOSE and CLOSE_WAIT of the kernel's tcp_info."""


class Connection(asyncio.Protocol):
    """A client on a transport. The server's clock calls `expired` once `deadline` has passed: there is no timer per connection."""

    __slots__ = (
        "_client",
        "_clogged",
        "_listener",
        "_lost",
        "_reading_paused",
        "_rules",
        "_seen",
        "_server",
        "_server_address",
        "_transport",
        "deadline",
    )

    _transport: asyncio.Transport

    def __init__(self, server: Server, listener: Listener) -> None:
        # Shared with the server.
        self._server = server
        self._listener = listener
        # Set once, when the connection is made.
        self._client: Address | None = None
        self._server_address: Address | None = None
        self._rules = server.rules
        # The transport.
        self._lost = False
        self._reading_paused = False
        self._clogged = False
        """What was written does not leave: the transport's buffer is above its high mark."""
        self._seen = 0
        """What `_look` saw when that was last asked."""
        self.deadline = NEVER
        """On the loop's clock."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a full transport
        server = self._server
        self._transport = transport
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):  # a unix socket has none, or an empty string
            self._client = (peer[0], peer[1])
        self._rules = server.rules_for(self._client)
        self._server_address = self._listener.address or _address(transport.get_extra_info("sockname"))
        self.deadline = server.now + server.settings.head_timeout_s
        server.connections.add(self)

    def pause_writing(self) -> None:
        self._clogged = True
        self._seen = self._look()
        self.deadline = self._server.now + self._server.settings.write_timeout_s

    def resume_writing(self) -> None:
        self._clogged = False

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()

    def _write(self, data: bytes) -> None:
        if len(data) > MAX_TLS_WRITE and self._listener.scheme == "https":
            # TLS hands on at once what it has encrypted, and then knows no more of it. In pieces, it is stopped by the transport below when
            # that has enough, and its own buffer shows what waits.
            view = memoryview(data)
            for start in range(0, len(view), MAX_TLS_WRITE):
                self._transport.write(view[start : start + MAX_TLS_WRITE])
        else:
            self._transport.write(data)

    def _tcp_socket(self) -> Any:
        """The loop's view of the socket, or None where it is no TCP one."""
        sock = self._transport.get_extra_info("socket")
        return None if sock is None or sock.family == socket.AF_UNIX else sock

    def _is_gone(self) -> bool:
        """Whether the peer has reset or closed, which a transport that does not read would not notice. Linux only; otherwise False."""
        sock = self._tcp_socket()
        if sys.platform != "linux" or sock is None:
            return False
        return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in TCP_GONE)

    def _look(self) -> int:
        """A number that changes whenever something of what was written leaves."""
        if self._listener.scheme == "https":
            # What TLS has encrypted is out of its sight, so the kernel has to say: tcpi_bytes_acked of its tcp_info.
            sock = self._tcp_socket()
            if sys.platform == "linux" and sock is not None:
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
                if len(info) == 128:
                    return int(struct.unpack_from("=Q", info, 120)[0])
        return self._transport.get_write_buffer_size()

    def _is_stuck(self) -> bool:
        """Whether nothing has left since this was asked before."""
        before, self._seen = self._seen, self._look()
        return self._seen == before

    def _reset(self) -> None:
        """Abort with a TCP reset, so that nobody takes what was received for the whole. (TLS shows that by itself.)"""
        sock = self._tcp_socket()
        if self._listener.scheme == "http" and sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    # For the server.

    @abstractmethod
    def expired(self) -> None:
        """What was waited for until `deadline` has not come."""

    @abstractmethod
    def drain(self) -> None:
        """The worker is to stop: an idle connection ends now, a busy one after its response."""

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """Whether a response is owed."""

    @abstractmethod
    def hang_up(self) -> None:
        """The worker is about to stop: tell applications that listen."""

    @abstractmethod
    def kill(self) -> None:
        """The worker stops now."""


def _address(sockname: Any) -> Address | None:
    return (sockname[0], sockname[1]) if isinstance(sockname, tuple) else None
