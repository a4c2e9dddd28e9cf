"""``receive()`` and ``send()`` in tasks of trio (`gunicorn_asgi.asgi.trio_bridge`): their waits, and each order of a wake-up and a cancellation.

trio runs by itself here, and a loop of asyncio takes a turn where a test says so. So each order can be made.
"""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gunicorn_asgi.asgi.exchange import Waiters, wait, wake
from gunicorn_asgi.asgi.trio_bridge import Bridge


class Room:
    """A loop of asyncio, a bridge, and a queue with a ``receive()`` as a stream has it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.scheduled = 0
        self.has_ended = False
        self.bridge = Bridge(self.schedule)
        self.messages: deque[str] = deque()
        self.waiters: Waiters = []
        self.received: list[str] = []
        self.complaints: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))

    def schedule(self) -> bool:
        self.scheduled += 1
        return not self.has_ended

    def turn(self) -> None:
        """Let asyncio call what is ready."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def put(self, message: str) -> None:
        self.messages.append(message)
        wake(self.waiters)

    async def receive(self) -> str:
        while not self.messages:
            await wait(self.waiters, self.loop)
        return self.messages.popleft()

    async def call_receive(self, scope: trio.CancelScope) -> None:
        """An application: receives one message, unless `scope` is cancelled."""
        with scope:
            self.received.append(await self.bridge.receive(self.receive))

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        trio.run(main)


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    yield room
    room.turn()
    room.loop.close()
    assert not room.complaints
    assert not room.waiters, "a wait was left"


async def value(room: Room) -> None:
    room.put("ready")
    assert await room.bridge.receive(room.receive) == "ready"


def test_what_is_ready_is_returned_without_a_wait(room: Room) -> None:
    room.run(lambda: value(room))
    assert not room.scheduled


def test_arguments_and_errors_pass_through(room: Room) -> None:
    error = ValueError("of send")

    async def send(message: str) -> None:
        raise error

    async def main() -> None:
        with pytest.raises(ValueError, match="of send") as raised:
            await room.bridge.send(send, "message")
        assert raised.value is error

    room.run(main)


def test_a_wait_ends_with_the_future_and_takes_its_result(room: Room) -> None:
    futures: list[asyncio.Future[str]] = [room.loop.create_future() for _ in range(3)]

    async def gather() -> list[str]:
        return [await future for future in futures]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            for number, future in enumerate(futures):
                await wait_all_tasks_blocked()
                future.set_result(str(number))
                room.turn()

    async def call() -> None:
        assert await room.bridge.send(gather) == ["0", "1", "2"]

    room.run(main)
    assert room.scheduled == 3


def test_a_failed_future_raises_its_error(room: Room) -> None:
    future: asyncio.Future[None] = room.loop.create_future()

    async def receive() -> None:
        await future

    async def call() -> None:
        with pytest.raises(OSError, match="of the future"):
            await room.bridge.send(receive)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await wait_all_tasks_blocked()
            future.set_exception(OSError("of the future"))
            room.turn()

    room.run(main)


# The orders of a wake-up and a cancellation.

Step = Callable[[Room, trio.CancelScope], None]


def put(room: Room, scope: trio.CancelScope) -> None:
    room.put("message")


def cancel(room: Room, scope: trio.CancelScope) -> None:
    scope.cancel()


def turn(room: Room, scope: trio.CancelScope) -> None:
    room.turn()


