"""The kernel's view of a client's socket: bytes that are not acknowledged, and whether it is gone.

asyncio's transport hands data to the kernel and then knows no more of it. These functions ask the
kernel. They answer on Linux; elsewhere they say that nothing is known.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import termios
from fcntl import ioctl
from typing import Any

TCP_CLOSE, TCP_CLOSE_WAIT = 7, 8
"""States in tcp_info: the peer has reset the connection, or has closed its side."""
UNACKED_OFFSET = 24
"""Position of tcpi_unacked in tcp_info. For a listening socket, Linux keeps the length of its queue
there."""
UNANSWERED = 4
"""Retransmissions in a row without an answer: about three seconds, and twice as long for each
further one (RFC 6298, 5)."""
ACKED_OFFSET, INFO_SIZE = 120, 128
"""Position and end of tcpi_bytes_acked in tcp_info."""
RECEIVED_OFFSET = 128
"""Position of tcpi_bytes_received, the next field."""
BYTES = struct.Struct("=Q")


def tcp_socket(transport: asyncio.Transport) -> Any:
    """The loop's view of the socket, or None where it is not a TCP socket."""
    sock = transport.get_extra_info("socket")
    return None if sock is None or sock.family == socket.AF_UNIX else sock


def _tcp_info(transport: asyncio.Transport, size: int) -> bytes:
    """The first bytes of tcp_info. An older kernel has fewer; empty where there is none."""
    sock = tcp_socket(transport)
    if sys.platform != "linux" or sock is None:
        return b""
    info: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    return info


def tcp_state(transport: asyncio.Transport) -> int:
    """The kernel's state of the connection; 0 where that is not known."""
    return next(iter(_tcp_info(transport, 1)), 0)


def is_gone(transport: asyncio.Transport) -> bool:
    """Whether the peer has reset or closed. A transport that does not read would not notice."""
    return tcp_state(transport) in (TCP_CLOSE, TCP_CLOSE_WAIT)


def is_unresponsive(transport: asyncio.Transport) -> bool:
    """Whether the client's system has answered none of several retransmissions.

    A client that only does not read does answer. False where this is not known.
    """
    # tcpi_retransmits and tcpi_probes.
    return sum(_tcp_info(transport, 4)[2:4]) >= UNANSWERED


def has_unread(transport: asyncio.Transport) -> bool:
    """Whether the kernel has data of the client that the loop has not read yet."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    return any(ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))


def unacknowledged(transport: asyncio.Transport) -> int | None:
    """Bytes that the kernel has and the client's system does not; None where that is not known.

    For a unix socket: about the bytes that the client has not read.
    """
    sock = transport.get_extra_info("socket")
    if sys.platform != "linux" or sock is None or sock.fileno() < 0:
        return None
    return int.from_bytes(ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def delivery_count(transport: asyncio.Transport, file_left: int) -> int:
    """A number that changes whenever written data reaches the client.

    `file_left`: bytes of a file that the kernel has not been given.

    The transport's own buffer measures it badly. The kernel takes more only after a third of its
    buffer, maybe a megabyte, is gone; and TLS hides the data that it has encrypted.
    """
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX and sys.platform == "linux":
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_SIZE)
        if len(info) == INFO_SIZE:
            (acknowledged,) = BYTES.unpack_from(info, ACKED_OFFSET)
            return int(acknowledged)
    return transport.get_write_buffer_size() + (unacknowledged(transport) or 0) + file_left


def waiting_clients(listener: socket.socket) -> int | None:
    """The number of connections that wait to be accepted; None where that is not known."""
    if sys.platform != "linux" or listener.family == socket.AF_UNIX:
        return None
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, UNACKED_OFFSET + 4)
    return int.from_bytes(info[UNACKED_OFFSET:], sys.byteorder)


def received_count(transport: asyncio.Transport) -> int | None:
    """Bytes that the client has sent; None where that is not known."""
    info = _tcp_info(transport, RECEIVED_OFFSET + BYTES.size)
    if len(info) < RECEIVED_OFFSET + BYTES.size:
        return None
    (received,) = BYTES.unpack_from(info, RECEIVED_OFFSET)
    return int(received)


def reset_on_close(transport: asyncio.Transport) -> None:
    """Have the kernel send RST instead of FIN when the socket is closed (SO_LINGER of 0)."""
    sock = tcp_socket(transport)
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
