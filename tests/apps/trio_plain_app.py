"""A plain application on trio: a route for each thing the tests want to see. The path names it."""

import inspect
import json
import os
import signal
import subprocess
import threading
import zlib
from functools import partial
from urllib.parse import parse_qs

import trio
import trio_mistakes
import trio_parts
from events import note

parts = trio_parts.Parts(trio.Event, trio.sleep)
released = trio.Event()


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    route = ROUTES[scope["path"]]
    query = parse_qs(scope["query_string"].decode())
    wanted = inspect.signature(route).parameters
    await route(
        scope, receive, send, **{name: each[0] for name, each in query.items() if name in wanted}
    )


async def on_event(event, context):
    """For an event of AWS Lambda that is no request: wait as long as it says, if it is a number."""
    try:
        await trio.sleep(event if isinstance(event, int) else 0)
    except trio.Cancelled:
        note("function cancelled")
        raise
    return {"library": trio_parts.library(), "event": event}


async def lifespan(scope, receive, send):
    assert (await receive())["type"] == "lifespan.startup"
    note("startup in", trio_parts.library())
    async with trio.open_nursery() as nursery:
        jobs, taken_jobs = trio.open_memory_channel(10)
        nursery.start_soon(trio_parts.work, taken_jobs)
        scope["state"].update(greeting="hello", nursery=nursery, jobs=jobs)
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        nursery.cancel_scope.cancel()
    await trio.sleep(0.01)  # it is no longer cancelled
    note("shutdown")
    await send({"type": "lifespan.shutdown.complete"})


async def respond(send, content, status=200):
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json")],
        }
    )
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


async def show(scope, receive, send, a=""):
    await respond(
        send, {"library": trio_parts.library(), "greeting": scope["state"]["greeting"], "a": a}
    )


async def stream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    async for part in parts:
        await send({"type": "http.response.body", "body": part.encode(), "more_body": True})
    await send({"type": "http.response.body"})


async def release(scope, receive, send):
    parts.release()
    await respond(send, "released")


async def endless(scope, receive, send):
    """It sends, and is told of the end by an error, until then."""
    note("begun")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    try:
        while True:
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            await trio.sleep(0.01)
    finally:
        note("closed")


async def listening(scope, receive, send):
    """It listens for the end beside its work, which is then cancelled."""
    async with trio.open_nursery() as nursery:

        async def wait():
            try:
                await trio.sleep_forever()
            finally:
                note("listener closed")

        nursery.start_soon(wait)
        note("listening")
        while (await receive())["type"] != "http.disconnect":
            pass
        nursery.cancel_scope.cancel()


async def upload(scope, receive, send):
    size = crc = count = 0
    more = True
    while more:
        message = await receive()
        size += len(message["body"])
        crc = zlib.crc32(message["body"], crc)
        count += 1
        more = message["more_body"]
        await trio.sleep(0)
    await respond(send, {"size": size, "crc": crc, "parts": count})


async def background(scope, receive, send):
    async def work():
        note("background begun in", trio_parts.library())
        await released.wait()
        note("background done")

    scope["state"]["nursery"].start_soon(work)
    await respond(send, {"accepted": True}, 202)


async def finish(scope, receive, send):
    released.set()
    await respond(send, "finished")


async def job(scope, receive, send, name):
    await scope["state"]["jobs"].send(name)
    await respond(send, name)


async def thread(scope, receive, send):
    trio_parts.value.set("the request's")
    await respond(send, await trio.to_thread.run_sync(trio_parts.in_thread, trio.from_thread))


async def context(scope, receive, send, value):
    before = trio_parts.value.get()
    trio_parts.value.set(value)
    seen = []

    async def child():
        await trio.sleep(0.001)
        seen.append(trio_parts.value.get())
        trio_parts.value.set("the child's")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        nursery.start_soon(child)
    await respond(send, {"before": before, "children": seen, "after": trio_parts.value.get()})


async def fetch(scope, receive, send):
    await respond(send, await trio_parts.fetch(scope, "/json?a=inner"))


async def file(scope, receive, send):
    length = trio.Path(trio_parts.FILE)
    size = (await length.stat()).st_size
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"%d" % size)],
        }
    )
    await send({"type": "http.response.pathsend", "path": trio_parts.FILE})


async def error(scope, receive, send):
    async with trio.open_nursery() as nursery:

        async def fail():
            raise ValueError("the application's own")

        nursery.start_soon(fail)
        nursery.start_soon(trio.sleep_forever)


