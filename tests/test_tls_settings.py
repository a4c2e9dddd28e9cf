"""Gunicorn's TLS settings in a running Gunicorn: what a client needs to be served, and what it is offered.

What TLS does to serving, and a context that cannot be made, are in tests/test_worker.py.
"""

from __future__ import annotations

import re
import signal
import ssl
from pathlib import Path
from typing import Any

import pytest
from certificates import Pair, client_context, make_authority, sign
from process import LOOPS, Connection, Gunicorn, wait_until_gone

pytestmark = pytest.mark.gunicorn


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class People:
    """Whose certificates there are."""

    def __init__(self, directory: Path) -> None:
        self.authority = make_authority(directory, "authority")
        self.server = make_authority(directory, "server")
        self.other_server = make_authority(directory, "other-server")
        self.friend = sign(directory, "friend", self.authority)
        self.stranger = sign(directory, "stranger", make_authority(directory, "stranger-authority"))

    @property
    def settings(self) -> dict[str, Any]:
        return self.server._asdict()


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    return People(tmp_path_factory.mktemp("certificates"))


def is_served(server: Gunicorn, context: ssl.SSLContext) -> bool:
    """Whether a client with this context gets an answer, and not a byte of one otherwise."""
    with server.connect() as raw:
        try:
            with context.wrap_socket(raw.sock) as sock:
                secure = Connection(sock)
                secure.get("/hello", "Connection: close\r\n")
                answer = secure.read_all()
        # In TLS 1.3 the client is done with its handshake before the server has seen its certificate.
        except (ssl.SSLError, ConnectionError):
            return False
        assert answer == b"" or answer.endswith(b"\r\n\r\nhello\n")
        return answer != b""


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"]
)
@pytest.mark.parametrize(
    ("cert_reqs", "without"),
    [(ssl.CERT_REQUIRED, False), (ssl.CERT_OPTIONAL, True), (ssl.CERT_NONE, True)],
)
def test_a_client_needs_the_certificate_that_cert_reqs_says(
    tmp_path: Path,
    loop: str,
    people: People,
    cert_reqs: int,
    without: bool,
    version: ssl.TLSVersion,
) -> None:
    settings = {
        **people.settings,
        "ca_certs": people.authority.certfile,
        "cert_reqs": int(cert_reqs),
    }

    def context(pair: Pair | None = None) -> ssl.SSLContext:
        context = client_context(pair)
        context.maximum_version = version
        return context

    with Gunicorn(tmp_path, asgi_loop=loop, **settings) as server:
        assert is_served(server, context(people.friend))
        assert is_served(server, context()) == without
        # One that nobody asks for is not looked at.
        assert is_served(server, context(people.stranger)) == (cert_reqs == ssl.CERT_NONE)
        assert is_served(server, context(people.friend))
        assert server.stop() == 0
        assert not server.lines("WARNING|ERROR|Traceback")


def test_a_client_must_offer_one_of_the_ciphers(tmp_path: Path, loop: str, people: People) -> None:
    with Gunicorn(
        tmp_path, asgi_loop=loop, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256", **people.settings
    ) as server:

        def offering(cipher: str) -> ssl.SSLContext:
            context = client_context()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(cipher)
            return context

        assert is_served(server, offering("ECDHE-ECDSA-AES128-GCM-SHA256"))
        assert not is_served(server, offering("ECDHE-ECDSA-AES256-GCM-SHA384"))
        assert server.stop() == 0
        assert not server.lines("WARNING|ERROR|Traceback")


def test_ciphers_that_are_none_stop_the_boot(tmp_path: Path, people: People) -> None:
    with Gunicorn(tmp_path, wait=False, ciphers="NONSENSE", **people.settings) as server:
        assert server.wait() == 1
        assert server.lines(
            r"\[ERROR\] Invalid value for setting ciphers: 'NONSENSE' names no cipher that OpenSSL has\.$"
        )
        assert not server.lines("Traceback|Booting worker")


def test_the_ssl_context_hook_decides_over_the_version(
    tmp_path: Path, loop: str, people: People
) -> None:
    config = """
def ssl_context(config, default):
    import ssl
    context = default()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
"""
    with Gunicorn(tmp_path, asgi_loop=loop, config=config, **people.settings) as server:
        old = client_context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert not is_served(server, old)
        assert is_served(server, client_context())


def test_the_ssl_context_hook_may_do_without_the_files(tmp_path: Path, people: People) -> None:
    """Then one of them only says that there is TLS, and it may as well be the key."""
    config = f"""
def ssl_context(config, default):
    import ssl
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain({people.server.certfile!r}, config.keyfile)
    return context
"""
    with Gunicorn(tmp_path, config=config, keyfile=people.server.keyfile) as server:
        assert is_served(server, client_context())


def test_certificate_and_key_may_be_one_file(tmp_path: Path, people: People) -> None:
    both = tmp_path / "both.pem"
    both.write_text(
        Path(people.server.keyfile).read_text() + Path(people.server.certfile).read_text()
    )
    with Gunicorn(tmp_path, certfile=str(both)) as server:
        assert is_served(server, client_context())


def test_http_1_1_is_chosen_whatever_else_a_client_offers(
    tmp_path: Path, loop: str, people: People
) -> None:
    with Gunicorn(tmp_path, asgi_loop=loop, **people.settings) as server:
        context = client_context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with server.connect() as raw, context.wrap_socket(raw.sock) as sock:
            assert sock.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize(
    ("protocols", "chosen"),
    [("h2,h1", "h2"), ("h1,h2", "http/1.1"), ("h2", "h2"), ("h1", "http/1.1")],
)
def test_the_order_of_http_protocols_is_that_of_preference(
    tmp_path: Path, people: People, protocols: str, chosen: str
) -> None:
    with Gunicorn.with_http2(tmp_path, http_protocols=protocols, **people.settings) as server:
        context = client_context()
        context.set_alpn_protocols(["http/1.1", "h2"])
        with server.connect() as raw, context.wrap_socket(raw.sock) as sock:
            assert sock.selected_alpn_protocol() == chosen


@pytest.mark.smoke
def test_a_new_certificate_is_shown_after_a_hup(tmp_path: Path, loop: str, people: People) -> None:
    files = Pair(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))

    def install(pair: Pair) -> None:
        for source, target in zip(pair, files, strict=True):
            Path(target).write_text(Path(source).read_text())

    def shown(server: Gunicorn) -> str:
        return re.sub(r"\s", "", ssl.get_server_certificate(server.address))

    install(people.server)
    with Gunicorn(tmp_path, asgi_loop=loop, **files._asdict()) as server:
        assert shown(server) == re.sub(r"\s", "", Path(people.server.certfile).read_text())
        [first] = server.workers()
        install(people.other_server)
        server.kill(signal.SIGHUP)
        wait_until_gone(first)
        assert shown(server) == re.sub(r"\s", "", Path(people.other_server.certfile).read_text())
