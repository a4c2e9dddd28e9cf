"""The ASGI applications that send a file: by the extension, and as Starlette's FileResponse does on a server without it."""

from __future__ import annotations

import os
from pathlib import Path

from apps import Message, Receive, Send, lifespan
from starlette.responses import FileResponse

FOLDER = Path(os.environ.get("BENCH_FILES", "/nowhere"))


def _file(scope: Message) -> str:
    return str(FOLDER / Path(scope["path"]).name)


async def pathsend(scope: Message, receive: Receive, send: Send) -> None:
    """The least that an application does."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    path = _file(scope)
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"content-length", b"%d" % Path(path).stat().st_size),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.pathsend", "path": path})


async def starlette(scope: Message, receive: Receive, send: Send) -> None:
    """Where the server offers pathsend, it is what FileResponse uses."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await FileResponse(_file(scope), media_type="application/octet-stream")(scope, receive, send)
