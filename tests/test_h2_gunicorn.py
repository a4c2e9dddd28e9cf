"""HTTP/2 in a running Gunicorn: how it starts, what the log says, real clients, and how its connections end with the worker (RFC 9113, 6.8)."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from certificates import Pair, client_context, make_authority
from process import APPS, BOOT_LINE, GUNICORN_VERSION, LOOPS, SETTINGS, Gunicorn, poll

pytest.importorskip("h2")
from h2.settings import SettingCodes
from h2client import ALL_STREAMS, REFUSED_STREAM, H2Client, connect_gunicorn, wrap

pytestmark = pytest.mark.gunicorn

SOON = 8.0
"""Seconds that are long for what happens at once, and short beside ``graceful_timeout`` and ``write_timeout``."""
CLEARTEXT = {"http2_cleartext": "both"}

Serving = Callable[..., Gunicorn]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_authority(tmp_path_factory.mktemp("certificate"), "localhost")


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["cleartext", "tls"])
def serving(
    request: pytest.FixtureRequest, tmp_path: Path, loop: str, certificate: Pair
) -> Serving:
    """Gunicorn with HTTP/2, with TLS and without, on both loops."""

    def make(app: str = "main:app", **given: Any) -> Gunicorn:
        transport = certificate._asdict() if request.param == "tls" else CLEARTEXT
        own = {"graceful_timeout": 40, "keepalive": 60, "asgi_loop": loop, **transport}
        if len(LOOPS) == 1:
            del own["asgi_loop"]
        return Gunicorn.with_http2(tmp_path, app, **{**own, **given})

    return make


def ends_soon(server: Gunicorn) -> bool:
    """Wait for the end of the master, which waits for its workers."""
    return server.wait(SOON) == 0


def complaints(server: Gunicorn) -> list[str]:
    lines = server.lines(r"\[(WARNING|ERROR|CRITICAL)\]|Traceback")
    # What these tests set on purpose has a warning at the start: see test_settings_table.
    return [line for line in lines if "past the rules of that proxy" not in line]


# Draining.


@pytest.mark.smoke
def test_goaway_comes_in_two_steps_and_what_runs_is_finished(serving: Serving) -> None:
    """RFC 9113, 6.8: first 2^31-1, and the last stream once the client must have seen that."""
    with serving() as server, connect_gunicorn(server) as client:
        running = client.begin("POST", "/duplex", end=False)
        client.wait_for(lambda: running.body == b"begun\n")
        server.kill(signal.SIGTERM)
        client.wait_for(lambda: len(client.goaways) == 2)
        assert client.goaways == [(ALL_STREAMS, 0), (running.id, 0)]
        client.upload(running, b"ended\n")
        assert client.read_response(running).body == b"begun\nended\n"
        assert running.has_ended
        client.read_to_the_end()
        client.close()
        assert ends_soon(server)
        assert not complaints(server)


@pytest.mark.any_version
def test_a_stream_that_was_on_its_way_when_goaway_was_sent_is_served(serving: Serving) -> None:
    """RFC 9113, 6.8: that is what the first of the two is for."""
    with (
        serving(options={"lame_duck": 10.0}) as server,
        connect_gunicorn(server, answers_pings=False) as client,
    ):
        assert client.get("GET", "/hello").status == 200
        server.kill(signal.SIGTERM)
        client.wait_for(lambda: client.goaways)
        assert client.goaways == [(ALL_STREAMS, 0)]
        late = client.begin("GET", "/hello")
        assert client.read_response(late).body == b"hello\n"
        client.close()
        assert ends_soon(server)
        assert not complaints(server)


@pytest.mark.any_version
def test_a_stream_behind_the_last_goaway_is_refused_as_retryable(serving: Serving) -> None:
    """RFC 9113, 6.8 and 8.7: one that a client begins all the same."""
    with serving() as server, connect_gunicorn(server) as client:
        running = client.begin("POST", "/duplex", end=False)
        client.wait_for(lambda: running.body)
        server.kill(signal.SIGTERM)
        client.wait_for(lambda: len(client.goaways) == 2)
        late = client.begin("GET", "/hello")
        assert late.id > client.last_stream
        assert client.read_response(late).reset_code == REFUSED_STREAM
        client.upload(running, b"")
        assert client.read_response(running).has_ended
        client.close()
        assert ends_soon(server)


@pytest.mark.any_version
@pytest.mark.parametrize("answers_pings", [True, False], ids=["acknowledging", "silent"])
def test_an_idle_connection_does_not_hold_the_worker(serving: Serving, answers_pings: bool) -> None:
    with serving() as server, connect_gunicorn(server, answers_pings=answers_pings) as client:
        assert client.get("GET", "/hello").status == 200
        server.kill(signal.SIGTERM)
        client.read_to_the_end()
        assert client.goaways == [(ALL_STREAMS, 0), (1, 0)]
        assert ends_soon(server)
        assert not complaints(server)


@pytest.mark.any_version
def test_a_client_that_does_not_read_does_not_hold_the_worker(serving: Serving) -> None:
    """As those that look at a kept connection only when they need it again: it never sees the GOAWAY, nor the end."""
    with serving() as server, connect_gunicorn(server) as client:
        assert client.get("GET", "/hello").status == 200
        server.kill(signal.SIGTERM)
        assert ends_soon(server)
        assert not complaints(server)


@pytest.mark.any_version
def test_a_connection_that_is_made_while_the_worker_leaves_hears_of_it(serving: Serving) -> None:
    """It was accepted before; its handshake, or its preface, came behind."""
    with serving(options={"lame_duck": 5.0}) as server, connect_gunicorn(server) as busy:
        running = busy.begin("POST", "/duplex", end=False)
        busy.wait_for(lambda: running.body)
        with server.connect() as connection:
            assert server.get("/hello").status_code == 200  # accepted behind it
            server.kill(signal.SIGTERM)
            busy.wait_for(lambda: busy.goaways)
            sock = connection.sock
            if server.scheme == "https":
                sock = wrap(sock)
            with H2Client(sock) as late:
                stream = late.begin("GET", "/hello")
                assert late.read_response(stream).body == b"hello\n"
                late.wait_for(lambda: len(late.goaways) == 2)
                assert late.goaways == [(ALL_STREAMS, 0), (stream.id, 0)]
                late.read_to_the_end()
        busy.upload(running, b"")
        assert busy.read_response(running).has_ended
        busy.close()
        assert ends_soon(server)
        assert not complaints(server)


@pytest.mark.any_version
@pytest.mark.parametrize("sends", ["nothing", "a preface"])
def test_a_connection_that_is_made_at_the_very_end_and_says_nothing_does_not_hold_the_worker(
    serving: Serving, sends: str
) -> None:
    with (
        serving(options={"lame_duck": 0.0, "head_timeout": 60.0}) as server,
        connect_gunicorn(server) as busy,
    ):
        running = busy.begin("POST", "/duplex", end=False)
        busy.wait_for(lambda: running.body)
        with server.connect() as connection:
            assert server.get("/hello").status_code == 200
            if server.scheme == "https":
                # The handshake is begun, so that it is under way when the worker leaves.
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                tls = client_context(protocols=["h2"]).wrap_bio(incoming, outgoing)
                with pytest.raises(ssl.SSLWantReadError):
                    tls.do_handshake()
                connection.send(outgoing.read())
                server.kill(signal.SIGTERM)
                busy.wait_for(lambda: len(busy.goaways) == 2)
                while True:
                    try:
                        tls.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        incoming.write(connection.sock.recv(65536))
                connection.send(outgoing.read())
            else:
                server.kill(signal.SIGTERM)
                busy.wait_for(lambda: len(busy.goaways) == 2)
            if sends == "a preface":
                preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
                if server.scheme == "https":
                    tls.write(preface)
                    preface = outgoing.read()
                try:
                    connection.send(preface)
                except OSError:
                    assert server.scheme == "http"  # it was closed already, which is as good
            busy.upload(running, b"")
            assert busy.read_response(running).has_ended
            busy.close()
            assert ends_soon(server)


@pytest.mark.any_version
def test_a_large_response_is_whole_though_the_connection_ends_behind_it(
    tmp_path: Path, loop: str, certificate: Pair
) -> None:
    """For a client that takes its time, over TLS: the end of that takes two, and what the client says meanwhile is in its way."""
    size = 6_000_000
    with (
        Gunicorn.with_http2(
            tmp_path, asgi_loop=loop, graceful_timeout=60, **certificate._asdict()
        ) as server,
        connect_gunicorn(server, settings={SettingCodes.INITIAL_WINDOW_SIZE: 1_000_000}) as client,
    ):
        stream = client.begin("GET", f"/large?size={size}")
        client.open_window(2**30)
        client.open_window(2**30, stream)
        client.wait_for(lambda: stream.body)
        server.kill(signal.SIGTERM)
        while not stream.is_over:
            assert client.read_some(16384), len(stream.body)
            time.sleep(0.03)
        assert (stream.has_ended, len(stream.body)) == (True, size)
        client.close()
        assert ends_soon(server)
        assert not complaints(server)


def test_quit_ends_everything_at_once(serving: Serving) -> None:
    with serving() as server, connect_gunicorn(server) as client:
        running = client.begin("GET", "/stuck")
        client.wait_for(lambda: running.body == b"begun\n")
        server.kill(signal.SIGQUIT)
        client.read_to_the_end()
        assert ends_soon(server)
        assert not running.has_ended
        assert client.last_stream == running.id
        assert "cancelled" in server.events


def test_a_stream_that_does_not_end_is_cut_at_the_end_of_graceful_timeout(serving: Serving) -> None:
    with serving(graceful_timeout=3) as server, connect_gunicorn(server) as client:
        running = client.begin("GET", "/listening")
        stuck = client.begin("GET", "/stuck")
        client.wait_for(lambda: stuck.body and running.body)
        server.kill(signal.SIGTERM)
        assert client.read_response(running).body == b"begun\nended\n"  # it listens
        client.read_to_the_end()
        assert not stuck.has_ended
        assert server.wait() == 0
        assert server.lines(
            "1 responses were not complete, and 1 applications running, at the end of graceful_timeout"
        )


def test_hup_moves_clients_to_new_workers_with_the_new_configuration(serving: Serving) -> None:
    with serving() as server, connect_gunicorn(server) as client:
        first = client.get("GET", "/pid").body
        server.configure(raw_env=["NAME=value"])
        server.kill(signal.SIGHUP)
        client.read_to_the_end()
        assert client.goaways[-1] == (1, 0)
        server.wait_for("gunicorn_asgi .* on Gunicorn", 2)
        with connect_gunicorn(server) as another:
            assert another.get("GET", "/pid").body != first
            assert another.get("GET", "/environ?name=NAME").body == b"value"
        assert not complaints(server)


def test_max_requests_counts_streams_and_ends_connections_behind_theirs(serving: Serving) -> None:
    with serving(max_requests=5) as server, connect_gunicorn(server) as client:
        streams = [client.begin("GET", "/pid") for _ in range(5)]
        assert len({client.read_response(stream).body for stream in streams}) == 1
        client.wait_for(lambda: len(client.goaways) == 2)
        assert client.goaways == [(ALL_STREAMS, 0), (streams[-1].id, 0)]
        client.read_to_the_end()
        server.wait_for("Autorestarting worker")
        assert not complaints(server)


# Clients.

SIZE = 1_000_000


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """A file to upload."""
    path = tmp_path / "content"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(*command: str, **given: Any) -> str:
    """What a client has to say."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **given)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def curl(server: Gunicorn, *arguments: str) -> str:
    """Over TLS it chooses HTTP/2; without, it is told how to begin."""
    path = program("curl")
    if "HTTP2" not in run(path, "--version"):
        pytest.skip("this curl has no HTTP/2")
    return run(
        path,
        "--silent",
        "--show-error",
        "--fail",
        "--insecure",
        "--write-out",
        " %{http_version}\\n",
        *arguments,
    )


