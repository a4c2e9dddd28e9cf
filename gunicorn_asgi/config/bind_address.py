"""Pure: the address of a listening socket, written as Gunicorn's ``bind``."""

from __future__ import annotations

import re

BindAddress = tuple[str, int] | str
"""Host and port, or the path of a unix socket."""
HOST_AND_PORT = r"(?a:(?:\[([0-9A-Fa-f:.%]+[\w.]*)\]|([^\s:/\[\]]+)):([0-9]{1,5}))"
MAX_PORT = 65535
UNIX = "unix:"


def read_bind(text: str) -> BindAddress | None:
    """Read ``host:port``, ``[v6]:port`` or ``unix:/path``; None for an empty text.

    Raises ValueError.
    """
    if not text:
        return None
    if text.startswith(UNIX):
        path = text[len(UNIX) :]
        if not path.startswith("/") or path.endswith("/") or "\0" in path:
            raise ValueError(text)
        return path
    found = re.fullmatch(HOST_AND_PORT, text)
    if found is None or int(found[3]) > MAX_PORT:
        raise ValueError(text)
    return found[1] or found[2], int(found[3])


def is_bind(value: object) -> bool:
    """Whether `value` can be read."""
    try:
        return isinstance(value, str) and (not value or read_bind(value) is not None)
    except ValueError:
        return False
