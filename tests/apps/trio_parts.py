"""The part of the applications on trio that is the same with each framework, and without one."""

import contextvars
import ssl
import sys
import threading

import httpx
import sniffio
from events import note

value = contextvars.ContextVar("value", default="none")
"""A request sets it. No other request may see that."""

FILE = __file__


def library():
    """The async library that other libraries take this to run on."""
    try:
        return sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return None


async def library_in_task():
    return library()


def in_thread(from_thread):
    """Called in a thread. `from_thread`: the module of trio, or that of anyio."""
    return {
        "is_main": threading.current_thread() is threading.main_thread(),
        "library": library(),
        "value": value.get(),
        "in_task": from_thread.run(library_in_task),
        "in_loop": from_thread.run_sync(library),
    }


async def fetch(scope, path):
    """Ask this server itself, with a client that runs on asyncio and on trio."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = scope["server"]
    async with httpx.AsyncClient(verify=context, trust_env=False, timeout=20) as client:
        response = await client.get(f"{scope['scheme']}://{host}:{port}{path}")
    return response.json()


async def work(jobs):
    """A task that lives as long as the worker, or its nursery."""
    note("work begun in", library())
    try:
        async for job in jobs:
            note("work on", job, "in", library())
    finally:
        note("work ended", "with an error" if sys.exc_info()[0] else "in order")


class Parts:
    """A stream of three parts. Each but the first waits until `release` is called."""

    def __init__(self, make_event, sleep):
        self.make_event, self.sleep = make_event, sleep
        self.gates = [make_event(), make_event()]

    def release(self):
        for gate in self.gates:
            if not gate.is_set():
                gate.set()
                return

    async def __aiter__(self):
        self.gates = [self.make_event(), self.make_event()]
        yield "part 0\n"
        for number, gate in enumerate(self.gates, 1):
            await self.sleep(0.001)
            await gate.wait()
            yield f"part {number}\n"
