"""The handshake of a WebSocket: the application accepts it, or denies it with a response."""

from __future__ import annotations

from ..errors import ApplicationError, ClientDisconnected, RequestError
from ..http.contract import ResponseWriter, WebSocketTransport
from ..http.grammar import Header
from ..observe.printable import printable
from ..websocket.deflate import Deflate
from ..websocket.limits import WebSocketLimits
from ..websocket.negotiation import negotiate_deflate, read_headers, read_subprotocols
from .exchange import COMPLETE, WAITING, ExchangeHost
from .http import GONE, PRESENT, HTTPStream
from .scope import Message, Scope, websocket_scope


class WebSocketHandshake:
    """The HTTP exchange that a WebSocket begins with.

    A denial is a response like any other (ASGI, "Websocket Denial Response"). So `http` has its
    checks, its limits and its log.
    """

    __slots__ = ("_subprotocols", "deflate", "http")

    def __init__(
        self, writer: ResponseWriter, scope: Scope, host: ExchangeHost, limits: WebSocketLimits
    ) -> None:
        """`scope` belongs to the request. Raises RequestError."""
        self._subprotocols = read_subprotocols(scope["headers"])
        self.deflate: Deflate | None = (
            negotiate_deflate(scope["headers"]) if limits.deflate else None
        )
        self.http = HTTPStream(writer, scope, False, False, host)
        self.http.scope = websocket_scope(scope, self._subprotocols.copy())

    @property
    def is_gone(self) -> bool:
        """Whether nothing more can be sent: the client is gone, or has the whole denial."""
        return self.http.client is GONE or self.http.phase is COMPLETE

    def answer(self, kind: str, message: Message) -> tuple[WebSocketTransport, bytes] | None:
        """Send a message of the application.

        Returns the transport and the early data of an accepted WebSocket. Raises ApplicationError
        for a message that is not allowed here, and ClientDisconnected.
        """
        http = self.http
        if http.phase is not WAITING:
            if kind != "websocket.http.response.body":
                raise ApplicationError(f"expected 'websocket.http.response.body', not {kind!r}")
            http.send_body(message)
        elif kind == "websocket.accept":
            return self._accept(message)
        elif kind == "websocket.close":
            self._deny(403, b"")
        elif kind == "websocket.http.response.start":
            http.send_start(message, trailers=False)
        else:
            raise ApplicationError(
                "expected 'websocket.accept', 'websocket.close' or 'websocket.http.response.start',"
                f" not {kind!r}"
            )
        return None

    def _accept(self, message: Message) -> tuple[WebSocketTransport, bytes]:
        headers: list[Header] = []
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            if subprotocol not in self._subprotocols:
                # RFC 6455, 4.1: the client would have to fail the connection.
                raise ApplicationError(
                    "'subprotocol' must be one of those that the client offers,"
                    f" {self._subprotocols!r}, not {subprotocol!r}"
                )
            headers.append((b"sec-websocket-protocol", subprotocol.encode()))
        if self.deflate is not None:
            headers.append((b"sec-websocket-extensions", self.deflate.header))
        headers += read_headers(message.get("headers"))
        try:
            return self.http.writer.accept(headers)
        except ClientDisconnected:
            self.http.connection_lost()
            raise

    def _deny(self, status: int, body: bytes) -> None:
        self.http.writer.start(status, ())
        self.http.writer.respond(body, True, False)
        self.http.finish()

    def refuse(self, timeout_s: float) -> None:
        """The application has not answered within `timeout_s`: answer with 500."""
        http = self.http
        http.host.log.error(
            "ASGI application did not answer the WebSocket handshake %s in time"
            " (%g s, option ws_accept_timeout)",
            printable(http.raw_path),
            timeout_s,
        )
        http.writer.refuse(RequestError(500, "Internal Server Error", is_logged=True))

    def application_returned(self) -> None:
        """The application has returned without accepting, and without a complete denial."""
        http = self.http
        if http.phase is not WAITING:
            http.application_returned()
        elif http.client is not PRESENT:
            # The worker stops, or the client has closed its side. The application was told so.
            self._deny(500, b"Internal Server Error")
        else:
            http.report_failure(
                "ASGI application returned without accepting or denying the WebSocket of %s %s",
                None,
            )
