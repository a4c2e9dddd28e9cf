"""Who may speak for the client: trusted peers, and what they are trusted with (Gunicorn's ``forwarded_allow_ips``)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial

from ..asgi.scope import Address
from ..config.settings import Settings
from ..errors import ConfigError
from .forwarded import FORWARDED_READERS
from .request import Rules

IsTrustedPeer = Callable[[str | None], bool]
"""From a peer's address (None: a unix socket)."""
PeerRules = Callable[[Address | None, Address | None], Rules]
"""From a peer (None: a unix socket), and from the client that it speaks for in the PROXY protocol (None: for nobody)."""


def trusted_peers(allowed: Sequence[str], setting: str) -> IsTrustedPeer:
    """Returns a function that says whether a peer is one of `allowed`: addresses, networks, ``*``.

    As in Gunicorn, a peer on a unix socket always is. Raises ConfigError, which names the `setting`.
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


def peer_rules(rules: Rules, settings: Settings) -> PeerRules:
    """Returns a function from a peer to what its requests may look like.

    What an untrusted peer says of its client is ignored, as in Gunicorn. With the PROXY protocol, as in Gunicorn, it is still the peer that is
    trusted or not, for it may have added to the request; but if the client in its header is no trusted proxy, that is the last word on the client.
    Raises ConfigError.
    """
    is_trusted = trusted_peers(settings.forwarded_allow_ips, "forwarded_allow_ips")
    reader = FORWARDED_READERS.get(settings.proxy_headers)
    trusted = replace(
        rules,
        secure_scheme=settings.secure_scheme_headers,
        forwarder_names=settings.forwarder_headers,
        h2c=settings.http2_cleartext,
        takes_script_name=reader is not None,
        read_proxy=partial(reader, is_trusted) if reader else None,
    )
    trusted_for_connection = replace(trusted, read_proxy=None)

    def rules_for(peer: Address | None, proxied: Address | None) -> Rules:
        if not is_trusted(peer[0] if peer else None):
            return rules
        return trusted if proxied is None or is_trusted(proxied[0]) else trusted_for_connection

    return rules_for


def _network(text: str, setting: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(
            f"Invalid value for setting {setting}: {text!r} must be an address, a network or *."
        ) from None
