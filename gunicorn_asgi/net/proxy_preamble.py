"""What a proxy says before the connection proper begins: the PROXY protocol, read off the socket before TLS and HTTP see it."""

from __future__ import annotations

import asyncio
import math
import socket
from typing import TYPE_CHECKING, NamedTuple

from ..errors import RequestError
from ..http.forwarded import Node
from ..observe.printable import printable
from .proxy_protocol import MAX_V2, NO_HEADER, ProxyHeader, read_proxy_header

if TYPE_CHECKING:
    from ..asgi.scope import Address
    from ..server import Server


class Introduction(NamedTuple):
    """What is known of a connection before its first byte."""

    client: Node | None
    """None: the peer itself."""
    server: Node | None
    data: bytes
    """Of the request: what had to be read to see that it is no header."""
    error: RequestError | None
    """Why it is refused."""


async def read_introduction(
    sock: socket.socket, peer: Address | None, server: Server, is_tls: bool
) -> Introduction:
    """Wait for the header that `sock` begins with, if it begins with one, within the time for a request's head.

    As in Gunicorn, both with and without it are served (``proxy_protocol``: "Allow using HTTP and PROXY together"), but a malformed one and
    one from a peer outside ``proxy_allow_ips`` are not. Raises OSError if the connection is to be closed without an answer.
    """
    header, data, error = NO_HEADER, b"", None
    timeout = server.settings.head_timeout_s
    try:
        header, data = await asyncio.wait_for(
            _read_header(sock, server), None if timeout == math.inf else timeout
        )
    except asyncio.TimeoutError:
        sock.close()
        raise TimeoutError("nothing that could be a PROXY protocol header came in time") from None
    except (OSError, asyncio.CancelledError):
        sock.close()
        raise
    except ValueError as malformed:
        error = RequestError(400, str(malformed))
    if header.length and not server.trusts_proxy(peer[0] if peer else None):
        error = RequestError(403, "PROXY protocol: the peer is not in proxy_allow_ips")
    if is_tls and (error or data):
        # Nothing that could be said would be understood.
        sock.close()
        reason = printable(str(error)) if error else "neither TLS nor the PROXY protocol"
        server.log.warning("Invalid request from ip=%s: %s", peer[0] if peer else "", reason)
        raise ConnectionAbortedError(str(error))
    return (
        Introduction(None, None, b"", error)
        if error
        else Introduction(header.client, header.server, data, None)
    )


async def _read_header(sock: socket.socket, server: Server) -> tuple[ProxyHeader, bytes]:
    """The header, taken off the socket, or NO_HEADER and what had to be taken off to see that. Raises ValueError for a malformed one."""
    data, mode = b"", server.settings.proxy_protocol
    assert mode != "off"
    while True:
        # Only looked at: what follows the header is for TLS, or for the parser.
        part = await _peek(sock, server.loop)
        header = read_proxy_header(data + part, mode)
        if header is not None and header.length:
            sock.recv(header.length - len(data))
            return header, b""
        if header is not None:
            return header, data
        if not part:
            raise ConnectionAbortedError("closed within the PROXY protocol's header")
        data += sock.recv(len(part))


async def _peek(sock: socket.socket, loop: asyncio.AbstractEventLoop) -> bytes:
    while True:
        try:
            return sock.recv(MAX_V2, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            pass
        readable = loop.create_future()
        loop.add_reader(sock.fileno(), _set, readable)
        try:
            await readable
        finally:
            loop.remove_reader(sock.fileno())


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
