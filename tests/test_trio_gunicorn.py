"""The process of a worker whose application runs on trio: signals, exits, crashes, and what the log says of its tasks (see docs/trio.md)."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from process import LOOPS, NOTE, Connection, Gunicorn, wait_until_gone
from test_metrics_gunicorn import Page
from test_worker import change_until

pytest.importorskip("trio")

HOOKS = NOTE + "\ndef worker_exit(server, worker):\n    note('worker_exit')\n"
NEVER = 3600
"""Seconds that no test waits."""
SOON = 60.0
"""Seconds that are long for a quick exit, however busy the machine is, and short beside NEVER."""
STUBBORN = ("shield", "thread", "deaf")
"""The routes that go on when they are cancelled."""


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def on_trio(directory: Path, app: str = "trio_app:app", **given: Any) -> Gunicorn:
    options = {"async_library": "trio", **given.pop("options", {})}
    return Gunicorn(directory, app, options=options, config=HOOKS, **given)


def begin(server: Gunicorn, route: str, seconds: float = NEVER) -> Connection:
    """Have a request running. Returns its connection; to be closed."""
    client = server.connect()
    count = server.events.count(f"{route} begun")
    client.get(f"/{route}/{seconds}")
    server.wait_for_event(f"{route} begun", count + 1)
    return client


# Signals.


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_term_lets_requests_finish_and_names_those_that_cannot_be_cancelled_in_time(
    tmp_path: Path, loop: str
) -> None:
    with on_trio(tmp_path, asgi_loop=loop, graceful_timeout=3) as server:
        assert server.lines(rf": loop {loop}, .*, application on trio$")
        clients = {route: begin(server, route) for route in ("sleep", *STUBBORN)}
        with begin(server, "sleep", 0.5) as short:
            assert server.stop() == 0
            assert b"200 OK" in short.read_all()
        for client in clients.values():
            assert client.read_all() == b""  # the response does not look whole
            client.sock.close()
        assert server.lines("4 applications running, at the end of graceful_timeout$")
        [line] = server.lines("did not end in time")
        assert re.search(
            r"\[WARNING\] Tasks of the application that did not end in time: 3 \((GET /.*){3}\)$",
            line,
        )
        for route in STUBBORN:
            assert re.search(rf"GET /{route}/{NEVER}, in [^;]* > trio_app:\d+ {route} > trio", line)
        assert server.events[-2:] == ["shutdown", "worker_exit"]
        assert not server.lines("was sent|ERROR|Traceback")
        assert server.output == ""


@pytest.mark.gunicorn
def test_a_run_with_a_thread_of_its_own_has_its_tasks_named_and_is_given_up_in_silence(
    tmp_path: Path,
) -> None:
    """As with a trio whose loop cannot be joined with asyncio's (see `asgi.trio_loop`)."""
    (tmp_path / "threaded.py").write_text(
        "from trio_app import app\n"
        "from gunicorn_asgi.asgi import trio_loop\n"
        "trio_loop.is_known = lambda guest: False\n"
    )
    paths = f"{Path(__file__).parent / 'apps'},{tmp_path}"
    settings = {"pythonpath": paths, "graceful_timeout": 2, "options": {"request_timeout": 1}}
    with (
        on_trio(tmp_path, "threaded:app", **settings) as server,
        begin(server, "shield"),
        begin(server, "deaf"),
        server.connect() as overdue,
    ):
        overdue.get(f"/wait/{NEVER}")
        assert overdue.read_response()[0] == 503
        assert server.lines(
            r"GET /wait/\d+ has run for \d+\.\d s and is cancelled\. It was in .* > trio_app:\d+ wait > "
            r"trio\._core\._run:\d+ \w+; its task errand, in trio_app:\d+ sleep > trio\._timeouts:\d+ sleep$"
        )
        assert server.stop() == 0
        assert server.lines("Tasks of the application that did not end in time: 2 ")
        assert not server.lines("was sent|ERROR|Traceback")
        assert server.output == ""


@pytest.mark.gunicorn
@pytest.mark.smoke
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
def test_quit_and_int_wait_for_no_task(tmp_path: Path, number: int) -> None:
    loop = LOOPS[0] if number == signal.SIGQUIT else LOOPS[-1]
    with (
        on_trio(tmp_path, asgi_loop=loop, graceful_timeout=600) as server,
        begin(server, "sleep"),
        begin(server, "shield"),
        begin(server, "thread"),
    ):
        began = time.monotonic()
        if number == signal.SIGINT:
            os.killpg(server.pid, number)  # Ctrl-C
        else:
            server.kill(number)
        assert server.wait() == 0
        assert time.monotonic() - began < SOON
        assert server.lines("Tasks of the application that did not end in time: 2 ")
        assert server.events[-2:] == ["shutdown", "worker_exit"]
        assert not server.lines("was sent|ERROR|Traceback")
        assert server.output == ""


