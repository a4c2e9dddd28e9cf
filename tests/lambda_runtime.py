"""A strict stand-in of the Runtime API of AWS Lambda, in threads of the tests' process.

``with RuntimeAPI() as api:`` listens at `api.address`, which a runtime gets as ``AWS_LAMBDA_RUNTIME_API``.
`api.invoke(event)` is what Lambda does for a client: it hands the event to the runtime, and returns its answer.

The runtime has to keep every rule of https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html and
.../runtimes-custom.html (response streaming), and the framing of RFC 9112. Whatever it does otherwise is refused as
Lambda refuses it, is noted in `api.violations`, and fails the test at the end of the ``with`` block.

Lambda's own server is written in Go. So is this one in what it sends: an event of more than 2 KiB is chunked.
"""

from __future__ import annotations

import base64
import json
import re
import select
import socket
import sys
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from process import DEADLINE, poll

if TYPE_CHECKING:
    from typing_extensions import Self

VERSION = "2018-06-01"
BASE = f"/{VERSION}/runtime"
FUNCTION_ARN = "arn:aws:lambda:eu-central-1:123456789012:function:site"
MAX_PAYLOAD = 6 * 1024 * 1024 + 100
"""Bytes of a response that is not streamed."""
CHUNKED_ABOVE = 2048
"""Bytes above which an event is sent chunked, as Go's server does without a Content-Length."""
INTEGRATION_TYPE = "application/vnd.awslambda.http-integration-response"
ERROR_TYPE = "lambda-runtime-function-error-type"
ERROR_BODY = "lambda-runtime-function-error-body"
RESPONSE_MODE = "lambda-runtime-function-response-mode"
INVOCATION_ID = "lambda-runtime-invocation-id"
PRELUDE_END = b"\0" * 8
NO_JSON = object()
OK = b'{"status":"OK"}\n'

TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
FIELD_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
REQUEST_LINE = re.compile(rb"([A-Z]+) (/[!-~]*) HTTP/1\.1")
INVOCATION_PATH = re.compile(rf"{BASE}/invocation/([^/]+)/(response|error)")
ROUTES = {
    f"{BASE}/invocation/next": "GET",
    f"{BASE}/init/error": "POST",
    f"{BASE}/restore/next": "GET",
    f"{BASE}/restore/error": "POST",
}


class RuntimeViolation(AssertionError):
    """The runtime has broken a rule of the Runtime API."""


class ConnectionEnded(Exception):
    """The runtime has closed the connection, or this stand-in has."""


class FramingError(Exception):
    """The rest of the connection cannot be read."""


@dataclass
class Result:
    """The runtime's answer to an invocation."""

    kind: str
    """``response``, ``error``, ``streamed``; ``cut`` for a response without its end; ``lost`` for one whose POST was
    disturbed."""
    headers: dict[str, str]
    """Of the POST, by their names in lower case."""
    payload: bytes
    """The body of the POST. Of a streamed response all of it, with the prelude."""
    answered_ms: float
    """The end of the answer: milliseconds since the epoch, as ``Lambda-Runtime-Deadline-Ms`` is."""
    deadline_ms: float
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    """The chunks of a streamed response, with the times (`time.monotonic`) of their arrival."""
    trailers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        """What is in the payload."""
        return json.loads(self.payload)

    @property
    def error_type(self) -> str:
        """``Lambda-Runtime-Function-Error-Type`` of an error, or among the trailers of a streamed response."""
        return self.trailers.get(ERROR_TYPE) or self.headers.get(ERROR_TYPE, "")

    @property
    def error_body(self) -> Any:
        """The JSON of an error, or the one among the trailers of a streamed response."""
        if ERROR_BODY in self.trailers:
            return json.loads(base64.b64decode(self.trailers[ERROR_BODY]))
        return self.json

    @property
    def prelude(self) -> Any:
        """The JSON before the body of a streamed response of HTTP."""
        return json.loads(self.payload.partition(PRELUDE_END)[0])

    @property
    def status(self) -> int:
        """The ``statusCode``."""
        code: int = (self.prelude if self.kind in ("streamed", "cut") else self.json)["statusCode"]
        return code

    @property
    def body(self) -> bytes:
        """The body that the client gets."""
        if self.kind in ("streamed", "cut"):
            return self.payload.partition(PRELUDE_END)[2]
        text = self.json.get("body") or ""
        return base64.b64decode(text) if self.json.get("isBase64Encoded") else text.encode()


