"""The contract between an ASGI stream and its connection. Read this first.

A connection speaks a version of HTTP. A stream speaks ASGI, for one exchange: a request and its
response, or a WebSocket. The connection gives each stream a `ResponseWriter`. One request over
HTTP/1.1, from the packet to the answer::

    transport        connection, writer           stream                      application
        | data_received  |                            |                            |
        |--------------->| parse the head             |                            |
        |                | feed_data(), feed_eof()    |                            |
        |                |--------------------------->|                            |
        |                |        (only now:)         | app(scope, receive, send)  |
        |                |                            |--------------------------->|
        |                | resume_body() <------------| receive() -> http.request  |
        |                |                            |                            |
        |                | start(status, headers) <---| send(http.response.start)  |  checked, kept
        |   one write    | respond(body, end) <-------| send(http.response.body)   |
        |<---------------|                            |                            |
        |                | finish() <-----------------| the response is complete   |
        |                |                            |                            |

A connection calls its streams and never awaits. A stream calls its writer and never awaits there
either. Only a stream awaits, and only for two things: more of the request, and room to
write.

The contract is the same for every version of HTTP, so
:class:`~gunicorn_asgi.asgi.http.HTTPStream` serves all of them.

A WebSocket begins as an exchange. The application may deny it with any response. Once accepted, it
continues with a `WebSocketTransport`::

    transport        connection                   stream                      application
        |                | accept(headers) <----------| send(websocket.accept)     |
        |<---------------|-- transport, early data -->|                            |
        |--------------->| feed_data(data)            | frames, messages           |
        |                |--------------------------->| receive() -> websocket.receive
        |<---------------| write(frame) <-------------| send(websocket.send)       |
        |                | close() <------------------| both have sent a Close     |
        |                | finish() <-----------------| the application has ended  |

Each way to end has one verb, with the same meaning in every module:

===================  ==========================================================================
``finish``           The application's part of an exchange is over. Called exactly once.
``close``            Send everything that was written, then end. A WebSocket or a transport that
                     has nothing to deliver may end soon (``close_soon``, ``close_idle``).
``linger``           End this direction, and read on until the client ends its own.
``abort``            End at once, so that nobody takes the message for complete.
``reset``            Abort one stream of HTTP/2 (RST_STREAM).
``refuse``           Answer in place of the application. Where no answer is possible: abort.
``fail``             End with an error code of WebSocket or HTTP/2 (RFC 6455, 7.1.7; RFC 9113, 5.4).
``give_up``          Wait for the client no longer: to the application, it is gone.
``cancel``           Cancel the application's task.
``ask_to_end``       Tell the application that the exchange should end: ``http.disconnect``, or a
                     WebSocket's close with 1012.
``connection_lost``  The client is gone: its transport, its stream of HTTP/2, or given up.
``shut_down``        Graceful shutdown: an idle connection closes now, a busy one after its
                     response.
``release``          Everything is over: drop references that would form a circle.
===================  ==========================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from ..asgi.scope import Application
from ..errors import RequestError
from .grammar import Header as Header  # noqa: PLC0414 # re-exported on purpose

NEVER = math.inf

CLIENT_CLOSED_REQUEST = 499
"""Status for the log only: the client went away before there was a response. From nginx."""


class ApplicationTask(Protocol):
    """The task in which an application runs: an asyncio.Task, or the same of another library."""

    def cancel(self) -> bool: ...

    def cancelled(self) -> bool: ...

    def done(self) -> bool: ...

    def add_done_callback(self, callback: Callable[[Any], object], /) -> object: ...

    def get_coro(self) -> Any:
        """The coroutine, for reports on where it waits."""


class ASGIStream(Protocol):
    """The ASGI side of an exchange, as its connection calls it. Except `run`, no call waits."""

    # The request, for the log and the report on a blocked loop.
    method: str
    raw_path: bytes

    task: Any
    """The `ApplicationTask` of `run`, or None before the start."""
    is_health_check: bool
    """The server answers for the application: `ConnectionHost.start_health_check`. (HTTP/2.)"""
    may_be_followed: bool
    """The same connection may carry further requests after this exchange (HTTP/1.1)."""
    unread: int
    """Bytes of the body in memory, until the application reads them.

    Always 0 for a WebSocket: `WebSocketTransport.pause_reading` bounds its unread messages.
    """

    @property
    def deadline(self) -> float:
        """The time of the next `deadline_passed`, on the loop's clock; NEVER if there is none.

        The connection checks it about once a second.
        """

    @property
    def awaits_body(self) -> bool:
        """Whether the application waits for more of the body."""

    def run(self, app: Application) -> Coroutine[Any, Any, None]:
        """Call the application, and finish the exchange however the application ends."""

    def end_cancelled(self) -> None:
        """The task of `run` was cancelled, perhaps before its first step: finish the exchange."""

    def feed_data(self, data: bytes) -> None:
        """A part of the request's body has arrived.

        After `ResponseWriter.accept`: data of a WebSocket has arrived.
        """

    def feed_eof(self) -> None:
        """The request's body is complete.

        After `ResponseWriter.accept`: the client has ended its direction. The other direction is
        still open (RFC 8441, 5).
        """

    def ask_to_end(self) -> None:
        """The client will not wait much longer, or the server shuts down.

        ``receive()`` returns ``http.disconnect``; an open WebSocket is closed with 1012.
        """

    def pause_writing(self) -> None:
        """The connection's buffer is full: ``send()`` waits."""

    def resume_writing(self) -> None:
        """The connection's buffer has room again: ``send()`` continues."""

    def connection_lost(self) -> None:
        """The client is gone: ``receive()`` returns a disconnect, ``send()`` raises.

        May be called again.
        """

    def deadline_passed(self) -> None:
        """`deadline` has passed."""

    def cancel(self) -> None:
        """Cancel the application."""


