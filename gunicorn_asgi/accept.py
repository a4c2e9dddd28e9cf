"""Accepting: from a listening socket to a connection, as many as there is room for, and a fair share among workers.

There are two ways, chosen by what was measured (``benchmarks/accepting.py``):

* `Acceptor` watches the socket and accepts itself. It stops at ``worker_connections``, lets workers with fewer connections go first, and reads
  what the PROXY protocol puts before everything else.
* `LoopAcceptor` leaves it to uvloop's own server, which accepts whatever waits at once. That is right where no other worker could take it, and
  costs a third less of a connection with a single request. On asyncio, both cost the same.
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

from .preface import read_introduction

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
        """What the loop takes for TLS."""
        self._is_open = False
        """After `open`, until `pause` or `close`."""
        self._timer: asyncio.TimerHandle | None = None
        """Behind which the socket is watched again."""
        self._yields = 0
        self._is_exhausted = False
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Accept from now on, until `pause` or `close`."""
        if not self._is_open:
            self._is_open = True
            self._watch()

    def pause(self) -> None:
        """Accept no more for now: what comes waits, or goes to another worker."""
        if self._is_open:
            self._is_open = False
            self._unwatch()

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

    def _watch(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._accept_some)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        else:
            self._loop.remove_reader(self._sock.fileno())

    def _sleep(self, seconds: float) -> None:
        if self._is_open and self._timer is None:
            self._loop.remove_reader(self._sock.fileno())
            self._timer = self._loop.call_later(seconds, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._watch()

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
        sock = Accepted(sock.family, sock.type, sock.proto, sock.detach())
        sock.setblocking(False)
        connection = self._server.expect(self._listener)
        self._start(self._serve(sock, peer, connection))
        return True

    async def _serve(self, sock: socket.socket, peer: Any, connection: Connection) -> None:
        server = self._server
        try:
            if server.settings.proxy_protocol != "off":
                connection.introduction = await read_introduction(sock, peer, server, bool(self._tls))
            await self._loop.connect_accepted_socket(lambda: connection, sock, **self._tls)
        except OSError as error:  # ssl.SSLError is one: mostly a failed handshake
            server.log.debug("A connection from %s could not be made: %r", peer, error)
        finally:
            server.give_up(connection)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        if sys.version_info >= (3, 12):
            task = asyncio.Task(coroutine, loop=self._loop, eager_start=True)
        else:
            task = self._loop.create_task(coroutine)
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


class Accepted(socket.socket):
    """With plain numbers for `family` and `type`: to make enum members of them, each time that the loop asks, costs as much as accepting."""

    family = socket.SocketType.family  # type: ignore[assignment]
    type = socket.SocketType.type  # type: ignore[assignment]


class LoopAcceptor(Acceptor):
    """Has uvloop accept. Beyond ``worker_connections``, what it takes in one turn is held by the server."""

    _accepting: asyncio.Server | None = None

    def _watch(self) -> None:
        self._start(self._listen())

    def _unwatch(self) -> None:
        if self._accepting is not None:
            # Not at once: this may be within its acceptance of a connection, which would be lost.
            self._loop.call_soon(self._accepting.close)
            self._accepting = None

    async def _listen(self) -> None:
        server = self._server
        # A duplicate, because the loop closes what it is given. It calls listen(2) again, so the backlog has to be given again.
        accepting = await self._loop.create_server(
            lambda: server.expect(self._listener), sock=self._sock.dup(), backlog=server.settings.backlog, **self._tls
        )
        if self._is_open:
            self._accepting = accepting
        else:
            accepting.close()


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
