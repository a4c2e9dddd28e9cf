"""Pure: the contract of a field parser, and the choice between them.

A library parses the field section: the lines after the request line. Their grammar is long, and
speed matters. The request line, the meaning of the fields and the framing of the body are the same
code for every library (`request`, `body`), for two reasons:

* Neither library tells the end of a chunked body in the data. A pipelined request follows there.
* They tolerate different faults: a bare LF, folding, spaces after a chunk size, unknown methods.
  Two front ends with different readings of a request let attackers smuggle requests.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from ..http.grammar import Header

FieldParser = Callable[[bytes], list[Header]]
"""Takes one or more field lines, with CRLF between them. Returns the fields in order, with names in
lower case, and without the optional white space around values.

Raises RequestError(400) for everything that RFC 9112, 5, and RFC 9110, 5.5, forbid: an empty or
invalid name, white space before the colon, folding, a bare CR or LF, NUL or another control
character in a value."""


def available() -> str:
    """Return the name of the parser for ``http="auto"``."""
    return "httptools" if importlib.util.find_spec("httptools") is not None else "h11"


def load(name: str) -> FieldParser:
    """Load the parser called `name`: ``"httptools"`` or ``"h11"``."""
    if name == "httptools":
        from .httptools_parser import SectionParser  # noqa: PLC0415 # may not be installed

        return SectionParser().parse
    from .h11_parser import parse_fields  # noqa: PLC0415 # loaded only if it is used

    return parse_fields
