"""An ASGI application without a framework, to see the worker at work.

curl localhost:8000/                                     a greeting
curl localhost:8000/state                                what lifespan.startup has prepared
curl -N localhost:8000/stream                            ten lines, one every 0.2 s
curl -T README.md localhost:8000/echo                    an upload sent back while it arrives: memory stays flat, however big it is
python -m websockets ws://localhost:8000/echo            what you type, sent back over a WebSocket
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The application: ``gunicorn -k gunicorn_asgi.Worker app:app``."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "http":
        await ROUTES.get(scope["path"], not_found)(scope, receive, send)
    elif scope["type"] == "websocket":
        await WEBSOCKET_ROUTES.get(scope["path"], no_websocket)(scope, receive, send)
    else:
        raise NotImplementedError(scope["type"])


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Runs once in every worker process: the place for a connection pool."""
    await receive()  # lifespan.startup
    # Every request gets a shallow copy of the state: the objects in it are shared.
    scope["state"]["started"] = time.time()
    scope["state"]["served"] = {"requests": 0}
    await send({"type": "lifespan.startup.complete"})
    await receive()  # lifespan.shutdown: no request is running any more
    await send({"type": "lifespan.shutdown.complete"})


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """A response in one piece: it gets its content-length by itself."""
    await respond(send, 200, b"text/plain; charset=utf-8", b"Hello from Gunicorn, over ASGI!\n")


async def state(scope: Scope, receive: Receive, send: Send) -> None:
    """What the lifespan has left for the requests of this process."""
    served = scope["state"]["served"]
    served["requests"] += 1
    report = {
        "pid": os.getpid(),
        "seconds": round(time.time() - scope["state"]["started"], 1),
        **served,
    }
    await respond(send, 200, b"application/json", json.dumps(report).encode() + b"\n")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """The body of the request as that of the response. Each side waits for the other, so no more than a few parts are in memory."""
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/octet-stream")],
        }
    )
    more_body = True
    while more_body:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more_body = message["more_body"]
        await send({"type": "http.response.body", "body": message["body"], "more_body": more_body})


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """A response of unknown length. Once the client is gone, ``send()`` raises an OSError, and the server catches it again."""
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain; charset=utf-8")],
        }
    )
    for number in range(1, 11):
        await send(
            {"type": "http.response.body", "body": b"line %d of 10\n" % number, "more_body": True}
        )
        await asyncio.sleep(0.2)
    await send({"type": "http.response.body"})


async def echo_messages(scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket whose messages come back. When this returns, it is closed with 1000."""
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def no_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """A handshake that is denied like this gets a 403."""
    await receive()
    await send({"type": "websocket.close"})


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Everything else."""
    await respond(send, 404, b"text/plain; charset=utf-8", b"Not Found\n")


async def respond(send: Send, status: int, content_type: bytes, body: bytes) -> None:
    """Send a whole response."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", content_type)],
        }
    )
    await send({"type": "http.response.body", "body": body})


ROUTES = {"/": hello, "/state": state, "/echo": echo, "/stream": stream}
WEBSOCKET_ROUTES = {"/echo": echo_messages}
