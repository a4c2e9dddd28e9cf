"""An application for trio, with a route for each thing that its process has to survive or report.

The first part of the path names the route, and the others are its arguments.
"""

import os
import sys
import time

import trio
from events import note

background = None
"""The nursery of the lifespan."""


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    route, *arguments = scope["path"].strip("/").split("/")
    body = await ROUTES[route or "pid"](*arguments)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"%d" % (body or 0)})


async def lifespan(receive, send):
    global background
    assert (await receive())["type"] == "lifespan.startup"
    note("startup", os.getpid())
    async with trio.open_nursery() as background:
        background.start_soon(keep, name="ledger")
        way = os.environ.get("TEST_STARTUP")
        if way is not None:
            await ROUTES[way]("5")
            await trio.sleep_forever()
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        background.cancel_scope.cancel()
    note("shutdown")
    await send({"type": "lifespan.shutdown.complete"})


async def keep():
    await trio.sleep_forever()


async def fail(error):
    raise error


async def block(seconds):
    await trio.lowlevel.checkpoint()
    note("block begun")
    time.sleep(float(seconds))


# The routes.


async def pid():
    return os.getpid()


async def sleep(seconds):
    note("sleep begun")
    await trio.sleep(float(seconds))


async def shield(seconds):
    note("shield begun")
    with trio.CancelScope(shield=True):
        await trio.sleep(float(seconds))


async def thread(seconds):
    note("thread begun")
    await trio.to_thread.run_sync(time.sleep, float(seconds))


async def deaf(seconds):
    """Goes on however often it is cancelled."""
    note("deaf begun")
    until = trio.current_time() + float(seconds)
    while trio.current_time() < until:
        try:
            await trio.sleep(float(seconds))
        except trio.Cancelled:
            await trio.lowlevel.cancel_shielded_checkpoint()


async def wait(seconds):
    """Waits for a task of its own."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep, seconds, name="errand")


async def block_in_child(seconds):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        nursery.start_soon(block, seconds, name="grinder")


async def block_in_background(seconds):
    background.start_soon(block, seconds, name="grinder")


async def leave(code):
    sys.exit(int(code))


async def interrupt(_code):
    raise KeyboardInterrupt


async def leave_in_child(code):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        nursery.start_soon(fail, SystemExit(int(code)))


async def leave_in_background(code):
    background.start_soon(fail, SystemExit(int(code)))
    await trio.sleep_forever()


async def leave_in_system_task(code):
    trio.lowlevel.spawn_system_task(fail, SystemExit(int(code)))
    await trio.sleep_forever()


async def crash(_code):
    """Raises where trio lets nothing be raised: that ends its run."""
    trio.lowlevel.spawn_system_task(fail, ValueError("out of place"))
    await trio.sleep_forever()


ROUTES = {
    "pid": pid,
    "sleep": sleep,
    "shield": shield,
    "thread": thread,
    "deaf": deaf,
    "wait": wait,
    "block_in_child": block_in_child,
    "block_in_background": block_in_background,
    "leave": leave,
    "interrupt": interrupt,
    "leave_in_child": leave_in_child,
    "leave_in_background": leave_in_background,
    "leave_in_system_task": leave_in_system_task,
    "crash": crash,
}
