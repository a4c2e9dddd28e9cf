"""WebSockets over HTTP/2 behind a running Gunicorn: Node's client, and the endpoints of Starlette and FastAPI."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import make_authority
from h2client import H2Client, Header, Tunnel, connect_gunicorn
from process import DEADLINE, LOOPS, Gunicorn
from ws import accepted2, close, extended_connect, text

pytestmark = [pytest.mark.gunicorn, pytest.mark.any_version]

NODE = shutil.which("node")
CLIENT = Path(__file__).parent / "websocket_h2.js"
CLEARTEXT = {"http2_cleartext": "prior-knowledge"}


Dial = Callable[..., Tunnel]


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Opens a stream with a handshake, on a connection of its own that ends with the test."""
    clients: list[H2Client] = []

    def dial(server: Gunicorn, path: bytes, *fields: Header) -> Tunnel:
        clients.append(connect_gunicorn(server))
        return clients[-1].tunnel(extended_connect(path, fields))

    yield dial
    for client in clients:
        client.close()


# Node.


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def node(*arguments: str) -> subprocess.Popen[str]:
    if NODE is None:
        pytest.skip("there is no node on this machine")
    return subprocess.Popen(
        [NODE, str(CLIENT), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nodes_client_speaks_several_websockets_and_http_on_one_connection(
    tmp_path: Path, loop: str, scheme: str
) -> None:
    """Of 1.5 MB each: its windows and ours open as they are read."""
    pytest.importorskip("starlette")
    settings: dict[str, Any] = dict(CLEARTEXT)
    if scheme == "https":
        settings = dict(
            zip(("certfile", "keyfile"), make_authority(tmp_path, "server"), strict=True)
        )
    with Gunicorn.with_http2(tmp_path, "starlette_app:app", asgi_loop=loop, **settings) as server:
        client = node(server.url, "/ws/iterate", "5", "1500000", "/json")
        out, err = client.communicate(timeout=DEADLINE)
        assert client.returncode == 0, err
        told = json.loads(out)
        assert told["enableConnectProtocol"] is True
        assert told["http"] == 200
        assert (
            told["sockets"]
            == [{"status": 200, "bytes": 1_500_000, "code": 4001, "rst": 0, "ended": True}] * 5
        )
        server.wait_for_event("iterated", 5)
        assert server.stop() == 0
        assert not server.lines(r"\[(WARNING|ERROR|CRITICAL)\]")


def test_nodes_client_hears_1012_of_a_worker_that_leaves(tmp_path: Path, loop: str) -> None:
    pytest.importorskip("starlette")
    with Gunicorn.with_http2(tmp_path, "starlette_app:app", asgi_loop=loop, **CLEARTEXT) as server:
        client = node(server.url, "/ws/echo", "3", "0", "/json", "wait")
        assert client.stdout is not None
        assert client.stdout.readline() == "open\n"
        server.kill(signal.SIGTERM)
        out, err = client.communicate(timeout=DEADLINE)
        assert client.returncode == 0, err
        told = json.loads(out)
        assert [(one["code"], one["rst"], one["ended"]) for one in told["sockets"]] == [
            (1012, 0, True)
        ] * 3
        assert server.wait() == 0
        assert not server.lines("WARNING|ERROR")


# Starlette and FastAPI.


@pytest.fixture(scope="module")
def starlette(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    pytest.importorskip("starlette")
    yield from serving(tmp_path_factory, "starlette_app")


@pytest.fixture(scope="module")
def fastapi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    pytest.importorskip("fastapi")
    yield from serving(tmp_path_factory, "fastapi_app")


def serving(factory: pytest.TempPathFactory, app: str) -> Iterator[Gunicorn]:
    with Gunicorn.with_http2(
        factory.mktemp(app), f"{app}:app", graceful_timeout=3, **CLEARTEXT
    ) as server:
        yield server
        assert server.stop() == 0
        assert server.lines(r"\[(WARNING|ERROR|CRITICAL)\]") == server.lines(
            r"\[ERROR\] Error handling .*/ws/error"
        )


def test_starlette_echoes_and_is_told_how_the_client_has_closed(
    dial: Dial, starlette: Gunicorn
) -> None:
    ws = accepted2(dial(starlette, b"/ws/echo"))
    for message in ("hello", "", "ü" * 1000):
        ws.send(text(message))
        assert json.loads(ws.read_message()) == {"greeting": "hello", "text": message}
    assert ws.close(4001, "enough")[0] == 4001
    starlette.wait_for_event("disconnected 4001 enough")


def test_starlettes_endpoint_speaks_json_and_chooses_a_subprotocol(
    dial: Dial, starlette: Gunicorn
) -> None:
    ws = accepted2(dial(starlette, b"/ws/endpoint", (b"sec-websocket-protocol", b"first, second")))
    assert (b"sec-websocket-protocol", b"second") in ws.client.headers
    ws.send(text('{"a": 1}'))
    assert json.loads(ws.read_message()) == {"got": {"a": 1}}
    ws.close()


def test_an_exception_in_starlette_is_1011_and_logged(dial: Dial, starlette: Gunicorn) -> None:
    assert accepted2(dial(starlette, b"/ws/error")).answer_close()[0] == 1011
    starlette.wait_for("^ValueError: the application's own$")


@pytest.mark.parametrize(
    ("path", "status"), [("reject", 403), ("deny", 401), ("file", 404), ("teapot", 418)]
)
def test_starlettes_denials_arrive_as_they_are(
    dial: Dial, starlette: Gunicorn, path: str, status: int
) -> None:
    response = dial(starlette, b"/ws/" + path.encode()).read_response()
    assert response.status == status
    if path == "deny":
        assert json.loads(response.body) == {"detail": "who are you?"}
    if path == "file":
        assert response.body == (Path(__file__).parent / "apps" / "starlette_app.py").read_bytes()


def test_fastapi_checks_parameters_and_closes_its_dependencies(
    dial: Dial, fastapi: Gunicorn
) -> None:
    ws = accepted2(dial(fastapi, b"/ws/items/7?token=secret"))
    ws.send(text('{"name": "x", "price": "1.5"}'))
    assert json.loads(ws.read_message()) == {
        "item": 7,
        "user": "me",
        "greeting": "hello",
        "got": {"name": "x", "price": 1.5},
    }
    ws.send(close(4002, "done"))
    assert ws.read_close()[0] == 4002
    fastapi.wait_for_event("disconnected 4002 done")
    fastapi.wait_for_event("dependency closed")


def test_an_http_exception_of_a_fastapi_dependency_is_a_denial_response(
    dial: Dial, fastapi: Gunicorn
) -> None:
    response = dial(fastapi, b"/ws/items/7?token=banned").read_response()
    assert (response.status, response[b"x-reason"]) == (403, b"banned")
    assert json.loads(response.body) == {"detail": "not you"}
