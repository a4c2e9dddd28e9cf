"""Pure: the head of a response as bytes, checked (RFC 9112, 4 and 5; RFC 9110, 5.5)."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from ..errors import RequestError
from ..http.fields import (
    CHECKED_NAMES,
    CODING,
    CONNECTION,
    CONNECTION_CLOSE,
    LENGTH,
    VISIBLE,
    check_name,
    explain,
    read_length,
)
from ..http.grammar import Header

STATUS_LINES = {status: b"HTTP/1.1 %d \r\n" % status for status in range(100, 1000)}
"""RFC 9112, 4: the space stays if there is no reason phrase."""
STATUS_LINES.update(
    {
        status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
        for status in HTTPStatus
    }
)

EncodedFields = tuple[bytes, int, int]
"""(field lines except the framing's, ``content-length`` or -1, bit mask of `http.fields`)."""


def encode_fields(headers: Iterable[Header]) -> EncodedFields:
    """Encode the application's fields as lines, in their order.

    Raises ApplicationError about the first invalid field. The server writes some fields itself.
    ``content-length`` is returned as the number, ``connection: close`` as CONNECTION_CLOSE, and
    ``transfer-encoding`` is dropped (docs/asgi.md, 56).
    """
    parts: list[bytes] = []
    count = found = 0
    length = -1
    try:
        for name, value in headers:
            kind = CHECKED_NAMES.get(name)
            if kind is None:
                kind = check_name(name)
            if kind:
                if kind == LENGTH:
                    length = read_length(value, length)
                    continue
                if kind == CODING:
                    continue
                if kind == CONNECTION:
                    options, found = _read_connection(value, found)
                    if options:
                        parts += (name, b": ", options, b"\r\n")
                        count += 1
                    continue
                found |= kind
            parts += (name, b": ", value, b"\r\n")
            count += 1
        lines = b"".join(parts)
    except (TypeError, ValueError):
        explain(headers)
    # One check for all: without the visible characters, only the line ends may remain.
    if lines.translate(None, VISIBLE) != b"\r\n" * count:
        explain([(parts[i], parts[i + 2]) for i in range(0, len(parts), 4)])
    return lines, length, found


def _read_connection(value: bytes, found: int) -> tuple[bytes, int]:
    """Remove ``close`` and ``keep-alive``, which the server writes itself (RFC 9110, 7.6.1).

    Returns the other options, and `found` with CONNECTION_CLOSE if there was a ``close``.
    """
    options = [option.strip(b" \t") for option in b"".join((value,)).split(b",")]
    if any(option.lower() == b"close" for option in options):
        found |= CONNECTION_CLOSE
    return b", ".join(
        option for option in options if option.lower() not in (b"close", b"keep-alive", b"")
    ), found


def chunk(data: bytes, end: bool) -> bytes:
    """Encode `data` as a chunk, followed by the end of the body if `end` (RFC 9112, 7.1)."""
    if not data:
        return b"0\r\n\r\n" if end else b""
    return b"%x\r\n%b\r\n%b" % (len(data), data, b"0\r\n\r\n" if end else b"")


def body_framing(
    version: str, status: int, declared: int, size: int, bodyless: bool
) -> tuple[bytes, bool, bool]:
    """Choose the framing of a response's body (RFC 9112, 6).

    `declared`: the application's content-length, or -1. `size`: the length of the whole body if it
    is known, or -1. Returns the field line of the framing, whether the body is chunked, and whether
    only the end of the connection ends it.
    """
    if status == 204:
        return b"", False, False  # RFC 9110, 8.6 and RFC 9112, 6.1: neither field
    if declared >= 0:
        return b"content-length: %d\r\n" % declared, False, False
    if bodyless:
        # The framing of GET, as far as it is known (RFC 9110, 9.3.2). A 304 has none.
        if status == 304 or size == 0 or (size < 0 and version == "1.0"):
            return b"", False, False
        return (
            (b"content-length: %d\r\n" % size if size > 0 else b"transfer-encoding: chunked\r\n"),
            False,
            False,
        )
    if size >= 0:
        return b"content-length: %d\r\n" % size, False, False
    if version == "1.0":
        return b"", False, True
    return b"transfer-encoding: chunked\r\n", True, False


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
