"""The ASGI applications that are measured: as little work as possible, so that what is left is the server's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

HELLO = b"Hello, world!"
LARGE = b"0123456789abcdef" * 4096
"""64 KiB."""
PART = b"0123456789abcdef" * 64
"""1 KiB."""
PARTS = 16
EVENT = b'event: price\ndata: {"id": 42, "symbol": "GOOG", "price": 171.25}\n\n'
EVENTS = 100


async def lifespan(receive: Receive, send: Send) -> None:
    """Answers both of its messages."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def _fixed(body: bytes, content_type: bytes) -> Application:
    """An application that answers everything with `body`."""
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


hello = _fixed(HELLO, b"text/plain; charset=utf-8")
large = _fixed(LARGE, b"application/octet-stream")


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Answers with the request's body."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"content-length", b"%d" % len(body)),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def count(scope: Message, receive: Receive, send: Send) -> None:
    """Reads the request's body, and answers with how long it was."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    size = 0
    more = True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"%d" % size
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def streamed(scope: Message, receive: Receive, send: Send) -> None:
    """Answers with PARTS messages of PART, and no ``content-length``."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/octet-stream")],
        }
    )
    for number in range(1, PARTS + 1):
        await send({"type": "http.response.body", "body": PART, "more_body": number < PARTS})


async def events(scope: Message, receive: Receive, send: Send) -> None:
    """Answers with EVENTS messages of EVENT, one in each turn of the event loop, and no ``content-length``."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/event-stream")],
        }
    )
    for number in range(1, EVENTS + 1):
        await send({"type": "http.response.body", "body": EVENT, "more_body": number < EVENTS})
        await asyncio.sleep(0)


async def modules(scope: Message, receive: Receive, send: Send) -> None:
    """Answers with the names of all modules that the server's process has imported, one a line."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": "\n".join(sorted(sys.modules)).encode()})


async def messages(scope: Message, receive: Receive, send: Send) -> None:
    """Answers each message of a WebSocket with the same."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        if text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
