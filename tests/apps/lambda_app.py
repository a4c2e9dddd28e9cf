"""An application on AWS Lambda, in plain ASGI: what a test needs is chosen by the path. Also the functions for other events."""

import asyncio
import base64
import json
import os
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qs

from events import note

PART = bytes(65536)
FLOOD_PARTS = 1024
"""64 MiB: more than all buffers between an application and a client hold."""


async def gate(name):
    """Wait until the test has made the file `name` beside that of the events."""
    path = Path(os.environ["TEST_EVENTS"]).with_name(name)
    while not path.exists():
        await asyncio.sleep(0.005)
    # So the loop has seen everything that was there when the gate opened.
    await asyncio.sleep(0.005)


async def read_body(receive):
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def answer(send, content, status=200, content_type=b"application/json"):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def start(send, *headers):
    headers = [(b"content-type", b"text/plain"), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def part(send, data, more=True):
    await send({"type": "http.response.body", "body": data, "more_body": more})


# The ways to answer.


async def echo(scope, receive, send):
    """Tell everything that is known of the request."""
    body = await read_body(receive)
    context = scope["aws.context"]
    await answer(
        send,
        {
            "type": scope["type"],
            "method": scope["method"],
            "path": scope["path"],
            "raw_path": (scope.get("raw_path") or b"").decode(),
            "root_path": scope["root_path"],
            "query_string": scope["query_string"].decode(),
            "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
            "client": scope["client"],
            "server": scope["server"],
            "scheme": scope["scheme"],
            "http_version": scope["http_version"],
            "asgi": scope["asgi"],
            "extensions": sorted(scope.get("extensions", {})),
            "state": scope.get("state"),
            "body": base64.b64encode(body).decode(),
            "event": scope["aws.event"],
            "context": {
                "aws_request_id": context.aws_request_id,
                "invoked_function_arn": context.invoked_function_arn,
                "remaining_ms": context.get_remaining_time_in_millis(),
                "custom": context.client_context and context.client_context.custom,
                "identity": context.identity.cognito_identity_id,
                "tenant_id": context.tenant_id,
                "trace_id": getattr(context, "trace_id", None),
            },
            "trace": os.environ.get("_X_AMZN_TRACE_ID"),
            "pid": os.getpid(),
        },
    )


async def respond(scope, receive, send):
    """Answer as the request's body says."""
    wanted = json.loads(await read_body(receive))
    headers = [(name.encode(), value.encode()) for name, value in wanted.get("headers", [])]
    await send({"type": "http.response.start", "status": wanted["status"], "headers": headers})
    for data in wanted.get("parts", []):
        await part(send, base64.b64decode(data))
    await part(send, b"", more=False)


async def fail(scope, receive, send):
    raise ValueError("the application's own")


async def fail_started(scope, receive, send):
    await start(send)
    raise ValueError("the application's own")


async def fail_later(scope, receive, send):
    await start(send)
    await part(send, b"one")
    await part(send, b"two")
    raise ValueError("the application's own")


class Textless(Exception):
    def __str__(self):
        raise LookupError


async def fail_textless(scope, receive, send):
    await start(send)
    await part(send, b"one")
    raise Textless


async def fail_long(scope, receive, send):
    await start(send)
    await part(send, b"one")
    raise ValueError("\U0001f40d" * 100_000)


async def endless(scope, receive, send):
    """Send parts until the gate is open, whatever happens."""
    await start(send)
    while not Path(os.environ["TEST_EVENTS"]).with_name("endless").exists():
        try:
            await asyncio.sleep(0.01)
            await part(send, b"part")
        except (OSError, asyncio.CancelledError):
            pass


async def five(scope, receive, send):
    """Send five parts, whether they are wanted or not."""
    await start(send)
    for count in range(5):
        await part(send, b"part")
        note("five sent", count)
    await part(send, b"", more=False)


async def parts(scope, receive, send):
    """Three parts; each waits for its gate."""
    await start(send)
    for name in ("one", "two", "three"):
        await gate(name)
        await part(send, name.encode())
    await part(send, b"", more=False)


async def flood(scope, receive, send):
    """Send without end, and note when `send()` waits."""
    await start(send)
    for count in range(FLOOD_PARTS):
        sending = asyncio.ensure_future(part(send, PART))
        if not (await asyncio.wait([sending], timeout=0.5))[0]:
            note("send waits after", count)
        await sending
    await part(send, b"", more=False)
    note("sent all")


async def large(scope, receive, send):
    """Parts that are too large together for a response that is not streamed."""
    await start(send)
    for count in range(200):
        try:
            await part(send, PART)
        except Exception as error:
            note("send raised", type(error).__name__, "after", count)
            raise
    await part(send, b"", more=False)


async def file(scope, receive, send):
    path = parse_qs(scope["query_string"].decode())["path"][0]
    await start(send)
    await send({"type": "http.response.pathsend", "path": path})


async def background(scope, receive, send):
    await answer(send, {"accepted": True}, 202)
    note("background begun")
    await gate("background")
    note("background done")


async def asked_to_end(scope, receive, send):
    """Answer when the client is said to have gone."""
    note("begun")
    await read_body(receive)
    assert (await receive())["type"] == "http.disconnect"
    note("asked to end")
    await answer(send, {})


async def printing(scope, receive, send):
    """Print after the response, and flush nothing."""
    await answer(send, {})
    print("printed by the application")


async def gated(scope, receive, send):
    """Answer when the gate is open."""
    note("begun")
    try:
        await gate("gated")
    except asyncio.CancelledError:
        note("gated cancelled")
        raise
    await answer(send, {"pid": os.getpid(), "trace_id": scope["aws.context"].trace_id})
    note("answered")


async def sleep(scope, receive, send):
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        note("cancelled")
        raise


async def sleep_started(scope, receive, send):
    await start(send)
    await part(send, b"begun")
    await sleep(scope, receive, send)


async def leave(scope, receive, send):
    raise SystemExit(1)


async def stubborn(scope, receive, send):
    """Ignore cancellation until the gate is open."""
    while True:
        try:
            await gate("stubborn")
            return
        except asyncio.CancelledError:
            note("cancelled")


async def disconnected(scope, receive, send):
    """What `receive()` says after the response."""
    await read_body(receive)
    await answer(send, {})
    note("received", (await receive())["type"])


ROUTES = {
    function.__name__: function
    for function in (
        echo,
        respond,
        fail,
        fail_started,
        fail_later,
        fail_textless,
        fail_long,
        endless,
        five,
        parts,
        flood,
        large,
        file,
        background,
        printing,
        asked_to_end,
        gated,
        sleep,
        sleep_started,
        leave,
        stubborn,
        disconnected,
    )
}


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    path = scope["path"].removeprefix(scope["root_path"])
    await ROUTES[path.strip("/").partition("/")[0]](scope, receive, send)


async def lifespan(scope, receive, send):
    await receive()
    note("startup")
    if os.environ.get("TEST_STARTUP") == "fails":
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        return
    if "state" in scope:
        scope["state"]["greeting"] = "hello"
    await send({"type": "lifespan.startup.complete"})
    await receive()
    note("shutdown")
    await send({"type": "lifespan.shutdown.complete"})


# Events that are no request: lambda_event_function.


def on_event(event, context):
    if event == {"raise": True}:
        raise ValueError("the function's own")
    if event == {"exit": True}:
        sys.exit("the function is at its end")
    if event == {"stop": True}:
        raise StopIteration
    is_main = threading.current_thread() is threading.main_thread()
    return {"event": event, "id": context.aws_request_id, "is_main_thread": is_main}


async def on_event_async(event, context):
    if event == {"sleep": True}:
        await sleep(None, None, None)
    if event == {"unserializable": True}:
        return {1, 2}
    if event == {"nan": True}:
        return float("nan")
    if event == {"text": True}:
        return "\u6f22" * 2_000_000
    if event == {"half": True}:
        return "\ud800"
    return on_event(event, context)
