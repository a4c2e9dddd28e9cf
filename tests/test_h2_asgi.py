"""What is particular to exchanges over HTTP/2: many at once, each with a window, a deadline and an end of its own.

What the versions have in common is in `test_h2_same`.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h2raw
import pytest
from accesslog import AccessLog, make_access
from certificates import make_authority
from h2client import MAX_WINDOW, H2Client, Stream, connect
from inprocess import HTTP2, Flag, InProcess, answer, hello, mirror, read_body, serve
from libraries import start_task

from gunicorn_asgi.errors import ClientDisconnected
from gunicorn_asgi.http2.exchange import MAX_DISCARDED
from gunicorn_asgi.http2.frames import PREFACE
from gunicorn_asgi.http2.outbox import STREAM_HIGH_WATER
from gunicorn_asgi.net.transport import LINGER_SECONDS, MAX_LINGER, OPEN, Transport

pytestmark = pytest.mark.both_libraries

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL = 0, 1, 2, 7, 8
INITIAL_WINDOW_SIZE = 4
NO_WINDOW = {INITIAL_WINDOW_SIZE: 0}
WINDOW = 65535
DISCONNECT = {"type": "http.disconnect"}
START: dict[str, Any] = {"type": "http.response.start", "status": 200}
BIG = bytes(range(256)) * 1024


def part(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


class Site:
    """An application with a path for each kind of behaviour."""

    def __init__(self) -> None:
        self.goes_on = Flag()
        self.waits = Flag()
        self.ended: list[tuple[str, Any]] = []
        """(path, what it ended by)."""
        self.received: list[Any] = []
        self.sent = 0
        """Bytes."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        try:
            await getattr(self, path[1:])(receive, send)
        except BaseException as error:
            self.ended.append((path, type(error)))
            raise
        self.ended.append((path, None))

    async def echo(self, receive: Any, send: Any) -> None:
        await answer(send, await read_body(receive))

    async def big(self, receive: Any, send: Any) -> None:
        await answer(send, BIG)

    async def reads_not(self, receive: Any, send: Any) -> None:
        self.waits.set()
        await self.goes_on.reached()
        await answer(send, b"done")

    async def early(self, receive: Any, send: Any) -> None:
        await answer(send, b"early")

    async def in_parts(self, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"in "))
        await send(part(b"parts", more=False))

    async def with_trailers(self, receive: Any, send: Any) -> None:
        await send({**START, "trailers": True})
        await send(part(b"x", more=False))
        await send({"type": "http.response.trailers", "headers": [(b"x-late", b"1")]})

    async def refuses(self, receive: Any, send: Any) -> None:
        await send({**START, "status": 413})
        await send(part(b"too large", more=False))

    async def breaks_off(self, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"x"))
        raise ValueError("its own")

    async def raises(self, receive: Any, send: Any) -> None:
        raise ValueError("its own")

    async def exits(self, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"x"))
        raise SystemExit(7)

    async def listens(self, receive: Any, send: Any) -> None:
        self.waits.set()
        message = None
        while message != DISCONNECT:
            message = await receive()
            self.received.append(message)
        self.received.append(await receive())

    async def ignores(self, receive: Any, send: Any) -> None:
        self.waits.set()
        await asyncio.Event().wait()

    async def streams(self, receive: Any, send: Any) -> None:
        await send(START)
        while True:
            await send(part(b"x" * 8192))
            self.sent += 8192

    async def streams_and_reads(self, receive: Any, send: Any) -> None:
        """Reads from a task of its own, as a proxy does."""

        async def read() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        reading = start_task(read())
        try:
            await self.streams(receive, send)
        finally:
            reading.cancel()


def assert_open(client: H2Client) -> None:
    assert client.get("GET", "/early").body == b"early"


# Streams are independent.


def leave_a_body_unread(client: H2Client, site: Site) -> Stream:
    stream = client.begin("POST", "/reads_not", end=False)
    client.upload(stream, b"x" * WINDOW, end=False)
    return stream


def leave_a_response_unread(client: H2Client, site: Site) -> Stream:
    stream = client.begin("GET", "/big", flush=False)
    stream.opens_window = False
    client.flush()
    return stream


def reset(client: H2Client, site: Site) -> Stream:
    stream = client.begin("GET", "/listens")
    site.waits.wait()
    stream.cancel()
    return stream


def break_off(client: H2Client, site: Site) -> Stream:
    stream = client.read_response(client.begin("GET", "/breaks_off"))
    assert (stream.body, stream.has_ended, stream.reset_code) == (b"x", False, INTERNAL_ERROR), (
        "docs/asgi.md, 66 and 67"
    )
    return stream


def send_too_much(client: H2Client, site: Site) -> Stream:
    stream = client.begin("POST", "/echo", (b"content-length", b"3"), end=False)
    client.upload(stream, b"hello")
    assert client.read_response(stream).reset_code == PROTOCOL_ERROR
    return stream


TROUBLES = [leave_a_body_unread, leave_a_response_unread, reset, break_off, send_too_much]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__)
def test_a_stream_in_trouble_stalls_no_other(
    parser: str, trouble: Callable[[H2Client, Site], Stream]
) -> None:
    """RFC 9113, 5: streams are independent. docs/asgi.md, 13 and 41."""
    site = Site()
    with serve(site, parser, keepalive=60, **HTTP2) as server:
        client = connect(server)
        before = client.begin("POST", "/echo", end=False)
        client.upload(before, b"be", end=False)
        stream = trouble(client, site)
        assert client.get("POST", "/echo", body=BIG).body == BIG
        assert client.get("GET", "/big").body == BIG
        client.upload(before, b"fore")
        assert client.read_response(before).body == b"before"
        assert not client.goaways
        site.goes_on.set()
        if trouble is leave_a_response_unread:
            assert not stream.is_over
            client.open_window(len(BIG), stream)
        if trouble in (leave_a_body_unread, leave_a_response_unread):
            assert client.read_response(stream).has_ended
        server.end_lingering()
        server.wait_settled()
        assert_open(client)
        server.log.take("error")
        server.log.take("warning")


def test_many_streams_that_nobody_reads_leave_room_for_one_that_somebody_does(parser: str) -> None:
    """The connection's window has room for all of them (RFC 9113, 6.9: so that one cannot take it from the others)."""
    site = Site()
    with serve(site, parser, **HTTP2) as server:
        client = connect(server)
        streams = [client.begin("POST", "/reads_not", end=False) for _ in range(40)]
        for stream in streams:
            client.upload(stream, b"x" * WINDOW, end=False)
        server.wait_streams_unread(40 * WINDOW)
        assert client.get("POST", "/echo", body=BIG).body == BIG
        site.goes_on.set()
        for stream in streams:
            assert client.read_response(stream).body == b"done"
            assert stream.reset_code in (NO_ERROR, None)
        server.end_lingering()
        server.wait_settled()


# send() and the window.


