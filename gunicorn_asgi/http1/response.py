"""Pure: one response after the other, from the application's messages to bytes."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import RequestError
from ..http.contract import Header
from ..http.fields import CONNECTION_CLOSE
from .encode import body_framing, chunk, encode_fields
from .status_line import STATUS_LINES

SEPARATE_SIZE = 16384
"""Size in bytes from which a body is not copied after its head: two writes cost less then."""


class Response:
    """The response to the current request. A connection has one, and uses it for every request."""

    __slots__ = (
        "_declared",
        "_found",
        "_lines",
        "begun",
        "ends_with_connection",
        "is_chunked",
        "keep_alive",
        "sent",
        "status",
    )

    def __init__(self) -> None:
        # The head of the application, held until there is a body.
        self.status = 0
        self._lines = b""
        self._declared = -1
        self._found = 0
        self.is_chunked = False
        """The body is in the chunked transfer coding. Valid once the response has `begun`."""
        self.ends_with_connection = False
        """Only the end of the connection ends this response."""
        # These describe the previous response until the connection begins a new one.
        self.begun = False
        """The head is written."""
        self.keep_alive = False
        """This side keeps the connection open after the response."""
        self.sent = 0
        """Bytes of the body, without its framing."""

    def start(self, status: int, headers: Iterable[Header]) -> int:
        """Check and hold a head; returns its ``content-length`` or -1. Raises ApplicationError."""
        self._lines, self._declared, self._found = encode_fields(headers)
        self.status = status
        return self._declared

    def begin(
        self,
        version: str,
        body: bytes | memoryview,
        end: bool,
        bodyless: bool,
        keep_alive: bool,
        default_fields: tuple[bytes, ...],
    ) -> tuple[bytes, bytes | memoryview]:
        """The held head and the first part of the body, the whole body if `end`.

        Returns one piece, and the body by itself if it is too large to copy. `version` is the
        version of the request. `keep_alive`: request and connection allow the connection to stay
        open. `default_fields`: the server's own lines, indexed by the fields that the application
        has set. The status line always says HTTP/1.1 (RFC 9110, 6.2).
        """
        status = self.status
        found = self._found
        declared = self._declared
        if declared >= 0 and not bodyless:
            framing = b"content-length: %d\r\n" % declared
            self.is_chunked = self.ends_with_connection = False
        else:
            framing, self.is_chunked, self.ends_with_connection = body_framing(
                version, status, declared, len(body) if end else -1, bodyless
            )
        self.keep_alive = keep_alive = keep_alive and not (
            found & CONNECTION_CLOSE or self.ends_with_connection
        )
        # RFC 9112, 9.3: without the field, HTTP/1.0 closes and HTTP/1.1 keeps the connection.
        if not keep_alive:
            framing += b"connection: close\r\n"
        elif version == "1.0":
            framing += b"connection: keep-alive\r\n"
        if bodyless:
            body = b""
        else:
            self.sent = len(body)
            if self.is_chunked:
                body = chunk(body, end)
        self.begun = True
        large: bytes | memoryview = b""
        if len(body) >= SEPARATE_SIZE:
            body, large = b"", body
        return b"".join(
            (STATUS_LINES[status], self._lines, default_fields[found & 3], framing, b"\r\n", body)
        ), large

    def set_length(self, length: int) -> None:
        """Give the held head a ``content-length``, unless it has one."""
        if self._declared < 0:
            self._declared = length

    @property
    def may_be_chunked(self) -> bool:
        """Whether the held head does not declare the length of the body."""
        return self._declared < 0

    def write_trailers(self, headers: Iterable[Header]) -> bytes:
        """The end of a chunked body, with a trailer section (RFC 9112, 7.1.2).

        Raises ApplicationError.
        """
        return b"0\r\n%b\r\n" % encode_fields(headers)[0]

    def part(self, data: bytes | memoryview, end: bool) -> bytes | memoryview:
        """A further part of the body, the last one if `end`."""
        self.sent += len(data)
        return chunk(data, end) if self.is_chunked else data

    def refuse(self, error: RequestError, bodyless: bool, default_fields: bytes) -> bytes:
        """The whole answer of the server's own, in place of a head that may be held."""
        data, self.sent = refusal(error, bodyless, default_fields)
        self.status, self.begun = error.status, True
        return data


def informational(status: int, headers: Iterable[Header]) -> bytes:
    """Encode a 1xx head (RFC 9110, 15.2). Raises ApplicationError."""
    return b"".join((STATUS_LINES[status], encode_fields(headers)[0], b"\r\n"))


def refusal(error: RequestError, head_only: bool, default_fields: bytes) -> tuple[bytes, int]:
    """Encode the response that refuses a request, with ``connection: close``.

    Returns it with the length of its body.
    """
    body = error.body
    fields = (
        b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
        b"connection: close\r\n\r\n" % len(body)
    )
    own = b"".join(b"%b: %b\r\n" % field for field in error.fields)
    if head_only:
        body = b""
    return b"".join((STATUS_LINES[error.status], default_fields, own, fields, body)), len(body)
