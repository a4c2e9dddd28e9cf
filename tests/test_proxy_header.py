"""The PROXY protocol in front of a connection (see `gunicorn_asgi.net.proxy_preamble`; the header itself is tested in test_proxy_protocol.py)."""

from __future__ import annotations

import json
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import Pair, make_authority
from h2raw import PREFACE
from inprocess import HTTP2, Client, InProcess, request, serve
from process import GUNICORN_VERSION, LOOPS, SETTINGS, Gunicorn, trusting_context

from gunicorn_asgi.net.proxy_protocol import V2_SIGNATURE

CLIENT, SERVER = ["203.0.113.7", 4711], ["192.0.2.1", 443]
V1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
ADDRESSES = (
    socket.inet_aton("203.0.113.7") + socket.inet_aton("192.0.2.1") + struct.pack(">HH", 4711, 443)
)
V2 = V2_SIGNATURE + b"\x21\x11\x00\x0c" + ADDRESSES
LOCAL = V2_SIGNATURE + b"\x20\x00\x00\x00"
GET = request()
MODES = GUNICORN_VERSION >= (24, 1)
"""Before, there is version 1 or nothing."""
ON: Any = "auto" if MODES else True
only_modes = pytest.mark.skipif(not MODES, reason="this Gunicorn knows version 1 only")
HEADERS = [pytest.param(V1, id="v1"), pytest.param(V2, id="v2", marks=only_modes)]


async def shows(scope: Any, receive: Any, send: Any) -> None:
    told = {name: scope[name] for name in ("client", "server", "scheme", "path")}
    told["body"] = (await receive())["body"].decode()
    body = json.dumps(told).encode()
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})


@contextmanager
def proxied(parser: str, **settings: Any) -> Iterator[tuple[InProcess, Client]]:
    with serve(shows, parser, **{"proxy_protocol": ON, **settings}) as server:
        yield server, server.connect()


def told(client: Client) -> dict[str, Any]:
    response = client.read_response()
    assert response.status == 200, response
    answer: dict[str, Any] = json.loads(response.body)
    return answer


@pytest.mark.parametrize("header", HEADERS)
def test_client_and_server_come_from_the_header(parser: str, header: bytes) -> None:
    with proxied(parser) as (_, client):
        client.send(header + GET)
        for _ in range(2):
            answer = told(client)
            assert (answer["client"], answer["server"]) == (CLIENT, SERVER)
            client.send(GET)
        told(client)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("rest", [GET, request("POST", "/p", body=b"body")])
def test_a_header_may_come_in_pieces(parser: str, header: bytes, rest: bytes) -> None:
    with proxied(parser) as (server, client):
        for byte in header + rest:
            client.send(bytes([byte]))
            server.settle()
        assert told(client)["client"] == CLIENT


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n",
        b"POST /p HTTP/1.1\r\n",
        b"PROPFIND / HTTP/1.1\r\n",
        b"\r\nGET / HTTP/1.1\r\n",
    ],
)
def test_a_connection_without_a_header_is_served_as_it_is(parser: str, first: bytes) -> None:
    """As in Gunicorn: "Allow using HTTP and PROXY together". Its first bytes are not lost if they look like the beginning of a header."""
    with proxied(parser) as (server, client):
        for byte in first:
            client.send(bytes([byte]))
            server.settle()
        client.send(b"Host: a\r\nContent-Length: 2\r\n\r\nhi")
        answer = told(client)
        assert answer["client"][0] == "127.0.0.1"
        assert answer["body"] == "hi"


@only_modes
def test_a_local_header_leaves_the_addresses_of_the_connection(parser: str) -> None:
    with proxied(parser) as (server, client):
        client.send(LOCAL + GET)
        answer = told(client)
        assert answer["client"] == list(client.name)
        assert answer["server"] == list(server.address)


@only_modes
@pytest.mark.parametrize(("mode", "header"), [("v1", V2), ("v2", V1)])
def test_a_header_of_the_other_version_is_an_invalid_request(
    parser: str, mode: str, header: bytes
) -> None:
    with proxied(parser, proxy_protocol=mode) as (_, client):
        client.send(header + GET)
        assert client.read_response().status == 400


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 1.2.3.4\r\n",
        b"PROXY " + b"x" * 200,
        pytest.param(V2_SIGNATURE + b"\x31\x11\x00\x0c", marks=only_modes),
    ],
)
def test_a_malformed_header_is_refused_with_400_and_one_line(parser: str, header: bytes) -> None:
    with proxied(parser) as (server, client):
        client.send(header + GET)
        response = client.read_response()
        assert (response.status, response[b"connection"]) == (400, b"close")
        assert client.read_rest() == b""
        [line] = server.log.take("warning")
        assert line.text.startswith("Invalid request from ip=127.0.0.1: PROXY protocol: ")


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_from_an_untrusted_peer_is_refused_with_403_and_one_line(
    parser: str, header: bytes
) -> None:
    with proxied(parser, proxy_allow_ips="192.0.2.77") as (server, client):
        client.send(header + GET)
        assert client.read_response().status == 403
        assert client.read_rest() == b""
        assert [line.text for line in server.log.take("warning")] == [
            "Invalid request from ip=127.0.0.1: PROXY protocol: the peer is not in proxy_allow_ips"
        ]
        assert server.host.nr == 0


def test_an_untrusted_peer_without_a_header_is_served(parser: str) -> None:
    with proxied(parser, proxy_allow_ips="192.0.2.77") as (_, client):
        client.send(GET)
        assert told(client)["client"] == list(client.name)


