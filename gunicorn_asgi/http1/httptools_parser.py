"""httptools (llhttp) as a field parser."""

from __future__ import annotations

import httptools

from ..errors import RequestError
from ..http.grammar import Header

METHOD_AND_TARGET = b"GET / "
"""Replaces the real method and target: llhttp knows too few of them."""


class _Fields:
    """llhttp's callbacks for one field section. The section is whole, so a field is one call."""

    __slots__ = ("complete", "fields")

    # The other callbacks. httptools looks them up for each parser, and takes longer if they are
    # missing.
    on_message_begin = on_url = on_body = on_message_complete = on_chunk_header = (
        on_chunk_complete
    ) = on_status = None

    def __init__(self) -> None:
        self.fields: list[Header] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        # llhttp removes the white space before the value, and leaves the white space after it.
        self.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def parse_fields(section: bytes) -> list[Header]:
    """A :data:`~gunicorn_asgi.http1.parser.FieldParser`."""
    sink = _Fields()
    # A new parser each time (0.35 us). llhttp would continue with the body, or close, according to
    # the fields; `request` and the connection decide this here.
    parser = httptools.HttpRequestParser(sink)
    try:
        parser.feed_data(METHOD_AND_TARGET + section)
    except httptools.HttpParserUpgrade:
        pass  # an Upgrade field: the section has been read to its end
    except httptools.HttpParserError as error:
        # After the section is complete, an error can only concern the framing. `request` checks it
        # for every parser.
        if not sink.complete:
            raise RequestError(400, f"Invalid HTTP header: {error}") from None
    return sink.fields
