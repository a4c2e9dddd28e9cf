"""The end of a worker's process: exit codes (`gunicorn_asgi.process.exits`), and the time limit for
threads of the application (`gunicorn_asgi.process.thread_limit`)."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from gunicorn.arbiter import Arbiter
from process import GUNICORN_VERSION, LOOPS, NOTE, Gunicorn, wait_until_gone

from gunicorn_asgi.process.exits import BOOT_ERRORS, read_exit_code

HOOKS = NOTE + "\ndef worker_exit(server, worker):\n    note('worker_exit')\n"
LEFT = r"\[WARNING\] Threads of the application that did not end in time: 1 \({name} in .*threads:\d+ work\)$"
THREADS = {
    "endpoint": "AnyIO worker thread",
    "executor": r"(asyncio|uvloop|ThreadPoolExecutor-0)_0",
    "plain": "ledger",
}
NEVER = 300
"""Seconds that no test waits."""
SOON = 60.0
"""Seconds that are long for a limit of one or two seconds, however busy the machine is, and short beside NEVER and the graceful timeouts here."""


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def error(self, message: str, *args: object) -> None:
        self.lines.append(message % args)

    def warning(self, message: str, *args: object) -> None:
        self.lines.append(message % args)


class Unspeakable:
    def __str__(self) -> str:
        raise ValueError


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Exit codes.


def test_the_codes_at_which_the_arbiter_halts_are_its_own() -> None:
    assert {Arbiter.WORKER_BOOT_ERROR, Arbiter.APP_LOAD_ERROR} == BOOT_ERRORS


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SystemExit(), 0, ""),
        (SystemExit(None), 0, ""),
        (SystemExit(0), 0, ""),
        (SystemExit(1), 1, ""),
        (SystemExit(2), 2, ""),
        (SystemExit(3), 1, "sys.exit(3)"),
        (SystemExit(4), 1, "sys.exit(4)"),
        (SystemExit(5), 5, ""),
        (SystemExit(-1), 255, ""),
        (SystemExit(256), 0, ""),
        (SystemExit(259), 1, "sys.exit(259)"),
        (SystemExit(-252), 1, "sys.exit(-252)"),
        (SystemExit(True), 1, ""),
        (SystemExit("no database"), 1, "sys.exit: no database"),
        (SystemExit((1, 2)), 1, "sys.exit: (1, 2)"),
        (SystemExit(Unspeakable()), 1, "Unspeakable object"),
        (KeyboardInterrupt(), 1, "KeyboardInterrupt"),
    ],
)
def test_an_exit_code_is_what_the_interpreter_makes_of_it_and_never_halts_the_arbiter(
    error: SystemExit | KeyboardInterrupt, code: int, said: str
) -> None:
    log = Log()
    assert read_exit_code(error, log) == code
    assert len(log.lines) == bool(said)
    assert said in "".join(log.lines)


@pytest.mark.gunicorn
@pytest.mark.smoke
@pytest.mark.parametrize("where", ["request", "task", "callback"])
def test_sys_exit_within_the_application_ends_its_worker_and_never_the_master(
    tmp_path: Path, loop: str, where: str
) -> None:
    with Gunicorn(tmp_path, "threads:app", asgi_loop=loop, config=HOOKS) as server:
        for count, (code, shown) in enumerate([(0, 0), (1, 1), (2, 2), (3, 1), (4, 1), (5, 5)], 2):
            [worker] = server.workers()
            with server.connect() as client:
                client.get(f"/exit/{where}/{code}")
                client.read_all()
            server.wait_for("on Gunicorn", count)
            assert server.lines(rf"Worker exiting \(pid: {worker}\)$")
            codes = server.lines(rf"Worker \(pid:{worker}\) exited with code {shown}\.$")
            assert len(codes) == (shown != 0)
        assert server.events.count("worker_exit") == server.events.count("atexit") == 6
        assert server.stop() == 0
        assert not server.lines("was sent|Exception in worker process")


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_sys_exit_while_a_task_is_cancelled_at_the_end_does_not_stop_the_master(
    tmp_path: Path, loop: str
) -> None:
    with Gunicorn(tmp_path, "threads:app", asgi_loop=loop) as server:
        server.get("/exit/cleanup/3")
        [worker] = server.workers()
        os.kill(worker, signal.SIGTERM)
        server.wait_for("on Gunicorn", 2)
        wait_until_gone(worker)
        assert server.running


# Threads that go on.


def begin(server: Gunicorn, kind: str, seconds: float) -> Any:
    """Have a thread busy. Returns the connection that asked for it; to be closed."""
    client = server.connect()
    client.get(f"/{kind}/{seconds}")
    server.wait_for_event("work begun")
    return client


@pytest.mark.gunicorn
@pytest.mark.smoke
@pytest.mark.parametrize(
    ("number", "kind", "loop"),
    [
        *((signal.SIGINT, kind, loop) for kind in THREADS for loop in LOOPS),
        (signal.SIGQUIT, "plain", LOOPS[0]),
    ],
)
def test_after_int_and_quit_threads_have_a_second_and_are_named(
    tmp_path: Path, loop: str, kind: str, number: int
) -> None:
    settings = {"asgi_loop": loop, "graceful_timeout": 600, "config": HOOKS}
    with Gunicorn(tmp_path, "threads:app", **settings) as server, begin(server, kind, NEVER):
        began = time.monotonic()
        if number == signal.SIGINT:
            os.killpg(server.pid, number)  # Ctrl-C
        else:
            server.kill(number)
        assert server.wait() == 0
        assert time.monotonic() - began < SOON
        assert len(server.lines(LEFT.format(name=THREADS[kind]))) == 1
        assert server.events[-2:] == ["worker_exit", "atexit"]
        assert not server.lines("was sent|ERROR|Traceback")
        assert server.output == ""


@pytest.mark.gunicorn
@pytest.mark.smoke
@pytest.mark.parametrize("kind", THREADS)
def test_after_term_threads_have_what_is_left_of_graceful_timeout(
    tmp_path: Path, kind: str
) -> None:
    with (
        Gunicorn(tmp_path, "threads:app", graceful_timeout=3, config=HOOKS) as server,
        begin(server, kind, NEVER),
    ):
        assert server.stop() == 0
        assert len(server.lines(LEFT.format(name=THREADS[kind]))) == 1
        assert server.events[-2:] == ["worker_exit", "atexit"]
        assert not server.lines("was sent|Traceback")


@pytest.mark.gunicorn
@pytest.mark.smoke
@pytest.mark.parametrize("kind", THREADS)
def test_threads_that_end_in_time_are_waited_for_and_nothing_is_said(
    tmp_path: Path, kind: str
) -> None:
    with (
        Gunicorn(tmp_path, "threads:app", graceful_timeout=60, config=HOOKS) as server,
        begin(server, kind, 2),
    ):
        assert server.stop() == 0
        assert "work done" in server.events
        assert server.events[-1] == "atexit"
        assert not server.lines("WARNING|ERROR|was sent")


@pytest.mark.gunicorn
def test_hup_does_not_wait_for_a_thread_longer_than_graceful_timeout(tmp_path: Path) -> None:
    with (
        Gunicorn(tmp_path, "threads:app", graceful_timeout=3) as server,
        begin(server, "endpoint", NEVER),
    ):
        [first] = server.workers()
        server.kill(signal.SIGHUP)
        server.wait_for("on Gunicorn", 2)
        wait_until_gone(first)
        assert server.lines(LEFT.format(name=THREADS["endpoint"]))
        assert server.get("/pid").json() != first
        assert not server.lines("was sent")


@pytest.mark.gunicorn
def test_the_heartbeat_goes_on_while_threads_are_waited_for(tmp_path: Path) -> None:
    settings = {"timeout": 3, "max_requests": 1, "graceful_timeout": 60}
    with (
        Gunicorn(tmp_path, "threads:app", **settings) as server,
        begin(server, "plain", 8) as client,
    ):
        [first] = server.workers()
        client.read_all()
        server.wait_for("on Gunicorn", 2)
        wait_until_gone(first)
        assert "work done" in server.events
        assert not server.lines("TIMEOUT|has not turned|was sent|WARNING")


@pytest.mark.gunicorn
def test_max_requests_replaces_a_worker_whose_thread_does_not_end(tmp_path: Path) -> None:
    settings = {"timeout": 60, "max_requests": 1, "graceful_timeout": 3}
    with Gunicorn(tmp_path, "threads:app", **settings) as server, begin(server, "plain", NEVER):
        [first] = server.workers()
        server.wait_for(LEFT.format(name="ledger"))
        assert server.get("/pid").json() != first
        assert not server.lines("TIMEOUT|has not turned|was sent")


@pytest.mark.gunicorn
def test_quit_shortens_the_wait_for_threads(tmp_path: Path) -> None:
    with (
        Gunicorn(tmp_path, "threads:app", graceful_timeout=600) as server,
        begin(server, "plain", NEVER),
    ):
        [worker] = server.workers()
        server.kill(signal.SIGTERM)
        server.wait_for(rf"Worker exiting \(pid: {worker}\)")
        began = time.monotonic()
        os.kill(worker, signal.SIGQUIT)
        assert server.wait() == 0
        assert time.monotonic() - began < SOON
        assert server.events[-1] == "atexit"
        assert not server.lines("was sent")


@pytest.mark.gunicorn
def test_reload_does_not_wait_for_a_thread_longer_than_two_seconds(tmp_path: Path) -> None:
    path = tmp_path / "changing.py"
    path.write_text("from threads import *\n")
    paths = f"{Path(__file__).parent / 'apps'},{tmp_path}"
    settings = {
        "pythonpath": paths,
        "reload": True,
        "reload_engine": "poll",
        "graceful_timeout": 600,
    }
    with Gunicorn(tmp_path, "changing:app", **settings) as server, begin(server, "endpoint", NEVER):
        deadline = time.monotonic() + 60
        while not server.lines(
            "Worker reloading"
        ):  # the reloader does not see what changes before its first look
            os.utime(path, (time.time() + 10, time.time() + 10 + deadline - time.monotonic()))
            assert time.monotonic() < deadline
            time.sleep(0.5)
        began = time.monotonic()
        server.wait_for("on Gunicorn", 2)
        server.wait_for(LEFT.format(name=THREADS["endpoint"]))
        assert time.monotonic() - began < SOON
        assert not server.lines("was sent")


@pytest.mark.gunicorn
@pytest.mark.smoke
@pytest.mark.parametrize("preload", [False, True])
def test_an_atexit_handler_that_does_not_end_is_not_waited_for_longer(
    tmp_path: Path, preload: bool
) -> None:
    with Gunicorn(tmp_path, "threads:app", graceful_timeout=600, preload_app=preload) as server:
        server.get(f"/atexit/{NEVER}")
        began = time.monotonic()
        assert server.stop(signal.SIGQUIT) == 0
        assert time.monotonic() - began < SOON
        assert (
            len(
                server.lines(
                    r"\[WARNING\] An atexit handler of the application did not end in time$"
                )
            )
            == 1
        )
        assert server.events[-1] == "atexit"  # of the handler that is next
        assert not server.lines("was sent")


@pytest.mark.gunicorn
def test_an_atexit_handler_of_a_preloaded_application_has_the_same_limit(tmp_path: Path) -> None:
    """It is registered in the master, before any worker is there."""
    (tmp_path / "early.py").write_text(f"from threads import *\natexit.register(work, {NEVER})\n")
    paths = f"{Path(__file__).parent / 'apps'},{tmp_path}"
    with Gunicorn(
        tmp_path, "early:app", graceful_timeout=600, preload_app=True, pythonpath=paths
    ) as server:
        [worker] = server.workers()
        os.kill(worker, signal.SIGQUIT)
        wait_until_gone(worker)
        assert server.lines(
            r"\[WARNING\] An atexit handler of the application did not end in time$"
        )
        os.kill(server.pid, signal.SIGKILL)  # its own handler does not end either


@pytest.mark.gunicorn
@pytest.mark.skipif(
    GUNICORN_VERSION < (25, 0), reason="this Gunicorn does not hear INT while it stops"
)
def test_after_a_drain_that_quit_has_cut_short_the_arbiter_need_not_kill(tmp_path: Path) -> None:
    """It kills two seconds after the signal, and lifespan.shutdown has had one of them."""
    (tmp_path / "slow.py").write_text(
        "import asyncio, threads\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] != 'lifespan':\n"
        "        return await threads.app(scope, receive, send)\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.complete'})\n"
        "    await receive()\n"
        "    await asyncio.sleep(0.9)\n"
        "    await send({'type': 'lifespan.shutdown.complete'})\n"
    )
    paths = f"{Path(__file__).parent / 'apps'},{tmp_path}"
    with (
        Gunicorn(tmp_path, "slow:app", graceful_timeout=600, pythonpath=paths) as server,
        begin(server, "endpoint", NEVER),
    ):
        server.kill(signal.SIGTERM)
        server.wait_until_refused()
        server.kill(signal.SIGINT)
        assert server.wait() == 0
        assert server.events[-1] == "atexit"
        assert not server.lines("was sent SIGKILL")


@pytest.mark.gunicorn
def test_abrt_ends_the_wait_for_threads(tmp_path: Path) -> None:
    with (
        Gunicorn(tmp_path, "threads:app", graceful_timeout=600) as server,
        begin(server, "plain", NEVER),
    ):
        [worker] = server.workers()
        os.kill(worker, signal.SIGTERM)
        server.wait_for(rf"Worker exiting \(pid: {worker}\)")
        time.sleep(0.5)  # from here to the wait itself it is a step without a trace
        os.kill(worker, signal.SIGABRT)
        server.wait_for("on Gunicorn", 2)
        assert server.lines(rf"Worker \(pid:{worker}\) exited with code 1\.$")
        assert server.lines(LEFT.format(name="ledger"))
        assert not server.lines("has not turned|Traceback|was sent")
