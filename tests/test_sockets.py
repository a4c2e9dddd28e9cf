"""Sockets that Gunicorn did not make itself, and the permissions and queues of those it did: in a running Gunicorn.

TCP, IPv6, unix, several binds and ``reuse_port`` are in tests/test_worker.py.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
from pathlib import Path

import httpx
import pytest
from process import LOOPS, Gunicorn, listening_at, poll, wait_until_gone

pytestmark = pytest.mark.gunicorn


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


INHERITED = """
import os, socket
sock = socket.create_server(("127.0.0.1", 0))
os.dup2(sock.fileno(), 9, inheritable=True)
"""


def test_an_inherited_descriptor_is_served(tmp_path: Path, loop: str) -> None:
    with Gunicorn(tmp_path, bind=["fd://9"], launcher=INHERITED, asgi_loop=loop) as server:
        [(host, port)] = server.addresses
        scope = server.get("/scope").json()
        assert scope["server"] == [host, port]
        assert scope["client"][0] == "127.0.0.1"
        assert server.stop() == 0


def activation(path: Path) -> str:
    """What systemd does: the listening sockets as descriptors from 3 on, and their number for the process that it says."""
    return f"""
import os, socket
tcp = socket.create_server(("127.0.0.1", 0))
unix = socket.socket(socket.AF_UNIX)
unix.bind({str(path)!r})
unix.listen()
first, second = os.dup(tcp.fileno()), os.dup(unix.fileno())  # out of the way
while first < 5 or second < 5:
    first, second = os.dup(first), os.dup(second)
os.dup2(first, 3, inheritable=True)
os.dup2(second, 4, inheritable=True)
os.environ.update(LISTEN_FDS="2", LISTEN_PID=str(os.getpid()))
"""


@pytest.mark.smoke
def test_sockets_from_systemd_take_the_place_of_bind_and_outlive_gunicorn(
    tmp_path: Path, loop: str
) -> None:
    path = tmp_path / "socket"
    with Gunicorn(
        tmp_path,
        launcher=activation(path),
        asgi_loop=loop,
        bind=f"unix:{tmp_path}/unused",
        workers=2,
    ) as server:
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(path)), base_url="http://test"
        ) as client:
            assert client.get("/scope").json()["server"] == [str(path), None]
        [(host, port)] = listening_at(server.wait_for("Listening at: ")[0])
        assert httpx.get(f"http://{host}:{port}/scope").json()["server"] == [host, port]
        assert not (tmp_path / "unused").exists()
        assert server.stop() == 0
        # systemd listens on, for the next one.
        assert path.is_socket()


def test_sockets_from_systemd_are_handed_on_to_the_workers_of_a_hup(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Gunicorn(tmp_path, launcher=activation(path), bind=f"unix:{path}") as server:
        [first] = server.workers()
        server.kill(signal.SIGHUP)
        wait_until_gone(first)
        assert server.get("/hello").status_code == 200


@pytest.mark.parametrize(("umask", "mode"), [(0, 0o777), (0o077, 0o700), (0o117, 0o660)])
def test_umask_is_that_of_a_unix_socket(tmp_path: Path, umask: int, mode: int) -> None:
    path = tmp_path / "socket"
    with Gunicorn(tmp_path, bind=f"unix:{path}", umask=umask) as server:
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert server.get("/hello").status_code == 200
        assert server.stop() == 0
        assert not path.exists()


def queued(port: int) -> int:
    """How many connections wait to be accepted: what /proc/net/tcp calls rx_queue of a listening socket (state 0A)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":
            return int(fields[4].partition(":")[2], 16)
    raise AssertionError("nobody listens")


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells the length of a queue in /proc"
)
@pytest.mark.parametrize("workers", [1, 2])
def test_the_backlog_is_that_of_the_setting(tmp_path: Path, loop: str, workers: int) -> None:
    """Beginning to listen again, as event loops do, must not reset it."""
    with Gunicorn(tmp_path, backlog=3, asgi_loop=loop, workers=workers) as server:
        # With its workers stopped nobody accepts: Linux queues one more than the backlog, and lets the next ones wait.
        for pid in server.workers():
            os.kill(pid, signal.SIGSTOP)
        connections = []
        try:
            for _ in range(8):
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex(server.address)
                connections.append(sock)
            poll(lambda: queued(server.address[1]) == 4, "a full queue")
        finally:
            for pid in server.workers():
                os.kill(pid, signal.SIGCONT)
            for sock in connections:
                sock.close()
