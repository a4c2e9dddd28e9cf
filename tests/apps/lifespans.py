"""An application whose lifespan does what TEST_LIFESPAN says. Requests are those of `main`."""

import asyncio
import os
import sys
from pathlib import Path

import main
from events import note


async def app(scope, receive, send):
    if scope["type"] != "lifespan":
        await main.app(scope, receive, send)
        return
    note("called")
    await LIFESPANS[os.environ["TEST_LIFESPAN"]](scope, receive, send)


async def raises_at_once(scope, receive, send):
    raise NotImplementedError("no lifespan here")


async def raises_in_startup(scope, receive, send):
    await receive()
    raise ConnectionError("no database")


async def returns(scope, receive, send):
    return


async def fails(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "the database is down"})


async def fails_if_flagged(scope, receive, send):
    await receive()
    if Path(os.environ["TEST_FLAG"]).exists():
        await send({"type": "lifespan.startup.failed", "message": "the database is down"})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def is_slow(scope, receive, send):
    await receive()
    await asyncio.sleep(3)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def never_starts(scope, receive, send):
    await receive()
    note("starting")
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        note("cancelled")
        raise


async def fails_to_shut_down(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.failed", "message": "could not say goodbye"})


async def never_shuts_down(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    note("shutdown")
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        note("shutdown cancelled")
        raise


async def exits_in_a_task(scope, receive, send):
    await receive()

    async def leave():
        sys.exit(1)

    await asyncio.create_task(leave())


async def exits_in_a_callback(scope, receive, send):
    await receive()
    asyncio.get_running_loop().call_soon(sys.exit, 1)
    await asyncio.sleep(3600)


LIFESPANS = {
    function.__name__: function
    for function in (
        exits_in_a_callback, exits_in_a_task, fails, fails_if_flagged, fails_to_shut_down, is_slow, never_shuts_down, never_starts, raises_at_once, raises_in_startup, returns,
    )
}  # fmt: skip
