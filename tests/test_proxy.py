"""Who may speak for the client (`gunicorn_asgi.proxy`), by Gunicorn's ``forwarded_allow_ips`` and its companions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from gunicorn.config import Config
from process import Gunicorn

from gunicorn_asgi.errors import ConfigError
from gunicorn_asgi.http1.h11_parser import parse_fields
from gunicorn_asgi.http1.request import Rules
from gunicorn_asgi.proxy import PeerRules, peer_rules
from gunicorn_asgi.settings import Settings

UNTRUSTED = Rules(
    parse_fields=parse_fields,
    limit_line=4094,
    limit_fields=100,
    limit_field_size=8190,
    header_map="drop",
    permit_unconventional_method=False,
    secure_scheme={},
    forwarder_names=frozenset(),
)


def rules_for(*allowed: str) -> PeerRules:
    settings = replace(Settings.read(Config(), {}, {}), forwarded_allow_ips=allowed)
    return peer_rules(UNTRUSTED, settings)


def is_trusted(rules: Rules) -> bool:
    return bool(rules.secure_scheme)


@pytest.mark.parametrize(
    ("allowed", "trusted", "untrusted"),
    [
        (["127.0.0.1", "::1"], ["127.0.0.1", "::1", "::ffff:127.0.0.1"], ["127.0.0.2", "::2", "10.0.0.1", "::ffff:10.0.0.1"]),
        (["10.0.0.0/8"], ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.0", "::1"]),
        (["10.1.2.3/8"], ["10.9.9.9"], ["11.0.0.0"]),
        (["fe80::/10"], ["fe80::1%eth0", "fe80::1"], ["::1", "127.0.0.1"]),
        (["*"], ["127.0.0.1", "8.8.8.8", "2001:db8::1"], []),
        (["10.0.0.1", "*"], ["8.8.8.8"], []),
        ([], [], ["127.0.0.1", "::1"]),
        (["", "10.0.0.1"], ["10.0.0.1"], ["127.0.0.1"]),
    ],
)
def test_a_peer_is_trusted_if_its_address_is_allowed(allowed: list[str], trusted: list[str], untrusted: list[str]) -> None:
    choose = rules_for(*allowed)
    assert [peer for peer in trusted if not is_trusted(choose(peer))] == []
    assert [peer for peer in untrusted if is_trusted(choose(peer))] == []


@pytest.mark.parametrize("allowed", [["127.0.0.1"], ["*"], []])
def test_a_peer_on_a_unix_socket_is_trusted_as_in_gunicorn(allowed: list[str]) -> None:
    assert is_trusted(rules_for(*allowed)(None))


def test_an_untrusted_peer_gets_the_rules_as_they_are_and_a_trusted_one_the_same_with_its_headers() -> None:
    choose = rules_for("10.0.0.1")
    assert choose("10.0.0.2") is UNTRUSTED
    trusted = choose("10.0.0.1")
    assert trusted.forwarder_names == {b"script_name", b"path_info"}
    assert replace(trusted, secure_scheme={}, forwarder_names=frozenset()) == UNTRUSTED


def test_what_cannot_be_an_address_is_refused_with_one_sentence() -> None:
    with pytest.raises(ConfigError) as caught:
        rules_for("127.0.0.1", "localhost")
    assert str(caught.value) == "Invalid value for setting forwarded_allow_ips: 'localhost' must be an address, a network or *."


# A running Gunicorn.

HTTPS = {"X-Forwarded-Proto": "https"}


def scheme(server: Gunicorn, headers: dict[str, str]) -> object:
    return server.get("/scope", headers=headers).json()["scheme"]


def test_a_trusted_proxy_says_the_scheme_of_its_client(tmp_path: Path) -> None:
    with Gunicorn(tmp_path) as server:
        assert scheme(server, HTTPS) == "https"
        assert scheme(server, {"X-Forwarded-Proto": "http"}) == "http"
        assert scheme(server, {"X-Forwarded-Ssl": "on"}) == "https"
        assert scheme(server, {}) == "http"
        assert server.get("/scope", headers={**HTTPS, "X-Forwarded-Ssl": "off"}).status_code == 400
        assert server.get("/scope", headers={"Script_Name": "/x"}).json()["headers"].count(["script_name", "/x"]) == 1
        assert "other_name" not in server.get("/scope", headers={"Other_Name": "x"}).text


def test_what_an_untrusted_peer_says_of_its_client_is_ignored(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, forwarded_allow_ips="10.0.0.1") as server:
        assert scheme(server, HTTPS) == "http"
        assert server.get("/scope", headers={**HTTPS, "X-Forwarded-Ssl": "off"}).status_code == 200
        assert "script_name" not in server.get("/scope", headers={"Script_Name": "/x"}).text


def test_a_proxy_on_a_unix_socket_is_trusted(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, bind=f"unix:{tmp_path}/socket", forwarded_allow_ips="10.0.0.1") as server:
        assert scheme(server, HTTPS) == "https"


def test_gunicorn_itself_refuses_what_cannot_be_an_address(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, wait=False, forwarded_allow_ips="localhost") as server:
        assert server.wait() == 1
        assert "'localhost' does not appear to be an IPv4 or IPv6" in server.output
