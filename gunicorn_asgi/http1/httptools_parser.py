"""httptools (llhttp) as a field parser."""

from __future__ import annotations

import httptools

from ..errors import RequestError
from ..http.grammar import Header

HEAD = b"GET / HTTP/1.1\r\n%b\r\n\r\n"
"""A head with the field lines. llhttp knows too few of the real methods and targets."""
FRAMING_FIELDS = frozenset(
    {b"connection", b"content-length", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
"""Fields that change what llhttp expects next. `request` and the connection decide this here."""


class _Sink:
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


class SectionParser:
    """Parses one field section after the other, as requests without a body on one connection.

    A section that leaves llhttp in another state than the one in which it began is its last: an
    invalid one, and one with FRAMING_FIELDS. The next section gets a new parser of llhttp.
    """

    __slots__ = ("_parser", "_sink")

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._sink = _Sink()
        self._parser = httptools.HttpRequestParser(self._sink)

    def parse(self, lines: bytes) -> list[Header]:
        """A :data:`~gunicorn_asgi.http1.parser.FieldParser`."""
        sink = self._sink
        try:
            self._parser.feed_data(HEAD % lines)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError) as error:
            # An Upgrade field is an exception, too: the section has been read to its end. After
            # that, an error can only concern the framing. `request` checks it for every parser.
            self._renew()
            if not sink.complete:
                raise RequestError(400, f"Invalid HTTP header: {error}") from None
            return sink.fields
        fields, sink.fields = sink.fields, []
        if not sink.complete:
            self._renew()
            raise RequestError(400, "Invalid HTTP header: the section has no end")
        sink.complete = False
        for name, _ in fields:
            if name in FRAMING_FIELDS:
                self._renew()
                break
        return fields