@pytest.mark.parametrize(
    ("steps", "is_received"),
    [
        ((put, turn), True),
        # The future is done, and its callback waits for a turn of asyncio, or for one of trio.
        ((put, cancel, turn), True),
        ((put, cancel, cancel, turn, turn), True),
        ((put, turn, cancel, turn), True),
        ((put, put, cancel, turn), True),
        # The future is cancelled before the message arrives.
        ((cancel, put, turn), False),
        ((cancel, turn, put, turn), False),
        ((cancel, turn), None),
    ],
    ids=lambda steps: (
        ", ".join(step.__name__ for step in steps) if isinstance(steps, tuple) else str(steps)
    ),
)
def test_no_order_of_message_and_cancellation_loses_a_message_or_wakes_twice(
    room: Room, steps: tuple[Step, ...], is_received: bool | None
) -> None:
    """trio would end its whole run if a task were woken twice."""

    async def main() -> None:
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.call_receive, scope)
            await wait_all_tasks_blocked()
            for step in steps:
                step(room, scope)
        assert bool(room.received) is bool(is_received)
        assert scope.cancelled_caught is not bool(is_received)
        # Nothing is lost: what was not returned comes with the next call.
        while room.messages:
            room.received.append(await room.bridge.receive(room.receive))

    room.run(main)
    assert room.received == ["message"] * steps.count(put)


def test_a_wake_up_without_a_message_leaves_the_cancellation_to_the_next_wait(room: Room) -> None:
    async def main() -> None:
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.call_receive, scope)
            await wait_all_tasks_blocked()
            wake(room.waiters)  # in vain: another task has taken it
            scope.cancel()
            room.turn()
        assert scope.cancelled_caught

    room.run(main)
    assert not room.received


def test_one_of_two_that_wait_is_cancelled_and_the_other_receives(room: Room) -> None:
    async def main() -> None:
        first, second = trio.CancelScope(), trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.call_receive, first)
            await wait_all_tasks_blocked()
            nursery.start_soon(room.call_receive, second)
            await wait_all_tasks_blocked()
            room.put("message")
            first.cancel()
            room.turn()
            await wait_all_tasks_blocked()
            room.put("another")  # for the one that has not had the first, if it still waits
            room.turn()

    room.run(main)
    assert sorted([*room.received, *room.messages]) == ["another", "message"]


# Before, between and after waits.


def test_a_send_in_a_cancelled_scope_sends_nothing(room: Room) -> None:
    sent = []

    async def send(message: str) -> None:
        sent.append(message)

    async def main() -> None:
        for scope in (
            trio.CancelScope(deadline=trio.current_time() - 1),
            trio.CancelScope(deadline=trio.current_time()),
        ):
            with scope:
                await room.bridge.send(send, "message")
            assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await room.bridge.send(send, "message")
        assert scope.cancelled_caught

    room.run(main)
    assert not sent


@pytest.mark.parametrize(("pauses", "is_cancelled"), [(0, False), (1, False), (2, True)])
def test_a_send_is_not_cancelled_in_its_first_pause_and_is_in_a_later_one(
    room: Room, pauses: int, is_cancelled: bool
) -> None:
    scope = trio.CancelScope()
    written = []

    async def send() -> None:
        scope.cancel()
        for _ in range(pauses):
            await asyncio.sleep(0)
        written.append(True)

    async def main() -> None:
        with scope:
            await room.bridge.send(send)

    room.run(main)
    assert scope.cancelled_caught is is_cancelled
    assert bool(written) is not is_cancelled


def test_a_pause_lets_other_tasks_run(room: Room) -> None:
    order = []

    async def send(name: str) -> None:
        for _ in range(3):
            order.append(name)
            await asyncio.sleep(0)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.bridge.send, send, "a")
            nursery.start_soon(room.bridge.send, send, "b")

    room.run(main)
    assert {*order[:2]} == {*order[2:4]} == {*order[4:]} == {"a", "b"}


def test_a_cancelled_call_cleans_up_by_asyncios_exception(room: Room) -> None:
    seen = []
    future: asyncio.Future[None] = room.loop.create_future()

    async def send() -> None:
        try:
            await future
        except BaseException as error:
            seen.append(type(error))
            raise

    async def main() -> None:
        with trio.move_on_after(0) as scope:
            await room.bridge.send(send)
        assert scope.cancelled_caught
        with trio.move_on_after(0.001) as scope:
            await room.bridge.send(send)
        assert scope.cancelled_caught

    room.run(main)
    assert seen == [asyncio.CancelledError]
    assert future.cancelled()


