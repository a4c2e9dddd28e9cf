"""No packet of a WebSocket client holds the loop, whatever its frames are.

One packet is the largest that a loop reads at once, 256 KB. Its work is counted, in calls and in bytes that zlib makes, since a count does
not vary between runs. Twice the input may cost little more than twice the work in all.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from floods import PACKET
from inprocess import Log
from process import Gunicorn
from tables import each
from test_budget import NullTransport, make_connection
from ws import TEXT, accept, close, handshake, ping, read
from ws_floods import OFFER, WEBSOCKET

from gunicorn_asgi.asgi import websocket_session
from gunicorn_asgi.websocket import deflate
from gunicorn_asgi.websocket.close import MAX_SKIPPED_FRAMES, CloseFinder
from gunicorn_asgi.websocket.frames import BETWEEN_FRAMES

if TYPE_CHECKING:
    from typing_extensions import Self

CALLS_PER_KIB = 10
"""Calls that take as long as zlib takes for a KiB: about 2 us."""
MAX_WORK = 10_000
"""Calls of a turn: they take 2 ms on an ordinary machine, and 10 ms on one that is five times as slow."""
MAX_COMPRESSED = 262144
"""Bytes that are compressed in a turn."""
MAX_RATIO = 2.6
"""Work in all for twice the input."""


class Inflating:
    """zlib.decompressobj, with a count of the bytes that it makes."""

    made = 0

    def __init__(self, **kind: Any) -> None:
        self._object = zlib.decompressobj(**kind)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._object, name)

    def decompress(self, *data: Any) -> bytes:
        made = self._object.decompress(*data)
        Inflating.made += len(made)
        return made


class Zlib:
    decompressobj: Any = Inflating
    compressobj: Any = zlib.compressobj
    error = zlib.error
    Z_SYNC_FLUSH = zlib.Z_SYNC_FLUSH


@pytest.fixture(autouse=True)
def _count_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflate, "zlib", Zlib)
    # A step for each turn: how many fit into a millisecond varies.
    monkeypatch.setattr(websocket_session, "STEP_SECONDS", 0)


class Work:
    """``with Work() as work``: counts the calls, and the bytes that zlib makes, as calls."""

    calls = 0

    def __enter__(self) -> Self:
        self._made = Inflating.made
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self.calls += (Inflating.made - self._made) * CALLS_PER_KIB // 1024

    def _profile(self, _frame: object, event: str, _argument: object) -> None:
        self.calls += event in ("call", "c_call")


async def idle(scope: Any, receive: Any, send: Any) -> None:
    """Reads nothing."""
    await accept(receive, send)
    await asyncio.Event().wait()


async def reads_all(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    while await read(receive) is not None:
        pass


async def closes(scope: Any, receive: Any, send: Any) -> None:
    """Reads no message, and waits for the client's Close."""
    await accept(receive, send)
    await send({"type": "websocket.close"})


def work_of_turns(app: Any, *packets: bytes, turns: float = math.inf) -> list[int]:
    """The work of `data_received` for `packets` together, and that of each later turn of the loop."""
    loop: Any = asyncio.SelectorEventLoop()
    errors: list[Any] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))

    async def main() -> list[int]:
        connection = make_connection(app, "h11", NullTransport(), loop)
        host: Any = connection.host
        host.log = Log()
        connection.data_received(handshake(OFFER))
        await asyncio.sleep(0)
        protocol: Any = connection.raw.get_protocol()
        with Work() as work:
            for packet in packets:
                protocol.data_received(packet)
        found = [work.calls]
        quiet = 0
        while quiet < 5 and len(found) <= turns:
            with Work() as work:
                await asyncio.sleep(0)
            found.append(work.calls)
            quiet = 0 if loop._ready or len(host.work_queue) else quiet + 1
        connection.connection_lost(None)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return found

    try:
        found = loop.run_until_complete(main())
    finally:
        loop.close()
    assert not errors, errors
    return found


