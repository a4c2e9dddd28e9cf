"""h11 as a field parser: pure Python, for interpreters that httptools has no wheel for."""

from __future__ import annotations

import re

import h11

from ..errors import RequestError
from ..http.fields import VISIBLE
from ..http.grammar import Header

# h11 merges, refuses or requires some fields (Content-Length, Transfer-Encoding, Host). `request`
# does so for every parser. So h11 gets every name with a mark before it, and recognizes none.
NAME_MARK = b"~"
REQUEST_LINE = b"GET / HTTP/1.0"

# h11 accepts control characters other than NUL (RFC 9110, 5.5), and a bare LF as a line's end
# (RFC 9112, 2.2).
LINE_BYTES = VISIBLE + b"\r\n"
FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n")
LINE_START = re.compile(rb"\r\n(?!\r\n)")
LONG_SECTION = 16384
"""Bytes of a section from which its long values are not given to h11. It takes ten milliseconds for
a section of the largest size, and finds only what is checked here: forbidden characters."""
LONG_VALUE = 1024


def parse_fields(lines: bytes) -> list[Header]:
    """A :data:`~gunicorn_asgi.http1.parser.FieldParser`."""
    fields = b"\r\n" + lines
    if fields.translate(None, LINE_BYTES) or not (
        fields.count(b"\r") == fields.count(b"\n") == fields.count(b"\r\n")
    ):
        # The search takes twenty times as long.
        bad = FORBIDDEN.search(fields)
        assert bad is not None
        raise RequestError(400, f"Invalid HTTP header: {bad[0]!r} is not allowed")
    long_values: dict[int, bytes] = {}
    if len(lines) > LONG_SECTION:
        fields, long_values = _shorten(lines)
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(fields))
    connection.receive_data(
        REQUEST_LINE + LINE_START.sub(b"\r\n" + NAME_MARK, fields) + b"\r\n\r\n"
    )
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise RequestError(400, f"Invalid HTTP header: {error}") from None
    assert isinstance(event, h11.Request)  # the section is whole, and the request line is ours
    parsed = [
        (name[len(NAME_MARK) :], long_values.get(index, value))
        for index, (name, value) in enumerate(event.headers)
    ]
    if not all(name for name, _ in parsed):
        raise RequestError(400, "Invalid HTTP header: a field has no name")
    return parsed


def _shorten(lines: bytes) -> tuple[bytes, dict[int, bytes]]:
    """Replace long values. Returns the fields, and these values by the index of their line."""
    fields, values = [b""], {}
    for index, line in enumerate(lines.split(b"\r\n")):
        name, colon, value = line.partition(b":")
        is_long = len(value) > LONG_VALUE
        if is_long:
            values[index] = value.strip(b" \t")
        fields.append(name + colon if is_long else line)
    return b"\r\n".join(fields), values
