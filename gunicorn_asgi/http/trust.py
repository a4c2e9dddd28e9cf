"""Trusted peers, and the headers that count from them (Gunicorn's ``forwarded_allow_ips``)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Literal

from ..asgi.scope import Address
from ..config.settings import Settings
from ..errors import ConfigError
from ..frozen import replace
from .forwarded import FORWARDED_READERS
from .request import MAX_LINE, FieldReader, Rules

IsTrustedPeer = Callable[[str | None], bool]
"""Takes a peer's address, or None for a unix socket."""
PeerRules = Callable[[Address | None, Address | None], Rules]
"""Takes a peer, or None for a unix socket; and the client in its PROXY protocol header, or None."""


def trusted_peers(allowed: Sequence[str], setting: str) -> IsTrustedPeer:
    """Return a function that is true for peers in `allowed`: addresses, networks, ``*``.

    As in Gunicorn, it is true for every peer on a unix socket. Raises ConfigError, which names the
    `setting`.
    """
    if "*" in allowed:
        return lambda address: True
    networks = [_network(text, setting) for text in allowed if text]

    @lru_cache(maxsize=1024)
    def is_trusted(address: str | None) -> bool:
        if address is None:
            return True
        peer = ipaddress.ip_address(address.partition("%")[0])
        mapped = peer.ipv4_mapped if isinstance(peer, ipaddress.IPv6Address) else None
        return any(
            peer in network or (mapped is not None and mapped in network) for network in networks
        )

    return is_trusted


def make_rules(settings: Settings, field_lines: FieldReader | None = None) -> Rules:
    """The rules for requests of a peer that is not trusted.

    `field_lines`: the reader of field lines, for connections of HTTP/1.x.
    """
    return Rules(
        field_lines=field_lines,  # type: ignore[arg-type]  # only HTTP/1.x has a use for it
        limit_line=settings.limit_request_line or MAX_LINE,
        limit_fields=settings.limit_request_fields,
        limit_field_size=settings.limit_request_field_size,
        header_map=settings.header_map,
        permit_unconventional_method=settings.permit_unconventional_http_method,
        secure_scheme={},
        forwarder_names=frozenset(),
        script_name=settings.script_name,
        health_path=settings.health_path,
    )


def peer_rules(rules: Rules, settings: Settings) -> PeerRules:
    """Return a function from a peer to the rules for its requests. Raises ConfigError.

    As in Gunicorn, headers about the client are ignored from an untrusted peer. With the PROXY
    protocol the peer still decides, since it may have added headers. But if the client in the
    PROXY header is not a trusted proxy itself, no header changes the client's address or its host,
    and none says when its request began: that client may have written them.
    """
    is_trusted = trusted_peers(settings.forwarded_allow_ips, "forwarded_allow_ips")
    reader = FORWARDED_READERS.get(settings.proxy_headers)
    trusted = replace(
        rules,
        secure_scheme=settings.secure_scheme_headers,
        forwarder_names=settings.forwarder_headers,
        h2c=settings.http2_cleartext,
        takes_script_name=reader is not None,
        takes_request_start=True,
        read_proxy=partial(reader, is_trusted) if reader else None,
        host_name=_host_name(settings),
        has_lists=settings.forwarded_lists,
    )
    trusted_for_connection = replace(
        trusted, read_proxy=None, host_name=b"", takes_request_start=False
    )

    def rules_for(peer: Address | None, proxied: Address | None) -> Rules:
        if not is_trusted(peer[0] if peer else None):
            return rules
        return trusted if proxied is None or is_trusted(proxied[0]) else trusted_for_connection

    return rules_for


def _host_name(settings: Settings) -> Literal[b"", b"x-forwarded-host", b"forwarded"]:
    if not settings.forwarded_host:
        return b""
    return b"forwarded" if settings.proxy_headers == "forwarded" else b"x-forwarded-host"


def _network(text: str, setting: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(
            f"Invalid value for setting {setting}: {text!r} must be an address, a network or *."
        ) from None