async def mistake(scope, receive, send, kind):
    await trio_mistakes.make(kind)
    await respond(send, "it went well")


# What trio has beside the server.


async def check_timeouts(scope):
    began = trio.current_time()
    with trio.fail_after(20):
        await trio.sleep(0.01)
    with trio.move_on_after(0.01) as cancelled:
        await trio.sleep_forever()
    assert cancelled.cancelled_caught
    assert trio.current_time() - began >= 0.02
    try:
        with trio.fail_after(0.01):
            await trio.sleep(20)
    except trio.TooSlowError:
        return
    raise AssertionError


async def check_channel(scope):
    sender, receiver = trio.open_memory_channel(0)

    async def send():
        async with sender:
            for number in range(100):
                await sender.send(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        numbers = [number async for number in receiver]
    assert numbers == list(range(100))


async def check_sockets(scope):
    """A server and a client of trio, both in this process."""

    async def echo(stream):
        async for data in stream:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        data, got = os.urandom(3_000_000), b""
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:

            async def send():
                await stream.send_all(data)
                await stream.send_eof()

            nursery.start_soon(send)
            async for part in stream:
                got += part
        assert got == data
        nursery.cancel_scope.cancel()


async def check_request(scope):
    """A request to this server itself, by a socket of trio."""
    async with await trio.open_tcp_stream(*scope["server"]) as stream:
        await stream.send_all(
            b"GET /json?a=socket HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        )
        got = b"".join([part async for part in stream])
    assert got.startswith(b"HTTP/1.1 200 ")
    assert b'"socket"' in got


async def check_threads(scope):
    event, token = trio.Event(), trio.lowlevel.current_trio_token()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.to_thread.run_sync, trio.from_thread.run_sync, event.set))
        await event.wait()
    # A thread that is not trio's.
    event = trio.Event()
    thread = threading.Thread(target=token.run_sync_soon, args=(event.set,))
    thread.start()
    await event.wait()
    event = trio.Event()
    other = threading.Thread(target=partial(trio.from_thread.run_sync, event.set, trio_token=token))
    other.start()
    await event.wait()
    # It waits for an answer of this loop.
    for each in (thread, other):
        await trio.to_thread.run_sync(each.join)


async def check_processes(scope):
    done = await trio.run_process(["cat"], stdin=b"x" * 100_000, capture_stdout=True)
    assert done.stdout == b"x" * 100_000
    async with trio.open_nursery() as nursery:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = await nursery.start(partial(trio.run_process, ["cat"], **pipes))
        for number in range(3):
            await process.stdin.send_all(b"%d" % number)
            assert await process.stdout.receive_some() == b"%d" % number
        await process.stdin.aclose()
        assert await process.wait() == 0
    with trio.move_on_after(0.05) as cancelled:
        await trio.run_process(["sleep", "60"])
    assert cancelled.cancelled_caught


async def check_signals(scope):
    with trio.open_signal_receiver(signal.SIGUSR2) as signals:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGUSR2)
            assert await anext(aiter(signals)) == signal.SIGUSR2


async def check(scope, receive, send, what):
    with trio.fail_after(20):
        await globals()[f"check_{what}"](scope)
    await respond(send, what)


# WebSockets.


async def ws_echo(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    note("disconnected", message["code"], message["reason"])


async def ws_close(scope, receive, send, code, reason=""):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": int(code), "reason": reason})


async def ws_both(scope, receive, send):
    """One task receives, another sends."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    heard, said = trio.open_memory_channel(1)

    async def listen():
        while (message := await receive())["type"] == "websocket.receive":
            await heard.send(message["text"])
        nursery.cancel_scope.cancel()

    async def talk():
        try:
            while True:
                await send({"type": "websocket.send", "text": "tick"})
                with trio.move_on_after(0.005):
                    await send({"type": "websocket.send", "text": f"heard {await said.receive()}"})
        finally:
            note("talk ended")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        nursery.start_soon(talk)


ROUTES = {
    "/json": show,
    "/stream": stream,
    "/release": release,
    "/endless": endless,
    "/listening": listening,
    "/upload": upload,
    "/background": background,
    "/finish": finish,
    "/job": job,
    "/thread": thread,
    "/context": context,
    "/fetch": fetch,
    "/file": file,
    "/error": error,
    "/mistake": mistake,
    "/check": check,
    "/ws/echo": ws_echo,
    "/ws/close": ws_close,
    "/ws/both": ws_both,
}
