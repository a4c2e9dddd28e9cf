"""How text of a client or an application is written into a log: the one place for it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

TOLERANT = "backslashreplace"


def printable(value: str | bytes | bytearray | memoryview) -> str:
    """Return `value` without characters that could forge a log line or control a terminal.

    Those become ``\\x0a``, ``\\u2028`` or ``\\U000e0001``. ``str.isprintable`` decides: other
    languages stay readable, while controls, line separators, bidirectional marks and lone
    surrogates are escaped. Bytes are read as latin-1, as in header fields.
    """
    text = value if isinstance(value, str) else bytes(value).decode("latin-1")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(ord(char)) for char in text)


def _escape(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def tolerate_any_character(*loggers: logging.Logger) -> None:
    """Let the handlers of `loggers` escape characters that their encoding lacks.

    Gunicorn opens log files in the encoding of the locale. In ASCII or latin-1, a path with other
    characters would otherwise cost the line, and bring a traceback of the logging package instead.
    """
    for handler in (handler for logger in loggers for handler in _handlers(logger)):
        stream = getattr(handler, "stream", None)
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors=TOLERANT)
        if isinstance(handler, logging.FileHandler) and handler.errors in (None, "strict"):
            handler.errors = TOLERANT  # for when it is opened again (USR1)


def _handlers(logger: logging.Logger) -> Iterator[logging.Handler]:
    """The handlers that get the records of `logger`, those of its parents included."""
    parent: logging.Logger | None = logger
    while parent is not None:
        yield from parent.handlers
        parent = parent.parent if parent.propagate else None
