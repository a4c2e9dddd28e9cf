"""A worker whose loop is stuck: the warning while it is, and the report and the exit when the arbiter gives it up (see `gunicorn_asgi.observe.stalls`)."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from process import LOOPS, NOTE, Gunicorn, is_alive, poll, wait_until_gone

pytestmark = pytest.mark.gunicorn

HOOKS = (
    NOTE
    + """
def worker_abort(worker):
    note("worker_abort")

def worker_exit(server, worker):
    note("worker_exit")
"""
)
# A heartbeat every second, so whatever takes 1.2 s is warned of. The arbiter has no part in it, and so no say in how fast all has to go.
QUICK: dict[str, Any] = {"options": {"stall_warning": 0.2}, "timeout": 3600}
LATE = r"\] The event loop has not turned for \d+\.\d s"
ABORTED = r"\] Aborted: the event loop has not turned for \d+\.\d s"
DUMP = "Fatal Python error"
CORES = resource.getrlimit(resource.RLIMIT_CORE)[1]


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def record(server: Gunicorn, pattern: str) -> str:
    """The one record of the error log that begins so, all its lines."""
    matches = re.findall(rf"^\[(?=.*{pattern}).*\n(?:[^\[\n].*\n)*", server.log, re.MULTILINE)
    assert len(matches) == 1, server.log
    return str(matches[0])


def block(server: Gunicorn, way: str) -> None:
    """Have the loop blocked."""
    with server.connect() as client:
        client.get(f"/{way}")
        server.wait_for_event(f"{way} begun")


def abort(server: Gunicorn) -> None:
    """As the arbiter does it, but nothing follows. Waits until the worker is replaced."""
    os.kill(server.workers()[0], signal.SIGABRT)
    server.wait_for("on Gunicorn", 2)


# ABRT.


@pytest.mark.smoke
@pytest.mark.parametrize("app", ["main:app", "starlette_app:app"])
def test_a_worker_that_is_idle_at_abrt_shuts_down_and_says_no_more_than_what_it_did(
    tmp_path: Path, loop: str, app: str
) -> None:
    """As for an operator who sends it by hand."""
    with Gunicorn(tmp_path, app, asgi_loop=loop, config=HOOKS) as server:
        [worker] = server.workers()
        server.get("/hello")
        poll(
            lambda: Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] == "S",
            "the end of all work",
        )
        abort(server)
        assert server.lines(rf"Worker \(pid:{worker}\) exited with code 1\.$")
        assert server.events.count("worker_abort") == server.events.count("worker_exit") == 1
        assert server.lines(r"\[CRITICAL\] Aborted, although the event loop is not blocked$")
        assert not server.lines("Traceback|SystemExit|was sent|lifespan")


def test_a_worker_is_warned_of_and_then_aborted_with_a_report(tmp_path: Path, loop: str) -> None:
    """With the defaults: all that is below, in its order."""
    with Gunicorn(tmp_path, "blocking:app", asgi_loop=loop, config=HOOKS, timeout=3) as server:
        block(server, "sleep")
        server.wait_for("on Gunicorn", 2)
        words = ["has not turned", "WORKER TIMEOUT", "Aborted: the event loop"]
        assert sorted(words, key=server.log.index) == words
        for pattern in (LATE, ABORTED):
            assert "    time.sleep(3600)\nRunning requests: 1\n  GET /sleep for " in record(
                server, pattern
            )
        assert "worker_abort" in server.events


@pytest.mark.smoke
def test_the_report_tells_what_holds_the_loop_and_what_waits_for_it(
    tmp_path: Path, loop: str
) -> None:
    with (
        Gunicorn(tmp_path, "blocking:app", asgi_loop=loop, config=HOOKS, **QUICK) as server,
        server.connect() as waiting,
    ):
        [pid] = server.workers()
        waiting.get("/wait?secret")
        server.wait_for_event("wait begun")
        with server.connect() as gone:
            gone.get("/answered")
            assert gone.read_response()[0] == 200
        block(server, "sleep")
        server.wait_for(LATE)
        abort(server)
        report = record(server, ABORTED)
        assert re.search(rf"\[{pid}\] \[CRITICAL\] Aborted: .*, in GET /sleep\. ", report)
        lines = report.splitlines()
        assert lines[4].strip() == "time.sleep(3600)"
        requests = lines[lines.index("Running requests: 3") + 1 :][:3]
        ages = [float(re.findall(r" for (\d+\.\d) s, ", line)[0]) for line in requests]
        # The last has not got beyond its first step: all that is known is that the loop has turned before.
        assert ages[0] >= ages[1]
        assert ages[2] >= 1.2
        held, waits, answered = sorted(
            requests, key=lambda line: ["/sleep", "/wait", "/answered"].index(line.split()[1])
        )
        assert held.endswith(", which holds the loop")
        assert re.search(r" > blocking:\d+ app > blocking:\d+ wait > blocking:\d+ inner$", waits)
        assert re.search(
            r" > blocking:\d+ app > ", answered
        )  # and what it waits in, which is asyncio's
        assert re.search(r"^  ledger, in blocking:\d+ keep > ", report, re.MULTILINE)
        assert re.search(r"^  lifespan, in ", report, re.MULTILINE)
        assert not re.search(
            r"^  .*gunicorn_asgi\.(worker|server)|^  gunicorn_asgi ", report, re.MULTILINE
        )  # the worker's own
        assert "secret" not in report
        assert server.lines(rf"Worker \(pid:{pid}\) exited with code 1")
        assert [event for event in server.events if event.startswith("worker_")] == [
            "worker_abort",
            "worker_exit",
        ]
        assert DUMP not in server.log + server.output  # it would only repeat


@pytest.mark.smoke
@pytest.mark.parametrize("way", ["python", "lock", "child", "with_thread"])
def test_whatever_lets_the_interpreter_run_is_warned_of_and_reported(
    tmp_path: Path, way: str
) -> None:
    with Gunicorn(tmp_path, "blocking:app", config=HOOKS, **QUICK) as server:
        block(server, way)
        server.wait_for(LATE)
        abort(server)
        for pattern in (LATE, ABORTED):
            text = record(server, pattern)
            assert re.search(r", in (work|python|lock|with_thread)$", text, re.MULTILINE)
            assert re.search(
                r"^  (work|GET /\w+ for .* s), which holds the loop$", text, re.MULTILINE
            )
            assert ("  behind, in " in text) == (way == "with_thread")
        assert server.lines("exited with code 1")
        assert "worker_abort" in server.events
        assert DUMP not in server.log


def test_c_code_that_asks_for_signals_is_reported(tmp_path: Path) -> None:
    """It has not let the thread that warns have a turn, so ABRT shows the stack twice."""
    with Gunicorn(tmp_path, "blocking:app", config=HOOKS, **QUICK) as server:
        block(server, "regex")
        abort(server)
        assert '    BACKTRACKING.match("a" * 100)\nRunning requests: 1\n' in record(server, ABORTED)
        assert server.lines("exited with code 1")
        assert "worker_abort" in server.events
        assert not server.lines(LATE)
        assert server.lines(DUMP)


def test_c_code_that_lets_go_of_the_interpreter_is_warned_of(tmp_path: Path) -> None:
    """As drivers of databases do. It does not ask for signals, so the arbiter would have to kill."""
    with Gunicorn(tmp_path, "blocking:app", **QUICK) as server:
        block(server, "digest")
        server.wait_for(LATE)
        server.wait_for("^  GET /digest for ")
        assert 'hashlib.pbkdf2_hmac("sha256"' in record(server, LATE)
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_for("on Gunicorn", 2)


@pytest.mark.smoke
def test_c_code_that_never_lets_go_has_its_stack_written_from_c(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "blocking:app", **QUICK) as server:
        [pid] = server.workers()
        server.bind = "{}:{}".format(*server.address)  # it is read from the log, which goes now
        old = server.error_log.rename(tmp_path / "old.log")
        server.kill(signal.SIGUSR1)
        if sys.platform == "linux":
            fds = Path(f"/proc/{pid}/fd")
            poll(
                lambda: old not in [fd.readlink() for fd in fds.iterdir()],
                "the reopening of the log",
            )
        block(server, "c_code")
        os.kill(pid, signal.SIGABRT)
        server.wait_for(r"blocking\.py\b.* in c_code$")
        os.kill(pid, signal.SIGKILL)
        server.wait_for("on Gunicorn")
        assert server.lines(f"^{DUMP}: Aborted$")
        assert DUMP not in old.read_text()


@pytest.mark.smoke
def test_a_crash_leaves_its_stack_in_the_log(tmp_path: Path) -> None:
    with Gunicorn(
        tmp_path,
        "blocking:app",
        config="import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    ) as server:
        os.kill(server.workers()[0], signal.SIGSEGV)
        server.wait_for("on Gunicorn", 2)
        assert server.lines(f"^{DUMP}: Segmentation fault$")


def test_a_faulthandler_of_the_operators_own_is_left_alone(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "blocking:app", env={"PYTHONFAULTHANDLER": "1"}, **QUICK) as server:
        block(server, "sleep")
        server.wait_for(LATE)
        os.kill(server.workers()[0], signal.SIGSEGV)
        server.wait_for("on Gunicorn", 2)
        assert f"{DUMP}: Segmentation fault" in server.output
        assert DUMP not in server.log


def test_a_stuck_log_does_not_keep_the_worker_from_leaving(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "blocking:app", config=HOOKS, **QUICK) as server:
        block(server, "log")
        abort(server)
        assert "sleep()" in record(server, ABORTED[4:])
        assert "worker_abort" in server.events
        assert server.lines("exited with code 1")


@pytest.mark.skipif(CORES == 0, reason="core dumps are not allowed here")
def test_abort_leaves_no_core_dump(tmp_path: Path) -> None:
    config = f"import resource\nresource.setrlimit(resource.RLIMIT_CORE, ({CORES}, {CORES}))\n"
    with Gunicorn(tmp_path, "blocking:app", config=config, **QUICK) as server:
        block(server, "sleep")
        abort(server)
        assert server.lines("exited with code 1")
        assert not list(tmp_path.glob("*core*"))


def test_an_abort_without_the_warning_is_reported_all_the_same(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "blocking:app", options={"stall_warning": 0}, timeout=3600) as server:
        block(server, "sleep")
        abort(server)
        assert "time.sleep(3600)" in record(server, ABORTED)


# The warning.


def test_a_stall_is_warned_of_once_and_its_end_told(tmp_path: Path, loop: str) -> None:
    # A heartbeat every second, so whatever takes 1.5 s has to be seen.
    options, env = {"stall_warning": 0.5}, {"TEST_BLOCK_AWHILE": "2.5"}
    with Gunicorn(
        tmp_path, "blocking:app", asgi_loop=loop, options=options, env=env, timeout=60
    ) as server:
        for number in (1, 2):
            assert server.get("/awhile").status_code == 200
            ends = server.wait_for(
                r"\[WARNING\] The event loop turns again, after (1\.[6-9]|[2-9]\.\d|\d\d\.\d) s$",
                number,
            )
            warnings = server.lines(
                r"\[WARNING\] The event loop has not turned for \d+\.\d s, in GET /awhile\. "
            )
            assert len(warnings) == len(ends) == number
        assert (
            server.log.count('    time.sleep(float(os.environ.get(f"TEST_BLOCK_{phase}", "0")))')
            == 2
        )
        assert not server.lines("WORKER TIMEOUT")


def test_c_code_that_has_kept_the_interpreter_is_warned_of_when_it_returns(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "blocking:app", env={"TEST_BLOCK_AWHILE": "2.5"}, **QUICK) as server:
        assert server.get("/held").status_code == 200
        server.wait_for("turns again")
        assert "ctypes.PyDLL(None).usleep(" in record(server, LATE)


def test_the_warning_concerns_the_loop_from_startup_to_shutdown_and_not_the_import(
    tmp_path: Path,
) -> None:
    env = {"TEST_BLOCK_IMPORT": "2.5", "TEST_BLOCK_STARTUP": "2.5", "TEST_BLOCK_SHUTDOWN": "2.5"}
    with Gunicorn(
        tmp_path, "blocking:app", options={"stall_warning": 0.5}, env=env, timeout=60
    ) as server:
        assert len(server.lines(LATE)) == 1
        assert server.stop() == 0
        assert len(server.lines(LATE)) == 2
        assert server.log.count('block("STARTUP")') == server.log.count('block("SHUTDOWN")') == 1
        assert 'block("IMPORT")' not in server.log


@pytest.mark.parametrize(
    ("options", "timeout", "watched"),
    [
        ({}, 30, True),
        ({"stall_warning": 0}, 30, False),
        ({}, 0, False),
        ({"stall_warning": 5}, 0, True),
    ],
)
def test_there_is_a_thread_only_where_the_warning_is_on(
    tmp_path: Path, options: dict[str, float], timeout: int, watched: bool
) -> None:
    with Gunicorn(
        tmp_path, "blocking:app", options=options, timeout=timeout, preload_app=True
    ) as server:
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
