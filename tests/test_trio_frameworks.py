"""Applications on trio behind a running Gunicorn: a plain one, Starlette, FastAPI and Quart-Trio."""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from certificates import make_authority
from packaging.requirements import Requirement
from process import APPS, DEADLINE, LOOPS, Connection, Gunicorn, poll, trusting_context
from wsclient import connect, exchange, read_close

trio = pytest.importorskip("trio")

pytestmark = [pytest.mark.gunicorn, pytest.mark.any_version]


class Served(NamedTuple):
    """An application, and how it is served."""

    app: str
    loop: str
    package: str = "trio"
    over: str = "HTTP/1.1"

    def __str__(self) -> str:
        return f"{self.app}-{self.loop}"


PLAIN = [
    *(Served("plain", loop) for loop in LOOPS),
    # As with a trio whose insides are not known: it waits in a thread.
    Served("guest", LOOPS[0]),
]
STARLETTE = Served("starlette", LOOPS[0], "starlette", "HTTP/2")
FASTAPI = Served("fastapi", LOOPS[-1], "fastapi", "TLS")
QUART = Served("quart", LOOPS[0], "quart_trio")
FRAMEWORKS = [STARLETTE, FASTAPI, QUART]

WRONG = r"\[(WARNING|ERROR|CRITICAL)\]"
ASKED_FOR = (
    r"ERROR\] Error handling request GET (/\w+)?/(error|mistake)|WARNING\] http2_cleartext is both"
)
FILE = APPS / "trio_parts.py"
FOREIGN = "Are you trying to use a library written for some other framework like asyncio"
"""In trio's own error."""


@contextmanager
def serving(served: Served, directory: Path) -> Iterator[Gunicorn]:
    """At the end, the lifespan has cleaned up in order, and nothing is wrong in the log but what a test asks for."""
    given: dict[str, Any] = {"asgi_loop": served.loop, "options": {"async_library": "trio"}}
    if served.over == "TLS":
        pair = make_authority(directory, "server")
        given.update(certfile=pair.certfile, keyfile=pair.keyfile)
    if served.over == "HTTP/2":
        pytest.importorskip("h2")
        given.update(http_protocols="h2,h1", http2_cleartext="both")
    start = Gunicorn.with_http2 if served.over == "HTTP/2" else Gunicorn
    with start(directory, f"trio_{served.app}_app:app", **given) as server:
        yield server
        assert server.stop() == 0
        assert server.lines(WRONG) == server.lines(ASKED_FOR), served
        assert server.output == "", served
        events = server.events
        assert [events.count(f"{each} in trio") for each in ("startup", "work begun")] == [1, 1]
        assert events[-2:] == ["work ended with an error", "shutdown"], served


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Served], Gunicorn]]:
    """One Gunicorn for all tests of an application, from the first one on."""
    started: dict[Served, Gunicorn] = {}
    with ExitStack() as stack:

        def serve(served: Served) -> Gunicorn:
            if served not in started:
                directory = tmp_path_factory.mktemp(served.app)
                started[served] = stack.enter_context(serving(served, directory))
            return started[served]

        yield serve


@pytest.fixture(params=[*PLAIN, *FRAMEWORKS], ids=str)
def server(request: pytest.FixtureRequest, servers: Callable[[Served], Gunicorn]) -> Gunicorn:
    served: Served = request.param
    if find_spec(served.package) is None:
        pytest.skip(f"{served.package} is not installed")
    if served in (STARLETTE, FASTAPI) and not is_enough_for_anyio():
        pytest.skip(f"anyio does not run on trio {trio.__version__}")
    return servers(served)


def is_enough_for_anyio() -> bool:
    """Whether trio is as new as anyio needs it. Starlette and FastAPI do not ask for that."""
    needed = [Requirement(each) for each in requires("anyio") or ()]
    return all(trio.__version__ in each.specifier for each in needed if each.name == "trio")


def only(*served: Served) -> Any:
    """With these applications, not with all."""
    return pytest.mark.parametrize("server", served, ids=str, indirect=True)


def speaks_http_2(server: Gunicorn) -> bool:
    return "http2_cleartext" in server.config_file.read_text()


def client(server: Gunicorn) -> httpx.Client:
    """A client, to be closed. It speaks HTTP/2 if the server does."""
    over_2 = speaks_http_2(server)
    return httpx.Client(
        transport=httpx.HTTPTransport(http1=not over_2, http2=over_2, verify=trusting_context()),
        base_url=server.url,
        timeout=DEADLINE,
    )


def get(server: Gunicorn, path: str, **more: Any) -> httpx.Response:
    with client(server) as http:
        return http.get(path, **more)


def resetting(server: Gunicorn) -> Connection:
    """A connection whose close is a reset. After a FIN, the client might still read."""
    connection = server.connect()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if server.scheme == "https":
        connection.sock = trusting_context().wrap_socket(connection.sock)
    return connection


