"""The access log: in memory for a server in this process, or in the file of a running Gunicorn."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from gunicorn.config import Config
from gunicorn.glogging import Logger
from process import Gunicorn, poll

from gunicorn_asgi.observe.access_log import Access


class AccessLog:
    """The part of Gunicorn's logger that writes the access log. Keeps each record."""

    error_log = logging.getLogger("accesslog")

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.protocol = ""

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        others = ("REMOTE_PORT", "HTTP_TRANSFER_ENCODING", "SERVER_PROTOCOL")
        given = {key: str(value)[:1000] for key, value in environ.items() if key not in others}
        self.lines.append(
            (
                req.method,
                req.uri,
                req.path,
                req.query,
                resp.status_code,
                resp.sent,
                resp.headers,
                sorted(given.items()),
            )
        )
        self.protocol = req.protocol

    def debug(self, *args: object) -> None:
        pass

    def exception(self, message: str, *args: object) -> None:
        self.lines.append(message)


def make_access(log: AccessLog | Logger, hooks: Mapping[str, Any] | None = None) -> Access:
    cfg = Config()
    for name, hook in (hooks or {}).items():
        cfg.set(name, hook)
    return Access(SimpleNamespace(cfg=cfg, log=log))  # type: ignore[arg-type]  # a worker, as far as it is asked


NAMES = [
    *"hlutrsmUqHbBfaTDMLp",
    "{X-One}i",
    "{x-answer}o",
    "{REMOTE_PORT}e",
    "{Wsgi.Url_Scheme}e",
    "{x-nothing}i",
    "{x-nothing}o",
    "{x-nothing}e",
]
FORMAT = "\x1f".join(f"%({name})s" for name in NAMES)


class Lines:
    """The access log of a server, each line as a dictionary of its atoms."""

    def __init__(self, server: Gunicorn) -> None:
        self.server = server
        self.path = server.directory / "access.log"

    def all(self) -> list[dict[str, str]]:
        rows = [
            line.split("\x1f")
            for line in self.path.read_text("utf-8", "surrogateescape").split("\n")
        ]
        return [dict(zip(NAMES, row, strict=True)) for row in rows if len(row) == len(NAMES)]

    def wait(self, part: str, count: int = 1) -> list[dict[str, str]]:
        """Wait for `count` lines with `part` in the request line."""

        def found() -> list[dict[str, str]]:
            lines = [line for line in self.all() if part in line["r"]]
            return lines if len(lines) >= count else []

        lines = poll(found, f"a line with {part!r} in the access log")
        assert len(lines) == count
        return lines

    def one(self, part: str) -> dict[str, str]:
        return self.wait(part)[0]
