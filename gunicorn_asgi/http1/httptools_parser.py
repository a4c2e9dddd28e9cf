"""httptools (llhttp) as a field parser."""

from __future__ import annotations

import httptools

from ..errors import RequestError
from ..http.grammar import Header

METHOD_AND_TARGET = b"GET / "
"""Stands before the fields in place of the real method and target: llhttp knows too few of them."""


class _Fields:
    """llhttp's callbacks for one field section. It is always whole, so a field is one call."""

    __slots__ = ("complete", "fields")

    # What llhttp offers besides, and httptools looks up each time: not to find it would take longer.
    on_message_begin = on_url = on_body = on_message_complete = on_chunk_header = (
        on_chunk_complete
    ) = on_status = None

    def __init__(self) -> None:
        self.fields: list[Header] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        # llhttp has taken off the white space before the value, and leaves what is behind it.
        self.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def parse_fields(section: bytes) -> list[Header]:
    """A :data:`~gunicorn_asgi.http1.parser.FieldParser`."""
    sink = _Fields()
    # A new parser each time (0.35 us): llhttp goes on to the body or closes as the fields say, which is decided elsewhere here.
    parser = httptools.HttpRequestParser(sink)
    try:
        parser.feed_data(METHOD_AND_TARGET + section)
    except httptools.HttpParserUpgrade:
        pass  # an Upgrade field: the section has been read to its end
    except httptools.HttpParserError as error:
        # Once the section is complete, what is left to complain about is the framing, which `request` judges for every parser.
        if not sink.complete:
            raise RequestError(400, f"Invalid HTTP header: {error}") from None
    return sink.fields
