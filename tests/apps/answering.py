"""What the clients of load.py ask: the answer is the worker's pid and the request's body, complete or streamed, at once or after a while."""

import asyncio
import os
from urllib.parse import parse_qs


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    query = parse_qs(scope["query_string"].decode("latin-1"))
    seconds = float(query.get("seconds", ["0"])[0])
    body = b"%d " % os.getpid() + await read(receive)
    headers = [(b"content-type", b"text/plain")]
    if scope["path"] != "/streamed":
        headers.append((b"content-length", b"%d" % len(body)))
        if seconds:
            await asyncio.sleep(seconds)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body[:2], "more_body": True})
    await asyncio.sleep(seconds)
    await send({"type": "http.response.body", "body": body[2:]})


async def read(receive):
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += message["body"]
        if not message.get("more_body", False):
            return body


async def lifespan(receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
