"""The health check: a request that the server answers in place of the application."""

from __future__ import annotations

from .exchange import ExchangeHost
from .http import HTTPStream
from .scope import Receive, Scope, Send

HEADERS = (
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"cache-control", b"no-store"),
)


class HealthCheck(HTTPStream):
    """A request of ``health_path``, told from others where it starts later than it is read."""

    __slots__ = ()

    is_health_check = True


async def answer_health_check(
    host: ExchangeHost, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer for `host`, as an application does. It never waits: a task ends in its first step."""
    status, body = (503, b"going away\n") if host.is_out_of_service else (200, b"ok\n")
    await send({"type": "http.response.start", "status": status, "headers": HEADERS})
    await send({"type": "http.response.body", "body": body})
