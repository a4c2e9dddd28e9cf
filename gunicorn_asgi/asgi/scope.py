"""The only place that knows the keys of a scope (ASGI statements 3 to 5, 18 to 41, 76 to 81, 105, 117 and 154)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from ..http.contract import Header

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

Address = tuple[str, int | None]
"""(host, port), or (path, None) of a unix socket."""

SPEC_VERSION = "2.5"


def http_scope(
    http_version: str,
    method: str,
    scheme: str,
    path: str,
    raw_path: bytes,
    query_string: bytes,
    root_path: str,
    headers: list[Header],
    client: Address | None,
    server: Address | None,
    state: Mapping[str, Any] | None,
    tls: Mapping[str, Any] | None = None,
    switched_off: Iterable[str] = (),
) -> Scope:
    """The scope of one request. Every mutable part of it is this request's own (statement 18).

    `switched_off` are the extensions that are not offered, though they would work.
    """
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": SPEC_VERSION},
        "http_version": http_version,
        "method": method,
        "scheme": scheme,
        "path": path,
        "raw_path": raw_path,
        "query_string": query_string,
        "root_path": root_path,
        "headers": headers,
        "client": client,
        "server": server,
        # Statement 16: each is there exactly where it works.
        "extensions": {
            "http.response.pathsend": {},
            "http.response.zerocopysend": {},
            "http.response.early_hint": {},
            "http.response.trailers": {},
        },
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
    """The scope of a WebSocket (statements 76 to 81 and 117), made of the one of its handshake."""
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
    """The scope of the lifespan, whose versions are a series of their own (statement 155)."""
    return {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
