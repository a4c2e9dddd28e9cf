"""The lifespan of the application (ASGI, "Lifespan Protocol"): `gunicorn_asgi.asgi.lifespan`, and what a running Gunicorn makes of it."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import selectors
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from libraries import as_trio
from process import APPS, LOOPS, SETTINGS, Gunicorn, is_alive, wait_until_gone

from gunicorn_asgi.asgi.lifespan import Lifespan
from gunicorn_asgi.asgi.scope import Application, Receive, Scope, Send
from gunicorn_asgi.asgi.trio_library import Trio
from gunicorn_asgi.errors import ApplicationError, LifespanError

left: list[SystemExit | KeyboardInterrupt] = []
"""What applications have ended the process with, since a test has taken it from here."""


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    taken = left.copy()
    left.clear()
    assert taken == []


class JumpingSelector(selectors.DefaultSelector):
    """Does not wait: tells the loop that the time has passed."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events:  # trio wakes itself by a socket
            self.now += max(timeout or 0.0, 0.0)
        return events


class Host:
    """A loop with a clock of its own, and the library that runs the applications of a test."""

    def __init__(self, library: str) -> None:
        self.selector = JumpingSelector()
        self.loop = asyncio.SelectorEventLoop(self.selector)
        self.loop.time = lambda: self.selector.now  # type: ignore[method-assign]
        self.failed: list[BaseException] = []
        self.trio = Trio(self.loop, Log(), self.failed.append) if library == "trio" else None
        if self.trio is not None:
            self.loop.run_until_complete(self.trio.start())

    def close(self) -> None:
        try:
            if self.trio is not None:
                self.loop.run_until_complete(self.trio.close(1))
                assert self.trio.is_over
            assert self.failed == []
        finally:
            self.loop.close()


host: Host


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    definition = metafunc.definition
    if definition.get_closest_marker("gunicorn") is None:
        has_trio = definition.get_closest_marker("asyncio_only") is None
        libraries = ["asyncio", "trio"] if has_trio else ["asyncio"]
        metafunc.parametrize("in_each_library", libraries, indirect=True)


@pytest.fixture(autouse=True)
def in_each_library(request: pytest.FixtureRequest) -> Iterator[None]:
    global host
    library = getattr(request, "param", "")
    if not library:  # a test with Gunicorn
        yield
        return
    host = Host(library)
    yield
    host.close()


def run(main: Coroutine[Any, Any, Any]) -> float:
    """Run `main`. Returns how many seconds it took, none of which anybody waited for."""
    began = host.selector.now
    host.loop.run_until_complete(main)
    return host.selector.now - began


def make_lifespan(app: Application, mode: Any, log: Log) -> Lifespan:
    """The lifespan of `app`, written for asyncio, in the library of this test."""
    if host.trio is None:
        return Lifespan(app, mode, log, left.append)
    return Lifespan(host.trio.adapt(as_trio(app)), mode, log, left.append, host.trio)


class Log:
    """Collects what is logged."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str, BaseException | None]] = []

    def info(self, message: str, *args: object) -> None:
        self.records.append(("info", message % args, None))

    def warning(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        self.records.append(("warning", message % args, exc_info))

    def error(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        self.records.append(("error", message % args, exc_info))


def answers(
    *types: str, message: str = "", then: Callable[[], Awaitable[object]] | None = None
) -> Application:
    """An application that answers each of its lifespan's messages with one of `types`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for kind in types:
            await receive()
            await send({"type": kind, "message": message} if message else {"type": kind})
        if then is not None:
            await then()

    return app


async def raises_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotImplementedError("no lifespan here")