@pytest.mark.any_version
@pytest.mark.parametrize("begin", ["--http2", "--http2-prior-knowledge"])
def test_curl_gets_and_uploads(serving: Serving, content: Path, begin: str) -> None:
    with serving() as server:
        if server.scheme == "https" and begin == "--http2-prior-knowledge":
            pytest.skip("over TLS the handshake says it")
        assert curl(server, begin, f"{server.url}/hello").splitlines() == ["hello", " 2"]
        received = content.with_name("received")
        head = ["--data-binary", f"@{content}", "--output", str(received)]
        # In HTTP/1.1, a request with a body is not upgraded.
        expected = " 1.1" if server.scheme == "http" and begin == "--http2" else " 2"
        assert curl(server, begin, *head, f"{server.url}/echo").strip("\n") == expected
        assert received.read_bytes() == content.read_bytes()
        assert server.stop() == 0
        assert not complaints(server)


@pytest.mark.any_version
def test_curl_has_the_answer_that_comes_before_the_end_of_its_upload(
    serving: Serving, tmp_path: Path
) -> None:
    """RFC 9113, 8.1. curl 7.88 loses a response that comes together with the RST_STREAM that follows it."""
    # With a length, without one, and without a body: curl knows in different ways that a response is whole.
    # After a 2xx it goes on sending.
    refusals = [("hello?status=413", 6), ("chunks?status=401", 14), ("large?size=0&status=413", 0)]
    successes = [("chunks", 14), ("large?size=0", 0), ("hello", 6)]
    content = tmp_path / "content"
    with serving() as server:
        head = [
            "--http2" if server.scheme == "https" else "--http2-prior-knowledge",
            "--output",
            str(tmp_path / "received"),
        ]
        for size, upload in itertools.product(
            [66_000, 1_000_000, 20_000_000], ["--upload-file", "--data-binary"]
        ):
            content.write_bytes(bytes(size))
            how = [upload, str(content) if upload == "--upload-file" else f"@{content}"]
            asked = [(answer, []) for answer in refusals + successes]
            asked += [(answer, ["--header", "Expect:"]) for answer in (refusals[0], successes[2])]
            for (path, length), expect in asked:
                told = curl(
                    server,
                    *head,
                    *how,
                    *expect,
                    "--no-fail",
                    "--write-out",
                    "%{http_code} %{size_download}",
                    f"{server.url}/{path}",
                )
                assert told == f"{path.partition('status=')[2] or 200} {length}", (how, size, path)
        assert server.stop() == 0
        assert not complaints(server)