def test_send_waits_above_the_mark_and_goes_on_below_it(parser: str) -> None:
    """docs/asgi.md, 71."""
    site = Site()
    with serve(site, parser, **HTTP2) as server:
        client = connect(server, settings=NO_WINDOW)
        stream = client.begin("GET", "/streams")
        stream.opens_window = False
        server.wait_queued(STREAM_HIGH_WATER)
        server.settle()
        assert STREAM_HIGH_WATER <= site.sent + 8192 <= STREAM_HIGH_WATER + 8192
        sent = site.sent
        client.open_window(8192, stream)
        client.wait_for(lambda: len(stream.body) == 8192)
        client.synchronize()
        server.settle()
        assert site.sent == sent, "there is less, and still much"
        client.open_window(65536, stream)
        client.wait_for(lambda: len(stream.body) == 8192 + 65536)
        server.wait_until(lambda: site.sent > sent)
        stream.cancel()
        server.wait_settled()
    assert site.ended == [("/streams", ClientDisconnected)]


def cancel(_: H2Client, stream: Stream) -> None:
    stream.cancel()


def close(client: H2Client, _: Stream) -> None:
    client.close()


def reset_connection(client: H2Client, _: Stream) -> None:
    client.reset()


def leave_and_close(client: H2Client, _: Stream) -> None:
    client.send_goaway()
    client.close()


def break_the_protocol(client: H2Client, _: Stream) -> None:
    client.send(b"\0\0\0\0\0\0\0\0\0")  # DATA on stream 0


