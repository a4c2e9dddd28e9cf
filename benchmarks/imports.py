"""What importing this package costs beyond Gunicorn, and which of its modules a worker has. For targets.py."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from http.client import HTTPConnection
from pathlib import Path

from bench_env import ROOT
from scenarios import STEP_SECONDS
from servers import OURS, StartError, by_name, free_port, pinned, running

PACKAGE = "gunicorn_asgi"
SECONDS = 60.0
SCRIPT = """\
import importlib, sys, time
import gunicorn.app.wsgiapp, gunicorn.arbiter, gunicorn.glogging, gunicorn.workers.base
try:
    import gunicorn.ctl.server
except ImportError:
    pass  # before Gunicorn 25
before = time.process_time()
import gunicorn_asgi.worker
for name in sys.argv[1:]:
    importlib.import_module(name)
print((time.process_time() - before) * 1000)
"""
"""What the arbiter has before the worker is not counted; all modules of this package that a worker has are."""


def cpu_ms(core: int, modules: list[str]) -> float:
    """CPU time of the import of these modules after Gunicorn, in a new process."""
    with pinned(core):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *modules],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=True,
        )
    return float(done.stdout)


def of_worker(core: int, options: dict[str, str]) -> list[str]:
    """The names of all modules that a worker with these environment variables has imported once it has served a request. Raises StartError."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        command = by_name(OURS).command("apps:modules", port)
        with running(command, port, Path(name), core, options):
            connection = HTTPConnection("127.0.0.1", port, timeout=STEP_SECONDS)
            try:
                connection.request("GET", "/")
                return connection.getresponse().read().decode().split()
            except OSError as error:
                raise StartError(f"it does not answer: {error!r}") from error
            finally:
                connection.close()


def of_package(modules: list[str]) -> list[str]:
    """Those of this package."""
    return [name for name in modules if name.partition(".")[0] == PACKAGE]
