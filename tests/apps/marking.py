"""An application behind a proxy that marks each request: it records what it sees, and answers with the client's mark.

The path of a request begins with a route: `read` reads the body first, `early` answers without it.
Where a response may have no body, it sends one that looks like a response.
"""

import asyncio
import json
from urllib.parse import parse_qs

RECORDS = []


def values(scope, name):
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/records":
        await respond(send, 200, [], json.dumps(RECORDS).encode())
        return
    query = scope["query_string"].decode("latin-1")
    record = {
        "client": scope["client"],
        "method": scope["method"],
        "target": scope["raw_path"].decode("latin-1") + (f"?{query}" if query else ""),
        "version": scope["http_version"],
        "proxy_ids": values(scope, b"x-proxy-id"),
        "proxy_targets": values(scope, b"x-proxy-target"),
        "marks": values(scope, b"x-mark"),
        "body": "",
    }
    RECORDS.append(record)
    if not scope["path"].startswith("/early"):
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            record["body"] += message.get("body", b"").decode("latin-1")
            more = message.get("more_body", False)
    status = int(parse_qs(query).get("status", ["200"])[0])
    marks = ",".join(record["marks"]).encode("latin-1")
    if status in (204, 304) or scope["method"] == "HEAD":
        await respond_without_body(send, status, marks)
    else:
        await respond(send, status, [(b"x-mark", marks)], b"[%b]" % marks)


async def respond(send, status, headers, body):
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def respond_without_body(send, status, marks):
    """The body comes late: the proxy may have given the connection to another client by then."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"x-mark", marks)]})
    await send({"type": "http.response.body", "body": b"", "more_body": True})
    await asyncio.sleep(0.002)
    fake = b"HTTP/1.1 200 OK\r\nX-Mark: %b\r\nContent-Length: 6\r\n\r\n[fake]" % marks
    await send({"type": "http.response.body", "body": fake})
