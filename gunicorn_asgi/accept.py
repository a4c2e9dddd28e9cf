"""Accepting: from a listening socket to a connection, as many as there is room for, and a fair share among workers.

The loop's own server accepts whatever waits, as soon as it sees it: more than ``worker_connections``, and more than a worker's share. So the
sockets are watched and accepted from here. What that costs and what it brings is measured by ``benchmarks/accepting.py``.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .connection import Connection
    from .server import Listener, Server

BATCH = 8
"""Connections that are taken in one turn of the loop, for what is there already has to be served, too."""
YIELD_SECONDS = 0.001
"""How long a worker that is ahead lets the others go first..."""
YIELDS = 8
"""...and how often in a row, until it takes some all the same: the others may be busy."""
RETRY_SECONDS = 1.0
"""The pause when the process has no descriptor or memory left."""


class Acceptor:
    """Takes the connections of one `listener`."""

    def __init__(self, server: Server, listener: Listener, tls: dict[str, Any]) -> None:
        self._server = server
        self._loop = server.loop
        self._listener = listener
        self._sock: socket.socket = listener.sock.sock
        self._sock.setblocking(False)
        self._tls = tls
        """What connect_accepted_socket takes for TLS."""
        self._is_open = False
        """Between `open` and `close`, if not paused."""
        self._timer: asyncio.TimerHandle | None = None
        self._yields = 0
        self._is_exhausted = False
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Accept from now on, until `pause` or `close`."""
        if not self._is_open:
            self._is_open = True
            self._loop.add_reader(self._sock.fileno(), self._accept_some)

    def pause(self) -> None:
        """Accept no more for now: what comes waits, or goes to another worker."""
        if self._is_open:
            self._is_open = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            else:
                self._loop.remove_reader(self._sock.fileno())

    def close(self, take: int, is_alone: bool) -> None:
        """Accept what waits already, up to `take` connections, and then no more. `is_alone`: nobody else accepts on this very socket."""
        self.pause()
        if is_alone:
            _ignore_syn(self._sock)
        while take > 0 and self._accept():
            take -= 1
        self._sock.close()

    def cancel(self) -> None:
        """Give up what is not a connection yet."""
        for task in list(self._tasks):
            task.cancel()

    # Inside.

    def _sleep(self, seconds: float) -> None:
        if self._is_open and self._timer is None:
            self._loop.remove_reader(self._sock.fileno())
            self._timer = self._loop.call_later(seconds, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._loop.add_reader(self._sock.fileno(), self._accept_some)

    def _accept_some(self) -> None:
        server = self._server
        is_patient = self._yields < YIELDS
        for _ in range(BATCH):
            if server.is_full:
                server.pause_accepting()
                return
            if is_patient and server.is_ahead:
                self._yields += 1
                self._sleep(YIELD_SECONDS)
                return
            if not self._accept():
                break
        self._yields = 0

    def _accept(self) -> bool:
        """Take one connection; False if there is none to take."""
        try:
            sock, peer = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            if not self._is_exhausted:  # once, not once a second
                self._server.log.error("Cannot accept connections: %s", error)  # noqa: TRY400 # the system's fault: no traceback
            self._is_exhausted = True
            self._sleep(RETRY_SECONDS)
            return False
        self._is_exhausted = False
        sock.setblocking(False)
        connection = self._server.expect(self._listener)
        task = _start(self._loop, self._serve(sock, peer, connection))
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    async def _serve(self, sock: socket.socket, peer: Any, connection: Connection) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock, **self._tls)
        except OSError as error:  # ssl.SSLError is one: mostly a failed handshake
            self._server.log.debug("A connection from %s could not be made: %r", peer, error)
        finally:
            self._server.expected.discard(connection)


def _start(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    return loop.create_task(coroutine)


SO_ATTACH_FILTER = 26
"""Linux; the socket module does not name it."""
IGNORE_SYN = struct.pack(
    "=HBBIHBBIHBBIHBBI",
    *(0x30, 0, 0, 13),  # load the byte with the flags of the TCP header (RFC 9293, 3.1)
    *(0x45, 0, 1, 0x02),  # SYN?
    *(0x06, 0, 0, 0),  # then drop it
    *(0x06, 0, 0, 0xFFFFFFFF),  # otherwise take it whole
)
"""A classic BPF program: an array of struct sock_filter."""


def _ignore_syn(sock: socket.socket) -> None:
    """Let nobody begin to connect to `sock`, a listener that is about to close: who would get a reset tries again, and reaches another."""
    if sys.platform == "linux" and sock.family in (socket.AF_INET, socket.AF_INET6):
        program = ctypes.create_string_buffer(IGNORE_SYN, len(IGNORE_SYN))
        with suppress(OSError):  # forbidden here: one chance less
            sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(IGNORE_SYN) // 8, ctypes.addressof(program)))
