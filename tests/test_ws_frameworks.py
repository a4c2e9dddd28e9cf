"""WebSockets of Starlette, FastAPI, Django Channels and Socket.IO behind a running Gunicorn, each with a real client."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from process import BOOT_LINE, DEADLINE, LOOPS, Gunicorn, poll
from websockets.exceptions import ConnectionClosed
from ws import CLOSE, close
from wsclient import connect, connect_raw, exchange, read_close, read_refusal

pytestmark = [pytest.mark.gunicorn, pytest.mark.any_version]


class Served(NamedTuple):
    """What is served, what that needs, and what its log may have at the end."""

    app: str
    package: str
    expected: str = r"\[ERROR\] Error handling .*/ws/(endpoint|error|broken|nowhere)"


APPS = [
    Served("starlette_app", "starlette"),
    Served("fastapi_app", "fastapi"),
    Served("channels_app", "channels"),
    # A poll waits for 45 s, whether or not its client is still there.
    Served("socketio_app", "socketio", r"\[WARNING\] \d+ responses were not complete"),
]


def serving(served: Served) -> Callable[[pytest.TempPathFactory], Iterator[Gunicorn]]:
    """A fixture: one Gunicorn for all tests of an application. Nothing may be wrong in its log at the end but what a test asks for."""

    @pytest.fixture(scope="module")
    def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
        pytest.importorskip(served.package)
        with Gunicorn(
            tmp_path_factory.mktemp(served.app), f"{served.app}:app", graceful_timeout=3
        ) as server:
            yield server
            assert server.stop() == 0
            assert server.lines(r"\[(WARNING|ERROR|CRITICAL)\]") == server.lines(served.expected)
            assert server.output == ""

    return server


starlette, fastapi, channels, sio = map(serving, APPS)


def closing(ws: Any, code: int = 1000, reason: str = "") -> None:
    """Close as the client."""
    ws.close(code, reason)


# Starlette.


def test_starlette_echoes_and_is_told_how_the_client_has_closed(starlette: Gunicorn) -> None:
    with connect(starlette, "/ws/echo") as ws:
        for text in ("hello", "", "ü" * 1000):
            assert json.loads(exchange(ws, text)) == {"greeting": "hello", "text": text}
        closing(ws, 4001, "enough")
    starlette.wait_for_event("disconnected 4001 enough")


def test_starlette_iterates_over_messages_until_the_end(starlette: Gunicorn) -> None:
    with connect(starlette, "/ws/iterate") as ws:
        assert ws.response.headers["x-answer"] == "42"
        for size in (0, 1, 125, 126, 65535, 65536, 300_000):
            assert exchange(ws, bytes(size)) == bytes(size)
    starlette.wait_for_event("iterated")


@pytest.mark.parametrize(
    ("offered", "chosen"), [(None, None), (["first"], None), (["first", "second"], "second")]
)
def test_starlettes_endpoint_speaks_json_and_chooses_a_subprotocol(
    starlette: Gunicorn, offered: list[str] | None, chosen: str | None
) -> None:
    before = starlette.events.count("endpoint 1000")
    with connect(starlette, "/ws/endpoint", subprotocols=offered) as ws:
        assert ws.subprotocol == chosen
        assert json.loads(exchange(ws, '{"a": 1}')) == {"got": {"a": 1}}
    starlette.wait_for_event("endpoint 1000", before + 1)


def test_starlettes_endpoint_closes_with_1003_what_is_not_json(starlette: Gunicorn) -> None:
    with connect(starlette, "/ws/endpoint") as ws:
        ws.send("no json")
        assert read_close(ws)[0] == 1003
    starlette.wait_for_event("endpoint 1011")
    starlette.wait_for("^RuntimeError: Malformed JSON data received")


def test_starlette_hears_in_its_send_that_the_client_has_gone(starlette: Gunicorn) -> None:
    with connect_raw(starlette, "/ws/stream") as ws:
        assert ws.read_message() == "x" * 1000
        ws.send(close(1000))
        assert CLOSE in iter(lambda: ws.read_frame().opcode, None)
    starlette.wait_for_event("stream 1006")  # Starlette's own: it asks no further


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "bye"), (3000, "ü"), (4999, "x" * 123)]
)
def test_starlette_closes_with_code_and_reason(starlette: Gunicorn, code: int, reason: str) -> None:
    with connect(starlette, f"/ws/close?code={code}&reason={reason}") as ws:
        assert read_close(ws) == (code, reason)


def test_an_exception_of_starlettes_own_kind_closes_with_its_code(starlette: Gunicorn) -> None:
    with connect(starlette, "/ws/exception") as ws:
        assert read_close(ws) == (4000, "not like this")


def test_another_exception_in_starlette_is_1011_and_logged(starlette: Gunicorn) -> None:
    with connect(starlette, "/ws/error") as ws:
        assert read_close(ws)[0] == 1011
    starlette.wait_for("^ValueError: the application's own$")


def test_starlettes_close_before_accept_is_403(starlette: Gunicorn) -> None:
    assert read_refusal(starlette, "/ws/reject").status_code == 403
    assert read_refusal(starlette, "/nowhere").status_code == 403


def test_starlettes_denial_response_arrives_as_it_is(starlette: Gunicorn) -> None:
    response = read_refusal(starlette, "/ws/deny")
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert response.headers["content-type"] == "application/json"
    assert json.loads(response.body) == {"detail": "who are you?"}


def test_starlettes_denial_response_may_be_a_file(starlette: Gunicorn) -> None:
    response = read_refusal(starlette, "/ws/file")
    assert response.status_code == 404
    assert response.body == (Path(__file__).parent / "apps" / "starlette_app.py").read_bytes()


def test_starlettes_http_exception_before_accept_is_a_denial_response(starlette: Gunicorn) -> None:
    response = read_refusal(starlette, "/ws/teapot")
    assert (response.status_code, response.body) == (418, b"no coffee")


@pytest.mark.parametrize("loop", LOOPS)
def test_starlette_is_told_of_a_drain_and_has_its_lifespan_end_behind_it(
    tmp_path: Path, loop: str
) -> None:
    pytest.importorskip("starlette")
    with (
        Gunicorn(tmp_path, "starlette_app:app", asgi_loop=loop) as server,
        connect(server, "/ws/echo") as ws,
    ):
        exchange(ws, "hello")
        server.kill(signal.SIGTERM)
        assert read_close(ws)[0] == 1012
        assert server.wait() == 0
        events = [event.rstrip() for event in server.events]
        assert events[-1] == "shutdown"
        assert events[-2].startswith("disconnected 1012")
        assert not server.lines("WARNING|ERROR")


# FastAPI.


def test_fastapi_checks_parameters_and_messages_and_closes_its_dependencies(
    fastapi: Gunicorn,
) -> None:
    before = fastapi.events.count("dependency closed")
    with connect(fastapi, "/ws/items/7?token=secret") as ws:
        got = exchange(ws, '{"name": "x", "price": "1.5"}')
        assert json.loads(got) == {
            "item": 7,
            "user": "me",
            "greeting": "hello",
            "got": {"name": "x", "price": 1.5},
        }
        closing(ws, 4002, "done")
    fastapi.wait_for_event("disconnected 4002 done")
    fastapi.wait_for_event("dependency closed", before + 1)


@pytest.mark.parametrize("path", ["/ws/items/7", "/ws/items/seven?token=secret"])
def test_a_dependency_that_raises_before_accept_is_403(fastapi: Gunicorn, path: str) -> None:
    assert read_refusal(fastapi, path).status_code == 403


def test_an_http_exception_of_a_dependency_is_a_denial_response(fastapi: Gunicorn) -> None:
    response = read_refusal(fastapi, "/ws/items/7?token=banned")
    assert (response.status_code, response.headers["x-reason"]) == (403, "banned")
    assert json.loads(response.body) == {"detail": "not you"}


# Django Channels.

ORIGIN = "http://good.example"


def test_channels_echoes_text_and_bytes(channels: Gunicorn) -> None:
    before = channels.events.count("echo 1000")
    with connect(channels, "/ws/echo", origin=ORIGIN) as ws:
        assert ws.subprotocol is None
        for message in ("hello", "ü" * 1000, b"\0\xff", bytes(100_000)):
            assert exchange(ws, message) == message
    channels.wait_for_event("echo 1000", before + 1)


def test_channels_chooses_a_subprotocol_and_hears_the_clients_code(channels: Gunicorn) -> None:
    with connect(channels, "/ws/echo", origin=ORIGIN, subprotocols=["chat.v1", "chat.v2"]) as ws:
        assert ws.subprotocol == "chat.v2"
        closing(ws, 4003)
    channels.wait_for_event("echo 4003")


def test_channels_runs_a_synchronous_consumer_in_a_thread(channels: Gunicorn) -> None:
    with connect(channels, "/ws/sync", origin=ORIGIN) as ws:
        for number in range(10):
            assert exchange(ws, f"hello {number}") == f"hello {number}"
    channels.wait_for_event("sync 1000")


def test_channels_sends_to_a_group(channels: Gunicorn) -> None:
    kitchen, cellar = "/ws/chat/kitchen", "/ws/chat/cellar"
    with (
        connect(channels, kitchen, origin=ORIGIN) as one,
        connect(channels, kitchen, origin=ORIGIN) as two,
        connect(channels, cellar, origin=ORIGIN) as elsewhere,
    ):
        for ws, room in ((one, "kitchen"), (two, "kitchen"), (elsewhere, "cellar")):
            assert json.loads(ws.recv(DEADLINE)) == {"joined": room}
        one.send('{"say": "dinner"}')
        assert (
            json.loads(one.recv(DEADLINE)) == json.loads(two.recv(DEADLINE)) == {"said": "dinner"}
        )
        assert json.loads(exchange(elsewhere, '{"say": "nobody here"}')) == {"said": "nobody here"}
    channels.wait_for_event("left kitchen 1000", 2)
    channels.wait_for_event("left cellar 1000")


def test_channels_closes_with_a_code_and_hears_it_too(channels: Gunicorn) -> None:
    with connect(channels, "/ws/close", origin=ORIGIN) as ws:
        assert read_close(ws) == (4321, "enough")
    channels.wait_for_event("closed 4321")


def test_channels_refuses_with_403(channels: Gunicorn) -> None:
    assert read_refusal(channels, "/ws/reject", origin=ORIGIN).status_code == 403
    assert read_refusal(channels, "/ws/echo", origin="http://evil.example").status_code == 403
    channels.wait_for_event("rejected 1006")


def test_an_exception_in_channels_is_1011_or_500_and_logged(channels: Gunicorn) -> None:
    with connect(channels, "/ws/broken", origin=ORIGIN) as ws:
        ws.send("now")
        assert read_close(ws)[0] == 1011
    channels.wait_for("^ValueError: the application's own$")
    assert read_refusal(channels, "/ws/nowhere", origin=ORIGIN).status_code == 500
    channels.wait_for("^ValueError: No route found for path 'ws/nowhere'")


def test_django_answers_http_beside_channels(channels: Gunicorn) -> None:
    with connect(channels, "/ws/echo", origin=ORIGIN) as ws:
        assert channels.get("/json").json() == {"greeting": "hello"}
        assert exchange(ws, "hello") == "hello"


def test_channels_is_told_of_a_drain(tmp_path: Path) -> None:
    pytest.importorskip("channels")
    with (
        Gunicorn(tmp_path, "channels_app:app") as server,
        connect(server, "/ws/chat/kitchen", origin=ORIGIN) as ws,
    ):
        ws.recv(DEADLINE)
        assert json.loads(exchange(ws, '{"say": "dinner"}')) == {"said": "dinner"}
        server.kill(signal.SIGTERM)
        assert read_close(ws)[0] == 1012
        assert server.wait() == 0
        assert server.events == ["left kitchen 1012"]
        assert not server.lines("WARNING|ERROR")


# Socket.IO.

TRANSPORTS = [None, ["websocket"], ["polling"]]
"""None: it begins by polling, and then upgrades."""


def run(talk: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(talk, 2 * DEADLINE))


@asynccontextmanager
async def talking_to(
    server: Gunicorn, transports: list[str] | None, **arguments: Any
) -> AsyncIterator[Any]:
    """Its own client, connected, until the end of ``async with``."""
    aiohttp, socketio = pytest.importorskip("aiohttp"), pytest.importorskip("socketio")
    async with (
        aiohttp.ClientSession() as session
    ):  # which the client would leave open where its server says goodbye
        client = socketio.AsyncClient(http_session=session, **{"reconnection": False, **arguments})
        await client.connect(server.url, transports=transports, wait_timeout=DEADLINE)
        try:
            yield client
        finally:
            await client.disconnect()


async def leave(client: Any) -> None:
    """Ask the server to disconnect, and wait until it has."""
    gone = asyncio.Event()
    client.on("disconnect", lambda *_: gone.set())
    await client.emit("leave")
    await asyncio.wait_for(gone.wait(), DEADLINE)


@pytest.mark.parametrize("transports", TRANSPORTS, ids=["upgrade", "websocket", "polling"])
def test_socketio_talks_in_both_directions_over_every_transport(
    sio: Gunicorn, transports: list[str] | None
) -> None:
    async def talk() -> None:
        async with talking_to(sio, transports) as client:
            said: asyncio.Queue[str] = asyncio.Queue()
            client.on("question", lambda question: f"{question}? 42")
            client.on("said", said.put)
            assert client.transport() == (transports or ["websocket"])[0]
            assert await client.call("add", (1, 2), timeout=DEADLINE) == 3
            for size in (0, 1, 100_000):
                data = bytes(number % 251 for number in range(size))
                assert await client.call("reverse", data, timeout=DEADLINE) == data[::-1]
            assert await client.call("ask", "why", timeout=DEADLINE) == "the answer is why? 42"
            for text in ("one", "two", "ü" * 1000):
                await client.emit("say", text)
                assert await asyncio.wait_for(said.get(), DEADLINE) == text
            if transports == [
                "polling"
            ]:  # a client's own goodbye waits half a minute for the answer to its poll
                await leave(client)

    def ends() -> int:
        # "client disconnect" or "transport close": at times the client has closed before it has said goodbye.
        return len([event for event in sio.events if event.startswith("disconnected ")])

    before = ends()
    run(talk())
    poll(lambda: ends() == before + 1, "the end of the client")
    assert f"connected {'websocket' if transports == ['websocket'] else 'http'}" in sio.events


@pytest.mark.parametrize("transports", TRANSPORTS, ids=["upgrade", "websocket", "polling"])
def test_socketio_says_goodbye_to_its_client(sio: Gunicorn, transports: list[str] | None) -> None:
    async def talk() -> None:
        async with talking_to(sio, transports) as client:
            await leave(client)

    before = sio.events.count("disconnected server disconnect")
    run(talk())
    sio.wait_for_event("disconnected server disconnect", before + 1)


@pytest.mark.parametrize("transports", TRANSPORTS[:2], ids=["upgrade", "websocket"])
def test_socketio_refuses_a_client(sio: Gunicorn, transports: list[str] | None) -> None:
    async def talk() -> None:
        socketio = pytest.importorskip("socketio")
        client = socketio.AsyncClient(reconnection=False)
        refused: asyncio.Queue[Any] = asyncio.Queue()
        client.on("connect_error", refused.put)
        with pytest.raises(socketio.exceptions.ConnectionError):
            await client.connect(
                sio.url, transports=transports, auth="wrong", wait_timeout=DEADLINE
            )
        assert await asyncio.wait_for(refused.get(), DEADLINE) == {"message": "not you"}
        await client.disconnect()

    run(talk())


def test_socketio_is_told_of_a_lost_client(sio: Gunicorn) -> None:
    before = sio.events.count("disconnected transport close")
    with connect(sio, "/socket.io/?EIO=4&transport=websocket") as ws:
        assert ws.recv(DEADLINE).startswith("0{")
        assert exchange(ws, "40").startswith("40{")
    sio.wait_for_event("disconnected transport close", before + 1)


@pytest.mark.parametrize("transports", TRANSPORTS[:2], ids=["upgrade", "websocket"])
def test_socketio_clients_come_back_after_a_hup(
    tmp_path: Path, transports: list[str] | None
) -> None:
    pytest.importorskip("socketio")

    async def talk(server: Gunicorn) -> None:
        patience = {"reconnection": True, "reconnection_delay": 0.1, "reconnection_delay_max": 0.5}
        async with talking_to(server, transports, **patience) as client:
            again = asyncio.Event()
            client.on("connect", again.set)
            assert await client.call("add", (1, 2), timeout=DEADLINE) == 3
            server.kill(signal.SIGHUP)
            await asyncio.wait_for(again.wait(), DEADLINE)
            assert await client.call("add", (1, 2), timeout=DEADLINE) == 3

    with Gunicorn(tmp_path, "socketio_app:app") as server:
        run(talk(server))
        server.wait_for(BOOT_LINE, 2)
        server.wait_for_event("shutdown")
        assert server.events.index("disconnected transport close") < server.events.index("shutdown")
        assert server.stop() == 0
        assert not server.lines("WARNING|ERROR")


def test_socketio_by_websocket_alone_needs_no_sticky_sessions(tmp_path: Path) -> None:
    """By polling, a client would have to come to the same worker each time (docs/websocket.md)."""
    pytest.importorskip("socketio")

    async def talk(server: Gunicorn) -> None:
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(talking_to(server, ["websocket"]))
                for _ in range(12)
            ]
            for number, client in enumerate(clients):
                assert await client.call("add", (number, 1), timeout=DEADLINE) == number + 1

    with Gunicorn(tmp_path, "socketio_app:app", workers=3) as server:
        run(talk(server))
        assert server.events.count("connected websocket") == 12
        assert server.stop() == 0
        assert not server.lines("WARNING|ERROR")


def test_a_websocket_client_of_socketio_sees_1012_in_a_drain(tmp_path: Path) -> None:
    pytest.importorskip("socketio")
    with (
        Gunicorn(tmp_path, "socketio_app:app") as server,
        connect(server, "/socket.io/?EIO=4&transport=websocket") as ws,
    ):
        assert ws.recv(DEADLINE).startswith("0{")
        assert exchange(ws, "40").startswith("40{")
        server.kill(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv(DEADLINE)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
        assert server.wait() == 0
        assert server.events[-2:] == ["disconnected transport close", "shutdown"]
