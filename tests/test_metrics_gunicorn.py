"""The numbers of a real Gunicorn: one page for all workers, statsd, and workers that are replaced (see docs/numbers.md)."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from process import SETTINGS, Gunicorn, is_alive, poll, trusting_context
from test_metrics import samples

pytestmark = pytest.mark.gunicorn


class Page:
    """The page of a running Gunicorn."""

    def __init__(self, server: Gunicorn) -> None:
        (line,) = server.wait_for("Numbers of all workers: ")
        self.address = line.rpartition(": ")[2]

    def get(self, path: str, method: str = "GET") -> httpx.Response:
        is_unix = self.address.startswith("unix:")
        transport = httpx.HTTPTransport(
            uds=self.address[5:] if is_unix else None, verify=trusting_context()
        )
        base = "http://localhost" if is_unix else f"http://{self.address}"
        with httpx.Client(transport=transport, base_url=base, timeout=20) as client:
            return client.request(method, path)

    @property
    def samples(self) -> dict[tuple[str, ...], float]:
        return samples(self.get("/metrics").text)

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.get("/metrics.json").text)
        return facts


class Shared:
    """Two workers for all tests that only read, or that end what they begin."""

    def __init__(self, server: Gunicorn, page: Page, statsd: socket.socket) -> None:
        self.server = server
        self.page = page
        self.statsd = statsd


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(10)
        with Gunicorn(
            tmp_path_factory.mktemp("numbers"),
            workers=2,
            accesslog="access.log",
            statsd_host=f"127.0.0.1:{statsd.getsockname()[1]}",
            statsd_prefix="test",
            dogstatsd_tags="a:b",
            options={"metrics_bind": "127.0.0.1:0", "statsd_interval": 0.5},
        ) as server:
            yield Shared(server, Page(server), statsd)


def workers_of(page: Page) -> set[str]:
    return {key[1] for key in page.samples if key[0] == "worker_state"}


@pytest.mark.smoke
def test_one_page_has_the_sums_and_the_gauges_of_all_workers(shared: Shared) -> None:
    server, page = shared.server, shared.page
    before = page.samples
    pids = set()
    while len(pids) < 2:
        pids.add(server.get("/pid").text)
    count = 0
    for _ in range(10):
        count += server.get("/hello").status_code == 200
    assert count == 10

    def grown(*key: str) -> float:
        return page.samples[key] - before[key]

    poll(lambda: grown("responses_total", "2xx") >= 12)
    found = page.samples
    assert workers_of(page) == pids
    assert grown("request_duration_seconds_count") == grown("requests_total")
    for pid in pids:
        assert found["worker_state", pid, "serving"] == 1
        assert found["worker_silent_seconds", pid] < 60
        assert found["resident_memory_bytes", pid] > 2**20
        assert found["tasks", pid] >= 1
        assert found["connections", pid, "busy"] == 0
    facts = page.facts
    assert {str(worker["pid"]) for worker in facts["workers"]} == pids
    own = [worker["counters"]["requests_total"] for worker in facts["workers"]]
    assert sum(own) == facts["totals"]["requests_total"]
    assert all(own)


def test_the_page_answers_get_and_head_and_names_its_paths(shared: Shared) -> None:
    page = shared.page
    text = page.get("/metrics")
    assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert page.get("/metrics.json").headers["content-type"] == "application/json"
    head = page.get("/metrics", "HEAD")
    assert (head.status_code, head.text) == (200, "")
    assert head.headers["connection"] == "close"
    refused = page.get("/metrics", "POST")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    missing = page.get("/")
    assert missing.status_code == 404
    assert "/metrics, /metrics.json, /requests" in missing.text


def test_requests_of_the_page_are_neither_logged_nor_counted(shared: Shared) -> None:
    server, page = shared.server, shared.page
    before = page.facts["totals"]
    for _ in range(5):
        page.get("/requests")
    after = page.facts["totals"]
    assert server.get("/hello?last").status_code == 200
    log = poll(lambda: "last" in (text := (server.directory / "access.log").read_text()) and text)
    assert "/metrics" not in log
    assert "/requests" not in log
    for name in ("requests_total", "received_bytes_total", "accepted_connections_total"):
        assert after[name] == before[name]


def test_running_requests_are_shown_with_their_calls(shared: Shared) -> None:
    server, page = shared.server, shared.page
    with server.connect() as client:
        client.get("/silent?secret")
        # Whichever worker answers: at last the one that has the request.
        text = poll(lambda: "GET /silent for" in (text := page.get("/requests").text) and text)
        first, *lines = text.splitlines()
        assert re.fullmatch(r"Worker \d+, serving", first)
        assert lines[0] == "Running requests: 1"
        assert re.fullmatch(
            r"  GET /silent for \d+\.\d s, in .*main:\d+ app > main:\d+ silent > .*", lines[1]
        )
        pid = first.split()[1].rstrip(",")
        poll(lambda: page.samples["running_requests", pid] == 1)


def test_a_blocked_worker_is_shown_by_the_others(shared: Shared) -> None:
    server, page = shared.server, shared.page
    with server.connect() as client:
        client.get("/block_until_file")
        server.wait_for_event("block begun")

        def silent() -> list[str]:
            found = page.samples
            return [
                key[1] for key in found if key[0] == "worker_silent_seconds" and found[key] > 1.5
            ]

        try:
            assert poll(silent)
        finally:
            (server.directory / "go").touch()
        assert client.read_response()[0] == 200


def test_statsd_gets_gauges_of_the_whole_service(shared: Shared) -> None:
    seen: list[str] = []
    while "test.gunicorn.worker_state.serving:2|g|#a:b" not in seen:
        seen.append(shared.statsd.recv(2000).decode())
    assert "test.gunicorn.connections.handshaking:0|g|#a:b" in seen


def test_the_counters_never_fall_when_workers_are_replaced(shared: Shared) -> None:
    """Last in this module: other tests keep the ids of workers."""
    server, page = shared.server, shared.page
    server.get("/hello")
    before = page.facts["totals"]
    for number in (signal.SIGTERM, signal.SIGKILL):
        old = workers_of(page)
        pid = min(old)
        os.kill(int(pid), number)
        poll(lambda: not is_alive(int(pid)))  # noqa: B023 # it ends within the loop
        poll(lambda: len(workers_of(page)) == 2 and pid not in workers_of(page))  # noqa: B023
        after = page.facts["totals"]
        for name, value in before.items():
            if isinstance(value, (int, float)):
                assert after[name] >= value, name
            elif name == "responses_total":
                assert all(after[name][label] >= value[label] for label in value)
        before = after


def test_a_worker_that_leaves_is_shown_to_its_end_at_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "numbers.sock"
    loop = {"asgi_loop": "asyncio"} if "asgi_loop" in SETTINGS else {}
    options = {"metrics_bind": f"unix:{path}"}
    with Gunicorn(tmp_path, options=options, umask=0o077, **loop) as server:
        page = Page(server)
        assert path.stat().st_mode & 0o777 == 0o700
        with server.connect() as client:
            client.begin_upload("/upload")
            server.wait_for_event("upload begun")
            server.kill(signal.SIGTERM)
            poll(lambda: page.samples["worker_state", str(server.workers()[0]), "leaving"] == 1)
            assert "POST /upload" in page.get("/requests").text
            client.chunk(b"")
            assert client.read_response()[0] == 200
        assert server.wait() == 0
        assert not path.exists()
        assert not server.lines(r"\[(WARNING|ERROR)\]")


def test_an_address_that_is_taken_stops_the_start_with_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        with Gunicorn(tmp_path, options={"metrics_bind": bind}, wait=False) as server:
            assert server.wait() == 1
            (line,) = server.lines("metrics_bind")
            assert line.endswith(f"cannot listen at {bind}: Address already in use.")
            assert "Traceback" not in server.log + server.output
