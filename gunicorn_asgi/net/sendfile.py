"""``os.sendfile`` under any loop: the kernel sends a file to a socket.

uvloop has no ``loop.sendfile()``, and does not watch the descriptor of a transport. It watches a
duplicate of that descriptor.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

MAX_SLICE = 2097152
"""Maximum bytes sent in one iteration of the loop. If the disk has to be read, the loop waits."""


class FileTransfer:
    """Sends `head` and a part of a file on the socket of `transport`.

    They follow the data that was written to the transport. Nothing may be written meanwhile.
    `start` sends as much as the socket takes at once. After the rest, `done` is called: `left` is 0
    if everything was sent. The file has to stay open until then, or until `stop`.
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
        """Raises OSError if the process has no free descriptor."""
        self._loop = loop
        self._transport = transport
        self._head = head
        self._file = file
        self._offset = offset
        self.left = count
        """Remaining bytes of the file."""
        self._done = done
        self._is_watched = False
        self._descriptor = os.dup(transport.get_extra_info("socket").fileno())

    @property
    def has_ended(self) -> bool:
        """True if nothing more is sent."""
        return self._descriptor < 0

    def start(self) -> bool:
        """Send as much as possible now. Returns True if this is the end; else `done` follows."""
        if not self._transport.get_write_buffer_size() and self._send():
            self.stop()
            return True
        try:
            self._loop.add_writer(self._descriptor, self._continue)
        except OSError:
            self.stop()
            return True
        self._is_watched = True
        return False

    def _continue(self) -> None:
        if self._transport.is_closing():
            self.stop()  # `connection_lost` follows
            return
        if self._transport.get_write_buffer_size():
            return  # The transport's buffer comes first.
        if self._send():
            self.stop()
            self._done()

    def _send(self) -> bool:
        """Send as much as the socket takes. Returns True if nothing more can be sent."""
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
            # The client is gone. A transport with paused reading does not notice.
            # `connection_lost` follows.
            self._transport.abort()
            return False
        except OSError:
            # sendfile does not support this file, or the disk has failed. The caller sees `left`.
            return True
        self._offset += sent
        self.left -= sent
        return not sent or not self.left

    def stop(self) -> None:
        """Send nothing more of the file. Does not call `done`."""
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            # The rest of the head: the caller writes everything after it.
            self._transport.write(head)
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_writer(self._descriptor)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
