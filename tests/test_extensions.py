"""The extensions of a response as an application and its framework see them: what is advertised where (docs/asgi.md, 16, 121, 124 to 153)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from inprocess import answer, mirror
from libraries import ForBoth
from process import Gunicorn
from ways import WAYS, serving
from ws import handshake

from gunicorn_asgi.config.settings import RESPONSE_EXTENSIONS
from gunicorn_asgi.errors import ApplicationError

pytestmark = pytest.mark.both_libraries

FILES = {"http.response.pathsend", "http.response.zerocopysend"}
ALWAYS = FILES | {"http.response.early_hint", "http.response.trailers"}
SIZES = [0, 1, 65536, 65537, 3_000_000]


async def telling(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what is advertised, and fills it with its own."""
    await answer(
        send,
        repr(
            {name: value for name, value in scope["extensions"].items() if name != "tls"}
        ).encode(),
    )
    for extension in scope["extensions"].values():
        extension["mine"] = True


@pytest.mark.parametrize("way", WAYS)
def test_what_works_is_advertised_and_nothing_else(parser: str, way: str) -> None:
    """Neither ``http.response.push``, which no browser takes any more (docs/asgi.md, 121), nor ``http.response.debug`` (153)."""
    expected: dict[str, Any] = {name: {} for name in sorted(FILES if way == "1.0" else ALWAYS)}
    with serving(telling, parser, way) as asked:
        client = asked.connect()
        for _ in range(1 if way == "1.0" else 2):
            found = eval(asked.ask(client).body)
            assert dict(sorted(found.items())) == expected


