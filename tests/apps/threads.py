"""An application with work in threads, as far as it goes on when the worker ends.

The first part of the path names the way, the last part the seconds of work. There is no framework,
since each worker would import it: a test starts up to seven.
"""

import asyncio
import atexit
import os
import sys
import threading
import time

import anyio.to_thread
from events import note

atexit.register(note, "atexit")
tasks = set()


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for event in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{event}"
            await send({"type": f"lifespan.{event}.complete"})
        return
    way, *arguments = scope["path"].strip("/").split("/")
    body = await WAYS[way](*arguments)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"%d" % (body or 0)})


def work(seconds):
    note("work begun")
    time.sleep(float(seconds))
    note("work done")


async def pid():
    return os.getpid()


async def endpoint(seconds):
    """In a thread of AnyIO's, as Starlette and FastAPI run endpoints that are no coroutines."""
    await anyio.to_thread.run_sync(work, seconds)


async def executor(seconds):
    """In a thread of the loop's executor. The response does not wait for it."""
    asyncio.get_running_loop().run_in_executor(None, work, seconds)


async def plain(seconds):
    threading.Thread(target=work, args=(seconds,), name="ledger").start()


async def at_exit(seconds):
    """A handler, which is no thread, does not come back."""
    atexit.register(work, seconds)


async def leave(where, code):
    """Call sys.exit() in the request, in a task of its own, or in a callback of the loop."""
    loop = asyncio.get_running_loop()
    if where == "request":
        sys.exit(int(code))
    elif where == "callback":
        loop.call_soon(sys.exit, int(code))
    elif where == "task":

        async def task():
            sys.exit(int(code))

        tasks.add(loop.create_task(task()))
    elif where == "cleanup":

        async def resist():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                sys.exit(int(code))

        tasks.add(loop.create_task(resist()))


WAYS = {
    "pid": pid,
    "endpoint": endpoint,
    "executor": executor,
    "plain": plain,
    "atexit": at_exit,
    "exit": leave,
}
