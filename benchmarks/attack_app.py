"""The application that is attacked: it does as little as possible, so that what is left is the server's."""

from __future__ import annotations

import asyncio

import apps

SLOW_SECONDS = 120.0
PART = bytes(65536)
PARTS = 1024
"""64 MiB together."""


async def app(scope: apps.Message, receive: apps.Receive, send: apps.Send) -> None:
    """Answers ``/`` at once, ``/slow`` late, ``/large`` with much, and ``/count`` when it has read the body."""
    if scope["type"] == "websocket":
        await _listen(receive, send)
    elif scope["type"] == "lifespan" or scope["path"] == "/":
        await apps.hello(scope, receive, send)
    elif scope["path"] == "/count":
        await apps.count(scope, receive, send)
    elif scope["path"] == "/large":
        await _large(send)
    else:
        await asyncio.sleep(SLOW_SECONDS)
        await apps.hello(scope, receive, send)


async def _listen(receive: apps.Receive, send: apps.Send) -> None:
    """Reads all messages of a WebSocket, and answers none."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def _large(send: apps.Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(1, PARTS + 1):
        await send({"type": "http.response.body", "body": PART, "more_body": number < PARTS})
