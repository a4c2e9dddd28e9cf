"""Work that is continued in later turns of the loop (`net.work_queue`)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gunicorn_asgi.net import work_queue
from gunicorn_asgi.net.work_queue import WorkQueue


def _steps(order: list[str], name: str, count: int) -> work_queue.Step:
    def step() -> bool:
        order.append(name)
        return order.count(name) < count

    return step


def test_a_step_is_called_until_it_has_nothing_more_to_do() -> None:
    async def main() -> list[str]:
        order: list[str] = []
        queue = WorkQueue(asyncio.get_running_loop())
        queue.add(_steps(order, "a", 3))
        assert order == []
        while len(queue):
            await asyncio.sleep(0)
        return order

    assert asyncio.run(main()) == ["a", "a", "a"]


def test_one_step_of_each_is_called_in_turn() -> None:
    async def main() -> list[str]:
        order: list[str] = []
        queue = WorkQueue(asyncio.get_running_loop())
        queue.add(_steps(order, "a", 3))
        queue.add(_steps(order, "b", 1))
        queue.add(_steps(order, "c", 2))
        while len(queue):
            await asyncio.sleep(0)
        return order

    assert asyncio.run(main()) == ["a", "b", "c", "a", "c", "a"]


def test_many_steps_do_not_keep_the_loop_from_others() -> None:
    async def main() -> int:
        queue = WorkQueue(asyncio.get_running_loop())
        order: list[str] = []

        def step() -> bool:
            time.sleep(work_queue.TURN_SECONDS)  # the time of a whole turn
            order.append("step")
            return False

        for _ in range(10):
            queue.add(step)
        turns = 0
        while len(queue):
            await asyncio.sleep(0)
            turns += 1
        assert order == ["step"] * 10
        return turns

    assert asyncio.run(main()) >= 10


def test_a_step_that_raises_loses_no_other() -> None:
    async def main() -> tuple[list[str], list[Any]]:
        loop = asyncio.get_running_loop()
        logged: list[Any] = []
        loop.set_exception_handler(lambda _, context: logged.append(context["exception"]))
        order: list[str] = []
        queue = WorkQueue(loop)

        def faulty() -> bool:
            raise ValueError("a fault of the program")

        queue.add(faulty)
        queue.add(_steps(order, "a", 2))
        while len(queue):
            await asyncio.sleep(0)
        return order, logged

    order, logged = asyncio.run(main())
    assert order == ["a", "a"]
    assert [type(error) for error in logged] == [ValueError]
