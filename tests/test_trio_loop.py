"""trio's loop within asyncio's (`gunicorn_asgi.asgi.trio_loop`): timers, sockets, threads, and the end, without trio's thread and with it."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import outcome
import pytest
import sniffio
import trio
import trio.testing
from inprocess import WAIT, AsyncioLoop, UvloopLoop

from gunicorn_asgi.asgi import trio_loop
from gunicorn_asgi.asgi.trio_loop import TrioLoop

Main = Callable[[], Awaitable[Any]]


class Host:
    """A loop of asyncio that counts what `TrioLoop` leaves in it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.readers: set[int] = set()
        self.timers: dict[asyncio.TimerHandle, None] = {}
        self.trio_loop = TrioLoop(self)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)

    def add_reader(self, descriptor: int, callback: Callable[[], object]) -> None:
        self.readers.add(descriptor)
        self.loop.add_reader(descriptor, callback)

    def remove_reader(self, descriptor: int) -> bool:
        self.readers.remove(descriptor)
        return self.loop.remove_reader(descriptor)

    def call_later(self, delay: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        def call() -> None:
            self.timers.pop(timer)
            callback()

        timer = self.loop.call_later(delay, call)
        self.timers[timer] = None
        return timer

    @property
    def pending_timers(self) -> list[asyncio.TimerHandle]:
        return [timer for timer in self.timers if not timer.cancelled()]

    def run(self, main: Main, beside: Main | None = None) -> outcome.Outcome[Any]:
        """Run `main` in trio, and meanwhile `beside` in asyncio. Returns the result of `main`."""

        async def both() -> outcome.Outcome[Any]:
            ended: asyncio.Future[outcome.Outcome[Any]] = self.loop.create_future()
            self.trio_loop.start(main, ended.set_result)
            if beside is not None:
                await asyncio.wait_for(beside(), WAIT)
            return await asyncio.wait_for(ended, WAIT)

        return self.loop.run_until_complete(both())


@pytest.fixture(params=["", "thread"], ids=["own", "thread"])
def has_thread(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether trio waits in its thread, as if its attributes were not known."""
    if request.param:
        monkeypatch.setattr(trio_loop, "is_known", lambda guest: False)
    return bool(request.param)


@pytest.fixture
def host(parser: str, has_thread: bool) -> Iterator[Host]:
    loop = UvloopLoop() if parser == "httptools" else AsyncioLoop()
    complaints: list[Any] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    host = Host(loop)
    yield host
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert not complaints
    assert host.trio_loop.needs_thread is has_thread
    assert not host.readers
    assert not host.pending_timers


def test_the_result_of_the_run_is_handed_on(host: Host) -> None:
    async def main() -> str:
        await trio.sleep(0)
        return "value"

    assert host.run(main) == outcome.Value("value")


def test_an_error_of_the_run_is_handed_on(host: Host) -> None:
    async def main() -> None:
        raise ValueError("of the application")

    with pytest.raises(ValueError, match="of the application"):
        host.run(main).unwrap()


def test_trio_takes_few_turns_for_a_short_timer(host: Host) -> None:
    """uvloop rounds timers to milliseconds, down as well as up."""
    turns = []

    class Turns(trio.abc.Instrument):
        def after_io_wait(self, timeout: float) -> None:
            turns.append(timeout)

    async def main() -> None:
        trio.lowlevel.add_instrument(Turns())
        for _ in range(10):
            await trio.sleep(0.0004)

    host.run(main).unwrap()
    assert len(turns) <= 40  # a hundred and more, if they were rounded down


def test_timers_pass_and_never_too_early(host: Host) -> None:
    early = []

    async def wait(seconds: float) -> None:
        end = trio.current_time() + seconds
        await trio.sleep(seconds)
        early.append(trio.current_time() < end)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for seconds in (0.03, 0.01, 0.02, 0.0, 0.0001):
                nursery.start_soon(wait, seconds)

    host.run(main).unwrap()
    assert early == [False] * 5


def test_a_deadline_cancels_in_the_past_and_in_the_future_and_when_it_is_moved(host: Host) -> None:
    async def main() -> None:
        for seconds in (-1, 0, 0.001, 0.02):
            with trio.CancelScope(deadline=trio.current_time() + seconds) as scope:
                await trio.sleep_forever()
            assert scope.cancelled_caught
        with trio.move_on_after(3000) as scope:  # moved to an earlier time by another task
            async with trio.open_nursery() as nursery:

                async def move() -> None:
                    await trio.sleep(0.001)
                    scope.deadline = trio.current_time() + 0.01

                nursery.start_soon(move)
                await trio.sleep_forever()
        assert scope.cancelled_caught

    host.run(main).unwrap()


def test_asyncio_can_move_a_deadline_between_two_turns(host: Host) -> None:
    scope = trio.CancelScope()

    async def main() -> None:
        with scope:
            await trio.sleep_forever()

    async def beside() -> None:
        await asyncio.sleep(0.01)
        scope.deadline = trio.current_time() + 0.01

    host.run(main, beside).unwrap()
    assert scope.cancelled_caught


def test_a_deadline_in_many_hours_passes_although_nothing_else_happens(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same for an hour and more, without waiting for it.
    monkeypatch.setattr(trio_loop, "LONG_SECONDS", 0.01)

    async def main() -> None:
        await trio.sleep(0.05)

    host.run(main).unwrap()


def test_sockets_of_trio_transfer_much_in_both_directions(host: Host) -> None:
    size = 1_000_000

    async def send(stream: trio.abc.SendStream) -> None:
        await stream.send_all(b"x" * size)

    async def receive(stream: trio.abc.ReceiveStream) -> None:
        received = 0
        while received < size:
            received += len(await stream.receive_some())

    async def transfer() -> None:
        one, other = (
            trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in make_pair()
        )
        async with one, other, trio.open_nursery() as nursery:
            for stream in (one, other):
                nursery.start_soon(send, stream)
                nursery.start_soon(receive, stream)

    def make_pair() -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            return client, server.accept()[0]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(transfer)

    host.run(main).unwrap()


def test_threads_start_and_wake_tasks_and_run_functions_in_them(host: Host) -> None:
    async def in_trio(number: int) -> int:
        await trio.sleep(0)
        return -number

    def in_thread(number: int) -> tuple[int, int]:
        return trio.from_thread.run_sync(lambda: number), trio.from_thread.run(in_trio, number)

    results = []

    async def call(number: int) -> None:
        results.append(await trio.to_thread.run_sync(in_thread, number))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(call, number)

    host.run(main).unwrap()
    assert sorted(results) == [(number, -number) for number in range(20)]


def test_no_wake_up_of_many_quick_ones_is_lost(host: Host) -> None:
    count, threads = 2000, 4
    woken: list[int] = []

    def wake(token: trio.lowlevel.TrioToken, done: trio.Event) -> None:
        for number in range(count):
            token.run_sync_soon(woken.append, number)
        token.run_sync_soon(done.set)

    async def main() -> None:
        done = [trio.Event() for _ in range(threads)]
        token = trio.lowlevel.current_trio_token()
        running = [threading.Thread(target=wake, args=(token, each)) for each in done]
        for thread in running:
            thread.start()
        for each in done:
            await each.wait()
        for thread in running:
            thread.join(WAIT)

    host.run(main).unwrap()
    assert sorted(woken) == sorted([*range(count)] * threads)


def test_a_task_that_never_waits_leaves_turns_to_asyncio(host: Host) -> None:
    scope = trio.CancelScope()

    async def main() -> None:
        with scope:
            while True:
                await trio.lowlevel.checkpoint()

    async def beside() -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        host.trio_loop.schedule()
        scope.cancel()

    host.run(main, beside).unwrap()
    assert scope.cancelled_caught


@pytest.mark.parametrize("is_announced", [True, False])
def test_asyncio_wakes_tasks_between_two_turns(host: Host, is_announced: bool) -> None:
    """Also where it does not say so before: an application may use asyncio's loop by itself."""
    events = [trio.Event() for _ in range(5)]

    async def main() -> None:
        for event in events:
            await event.wait()

    async def beside() -> None:
        for event in events:
            await asyncio.sleep(0.001)  # trio waits by now
            if is_announced:
                host.trio_loop.schedule()
            event.set()

    host.run(main, beside).unwrap()


def test_turns_go_on_after_one_that_was_announced_in_vain(host: Host) -> None:
    event = trio.Event()

    async def beside() -> None:
        for _ in range(3):
            await asyncio.sleep(0.001)
            host.trio_loop.schedule()
        await asyncio.sleep(0.001)
        event.set()

    host.run(event.wait, beside).unwrap()


def test_a_task_can_wait_until_all_others_wait(host: Host) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0.01)
            await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked(0.001)

    host.run(main).unwrap()


def test_a_timer_of_a_deadline_that_is_no_more_does_not_end_another_wait(host: Host) -> None:
    async def main() -> float:
        with trio.move_on_after(0.03):
            await trio.to_thread.run_sync(time.sleep, 0.001)
        began = time.monotonic()
        await trio.testing.wait_all_tasks_blocked(0.1)
        return time.monotonic() - began

    assert host.run(main).unwrap() >= 0.09


def test_the_end_leaves_no_descriptor_and_another_run_can_follow(parser: str) -> None:
    async def main() -> None:
        with trio.move_on_after(60):
            await trio.to_thread.run_sync(lambda: None)

    loop = UvloopLoop() if parser == "httptools" else AsyncioLoop()
    Host(loop).run(main).unwrap()  # the loop and the thread may open some at first
    before = os.listdir("/dev/fd")  # noqa: PTH208
    for _ in range(3):
        host = Host(loop)
        host.run(main).unwrap()
        assert not host.readers
        assert not host.pending_timers
        assert os.listdir("/dev/fd") == before  # noqa: PTH208
    loop.close()


class Wait:
    """A wait that ends in trio's own code, with an exception."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def __call__(self) -> None:
        with trio.move_on_after(0.001):
            await trio.lowlevel.wait_task_rescheduled(self._raise)

    def _raise(self, _: object) -> trio.lowlevel.Abort:
        raise self._error


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("error", [ValueError("a fault"), SystemExit(5), KeyboardInterrupt()])
def test_an_error_in_trios_own_code_ends_the_run_and_is_the_cause(
    host: Host, error: BaseException
) -> None:
    """A Python handler of a signal may raise an exit there."""
    with pytest.raises(trio.TrioInternalError) as failure:
        host.run(Wait(error)).unwrap()
    assert failure.value.__cause__ is error
    del failure
    gc.collect()  # trio leaves its tasks as they were, and complains of their end


def test_sniffio_names_the_library_of_the_callback(host: Host) -> None:
    names: dict[str, set[str]] = {"trio": set(), "asyncio": set()}

    async def main() -> None:
        for _ in range(3):
            names["trio"].add(sniffio.current_async_library())
            await trio.sleep(0)

    async def beside() -> None:
        for _ in range(3):
            names["asyncio"].add(sniffio.current_async_library())
            await asyncio.sleep(0)

    host.run(main, beside).unwrap()
    assert names == {"trio": {"trio"}, "asyncio": {"asyncio"}}


def test_no_more_than_one_timer_waits(parser: str) -> None:
    host = Host(UvloopLoop() if parser == "httptools" else AsyncioLoop())
    events = [trio.Event() for _ in range(5)]
    numbers = []

    async def main() -> None:
        with trio.move_on_after(60):
            for event in events:
                await event.wait()

    async def beside() -> None:
        for event in events:
            await asyncio.sleep(0.001)
            numbers.append(len(host.pending_timers))
            event.set()

    host.run(main, beside).unwrap()
    host.loop.close()
    assert max(numbers) <= 2


@pytest.mark.parametrize("missing", [*trio_loop.PRIVATE_PARTS, "runner.io_manager._epoll", None])
def test_a_guest_mode_without_one_of_the_private_parts_is_not_known(missing: str | None) -> None:
    guest = SimpleNamespace()
    for path in {*trio_loop.PRIVATE_PARTS, "runner.io_manager._epoll"} - {missing}:
        *owners, name = path.split(".")
        owner = guest
        for each in owners:
            owner = vars(owner).setdefault(each, SimpleNamespace())
        setattr(owner, name, SimpleNamespace(fileno=lambda: 3))
    assert trio_loop.is_known(guest) == (missing is None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_that_is_abandoned_leaves_nothing_in_the_loop(parser: str) -> None:
    loop = UvloopLoop() if parser == "httptools" else AsyncioLoop()
    Host(loop).run(trio.lowlevel.checkpoint).unwrap()  # the loop may open some at first
    before = os.listdir("/dev/fd")  # noqa: PTH208
    host = Host(loop)

    async def main() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    async def work() -> None:
        host.trio_loop.start(main, lambda result: None)
        await asyncio.sleep(0.001)
        assert len(host.pending_timers) == 1
        host.trio_loop.schedule()  # a turn is on its way
        host.trio_loop.abandon()
        host.trio_loop.abandon()
        await asyncio.sleep(0.001)

    loop.run_until_complete(work())
    assert not host.readers
    assert not host.pending_timers
    assert os.listdir("/dev/fd") == before  # noqa: PTH208
    assert not host.trio_loop.schedule()
    host.trio_loop = TrioLoop(loop)
    gc.collect()  # trio leaves its tasks as they were, and complains of their end
    loop.close()
