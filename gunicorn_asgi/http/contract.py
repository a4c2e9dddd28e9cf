"""The contract between an ASGI stream and its connection. Read this first.

A connection speaks a version of HTTP. A stream speaks ASGI, for one exchange: a request and its
response, or a WebSocket. One request over HTTP/1.1, from the packet to the answer::

    transport        connection                   stream                      application
        | data_received  |                            |                            |
        |--------------->| parse the head             |                            |
        |                | feed_data(), feed_eof()    |                            |
        |                |--------------------------->|                            |
        |                |        (only now:)         | app(scope, receive, send)  |
        |                |                            |--------------------------->|
        |                | resume_body() <------------| receive() -> http.request  |
        |                |                            |                            |
        |                | start(status, headers) <---| send(http.response.start)  |  checked, held
        |   one write    | respond(body, end) <-------| send(http.response.body)   |
        |<---------------|                            |                            |
        |                | finish() <-----------------| the response is complete   |
        |                |                            |                            |

A connection calls its streams and never awaits. A stream calls its connection and never awaits
there either. Only a stream awaits, and only for two things: more of the request, and room to
write.

Nothing here belongs to one version of HTTP, so one
:class:`~gunicorn_asgi.asgi.http.HTTPStream` serves every version.

A WebSocket begins as an exchange. Until the application accepts it, the exchange may be answered
with any response. After that it continues with a `WebSocketTransport`::

    transport        connection                   stream                      application
        |                | accept(headers) <----------| send(websocket.accept)     |
        |<---------------|-- transport, early data -->|                            |
        |--------------->| feed_data(data)            | frames, messages           |
        |                |--------------------------->| receive() -> websocket.receive
        |<---------------| write(frame) <-------------| send(websocket.send)       |
        |                | close() <------------------| both have sent a Close     |
        |                | finish() <-----------------| the application has ended  |

Each way to end has one verb, with the same meaning in every module:

==================  ===========================================================================
``finish``          The application's part of an exchange is over. Called exactly once.
``close``           Send everything that was written, then end this direction (FIN, close_notify,
                    END_STREAM).
``abort``           End at once (RST, RST_STREAM), so that nobody takes the message for complete.
``refuse``          Answer in place of the application, then close.
``fail``            The peer broke the protocol: say so with the protocol's code, then close.
``cancel``          Cancel the application's task.
``ask_to_end``      Tell the application that the exchange should end: ``http.disconnect``, or a
                    WebSocket's close with 1012.
``connection_lost``  The transport (or the HTTP/2 stream) is gone.
``shut_down``       Graceful shutdown: an idle connection closes now, a busy one after its
                    response.
==================  ===========================================================================
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import Protocol

from ..errors import RequestError
from .grammar import Header as Header  # noqa: PLC0414 # re-exported on purpose

NEVER = math.inf

CLIENT_CLOSED_REQUEST = 499
"""Status for the log only: the client went away before there was a response. nginx made it known."""


class ASGIStream(Protocol):
    """The calls that a connection makes to an exchange's ASGI side. All are plain calls."""

    # Of the request, for the log and the report on a blocked loop.
    method: str
    raw_path: bytes

    task: asyncio.Task[None] | None
    """Runs the application; None before it was started."""
    deadline: float
    """When `deadline_passed` is due, on the loop's clock. NEVER if nothing is waited for.

    The connection checks it about once a second.
    """
    may_be_followed: bool
    """The same connection may carry further requests after this one (HTTP/1.1)."""
    unread: int
    """Bytes of the body that wait for the application. `WebSocketTransport.pause_reading` bounds
    the unread messages of a WebSocket instead."""

    @property
    def awaits_body(self) -> bool:
        """Whether the application waits for more of the body."""

    def feed_data(self, data: bytes) -> None:
        """A part of the request's body has arrived. After `ResponseWriter.accept`: further bytes
        of a WebSocket's client."""

    def feed_eof(self) -> None:
        """The request's body is complete. Of an accepted WebSocket: nothing more comes, and the
        other direction is still open (RFC 8441, 5)."""

    def ask_to_end(self) -> None:
        """The client will not wait much longer, or the server shuts down.

        ``receive()`` returns ``http.disconnect``; an open WebSocket is closed with 1012.
        """

    def pause_writing(self) -> None:
        """The connection's buffer is full: ``send()`` waits."""

    def resume_writing(self) -> None:
        """There is room to send again."""

    def connection_lost(self) -> None:
        """The client is gone: ``receive()`` says so and ``send()`` raises. May be called again."""

    def deadline_passed(self) -> None:
        """`deadline` has passed."""

    def cancel(self) -> None:
        """Cancel the application."""


