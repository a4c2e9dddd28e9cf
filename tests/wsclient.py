"""WebSocket clients of a running Gunicorn: the websockets package's, and the raw one of `ws`."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import pytest
import ws
from inprocess import Client
from process import DEADLINE, Gunicorn, trusting_context
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync import client

HANDSHAKE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {ws.KEY.decode()}\r\n"
)


def connect(
    server: Gunicorn, path: str, headers: dict[str, str] | None = None, **arguments: Any
) -> AbstractContextManager[Any]:
    """Connect like a browser. The end of the ``with`` block closes the connection.

    `arguments`: as ``websockets.sync.client.connect`` takes them.
    """
    sock = server.connect().sock
    sock.settimeout(None)  # the client's thread reads without a limit of time
    arguments.update(additional_headers=headers, open_timeout=DEADLINE, close_timeout=DEADLINE)
    if isinstance(server.address, str):
        return client.unix_connect(uri=f"ws://localhost{path}", sock=sock, **arguments)
    host, port = server.address
    if server.scheme == "https":
        context = trusting_context()
        # The client reads in a thread. With TLS 1.3 this thread may read session tickets while
        # the request is written. OpenSSL forbids both at once: sometimes the request is not sent.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return client.connect(f"wss://{host}:{port}{path}", sock=sock, ssl=context, **arguments)
    return client.connect(f"ws://{host}:{port}{path}", sock=sock, **arguments)


def exchange(connection: Any, message: str | bytes) -> str | bytes:
    """Send a message. Returns the next message of the server."""
    connection.send(message)
    answer: str | bytes = connection.recv(DEADLINE)
    return answer


def read_close(connection: Any) -> tuple[int, str]:
    """Read messages until the server's Close frame. Returns its code and reason.

    The code is 1006 where the connection ends without a Close frame.
    """
    while True:
        try:
            connection.recv(DEADLINE)
        except ConnectionClosed as error:
            return (1006, "") if error.rcvd is None else (error.rcvd.code, error.rcvd.reason)


def read_refusal(
    server: Gunicorn, path: str, headers: dict[str, str] | None = None, **arguments: Any
) -> Any:
    """Connect. Returns the response of the denial: `status_code`, `headers`, `body`."""
    with pytest.raises(InvalidStatus) as caught, connect(server, path, headers, **arguments):
        pass
    return caught.value.response


@contextmanager
def connect_raw(server: Gunicorn, path: str) -> Iterator[ws.WebSocket]:
    """A WebSocket without automatic answers. The end of the block closes the socket."""
    with closing(Client(server.address)) as connection:
        connection.sock.settimeout(DEADLINE)
        connection.send(ws.handshake(target=path))
        yield ws.accepted(connection)
