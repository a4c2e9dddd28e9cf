"""Releases of an application, for tests of deploys: their import waits until the test has opened the gate.

TEST_GATE is a directory. The file ``release`` has what is imported: a number, or ``broken``. The gate is the file ``gate``. With
TEST_GATE_AT=startup it is the lifespan that waits, for an application that the master imports. ``/release`` answers the release and the
worker's pid, ``/grow`` the same after a larger resident set, ``/hold`` the same once the file ``finish`` is there, ``/healthz`` is noted, and
everything else is what load.py asks.
"""

import asyncio
import os
import time
from pathlib import Path

import answering
from events import note

DIRECTORY = Path(os.environ["TEST_GATE"])
GATE = DIRECTORY / "gate"
AT_STARTUP = os.environ.get("TEST_GATE_AT") == "startup"
SECONDS = 120.0
"""That a test may keep the gate closed: no process outlives a test that has failed."""
GROWTH = 128 * 2**20
"""Bytes."""
release = (DIRECTORY / "release").read_text()
grown = []


def waiting():
    """Note that something waits for the gate, and pause until it is open."""
    note("waiting", release)
    deadline = time.monotonic() + SECONDS
    while not GATE.exists():
        assert time.monotonic() < deadline
        yield 0.01


if not AT_STARTUP:
    for pause in waiting():
        time.sleep(pause)
    if release == "broken":
        raise RuntimeError("this release cannot start")


async def app(scope, receive, send):
    if scope["type"] == "lifespan" and AT_STARTUP:
        for pause in waiting():
            await asyncio.sleep(pause)
    elif scope["type"] == "http" and scope["path"] == "/healthz":
        note("healthz")
    elif scope["type"] == "http" and scope["path"] in {"/release", "/grow", "/hold"}:
        if scope["path"] == "/hold":
            note("holding")
            while not (DIRECTORY / "finish").exists():
                await asyncio.sleep(0.01)
        if scope["path"] == "/grow" and not grown:
            grown.append(b"x" * GROWTH)
        await respond(send, f"{release} {os.getpid()}")
        return
    await answering.app(scope, receive, send)


async def respond(send, text):
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