@dataclass
class InitError:
    """What the runtime said of its failed start."""

    error_type: str
    body: Any


class Invocation:
    """An event on its way to the runtime, and the answer on its way back."""

    def __init__(
        self,
        payload: bytes,
        timeout_s: float,
        headers: dict[str, str],
        invocation_id: str | None,
        reads: bool,
    ) -> None:
        self.id = str(uuid.uuid4())
        self.payload = payload
        self.timeout_s = timeout_s
        self.deadline_ms = 0.0
        """Set when a runtime has got the event."""
        self.headers = headers
        self.invocation_id = invocation_id
        self.reads = threading.Event()
        """The stand-in reads the answer while this is set."""
        if reads:
            self.reads.set()
        self.begun_headers: dict[str, str] | None = None
        """Of the POST of the response, from its begin on."""
        self.chunks: list[tuple[float, bytes]] = []
        self.result: Result | None = None
        self._done = threading.Event()
        self.connection: socket.socket | None = None
        """The connection of a response that has begun."""

    @property
    def received(self) -> bytes:
        """What has come of a streamed response so far, with the prelude."""
        return b"".join(chunk for _, chunk in self.chunks)

    def wait_for(self, data: bytes, seconds: float = DEADLINE) -> None:
        """Wait until `data` has come within a streamed response."""
        poll(lambda: data in self.received or self._done.is_set(), f"{data!r}", seconds)
        assert data in self.received, f"the response has ended without {data!r}: {self.result}"

    def finish(self, kind: str, headers: dict[str, str], payload: bytes, **more: Any) -> None:
        self.result = Result(kind, headers, payload, time.time() * 1000, self.deadline_ms, **more)
        self._done.set()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def wait(self, seconds: float = DEADLINE) -> Result:
        """Wait for the runtime's answer."""
        assert self._done.wait(seconds), f"no answer to {self.payload[:200]!r} within {seconds} s"
        assert self.result is not None
        return self.result

    def hang_up(self) -> None:
        """Close the connection on which the response comes, as a Runtime API that fails does."""
        assert self.connection is not None
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


@dataclass
class Disturbance:
    """Bytes in place of the regular answer to a request; none for a connection that is closed without any."""

    data: bytes
    closes: bool


