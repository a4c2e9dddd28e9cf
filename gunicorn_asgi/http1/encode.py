"""Pure: the fields and the framing of a response as bytes, checked (RFC 9112; RFC 9110, 5.5)."""

from __future__ import annotations

from collections.abc import Iterable

from ..http.fields import (
    CHECKED_NAMES,
    CODING,
    CONNECTION,
    CONNECTION_CLOSE,
    LENGTH,
    SECRET_NAME,
    VISIBLE,
    check_name,
    contradict,
    explain,
    read_length,
)
from ..http.grammar import Header
from ..http.memory import Memory

EncodedFields = tuple[bytes, int, int]
"""(field lines except the framing's, ``content-length`` or -1, bit mask of `http.fields`)."""


KNOWN_FIELDS: Memory[Header, EncodedFields] = Memory(1024)
"""Fields that were checked before, each encoded by itself. None has a secret."""
MAX_KNOWN_VALUE = 256
"""Bytes of the longest value in KNOWN_FIELDS."""


def encode_fields(headers: Iterable[Header]) -> EncodedFields:
    """Encode the application's fields as lines, in their order.

    Raises ApplicationError about the first invalid field. The server writes some fields itself.
    ``content-length`` is returned as the number, ``connection: close`` as CONNECTION_CLOSE, and
    ``transfer-encoding`` is dropped (docs/asgi.md, 56).
    """
    lines: list[bytes] = []
    length, found = -1, 0
    recent = KNOWN_FIELDS.recent
    try:
        for header in headers:
            try:
                known = recent.get(header) or _encode_field(header)
            except (TypeError, ValueError):  # a list, or a value that can change, has no hash
                known = _encode_field(header)
            line, declared, kind = known
            if declared >= 0:
                if length not in (-1, declared):
                    contradict(length, declared)
                length = declared
            found |= kind
            lines.append(line)
    except (TypeError, ValueError):
        explain(headers)
    return b"".join(lines), length, found


def _encode_field(header: Header) -> EncodedFields:
    """Encode one field. Raises TypeError or ValueError if it is no pair of bytes.

    Raises ApplicationError if it is invalid in another way.
    """
    name, value = header
    kind = CHECKED_NAMES.get(name)
    if kind is None:
        kind = check_name(name)
    if kind == CODING:
        return b"", -1, 0
    if kind == LENGTH:
        encoded: EncodedFields = b"", read_length(value, -1), 0
    else:
        content = value
        if kind == CONNECTION:
            content, kind = _read_connection(value)
            if not content:
                return b"", -1, kind
        line = b"".join((name, b": ", content, b"\r\n"))
        # Without the visible characters, only the line's end may remain.
        if line.translate(None, VISIBLE) != b"\r\n":
            explain([header])
        encoded = line, -1, kind
    if (
        type(name) is bytes
        and type(value) is bytes
        and len(value) <= MAX_KNOWN_VALUE
        and KNOWN_FIELDS.recall((name, value)) is None
        and KNOWN_FIELDS.sample(1)
        and SECRET_NAME.search(name) is None
    ):
        KNOWN_FIELDS.put((name, value), encoded)
    return encoded


def _read_connection(value: bytes) -> tuple[bytes, int]:
    """Remove ``close`` and ``keep-alive``, which the server writes itself (RFC 9110, 7.6.1).

    Returns the other options, and CONNECTION_CLOSE if there was a ``close``, or 0.
    """
    options = [option.strip(b" \t") for option in b"".join((value,)).split(b",")]
    found = CONNECTION_CLOSE if any(option.lower() == b"close" for option in options) else 0
    return b", ".join(
        option for option in options if option.lower() not in (b"close", b"keep-alive", b"")
    ), found


def chunk(data: bytes | memoryview, end: bool) -> bytes:
    """Encode `data` as a chunk, followed by the end of the body if `end` (RFC 9112, 7.1)."""
    if not data:
        return b"0\r\n\r\n" if end else b""
    last = b"0\r\n\r\n" if end else b""
    return b"%x\r\n%b\r\n%b" % (len(data), data, last)  # type: ignore[str-format]  # or a view


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