@each("kind", {kind: kind for kind in WEBSOCKET})
@pytest.mark.parametrize("app", [idle, reads_all, closes])
def test_no_packet_holds_the_loop(kind: str, app: Any) -> None:
    assert max(work_of_turns(app, WEBSOCKET[kind].packet(PACKET), turns=40)) < MAX_WORK


@each("kind", {kind: kind for kind in WEBSOCKET})
def test_twice_the_input_takes_little_more_than_twice_the_work(kind: str) -> None:
    once = sum(work_of_turns(reads_all, WEBSOCKET[kind].packet(16384)))
    twice = sum(work_of_turns(reads_all, WEBSOCKET[kind].packet(32768)))
    assert twice <= MAX_RATIO * once


@pytest.mark.parametrize("kind", ["deflate bombs", "pings", "empty compressed fragments"])
def test_many_packets_of_a_turn_do_not_hold_the_loop_together(kind: str) -> None:
    """As those of many connections: they share the work of a turn."""
    one, many = (
        work_of_turns(idle, *[WEBSOCKET[kind].packet(size)] * (PACKET // size), turns=1)[0]
        for size in (PACKET, 8192)
    )
    assert one < MAX_WORK
    assert many < MAX_WORK


@pytest.mark.parametrize("size", [30_000, 60_000, 2_000_000])
def test_an_application_that_sends_on_and_on_compresses_little_in_a_turn(size: int) -> None:
    """zlib takes some 35 us for a KiB. Here nobody is slow, so nothing else would stop the application."""
    count = 3_000_000 // size
    given: list[int] = []

    class Counting(Zlib):
        @staticmethod
        def compressobj(**kind: Any) -> Any:
            compressor = zlib.compressobj(**kind)

            class Compressor:
                flush = compressor.flush

                @staticmethod
                def compress(data: bytes) -> bytes:
                    given.append(len(data))
                    return compressor.compress(data)

            return Compressor

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        for _ in range(count):
            await send({"type": "websocket.send", "bytes": bytes(size)})
        await receive()

    async def main() -> None:
        connection = make_connection(app, "h11", NullTransport(), asyncio.get_running_loop())
        connection.data_received(handshake(OFFER))
        assert sum(given) <= MAX_COMPRESSED
        while sum(given) < count * size:
            before = sum(given)
            await asyncio.sleep(0)
            assert sum(given) - before <= MAX_COMPRESSED
        connection.connection_lost(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deflate, "zlib", Counting)
        asyncio.run(asyncio.wait_for(main(), 30))


def test_the_search_for_a_close_does_not_hold_the_loop() -> None:
    """RFC 6455, 7.1.7: after a violation, over TLS."""
    finder = CloseFinder(TEXT, BETWEEN_FRAMES)
    data, steps = ping() * (MAX_SKIPPED_FRAMES - 1) + close(1000), 0
    while not steps or finder.has_more:
        with Work() as work:
            is_found = finder.find(data)
        assert work.calls < MAX_WORK
        data, steps = b"", steps + 1
    assert is_found
    assert steps > 1


# A real worker.

BOMBERS = 80


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.gunicorn
@pytest.mark.skipif(sys.platform != "linux", reason="the time of a process is in /proc")
def test_a_request_beside_many_deflate_bombs_is_answered_within_a_second_of_cpu_time(
    tmp_path: Path,
) -> None:
    """Each 250 KB would become 260 MB: all of them take the CPU for more than half a minute."""
    data = WEBSOCKET["deflate bombs"].packet(250_000)
    with ExitStack() as stack:
        server = stack.enter_context(Gunicorn(tmp_path, "sockets:app"))
        [worker] = server.workers()
        bombers = [stack.enter_context(server.connect()) for _ in range(BOMBERS)]
        for bomber in bombers:
            bomber.send(handshake(OFFER, target="/swallow"))
            bomber.read_until(b"\r\n\r\n")
        before = cpu_seconds(worker)
        for bomber in bombers:
            bomber.sock.setblocking(False)
            with suppress(OSError):  # a full buffer, or one that was closed already
                bomber.sock.send(data)
        assert server.get("/hello").status_code == 200
        used = cpu_seconds(worker) - before
        assert used < 1
        assert server.workers() == [worker]
