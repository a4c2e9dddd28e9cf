"""The applications of lambda_cold_start.py. They import what any application for asyncio has, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

HELLO = b"Hello, world!"
SLOW_SECONDS = 1.0


def _after(seconds: float) -> Application:
    """An application that answers after `seconds`."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(HELLO))]

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        if seconds:
            await asyncio.sleep(seconds)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": HELLO})

    return app


plain = _after(0)
slow = _after(SLOW_SECONDS)
