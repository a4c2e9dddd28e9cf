"""Pure: the application's header fields: their meaning in every version of HTTP, and their errors.

RFC 9110, 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NoReturn

from ..errors import ApplicationError
from .grammar import CONTENT_LENGTH, MAX_DIGITS, TOKEN, Header

VISIBLE = bytes(byte for byte in range(256) if byte in (9, 32) or (byte > 32 and byte != 127))
"""Bytes that a field line may have (RFC 9110, 5.5): visible characters, obs-text, space and tab."""

# A bit mask: the application's fields have a date, a server, or the connection option "close".
DATE, SERVER, CONNECTION_CLOSE = 1, 2, 4
# The kinds of names, in CHECKED_NAMES: DATE, SERVER, or one of these.
PLAIN, LENGTH, CONNECTION, CODING = 0, 3, 4, 5
_SPECIAL = {
    b"date": DATE,
    b"server": SERVER,
    b"content-length": LENGTH,
    b"connection": CONNECTION,
    b"transfer-encoding": CODING,
}
SECRET_NAME = re.compile(
    rb"auth|cookie|credential|csrf|key|location|nonce|pass|policy|secret|session|signature|token",
    re.IGNORECASE,
)
"""Parts of names whose values may be a secret: such fields are never remembered across responses.
A location may have a token in its query, a policy a nonce."""
CHECKED_NAMES: dict[bytes, int] = {}
"""Names that were checked before, and their kinds. An application has few names."""
MAX_CHECKED_NAMES = 1024
"""Bounds the memory of an application that makes names up."""
_FRAMING = (
    "content-length",
    "transfer-encoding",
    "trailer",
    "te",
    "connection",
    "proxy-connection",
    "keep-alive",
    "upgrade",
    "host",
)
NOT_IN_TRAILERS = frozenset(
    name.encode() for name in (*_FRAMING, "content-encoding", "content-range", "content-type")
)
"""Fields for the framing, the routing or the form of the content: too late after the content
(RFC 9110, 6.5.1)."""


def check_name(name: object) -> int:
    """Return the kind of `name`, and add it to CHECKED_NAMES.

    Raises TypeError if it is not bytes, ApplicationError if it is not a token.
    """
    if not isinstance(name, bytes):
        raise TypeError
    if TOKEN.fullmatch(name) is None:
        raise ApplicationError(f"a header name must be a token (RFC 9110, 5.6.2), not {name!r}")
    kind = _SPECIAL.get(name.lower(), PLAIN)
    if len(CHECKED_NAMES) >= MAX_CHECKED_NAMES:
        CHECKED_NAMES.clear()
    CHECKED_NAMES[name] = kind
    return kind


def read_length(value: bytes, before: int) -> int:
    """Return the number in a ``content-length``. Raises ApplicationError.

    `before`: the number in an earlier ``content-length`` of this response, or -1.
    """
    is_number = type(value) is bytes and value.isdigit() and len(value) <= MAX_DIGITS
    if not is_number and CONTENT_LENGTH.fullmatch(value) is None:
        raise ApplicationError(f"content-length must be a number of bytes, not {value!r}")
    length = int(value)
    if before not in (-1, length):
        contradict(before, length)
    return length


def contradict(before: int, length: int) -> NoReturn:
    raise ApplicationError(f"content-length is given twice, as {before} and {length}")


def as_list(headers: Any) -> list[Any]:
    """Return the application's `headers`, which may be an iterator, as a list. Not checked.

    Raises ApplicationError if they are not iterable.
    """
    try:
        fields = iter(headers)
    except TypeError:
        explain(headers)
    return list(fields)


def copied(headers: Iterable[Header]) -> list[Header]:
    """Return a copy of checked `headers`. Its values are bytes: a bytearray could still change."""
    return [(name, bytes(value)) for name, value in headers]


def read_trailers(headers: object) -> list[Header]:
    """Return `headers` as trailers. Raises ApplicationError for a name that no trailer may have.

    All other errors are found when the trailers are encoded.
    """
    fields = as_list(headers)
    for field in fields:
        name = field[0] if isinstance(field, (tuple, list)) and field else None
        if isinstance(name, bytes) and name.lower() in NOT_IN_TRAILERS:
            raise ApplicationError(f"{name!r} must not be in trailers (RFC 9110, 6.5.1)")
    return fields


def explain(headers: object) -> NoReturn:
    """Raise an ApplicationError about the first invalid field. One of `headers` is invalid."""
    for field in headers if isinstance(headers, Iterable) else ():
        try:
            name, value = field
        except (TypeError, ValueError):
            raise ApplicationError(
                f"a header must be a pair of a name and a value, not {field!r}"
            ) from None
        for what, part in (("name", name), ("value", value)):
            if not isinstance(part, bytes if what == "name" else (bytes, bytearray, memoryview)):
                raise ApplicationError(
                    f"a header {what} must be bytes, not {type(part).__name__} ({part!r})"
                )
        if bytes(value).translate(None, VISIBLE):
            raise ApplicationError(
                f"the value of header {bytes(name)!r} has a control character: {bytes(value)!r}"
            )
    raise ApplicationError(f"headers must be an iterable of pairs of bytes, not {headers!r}")
