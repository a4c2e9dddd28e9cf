"""A formatter of Gunicorn's two logs: one JSON object in a line, whatever the text in it is."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from .atoms import compile_values

ACCESS_LOGGER = "gunicorn.access"
NUMERIC_ATOMS = ("s", "b", "L", "{request_wait}e")
"""Atoms whose text is a number. The other numbers among Gunicorn's atoms are no texts."""
NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,6})?")
SURROGATE = r"\ud"
"""The beginning of a surrogate, or of two for one character, in JSON."""


class JSONFormatter(logging.Formatter):
    """Writes each record as one JSON object in one line of ASCII.

    Each has ``time`` (RFC 3339, UTC), ``level``, ``logger`` and ``pid``. A record of the access log
    has `fields` after that: a mapping of names to atoms of ``access_log_format``, such as
    ``{"client": "{client_addr}e"}``. By default these are FIELDS. An atom without a value is null.
    Any other record has ``message``, and where it has them ``exception`` and ``stack``.
    `time_name` is another name for ``time``: AWS Lambda wants ``timestamp``.

    All other arguments are those of ``logging.Formatter``, and have no effect.
    """

    FIELDS: Mapping[str, str] = {
        "client": "{client_addr}e",
        "peer": "h",
        "user": "u",
        "method": "m",
        "scheme": "{wsgi.url_scheme}e",
        "host": "{host}i",
        "path": "U",
        "query": "q",
        "protocol": "H",
        "status": "s",
        "bytes": "B",
        "duration_us": "D",
        "wait_us": "{request_wait}e",
        "referer": "f",
        "user_agent": "a",
        "request_id": "{x-request-id}i",
    }

    def __init__(
        self,
        *args: Any,
        fields: Mapping[str, str] | None = None,
        time_name: str = "time",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._time_name = time_name
        fields = dict(self.FIELDS if fields is None else fields)
        for name, atom in fields.items():
            if not isinstance(atom, str) or not atom or "%" in atom:
                raise ValueError(
                    f"Invalid field {name!r} of gunicorn_asgi.JSONFormatter: {atom!r} must be the "
                    "name of an atom, such as 'h' or '{x-request-id}i'."
                )
        self._names = list(fields)
        self._values = compile_values(list(fields.values()))
        self._numeric = [
            name
            for name, atom in fields.items()
            if (atom.lower() if atom[0] == "{" else atom) in NUMERIC_ATOMS
        ]
        self._encode = json.JSONEncoder(
            allow_nan=False, separators=(",", ":"), default=_as_text
        ).encode

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON object of `record`."""
        time = datetime.fromtimestamp(record.created, timezone.utc)
        entry: dict[str, Any] = {
            self._time_name: time.isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
        }
        if record.name == ACCESS_LOGGER and isinstance(record.args, Mapping):
            entry.update(zip(self._names, self._values(record.args), strict=True))
            for name in self._numeric:
                entry[name] = _as_number(entry[name])
        else:
            entry["message"] = record.getMessage()
            entry.update(self._tracebacks(record))
        return self._to_line(entry)

    def _tracebacks(self, record: logging.LogRecord) -> Iterable[tuple[str, str]]:
        if record.exc_text:
            yield "exception", record.exc_text
        elif record.exc_info:
            yield "exception", self.formatException(record.exc_info)
        if record.stack_info:
            yield "stack", self.formatStack(record.stack_info)

    def _to_line(self, entry: Mapping[str, Any]) -> str:
        try:
            line = self._encode(entry)
        except ValueError:  # a number that is none, or a value that contains itself
            line = SURROGATE
        if SURROGATE in line:
            # Some readers refuse a surrogate without its other half.
            line = self._encode({name: _as_plain(value) for name, value in entry.items()})
        return line


def _as_number(value: Any) -> Any:
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value) if "." in value else int(value)
    return value


def _as_text(value: object) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


def _as_plain(value: object) -> object:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return _as_text(value)
