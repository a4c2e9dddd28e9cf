"""Gunicorn's settings for its processes, in a running Gunicorn: who they are, where, with what environment, and who steers them."""

from __future__ import annotations

import grp
import json
import os
import pwd
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from process import (
    APPS,
    BOOT_LINE,
    NOTE,
    PRELOADED,
    SETTINGS,
    Gunicorn,
    is_alive,
    poll,
    wait_until_gone,
)

pytestmark = pytest.mark.gunicorn

NOBODY = "nobody"


def inside(server: Gunicorn) -> dict[str, Any]:
    """What the application of apps/inside.py sees."""
    seen = server.get("/").json()
    assert isinstance(seen, dict)
    return seen


# Who.


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that everybody may enter, unlike pytest's own."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    try:
        pwd.getpwnam(NOBODY)
    except KeyError:
        pytest.skip("there is nobody")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


def can_import(user: pwd.struct_passwd) -> bool:
    """Whether `user` can read this Python, this package and the applications of the tests."""
    probe = [
        sys.executable,
        "-c",
        "import gunicorn_asgi.worker, sys; open(sys.argv[1])",
        str(APPS / "inside.py"),
    ]
    try:
        return (
            subprocess.run(
                probe, user=user.pw_uid, group=user.pw_gid, extra_groups=[], capture_output=True
            ).returncode
            == 0
        )
    except PermissionError:
        return False


@pytest.mark.parametrize("preload", [True, False])
def test_a_worker_is_the_user_and_group_of_the_settings(
    open_directory: Path, preload: bool
) -> None:
    user = pwd.getpwnam(NOBODY)
    group = grp.getgrgid(user.pw_gid)
    if not preload and not can_import(user):
        pytest.skip("nobody can read this installation")
    path = open_directory / "socket"
    config = PRELOADED if preload else ""
    with Gunicorn(
        open_directory,
        "inside:app",
        bind=f"unix:{path}",
        user=NOBODY,
        group=group.gr_name,
        config=config,
    ) as server:
        seen = inside(server)
        assert (seen["uid"], seen["gid"]) == (user.pw_uid, user.pw_gid)
        assert server.workers() == [seen["pid"]]
        # What the master makes belongs to them.
        assert (path.stat().st_uid, path.stat().st_gid) == (user.pw_uid, user.pw_gid)
        assert server.error_log.stat().st_uid == user.pw_uid
        server.error_log.rename(open_directory / "error.log.1")
        open_directory.chmod(0o777)
        os.kill(seen["pid"], signal.SIGUSR1)
        poll(server.error_log.exists, "the log that the worker reopens")
        assert server.error_log.stat().st_uid == user.pw_uid
        # The heartbeat's file too: it would be killed otherwise.
        os.kill(seen["pid"], signal.SIGTERM)
        wait_until_gone(seen["pid"])
        assert server.get("/").status_code == 200
        assert server.stop() == 0
        assert not server.lines("ERROR|Traceback")


@pytest.mark.parametrize("initgroups", [False, True])
def test_initgroups_gives_the_worker_all_groups_of_its_user(
    open_directory: Path, initgroups: bool
) -> None:
    user = pwd.getpwnam(NOBODY)
    settings = {"user": NOBODY, "group": user.pw_gid, "initgroups": initgroups}
    with Gunicorn(open_directory, "inside:app", config=PRELOADED, **settings) as server:
        groups = os.getgrouplist(NOBODY, user.pw_gid) if initgroups else os.getgroups()
        assert inside(server)["groups"] == sorted(groups)


# Where, and with what.


def test_chdir_is_done_before_the_application_is_imported(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "here.py").write_text(
        "from pathlib import Path\nplace = Path.cwd()\nfrom inside import app\nassert place.name == 'place'\n"
    )
    with Gunicorn(tmp_path, "here:app", chdir=str(place)) as server:
        seen = inside(server)
        assert seen["cwd"] == str(place)
        assert str(place) in seen["path"]


