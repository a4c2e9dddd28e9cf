"""Calls of tasks, read from their frames: `gunicorn_asgi.observe.stacks`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from gunicorn_asgi.observe.stacks import name_calls, read_awaits

never: list[asyncio.Event] = []
"""The event that the innermost call waits for."""


async def inner() -> None:
    await never[0].wait()


async def in_coroutines() -> None:
    await inner()


@asynccontextmanager
async def context() -> AsyncIterator[None]:
    await inner()
    yield


async def in_a_context_manager() -> None:
    async with context():
        pass


async def steps() -> AsyncIterator[int]:
    yield 1
    await inner()


async def in_a_loop() -> None:
    async for _ in steps():
        pass


async def closes_slowly() -> AsyncIterator[int]:
    try:
        yield 1
    finally:
        await inner()


async def in_a_close() -> None:
    async with aclosing(closes_slowly()) as generator:  # type: ignore[type-var]
        async for _ in generator:
            break


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (in_coroutines, ["in_coroutines", "inner", "wait"]),
        (in_a_context_manager, ["in_a_context_manager", "__aenter__", "context", "inner", "wait"]),
        (in_a_loop, ["in_a_loop", "steps", "inner", "wait"]),
        (in_a_close, ["in_a_close", "__aexit__", "closes_slowly", "inner", "wait"]),
    ],
)
def test_the_calls_of_a_task_are_read_to_the_innermost(
    function: Callable[[], Awaitable[None]], names: list[str]
) -> None:
    async def main() -> list[str]:
        never[:] = [asyncio.Event()]
        task = asyncio.ensure_future(function())
        await asyncio.sleep(0)
        calls = read_awaits(task)
        never[0].set()
        await task
        assert read_awaits(task) == []
        return [frame.f_code.co_name for frame, _ in calls]

    assert asyncio.run(main()) == names


def test_no_calls_are_the_end() -> None:
    assert read_awaits(None) == []
    assert name_calls([]) == "at its end"
