"""A file from the disk to a socket, without passing through this process: ``os.sendfile``, under any loop.

uvloop has no ``loop.sendfile()``, and does not let the descriptor of a transport be watched; but a duplicate of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

SLICE = 1048576
"""Bytes that are sent in one turn of the loop at most. Where they have to be read from the disk, the loop waits for them."""


class Transfer:
    """Sends a part of a file on the socket of `transport`, behind what was written to that. Nothing may be written meanwhile.

    Calls `done` when it has ended: then `left` is 0 if all was sent. The file has to stay open until then, or until `cancel`.
    """

    __slots__ = ("_descriptor", "_done", "_file", "_loop", "_offset", "_transport", "left")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        file: int,
        offset: int,
        count: int,
        done: Callable[[], object],
    ) -> None:
        """Raises OSError where there is no descriptor left."""
        self._loop = loop
        self._transport = transport
        self._file = file
        self._offset = offset
        self.left = count
        """Bytes that are still to be sent."""
        self._done = done
        self._descriptor = os.dup(transport.get_extra_info("socket").fileno())
        try:
            loop.add_writer(self._descriptor, self._send)
        except OSError:
            os.close(self._descriptor)
            raise

    def _send(self) -> None:
        if self._transport.is_closing():
            self.cancel()  # `connection_lost` follows
            return
        if self._transport.get_write_buffer_size():
            return  # the socket has room for it, too: its turn comes first
        try:
            sent = os.sendfile(self._descriptor, self._file, self._offset, min(self.left, SLICE))
        except BlockingIOError:
            return
        except (ConnectionError, TimeoutError):
            self.cancel()
            self._transport.abort()  # the client is gone, which a transport that is not reading does not see
            return
        except OSError:
            sent = 0  # not of this file, or the disk has failed: who reads what is `left` will see
        self._offset += sent
        self.left -= sent
        if not sent or not self.left:
            self.cancel()
            self._done()

    def cancel(self) -> None:
        """Send nothing more. `done` is not called by it."""
        if self._descriptor >= 0:
            self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