@pytest.mark.any_version
def test_curl_keeps_the_connection_after_an_answer_before_the_end_of_its_upload(
    tmp_path: Path, loop: str, certificate: Pair
) -> None:
    content = tmp_path / "content"
    content.write_bytes(bytes(1_000_000))
    with Gunicorn.with_http2(tmp_path, asgi_loop=loop, **certificate._asdict()) as server:
        common = [
            "--http2",
            "--silent",
            "--insecure",
            "--write-out",
            "%{http_code} %{num_connects}\\n",
        ]
        first = [
            "--output",
            str(tmp_path / "received"),
            "--upload-file",
            str(content),
            f"{server.url}/hello?status=401",
        ]
        second = ["--data-binary", "x", f"{server.url}/echo"]
        told = curl(server, *common, "--no-fail", *first, "--next", *common, *second)
        assert told == "401 1\nx200 0\n"
        assert server.stop() == 0
        assert not complaints(server)


@pytest.mark.any_version
def test_curl_has_many_streams_on_a_connection(
    tmp_path: Path, loop: str, certificate: Pair
) -> None:
    """Over TLS: with prior knowledge, curl 7.88 takes a connection for a second stream only to fail, whoever the server is."""
    with Gunicorn.with_http2(tmp_path, asgi_loop=loop, **certificate._asdict()) as server:
        told = curl(
            server, "--http2", "--parallel", "--parallel-max", "50", f"{server.url}/hello?[1-200]"
        )
        assert (told.count("hello\n"), told.count(" 2\n")) == (200, 200)
        assert not complaints(server)


