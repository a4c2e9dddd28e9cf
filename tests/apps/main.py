"""An application with a route for each thing the tests want to see. The last part of the path names the route."""

import asyncio
import atexit
import contextvars
import inspect
import json
import os
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs

from events import note

var = contextvars.ContextVar("var", default="unset")
# In the module: the application is loaded once per worker, or in the master with preload_app.
note("loaded", os.getpid())
atexit.register(lambda: note("atexit"))


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    route = ROUTES[scope["path"].rpartition("/")[2] or "hello"]
    query = parse_qs(scope["query_string"].decode("latin-1"))
    wanted = inspect.signature(route).parameters
    await route(
        scope,
        receive,
        send,
        **{name: values[0] for name, values in query.items() if name in wanted},
    )


async def lifespan(scope, receive, send):
    assert (await receive())["type"] == "lifespan.startup"
    note("lifespan", json.dumps(scope["asgi"]))
    note("startup", os.getpid())
    scope["state"].update(count=0, shared=[])
    var.set("set in startup")
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    note("shutdown")
    await asyncio.sleep(float(os.environ.get("TEST_SHUTDOWN_SECONDS", "0")))
    note("shut down")
    await send({"type": "lifespan.shutdown.complete"})


async def respond(send, body, status=200, headers=(), more=False):
    if isinstance(body, str):
        body = body.encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"text/plain"), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def hello(scope, receive, send, status="200"):
    await respond(send, "hello\n", int(status), [(b"x-answer", b"42")])


async def pid(scope, receive, send):
    await respond(send, str(os.getpid()))


async def show_scope(scope, receive, send):
    """The scope as JSON: bytes as latin-1."""

    def plain(value):
        if isinstance(value, bytes):
            return value.decode("latin-1")
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        return value

    await respond(send, json.dumps(plain(scope)))


async def read(receive):
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += message["body"]
        if not message["more_body"]:
            return body


async def echo(scope, receive, send):
    await respond(send, await read(receive))


async def duplex(scope, receive, send):
    """Answers each part of the body with itself: the client decides how long it takes."""
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"begun\n", "more_body": True})
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            note("duplex disconnect")
            return
        more = message["more_body"]
        if not more:
            note("duplex end")
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})
        if not more:
            return


async def upload(scope, receive, send):
    """Says when it has begun, and answers when the body is complete."""
    note("upload begun")
    body = await read(receive)
    note("upload read")
    await respond(send, body)


async def listening(scope, receive, send):
    """Streams, and ends when it is told that nobody listens."""
    await respond(send, "begun\n", more=True)
    while (message := await receive())["type"] != "http.disconnect":
        pass
    note(message["type"])
    await send({"type": "http.response.body", "body": b"ended\n"})


async def stuck(scope, receive, send):
    """Streams and never ends by itself, whatever it hears."""
    try:
        await respond(send, "begun\n", more=True)
        while (message := await receive())["type"] != "http.disconnect":
            pass
        note(message["type"])
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        note("cancelled")
        raise


async def deaf(scope, receive, send):
    """Does not even end when it is cancelled."""
    await respond(send, "begun\n", more=True)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            note("cancelled")


async def silent(scope, receive, send):
    """Never answers; ends with its client."""
    note("silent begun")
    await read(receive)
    while (message := await receive())["type"] != "http.disconnect":
        pass
    note("silent", message["type"])


async def slow(scope, receive, send, seconds="1"):
    note("slow begun")
    await asyncio.sleep(float(seconds))
    await respond(send, "slow\n")


async def block(scope, receive, send, seconds="1"):
    """Blocks the loop."""
    note("block begun")
    time.sleep(float(seconds))
    await respond(send, "blocked\n")


async def block_until_file(scope, receive, send):
    """Blocks the loop until there is a file ``go``."""
    note("block begun")
    while not Path("go").exists():
        time.sleep(0.01)
    await respond(send, "blocked\n")


async def error(scope, receive, send):
    raise ValueError("the application's own")


async def late_error(scope, receive, send):
    await respond(send, "begun\n", more=True)
    raise ValueError("the application's own")


async def nothing(scope, receive, send):
    pass


async def large(scope, receive, send, size="1000000", status="200"):
    await respond(send, b"x" * int(size), int(status))


async def chunks(scope, receive, send, status="200"):
    await respond(send, "one,", int(status), more=True)
    await send({"type": "http.response.body", "body": b"two,", "more_body": True})
    await send({"type": "http.response.body", "body": b"three\n"})


async def trickle(scope, receive, send):
    """Many parts, without a pause."""
    await respond(send, b"", more=True)
    for _ in range(60):
        await send({"type": "http.response.body", "body": b"part\n", "more_body": True})
    await send({"type": "http.response.body"})


async def count(scope, receive, send):
    """What is in the state: what one request sets, and what all share."""
    state = scope["state"]
    state["count"] += 1
    state["shared"].append(None)
    state["own"] = True
    seen = [state["count"], len(state["shared"])]
    var_before = var.get()
    var.set("set in a request")
    await respond(send, json.dumps([*seen, var_before]))


async def keys(scope, receive, send):
    await respond(send, json.dumps(sorted(scope.get("state", {"no state": None}))))


async def environ(scope, receive, send, name=""):
    await respond(send, os.environ.get(name, "unset"))


async def callback(scope, receive, send):
    """Something of its own goes wrong on the loop, outside of any request."""

    def fail():
        raise ValueError("in a callback")

    asyncio.get_running_loop().call_soon(fail)
    await respond(send, "called\n")


async def leave(scope, receive, send):
    """Calls sys.exit, as an application should not."""
    sys.exit(7)


async def loop(scope, receive, send):
    kind = type(asyncio.get_running_loop())
    await respond(send, f"{kind.__module__}.{kind.__qualname__}")


ROUTES = {
    function.__name__: function
    for function in (
        block, block_until_file, callback, chunks, count, deaf, duplex, echo, environ, error, hello, keys, large, late_error, leave, listening, loop, nothing, pid, silent,
        slow, stuck, trickle, upload,
    )
}  # fmt: skip
ROUTES["scope"] = show_scope
