"""WebSockets: a route for each thing the tests want to see. The last part of the path names the route. Everything else is `main`'s."""

import asyncio
import inspect
import json
import os
import time
from urllib.parse import parse_qs

import main
from events import note


async def app(scope, receive, send):
    if scope["type"] != "websocket":
        await main.app(scope, receive, send)
        return
    assert await receive() == {"type": "websocket.connect"}
    note("connect", scope["path"])
    route = ROUTES[scope["path"].rpartition("/")[2]]
    query = parse_qs(scope["query_string"].decode("latin-1"))
    wanted = inspect.signature(route).parameters
    await route(
        scope,
        receive,
        send,
        **{name: values[0] for name, values in query.items() if name in wanted},
    )


async def accept(send, **more):
    await send({"type": "websocket.accept", **more})


async def serve(receive, send):
    """Send every message back, until the end."""
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    note(f"disconnect {message['code']} {message['reason']}".rstrip())


async def echo(scope, receive, send):
    await accept(send)
    await serve(receive, send)


async def swallow(scope, receive, send):
    """Reads every message, and answers none."""
    await accept(send)
    while (await receive())["type"] == "websocket.receive":
        pass


async def tidy(scope, receive, send, seconds="0.3"):
    """As applications do that have something to write down at the end."""
    await accept(send)
    await serve(receive, send)
    await asyncio.sleep(float(seconds))
    note("tidied")


async def pid(scope, receive, send):
    """Says which worker it is, then echoes."""
    await accept(send)
    await send({"type": "websocket.send", "text": str(os.getpid())})
    await serve(receive, send)


async def show_scope(scope, receive, send):
    await accept(send)
    shown = {
        name: scope[name]
        for name in (
            "type",
            "scheme",
            "path",
            "http_version",
            "client",
            "server",
            "root_path",
            "subprotocols",
        )
    }
    await send({"type": "websocket.send", "text": json.dumps(shown)})
    await serve(receive, send)


async def send(scope, receive, send, size="1", count="1"):
    """Sends so many messages of so many bytes, then echoes."""
    await accept(send)
    for _ in range(int(count)):
        await send({"type": "websocket.send", "bytes": bytes(int(size))})
    await serve(receive, send)


# Endings.


async def close(scope, receive, send, code="1000", reason=""):
    await accept(send)
    await send({"type": "websocket.close", "code": int(code), "reason": reason})
    await serve(receive, send)


async def done(scope, receive, send):
    """Returns at once."""
    await accept(send)


async def late_error(scope, receive, send):
    await accept(send)
    raise ValueError("the application's own")


async def leave(scope, receive, send):
    """Calls sys.exit, as an application should not."""
    await accept(send)
    raise SystemExit(7)


# Without accepting.


async def reject(scope, receive, send):
    await send({"type": "websocket.close"})


async def deny(scope, receive, send, status="401"):
    headers = [(b"content-type", b"text/plain"), (b"x-answer", b"42")]
    await send({"type": "websocket.http.response.start", "status": int(status), "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"who are", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b" you?\n"})


async def error(scope, receive, send):
    raise ValueError("the application's own")


async def nothing(scope, receive, send):
    pass


async def silent(scope, receive, send):
    """Does not answer the handshake."""
    note("silent begun")
    await serve(receive, send)


# Those that do not want to end.


async def stubborn(scope, receive, send):
    """Does not end when it hears that it should."""
    await accept(send)
    try:
        await serve(receive, send)
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        note("cancelled")
        raise


async def ignorant(scope, receive, send):
    """Hears nothing."""
    await accept(send)
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        note("cancelled")
        raise


async def deaf(scope, receive, send):
    """Does not even end when it is cancelled."""
    await accept(send)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            note("cancelled")


async def chatter(scope, receive, send):
    """Sends until that is no longer possible."""
    await accept(send)
    try:
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            await asyncio.sleep(0.01)
    except OSError as error:
        note("OSError", type(error).__name__)
    await serve(receive, send)


async def block(scope, receive, send):
    """Blocks the loop at the first message."""
    await accept(send)
    await receive()
    note("block begun")
    time.sleep(3600)


ROUTES = {
    function.__name__: function
    for function in (
        block, chatter, close, deaf, deny, done, echo, error, ignorant, late_error, leave, nothing, pid, reject, send, silent, stubborn, swallow,
        tidy,
    )
}  # fmt: skip
ROUTES["scope"] = show_scope
