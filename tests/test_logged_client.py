"""What the log and the hooks are told about a request that came through a proxy: the client that a
trusted proxy has named, and the time that the request waited on its way.

The header X-Request-Start alone is read by `gunicorn_asgi.observe.request_wait`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accesslog import make_access
from gunicorn.config import Config
from gunicorn.glogging import Logger
from h2client import connect
from inprocess import HTTP2, InProcess, answer, request, serve
from process import GUNICORN_VERSION
from ways import WAYS, serving
from ws import WAYS as WEBSOCKET_WAYS
from ws import extended_connect, handshake, serve_way

from gunicorn_asgi.observe.request_wait import MAX_WAIT_S, read_wait_us

# The header.

BEGAN = 1_800_000_000.5
SOME_SECONDS_BEFORE = [
    (b"t=1799999999.250", 1_250_000),
    (b"1799999999.25", 1_250_000),
    (b"1799999999", 1_500_000),
    (b"1799999999250", 1_250_000),
    (b"t=1799999999250", 1_250_000),
    (b"1799999999250.5", 1_249_500),
    (b"t=1799999999250001", 1_249_999),
    (b"1799999999250001000", 1_249_999),
    (b"1800000000.5", 0),
]


@pytest.mark.parametrize(("value", "expected"), SOME_SECONDS_BEFORE)
def test_the_unit_of_a_time_follows_from_its_size(value: bytes, expected: int) -> None:
    waited = read_wait_us(value, BEGAN)
    assert waited is not None
    assert abs(waited - expected) <= 1  # a float has no whole microseconds


@pytest.mark.parametrize("ahead", [0.001, 30, MAX_WAIT_S - 1])
def test_a_proxy_whose_clock_is_ahead_makes_no_negative_time(ahead: float) -> None:
    assert read_wait_us(b"t=%.3f" % (BEGAN + ahead), BEGAN) == 0


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"t=", b"now", b"-1799999999", b"+1799999999", b"1_799_999_999", b"0x1799999999"),
        *(b"1.8e9", b"inf", b"nan", b"t=t=1799999999", b"T=1799999999", b"1799999999."),
        *(b".1799999999", b"1799999999.1.2", b"1799999999,1799999999", b" 1799999999"),
        *(b"1799999999\n", b"179999999", b"1" * 20, b"1" * 5000, b"1799999999." + b"1" * 10),
        "١٧٩٩٩٩٩٩٩٩".encode(),
        b"t=%d" % (BEGAN - MAX_WAIT_S - 1),
        b"t=%d" % (BEGAN + MAX_WAIT_S + 1),
        b"0000000000",
        b"9999999999",
    ],
)
def test_what_is_no_time_of_this_day_is_nothing(value: bytes) -> None:
    assert read_wait_us(value, BEGAN) is None


# From the connection to the line.

PROXY = "127.0.0.1"
NAMED = b"X-Forwarded-For: 198.51.100.7, 192.0.2.1:4711"
FORMAT = "%({client_addr}e)s|%({Request_Wait}e)s|%(h)s|%(s)s"


class Told:
    """The lines of the access log, and the variables that the hook ``post_request`` is given."""

    def __init__(self, path: Path) -> None:
        cfg = Config()
        cfg.set("accesslog", str(path))
        cfg.set("access_log_format", FORMAT)
        self.log = Logger(cfg)
        [handler] = [
            handler
            for handler in self.log.access_log.handlers
            if getattr(handler, "_gunicorn", False)
        ]
        self.log.access_log.handlers = [handler]  # with pytest's, no line would take the short way
        self.access = make_access(self.log, {"post_request": self._post_request})
        self.variables: list[dict[str, Any]] = []
        self._path = path
        self._taken = 0

    def _post_request(self, _worker: Any, _req: Any, environ: dict[str, Any], _resp: Any) -> None:
        self.variables.append(environ)

    def take(self, server: InProcess) -> list[str]:
        """Wait for one more line: [client, wait, peer, status]."""
        server.wait_until(lambda: len(self._lines()) > self._taken)
        self._taken += 1
        lines = self._lines()
        assert len(lines) == self._taken
        return lines[-1].split("|")

    def _lines(self) -> list[str]:
        return self._path.read_text().splitlines()

    def close(self) -> None:
        for logger in (self.log.access_log, self.log.error_log):
            for handler in logger.handlers[:]:
                if getattr(handler, "_gunicorn", False):
                    logger.removeHandler(handler)
                    handler.close()


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    told = Told(tmp_path / "access.log")
    yield told
    told.close()


async def app(scope: Any, receive: Any, send: Any) -> None:
    await answer(send)


def started(seconds_ago: float) -> bytes:
    return b"X-Request-Start: t=%.3f" % (time.time() - seconds_ago)


def is_near(text: str, seconds: float) -> bool:
    """Whether these microseconds are about `seconds`, or more on a busy machine."""
    return (seconds - 1) * 1_000_000 <= int(text) < (seconds + 60) * 1_000_000


@pytest.mark.parametrize("way", WAYS)
def test_on_every_way_the_log_has_the_client_and_the_wait_that_a_trusted_proxy_has_told(
    way: str, parser: str, told: Told
) -> None:
    peer = "-" if way == "unix" else PROXY
    with serving(app, parser, way, access=told.access) as served:
        assert served.fetch("GET", NAMED, started(5)).status == 200
        client, wait, address, status = told.take(served.server)
        assert (client, address, status) == ("192.0.2.1", peer, "200")
        assert is_near(wait, 5)
        environ = told.variables.pop()
        assert (environ["CLIENT_ADDR"], environ["REMOTE_ADDR"]) == ("192.0.2.1", peer)
        assert is_near(environ["REQUEST_WAIT"], 5)
        # Nothing is told, or nothing that could be believed.
        for fields in [(), (b"X-Forwarded-For: unknown", b"X-Request-Start: soon")]:
            assert served.fetch("GET", *fields).status == 200
            assert told.take(served.server) == [peer, "-", peer, "200"]
            environ = told.variables.pop()
            assert environ["CLIENT_ADDR"] == peer
            assert "REQUEST_WAIT" not in environ


@pytest.mark.parametrize("way", ["1.1", "h2-tls"])
def test_an_untrusted_peer_tells_neither(way: str, parser: str, told: Told) -> None:
    claims = (NAMED, started(5), b"Client-Addr: 192.0.2.1", b"Request-Wait: 5")
    with serving(app, parser, way, access=told.access, forwarded_allow_ips="10.0.0.1") as served:
        assert served.fetch("GET", *claims).status == 200
        assert told.take(served.server) == [PROXY, "-", PROXY, "200"]
        environ = told.variables.pop()
        assert environ["CLIENT_ADDR"] == PROXY
        assert "REQUEST_WAIT" not in environ


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ((b"X-Queue-Start: %s",), 3),
        ((b"X-Queue-Start: 1", b"X-Request-Start: %s"), 3),
        ((b"X-Request-Start: 1", b"X-Queue-Start: %s"), None),
        ((b"X-Request-Start: 1", b"X-Request-Start: %s"), 3),
        ((b"X-Request-Start: %s", b"X-Request-Start: 1"), None),
        ((b"X-Request-Start: %s, %s",), None),
        ((b"X_Request_Start: %s",), None),
    ],
)
def test_the_last_line_of_the_first_header_counts(
    fields: tuple[bytes, ...], seconds: float | None, parser: str, told: Told
) -> None:
    stamp = b"%d" % ((time.time() - 3) * 1000)  # Heroku's form
    with serving(app, parser, "1.1", access=told.access, header_map="dangerous") as served:
        served.fetch("GET", *(field.replace(b"%s", stamp) for field in fields))
        wait = told.take(served.server)[1]
        assert wait == "-" if seconds is None else is_near(wait, seconds)


def test_the_wait_ends_where_the_time_of_the_request_begins(told: Told) -> None:
    """The two are added up, for what the client has waited."""
    begun: list[float] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        begun.append(time.time())
        await asyncio.sleep(0.1)
        await answer(send)

    with serving(slow, "h11", "1.1", access=told.access) as served:
        before = time.time() - 5
        served.fetch("GET", b"X-Request-Start: %.6f" % before)
        wait_s = int(told.take(served.server)[1]) / 1_000_000
        assert wait_s >= 4
        assert wait_s <= begun[0] - before + 0.001


@pytest.mark.parametrize(
    ("option", "client"), [("x-forwarded", "192.0.2.1"), ("forwarded", "192.0.2.9"), ("off", PROXY)]
)
def test_the_client_is_that_of_the_scope(option: str, client: str, parser: str, told: Told) -> None:
    with serving(app, parser, "1.1", access=told.access, proxy_headers=option) as served:
        served.fetch("GET", NAMED, b"Forwarded: for=192.0.2.9", started(5))
        seen, wait, *_ = told.take(served.server)
        assert seen == client
        assert is_near(wait, 5)  # whichever header has the address


@pytest.mark.parametrize("way", WEBSOCKET_WAYS)
def test_a_websocket_has_the_client_and_the_wait_of_its_handshake(way: str, told: Told) -> None:
    async def accepts(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})

    fields = (NAMED, started(5))
    with serve_way(accepts, way, access=told.access) as server:
        if way in ("httptools", "h11"):
            client: Any = server.connect()
            client.send(handshake(*fields))
        else:
            pairs = [
                (name.lower(), value) for name, value in (each.split(b": ") for each in fields)
            ]
            client = connect(server).tunnel(extended_connect(fields=pairs))
        client.read_head()
        client.close()
        seen, wait, *_ = told.take(server)
        assert seen == "192.0.2.1"
        assert is_near(wait, 5)


def test_a_request_goes_on_in_http2_with_its_client(told: Told) -> None:
    upgrade = (b"Connection: upgrade, http2-settings", b"Upgrade: h2c", b"HTTP2-Settings: ")
    with serve(app, "h11", access=told.access, **HTTP2) as server:
        client = server.connect()
        client.send(request("GET", "/", NAMED, started(5), *upgrade))
        assert client.read_head().status == 101
        seen, wait, *_ = told.take(server)
        assert seen == "192.0.2.1"
        assert is_near(wait, 5)


@pytest.mark.parametrize("way", ["1.1", "unix", "h2"])
def test_of_a_refused_request_nothing_is_believed(way: str, parser: str, told: Told) -> None:
    peer = "-" if way == "unix" else PROXY
    with serving(app, parser, way, access=told.access) as served:
        refused = served.fetch("GET", b"Host: b", b"Host: c", NAMED, started(5))
        assert refused.status == 400
        assert told.take(served.server) == [peer, "-", peer, "400"]
        assert len(served.server.log.take("warning")) == 1


PREAMBLE = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
PROXY_PROTOCOL: Any = "auto" if GUNICORN_VERSION >= (24, 1) else True


@pytest.mark.parametrize(
    ("trusted", "client", "has_wait"),
    [
        (PROXY, "203.0.113.7", False),  # the client may have written the headers
        (f"{PROXY},203.0.113.7", "192.0.2.1", True),
        ("", "203.0.113.7", False),
    ],
)
def test_with_the_proxy_protocol_the_client_in_its_header_is_asked_for_as_well(
    trusted: str, client: str, has_wait: bool, parser: str, told: Told
) -> None:
    with serve(
        app,
        parser,
        access=told.access,
        proxy_protocol=PROXY_PROTOCOL,
        forwarded_allow_ips=trusted,
    ) as server:
        connection = server.connect()
        connection.send(PREAMBLE + request("GET", "/", NAMED, started(5)))
        assert connection.read_response().status == 200
        seen, wait, address, _ = told.take(server)
        assert (seen, address) == (client, "203.0.113.7")
        assert is_near(wait, 5) if has_wait else wait == "-"
