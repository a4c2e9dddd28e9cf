"""Gunicorn behind the AWS Lambda Web Adapter, with the settings of examples/lambda/web-adapter (docs/lambda-web-adapter.md).

The client behaves as the adapter does: it asks every 10 ms until the application is ready, and then keeps one connection, which it drops
after 4 s without a request. Its clock stands still with the environment, so a connection may be older than it knows.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from process import BOOT_LINE, Connection, Gunicorn, free_address, poll

pytestmark = pytest.mark.gunicorn

EXAMPLE = Path(__file__).parent.parent / "examples" / "lambda" / "web-adapter"
READINESS_SECONDS = 0.01
"""The adapter asks so often whether the application is ready."""
POOL_SECONDS = 4.0
"""The adapter keeps an idle connection for so long (AWS_LWA_POOL_IDLE_TIMEOUT_SECONDS)."""
FROZEN_SECONDS = 7.5
"""Longer than `keepalive` and the second in which the server looks at it."""
CONTEXT = {
    "http": {"sourceIp": "192.0.2.7"},
    "authorizer": {"jwt": {"claims": {"id": "x" * 20_000}}},
}
"""Parts of the event's `requestContext`. It is long with the claims of an authorizer."""


def behind_adapter(directory: Path, *args: str, **environment: str) -> Gunicorn:
    """Gunicorn with the example's file. Only the application and the error log are the test's."""
    address = free_address()
    return Gunicorn(
        directory,
        args=(*args, "main:app"),
        bind=address,
        config=(EXAMPLE / "gunicorn.conf.py").read_text(),
        env={
            "AWS_LAMBDA_FUNCTION_NAME": "hello",
            "PORT": address.rpartition(":")[2],
            **environment,
        },
        wait=False,
    )


