"""Connections to the Runtime API (`gunicorn_asgi.aws_lambda`: `api_connection`, `runtime_api`, `streamed_result`), in process.

tests/test_lambda_gunicorn.py has the same with a whole worker, on the stand-in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from gunicorn_asgi.aws_lambda import runtime_api
from gunicorn_asgi.aws_lambda.api_connection import Rejected, RuntimeAPIError, connect
from gunicorn_asgi.aws_lambda.invocation import Invocation
from gunicorn_asgi.aws_lambda.runtime_api import RuntimeAPI
from gunicorn_asgi.aws_lambda.streamed_result import StreamedResult

INVOCATION = Invocation(b"{}", "an-id", 0)
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
SECONDS = 30.0


class Server:
    """A server that gives each request the next of its answers, and closes after an incomplete one."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.address = ""
        self.has_closed = asyncio.Event()
        """A client has closed a connection."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append(head)
                if b"Content-Length: 2\r\n" in head:
                    await reader.readexactly(2)
                if self.answers:
                    writer.write(answer := self.answers.pop(0))
                    if not answer.endswith(b"\r\n\r\n"):
                        return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.has_closed.set()
        finally:
            writer.close()


def run(test: Callable[[Server], Awaitable[None]], server: Callable[[], Server] = Server) -> None:
    async def main() -> None:
        made = server()
        listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
        made.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        try:
            await asyncio.wait_for(test(made), SECONDS)
        finally:
            listening.close()

    asyncio.run(main())


def test_a_result_without_an_answer_in_time_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its connection is not closed, so the Runtime API may have taken it."""
    monkeypatch.setattr(runtime_api, "ANSWER_SECONDS", 0.05)

    async def hand_in_twice(server: Server) -> None:
        api = RuntimeAPI(server.address, asyncio.get_running_loop())
        await api.respond(INVOCATION, b"{}")
        with pytest.raises(Rejected, match="there was no answer within"):
            await api.respond(INVOCATION, b"{}")  # on the connection that was kept
        await server.has_closed.wait()
        assert len(server.requests) == 2
        api.close()

    run(hand_in_twice, lambda: Server(ACCEPTED))


def test_a_result_whose_answer_breaks_off_is_not_sent_again() -> None:
    async def hand_in_twice(server: Server) -> None:
        api = RuntimeAPI(server.address, asyncio.get_running_loop())
        await api.respond(INVOCATION, b"{}")
        with pytest.raises(Rejected, match="the connection has ended"):
            await api.respond(INVOCATION, b"{}")
        assert len(server.requests) == 2
        api.close()

    run(hand_in_twice, lambda: Server(ACCEPTED, b"HTTP/1.1 202 Acc"))


def test_a_connection_with_an_answer_that_nobody_has_asked_for_is_not_used_again() -> None:
    """The next request would get it for an answer."""

    async def ask(server: Server) -> None:
        connection = await connect(server.address, asyncio.get_running_loop())
        connection.begin(b"GET / HTTP/1.1\r\n\r\n")
        await connection.answer
        connection.data_received(ACCEPTED)
        assert not connection.is_open
        await server.has_closed.wait()

    run(ask, lambda: Server(ACCEPTED))


class Listener:
    """The sender of the body of a streamed result, which notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.is_told = asyncio.Event()

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")
        self.is_told.set()

    def connection_lost(self) -> None:
        self.told.append("lost")
        self.is_told.set()


def test_a_streamed_result_is_paused_until_it_has_a_connection() -> None:
    async def stream(server: Server) -> None:
        listener = Listener()
        result = StreamedResult(server.address, asyncio.get_running_loop(), INVOCATION, listener)
        assert listener.told == ["pause"]
        await listener.is_told.wait()
        assert listener.told == ["pause", "resume"]
        result.finish()
        await result.end(SECONDS)

    run(stream, lambda: Server(ACCEPTED))


def test_a_streamed_result_without_a_connection_is_rejected_and_its_sender_is_told() -> None:
    async def stream(server: Server) -> None:
        listener = Listener()
        # Nobody listens at this port of another address of this machine.
        address = server.address.replace("127.0.0.1", "127.0.0.2")
        result = StreamedResult(address, asyncio.get_running_loop(), INVOCATION, listener)
        await listener.is_told.wait()
        assert listener.told == ["pause", "lost"]
        with pytest.raises(Rejected, match="cannot be reached"):
            await result.end(SECONDS)

    run(stream)


def test_an_invocation_without_a_deadline_has_the_longest_that_lambda_gives() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nLambda-Runtime-Aws-Request-Id: id\r\n\r\n"

    async def ask(server: Server) -> None:
        api = RuntimeAPI(server.address, asyncio.get_running_loop())
        now_ms = time.time() * 1000
        invocation = await api.next()
        assert invocation is not None
        assert now_ms + 890_000 < invocation.deadline_ms < now_ms + 960_000
        api.close()

    run(ask, lambda: Server(answer))


@pytest.mark.parametrize(
    "field",
    [
        b"",
        b"Lambda-Runtime-Aws-Request-Id: a/b\r\nLambda-Runtime-Deadline-Ms: 1\r\n",
        b"Lambda-Runtime-Aws-Request-Id: id\r\nLambda-Runtime-Deadline-Ms: soon\r\n",
    ],
)
def test_an_invocation_without_a_usable_id_or_with_an_invalid_deadline_is_an_error(
    field: bytes,
) -> None:
    async def ask(server: Server) -> None:
        api = RuntimeAPI(server.address, asyncio.get_running_loop())
        with pytest.raises(RuntimeAPIError, match="the next invocation has no valid"):
            await api.next()
        api.close()

    run(ask, lambda: Server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n%b\r\n" % field))