ENDS: list[Callable[[H2Client, Stream], None]] = [
    cancel,
    close,
    reset_connection,
    leave_and_close,
    break_the_protocol,
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("where", ["queue", "transport"])
def test_a_send_that_waits_is_released_when_its_client_goes(
    parser: str, where: str, end: Callable[[H2Client, Stream], None]
) -> None:
    """docs/asgi.md, 68 to 70: by an OSError, which is not logged; also where it is the transport that nothing leaves."""
    site = Site()
    with serve(site, parser, **HTTP2) as server:
        if where == "queue":
            client = connect(server, settings=NO_WINDOW)
            stream = client.begin("GET", "/streams")
        else:
            client = connect(
                server,
                settings={INITIAL_WINDOW_SIZE: MAX_WINDOW},
                connection_window=MAX_WINDOW - WINDOW,
                receive_buffer=4096,
            )
            stream = client.begin("GET", "/streams")
            server.wait_clogged()
        server.wait_queued(STREAM_HIGH_WATER)
        end(client, stream)
        if end is break_the_protocol and where == "transport":
            client.reset()
        server.wait_until(lambda: not server.server.tasks)
        assert site.ended == [("/streams", ClientDisconnected)]
        server.log.take("warning")


@pytest.mark.parametrize("is_tls", [False, True], ids=["cleartext", "tls"])
def test_a_client_that_does_not_read_fills_no_memory_however_wide_its_windows(
    parser: str, is_tls: bool, tmp_path: Path
) -> None:
    """docs/asgi.md, 71: what does not leave the transport counts, too."""
    site = Site()
    with serve(site, parser, tls=server_context(tmp_path) if is_tls else None, **HTTP2) as server:
        wide = {INITIAL_WINDOW_SIZE: MAX_WINDOW}
        client = connect(
            server,
            tls=is_tls,
            settings=wide,
            connection_window=MAX_WINDOW - WINDOW,
            receive_buffer=4096,
        )
        streams = [client.begin("GET", "/streams") for _ in range(3)]
        server.wait_clogged()
        server.wait_queued(STREAM_HIGH_WATER)
        server.settle()
        sent = site.sent
        server.settle()
        assert site.sent == sent
        # asyncio's TLS has 512 KiB of its own before it says so.
        assert server.unsent() < (3 + 2 + 8 * is_tls) * (STREAM_HIGH_WATER + 16384)
        client.wait_for(lambda: all(len(stream.body) > 2 * STREAM_HIGH_WATER for stream in streams))
        for stream in streams:
            stream.cancel()
        client.send_goaway()
        server.hurry()
        client.read_to_the_end()
    assert len(site.ended) == 3


def server_context(directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_authority(directory, "localhost"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def test_over_tls_as_without(parser: str, tmp_path: Path) -> None:
    with serve(Site(), parser, tls=server_context(tmp_path), **HTTP2) as server:
        client = connect(server, tls=True)
        assert client.get("POST", "/echo", body=BIG * 4).body == BIG * 4
        streams = [client.begin("GET", "/big") for _ in range(5)]
        assert [client.read_response(stream).body == BIG for stream in streams] == [True] * 5
        client.send_goaway()
        client.read_to_the_end()


# How a client goes away.


def test_a_reset_is_a_disconnect(parser: str) -> None:
    """docs/asgi.md, 46 to 48: at once, again and again, and not an error."""
    site = Site()
    log = AccessLog()
    with serve(site, parser, access=make_access(log), **HTTP2) as server:
        client = connect(server)
        stream = client.begin("POST", "/listens", end=False)
        site.waits.wait()
        stream.cancel()
        server.wait_until(lambda: site.ended)
        assert site.received == [DISCONNECT] * 2
        assert_open(client)
        server.wait_settled()
        assert [line[4] for line in log.lines] == [499, 200]


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed behind it"])
def test_an_application_that_ignores_a_reset_is_cancelled_after_the_grace_period(
    parser: str, is_closed: bool
) -> None:
    """Also when the connection ends meanwhile, which is nothing new to that application."""
    site = Site()
    with serve(site, parser, **HTTP2) as server:
        client = connect(server)
        stream = client.begin("GET", "/ignores")
        site.waits.wait()
        stream.cancel()
        client.synchronize()
        if is_closed:
            client.close()
            server.wait_gone()
        server.advance(1)
        assert not site.ended
        server.advance(4)
        server.wait_until(lambda: site.ended)
        assert site.ended == [("/ignores", asyncio.CancelledError)]
        if not is_closed:
            assert_open(client)


def test_a_deadline_does_not_come_early_with_another_one_of_the_connection(parser: str) -> None:
    """However rarely the clock ticks: here, the second is due within the tick that comes after the first."""
    site = Site()
    ended = ("/ignores", asyncio.CancelledError)
    with serve(site, parser, asgi_disconnect_grace_period=30, keepalive=60, **HTTP2) as server:

        def tick_rarely() -> None:
            server.server.tick(30)
            server.loop.ahead += 20
            server.server.tick(30)

        client = connect(server)
        first, second = client.begin("GET", "/ignores"), client.begin("GET", "/ignores")
        client.synchronize()
        first.cancel()
        client.synchronize()
        server.advance(20)
        second.cancel()
        client.synchronize()
        server.call(tick_rarely)
        server.settle()
        assert site.ended == [ended]
        server.advance(20)
        server.wait_until(lambda: site.ended == [ended, ended])


def test_a_stream_that_is_reset_at_once_is_not_run(parser: str) -> None:
    """The packet with its HEADERS has its RST_STREAM, too."""
    site = Site()
    log = AccessLog()
    with serve(site, parser, access=make_access(log), **HTTP2) as server:
        client = connect(server)
        stream = client.begin("GET", "/early", flush=False)
        stream.cancel()
        assert_open(client)
        server.wait_settled()
        assert site.ended == [("/early", None)], "of the second"
        assert [line[4] for line in log.lines] == [499, 200]


def test_a_client_that_leaves_gets_the_rest(parser: str) -> None:
    """RFC 9113, 6.8: GOAWAY ends no stream; behind the last one the connection ends."""
    site = Site()
    with serve(site, parser, keepalive=60, **HTTP2) as server:
        client = connect(server)
        first, second = client.begin("GET", "/reads_not"), client.begin("GET", "/big")
        site.waits.wait()
        client.read_response(second)
        client.send_goaway()
        client.synchronize()
        site.goes_on.set()
        assert client.read_response(first).body == b"done"
        client.read_to_the_end()
        assert client.goaways == [(first.id + 2, NO_ERROR)]


@pytest.mark.parametrize("code", [2, 11, 0xFFFF_FFFF])
def test_a_client_that_leaves_with_an_error_takes_nothing_more(parser: str, code: int) -> None:
    """RFC 9113, 5.4.1 and 7: it has closed the connection, or is about to."""
    raised: list[BaseException] = []
    sending = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        sending.set()
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        except BaseException as error:
            raised.append(error)
            raise

    with serve(app, parser, keepalive=60, **HTTP2) as server:
        client = connect(server)
        client.begin()
        sending.wait()
        server.wait_queued()
        # Behind it, what nobody takes any more.
        client.send(
            b"\0\0\x08\x07\0\0\0\0\0"
            + bytes(4)
            + code.to_bytes(4, "big")
            + b"\0\0\x08\x06\0\0\0\0\0"
            + bytes(8)
        )
        client.read_to_the_end()
        client.close()
        server.wait_until(server.is_idle)
        assert [type(error) for error in raised] == [ClientDisconnected]


# Flow control.


def test_only_what_was_read_is_credited(parser: str) -> None:
    """RFC 9113, 6.9.1, and docs/asgi.md, 45."""
    site = Site()
    with serve(site, parser, **HTTP2) as server:
        client = connect(server)
        client.synchronize()
        opened = client.window_given
        stream = client.begin("POST", "/reads_not", end=False)
        client.upload(stream, b"x" * WINDOW, end=False)
        server.wait_streams_unread(WINDOW)
        client.synchronize()
        assert (stream.window_given, client.window_given) == (0, opened)
        other = client.begin("POST", "/listens", end=False)
        client.upload(other, b"x" * 60000, end=False)
        client.wait_for(lambda: other.window_given)
        assert stream.window_given == 0
        site.goes_on.set()
        other.cancel()
        client.read_response(stream)
        server.end_lingering()
        server.wait_settled()


def test_what_nobody_has_read_is_given_back_to_the_connection(parser: str) -> None:
    """RFC 9113, 6.9: of streams that are reset, refused, or answered before they were read: otherwise the window would shrink for ever."""
    site = Site()
    with serve(site, parser, http2_max_concurrent_streams=2, **HTTP2) as server:
        client = connect(server)
        client.synchronize()
        opened = client.window_given
        for number in range(6):
            stream = client.begin("POST", "/listens" if number % 2 else "/early", end=False)
            client.upload(stream, b"x" * 40000, end=False)
            client.synchronize()
            stream.cancel()
        client.synchronize()
        assert client.window_given - opened >= 2 * WINDOW
        assert client.get("POST", "/echo", body=BIG).body == BIG
        server.wait_settled()


# A response before the request is whole.


SHORT = MAX_LINGER + 3
"""The longest body whose rest is taken after a refusal, where three bytes have come before that."""


@pytest.mark.parametrize(
    ("length", "more", "sent", "then"),
    [
        (-1, (), 0, "later"),
        (-1, (), 3, "later"),
        (-1, (), WINDOW, "later"),
        (10000, (), 3, "never"),
        (SHORT, (), 3, "never"),
        (SHORT + 1, (), 3, "now"),
        (5, ((b"expect", b"100-continue"),), 0, "now"),
    ],
    ids=[
        "unknown",
        "unknown, begun",
        "unknown, much",
        "within the window",
        "short",
        "long",
        "held back",
    ],
)
@pytest.mark.parametrize("path", ["/early", "/refuses"])
def test_an_early_response_is_whole_and_the_rest_is_dropped(
    parser: str, path: str, length: int, more: Any, sent: int, then: str
) -> None:
    """RFC 9113, 8.1: RST_STREAM with NO_ERROR after the response, unless the rest is short, and comes soon. More is short after a 2xx."""
    if length > SHORT and path == "/early":
        length = MAX_DISCARDED + 4
    with serve(Site(), parser, body_timeout=60, keepalive=60, **HTTP2) as server:
        client = connect(server)
        fields = [(b"content-length", b"%d" % length)] if length >= 0 else []
        stream = client.begin("POST", path, *fields, *more, end=False, flush=False)
        client.upload(stream, bytes(sent), end=False)
        client.flush()
        client.read_response(stream)
        for _ in range(
            4
        ):  # the server asks whether the response was seen, the client answers, and the server hears it
            client.synchronize()
        assert (stream.status, stream.has_ended) == (200 if path == "/early" else 413, True)
        assert stream.reset_code == (NO_ERROR if then == "now" else None)
        if then != "now":
            assert server.exchanges() == 1
        if then == "never":
            client.upload(stream, bytes(length - sent))
        elif then == "later":
            server.advance(3)
            client.wait_for(lambda: stream.reset_code == NO_ERROR)
        server.wait_settled()
        assert_open(client)
        assert not client.goaways


def begin_long_upload(peer: h2raw.Peer, id_: int, sent: int = 0) -> None:
    """A request that is refused at once, and whose body is long."""
    fields = [(b"content-length", b"2000000")]
    frames = [peer.request(id_, False, "POST", "/refuses", fields)]
    frames += [h2raw.data(id_, bytes(min(16384, sent - start))) for start in range(0, sent, 16384)]
    peer.send(*frames)
    peer.wait_response(id_)


def synchronize(peer: h2raw.Peer) -> list[h2raw.Frame]:
    """The frames that the server sends for all that was sent to it.

    In two rounds: it may answer the first PING before what came with that.
    """
    return peer.synchronize() + peer.synchronize()


def test_the_reset_after_an_early_response_waits_until_the_client_has_seen_that(
    parser: str,
) -> None:
    """RFC 9113, 8.1: some clients lose a response that comes together with its RST_STREAM, curl 7.88 among them."""
    with serve(Site(), parser, body_timeout=60, keepalive=60, **HTTP2) as server:
        peer = h2raw.Peer(server.connect())
        peer.begin()
        begin_long_upload(peer, 1)
        asked = peer.read_until(h2raw.PING)
        assert asked.flags == 0
        for _ in range(3):  # whatever else the client sends
            assert h2raw.RST_STREAM not in [frame.kind for frame in synchronize(peer)]
        peer.send(h2raw.ping(asked.payload, h2raw.ACK))
        resets = [frame for frame in synchronize(peer) if frame.kind == h2raw.RST_STREAM]
        assert [(frame.stream, frame.number) for frame in resets] == [(1, NO_ERROR)]
        server.wait_settled()
        begin_long_upload(peer, 3)


def test_a_client_with_too_much_to_send_that_is_answered_with_success_is_reset_at_once(
    parser: str,
) -> None:
    """curl 7.88 goes on sending after a 2xx, and would wait for ever for the room that it is not given."""
    with serve(Site(), parser, body_timeout=60, keepalive=60, **HTTP2) as server:
        peer = h2raw.Peer(server.connect())
        peer.begin()
        peer.send(
            peer.request(
                1, False, "POST", "/early", [(b"content-length", b"%d" % (MAX_DISCARDED + 1))]
            )
        )
        peer.wait_response(1)
        received = peer.read()
        assert received is not None
        assert (received.kind, received.number) == (h2raw.RST_STREAM, NO_ERROR)


def test_a_body_that_ends_short_amid_its_early_response_does_not_end_that(parser: str) -> None:
    """curl 7.88 ends its side at the head of a refusal. The application is told that the body is not whole."""
    told: list[Any] = []
    ended = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b"too ", "more_body": True})
        told.append((await receive())["type"])
        await ended.reached()
        await send({"type": "http.response.body", "body": b"large"})

    with serve(app, parser, body_timeout=60, keepalive=60, **HTTP2) as server:
        peer = h2raw.Peer(server.connect())
        peer.begin()
        peer.send(peer.request(1, False, "POST", "/", [(b"content-length", b"2000000")]))
        peer.read_until(h2raw.DATA)
        peer.send(h2raw.data(1, b"", True))
        assert h2raw.RST_STREAM not in [frame.kind for frame in synchronize(peer)]
        server.wait_until(lambda: told == ["http.disconnect"])
        ended.set()
        peer.wait_response(1)
        assert peer.streams[1].body == b"too large"
        server.wait_settled()


def test_after_a_success_the_room_for_the_rest_is_made_on_the_connection_too(parser: str) -> None:
    """curl 7.88 sees no WINDOW_UPDATE after a complete response with a 2xx. Nothing of the rest is kept."""
    length = 20_000_000
    with serve(Site(), parser, body_timeout=60, keepalive=60, **HTTP2) as server:
        peer = h2raw.Peer(server.connect())
        peer.begin()
        peer.send(peer.request(1, False, "POST", "/early", [(b"content-length", b"%d" % length)]))
        room = {0: 100 * WINDOW, 1: WINDOW}  # what `begin` has been told of
        while not peer.streams[1].has_ended:
            frame = peer.read()
            assert frame is not None
            if frame.kind == h2raw.WINDOW_UPDATE:
                room[frame.stream] += frame.number
        assert room[0] >= length
        assert room[1] >= length
        for start in range(0, length, 16384):
            size = min(16384, length - start)
            peer.send(h2raw.data(1, bytes(size), start + size == length))
        assert h2raw.RST_STREAM not in [frame.kind for frame in synchronize(peer)]
        server.wait_settled()


@pytest.mark.parametrize("path", ["/early", "/refuses", "/in_parts", "/with_trailers"])
def test_the_room_for_a_short_rest_comes_before_the_end_of_the_response(
    parser: str, path: str
) -> None:
    """curl 7.88 reads nothing more behind a complete response. The rest is dropped, and its end tells the client what it may send."""
    with serve(Site(), parser, body_timeout=60, keepalive=60, **HTTP2) as server:
        peer = h2raw.Peer(server.connect())
        peer.begin()
        fields = [(b"content-length", b"100000"), (b"te", b"trailers")]
        peer.send(
            peer.request(1, False, "POST", path, fields),
            *(h2raw.data(1, bytes(10000)) for _ in range(3)),
        )
        room = 0
        while not peer.streams[1].has_ended:
            frame = peer.read()
            assert frame is not None
            if (frame.kind, frame.stream) == (h2raw.WINDOW_UPDATE, 1):
                room += frame.number
        assert room >= 100000 - WINDOW
        peer.send(*(h2raw.data(1, bytes(10000), number == 6) for number in range(7)))
        updates = [
            frame
            for frame in synchronize(peer)
            if frame.kind in (h2raw.WINDOW_UPDATE, h2raw.RST_STREAM)
        ]
        assert [(frame.kind, frame.stream) for frame in updates] == [(h2raw.WINDOW_UPDATE, 0)]
        server.wait_settled()


@pytest.mark.parametrize("end", ["data", "trailers"])
@pytest.mark.parametrize("path", ["/early", "/refuses"])
def test_a_body_that_ends_short_after_its_early_response_closes_the_stream(
    parser: str, path: str, end: str
) -> None:
    """As curl may end it. RFC 9113, 5.1: nothing is sent on a stream that both sides have ended."""
    with serve(Site(), parser, body_timeout=60, keepalive=60, **HTTP2) as server:
        peer = h2raw.Peer(server.connect())
        peer.begin()
        peer.send(peer.request(1, False, "POST", path, [(b"content-length", b"100000")]))
        peer.wait_response(1)
        short = (
            h2raw.data(1, b"x", True)
            if end == "data"
            else h2raw.headers(1, peer.encode([(b"x-late", b"1")]))
        )
        peer.send(short)
        assert h2raw.RST_STREAM not in [frame.kind for frame in synchronize(peer)]
        server.wait_settled()
        peer.send(peer.request(3, path="/early"))
        peer.wait_response(3)
        assert not server.log.take("warning")


def test_a_body_that_is_too_long_after_its_early_response_resets_the_stream(parser: str) -> None:
    """RFC 9113, 8.1.1."""
    with serve(Site(), parser, body_timeout=60, keepalive=60, **HTTP2) as server:
        peer = h2raw.Peer(server.connect())
        peer.begin()
        peer.send(peer.request(1, False, "POST", "/early", [(b"content-length", b"10")]))
        peer.wait_response(1)
        peer.send(h2raw.data(1, bytes(11)))
        assert peer.read_until(h2raw.RST_STREAM).number == PROTOCOL_ERROR
        assert len(server.log.take("warning")) == 1


def test_a_client_that_does_not_say_what_it_has_seen_is_reset_after_a_while(parser: str) -> None:
    with serve(Site(), parser, body_timeout=60, keepalive=60, **HTTP2) as server:
        peer = h2raw.Peer(server.connect())
        peer.begin()
        begin_long_upload(peer, 1)
        server.advance(LINGER_SECONDS + 1)
        assert peer.read_until(h2raw.RST_STREAM).number == NO_ERROR
        server.wait_settled()


def test_what_comes_of_a_body_after_its_early_response_is_dropped_within_its_window(
    parser: str,
) -> None:
    """It has no more room, and the connection has all of it back (RFC 9113, 6.9)."""
    with serve(
        Site(), parser, body_timeout=60, keepalive=60, http2_max_concurrent_streams=1, **HTTP2
    ) as server:
        peer = h2raw.Peer(server.connect())
        peer.begin()
        begin_long_upload(peer, 1, 20000)
        asked = peer.read_until(h2raw.PING)
        peer.send(
            *(h2raw.data(1, bytes(size)) for size in (16384, 16384, WINDOW - 20000 - 2 * 16384))
        )
        updates = [frame for frame in synchronize(peer) if frame.kind == h2raw.WINDOW_UPDATE]
        assert {frame.stream for frame in updates} == {0}
        assert sum(frame.number for frame in updates) > WINDOW // 2
        assert server.exchanges() == 1
        peer.send(peer.request(3))  # it counts as long as it is there
        assert peer.read_until(h2raw.RST_STREAM).number == REFUSED_STREAM
        peer.send(h2raw.ping(asked.payload, h2raw.ACK))
        assert peer.read_until(h2raw.RST_STREAM).number == NO_ERROR
        begin_long_upload(peer, 5)
        peer.answer_ping()
        assert peer.read_until(h2raw.RST_STREAM).number == NO_ERROR
        peer.send(h2raw.data(5, bytes(16384)), *(h2raw.data(5, bytes(16384)) for _ in range(2)))
        synchronize(peer)
        peer.send(peer.request(7, path="/early"))
        peer.wait_response(7)


@pytest.mark.parametrize("how", ["ends", "ends with trailers", "resets", "leaves"])
def test_a_client_may_end_an_upload_itself_after_its_early_response(parser: str, how: str) -> None:
    """As curl does, with less than its content-length. Nobody is told, and the connection goes on."""
    log = AccessLog()
    with serve(
        Site(), parser, access=make_access(log), body_timeout=60, keepalive=60, **HTTP2
    ) as server:
        peer = h2raw.Peer(server.connect())
        peer.begin()
        begin_long_upload(peer, 1, 100)
        asked = peer.read_until(h2raw.PING)
        if how == "ends":
            peer.send(h2raw.data(1, b"x", True))
        elif how == "ends with trailers":
            peer.send(h2raw.headers(1, peer.encode([(b"x-late", b"1")])))
        elif how == "resets":
            peer.send(h2raw.rst_stream(1, h2raw.STREAM_CLOSED))
        else:
            peer.client.close()
        server.wait_settled()
        if how != "leaves":
            peer.send(h2raw.ping(asked.payload, h2raw.ACK))  # the answer comes late
            assert h2raw.RST_STREAM not in [frame.kind for frame in synchronize(peer)]
            peer.send(peer.request(3, path="/early"))
            peer.wait_response(3)
            assert [line[4] for line in log.lines] == [413, 200]
        assert not server.log.take("warning")


def test_an_answer_to_a_ping_that_was_not_asked_ends_no_stream(parser: str) -> None:
    site = Site()
    with serve(site, parser, body_timeout=60, keepalive=60, **HTTP2) as server:
        peer = h2raw.Peer(server.connect())
        peer.begin()
        begin_long_upload(peer, 1)
        mark = peer.read_until(h2raw.PING).payload[:4]
        peer.send(
            peer.request(3, False, "POST", "/reads_not"), peer.request(5, False, "POST", "/early")
        )
        site.waits.wait()
        peer.wait_response(5)  # whose body may come
        peer.send(
            *(
                h2raw.ping(mark + id_.to_bytes(4, "big"), h2raw.ACK)
                for id_ in (3, 5, 7, 0, 2**32 - 1)
            )
        )
        assert h2raw.RST_STREAM not in [frame.kind for frame in synchronize(peer)]
        site.goes_on.set()
        assert peer.wait_response(3).body == b"done"
        peer.send(h2raw.data(3, b"", True), h2raw.data(5, b"", True))
        synchronize(peer)
        assert server.exchanges() == 1


def test_a_connection_that_is_to_end_has_given_up_its_last_upload(parser: str) -> None:
    """GOAWAY and a graceful shutdown do not wait for a client that does not say what it has seen."""
    with serve(Site(), parser, body_timeout=60, keepalive=60, **HTTP2) as server:
        peer = h2raw.Peer(server.connect())
        peer.begin()
        begin_long_upload(peer, 1)
        peer.send(h2raw.goaway())
        server.settle()
        server.advance(LINGER_SECONDS + 1)
        assert peer.read_until(h2raw.RST_STREAM).number == NO_ERROR
        peer.read_until(h2raw.GOAWAY)
        server.advance_until(lambda: not server.server.connections, LINGER_SECONDS + 1)


def test_a_short_rest_that_does_not_come_is_given_up(parser: str) -> None:
    with serve(Site(), parser, body_timeout=5, keepalive=60, **HTTP2) as server:
        client = connect(server)
        stream = client.begin("POST", "/early", (b"content-length", b"10000"), end=False)
        client.read_response(stream)
        client.synchronize()
        assert stream.reset_code is None
        server.advance(6)
        client.wait_for(lambda: stream.reset_code is not None)
        assert stream.reset_code == NO_ERROR
        server.wait_settled()
        assert_open(client)


def test_an_early_response_that_waits_for_its_window_lets_the_upload_pass(parser: str) -> None:
    """A client that reads only once it has sent everything is no deadlock."""
    site = Site()
    with serve(site, parser, **HTTP2) as server:
        client = connect(server, settings=NO_WINDOW)
        stream = client.begin("POST", "/big", end=False)
        server.wait_queued()
        client.upload(stream, BIG * 2)
        client.open_window(len(BIG), stream)
        stream.opens_window = False
        assert client.read_response(stream).body == BIG
        server.wait_settled()


# Deadlines.


def test_a_body_that_does_not_come_is_a_408_on_its_stream(parser: str) -> None:
    """As over HTTP/1.1, and nobody else's concern."""
    site = Site()
    log = AccessLog()
    with serve(site, parser, access=make_access(log), body_timeout=5, **HTTP2) as server:
        client = connect(server)
        other = client.begin("GET", "/reads_not")
        stream = client.begin("POST", "/listens", end=False)
        client.upload(stream, b"x", end=False)
        server.wait_until(lambda: site.received)
        server.advance(3)
        client.upload(stream, b"y", end=False)
        server.wait_until(lambda: len(site.received) == 2)
        server.advance(3)
        client.synchronize()
        assert not stream.status, "each part begins it anew"
        server.advance(3)
        assert client.read_response(stream).status == 408
        server.wait_until(lambda: ("/listens", None) in site.ended)
        assert site.received[2:] == [DISCONNECT] * 2
        site.goes_on.set()
        assert client.read_response(other).body == b"done"
        server.end_lingering()
        server.wait_settled()
        assert [line[4] for line in log.lines] == [408, 200]
        assert len(server.log.take("warning")) == 1


def test_a_body_that_does_not_come_within_a_response_breaks_it_off(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"x"))
        await read_body(receive)

    with serve(app, parser, body_timeout=5, **HTTP2) as server:
        client = connect(server)
        stream = client.begin("POST", "/", end=False)
        client.wait_for(lambda: stream.body)
        server.advance(6)
        assert client.read_response(stream).reset_code == CANCEL
        server.wait_settled()
        assert len(server.log.take("warning")) == 1
        assert "EOFError" in str(server.log.take("error"))


