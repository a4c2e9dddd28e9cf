"""A worker that is replaced serves until a newer one serves in its place.

The releases of apps/deploying.py wait at a gate before they serve. While it is closed no new worker can serve, so whatever is answered then was
answered by the old ones. Nothing here depends on a time.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from certificates import make_authority
from gated import HANDS_OVER, NEW, NEWER, OLD, Gated
from process import BOOT_LINE, NOTE, free_address, is_alive, poll

pytestmark = pytest.mark.gunicorn
ASKED = 8
"""Requests, half of them on new connections, that have to be answered at a certain moment."""
FAILED = r"could not replace another.*go on serving"
COMPLAINTS = "WARNING|ERROR|CRITICAL|Traceback"

WAYS: dict[str, dict[str, Any]] = {
    "two workers": {"workers": 2},
    "reuse_port": {"workers": 2, "reuse_port": True, "bind": "127.0.0.1:"},
    "one worker over TLS": {"certfile": "", "keyfile": ""},
    "one worker on a unix socket": {"bind": "unix:"},
    "preload_app": {"preload_app": True, "gate_at": "startup"},
}


def serving(directory: Path, **settings: Any) -> Gated:
    if "certfile" in settings:
        pair = make_authority(directory, "localhost")
        settings.update(certfile=pair.certfile, keyfile=pair.keyfile)
    if settings.get("bind") == "unix:":
        settings["bind"] = f"unix:{directory}/socket"
    if settings.get("bind") == "127.0.0.1:":
        settings["bind"] = free_address()
    # No idle connection ends by itself.
    return Gated(directory, **{"keepalive": 60, "graceful_timeout": 60, **settings})


def answering(server: Gated) -> set[tuple[str, int]]:
    """Releases and pids that answer now, on new connections and on one that is kept."""
    with server.client() as client:
        return {server.ask(each) for each in (client, None) * (ASKED // 2)}


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.smoke) if way == "two workers" else way for way in WAYS])  # fmt: skip
def test_after_a_hup_the_old_workers_serve_until_the_new_ones_do(tmp_path: Path, way: str) -> None:
    settings = WAYS[way]
    count = settings.get("workers", 1)
    with serving(tmp_path, **settings) as server, server.client() as kept:
        old = server.workers()
        assert server.ask(kept)[1] in old
        server.deploy(NEW)
        server.kill(signal.SIGHUP)
        expected = OLD if "preload_app" in settings else NEW  # the master imports nothing anew
        server.wait_for_event(f"waiting {expected}", count * (2 if expected == OLD else 1))
        server.wait_for(HANDS_OVER, count)
        assert {release for release, _ in answering(server)} == {OLD}
        assert {pid for _, pid in answering(server)} <= set(old)
        assert server.ask(kept)[1] in old
        server.open_gate()
        server.wait_until_replaced(old)
        new = set(server.workers())
        assert len(new) == count
        assert {release for release, _ in answering(server)} == {expected}
        assert {pid for _, pid in answering(server)} <= new
        assert server.stop() == 0
        assert not server.lines(COMPLAINTS)


def test_at_max_requests_the_old_worker_serves_until_the_new_one_does(tmp_path: Path) -> None:
    with serving(tmp_path, max_requests=3) as server:
        [old] = server.workers()
        server.deploy(NEW)
        assert {server.ask() for _ in range(3)} == {(OLD, old)}
        server.wait_for_event(f"waiting {NEW}")
        server.wait_for(HANDS_OVER)
        assert answering(server) == {(OLD, old)}
        server.open_gate()
        server.wait_until_replaced([old])
        assert server.ask()[0] == NEW
        assert len(server.workers()) == 1
        assert server.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a process is read from /proc")
def test_of_two_workers_at_max_rss_one_is_replaced_after_the_other(tmp_path: Path) -> None:
    with serving(tmp_path, workers=2, options={"max_rss": 128 * 2**20}) as server:
        old = server.workers()
        server.deploy(NEW)
        grown: set[int] = set()
        poll(lambda: grown.add(server.ask(path="/grow")[1]) or len(grown) == 2, "both workers")
        server.wait_for_event(f"waiting {NEW}")
        assert {release for release, _ in answering(server)} == {OLD}
        assert all(map(is_alive, old))
        server.open_gate()
        server.wait_until_replaced(old)
        assert {release for release, _ in answering(server)} == {NEW}
        assert len(server.workers()) == 2
        assert server.stop() == 0
        order = re.findall(f"max_rss is reached|{BOOT_LINE}", server.log)
        assert [line.startswith("max_rss") for line in order] == [
            *(False, False),
            *(True, False),
            *(True, False),
        ]
        assert not server.lines(COMPLAINTS)


def test_at_max_lifetime_a_worker_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path, options={"max_lifetime": 1.0}) as server:
        old = server.workers()
        server.wait_until_replaced(old)
        release, pid = server.ask()
        assert release == OLD
        assert pid not in old
        assert server.lines("max_lifetime is reached")
        assert server.stop() == 0
        assert not server.lines(COMPLAINTS)


def test_a_second_hup_during_a_handover_replaces_the_workers_of_the_first(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        [old] = server.workers()
        server.deploy(NEW)
        server.kill(signal.SIGHUP)
        server.wait_for_event(f"waiting {NEW}")
        server.deploy(NEWER)
        server.kill(signal.SIGHUP)
        server.wait_for_event(f"waiting {NEWER}")
        assert answering(server) == {(OLD, old)}
        replaced = server.workers()[:-1]
        server.open_gate()
        server.wait_until_replaced(replaced)
        [newest] = server.workers()
        assert answering(server) == {(NEWER, newest)}
        assert server.stop() == 0
        assert not server.lines(COMPLAINTS)


def test_a_hup_replaces_the_workers_of_the_one_before_while_older_ones_still_drain(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, graceful_timeout=300) as server, server.connect() as client:
        [first] = server.workers()
        client.get("/hold")
        server.wait_for_event("holding")
        server.deploy(NEW)
        server.open_gate()
        server.kill(signal.SIGHUP)
        server.wait_for(BOOT_LINE, 2)
        server.wait_for("Handed over")
        server.deploy(NEWER)
        server.open_gate()
        server.kill(signal.SIGHUP)
        server.wait_for("Handed over", 2)
        poll(lambda: len(server.workers()) == 2, "the end of the second")
        assert {release for release, _ in answering(server)} == {NEWER}
        assert is_alive(first)
        (tmp_path / "finish").touch()
        assert client.read_response()[2] == f"{OLD} {first}".encode()
        server.wait_until_replaced([first])
        assert server.stop() == 0
        assert not server.lines(COMPLAINTS)


def test_a_release_that_cannot_start_leaves_the_old_workers_serving_until_a_good_one_comes(
    tmp_path: Path,
) -> None:
    # The limit has passed long before the second failure is logged.
    with serving(tmp_path, workers=2, graceful_timeout=1) as server:
        old = server.workers()
        server.deploy("broken")
        server.open_gate()
        server.kill(signal.SIGHUP)
        server.wait_for(FAILED, 4)
        assert server.lines("RuntimeError: this release cannot start")
        assert {release for release, _ in answering(server)} == {OLD}
        assert all(map(is_alive, old))
        server.deploy(NEW)
        server.open_gate()
        server.kill(signal.SIGHUP)
        server.wait_until_replaced(old)
        assert {release for release, _ in answering(server)} == {NEW}
        assert server.stop() == 0
        assert not server.lines("CRITICAL|failed to boot")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_a_signal_to_stop_ends_a_handover(tmp_path: Path, number: signal.Signals) -> None:
    """The old workers leave while no new one serves, and nobody waits for ``graceful_timeout``.

    As ever, TERM lets a worker end its import before it leaves. QUIT and INT end the import.
    """
    with serving(tmp_path, graceful_timeout=300) as server:
        [old] = server.workers()
        server.deploy(NEW)
        server.kill(signal.SIGHUP)
        server.wait_for_event(f"waiting {NEW}")
        server.wait_for(HANDS_OVER)
        server.kill(number)
        server.wait_until_replaced([old])
        if number == signal.SIGTERM:
            server.open_gate()
        assert server.wait() == 0
        assert not server.workers()
        assert not server.lines(f"{COMPLAINTS}|SIGKILL")


def test_a_worker_that_dies_during_a_handover_is_replaced_by_a_new_one(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        [old] = server.workers()
        server.deploy(NEW)
        server.kill(signal.SIGHUP)
        server.wait_for_event(f"waiting {NEW}")
        os.kill(server.workers()[-1], signal.SIGKILL)
        server.wait_for_event(f"waiting {NEW}", 2)
        assert answering(server) == {(OLD, old)}
        server.open_gate()
        server.wait_until_replaced([old])
        assert server.ask()[0] == NEW
        assert len(server.workers()) == 1
        assert server.stop() == 0


# While the arbiter forks, an older worker ends whom it does not see at that moment.
ENDED_AT_A_FORK = """
def pre_fork(server, worker):
    import os, signal, time
    from pathlib import Path
    from gunicorn_asgi.process import arbiter
    for pid in list(arbiter.hidden):
        os.kill(pid, signal.SIGKILL)
        stat = Path(f"/proc/{pid}/stat")
        deadline = time.monotonic() + 10
        while stat.exists() and ") Z " not in stat.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the end of a process is read from /proc")
