"""A file from the disk to a socket, without passing through this process: ``os.sendfile``, under any loop.

uvloop has no ``loop.sendfile()``, and does not let the descriptor of a transport be watched; but a duplicate of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

MAX_SLICE = 2097152
"""Bytes that are sent in one turn of the loop at most. Where they have to be read from the disk, the loop waits for them."""


class FileTransfer:
    """Sends `head` and a part of a file on the socket of `transport`, behind what was written to that. Nothing may be written meanwhile.

    What the socket takes at once is sent by `start`. Then `done` is called when it has ended: `left` is 0 if all was sent. The file has to
    stay open until then, or until `cancel`.
    """

    __slots__ = (
        "_descriptor",
        "_done",
        "_file",
        "_head",
        "_is_watched",
        "_loop",
        "_offset",
        "_transport",
        "left",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        head: bytes,
        file: int,
        offset: int,
        count: int,
        done: Callable[[], object],
    ) -> None:
        """Raises OSError where there is no descriptor left."""
        self._loop = loop
        self._transport = transport
        self._head = head
        self._file = file
        self._offset = offset
        self.left = count
        """Bytes of the file that are still to be sent."""
        self._done = done
        self._is_watched = False
        self._descriptor = os.dup(transport.get_extra_info("socket").fileno())

    @property
    def has_ended(self) -> bool:
        """Nothing more of it is sent."""
        return self._descriptor < 0

    def start(self) -> bool:
        """Send what can be sent now. Returns whether that is the end; otherwise `done` will be called."""
        if not self._transport.get_write_buffer_size() and self._send():
            self.cancel()
            return True
        try:
            self._loop.add_writer(self._descriptor, self._go_on)
        except OSError:
            self.cancel()
            return True
        self._is_watched = True
        return False

    def _go_on(self) -> None:
        if self._transport.is_closing():
            self.cancel()  # `connection_lost` follows
            return
        if self._transport.get_write_buffer_size():
            return  # the socket has room for that, too: its turn comes first
        if self._send():
            self.cancel()
            self._done()

    def _send(self) -> bool:
        """Send as much as the socket takes. Returns whether nothing more can be sent."""
        try:
            if self._head:
                self._head = self._head[os.write(self._descriptor, self._head) :]
                if self._head:
                    return False
            sent = os.sendfile(
                self._descriptor, self._file, self._offset, min(self.left, MAX_SLICE)
            )
        except BlockingIOError:
            return False
        except (ConnectionError, TimeoutError):
            self._transport.abort()  # the client is gone, which a transport that is not reading does not see; `connection_lost` follows
            return False
        except OSError:
            return (
                True  # not of this file, or the disk has failed: who reads what is `left` will see
            )
        self._offset += sent
        self.left -= sent
        return not sent or not self.left

    def cancel(self) -> None:
        """Send nothing more of the file. `done` is not called by it."""
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)  # the rest of it: what comes behind is somebody else's
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_writer(self._descriptor)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
