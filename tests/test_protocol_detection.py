"""Which version of HTTP a connection speaks without TLS (`gunicorn_asgi.protocol_detection`): by the preface, or by an Upgrade (RFC 9113, 3.3; RFC 7540, 3.2)."""

from __future__ import annotations

import base64
import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from inprocess import Client, InProcess, request, serve
from process import GUNICORN_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("h2")
from h2client import H2Client, Stream

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
NO_PREFACE = "No HTTP/2 connection preface, and http2_cleartext is prior-knowledge"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
MODES = ["off", "prior-knowledge", "upgrade", "both"]
BY_PREFACE = ["prior-knowledge", "both"]
BY_UPGRADE = ["upgrade", "both"]
UNTRUSTED = {"forwarded_allow_ips": "192.0.2.1"}


async def shows(scope: Any, receive: Any, send: Any) -> None:
    """What the request was."""
    told = {name: scope[name] for name in ("http_version", "method", "path", "scheme", "client")}
    told["headers"] = [[name.decode(), value.decode()] for name, value in scope["headers"]]
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    told["body"] = body.decode("latin-1")
    answer = json.dumps(told).encode()
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"%d" % len(answer))],
        }
    )
    await send({"type": "http.response.body", "body": answer})


@contextmanager
def opened(parser: str, mode: str, **settings: Any) -> Iterator[tuple[InProcess, Client]]:
    with serve(
        shows, parser, **{"http_protocols": "h2,h1", "http2_cleartext": mode, **settings}
    ) as server:
        yield server, server.connect()


def told_1(client: Client) -> dict[str, Any]:
    """What an answer in HTTP/1.1 says."""
    response = client.read_response()
    assert response.status == 200, response
    answer: dict[str, Any] = json.loads(response.body)
    return answer


def told_2(stream: Stream) -> dict[str, Any]:
    """What an answer in HTTP/2 says."""
    stream.client.read_response(stream)
    assert (stream.status, stream.has_ended) == (200, True)
    answer: dict[str, Any] = json.loads(stream.body)
    return answer


def settings(payload: bytes = b"") -> bytes:
    """The value of HTTP2-Settings (RFC 7540, 3.2.1)."""
    return base64.urlsafe_b64encode(payload).rstrip(b"=")


def upgrade(
    *more: bytes,
    method: str = "GET",
    value: bytes = b"AAMAAABkAAQAAP__",
    connection: bytes = b"Upgrade, HTTP2-Settings",
    **given: Any,
) -> bytes:
    fields = [b"Connection: " + connection, b"Upgrade: h2c", b"HTTP2-Settings: " + value, *more]
    return request(method, "/up?a=b", *fields, **given)


# Prior knowledge.


@pytest.mark.parametrize("mode", BY_PREFACE)
def test_the_preface_begins_http_2(parser: str, mode: str) -> None:
    """RFC 9113, 3.3 and 3.4."""
    with opened(parser, mode) as (_, client):
        h2 = H2Client(client.sock)
        for _ in range(2):
            told = told_2(h2.begin("GET", "/one"))
            assert (told["http_version"], told["scheme"], told["path"]) == ("2", "http", "/one")
            assert told["client"] == list(client.name)


@pytest.mark.parametrize("mode", BY_PREFACE)
def test_the_preface_may_come_in_any_pieces(parser: str, mode: str) -> None:
    with opened(parser, mode) as (server, client):
        for byte in PREFACE[:-1]:
            client.send(bytes([byte]))
            server.settle()
        assert not client.has_more()
        client.send(PREFACE[-1:] + EMPTY_SETTINGS)
        assert client.recv_until(b"\0\4")[-2:] == b"\0\4"  # the type of a SETTINGS frame


