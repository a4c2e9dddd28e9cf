"""A client of the Runtime API: invocations come from it, and their results go to it.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html and "Implementing response streaming
in a custom runtime" in runtimes-custom.html.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol, cast

from ..observe.printable import printable
from ..version import __version__
from .api_response import InvalidResponse, Response, ResponseReader
from .failure import Failure, field_value
from .invocation import Invocation

PREFIX = "/2018-06-01/runtime"
CONNECT_SECONDS = 5.0
"""Time limit for a connection to the Runtime API, which is on the same machine."""
ANSWER_SECONDS = 10.0
"""Time limit for the answer to a result. An invocation itself is waited for without a limit."""
INIT_ERROR_SECONDS = 1.0
"""Time limit for each step of reporting a failed boot."""
RESULT_FIELDS = (("Content-Type", "application/json"),)
STREAM_FIELDS = (
    ("Content-Type", "application/vnd.awslambda.http-integration-response"),
    ("Lambda-Runtime-Function-Response-Mode", "streaming"),
    ("Transfer-Encoding", "chunked"),
    ("Trailer", "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body"),
)
MAX_DESCRIBED = 500
"""Bytes of an answer in the log."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._~-]{1,256}")
"""It goes into a path as it is."""
DEADLINE = re.compile(r"[0-9]{1,15}")
LOST = "the connection has ended before the answer"

Fields = Iterable[tuple[str, str]]


class RuntimeAPIError(Exception):
    """The Runtime API cannot be reached, or it does not answer as it should."""


class Rejected(Exception):
    """The Runtime API has not taken one result. It may go on to hand out invocations."""


class StreamListener(Protocol):
    """The sender of a streamed result: an HTTPStream, for example."""

    def pause_writing(self) -> None:
        """There is no room for more of the result."""

    def resume_writing(self) -> None:
        """There is room again."""

    def connection_lost(self) -> None:
        """The result is not wanted any more. Harmless if it was complete."""


