"""Desync through real proxies: no request that the proxy has not sent, and no data of another client.

Many clients send requests in all shapes of `smuggling` through nginx and HAProxy, which share few
connections to the worker among them. Ordinary clients ask beside them, and get their own answers.
"""

from __future__ import annotations

import http.client
import re
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fronts import HAPROXY, haproxy_command, started
from nginx import NGINX, NGINX_CONF
from process import DEADLINE, Gunicorn, poll
from smuggling import Shape, complaints, count_statuses, is_complete, mark, owners, shapes

pytestmark = [pytest.mark.gunicorn, pytest.mark.any_version]

DOCS = Path(__file__).parent.parent / "docs"
CLIENTS = 8
ORDINARY = 3
LEAST = 300
"""Requests of each ordinary client."""
QUIET_SECONDS = 0.15
"""Without another byte. It cuts only answers that nobody expects."""

NGINX_WAY = """
    upstream {name} {{ server {backend}; keepalive 4; }}
    server {{
        listen unix:{directory}/{name}; keepalive_requests 10000;
        ignore_invalid_headers off; underscores_in_headers on; merge_slashes off;
        location / {{
            proxy_pass http://{name}; proxy_http_version 1.1; proxy_request_buffering off;
            proxy_set_header Connection $connection_upgrade; proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Host $http_host;
            proxy_set_header X-Proxy-Id $request_id; proxy_set_header X-Proxy-Target $request_uri;
        }}
    }}
"""
HAPROXY_HEAD = """
global
    maxconn 200
defaults
    mode http
    timeout connect 20s
    timeout queue 60s
    timeout client 20s
    timeout server 20s
    option accept-invalid-http-request
    http-reuse always
"""
HAPROXY_WAY = """
frontend {name}
    bind unix@{directory}/{name}
    http-request set-header X-Proxy-Id %[uuid()]
    http-request set-header X-Proxy-Target %[url]
    {rule}
    default_backend to_{name}
backend to_{name}
    server worker {backend} maxconn 4 {protocol}
"""
"""At most four connections are open to the worker, so that clients share them."""


@dataclass
class Proxies:
    """Both proxies, and the workers behind them."""

    directory: Path
    workers: dict[str, Gunicorn]
    clients: Iterator[int] = field(default_factory=lambda: count(1))


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    """Two workers, one with HTTP/2 in cleartext, and one process of each proxy."""
    tmp_path = tmp_path_factory.mktemp("desync")
    with ExitStack() as stack:
        # Paths of unix sockets are short.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="desync-")))
        directory.chmod(0o755)
        settings = {"keepalive": 20}
        workers = {
            "off": Gunicorn(tmp_path / "off", "marking:app", options={"http": "h11"}, **settings),
            "on": Gunicorn.with_http2(
                tmp_path / "on", "marking:app", http2_cleartext="both", **settings
            ),
        }
        for worker in workers.values():
            stack.enter_context(worker)
        if NGINX:
            stack.enter_context(started(nginx_command(directory, workers), directory / "nginx-off"))
        if HAPROXY:
            stack.enter_context(
                started(haproxy_ways(directory, workers), directory / "haproxy-off")
            )
        yield Proxies(directory, workers)
        for worker in workers.values():
            assert not worker.lines("Traceback|ERROR|CRITICAL")


def nginx_command(directory: Path, workers: dict[str, Gunicorn]) -> list[str]:
    ways = "".join(
        NGINX_WAY.format(
            name=f"nginx-{name}", directory=directory, backend=address(worker),
        )
        for name, worker in workers.items()
    )  # fmt: skip
    conf = directory / "nginx.conf"
    text = NGINX_CONF.format(directory=directory, location="", below="")
    (upgrades,) = re.findall(r"```nginx\n(map .*?)```", page("websocket"), re.DOTALL)
    conf.write_text(text.rstrip().removesuffix("}") + upgrades + ways + "}\n")
    return [str(NGINX), "-p", str(directory), "-c", str(conf)]


def haproxy_ways(directory: Path, workers: dict[str, Gunicorn]) -> list[str]:
    (rule,) = re.findall(r"```\n(http-request .*?)\n```", page("http2"))
    ways = [
        ("off", "off", "", ""),
        ("on", "on", "", rule),
        ("h2", "on", "proto h2", ""),
        ("unruled", "on", "", ""),
    ]
    conf = directory / "haproxy.cfg"
    conf.write_text(
        HAPROXY_HEAD
        + "".join(
            HAPROXY_WAY.format(
                name=f"haproxy-{name}",
                directory=directory,
                backend=address(workers[worker]),
                protocol=protocol,
                rule=rule,
            )
            for name, worker, protocol, rule in ways
        )
    )
    return haproxy_command(conf)


def page(name: str) -> str:
    """A page of the documentation: the proxies are set up as it says."""
    return (DOCS / f"{name}.md").read_text()