@pytest.mark.parametrize(
    ("mode", "given"),
    [("off", {}), ("upgrade", {}), ("both", UNTRUSTED), ("prior-knowledge", UNTRUSTED)],
)
def test_who_may_not_begin_so_is_told_in_http_1_1(
    parser: str, mode: str, given: dict[str, Any]
) -> None:
    with opened(parser, mode, **given) as (server, client):
        client.send(PREFACE + EMPTY_SETTINGS)
        assert client.read_response().status == 505
        # Behind a proxy that `forwarded_allow_ips` does not name, this line is all that the operator has to find that out.
        [line] = server.log.take("warning")
        assert re.search(
            r"'HTTP/2\.0': HTTP/2 begins by ALPN, .* http2_cleartext .* forwarded_allow_ips only$",
            line.text,
        )


@pytest.mark.parametrize(
    ("mode", "given"),
    [
        ("off", {}),
        ("upgrade", {}),
        ("both", {}),
        ("both", UNTRUSTED),
        ("prior-knowledge", UNTRUSTED),
    ],
)
def test_http_1_1_is_served_beside_it(parser: str, mode: str, given: dict[str, Any]) -> None:
    with opened(parser, mode, **given) as (_, client):
        for method in ("POST", "PATCH", "PUT"):  # which begin like PRI
            client.send(request(method, "/one", body=b"content"))
            told = told_1(client)
            assert (told["http_version"], told["method"], told["body"]) == (
                "1.1",
                method,
                "content",
            )


def test_http_1_1_may_come_in_pieces_where_it_could_be_the_preface(parser: str) -> None:
    with opened(parser, "both") as (server, client):
        for byte in b"PRI ":
            client.send(bytes([byte]))
            server.settle()
        client.send(b"/ HTTP/1.1\r\nHost: a\r\n\r\n")
        assert told_1(client)["method"] == "PRI"


@pytest.mark.parametrize(
    "first",
    [
        request(),
        b"GET",
        b"PRI * HTTP/1.1\r\nHost: a\r\n\r\n",
        PREFACE[:-4] + b"XX\r\n",
        b"\x16\x03\x01\x02\0",
    ],
    ids=repr,
)
def test_a_trusted_peer_that_does_not_begin_with_the_preface_gets_a_400(
    parser: str, first: bytes
) -> None:
    """Gunicorn's http2_cleartext: "a silent downgrade would only hide a misconfiguration"."""
    with opened(parser, "prior-knowledge") as (server, client):
        client.send(first)
        response = client.read_response()
        assert response.status == 400
        assert NO_PREFACE in response.body.decode()
        assert client.read_rest() == b""
        [line] = server.log.take("warning")
        assert line.text == f"Invalid request from ip=127.0.0.1: {NO_PREFACE}"


@pytest.mark.parametrize(("mode", "status"), [("prior-knowledge", 400), ("both", 408)])
def test_a_preface_that_stalls_is_answered_after_head_timeout(
    parser: str, mode: str, status: int
) -> None:
    """Gunicorn's http2_cleartext: "a malformed or stalled preface"."""
    with opened(parser, mode, head_timeout=10.0) as (server, client):
        client.send(PREFACE[:10])
        server.settle()
        server.advance(8)
        assert not client.has_more()
        server.advance(4)
        assert client.read_response().status == status
        assert client.read_rest() == b""
        assert len(server.log.take("warning")) == 1


@pytest.mark.parametrize("mode", BY_PREFACE)
def test_a_connection_that_says_nothing_is_closed_without_a_word(parser: str, mode: str) -> None:
    with opened(parser, mode, head_timeout=10.0) as (server, client):
        server.wait_connected()
        server.advance(12)
        assert client.read_rest() == b""


def test_a_connection_that_says_nothing_behind_the_preface_is_closed(parser: str) -> None:
    """RFC 9113, 3.4: SETTINGS belong to it."""
    with opened(parser, "both", head_timeout=10.0, keepalive=60) as (server, client):
        client.send(PREFACE)
        server.settle()
        server.advance(12)
        client.read_rest()


def test_a_client_that_goes_away_within_the_preface_leaves_nothing_behind(parser: str) -> None:
    with opened(parser, "prior-knowledge") as (server, client):
        client.send(PREFACE[:10])
        server.settle()
        client.close()
        server.wait_until(server.is_idle)