@pytest.mark.parametrize("path", ["/ignores", "/reads_not"])
def test_an_application_that_takes_its_time_is_not_the_clients_fault(
    parser: str, path: str
) -> None:
    """Nor is a body that nobody asks for, with or without ``Expect: 100-continue``."""
    site = Site()
    with serve(site, parser, body_timeout=5, write_timeout=5, keepalive=5, **HTTP2) as server:
        client = connect(server)
        streams = [client.begin("GET", path), client.begin("POST", path, end=False)]
        streams.append(client.begin("POST", path, (b"expect", b"100-continue"), end=False))
        client.synchronize()
        server.advance(60)
        client.synchronize()
        assert not any(stream.is_over for stream in streams)
        for stream in streams:
            stream.cancel()
        site.goes_on.set()
        if path == "/ignores":
            server.advance(10)
        server.wait_settled()


@pytest.mark.parametrize("path", ["/streams", "/streams_and_reads", "/big"])
def test_a_response_that_does_not_leave_is_reset(parser: str, path: str) -> None:
    """``write_timeout``, on that stream alone; and what the client sends meanwhile moves it by nothing."""
    site = Site()
    with serve(site, parser, body_timeout=60, write_timeout=5, keepalive=60, **HTTP2) as server:
        client = connect(server, settings=NO_WINDOW)
        stream = client.begin("POST", path, end=False)
        server.wait_queued()
        for _ in range(4):
            server.advance(2)
            if not stream.is_over:
                client.upload(stream, b"x", end=False)
                client.synchronize()
        assert stream.reset_code == CANCEL
        server.wait_settled()
        assert_is_open_with_no_window(client)
        assert site.ended[0] == (path, None if path == "/big" else ClientDisconnected)


