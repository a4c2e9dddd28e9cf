"""Start Gunicorn's masters as forks of one process that has imported Gunicorn and this package.

The imports are most of the processor time of a start. `Forks` is the side of the tests. The process that
forks runs this file: ``python tests/forking.py``, with a socket as its standard input.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

REQUEST_SIZE = 1 << 20


class ForkedProcess:
    """A process that was forked elsewhere, with the part of `subprocess.Popen` that the tests use."""

    def __init__(self, forks: Forks, pid: int) -> None:
        self._forks = forks
        self.pid = pid

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""
        return self._forks.exit_code(self.pid, 0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises `subprocess.TimeoutExpired`."""
        code = self._forks.exit_code(self.pid, timeout)
        if code is None:
            raise subprocess.TimeoutExpired("gunicorn", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Forks:
    """The process that forks, for the process that runs the tests."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """Start it with the environment `env`, from which Gunicorn reads some defaults when it is imported."""
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=theirs, env=env, start_new_session=True
        )
        theirs.close()
        self._exit_codes: dict[int, int] = {}
        atexit.register(self._close)

    def start(
        self, arguments: Sequence[str], directory: Path, env: Mapping[str, str], output: BinaryIO
    ) -> ForkedProcess:
        """Run ``python -m gunicorn`` with these arguments, in a session of its own.

        Its standard output and standard error go to `output`.
        """
        request = json.dumps([arguments, str(directory), dict(env)]).encode()
        socket.send_fds(self._sock, [request], [output.fileno()])
        while True:
            kind, pid, code = self._receive()
            if kind == "started":
                return ForkedProcess(self, pid)
            self._exit_codes[pid] = code

    def exit_code(self, pid: int, timeout: float | None) -> int | None:
        """Wait for the end of a process and return its exit code, or None if it still runs then."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while pid not in self._exit_codes:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._sock], [], [], left)[0]:
                return None
            _, ended, code = self._receive()
            self._exit_codes[ended] = code
        return self._exit_codes[pid]

    def _receive(self) -> tuple[str, int, int]:
        message = self._sock.recv(REQUEST_SIZE)
        assert message, "the process that forks has ended"
        kind, pid, code = json.loads(message)
        return kind, pid, code

    def _close(self) -> None:
        self._sock.close()
        self._process.wait()


def serve(control: socket.socket) -> list[Any] | None:
    """Fork for each request.

    Returns the request in each forked process, and None in this one, when the tests have closed their end.
    """
    wakeup, of_signals = socket.socketpair()
    for end in (wakeup, of_signals):
        end.setblocking(False)
    signal.set_wakeup_fd(of_signals.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([control, wakeup], [], [])
        if wakeup in ready:
            wakeup.recv(4096)
            report_ended(control)
        if control in ready:
            request, descriptors, _, _ = socket.recv_fds(control, REQUEST_SIZE, 1)
            if not request:
                return None
            (output,) = descriptors
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for sock in (control, wakeup, of_signals):
                    sock.close()
                return [*json.loads(request), output]
            os.close(output)
            control.send(json.dumps(["started", pid, 0]).encode())


def report_ended(control: socket.socket) -> None:
    """Tell the tests which of the forked processes have ended."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            code = os.waitstatus_to_exitcode(status)
            control.send(json.dumps(["ended", pid, code]).encode())


def become_gunicorn(arguments: list[str], directory: str, env: dict[str, str], output: int) -> None:
    """Be what ``python -m gunicorn`` is, in this process."""
    from gunicorn import config

    os.setsid()
    os.chdir(directory)
    # Python has read it before.
    if env.get("PYTHONPATH") != os.environ.get("PYTHONPATH"):
        sys.path[1:1] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    os.environ.clear()
    os.environ.update(env)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(null)
    os.close(output)
    sys.path[0] = directory
    config.Chdir.default = directory  # made at the import, from the directory at that time
    (package,) = sys.modules["gunicorn"].__path__
    sys.argv = [str(Path(package) / "__main__.py"), *arguments]
    runpy.run_module("gunicorn", run_name="__main__", alter_sys=True)


def main() -> None:
    """Import what each master imports before it forks its workers, then serve."""
    import gunicorn.app.wsgiapp  # noqa: F401

    import gunicorn_asgi  # noqa: F401

    # At its end, Python looks at everything that can be collected, which would copy the memory that a
    # forked process shares: more than half of the processor time of a start and an end.
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=os.dup(0))
    with suppress(ConnectionError):
        request = serve(control)
        if request is not None:
            become_gunicorn(*request)


if __name__ == "__main__":
    main()
