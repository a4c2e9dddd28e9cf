"""The page at ``metrics_bind``: a second server in the loop of the worker, with an application.

So its requests are parsed and limited like all others, and are neither logged nor counted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from gunicorn.config import Config

from ..asgi.scope import Receive, Scope, Send
from ..config.settings import Settings
from ..frozen import replace
from ..observe.log import Log
from ..observe.running_requests import list_requests
from ..server import Server
from .catalog import State
from .exposition import CONTENT_TYPE, Snapshot, make_json, make_text
from .listening import MetricsSocket

PATHS = ("/metrics", "/metrics.json", "/requests")
MAX_CONNECTIONS = 32
"""Connections of the page in one worker. More wait."""
CLOSE_SECONDS = 0.1
"""Time for answers that are on their way when the worker ends."""
PLAIN = b"text/plain; charset=utf-8"


class Page:
    """The page as one worker answers it. Whichever worker is free answers for all."""

    def __init__(
        self,
        server: Server,
        take_snapshot: Callable[[], Snapshot],
        read_state: Callable[[], State],
        log: Log,
    ) -> None:
        """`server` serves the application."""
        self._tasks = server.tasks
        self._take_snapshot = take_snapshot
        self._read_state = read_state
        host = PageHost(server.host.leave)
        settings = page_settings(server.settings)
        self._server = Server(settings, self.answer, host, PageLog(log), None, server.loop)

    def open(self, sock: MetricsSocket) -> None:
        """Accept at `sock`."""
        self._server.acceptors.listen([sock], None)

    def tick(self, interval: float) -> None:
        self._server.tick(interval)

    async def close(self) -> None:
        """Accept no more, and end all connections."""
        await self._server.shut_down(CLOSE_SECONDS, CLOSE_SECONDS)

    async def answer(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """The application of the page."""
        status, kind, text = 200, PLAIN, ""
        headers = [(b"cache-control", b"no-store")]
        if scope["method"] not in ("GET", "HEAD"):
            status, text = 405, "Use GET.\n"
            headers.append((b"allow", b"GET, HEAD"))
        else:
            match scope["path"]:
                case "/metrics":
                    kind, text = CONTENT_TYPE, make_text(self._take_snapshot())
                case "/metrics.json":
                    kind, text = b"application/json", make_json(self._take_snapshot())
                case "/requests":
                    text = self._list_requests()
                case _:
                    status, text = 404, f"There are {', '.join(PATHS)}.\n"
        body = text.encode()
        headers += [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _list_requests(self) -> str:
        lines = list_requests(self._tasks)
        return "\n".join([f"Worker {os.getpid()}, {self._read_state().value}", *lines, ""])


class PageHost:
    """In the place of Gunicorn's worker: the page does not count for ``max_requests``."""

    def __init__(self, leave: Callable[[int], None]) -> None:
        self.nr = 0
        self.max_requests = sys.maxsize
        self.is_being_replaced = False
        self.leave = leave

    def hand_over(self) -> bool:
        return False

    def retire(self) -> None:
        pass


class PageLog:
    """The worker's log, with the name of the option before each line."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def debug(self, message: str, *args: object) -> None:
        self._log.debug("metrics_bind: " + message, *args)

    def info(self, message: str, *args: object) -> None:
        self._log.info("metrics_bind: " + message, *args)

    def warning(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        self._log.warning("metrics_bind: " + message, *args, exc_info=exc_info)

    def error(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        self._log.error("metrics_bind: " + message, *args, exc_info=exc_info)

    def exception(self, message: str, *args: object) -> None:
        self._log.exception("metrics_bind: " + message, *args)


def page_settings(settings: Settings) -> Settings:
    """The settings of the page: the defaults, with some limits that fit it.

    Of the application's `settings` it has what the whole worker has.
    """
    options = {
        "http": settings.http,
        "server_header": settings.server_header,
        "date_header": settings.date_header,
        "proxy_headers": "off",
        "ws": "none",
        "head_timeout": 5.0,
        "write_timeout": 10.0,
        "limit_concurrency": MAX_CONNECTIONS,
    }
    return replace(
        Settings.read(Config(), options, {}),
        asgi_loop=settings.asgi_loop,
        backlog=0,  # where the worker ends, clients that wait go to another one
        forwarded_allow_ips=(),
        # The next request of a client may be answered by any worker: this one may be blocked then.
        keepalive_s=0,
        lame_duck_s=0.0,
        worker_connections=MAX_CONNECTIONS,
    )