# HTTP.


@pytest.mark.smoke
def test_json(server: Gunicorn) -> None:
    with client(server) as http:
        for number in range(3):
            response = http.get("/json", params={"a": f"{number} ü &"})
            assert response.status_code == 200
            assert response.headers["content-type"] == "application/json"
            assert response.json() == {"library": "trio", "greeting": "hello", "a": f"{number} ü &"}
            assert response.http_version == ("HTTP/2" if speaks_http_2(server) else "HTTP/1.1")


def check_stream(server: Gunicorn, path: str = "/stream") -> None:
    with client(server) as http, http.stream("GET", path) as response:
        assert response.status_code == 200
        parts = response.iter_text()
        assert next(parts) == "part 0\n"
        for number in (1, 2):
            assert get(server, "/release").status_code == 200
            assert next(parts) == f"part {number}\n"
        assert list(parts) == []


def test_each_part_of_a_stream_arrives_before_the_next_is_made(server: Gunicorn) -> None:
    check_stream(server)
    check_stream(server)


def check_endless(server: Gunicorn, path: str = "/endless") -> None:
    begun, closed = server.events.count("begun"), server.events.count("closed")
    with client(server) as http, http.stream("GET", path) as response:
        assert "x" in next(response.iter_text())
    server.wait_for_event("closed", closed + 1)
    assert server.events.count("begun") == begun + 1
    assert get(server, "/json").status_code == 200


def test_a_stream_whose_client_goes_away_cleans_up(server: Gunicorn) -> None:
    check_endless(server)


@only(*PLAIN)
def test_a_disconnect_wakes_who_listens_for_it(server: Gunicorn) -> None:
    with resetting(server) as connection:
        connection.get("/listening")
        server.wait_for_event("listening")
        assert "listener closed" not in server.events
    server.wait_for_event("listener closed")


@only(STARLETTE, FASTAPI)
def test_who_asks_whether_the_client_is_still_there_is_told(server: Gunicorn) -> None:
    """Starlette asks by a receive() in a scope that is cancelled already."""
    with resetting(server) as connection:
        connection.get("/polling")
        server.wait_for_event("polling")
        assert "polled" not in server.events
    server.wait_for_event("polled")


@pytest.mark.parametrize("size", [1_000_000, 5_000_000])
def test_an_upload_is_read_in_parts(server: Gunicorn, size: int) -> None:
    body = bytes(number % 251 for number in range(1000)) * (size // 1000)
    with client(server) as http:
        for _ in range(2):
            response = http.post("/upload", content=body)
            assert response.status_code == 200, response.text
            found = response.json()
            assert (found["size"], found["crc"]) == (size, zlib.crc32(body))
            assert found["parts"] > 1


def test_background_work_goes_on_after_the_response(server: Gunicorn) -> None:
    response = get(server, "/background")
    assert (response.status_code, response.json()) == (202, {"accepted": True})
    server.wait_for_event("background begun in trio")
    assert get(server, "/json").status_code == 200
    assert "background done" not in server.events
    assert get(server, "/finish").status_code == 200
    server.wait_for_event("background done")


def test_a_task_of_the_lifespan_works_for_all_requests(server: Gunicorn) -> None:
    for name in ("first", "second"):
        assert get(server, "/job", params={"name": name}).status_code == 200
        server.wait_for_event(f"work on {name} in trio")


def test_a_thread_is_in_no_library_and_gets_back_into_trio(server: Gunicorn) -> None:
    found = get(server, "/thread").json()
    assert found.pop("value") in ("none", "the request's")
    assert found == {"is_main": False, "library": None, "in_task": "trio", "in_loop": "trio"}


def test_a_context_belongs_to_one_request_and_its_children(server: Gunicorn) -> None:
    for value in ("one", "two"):
        assert get(server, "/context", params={"value": value}).json() == {
            "before": "none",
            "children": [value, value],
            "after": value,
        }


def test_a_client_of_trio_within_a_request_asks_this_worker(server: Gunicorn) -> None:
    assert get(server, "/fetch").json() == {"library": "trio", "greeting": "hello", "a": "inner"}


def test_a_file_is_sent(server: Gunicorn) -> None:
    assert get(server, "/file").content == FILE.read_bytes()


def check_range(server: Gunicorn, path: str = "/file") -> None:
    content = FILE.read_bytes()
    response = get(server, path, headers={"range": "bytes=10-19"})
    assert (response.status_code, response.content) == (206, content[10:20])
    assert response.headers["content-range"] == f"bytes 10-19/{len(content)}"


@only(*FRAMEWORKS)
def test_a_range_of_a_file_is_sent(server: Gunicorn) -> None:
    check_range(server)


def test_an_error_is_answered_with_500_and_logged(server: Gunicorn) -> None:
    assert get(server, "/error").status_code == 500
    server.wait_for(r"Error handling request GET /error")
    server.wait_for("ValueError: the application's own$")


def test_what_belongs_to_asyncio_is_refused_at_once(server: Gunicorn) -> None:
    """Each of these waits in asyncio's loop, on which trio's runs. That loop would never tell trio."""
    kinds = (
        "sleep",
        "sleep 0",
        "event",
        "task",
        "thread",
        "connection",
        "future",
        "group",
        "timeout",
    )
    with client(server) as http:
        for kind in kinds:
            assert (kind, http.get("/mistake", params={"kind": kind}).status_code) == (kind, 500)
        assert http.get("/json").status_code == 200
    server.wait_for(FOREIGN, 6)


# WebSockets.


def test_a_websocket_echoes_and_is_told_how_the_client_has_closed(server: Gunicorn) -> None:
    with connect(server, "/ws/echo") as ws:
        for text in ("hello", "ü" * 1000, "x" * 300_000):
            assert exchange(ws, text) == text
        ws.close(4001, "enough")
    # Quart-Trio tells nobody: it cancels the handler.
    poll(lambda: {"disconnected 4001 enough", "disconnected"} & {*server.events})


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (3000, "ü"), (4999, "x" * 123)])
def test_a_websocket_is_closed_with_code_and_reason(
    server: Gunicorn, code: int, reason: str
) -> None:
    with connect(server, f"/ws/close?code={code}&reason={reason}") as ws:
        assert read_close(ws) == (code, reason)