def test_raw_env_is_set_before_the_application_is_imported(tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text(
        "import os\nassert os.environ['HERE'] == 'a=b'\nfrom inside import app\n"
    )
    with Gunicorn(
        tmp_path, "here:app", raw_env=["HERE=a=b", "GUNICORN_ASGI_SERVER_HEADER=there"]
    ) as server:
        assert inside(server)["environ"]["HERE"] == "a=b"
        assert server.get("/").headers["server"] == "there"


def test_the_file_of_the_heartbeat_is_in_worker_tmp_dir(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("there is no /proc")
    place = tmp_path / "place"
    place.mkdir()
    with Gunicorn(tmp_path, worker_tmp_dir=str(place)) as server:
        [worker] = server.workers()
        files = [
            str(file.readlink())
            for file in Path(f"/proc/{worker}/fd").iterdir()
            if file.is_symlink()
        ]
        assert len([file for file in files if file.startswith(f"{place}/wgunicorn-")]) == 1
        assert list(place.iterdir()) == []


def test_the_application_may_come_from_a_factory_with_arguments(tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text(
        "from inside import app\n\ndef create(name, *, mode):\n    assert (name, mode) == ('a', 2)\n    return app\n"
    )
    with Gunicorn(tmp_path, "here:create('a', mode=2)", chdir=str(tmp_path)) as server:
        assert inside(server)["pid"] in server.workers()


# The master.


def test_the_hooks_of_the_master_are_called(tmp_path: Path) -> None:
    arguments = {
        "on_starting": 1,
        "when_ready": 1,
        "nworkers_changed": 3,
        "pre_fork": 2,
        "on_reload": 1,
        "child_exit": 2,
        "on_exit": 1,
    }
    config = NOTE + "".join(
        f"\ndef {name}({', '.join('abc'[:count])}):\n    note({name!r})\n"
        for name, count in arguments.items()
    )

    def seen() -> list[str]:
        return [event for event in server.events if event in arguments]

    with Gunicorn(tmp_path, config=config) as server:
        assert seen() == ["nworkers_changed", "on_starting", "when_ready", "pre_fork"]
        [first] = server.workers()
        server.kill(signal.SIGHUP)
        wait_until_gone(first)
        poll(lambda: "child_exit" in seen())
        assert seen()[4:] == ["nworkers_changed", "on_reload", "pre_fork", "child_exit"]
        server.kill(signal.SIGTTIN)
        server.wait_for(BOOT_LINE, 3)
        assert seen()[8:] == ["nworkers_changed", "pre_fork"]
        assert server.stop() == 0
        assert "on_exit" in seen()[10:]


# A daemon.


@pytest.mark.smoke
def test_a_daemon_serves_and_its_pidfile_says_who_to_stop(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    with Gunicorn(
        tmp_path,
        "inside:app",
        daemon=True,
        pidfile=str(pidfile),
        bind=f"unix:{tmp_path}/socket",
        wait=False,
    ) as server:
        assert server.wait() == 0
        master = int(poll(lambda: pidfile.exists() and pidfile.read_text(), "the pidfile"))
        try:
            poll(lambda: server.lines(BOOT_LINE), "a worker")
            [worker] = server.workers()
            assert inside(server)["pid"] == worker
            assert os.getsid(worker) != os.getsid(0)
            # Its pidfile is renewed at a HUP, and gone at the end.
            os.kill(master, signal.SIGHUP)
            wait_until_gone(worker)
            poll(lambda: pidfile.exists() and pidfile.read_text() == f"{master}\n", "the pidfile")
            assert inside(server)["pid"] != worker
        finally:
            os.kill(master, signal.SIGTERM)
            wait_until_gone(master)
        assert [pid for pid in server.workers() if is_alive(pid)] == []
        assert not pidfile.exists()
        assert server.output == ""


def test_proc_name_is_what_ps_shows(tmp_path: Path) -> None:
    pytest.importorskip("setproctitle")
    with Gunicorn(tmp_path, proc_name="shop") as server:
        [worker] = server.workers()
        assert b"gunicorn: worker [shop]" in Path(f"/proc/{worker}/cmdline").read_bytes()


# Looking at it.


def test_check_config_imports_the_application_and_exits(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, wait=False, chdir=str(APPS), args=("--check-config",)) as server:
        assert server.wait() == 0
    with Gunicorn(
        tmp_path, "main:missing", wait=False, chdir=str(APPS), args=("--check-config",)
    ) as server:
        assert server.wait() == 1


def test_print_config_prints_every_setting(tmp_path: Path) -> None:
    with Gunicorn(
        tmp_path, wait=False, chdir=str(APPS), args=("--print-config",), keepalive=17
    ) as server:
        assert server.wait() == 0
        names = {line.partition("=")[0].strip() for line in server.output.splitlines()}
        assert names >= SETTINGS
        assert "Worker()" in server.output


@pytest.mark.smoke
def test_spew_prints_the_lines_that_are_executed(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "inside:app", spew=True, timeout=0) as server:
        assert server.get("/").status_code == 200
        assert server.stop() == 0
        assert "inside:" in server.output


# gunicornc and the dirty arbiter.


@pytest.mark.skipif("control_socket" not in SETTINGS, reason="this Gunicorn has no control socket")
def test_gunicornc_shows_and_ends_workers(tmp_path: Path) -> None:
    path = tmp_path / "control"
    with Gunicorn(
        tmp_path,
        control_socket=str(path),
        control_socket_mode=0o640,
        control_socket_disable=False,
        workers=2,
    ) as server:

        def control(command: str) -> Any:
            done = subprocess.run(
                [sys.executable, "-m", "gunicorn.ctl.cli", "-s", str(path), "-j", "-c", command],
                check=True,
                capture_output=True,
            )
            return json.loads(done.stdout)

        poll(path.exists, "the control socket")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        shown = control("show workers")["workers"]
        assert sorted(worker["pid"] for worker in shown) == sorted(server.workers())
        assert all(worker["last_heartbeat"] < 60 for worker in shown)
        first = server.workers()[0]
        control(f"worker kill {first}")
        wait_until_gone(first)
        server.wait_for(BOOT_LINE, 3)
        assert server.get("/hello").status_code == 200
        assert server.stop() == 0
        assert not server.lines("was sent|ERROR|Traceback")


DIRTY = """
import os
from gunicorn.dirty import get_dirty_client_async
from gunicorn.dirty.app import DirtyApp

class Heavy(DirtyApp):
    def double(self, number):
        return [number * 2, os.getpid()]

async def app(scope, receive, send):
    assert scope["type"] == "http"
    client = await get_dirty_client_async()
    result, pid = await client.execute_async("dirty:Heavy", "double", 21)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": f"{result} {pid}".encode()})
"""


@pytest.mark.smoke
@pytest.mark.skipif("dirty_apps" not in SETTINGS, reason="this Gunicorn has no dirty arbiter")
def test_an_application_calls_a_dirty_one(tmp_path: Path) -> None:
    (tmp_path / "dirty.py").write_text(DIRTY)
    with Gunicorn(tmp_path, "dirty:app", dirty_apps=["dirty:Heavy"], dirty_workers=1) as server:
        result, pid = poll(
            lambda: (answer := server.get("/")).status_code == 200 and answer,
            "an answer of the dirty worker",
        ).text.split()
        assert result == "42"
        assert int(pid) not in server.workers()
        assert server.stop() == 0
