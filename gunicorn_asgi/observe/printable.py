"""Text of a client or an application, made safe for a log. All other modules use this function."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import suppress

TOLERANT = "backslashreplace"


def printable(value: str | bytes | bytearray | memoryview) -> str:
    """Return `value` without any character able to forge a log line or control a terminal.

    They become ``\\x0a``, ``\\u2028`` or ``\\U000e0001``. ``str.isprintable`` decides: other
    languages stay readable; controls, line separators, bidirectional marks and lone surrogates are
    escaped. Bytes are read as latin-1, as in header fields.
    """
    text = value if isinstance(value, str) else str(value, "latin-1")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(ord(char)) for char in text)


def _escape(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def tolerate_any_character(*loggers: logging.Logger) -> None:
    """Let the handlers of `loggers` escape the characters missing in their encoding.

    Gunicorn opens log files in the encoding of the locale. In ASCII or latin-1, a path with other
    characters would be missing: the logging package would write a traceback in place of the line.
    """
    for handler in (handler for logger in loggers for handler in _handlers(logger)):
        stream = getattr(handler, "stream", None)
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            with suppress(OSError):  # it writes what waits, which a full disk refuses
                stream.reconfigure(errors=TOLERANT)
        if isinstance(handler, logging.FileHandler) and handler.errors in (None, "strict"):
            handler.errors = TOLERANT  # if it is opened again (USR1)


def _handlers(logger: logging.Logger) -> Iterator[logging.Handler]:
    """Return the handlers of `logger` and its parents, as far as its records propagate."""
    parent: logging.Logger | None = logger
    while parent is not None:
        yield from parent.handlers
        parent = parent.parent if parent.propagate else None
