"""Responses to invocations: the `ResponseWriter` of each, buffered or streamed."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, NoReturn

from ..asgi.scope import Address
from ..errors import ApplicationError, RequestError
from ..http import exchange
from ..http.contract import Header
from ..http.exchange import ExchangeLog
from ..http.fields import copied
from ..http1.encode import chunk, encode_fields
from ..observe.log import Log
from ..observe.printable import printable
from .events import Form
from .failure import Failure
from .invocation import Invocation
from .responses import encode_prelude, encode_response, max_body, too_large
from .streamed_result import StreamedResult

if TYPE_CHECKING:
    from ..asgi.http import HTTPStream

NO_RESPONSE = Failure("Runtime.NoResponse", "the application has ended without a response")
ABORTED = Failure("Runtime.ResponseAborted", "the response has ended before it was complete")
MAX_STATUS = 599
"""A gateway answers a higher one with 502."""
MAX_PRELUDE = 16384
"""Bytes within which API Gateway wants the end of the prelude."""
INTERNAL_ERROR = RequestError(500, "Internal Server Error", is_logged=True)


class InvocationWriter:
    """Writes the response of one invocation. A subclass says how it leaves."""

    def __init__(
        self,
        form: Form,
        log: ExchangeLog | None,
        error_log: Log,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.form = form
        self.is_head = False
        """The method of the request is HEAD."""
        self.log = log
        self._error_log = error_log
        self.client: Address | None = None
        """The client of the gateway, for the log."""
        self.stream: HTTPStream | None = None
        """The exchange that is answered."""
        self.failure = NO_RESPONSE
        """The reason to report, if the response cannot be complete."""
        self.finished: asyncio.Future[None] = loop.create_future()
        """The application's part is over."""
        # The head of the application, held until there is a body.
        self.status = 0
        self.headers: list[Header] = []
        self._declared = -1
        self.has_begun = False
        """The head was given a body."""
        self.sent = 0
        """Bytes of the body."""

    # For the stream: see `http.contract.ResponseWriter`.

    def start(self, status: int, headers: Iterable[Header]) -> int:
        if status > MAX_STATUS:
            raise ApplicationError(
                f"'status' must be an int from 200 to {MAX_STATUS} on AWS Lambda, not {status}"
            )
        _, declared, _ = encode_fields(headers)  # checked as for HTTP/1.1
        if not (self.is_head or status in (204, 304)):
            self.check_length(declared)
        self.status = status
        self.headers = copied(headers)
        self._declared = declared
        if self.log is not None:
            self.log.set_headers(headers)
        return declared

    def respond(
        self, body: bytes | memoryview, end: bool, bodyless: bool, is_whole: bool = False
    ) -> None:
        self.has_begun = True
        if self.failure is NO_RESPONSE:
            self.failure = ABORTED
        if bodyless:  # complete, whatever else the application sends
            self._keep_length(len(body), end)
            body, end = b"", True
        self.sent = len(body)
        self.begin(body, end)

    def write(self, data: bytes | memoryview, end: bool) -> None:
        self.sent += len(data)
        self.add(data, end)

    def set_length(self, length: int) -> None:
        if self._declared < 0:
            if not self.is_head:
                self.check_length(length)
            self._declared = length
            self.headers.append((b"content-length", b"%d" % length))

    def _keep_length(self, length: int, end: bool) -> None:
        """The response to HEAD has the length that it would have to GET (RFC 9110, 9.3.2)."""
        if self.is_head and end and length:
            self.set_length(length)

    def allows_trailers(self) -> bool:
        return False

    def write_trailers(self, headers: Iterable[Header]) -> None:
        """Not called: no response has trailers."""

    def start_file(self, descriptor: int, offset: int, count: int, end: bool) -> bool:
        if not self.has_begun:
            self.respond(b"", False, False)
        return False

    def stop_file(self) -> int:
        return 0

    def write_informational(self, status: int, headers: Iterable[Header]) -> None:
        """Not sent: a result is one response."""

    def resume_body(self) -> None:
        """The whole body is there from the beginning."""

    def abort(self) -> None:
        raise NotImplementedError

    def accept(self, headers: Iterable[Header]) -> NoReturn:
        """Not called: an invocation is no WebSocket."""
        raise NotImplementedError

    def refuse(self, error: RequestError) -> None:
        exchange.refuse(self, error)

    def finish(self) -> None:
        self.end_wait()
        self.end_log()

    def end_wait(self) -> None:
        """Nothing more of the response is waited for."""
        if not self.finished.done():
            self.finished.set_result(None)

    # For `exchange.refuse`.

    def log_invalid(self, what: str, reason: object) -> None:
        ip = self.client[0] if self.client else ""
        self._error_log.warning("Invalid %s from ip=%s: %s", what, ip, printable(str(reason)))

    def abort_begun(self) -> None:
        self.abort()

    def write_refusal(self, error: RequestError) -> None:
        self.status = error.status
        self.headers = [(b"content-type", b"text/plain; charset=utf-8"), *error.fields]
        self._declared = -1
        self.respond(error.body, True, self.is_head)

    def end_log(self) -> None:
        if self.log is not None:
            self.log.end(self.status, self.sent, self.has_begun)

    def give_up(self) -> None:
        if self.stream is not None:
            self.stream.connection_lost()
        self.end_wait()

    # For subclasses.

    def check_length(self, length: int) -> None:
        """Raise ApplicationError if a body of `length` bytes cannot be sent."""

    def begin(self, body: bytes | memoryview, end: bool) -> None:
        """Send the head and the first part of the body, the whole body with `end`."""
        raise NotImplementedError

    def add(self, data: bytes | memoryview, end: bool) -> None:
        """Send a further part of the body, the last part with `end`."""
        raise NotImplementedError


