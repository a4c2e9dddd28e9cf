"""What the connections of every version of HTTP have in common: addresses, the transport's two brakes, the deadline, and how they end."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import termios
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from enum import Enum
from fcntl import ioctl
from typing import TYPE_CHECKING, Any

from ..http.contract import NEVER, ASGIStream
from ..observe.printable import printable
from . import tls_extension as tls
from .sendfile import FileTransfer

if TYPE_CHECKING:
    from ..asgi.scope import Address
    from ..errors import RequestError
    from ..server import Server
    from .accept import Listener
    from .proxy_preamble import Introduction

LINGER_SECONDS = 2.0
"""How long a client has to notice the end of our side, and to end its own."""
MAX_LINGER = 1048576
"""Bytes that are read and dropped while a closing connection waits for the client to notice."""
MAX_TLS_WRITE = 65536
"""Bytes that are given to TLS at once."""
TCP_CLOSE, TCP_CLOSE_WAIT = 7, 8
"""States of the kernel's tcp_info: the peer has reset the connection, or closed its side."""


SILENT = 4
"""Times that the kernel has sent again what nobody acknowledges: about three seconds, and twice as long for each time more (RFC 6298, 5)."""


class Ending(Enum):
    """What the next bytes from the client are once the connection ends."""

    LINGER = "nothing that matters: all is written, and the client has not noticed"
    CLOSED = "none: the transport is closed or closing"


LINGER, CLOSED = Ending


