"""What belongs to asyncio, and is awaited in a task of trio by mistake."""

import asyncio


async def nothing():
    pass


async def enter(manager):
    async with manager:
        pass


MISTAKES = {
    "sleep": lambda: asyncio.sleep(0.01),
    "sleep 0": lambda: asyncio.sleep(0),
    "event": lambda: asyncio.Event().wait(),
    "task": lambda: asyncio.get_running_loop().create_task(nothing()),
    "thread": lambda: asyncio.to_thread(int),
    "connection": lambda: asyncio.open_connection("127.0.0.1", 9),
    "future": lambda: asyncio.wait_for(asyncio.get_running_loop().create_future(), 20),
    **(
        {"group": lambda: enter(asyncio.TaskGroup()), "timeout": lambda: enter(asyncio.timeout(20))}
        if hasattr(asyncio, "TaskGroup")
        else {}
    ),
}


async def make(mistake):
    await MISTAKES[mistake]()
