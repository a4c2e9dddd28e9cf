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
"""RFC 9112, 4: the space stays where there is no reason phrase."""
STATUS_LINES.update(
    {
        status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
        for status in HTTPStatus
    }
)

EncodedFields = tuple[bytes, int, int]
"""(field lines without those of the framing, ``content-length`` or -1, bit mask)."""


def encode_fields(headers: Iterable[Header]) -> EncodedFields:
    """The application's fields as lines, in their order.

    Left out are those that the server answers for: ``content-length`` and ``connection`` (returned, as the number and CLOSE),
    ``transfer-encoding`` (ASGI statement 56). Raises ApplicationError naming the field that is not valid.
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
    # One look at all of them: only the line ends may be left when everything visible is taken away.
    if lines.translate(None, VISIBLE) != b"\r\n" * count:
        explain([(parts[i], parts[i + 2]) for i in range(0, len(parts), 4)])
    return lines, length, found


def _read_connection(value: bytes, found: int) -> tuple[bytes, int]:
    """Take ``close`` and ``keep-alive``, which the server says itself, out of the options (RFC 9110, 7.6.1)."""
    options = [option.strip(b" \t") for option in b"".join((value,)).split(b",")]
    if any(option.lower() == b"close" for option in options):
        found |= CONNECTION_CLOSE
    return b", ".join(
        option for option in options if option.lower() not in (b"close", b"keep-alive", b"")
    ), found


def chunk(data: bytes, end: bool) -> bytes:
    """`data` in the chunked transfer coding, with the end of the body behind it if `end` (RFC 9112, 7.1)."""
    if not data:
        return b"0\r\n\r\n" if end else b""
    return b"%x\r\n%b\r\n%b" % (len(data), data, b"0\r\n\r\n" if end else b"")


def body_framing(
    version: str, status: int, declared: int, size: int, bodyless: bool
) -> tuple[bytes, bool, bool]:
    """How the body of a response is delimited (RFC 9112, 6).

    `declared` is the application's content-length or -1, `size` the length of the whole body where it is known, or -1. Returns the
    field line for it, whether the body is chunked, and whether only the end of the connection ends it.
    """
    if status == 204:
        return b"", False, False  # RFC 9110, 8.6 and RFC 9112, 6.1: neither field
    if declared >= 0:
        return b"content-length: %d\r\n" % declared, False, False
    if bodyless:
        # What GET would have had, as far as that is known (RFC 9110, 9.3.2). A 304 says nothing of it.
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
    """A 1xx head (RFC 9110, 15.2). Raises ApplicationError."""
    return b"".join((STATUS_LINES[status], encode_fields(headers)[0], b"\r\n"))


def refusal(error: RequestError, head_only: bool, default_fields: bytes) -> tuple[bytes, int]:
    """A whole response that refuses a request and announces the end of the connection, and the length of its body."""
    body = str(error).encode() + b"\n"
    fields = (
        b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        % len(body)
    )
    own = b"".join(b"%b: %b\r\n" % field for field in error.fields)
    if head_only:
        body = b""
    return b"".join((STATUS_LINES[error.status], default_fields, own, fields, body)), len(body)
