"""The application of deploys.py: a release that takes a while to import. Its answer is the number of the release and the worker's pid."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import apps

FOLDER = Path(os.environ["DEPLOY_FOLDER"])
RELEASE = (FOLDER / "release").read_text()
"""Its number; ``broken`` for one whose import fails."""
time.sleep(float(os.environ["DEPLOY_IMPORT_SECONDS"]))
if RELEASE == "broken":
    raise RuntimeError("this release cannot start")

LEAK = 100 * 1024
"""Bytes that a request for /leak leaves behind."""
EVENT_SECONDS = 0.25
leaked: list[bytes] = []


async def app(scope: apps.Message, receive: apps.Receive, send: apps.Send) -> None:
    if scope["type"] == "lifespan":
        await apps.lifespan(receive, send)
        return
    if scope["path"] == "/events":
        await _stream(receive, send)
        return
    if scope["path"] == "/leak":
        leaked.append(os.urandom(1) * LEAK)
    body = f"{RELEASE} {os.getpid()}".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(receive: apps.Receive, send: apps.Send) -> None:
    """Events until the client has gone, or is said to have, as frameworks do it."""
    events = asyncio.ensure_future(_send_events(send))
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        events.cancel()


async def _send_events(send: apps.Send) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while True:
        await send({"type": "http.response.body", "body": b"data: -\n\n", "more_body": True})
        await asyncio.sleep(EVENT_SECONDS)
