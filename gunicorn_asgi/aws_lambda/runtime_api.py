"""A client of the Runtime API: invocations come from it, and their results go to it.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Iterable
from contextlib import suppress

from ..observe.printable import printable
from ..version import __version__
from .api_connection import APIConnection, NoAnswer, Rejected, RuntimeAPIError, connect
from .api_response import Response
from .environment import split_address
from .failure import Failure, field_value
from .invocation import Invocation

PREFIX = "/2018-06-01/runtime"
ANSWER_SECONDS = 10.0
"""Time limit for the answer to a result. An invocation itself is waited for without a limit."""
MAX_SECONDS = 900.0
"""The longest time that an invocation may take (AWS: "Lambda quotas")."""
INIT_ERROR_SECONDS = 1.0
"""Time limit for each step of reporting a failed boot."""
RESULT_FIELDS = (("Content-Type", "application/json"),)
MAX_DESCRIBED = 500
"""Bytes of an answer in the log."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._~-]{1,256}")
"""It goes into a path as it is."""
DEADLINE = re.compile(r"[0-9]{1,15}")

Fields = Iterable[tuple[str, str]]


class RuntimeAPI:
    """Hands out one invocation after the other, and takes its result.

    The connection is made when it is needed, and again when the Runtime API has closed it.
    """

    def __init__(self, address: str, loop: asyncio.AbstractEventLoop) -> None:
        """`address`: host and port, from ``AWS_LAMBDA_RUNTIME_API``."""
        self._address = address
        self._loop = loop
        self._connection: APIConnection | None = None
        self._is_polling = False
        """The current request is one for an invocation."""
        self._is_stopped = False
        """There is no further request for an invocation."""

    async def next(self) -> Invocation | None:
        """Wait for the next invocation, without a time limit. Returns None after `stop_polling`.

        Raises RuntimeAPIError.
        """
        self._is_polling = True
        try:
            answer = await self._request(_head("GET", "/invocation/next", self._address))
        except RuntimeAPIError:
            if self._is_stopped:
                return None
            raise
        finally:
            self._is_polling = False
        if answer.status != 200:
            raise RuntimeAPIError(f"the next invocation was answered with {_describe(answer)}")
        return _read_invocation(answer)

    def stop_polling(self) -> None:
        """Wait for no invocation any more. One that has begun to arrive still does."""
        self._is_stopped = True
        connection = self._connection
        if self._is_polling and connection is not None and not connection.has_answer_begun:
            connection.close()

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
        head = result_head(invocation, kind, self._address, fields, len(body))
        try:
            answer = await self._request(head + body)
        except RuntimeAPIError as error:
            raise Rejected(str(error)) from None  # the next poll finds out whether it is gone
        check_accepted(answer)

    async def _request(self, data: bytes) -> Response:
        """Send a request and return its answer.

        If the Runtime API has closed a connection that was kept, the request is sent once more.
        Raises RuntimeAPIError.
        """
        connection = self._connection
        if connection is not None and connection.is_open:
            try:
                return await self._exchange(connection, data)
            except NoAnswer:
                raise
            except RuntimeAPIError:
                if connection.has_answer_begun:
                    raise
        self._connection = connection = await connect(self._address, self._loop)
        return await self._exchange(connection, data)

    async def _exchange(self, connection: APIConnection, data: bytes) -> Response:
        if self._is_polling and self._is_stopped:
            raise RuntimeAPIError("the worker stops")
        connection.begin(data)
        if not self._is_polling:
            connection.limit(ANSWER_SECONDS)
        return await connection.answer

    def close(self) -> None:
        """Close the connection. The next request makes another."""
        if self._connection is not None:
            self._connection.close()


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


def result_head(
    invocation: Invocation, kind: str, address: str, fields: Fields, length: int | None = None
) -> bytes:
    """The head of a result, ``response`` or ``error``, with `length` bytes or in chunks."""
    own = [*fields]
    if length is not None:
        own.append(("Content-Length", str(length)))
    if invocation.invocation_id:
        own.append(("Lambda-Runtime-Invocation-Id", field_value(invocation.invocation_id)))
    return _head("POST", f"/invocation/{invocation.request_id}/{kind}", address, own)


def _latest_deadline_ms() -> int:
    """The deadline of an invocation that has none: AWS Lambda gives no more time."""
    return int((time.time() + MAX_SECONDS) * 1000)


def _read_invocation(answer: Response) -> Invocation:
    """Raises RuntimeAPIError if a field is missing or invalid that the worker cannot do without."""
    fields = answer.fields
    request_id = fields.get("lambda-runtime-aws-request-id", "")
    deadline = fields.get("lambda-runtime-deadline-ms") or str(_latest_deadline_ms())
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


def check_accepted(answer: Response) -> None:
    """Raises Rejected unless a result was accepted, RuntimeAPIError for status 500."""
    if 200 <= answer.status < 300:
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
    with (
        suppress(OSError),
        socket.create_connection(split_address(address), INIT_ERROR_SECONDS) as sock,
    ):
        sock.sendall(_head("POST", "/init/error", address, fields) + body)
        sock.recv(4096)
