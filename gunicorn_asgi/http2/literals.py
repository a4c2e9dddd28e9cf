"""Pure: field blocks of responses, encoded as literals (RFC 9113, 4.3; RFC 7541, 6.2).

They never refer to the dynamic table. An application sends the same few fields again and again:
the bytes of a literal can be kept for all connections, an index into a dynamic table cannot.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from ..errors import ApplicationError
from ..http.contract import Header
from ..http.fields import (
    CODING,
    CONNECTION,
    DATE,
    LENGTH,
    SERVER,
    VISIBLE,
    check_name,
    contradict,
    explain,
    read_length,
)
from .blocks import CONNECTION_SPECIFIC, STATIC_TABLE

TABLE_SIZE_0 = b"\x20"
"""The start of a connection's first block. It sets the size of the dynamic table to 0, so a smaller
SETTINGS_HEADER_TABLE_SIZE of the client never requires another update (RFC 7541, 4.2)."""
NAMES = {name: index for index, (name, _) in reversed(list(enumerate(STATIC_TABLE, 1)))}
STATUSES = {
    int(value): index for index, (name, value) in enumerate(STATIC_TABLE, 1) if name == b":status"
}
NEVER_INDEXED = frozenset({b"set-cookie", b"authorization", b"proxy-authorization"})
"""Fields that no intermediary may index, for others could probe its table (RFC 7541, 7.1.3)."""

EncodedHead = tuple[bytes, int, int]
"""(block without status and length, ``content-length`` or -1, bit mask of DATE and SERVER)."""

_OMITTED = -2
EncodedField = tuple[bytes, int, int]
"""The same for a single field; the length is _OMITTED for a field that is never sent."""
CHECKED_FIELDS: dict[Header, EncodedField] = {}
"""Fields checked before, of all connections."""
MAX_CHECKED_FIELDS = 2048
MAX_CHECKED_FIELD = 256
"""Bytes of the name and the value of the longest remembered field."""


def encode_integer(number: int, bits: int, pattern: int) -> bytes:
    """`number` with a prefix of so many `bits`; `pattern` has the other bits (RFC 7541, 5.1)."""
    mask = (1 << bits) - 1
    if number < mask:
        return bytes((pattern | number,))
    encoded = bytearray((pattern | mask,))
    number -= mask
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def encode_literal(name: bytes, value: bytes) -> bytes:
    """A field without indexing (RFC 7541, 6.2.2 and 6.2.3)."""
    pattern = 0x10 if name in NEVER_INDEXED else 0
    index = NAMES.get(name)
    start = (
        encode_integer(index, 4, pattern)
        if index
        else bytes((pattern,)) + encode_integer(len(name), 7, 0) + name
    )
    return start + encode_integer(len(value), 7, 0) + value


STATUS_FIELDS = {
    status: bytes((0x80 | STATUSES[status],))
    if status in STATUSES
    else encode_literal(b":status", b"%d" % status)
    for status in range(100, 1000)
}


def encode_fields(headers: Iterable[Header]) -> EncodedHead:
    """Encode the application's fields in their order.

    Fields of the connection are left out, for HTTP/2 does not have them. The ``content-length`` is
    left out, for the status decides whether it is sent. Raises ApplicationError, which names the
    invalid field.
    """
    parts = []
    length = -1
    found = 0
    try:
        for field in headers:
            try:
                known = CHECKED_FIELDS.get(field) or _check(field)
            except (TypeError, ValueError):
                # Not hashable: a list, or a view of mutable bytes.
                known = _check(field)
            literal, declared, kind = known
            if declared != -1:
                if declared != _OMITTED:
                    if length != declared and length >= 0:
                        contradict(length, declared)
                    length = declared
                continue
            found |= kind
            parts.append(literal)
        return b"".join(parts), length, found
    except (TypeError, ValueError):
        explain(headers)


def _check(field: Any) -> EncodedField:
    """Check and encode a field, and remember it if it is short.

    Raises TypeError or ValueError where it is no pair of bytes, otherwise ApplicationError.
    """
    name, value = field
    kind = check_name(name)
    may_change = type(value) is not bytes or type(field) is not tuple
    if may_change:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise TypeError
        value = bytes(value)
    if value.translate(None, VISIBLE):
        raise ApplicationError(f"the value of header {name!r} has a control character: {value!r}")
    name = name.lower()  # RFC 9113, 8.2
    known: EncodedField
    # 8.2.2: no field of the connection. TE is allowed in requests, and not in responses.
    if kind in (CONNECTION, CODING) or name in CONNECTION_SPECIFIC or name == b"te":
        known = b"", _OMITTED, 0
    elif kind == LENGTH:
        known = b"", read_length(value, -1), 0
    else:
        # 8.2.1: no white space around a value, where HTTP/1.1 would ignore it.
        literal = encode_literal(name, value.strip(b" \t"))
        known = literal, -1, kind if kind in (DATE, SERVER) else 0
    if len(name) + len(value) <= MAX_CHECKED_FIELD and name not in NEVER_INDEXED and not may_change:
        if len(CHECKED_FIELDS) >= MAX_CHECKED_FIELDS:
            CHECKED_FIELDS.clear()
        CHECKED_FIELDS[field] = known
    return known


@lru_cache(maxsize=64)
def encode_defaults(headers: tuple[Header, ...]) -> bytes:
    """The server's own fields."""
    return b"".join(encode_literal(name, value) for name, value in headers)


@lru_cache(maxsize=1024)
def encode_length(length: int) -> bytes:
    """A ``content-length``."""
    return encode_literal(b"content-length", b"%d" % length)