@pytest.mark.any_version
def test_nghttp_gets_and_uploads(serving: Serving, content: Path) -> None:
    path = program("nghttp")
    with serving() as server:
        for begin in [[]] if server.scheme == "https" else [[], ["--upgrade"]]:
            assert run(path, *begin, f"{server.url}/hello") == "hello\n"
            assert run(path, *begin, "--no-dep", f"{server.url}/hello") == "hello\n"
            assert (
                run(path, *begin, "-m100", "--window-bits=8", f"{server.url}/large?size=100")
                == "x" * 100 * 100
            )
            told = run(
                path,
                *begin,
                "--stat",
                "--null-out",
                "--peer-max-concurrent-streams=10",
                "-m20",
                f"{server.url}/hello",
                f"{server.url}/pid",
            )
            assert told.count(" 200 ") == 40
        assert (
            run(path, "--null-out", "--stat", "-d", str(content), f"{server.url}/echo").count(
                " 200 "
            )
            == 1
        )
        assert server.stop() == 0
        assert not complaints(server)


@pytest.mark.any_version
def test_h2load_has_no_error(serving: Serving, content: Path) -> None:
    """16 connections with 8 streams each."""
    command = [program("h2load"), "-c", "16", "-m", "8"]
    content.write_bytes(bytes(2**20))
    upload = ["-d", str(content)]
    with serving(workers=2) as server:
        for count, path, body in (
            (2000, "/hello", []),
            (500, "/large?size=65536", []),
            (48, "/upload", upload),
        ):
            told = run(*command, "-n", str(count), *body, server.url + path)
            assert f"{count} succeeded, 0 failed, 0 errored, 0 timeout" in told, told
            assert f"status codes: {count} 2xx, 0 3xx, 0 4xx, 0 5xx" in told, told
        assert not complaints(server)


