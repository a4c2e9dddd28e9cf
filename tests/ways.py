"""The ways of a response: every version of HTTP, with TLS and without, on TCP and a unix socket.

Over HTTP/2 the client is `h2client`, so that the h2 package checks the frames.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from certificates import Pair, make_authority
from h2.settings import SettingCodes
from h2client import connect
from inprocess import HTTP2, InProcess, Truncated, request, serve

WAYS = ["1.1", "1.0", "unix", "tls", "h2", "h2-tls"]
WINDOW = 1 << 24
OPEN_WIDE: dict[str, Any] = {
    "settings": {SettingCodes.INITIAL_WINDOW_SIZE: WINDOW},
    "connection_window": WINDOW,
}
SHUT: dict[str, Any] = {"settings": {SettingCodes.INITIAL_WINDOW_SIZE: 1000}}
"""For `Way.connect` over HTTP/2: a client with wide windows, and a client with narrow windows."""


@cache
def certificate() -> Pair:
    return make_authority(Path(tempfile.mkdtemp()), "localhost")


def server_context(pair: Pair | None = None) -> ssl.SSLContext:
    """A TLS context like the worker's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*(pair or certificate()))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@dataclass
class Answer:
    """A response on any of the WAYS."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    hints: list[tuple[int, list[tuple[bytes, bytes]]]] = field(default_factory=list)
    """The 1xx responses before it."""
    trailers: list[tuple[bytes, bytes]] | None = None
    is_whole: bool = False

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]


class Way:
    """A server, and the way of its responses."""

    def __init__(self, name: str, server: InProcess) -> None:
        self.name = name
        self.server = server
        self.is_h2 = name.startswith("h2")
        self.version = "1.0" if name == "1.0" else "1.1"

    def connect(self, **how: Any) -> Any:
        """A connection ready for requests. `how`: as the client of this way takes it."""
        if self.is_h2:
            return connect(self.server, **{"tls": self.name == "h2-tls", **OPEN_WIDE, **how})
        client = self.server.connect(**how)
        if self.name == "tls":
            client.start_tls()
        return client

    def ask(self, client: Any, method: str = "GET", *fields: bytes, path: str = "/") -> Answer:
        """One exchange on the connection `client`."""
        if self.is_h2:
            pairs = [
                (name.lower(), value.strip())
                for name, value in (line.split(b":", 1) for line in fields)
            ]
            stream = client.get(method, path, *pairs)
            return Answer(
                stream.status,
                stream.headers,
                stream.body,
                stream.informed,
                stream.trailers,
                stream.has_ended,
            )
        client.send(request(method, path, *fields, version=self.version))
        answer = Answer()
        try:
            response = client.read_response(method)
            while response.status < 200:
                answer.hints.append((response.status, response.headers))
                response = client.read_response(method)
            answer.is_whole = True
        except Truncated as error:
            response = error.response
        except ConnectionResetError:
            return answer
        answer.status, answer.headers, answer.body = (
            response.status,
            response.headers,
            response.body,
        )
        return answer

    def fetch(self, method: str = "GET", *fields: bytes, path: str = "/") -> Answer:
        """One exchange on a new connection."""
        client = self.connect()
        try:
            return self.ask(client, method, *fields, path=path)
        finally:
            client.close()


@contextmanager
def serving(app: Any, parser: str, way: str, **settings: Any) -> Iterator[Way]:
    """Serve `app` on this way."""
    with ExitStack() as stack:
        if way == "unix":
            settings["bind"] = stack.enter_context(tempfile.TemporaryDirectory()) + "/socket"
        if way in ("tls", "h2-tls"):
            settings.setdefault("tls", server_context())
        if way.startswith("h2"):
            settings = {**HTTP2, **settings}
        yield Way(way, stack.enter_context(serve(app, parser, **settings)))


def descriptors() -> Counter[str]:
    """The open files and sockets of this process, without the pipes of libuv."""
    found: Counter[str] = Counter()
    # By `os`: the descriptor of a Path's listing would be open, too.
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        if target.startswith(("/", "socket:")):
            found[target.partition(":")[0]] += 1
    return found
