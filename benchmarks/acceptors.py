"""Workers that accept in the way which `gunicorn_asgi.server` would not choose for them, for accepting.py to compare."""

from __future__ import annotations

from gunicorn_asgi import Worker, balance, server
from gunicorn_asgi.accept import Acceptor, LoopAcceptor


class AcceptorWorker(Worker):
    """Accepts itself, always."""

    def init_process(self) -> None:
        """In the worker process, which is this worker's alone."""
        server.LoopAcceptor = Acceptor
        # Done so many times a second, not for each connection: callgrind, which has a second last fifty times less, would count it too often.
        balance.REFRESH_SECONDS = 60.0
        super().init_process()


class LoopAcceptorWorker(Worker):
    """Leaves it to the loop, always: to asyncio's and beside other workers, too."""

    def init_process(self) -> None:
        """In the worker process, which is this worker's alone."""
        server.Acceptor = LoopAcceptor
        super().init_process()