def address(worker: Gunicorn) -> str:
    host, port = worker.address
    return f"{host}:{port}"


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(DEADLINE)
    sock.connect(str(path))
    return sock


def send(path: Path, shape: Shape) -> bytes:
    """Send all parts, whatever is answered; returns all that is answered."""
    answer = b""
    with connect(path) as sock:
        try:
            for part in shape.parts:
                sock.sendall(part)
                if shape.leaves:
                    return b""
            sock.settimeout(DEADLINE if shape.statuses else QUIET_SECONDS)
            while not shape.statuses or not is_complete(answer, shape.statuses):
                data = sock.recv(65536)
                if not data:
                    break
                answer += data
        except TimeoutError:
            assert not shape.statuses, f"{shape.name}: {answer!r}"
        except (BrokenPipeError, ConnectionResetError):
            pass  # the proxy has refused it
    return answer


def attack(path: Path, clients: Iterator[int], numbers: Sequence[int]) -> list[str]:
    """Send so many shapes, each as another client; returns what is wrong with the answers."""
    wrong = []
    for number in numbers:
        client = next(clients)
        shape = shapes(client)[number]
        answer = send(path, shape)
        if owners(answer.decode("latin-1")) - {client}:
            wrong.append(f"{shape.name}: an answer of another client: {answer!r}")
        if shape.statuses and count_statuses(answer) != shape.statuses:
            wrong.append(f"{shape.name}: {answer!r}")
    return wrong


def ask_on(path: Path, client: int, stop: threading.Event) -> int:
    """An ordinary client, which asks on one connection until it is told to stop, and LEAST times. Returns the number of requests."""
    asked = 0
    connection = http.client.HTTPConnection("test")
    connection.sock = connect(path)
    try:
        while not stop.is_set() or asked < LEAST:
            asked += 1
            own = mark(client, asked)
            body = own.encode() * 100 if asked % 2 else None
            method = ("POST", "GET", "POST", "HEAD")[asked % 4]
            connection.request(method, f"/read/{own}", body, {"X-Mark": own})
            response = connection.getresponse()
            content = response.read()
            assert (response.status, response.headers["X-Mark"]) == (200, own), content
            assert content == (b"" if method == "HEAD" else f"[{own}]".encode())
            assert not response.will_close
    finally:
        connection.close()
    return asked


WAYS = [
    pytest.param(name, worker, marks=pytest.mark.skipif(not program, reason=f"no {name} here"))
    for program, name, worker in (
        (NGINX, "nginx-off", "off"),
        (NGINX, "nginx-on", "on"),
        (HAPROXY, "haproxy-off", "off"),
        (HAPROXY, "haproxy-on", "on"),
        (HAPROXY, "haproxy-h2", "on"),
    )
]


@pytest.mark.parametrize(("way", "worker"), WAYS)
def test_no_request_and_no_answer_changes_its_owner_behind_a_proxy(
    way: str, worker: str, proxies: Proxies
) -> None:
    path, stop = proxies.directory / way, threading.Event()
    numbers = range(len(shapes(0)))
    before = len(records(proxies.workers[worker]))
    with ThreadPoolExecutor(CLIENTS + ORDINARY) as pool:
        ordinary = [pool.submit(ask_on, path, next(proxies.clients), stop) for _ in range(ORDINARY)]
        attacks = [
            pool.submit(attack, path, proxies.clients, numbers[first::CLIENTS])
            for first in range(CLIENTS)
        ]
        try:
            wrong = [each for future in attacks for each in future.result()]
        finally:
            stop.set()
        asked = sum(future.result() for future in ordinary)
    seen = records(proxies.workers[worker])[before:]
    assert not wrong + complaints(seen)
    assert len(seen) > asked
    connections = {tuple(record["client"]) for record in seen}
    assert len(connections) < len(seen) / 3, "clients share connections"
    expected = "2" if way == "haproxy-h2" else "1.1"
    assert {record["version"] for record in seen} <= {expected, "1.0"}


@pytest.mark.skipif(not HAPROXY, reason="no haproxy here")
def test_without_the_rule_of_the_documentation_haproxy_lets_upgraded_clients_past(
    proxies: Proxies,
) -> None:
    """So the rule is needed, and the test above sees requests that a proxy has not sent."""
    worker = proxies.workers["on"]
    before = len(records(worker))
    client = next(proxies.clients)
    (shape,) = (shape for shape in shapes(client) if shape.name == "h2c")

    def smuggle() -> list[str]:
        """Try, and say what the application has seen. A slow machine may need a second time."""
        send(proxies.directory / "haproxy-unruled", shape)
        return complaints(records(worker)[before:])

    found = poll(smuggle, "the hidden request")
    assert {complaint.partition(":")[0] for complaint in found} == {
        "the proxy has not sent this request"
    }


def records(worker: Gunicorn) -> list[dict[str, Any]]:
    """All that the application has seen, asked without a proxy."""
    found: list[dict[str, Any]] = worker.get("/records").json()
    return found