async def raises_in_startup(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise ConnectionError("no database")


async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


def start(app: Application, mode: Any) -> tuple[Lifespan, Log, str | None]:
    """Run the startup. Returns the lifespan, what was logged, and the reason not to serve, if any."""
    log = Log()
    lifespan = make_lifespan(app, mode, log)
    failure: list[str] = []

    async def main() -> None:
        try:
            await lifespan.startup()
        except LifespanError as error:
            failure.append(str(error))
        await lifespan._cancel()

    run(main())
    return lifespan, log, failure[0] if failure else None


# Startup: mode x application.


def test_the_scope_is_that_of_a_lifespan_with_an_empty_state() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(json.loads(json.dumps(scope)))

    start(app, "auto")
    assert seen == [
        {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    ]


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_the_state_is_what_the_startup_has_put_into_it(mode: Any) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "lifespan.startup"}
        scope["state"]["database"] = 1
        await send({"type": "lifespan.startup.complete"})
        await receive()

    log = Log()
    lifespan = make_lifespan(app, mode, log)

    async def main() -> None:
        await lifespan.startup()
        assert lifespan.state == {"database": 1}
        await lifespan.shutdown(1)

    run(main())
    assert log.records == []


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_an_application_that_is_done_with_its_lifespan_after_startup_complete_keeps_its_state(
    mode: Any,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        scope["state"]["database"] = 1
        await send({"type": "lifespan.startup.complete"})

    log = Log()
    lifespan = make_lifespan(app, mode, log)

    async def main() -> None:
        await lifespan.startup()
        assert lifespan.state == {"database": 1}
        await lifespan.shutdown(1)

    run(main())
    assert log.records == []


def test_off_never_calls_the_application() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it was called")

    lifespan, log, failure = start(app, "off")
    assert (lifespan.state, log.records, failure) == (None, [], None)
    run(lifespan.shutdown(1))


@pytest.mark.parametrize("app", [raises_at_once, returns])
def test_auto_does_without_a_lifespan_that_is_not_supported(app: Application) -> None:
    lifespan, log, failure = start(app, "auto")
    assert (lifespan.state, failure) == (None, None)
    assert log.records == [("info", "ASGI lifespan is not supported by the application", None)]


def test_auto_goes_on_after_an_exception_in_the_startup_but_warns_with_the_traceback() -> None:
    lifespan, log, failure = start(raises_in_startup, "auto")
    assert (lifespan.state, failure) == (None, None)
    [(level, message, error)] = log.records
    assert (level, message) == (
        "warning",
        "ASGI lifespan.startup raised; serving without lifespan (asgi_lifespan = auto)",
    )
    assert isinstance(error, ConnectionError)


@pytest.mark.parametrize(
    ("app", "kind"),
    [(raises_at_once, "NotImplementedError"), (raises_in_startup, "ConnectionError")],
)
def test_on_takes_an_exception_for_a_failure(app: Application, kind: str) -> None:
    lifespan, log, failure = start(app, "on")
    assert lifespan.state is None
    assert failure is not None
    assert failure.startswith(f"ASGI lifespan.startup raised {kind}(")
    [(level, _, error)] = log.records
    assert level == "error"
    assert type(error).__name__ == kind


def test_on_takes_an_early_return_for_a_failure() -> None:
    lifespan, log, failure = start(returns, "on")
    assert (lifespan.state, log.records) == (None, [])
    assert failure == "the application returned from its lifespan before lifespan.startup.complete"


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize(
    ("message", "reason"),
    [("the database is down", "the database is down"), ("", "no reason given")],
)
def test_startup_failed_is_a_failure_with_its_message(mode: Any, message: str, reason: str) -> None:
    lifespan, log, failure = start(answers("lifespan.startup.failed", message=message), mode)
    assert (lifespan.state, log.records) == (None, [])
    assert failure == f"ASGI lifespan.startup failed: {reason}"


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_an_application_that_goes_on_after_startup_failed_is_cancelled(mode: Any) -> None:
    cancelled: list[bool] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    _, log, failure = start(answers("lifespan.startup.failed", then=linger), mode)
    assert failure == "ASGI lifespan.startup failed: no reason given"
    assert cancelled == [True]
    assert log.records == []


def test_an_exception_behind_startup_failed_is_not_another_failure() -> None:
    async def fail() -> None:
        raise ValueError

    _, log, failure = start(
        answers("lifespan.startup.failed", message="the first", then=fail), "on"
    )
    assert failure == "ASGI lifespan.startup failed: the first"
    assert log.records == []


@pytest.mark.parametrize(
    "kind",
    [
        "lifespan.shutdown.complete",
        "lifespan.shutdown.failed",
        "lifespan.ready",
        "http.response.start",
        None,
    ],
)
def test_a_message_that_is_not_expected_in_the_startup_raises_at_send(kind: str | None) -> None:
    raised: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await send({"type": kind} if kind else {})
        except ApplicationError as error:
            raised.append(str(error))
            raise

    _, log, failure = start(app, "auto")
    assert failure is None
    assert [level for level, _, _ in log.records] == ["warning"]
    assert "expected" in raised[0]
    assert repr(kind) in raised[0]
    _, log, failure = start(app, "on")
    assert failure is not None
    assert "ApplicationError" in failure


def test_startup_complete_may_be_sent_only_once() -> None:
    raised: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        try:
            await send({"type": "lifespan.startup.failed"})
        except ApplicationError as error:
            raised.append(str(error))
        await receive()

    _, log, failure = start(app, "on")
    assert raised == ["'lifespan.startup.failed' was not expected: the startup is over"]
    assert (log.records, failure) == ([], None)


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_slow_startup_is_waited_for_however_long_it_takes(mode: Any) -> None:
    log = Log()
    days = 7 * 86400.0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.sleep(days)
        await send({"type": "lifespan.startup.complete"})
        await receive()

    async def main() -> None:
        lifespan = make_lifespan(app, mode, log)
        await lifespan.startup()
        await lifespan.shutdown(1)

    assert run(main()) >= days
    assert log.records == []


@pytest.mark.asyncio_only("the calls of a trio application are in test_trio_reports")
def test_a_startup_that_takes_long_is_warned_about_once_a_minute_until_its_end() -> None:
    log = Log()
    went_on: list[asyncio.Event] = []

    @asynccontextmanager
    async def connect_to_database() -> AsyncIterator[None]:
        went_on.append(asyncio.Event())
        await went_on[0].wait()
        yield

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        async with connect_to_database():
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await asyncio.sleep(1000)

    async def main() -> None:
        lifespan = make_lifespan(app, "auto", log)
        lifespan.look(1e12)  # before its begin
        began = time.monotonic()
        startup = asyncio.ensure_future(lifespan.startup())
        while not went_on:
            await asyncio.sleep(0)
        told = []
        for seconds in (0, 30, 59, 61, 62, 120, 122, 180, 183):
            lifespan.look(began + seconds)
            told.append(len(log.records))
        assert told == [0, 0, 0, 1, 1, 1, 2, 2, 3]
        went_on[0].set()
        await startup
        lifespan.look(began + 1000)
        shutdown = asyncio.ensure_future(lifespan.shutdown(100))
        await asyncio.sleep(1)
        lifespan.look(began + 2000)
        await shutdown

    run(main())
    warnings, others = log.records[:3], log.records[3:]
    for level, text, _ in warnings:
        assert level == "warning"
        assert re.fullmatch(
            r"ASGI lifespan\.startup has run for (61|12[12]|18[23]) s, and has no time limit\. "
            r"It is in .* > test_lifespan:\d+ app > contextlib:\d+ __aenter__ > "
            r"test_lifespan:\d+ connect_to_database > asyncio\.locks:\d+ wait\. Until its end .*",
            text,
        )
    assert [text.split(" after")[0] for _, text, _ in others] == [
        "ASGI lifespan.shutdown was not complete"
    ]


def test_without_a_lifespan_nothing_takes_long() -> None:
    log = Log()
    lifespan = make_lifespan(answers(), "off", log)
    run(lifespan.startup())
    lifespan.look(time.monotonic() + 1e6)
    assert log.records == []


def test_a_startup_that_is_given_up_cancels_the_application() -> None:
    cancelled: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main() -> None:
        lifespan = make_lifespan(app, "auto", Log())
        startup = asyncio.ensure_future(lifespan.startup())
        await asyncio.sleep(1)
        startup.cancel()
        with pytest.raises(asyncio.CancelledError):
            await startup

    assert run(main()) < 10
    assert cancelled == [True]


# How the application ends in each phase.

ACTS = [
    "returns",
    "raises",
    "is_cancelled",
    "raises_unusual",
    "raises_group",
    "exits",
    "interrupts",
]
ENDS_THE_PROCESS = ("exits", "interrupts")


@pytest.fixture
def act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that says what apps/acts.py does."""
    path = tmp_path / "act"
    monkeypatch.setenv("TEST_ACT", str(path))
    return path


@pytest.fixture
def acting(monkeypatch: pytest.MonkeyPatch) -> Application:
    monkeypatch.syspath_prepend(str(APPS))
    application: Application = importlib.import_module("acts").app
    return application


@pytest.mark.parametrize("how", ACTS)
@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_each_end_in_the_startup_has_its_meaning(
    act: Path, acting: Application, mode: Any, how: str
) -> None:
    act.write_text(f"startup {how}")
    lifespan, log, failure = start(acting, mode)
    assert lifespan.state is None
    levels = [level for level, _, _ in log.records]
    if mode == "off":  # it is not asked
        assert (failure, levels) == (None, [])
    elif how in ENDS_THE_PROCESS:
        assert (
            failure
            == f"ASGI lifespan.startup raised {'SystemExit(5)' if how == 'exits' else 'KeyboardInterrupt()'}"
        )
        assert levels == []
    elif mode == "on":
        assert failure is not None
        assert levels == ([] if how == "returns" else ["error"])
    else:
        assert failure is None
        assert levels == (["info"] if how == "returns" else ["warning"])


@pytest.mark.parametrize("how", ACTS)
@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_each_end_in_the_shutdown_has_its_meaning(
    act: Path, acting: Application, mode: Any, how: str
) -> None:
    act.write_text(f"shutdown {how}")
    log = Log()

    async def main() -> None:
        lifespan = make_lifespan(acting, mode, log)
        await lifespan.startup()
        await lifespan.shutdown(10)

    assert run(main()) < 1  # nothing is waited for
    raised = [error for _, _, error in log.records]
    exits = [left.pop() for _ in range(len(left))]
    if mode == "off" or how == "returns":
        assert (raised, exits) == ([], [])
    elif how in ENDS_THE_PROCESS:
        assert (raised, [type(error).__name__ for error in exits]) == (
            [],
            ["SystemExit" if how == "exits" else "KeyboardInterrupt"],
        )
    else:
        assert [level for level, _, _ in log.records] == ["error"]
        assert [type(error).__name__ for error in raised] != ["NoneType"]
        assert exits == []


def test_a_startup_that_has_failed_is_not_told_again_where_the_framework_raises_its_reason_as_well() -> (
    None
):
    """As Starlette does."""

    async def leave() -> None:
        raise SystemExit(5)

    _, log, failure = start(
        answers("lifespan.startup.failed", message="the first", then=leave), "auto"
    )
    assert failure == "ASGI lifespan.startup failed: the first"
    assert log.records == []


def test_sys_exit_between_startup_and_shutdown_ends_the_process() -> None:
    async def leave() -> None:
        raise SystemExit(5)

    _, log, failure = start(answers("lifespan.startup.complete", then=leave), "auto")
    assert (failure, log.records) == (None, [])
    assert [error.code for error in (left.pop(),) if isinstance(error, SystemExit)] == [5]


def test_an_exit_by_another_task_or_callback_fails_a_startup_that_is_not_over() -> None:
    log = Log()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.sleep(3600)

    async def main() -> None:
        lifespan = make_lifespan(app, "auto", log)
        assert not lifespan.fail_startup(SystemExit(5)), "nothing has begun"
        asyncio.get_running_loop().call_later(1, lifespan.fail_startup, SystemExit(5))
        with pytest.raises(LifespanError, match=r"^ASGI lifespan.startup raised SystemExit\(5\)$"):
            await lifespan.startup()
        assert lifespan.fail_startup(SystemExit(6)), "it has failed already"

    assert run(main()) < 5
    assert log.records == []


# Shutdown.


def shut_down(app: Application, timeout: float = 10.0) -> tuple[Log, float]:
    """Run the startup, then the shutdown. Returns what was logged, and how long the whole took."""
    log = Log()

    async def main() -> None:
        lifespan = make_lifespan(app, "on", log)
        await lifespan.startup()
        await lifespan.shutdown(timeout)

    seconds = run(main())
    return log, seconds


def test_shutdown_is_announced_once_and_waited_for() -> None:
    done: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        done.append(await receive())
        await asyncio.sleep(5)
        await send({"type": "lifespan.shutdown.complete"})
        await asyncio.sleep(1)
        done.append("behind its answer")

    log, seconds = shut_down(app)
    assert done == [{"type": "lifespan.shutdown"}, "behind its answer"]
    assert seconds == pytest.approx(6)
    assert log.records == []


@pytest.mark.parametrize(
    ("message", "reason"),
    [("could not say goodbye", "could not say goodbye"), ("", "no reason given")],
)
def test_shutdown_failed_is_logged_with_its_message(message: str, reason: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send(
            {"type": "lifespan.shutdown.failed", "message": message}
            if message
            else {"type": "lifespan.shutdown.failed"}
        )

    log, _ = shut_down(app)
    assert log.records == [("error", f"ASGI lifespan.shutdown failed: {reason}", None)]


def test_an_exception_in_the_shutdown_is_logged_with_its_traceback() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise ValueError("too late")

    log, _ = shut_down(app)
    [(level, _, error)] = log.records
    assert level == "error"
    assert isinstance(error, ValueError)


def test_an_application_that_leaves_its_lifespan_early_is_logged_if_it_raised_and_asked_no_more() -> (
    None
):
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise ValueError("in between")

    log, seconds = shut_down(app)
    [(level, _, error)] = log.records
    assert level == "error"
    assert isinstance(error, ValueError)
    assert seconds < 1


def shutdown_in(before: float, after: float, cancelled: list[str]) -> Application:
    """An application that takes so long before and after it answers lifespan.shutdown."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await asyncio.sleep(before)
            await send({"type": "lifespan.shutdown.complete"})
            await asyncio.sleep(after)
        except asyncio.CancelledError:
            cancelled.append("cancelled")
            raise

    return app


def test_a_shutdown_that_takes_too_long_is_cancelled_and_logged() -> None:
    cancelled: list[str] = []
    log, seconds = shut_down(shutdown_in(3600, 0, cancelled), timeout=4)
    assert log.records == [("error", "ASGI lifespan.shutdown was not complete after 4.0 s", None)]
    assert cancelled == ["cancelled"]
    assert seconds == pytest.approx(4)


def test_the_time_for_a_shutdown_is_one_for_what_is_before_and_behind_the_answer() -> None:
    # The arbiter kills soon after it.
    cancelled: list[str] = []
    _, seconds = shut_down(shutdown_in(3, 3600, cancelled), timeout=4)
    assert cancelled == ["cancelled"]
    assert seconds == pytest.approx(4)


def test_an_application_that_refuses_to_be_cancelled_does_not_hold_the_shutdown_for_long() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        for _ in range(3):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    log, seconds = shut_down(app, timeout=4)
    assert log.records == [("error", "ASGI lifespan.shutdown was not complete after 4.0 s", None)]
    assert seconds < 5.5


def test_there_is_no_message_behind_the_shutdown() -> None:
    received: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        received.append(await receive())
        await send({"type": "lifespan.shutdown.complete"})
        received.append(await receive())

    log, seconds = shut_down(app, timeout=4)
    assert received == [{"type": "lifespan.shutdown"}]
    assert seconds <= 4
    assert log.records == []


@pytest.mark.parametrize(
    "kind", ["lifespan.startup.complete", "lifespan.startup.failed", "lifespan.over"]
)
def test_a_message_that_is_not_expected_in_the_shutdown_raises_at_send(kind: str) -> None:
    raised: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await send({"type": kind})
        except ApplicationError as error:
            raised.append(str(error))
        await send({"type": "lifespan.shutdown.complete"})

    log, _ = shut_down(app)
    assert "expected" in raised[0]
    assert log.records == []


# A running Gunicorn.


def start_gunicorn(directory: Path, lifespan: str, **kwargs: Any) -> Gunicorn:
    env = {"TEST_LIFESPAN": lifespan, "TEST_FLAG": str(directory / "flag")}
    return Gunicorn(directory, "lifespans:app", env=env, **kwargs)


needs_asgi_lifespan = pytest.mark.skipif(
    "asgi_lifespan" not in SETTINGS, reason="this Gunicorn has no asgi_lifespan"
)


@pytest.mark.gunicorn
@pytest.mark.smoke
@pytest.mark.parametrize("loop", LOOPS)
def test_every_request_has_a_copy_of_the_state_and_no_context_of_the_startup(
    tmp_path: Path, loop: str
) -> None:
    with Gunicorn(tmp_path, asgi_loop=loop) as server, server.client() as client:
        # The copy is shallow: what it names is shared.
        assert [client.get("/count").json() for _ in range(3)] == [
            [1, 1, "unset"],
            [1, 2, "unset"],
            [1, 3, "unset"],
        ]
        assert client.get("/keys").json() == ["count", "shared"]
        assert 'lifespan {"version": "3.0", "spec_version": "2.0"}' in server.events


@pytest.mark.gunicorn
@pytest.mark.parametrize("lifespan", ["raises_at_once", "raises_in_startup", "returns"])
def test_an_application_without_lifespan_is_served_without_state(
    tmp_path: Path, lifespan: str
) -> None:
    with start_gunicorn(tmp_path, lifespan) as server:
        assert server.get("/keys").json() == ["no state"]
        assert server.stop() == 0
        assert bool(server.lines("no database")) == (lifespan == "raises_in_startup")


@pytest.mark.gunicorn
@needs_asgi_lifespan
def test_lifespan_off_is_off(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, asgi_lifespan="off") as server:
        assert server.get("/keys").json() == ["no state"]
        assert server.stop() == 0
        assert "startup" not in " ".join(server.events)


FAILURES = [("auto", "fails", "ASGI lifespan.startup failed: the database is down")]
if "asgi_lifespan" in SETTINGS:
    FAILURES += [
        ("on", "fails", "ASGI lifespan.startup failed: the database is down"),
        (
            "on",
            "raises_in_startup",
            r"ASGI lifespan.startup raised ConnectionError\('no database'\)",
        ),
        (
            "on",
            "returns",
            "the application returned from its lifespan before lifespan.startup.complete",
        ),
    ]


@pytest.mark.gunicorn
@pytest.mark.smoke
@pytest.mark.parametrize(("mode", "lifespan", "reason"), FAILURES)
def test_a_startup_that_fails_at_boot_halts_gunicorn_with_its_boot_error_and_the_reason(
    tmp_path: Path, mode: str, lifespan: str, reason: str
) -> None:
    # One worker: Gunicorn itself ends with 1 and a traceback where a second one fails while it halts for the first.
    with start_gunicorn(tmp_path, lifespan, wait=False, asgi_lifespan=mode) as server:
        assert server.wait() == 3
        assert server.lines(rf"\[ERROR\] {reason}$")
        assert server.lines("Worker failed to boot")
        assert not server.lines("on Gunicorn")


@pytest.mark.gunicorn
def test_a_respawned_worker_that_cannot_start_does_not_halt_the_healthy_ones(
    tmp_path: Path,
) -> None:
    flag = tmp_path / "flag"
    with start_gunicorn(tmp_path, "fails_if_flagged", workers=2) as server:
        flag.touch()
        victim, healthy = server.workers()
        os.kill(victim, signal.SIGKILL)
        lines = server.wait_for("could not replace another", 2)
        # Not in a tight loop.
        assert len(lines) == 2
        assert server.get("/pid").text == str(healthy)
        flag.unlink()
        server.wait_for("on Gunicorn", 3)
        assert len(server.workers()) == 2
        assert server.lines(r"\[ERROR\] ASGI lifespan.startup failed: the database is down$")
        assert server.stop() == 0


@pytest.mark.gunicorn
@pytest.mark.parametrize("loop", LOOPS)
def test_a_slow_startup_outlasts_the_timeout_and_no_request_is_served_before_its_end(
    tmp_path: Path, loop: str
) -> None:
    with start_gunicorn(tmp_path, "is_slow", wait=False, timeout=1, asgi_loop=loop) as server:
        server.wait_for("Booting worker")
        # It waits in the listener's queue.
        assert server.get("/hello").text == "hello\n"
        assert server.lines("on Gunicorn")
        assert not server.lines("WORKER TIMEOUT")
        assert server.stop() == 0
        assert len(server.lines("Booting worker")) == 1


@pytest.mark.gunicorn
@pytest.mark.smoke
@pytest.mark.parametrize("how", ["task", "callback"])
@pytest.mark.parametrize("loop", LOOPS)
def test_sys_exit_in_a_task_or_callback_of_the_startup_fails_it(
    tmp_path: Path, loop: str, how: str
) -> None:
    with start_gunicorn(tmp_path, f"exits_in_a_{how}", asgi_loop=loop, wait=False) as server:
        assert server.wait() == 3
        assert server.lines(r"\[ERROR\] ASGI lifespan.startup raised SystemExit\(1\)$")
        assert len(server.lines("Booting worker")) == 1


def start_acting(directory: Path, act: str, **kwargs: Any) -> Gunicorn:
    path = directory / "act"
    path.write_text(act)
    return Gunicorn(directory, "acts:app", env={"TEST_ACT": str(path)}, **kwargs)


@pytest.mark.gunicorn
@pytest.mark.parametrize("how", ACTS)
@pytest.mark.parametrize("mode", ["auto", "on"] if "asgi_lifespan" in SETTINGS else ["auto"])
def test_a_first_worker_whose_startup_ends_so_serves_or_halts_gunicorn(
    tmp_path: Path, mode: str, how: str
) -> None:
    with start_acting(tmp_path, f"startup {how}", wait=False, asgi_lifespan=mode) as server:
        if mode == "auto" and how not in ENDS_THE_PROCESS:
            assert server.get("/keys").json() == ["no state"]
            assert server.stop() == 0
        else:
            assert server.wait() == 3
            assert server.lines(
                r"\[ERROR\] (ASGI lifespan.startup raised |the application returned )"
            )
            assert len(server.lines("Booting worker")) == 1


@pytest.mark.gunicorn
@pytest.mark.parametrize("mode", ["auto", "on", "off"] if "asgi_lifespan" in SETTINGS else ["auto"])
def test_a_replacement_whose_startup_ends_so_serves_or_is_tried_again_beside_the_others(
    tmp_path: Path, mode: str
) -> None:
    act = tmp_path / "act"
    with start_acting(tmp_path, "none", workers=2, asgi_lifespan=mode) as server:
        healthy = server.workers()[0]
        for booted, how in enumerate(ACTS, 3):
            failed = len(server.lines("could not replace another"))
            act.write_text(f"startup {how}")
            os.kill(server.workers()[-1], signal.SIGKILL)
            if mode == "on" or (mode == "auto" and how in ENDS_THE_PROCESS):
                server.wait_for("could not replace another", failed + 1)
                assert server.get("/pid").text == str(healthy)
                act.write_text("none")
            server.wait_for("on Gunicorn", booted)
        assert is_alive(healthy)
        assert server.stop() == 0


@pytest.mark.gunicorn
@pytest.mark.parametrize("mode", ["auto", "on", "off"] if "asgi_lifespan" in SETTINGS else ["auto"])
def test_a_worker_whose_shutdown_ends_so_leaves_with_a_code_that_stops_nobody_else(
    tmp_path: Path, mode: str
) -> None:
    """Of the first workers, the first; then its replacements."""
    act = tmp_path / "act"
    codes = {"exits": 5, "interrupts": 1} if mode != "off" else {}
    with start_acting(tmp_path, "none", asgi_lifespan=mode) as server:
        for count, how in enumerate(ACTS, 2):
            [worker] = server.workers()
            act.write_text(f"shutdown {how}")
            os.kill(worker, signal.SIGTERM)
            server.wait_for("on Gunicorn", count)
            code = codes.get(how, 0)
            assert bool(server.lines(rf"Worker \(pid:{worker}\) exited with code")) == (code != 0)
            if code:
                assert server.lines(rf"Worker \(pid:{worker}\) exited with code {code}\.$")
        assert server.stop() == 0


@pytest.mark.gunicorn
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_that_is_told_to_stop_during_its_startup_leaves(
    tmp_path: Path, number: int
) -> None:
    with start_gunicorn(tmp_path, "never_starts", wait=False) as server:
        server.wait_for_event("starting")
        assert server.stop(number) == 0
        assert "cancelled" in server.events
        assert not server.lines("SIGKILL|ERROR")


@pytest.mark.gunicorn
def test_a_startup_that_takes_long_is_warned_about_and_a_hup_replaces_the_worker(
    tmp_path: Path,
) -> None:
    a_moment_is_long = (
        "from gunicorn_asgi.asgi import lifespan\nlifespan.LONG_STARTUP_SECONDS = 0.1"
    )
    with start_gunicorn(
        tmp_path, "never_starts", wait=False, timeout=1, config=a_moment_is_long
    ) as server:
        server.wait_for_event("starting")
        server.wait_for(r"\[WARNING\] ASGI lifespan\.startup has run for .* never_starts > ", 2)
        [first] = server.workers()
        server.kill(signal.SIGHUP)
        server.wait_for_event("starting", 2)
        wait_until_gone(first)
        assert server.running


@pytest.mark.gunicorn
def test_a_shutdown_that_fails_is_logged_and_does_not_stop_the_worker_from_leaving(
    tmp_path: Path,
) -> None:
    with start_gunicorn(tmp_path, "fails_to_shut_down") as server:
        assert server.stop() == 0
        assert server.lines(r"\[ERROR\] ASGI lifespan.shutdown failed: could not say goodbye$")
        assert server.lines("Worker exiting")


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_a_shutdown_that_never_ends_is_cancelled_before_the_arbiter_kills(tmp_path: Path) -> None:
    with start_gunicorn(tmp_path, "never_shuts_down", graceful_timeout=2) as server:
        assert server.stop() == 0
        assert server.events[-2:] == ["shutdown cancelled", "atexit"]
        assert server.lines(r"\[ERROR\] ASGI lifespan.shutdown was not complete after \d+\.\d s$")
        assert not server.lines("SIGKILL")