def test_a_peer_on_a_unix_socket_is_trusted(parser: str, tmp_path: Path) -> None:
    with opened(parser, "prior-knowledge", bind=str(tmp_path / "socket"), **UNTRUSTED) as (
        _,
        client,
    ):
        h2 = H2Client(client.sock)
        assert told_2(h2.begin("GET", "/one"))["http_version"] == "2"


@pytest.mark.parametrize("protocols", ["h1", "h2", "h1,h2"])
def test_http_protocols_says_whether(parser: str, protocols: str) -> None:
    with opened(parser, "both", http_protocols=protocols) as (server, client):
        client.send(PREFACE + EMPTY_SETTINGS)
        if protocols == "h1":
            assert client.read_response().status == 505
            assert server.log.take("warning")
        else:
            client.recv_until(EMPTY_SETTINGS[:3] + b"\4\1")  # ours are acknowledged


# Upgrade.


@pytest.mark.parametrize("mode", BY_UPGRADE)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_upgrade_is_answered_in_http_2_on_stream_1(parser: str, mode: str, method: str) -> None:
    """RFC 7540, 3.2."""
    with opened(parser, mode) as (_, client):
        client.send(upgrade(b"X-One: 1", method=method))
        assert client.recv_until(b"\r\n\r\n") == SWITCHING
        h2 = H2Client(client.sock, upgraded=True, received=bytes(client.buffer))
        told = told_2(h2.streams[1])
        assert (told["http_version"], told["method"], told["path"]) == ("2", method, "/up")
        names = [name for name, _ in told["headers"]]
        assert "x-one" in names
        assert not {"connection", "upgrade", "http2-settings"} & set(names)
        assert told_2(h2.begin("GET", "/next"))["path"] == "/next"


def test_the_settings_of_an_upgrade_count(parser: str) -> None:
    """RFC 7540, 3.2.1: here a window of 0 bytes."""
    with opened(parser, "upgrade") as (server, client):
        client.send(upgrade(value=settings(b"\0\4\0\0\0\0")))
        client.recv_until(b"\r\n\r\n")
        server.settle()
        client.send(PREFACE + EMPTY_SETTINGS)
        received = client.recv_until(EMPTY_SETTINGS[:3] + b"\4\1")
        assert b"http_version" not in received
        client.send(b"\0\0\4\10\0\0\0\0\1\0\1\0\0")  # WINDOW_UPDATE
        client.recv_until(b"http_version")


def test_the_preface_may_follow_an_upgrade_at_once(parser: str) -> None:
    with opened(parser, "upgrade") as (_, client):
        client.send(upgrade() + PREFACE + EMPTY_SETTINGS)
        assert client.recv_until(b"\r\n\r\n") == SWITCHING
        client.recv_until(EMPTY_SETTINGS[:3] + b"\4\1")


def test_an_upgrade_may_come_on_a_kept_connection(parser: str) -> None:
    with opened(parser, "upgrade") as (_, client):
        for _ in range(2):
            client.send(request("GET", "/before"))
            assert told_1(client)["http_version"] == "1.1"
        client.send(upgrade())
        assert client.recv_until(b"\r\n\r\n") == SWITCHING


IGNORED = {
    "a body": upgrade(method="POST", body=b"content"),
    "no HTTP2-Settings": request(
        "GET", "/up", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"
    ),
    "two HTTP2-Settings": upgrade(b"HTTP2-Settings: " + settings()),
    "HTTP2-Settings that are no base64": upgrade(value=b"!!!!"),
    "HTTP2-Settings of half a setting": upgrade(value=settings(b"\0\4\0")),
    "HTTP2-Settings with a forbidden value": upgrade(value=settings(b"\0\5\0\0\0\1")),
    "Connection without HTTP2-Settings": upgrade(connection=b"Upgrade"),
    "Connection without Upgrade": upgrade(connection=b"HTTP2-Settings"),
    "HTTP/1.0": upgrade(version="1.0", connection=b"Upgrade, HTTP2-Settings, keep-alive"),
    "h2, which is for TLS": upgrade().replace(b"h2c", b"h2"),
}


