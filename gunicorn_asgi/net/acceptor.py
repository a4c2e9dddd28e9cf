"""Accepting on one listening socket: from the kernel's queue to a `Transport`."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import math
import socket
import struct
import sys
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from ..asgi.scope import Address
from ..config.settings import Settings
from ..observe.log import Log
from . import kernel
from .listener import Listener, read_address
from .proxy_preamble import read_preamble
from .transport import Transport

BATCH = 8
"""Maximum of connections accepted in one turn of the loop: open ones have to be served, too."""
BATCH_GROWTH = 0.25
"""A turn that takes as many connections as it may raises the number for the next turn by this. To
find that none waits costs a fifth of accepting one: a slow growth makes it rare."""
YIELD_SECONDS = 0.001
"""Pause in which a worker with clearly more connections than the others lets them accept."""
YIELDS = 8
"""Such pauses in a row. Then the worker accepts all the same, for the others may be busy."""
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors: the process or the system has no descriptor or memory left."""
COMPLAINT_SECONDS = 60.0
"""Time between two log lines about `EXHAUSTED`."""
RETRY_SECONDS = 1.0
"""Pause after one of `EXHAUSTED`."""


class AcceptHost(Protocol):
    """The server, as far as accepting needs it."""

    settings: Settings
    log: Log
    loop: asyncio.AbstractEventLoop
    trusts_proxy: Callable[[str | None], bool]

    @property
    def connections(self) -> Collection[Transport]:
        """The connections, in the order of their beginning."""

    @property
    def lost(self) -> Collection[Transport]:
        """Those of `connections` whose transport is lost. Their application is still running."""

    def connect(self, listener: Listener, client: Address | None) -> Transport:
        """The transport of a new connection."""

    def connections_changed(self) -> None:
        """There are more or fewer connections than before."""

    def count_busy(self, with_lost: bool = True) -> int:
        """The number of connections with an exchange in progress."""


class Capacity(Protocol):
    """All acceptors of a worker, as one of them sees them."""

    pending: dict[Transport, asyncio.Task[None] | None]

    @property
    def is_ahead(self) -> bool:
        """Whether other workers should accept first."""

    def accepted(self, listener: Listener, client: Address | None) -> Transport:
        """Return the transport of a new connection. It counts from now on."""

    def settled(self, transport: Transport) -> None:
        """`transport` is connected, or never will be."""

    def client_waits(self) -> None:
        """A client waits at a socket that is only watched."""


