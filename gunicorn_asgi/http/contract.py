"""The contract between a stream (one exchange, speaks ASGI) and its connection (speaks a protocol). Read this first.

One request over HTTP/1.1, from the packet to the answer::

    transport        connection                   stream                      application
        | data_received  |                            |                            |
        |--------------->| parse the head             |                            |
        |                | feed(body), feed_eof()     |                            |
        |                |--------------------------->|                            |
        |                |        (only now:)         | app(scope, receive, send)  |
        |                |                            |--------------------------->|
        |                |      credit() <------------| receive() -> http.request  |
        |                |                            |                            |
        |                | head(status, headers) <----| send(http.response.start)  |   checked, held, not written
        |   one write    | respond(body, end) <-------| send(http.response.body)   |
        |<---------------|                            |                            |
        |                | finish() <-----------------| the response is complete   |
        |                |                            |                            |

A connection calls its streams and never awaits; a stream calls its connection and never awaits there either. Only a stream
awaits, and only for two things: more of the request, and room to write.

Nothing here is particular to a version of HTTP, so that one :class:`~gunicorn_asgi.asgi.http.HTTPStream` serves them all.

A WebSocket begins as such an exchange. Until the application has accepted it, it may be answered like any other; then it goes on with a `Pipe`::

    transport        connection                   stream                      application
        |                | accept(headers) <----------| send(websocket.accept)     |
        |<---------------|-- the Pipe and what has come already -->|               |
        |--------------->| feed(data)                 | frames, messages           |
        |                |--------------------------->| receive() -> websocket.receive
        |<---------------| write(frame) <-------------| send(websocket.send)       |
        |                | close() <------------------| both have sent a Close     |
        |                | finish() <-----------------| the application has ended  |
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..errors import RequestError

NEVER = math.inf

CLIENT_CLOSED_REQUEST = 499
"""For the log: the status that nginx's has made known for a client that went away before there was a response; never sent."""

Header = tuple[bytes, bytes]


class Stream(Protocol):
    """What a connection tells an exchange. All plain calls."""

    # Of the request, for whoever has to name the exchange.
    method: str
    raw_path: bytes

    deadline: float
    """When `expired` is due, on the loop's clock; NEVER if nothing is waited for. The connection looks after it about once a second."""
    may_be_followed: bool
    """The same connection may carry further requests, also where they come one after the other (HTTP/1.1)."""
    unread: int
    """Bytes of the body that wait for the application. What a WebSocket has not read is bounded by `Pipe.hold` instead."""

    @property
    def awaits_body(self) -> bool:
        """Whether the application waits for more of the body."""

    def feed(self, data: bytes) -> None:
        """A part of the request's body has arrived; since `Wire.accept`, and not before it, what else the client of a WebSocket has sent."""

    def feed_eof(self) -> None:
        """The request's body is complete. Of an accepted WebSocket: nothing more comes, and the other direction is open (RFC 8441, 5)."""

    def hang_up(self) -> None:
        """The client will not wait much longer, or the server will not: tell it an application that listens, and close a WebSocket with 1012."""

    def pause(self) -> None:
        """What was sent is not leaving: ``send()`` waits."""

    def resume(self) -> None:
        """There is room to send again."""

    def lost(self) -> None:
        """The client is gone: ``receive()`` says so and ``send()`` raises. May come more than once."""

    def expired(self) -> None:
        """`deadline` has passed."""

    def cancel(self) -> None:
        """The time is up: cancel the application."""


