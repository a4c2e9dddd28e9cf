"""The clients of long_run.py, a process of its own: ``python -m long_run_load PLAIN_PORT TLS_PORT SECONDS SEED``. Its last line is JSON."""

from __future__ import annotations

import http.client
import json
import random
import socket
import ssl
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import apps
import attack_bytes
import http2_scenarios
import long_run_app
from scenarios import STEP_SECONDS

CLIENTS = 8
MAX_KEPT = 10
UPLOAD = 100_000
RESET = struct.pack("ii", 1, 0)
MALFORMED = (
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
)


class WrongError(Exception):
    """Another answer than the expected one."""


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it has signed itself
    return context


TLS = _tls()


@dataclass
class Done:
    """What all clients have done."""

    connections: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """How often, by the kind of traffic."""
    failures: Counter[str] = field(default_factory=Counter)
    """Those that did not go as they should."""

    def add(self, other: Done) -> None:
        self.connections += other.connections
        self.kinds += other.kinds
        self.failures += other.failures

    @classmethod
    def loads(cls, text: str) -> Done:
        content = json.loads(text)
        return cls(content["connections"], Counter(content["kinds"]), Counter(content["failures"]))


class WebSocket:
    """A client on a blocking socket, by the package `websockets`. Its own clients read in a thread, beside which Python before 3.13.1 must not write over TLS."""

    def __init__(self, sock: socket.socket, path: str, deflate: bool) -> None:
        """Open it. Raises InvalidHandshake."""
        from websockets.client import ClientProtocol
        from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
        from websockets.uri import parse_uri

        extensions = [ClientPerMessageDeflateFactory()] if deflate else None
        self._sock = sock
        self._protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1{path}"), extensions=extensions)
        self._protocol.send_request(self._protocol.connect())
        self._events: list[Any] = []
        self._next()
        if self._protocol.handshake_exc is not None:
            raise self._protocol.handshake_exc

    def ask(self, text: bytes) -> bytes:
        """Send a message; returns the answer."""
        self._protocol.send_text(text)
        answer = b""
        while True:
            frame = self._next()
            answer += frame.data
            if frame.fin:
                return answer

    def close(self) -> None:
        """The closing handshake."""
        self._protocol.send_close(1000)
        _check(self._next().data, (1000).to_bytes(2, "big"))

    def _next(self) -> Any:
        """Send what there is to send; returns the next event: the response, or a frame."""
        for data in self._protocol.data_to_send():
            self._sock.sendall(data)
        while not self._events:
            data = self._sock.recv(65536)
            if not data:
                raise WrongError("the server has closed the connection")
            self._protocol.receive_data(data)
            self._events += self._protocol.events_received()
            if self._protocol.handshake_exc is not None:
                return None
        return self._events.pop(0)


