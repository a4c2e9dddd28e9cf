"""What becomes of a request over HTTP/2: an exchange and its application, or a refusal and a line in the log."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from ..asgi.extensions import ExtendedStream
from ..asgi.scope import Scope, http_scope
from ..asgi.websocket import WebSocketStream
from ..errors import RequestError
from ..http.contract import NEVER, Header
from ..http.request import Request
from .budget import REFUSED
from .exchange import Exchange
from .protocol import Protocol
from .request import RequestReader, join_cookies
from .sender import Sender
from .streams import CLOSED, Limits, Stream
from .tunnel import Tunnel

if TYPE_CHECKING:
    from ..asgi.scope import Address
    from ..net.accept import Listener
    from ..observe.access_log import Access, Record
    from ..server import Server

LOGGED_VERSION = "2.0"
"""As Gunicorn, nginx and Apache write it."""


class Admission(Sender):
    """A connection with its exchanges, as far as their beginning."""

    __slots__ = ("_exchanges", "_had_all", "_more_until")

    def __init__(self, server: Server, listener: Listener, client: Address | None) -> None:
        super().__init__(server, listener, client)
        self._exchanges: dict[Exchange, None] = {}
        """Those that are not over, in their order."""
        self._had_all = False
        """Behind what is owed to the client, it was only told that the connection will end."""
        self._more_until = NEVER
        """When the preface, or the rest of a field block, has to be there."""

    def _make_protocol(self) -> Protocol:
        settings, has_websocket = self.settings, self._server.websocket is not None
        limits = Limits(
            max_streams=settings.http2_max_concurrent_streams,
            window=settings.http2_initial_window_size,
            max_frame=settings.http2_max_frame_size,
            max_header_list=settings.http2_max_header_list_size,
            has_websocket=has_websocket,
        )
        return Protocol(
            limits, RequestReader(self._rules, limits.max_header_list, has_websocket).read
        )

    def _open(
        self, stream: Stream, request: Request, has_ended: bool, record: Record | None = None
    ) -> Exchange:
        """There is a request; nothing of it is run yet."""
        method, path, raw_path, query, fields = request
        server, listener = self._server, self._listener
        scheme = fields.scheme or listener.scheme
        exchange = Exchange(self, stream, record)
        exchange.fields = fields
        self._had_all = False
        if not self._exchanges:
            self.deadline = min(self._more_until, self._stuck_at)
        self._exchanges[exchange] = None
        if server.access is not None and record is None:
            try:
                exchange.record = self._record(server.access, request, scheme)
            except RequestError as error:
                self.protocol.charge(REFUSED)
                pseudo = [
                    (b":method", method.encode()),
                    (b":path", raw_path + b"?" + query if query else raw_path),
                ]
                self._log_refused([*pseudo, *fields.headers], error, method == "HEAD")
                exchange.refuse(error, method == "HEAD")
                return exchange
        root_path = fields.root_path
        if root_path is None:
            root_path = listener.root_path
            if root_path and path != "*":
                path, raw_path = root_path + path, listener.raw_root_path + raw_path
        scope = http_scope(
            *(
                fields.version,
                method,
                scheme,
                path,
                raw_path,
                query,
                root_path,
                fields.headers.copy(),
            ),
            *(fields.client or self._client, self._server_address, server.state, self._tls),
            server.switched_off,
        )
        if fields.upgrade:
            self._open_websocket(exchange, scope, has_ended)
        else:
            exchange.stream = ExtendedStream(
                exchange, scope, not has_ended, fields.expect_continue, server
            )
            if not has_ended:
                exchange.expect_body(fields.expect_continue)
        return exchange

    def _record(self, access: Access, request: Request, scheme: str) -> Record:
        method, _, raw_path, query, fields = request
        return access.begin(
            *(
                method,
                raw_path,
                query,
                LOGGED_VERSION,
                scheme,
                fields.headers,
                self._client,
                self._server_address,
                fields.script_name,
            )
        )

    def _open_websocket(self, exchange: Exchange, scope: Scope, has_ended: bool) -> None:
        server = self._server
        assert server.websocket is not None
        try:
            if has_ended:
                # RFC 8441, 5: that is the end of a TCP connection.
                raise RequestError(400, "Invalid WebSocket handshake: its stream has ended")
            exchange.stream = stream = WebSocketStream(exchange, scope, server, server.websocket)
        except RequestError as error:
            self.protocol.charge(REFUSED)
            exchange.refuse(error)
        else:
            exchange.tunnel = Tunnel(exchange, stream)
            exchange.set_deadline(stream.deadline)

    def _start(self, exchanges: list[Exchange]) -> None:
        """Run the applications, behind all that has come with their requests."""
        server = self._server
        for exchange in exchanges:
            stream = exchange.stream
            if stream is None:
                continue  # refused
            if exchange.lane.state is CLOSED:
                exchange.finish()  # the client has changed its mind
            elif len(server.tasks) >= server.limit_concurrency:
                exchange.stream = None
                exchange.refuse(server.overloaded(), stream.method == "HEAD")
            else:
                server.start(stream)

    def _log_refused(self, fields: list[Header], error: RequestError, bodyless: bool) -> None:
        access = self._server.access
        if access is not None:
            sent = 0 if bodyless else len(str(error)) + 1
            fields = join_cookies(fields)
            access.refused_fields(
                fields,
                error.status,
                sent,
                self._listener.scheme,
                self._client,
                self._server_address,
            )

    @abstractmethod
    def forget(self, exchange: Exchange) -> None:
        """`exchange` is over."""
