"""An ASGI application for AWS Lambda, without a framework. See docs/lambda.md.

/          the request as the application sees it, and whose turn it is in this environment
/stream    five lines, one every 0.5 s: they arrive one by one where the function streams its responses
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The application: ``gunicorn -k gunicorn_asgi.LambdaWorker app:app``."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["path"].endswith("/stream"):
        await stream(send)
    else:
        await show(scope, send)


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Runs once in the life of an environment: the place for a client of a database."""
    await receive()  # lifespan.startup
    scope["state"]["served"] = {"requests": 0}
    await send({"type": "lifespan.startup.complete"})
    await receive()  # lifespan.shutdown, where Lambda sends TERM
    await send({"type": "lifespan.shutdown.complete"})


async def show(scope: Scope, send: Send) -> None:
    """Answer with parts of the scope. Outside of Lambda, there is no context."""
    served = scope["state"]["served"]
    served["requests"] += 1
    context = scope.get("aws.context")
    client = scope["client"]
    report = {
        "method": scope["method"],
        "path": scope["path"],
        "root_path": scope["root_path"],
        "client": client[0] if client else None,
        "request_id": context.aws_request_id if context else None,
        **served,
    }
    await begin(send, b"application/json")
    await send({"type": "http.response.body", "body": json.dumps(report).encode() + b"\n"})


async def stream(send: Send) -> None:
    """Send a response in parts."""
    await begin(send, b"text/plain; charset=utf-8")
    for number in range(1, 6):
        part = b"line %d of 5\n" % number
        await send({"type": "http.response.body", "body": part, "more_body": True})
        await asyncio.sleep(0.5)
    await send({"type": "http.response.body"})


async def begin(send: Send, content_type: bytes) -> None:
    """Send the head of a response with status 200."""
    headers = [(b"content-type", content_type)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