def test_a_worker_that_ends_while_the_arbiter_forks_is_forgotten(tmp_path: Path) -> None:
    """Gunicorn 23 takes note of the end at once, whatever it does; later ones do so afterwards."""
    hook = f"{NOTE}{ENDED_AT_A_FORK}\ndef child_exit(server, worker):\n    note('child_exit', worker.pid)\n"
    # `timeout` would have the arbiter find it out; at TERM it would wait for it.
    with serving(tmp_path, max_requests=1, timeout=0, graceful_timeout=300, config=hook) as server:
        [old] = server.workers()
        assert server.ask() == (OLD, old)
        server.wait_for(BOOT_LINE, 2)
        server.wait_for_event(f"child_exit {old}")
        assert server.ask()[0] == OLD
        assert server.stop() == 0


def test_without_the_option_the_old_workers_leave_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, options={"handover": False}) as server:
        old = server.workers()
        server.deploy(NEW)
        server.kill(signal.SIGHUP)
        server.wait_for_event(f"waiting {NEW}")
        server.wait_until_replaced(old)
        assert not server.lines(HANDS_OVER)
        with server.connect() as client:
            client.get("/release")
            server.open_gate()
            assert client.read_response()[2].startswith(NEW.encode())
        assert server.stop() == 0


def test_without_the_option_a_worker_at_max_requests_has_left_before_the_next_is_started(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, max_requests=1, options={"handover": False}) as server:
        old = server.workers()
        server.deploy(NEW)
        assert server.ask()[0] == OLD
        server.wait_for_event(f"waiting {NEW}")
        assert not any(map(is_alive, old))
        server.open_gate()
        assert poll(server.ask)[0] == NEW
        assert server.stop() == 0
