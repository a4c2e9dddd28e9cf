"""What is asked over HTTP/2 of every server, how each is started, and a client that looks closely at the answers."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

import apps
from scenarios import BROWSER, STEP_SECONDS, Header, WrongAnswerError
from servers import GRANIAN_TLS, GUNICORN, GUNICORN_TLS, OURS, UVICORN_TLS, Server

CONNECTIONS, STREAMS = 16, 8
TARGETS = 4000
"""So many different ones, which each connection asks for in turn: no server remembers the field blocks of all."""
UPLOAD = 1024 * 1024
SIX_FIELDS = BROWSER[4:]
"""Of a browser: the user agent, what it accepts, and the cookie."""


@dataclass(frozen=True)
class Scenario:
    """One way to load a server."""

    name: str
    title: str
    app: str
    """``module:attribute``."""
    expected: bytes
    """The body of every response."""
    headers: tuple[Header, ...] = ()
    varies: bool = False
    """Whether each request has a target of its own."""
    size: int = 0
    """Bytes of the request's body."""
    tls: bool = False

    # What instructions.py and measure.py want to know.
    logged = False
    closes = False
    pipeline = STREAMS
    parts = 1

    @property
    def targets(self) -> list[str]:
        """What is asked for, in turn."""
        return (
            [f"/items/{number:05}?page={number * 7919 % TARGETS}" for number in range(TARGETS)]
            if self.varies
            else ["/"]
        )

    def check(self, port: int) -> None:
        """Have another client than that of the load ask, twice on the same connection. Raises WrongAnswerError."""
        self.ask(port, 2)

    def ask(self, port: int, times: int) -> None:
        """On one connection, so many times, ask STREAMS times at once, and check every answer. Raises WrongAnswerError."""
        from h2.exceptions import ProtocolError

        targets, body = self.targets, bytes(self.size)
        try:
            client = Client(port, self.tls)
            for number in range(times):
                first = number * STREAMS
                asked = [
                    self._fields(port, targets[each % len(targets)])
                    for each in range(first, first + STREAMS)
                ]
                for status, content in client.ask(asked, body):
                    if status != b"200":
                        raise WrongAnswerError(f"status {status!r}: {content[:200]!r}")
                    if content != self.expected:
                        raise WrongAnswerError(
                            f"a body of {len(content)} bytes that is not the expected one: {bytes(content[:60])!r}"
                        )
            client.close()
        except (OSError, ProtocolError) as error:
            raise WrongAnswerError(f"no valid response: {error!r}") from error

    def _fields(self, port: int, target: str) -> list[Header]:
        from hpack import NeverIndexedHeaderTuple

        method, scheme = "POST" if self.size else "GET", "https" if self.tls else "http"
        # As browsers and h2load have it, a path is not put into the table, from which it would drive the other fields.
        path = NeverIndexedHeaderTuple(":path", target)
        return [
            (":method", method),
            (":scheme", scheme),
            (":authority", f"127.0.0.1:{port}"),
            path,
            *self.headers,
        ]


