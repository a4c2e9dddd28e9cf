"""The rules by which requests are read, for tests of the pure readers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gunicorn.config import Config

from gunicorn_asgi.config.settings import Settings
from gunicorn_asgi.frozen import replace
from gunicorn_asgi.http.request import Rules
from gunicorn_asgi.http.trust import peer_rules
from gunicorn_asgi.http1 import parser as parsers
from gunicorn_asgi.http1.field_lines import FieldLines


def make_rules(parser: str = "h11", **changes: Any) -> Rules:
    rules = Rules(
        field_lines=FieldLines(parsers.load(parser)),
        limit_line=4094,
        limit_fields=100,
        limit_field_size=8190,
        header_map="drop",
        permit_unconventional_method=False,
        secure_scheme={},
        forwarder_names=frozenset(),
    )
    return replace(rules, **changes)


SECURE = {b"x-forwarded-proto": b"https", b"x-forwarded-ssl": b"on"}


UNTRUSTED = make_rules()


def rules_for(*allowed: str) -> Callable[[str | None], Rules]:
    settings = replace(Settings.read(Config(), {}, {}), forwarded_allow_ips=allowed)
    choose = peer_rules(UNTRUSTED, settings)
    return lambda address: choose(address and (address, 40000), None)
