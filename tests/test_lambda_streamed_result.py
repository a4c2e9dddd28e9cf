"""A streamed result of AWS Lambda, and the room for more of it (`gunicorn_asgi.aws_lambda.streamed_result`)."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from gunicorn_asgi.aws_lambda import runtime_api
from gunicorn_asgi.aws_lambda.api_connection import Rejected
from gunicorn_asgi.aws_lambda.invocation import Invocation
from gunicorn_asgi.aws_lambda.runtime_api import RuntimeAPI
from gunicorn_asgi.aws_lambda.streamed_result import StreamedResult

INVOCATION = Invocation(b"{}", "id", 0)
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
MUCH = bytes(64 << 20)
"""More than all buffers between a runtime and the Runtime API hold."""


class Listener:
    def __init__(self) -> None:
        self.is_paused = False
        self.calls = 0

    def pause_writing(self) -> None:
        self.is_paused = True
        self.calls += 1

    def resume_writing(self) -> None:
        self.is_paused = False
        self.calls += 1

    def connection_lost(self) -> None:
        pass


async def connected(result: StreamedResult) -> None:
    await result._connecting


def test_a_result_that_fills_the_buffer_at_once_has_room_for_no_more() -> None:
    async def main(listener: Listener, address: str) -> bool:
        result = StreamedResult(address, asyncio.get_running_loop(), INVOCATION, listener)
        result.write(MUCH)
        assert listener.is_paused
        await connected(result)
        is_paused = listener.is_paused
        with pytest.raises(Rejected):
            await result.end(0.01)
        return is_paused

    with socket.create_server(("127.0.0.1", 0)) as server:
        assert asyncio.run(main(Listener(), f"127.0.0.1:{server.getsockname()[1]}"))


def test_a_result_that_is_complete_before_there_is_a_connection_does_not_hold_its_listener() -> (
    None
):
    async def main(listener: Listener, address: str) -> None:
        result = StreamedResult(address, asyncio.get_running_loop(), INVOCATION, listener)
        result.write(b"0\r\n\r\n")
        result.finish()
        assert not listener.is_paused
        with pytest.raises(Rejected):
            await result.end(0.01)

    with socket.create_server(("127.0.0.1", 0)) as server:
        asyncio.run(main(Listener(), f"127.0.0.1:{server.getsockname()[1]}"))


def test_an_answer_that_came_while_the_process_was_frozen_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time limit and the answer are there in the same turn of the loop."""
    monkeypatch.setattr(runtime_api, "ANSWER_SECONDS", 0.2)

    async def main(server: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        address = f"127.0.0.1:{server.getsockname()[1]}"

        async def freeze() -> None:
            peer, _ = await loop.sock_accept(server)
            with peer:
                await loop.sock_recv(peer, 65536)
                peer.sendall(ACCEPTED)
                time.sleep(0.3)

        server.setblocking(False)
        api = RuntimeAPI(address, loop)
        await asyncio.gather(api.respond(INVOCATION, b"{}"), freeze())
        api.close()
        result = StreamedResult(address, loop, INVOCATION, None)
        result.finish()
        await asyncio.gather(result.end(0.2), freeze())

    with socket.create_server(("127.0.0.1", 0)) as server:
        asyncio.run(main(server))