@pytest.mark.gunicorn
def test_hup_and_max_requests_replace_workers_and_lose_no_request(tmp_path: Path) -> None:
    with on_trio(tmp_path, max_requests=5, graceful_timeout=60) as server:
        [first] = server.workers()
        with begin(server, "sleep", 1) as running:
            seen = {int(server.get("/pid").text) for _ in range(4)}
            assert seen == {first}
            deadline = time.monotonic() + SOON
            while len(seen) < 2:  # the old worker serves until the new one does
                assert time.monotonic() < deadline
                seen.add(int(server.get("/pid").text))
            assert b"200 OK" in running.read_all()
        wait_until_gone(first)
        second = server.workers()[-1]
        server.configure(max_requests=0)
        with begin(server, "sleep", 1) as running:
            server.kill(signal.SIGHUP)
            assert b"200 OK" in running.read_all()
        wait_until_gone(second)
        assert int(server.get("/pid").text) not in {first, second}
        assert server.stop() == 0
        starts = [event for event in server.events if event.startswith("startup")]
        assert len(starts) == server.events.count("shutdown") >= 3
        assert not server.lines("was sent|WARNING|ERROR")
        assert server.output == ""


@pytest.mark.gunicorn
def test_reload_shows_an_application_that_does_not_start_until_it_is_mended(
    tmp_path: Path,
) -> None:
    path = tmp_path / "changing.py"
    path.write_text(
        "import trio\n"
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await trio.sleep(0)\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
    )
    paths = f"{Path(__file__).parent / 'apps'},{tmp_path}"
    with on_trio(
        tmp_path, "changing:app", pythonpath=paths, reload=True, reload_engine="poll"
    ) as server:
        response = server.get("/pid")
        assert response.status_code == 500
        assert "no database" in response.text
        mended = "from trio_app import ROUTES, app\nasync def pid():\n    return 1234567\n"
        change_until(server, path, f"{mended}ROUTES['pid'] = pid\n", "1234567")
        assert not server.lines("was sent|Worker failed to boot")


# Ends of a worker by its application.


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_an_exit_ends_its_worker_wherever_in_trio_it_is_raised(tmp_path: Path, loop: str) -> None:
    ways = [
        ("leave", 7, 7),
        ("leave", 3, 1),  # with 3, the master would stop
        ("interrupt", 1, 1),
        ("leave_in_child", 7, 7),
        ("leave_in_background", 7, 7),
        ("leave_in_system_task", 7, 7),
        ("crash", 1, 1),
    ]
    with on_trio(tmp_path, asgi_loop=loop) as server:
        for count, (way, code, shown) in enumerate(ways, 2):
            [worker] = server.workers()
            with begin(server, "sleep") as running, server.connect() as client:
                client.get(f"/{way}/{code}")
                client.read_all()
                status = running.read_all()[:12]
                # Cancelled by this package, or by trio's end.
                assert status in (b"", b"HTTP/1.1 500"), way
            server.wait_for("on Gunicorn", count)
            assert server.lines(rf"Worker \(pid:{worker}\) exited with code {shown}\.$"), way
        assert server.events.count("worker_exit") == len(ways)
        ended = r"\[ERROR\] trio was ended by {}, raised outside of all requests and the lifespan: "
        assert len(server.lines(ended.format(r"SystemExit\(7\)"))) == 1
        assert len(server.lines(ended.format(r"ValueError\('out of place'\)"))) == 1
        assert server.log.count("Traceback") == 1  # of the ValueError, which is a fault
        assert server.stop() == 0
        assert not server.lines("was sent|Exception in worker process|did not end in time")
        assert server.output == ""


@pytest.mark.gunicorn
@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("leave_in_child", r"ASGI lifespan\.startup raised SystemExit\(5\)$"),
        ("leave_in_system_task", r"trio was ended by SystemExit\(5\), "),
        ("crash", r"trio was ended by ValueError\('out of place'\), "),
    ],
)
def test_an_exit_in_the_startup_is_a_failed_boot_and_its_reason_in_the_log(
    tmp_path: Path, way: str, reason: str
) -> None:
    """Also with asgi_lifespan = auto. Otherwise it would be tried again without end."""
    with on_trio(tmp_path, env={"TEST_STARTUP": way}, wait=False) as server:
        assert server.wait() == 3
        assert server.lines(rf"\[ERROR\] {reason}")
        assert not server.lines("on Gunicorn|serving without lifespan")
        assert server.output == ""


