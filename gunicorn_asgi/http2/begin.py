"""The beginning of exchanges: from a request to a running application, or a refusal in the log."""

from __future__ import annotations

from ..asgi.health import HealthCheck
from ..asgi.http import HTTPStream
from ..asgi.scope import Scope, http_scope
from ..errors import RequestError
from ..http.exchange import ExchangeLog
from ..http.grammar import Header
from ..http.request import Request, join_cookies, may_be_health_check
from ..net.transport import Transport
from ..observe.access_log import HTTP2_LOGGED_VERSION
from .blocks import Block
from .budget import REFUSED
from .exchange import Exchange, ExchangeOwner
from .limits import HTTP2Limits
from .protocol import Protocol
from .request import RequestReader
from .stream import STREAM_CLOSED, Stream
from .tunnel import Tunnel


def make_protocol(transport: Transport) -> Protocol:
    """The protocol of a new connection, with Gunicorn's limits."""
    settings = transport.host.settings
    limits = HTTP2Limits(
        max_streams=settings.http2_max_concurrent_streams,
        window=settings.http2_initial_window_size,
        max_frame=settings.http2_max_frame_size,
        max_header_list=settings.http2_max_header_list_size,
        has_websocket=settings.websocket is not None,
    )
    reader = RequestReader(transport.rules, limits.max_header_list, limits.has_websocket)
    return Protocol(limits, reader.read)


def open_exchange(
    connection: ExchangeOwner,
    stream: Stream,
    request: Request,
    has_ended: bool,
    log: ExchangeLog | None = None,
) -> Exchange:
    """Make the exchange of `request`. Nothing of it runs yet.

    `has_ended`: it has no body. `log`: its record has begun already, in HTTP/1.1.
    """
    host, transport = connection.host, connection.transport
    fields = request[4]
    exchange = Exchange(connection, stream, request[0] == "HEAD", log)
    exchange.fields = fields
    connection.exchanges[exchange] = None
    stream_class: type[HTTPStream] = HTTPStream
    if request[2] == host.health_path and may_be_health_check(request[0], fields):
        stream_class = HealthCheck
    elif host.access is not None and log is None:
        exchange.log = ExchangeLog(host.access)
        try:
            exchange.log.begin(request, HTTP2_LOGGED_VERSION, transport)
        except RequestError as error:
            connection.protocol.budget.take(REFUSED)
            exchange.log = None
            log_refused(transport, _pseudo_fields(request), error, exchange.is_head)
            exchange.refuse(error)
            return exchange
    scope = http_scope(request, transport, host.state, host.switched_off)
    if fields.upgrade:
        _open_websocket(exchange, scope, has_ended)
    else:
        exchange.stream = stream_class(exchange, scope, not has_ended, fields.expect_continue, host)
        if not has_ended:
            exchange.expect_body(fields.expect_continue)
    return exchange


def _open_websocket(exchange: Exchange, scope: Scope, has_ended: bool) -> None:
    from ..asgi.websocket import WebSocketStream  # noqa: PLC0415 # see server.load_protocols

    connection = exchange.connection
    limits = connection.host.settings.websocket
    assert limits is not None
    try:
        if has_ended:
            # RFC 8441, 5: the counterpart of a TCP connection that is closed.
            raise RequestError(400, "Invalid WebSocket handshake: its stream has ended")
        exchange.stream = stream = WebSocketStream(exchange, scope, connection.host, limits)
    except RequestError as error:
        connection.protocol.budget.take(REFUSED)
        exchange.refuse(error)
    else:
        exchange.tunnel = Tunnel(exchange, stream)
        exchange.set_deadline(stream.deadline)


def start_exchanges(connection: ExchangeOwner, exchanges: list[Exchange]) -> None:
    """Run the applications, after everything that has arrived with their requests is fed."""
    host = connection.host
    for exchange in exchanges:
        stream = exchange.stream
        if stream is None:
            continue  # refused
        if exchange.h2_stream.state is STREAM_CLOSED:
            exchange.finish()  # the client has reset it in the same packet
        elif stream.is_health_check:
            host.start_health_check(stream)
        elif len(host.tasks) >= host.limit_concurrency:
            exchange.stream = None
            exchange.refuse(host.overloaded())
        else:
            host.start(stream)


def refuse_stream(
    connection: ExchangeOwner, stream: Stream, error: RequestError, block: Block
) -> None:
    """Refuse a request that no application sees."""
    is_head = (b":method", b"HEAD") in block.fields
    log_refused(connection.transport, block.fields, error, is_head)
    exchange = Exchange(connection, stream, is_head, None)
    connection.exchanges[exchange] = None
    exchange.refuse(error)


def log_refused(
    transport: Transport, fields: list[Header], error: RequestError, is_head: bool
) -> None:
    """Write the line of the access log for a request that no application sees."""
    access = transport.host.access
    if access is not None:
        access.refused_fields(
            join_cookies(fields),
            error.status,
            0 if is_head else len(error.body),
            transport.listener.scheme,
            transport.client,
            transport.server_address,
        )


def _pseudo_fields(request: Request) -> list[Header]:
    method, _, raw_path, query, fields = request
    target = raw_path + b"?" + query if query else raw_path
    return [(b":method", method.encode()), (b":path", target), *fields.headers]
