"""A function of AWS Lambda for the tests: `LambdaWorker` in a real Gunicorn, on the stand-in of the Runtime API."""

from __future__ import annotations

import base64
import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lambda_events as events
from lambda_runtime import Invocation, Result, RuntimeAPI
from process import DEADLINE, LOOPS, SETTINGS, Gunicorn, base_environment

if TYPE_CHECKING:
    from typing_extensions import Self


class Function:
    """A function of AWS Lambda: a Gunicorn on a stand-in of the Runtime API. `given` goes to `Gunicorn`."""

    def __init__(
        self,
        directory: Path,
        app: str = "lambda_app:application",
        *,
        concurrency: int | None = None,
        env: Mapping[str, str] | None = None,
        address: str | None = None,
        **given: Any,
    ) -> None:
        self.api = RuntimeAPI(concurrency or 1)
        lambda_env = {"AWS_LAMBDA_RUNTIME_API": address or self.api.address}
        if concurrency is not None:
            lambda_env["AWS_LAMBDA_MAX_CONCURRENCY"] = str(concurrency)
        self.server = Gunicorn(
            directory,
            app,
            worker="LambdaWorker",
            env={**lambda_env, **(env or {})},
            **{"timeout": 0, **given},
        )
        self._gates: list[Path] = []

    def __enter__(self) -> Self:
        self.api.__enter__()
        try:
            self.server.__enter__()
        except BaseException:
            self.api.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: PYI036 # passed on
        self.server.__exit__(*error)
        self.api.__exit__(*error)

    def begin(self, path: str, gateway: str = "function_url", **given: Any) -> Invocation:
        """Begin an invocation for a request. `given` goes to the event, or to the invocation."""
        names = [*inspect.signature(RuntimeAPI.begin).parameters]
        invocation = {name: given.pop(name) for name in names if name in given}
        return self.api.begin(events.HTTP_EVENTS[gateway](path=path, **given), **invocation)

    def ask(self, path: str, gateway: str = "function_url", **given: Any) -> Result:
        """Invoke the function with a request."""
        return self.begin(path, gateway, **given).wait()

    def respond(
        self,
        gateway: str,
        status: int = 200,
        headers: events.Fields = (),
        *parts: bytes,
        method: str = "POST",
    ) -> Result:
        """Have the application send this response."""
        coded = [base64.b64encode(part).decode() for part in parts]
        wanted = {"status": status, "headers": headers, "parts": coded}
        return self.ask("/respond", gateway, method=method, body=json.dumps(wanted).encode())

    def open(self, gate: str) -> None:
        """Let an application go on that waits for this gate."""
        self._gates.append(self.server.directory / gate)
        self._gates[-1].touch()

    def settle(self) -> None:
        """Wait until the function is idle, and find fault with it."""
        for path in self._gates:
            path.unlink()
        self._gates.clear()
        self.api.wait_for_pollers(self.api.concurrency)
        assert not self.api.take_violations()

    def is_well(self) -> bool:
        """Whether the next invocation works."""
        return told(self.ask("/echo"))["path"] == "/echo"


@contextmanager
def run_runtime(
    api: RuntimeAPI, command: list[str], folder: Path, output: Path, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run any runtime's command in `folder`, with its processes. Its output is shown with a failure."""
    with output.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**base_environment(), "AWS_LAMBDA_RUNTIME_API": api.address, **env},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield process
    except BaseException:
        sys.stderr.write(output.read_text())
        raise
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)


def told(result: Result) -> Any:
    """What the application has told about the request (``/echo``)."""
    assert (result.kind, result.status) in (("response", 200), ("streamed", 200)), result
    return json.loads(result.body)


def looped(number: int) -> dict[str, str]:
    """The setting for an event loop: the first or the last of those to test with."""
    return {"asgi_loop": LOOPS[number]} if "asgi_loop" in SETTINGS else {}
