"""Who may speak for the client (`gunicorn_asgi.http.trust`), by Gunicorn's ``forwarded_allow_ips`` and its companions."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from gunicorn.config import Config
from inprocess import GET, Client, InProcess, mirror, request, serve
from nginx import NGINX, NGINX_CONF, is_listening
from process import DEADLINE, GUNICORN_VERSION, NOTE, Gunicorn, poll
from rules import UNTRUSTED, rules_for
from ways import serving

from gunicorn_asgi.errors import ConfigError, RequestError
from gunicorn_asgi.frozen import replace
from gunicorn_asgi.http.forwarded import NOTHING, ForwardedInfo
from gunicorn_asgi.http.request import Rules
from gunicorn_asgi.http1.request import read_head
from gunicorn_asgi.observe.record import Record, make_environ
from gunicorn_asgi.observe.request_wait import read_wait_us


def is_trusted(rules: Rules) -> bool:
    return bool(rules.secure_scheme)


@pytest.mark.parametrize(
    ("allowed", "trusted", "untrusted"),
    [
        (
            ["127.0.0.1", "::1"],
            ["127.0.0.1", "::1", "::ffff:127.0.0.1"],
            ["127.0.0.2", "::2", "10.0.0.1", "::ffff:10.0.0.1"],
        ),
        (["10.0.0.0/8"], ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.0", "::1"]),
        (["10.1.2.3/8"], ["10.9.9.9"], ["11.0.0.0"]),
        (["fe80::/10"], ["fe80::1%eth0", "fe80::1"], ["::1", "127.0.0.1"]),
        (["*"], ["127.0.0.1", "8.8.8.8", "2001:db8::1"], []),
        (["10.0.0.1", "*"], ["8.8.8.8"], []),
        ([], [], ["127.0.0.1", "::1"]),
        (["", "10.0.0.1"], ["10.0.0.1"], ["127.0.0.1"]),
    ],
)
def test_a_peer_is_trusted_if_its_address_is_allowed(
    allowed: list[str], trusted: list[str], untrusted: list[str]
) -> None:
    choose = rules_for(*allowed)
    assert [peer for peer in trusted if not is_trusted(choose(peer))] == []
    assert [peer for peer in untrusted if is_trusted(choose(peer))] == []


@pytest.mark.parametrize("allowed", [["127.0.0.1"], ["*"], []])
def test_a_peer_on_a_unix_socket_is_trusted_as_in_gunicorn(allowed: list[str]) -> None:
    assert is_trusted(rules_for(*allowed)(None))


def test_an_untrusted_peer_gets_the_rules_as_they_are_and_a_trusted_one_the_same_with_its_headers() -> (
    None
):
    choose = rules_for("10.0.0.1")
    assert choose("10.0.0.2") is UNTRUSTED
    trusted = choose("10.0.0.1")
    assert trusted.forwarder_names == {b"script_name", b"path_info"}
    without = replace(
        trusted,
        secure_scheme={},
        forwarder_names=frozenset(),
        takes_script_name=False,
        takes_request_start=False,
        read_proxy=None,
    )
    assert without.known_sections is not UNTRUSTED.known_sections
    assert {**vars(without), "known_sections": None} == {**vars(UNTRUSTED), "known_sections": None}


def test_what_cannot_be_an_address_is_refused_with_one_sentence() -> None:
    with pytest.raises(ConfigError) as caught:
        rules_for("127.0.0.1", "localhost")
    assert (
        str(caught.value)
        == "Invalid value for setting forwarded_allow_ips: 'localhost' must be an address, a network or *."
    )


# What becomes of the client.

PROXY = "127.0.0.1"
"""The peer of the tests."""


def client_of(server: InProcess, *fields: bytes) -> Any:
    """The client that the application is told, or the status of a refusal; "peer" for the peer of the connection."""
    client = server.connect()
    client.send(request("GET", "/", *fields))
    response = client.read_response()
    if response.status != 200:
        server.log.take("warning")
        return response.status
    told = ast.literal_eval(response.body.decode())["client"]
    return "peer" if told == client.sock.getsockname() else told


FORWARDED_FOR = b"X-Forwarded-For: 198.51.100.7, 192.0.2.1:4711, 10.9.9.9"
FORWARDED = b'Forwarded: for=198.51.100.7, for="192.0.2.1:4711", for=10.9.9.9'


@pytest.mark.parametrize(
    ("allowed", "client"),
    [
        (PROXY, ("10.9.9.9", 0)),
        (f"{PROXY},10.9.9.9", ("192.0.2.1", 4711)),
        (f"{PROXY},10.9.9.9,192.0.2.1", ("198.51.100.7", 0)),
        (f"{PROXY},10.9.9.9,192.0.2.1,198.51.100.7", ("198.51.100.7", 0)),
        ("*", ("198.51.100.7", 0)),
        ("10.9.9.9", "peer"),
        ("", "peer"),
    ],
)
@pytest.mark.parametrize(
    ("option", "field"), [("x-forwarded", FORWARDED_FOR), ("forwarded", FORWARDED)]
)
def test_a_trusted_proxy_says_who_its_client_is(
    parser: str, option: str, field: bytes, allowed: str, client: Any
) -> None:
    with serve(mirror, parser, proxy_headers=option, forwarded_allow_ips=allowed) as server:
        assert client_of(server, field) == client
        assert client_of(server) == "peer"


@pytest.mark.skipif(GUNICORN_VERSION < (24, 1), reason="Gunicorn itself refuses networks")
def test_networks_of_proxies_are_trusted(parser: str) -> None:
    with serve(
        mirror, parser, forwarded_allow_ips="127.0.0.0/8,10.0.0.0/8,2001:db8::/32"
    ) as server:
        assert client_of(server, FORWARDED_FOR) == ("192.0.2.1", 4711)
        assert client_of(
            server, b"X-Forwarded-For: 192.0.2.1, [2001:db8::7]:443, ::ffff:10.1.1.1"
        ) == ("192.0.2.1", 0)


def test_a_proxy_on_a_unix_socket_says_who_its_client_is(parser: str, tmp_path: Path) -> None:
    with serve(mirror, parser, bind=f"{tmp_path}/socket", forwarded_allow_ips="") as server:
        assert client_of(server, FORWARDED_FOR) == ("10.9.9.9", 0)
        assert client_of(server) is None


@pytest.mark.parametrize(
    ("option", "fields", "client"),
    [
        ("x-forwarded", (FORWARDED,), "peer"),
        ("forwarded", (FORWARDED_FOR,), "peer"),
        ("off", (FORWARDED_FOR, FORWARDED), "peer"),
        ("x-forwarded", (b"X-Forwarded-For: 192.0.2.1, unknown",), "peer"),
        ("x-forwarded", (b"X-Forwarded-For:",), "peer"),
        ("x-forwarded", (b"X_Forwarded_For: 192.0.2.1",), "peer"),
        (
            "x-forwarded",
            (b"X-Forwarded-For: 192.0.2.2", b"Via: x", b"X-Forwarded-For: 192.0.2.1"),
            ("192.0.2.1", 0),
        ),
        ("forwarded", (b"Forwarded: for=192.0.2.2", b"forwarded: for=192.0.2.1"), ("192.0.2.1", 0)),
        ("forwarded", (b"Forwarded: for=192.0.2.1;",), ("192.0.2.1", 0)),
        ("forwarded", (b"Forwarded: for=unknown",), "peer"),
        ("forwarded", (b"Forwarded: 192.0.2.1",), 400),
        ("x-forwarded", (b"Forwarded: 192.0.2.1",), "peer"),
    ],
)
def test_the_option_says_which_header_counts(
    parser: str, option: str, fields: tuple[bytes, ...], client: Any
) -> None:
    with serve(mirror, parser, proxy_headers=option) as server:
        assert client_of(server, *fields) == client


def test_a_malformed_forwarded_of_an_untrusted_peer_is_no_fault(parser: str) -> None:
    with serve(mirror, parser, proxy_headers="forwarded", forwarded_allow_ips="10.0.0.1") as server:
        assert client_of(server, b"Forwarded: 192.0.2.1") == "peer"


def scope_of(client: Client, target: str, *fields: bytes, method: str = "GET") -> Any:
    """The scope that the application is given, or the status of a refusal."""
    client.send(request(method, target, *fields))
    response = client.read_response()
    return ast.literal_eval(response.body.decode()) if response.status == 200 else response.status


def test_on_one_connection_every_request_has_its_own_client(parser: str) -> None:
    """And equal requests have equal ones, though they share what was read."""
    with serve(mirror, parser) as server:
        client = server.connect()
        peer = client.sock.getsockname()
        for value, expected in [
            (b"192.0.2.1", "192.0.2.1"),
            (b"192.0.2.1", "192.0.2.1"),
            (b"192.0.2.2", "192.0.2.2"),
            (b"", peer[0]),
        ]:
            assert scope_of(client, "/", b"X-Forwarded-For: " + value)["client"][0] == expected
        assert scope_of(client, "/")["client"] == peer
        assert scope_of(client, "http://b/", b"X-Forwarded-For: 192.0.2.1")["client"] == (
            "192.0.2.1",
            0,
        )


def test_equal_requests_are_read_once() -> None:
    calls = 0

    def read_proxy(headers: Sequence[tuple[bytes, bytes]]) -> ForwardedInfo:
        nonlocal calls
        calls += 1
        return NOTHING

    rules = replace(UNTRUSTED, read_proxy=read_proxy)
    head = request("GET", "/", b"X-Forwarded-For: 192.0.2.1")
    fields = read_head(head, None, rules)[-1]
    for target in (b"/", b"/a", b"/?b"):
        assert read_head(head.replace(b"/", target, 1), fields, rules)[-1] is fields
    assert calls == 1


def test_a_request_without_the_headers_of_a_proxy_is_not_searched_for_them() -> None:
    def read_proxy(headers: Sequence[tuple[bytes, bytes]]) -> ForwardedInfo:
        raise AssertionError(headers)

    assert read_head(GET, None, replace(UNTRUSTED, read_proxy=read_proxy))[-1].client is None


@pytest.mark.parametrize(
    ("fields", "scheme"),
    [
        ((b"Forwarded: for=192.0.2.1;proto=https",), "https"),
        (
            (
                b"Forwarded: for=192.0.2.1;proto=https",
                b"X-Forwarded-Proto: https",
                b"X-Forwarded-Ssl: on",
            ),
            "https",
        ),
        ((b"Forwarded: for=192.0.2.1;proto=http", b"X-Forwarded-Proto: http"), "http"),
        ((b"Forwarded: for=192.0.2.1;proto=https", b"X-Forwarded-Proto: http"), 400),
        ((b"Forwarded: for=192.0.2.1;proto=http", b"X-Forwarded-Ssl: on"), 400),
        ((b"Forwarded: for=192.0.2.1", b"X-Forwarded-Proto: https"), "https"),
        ((b"X-Forwarded-Proto: https",), "https"),
        ((), "http"),
    ],
)
def test_forwarded_is_one_more_scheme_header(
    parser: str, fields: tuple[bytes, ...], scheme: str | int
) -> None:
    with serve(mirror, parser, proxy_headers="forwarded") as server:
        scope = scope_of(server.connect(), "/", *fields)
        assert scope == 400 if scheme == 400 else scope["scheme"] == scheme
        server.log.take("warning")
    with serve(mirror, parser, proxy_headers="forwarded", forwarded_allow_ips="10.0.0.1") as server:
        assert scope_of(server.connect(), "/", *fields)["scheme"] == "http"
    with serve(mirror, parser, proxy_headers="forwarded", secure_scheme_headers={}) as server:
        told = fields[0].partition(b"proto=")[2].decode() if fields else ""
        assert scope_of(server.connect(), "/", *fields)["scheme"] == (told or "http")


def test_without_the_option_the_scheme_is_still_gunicorns(parser: str) -> None:
    with serve(mirror, parser, proxy_headers="off") as server:
        assert scope_of(server.connect(), "/", b"X-Forwarded-Proto: https")["scheme"] == "https"


# SCRIPT_NAME.


@pytest.mark.parametrize(
    ("script_name", "target", "expected"),
    [
        (b"/app", "/app", ("/app", "/app", b"/app")),
        (b"/app", "/app/x%20y?q", ("/app", "/app/x y", b"/app/x%20y")),
        (b"/app/", "/app/x", ("/app", "/app/x", b"/app/x")),
        (b"/", "/app/x", ("", "/app/x", b"/app/x")),
        (b"", "/app/x", ("", "/app/x", b"/app/x")),
        (b"/a%2Fb/%C3%A9", "/a%2Fb/%C3%A9/x", ("/a/b/\xe9", "/a/b/\xe9/x", b"/a%2Fb/%C3%A9/x")),
        (b"/app", "http://b/app/x", ("/app", "/app/x", b"/app/x")),
        (b"/app", "/application", ("/app", "/application", b"/application")),  # as in Gunicorn
        (b"/app", "/", 500),
        (b"/app", "/other", 500),
        (b"/app", "/%61pp", 500),
        (b"/app/", "/app", 500),
        (b"/app", "http://b", 500),
        (b"app", "/app", 500),
        (b"/\xc3\xa9", "/%C3%A9", 500),
    ],
)
@pytest.mark.parametrize("root_path", ["", "/root"])
def test_a_trusted_script_name_is_the_root_path(
    parser: str, script_name: bytes, target: str, expected: Any, root_path: str
) -> None:
    """What is received begins with it, as Gunicorn demands, so nothing is put before. The setting root_path stands back."""
    settings = {"root_path": root_path} if "root_path" in Config().settings else {}
    with serve(mirror, parser, **settings) as server:
        client = server.connect()
        scope = scope_of(client, target, b"Script_Name: " + script_name)
        if isinstance(expected, int):
            assert scope == expected
            (line,) = server.log.take("warning")
            assert line.text.startswith(
                "Invalid request from ip=127.0.0.1: The path does not begin with SCRIPT_NAME '"
            )
        else:
            assert (scope["root_path"], scope["path"], scope["raw_path"]) == expected
            assert (b"script_name", script_name) in scope["headers"]
            # The next one has none.
            prefix = root_path if settings else ""
            scope = scope_of(client, "/other")
            assert (scope["root_path"], scope["path"], scope["raw_path"]) == (
                prefix,
                prefix + "/other",
                prefix.encode() + b"/other",
            )


@pytest.mark.skipif("root_path" not in Config().settings, reason="this Gunicorn has no root_path")
@pytest.mark.parametrize("way", ["1.1", "unix", "h2"])
def test_root_path_is_the_beginning_of_the_path_on_every_way(parser: str, way: str) -> None:
    """`path` is always what `raw_path` says, whether or not the setting was percent-encoded."""
    for root_path in ("a b", "/a%20b/"):
        with serving(mirror, parser, way, root_path=root_path) as asked:
            scope = ast.literal_eval(asked.fetch(path="/c").body.decode())
            assert (scope["root_path"], scope["path"]) == ("/a b", "/a b/c")
            assert scope["raw_path"] == b"/a%20b/c"


@pytest.mark.parametrize(
    "settings",
    [
        {"forwarded_allow_ips": "10.0.0.1"},
        {"forwarded_allow_ips": "10.0.0.1", "header_map": "dangerous"},
        {"forwarder_headers": ""},
        {"forwarder_headers": "PATH_INFO"},
        {"proxy_headers": "off"},
    ],
    ids=str,
)
def test_a_script_name_that_nobody_vouches_for_does_nothing(
    parser: str, settings: dict[str, str]
) -> None:
    with serve(mirror, parser, **settings) as server:
        scope = scope_of(server.connect(), "/other", b"Script_Name: /app", b"Script-Name: /app")
        assert (scope["root_path"], scope["path"]) == ("", "/other")


def test_the_last_script_name_of_several_counts_and_an_asterisk_is_no_path(parser: str) -> None:
    with serve(mirror, parser) as server:
        client = server.connect()
        assert (
            scope_of(client, "/app/x", b"Script_Name: /nope", b"Script_Name: /app")["root_path"]
            == "/app"
        )
        for target in ("*", "http://b"):
            scope = scope_of(client, target, b"Script_Name: /app", method="OPTIONS")
            assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/app", "*", b"*")


@pytest.mark.gunicorn
def test_script_name_of_the_environment_holds_for_everybody(tmp_path: Path) -> None:
    """As for Gunicorn's WSGI workers; a trusted header stands in its place."""
    env = {"SCRIPT_NAME": "/app"}
    with Gunicorn(tmp_path, env=env) as server:
        assert server.get("/app/scope").json()["root_path"] == "/app"
        assert server.get("/app/scope").json()["path"] == "/app/scope"
        assert server.get("/scope").status_code == 500
        assert server.get("/x/scope", headers={"Script_Name": "/x"}).json()["root_path"] == "/x"
        assert server.get("/x/scope", headers={"Script_Name": ""}).json()["root_path"] == ""
    with Gunicorn(
        tmp_path / "2", raw_env=["SCRIPT_NAME=/app"], forwarded_allow_ips="10.0.0.1"
    ) as server:
        assert server.get("/app/scope", headers={"Script_Name": "/x"}).json()["root_path"] == "/app"


