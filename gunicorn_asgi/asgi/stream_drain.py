"""The early end of event streams in a graceful shutdown: ``stream_drain_delay``."""

from __future__ import annotations

from ..errors import RequestError
from ..http.contract import ApplicationTask
from ..observe.running_requests import RunningExchanges
from .http import HTTPStream

CUT = RequestError(503, "The stream has not ended in time", is_logged=True)
"""The response has begun, so its client sees no status: only that the response is incomplete."""


class StreamDrain:
    """Ends the streams of a worker, in two steps.

    First the application gets ``http.disconnect``, and may end its response. An application that
    does not ask for it gets it at its next ``receive()``, perhaps never: Starlette's
    StreamingResponse asks for nothing while it sends. So after ``asgi_disconnect_grace_period``,
    an application that goes on is cancelled, as for a client that has gone.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._told: dict[ApplicationTask, float] = {}
        """The applications that were told, and when."""

    def look(self, running: RunningExchanges, now: float) -> None:
        """End the streams among the `running` exchanges. To be called with each tick."""
        streams = {
            task: stream
            for task, (stream, _) in running.items()
            if isinstance(stream, HTTPStream) and stream.is_endless  # WebSockets have their own
        }
        for task, stream in streams.items():
            if task not in self._told:
                self._told[task] = now
                stream.ask_to_end()
            elif now - self._told[task] >= self._grace_s:
                stream.refuse(CUT)
        self._told = {task: at for task, at in self._told.items() if task in streams}
