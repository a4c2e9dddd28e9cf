"""What is done with a WebSocket of every server, and how each server is started. The application is ``apps:messages``."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from scenarios import STEP_SECONDS, WrongAnswerError
from servers import BASELINE, GUNICORN, OURS, NotOfferedError, Server

APP = "apps:messages"

CYCLE_BYTES = 40_000
"""A message comes again only behind so many bytes of others, which is more than the window of deflate."""

DEFLATE = "permessage-deflate; client_max_window_bits"
"""What browsers offer."""


@dataclass(frozen=True)
class Scenario:
    """One way to load a server."""

    name: str
    title: str
    connections: int
    size: int
    """Bytes of a message."""
    in_flight: int = 1
    """Messages of a connection that are under way."""
    text: bool = True
    deflate: bool = False

    # What instructions.py and measure.py want to know.
    tls = False
    logged = False
    app = APP
    closes = False
    pipeline = 1
    parts = 1

    def messages(self) -> list[bytes]:
        """The messages that a connection sends in turn: records in the shape of JSON, and bytes that no compression makes smaller."""
        generator = random.Random(self.size)
        count = max(2, -(-CYCLE_BYTES // self.size))
        return [
            _record(generator, self.size) if self.text else generator.randbytes(self.size)
            for _ in range(count)
        ]

    def check(self, port: int) -> None:
        """Have another client than that of the load, which is strict, send a few. Raises WrongAnswerError, NotOfferedError."""
        self.ask(port, 5)

    def ask(self, port: int, times: int) -> None:
        """Send so many messages on one connection, one after the other, and check every answer. Raises WrongAnswerError, NotOfferedError."""
        from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
        from websockets.sync.client import connect

        messages = self.messages()
        extensions = (
            [ClientPerMessageDeflateFactory(client_max_window_bits=True)] if self.deflate else None
        )  # DEFLATE
        with (
            _wrong_answers(),
            connect(
                f"ws://127.0.0.1:{port}/",
                compression=None,
                extensions=extensions,
                open_timeout=STEP_SECONDS,
                close_timeout=STEP_SECONDS,
                ping_interval=None,
                max_size=None,
                proxy=None,
            ) as client,
        ):
            if self.deflate and not client.protocol.extensions:
                raise NotOfferedError("it does not accept permessage-deflate")
            for number in range(times):
                message = messages[number % len(messages)]
                client.send(message, text=self.text)
                answer = client.recv(STEP_SECONDS, decode=False)
                if answer != message:
                    raise WrongAnswerError(
                        f"{len(answer)} bytes that are not the {len(message)} of the message: {bytes(answer[:60])!r}"
                    )


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    scenario: Scenario
    port: int
    session: int
    """Of the server's processes."""
    cpu: int
    """The server's core."""
    seconds: int = 0
    """Of the load."""
    idle: int = 0
    """Connections to open, in place of a load."""

    def dumps(self) -> str:
        """As the argument of websocket_load.py."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Job:
        """Of that argument."""
        fields = json.loads(text)
        return cls(**{**fields, "scenario": Scenario(**fields["scenario"])})


@contextmanager
def _wrong_answers() -> Iterator[None]:
    from websockets.exceptions import WebSocketException

    try:
        yield
    except (OSError, WebSocketException) as error:
        raise WrongAnswerError(f"no valid answer: {error!r}") from error


def _record(generator: random.Random, size: int) -> bytes:
    """So many bytes like those of a feed of prices."""
    text = ""
    while len(text) < size:
        price, volume = generator.uniform(1, 1000), generator.randrange(100_000)
        text += f'{{"id":{generator.randrange(10**6)},"symbol":"{generator.choice(SYMBOLS)}","price":{price:.2f},"volume":{volume},"side":"buy"}},'
    return text[:size].encode()


SYMBOLS = ("AAPL", "AMZN", "GOOG", "META", "MSFT", "NVDA", "TSLA", "ORCL")

SCENARIOS = (
    Scenario("small", "64 connections, 32 bytes of text", 64, 32),
    Scenario("kilobyte", "64 connections, 1 KiB of text", 64, 1024),
    Scenario("large", "8 connections, 64 KiB of bytes", 8, 65536, text=False),
    Scenario(
        "inflight",
        "16 connections with 16 messages of 32 bytes under way on each",
        16,
        32,
        in_flight=16,
    ),
    Scenario(
        "small-deflate",
        "64 connections, 32 bytes of text, permessage-deflate",
        64,
        32,
        deflate=True,
    ),
    Scenario(
        "kilobyte-deflate",
        "64 connections, 1 KiB of text, permessage-deflate",
        64,
        1024,
        deflate=True,
    ),
)

LIMIT = "picows"
MANY_CONNECTIONS = ("--worker-connections", "20000")
"""For the memory of idle ones; Gunicorn's default is 1,000."""
UVICORN = (
    "uvicorn",
    "--host",
    "127.0.0.1",
    "--port",
    "{port}",
    "--http",
    "httptools",
    "--loop",
    "uvloop",
)
QUIET = ("--no-access-log", "--log-level", "warning")

SERVERS = (
    Server(OURS, (*GUNICORN, *MANY_CONNECTIONS, "-k", "gunicorn_asgi.Worker", "{app}")),
    Server(BASELINE, (*UVICORN, *QUIET, "--ws", "websockets-sansio", "{app}")),
    Server(f"{BASELINE} wsproto", (*UVICORN, *QUIET, "--ws", "wsproto", "{app}")),
    Server(
        "gunicorn asgi",
        (*GUNICORN, *MANY_CONNECTIONS, "-k", "asgi", "--asgi-loop", "uvloop", "{app}"),
    ),
    Server(
        "hypercorn",
        (
            "hypercorn",
            "--bind",
            "127.0.0.1:{port}",
            "-w",
            "1",
            "-k",
            "uvloop",
            "--log-level",
            "warning",
            "{app}",
        ),
    ),
    Server("daphne", ("daphne", "-b", "127.0.0.1", "-p", "{port}", "-v", "0", "{app}")),
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
                "--backpressure",
                "20000",
            ),
            *("--runtime-threads", "1", "--loop", "uvloop", *QUIET, "{app}"),
        ),
    ),
    Server(LIMIT, ("picows_echo", "{port}")),
)
