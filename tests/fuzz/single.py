"""One connection on a fake transport, for tests that need very many of them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from inprocess import Host, Listening, Log

from gunicorn_asgi.config.settings import Settings
from gunicorn_asgi.net.listener import Listener
from gunicorn_asgi.server import Server

from .loop import VirtualLoop
from .transport import FakeTransport

ADDRESS = ("127.0.0.1", 8000)


class Single:
    """A server, a connection to it, and the log of both. Nothing waits: time stands still."""

    def __init__(self, app: Any, settings: Settings) -> None:
        self.loop = VirtualLoop()
        self.log = Log()
        self.raw: Any = None
        self.server: Any = None
        self._app = app
        self._settings = settings

    def connect(self) -> None:
        self.server = Server(
            self._settings, self._app, Host(sys.maxsize), self.log, None, self.loop
        )
        listening = Listening(SimpleNamespace(getsockname=lambda: ADDRESS))  # type: ignore[arg-type]  # its name is asked for
        protocol = self.server.connect(Listener(listening, "http", ""), ("127.0.0.1", 40000))
        self.raw = FakeTransport(self.loop, protocol, ADDRESS)
        self.raw.connect()

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function on the loop, and let it come to rest."""
        self.loop.call_soon(function, *args)
        self.loop.settle()

    def send(self, pieces: Iterable[bytes]) -> None:
        """Each piece arrives for itself, after the server has dealt with the ones before."""
        for piece in pieces:
            self.call(self.raw.send, piece)

    @property
    def answer(self) -> bytes:
        return bytes(self.raw.taken)


@contextmanager
def connected(app: Any, settings: Settings) -> Iterator[Single]:
    """A connection to `app`. At the end the client goes and the server stops, without complaints."""
    single = Single(app, settings)
    asyncio.set_event_loop(single.loop)
    try:
        single.call(single.connect)
        yield single
        single.call(single.raw.lose, None)
        single.call(lambda: single.loop.create_task(single.server.abort()))
        single.loop.now += 5
        single.loop.settle()
    finally:
        asyncio.set_event_loop(None)
        single.loop.close()
    assert not single.loop.complaints, single.loop.complaints
    assert not single.raw.problems, single.raw.problems