class ResponseWriter(Protocol):
    """The connection of an exchange, as its stream calls it. No call waits."""

    def start(self, status: int, headers: Iterable[Header]) -> int:
        """Check and keep the head of the response; write nothing yet.

        Returns the declared ``content-length``, or -1. Raises ApplicationError. May be called again
        before `respond`: if the application raises in between, a clean 500 replaces the head.
        """

    def respond(
        self, body: bytes | memoryview, end: bool, bodyless: bool, is_whole: bool = False
    ) -> object:
        """Write the head and `body` in one write.

        `end`: `body` is the whole body, and its length becomes a missing ``content-length``.
        `bodyless`: the response may not have a body (HEAD, 1xx, 204, 304: RFC 9110, 6.4.1). Then
        only the length of `body` counts. `is_whole`: the rest of the whole body, which is not in
        `body`, follows at once.
        """

    def write(self, data: bytes | memoryview, end: bool) -> None:
        """Write a further part of the body, the last part with `end`.

        A memoryview, here and in `respond`, is one of single bytes, which do not change.
        """

    def set_length(self, length: int) -> None:
        """Add a ``content-length`` to the head, unless it has one. The head is not written yet."""

    def allows_trailers(self) -> bool:
        """Whether the response can have trailers (RFC 9110, 6.5). The head is not written yet."""

    def write_trailers(self, headers: Iterable[Header]) -> None:
        """End the body with a trailer section. Raises ApplicationError; then nothing is written."""

    def start_file(self, descriptor: int, offset: int, count: int, end: bool) -> bool:
        """Write the head, unless it is written, and send part of a file without reading it.

        `end`: the part is the last of the body. Returns False if the connection cannot send files.
        Then only the head is written, and the caller writes the content.

        If the part is not sent at once, this calls `ASGIStream.pause_writing`, and later
        `ASGIStream.resume_writing`: when the part is sent, or when sending fails.
        """

    def stop_file(self) -> int:
        """Stop sending the file. Returns the number of bytes that were not sent."""

    def write_informational(self, status: int, headers: Iterable[Header]) -> None:
        """Write a 1xx response, unless the client speaks HTTP/1.0 (RFC 9110, 15.2)."""

    def resume_body(self) -> None:
        """The application has read the body as far as it has arrived: read on."""

    def accept(self, headers: Iterable[Header]) -> tuple[WebSocketTransport, bytes]:
        """Complete the handshake of a WebSocket, with `headers` of the application.

        Returns the transport for the frames, which replaces this object, and the data received so
        far. Raises ApplicationError for `headers`, and ClientDisconnected if the client has closed
        its side.
        """

    def abort(self) -> None:
        """End the response in a way that shows it to be incomplete."""

    def refuse(self, error: RequestError) -> None:
        """Answer in place of the application.

        `ASGIStream.connection_lost` follows, and `ASGIStream.cancel` if the application does not
        end by itself.
        """

    def finish(self) -> None:
        """The application's part of the exchange is over. Called exactly once."""


class WebSocketTransport(Protocol):
    """The connection of an accepted WebSocket, as its stream calls it. No call waits.

    Frames are sent in the order of the writes, and before the end by `close` or `fail`. The
    connection limits the time for this (``write_timeout``). After `close`, `abort` and `fail` it
    feeds no data: `ASGIStream.connection_lost` follows, and `ASGIStream.cancel` if the application
    does not end by itself. Over TLS, which cannot end one direction alone, the connection asks
    `WebSocketStream.has_closed` when to end both.
    """

    def write(self, data: bytes) -> None:
        """Write frames. `ASGIStream.pause_writing` follows when the buffer is full.

        The head of a frame and a large payload come in two calls, with nothing in between.
        """

    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`: the application has enough messages, or there is
        enough data for later turns of the loop.

        Data already received from the client may still be fed.
        """

    def resume_reading(self) -> None:
        """All data so far counts as read: give the client room for more.

        Data fed while reading is not paused counts as read at once.
        """

    def deadline_changed(self) -> None:
        """The stream's `deadline` has a new value."""

    def close(self, is_clean: bool) -> None:
        """Close the connection; `is_clean`: both sides have sent a Close frame.

        Otherwise the client may still be sending.
        """

    def abort(self) -> None:
        """The client has not answered in time: end at once."""

    def fail(self, reason: str) -> None:
        """The client has broken the protocol (RFC 6455, 7.1.7): log `reason`, then close."""

    def finish(self) -> None:
        """The application has ended. Called exactly once. The closing handshake may continue."""
