"""A stand-in of AWS Lambda's Runtime API that says when a runtime asked and answered."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO
from uuid import uuid4

GET_EVENT = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/",
    "rawQueryString": "",
    "headers": {
        "accept": "*/*",
        "accept-encoding": "gzip, br",
        "host": "abc123.execute-api.eu-central-1.amazonaws.com",
        "user-agent": "benchmark",
        "x-forwarded-for": "203.0.113.7",
        "x-forwarded-port": "443",
        "x-forwarded-proto": "https",
    },
    "requestContext": {
        "accountId": "123456789012",
        "apiId": "abc123",
        "domainName": "abc123.execute-api.eu-central-1.amazonaws.com",
        "domainPrefix": "abc123",
        "http": {
            "method": "GET",
            "path": "/",
            "protocol": "HTTP/1.1",
            "sourceIp": "203.0.113.7",
            "userAgent": "benchmark",
        },
        "requestId": "JKJaXmPLvHcESHA=",
        "routeKey": "$default",
        "stage": "$default",
        "time": "01/Dec/2026:10:00:00 +0000",
        "timeEpoch": 1796119200000,
    },
    "isBase64Encoded": False,
}
"""A GET of HTTP API v2, as small as they come."""
DEADLINE_SECONDS = 60
NEXT = "/2018-06-01/runtime/invocation/next"


@dataclass(frozen=True)
class Response:
    """The answer of a runtime to one invocation."""

    at: float
    """When it was complete (``time.monotonic``)."""
    is_error: bool
    body: bytes


@dataclass
class RuntimeApi:
    """Hands out invocations in the order in which they were added. One thread for each connection."""

    listener: socket.socket
    first_next: float | None = None
    """When a runtime first asked for an invocation (``time.monotonic``): its init is over."""
    responses: queue.Queue[Response] = field(default_factory=queue.Queue)
    _events: queue.SimpleQueue[bytes] = field(default_factory=queue.SimpleQueue)

    @property
    def address(self) -> str:
        """The value of ``AWS_LAMBDA_RUNTIME_API``."""
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def invoke(self, count: int = 1) -> None:
        """Add `count` invocations."""
        payload = json.dumps(GET_EVENT).encode()
        for _ in range(count):
            self._events.put(payload)

    def accept(self, connections: ExitStack) -> None:
        """Serve connections until the listener is closed."""
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                connections.enter_context(connection)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError), connection.makefile("rb") as stream:
            while request := _read(stream):
                path, body = request
                at = time.monotonic()
                if path != NEXT:
                    self.responses.put(Response(at, path.endswith("/error"), body))
                    connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
                    continue
                self.first_next = self.first_next or at
                connection.sendall(_invocation(self._events.get()))


@contextmanager
def serving() -> Iterator[RuntimeApi]:
    """A Runtime API of its own for one runtime."""
    with ExitStack() as connections, socket.create_server(("127.0.0.1", 0)) as listener:
        api = RuntimeApi(listener)
        threading.Thread(target=api.accept, args=(connections,), daemon=True).start()
        try:
            yield api
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()


def _invocation(payload: bytes) -> bytes:
    head = (
        "HTTP/1.1 200 OK\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\n"
        f"Lambda-Runtime-Aws-Request-Id: {uuid4()}\r\n"
        f"Lambda-Runtime-Deadline-Ms: {int((time.time() + DEADLINE_SECONDS) * 1000)}\r\n"
        "Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:eu-central-1:123456789012:function:f\r\n"
        "Lambda-Runtime-Trace-Id: Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0\r\n\r\n"
    )
    return head.encode() + payload


def _read(stream: BinaryIO) -> tuple[str, bytes] | None:
    """The next request's path and body; None at the end of the connection."""
    line = stream.readline()
    if not line:
        return None
    path = line.split()[1].decode()
    fields = {}
    while line := stream.readline().strip():
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip()
    if fields.get(b"transfer-encoding", b"").lower() != b"chunked":
        return path, stream.read(int(fields.get(b"content-length", b"0")))
    chunks = []
    while size := int(stream.readline().partition(b";")[0], 16):
        chunks.append(stream.read(size))
        stream.readline()
    while stream.readline().strip():
        pass  # trailers
    return path, b"".join(chunks)
