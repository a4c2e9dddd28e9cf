"""Gunicorn's ``access_log_format``, compiled once to the function that makes a line."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from gunicorn.glogging import Logger

from .atoms import FUNCTIONS, atom_expression
from .record import LoggedResponse, Record

MakeLine = Callable[[Record, LoggedResponse], str]

CONVERSION = r"%(?:%|\((?P<name>[^()]*)\)(?P<rest>[#0 +-]*\d*(?:\.\d*)?[hlL]?[diouxXeEfFgGcrsa]))"
"""A literal percent sign, or the conversion of a named atom (Python: printf-style formatting)."""


def compile_format(text: str, log: Logger) -> MakeLine | None:
    """Return the function that makes the line of `text` with the atoms of `log`.

    The function returns the same as ``text % Atoms(...)``, and raises the same errors, but reads
    only the atoms of the format. None: `text` has a percent sign of another meaning.
    """
    if "%" in re.sub(CONVERSION, "", text):
        return None
    names = [found["name"] for found in re.finditer(CONVERSION, text) if found["name"] is not None]
    values = "".join(f"{atom_expression(name)}, " for name in names)
    make_line: MakeLine = eval(  # noqa: S307 # the expressions are those of the module `atoms`
        f"lambda record, response: template % ({values})",
        {
            **FUNCTIONS,
            "log": log,
            "template": re.sub(CONVERSION, lambda found: "%" + (found["rest"] or "%"), text),
            "now": _once_a_second(log),
        },
    )
    return make_line


def _once_a_second(log: Logger) -> Callable[[Logger], str]:
    """Return the function for the time. Gunicorn's own text changes once a second."""
    now: Callable[[Logger], str] = FUNCTIONS["now"]
    if getattr(log.now, "__func__", None) is not Logger.now:
        return now
    second, text = 0, ""

    def cached_now(log: Logger) -> str:
        nonlocal second, text
        current = int(time.time())
        if current != second:
            second, text = current, now(log)
        return text

    return cached_now
