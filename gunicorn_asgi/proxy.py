"""Who may speak for the client: trusted peers, and what they are trusted with (Gunicorn's ``forwarded_allow_ips``)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from .errors import ConfigError
from .http1.request import Rules
from .settings import Settings

PeerRules = Callable[[str | None], Rules]


def peer_rules(rules: Rules, settings: Settings) -> PeerRules:
    """Returns a function from a peer's address (None: a unix socket) to what its requests may look like.

    As in Gunicorn, a peer on a unix socket is trusted, and what an untrusted one says of its client is ignored. Raises ConfigError.
    """
    trusted = replace(rules, secure_scheme=settings.secure_scheme_headers, forwarder_names=settings.forwarder_headers)
    if "*" in settings.forwarded_allow_ips:
        return lambda address: trusted
    networks = [_network(text) for text in settings.forwarded_allow_ips if text]

    @lru_cache(maxsize=1024)
    def choose(address: str | None) -> Rules:
        if address is None:
            return trusted
        peer = ipaddress.ip_address(address.partition("%")[0])
        if (
            isinstance(peer, ipaddress.IPv6Address)
            and peer.ipv4_mapped is not None
            and any(peer.ipv4_mapped in network for network in networks)
        ):
            return trusted
        return trusted if any(peer in network for network in networks) else rules

    return choose


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(f"Invalid value for setting forwarded_allow_ips: {text!r} must be an address, a network or *.") from None
