"""Pure: the agreements of a WebSocket's handshake, on either version of HTTP.

RFC 6455, 4 and 9; RFC 7692, 5 and 7. The websockets package reads and negotiates.
"""

from __future__ import annotations

from collections.abc import Iterable

from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension, parse_subprotocol
from websockets.utils import accept_key as _accept_key

from ..errors import ApplicationError, RequestError
from ..http.fields import as_list
from ..http.grammar import Header
from .deflate import WINDOW_BITS, Deflate

MAX_OFFER = 16384
"""Bytes of all values of one field of the handshake. Python reads them, at about 4 MB/s, and blocks
the loop meanwhile."""
DEFLATE_FACTORY = ServerPerMessageDeflateFactory(
    server_max_window_bits=WINDOW_BITS, client_max_window_bits=WINDOW_BITS
)


def accept_key(key: bytes) -> bytes:
    """Return the ``Sec-WebSocket-Accept`` for a ``Sec-WebSocket-Key`` (RFC 6455, 4.2.2)."""
    return _accept_key(key.decode()).encode()


def read_subprotocols(headers: Iterable[Header]) -> list[str]:
    """Return the client's subprotocols in order, from all header lines. Raises RequestError.

    RFC 6455, 11.3.4.
    """
    values = _values(headers, b"sec-websocket-protocol")
    try:
        return [name for value in values for name in parse_subprotocol(value)]
    except InvalidHeader as error:
        raise RequestError(400, "Invalid Sec-WebSocket-Protocol: not a list of tokens") from error


def negotiate_deflate(headers: Iterable[Header]) -> Deflate | None:
    """Accept the first acceptable offer of permessage-deflate (RFC 7692, 5 and 7).

    Raises RequestError for a malformed list of extensions (RFC 6455, 9.1).
    """
    values = _values(headers, b"sec-websocket-extensions")
    try:
        offers = [offer for value in values for offer in parse_extension(value)]
    except InvalidHeader as error:
        raise RequestError(
            400, "Invalid Sec-WebSocket-Extensions: not a list of extensions"
        ) from error
    for name, parameters in offers:
        if name == DEFLATE_FACTORY.name:
            try:
                agreed, theirs = DEFLATE_FACTORY.process_request_params(parameters, ())
            except (NegotiationError, ValueError):
                # ValueError: zlib's error for server_max_window_bits=8. The package accepts 8
                # before version 17.
                continue
            return Deflate(
                build_extension([(name, list(agreed))]).encode(),
                client_bits=theirs.remote_max_window_bits,
                server_bits=theirs.local_max_window_bits,
                client_no_context_takeover=theirs.remote_no_context_takeover,
                server_no_context_takeover=theirs.local_no_context_takeover,
            )
    return None


def read_headers(headers: object) -> list[Header]:
    """Return the headers of ``websocket.accept``, whose form is not checked.

    Raises ApplicationError for a header of the handshake itself.

    docs/asgi.md, 86; RFC 6455, 4.2.2.
    """
    if headers is None:
        return []
    fields = as_list(headers)
    for field in fields:
        name = (
            field[0].lower()
            if isinstance(field, (tuple, list)) and field and isinstance(field[0], bytes)
            else b""
        )
        if name == b"upgrade" or name.startswith(b"sec-websocket-"):
            raise ApplicationError(
                f"the header {field[0]!r} of 'websocket.accept' is the server's to send"
            )
    return fields


def _values(headers: Iterable[Header], name: bytes) -> list[str]:
    """Return the values of the field `name`. Raises RequestError if they are too long."""
    values = [value.decode("latin-1") for other, value in headers if other == name]
    if sum(map(len, values)) > MAX_OFFER:
        raise RequestError(
            431, f"Invalid WebSocket handshake: {name.decode()} is longer than {MAX_OFFER} bytes"
        )
    return values
