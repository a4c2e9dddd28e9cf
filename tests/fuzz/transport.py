"""asyncio's transport of a socket or TLS, without both, and stricter: it notes what asyncio forgives.

The other end is the case: it queues bytes for the server, and takes as many as it has room for.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections import deque
from types import SimpleNamespace
from typing import Any

from .loop import VirtualLoop

HIGH_WATER, LOW_WATER = 65536, 16384
"""asyncio's limits for `pause_writing` and `resume_writing`."""


class FakeTransport(asyncio.Transport):
    """One client's connection, as the loop would show it to the server."""

    def __init__(
        self, loop: VirtualLoop, protocol: Any, sockname: tuple[str, int], alpn: str | None = None
    ) -> None:
        """`alpn`: the protocol agreed in the handshake of TLS, or None without TLS."""
        super().__init__()
        self._alpn = alpn
        self._loop = loop
        self._protocol = protocol
        self._sockname = sockname
        # The server's direction.
        self._buffer = bytearray()
        self._is_paused = False
        """The protocol was told to pause writing."""
        self._has_eof = False
        self.taken = bytearray()
        """What the client has got."""
        self.room = math.inf
        """Bytes that the client still takes."""
        self.max_buffer = 0
        # The client's direction.
        self._incoming: deque[bytes] = deque()
        self._has_client_eof = False
        self._is_eof_told = False
        self._reads = True
        self._is_pumping = False
        self.delivered = bytearray()
        # The end.
        self._closing = False
        self._is_losing = False
        self.is_lost = False
        self.problems: list[str] = []

    # The client.

    def connect(self) -> None:
        self._protocol.connection_made(self)

    def send(self, data: bytes) -> None:
        """The client sends `data`. It arrives in one piece, as soon as the server reads."""
        if data:
            self._incoming.append(data)
            self._start_pump()

    def send_eof(self) -> None:
        self._has_client_eof = True
        self._start_pump()

    def lose(self, error: Exception | None) -> None:
        """The connection ends without the server's doing."""
        self._end(error)

    def allow(self, room: float) -> None:
        """The client takes so many bytes, and then none."""
        self.room = room
        self._flush()

    def _start_pump(self) -> None:
        if not self._is_pumping:
            self._is_pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """What a turn of the loop reads: one piece, or the end."""
        self._is_pumping = False
        if not self._reads or self._closing or self._is_eof_told:
            return
        if self._incoming:
            data = self._incoming.popleft()
            self.delivered += data
            self._call("data_received", data)
            if self._incoming or self._has_client_eof:
                self._start_pump()
        elif self._has_client_eof:
            self._is_eof_told = True
            stays_open = self._call("eof_received")
            if stays_open and self._alpn:
                self.problems.append("eof_received() returns true, which has no effect with TLS")
            if not stays_open or self._alpn:
                self.close()

    def _call(self, name: str, *args: object) -> Any:
        try:
            return getattr(self._protocol, name)(*args)
        except BaseException as error:
            self.problems.append(f"{name} raised {error!r}")
            self._end(error if isinstance(error, Exception) else None)
            return None

    @property
    def can_send(self) -> bool:
        """Whether the server may still answer."""
        return not (self._closing or self._has_eof)

    # asyncio.Transport.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        # A unix socket's family, so that the kernel is not asked about TCP. No descriptor: files
        # cannot be sent by the kernel, and are read.
        sock = SimpleNamespace(family=socket.AF_UNIX, fileno=lambda: -1)
        info: dict[str, Any] = {"sockname": self._sockname, "socket": sock}
        if self._alpn is not None:
            info["ssl_object"] = SimpleNamespace(
                cipher=lambda: None,
                version=lambda: None,
                getpeercert=lambda **_: None,
                selected_alpn_protocol=lambda: self._alpn,
            )
        return info.get(name, default)

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reads and not self._closing

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        if not self._closing:
            self._reads = True
            self._start_pump()

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return LOW_WATER, HIGH_WATER

    def write(self, data: Any) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes, not {type(data)}")
        if self._has_eof:
            self.problems.append(f"written after write_eof: {bytes(data)[:60]!r}")
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._closing:
            if data and not self._is_losing:
                self.problems.append(f"written after close: {bytes(data)[:60]!r}")
            return
        self._buffer += data
        self._flush()
        self.max_buffer = max(self.max_buffer, len(self._buffer))
        if len(self._buffer) > HIGH_WATER and not self._is_paused:
            self._is_paused = True
            self._call("pause_writing")

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return self._alpn is None

    def write_eof(self) -> None:
        if self._alpn is not None:
            raise NotImplementedError
        if not self._closing:
            self._has_eof = True

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._buffer:
                self._end(None)

    def abort(self) -> None:
        self._end(None)

    def _flush(self) -> None:
        size = int(min(self.room, len(self._buffer)))
        self.room -= size
        self.taken += self._buffer[:size]
        del self._buffer[:size]
        if self._is_paused and len(self._buffer) <= LOW_WATER and not self._is_losing:
            # asyncio calls it from its own callback, never within write().
            self._is_paused = False
            self._loop.call_soon(self._resume)
        if self._closing and not self._buffer:
            self._end(None)

    def _resume(self) -> None:
        if not self._is_losing:
            self._call("resume_writing")

    def _end(self, error: Exception | None) -> None:
        self._closing = True
        self._buffer.clear()
        if not self._is_losing:
            self._is_losing = True
            self._loop.call_soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        self.is_lost = True
        self._call("connection_lost", error)