def test_a_websocket_is_read_by_one_task_and_written_by_another(server: Gunicorn) -> None:
    before = server.events.count("talk ended")
    with connect(server, "/ws/both") as ws:
        for text in ("one", "two"):
            assert ws.recv(DEADLINE) == "tick"
            ws.send(text)
            while (got := ws.recv(DEADLINE)) == "tick":
                pass
            assert got == f"heard {text}"
    server.wait_for_event("talk ended", before + 1)
    assert get(server, "/json").status_code == 200


# A framework's own ways.


@only(STARLETTE)
@pytest.mark.parametrize("mount", ["/mounted", "/middled"])
def test_starlettes_mounts_and_middleware_serve_the_same(server: Gunicorn, mount: str) -> None:
    """BaseHTTPMiddleware has a task group of anyio between the application and the server."""
    response = get(server, f"{mount}/json", params={"a": "x"})
    assert response.json() == {"library": "trio", "greeting": "hello", "a": "x"}
    assert response.headers.get("x-middled") == ("trio" if mount == "/middled" else None)
    check_stream(server, f"{mount}/stream")
    check_endless(server, f"{mount}/endless")
    check_range(server, f"{mount}/file")
    assert get(server, f"{mount}/file").content == FILE.read_bytes()
    found = get(server, f"{mount}/context", params={"value": "x"}).json()
    assert found["before"] == ("the middleware's" if mount == "/middled" else "none")
    found = get(server, f"{mount}/thread").json()
    assert (found["in_task"], found["in_loop"]) == ("trio", "trio")
    assert get(server, f"{mount}/error").status_code == 500


@only(FASTAPI)
def test_fastapis_dependencies_clean_up_in_trio(server: Gunicorn) -> None:
    before = server.events.count("dependency closed in trio")
    check_endless(server)
    server.wait_for_event("dependency closed in trio", before + 1)
    with connect(server, "/ws/echo") as ws:
        exchange(ws, "hello")
    server.wait_for_event("dependency closed in trio", before + 2)
    get(server, "/thread")
    server.wait_for_event("thread dependency closed in None")


# trio's own functions beside the server.


@only(*PLAIN)
@pytest.mark.smoke
def test_trios_own_functions_work_beside_the_server(server: Gunicorn) -> None:
    parts = ("timeouts", "channel", "sockets", "request", "threads", "processes", "signals")
    with client(server) as http:
        for part in parts:
            assert http.get("/check", params={"what": part}).text == f'"{part}"'


def test_the_thread_is_used_where_trio_is_not_known(servers: Callable[[Served], Gunicorn]) -> None:
    server = servers(PLAIN[-1])
    assert "unknown" in server.events


# Applications that are not for trio.


def test_an_application_on_asyncio_fails_readably_under_trio(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "main:app", options={"async_library": "trio"}) as server:
        assert server.get("/hello").text == "hello\n"  # it never waits
        assert server.get("/slow?seconds=0.01").status_code == 500
        server.wait_for(FOREIGN)
        assert server.stop() == 0
        assert len(server.lines(WRONG)) == 2, server.log
        assert server.lines(r"\[ERROR\] ASGI lifespan raised$"), server.log
        assert len(server.lines(FOREIGN)) == 2
