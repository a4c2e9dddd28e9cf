"""Lines of the access log: gathered, and written once in a turn of the loop.

That is for a logger that only writes each message to a stream, as Gunicorn's own does. All others
get each record at once, by the logging package.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import select
import time
import weakref
from collections.abc import Iterator, Mapping

from .log_failures import GuardedHandle, is_stock

MAX_WRITE = getattr(select, "PIPE_BUF", 512)
"""Bytes that the system writes to a pipe as a whole, so that lines of several workers stay whole.

A buffered file also writes so little at once."""
MAX_BYTES_PER_CHARACTER = 10
"""Of a character beyond ASCII: ``\\U000e0001`` in a file whose encoding does not have it."""
MAX_LINES = 1000
"""Lines that wait for the next turn."""
EXAMINE_SECONDS = 1.0
"""Time between two thorough looks at the logger."""

PLAIN_HANDLERS = (logging.StreamHandler, logging.FileHandler)
METHODS: dict[type, tuple[str, ...]] = {
    logging.Logger: ("info", "isEnabledFor", "_log", "makeRecord", "handle", "callHandlers"),
    **dict.fromkeys(
        PLAIN_HANDLERS,
        ("handle", "filter", "emit", "format", "flush", "acquire", "release"),
    ),
    logging.Formatter: ("format", "formatMessage"),
    logging.LogRecord: ("__init__", "getMessage"),
}
"""The methods on the way of a record. Libraries for tracing replace them."""
PROBE = logging.LogRecord("name", logging.INFO, "path", 1, "%s", ("a line",), None, "function")
"""A record whose every attribute would show in a line."""


class LineWriter:
    """Writes the lines of `logger` (level INFO) in the place of its only handler."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lines: list[str] = []
        """Lines to write to `_handler`, within this turn or the next."""
        self._handler: logging.StreamHandler[io.TextIOWrapper] | None = None
        """The handler, or None if it, or the logger, does more than to write messages."""
        self._handlers: list[logging.Handler] = []
        self._formatter: logging.Formatter | None = None
        self._next_look = 0.0
        _writers.add(self)

    def is_usable(self) -> bool:
        """Return whether the logger would only write the message of the next record.

        Changes of its settings count from the next turn on, replaced methods after a second.
        """
        if self._lines:
            return True
        if time.monotonic() >= self._next_look:
            self._examine()
        logger, handler = self._logger, self._handler
        return (
            handler is not None
            and logger.handlers == self._handlers
            and not logger.propagate
            and not logger.filters
            and logger.isEnabledFor(logging.INFO)
            and not handler.filters
            and handler.level <= logging.INFO
            and handler.formatter is self._formatter
            and logging.getLogRecordFactory() is logging.LogRecord
        )

    def add(self, line: str) -> None:
        """Write `line` at the latest in the next turn of the loop; at once without a loop.

        Only to be called if `is_usable`.
        """
        lines = self._lines
        lines.append(line)
        if len(lines) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:
                self.flush()
        elif len(lines) >= MAX_LINES:
            self.flush()

    def flush(self) -> None:
        """Write all lines now: to be called before the logger is used, and before an exit."""
        lines, self._lines = self._lines, []
        handler = self._handler
        if lines and handler is not None:
            handler.acquire()
            try:
                text = handler.terminator.join([*lines, ""])
                if len(text) <= MAX_WRITE and text.isascii():
                    self._write(handler, lines, text)
                else:
                    for part in _split(lines):
                        self._write(handler, part, handler.terminator.join([*part, ""]))
            finally:
                handler.release()

    def forget(self) -> None:
        """This process is a copy of the one that writes the lines."""
        self._lines = []

    def _examine(self) -> None:
        """Look at the logger and its handler. No line waits."""
        self._next_look = time.monotonic() + EXAMINE_SECONDS
        self._handlers = self._logger.handlers.copy()
        self._handler = _find_plain_handler(self._logger)
        self._formatter = None if self._handler is None else self._handler.formatter

    def _write(
        self, handler: logging.StreamHandler[io.TextIOWrapper], lines: list[str], text: str
    ) -> None:
        try:
            handler.stream.write(text)
            handler.flush()  # a signal may have opened the file again, which has written the text
        except (AttributeError, ValueError):
            # Nothing is written: the stream is closed, or its encoding lacks a character. The
            # handler opens its file again, or reports the one line.
            for line in lines:
                handler.emit(self._make_record(line))
        except Exception:  # noqa: BLE001 # such as a full disk, as in StreamHandler.emit
            handler.handleError(self._make_record(text))

    def _make_record(self, message: str) -> logging.LogRecord:
        return logging.LogRecord(self._logger.name, logging.INFO, "", 0, message, (), None)


_writers: weakref.WeakSet[LineWriter] = weakref.WeakSet()


def _forget_all() -> None:
    for writer in _writers:
        writer.forget()


os.register_at_fork(after_in_child=_forget_all)


def _split(lines: list[str]) -> Iterator[list[str]]:
    """Return `lines` in parts of at most MAX_WRITE bytes. A longer line is a part by itself."""
    part: list[str] = []
    room = MAX_WRITE
    for line in lines:
        size = len(line) * (1 if line.isascii() else MAX_BYTES_PER_CHARACTER) + 1
        if size > room and part:
            yield part
            part, room = [], MAX_WRITE
        part.append(line)
        room -= size
    yield part


def _find_plain_handler(
    logger: logging.Logger,
) -> logging.StreamHandler[io.TextIOWrapper] | None:
    """Return the handler of `logger` if the two only write each message to a stream."""
    if len(logger.handlers) != 1:
        return None
    [handler] = logger.handlers
    if (
        isinstance(handler, PLAIN_HANDLERS)
        and type(handler) in PLAIN_HANDLERS
        and type(handler.stream) is io.TextIOWrapper
        and type(handler.formatter) in (logging.Formatter, type(None))
        and type(logger) is logging.Logger
        and not any(map(_is_changed, (logger, handler, handler.formatter)))
        and all(is_stock(getattr(cls, name)) for cls in METHODS for name in METHODS[cls])
        and _writes_only_messages(handler)
    ):
        return handler
    return None


def _writes_only_messages(handler: logging.Handler) -> bool:
    try:
        return handler.format(PROBE) == PROBE.getMessage()
    except (KeyError, ValueError):  # its format has an attribute that a filter adds
        return False


def _is_changed(thing: object) -> bool:
    """Return whether `thing` has an attribute in the place of a method of its class.

    The guard of the worker does not count: it only acts on failures.
    """
    attributes: Mapping[str, object] = getattr(thing, "__dict__", {})
    return any(
        callable(getattr(type(thing), name, None)) and not isinstance(value, GuardedHandle)
        for name, value in attributes.items()
    )