class RuntimeAPI:
    """The stand-in. `concurrency` is the value of ``AWS_LAMBDA_MAX_CONCURRENCY``, or 1.

    `demands_error_type`: errors need the header ``Lambda-Runtime-Function-Error-Type``. AWS says that it is not
    required, and AWS's own client for Python leaves it out.
    """

    def __init__(self, concurrency: int = 1, *, demands_error_type: bool = True) -> None:
        self.concurrency = concurrency
        self.demands_error_type = demands_error_type
        self.violations: list[str] = []
        self.requests: list[str] = []
        """The method and path of each request, in the order of their arrival."""
        self.init_error: InitError | None = None
        self.is_restored = False
        self.closes_after: set[str] = set()
        """The endpoints (see `disturb`) after whose answers a connection is closed, without a word."""
        self._disturbances: dict[str, deque[Disturbance]] = {}
        self._gates: dict[str, threading.Event] = {}
        self._lock = threading.RLock()
        self._pending: deque[Invocation] = deque()
        self._pollers: deque[_Connection] = deque()
        self._running: dict[str, Invocation] = {}
        self._answered: set[str] = set()
        self._has_polled = False
        self._connections: set[_Connection] = set()
        self._threads: list[threading.Thread] = []
        self._is_closed = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        # A small buffer, so that a runtime notices soon that nobody reads.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()
        if self.violations and error is not None:
            sys.stderr.write("\n".join(["Violations of the Runtime API:", *self.violations, ""]))
        elif self.violations:
            raise RuntimeViolation("; ".join(self.violations))

    def close(self) -> None:
        """Close the listening socket and all connections."""
        with self._lock:
            self._is_closed = True
            connections = [*self._connections]
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for gate in self._gates.values():
            gate.set()
        for invocation in [*self._running.values()]:
            invocation.reads.set()
        for connection in connections:
            connection.shut()
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive(), "a thread of the stand-in hangs"

    # For tests: invocations.

    def begin(
        self,
        event: Any,
        *,
        timeout_s: float = DEADLINE,
        trace_id: str | None = "",
        client_context: str | None = None,
        cognito_identity: str | None = None,
        tenant_id: str | None = None,
        invocation_id: bool = True,
        reads: bool = True,
    ) -> Invocation:
        """Invoke the function, and do not wait.

        `event`: bytes, or what JSON can hold. `trace_id`: empty for a new one, None for no such field.
        `reads`: False for a Lambda that does not read the answer before `reads` of the invocation is set.
        """
        invocation = Invocation(
            event if isinstance(event, bytes) else json.dumps(event).encode(),
            timeout_s,
            {
                name: value
                for name, value in (
                    (
                        "Lambda-Runtime-Trace-Id",
                        new_trace_id() if trace_id == "" else trace_id,
                    ),
                    ("Lambda-Runtime-Client-Context", client_context),
                    ("Lambda-Runtime-Cognito-Identity", cognito_identity),
                    ("Lambda-Runtime-Aws-Tenant-Id", tenant_id),
                )
                if value is not None
            },
            str(uuid.uuid4()) if invocation_id else None,
            reads,
        )
        with self._lock:
            self._pending.append(invocation)
            self._assign()
        return invocation

    def invoke(self, event: Any, **given: Any) -> Result:
        """Invoke the function, and wait for its answer. See `begin`."""
        return self.begin(event, **given).wait()

    def wait_for_pollers(self, count: int = 1) -> None:
        """Wait until `count` calls of /invocation/next are waiting for an event."""
        poll(lambda: self.pollers == count, f"{count} pollers")

    @property
    def pollers(self) -> int:
        """The number of calls of /invocation/next that are waiting for an event."""
        with self._lock:
            return len(self._pollers)

    @property
    def connections(self) -> int:
        """The number of open connections."""
        with self._lock:
            return len(self._connections)

    def wait_for_init_error(self) -> InitError:
        """Wait until the runtime has told of its failed start."""
        poll(lambda: self.init_error is not None, "a call of /init/error")
        assert self.init_error is not None
        return self.init_error

    def take_violations(self) -> list[str]:
        """Return the violations so far, and forget them."""
        taken, self.violations[:] = [*self.violations], []
        return taken

    # For tests: a Runtime API that fails.

    def disturb(self, endpoint: str, data: bytes = b"", *, times: int = 1) -> None:
        """Have the next calls of `endpoint` answered by `data`, and their connections closed after that.

        The endpoints are ``next``, ``response``, ``error`` and ``init``. The request itself has no effect.
        """
        for _ in range(times):
            self._disturbances.setdefault(endpoint, deque()).append(Disturbance(data, closes=True))

    def refuse(self, endpoint: str, status: int, *, times: int = 1) -> None:
        """Have the next calls of `endpoint` answered with `status`, in Lambda's form."""
        for _ in range(times):
            data = _answer(status, _error_json("Made for a test", "Runtime.Test"))
            self._disturbances.setdefault(endpoint, deque()).append(Disturbance(data, closes=False))

    def hold(self, endpoint: str) -> threading.Event:
        """Answer no call of `endpoint` before the returned event is set."""
        gate = self._gates[endpoint] = threading.Event()
        return gate

    # The state of the function.

    def _assign(self) -> None:
        while self._pending and self._pollers:
            connection, invocation = self._pollers.popleft(), self._pending.popleft()
            self._running[invocation.id] = invocation
            connection.give(invocation)

    def begin_poll(self, connection: _Connection) -> bool:
        """A call of /invocation/next. Returns whether it is allowed."""
        with self._lock:
            self._has_polled = True
            count = len(self._pollers) + len(self._running)
            if count >= self.concurrency:
                self.violate(
                    f"/next while {len(self._pollers)} calls wait and {len(self._running)} invocations are "
                    f"unanswered, with a concurrency of {self.concurrency}"
                )
                return False
            self._pollers.append(connection)
            self._assign()
        return True

    def end_poll(self, connection: _Connection) -> None:
        """The runtime has closed the connection. An event that it has not been sent goes to another."""
        with self._lock:
            if connection in self._pollers:
                self._pollers.remove(connection)
            if connection.given is not None:
                invocation, connection.given = connection.given, None
                del self._running[invocation.id]
                self._pending.appendleft(invocation)
                self._assign()

    def find(self, invocation_id: str) -> Invocation | None:
        """Return the invocation with this id if it is unanswered."""
        with self._lock:
            return self._running.get(invocation_id)

    def end(self, invocation: Invocation, *result: Any, **more: Any) -> None:
        with self._lock:
            del self._running[invocation.id]
            self._answered.add(invocation.id)
        invocation.finish(*result, **more)

    def was_answered(self, invocation_id: str) -> bool:
        return invocation_id in self._answered

    def fail_init(self, error: InitError) -> bool:
        """A call of /init/error. Returns whether it is allowed."""
        with self._lock:
            if self._has_polled or self.init_error is not None:
                self.violate("/init/error after the first /next, or a second time")
                return False
            self.init_error = error
        return True

    def restore(self) -> bool:
        with self._lock:
            if self._has_polled or self.is_restored:
                self.violate("/restore/next after the first /next, or a second time")
                return False
            self.is_restored = True
        return True

    def violate(self, sentence: str) -> None:
        """Note a violation. Whatever happens after `close` is none."""
        if not self._is_closed:
            self.violations.append(sentence)

    def disturbance(self, endpoint: str) -> Disturbance | None:
        """Wait while `endpoint` is held. Returns what is to be sent in place of the answer, if anything is."""
        if endpoint in self._gates:
            self._gates[endpoint].wait(DEADLINE)
        waiting = self._disturbances.get(endpoint)
        return waiting.popleft() if waiting else None

    # Threads.

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            connection = _Connection(self, sock)
            with self._lock:
                if self._is_closed:
                    sock.close()
                    connection.close()
                    return
                self._connections.add(connection)
            self._start(connection.run)

    def forget(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.discard(connection)


@dataclass
class _Request:
    method: str
    path: str
    fields: list[tuple[str, str]]

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.fields)

    def all(self, name: str) -> list[str]:
        return [value for each, value in self.fields if each == name]