@pytest.mark.any_version
@pytest.mark.smoke
def test_httpx_has_many_streams_and_uploads(serving: Serving, content: Path) -> None:
    async def ask(server: Gunicorn) -> None:
        verify = client_context() if server.scheme == "https" else True
        # http1: without TLS it would begin with that.
        async with httpx.AsyncClient(
            http2=True,
            http1=server.scheme == "https",
            verify=verify,
            base_url=server.url,
            timeout=60,
        ) as client:
            answers = await asyncio.gather(*[client.get("/hello") for _ in range(150)])
            assert {
                (answer.status_code, answer.http_version, answer.text) for answer in answers
            } == {(200, "HTTP/2", "hello\n")}
            answers = await asyncio.gather(
                *[client.post("/echo", content=content.read_bytes()) for _ in range(5)]
            )
            assert {answer.content for answer in answers} == {content.read_bytes()}

    with serving() as server:
        asyncio.run(ask(server))
        assert not complaints(server)


NODE = """
const http2 = require('http2')
const fs = require('fs')
const [url, file] = process.argv.slice(1)
const content = fs.readFileSync(file)
const session = http2.connect(url, { rejectUnauthorized: false })
session.on('goaway', (code, last) => console.log('goaway', code, last))
session.on('close', () => console.log('closed'))
session.on('error', (error) => { console.log('session', error.message); process.exit(1) })
function ask(fields, body) {
  return new Promise((resolve, reject) => {
    const stream = session.request(fields)
    const parts = []
    stream.on('data', (part) => parts.push(part))
    stream.on('end', () => resolve(Buffer.concat(parts)))
    stream.on('error', reject)
    stream.end(body)
  })
}
async function main() {
  const many = await Promise.all([...Array(90).keys()].map(() => ask({ ':path': '/hello' })))
  console.log(new Set(many.map(String)).size, many.length)
  const same = await Promise.all([1, 2, 3].map(() => ask({ ':path': '/echo', ':method': 'POST' }, content)))
  console.log(same.every((each) => each.equals(content)))
  const last = ask({ ':path': '/slow?seconds=2' })
  console.log('waiting')
  console.log(String(await last).trim())
}
main().catch((error) => { console.log(error.message); process.exit(1) })
"""