# Reports.


def record(server: Gunicorn, pattern: str) -> str:
    """The first record of the error log that begins so, all its lines."""
    found = re.search(rf"^\[(?=.*{pattern}).*\n(?:[^\[\n].*\n)*", server.log, re.MULTILINE)
    assert found is not None
    return found[0]


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_reports_name_the_tasks_of_trio_and_where_they_wait(tmp_path: Path, loop: str) -> None:
    options = {"stall_warning": 0.2, "metrics_bind": "127.0.0.1:0"}
    waits = r"  GET /wait/\d+ for \d+\.\d s, in .* > trio_app:\d+ wait > trio\._core\._run:\d+ \w+$"
    errand = r"    its task errand, in trio_app:\d+ sleep > trio\._timeouts:\d+ sleep$"
    with (
        on_trio(tmp_path, asgi_loop=loop, options=options, timeout=NEVER) as server,
        server.connect() as waiting,
        server.connect() as blocking,
    ):
        waiting.get(f"/wait/{NEVER}")
        server.wait_for_event("sleep begun")
        page = Page(server).get("/requests").text  # whose own server runs on asyncio
        assert re.search(rf"^Running requests: 1\n{waits}\n{errand}", page, re.MULTILINE)
        blocking.get(f"/block_in_child/{NEVER}")
        server.wait_for(r"\] The event loop has not turned for ")
        server.wait_for("^Other tasks: ")
        [worker] = server.workers()
        os.kill(worker, signal.SIGABRT)
        server.wait_for("on Gunicorn", 2)
        for pattern in (r"\] The event", r"\] Aborted: the event"):
            report = record(server, pattern)
            lines = report.splitlines()
            assert re.search(r", in GET /block_in_child/\d+, in its task grinder\. ", lines[0])
            assert lines[1].endswith(" in block")  # and no call of trio that has led there
            assert lines[2] == "    time.sleep(float(seconds))"
            assert re.search(rf"{waits}\n{errand}", report, re.MULTILINE)
            assert re.search(
                r"^  GET /block_in_child/.*__aexit__\n"
                r"    its task grinder, which holds the loop\n"
                r"    its task trio_app\.keep, in trio_app:\d+ keep > trio\._timeouts:\d+ sleep_forever\n"
                r"Other tasks: 2\n"
                r"  ledger, in trio_app:\d+ keep > trio\._timeouts:\d+ sleep_forever\n"
                r"  lifespan, in .* > trio_app:\d+ lifespan > gunicorn_asgi\.asgi\.lifespan:\d+ _receive ",
                report,
                re.MULTILINE,
            ), report
        assert server.lines(rf"Worker \(pid:{worker}\) exited with code 1\.$")
        # A task of the lifespan.
        with server.connect() as client:
            client.get(f"/block_in_background/{NEVER}")
            server.wait_for("^  grinder, which holds the loop$")


# The boot.


@pytest.mark.gunicorn
@pytest.mark.parametrize("args", [(), ("--check-config",)], ids=["boot", "--check-config"])
def test_a_trio_that_cannot_be_imported_stops_the_boot_with_one_sentence(
    tmp_path: Path, args: tuple[str, ...]
) -> None:
    (tmp_path / "trio").mkdir()
    (tmp_path / "trio" / "__init__.py").write_text("raise TypeError('not on this Python')\n")
    (tmp_path / "plain.py").write_text("async def app(scope, receive, send): ...\n")
    with on_trio(tmp_path, "plain:app", pythonpath=str(tmp_path), args=args, wait=False) as server:
        assert server.wait() == 1
        [line] = [
            line
            for line in (server.log + server.output).splitlines()
            if re.search("ERROR|Error: ", line)
        ]
        version = ".".join(map(str, sys.version_info[:3]))
        assert re.search(
            r"(\[ERROR\]|Error:) Invalid value for option async_library: 'trio' needs trio 0\.25 or "
            rf"newer, and it cannot be imported on \w+ {re.escape(version)}: "
            r"TypeError\('not on this Python'\); run pip install --upgrade 'gunicorn-asgi\[trio\]', "
            r"or use asyncio\.$",
            line,
        )
        assert "Traceback" not in server.log + server.output