def assert_is_open_with_no_window(client: H2Client) -> None:
    assert client.get("HEAD", "/early").status == 200


def test_a_response_that_leaves_slowly_is_not_reset(parser: str) -> None:
    site = Site()
    with serve(site, parser, write_timeout=5, **HTTP2) as server:
        client = connect(server, settings=NO_WINDOW)
        stream = client.begin("GET", "/big")
        stream.opens_window = False
        server.wait_queued()
        for _ in range(5):
            server.advance(4)
            client.open_window(100, stream)
            client.synchronize()
        assert not stream.is_over
        client.open_window(len(BIG), stream)
        assert client.read_response(stream).body == BIG
        server.wait_settled()


def test_a_response_that_begins_late_has_its_time_from_then(parser: str) -> None:
    """The deadline of the body, which is over, does not count for it."""
    site = Site()
    with serve(site, parser, body_timeout=5, write_timeout=20, **HTTP2) as server:
        client = connect(server, settings=NO_WINDOW)
        stream = client.begin("POST", "/reads_not", end=False)
        site.waits.wait()
        server.advance(4)
        site.goes_on.set()
        server.wait_queued()
        server.advance(6)
        client.synchronize()
        assert stream.reset_code is None
        client.open_window(100, stream)
        assert client.read_response(stream).body == b"done"
        server.end_lingering()
        server.wait_settled()