class Client:
    """One thread of traffic: one connection after the other, of a kind that the dice choose."""

    def __init__(self, plain: int, secure: int, seed: int) -> None:
        self._ports = {False: plain, True: secure}
        self._random = random.Random(seed)
        self.done = Done()

    def run(self, until: float) -> None:
        kinds, weights = list(KINDS), list(KINDS.values())
        while time.monotonic() < until:
            (kind,) = self._random.choices(kinds, weights)
            name = kind.__name__.strip("_")
            try:
                kind(self)
            except Exception as error:  # noqa: BLE001 # counted, whatever it is
                self.done.failures[f"{name}: {type(error).__name__}: {error}"[:200]] += 1
            self.done.kinds[name] += 1
            self.done.connections += 1

    # One kind each.

    def _kept(self) -> None:
        self._ask_on(self._http(tls=False), self._random.randint(1, MAX_KEPT))

    def _close(self) -> None:
        self._ask_on(self._http(tls=False), 1, {"Connection": "close"})

    def _tls(self) -> None:
        self._ask_on(self._http(tls=True), self._random.randint(1, MAX_KEPT))

    def _http2(self, tls: bool = False) -> None:
        client = http2_scenarios.Client(self._ports[tls], tls)
        path, body = self._random.choice([("/", b""), ("/count", bytes(UPLOAD)), ("/stream", b"")])
        expected = {
            "/": apps.HELLO,
            "/count": b"%d" % UPLOAD,
            "/stream": apps.PART * long_run_app.PARTS,
        }[path]
        fields = [
            (":method", "POST" if body else "GET"),
            (":scheme", "https" if tls else "http"),
            (":authority", "test"),
            (":path", path),
            ("cookie", self._cookie()),
        ]
        for status, content in client.ask([fields] * self._random.randint(1, 4), body):
            _check((status, content), (b"200", expected))
        client.close()

    def _http2_tls(self) -> None:
        self._http2(tls=True)

    def _http2_leaver(self) -> None:
        client = http2_scenarios.Client(self._ports[False], tls=False)
        connection = client._connection
        names = ((":method", "GET"), (":scheme", "http"), (":authority", "test"))
        connection.send_headers(1, [*names, (":path", "/stream")], end_stream=True)
        if self._random.random() < 0.5:
            connection.reset_stream(1)
        client._socket.sendall(connection.data_to_send())
        client._socket.close()

    def _websocket(self, deflate: bool = False, tls: bool = False) -> None:
        with self._connected(tls) as sock:
            client = WebSocket(sock, "/", deflate)
            for _ in range(self._random.randint(1, MAX_KEPT)):
                text = self._cookie() * self._random.randint(1, 200)
                _check(client.ask(text.encode()), text.encode())
            client.close()

    def _compressed_websocket(self) -> None:
        self._websocket(deflate=True)

    def _websocket_tls(self) -> None:
        self._websocket(deflate=True, tls=True)

    def _websocket_leaver(self) -> None:
        """Without a closing handshake, and mostly within a message."""
        request = attack_bytes.handshake(deflate=self._random.random() < 0.5)
        message = attack_bytes.frame(attack_bytes.TEXT, self._cookie().encode())
        self._raw(request + message * self._random.randint(0, 2), self._random.choice([0, 12]))

    def _denied_websocket(self) -> None:
        from websockets.exceptions import InvalidStatus

        with self._connected(tls=False) as sock:
            try:
                WebSocket(sock, "/denied", deflate=True)
            except InvalidStatus as error:
                _check(error.response.status_code, 403)
            else:
                raise WrongError("it was accepted")

    def _upload(self) -> None:
        connection = self._http(tls=False)
        body: object = bytes(UPLOAD)
        if self._random.random() < 0.5:
            body = iter([bytes(UPLOAD // 2)] * 2)  # in chunks
        connection.request("POST", "/count", body)  # type: ignore[arg-type]  # an iterable is sent in chunks
        _check(_read(connection), (200, b"%d" % UPLOAD))
        connection.close()

    def _aborted_upload(self) -> None:
        self._raw(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n" + bytes(999))

    def _stream(self) -> None:
        connection = self._http(tls=False)
        connection.request("GET", "/stream")
        _check(_read(connection), (200, apps.PART * long_run_app.PARTS))
        connection.close()

    def _leaver(self) -> None:
        self._raw(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n", self._random.choice([0, 1]))

    def _error(self) -> None:
        connection = self._http(tls=False)
        connection.request("GET", "/error")
        status, _ = _read(connection)
        _check(status, 500)
        connection.close()

    def _refused(self) -> None:
        answer = self._raw(self._random.choice(MALFORMED), 65536)
        if not answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 505")):
            raise WrongError(repr(answer[:60]))

    def _silent(self) -> None:
        self._raw(b"")

    def _pipelined(self) -> None:
        request = b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n"
        data = self._raw(request % b"" * 4 + request % b"Connection: close\r\n", 1 << 30)
        _check(data.count(apps.HELLO), 5)

    # What they are made of.

    def _cookie(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def _connected(self, tls: bool) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._ports[tls]), STEP_SECONDS)
        return TLS.wrap_socket(sock) if tls else sock

    def _http(self, tls: bool) -> http.client.HTTPConnection:
        if tls:
            return http.client.HTTPSConnection(
                "127.0.0.1", self._ports[True], timeout=STEP_SECONDS, context=TLS
            )
        return http.client.HTTPConnection("127.0.0.1", self._ports[False], timeout=STEP_SECONDS)

    def _ask_on(
        self,
        connection: http.client.HTTPConnection,
        times: int,
        headers: dict[str, str] | None = None,
    ) -> None:
        for _ in range(times):
            connection.request("GET", "/", headers={**(headers or {}), "Cookie": self._cookie()})
            _check(_read(connection), (200, apps.HELLO))
        connection.close()

    def _raw(self, data: bytes, size: int = 0) -> bytes:
        """Send bytes, read at most `size` bytes or to the end, and close or reset the connection."""
        answer = b""
        with socket.create_connection(("127.0.0.1", self._ports[False]), STEP_SECONDS) as sock:
            sock.sendall(data)
            while len(answer) < size and (part := sock.recv(min(size, 65536))):
                answer += part
            if self._random.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        return answer


KINDS: dict[Callable[[Client], None], int] = {
    Client._kept: 10,
    Client._close: 20,
    Client._tls: 5,
    Client._http2: 5,
    Client._http2_tls: 3,
    Client._http2_leaver: 5,
    Client._websocket: 3,
    Client._compressed_websocket: 3,
    Client._websocket_tls: 1,
    Client._websocket_leaver: 5,
    Client._denied_websocket: 2,
    Client._upload: 5,
    Client._aborted_upload: 8,
    Client._stream: 3,
    Client._leaver: 10,
    Client._error: 5,
    Client._refused: 10,
    Client._silent: 10,
    Client._pipelined: 5,
}
"""With how many of a hundred connections or so each makes up."""


def _read(connection: http.client.HTTPConnection) -> tuple[int, bytes]:
    response = connection.getresponse()
    return response.status, response.read()


def _check(found: object, expected: object) -> None:
    if found != expected:
        raise WrongError(f"{str(found)[:80]} in place of {str(expected)[:80]}")


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    plain, secure, seconds, seed = map(int, arguments)
    until = time.monotonic() + seconds
    clients = [Client(plain, secure, seed * CLIENTS + number) for number in range(CLIENTS)]
    threads = [threading.Thread(target=client.run, args=(until,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = Done()
    for client in clients:
        done.add(client.done)
    print(json.dumps(vars(done)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
