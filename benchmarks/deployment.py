"""Gunicorn as it is deployed: a pidfile, several workers, the whole machine, and an end that finds a master which has replaced another."""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench_env import HERE, ROOT, make_certificate
from load import Load
from servers import START_SECONDS, STOP_SECONDS, Server, StartError
from strict import Address
from turnover import await_workers, read_pid

APP = "answering:app"


@dataclass(frozen=True)
class Deployment:
    """A Gunicorn that serves."""

    address: Address
    pidfile: Path
    tls: ssl.SSLContext | None

    @property
    def master(self) -> int:
        return read_pid(self.pidfile)

    def load(
        self, *, requests: int | None = None, connections: int = 20, keep_alive: bool = True
    ) -> Load:
        """Clients of it."""
        return Load(
            self.address,
            requests=requests,
            connections=connections,
            keep_alive=keep_alive,
            tls=self.tls,
        )


@contextmanager
def deployed(
    server: Server, folder: Path, workers: int, settings: Sequence[str], *, tls: bool = False
) -> Iterator[Deployment]:
    """Start `server` with so many workers, and Gunicorn's `settings` beside those it has, wait until it answers, and end all its processes on every
    way out.

    What it logs goes to ``server.log`` in `folder`. Raises StartError.
    """
    port, pidfile, log = _free_port(), folder / "pid", folder / "server.log"
    # The installed script: USR2 runs what was run before, and `python -m gunicorn` would then hide the standard library's `http`.
    command = [str(Path(sys.executable).with_name("gunicorn"))]
    command += [argument.format(app=APP, port=port) for argument in server.arguments[1:]]
    command += [
        "--pid",
        str(pidfile),
        "--error-logfile",
        str(log),
        "--workers",
        str(workers),
        *settings,
    ]
    context = None
    if tls:
        certfile, keyfile = make_certificate(folder)
        command += ["--certfile", certfile, "--keyfile", keyfile]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it has signed itself
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "apps"), str(HERE)])
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": path,
        "LC_ALL": "C.UTF-8",
    }
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    groups = {process.pid}
    try:
        deployment = Deployment(("127.0.0.1", port), pidfile, context)
        _await_workers(process, deployment, workers)
        groups.add(os.getpgid(deployment.master))  # a daemon's own
        yield deployment
    finally:
        end(process, groups)


def _free_port() -> int:
    """A port below those that the kernel gives to clients: one of them could end up with it while no worker of ``reuse_port`` listens, or with itself."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(1024, low)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def _await_workers(process: subprocess.Popen[bytes], deployment: Deployment, workers: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not deployment.master:
        if process.poll():  # a daemon's parent ends with 0
            raise StartError(f"it ended with {process.returncode} instead of serving")
        if time.monotonic() > deadline:
            raise StartError(f"it wrote no pidfile within {START_SECONDS:.0f} s")
        time.sleep(0.02)
    try:
        await_workers(deployment.load(connections=0), deployment.master, workers)
    except TimeoutError as error:
        raise StartError(str(error)) from error


def end(process: subprocess.Popen[bytes], groups: set[int]) -> None:
    """End process groups, of which `process` leads one: first by TERM, then by KILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_SECONDS
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, number)
        while any(_exists(group) for group in groups) and time.monotonic() < deadline:
            process.poll()  # or it would stay, as a zombie
            time.sleep(0.02)


def _exists(group: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False
