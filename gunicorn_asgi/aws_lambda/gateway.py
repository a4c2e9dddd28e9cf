"""Pure: the gateway of an event, in place of a connection and its listening socket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..asgi.scope import Address
from ..http.request import Rules, decode_path


class Site:
    """The gateway of an event, in place of a listening socket: see `asgi.scope.Site`."""

    def __init__(self, root_path: str) -> None:
        self.scheme = "https"
        self.raw_root_path = root_path.encode()
        self.root_path = decode_path(self.raw_root_path)


class Gateway:
    """The peer of an event's client, in place of a connection: see `http.exchange.LoggedPeer`."""

    def __init__(
        self, listener: Site, client: Address | None, server: Address | None, rules: Rules
    ) -> None:
        self.listener = listener
        self.client = client
        self.server_address = server
        self.rules = rules
        self.tls: Mapping[str, Any] | None = None