class Adapter:
    """The adapter's side: a pool of one connection."""

    def __init__(self, server: Gunicorn) -> None:
        self._server = server
        self._connection: Connection | None = None
        self.opened = 0
        """The connections so far."""

    def close(self) -> None:
        if self._connection is not None:
            self._connection.sock.close()
            self._connection = None

    def connect(self) -> Connection:
        """The connection of the pool, or a new one."""
        if self._connection is None:
            self._connection = self._server.connect()
            self.opened += 1
        return self._connection

    def ask(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Send a request as the adapter does it, and do not wait for the response."""
        fields = {"host": "example.lambda-url.eu-west-1.on.aws", **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.connect().send(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())

    def read(self) -> tuple[int, http.client.HTTPMessage, bytes]:
        answer = self.connect().read_response()
        if answer[1].get("connection") == "close":
            self.close()
        return answer

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        self.ask("GET", path, {name.replace("_", "-"): value for name, value in headers.items()})
        status, _, body = self.read()
        return status, body

    def wait_until_ready(self) -> int:
        """Ask until there is an answer below 500. Returns the number of attempts."""
        for attempt in range(1, 10_000):
            try:
                status, _ = self.get("/healthz")
            except (OSError, http.client.HTTPException):
                self.close()
            else:
                if status < 500:
                    return attempt
            assert self._server.running, self._server.log
            time.sleep(READINESS_SECONDS)
        raise AssertionError("the application did not become ready")


def freeze(server: Gunicorn) -> None:
    """Stop the master and the worker, and wait until both stand still."""
    os.killpg(server.pid, signal.SIGSTOP)
    pids = (server.pid, *server.workers())
    poll(lambda: all(state_of(pid) == "T" for pid in pids), "the stop of all processes")


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def thaw(server: Gunicorn) -> None:
    os.killpg(server.pid, signal.SIGCONT)


def wait_until(moment: float) -> None:
    poll(lambda: time.monotonic() >= moment, "a moment")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    with behind_adapter(tmp_path_factory.mktemp("adapter")) as server:
        server.wait_for(BOOT_LINE)
        yield server
        with suppress(ProcessLookupError):
            thaw(server)
        assert not server.lines(r"\[(WARNING|ERROR|CRITICAL)\]"), server.log


@pytest.fixture
def adapter(server: Gunicorn) -> Iterator[Adapter]:
    adapter = Adapter(server)
    yield adapter
    adapter.close()


@pytest.mark.smoke
def test_the_application_is_ready_when_its_startup_is_over_and_term_runs_its_shutdown(
    tmp_path: Path,
) -> None:
    with behind_adapter(tmp_path) as server:
        adapter = Adapter(server)
        assert adapter.wait_until_ready() >= 1
        assert any(event.startswith("startup ") for event in server.events)
        assert adapter.get("/hello") == (200, b"hello\n")
        assert adapter.opened == 1  # the readiness check leaves it a good connection
        freeze(server)
        server.kill(signal.SIGTERM)  # Lambda thaws an environment to end it
        thaw(server)
        assert server.wait() == 0
        assert server.events[-3:] == ["shutdown", "shut down", "atexit"]
        assert adapter.connect().read_all() == b""
        assert not server.lines(r"\[(WARNING|ERROR|CRITICAL)\]"), server.log
        assert "/healthz" not in server.output
        assert '"GET /hello HTTP/1.1" 200 ' in server.output


def test_a_connection_that_was_idle_for_nearly_as_long_as_the_adapter_keeps_it_is_good(
    adapter: Adapter,
) -> None:
    assert adapter.get("/hello") == (200, b"hello\n")
    wait_until(time.monotonic() + POOL_SECONDS - 0.1)
    assert adapter.get("/hello") == (200, b"hello\n")
    assert adapter.opened == 1


def test_a_connection_is_good_after_a_freeze_that_was_longer_than_keepalive(
    server: Gunicorn,
) -> None:
    early, late = Adapter(server), Adapter(server)
    for adapter in (early, late):
        assert adapter.get("/hello") == (200, b"hello\n")
    freeze(server)
    try:
        early.ask("GET", "/hello", {})  # it waits in the socket while nobody runs
        wait_until(time.monotonic() + FROZEN_SECONDS)
    finally:
        thaw(server)
    late.ask("GET", "/hello", {})
    for adapter in (early, late):
        status, headers, body = adapter.read()
        assert (status, headers["connection"], body) == (200, None, b"hello\n")
        assert adapter.opened == 1
        adapter.close()


def test_a_part_of_a_response_leaves_before_the_next_one_is_made(adapter: Adapter) -> None:
    connection = adapter.connect()
    connection.begin_upload("/duplex")
    assert connection.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    assert connection.read_until(b"begun\n\r\n") == b"6\r\nbegun\n\r\n"
    for part in (b"one", b"two", b"three"):
        connection.chunk(part)
        assert connection.read_until(part + b"\r\n") == b"%x\r\n%b\r\n" % (len(part), part)
    connection.chunk(b"")
    assert connection.read_until(b"0\r\n\r\n") == b"0\r\n\r\n"


def test_the_client_and_the_scheme_are_those_that_the_gateway_tells(adapter: Adapter) -> None:
    adapter.ask(
        "GET",
        "/scope?a=1",
        {
            "x-forwarded-for": "192.0.2.7",
            "x-forwarded-proto": "https",
            "x-amzn-request-context": json.dumps(CONTEXT),
        },
    )
    status, _, body = adapter.read()
    scope: dict[str, Any] = json.loads(body)
    assert status == 200
    assert scope["client"][0] == "192.0.2.7"
    assert scope["scheme"] == "https"
    headers = dict(scope["headers"])
    assert json.loads(headers["x-amzn-request-context"]) == CONTEXT


def test_a_request_that_is_running_at_term_is_finished_before_the_shutdown(tmp_path: Path) -> None:
    """With a longer graceful_timeout than the example's: the test takes its time."""
    with behind_adapter(tmp_path, "--graceful-timeout", "20") as server:
        adapter = Adapter(server)
        adapter.wait_until_ready()
        connection = adapter.connect()
        connection.begin_upload("/upload")
        server.wait_for_event("upload begun")
        server.kill(signal.SIGTERM)
        server.wait_for("Worker exiting|Handling signal: term")
        connection.chunk(b"all of it")
        connection.chunk(b"")
        status, headers, body = adapter.read()
        assert (status, headers["connection"], body) == (200, "close", b"all of it")
        assert server.wait() == 0
        assert server.events[-4:] == ["upload read", "shutdown", "shut down", "atexit"]
