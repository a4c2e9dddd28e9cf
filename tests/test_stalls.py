"""A worker whose loop is stuck: the warning while it is, and the report and the exit when the arbiter gives it up (see `gunicorn_asgi.stalls`)."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
from pathlib import Path

import pytest
from process import LOOPS, NOTE, Gunicorn, is_alive, poll, wait_until_gone

HOOKS = (
    NOTE
    + """
def worker_abort(worker):
    note("worker_abort")

def worker_exit(server, worker):
    note("worker_exit")
"""
)
TIMEOUT = 3
LATE = r"\] The event loop has not turned for (\d+\.\d) s"
ABORTED = r"\] Aborted: the event loop has not turned for (\d+\.\d) s"
CORES = resource.getrlimit(resource.RLIMIT_CORE)[1]


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def record(server: Gunicorn, pattern: str) -> str:
    """The one record of the error log that begins so, all its lines."""
    found = re.findall(rf"^\[.*{pattern}(?:.*\n)(?:[^\[\n].*\n)*", server.log, re.MULTILINE)
    assert len(found) == 1 or not found, server.log
    matches = list(re.finditer(rf"^\[[^\n]*{pattern}[^\n]*\n(?:[^\[\n][^\n]*\n)*", server.log, re.MULTILINE))
    assert len(matches) == 1, server.log
    return matches[0][0]


def block(server: Gunicorn, way: str) -> None:
    """Have the loop blocked, and wait until the worker is replaced."""
    with server.connect() as client:
        client.get(f"/{way}")
        server.wait_for_event(f"{way} begun")
        server.wait_for("on Gunicorn", 2)


# ABRT.


def test_abort_tells_what_holds_the_loop_and_what_waits_for_it(tmp_path: Path, loop: str) -> None:
    with Gunicorn(tmp_path, "blocking:app", asgi_loop=loop, config=HOOKS, timeout=TIMEOUT) as server, server.connect() as waiting:
        [pid] = server.workers()
        waiting.get("/wait?secret")
        server.wait_for_event("wait begun")
        with server.connect() as gone:
            gone.get("/answered")
            assert gone.read_response()[0] == 200
        block(server, "sleep")
        report = record(server, ABORTED)
        assert re.search(rf"\[{pid}\] \[CRITICAL\] Aborted: .*, in GET /sleep\. ", report)
        lines = report.splitlines()
        assert lines[4].strip() == "time.sleep(3600)"
        requests = lines[lines.index("Running requests: 3") + 1 :][:3]
        ages = [float(re.search(r" for (\d+\.\d) s, ", line)[1]) for line in requests]  # type: ignore[index]
        assert ages == sorted(ages, reverse=True)
        assert min(ages) > TIMEOUT / 2
        assert re.search(r"GET /wait for .* > blocking:\d+ wait > asyncio\.tasks:\d+ sleep$", "\n".join(requests), re.MULTILINE)
        assert re.search(r"GET /answered for ", "\n".join(requests))
        assert re.search(r"GET /sleep for .* s, which holds the loop$", "\n".join(requests), re.MULTILINE)
        assert re.search(r"^  heartbeat, in ", report, re.MULTILINE)
        assert "secret" not in report
        assert server.lines(rf"Worker \(pid:{pid}\) exited with code 1")
        assert [event for event in server.events if event.startswith("worker_")] == ["worker_abort", "worker_exit"]
        assert "Fatal Python error" not in server.log + server.output


@pytest.mark.parametrize("way", ["python", "lock", "regex", "child", "with_thread"])
def test_abort_is_handled_wherever_the_interpreter_is_asked(tmp_path: Path, way: str) -> None:
    with Gunicorn(tmp_path, "blocking:app", config=HOOKS, timeout=TIMEOUT) as server:
        block(server, way)
        report = record(server, ABORTED)
        assert re.search(r", in (work|python|lock|regex|with_thread)$", report, re.MULTILINE)
        assert re.search(r"^  (work|GET /\w+ for .* s), which holds the loop$", report, re.MULTILINE)
        assert ("  behind, in " in report) == (way == "with_thread")
        assert server.lines("exited with code 1")
        assert "worker_abort" in server.events
        assert not server.lines("SIGKILL")
        if way != "regex":  # which has not let the thread that warns have a turn
            assert server.log.index("has not turned") < server.log.index("WORKER TIMEOUT")
            assert "Fatal Python error" not in server.log


def test_what_does_not_return_to_the_interpreter_has_been_warned_of(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "blocking:app", config=HOOKS, timeout=TIMEOUT) as server:
        block(server, "digest")
        warning = record(server, LATE)
        assert 'hashlib.pbkdf2_hmac("sha256"' in warning
        assert "  GET /digest for " in warning
        assert server.lines("SIGKILL")


def test_the_stack_of_what_never_lets_go_of_the_interpreter_comes_from_c(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "blocking:app", timeout=TIMEOUT) as server:
        [pid] = server.workers()
        address = server.address  # from the log, which goes now
        old = server.error_log.rename(tmp_path / "old.log")
        server.bind = f"{address[0]}:{address[1]}"
        server.kill(signal.SIGUSR1)
        if sys.platform == "linux":
            fds = Path(f"/proc/{pid}/fd")
            poll(lambda: str(old) not in [os.readlink(fd) for fd in fds.iterdir()], "the reopening of the log")
        with server.connect() as client:
            client.get("/c_code")
            server.wait_for("on Gunicorn")
        dump = server.log.partition("Fatal Python error: Aborted\n")[2]
        assert re.search(r"^  File .*blocking.py\", line \d+ in c_code$", dump, re.MULTILINE)
        assert "Fatal" not in old.read_text()


def test_a_crash_leaves_its_stack_in_the_log(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "blocking:app", config="import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))") as server:
        [pid] = server.workers()
        os.kill(pid, signal.SIGSEGV)
        server.wait_for("on Gunicorn", 2)
        assert server.lines("^Fatal Python error: Segmentation fault$")


def test_a_stuck_log_does_not_keep_the_worker_from_leaving(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "blocking:app", config=HOOKS, timeout=TIMEOUT) as server:
        block(server, "log")
        assert server.lines(ABORTED[4:])
        assert "worker_abort" in server.events
        assert server.lines("exited with code 1")


@pytest.mark.skipif(CORES == 0, reason="core dumps are not allowed here")
def test_abort_leaves_no_core_dump(tmp_path: Path) -> None:
    config = f"{HOOKS}\nimport resource\nresource.setrlimit(resource.RLIMIT_CORE, ({CORES}, {CORES}))\n"
    with Gunicorn(tmp_path, "blocking:app", config=config, timeout=1) as server:
        [pid] = server.workers()
        block(server, "sleep")
        assert not list(tmp_path.glob("*core*"))
        assert server.lines(rf"Worker \(pid:{pid}\) exited with code 1")
        assert [event for event in server.events if event.startswith("worker_")] == ["worker_abort", "worker_exit"]


def test_an_abort_without_the_warning_reports_all_the_same(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "blocking:app", options={"stall_warning": 0}, timeout=1) as server:
        block(server, "sleep")
        assert "time.sleep(3600)" in record(server, ABORTED)
        assert not server.lines(LATE)


# The warning.


def test_a_stall_is_warned_of_once_and_its_end_told(tmp_path: Path, loop: str) -> None:
    # A heartbeat every second, so whatever takes 1.5 s has to be seen.
    options, env = {"stall_warning": 0.5}, {"TEST_BLOCK_AWHILE": "1.6"}
    with Gunicorn(tmp_path, "blocking:app", asgi_loop=loop, options=options, env=env, timeout=60) as server:
        for number in (1, 2):
            assert server.get("/awhile").status_code == 200
            ends = server.wait_for(r"\[WARNING\] The event loop turns again, after (1\.[6-9]|[2-9]\.\d|\d\d\.\d) s$", number)
            warnings = server.lines(r"\[WARNING\] The event loop has not turned for \d+\.\d s, in GET /awhile\. ")
            assert len(warnings) == len(ends) == number
        assert server.log.count('    time.sleep(float(os.environ.get(f"TEST_BLOCK_{phase}", "0")))') == 2
        assert not server.lines("WORKER TIMEOUT")


def test_the_warning_concerns_the_loop_from_startup_to_shutdown_and_not_the_import(tmp_path: Path) -> None:
    env = {"TEST_BLOCK_IMPORT": "1.6", "TEST_BLOCK_STARTUP": "1.6", "TEST_BLOCK_SHUTDOWN": "1.6"}
    with Gunicorn(tmp_path, "blocking:app", options={"stall_warning": 0.5}, env=env, timeout=60) as server:
        assert len(server.lines(LATE)) == 1
        assert server.stop() == 0
        assert len(server.lines(LATE)) == 2
        assert server.log.count('block("STARTUP")') == server.log.count('block("SHUTDOWN")') == 1
        assert 'block("IMPORT")' not in server.log


@pytest.mark.parametrize(
    ("options", "timeout", "watched"),
    [({}, 30, True), ({"stall_warning": 0}, 30, False), ({}, 0, False), ({"stall_warning": 5}, 0, True)],
)
def test_there_is_a_thread_only_where_the_warning_is_on(tmp_path: Path, options: dict[str, float], timeout: int, watched: bool) -> None:
    with Gunicorn(tmp_path, "blocking:app", options=options, timeout=timeout, preload_app=True) as server:
        assert ("gunicorn_asgi stalls" in server.get("/threads").text) == watched
        assert server.stop() == 0
        assert not server.lines("WARNING|ERROR|CRITICAL")


def test_a_worker_that_was_stopped_and_continued_goes_on(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "blocking:app", options={"stall_warning": 0.1}, timeout=60) as server:
        [pid] = server.workers()
        os.kill(pid, signal.SIGSTOP)
        with server.connect() as client:
            client.get("/threads")
            client.sock.settimeout(2)
            with pytest.raises(TimeoutError):
                client.sock.recv(1)
            os.kill(pid, signal.SIGCONT)
            client.sock.settimeout(30)
            assert client.read_response()[0] == 200
        assert server.workers() == [pid]
        assert is_alive(pid)
        assert server.stop() == 0
        wait_until_gone(pid)
