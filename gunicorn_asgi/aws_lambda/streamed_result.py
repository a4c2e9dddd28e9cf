"""A streamed result of an invocation, on a connection of its own.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html, "Implementing response streaming
in a custom runtime".
"""

from __future__ import annotations

import asyncio

from .api_connection import APIConnection, BodyListener, Rejected, RuntimeAPIError, connect
from .invocation import Invocation
from .runtime_api import check_accepted, result_head

STREAM_FIELDS = (
    ("Content-Type", "application/vnd.awslambda.http-integration-response"),
    ("Lambda-Runtime-Function-Response-Mode", "streaming"),
    ("Transfer-Encoding", "chunked"),
    ("Trailer", "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body"),
)


class StreamedResult:
    """Sends a result in parts, in the chunked coding. No call waits, except `end`.

    The connection is made in the meantime: that of a poll could be closed by the Runtime API in
    the moment in which the result begins.
    """

    def __init__(
        self,
        address: str,
        loop: asyncio.AbstractEventLoop,
        invocation: Invocation,
        listener: BodyListener | None,
    ) -> None:
        """Begin the result. `listener` is told about the room for more of it."""
        self._loop = loop
        self._listener = listener
        self._connection: APIConnection | None = None
        self._unsent = [result_head(invocation, "response", address, STREAM_FIELDS)]
        """Parts that wait for the connection."""
        if listener is not None:
            listener.pause_writing()
        self._connecting = loop.create_task(self._connect(address))

    async def _connect(self, address: str) -> None:
        try:
            self._connection = connection = await connect(address, self._loop)
        except RuntimeAPIError:
            if self._listener is not None:
                self._listener.connection_lost()
            raise
        connection.listener = self._listener
        if self._listener is not None:
            self._listener.resume_writing()  # first, since the parts may fill the buffer again
        connection.begin(b"".join(self._unsent))
        self._unsent.clear()

    def write(self, data: bytes) -> None:
        """Write a part, in the chunked coding."""
        if self._connection is not None:
            self._connection.write(data)
        else:
            self._unsent.append(data)

    def finish(self) -> None:
        """The last part is written: the listener has nothing to be told any more."""
        if self._listener is not None:
            self._listener.resume_writing()  # perhaps there is no connection yet
        self._listener = None
        if self._connection is not None:
            self._connection.listener = None

    async def end(self, seconds: float) -> None:
        """Wait for the answer, for `seconds`, and close the connection.

        Raises Rejected, RuntimeAPIError.
        """
        try:
            await self._connecting
            assert self._connection is not None
            self._connection.limit(seconds)
            answer = await self._connection.answer
        except RuntimeAPIError as error:
            raise Rejected(str(error)) from None
        finally:
            if self._connection is not None:
                self._connection.close()
        check_accepted(answer)
