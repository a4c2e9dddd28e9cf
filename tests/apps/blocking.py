"""An application that blocks the loop. The last part of the path names the way in which it does."""

import asyncio
import ctypes
import hashlib
import inspect
import itertools
import logging
import os
import re
import threading
import time

from events import note

BACKTRACKING = re.compile("(a*)*b")


def block(phase):
    time.sleep(float(os.environ.get(f"TEST_BLOCK_{phase}", "0")))


block("IMPORT")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        block("STARTUP")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        block("SHUTDOWN")
        await send({"type": "lifespan.shutdown.complete"})
        return
    way = WAYS[scope["path"].rpartition("/")[2]]
    note(way.__name__, "begun")
    answer = await way() if inspect.iscoroutinefunction(way) else way()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(answer).encode()})
    if way is answered:
        await asyncio.sleep(3600)


async def wait():
    """Beside a task of its own, in a coroutine that another one awaits."""

    async def keep():
        await asyncio.sleep(3600)

    async def inner():
        await asyncio.create_task(keep(), name="ledger")

    await inner()


async def answered():
    """Goes on behind its answer."""


def threads():
    return [thread.name for thread in threading.enumerate()]


def awhile():
    block("AWHILE")


def held():
    """As `awhile`, and holds the GIL."""
    ctypes.PyDLL(None).usleep(int(float(os.environ["TEST_BLOCK_AWHILE"]) * 1e6))


# What never ends.


def sleep():
    time.sleep(3600)


def python():
    while True:
        pass


def lock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def regex():
    """Holds the GIL, and asks for signals. No line of the standard library is between this one and the C code."""
    BACKTRACKING.match("a" * 100)


def digest():
    """Releases the GIL, and does not return."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def c_code():
    """Holds the GIL, and does not return."""
    sum(itertools.repeat(0))


async def child():
    """Leaves it to a task of its own."""

    async def work():
        sleep()

    await asyncio.create_task(work(), name="work")


def with_thread():
    """Leaves a thread behind that does not end either."""
    threading.Thread(target=sleep, name="behind").start()
    sleep()


def log():
    """Never gets done with a line of the log."""

    class Stuck(logging.Handler):
        def emit(self, record):
            sleep()

    logger = logging.getLogger("gunicorn.error")
    logger.handlers.insert(0, Stuck())
    logger.error("stuck")


WAYS = {
    way.__name__: way
    for way in (
        answered,
        awhile,
        c_code,
        child,
        digest,
        held,
        lock,
        log,
        python,
        regex,
        sleep,
        threads,
        wait,
        with_thread,
    )
}