class Client:
    """A connection of the h2 package, which is strict."""

    def __init__(self, port: int, tls: bool) -> None:
        from h2.config import H2Configuration
        from h2.connection import H2Connection

        self._socket = socket.create_connection(("127.0.0.1", port), timeout=STEP_SECONDS)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = (
                False,
                ssl.CERT_NONE,
            )  # it has signed itself
            context.set_alpn_protocols(["h2"])
            secured = context.wrap_socket(self._socket)
            self._socket = secured
            if secured.selected_alpn_protocol() != "h2":
                raise WrongAnswerError("it does not choose h2")
        self._connection = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._connection.initiate_connection()

    def ask(self, requests: Sequence[list[Header]], body: bytes) -> list[tuple[bytes, bytes]]:
        """Send all requests at once, each with `body`; returns (status, body) of the responses. Raises OSError, ProtocolError, WrongAnswerError."""
        connection = self._connection
        unsent: dict[int, memoryview] = {}
        answers: dict[int, tuple[bytes, bytearray]] = {}
        for fields in requests:
            number = connection.get_next_available_stream_id()
            connection.send_headers(number, fields, end_stream=not body)
            answers[number] = b"", bytearray()
            if body:
                unsent[number] = memoryview(body)
        waiting = set(answers)
        while waiting:
            for number in list(unsent):
                self._send_some(number, unsent)
            self._socket.sendall(connection.data_to_send())
            data = self._socket.recv(65536)
            if not data:
                raise WrongAnswerError("it has closed the connection")
            self._take(data, answers, waiting)
        self._socket.sendall(connection.data_to_send())
        return [(status, bytes(content)) for status, content in answers.values()]

    def _send_some(self, number: int, unsent: dict[int, memoryview]) -> None:
        connection = self._connection
        while size := min(
            len(unsent[number]),
            connection.local_flow_control_window(number),
            connection.max_outbound_frame_size,
        ):
            piece, rest = unsent[number][:size], unsent[number][size:]
            connection.send_data(number, piece, end_stream=not rest)
            unsent[number] = rest
            if not rest:
                del unsent[number]
                return

    def _take(
        self, data: bytes, answers: dict[int, tuple[bytes, bytearray]], waiting: set[int]
    ) -> None:
        from h2 import events

        for event in self._connection.receive_data(data):
            if isinstance(event, events.ResponseReceived):
                answers[event.stream_id] = dict(event.headers)[b":status"], bytearray()
            elif isinstance(event, events.DataReceived):
                answers[event.stream_id][1].extend(event.data)
                self._connection.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id
                )
            elif isinstance(event, events.StreamEnded):
                waiting.discard(event.stream_id)
            elif isinstance(event, (events.StreamReset, events.ConnectionTerminated)):
                raise WrongAnswerError(f"it has ended the stream or the connection: {event}")

    def close(self) -> None:
        """End the connection."""
        self._connection.close_connection()
        self._socket.sendall(self._connection.data_to_send())
        self._socket.close()


SCENARIOS = (
    Scenario("hello", "Hello, world!", "apps:hello", apps.HELLO),
    Scenario(
        "varying",
        "Hello, world! with six browser headers, the path another one in each request",
        "apps:hello",
        apps.HELLO,
        headers=SIX_FIELDS,
        varies=True,
    ),
    Scenario("large", "64 KiB response", "apps:large", apps.LARGE),
    Scenario("upload", "POST of 1 MiB, counted", "apps:count", b"%d" % UPLOAD, size=UPLOAD),
    Scenario(
        "streamed",
        "Response streamed in 16 parts of 1 KiB",
        "apps:streamed",
        apps.PART * apps.PARTS,
    ),
    Scenario("tls", "Hello, world! over TLS", "apps:hello", apps.HELLO, tls=True),
)


BASELINE = "hypercorn"
# For the memory of connections: there are many, and they stay, however long nothing is asked on them.
H2GUNICORN = (
    *GUNICORN,
    "--http-protocols",
    "h2,h1",
    "--http2-cleartext",
    "prior-knowledge",
    "--worker-connections",
    "20000",
    "--keep-alive",
    "75",
)

SERVERS = (
    Server(OURS, (*H2GUNICORN, "-k", "gunicorn_asgi.Worker", "{app}"), GUNICORN_TLS),
    Server(
        "gunicorn asgi", (*H2GUNICORN, "-k", "asgi", "--asgi-loop", "uvloop", "{app}"), GUNICORN_TLS
    ),
    Server(
        "uvicorn zttp",
        (
            *(
                "uvicorn",
                "--host",
                "127.0.0.1",
                "--port",
                "{port}",
                "--http",
                "zttp",
                "--http2",
                "--loop",
                "uvloop",
            ),
            *("--timeout-keep-alive", "75", "--no-access-log", "--log-level", "warning", "{app}"),
        ),
        UVICORN_TLS,
    ),
    Server(
        BASELINE,
        (
            "hypercorn",
            "--bind",
            "127.0.0.1:{port}",
            "-w",
            "1",
            "-k",
            "uvloop",
            "--keep-alive",
            "75",
            "--log-level",
            "warning",
            "{app}",
        ),
        GUNICORN_TLS,
    ),
    Server(
        "granian",
        (
            *(
                "granian",
                "--interface",
                "asgi",
                "--host",
                "127.0.0.1",
                "--port",
                "{port}",
                "--workers",
                "1",
                "--http",
                "2",
            ),
            *(
                "--backpressure",
                "20000",
                "--runtime-threads",
                "1",
                "--loop",
                "uvloop",
                "--no-access-log",
                "--log-level",
                "warning",
                "{app}",
            ),
        ),
        GRANIAN_TLS,
    ),
)
