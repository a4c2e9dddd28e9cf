"""The contract of a field parser, and the choice of one.

A library's part here is the field section: the lines behind the request line, where the grammar is long and the speed matters.
The request line, the meaning of the fields and the framing of the body are the same code for every library (`request`, `body`), because

* neither library says where in the data a message with a chunked body ended, which a pipelined request behind it needs;
* they differ in what they let pass (bare LF, folding, spaces after a chunk size, methods they have not heard of), and two front ends that
  read one request differently are how requests are smuggled.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from ..http.grammar import Header

FieldParser = Callable[[bytes], list[Header]]
"""Takes ``HTTP/1.x CRLF fields CRLF``, returns the field lines in order with lower-case names and without the optional white space
around values. Raises RequestError(400) for whatever RFC 9112, section 5, and RFC 9110, section 5.5, do not allow: an empty or
invalid name, white space before the colon, folding, a bare CR or LF, NUL or another control character in a value."""


def available() -> str:
    """The name of the parser that ``http="auto"`` means here."""
    return "httptools" if importlib.util.find_spec("httptools") is not None else "h11"


def load(name: str) -> FieldParser:
    """The parser called `name`: ``"httptools"`` or ``"h11"``."""
    if name == "httptools":
        from .httptools_parser import parse_fields  # noqa: PLC0415 # may not be installed
    else:
        from .h11_parser import parse_fields  # noqa: PLC0415 # only what is used is loaded
    return parse_fields
