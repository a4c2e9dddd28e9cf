"""Which version of HTTP a new connection speaks: by ALPN, by the preface, or by ``Upgrade: h2c``.

RFC 9113, 3, and RFC 7540, 3.2. Only where HTTP/2 is served; elsewhere a connection speaks HTTP/1.1
from the start.
"""

from __future__ import annotations

from .errors import RequestError
from .http.contract import ASGIStream
from .http.exchange import LATE_HEAD, ExchangeLog
from .http.request import Request, join_cookies
from .http1.connection import H1Connection
from .http2.connection import H2Connection
from .http2.frames import PREFACE, ConnectionFailure
from .http2.request import HTTP2_VERSION
from .net.idleness import INCOMPLETE, SILENT, Idleness
from .net.transport import LINGER_SECONDS, OPEN, Handler, Transport

NO_PREFACE = "No HTTP/2 connection preface, and http2_cleartext is prior-knowledge"
CONNECTION_FIELDS = frozenset(
    {b"connection", b"upgrade", b"http2-settings", b"keep-alive", b"proxy-connection"}
)
"""Fields that concern the connection of HTTP/1.1 only (RFC 9113, 8.2.2)."""


def make_handler(transport: Transport) -> Handler:
    """The handler of a new connection, where HTTP/2 is served."""
    if transport.listener.scheme == "https":
        tls = transport.raw.get_extra_info("ssl_object")
        is_h2 = tls is not None and tls.selected_alpn_protocol() == "h2"
        return H2Connection(transport) if is_h2 else H1Connection(transport)
    if transport.rules.h2c in ("prior-knowledge", "both"):
        return ProtocolDetection(transport)
    return H1Connection(transport, upgrade)


class ProtocolDetection(Handler):
    """The handler of a connection until its version is known. Then another replaces it."""

    __slots__ = ("_data",)

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._data = b""
        """Received data, as long as it is the beginning of the preface."""

    def __repr__(self) -> str:
        return f"<ProtocolDetection {self._data!r}>"

    # From the transport.

    def data_received(self, data: bytes) -> None:
        if self.transport.state is not OPEN:
            return
        data = self._data = self._data + data
        h2c = self.transport.rules.h2c
        if data.startswith(PREFACE):
            self._speak_http2(data)
        elif not PREFACE.startswith(data):
            line, has_ended, _ = data.lstrip(b"\r\n").partition(b"\n")
            if has_ended and b"HTTP/" not in line:
                # RFC 9113, 3.4: neither version, so an invalid preface. Frames tell it to a client
                # that tries to speak HTTP/2.
                self._speak_http2(data)
            elif h2c == "prior-knowledge":
                # As in Gunicorn: the client should speak HTTP/2, and a silent downgrade would only
                # hide the mistake.
                self._speak_http1().refuse(RequestError(400, NO_PREFACE), data)
            else:
                self._speak_http1().begin(data)

    def _speak_http1(self) -> H1Connection:
        handler = H1Connection(self.transport, upgrade)
        self.transport.set_handler(handler)  # the time limit for the head goes on
        return handler

    def _speak_http2(self, data: bytes) -> None:
        handler = H2Connection(self.transport)
        self.transport.set_handler(handler)
        handler.begin(data)

    # Deadlines.

    def next_deadline(self) -> float:
        return self.host.tick_end + self.host.settings.head_timeout_s

    def deadline_passed(self) -> None:
        if not self._data:
            self.transport.close_idle()
        elif self.transport.rules.h2c == "prior-knowledge":
            self.refuse(RequestError(400, NO_PREFACE))
        else:
            self.refuse(LATE_HEAD)

    # From the server.

    def idleness(self) -> tuple[Idleness, float]:
        return INCOMPLETE if self._data else SILENT, self.transport.accepted_at

    def streams(self) -> tuple[ASGIStream, ...]:
        return ()

    def refuse(self, error: RequestError) -> None:
        self._speak_http1().refuse(error, self._data)

    def shut_down(self) -> None:
        transport = self.transport
        if self._data:  # the rest is arriving
            limit = self.host.tick_end + LINGER_SECONDS
            transport.deadline = min(transport.deadline, limit)
        else:
            transport.close_idle()

    def abort_all(self) -> None:
        if self.transport.raw.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()


def upgrade(transport: Transport, request: Request, data: bytes, log: ExchangeLog | None) -> bool:
    """Answer `request`, which asks for h2c, over HTTP/2. `data` follows it.

    Returns False where its settings are invalid, or `data` is HTTP/1.1.
    """
    if not PREFACE.startswith(data[: len(PREFACE)]):
        # RFC 9110, 7.8: an upgrade may be ignored. A client that has sent more requests has not
        # waited for the answer.
        return False
    method, path, raw_path, query, fields = request
    headers = [field for field in fields.headers if field[0] not in CONNECTION_FIELDS]
    own = fields.with_headers(join_cookies(headers))
    own.version = HTTP2_VERSION
    handler = H2Connection(transport)
    try:
        handler.begin_upgraded((method, path, raw_path, query, own), fields.h2c, data, log)
    except ConnectionFailure:
        handler.release()
        return False
    return True
