"""Gunicorn's TLS settings in a running Gunicorn: what a client needs to be served, and what it is offered.

What TLS does to serving, and a context that cannot be made, are in tests/test_worker.py.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import ssl
import tempfile
from pathlib import Path
from typing import Any

import pytest
from certificates import Pair, client_context, encrypt, make_authority, sign
from process import LOOPS, PRELOADED, Connection, Gunicorn, poll, wait_until_gone

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
def test_new_certificates_keys_and_passwords_count_at_a_hup_and_open_connections_go_on(
    tmp_path: Path, loop: str, people: People
) -> None:
    files = Pair(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    password = tmp_path / "password"

    def install(pair: Pair, new_password: str) -> None:
        encrypted = encrypt(tmp_path, "encrypted", pair, new_password)
        for source, target in zip(encrypted, files, strict=True):
            Path(target).write_text(Path(source).read_text())
        password.write_text(f"{new_password}\n")

    def shown(server: Gunicorn) -> str:
        return re.sub(r"\s", "", ssl.get_server_certificate(server.address))

    def text_of(pair: Pair) -> str:
        return re.sub(r"\s", "", Path(pair.certfile).read_text())

    install(people.server, "sesame")
    options = {"tls_key_password_file": str(password)}
    with Gunicorn(tmp_path, asgi_loop=loop, options=options, **files._asdict()) as server:
        assert shown(server) == text_of(people.server)
        [first] = server.workers()
        with server.connect() as raw, client_context().wrap_socket(raw.sock) as sock:
            open_before = Connection(sock)
            open_before.get("/slow?seconds=2")
            server.wait_for_event("slow begun")
            install(people.other_server, "barley")
            server.kill(signal.SIGHUP)
            # The old worker hands over within a moment.
            poll(lambda: shown(server) == text_of(people.other_server), "the new certificate")
            assert open_before.read_response()[2] == b"slow\n"
        wait_until_gone(first)

        # Files that do not fit together: the new workers say so, and never that they serve.
        password.write_text("sesame\n")
        server.kill(signal.SIGHUP)
        server.wait_for(r"could not replace another")
        assert server.lines(
            r"\[ERROR\] Invalid value for setting keyfile: '\S+' cannot be decrypted by the password of the option "
            r"tls_key_password_file\.$"
        )
        assert shown(server) == text_of(people.other_server)
        install(people.server, "wheat")
        server.kill(signal.SIGHUP)
        poll(lambda: shown(server) == text_of(people.server), "the mended certificate")
        assert server.stop() == 0
        assert not server.lines("Traceback")
        assert not re.search("sesame|barley|wheat", server.log + server.output)


def test_a_key_without_its_password_stops_the_boot_and_asks_nobody(
    tmp_path: Path, people: People
) -> None:
    """On a terminal, too, where OpenSSL would ask, and wait for ever."""
    settings = encrypt(tmp_path, "encrypted", people.server, "sesame")._asdict()
    terminal, its_end = pty.openpty()
    hook = "\ndef ssl_context(config, default):\n    return default()\n"
    # The first terminal that the leader of a session opens is its own.
    launcher = f"import os; os.open({os.ttyname(its_end)!r}, os.O_RDWR)"
    try:
        for number, config in enumerate(("", hook)):
            with Gunicorn(
                tmp_path / str(number), wait=False, config=config, launcher=launcher, **settings
            ) as server:
                assert server.wait() == (3 if config else 1)
                assert server.lines(
                    r"\[ERROR\] Invalid value for setting keyfile: '\S+' holds an encrypted key: give its password by "
                )
    finally:
        os.close(terminal)
        os.close(its_end)


def test_the_password_may_come_from_the_environment_which_the_application_sees(
    tmp_path: Path, people: People
) -> None:
    settings = encrypt(tmp_path, "encrypted", people.server, "sesame")._asdict()
    with Gunicorn(tmp_path, env={"GUNICORN_ASGI_TLS_KEY_PASSWORD": "sesame"}, **settings) as server:
        assert is_served(server, client_context())
        assert server.stop() == 0
        assert "sesame" not in server.log + server.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_user_of_the_workers_needs_to_read_the_key(people: People) -> None:
    """The workers read it after they have become this user; the master has only tried it, as root."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        pair = Pair(f"{name}/cert.pem", f"{name}/key.pem")
        for source, target in zip(people.server, pair, strict=True):
            Path(target).write_text(Path(source).read_text())
            Path(target).chmod(0o644)
        settings: dict[str, Any] = {
            "user": 65534,
            # The code may be root's.
            "config": PRELOADED,
            "env": {"TEST_EVENTS": os.devnull},
        }
        with Gunicorn(directory, **settings, **pair._asdict()) as server:
            assert is_served(server, client_context())
            Path(pair.keyfile).chmod(0o600)
            server.kill(signal.SIGHUP)
            server.wait_for("could not replace another")
            assert server.lines(
                r"\[ERROR\] Invalid value for setting keyfile: '\S+' cannot be read: Permission denied\.$"
            )
