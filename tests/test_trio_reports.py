"""What reports say of trio's tasks, without a process: `Trio.list_tasks`, `observe.tasks`, the lifespan and the end of trio's run, and the sentences about a trio that does not work."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
from gunicorn.config import Config
from inprocess import Log

from gunicorn_asgi.asgi.lifespan import LONG_STARTUP_SECONDS, Lifespan
from gunicorn_asgi.config.settings import Settings
from gunicorn_asgi.errors import ConfigError, LifespanError
from gunicorn_asgi.observe.tasks import MAX_CHILDREN, describe_task, list_children
from gunicorn_asgi.server import load_protocols

trio = pytest.importorskip("trio")
testing = pytest.importorskip("trio.testing")

from gunicorn_asgi.asgi.trio_library import Trio  # noqa: E402 # needs trio


class Run:
    """A run of trio for one test, and how it has ended."""

    def __init__(self) -> None:
        self.log = Log()
        self.errors: list[BaseException] = []
        self.library: Any = None
        self.is_ready = asyncio.Event()
        """Set by tasks of trio, just before they wait."""

    async def of(self, test: Callable[[Run], Awaitable[None]]) -> None:
        self.library = Trio(asyncio.get_running_loop(), self.log, self.errors.append)
        await self.library.start()
        try:
            await asyncio.wait_for(test(self), 30)
        finally:
            await self.library.close(30)

    async def begin(self, function: Callable[..., Any], *arguments: Any, name: str = "own") -> Any:
        """Start a task, and wait until it says that it is ready."""
        task = self.library.create_task(function(self, *arguments), name=name)
        await self.is_ready.wait()
        self.is_ready.clear()
        return task


def with_trio(test: Callable[[Run], Awaitable[None]]) -> None:
    run = Run()
    asyncio.run(run.of(test))
    assert not run.errors


async def patient(run: Run) -> None:
    run.is_ready.set()
    await trio.sleep(3600)


async def parent(run: Run, children: int) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(children):
            nursery.start_soon(grandparent, name=f"child {number:02}")
        await testing.wait_all_tasks_blocked()
        run.is_ready.set()


async def grandparent() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever, name="grandchild")


def test_a_task_is_described_by_its_own_calls_and_the_first_of_trio() -> None:
    async def test(run: Run) -> None:
        task = await run.begin(patient)
        assert re.fullmatch(
            r"in test_trio_reports:\d+ patient > trio\._timeouts:\d+ sleep", describe_task(task)
        )

    with_trio(test)


def test_a_task_in_receive_is_described_by_the_calls_within_and_not_by_the_bridge() -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def waiting(run: Run) -> None:
        run.is_ready.set()
        await run.library.adapt(app)({"type": "lifespan"}, receive, None)

    async def test(run: Run) -> None:
        task = await run.begin(waiting)
        assert re.fullmatch(
            r"in test_trio_reports:\d+ waiting > test_trio_reports:\d+ app > "
            r"test_trio_reports:\d+ receive > asyncio\.locks:\d+ wait",
            describe_task(task),
        )

    with_trio(test)


def test_the_tasks_below_a_task_are_described_with_it_up_to_a_limit() -> None:
    async def test(run: Run) -> None:
        task = await run.begin(parent, 2)
        names = [child.name for child in list_children(task)]
        assert names == ["child 00", "child 01", "grandchild", "grandchild"]
        lines = describe_task(task).split("; ")
        assert re.fullmatch(r"in \S+ parent > trio\._core\._run:\d+ __aexit__", lines[0])
        assert re.fullmatch(r"its task child 00, in \S+ grandparent > \S+ __aexit__", lines[1])
        many = await run.begin(parent, MAX_CHILDREN)
        lines = describe_task(many).split("; ")
        assert len(lines) == 1 + MAX_CHILDREN + 1
        assert lines[-1] == f"and {MAX_CHILDREN} more"  # the grandchildren

    with_trio(test)


def test_other_tasks_are_all_but_those_of_exchanges_and_trios_own() -> None:
    async def system_task(run: Run) -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever, name="system")
        await patient(run)

    async def test(run: Run) -> None:
        exchange = await run.begin(parent, 1, name="exchange")
        await run.begin(parent, 1, name="lifespan")
        await run.begin(system_task, name="spawner")
        names = [task.name for task in run.library.list_tasks([exchange])]
        assert sorted(names) == ["child 00", "grandchild", "lifespan", "spawner", "system"]

    with_trio(test)


def test_the_task_that_takes_a_step_is_seen_from_another_thread_and_listed_first() -> None:
    seen: list[list[str]] = []

    async def running(run: Run, task: Any) -> None:
        with ThreadPoolExecutor(1) as pool:
            seen.append(
                pool.submit(lambda: [str(each) for each in list_children(task[0])]).result()
            )
        run.is_ready.set()

    async def with_running(run: Run, task: list[Any]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever, name="a")
            nursery.start_soon(running, run, task, name="b")

    async def test(run: Run) -> None:
        task: list[Any] = []
        task.append(run.library.create_task(with_running(run, task), name="own"))
        await run.is_ready.wait()
        [lines] = seen
        assert lines[0] == "b, which holds the loop"
        assert lines[1].startswith("a, ")
        assert [child.is_running for child in list_children(task[0])] == [False]

    with_trio(test)


def test_the_line_about_a_long_startup_names_its_tasks() -> None:
    async def test(run: Run) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await parent(run, 1)

        library = run.library
        lifespan = Lifespan(library.adapt(app), "auto", run.log, run.errors.append, library)
        startup = asyncio.ensure_future(lifespan.startup())
        await run.is_ready.wait()
        lifespan.look(time.monotonic() + LONG_STARTUP_SECONDS)
        startup.cancel()
        [line] = run.log.take("warning")
        assert re.search(
            r"\. It is in \S+ _run > \S+ app > \S+ parent > \S+ __aexit__; "
            r"its task child 00, in \S+ grandparent > \S+ __aexit__; its task grandchild, in ",
            line.text,
        )

    with_trio(test)


# The lifespan.


async def fails(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


async def raises_first(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("no lifespan")


async def raises_in_child(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raises_first, scope, receive, send)
        await trio.sleep_forever()


async def leave() -> None:
    sys.exit(5)


async def exits_in_child(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(leave)


async def cancels_itself(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    raise asyncio.CancelledError


async def returns(scope: Any, receive: Any, send: Any) -> None:
    await receive()


@pytest.mark.parametrize(
    ("app", "serves"),
    [
        (fails, "off"),
        (raises_first, "off auto"),
        (raises_in_child, "off auto"),
        (exits_in_child, "off"),
        (cancels_itself, "off auto"),
        (returns, "off auto"),
    ],
)
def test_a_failed_startup_counts_as_on_asyncio(app: Any, serves: str) -> None:
    async def test(run: Run) -> None:
        for mode in ("off", "auto", "on"):
            library = run.library
            lifespan = Lifespan(library.adapt(app), mode, run.log, run.errors.append, library)  # type: ignore[arg-type]
            try:
                await lifespan.startup()
            except LifespanError:
                assert mode not in serves.split()
            else:
                assert mode in serves.split()
                assert lifespan.state is None
            await lifespan.shutdown(1)

    with_trio(test)


# The end of trio's run.


@pytest.mark.parametrize("error", [ValueError("out of place"), SystemExit(5)])
def test_an_error_that_ends_the_run_is_handed_on_without_what_trio_puts_around_it(
    error: BaseException,
) -> None:
    async def fail() -> None:
        raise error

    async def crashing(run: Run) -> None:
        trio.lowlevel.spawn_system_task(fail)
        await patient(run)

    async def test(run: Run) -> None:
        task = await run.begin(crashing)
        while not run.errors:
            await asyncio.sleep(0)
        assert task.done()
        assert task.cancelled()
        late = run.library.create_task(patient(run), name="late")
        await asyncio.sleep(0)
        assert late.done()

    run = Run()
    asyncio.run(run.of(test))
    assert run.errors == [error]


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_startup_that_the_end_of_the_run_cancels_has_failed(mode: Any) -> None:
    """In auto, too: nothing could be served."""

    async def fail() -> None:
        raise ValueError("out of place")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        trio.lowlevel.spawn_system_task(fail)
        await trio.sleep_forever()

    async def test(run: Run) -> None:
        library = run.library
        lifespan = Lifespan(library.adapt(app), mode, run.log, run.errors.append, library)
        with pytest.raises(LifespanError, match=r"^ASGI lifespan\.startup was cancelled$"):
            await lifespan.startup()

    run = Run()
    asyncio.run(run.of(test))
    assert [repr(error) for error in run.errors] == ["ValueError('out of place')"]


# The boot.


def fake(version: str) -> ModuleType:
    module = ModuleType("trio")
    module.__version__ = version  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (None, "it is not installed"),
        (fake("0.24.9"), "trio 0.24.9 is too old"),
        (fake("unheard of"), r"it cannot be imported on \w+ 3\.\S+: ValueError\(.*\)"),
    ],
)
def test_a_trio_that_does_not_work_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType | None, reason: str
) -> None:
    settings = Settings.read(Config(), {"async_library": "trio"}, {})
    load_protocols(settings)
    monkeypatch.setitem(sys.modules, "trio", module)
    with pytest.raises(ConfigError) as refusal:
        load_protocols(settings)
    assert re.fullmatch(
        rf"Invalid value for option async_library: 'trio' needs trio 0\.25 or newer, and {reason}; "
        r"run pip install --upgrade 'gunicorn-asgi\[trio\]', or use asyncio\.",
        str(refusal.value),
    )