class ResponseWriter(Protocol):
    """The calls that an exchange makes to its connection. All are plain calls."""

    def start(self, status: int, headers: Iterable[Header]) -> int:
        """Check and hold the head of the response; write nothing yet.

        Returns the ``content-length`` that the application declared, or -1. Raises
        ApplicationError. May be called again until `respond` is: an exception in between still
        becomes a clean 500.
        """

    def respond(self, body: bytes, end: bool, bodyless: bool) -> object:
        """Write the held head, followed by `body`, in one write.

        `end`: this is the whole body (a missing ``content-length`` becomes its length).
        `bodyless`: the response may not carry a body (HEAD, 1xx, 204, 304: RFC 9110, 6.4.1), so
        `body` only lends its length.
        """

    def write(self, data: bytes, end: bool) -> None:
        """Write a further part of the body, the last one with `end`."""

    def set_length(self, length: int) -> None:
        """Give the held head a ``content-length`` of so many bytes, unless it has one."""

    def allows_trailers(self) -> bool:
        """Whether the response whose head is held can have trailers (RFC 9110, 6.5)."""

    def write_trailers(self, headers: Iterable[Header]) -> None:
        """End the body with a trailer section. Raises ApplicationError; then nothing is written."""

    def start_file(self, descriptor: int, offset: int, count: int, end: bool) -> bool:
        """Write the head, if it is still held, and send part of a file without reading it.

        `end`: this is the last part of the body. If the file does not leave at once,
        `ASGIStream.pause_writing` is called from within, and `ASGIStream.resume_writing` when the
        file is sent, or cannot be. Returns False where files cannot be sent like this: then the
        head is written, and the caller writes the bytes of the file.
        """

    def stop_file(self) -> int:
        """Stop sending the file, if that goes on. Returns how many bytes were not sent."""

    def write_informational(self, status: int, headers: Iterable[Header]) -> None:
        """Write a 1xx response, where the version of the protocol has them (RFC 9110, 15.2)."""

    def resume_body(self) -> None:
        """The application has taken all of the body that was here: more may come."""

    def accept(self, headers: Iterable[Header]) -> tuple[WebSocketTransport, bytes]:
        """Complete the handshake of a WebSocket, with `headers` of the application.

        Returns the transport that replaces this object, and the bytes that the client has already
        sent. Raises ApplicationError for `headers`, and ClientDisconnected where the client has
        closed its side.
        """

    def abort(self) -> None:
        """End the response so that nobody can take it for complete."""

    def refuse(self, error: RequestError) -> None:
        """Answer in the application's place, and give the exchange up.

        `ASGIStream.connection_lost` follows, and `ASGIStream.cancel` if the application does not
        end by itself.
        """

    def finish(self) -> None:
        """The application's part of the exchange is over: called exactly once."""


class WebSocketTransport(Protocol):
    """The calls that an accepted WebSocket makes to its connection. All are plain calls.

    Everything written leaves in order, also before the end that `close` and `fail` make. The
    connection limits how long that may take (``write_timeout``). After `close`, `abort` and `fail`
    nothing more is fed: `ASGIStream.connection_lost` follows, and `ASGIStream.cancel` if the
    application does not end by itself. A connection that cannot end one direction alone asks
    `WebSocketStream.has_closed` when to end both.
    """

    def write(self, data: bytes) -> None:
        """Write whole frames. Never waits: `ASGIStream.pause_writing` says when to."""

    def pause_reading(self) -> None:
        """The application has enough to read: ask nothing of the client until `resume_reading`.

        Bytes that are already on their way may still be fed.
        """

    def resume_reading(self) -> None:
        """Everything that was fed is taken, and more may come.

        Bytes that are fed while reading is not paused count as taken at once.
        """

    def deadline_changed(self) -> None:
        """The stream's `deadline` has a new value."""

    def close(self, is_clean: bool) -> None:
        """Nothing more is to be written or read.

        `is_clean`: both sides have sent a Close frame. Otherwise the client may still be sending.
        """

    def abort(self) -> None:
        """The client has not answered in time: end without waiting for it."""

    def fail(self, reason: str) -> None:
        """The client has broken the protocol (RFC 6455, 7.1.7): log `reason`, then close."""

    def finish(self) -> None:
        """The application has ended: called exactly once. The closing handshake may continue."""
