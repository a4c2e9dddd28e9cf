"""How evenly the workers of one Gunicorn share connections that come all at once."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from deployment import Deployment, deployed
from servers import Server, StartError, last_words
from turnover import await_end, await_workers, children

WORKERS = 4
BURST = 400
MORE = 200
"""Connections behind the replacement of a worker."""
SETTINGS = ("--keep-alive", "60", "--graceful-timeout", "5")
TIMEOUT = 20.0
"""Seconds that a client waits for anything."""

SHORT = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
KEPT = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


class UnansweredError(Exception):
    """A request was not answered."""


@dataclass(frozen=True)
class Shares:
    """Connections of a worker as a multiple of what each of them had if all had the same. 1.0 is even."""

    short: float
    """The largest, of connections with one request."""
    kept: float
    """The largest, of connections that stay."""
    replaced: float
    """The largest, of those open when one worker was replaced, and others came."""
    newcomer: float
    """That of the new worker then. Below 1.0, for it began with none."""


def measure(server: Server) -> Shares:
    """One round: start the server, measure, end it. Raises StartError, UnansweredError, TimeoutError."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        try:
            with deployed(server, folder, WORKERS, SETTINGS) as deployment, ExitStack() as stack:
                return _Round(deployment, stack).shares()
        except (OSError, HTTPException, ValueError) as error:
            raise UnansweredError(f"{error!r} ({last_words(folder)})") from error
        except StartError as error:
            raise StartError(f"{error} ({last_words(folder)})") from error


class _Round:
    def __init__(self, deployment: Deployment, stack: ExitStack) -> None:
        self._deployment = deployment
        self._stack = stack
        """Closes what is open."""

    def shares(self) -> Shares:
        short = self._short()
        kept = self._kept(BURST)
        newcomer, replaced = self._replace(kept)
        return Shares(
            _largest(short), _largest(kept), _largest(replaced), _share(replaced, newcomer)
        )

    def _short(self) -> list[int]:
        """The workers of BURST connections, on each of which is asked at once, and no more."""
        clients = []
        for _ in range(BURST):
            clients.append(self._connect())
            clients[-1].sendall(SHORT)
        return [_read_pid(client) for client in clients]

    def _kept(self, count: int) -> list[int]:
        """The workers of so many connections, which stay open."""
        clients = [self._connect() for _ in range(count)]
        for client in clients:
            client.sendall(KEPT)
        return [_read_pid(client) for client in clients]

    def _replace(self, kept: list[int]) -> tuple[int, list[int]]:
        """Have a worker leave, and open MORE connections when the one in its place has answered. Returns that one, and whose all are now."""
        master = self._deployment.master
        before = children(master)
        leaver = min(before)
        os.kill(leaver, signal.SIGTERM)
        await_end({leaver}, "a worker")
        await_workers(self._deployment.load(connections=0), master, 1, before)
        [newcomer] = children(master) - before
        return newcomer, [pid for pid in kept if pid != leaver] + self._kept(MORE)

    def _connect(self) -> socket.socket:
        sock = self._stack.enter_context(socket.socket())
        sock.settimeout(TIMEOUT)
        sock.connect(self._deployment.address)
        return sock


def _largest(pids: list[int]) -> float:
    return max(Counter(pids).values()) * WORKERS / len(pids)


def _share(pids: list[int], pid: int) -> float:
    return pids.count(pid) * WORKERS / len(pids)


def _read_pid(sock: socket.socket) -> int:
    response = HTTPResponse(sock)
    response.begin()
    if response.status != 200:
        raise ValueError(f"status {response.status}")
    return int(response.read())