@pytest.mark.parametrize("way", ["1.1", "h2"])
@pytest.mark.parametrize(
    "kind", ["http.response.push", "http.response.debug", "http.response.nothing"]
)
def test_what_is_not_advertised_raises(parser: str, way: str, kind: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": kind, "path": "/", "headers": [], "info": {}})

    with serving(app, parser, way) as asked:
        assert asked.fetch().status == 500
        (line,) = asked.server.log.take("error")
        assert (
            str(line.error)
            == f"expected 'http.response.start' or 'http.response.body', not {kind!r}"
        )


# Switching off.

START: dict[str, Any] = {"type": "http.response.start", "status": 200}
MESSAGES: dict[str, list[dict[str, Any]]] = {
    "pathsend": [START, {"type": "http.response.pathsend", "path": __file__}],
    "zerocopysend": [START, {"type": "http.response.zerocopysend", "file": 0}],
    "early_hint": [{"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}],
    "trailers": [{**START, "trailers": True}],
}
"""By option: the messages of an application up to the first that uses its extension."""


def test_every_extension_of_a_response_has_an_option_of_its_own() -> None:
    assert {f"http.response.{option}" for option in MESSAGES} == ALWAYS
    assert list(MESSAGES) == list(RESPONSE_EXTENSIONS)


@pytest.mark.parametrize("option", MESSAGES)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_switched_off_is_not_advertised(parser: str, way: str, option: str) -> None:
    names = (FILES if way == "1.0" else ALWAYS) - {f"http.response.{option}"}
    expected: dict[str, Any] = {name: {} for name in names}
    with serving(telling, parser, way, **{option: False}) as asked:
        client = asked.connect()
        for _ in range(1 if way == "1.0" else 2):
            assert eval(asked.ask(client).body) == expected


@pytest.mark.parametrize("way", ["1.1", "1.0", "tls", "h2"])
def test_all_extensions_of_a_response_can_be_switched_off(parser: str, way: str) -> None:
    """What is told of TLS is no extension of a response."""
    with serving(mirror, parser, way, **dict.fromkeys(MESSAGES, False)) as asked:
        extensions = eval(asked.fetch().body)["extensions"]
        assert set(extensions) == ({"tls"} if way == "tls" else set())


@pytest.mark.parametrize("option", MESSAGES)
@pytest.mark.parametrize("way", ["1.1", "1.0", "h2"])
def test_what_is_switched_off_raises_with_its_option(parser: str, way: str, option: str) -> None:
    extension = f"http.response.{option}"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"][extension] = {}  # what middleware adds changes nothing
        *before, message = MESSAGES[option]
        for each in before:
            await send(each)
        with pytest.raises(ApplicationError) as caught:
            await send(message)
        await answer_after(len(before), send, str(caught.value).encode())

    async def answer_after(sent: int, send: Any, body: bytes) -> None:
        await (send({"type": "http.response.body", "body": body}) if sent else answer(send, body))

    with serving(app, parser, way, **{option: False}) as asked:
        found = asked.fetch("GET", b"TE: trailers")
        why = f"it is switched off by the option {option}"
        expected = f"{extension!r} is not offered in scope['extensions']: {why}"
        assert (found.status, found.body.decode(), found.hints) == (200, expected, [])


def test_who_uses_what_is_switched_off_gets_a_500(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in MESSAGES[scope["path"][1:]]:
            await send(message)

    with serving(app, parser, "1.1", **dict.fromkeys(MESSAGES, False)) as asked:
        for option in MESSAGES:
            assert asked.fetch(path=f"/{option}").status == 500
            (line,) = asked.server.log.take("error")
            assert str(line.error).endswith(f" by the option {option}")


@pytest.mark.parametrize("off", [False, True])
def test_a_denial_has_the_same_extensions_whatever_is_switched_off(parser: str, off: bool) -> None:
    """Its start has no `trailers` in the specification: the key means nothing there."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        start = {"type": "websocket.http.response.start", "status": 404, "trailers": True}
        await send(start)
        body = repr(scope["extensions"]).encode()
        await send({"type": "websocket.http.response.body", "body": body})

    with serving(app, parser, "1.1", **dict.fromkeys(MESSAGES, not off)) as asked:
        client = asked.connect()
        client.send(handshake(b"TE: trailers"))
        response = client.read_response()
        assert (response.status, eval(response.body)) == (404, {"websocket.http.response": {}})


def test_middleware_sees_files_only_if_pathsend_is_off(parser: str, tmp_path: Path) -> None:
    responses = pytest.importorskip("starlette.responses")
    (tmp_path / "a.txt").write_bytes(content(100_000))

    def capturing(app: Any) -> Any:
        """Adds the length of the body that it has seen, as middleware does that signs it."""

        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            held: list[Any] = []
            body = b""

            async def hold(message: Any) -> None:
                nonlocal body
                held.append(message)
                body += message.get("body", b"")

            await app(scope, receive, hold)
            held[0]["headers"].append((b"x-seen", b"%d" % len(body)))
            for message in held:
                await send(message)

        return wrapped

    for pathsend, seen in ((True, b"0"), (False, b"100000")):
        app = ForBoth(capturing(responses.FileResponse(tmp_path / "a.txt")))
        with serving(app, parser, "1.1", pathsend=pathsend) as asked:
            found = asked.fetch()
            assert (found.status, found.body) == (200, content(100_000))
            assert found.values(b"x-seen") == [seen]


def test_middleware_changes_a_file_if_pathsend_is_off(parser: str, tmp_path: Path) -> None:
    """Where it is not, Starlette's `body_iterator` yields the message with the path."""
    pytest.importorskip("starlette")
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import FileResponse, Response

    (tmp_path / "a.txt").write_bytes(content(100_000))

    async def dispatch(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        return Response(b"".join([part async for part in response.body_iterator]).upper())

    app = ForBoth(BaseHTTPMiddleware(FileResponse(tmp_path / "a.txt"), dispatch))
    with serving(app, parser, "1.1", pathsend=False) as asked:
        found = asked.fetch()
        assert (found.status, found.body) == (200, content(100_000).upper())
    with serving(app, parser, "1.1") as asked:
        assert asked.fetch().status == 500
        (line,) = asked.server.log.take("error")
        assert isinstance(line.error, TypeError)


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
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gunicorn]:
    directory = tmp_path_factory.mktemp(request.param)
    files = directory / "files"
    files.mkdir()
    for size in SIZES:
        (files / f"{size}.txt").write_bytes(content(size))
    (directory / "filing.py").write_text(APPS[request.param])
    here = str(Path(__file__).parent / "apps")
    with Gunicorn(
        directory, "filing:app", pythonpath=f"{directory},{here}", env={"TEST_FILES": str(files)}
    ) as server:
        yield server
        assert server.stop() == 0
        assert not server.lines(r"WARNING|ERROR|CRITICAL")


def content(size: int) -> bytes:
    return b"".join(b"%08x" % number for number in range(size // 8 + 1))[:size]


@pytest.mark.gunicorn
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("route", ["absolute", "relative", "static"])
def test_a_file_response_goes_by_pathsend(server: Gunicorn, route: str, size: int) -> None:
    """docs/asgi.md, 136. Starlette leaves a relative path as it is."""
    before = server.events.count("http.response.pathsend")
    with server.client() as client:
        for _ in range(2):
            response = client.get(f"/{route}/{size}.txt")
            assert (response.status_code, response.content) == (200, content(size))
            assert response.headers["content-length"] == str(size)
    assert server.events.count("http.response.pathsend") == before + 2
    if route == "absolute":
        server.wait_for_event("background")


@pytest.mark.gunicorn
def test_a_part_of_a_file_and_what_has_not_changed_are_the_frameworks(server: Gunicorn) -> None:
    response = server.get("/static/65537.txt", headers={"Range": "bytes=10-19"})
    assert (response.status_code, response.content) == (206, content(20)[10:])
    etag = server.get("/static/65537.txt").headers["etag"]
    response = server.get("/static/65537.txt", headers={"If-None-Match": etag})
    assert (response.status_code, response.content) == (304, b"")
    assert server.request("HEAD", "/static/65537.txt").headers["content-length"] == "65537"
    assert server.get("/static/missing.txt").status_code == 404


@pytest.mark.gunicorn
@pytest.mark.parametrize("middleware", ["passing", "zipped"])
def test_a_file_goes_through_middleware(server: Gunicorn, middleware: str) -> None:
    """docs/asgi.md, 135."""
    response = server.get(f"/{middleware}/absolute/65537.txt")
    if response.status_code != 404:  # only Starlette's application has them
        assert response.content == content(65537)


@pytest.mark.gunicorn
def test_a_push_promise_is_passed_over(server: Gunicorn) -> None:
    """docs/asgi.md, 121: a framework asks what is advertised."""
    assert server.get("/hinted").json() == sorted(ALWAYS)
    assert "http.response.push" not in server.events