def test_an_upload_has_its_time_again_behind_a_response_that_was_stuck(parser: str) -> None:
    """``body_timeout`` counts from the last part, whatever was written meanwhile."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"x" * 100))
        await send(part(await read_body(receive), more=False))

    with serve(app, parser, body_timeout=10, write_timeout=12, **HTTP2) as server:
        client = connect(server, settings=NO_WINDOW)
        stream = client.begin("POST", "/", end=False)
        stream.opens_window = False
        server.wait_queued()
        server.advance(8)
        client.upload(stream, b"y", end=False)
        client.open_window(100, stream)
        client.wait_for(lambda: len(stream.body) == 100)
        server.advance(6)
        client.synchronize()
        assert stream.reset_code is None
        client.upload(stream, b"z")
        client.open_window(100, stream)
        assert client.read_response(stream).body[100:] == b"yz"
        server.wait_settled()


def test_a_connection_whose_client_takes_nothing_is_reset(parser: str) -> None:
    """``write_timeout``, where it is the transport that nothing leaves."""
    site = Site()
    with serve(site, parser, write_timeout=5, **HTTP2) as server:
        wide = {INITIAL_WINDOW_SIZE: MAX_WINDOW}
        client = connect(
            server, settings=wide, connection_window=MAX_WINDOW - WINDOW, receive_buffer=4096
        )
        client.begin("GET", "/streams")
        client.begin("GET", "/reads_not")
        server.wait_clogged()
        server.advance(12)
        server.wait_until(lambda: ("/streams", ClientDisconnected) in site.ended)
        site.goes_on.set()


def test_an_idle_connection_ends_with_goaway(parser: str) -> None:
    """``keepalive``, from the end of the last exchange; RFC 9113, 9.1."""
    site = Site()
    with serve(site, parser, keepalive=5, **HTTP2) as server:
        client = connect(server)
        stream = client.begin("GET", "/reads_not")
        site.waits.wait()
        server.advance(10)
        site.goes_on.set()
        client.read_response(stream)
        server.wait_settled()
        server.advance(4)
        assert_open(client)
        server.wait_settled()
        server.advance(6)
        client.read_to_the_end()
        assert client.goaways == [(3, NO_ERROR)]


def test_a_client_over_tls_that_sends_after_the_end_still_reads_its_response(
    parser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its system has the response, and it has not read it: a WINDOW_UPDATE must not end its TLS."""
    # As the kernel tells some time after the response was written.
    monkeypatch.setattr(Transport, "has_undelivered", lambda _self, unknown: unknown is None)
    site = Site()
    with serve(site, parser, tls=server_context(tmp_path), lame_duck=0, **HTTP2) as server:
        client = connect(server, tls=True)
        stream = client.begin("GET", "/reads_not")
        site.waits.wait()
        drained = asyncio.run_coroutine_threadsafe(server.server.shut_down(60, 0.5), server.loop)
        client.wait_for(lambda: len(client.goaways) == 2)
        site.goes_on.set()
        server.wait_until(
            lambda: all(transport.state is not OPEN for transport in server.server.connections)
        )
        for _ in range(3):
            client.send(h2raw.frame(h2raw.WINDOW_UPDATE, 0, 0, b"\0\0\0\1"))
            server.settle()
        client.read_response(stream)
        client.read_to_the_end()
        client.close()
        drained.result(10)


def test_a_connection_without_a_request_ends_as_well(parser: str) -> None:
    with serve(hello, parser, keepalive=5, **HTTP2) as server:
        client = connect(server)
        client.synchronize()
        server.advance(6)
        client.read_to_the_end()
        assert client.goaways == [(0, NO_ERROR)]


@pytest.mark.parametrize(
    "data", [b"", PREFACE[:5], PREFACE], ids=["nothing", "half a preface", "no SETTINGS"]
)
def test_a_connection_that_does_not_begin_ends(parser: str, data: bytes) -> None:
    """``head_timeout``."""
    with serve(hello, parser, head_timeout=5, keepalive=60, **HTTP2) as server:
        client = server.connect()
        client.send(data)
        server.wait_connected()
        server.settle()
        server.advance(6)
        client.read_rest()
        client.close()
        server.wait_until(server.is_idle)


def test_a_field_block_that_does_not_end_ends_the_connection(parser: str) -> None:
    """``head_timeout``, whatever else is under way: nothing can be sent in the midst of it (RFC 9113, 4.3)."""
    site = Site()
    with serve(site, parser, head_timeout=5, keepalive=60, **HTTP2) as server:
        client = connect(server)
        stream = client.begin("GET", "/listens")
        site.waits.wait()
        client.send(b"\0\0\1\1\1\0\0\0\3\x82")
        server.settle()
        server.advance(7)
        server.wait_until(lambda: not server.server.connections)
        server.wait_until(lambda: site.ended)
        assert not stream.has_ended
        assert site.received[-1] == DISCONNECT