# Beside Gunicorn's own workers.

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "trusted": {},
    "trusted, names refused": {"header_map": "refuse", "forwarder_headers": "SCRIPT_NAME,X_A"},
    "trusted, names passed": {"header_map": "dangerous", "forwarder_headers": ""},
    "trusted, every name its own": {"header_map": "refuse", "forwarder_headers": "*"},
    "trusted, other schemes": {
        "secure_scheme_headers": {"X-SCHEME": "tls", "X_SECURE": "1"},
        "forwarder_headers": "X_A",
    },
    "trusted, no schemes": {"secure_scheme_headers": {}, "forwarded_allow_ips": "*"},
    "untrusted": {"forwarded_allow_ips": "10.0.0.1"},
    "untrusted, names refused": {
        "forwarded_allow_ips": "",
        "header_map": "refuse",
        "forwarder_headers": "*",
    },
    "untrusted, names passed": {"forwarded_allow_ips": "10.0.0.1", "header_map": "dangerous"},
}
# Values in another case, and lists that all agree, are left out: Gunicorn takes them for http.
ODD_FIELDS: list[tuple[bytes, ...]] = [
    (),
    (b"X-Forwarded-Proto: https",),
    (b"x-forwarded-proto:https",),
    (b"X-Forwarded-Proto:  \thttps \t",),
    (b"X-Forwarded-Proto: https,http",),
    (b"X-Forwarded-Proto:",),
    (b"X-Forwarded-Proto: wss",),
    (b"X-Forwarded-Proto: https", b"X-Forwarded-Proto: https"),
    (b"X-Forwarded-Proto: https", b"X-Forwarded-Proto: http"),
    (b"X-Forwarded-Proto: https", b"X-Forwarded-Proto:"),
    (b"X-Forwarded-Proto: http", b"X-Forwarded-Ssl: off"),
    (b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: off"),
    (b"X-Forwarded-Protocol: ssl", b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: on"),
    (b"X_Forwarded_Proto: https",),
    (b"X_Forwarded_Proto: https", b"X-Forwarded-Proto: http"),
    (b"X-Scheme: tls",),
    (b"X_Secure: 1",),
    (b"X_Secure: 1", b"X-Scheme: none"),
    (b"X-Forwarded-For: 192.0.2.1", b"X_Forwarded_For: 192.0.2.2"),
    (b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-For: 192.0.2.2"),
    (b"X_A: 1",),
    (b"x_a: 1", b"X_a: 2"),
    (b"X_A: 1", b"X-A: 2"),
    (b"X-A: 1", b"X_B: 2"),
    (b"_: 1",),
    (b"Remote_User: root",),
    (b"Forwarded: for=192.0.2.1;proto=https",),
]
SCRIPT_NAMES = [
    ("/app/x%20y", (b"Script_Name: /app",)),
    ("/app", (b"SCRIPT_NAME: /app", b"PATH_INFO: /other")),
    ("/application", (b"Script_Name: /app",)),
    ("/app/x", (b"Script_Name: /app/",)),
    ("/app", (b"Script_Name: /",)),
    ("/app", (b"Script_Name:",)),
    ("/app", (b"Script_Name: /other",)),
    ("/app", (b"Script_Name: /other", b"Script_Name: /app")),
    ("/app", (b"Script_Name: /app", b"Script_Name: /other")),
    ("/app", (b"Script-Name: /app",)),
    ("/a%2Fb/c", (b"Script_Name: /a%2Fb",)),
    ("/a/b", (b"Script_Name: /%61",)),
    ("http://a/app/x?q", (b"Script_Name: /app",)),
]
REQUESTS = [("/a%2Fb?q", fields) for fields in ODD_FIELDS] + SCRIPT_NAMES
Answer = tuple[int, dict[str, str]]


def ask_gunicorn(server: Gunicorn, data: bytes) -> Answer:
    with server.connect() as client:
        client.send(data)
        status, _, body = client.read_response()
    environ = json.loads(body) if status == 200 else {}
    assert environ.pop("REMOTE_ADDR", PROXY) == PROXY  # whatever X-Forwarded-For says
    return status, environ


def ask_us(rules: Rules, data: bytes) -> Answer:
    try:
        method, _, raw_path, query, fields = read_head(data, None, rules)
    except RequestError as error:
        return error.status, {}
    record = Record(
        method,
        raw_path,
        query,
        fields.version,
        fields.scheme or "http",
        fields.headers,
        None,
        None,
        fields.script_name,
    )
    names = ("PATH_INFO", "SCRIPT_NAME", "wsgi.url_scheme")
    return 200, {
        name: value
        for name, value in make_environ(record).items()
        if name.startswith("HTTP_") or name in names
    }


def ask_application(client: Client, data: bytes) -> Any:
    client.send(data)
    response = client.read_response()
    return ast.literal_eval(response.body.decode()) if response.status == 200 else None


@pytest.mark.gunicorn
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_trust_is_gunicorns_own(name: str, parser: str, tmp_path: Path) -> None:
    """Status, scheme and passed headers, and SCRIPT_NAME as far as the peer is trusted, are those of a WSGI worker."""
    given = CONFIGURATIONS[name]
    worker = Gunicorn(tmp_path, "wsgi_environ:app", worker_class="gthread", wait=False, **given)
    with worker as gunicorn, serve(mirror, parser, **given) as server:
        gunicorn.wait_for("Listening at: ")
        rules = server.server.rules_for((PROXY, 40000), None)
        for target, fields in REQUESTS:
            data = request("GET", target, b"Connection: close", *fields)
            status, environ = ask_gunicorn(gunicorn, data)
            if name == "untrusted, names passed" and any(
                field.lower().startswith(b"script_name") for field in fields
            ):
                continue  # Gunicorn believes it; we believe no untrusted peer
            assert ask_us(rules, data) == (status, environ), fields
            scope = ask_application(server.connect(), data)
            assert (scope is not None) == (status == 200)
            if scope is not None:
                assert scope["scheme"] == environ["wsgi.url_scheme"]
                assert scope["root_path"] == unquote(environ["SCRIPT_NAME"]).rstrip("/")
                assert scope["path"] == unquote(environ["SCRIPT_NAME"]) + environ["PATH_INFO"]
        server.log.take("warning")


# A running Gunicorn.

HTTPS = {"X-Forwarded-Proto": "https"}


def scheme(server: Gunicorn, headers: dict[str, str]) -> object:
    return server.get("/scope", headers=headers).json()["scheme"]


@pytest.mark.gunicorn
def test_a_trusted_proxy_says_the_scheme_of_its_client(tmp_path: Path) -> None:
    with Gunicorn(tmp_path) as server:
        assert scheme(server, HTTPS) == "https"
        assert scheme(server, {"X-Forwarded-Proto": "http"}) == "http"
        assert scheme(server, {"X-Forwarded-Ssl": "on"}) == "https"
        assert scheme(server, {}) == "http"
        assert server.get("/scope", headers={**HTTPS, "X-Forwarded-Ssl": "off"}).status_code == 400
        assert (
            server.get("/x/scope", headers={"Script_Name": "/x"})
            .json()["headers"]
            .count(["script_name", "/x"])
            == 1
        )
        assert "other_name" not in server.get("/scope", headers={"Other_Name": "x"}).text


@pytest.mark.gunicorn
def test_a_trusted_proxy_says_the_address_of_its_client_and_the_log_keeps_the_peers(
    tmp_path: Path,
) -> None:
    access_log = tmp_path / "access.log"
    atoms = (
        "%(h)s %({remote_addr}e)s %({x-forwarded-for}i)s %({script_name}e)s %({path_info}e)s %(U)s"
    )
    hook = "def pre_request(worker, req):\n    note(req.remote_addr[0])\n"
    with Gunicorn(
        tmp_path, accesslog=str(access_log), access_log_format=atoms, config=NOTE + hook
    ) as server:
        scope = server.get(
            "/app/scope", headers={"X-Forwarded-For": "192.0.2.1", "Script_Name": "/app"}
        ).json()
        assert scope["client"] == ["192.0.2.1", 0]
        assert scope["root_path"] == "/app"
        assert server.get("/scope", headers={"Script_Name": "/app"}).status_code == 500
        assert server.stop() == 0
        assert server.lines(
            "Invalid request from ip=127.0.0.1: The path does not begin with SCRIPT_NAME '/app'"
        )
        assert "127.0.0.1" in server.events
    assert (
        access_log.read_text().splitlines()[0] == "127.0.0.1 127.0.0.1 192.0.2.1 /app /scope /scope"
    )


@pytest.mark.gunicorn
def test_what_an_untrusted_peer_says_of_its_client_is_ignored(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, forwarded_allow_ips="10.0.0.1") as server:
        assert scheme(server, HTTPS) == "http"
        assert (
            server.get("/scope", headers={"X-Forwarded-For": "192.0.2.1"}).json()["client"][0]
            == "127.0.0.1"
        )
        assert server.get("/scope", headers={**HTTPS, "X-Forwarded-Ssl": "off"}).status_code == 200
        assert "script_name" not in server.get("/scope", headers={"Script_Name": "/x"}).text


@pytest.mark.gunicorn
def test_a_proxy_on_a_unix_socket_is_trusted(tmp_path: Path) -> None:
    with Gunicorn(
        tmp_path, bind=f"unix:{tmp_path}/socket", forwarded_allow_ips="10.0.0.1"
    ) as server:
        assert scheme(server, HTTPS) == "https"
        assert server.get("/scope", headers={"X-Forwarded-For": "192.0.2.1"}).json()["client"] == [
            "192.0.2.1",
            0,
        ]


@pytest.mark.gunicorn
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_the_nginx_of_the_documentation_lets_no_client_say_who_it_is(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "proxies.md").read_text()
    (location,) = re.findall(r"```nginx\n(location.*?)```", text, re.DOTALL)
    below = location.replace("location /", "location /app/").replace(
        "}", "proxy_set_header SCRIPT_NAME /app; }"
    )
    conf = tmp_path / "nginx.conf"
    forged = {
        "X-Forwarded-For": "198.51.100.7",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Protocol": "ssl",
        "X-Forwarded-Ssl": "on",
        "X-Forwarded-Host": "evil",
        "Forwarded": "for=198.51.100.7;proto=https",
        "SCRIPT_NAME": "/forged",
        "X-Request-Start": "t=1",
    }
    with Gunicorn(tmp_path, options={"forwarded_host": True}) as server:
        # Over TCP, for nginx is nobody where root starts it, and has no way into this directory.
        text = NGINX_CONF.format(directory=tmp_path, location=location, below=below)
        conf.write_text(text.replace("http://unix:/run/app.sock", server.url))
        nginx = subprocess.Popen(
            [str(NGINX), "-p", str(tmp_path), "-c", str(conf)], stderr=subprocess.DEVNULL
        )
        try:
            poll(lambda: is_listening(f"{tmp_path}/nginx.socket"), "nginx")
            transport = httpx.HTTPTransport(uds=f"{tmp_path}/nginx.socket")
            with httpx.Client(
                transport=transport, base_url="http://example.org", timeout=DEADLINE
            ) as client:
                scope = client.get("/scope", headers=forged).json()
                # nginx says "unix:" of a client on a unix socket, which is no address.
                assert ["x-forwarded-for", "198.51.100.7, unix:"] in scope["headers"]
                assert (scope["scheme"], scope["root_path"]) == ("http", "")
                assert scope["client"][0] == "127.0.0.1"
                assert ["host", "example.org"] in scope["headers"]
                [started] = [value for name, value in scope["headers"] if name == "x-request-start"]
                waited = read_wait_us(started.encode(), time.time())
                assert waited is not None
                assert waited < DEADLINE * 1_000_000
                scope = client.get("/app/scope", headers=forged).json()
                assert (scope["root_path"], scope["path"]) == ("/app", "/app/scope")
        finally:
            nginx.terminate()
            nginx.wait(DEADLINE)


@pytest.mark.gunicorn
def test_gunicorn_itself_refuses_what_cannot_be_an_address(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, wait=False, forwarded_allow_ips="localhost") as server:
        assert server.wait() == 1
        assert "'localhost' does not appear to be an IPv4 or IPv6" in server.output