def test_a_peer_on_a_unix_socket_is_trusted(parser: str, tmp_path: Path) -> None:
    with proxied(parser, proxy_allow_ips="192.0.2.77", bind=str(tmp_path / "socket")) as (
        _,
        client,
    ):
        client.send(V1 + GET)
        assert told(client)["client"] == CLIENT


def test_a_header_that_does_not_come_is_waited_for_as_long_as_for_a_head(parser: str) -> None:
    with proxied(parser, head_timeout=0.2) as (server, client):
        client.send(V1[:10])
        assert client.read_rest() == b""
        server.wait_until(lambda: not server.server.acceptors.pending)
        assert not server.log.lines


@pytest.mark.parametrize("rest", [b"", b"GET / HTTP/1.1\r\n", PREFACE], ids=["", "head", "h2"])
def test_the_header_and_the_head_of_the_first_request_share_one_limit(
    parser: str, rest: bytes
) -> None:
    http2 = HTTP2 if rest == PREFACE else {}
    with proxied(parser, head_timeout=10, keepalive=60, **http2) as (server, client):
        server.wait_until(lambda: server.server.acceptors.pending)
        server.stop_clock()
        server.advance(6)
        client.send(V1 + rest)
        server.wait_connected()
        server.settle()
        server.advance(2)
        assert server.call(lambda: len(server.server.connections)) == 1
        server.advance(3)
        answer = client.read_rest()
        assert answer.startswith(b"HTTP/1.1 408 ") == (b"GET" in rest)
        assert bool(answer) == bool(rest)
        server.log.take("warning")


def test_a_client_that_goes_away_within_the_header_leaves_nothing_behind(parser: str) -> None:
    with proxied(parser, head_timeout=0) as (server, client):
        client.send(V1[:10])
        server.wait_until(lambda: server.server.acceptors.pending)
        client.close()
        server.wait_until(lambda: not server.server.acceptors.pending)
        assert not server.log.lines


def test_a_header_that_does_not_come_does_not_hold_a_drain(parser: str) -> None:
    with proxied(parser, head_timeout=0) as (server, client):
        client.send(V1[:10])
        server.wait_until(lambda: server.server.acceptors.pending)
        server.run(server.server.shut_down(1, 1))
        assert client.read_rest() == b""


@pytest.mark.gunicorn
def test_the_addresses_of_the_header_reach_log_and_hooks(tmp_path: Path) -> None:
    access = tmp_path / "access.log"
    with Gunicorn(
        tmp_path,
        proxy_protocol=ON,
        accesslog=str(access),
        access_log_format="%(h)s %({REMOTE_PORT}e)s",
    ) as server:
        with server.connect() as client:
            client.send(V1)
            client.get("/hello", "Connection: close\r\n")
            client.read_all()
        assert server.stop() == 0
        assert access.read_text() == "203.0.113.7 4711\n"


# Together with what the headers of the request say.


def test_the_peer_decides_about_the_scheme_and_the_header_about_the_client(parser: str) -> None:
    """A proxy that speaks HTTP may have set both. One that does not passes on what its client says: of that nothing is the client's address."""
    with proxied(parser) as (_, client):
        client.send(
            V1 + request("GET", "/", b"X-Forwarded-For: 198.51.100.1", b"X-Forwarded-Proto: https")
        )
        answer = told(client)
        assert answer["client"] == CLIENT
        assert answer["scheme"] == "https"


def test_a_trusted_client_in_the_header_may_tell_of_its_own(parser: str) -> None:
    with proxied(parser, forwarded_allow_ips="127.0.0.1,203.0.113.7") as (_, client):
        client.send(V1 + request("GET", "/", b"X-Forwarded-For: 198.51.100.1"))
        assert told(client)["client"] == ["198.51.100.1", 0]


# In front of TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_authority(tmp_path_factory.mktemp("certificate"), "server")


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _settings(loop: str, certificate: Pair) -> dict[str, Any]:
    return {
        **({"asgi_loop": loop} if "asgi_loop" in SETTINGS else {}),
        **certificate._asdict(),
        "proxy_protocol": ON,
    }


@pytest.mark.gunicorn
@pytest.mark.parametrize("header", [*HEADERS, pytest.param(b"", id="none")])
def test_the_header_stands_in_front_of_tls(
    tmp_path: Path, loop: str, certificate: Pair, header: bytes
) -> None:
    with Gunicorn(tmp_path, **_settings(loop, certificate)) as server:
        with socket.create_connection(server.address, 30) as raw:
            raw.sendall(header)
            with trusting_context().wrap_socket(raw) as sock:
                sock.sendall(b"GET /scope HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: sock.recv(65536), b""))
        assert b"200 OK" in answer
        assert (b"203.0.113.7" in answer) == bool(header)
        assert server.stop() == 0


@pytest.mark.gunicorn
@pytest.mark.parametrize(
    ("header", "settings", "reason"),
    [
        (b"PROXY nonsense\r\n", {}, "PROXY protocol: invalid line"),
        (
            V1,
            {"proxy_allow_ips": "192.0.2.77"},
            "PROXY protocol: the peer is not in proxy_allow_ips",
        ),
    ],
)
def test_in_front_of_tls_a_header_that_is_refused_closes_with_one_line(
    tmp_path: Path,
    loop: str,
    certificate: Pair,
    header: bytes,
    settings: dict[str, Any],
    reason: str,
) -> None:
    with Gunicorn(tmp_path, **_settings(loop, certificate), **settings) as server:
        with server.connect() as client:
            client.send(header + b"\x16\x03\x01")  # the beginning of a ClientHello
            assert client.read_all() == b""
        [line] = server.wait_for("Invalid request")
        assert f"Invalid request from ip=127.0.0.1: {reason}" in line
        assert "Traceback" not in server.log
        assert server.stop(signal.SIGTERM) == 0
