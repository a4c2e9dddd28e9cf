"""The sending half of an HTTP/2 connection: what is to be sent is gathered, and written once in a turn of the loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from ..http.contract import NEVER
from ..net.connection import CLOSED, LINGER, Connection, Ending
from .events import Event
from .protocol import Protocol
from .streams import Owner

if TYPE_CHECKING:
    from ..asgi.scope import Address
    from ..net.accept import Listener
    from ..server import Server

FLUSH_SIZE = 65536
"""Bytes of data that are gathered before they are written, turn of the loop or not."""
MAX_BACKLOG = 65536
"""Bytes of heads and answers that may join what does not leave already. With more, nothing is read from a client that reads nothing."""


class Reading(Enum):
    """What the next bytes from the client are, until it is one of `Ending`."""

    FRAMES = "of any stream"


FRAMES = Reading.FRAMES


class Sender(Connection):
    """A transport, and a `Protocol` whose outbox is emptied to it."""

    __slots__ = (
        "_backlog",
        "_held_back",
        "_is_flushing",
        "_stuck_at",
        "protocol",
        "server",
        "settings",
    )

    protocol: Protocol
    _reading: Reading | Ending

    def __init__(self, server: Server, listener: Listener, client: Address | None) -> None:
        super().__init__(server, listener, client)
        self.settings = server.settings
        self.server = server
        self._reading = FRAMES
        self._is_flushing = False
        """What is to be sent will be, in this turn of the loop or the next."""
        self._stuck_at = NEVER
        """When something of what was written has to have left, where that is `_clogged`."""
        self._backlog = 0
        """Bytes that were written since."""
        self._held_back: list[Owner] = []
        """Whose streams wait for what was written to leave, and not for a window."""

    # From the transport.

    def pause_writing(self) -> None:
        self._clogged = self.protocol.outbox.is_held = True
        self._seen = self._look()
        self._stuck_at = self._server.now + self.settings.write_timeout_s
        self.watch(self._stuck_at)

    def resume_writing(self) -> None:
        self._clogged = self.protocol.outbox.is_held = False
        self._stuck_at = NEVER
        self._backlog = 0
        if self._reading is not CLOSED:
            self._resume_reading()
        held_back, self._held_back = self._held_back, []
        for exchange in held_back:
            exchange.freed()
        if self._reading is FRAMES:
            self._flush()
        elif self._reading is LINGER:
            self._set_deadline()

    # What goes.

    def flush_soon(self) -> None:
        """Something is to be sent: all that comes up in this turn of the loop in one write."""
        if not self._is_flushing:
            self._is_flushing = True
            self._server.loop.call_soon(self._flush)
        elif self.protocol.outbox.size >= FLUSH_SIZE and not self._clogged:
            self._write_out()

    def _flush(self) -> None:
        self._is_flushing = False
        if self._reading is not FRAMES:
            return
        self._write_out()
        while self.protocol.outbox.has_more and not self._clogged and self._reading is FRAMES:
            self._write_out()

    def _write_out(self) -> None:
        protocol = self.protocol
        outbox = protocol.outbox
        if not self._clogged and outbox.has_more:
            self._pump()
        parts = outbox.frames
        if parts:
            data = b"".join(parts)
            parts.clear()
            outbox.size = 0
            if self._clogged:
                self._backlog += len(data)
                if self._backlog > MAX_BACKLOG:
                    self._pause_reading()
            self._write(data)
        if outbox.points:
            failed = protocol.settle()
            if failed is not None:
                self._take(failed)

    def _pump(self) -> None:
        ended, freed = self.protocol.pump(FLUSH_SIZE)
        for lane in freed:
            assert lane.exchange is not None
            lane.exchange.freed()
        for lane in ended:
            assert lane.exchange is not None
            lane.exchange.completed()

    # For its exchanges.

    @property
    def now(self) -> float:
        """The latest that it can be on the loop's clock."""
        return self._server.now

    @property
    def is_clogged(self) -> bool:
        """Whether what was written does not leave."""
        return self._clogged

    def hold_back(self, exchange: Owner) -> None:
        """Nothing that `exchange` may send at will leaves: it is freed when something does."""
        self._held_back.append(exchange)

    def call_soon(self, callback: Callable[[], object]) -> None:
        """In the next turn of the loop."""
        self._server.loop.call_soon(callback)

    def watch(self, deadline: float) -> None:
        """`expired` is to be called by then."""
        self.deadline = min(self.deadline, deadline)

    @abstractmethod
    def _take(self, event: Event) -> None:
        """This has come of what the client has sent, or has not taken."""