@pytest.mark.any_version
def test_node_has_many_streams_and_uploads_and_hears_of_the_end(
    serving: Serving, content: Path
) -> None:
    command = [program("node"), "-e", NODE, "--"]
    with serving() as server:
        with subprocess.Popen(
            [*command, server.url, str(content)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as node:
            assert node.stdout is not None
            told = [node.stdout.readline().strip() for _ in range(3)]
            assert told == ["1 90", "true", "waiting"]
            server.wait_for_event("slow begun")
            server.kill(signal.SIGTERM)
            told = node.communicate(timeout=30)[0].split("\n")
            assert node.returncode == 0, told
        assert told[:1] == ["goaway 0 2147483647"]
        assert {"slow", "closed"} <= set(told)
        assert ends_soon(server)
        assert not complaints(server)


# Starting, and the log.


def test_the_boot_line_names_the_protocols(tmp_path: Path, certificate: Pair) -> None:
    table: list[tuple[dict[str, Any], str]] = [
        (certificate._asdict(), "h2, http/1.1 over TLS"),
        (
            {**certificate._asdict(), "http_protocols": "h1,h2", "http2_cleartext": "both"},
            "http/1.1, h2 over TLS",
        ),
        ({"http2_cleartext": "both"}, "http/1.1, h2c (both)"),
        ({"http2_cleartext": "prior-knowledge", "http_protocols": "h2"}, "h2c (prior-knowledge)"),
        ({}, "http/1.1"),
        ({"http2_cleartext": "both", "http_protocols": "h1"}, "http/1.1"),
    ]
    for number, (given, words) in enumerate(table):
        with Gunicorn.with_http2(tmp_path / str(number), **given) as server:
            assert server.wait_for(BOOT_LINE)[0].endswith(f"protocols {words}")
            # Half of what it needs has a warning: see test_settings_table.
            assert [
                line
                for line in complaints(server)
                if "HTTP/2 is not served" not in line or words != "http/1.1"
            ] == []


def test_a_client_that_selects_no_protocol_is_served_http_1_1(
    tmp_path: Path, certificate: Pair
) -> None:
    """As in Gunicorn, also where http_protocols is h2 alone."""
    with Gunicorn.with_http2(tmp_path, http_protocols="h2", **certificate._asdict()) as server:
        for offered in ([], ["http/1.1"]):
            with (
                server.connect() as connection,
                client_context(protocols=offered).wrap_socket(connection.sock) as sock,
            ):
                assert sock.selected_alpn_protocol() is None
                sock.sendall(b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                assert b"".join(iter(lambda: sock.recv(65536), b"")).endswith(b"hello\n")
        assert not complaints(server)


def test_an_upgrade_over_tls_is_ignored(tmp_path: Path, certificate: Pair) -> None:
    """RFC 9113, 3.2: h2c is not for TLS."""
    with Gunicorn.with_http2(tmp_path, http2_cleartext="both", **certificate._asdict()) as server:
        fields = {
            "Connection": "Upgrade, HTTP2-Settings",
            "Upgrade": "h2c",
            "HTTP2-Settings": "AAMAAABkAAQAAP__",
        }
        answer = server.get("/hello", headers=fields)
        assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")


def test_the_proxy_protocol_may_stand_before_tls(serving: Serving) -> None:
    on: Any = "auto" if GUNICORN_VERSION >= (24, 1) else True
    with serving(proxy_protocol=on) as server, server.connect() as connection:
        connection.send(b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n")
        sock = wrap(connection.sock) if server.scheme == "https" else connection.sock
        with H2Client(sock) as client:
            assert json.loads(client.get("GET", "/scope").body)["client"] == ["203.0.113.7", 4711]


def test_every_request_has_a_line_in_the_access_log(serving: Serving, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with (
        serving(accesslog=str(path), access_log_format="%(h)s %(r)s %(s)s %(B)s") as server,
        connect_gunicorn(server) as client,
    ):
        streams = [
            client.begin("GET", "/hello?1"),
            client.begin("GET", "/hello?status=404"),
            client.begin("POST", "/nothing"),
        ]
        for stream in streams:
            client.read_response(stream)
        gone = client.begin("GET", "/silent")
        server.wait_for_event("silent begun")
        gone.cancel()
        expected = {
            "127.0.0.1 GET /hello?1 HTTP/2.0 200 6",
            "127.0.0.1 GET /hello?status=404 HTTP/2.0 404 6",
            "127.0.0.1 POST /nothing HTTP/2.0 500 21",
            "127.0.0.1 GET /silent HTTP/2.0 499 0",
        }
        poll(lambda: len(path.read_text().splitlines()) >= 4, "the lines")
        assert set(path.read_text().splitlines()) == expected


def test_an_upgraded_request_has_one_line_in_the_access_log(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with Gunicorn.with_http2(
        tmp_path, http2_cleartext="both", accesslog=str(path), access_log_format="%(r)s %(s)s"
    ) as server:
        curl(server, "--http2", f"{server.url}/hello")
        poll(lambda: path.read_text() == "GET /hello HTTP/2.0 200\n", "the line")


def test_statsd_counts_streams(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(10)
        given = {
            "statsd_host": f"127.0.0.1:{statsd.getsockname()[1]}",
            "statsd_prefix": "test",
            **CLEARTEXT,
        }
        with Gunicorn.with_http2(tmp_path, **given) as server, connect_gunicorn(server) as client:
            for _ in range(3):
                assert client.get("GET", "/hello").status == 200
            packets: list[str] = []
            while len([packet for packet in packets if ".request.status." in packet]) < 3:
                packets.append(statsd.recv(2000).decode())
    assert sum(packet.startswith("test.gunicorn.requests:1|") for packet in packets) == 3
    assert sum(packet.startswith("test.gunicorn.request.status.200:1|") for packet in packets) == 3


def test_reload_starts_anew_over_a_connection_that_is_open(
    serving: Serving, tmp_path: Path
) -> None:
    source = tmp_path / "changing.py"
    text = "from main import respond, lifespan\n\nasync def app(scope, receive, send):\n    await (lifespan(scope, receive, send) if scope['type'] == 'lifespan' else respond(send, '{}'))\n"
    source.write_text(text.format("one"))
    with (
        serving(
            "changing:app", reload=True, pythonpath=f"{tmp_path},{APPS}", reload_engine="poll"
        ) as server,
        connect_gunicorn(server) as client,
    ):
        assert client.get().body == b"one"
        source.write_text(text.format("another"))
        client.read_to_the_end()
        assert client.goaways[-1] == (1, 0)
        server.wait_for(BOOT_LINE, 2)
        with connect_gunicorn(server) as another:
            assert another.get().body == b"another"


INVALID = [
    ({"http_protocols": "h3"}, "http_protocols"),
    ({"http_protocols": "h1,h1"}, "http_protocols"),
    ({"http2_cleartext": "sometimes"}, "http2_cleartext"),
    ({"http2_max_concurrent_streams": 0}, "http2_max_concurrent_streams"),
    ({"http2_max_concurrent_streams": 2**32}, "http2_max_concurrent_streams"),
    ({"http2_initial_window_size": 0}, "http2_initial_window_size"),
    ({"http2_initial_window_size": 2**31}, "http2_initial_window_size"),
    ({"http2_max_frame_size": 16383}, "http2_max_frame_size"),
    ({"http2_max_frame_size": 2**24}, "http2_max_frame_size"),
    ({"http2_max_header_list_size": 2**32}, "http2_max_header_list_size"),
]


@pytest.mark.parametrize(("given", "name"), INVALID, ids=str)
def test_a_setting_that_cannot_work_stops_the_boot_and_is_named(
    tmp_path: Path, given: dict[str, Any], name: str
) -> None:
    """By Gunicorn where it has the setting, and looks."""
    with Gunicorn.with_http2(tmp_path, wait=False, **{**CLEARTEXT, **given}) as server:
        assert server.wait(SOON) == 1
        assert name in server.log + server.output
        if server.log.strip():
            [line] = server.lines("ERROR")
            assert re.search(rf"Invalid value for (setting|option) {name}: .* must be .*\.$", line)
            assert "Traceback" not in server.output


HIDING = """
import sys

for name in ("hpack", "h2"):
    sys.modules[name] = None
"""


def test_a_missing_package_stops_the_boot_with_one_sentence(tmp_path: Path) -> None:
    with Gunicorn.with_http2(tmp_path, wait=False, config=HIDING, **CLEARTEXT) as server:
        server.wait()
        said = server.log + server.output
        assert re.search(
            r"Invalid value for setting http_protocols: h2 needs the hpack package; install gunicorn-asgi\[http2\]\.|gunicorn\[http2\]",
            said,
        ), said
        assert not server.lines("gunicorn_asgi .* on Gunicorn")


def test_an_option_that_gunicorn_has_a_setting_for_is_refused(tmp_path: Path) -> None:
    if "http_protocols" not in SETTINGS:
        pytest.skip("this Gunicorn has no http_protocols")
    with Gunicorn(tmp_path, options={"http_protocols": "h2"}, wait=False) as server:
        assert server.wait() == 1
        sentence = "Unknown option 'http_protocols' in Worker.configure(): http_protocols is a setting of Gunicorn, to be given as those are."
        assert server.lines("ERROR")[0].endswith(sentence)
