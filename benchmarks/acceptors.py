"""A worker that leaves accepting to the loop's own server, as others do and this package did: for accepting.py to compare."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gunicorn_asgi import Worker
from gunicorn_asgi.net import accept

if TYPE_CHECKING:
    import asyncio


class LoopAcceptor(accept.Acceptor):
    """Plain connections only, and neither ``worker_connections`` nor a fair share."""

    accepting: asyncio.Server | None = None

    def open(self) -> None:
        """Have the loop accept."""
        self.task = self._loop.create_task(self._listen())

    def pause(self) -> None:
        """Have it stop."""
        if self.accepting is not None:
            self.accepting.close()

    async def _listen(self) -> None:
        server = self._server
        connect = partial(server.connect, self._listener, ("127.0.0.1", 0))
        self.accepting = await self._loop.create_server(
            connect, sock=self._sock.dup(), backlog=server.settings.backlog
        )


class LoopAcceptorWorker(Worker):
    """Has it."""

    def init_process(self) -> None:
        """In the worker process, which is this worker's alone."""
        accept.Acceptor = LoopAcceptor  # type: ignore[misc]
        super().init_process()