class _Connection:
    """A connection of the runtime, in a thread of its own."""

    def __init__(self, api: RuntimeAPI, sock: socket.socket) -> None:
        self._api = api
        self._sock = sock
        self._buffer = bytearray()
        self._wake, self._wakes = socket.socketpair()
        self.given: Invocation | None = None
        """The event for the call of /invocation/next that waits."""
        self._reads: threading.Event | None = None
        """Nothing is read while this is cleared."""
        self._is_in_request = False

    def run(self) -> None:
        try:
            while self._serve_request():
                pass
        except (ConnectionEnded, OSError):
            if self._is_in_request:
                self._api.violate("a request without its end")
        except FramingError as error:
            self._api.violate(str(error))
            with suppress(OSError):
                self._sock.sendall(_answer(400, _error_json(str(error), "InvalidRequest")))
        except Exception:
            self._api.violate(f"the stand-in itself has failed: {traceback.format_exc()}")
        finally:
            self._api.end_poll(self)
            self.close()
            self._api.forget(self)

    def close(self) -> None:
        for sock in (self._sock, self._wake, self._wakes):
            sock.close()

    def shut(self) -> None:
        """End the connection, from another thread."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def give(self, invocation: Invocation) -> None:
        """Hand an event to the call that waits; the lock of the API is held."""
        self.given = invocation
        self._wakes.send(b"!")

    # Reading.

    def _more(self) -> None:
        if self._reads is not None:
            self._reads.wait()
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionEnded
        self._buffer += data

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > 65536:
                raise FramingError("a line of more than 64 KiB")
            self._more()
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        if not line.endswith(b"\r\n"):
            raise FramingError(f"a line that ends without CR: {line!r}")
        return line[:-2]

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _fields(self) -> list[tuple[str, str]]:
        fields = []
        while line := self._line():
            name, colon, value = line.partition(b":")
            value = value.strip(b" \t")
            if not (colon and TOKEN.fullmatch(name) and FIELD_VALUE.fullmatch(value)):
                raise FramingError(f"a field line that is none: {line!r}")
            fields.append((name.decode().lower(), value.decode("latin-1")))
        return fields

    def _chunked(self, invocation: Invocation | None) -> tuple[bytes, dict[str, str]]:
        """Read a chunked body and its trailers."""
        chunks = []
        while True:
            line = self._line()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", line):
                raise FramingError(f"a chunk size that is none: {line!r}")
            size = int(line, 16)
            if size == 0:
                break
            chunks.append(self._exactly(size))
            if self._exactly(2) != b"\r\n":
                raise FramingError("a chunk that is longer than its size says")
            if invocation is not None:
                invocation.chunks.append((time.monotonic(), chunks[-1]))
        fields = self._fields()
        if len(dict(fields)) < len(fields):
            self._api.violate(f"a trailer that comes twice: {fields}")
        return b"".join(chunks), dict(fields)

    def _request(self) -> _Request:
        if not self._buffer:
            self._more()
        self._is_in_request = True
        line = self._line()
        match = REQUEST_LINE.fullmatch(line)
        if not match:
            raise FramingError(f"a request line that is none: {line!r}")
        request = _Request(match[1].decode(), match[2].decode(), self._fields())
        self._api.requests.append(f"{request.method} {request.path}")
        if request.all("host") != [self._api.address]:
            self._api.violate(f"the Host {request.all('host')}, not {self._api.address!r}")
        if request.all("expect"):
            self._api.violate("an Expect")
        return request

    def _body(
        self, request: _Request, invocation: Invocation | None = None
    ) -> tuple[bytes, dict[str, str]]:
        """Read the body of a request, and the trailers of a chunked one."""
        lengths, codings = request.all("content-length"), request.all("transfer-encoding")
        if lengths and codings:
            raise FramingError("Content-Length beside Transfer-Encoding")
        if codings:
            if codings != ["chunked"]:
                raise FramingError(f"the Transfer-Encoding {codings}")
            return self._chunked(invocation)
        if lengths:
            if len(lengths) > 1 or not re.fullmatch("[0-9]+", lengths[0]):
                raise FramingError(f"the Content-Length {lengths}")
            return self._exactly(int(lengths[0])), {}
        if request.method == "POST":
            raise FramingError("a POST with neither Content-Length nor Transfer-Encoding")
        return b"", {}

    # Answering.

    def _reply(self, endpoint: str, status: int, body: bytes) -> bool:
        """Answer, and return whether the connection goes on."""
        self._is_in_request = False
        if self._buffer:
            self._api.violate(f"data after the end of a request: {bytes(self._buffer[:100])!r}")
        self._sock.sendall(_answer(status, body))
        return endpoint not in self._api.closes_after

    def _refuse(self, endpoint: str, status: int, sentence: str, error_type: str) -> bool:
        return self._reply(endpoint, status, _error_json(sentence, error_type))

    def _disturb(self, disturbance: Disturbance) -> bool:
        self._is_in_request = False
        self._sock.sendall(disturbance.data)
        return not disturbance.closes

    # Requests.

    def _serve_request(self) -> bool:
        """Serve one request, and return whether the connection goes on."""
        request = self._request()
        match = INVOCATION_PATH.fullmatch(request.path)
        method = "POST" if match else ROUTES.get(request.path)
        if method != request.method:
            self._api.violate(f"{request.method} {request.path}, which does not exist")
            self._body(request)
            return self._refuse("", 405 if method else 404, "No such call", "InvalidRequest")
        if match:
            return (self._take_response if match[2] == "response" else self._take_error)(
                request, match[1]
            )
        body, _ = self._body(request)
        if method == "GET" and body:
            self._api.violate(f"a body of {request.path}: {body[:100]!r}")
        if request.path.endswith("/invocation/next"):
            return self._hand_out()
        if request.path.endswith("/init/error"):
            return self._take_init_error(request, body)
        if request.path.endswith("/restore/next"):
            is_allowed = self._api.restore()
            return self._reply("restore", 200 if is_allowed else 403, b"")
        self._read_error(request, body)
        return self._reply("restore", 202, OK)

    def _hand_out(self) -> bool:
        self._is_in_request = False
        disturbance = self._api.disturbance("next")
        if disturbance is not None:
            return self._disturb(disturbance)
        if not self._api.begin_poll(self):
            return self._refuse("next", 403, "State transition failed", "InvalidStateTransition")
        ready, _, _ = select.select([self._sock, self._wake], [], [])
        if self._sock in ready:
            self._end_poll_early()
        self._wake.recv(1)
        invocation, self.given = self.given, None
        assert invocation is not None
        invocation.deadline_ms = (time.time() + invocation.timeout_s) * 1000
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": invocation.id,
            "Lambda-Runtime-Deadline-Ms": str(int(invocation.deadline_ms)),
            "Lambda-Runtime-Invoked-Function-Arn": FUNCTION_ARN,
            **invocation.headers,
        }
        if invocation.invocation_id is not None:
            headers["Lambda-Runtime-Invocation-Id"] = invocation.invocation_id
        self._sock.sendall(_answer(200, invocation.payload, headers))
        return "next" not in self._api.closes_after

    def _end_poll_early(self) -> NoReturn:
        """The runtime has done something while its call of /next waits: closed the connection, or a violation."""
        data = self._sock.recv(65536)
        if data:
            self._api.violate(f"data while /next waits: {data[:100]!r}")
        raise ConnectionEnded

    def _find(self, request: _Request, invocation_id: str) -> Invocation | None:
        invocation = self._api.find(invocation_id)
        if invocation is None:
            reason = "is answered" if self._api.was_answered(invocation_id) else "does not exist"
            self._api.violate(f"{request.path} for an invocation that {reason}")
            return None
        wanted = [] if invocation.invocation_id is None else [invocation.invocation_id]
        if request.all(INVOCATION_ID) != wanted:
            self._api.violate(
                f"the {INVOCATION_ID} {request.all(INVOCATION_ID)} in place of {wanted}"
            )
        return invocation

    def _take_response(self, request: _Request, invocation_id: str) -> bool:
        invocation = self._find(request, invocation_id)
        if invocation is None:
            self._body(request)
            return self._refuse("response", 400, "Invalid request ID", "InvalidRequestID")
        if invocation.begun_headers is not None:
            self._api.violate("a second response")
            self._body(request)
            return self._refuse("response", 403, "Response in progress", "InvalidStateTransition")
        is_chunked = bool(request.all("transfer-encoding"))
        mode = request.all(RESPONSE_MODE)
        if is_chunked != (mode == ["streaming"]) or mode not in ([], ["streaming"]):
            self._api.violate(
                f"a response with the mode {mode} and Transfer-Encoding {request.all('transfer-encoding')}"
            )
        invocation.connection = self._sock
        invocation.begun_headers = request.headers
        self._reads = invocation.reads
        try:
            body, trailers = self._body(request, invocation)
        except (ConnectionEnded, OSError, FramingError):
            headers, received = request.headers, invocation.received
            self._api.end(invocation, "cut", headers, received, chunks=invocation.chunks)
            raise
        finally:
            self._reads = None
        if is_chunked:
            return self._take_streamed(request, invocation, body, trailers)
        disturbance = self._api.disturbance("response")
        if disturbance is not None:
            self._api.end(invocation, "lost", request.headers, body)
            return self._disturb(disturbance)
        if len(body) > MAX_PAYLOAD:
            sentence = f"a response of {len(body)} bytes, above the limit of {MAX_PAYLOAD}"
            self._api.violate(sentence)
            self._api.end(invocation, "error", {ERROR_TYPE: "Function.ResponseSizeTooLarge"}, b"")
            return self._refuse("response", 413, sentence, "RequestEntityTooLarge")
        self._check_json("a response", body)
        # The runtime may only go on when it has got this answer.
        self._api.end(invocation, "response", request.headers, body)
        return self._reply("response", 202, OK)

    def _take_streamed(
        self, request: _Request, invocation: Invocation, body: bytes, trailers: dict[str, str]
    ) -> bool:
        announced = {
            name.strip().lower() for value in request.all("trailer") for name in value.split(",")
        }
        if not set(trailers) <= announced & {ERROR_TYPE, ERROR_BODY}:
            self._api.violate(
                f"the trailers {sorted(trailers)}, of which {sorted(announced)} were announced"
            )
        elif trailers:
            self._check_trailers(trailers)
        if request.headers.get("content-type") == INTEGRATION_TYPE:
            self._check_prelude(body)
        disturbance = self._api.disturbance("response")
        kind = "streamed" if disturbance is None else "lost"
        self._api.end(
            invocation, kind, request.headers, body, chunks=invocation.chunks, trailers=trailers
        )
        if disturbance is not None:
            return self._disturb(disturbance)
        self._reply("response", 202, OK)
        # "The runtime closes the connection": AWS, on response streaming.
        if not select.select([self._sock], [], [], DEADLINE)[0]:
            self._api.violate("the connection of a streamed response stays open")
        elif self._sock.recv(1):
            self._api.violate("a second request on the connection of a streamed response")
        return False

    def _take_error(self, request: _Request, invocation_id: str) -> bool:
        invocation = self._find(request, invocation_id)
        body, _ = self._body(request)
        disturbance = self._api.disturbance("error")
        if disturbance is not None:
            return self._disturb(disturbance)
        if invocation is None:
            return self._refuse("error", 400, "Invalid request ID", "InvalidRequestID")
        if invocation.begun_headers is not None:
            self._api.violate("/error after the response has begun")
            return self._refuse("error", 403, "Response in progress", "InvalidStateTransition")
        self._read_error(request, body)
        self._api.end(invocation, "error", request.headers, body)
        return self._reply("error", 202, OK)

    def _take_init_error(self, request: _Request, body: bytes) -> bool:
        disturbance = self._api.disturbance("init")
        if disturbance is not None:
            return self._disturb(disturbance)
        error = InitError(request.headers.get(ERROR_TYPE, ""), self._read_error(request, body))
        if self._api.fail_init(error):
            return self._reply("init", 202, OK)
        return self._refuse("init", 403, "State transition failed", "InvalidStateTransition")

    # The content.

    def _read_error(self, request: _Request, body: bytes) -> Any:
        types = request.all(ERROR_TYPE)
        if len(types) > 1 or (self._api.demands_error_type and not all(types or [""])):
            self._api.violate(f"{request.path} with the {ERROR_TYPE} {types}")
        return self._check_error(request.path, body)

    def _check_json(self, what: str, body: bytes) -> Any:
        try:
            return json.loads(body)
        except ValueError:
            self._api.violate(f"{what} that is no JSON: {body[:100]!r}")
            return NO_JSON

    def _check_error(self, what: str, body: bytes) -> Any:
        error = self._check_json(what, body)
        texts = ("errorMessage", "errorType")
        if error is NO_JSON:
            return None
        if not isinstance(error, dict) or not all(isinstance(error.get(key), str) for key in texts):
            self._api.violate(f"{what} without errorMessage and errorType: {error!r}")
        elif not all(isinstance(line, str) for line in error.get("stackTrace", [])):
            self._api.violate(f"{what} with a stackTrace that is no list of texts")
        return error

    def _check_trailers(self, trailers: dict[str, str]) -> None:
        if set(trailers) != {ERROR_TYPE, ERROR_BODY} or not all(trailers.values()):
            self._api.violate(f"the trailers {trailers}, which are not both of an error's")
            return
        try:
            body = base64.b64decode(trailers[ERROR_BODY], validate=True)
        except ValueError:
            self._api.violate(f"the trailer {ERROR_BODY} that is no base64")
            return
        self._check_error("a trailer", body)

    def _check_prelude(self, body: bytes) -> None:
        text, end, _ = body.partition(PRELUDE_END)
        prelude = self._check_json("a prelude", text) if end else None
        if prelude is not NO_JSON and not is_prelude(prelude):
            self._api.violate(f"a prelude that is none: {text[:200]!r}")


def is_prelude(prelude: Any) -> bool:
    """Whether a streamed response may begin with this."""
    if not isinstance(prelude, dict) or type(prelude.get("statusCode")) is not int:
        return False
    headers, many = prelude.get("headers", {}), prelude.get("multiValueHeaders", {})
    cookies = prelude.get("cookies", [])
    return (
        set(prelude) <= {"statusCode", "headers", "multiValueHeaders", "cookies"}
        and 200 <= prelude["statusCode"] <= 599
        and _is_map_of(headers, str)
        and _is_map_of(many, list)
        and isinstance(cookies, list)
        and all(isinstance(text, str) for texts in [*many.values(), cookies] for text in texts)
    )


def _is_map_of(value: object, kind: type) -> bool:
    return isinstance(value, dict) and all(isinstance(each, kind) for each in value.values())


def new_trace_id() -> str:
    """Return a tracing header of X-Ray."""
    digits = uuid.uuid4().hex
    return f"Root=1-{digits[:8]}-{uuid.uuid4().hex[:24]};Parent={digits[8:24]};Sampled=0;Lineage=1:{digits[:8]}:0"


def _error_json(message: str, error_type: str) -> bytes:
    return json.dumps({"errorMessage": message, "errorType": error_type}).encode()


REASONS = {200: "OK", 202: "Accepted", 400: "Bad Request", 403: "Forbidden", 404: "Not Found"}


def _answer(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    fields = {"Content-Type": "application/json", **(headers or {})}
    if len(body) > CHUNKED_ABOVE:
        fields["Transfer-Encoding"] = "chunked"
        half = len(body) // 2  # more than one chunk
        body = b"".join(
            b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:], b"")
        )
    else:
        fields["Content-Length"] = str(len(body))
    lines = [
        f"HTTP/1.1 {status} {REASONS.get(status, 'Something')}",
        *(f"{name}: {value}" for name, value in fields.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
