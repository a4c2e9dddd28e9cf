"""A listening socket of the worker's own (``reuse_port``), closed to clients until it is ready.

Gunicorn makes the socket at the fork of its worker, and the kernel gives it its share of the
clients. They would wait until the application is imported, although other workers could serve them.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gunicorn.sock import BaseSocket

MAX_EARLY = 64
"""Connections kept of a socket's queue. They came in the milliseconds since the socket was made."""

Early = tuple[int, Any]
"""An accepted connection: its descriptor, and its peer's address."""


class ClosedQueues:
    """The listening sockets of a worker that is not ready."""

    def __init__(self, sockets: Sequence[BaseSocket]) -> None:
        """Take the connections in the queues of `sockets`, and have the kernel add no more."""
        self.early: dict[socket.socket, list[Early]] = {}
        """The connections that were taken, of each socket that has been closed to clients."""
        for each in sockets:
            sock: socket.socket = each.sock
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                self.early[sock] = _accept_all(sock)
                # On Linux, this ends the listening, and keeps the address. Elsewhere it is
                # refused, and clients wait in the queue.
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RD)

    def open(self, backlog: int) -> None:
        """Listen again."""
        for sock in self.early:
            sock.listen(backlog)


def _accept_all(sock: socket.socket) -> list[Early]:
    sock.setblocking(False)
    early: list[Early] = []
    while len(early) < MAX_EARLY:
        try:
            early.append(sock._accept())  # type: ignore[attr-defined]  # typeshed leaves it out
        except OSError:
            break
    return early
