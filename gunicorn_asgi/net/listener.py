"""A listening socket, as its connections see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..asgi.scope import Address
from ..http.request import decode_path

if TYPE_CHECKING:
    from gunicorn.sock import BaseSocket


class Listener:
    """The facts that all connections of one listening socket share."""

    def __init__(self, sock: BaseSocket, scheme: str, root_path: str) -> None:
        self.sock = sock
        self.scheme = scheme
        self.raw_root_path = root_path.encode()
        self.root_path = decode_path(self.raw_root_path)
        self.address = _fixed_address(sock.sock.getsockname())
        """The server address of every connection; None where the socket is bound to a wildcard."""


def _fixed_address(name: Any) -> Address | None:
    if isinstance(name, bytes):
        name = name.decode("utf-8", "surrogateescape")
    if isinstance(name, str):
        return name, None  # docs/asgi.md, 37: the path of a unix socket
    return None if name[0] in ("0.0.0.0", "::") else (name[0], name[1])  # noqa: S104 # compared, not bound


def read_address(name: Any) -> Address | None:
    """The host and port in the kernel's name of one end; None for a unix socket."""
    return (name[0], name[1]) if isinstance(name, tuple) else None
