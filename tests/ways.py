"""The ways on which a response can go: the same exchange over every version of HTTP, with TLS and without, on TCP and on a unix socket.

The client of HTTP/2 here only asks and reads; it is the h2 package that judges what it gets.
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

import h2.config
import h2.connection
import h2.events
import h2.settings
from certificates import Pair, client_context, make_authority
from inprocess import Client, InProcess, Truncated, request, serve

WAYS = ["1.1", "1.0", "unix", "tls", "h2", "h2-tls"]
HTTP2: dict[str, Any] = {"http_protocols": "h2,h1", "http2_cleartext": "prior-knowledge"}
WINDOW = 1 << 24


@cache
def certificate() -> Pair:
    return make_authority(Path(tempfile.mkdtemp()), "localhost")


def server_context(pair: Pair | None = None) -> ssl.SSLContext:
    """A server's, as the worker makes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*(pair or certificate()))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@dataclass
class Answer:
    """A response, whichever way it came."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    hints: list[tuple[int, list[tuple[bytes, bytes]]]] = field(default_factory=list)
    """The 1xx before it."""
    trailers: list[tuple[bytes, bytes]] | None = None
    is_whole: bool = False

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]


class H2Client(Client):
    """One connection of HTTP/2. Takes what comes with its windows open, or leaves them shut."""

    def __init__(self, address: Any, window: int = WINDOW) -> None:
        super().__init__(address)
        self._window = window
        self.answers: dict[int, Answer] = {}
        self.resets: dict[int, int] = {}

    def start(self, context: ssl.SSLContext | None = None) -> None:
        if context is not None:
            context.set_alpn_protocols(["h2"])
            self.sock = context.wrap_socket(self.sock)
            assert self.sock.selected_alpn_protocol() == "h2"
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: self._window})
        self.h2.increment_flow_control_window(WINDOW)
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def ask(self, method: str = "GET", path: str = "/", *fields: tuple[bytes, bytes], end: bool = True) -> int:
        """Send a request; returns its stream."""
        id_ = self.h2.get_next_available_stream_id()
        pseudo = [(b":method", method.encode()), (b":path", path.encode()), (b":scheme", b"http"), (b":authority", b"a")]
        self.h2.send_headers(id_, [*pseudo, *fields], end_stream=end)
        self.answers[id_] = Answer()
        self.flush()
        return id_

    def open_window(self, id_: int, size: int) -> None:
        self.h2.increment_flow_control_window(size, id_)
        self.flush()

    def read_events(self) -> None:
        """Take what comes next."""
        data = self.sock.recv(65536)
        assert data, "the connection has ended"
        for event in self.h2.receive_data(data):
            answer = self.answers.get(getattr(event, "stream_id", None) or 0, Answer())
            if isinstance(event, h2.events.InformationalResponseReceived):
                fields = dict(event.headers)
                answer.hints.append((int(fields[b":status"]), [pair for pair in event.headers if pair[0] != b":status"]))
            elif isinstance(event, h2.events.ResponseReceived):
                answer.status = int(dict(event.headers)[b":status"])
                answer.headers = [(bytes(name), bytes(value)) for name, value in event.headers if name != b":status"]
            elif isinstance(event, h2.events.DataReceived):
                answer.body += event.data
                if self._window == WINDOW:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                answer.trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
            elif isinstance(event, h2.events.StreamEnded):
                answer.is_whole = True
            elif isinstance(event, h2.events.StreamReset):
                self.resets[event.stream_id] = int(event.error_code)
        self.flush()

    def read(self, id_: int) -> Answer:
        """The whole response, or what there is of it when the stream is reset."""
        while not self.answers[id_].is_whole and id_ not in self.resets:
            self.read_events()
        return self.answers[id_]


class Way:
    """A server that is asked on one of the WAYS."""

    def __init__(self, name: str, server: InProcess) -> None:
        self.name = name
        self.server = server
        self.is_h2 = name.startswith("h2")
        self.version = "1.0" if name == "1.0" else "1.1"

    def connect(self, **kwargs: Any) -> Any:
        """A connection that is ready for requests."""
        if self.is_h2:
            client: Any = H2Client(self.server.address, **kwargs)
            self.server.clients.append(client)
            client.start(client_context() if self.name == "h2-tls" else None)
            return client
        client = self.server.connect(**kwargs)
        if self.name == "tls":
            client.start_tls()
        return client

    def ask(self, client: Any, method: str = "GET", *fields: bytes, path: str = "/") -> Answer:
        """One exchange on the connection."""
        if self.is_h2:
            pairs = [(name.lower(), value.strip()) for name, value in (line.split(b":", 1) for line in fields)]
            return client.read(client.ask(method, path, *pairs))
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
        answer.status, answer.headers, answer.body = response.status, response.headers, response.body
        return answer

    def fetch(self, method: str = "GET", *fields: bytes, path: str = "/") -> Answer:
        """One exchange on a connection of its own."""
        client = self.connect()
        try:
            return self.ask(client, method, *fields, path=path)
        finally:
            client.close()


@contextmanager
def serving(app: Any, parser: str, way: str, **settings: Any) -> Iterator[Way]:
    """`app`, to be asked on that way."""
    with ExitStack() as stack:
        if way == "unix":
            settings["bind"] = stack.enter_context(tempfile.TemporaryDirectory()) + "/socket"
        if way in ("tls", "h2-tls"):
            settings.setdefault("tls", server_context())
        if way.startswith("h2"):
            settings = {**HTTP2, **settings}
        yield Way(way, stack.enter_context(serve(app, parser, **settings)))


def descriptors() -> Counter[str]:
    """What of files and sockets this process has open. (libuv keeps pipes of its own.)"""
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 # the descriptor of a Path's listing would be among them
        try:
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
        except FileNotFoundError:
            continue  # that of the listing itself
        if target.startswith(("/", "socket:")):
            found[target.partition(":")[0]] += 1
    return found