class Wire(Protocol):
    """What an exchange tells its connection. All plain calls; `stream` is the caller."""

    def head(self, stream: Any, status: int, headers: Iterable[Header]) -> int:
        """Check and hold the head of the response; write nothing yet.

        Returns the ``content-length`` that the application declared, or -1. Raises ApplicationError. May be called again as long as
        `respond` has not been: an exception in between still becomes a clean 500.
        """

    def respond(self, stream: Any, body: bytes, end: bool, bodyless: bool) -> object:
        """Write the held head, and `body` behind it, in one write.

        `end`: this is the whole body (a missing ``content-length`` becomes its length). `bodyless`: the answer may not carry a body
        (HEAD, 1xx, 204, 304: RFC 9110, 6.4.1), `body` only lends its length.
        """

    def write(self, stream: Any, data: bytes, end: bool) -> None:
        """Write a further part of the body, the last one with `end`."""

    def declare(self, stream: Any, length: int) -> None:
        """The held head is that of a body of so many bytes, as if the application had said so, where it has said nothing."""

    def may_have_trailers(self, stream: Any) -> bool:
        """Whether the response whose head is held can have trailers, which the application promises (ASGI statements 148 to 151)."""

    def trailers(self, stream: Any, headers: Iterable[Header]) -> None:
        """End the response with these behind its body. Raises ApplicationError, and then nothing is written."""

    def start_file(self, stream: Any, descriptor: int, offset: int, count: int, end: bool) -> bool:
        """Send the head, if it is still held, and a part of a file behind it, without reading that; the last part of the body if `end`.

        Where it does not leave at once, `Stream.pause` comes from within, and `Stream.resume` when it is sent, or cannot be. Returns False where
        all that is not possible: then the head is written, and the bytes of the file have to be.
        """

    def end_file(self, stream: Any) -> int:
        """Stop that, if it goes on. Returns how many bytes were not sent."""

    def inform(self, stream: Any, status: int, headers: Iterable[Header]) -> None:
        """Write a 1xx head, where the version of the protocol has them."""

    def credit(self, stream: Any) -> None:
        """The application has taken all of the body that was here: more may come."""

    def abort(self, stream: Any) -> None:
        """End the response so that nobody can take it for whole."""

    def accept(self, stream: Any, headers: Iterable[Header]) -> tuple[Pipe, bytes]:
        """Complete the handshake of a WebSocket, with `headers` beside those that its version of HTTP asks for.

        Returns what to go on with instead of this object, and what the client has sent already. Raises ApplicationError for `headers`, and
        ClientDisconnected where the client has closed its side.
        """

    def fail(self, stream: Any, error: RequestError) -> None:
        """Answer in the application's place, and give the exchange up: `Stream.lost` follows, and `Stream.cancel` if it does not end by itself."""

    def finish(self, stream: Any) -> None:
        """The exchange has ended, well or not: called exactly once."""


class Pipe(Protocol):
    """What a WebSocket tells its connection, which passes bytes both ways now: one Pipe for each. All plain calls.

    What is written goes out in its order, also before the end that `close` and `fail` make, and the connection sees to it that this has an end
    (``write_timeout``). Behind `close`, `abort` and `fail` nothing is fed any more: `Stream.lost` follows, and `Stream.cancel` if the
    application does not end by itself. A connection that cannot end one direction alone asks
    `WebSocketStream.has_closed` when to end both.
    """

    def write(self, data: bytes) -> None:
        """Write whole frames: never waits, `Stream.pause` and `resume` say when to."""

    def hold(self) -> None:
        """The application has enough to read: nothing is to be asked of the client until `credit`. What is on its way may still be fed."""

    def credit(self) -> None:
        """All that was fed has been taken, and more may come. What is fed while nothing is held counts as taken at once."""

    def reschedule(self) -> None:
        """The stream's `deadline` is another one now."""

    def close(self, is_clean: bool) -> None:
        """Nothing more is to be written or read. `is_clean`: both sides have said so; otherwise the client may still be sending."""

    def abort(self) -> None:
        """The client has not answered in time: nothing is waited for any more."""

    def fail(self, reason: str) -> None:
        """The client has broken the protocol, or is gone: the log is told `reason`, and nothing more is to be written or read."""

    def finish(self) -> None:
        """The application has ended: called exactly once. The closing handshake may go on behind it."""
