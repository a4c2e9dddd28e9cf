"""The application of long_run.py: a route for each kind of traffic, and one that tells what the worker's process holds."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from pathlib import Path

import apps

PARTS = 10
PAUSE_SECONDS = 0.01


async def app(scope: apps.Message, receive: apps.Receive, send: apps.Send) -> None:
    """The last part of the path names the route."""
    if scope["type"] == "websocket":
        await _echo(scope, receive, send)
    elif scope["type"] == "lifespan" or scope["path"] == "/":
        await apps.hello(scope, receive, send)
    elif scope["path"] == "/count":
        await apps.count(scope, receive, send)
    elif scope["path"] == "/stream":
        await _stream(send)
    elif scope["path"] == "/diagnosis":
        await _answer(send, json.dumps(_diagnosis()).encode())
    else:
        raise ValueError("an error of the application")


async def _echo(scope: apps.Message, receive: apps.Receive, send: apps.Send) -> None:
    await receive()
    if scope["path"] == "/denied":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": message["text"]})


async def _stream(send: apps.Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(1, PARTS + 1):
        await asyncio.sleep(PAUSE_SECONDS)
        await send({"type": "http.response.body", "body": apps.PART, "more_body": number < PARTS})


async def _answer(send: apps.Send, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _diagnosis() -> dict[str, int]:
    """What the process holds, without garbage."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "pid": os.getpid(),
        "objects": len(gc.get_objects()),
        "tasks": len(asyncio.all_tasks()),
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "memory": pages * os.sysconf("SC_PAGESIZE"),
    }
