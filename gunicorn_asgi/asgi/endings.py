"""The end of an application by an exception: cancelled, an exit of the process, or an error.

Nurseries and task groups raise groups of exceptions (PEP 654), in which each of the three may be.
"""

from __future__ import annotations

import asyncio
from typing import Any


def without_cancellations(
    error: BaseException, cancelled: type[BaseException]
) -> BaseException | None:
    """Return the part of `error` that is no cancellation, or None.

    `cancelled` is the async library's exception. asyncio's own counts in every library, for this
    package's ``receive()`` and ``send()`` wait in asyncio.
    """
    kinds = (cancelled, asyncio.CancelledError)
    if isinstance(error, kinds):
        return None
    group = _as_group(error)
    if group is None:
        return error
    rest: BaseException | None = group.split(kinds)[1]
    return rest


def is_only(error: BaseException, kind: type[BaseException]) -> bool:
    """Return whether `error` is of this kind: itself, or all of a group."""
    group = _as_group(error)
    return isinstance(error, kind) if group is None else group.split(kind)[1] is None


def find_exit(error: BaseException) -> SystemExit | KeyboardInterrupt | None:
    """Return the first SystemExit or KeyboardInterrupt in `error`: itself, or in a group."""
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return error
    group = _as_group(error)
    if group is None:
        return None
    for each in group.exceptions:
        exit_error = find_exit(each)
        if exit_error is not None:
            return exit_error
    return None


def _as_group(error: BaseException) -> Any:
    """Return `error` if it is a group: that of Python 3.11, or its backport. None if not."""
    is_group = any(each.__name__ == "BaseExceptionGroup" for each in type(error).__mro__)
    return error if is_group else None
