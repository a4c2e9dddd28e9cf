"""One connection to the Runtime API: a request is written, and its answer waited for."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from .api_response import InvalidResponse, Response, ResponseReader
from .environment import split_address

CONNECT_SECONDS = 5.0
"""Time limit for a connection to the Runtime API, which is on the same machine."""
READ_SECONDS = 0.05
"""Time to read an answer that has arrived, after the time limit for it."""
LOST = "the connection has ended before the answer"


class RuntimeAPIError(Exception):
    """The Runtime API cannot be reached, or it does not answer as it should."""


class NoAnswer(RuntimeAPIError):
    """An answer has not come in time. The Runtime API may have taken the request."""


class Rejected(Exception):
    """The Runtime API has not taken one result. It may go on to hand out invocations."""


class BodyListener(Protocol):
    """The sender of the body of a request: an HTTPStream, for example."""

    def pause_writing(self) -> None:
        """There is no room for more of the body."""

    def resume_writing(self) -> None:
        """There is room again."""

    def connection_lost(self) -> None:
        """No more of the body is wanted: it is answered, or nobody is there."""


class APIConnection(asyncio.Protocol):
    """A connection for one request after the other. An answer is waited for from the beginning."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.listener: BodyListener | None = None
        """Told about the body of the current request, if that is sent in parts."""
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._reader = ResponseReader()
        self.answer: asyncio.Future[Response] = loop.create_future()
        """The answer to the current request, or RuntimeAPIError."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def has_answer_begun(self) -> bool:
        """Whether any of the answer to the current request has arrived."""
        return self._reader.has_begun

    def begin(self, data: bytes) -> None:
        """Write a request, or the beginning of it."""
        self._reader = ResponseReader()
        self.answer = self._loop.create_future()
        if self.is_open:
            self.write(data)
        else:
            self._lose(RuntimeAPIError(LOST))

    def write(self, data: bytes | memoryview) -> None:
        """Write a further part of a request."""
        if self._transport is not None:
            self._transport.write(data)

    def limit(self, seconds: float) -> None:
        """Have the answer fail, and close, unless it comes within `seconds`."""
        if not self.answer.done():
            self._timer = self._loop.call_later(seconds, self._expire, seconds)

    def _expire(self, seconds: float) -> None:
        # uvloop runs timers before it reads: where the process was frozen, the answer may be here.
        self._timer = self._loop.call_later(READ_SECONDS, self._give_up, seconds)

    def _give_up(self, seconds: float) -> None:
        self._lose(NoAnswer(f"there was no answer within {seconds:.0f} s"))
        self.close()

    def close(self) -> None:
        """Close at once. A current request has no answer."""
        if self._transport is not None:
            self._transport.abort()

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        try:
            self._take(self._reader.feed(data))
        except InvalidResponse as error:
            self._lose(RuntimeAPIError(f"its answer is invalid: {error}"))
            self.close()

    def eof_received(self) -> None:
        self._take(self._reader.feed_eof())

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(RuntimeAPIError(LOST if exc is None else f"{LOST}: {exc}"))

    def pause_writing(self) -> None:
        if self.listener is not None:
            self.listener.pause_writing()

    def resume_writing(self) -> None:
        if self.listener is not None:
            self.listener.resume_writing()

    def _take(self, answer: Response | None) -> None:
        if answer is None:
            return
        if not answer.keeps_connection or self.answer.done():  # or nobody has asked
            self.close()
        if not self.answer.done():
            self.answer.set_result(answer)
        self._end()

    def _lose(self, error: RuntimeAPIError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # perhaps nobody waits for it any more
        self._end()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.listener is not None:
            self.listener.connection_lost()


async def connect(address: str, loop: asyncio.AbstractEventLoop) -> APIConnection:
    """Connect to `address`, host and port. Raises RuntimeAPIError."""
    host, port = split_address(address)
    try:
        _, connection = await asyncio.wait_for(
            loop.create_connection(lambda: APIConnection(loop), host, port),
            CONNECT_SECONDS,
        )
    except (OSError, asyncio.TimeoutError) as error:
        reason = str(error) or "no answer"
        raise RuntimeAPIError(f"{address} cannot be reached: {reason}") from None
    return connection
