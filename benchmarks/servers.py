"""The servers: how each is started with one worker and uvloop where it can, with TLS or an access log where a scenario asks for them; and how each is ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent

START_SECONDS = 20.0
STOP_SECONDS = 3.0
NO_VARIABLES: Mapping[str, str] = {}
GUNICORN = ("gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "1", "--log-level", "warning")


CERTIFICATE, KEY = "cert.pem", "key.pem"
"""Files in a server's working directory, of scenarios over TLS."""
ACCESS_LOG = "access.log"
OUTPUT_LOG = "server.log"
"""A file there, with what the server prints."""


class StartError(Exception):
    """The server does not listen."""


class NotOfferedError(Exception):
    """The server does not have what the scenario asks for."""


@dataclass(frozen=True)
class Server:
    """One server. Its command is what follows ``python -m``; ``{port}`` and ``{app}`` are filled in."""

    name: str
    arguments: tuple[str, ...]
    tls: tuple[str, ...] = ()
    """Further arguments for TLS, with CERTIFICATE and KEY; empty if it has none."""
    log: tuple[str, ...] = ()
    """Further arguments for an access log, which override those before them; empty if it has none."""
    log_file: str = ACCESS_LOG
    """Where that goes."""
    interpreter: str = sys.executable
    variant: str = ""
    """The end of `name` that tells it from the same server on another interpreter."""

    def on(self, interpreter: str, version: str) -> Server:
        """The same server on another interpreter."""
        variant = f", Python {version}"
        return replace(self, name=self.name + variant, interpreter=interpreter, variant=variant)

    @property
    def is_main(self) -> bool:
        """Whether it is one of MAIN."""
        return self.name in MAIN

    def peer(self, name: str) -> str:
        """The name of the server `name` on the same interpreter."""
        return name + self.variant

    def adapted(self, tls: bool, logged: bool) -> Server:
        """The same with TLS, or with an access log. Raises NotOfferedError."""
        if (tls and not self.tls) or (logged and not self.log):
            raise NotOfferedError
        further = (*(self.tls if tls else ()), *(self.log if logged else ()))
        *arguments, app = self.arguments  # the application comes last
        return replace(self, arguments=(*arguments, *further, app)) if further else self

    def command(self, app: str, port: int) -> list[str]:
        """The whole command line."""
        return [
            self.interpreter,
            "-m",
            *(argument.format(app=app, port=port) for argument in self.arguments),
        ]


OURS = "gunicorn_asgi"
BASELINE = "uvicorn"
GRANIAN = "granian"
MAIN = frozenset({OURS, BASELINE, f"{BASELINE} zttp", GRANIAN})
"""Names of the servers that have every round where others have fewer."""

# Hypercorn has the same names for them.
GUNICORN_TLS = ("--certfile", CERTIFICATE, "--keyfile", KEY)
UVICORN_TLS = ("--ssl-certfile", CERTIFICATE, "--ssl-keyfile", KEY)
GRANIAN_TLS = ("--ssl-certificate", CERTIFICATE, "--ssl-keyfile", KEY)
GUNICORN_LOG = ("--access-logfile", ACCESS_LOG)
PRINTED_LOG = ("--access-log", "--log-level", "info")
"""Uvicorn and Granian print theirs, and what they print goes to a file here."""

SERVERS = (
    Server(OURS, (*GUNICORN, "-k", "gunicorn_asgi.Worker", "{app}"), GUNICORN_TLS, GUNICORN_LOG),
    Server(
        BASELINE,
        (
            *(
                "uvicorn",
                "--host",
                "127.0.0.1",
                "--port",
                "{port}",
                "--http",
                "httptools",
                "--loop",
                "uvloop",
            ),
            *("--no-access-log", "--log-level", "warning", "{app}"),
        ),
        UVICORN_TLS,
        PRINTED_LOG,
        OUTPUT_LOG,
    ),
    Server(
        "uvicorn-worker",
        (*GUNICORN, "-k", "uvicorn_worker.UvicornWorker", "{app}"),
        GUNICORN_TLS,
        GUNICORN_LOG,
    ),
    Server(
        "gunicorn asgi",
        (*GUNICORN, "-k", "asgi", "--asgi-loop", "uvloop", "{app}"),
        GUNICORN_TLS,
        GUNICORN_LOG,
    ),
    Server(
        "hypercorn",
        (
            "hypercorn",
            "--bind",
            "127.0.0.1:{port}",
            "-w",
            "1",
            "-k",
            "uvloop",
            "--log-level",
            "warning",
            "{app}",
        ),
        GUNICORN_TLS,
        (*GUNICORN_LOG, "--log-level", "info"),
    ),
    Server(
        "daphne",
        ("daphne", "-b", "127.0.0.1", "-p", "{port}", "-v", "0", "{app}"),
        log=("--access-log", ACCESS_LOG),
    ),
    Server(
        "granian",
        (
            *(
                "granian",
                "--interface",
                "asgi",
                "--host",
                "127.0.0.1",
                "--port",
                "{port}",
                "--workers",
                "1",
            ),
            *(
                "--runtime-threads",
                "1",
                "--loop",
                "uvloop",
                "--no-access-log",
                "--log-level",
                "warning",
                "{app}",
            ),
        ),
        GRANIAN_TLS,
        PRINTED_LOG,
        OUTPUT_LOG,
    ),
)


def by_name(name: str) -> Server:
    """One of SERVERS."""
    return next(server for server in SERVERS if server.name == name)


@dataclass(frozen=True)
class Running:
    """A started server: the leader of a session of its own, in which all its processes are."""

    pid: int
    port: int
    cpu: int
    """The core that it is pinned to."""


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    folder: Path,
    cpu: int,
    variables: Mapping[str, str] = NO_VARIABLES,
    start_s: float = START_SECONDS,
    stop_s: float = STOP_SECONDS,
) -> Iterator[Running]:
    """Start `command` on one core, wait until it listens on `port`, and end all its processes on every way out.

    Its environment has nothing of this one that a server would read as an option, and `variables`. What it prints goes to
    OUTPUT_LOG in `folder`, which is its home and working directory. Raises StartError.
    """
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}",
        "LC_ALL": "C.UTF-8",
        **variables,
    }
    with (folder / OUTPUT_LOG).open("wb") as log, pinned(cpu):
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _await_listening(process, port, start_s)
        yield Running(process.pid, port, cpu)
    finally:
        _end(process, stop_s)


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """What is started in here runs on this core only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A port of the loopback interface that nobody uses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def last_words(folder: Path) -> str:
    """The last line that the server printed, as the end of a sentence about it."""
    lines = (folder / OUTPUT_LOG).read_text(errors="replace").strip().splitlines()
    return f"the server's last line: {lines[-1].strip()}" if lines else "the server printed nothing"


def _await_listening(process: subprocess.Popen[bytes], port: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StartError(f"it ended with {process.returncode} instead of listening")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.02)
    raise StartError(f"it did not listen within {seconds:.0f} s")


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask the leader to end within `seconds`, then kill what is left of its group."""
    try:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