class BufferedWriter(InvocationWriter):
    """Keeps the whole response, and makes one JSON object of it."""

    def __init__(
        self,
        form: Form,
        log: ExchangeLog | None,
        error_log: Log,
        loop: asyncio.AbstractEventLoop,
        text_types: Container[str],
    ) -> None:
        super().__init__(form, log, error_log, loop)
        self._text_types = text_types
        self._parts: list[bytes | memoryview] = []
        self._error: ApplicationError | None = None
        """The reason why the response will never be complete."""
        self.payload: bytes | None = None
        """The result, once the response is complete or was replaced."""

    def check_length(self, length: int) -> None:
        if length > max_body(self.form):
            raise too_large(self.form, length)

    def begin(self, body: bytes | memoryview, end: bool) -> None:
        self.add(body, end)

    def add(self, data: bytes | memoryview, end: bool) -> None:
        if self._error is None and self.sent > max_body(self.form):
            self._error = too_large(self.form, self.sent)
        if self._error is None:
            if data:
                self._parts.append(data)
            if not end:
                return
            try:
                body = b"".join(self._parts)
                self.payload = encode_response(
                    self.form, self.status, self.headers, body, self._text_types
                )
            except ApplicationError as error:
                self._error = error
        self._parts.clear()
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """Replace the response by a 500: nothing of it has left."""
        if self.payload is None:
            self.refuse(INTERNAL_ERROR)

    def refuse(self, error: RequestError) -> None:
        """Answer in place of the application, also in place of parts of its body."""
        if self.payload is None:
            self.has_begun = False
            self._error = None
            self._parts.clear()
        super().refuse(error)


class StreamedWriter(InvocationWriter):
    """Sends the response in parts, each as soon as it is there."""

    def __init__(
        self,
        form: Form,
        log: ExchangeLog | None,
        error_log: Log,
        loop: asyncio.AbstractEventLoop,
        address: str,
        invocation: Invocation,
    ) -> None:
        """`address` is that of the Runtime API."""
        super().__init__(form, log, error_log, loop)
        self._loop = loop
        self._address = address
        self._invocation = invocation
        self._has_ended = False
        self.result: StreamedResult | None = None
        """The result, once the response has begun."""

    def start(self, status: int, headers: Iterable[Header]) -> int:
        declared = super().start(status, headers)
        size = len(encode_prelude(self.form, status, self.headers))
        if size > MAX_PRELUDE:
            raise ApplicationError(
                f"the headers of a streamed response may have at most {MAX_PRELUDE} bytes as JSON "
                f"on AWS Lambda, not {size}"
            )
        return declared

    def begin(self, body: bytes | memoryview, end: bool) -> None:
        prelude = encode_prelude(self.form, self.status, self.headers)
        self.result = StreamedResult(self._address, self._loop, self._invocation, self.stream)
        # The prelude is a chunk by itself, and leaves together with the body.
        self._write(chunk(prelude, False) + chunk(body, end), end)

    def add(self, data: bytes | memoryview, end: bool) -> None:
        self._write(chunk(data, end), end)

    def abort(self) -> None:
        """Report the failure after the parts that have left."""
        if self.has_begun and not self._has_ended:
            self._write(self.failure.encode_trailers(), True)

    def _write(self, data: bytes, end: bool) -> None:
        assert self.result is not None
        self._has_ended = end
        if data:
            self.result.write(data)
        if end:
            self.result.finish()