@pytest.mark.parametrize("what", IGNORED)
def test_an_upgrade_that_is_not_in_order_is_ignored(parser: str, what: str) -> None:
    """RFC 7540, 3.2: "A server that does not support HTTP/2 can respond as though the Upgrade header field were absent"; so may one that does."""
    with opened(parser, "both") as (_, client):
        for _ in range(2):
            client.send(IGNORED[what])
            told = told_1(client)
            assert told["http_version"] in ("1.1", "1.0")
            assert told["body"] == ("content" if what == "a body" else "")


@pytest.mark.parametrize(
    ("mode", "given"),
    [
        ("off", {}),
        ("upgrade", UNTRUSTED),
        ("both", {**UNTRUSTED}),
        ("both", {"http_protocols": "h1"}),
    ],
)
def test_who_may_not_upgrade_is_served_http_1_1(
    parser: str, mode: str, given: dict[str, Any]
) -> None:
    with opened(parser, mode, **given) as (_, client):
        client.send(upgrade())
        assert told_1(client)["http_version"] == "1.1"


def test_a_request_that_is_pipelined_behind_an_upgrade_is_not_lost(parser: str) -> None:
    """RFC 9110, 7.8: an Upgrade may be ignored. Who does not wait for its answer goes on in HTTP/1.1."""
    with opened(parser, "both") as (_, client):
        client.send(upgrade() + request("GET", "/behind"))
        assert told_1(client)["http_version"] == "1.1"
        assert told_1(client)["path"] == "/behind"


def test_an_upgrade_is_none_with_prior_knowledge_alone(parser: str) -> None:
    with opened(parser, "prior-knowledge") as (server, client):
        client.send(upgrade())
        assert client.read_response().status == 400
        assert server.log.take("warning")


# The PROXY protocol.

PROXIED = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
ON: Any = "auto" if GUNICORN_VERSION >= (24, 1) else True


@pytest.mark.parametrize("mode", BY_PREFACE)
@pytest.mark.parametrize("pieces", [1, 3])
def test_the_proxy_protocol_may_stand_before_the_preface(
    parser: str, mode: str, pieces: int
) -> None:
    """The peer is trusted or not, as elsewhere; the client is the one in the header."""
    with opened(parser, mode, proxy_protocol=ON) as (server, client):
        sent = PROXIED + PREFACE + EMPTY_SETTINGS
        size = len(sent) // pieces + 1
        for start in range(0, len(sent), size):
            client.send(sent[start : start + size])
            server.settle()
        client.recv_until(EMPTY_SETTINGS[:3] + b"\4\1")


def test_the_proxy_protocol_names_the_client_of_http_2(parser: str) -> None:
    with opened(parser, "both", proxy_protocol=ON) as (_, client):
        client.send(PROXIED)
        h2 = H2Client(client.sock)
        assert told_2(h2.begin())["client"] == ["203.0.113.7", 4711]


def test_the_proxy_protocol_may_stand_before_an_upgrade(parser: str) -> None:
    with opened(parser, "both", proxy_protocol=ON) as (_, client):
        client.send(PROXIED + upgrade())
        assert client.recv_until(b"\r\n\r\n") == SWITCHING
        h2 = H2Client(client.sock, upgraded=True, received=bytes(client.buffer))
        assert told_2(h2.streams[1])["client"] == ["203.0.113.7", 4711]


# Draining.


@pytest.mark.parametrize("mode", BY_PREFACE)
def test_a_preface_that_has_begun_is_waited_for_by_a_worker_that_leaves(
    parser: str, mode: str
) -> None:
    with opened(parser, mode, lame_duck=0.0) as (server, client):
        client.send(PREFACE[:10])
        server.settle()
        idle = server.connect()
        server.wait_until(lambda: len(server.server.connections) == 2)
        draining = server.call(lambda: server.loop.create_task(server.server.shut_down(20.0, 0.1)))
        assert idle.read_rest() == b""
        client.send(PREFACE[10:] + EMPTY_SETTINGS)
        assert client.recv_until(b"\x7f\xff\xff\xff\0\0\0\0")  # the GOAWAY that announces another
        client.close()
        server.wait_until(draining.done)