class Acceptor:
    """Accepts the connections of one `listener`."""

    def __init__(
        self, server: AcceptHost, acceptors: Capacity, listener: Listener, tls: dict[str, Any]
    ) -> None:
        self._server = server
        self._acceptors = acceptors
        self._loop = server.loop
        self._listener = listener
        self._sock: socket.socket = listener.sock.sock
        self._sock.setblocking(False)
        self._kind = (int(self._sock.family), int(self._sock.type), self._sock.proto)
        self._tls = tls
        """The loop's arguments for TLS."""
        has_preamble = server.settings.proxy_protocol != "off"
        self._is_made_at_once = not tls and not has_preamble
        """Nothing has to be awaited from the client before the connection is made."""
        self._must_unblock = has_preamble or server.settings.asgi_loop != "uvloop"
        """uvloop makes a socket non-blocking by itself."""
        self._is_open = False
        """After `open`, until `watch`, `pause` or `close`."""
        self._is_watching = False
        """After `watch`, until `open`, `pause` or `close`."""
        self._timer: asyncio.TimerHandle | None = None
        """Ends a pause; the socket is watched again then."""
        self._yields = 0
        self._batch = 1.0
        """Connections that one turn may take now, rounded down: 1 to BATCH."""
        self._complained = -math.inf
        """When the log last said that no descriptor is left."""

    def open(self) -> None:
        """Accept from now on."""
        if not self._is_open:
            self._is_open, self._is_watching = True, False
            self._watch()

    def watch(self) -> None:
        """Accept no more, and call `Capacity.client_waits` when a client waits."""
        if not self._is_watching:
            self._is_open, self._is_watching = False, True
            self._cancel_timer()
            # This replaces the callback, if there is one.
            self._loop.add_reader(self._sock.fileno(), self._acceptors.client_waits)

    def pause(self) -> None:
        """Accept no more. New connections wait, or go to another worker."""
        if self._is_open or self._is_watching:
            self._is_open = self._is_watching = False
            self._cancel_timer()
            self._loop.remove_reader(self._sock.fileno())

    def waiting(self) -> int | None:
        """The number of clients that wait; None where the kernel does not tell."""
        return kernel.waiting_clients(self._sock)

    def close(self, take: int, is_alone: bool) -> None:
        """Accept up to `take` waiting connections, then close the socket.

        `is_alone`: no other process accepts on this socket.
        """
        self.pause()
        if is_alone:
            ignore_syn(self._sock)
        while take > 0 and self._accept():
            take -= 1
        self._sock.close()

    # Inside.

    def _watch(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._accept_some)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sleep(self, seconds: float) -> None:
        if self._is_open and self._timer is None:
            self._loop.remove_reader(self._sock.fileno())
            self._timer = self._loop.call_later(seconds, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._watch()

    def _accept_some(self) -> None:
        acceptors = self._acceptors
        is_patient = self._yields < YIELDS
        for taken in range(int(self._batch)):
            if not self._is_open:
                return  # ``worker_connections`` is reached
            if is_patient and acceptors.is_ahead:
                self._yields += 1
                self._sleep(YIELD_SECONDS)
                return
            if not self._accept():
                self._batch = max(1.0, taken)
                break
        else:
            self._batch = min(BATCH, self._batch + BATCH_GROWTH)
        self._yields = 0

    def _accept(self) -> bool:
        """Take one connection; False if there is none to take."""
        try:
            # accept() itself would make a socket whose numbers are enum members, which costs as
            # much as everything else here (see Accepted).
            descriptor, peer = self._sock._accept()  # type: ignore[attr-defined]  # typeshed leaves it out
        except OSError as error:
            if error.errno not in EXHAUSTED:
                # None waits any more. Or it has failed already, which Linux reports here.
                return False
            if self._loop.time() - self._complained > COMPLAINT_SECONDS:
                self._complained = self._loop.time()
                self._server.log.error("Cannot accept connections: %s", error)  # noqa: TRY400 # the system's fault: no traceback
            self._sleep(RETRY_SECONDS)
            return False
        self.make(descriptor, peer)
        return True

    def make(self, descriptor: int, peer: Any) -> None:
        """Make the connection of an accepted socket."""
        sock = Accepted(*self._kind, descriptor)
        if self._must_unblock:
            sock.setblocking(False)
        acceptors = self._acceptors
        client = read_address(peer)
        transport = acceptors.accepted(self._listener, client)
        if self._is_made_at_once:
            making = self._loop.connect_accepted_socket(lambda: transport, sock)
            self._advance(making, transport)
            return
        task = _start(self._loop, self._serve(sock, client, transport))
        if transport in acceptors.pending:
            acceptors.pending[transport] = task

    def _advance(
        self, making: Coroutine[Any, Any, Any], transport: Transport, _waiter: object = None
    ) -> None:
        """Run the loop's coroutine up to its next future, as a task would.

        It only waits for the next turn of the loop. A task for that would cost as much as the
        rest of accepting.
        """
        waiter = None
        try:
            waiter = making.send(None)
        except StopIteration:
            pass  # it is made
        except OSError as error:
            self._not_made(transport, error)
        finally:
            if waiter is None:
                self._acceptors.settled(transport)
            else:
                waiter.add_done_callback(partial(self._advance, making, transport))

    async def _serve(
        self, sock: socket.socket, client: Address | None, transport: Transport
    ) -> None:
        server = self._server
        try:
            if server.settings.proxy_protocol != "off":
                transport.preamble = await read_preamble(sock, client, server, bool(self._tls))
            await self._loop.connect_accepted_socket(lambda: transport, sock, **self._tls)
        except OSError as error:  # ssl.SSLError is one: mostly a failed handshake
            self._not_made(transport, error)
        except asyncio.CancelledError:
            transport.making_cancelled()
            raise
        finally:
            self._acceptors.settled(transport)

    def _not_made(self, transport: Transport, error: OSError) -> None:
        self._server.log.debug(
            "A connection from %s could not be made: %r", transport.client, error
        )


ACCEPT_TASK = "gunicorn_asgi accept"
"""Name of the tasks. The report on a blocked loop leaves them out by it."""


def _start(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]
) -> asyncio.Task[None]:
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, name=ACCEPT_TASK, eager_start=True)
    return loop.create_task(coroutine, name=ACCEPT_TASK)


class Accepted(socket.socket):
    """A socket whose `family` and `type` are plain numbers.

    Enum members, made each time that the loop asks, would cost as much as accepting.
    """

    family = socket.SocketType.family  # type: ignore[assignment]  # no property, on purpose
    type = socket.SocketType.type  # type: ignore[assignment]  # as above


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


def ignore_syn(sock: socket.socket) -> None:
    """Drop new connection attempts at `sock`, a listener that is about to close.

    A client that gets no answer tries again and reaches another listener, instead of being reset.
    """
    if sys.platform == "linux" and sock.family in (socket.AF_INET, socket.AF_INET6):
        program = ctypes.create_string_buffer(IGNORE_SYN, len(IGNORE_SYN))
        with suppress(OSError):  # forbidden here: some clients are reset
            sock.setsockopt(
                socket.SOL_SOCKET,
                SO_ATTACH_FILTER,
                struct.pack("@HP", len(IGNORE_SYN) // 8, ctypes.addressof(program)),
            )