def test_a_value_or_an_error_of_the_clean_up_counts(room: Room) -> None:
    async def ends(error: Exception | None) -> str:
        try:
            await room.loop.create_future()
        except asyncio.CancelledError:
            if error is not None:
                raise error from None
        return "value"

    async def main() -> None:
        with trio.move_on_after(0.001) as scope:
            assert await room.bridge.send(ends, None) == "value"
        assert not scope.cancelled_caught
        with pytest.raises(OSError, match="clean-up"), trio.move_on_after(0.001):
            await room.bridge.send(ends, OSError("clean-up"))

    room.run(main)


def test_a_clean_up_that_waits_again_is_an_error(room: Room) -> None:
    """It cannot be awaited: the task has to end. So it is closed, and its ``finally`` runs."""
    closed = []

    async def send() -> None:
        try:
            await room.loop.create_future()
        finally:
            try:
                await room.loop.create_future()
            finally:
                closed.append(True)

    async def main() -> None:
        with (
            pytest.raises(RuntimeError, match="waits again after it was cancelled"),
            trio.move_on_after(0.001),
        ):
            await room.bridge.send(send)

    room.run(main)
    assert closed


def test_every_wait_of_a_cancelled_task_raises_and_a_shield_holds_it_off(room: Room) -> None:
    raised = []

    async def main() -> None:
        with trio.move_on_after(0.001):
            try:
                await room.bridge.receive(room.receive)
            finally:
                for _ in range(2):
                    try:
                        await room.bridge.receive(room.receive)
                    except trio.Cancelled:
                        raised.append(True)
                room.put("shielded")
                with trio.CancelScope(shield=True):
                    room.received.append(await room.bridge.receive(room.receive))

    room.run(main)
    assert raised == [True, True]
    assert room.received == ["shielded"]


def test_the_coroutine_runs_in_the_context_of_the_task(room: Room) -> None:
    variable = ContextVar("variable", default="")

    async def receive() -> str:
        before = variable.get()
        await wait(room.waiters, room.loop)
        return before + variable.get()

    async def call(name: str) -> None:
        variable.set(name)
        room.received.append(await room.bridge.send(receive))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, "a")
            nursery.start_soon(call, "b")
            await wait_all_tasks_blocked()
            wake(room.waiters)
            room.turn()

    room.run(main)
    assert sorted(room.received) == ["aa", "bb"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_task_is_woken_after_the_run(room: Room) -> None:
    def fail(_: object) -> trio.lowlevel.Abort:
        raise ValueError("in trio's own code")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.call_receive, trio.CancelScope())
            await wait_all_tasks_blocked()
            with trio.move_on_after(0):
                await trio.lowlevel.wait_task_rescheduled(fail)

    with pytest.raises(trio.TrioInternalError):
        room.run(main)
    room.has_ended = True
    room.put("late")
    room.turn()  # trio would raise
    gc.collect()  # trio leaves its tasks as they were, and complains of their end
    room.waiters.clear()


def poll(receive: Callable[[], Awaitable[str]]) -> str:
    """Receive in a scope that is cancelled. Returns "" if that raises."""

    async def main() -> str:
        with trio.move_on_after(0):
            return await Bridge(lambda: True).receive(receive)
        return ""

    return trio.run(main)


def test_a_poll_for_a_message_returns_one_that_is_there() -> None:
    async def receive() -> str:
        return "message"

    assert poll(receive) == "message"


def test_a_receive_that_pauses_can_be_cancelled_there() -> None:
    """Otherwise a loop around a ``receive()`` that always returns at once could not be left."""

    async def receive() -> str:
        await asyncio.sleep(0)
        return "message"

    assert poll(receive) == ""


def test_a_poll_for_a_message_that_is_not_there_loses_none(room: Room) -> None:
    async def main() -> None:
        with trio.move_on_after(0):
            await room.bridge.receive(room.receive)
        room.put("later")
        room.received.append(await room.bridge.receive(room.receive))

    room.run(main)
    assert room.received == ["later"]
