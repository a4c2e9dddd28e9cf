"""Starlette, FastAPI and Django behind a running Gunicorn: what their users do with them every day."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import httpx
import pytest
from process import DEADLINE, Gunicorn, poll

pytestmark = [pytest.mark.gunicorn, pytest.mark.any_version]

FRAMEWORKS = [name for name in ("starlette", "fastapi", "django") if find_spec(name) is not None]
STARLETTES = [name for name in FRAMEWORKS if name != "django"]


@pytest.fixture(scope="module", params=FRAMEWORKS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gunicorn]:
    """One Gunicorn for each framework. Nothing may be wrong in its log at the end but the error that a test asks for."""
    with Gunicorn(tmp_path_factory.mktemp(request.param), f"{request.param}_app:app") as server:
        yield server
        assert server.stop() == 0
        assert server.lines(r"WARNING|ERROR|CRITICAL") == server.lines(
            r"\[ERROR\] Error handling request GET /error"
        )
        if request.param != "django":
            assert server.events[-1] == "shutdown"


@pytest.mark.smoke
def test_json(server: Gunicorn) -> None:
    with server.client() as client:
        for number in range(3):
            response = client.get("/json", params={"a": str(number), "b": "ü &"})
            assert response.status_code == 200
            assert response.headers["content-type"] == "application/json"
            assert response.json() == {
                "greeting": "hello",
                "query": {"a": str(number), "b": "ü &"},
                "client": "127.0.0.1",
            }


def test_a_head_has_the_length_of_the_get(server: Gunicorn) -> None:
    length = server.get("/json").headers["content-length"]
    response = server.request("HEAD", "/json")
    if response.status_code != 405:  # FastAPI has no HEAD of itself
        assert (response.headers["content-length"], response.content) == (length, b"")


def test_not_found_is_the_frameworks(server: Gunicorn) -> None:
    assert server.get("/nowhere").status_code == 404


def test_a_streaming_response_arrives_whole(server: Gunicorn) -> None:
    with server.client() as client:
        for _ in range(2):
            response = client.get("/stream")
            assert response.text == "".join(f"part {part}\n" for part in range(5))
            assert response.headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
def test_a_file_is_uploaded(server: Gunicorn, size: int) -> None:
    with server.client() as client:
        for _ in range(2):
            response = client.post(
                "/upload",
                data={"field": "value"},
                files={"file": ("name.bin", b"x" * max(size - 1, 0) + b"y" * (size > 0))},
            )
            assert response.status_code == 200, response.text
            assert response.json() == {
                "name": "name.bin",
                "size": size,
                "last": "y" if size else "",
                "field": "value",
            }


@pytest.mark.parametrize("framework", [name for name in FRAMEWORKS if name != "fastapi"])
def test_cookies_in_three_fields_are_three_cookies_over_http_2(
    framework: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As browsers send them; RFC 9113, 8.2.3."""
    pytest.importorskip("h2")
    directory = tmp_path_factory.mktemp("cookies")
    cookies = {"a": "1", "b": "x,y", "c": "3"}
    with Gunicorn.with_http2(
        directory, f"{framework}_app:app", http2_cleartext="prior-knowledge"
    ) as server:
        with httpx.Client(http1=False, http2=True) as client:
            fields = [("cookie", f"{name}={value}") for name, value in cookies.items()]
            response = client.get(f"{server.url}/cookies", headers=fields)
            assert (response.http_version, response.json()) == ("HTTP/2", cookies)
        assert server.stop() == 0


def test_a_client_that_goes_away_ends_the_stream_without_an_error(server: Gunicorn) -> None:
    begun, closed = server.events.count("begun"), server.events.count("closed")
    with server.connect() as client:
        client.get("/endless")
        client.read_until(b"x" * 1000)

    def is_closed() -> bool:
        # Django leaves a generator that it does not finish to the garbage collector, at times within a cycle.
        server.get("/collect")
        return server.events.count("closed") == closed + 1

    poll(is_closed)
    assert server.events.count("begun") == begun + 1
    assert server.get("/json").status_code == 200
    assert not server.lines(r"ERROR.*endless")


def test_a_client_that_goes_away_in_its_upload_harms_nobody(server: Gunicorn) -> None:
    with server.connect() as client:
        client.send(
            b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n--b\r\n"
        )
    assert server.get("/json").status_code == 200


def test_an_exception_is_answered_with_500_and_logged(server: Gunicorn) -> None:
    assert server.get("/error").status_code == 500
    if server.lines("ERROR"):  # Django answers and logs in its own way
        assert server.lines("^ValueError: the application's own$")


def test_many_clients_at_once(server: Gunicorn) -> None:
    clients = [server.connect() for _ in range(50)]
    try:
        for client in clients:
            client.get("/json?a=1")
        for client in clients:
            assert client.read_response()[0] == 200
    finally:
        for client in clients:
            client.sock.close()


@pytest.mark.parametrize("framework", STARLETTES)
def test_a_background_task_delays_neither_the_response_nor_the_next_request(
    framework: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (
        Gunicorn(tmp_path_factory.mktemp("background"), f"{framework}_app:app") as server,
        server.connect() as client,
    ):
        client.get("/background")
        status, headers, body = client.read_response()
        assert (status, body) == (202, b'{"accepted":true}')
        assert headers.get("connection") is None
        server.wait_for_event("background begun")
        client.get("/json")
        assert client.read_response()[0] == 200
        assert "background done" not in server.events
        client.get("/release")
        assert client.read_response()[0] == 200
        server.wait_for_event("background done")
        assert server.stop() == 0
        assert not server.lines("WARNING|ERROR")


@pytest.mark.parametrize("framework", STARLETTES)
def test_a_background_task_is_waited_for_in_a_drain(
    framework: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (
        Gunicorn(tmp_path_factory.mktemp("drain"), f"{framework}_app:app") as server,
        server.connect() as client,
    ):
        client.begin_upload("/upload")  # holds the drain until it is given up
        with server.connect() as other:
            other.get("/background")
            other.read_response()
            server.wait_for_event("background begun")
            other.get("/release")
            server.kill(15)
            other.read_all()
        client.sock.close()
        assert server.wait(DEADLINE) == 0
        assert server.events[-2:] == ["background done", "shutdown"]


def test_a_dependency_is_closed_when_the_client_goes_away(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    pytest.importorskip("fastapi")
    with Gunicorn(tmp_path_factory.mktemp("fastapi"), "fastapi_app:app") as server:
        with server.connect() as client:
            client.get("/endless")
            client.read_until(b"x" * 1000)
        server.wait_for_event("dependency closed")
        response = server.request("POST", "/items", json={"name": "x", "price": "1.5"})
        assert response.json() == {"name": "x", "price": 1.5}
        assert server.request("POST", "/items", json={"name": "x"}).status_code == 422
        assert server.stop() == 0
        assert not server.lines("WARNING|ERROR")


def test_django_cancels_a_view_whose_client_has_gone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    pytest.importorskip("django")
    with Gunicorn(tmp_path_factory.mktemp("django"), "django_app:app") as server:
        with server.connect() as client:
            client.get("/slow")
            server.wait_for_event("slow begun")
        server.wait_for_event("slow cancelled")
        assert poll(lambda: server.get("/json")).status_code == 200
        assert server.stop() == 0
        assert not server.lines("WARNING|ERROR")
