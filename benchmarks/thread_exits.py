"""How long a worker takes to go whose FastAPI ``def`` endpoint is busy: Ctrl-C, TERM, HUP, ``max_requests`` and ``reload``."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench_env import HERE, ROOT, add_arguments, conduct
from servers import OURS, Server, by_name, free_port

GRACEFUL_SECONDS = 8
TIMEOUT_SECONDS = 6
BUSY_SECONDS = 60
"""How long the endpoint works: longer than anything here waits."""
GIVE_UP_SECONDS = 40.0
NAMES = (OURS, "uvicorn-worker", "gunicorn asgi")


@dataclass
class Running:
    """A Gunicorn with one worker, and the directory of its application."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def ask(self, path: str, timeout: float = 1.0) -> bytes:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}{path}", timeout=timeout
        ) as response:
            body: bytes = response.read()
            return body

    def begin_busy(self) -> socket.socket:
        """Have the endpoint work; returns the connection that waits for it."""
        client = socket.create_connection(("127.0.0.1", self.port))
        client.sendall(b"GET /busy?seconds=%d HTTP/1.1\r\nHost: bench\r\n\r\n" % BUSY_SECONDS)
        time.sleep(0.3)
        return client

    def await_end(self) -> None:
        self.process.wait(GIVE_UP_SECONDS)

    def await_other(self, pid: bytes) -> None:
        """Wait until another worker than `pid` answers."""
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError):
                if self.ask("/pid") != pid:
                    return
            time.sleep(0.02)
        raise TimeoutError


@contextmanager
def running(server: Server, settings: list[str]) -> Iterator[Running]:
    """Start `server`, wait until it answers, and end it on every way out."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "watched.py").write_text("from blocking_app import app\n")
        command = [str(Path(sys.executable).with_name("gunicorn"))]
        command += [
            argument.format(app="watched:app", port=port) for argument in server.arguments[1:]
        ]
        command += [
            "--graceful-timeout",
            str(GRACEFUL_SECONDS),
            "--timeout",
            str(TIMEOUT_SECONDS),
            *settings,
        ]
        path = os.pathsep.join([str(folder), str(HERE), str(ROOT)])
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": name,
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        found = Running(process, port, folder)
        try:
            found.await_other(b"")
            yield found
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def by_ctrl_c(server: Server) -> float:
    """From INT to the whole process group until the master has ended."""
    with running(server, []) as gunicorn, gunicorn.begin_busy():
        began = time.monotonic()
        os.killpg(gunicorn.process.pid, signal.SIGINT)
        gunicorn.await_end()
        return time.monotonic() - began


def by_term(server: Server) -> float:
    """From TERM to the master until that has ended."""
    with running(server, []) as gunicorn, gunicorn.begin_busy():
        began = time.monotonic()
        gunicorn.process.send_signal(signal.SIGTERM)
        gunicorn.await_end()
        return time.monotonic() - began


def by_hup(server: Server) -> float:
    """From HUP until the old worker has gone."""
    with running(server, []) as gunicorn, gunicorn.begin_busy():
        pid = int(gunicorn.ask("/pid"))
        began = time.monotonic()
        gunicorn.process.send_signal(signal.SIGHUP)
        while time.monotonic() - began < GIVE_UP_SECONDS and Path(f"/proc/{pid}").exists():
            time.sleep(0.01)
        return time.monotonic() - began


def by_max_requests(server: Server) -> float:
    """From the request that reaches ``max_requests`` until the replacement answers the next client."""
    with running(server, ["--max-requests", "20"]) as gunicorn, gunicorn.begin_busy():
        pid = gunicorn.ask("/pid")
        began = time.monotonic()
        while time.monotonic() - began < GIVE_UP_SECONDS:
            asked = time.monotonic()
            try:
                if gunicorn.ask("/pid", GIVE_UP_SECONDS) != pid:
                    return time.monotonic() - asked
            except OSError:
                pass
        raise TimeoutError


def by_reload(server: Server) -> float:
    """From the change of a file until the new code answers."""
    with running(server, ["--reload", "--reload-engine", "poll"]) as gunicorn:
        time.sleep(2.5)  # the reloader does not see what changes before its first look
        with gunicorn.begin_busy():
            pid = gunicorn.ask("/pid")
            began = time.monotonic()
            path = gunicorn.folder / "watched.py"
            os.utime(path, (time.time() + 10, time.time() + 10))
            gunicorn.await_other(pid)
            return time.monotonic() - began


WAYS: dict[str, Callable[[Server], float]] = {
    "Ctrl-C until Gunicorn has ended": by_ctrl_c,
    "TERM until Gunicorn has ended": by_term,
    "HUP until the old worker has gone": by_hup,
    "max_requests, the next client's wait": by_max_requests,
    "reload until the new code answers": by_reload,
}


def measure(way: Callable[[Server], float], server: Server, rounds: int) -> str:
    seconds = []
    for _ in range(rounds):
        try:
            seconds.append(way(server))
        except (TimeoutError, subprocess.TimeoutExpired):
            return f"above {GIVE_UP_SECONDS:.0f}"
    return f"{statistics.median(seconds):.2f}"


def report(rounds: int) -> None:
    """Measure all of WAYS, and print them as a table."""
    print(
        f"Seconds, median of {rounds}; graceful_timeout {GRACEFUL_SECONDS}, timeout {TIMEOUT_SECONDS}, one worker.\n"
    )
    print("| " + " | ".join(["", *NAMES]) + " |\n|---" + "|---:" * len(NAMES) + "|", flush=True)
    for title, way in WAYS.items():
        print(
            "| "
            + " | ".join([title, *(measure(way, by_name(name), rounds) for name in NAMES)])
            + " |",
            flush=True,
        )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    return conduct(
        __file__, arguments.inside, arguments.python, sys.argv[1:], lambda: report(arguments.rounds)
    )


if __name__ == "__main__":
    sys.exit(main())
