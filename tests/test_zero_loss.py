"""No request is lost while workers are replaced: the runs of benchmarks/zero_loss.py in a smaller form.

Where a lame duck's time counts it is long here: a client that a busy machine has stopped for a while must not look like one that lost a request.
Workers do not wait for it, since all clients go on within 150 ms.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import turnover
from load import Load, Tally
from process import LOOPS, Gunicorn, trusting_context

pytestmark = [
    pytest.mark.gunicorn,
    pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc"),
]

SECONDS = 120.0
"""Of a load whose requests are counted: only a broken run takes so long."""
RECYCLE = {
    "max_requests": 100,
    "max_requests_jitter": 50,
    # So that many workers leave within few requests.
    "options": {"handover": False},
}
PROGRAM = "from gunicorn.app.wsgiapp import run; run()"
"""What the installed ``gunicorn`` does."""


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["kept", "new"])
def keep_alive(request: pytest.FixtureRequest) -> bool:
    """Whether the clients keep their connections, or make a new one for each request."""
    return bool(request.param)


def serving(directory: Path, **arguments: Any) -> Gunicorn:
    settings = {
        "workers": 2,
        "keepalive": 60,
        "graceful_timeout": 60,
        **arguments,
        "options": {"lame_duck": 10.0, **arguments.get("options", {})},
    }
    return Gunicorn(directory, "answering:app", **settings)


def check(server: Gunicorn, tally: Tally, workers: int) -> None:
    """Nothing is lost, at least so many workers have answered, and nobody had to complain."""
    assert not tally.losses, "\n".join([f"{tally}", *map(str, tally.losses)])
    assert tally.answered
    assert len(tally.pids) >= workers
    assert not server.lines("ERROR|CRITICAL|WARNING|Traceback")


def test_no_request_is_lost_at_max_requests(tmp_path: Path, loop: str, keep_alive: bool) -> None:
    with serving(tmp_path, asgi_loop=loop, **RECYCLE) as server:
        with Load(server.address, requests=1500, keep_alive=keep_alive) as load:
            tally = load.wait(SECONDS)
        assert tally.requests == 1500
        check(server, tally, 5)


@pytest.mark.smoke
def test_no_request_is_lost_where_workers_hand_over_at_max_requests(
    tmp_path: Path, loop: str, keep_alive: bool
) -> None:
    with serving(tmp_path, asgi_loop=loop, max_requests=50, max_requests_jitter=50) as server:
        with Load(server.address, keep_alive=keep_alive) as load:
            server.wait_for("Handed over", 2)
            tally = load.stop()
        # The last one may not have answered yet.
        check(server, tally, 3)


def test_no_request_is_lost_at_max_requests_over_tls(tmp_path: Path, loop: str) -> None:
    key, cert = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    subprocess.run(
        [*new, "-subj", "/CN=localhost", "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    with serving(tmp_path, asgi_loop=loop, keyfile=key, certfile=cert, **RECYCLE) as server:
        with Load(server.address, requests=600, tls=trusting_context()) as load:
            tally = load.wait(SECONDS)
        check(server, tally, 3)


@pytest.mark.smoke
def test_no_request_is_lost_at_hup(tmp_path: Path, loop: str, keep_alive: bool) -> None:
    with serving(tmp_path, asgi_loop=loop) as server:
        with Load(server.address, keep_alive=keep_alive) as load:
            turnover.reload(server.pid, load, 2)
            tally = load.stop()
        check(server, tally, 4)


def test_no_request_is_lost_at_ttin_and_ttou(tmp_path: Path, loop: str, keep_alive: bool) -> None:
    with serving(tmp_path, asgi_loop=loop) as server:
        with Load(server.address, keep_alive=keep_alive) as load:
            turnover.resize(server.pid, load, by=3, times=1)
            tally = load.stop()
        check(server, tally, 2)


def test_no_request_is_lost_in_an_upgrade_of_the_master(
    tmp_path: Path, loop: str, keep_alive: bool
) -> None:
    script, pidfile = tmp_path / "gunicorn", tmp_path / "pid"
    # USR2 runs what was run before, by its path: of `python -m gunicorn` that would be a module in whose folder `http` is Gunicorn's own.
    script.write_text(PROGRAM)
    with serving(tmp_path, asgi_loop=loop, pidfile=str(pidfile), program=(str(script),)) as server:
        with Load(server.address, keep_alive=keep_alive) as load:
            master = turnover.upgrade(pidfile, load)
            tally = load.stop()
        assert not server.running
        check(server, tally, 3)
        turnover.end(master)
