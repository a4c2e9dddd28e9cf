"""Which version of HTTP a new connection speaks: by ALPN, by the preface, or by ``Upgrade: h2c`` (RFC 9113, 3; RFC 7540, 3.2).

Only where HTTP/2 is served does a connection come by here; without, it is one of HTTP/1.1 from the start.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING

from .errors import RequestError
from .http.contract import ASGIStream
from .http.request import Request
from .http1.connection import H1Connection
from .http2.connection import H2Connection
from .http2.frames import PREFACE, ConnectionFailure
from .http2.request import VERSION, join_cookies
from .net.connection import CLOSED, LINGER_SECONDS, Connection, Ending

if TYPE_CHECKING:
    from .asgi.scope import Address
    from .net.accept import Listener
    from .observe.access_log import Record
    from .server import Server

NO_PREFACE = "No HTTP/2 connection preface, and http2_cleartext is prior-knowledge"


class Reading(Enum):
    """What the next bytes from the client are, until it is one of `Ending`."""

    PREFACE = "of HTTP/2, or the first request of HTTP/1.1"


class Opening(Connection):
    """A connection until its version is known. Then another takes the transport over."""

    __slots__ = ("_data",)

    _reading: Reading | Ending

    def __init__(self, server: Server, listener: Listener, client: Address | None) -> None:
        super().__init__(server, listener, client)
        self._reading = Reading.PREFACE
        self._data = b""
        """What has come, as long as it is the beginning of the preface."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a full transport
        super().connection_made(transport)
        if (
            self._listener.scheme == "https"
            and self._reading is not CLOSED
            and transport.get_protocol() is self
        ):
            tls = transport.get_extra_info("ssl_object")
            if tls is not None and tls.selected_alpn_protocol() == "h2":
                self._speak_http2(b"")
            else:
                self._speak_http1()

    def data_received(self, data: bytes) -> None:
        if self._reading is not Reading.PREFACE:
            return
        data = self._data = self._data + data
        if data.startswith(PREFACE):
            self._speak_http2(data)
        elif not PREFACE.startswith(data):
            line, has_ended, _ = data.lstrip(b"\r\n").partition(b"\n")
            if (
                has_ended
                and b"HTTP/" not in line
                and self._rules.h2c in ("prior-knowledge", "both")
            ):
                # RFC 9113, 3.4: neither version, so an invalid preface. It is told so in frames, which whoever tries to speak HTTP/2 reads.
                self._speak_http2(data)
            elif self._rules.h2c == "prior-knowledge":
                # As in Gunicorn: such a peer is expected to speak HTTP/2, and a silent downgrade would only hide the mistake.
                self._speak_http1().refuse(RequestError(400, NO_PREFACE), data)
            else:
                self._speak_http1().data_received(data)

    def _speak_http1(self) -> H1Connection:
        connection = H1Connection(self._server, self._listener, self._client)
        connection._take_over(self)
        connection.deadline = self.deadline
        return connection

    def _speak_http2(self, data: bytes) -> None:
        H2Connection(self._server, self._listener, self._client).begin(self, data)

    # For the base, and through it for the server.

    def _streams(self) -> tuple[ASGIStream, ...]:
        return ()

    def _patience(self) -> float:
        return self._server.settings.head_timeout_s

    def _overdue(self) -> None:
        if not self._data:
            self._shut_idle()
        elif self._rules.h2c == "prior-knowledge":
            self.refuse(RequestError(400, NO_PREFACE))
        else:
            self.refuse(RequestError(408, "The head of the request did not arrive in time"))

    def refuse(self, error: RequestError) -> None:
        self._speak_http1().refuse(error, self._data)

    def drain(self) -> None:
        if self._data:  # the rest is on its way
            self.deadline = min(self.deadline, self._server.now + LINGER_SECONDS)
        else:
            self._shut_idle()


CONNECTION_FIELDS = frozenset(
    {b"connection", b"upgrade", b"http2-settings", b"keep-alive", b"proxy-connection"}
)


def upgrade(origin: H1Connection, request: Request, data: bytes, record: Record | None) -> bool:
    """Answer `request`, which asks for h2c, over HTTP/2. `data` stands behind it. Returns False where its settings are none, or `data` is HTTP/1.1."""
    if not PREFACE.startswith(data[: len(PREFACE)]):
        return False  # RFC 9110, 7.8: it may be ignored, and who has sent more requests has not waited for the answer
    method, path, raw_path, query, fields = request
    headers = [field for field in fields.headers if field[0] not in CONNECTION_FIELDS]
    own = fields.with_headers(join_cookies(headers))
    own.version = VERSION
    connection = H2Connection(origin._server, origin._listener, origin._client)
    try:
        connection.begin_upgraded(
            origin, (method, path, raw_path, query, own), fields.h2c, data, record
        )
    except ConnectionFailure:
        return False
    return True
