"""The extensions of a response as an application and its framework see them: what is advertised where (ASGI statements 16, 121, 124 to 153)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from inprocess import answer
from process import Gunicorn
from ways import WAYS, serving

FILES = {"http.response.pathsend", "http.response.zerocopysend"}
ALWAYS = FILES | {"http.response.early_hint", "http.response.trailers"}
SIZES = [0, 1, 65536, 65537, 3_000_000]


async def telling(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what is advertised, and fills it with its own."""
    await answer(send, repr({name: value for name, value in scope["extensions"].items() if name != "tls"}).encode())
    for extension in scope["extensions"].values():
        extension["mine"] = True


@pytest.mark.parametrize("way", WAYS)
def test_what_works_is_advertised_and_nothing_else(parser: str, way: str) -> None:
    """Neither ``http.response.push``, which no browser takes any more (statement 121), nor ``http.response.debug`` (153)."""
    expected: dict[str, Any] = {name: {} for name in sorted(FILES if way == "1.0" else ALWAYS)}
    with serving(telling, parser, way) as asked:
        client = asked.connect()
        for _ in range(1 if way == "1.0" else 2):
            found = eval(asked.ask(client).body)
            assert dict(sorted(found.items())) == expected


@pytest.mark.parametrize("way", ["1.1", "h2"])
@pytest.mark.parametrize("kind", ["http.response.push", "http.response.debug", "http.response.nothing"])
def test_what_is_not_advertised_raises(parser: str, way: str, kind: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": kind, "path": "/", "headers": [], "info": {}})

    with serving(app, parser, way) as asked:
        assert asked.fetch().status == 500
        (line,) = asked.server.log.take("error")
        assert str(line.error) == f"expected 'http.response.start' or 'http.response.body', not {kind!r}"


# Frameworks.

COMMON = """
import os
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from events import note

DIRECTORY = os.environ["TEST_FILES"]
os.chdir(DIRECTORY)

class Noting:
    def __init__(self, app):
        self.app = app
    async def __call__(self, scope, receive, send):
        async def noting(message):
            note(message["type"])
            await send(message)
        await self.app(scope, receive, noting)

async def absolute(request):
    return FileResponse(f"{DIRECTORY}/{request.path_params['name']}", background=BackgroundTask(note, "background"))

async def relative(request):
    return FileResponse(request.path_params["name"])

async def hinted(request):
    await request.send_push_promise("/a.css")
    return JSONResponse(sorted(request.scope["extensions"]))

class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)
"""
APPS = {
    "starlette": COMMON
    + """
from starlette.applications import Starlette
routes = [Route("/absolute/{name}", absolute), Route("/relative/{name}", relative), Route("/hinted", hinted)]
static = Mount("/static", StaticFiles(directory=DIRECTORY))
passing = Mount("/passing", routes=routes, middleware=[Middleware(Passing)])
zipped = Mount("/zipped", routes=routes, middleware=[Middleware(GZipMiddleware)])
app = Starlette(routes=[*routes, static, passing, zipped], middleware=[Middleware(Noting)])
""",
    "fastapi": COMMON
    + """
from fastapi import FastAPI
app = FastAPI(middleware=[Middleware(Noting)])
@app.get("/absolute/{name}")
async def absolute(name: str):
    return FileResponse(f"{DIRECTORY}/{name}", background=BackgroundTask(note, "background"))
@app.get("/relative/{name}", response_class=FileResponse)
async def relative(name: str):
    return name
@app.get("/hinted")
async def hinted(request: __import__("starlette.requests").requests.Request):
    await request.send_push_promise("/a.css")
    return sorted(request.scope["extensions"])
app.mount("/static", StaticFiles(directory=DIRECTORY))
""",
}


@pytest.fixture(scope="module", params=[name for name in APPS if find_spec(name) is not None])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    directory = tmp_path_factory.mktemp(request.param)
    files = directory / "files"
    files.mkdir()
    for size in SIZES:
        (files / f"{size}.txt").write_bytes(content(size))
    (directory / "filing.py").write_text(APPS[request.param])
    here = str(Path(__file__).parent / "apps")
    with Gunicorn(directory, "filing:app", pythonpath=f"{directory},{here}", env={"TEST_FILES": str(files)}) as server:
        yield server
        assert server.stop() == 0
        assert not server.lines(r"WARNING|ERROR|CRITICAL")


def content(size: int) -> bytes:
    return b"".join(b"%08x" % number for number in range(size // 8 + 1))[:size]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("route", ["absolute", "relative", "static"])
def test_a_file_response_goes_by_pathsend(server: Gunicorn, route: str, size: int) -> None:
    """Statement 136. Starlette leaves a relative path as it is."""
    before = server.events.count("http.response.pathsend")
    with server.client() as client:
        for _ in range(2):
            response = client.get(f"/{route}/{size}.txt")
            assert (response.status_code, response.content) == (200, content(size))
            assert response.headers["content-length"] == str(size)
    assert server.events.count("http.response.pathsend") == before + 2
    if route == "absolute":
        server.wait_for_event("background")


def test_a_part_of_a_file_and_what_has_not_changed_are_the_frameworks(server: Gunicorn) -> None:
    response = server.get("/static/65537.txt", headers={"Range": "bytes=10-19"})
    assert (response.status_code, response.content) == (206, content(20)[10:])
    etag = server.get("/static/65537.txt").headers["etag"]
    response = server.get("/static/65537.txt", headers={"If-None-Match": etag})
    assert (response.status_code, response.content) == (304, b"")
    assert server.request("HEAD", "/static/65537.txt").headers["content-length"] == "65537"
    assert server.get("/static/missing.txt").status_code == 404


@pytest.mark.parametrize("middleware", ["passing", "zipped"])
def test_a_file_goes_through_middleware(server: Gunicorn, middleware: str) -> None:
    """Statement 135."""
    response = server.get(f"/{middleware}/absolute/65537.txt")
    if response.status_code != 404:  # only Starlette's application has them
        assert response.content == content(65537)


def test_a_push_promise_is_passed_over(server: Gunicorn) -> None:
    """Statement 121: a framework asks what is advertised."""
    assert server.get("/hinted").json() == sorted(ALWAYS)
    assert "http.response.push" not in server.events