def test_each_field_block_has_its_own_time(parser: str) -> None:
    """Also where none of the packets ends with one."""
    block = b"\x82\x87\x84\x41\1a"
    with serve(hello, parser, head_timeout=5, keepalive=60, **HTTP2) as server:
        client = connect(server)
        client.synchronize()
        begun = b"\0\0\1\1\1" + (1).to_bytes(4, "big") + block[:1]
        for number in range(1, 12, 2):
            client.send(begun)
            server.settle()
            server.advance(3)
            rest = (
                (len(block) - 1).to_bytes(3, "big")
                + b"\x09\4"
                + number.to_bytes(4, "big")
                + block[1:]
            )
            begun = rest + b"\0\0\1\1\1" + (number + 2).to_bytes(4, "big") + block[:1]
        assert server.call(lambda: len(server.server.connections)) == 1
        server.advance(4)
        server.wait_until(lambda: not server.server.connections)


def test_a_field_block_that_ended_in_time_is_forgotten(parser: str) -> None:
    """An idle connection has its ``keepalive`` again."""
    with serve(Site(), parser, head_timeout=5, keepalive=60, **HTTP2) as server:
        client = connect(server)
        client.synchronize()
        client.send(b"\0\0\1\1\1\0\0\0\1\x82")
        server.settle()
        client.send(b"\0\0\1\x09\4\0\0\0\1\x84")  # CONTINUATION: no :scheme, so it is malformed
        server.settle()
        server.advance(20)
        client.h2.get_next_available_stream_id = lambda: 3  # type: ignore[method-assign]
        client.streams[1] = Stream(client, 1)
        client.h2.send_headers(
            1, [(b":method", b"GET")], end_stream=True
        )  # for the package to know it; not sent again
        client.h2.data_to_send()
        assert_open(client)
        assert client.streams[1].reset_code == PROTOCOL_ERROR
        server.log.take("warning")


# Requests whose content is not what they say.


@pytest.mark.parametrize(
    ("length", "body"), [(b"3", b"hello"), (b"6", b"hello"), (b"0", b"x"), (b"6", b"")]
)
def test_content_of_another_length_than_declared_resets_the_stream(
    parser: str, length: bytes, body: bytes
) -> None:
    """RFC 9113, 8.1.1: PROTOCOL_ERROR, and the application hears of no end of the body but the client's."""
    site = Site()
    with serve(site, parser, **HTTP2) as server:
        client = connect(server)
        stream = client.begin("POST", "/listens", (b"content-length", length), end=False)
        site.waits.wait()
        client.upload(stream, body)
        assert client.read_response(stream).reset_code == PROTOCOL_ERROR
        server.wait_until(lambda: site.ended)
        assert site.received[-2:] == [DISCONNECT] * 2
        assert all(message.get("more_body", True) for message in site.received)
        server.wait_settled()
        assert_open(client)
        assert len(server.log.take("warning")) == 1


def test_trailers_of_a_request_end_its_body_and_are_not_headers(parser: str) -> None:
    """RFC 9113, 8.1; RFC 9110, 6.5.1."""
    with serve(mirror, parser, **HTTP2) as server:
        client = connect(server)
        stream = client.begin("POST", "/", end=False)
        client.upload(stream, b"hello", end=False)
        client.h2.send_headers(stream.id, [(b"x-late", b"1")], end_stream=True)
        client.flush()
        told = client.read_response(stream).body
        assert b"'body': b'hello'" in told
        assert b"x-late" not in told


# What the application is told.


def test_the_scope(parser: str) -> None:
    """docs/asgi.md, 20 to 38: `:authority` is the first header, whatever the client calls its host; cookies are joined (RFC 9113, 8.2.3)."""
    with serve(mirror, parser, state={"x": 1}, **HTTP2) as server:
        client = connect(server)
        pseudo = [
            (b":method", b"GET"),
            (b":path", b"/a%20b?c=%20"),
            (b":scheme", b"https"),
            (b":authority", b"Example:1"),
        ]
        own = [
            (b"cookie", b"a=1"),
            (b"x-one", b"1"),
            (b"host", b"example:1"),
            (b"cookie", b"b=2"),
            (b"x-one", b"2"),
        ]
        told = eval(
            client.read_response(client.begin_raw([*pseudo, *own])).body
        )  # what `mirror` has written
        assert told == {
            "type": "http",
            "asgi": told["asgi"],
            "http_version": "2",
            "method": "GET",
            "scheme": "http",
            "path": "/a b",
            "raw_path": b"/a%20b",
            "query_string": b"c=%20",
            "root_path": "",
            "headers": [
                (b"host", b"Example:1"),
                (b"cookie", b"a=1; b=2"),
                (b"x-one", b"1"),
                (b"x-one", b"2"),
            ],
            "client": client.name,
            "server": server.address,
            "state": {"x": 1},
            "extensions": told["extensions"],
            "body": b"",
        }
        without = [
            (b":method", b"GET"),
            (b":path", b"/"),
            (b":scheme", b"http"),
            (b"x", b"y"),
            (b"host", b"b"),
        ]
        told = eval(client.read_response(client.begin_raw(without)).body)
        assert told["headers"] == [(b"x", b"y"), (b"host", b"b")], (
            "RFC 9113, 8.3.1: without :authority, Host has it"
        )


def test_what_one_stream_does_to_its_scope_no_other_sees(parser: str) -> None:
    """docs/asgi.md, 18 and 41: equal requests of a connection are read once."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((list(scope["headers"]), "x" in scope["extensions"]))
        scope["headers"].append((b"x", b"y"))
        scope["extensions"]["x"] = {}
        await answer(send)

    with serve(app, parser, **HTTP2) as server:
        client = connect(server)
        for _ in range(4):
            assert client.get("GET", "/same").status == 200
        assert seen == [([(b"host", b"a")], False)] * 4


def test_an_application_that_exits_leaves_no_stream_open(parser: str) -> None:
    """The worker leaves; and nobody takes what was sent for the whole."""
    site = Site()
    with serve(site, parser, **HTTP2) as server:
        client = connect(server)
        assert client.read_response(client.begin("GET", "/exits")).reset_code == INTERNAL_ERROR
        assert server.host.left == [7]
        server.wait_settled()


# One connection, many writes.


def test_answers_to_one_packet_are_one_write(parser: str) -> None:
    """Of streams whose applications are done at once, or in the same turn of the loop."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/later":
            await asyncio.sleep(0)
        await answer(send, b"x" * 100)

    with serve(app, parser, **HTTP2) as server:
        client = connect(server)
        client.synchronize()
        for path in ("/", "/later"):
            streams = [client.begin("GET", path, flush=False) for _ in range(8)]
            sizes = server.count_writes()
            client.flush()
            for stream in streams:
                assert client.read_response(stream).body == b"x" * 100
            assert len(sizes) == 1