class Connection(asyncio.Protocol):
    """A connection to the Runtime API, for one request after the other.

    It is made when it is needed, and again when the Runtime API has closed it.
    """

    def __init__(self, address: str, loop: asyncio.AbstractEventLoop) -> None:
        """`address`: host and port, from ``AWS_LAMBDA_RUNTIME_API``."""
        self._address = address
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._reader = ResponseReader()
        self._answer: asyncio.Future[Response | None] | None = None
        """The answer to the current request; None if it is not waited for any more."""
        self._is_polling = False
        """The current request is one for an invocation."""
        self._is_stopped = False
        """There will be no further request for an invocation."""
        self._connecting: asyncio.Task[None] | None = None
        self._unsent: list[bytes | memoryview] = []
        """Parts of a stream that wait for the connection."""
        self.stream: StreamListener | None = None
        """The listener to a streamed response that is being sent."""

    # Invocations and results.

    async def next(self) -> Invocation | None:
        """Wait for the next invocation, without a time limit. Returns None after `stop_polling`.

        Raises RuntimeAPIError.
        """
        self._is_polling = True
        try:
            answer = await self._request(_head("GET", "/invocation/next", self._address))
        finally:
            self._is_polling = False
        if answer is None:
            return None
        if answer.status != 200:
            raise RuntimeAPIError(f"the next invocation was answered with {_describe(answer)}")
        return _read_invocation(answer)

    def stop_polling(self) -> None:
        """Wait for no invocation any more. One that has begun to arrive still does."""
        self._is_stopped = True
        answer = self._answer
        if self._is_polling and answer and not answer.done() and not self._reader.has_begun:
            answer.set_result(None)
            self.close()

    async def respond(self, invocation: Invocation, payload: bytes) -> None:
        """Hand in the result of an invocation. Raises Rejected, RuntimeAPIError."""
        await self._hand_in(invocation, "response", RESULT_FIELDS, payload)

    async def fail(self, invocation: Invocation, failure: Failure) -> None:
        """Report a failed invocation, of which no result was begun.

        Raises Rejected, RuntimeAPIError.
        """
        await self._hand_in(invocation, "error", failure.fields, failure.encode())

    async def _hand_in(
        self, invocation: Invocation, kind: str, fields: Fields, body: bytes
    ) -> None:
        head = _result_head(invocation, kind, self._address, fields, len(body))
        try:
            answer = await asyncio.wait_for(self._request(head, body), ANSWER_SECONDS)
        except asyncio.TimeoutError:
            self.close()
            raise Rejected(f"the result was not answered within {ANSWER_SECONDS:.0f} s") from None
        except RuntimeAPIError as error:
            raise Rejected(str(error)) from None  # the next poll finds out whether it is gone
        _check_accepted(answer)

    # A streamed result.

    def begin_stream(self, invocation: Invocation, stream: StreamListener | None) -> None:
        """Begin a streamed result. `stream` is told about the room for more of it."""
        self.stream = stream
        self._reader = ResponseReader()
        self._answer = self._loop.create_future()
        if self._transport is None or self._transport.is_closing():
            self.pause_writing()
            self._connecting = self._loop.create_task(self._connect_stream())
        self.write(_result_head(invocation, "response", self._address, STREAM_FIELDS))

    def write(self, data: bytes | memoryview) -> None:
        """Write a part of the streamed result, in the chunked coding."""
        if self._connecting is not None:
            self._unsent.append(data)
        elif self._transport is not None:
            self._transport.write(data)

    def finish_stream(self) -> None:
        """The last part of the streamed result is written."""
        self.stream = None

    async def end_stream(self, seconds: float) -> None:
        """Wait for the answer to the streamed result, for `seconds`, and close the connection.

        Raises Rejected, RuntimeAPIError.
        """
        try:
            if self._connecting is not None:
                await self._connecting
            assert self._answer is not None
            answer = await asyncio.wait_for(self._answer, seconds)
        except asyncio.TimeoutError:
            raise Rejected("the streamed result was not taken in time") from None
        except RuntimeAPIError as error:
            raise Rejected(str(error)) from None
        finally:
            self.stream = None
            self.close()
        _check_accepted(answer)

    async def _connect_stream(self) -> None:
        try:
            await self._connect()
        except RuntimeAPIError as error:
            self._lose(error)
            return
        finally:
            self._connecting = None
            unsent, self._unsent = self._unsent, []
        assert self._transport is not None
        self._transport.writelines(unsent)
        self.resume_writing()

    # The connection.

    async def _request(self, head: bytes, body: bytes = b"") -> Response | None:
        """Send a request and return its answer, or None after `stop_polling`.

        If the Runtime API has closed a connection that was kept, the request is sent once more.
        Raises RuntimeAPIError.
        """
        is_kept = self._transport is not None and not self._transport.is_closing()
        if not is_kept:
            await self._connect()
        try:
            return await self._exchange(head, body)
        except RuntimeAPIError:
            if not is_kept or self._reader.has_begun:
                raise
        await self._connect()
        return await self._exchange(head, body)

    async def _exchange(self, head: bytes, body: bytes) -> Response | None:
        if self._is_polling and self._is_stopped:
            return None
        self._reader = ResponseReader()
        self._answer = self._loop.create_future()
        assert self._transport is not None
        self._transport.write(head)
        if body:
            self._transport.write(body)
        try:
            return await self._answer
        finally:
            self._answer = None

    async def _connect(self) -> None:
        self.close()
        host, _, port = self._address.rpartition(":")
        try:
            await asyncio.wait_for(
                self._loop.create_connection(lambda: self, host.strip("[]"), int(port)),
                CONNECT_SECONDS,
            )
        except (OSError, asyncio.TimeoutError) as error:
            reason = str(error) or "no answer"
            raise RuntimeAPIError(f"{self._address} cannot be reached: {reason}") from None

    def close(self) -> None:
        """Close the connection. The next request makes another."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def _lose(self, error: RuntimeAPIError) -> None:
        """The current request has no answer."""
        answer = self._answer
        if answer is not None and not answer.done():
            answer.set_exception(error)
            answer.exception()  # a streamed result may end without waiting for it
        if self.stream is not None:
            self.stream.connection_lost()

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        try:
            response = self._reader.feed(data)
        except InvalidResponse as error:
            self.close()
            self._lose(RuntimeAPIError(f"its answer is invalid: {error}"))
            return
        if response is not None:
            self._take(response)

    def eof_received(self) -> None:
        response = self._reader.feed_eof()
        if response is not None:
            self._take(response)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None or self._transport.is_closing():
            self._transport = None
            self._lose(RuntimeAPIError(LOST if exc is None else f"{LOST}: {exc}"))

    def pause_writing(self) -> None:
        if self.stream is not None:
            self.stream.pause_writing()

    def resume_writing(self) -> None:
        if self.stream is not None:
            self.stream.resume_writing()

    def _take(self, response: Response) -> None:
        answer = self._answer
        if not response.keeps_connection:
            self.close()
        if answer is None or answer.done():
            self.close()  # nobody has asked
            return
        answer.set_result(response)
        if self.stream is not None:
            self.stream.connection_lost()


def _head(method: str, path: str, address: str, fields: Fields = ()) -> bytes:
    """The head of a request."""
    lines = [
        f"{method} {PREFIX}{path} HTTP/1.1",
        f"Host: {address}",
        f"User-Agent: gunicorn-asgi/{__version__}",
        *(f"{name}: {value}" for name, value in fields),
        "\r\n",
    ]
    return "\r\n".join(lines).encode()


def _result_head(
    invocation: Invocation, kind: str, address: str, fields: Fields, length: int | None = None
) -> bytes:
    """The head of a result, ``response`` or ``error``, with `length` bytes or streamed."""
    own = [*fields]
    if length is not None:
        own.append(("Content-Length", str(length)))
    if invocation.invocation_id:
        own.append(("Lambda-Runtime-Invocation-Id", field_value(invocation.invocation_id)))
    return _head("POST", f"/invocation/{invocation.request_id}/{kind}", address, own)


def _read_invocation(answer: Response) -> Invocation:
    """Raises RuntimeAPIError if a field is missing that every invocation has."""
    fields = answer.fields
    request_id = fields.get("lambda-runtime-aws-request-id", "")
    deadline = fields.get("lambda-runtime-deadline-ms", "")
    if REQUEST_ID.fullmatch(request_id) is None:
        raise RuntimeAPIError("the next invocation has no valid Lambda-Runtime-Aws-Request-Id")
    if DEADLINE.fullmatch(deadline) is None:
        raise RuntimeAPIError("the next invocation has no valid Lambda-Runtime-Deadline-Ms")
    return Invocation(
        payload=answer.body,
        request_id=request_id,
        deadline_ms=int(deadline),
        function_arn=fields.get("lambda-runtime-invoked-function-arn", ""),
        trace_id=fields.get("lambda-runtime-trace-id", ""),
        client_context=fields.get("lambda-runtime-client-context", ""),
        cognito_identity=fields.get("lambda-runtime-cognito-identity", ""),
        tenant_id=fields.get("lambda-runtime-aws-tenant-id", ""),
        invocation_id=fields.get("lambda-runtime-invocation-id", ""),
    )


def _check_accepted(answer: Response | None) -> None:
    """Raises Rejected unless a result was accepted, RuntimeAPIError for status 500."""
    if answer is None or 200 <= answer.status < 300:
        return
    reason = f"the result was answered with {_describe(answer)}"
    raise RuntimeAPIError(reason) if answer.status >= 500 else Rejected(reason)


def _describe(answer: Response) -> str:
    """The status and the beginning of the body, for a log."""
    text = printable(answer.body[:MAX_DESCRIBED])
    return f"{answer.status}{': ' if text else ''}{text}"


def report_failed_boot(address: str, failure: Failure) -> None:
    """Report that no invocation will be served. Blocks for a moment, and raises nothing.

    The Runtime API takes it before the first invocation only.
    """
    body = failure.encode()
    fields = (*failure.fields, ("Content-Length", str(len(body))), ("Connection", "close"))
    host, _, port = address.rpartition(":")
    with (
        suppress(OSError, ValueError),
        socket.create_connection((host.strip("[]"), int(port)), INIT_ERROR_SECONDS) as sock,
    ):
        sock.sendall(_head("POST", "/init/error", address, fields) + body)
        sock.recv(4096)
