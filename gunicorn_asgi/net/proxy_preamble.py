"""The PROXY protocol's header, read off the socket before TLS and HTTP see it."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..asgi.scope import Address
from ..config.settings import Settings
from ..errors import RequestError
from ..http.forwarded import Node
from ..observe.log import Log
from ..observe.printable import printable
from .proxy_protocol import MAX_V2, NO_HEADER, ProxyHeader, read_proxy_header


class PreambleHost(Protocol):
    """The server, as far as reading a preamble needs it."""

    settings: Settings
    log: Log
    loop: asyncio.AbstractEventLoop
    trusts_proxy: Callable[[str | None], bool]


class ProxyPreamble(NamedTuple):
    """The facts about a connection that the PROXY protocol's header gives."""

    client: Node | None
    """None for the peer itself."""
    server: Node | None
    data: bytes
    """Data of the request: it had to be read to see that it is no header."""
    error: RequestError | None
    """The reason to refuse the connection."""
    seconds: float
    """Time that reading it took: the head of the first request has as much less."""


async def read_preamble(
    sock: socket.socket, peer: Address | None, server: PreambleHost, is_tls: bool
) -> ProxyPreamble:
    """Read the header at the start of `sock`, if there is one, within ``head_timeout``.

    As in Gunicorn, connections with and without a header are served (``proxy_protocol``: "Allow
    using HTTP and PROXY together"). A malformed header is refused, and so is one from a peer
    outside ``proxy_allow_ips``. Raises OSError if the connection is to be closed without an answer.
    """
    header, data, error = NO_HEADER, b"", None
    timeout = server.settings.head_timeout_s
    began = server.loop.time()
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
        # The client, which expects TLS, would not understand an answer.
        sock.close()
        reason = printable(str(error)) if error else "neither TLS nor the PROXY protocol"
        server.log.warning("Invalid request from ip=%s: %s", peer[0] if peer else "", reason)
        raise ConnectionAbortedError(str(error))
    seconds = server.loop.time() - began
    return (
        ProxyPreamble(None, None, b"", error, seconds)
        if error
        else ProxyPreamble(header.client, header.server, data, None, seconds)
    )


async def _read_header(sock: socket.socket, server: PreambleHost) -> tuple[ProxyHeader, bytes]:
    """Take the header off the socket, or return NO_HEADER and the data that was taken to see that.

    Raises ValueError for a malformed header.
    """
    data, mode = b"", server.settings.proxy_protocol
    assert mode != "off"
    while True:
        # Only peek: the data after the header is for TLS, or for the parser.
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
