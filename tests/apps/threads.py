"""FastAPI with work in threads, as far as it goes on when the worker leaves. The last part of a path says for how many seconds."""

import asyncio
import atexit
import os
import sys
import threading
import time

from events import note
from fastapi import FastAPI

app = FastAPI()
atexit.register(note, "atexit")


def work(seconds):
    note("work begun")
    time.sleep(seconds)
    note("work done")


@app.get("/pid")
async def pid():
    return os.getpid()


@app.get("/endpoint/{seconds}")
def endpoint(seconds: float):
    """In a thread of AnyIO's."""
    work(seconds)


@app.get("/executor/{seconds}")
async def executor(seconds: float):
    """In a thread of the loop's executor; the response does not wait for it."""
    asyncio.get_running_loop().run_in_executor(None, work, seconds)


@app.get("/plain/{seconds}")
async def plain(seconds: float):
    threading.Thread(target=work, args=(seconds,), name="ledger").start()


@app.get("/atexit/{seconds}")
async def at_exit(seconds: float):
    """What never comes back is not a thread, but a handler."""
    atexit.register(work, seconds)


@app.get("/exit/{where}/{code}")
async def leave(where: str, code: int):
    """sys.exit() in the request, in a task of its own, or in a callback of the loop."""
    loop = asyncio.get_running_loop()
    if where == "request":
        sys.exit(code)
    elif where == "callback":
        loop.call_soon(sys.exit, code)
    elif where == "task":

        async def task():
            sys.exit(code)

        app.state.task = loop.create_task(task())
    elif where == "cleanup":

        async def resist():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                sys.exit(code)

        app.state.task = loop.create_task(resist())