def test_parts_that_are_sent_in_one_turn_are_one_write(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(10):
            await send(part(b"x"))
        await send(part(b"", more=False))

    with serve(app, parser, **HTTP2) as server:
        client = connect(server)
        client.synchronize()
        sizes = server.count_writes()
        assert client.get().body == b"x" * 10
        assert len(sizes) == 1


# Upgrade: h2c.


def test_the_request_that_upgrades_is_stream_1(parser: str) -> None:
    """RFC 7540, 3.2: its answer comes over HTTP/2, and other streams behind it."""
    log = AccessLog()
    with serve(mirror, parser, access=make_access(log), **HTTP2) as server:
        client = connect(server, upgrade=b"GET /up?x HTTP/1.1\r\nHost: a\r\nX-One: 1\r\n")
        told = eval(client.read_response(client.streams[1]).body)
        assert (told["http_version"], told["path"], told["query_string"]) == ("2", "/up", b"x")
        assert told["headers"] == [(b"host", b"a"), (b"x-one", b"1")]
        assert client.get("POST", "/", body=b"hello").status == 200
        server.wait_settled()
        assert [line[4] for line in log.lines] == [200, 200]
        assert log.protocol == "HTTP/2.0"


# Each exchange ends once.


def test_every_exchange_has_one_line_in_the_log_however_it_ends(parser: str) -> None:
    """And none is left behind, as long as the connection lives."""
    site = Site()
    log = AccessLog()
    with serve(site, parser, access=make_access(log), body_timeout=5, **HTTP2) as server:
        client = connect(server)
        paths = []

        def begin(path: str, **how: Any) -> Stream:
            paths.append(path)
            return client.begin("POST", path, **how)

        for path in ("/early", "/raises", "/breaks_off", "/exits"):
            client.read_response(begin(path))
        client.read_response(begin("/early", end=False))
        for path in ("/listens", "/ignores"):
            stream = begin(path, end=False)
            site.waits.wait()
            client.synchronize()
            stream.cancel()
        stream = begin("/big")
        client.wait_for(lambda: stream.body)
        if not stream.is_over:
            stream.cancel()
        stream = begin("/echo", end=False)
        client.synchronize()
        server.advance(6)
        assert client.read_response(stream).status == 408
        server.end_lingering()
        server.wait_settled()
        assert sorted(line[1] for line in log.lines if isinstance(line, tuple)) == sorted(paths)
        assert_is_open_with_no_window(client)
        server.log.take("error")
        server.log.take("warning")


def test_connections_that_end_in_the_midst_leave_nothing(parser: str) -> None:
    """Every exchange is told, and ended; `serve` looks for what is left."""
    site = Site()
    log = AccessLog()
    with serve(site, parser, access=make_access(log), **HTTP2) as server:
        ends: list[Callable[[H2Client, Stream], None]] = [
            close,
            reset_connection,
            break_the_protocol,
        ]
        for end in ends:
            client = connect(server, settings=NO_WINDOW)
            streams = [
                client.begin("POST", path, end=False)
                for path in ("/listens", "/ignores", "/streams", "/big", "/reads_not")
            ]
            client.synchronize()
            end(client, streams[0])
        server.wait_until(lambda: len(log.lines) >= 9)
        site.goes_on.set()
        server.advance(10)
        server.wait_until(server.is_idle)
        assert len(log.lines) == 15
        server.log.take("warning")


def test_a_server_that_stops_at_once_leaves_nothing(parser: str) -> None:
    site = Site()
    log = AccessLog()
    with serve(site, parser, access=make_access(log), **HTTP2) as server:
        client = connect(server, settings=NO_WINDOW)
        for path in ("/listens", "/ignores", "/streams", "/big", "/reads_not"):
            client.begin("POST", path, end=False)
        client.synchronize()
        abort(server)
        client.read_to_the_end()
        assert client.goaways == [(9, NO_ERROR)]
        server.wait_until(server.is_idle)
        assert len(log.lines) == 5
        server.log.take("error")


def abort(server: InProcess) -> None:
    server.run(server.server.abort())


PATHS = (
    "/echo",
    "/big",
    "/reads_not",
    "/early",
    "/breaks_off",
    "/raises",
    "/listens",
    "/ignores",
    "/streams",
    "/streams_and_reads",
)


class Whim:
    """A client that begins streams, feeds, reads, leaves alone and resets them in any order, while time passes; always within the protocol."""

    def __init__(self, server: InProcess, seed: int) -> None:
        self.server = server
        self.chance = random.Random(seed)
        self.client = connect(
            server, settings={INITIAL_WINDOW_SIZE: self.chance.choice([0, 1000, 65535])}
        )
        self.streams: list[Stream] = []
        self.sendable: set[int] = set()
        self.cancelled: set[int] = set()

    def go(self, steps: int) -> None:
        self.begin()
        for _ in range(steps):
            [work] = self.chance.choices(
                [
                    self.begin,
                    self.feed,
                    self.widen,
                    self.cancel,
                    self.wait,
                    self.client.synchronize,
                ],
                [6, 6, 4, 2, 2, 3],
            )
            work()

    def any(self) -> Stream:
        return self.chance.choice(self.streams)

    def begin(self) -> None:
        has_length = self.chance.random() < 0.3
        fields = (
            [(b"content-length", b"%d" % self.chance.choice([0, 3, 5000, 100000]))]
            if has_length
            else []
        )
        ends = not has_length and self.chance.random() < 0.3
        stream = self.client.begin("POST", self.chance.choice(PATHS), *fields, end=ends)
        if not ends:
            self.sendable.add(stream.id)
        if self.chance.random() < 0.5:
            stream.opens_window = False
        self.streams.append(stream)

    def feed(self) -> None:
        stream, size, ends = (
            self.any(),
            self.chance.choice([0, 3, 3000]),
            self.chance.random() < 0.3,
        )
        if (
            stream.id in self.sendable
            and stream.reset_code is None
            and self.client.h2.local_flow_control_window(stream.id) >= size
        ):
            self.client.h2.send_data(stream.id, b"x" * size, end_stream=ends)
            self.client.flush()
            if ends:
                self.sendable.discard(stream.id)

    def widen(self) -> None:
        stream = self.any()
        if not stream.is_over and stream.id not in self.cancelled:
            self.client.open_window(self.chance.choice([1, 1000, 100000]), stream)

    def cancel(self, stream: Stream | None = None) -> None:
        stream = stream or self.any()
        if (
            stream.reset_code is None
            and stream.id not in self.cancelled
            and (stream.id in self.sendable or not stream.has_ended)
        ):
            stream.cancel()
            self.cancelled.add(stream.id)
            self.sendable.discard(stream.id)

    def wait(self) -> None:
        self.server.advance(self.chance.choice([1, 5]))

    def stop(self) -> None:
        self.client.synchronize()
        for stream in self.streams:
            self.cancel(stream)
        self.client.synchronize()


@pytest.mark.parametrize(
    "end",
    [None, close, reset_connection, break_the_protocol],
    ids=["reset", "close", "TCP reset", "violation"],
)
@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_client_does_each_exchange_ends_once(
    parser: str, seed: int, end: Callable[[H2Client, Stream], None] | None
) -> None:
    """In the end nothing is left, and each has its line in the log, whether the streams end or the connection does."""
    site = Site()
    log = AccessLog()
    with serve(
        site,
        parser,
        access=make_access(log),
        body_timeout=8,
        write_timeout=12,
        keepalive=60,
        **HTTP2,
    ) as server:
        whim = Whim(server, seed)
        whim.go(80)
        if end is None:
            whim.stop()
            assert not whim.client.goaways
        else:
            whim.client.synchronize()
            end(whim.client, whim.streams[0])
            whim.client.close()
            server.wait_gone()
        site.goes_on.set()
        server.advance(5)
        server.wait_settled()
        if end is None:
            assert_is_open_with_no_window(whim.client)
            whim.streams.append(whim.client.streams[max(whim.client.streams)])
        server.wait_until(lambda: len(log.lines) == len(whim.streams))
        server.log.take("error")
        server.log.take("warning")