class Connection(asyncio.Protocol):
    """A client on a transport. The server's clock calls `expired` once `deadline` has passed: there is no timer per connection.

    It ends by one of three: `_linger` after an answer that the client may not expect to be the last, `_shut` where it does or sends nothing
    more, `_reset` where nobody may take what was sent for the whole. `connection_lost` follows.
    """

    __slots__ = (
        "_client",
        "_clogged",
        "_is_owing",
        "_linger_left",
        "_listener",
        "_lost",
        "_reading",
        "_reading_paused",
        "_rules",
        "_seen",
        "_server",
        "_server_address",
        "_tls",
        "_transfer",
        "_transport",
        "deadline",
        "introduction",
    )

    _transport: asyncio.Transport
    _reading: Enum
    """What the next bytes are: while the connection is open a state of its version of HTTP, then one of Ending."""

    def __init__(self, server: Server, listener: Listener, client: Address | None) -> None:
        # Shared with the server.
        self._server = server
        self._listener = listener
        # Set once. The client is the one that was accepted: later, a connection that is reset already has no peer, like one of a unix socket.
        self._client = client
        self._server_address: Address | None = None
        self._rules = server.rules_for(client, None)
        self._tls: Mapping[str, Any] | None = None
        """What the ``tls`` extension says of it; None without TLS."""
        # The transport.
        self._transfer: FileTransfer | None = None
        """A file that is being sent."""
        self._lost = False
        self._reading_paused = False
        self._clogged = False
        """What was written does not leave: the transport's buffer is above its high mark."""
        self._seen = 0
        """What `_look` saw when that was last asked."""
        self._is_owing = True
        """A part of a response may still be on its way: False once an idle connection is closed."""
        self._linger_left = MAX_LINGER
        """Bytes to be dropped in LINGER before giving up."""
        self.deadline = NEVER
        """On the loop's clock."""
        self.introduction: Introduction | None = None
        """What the PROXY protocol says of it; set before it is made."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a full transport
        server = self._server
        self._transport = transport
        self._server_address = self._listener.address or address(
            transport.get_extra_info("sockname")
        )
        self.deadline = server.now + server.settings.head_timeout_s
        if self._listener.scheme == "https":
            self._tls = tls.describe(transport.get_extra_info("ssl_object"))
        server.admit(self)
        if self.introduction is not None:
            self._introduce(self.introduction)

    def _introduce(self, introduction: Introduction) -> None:
        self.introduction = None
        if introduction.client is not None:
            self._rules = self._server.rules_for(self._client, introduction.client)
            self._client, self._server_address = introduction.client, introduction.server
        if introduction.error is not None:
            self.refuse(introduction.error)
        elif introduction.data:
            self.data_received(introduction.data)

    def _take_over(self, origin: Connection) -> None:
        """Go on in its place, with its transport as it is."""
        self._transport = origin._transport
        self._server_address = origin._server_address
        self._client, self._rules, self._tls = origin._client, origin._rules, origin._tls
        self._reading_paused, self._clogged, self._seen = (
            origin._reading_paused,
            origin._clogged,
            origin._seen,
        )
        self._server.replace(origin, self)
        self._transport.set_protocol(self)
        self._set_deadline()

    def pause_writing(self) -> None:
        self._clogged = True
        self._seen = self._look()
        self.deadline = self._server.now + self._server.settings.write_timeout_s
        for stream in self._streams():
            stream.pause_writing()

    def resume_writing(self) -> None:
        self._clogged = False
        if self._reading is CLOSED:
            return
        self._set_deadline()
        if self._is_transferring:
            return  # the stream goes on when that is through
        for stream in self._streams():
            stream.resume_writing()

    def eof_received(self) -> bool:
        self._reading = CLOSED
        self._set_deadline()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading = CLOSED
        self._lost = True
        self._end_transfer()
        streams = self._streams()
        if not streams:
            self._server.forget(self)
            self.deadline = NEVER
            return
        self.deadline = self._server.now + self._server.grace_s
        for stream in streams:
            stream.connection_lost()

    # Reading and writing.

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()

    def _write(self, data: bytes) -> None:
        if self._is_closing():
            return
        if len(data) > MAX_TLS_WRITE and self._listener.scheme == "https":
            # TLS hands on at once what it has encrypted, and then knows no more of it. In pieces, it is stopped by the transport below when
            # that has enough, and its own buffer shows what waits.
            view = memoryview(data)
            for start in range(0, len(view), MAX_TLS_WRITE):
                self._transport.write(view[start : start + MAX_TLS_WRITE])
        else:
            self._transport.write(data)

    def _start_transfer(self, head: bytes, descriptor: int, offset: int, count: int) -> bool:
        """Send `head` and a part of a file without reading it; the streams are paused until that is through. Returns False where it is not possible."""
        if self._transport.is_closing():
            return False
        try:
            self._transfer = FileTransfer(
                self._server.loop,
                self._transport,
                head,
                descriptor,
                offset,
                count,
                self._transferred,
            )
        except OSError:  # no descriptor left
            return False
        if not self._transfer.start():
            self._seen = self._look()
            self._set_deadline()
            for stream in self._streams():
                stream.pause_writing()
        return True

    def _transferred(self) -> None:
        if self._reading is not CLOSED:
            self._set_deadline()
        for stream in self._streams():
            stream.resume_writing()

    @property
    def _is_transferring(self) -> bool:
        return self._transfer is not None and not self._transfer.has_ended

    def _end_transfer(self) -> int:
        """Returns how many bytes of the file were not sent."""
        transfer, self._transfer = self._transfer, None
        if transfer is None:
            return 0
        transfer.stop()
        return transfer.left

    def _tcp_socket(self) -> Any:
        """The loop's view of the socket, or None where it is no TCP one."""
        sock = self._transport.get_extra_info("socket")
        return None if sock is None or sock.family == socket.AF_UNIX else sock

    def _tcp_info(self, size: int) -> bytes:
        """The first bytes of the kernel's tcp_info, fewer from an older kernel; none where that cannot be had."""
        sock = self._tcp_socket()
        if sys.platform != "linux" or sock is None:
            return b""
        info: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
        return info

    def _tcp_state(self) -> int:
        """0, which is none, where that cannot be had."""
        return next(iter(self._tcp_info(1)), 0)

    def _is_gone(self) -> bool:
        """Whether the peer has reset or closed, which a transport that does not read would not notice. Linux only; otherwise False."""
        return self._tcp_state() in (TCP_CLOSE, TCP_CLOSE_WAIT)

    def _is_closing(self) -> bool:
        """Whether what is written goes nowhere, so that asyncio has a warning for each write, which it prints where nobody has set up its logger.

        TLS does not know of it before `connection_lost`: the kernel does, on Linux.
        """
        return self._transport.is_closing() or (
            self._listener.scheme == "https" and self._tcp_state() == TCP_CLOSE
        )

    def _look(self) -> int:
        """A number that changes whenever something of what was written reaches the client."""
        # The transport's own buffer is no measure where there is a better one: the kernel takes more only once a third of what it has is gone, which
        # may be a megabyte; and what TLS has encrypted is out of sight there.
        info = self._tcp_info(128)
        if len(info) == 128:
            return int(struct.unpack_from("=Q", info, 120)[0])  # tcpi_bytes_acked
        waiting = self._transport.get_write_buffer_size() + (self._outstanding() or 0)
        return waiting if self._transfer is None else waiting + self._transfer.left

    def _is_silent(self) -> bool:
        """Whether the client's system has not answered for some time to what was sent again and again. False where that cannot be known."""
        # tcpi_retransmits and tcpi_probes: without an answer, which a client that only does not read does give.
        return sum(self._tcp_info(4)[2:4]) >= SILENT

    def _outstanding(self) -> int | None:
        """Bytes that the kernel has and the client's system has not; of a unix socket, about those that it has not read. None if nobody knows."""
        sock = self._transport.get_extra_info("socket")
        if sys.platform != "linux" or sock is None or sock.fileno() < 0:
            return None
        return int.from_bytes(ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def _is_on_its_way(self) -> bool:
        """Whether something of what was written has not reached the client's system. True where that cannot be known."""
        return self._transport.get_write_buffer_size() > 0 or self._outstanding() != 0

    def _is_known_to_owe(self) -> bool:
        """The same, False where that cannot be known."""
        return self._transport.get_write_buffer_size() > 0 or bool(self._outstanding())

    def _is_stuck(self) -> bool:
        """Whether nothing has left since this was asked before."""
        before, self._seen = self._seen, self._look()
        return self._seen == before

    def complain(self, what: str, reason: object) -> None:
        """The client has sent what is not in order: the one line of the log about it."""
        ip = self._client[0] if self._client else ""
        self._server.log.warning("Invalid %s from ip=%s: %s", what, ip, printable(str(reason)))

    # The end.

    def _linger(self, is_sending: bool, is_owing: bool = True) -> None:
        """Close so that the client gets all that was written (RFC 9112, 9.6): no reset while it may still be sending.

        With TLS, no direction can end before the other. There, a client that `is_sending` is first left to find its answer and to close;
        without, it is not worth the wait of one that reads to the end. Unless `is_owing`, there is nothing among what was written that a client
        would miss: then this side closes at once, and the client has LINGER_SECONDS to end its own, as without TLS.
        """
        self._is_owing = is_owing
        self._resume_reading()
        if self._transport.can_write_eof():
            try:
                self._transport.write_eof()
            except (
                OSError
            ):  # asyncio's: the client has reset the connection, and that is not known yet
                self._shut()
                return
        elif not is_sending and is_owing:
            self._shut()
            return
        elif not is_sending:
            self._transport.close()
        self._reading = LINGER
        self._set_deadline()

    def _drop(self, size: int) -> None:
        """So much has come in LINGER."""
        self._linger_left -= size
        if self._linger_left < 0:
            self._shut()

    def _shut(self) -> None:
        """Close as soon as all is sent; `expired` sees to it that this has an end."""
        self._reading = CLOSED
        self._is_owing = True
        self._seen = self._look()
        if self._listener.scheme == "https":
            self._resume_reading()  # its end is an exchange of its own, and may have been begun by the client
        if not self._transport.is_closing():
            # With TLS, asyncio's transport cannot be aborted any more once it was closed twice.
            self._transport.close()
        self._set_deadline()

    def _shut_idle(self) -> None:
        """Close where nothing is owed, unless there is, to a client that may take it."""
        if self._is_known_to_owe() and not (self._server.is_draining and self._is_silent()):
            self._shut()
        else:
            self._shut_soon()

    def _shut_soon(self) -> None:
        """Close where nothing is owed: for TLS, its peer has a moment to answer."""
        self._shut()
        self._is_owing = False
        self.deadline = self._server.now + LINGER_SECONDS

    def _reset(self) -> None:
        """Abort with a TCP reset, so that nobody takes what was received for the whole. (TLS shows that by itself.)"""
        self._reading = CLOSED
        sock = self._tcp_socket()
        if self._listener.scheme == "http" and sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    # Deadlines.

    def _set_deadline(self) -> None:
        if self._clogged or self._reading is CLOSED or self._is_transferring:
            seconds = self._server.settings.write_timeout_s
        elif self._reading is LINGER:
            seconds = LINGER_SECONDS
        else:
            seconds = self._patience()
        self.deadline = self._server.now + seconds

    def expired(self) -> None:
        """What was waited for until `deadline` has not come."""
        self.deadline = NEVER
        if self._lost:
            for stream in self._streams():
                stream.cancel()
        elif self._clogged or self._reading is CLOSED or self._is_transferring:
            if not self._is_owing or self._is_stuck():
                self._reset()
            else:
                self._set_deadline()
        elif self._reading is LINGER:
            if self._is_on_its_way() and not self._is_stuck():
                self._set_deadline()  # it takes its time, and gets on
            elif self._is_owing:
                self._shut_idle()
            else:
                self._shut_soon()
        else:
            self._overdue()

    # For the version of HTTP to say.

    @abstractmethod
    def _patience(self) -> float:
        """Seconds that what comes next, from the client or the application, may take; NEVER where there is no limit."""

    @abstractmethod
    def _overdue(self) -> None:
        """That has not come, and the connection is open."""

    @abstractmethod
    def _streams(self) -> Sequence[ASGIStream]:
        """The exchanges that are not over."""

    # For the server.

    @property
    def is_busy(self) -> bool:
        """Whether a response is owed."""
        return bool(self._streams())

    @abstractmethod
    def refuse(self, error: RequestError) -> None:
        """Answer before anything was asked, and close."""

    @abstractmethod
    def drain(self) -> None:
        """The worker is to stop: an idle connection ends now, a busy one after its response."""

    def close_websocket(self) -> None:
        """The worker is to stop, and ``ws_drain_delay`` is over: end what has no end of its own."""

    def announce(self) -> None:
        """The worker is to stop, and there is time yet to say so."""

    def postpone(self, seconds: float) -> None:
        """The loop was blocked for so long: that time does not count."""
        self.deadline += seconds

    def hang_up(self) -> None:
        """The worker is about to stop: tell applications that listen."""
        for stream in self._streams():
            stream.ask_to_end()

    def kill(self) -> None:
        """The worker stops now."""
        self._end_transfer()
        streams = self._streams()
        if self._lost:
            self._server.forget(self)
        elif streams or self._transport.get_write_buffer_size():
            self._reset()
        else:
            self._shut()
        for stream in streams:
            stream.cancel()


def address(name: Any) -> Address | None:
    """The host and port in what the kernel calls one end of a connection; None on a unix socket."""
    return (name[0], name[1]) if isinstance(name, tuple) else None
