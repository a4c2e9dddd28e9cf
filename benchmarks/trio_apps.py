"""Applications for trio that wait many times in a request, each in one way: what one wake-up costs."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import trio
from apps import HELLO, Application, Message, Receive, Send, lifespan

MANY = 100
"""Wake-ups of a request that need no system call of their own."""
FEW = 10
"""Wake-ups of a request that need one."""
TIMER_SECONDS = 0.0002


def _waiting(wait: Callable[[], Awaitable[None]]) -> Application:
    """An application that waits before it answers."""
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(HELLO)),
    ]

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        await wait()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": HELLO})

    return app


async def _turns() -> None:
    for _ in range(MANY):
        await trio.sleep(0)


async def _values() -> None:
    """One task sends, this one receives: each value wakes a task."""
    sending, receiving = trio.open_memory_channel[int](0)

    async def produce() -> None:
        async with sending:
            for number in range(MANY):
                await sending.send(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        async for _ in receiving:
            pass


async def _timers() -> None:
    for _ in range(FEW):
        await trio.sleep(TIMER_SECONDS)


async def _threads() -> None:
    for _ in range(FEW):
        await trio.to_thread.run_sync(int)


async def _sockets() -> None:
    """Each byte that arrives on a socket of trio wakes this task. The next one is sent then."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        for _ in range(FEW):
            theirs.send(b"x")
            await trio.lowlevel.wait_readable(ours)
            ours.recv(1)


turns = _waiting(_turns)
values = _waiting(_values)
timers = _waiting(_timers)
threads = _waiting(_threads)
sockets = _waiting(_sockets)
