"""The only place that knows the keys of a scope.

See the ASGI specification: "HTTP Connection Scope", "Websocket Connection Scope", "Lifespan
Protocol: Scope", and the rules 18 to 41 and 76 to 81 in docs/asgi.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

from ..http.request import Request

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

Address = tuple[str, int | None]
"""(host, port), or (path, None) for a unix socket."""

SPEC_VERSION = "2.5"


class Site(Protocol):
    """A listening socket, as far as a scope tells of it."""

    scheme: str
    root_path: str
    raw_root_path: bytes


class Peer(Protocol):
    """A connection, as far as a scope tells of it."""

    client: Address | None
    server_address: Address | None
    tls: Mapping[str, Any] | None

    @property
    def listener(self) -> Site: ...


_HTTP_SCOPE: Scope = dict.fromkeys(
    (
        *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string"),
        *("root_path", "headers", "client", "server", "extensions"),
    )
)
"""The keys of a scope. A copy of it that is filled costs less than a new dict."""
_HTTP_SCOPE["type"] = "http"


def http_scope(
    request: Request, peer: Peer, state: Mapping[str, Any] | None, switched_off: Iterable[str]
) -> Scope:
    """The scope of one request. Every mutable part of it is this request's own.

    `switched_off` are the extensions that are not offered, though they would work.
    """
    method, path, raw_path, query_string, fields = request
    listener = peer.listener
    http_version, tls = fields.version, peer.tls
    root_path = fields.root_path
    if root_path is None:
        root_path = listener.root_path
        if root_path and path != "*":
            path, raw_path = root_path + path, listener.raw_root_path + raw_path
    scope = _HTTP_SCOPE.copy()
    scope["asgi"] = {"version": "3.0", "spec_version": SPEC_VERSION}
    scope["http_version"] = http_version
    scope["method"] = method
    scope["scheme"] = fields.scheme or listener.scheme
    scope["path"] = path
    scope["raw_path"] = raw_path
    scope["query_string"] = query_string
    scope["root_path"] = root_path
    scope["headers"] = fields.headers.copy()
    scope["client"] = fields.client or peer.client
    scope["server"] = peer.server_address
    # An extension is present if it works (docs/asgi.md, 16).
    scope["extensions"] = {
        "http.response.pathsend": {},
        "http.response.zerocopysend": {},
        "http.response.early_hint": {},
        "http.response.trailers": {},
    }
    if http_version == "1.0":
        del (
            scope["extensions"]["http.response.early_hint"],
            scope["extensions"]["http.response.trailers"],
        )
    for name in switched_off:
        scope["extensions"].pop(name, None)
    if tls is not None:
        scope["extensions"]["tls"] = {**tls, "client_cert_chain": list(tls["client_cert_chain"])}
    if state is not None:
        scope["state"] = dict(state)
    return scope


def websocket_scope(handshake: Scope, subprotocols: list[str]) -> Scope:
    """Return the scope of a WebSocket, made from the scope of its `handshake`."""
    scope = handshake | {
        "type": "websocket",
        "scheme": {"https": "wss"}.get(handshake["scheme"], "ws"),
        "subprotocols": subprotocols,
        "extensions": {"websocket.http.response": {}},
    }
    if "tls" in handshake["extensions"]:
        scope["extensions"]["tls"] = handshake["extensions"]["tls"]
    del scope["method"]
    return scope


def lifespan_scope(state: dict[str, Any]) -> Scope:
    """Return the scope of the lifespan. Its ``spec_version`` has a series of its own."""
    return {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
