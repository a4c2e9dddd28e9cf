"""Calls of threads and tasks, read from their frames, as short texts."""

from __future__ import annotations

import gc
import inspect
import logging
import sys
import threading
import traceback
from types import CodeType, FrameType
from typing import Any, Protocol

from ..asgi.exchange import run_application
from ..http.contract import ASGIStream
from .printable import printable

MAX_CALLS = 60
"""Calls in a formatted stack, the innermost ones."""
MAX_NAMED_CALLS = 5
"""Calls in a line about a task or thread, the innermost ones."""
GENERATOR_STEPS = ("async_generator_asend", "async_generator_athrow")
"""The types of a step of an asynchronous generator. A framework's lifespan is one, mostly."""
EXCHANGE_CODE = run_application.__code__
"""The function that calls the application for its `exchange`."""
BRIDGES = ("gunicorn_asgi.asgi.trio_bridge", "gunicorn_asgi.asgi.trio_library")
"""Modules, imported only with trio, that run a `coroutine` of this package in a task of trio."""

Call = tuple[FrameType, int]
"""The frame of a call and its current line."""


class HasCoroutine(Protocol):
    """A task, as far as its calls are read."""

    def get_coro(self) -> Any: ...


def read_stack(
    frame: FrameType | None, runner: CodeType | None = None
) -> tuple[list[Call], ASGIStream | None]:
    """Return the calls from `frame` to `runner`, the innermost first, and the exchange among them.

    If there is an exchange, only the calls of its application are returned. An exchange is not
    found if its application runs in another task. Lines are read at once, since the thread may
    continue meanwhile.
    """
    calls: list[Call] = []
    while frame is not None and frame.f_code is not runner:
        if frame.f_code is EXCHANGE_CODE:
            return calls, frame.f_locals["exchange"]
        if _module(frame) not in BRIDGES:
            calls.append((frame, frame.f_lineno))
        frame = frame.f_back
    return calls, None


def find_log_handler(calls: list[Call]) -> logging.Handler | None:
    """Return the innermost log handler among `calls`, the innermost first."""
    for frame, _ in calls:
        if frame.f_code.co_varnames[:1] == ("self",):
            handler = frame.f_locals.get("self")
            if isinstance(handler, logging.Handler):
                return handler
    return None


def read_awaits(task: HasCoroutine | None) -> list[Call]:
    """Return the coroutines and generators in which a task waits, the innermost last.

    ``Task.get_stack`` knows only the outermost.
    """
    calls: list[Call] = []
    awaited: object = task.get_coro() if task is not None else None
    while True:
        if type(awaited).__name__ in GENERATOR_STEPS:
            # It names its generator to nobody but the garbage collector.
            generators = filter(inspect.isasyncgen, gc.get_referents(awaited))
            awaited = next(generators, None)
        if inspect.iscoroutine(awaited):
            frame, awaited = awaited.cr_frame, awaited.cr_await
        elif inspect.isgenerator(awaited):
            frame, awaited = awaited.gi_frame, awaited.gi_yieldfrom
        elif inspect.isasyncgen(awaited):
            frame, awaited = awaited.ag_frame, awaited.ag_await
        else:
            return calls
        if frame is None:
            continue
        if _module(frame) in BRIDGES:
            awaited = frame.f_locals.get("coroutine", awaited)
        elif not (_is_of_trio(frame) and calls and _is_of_trio(calls[-1][0])):
            calls.append((frame, frame.f_lineno))


def _is_of_trio(frame: FrameType) -> bool:
    """Return whether `frame` is a call of trio. Its inner calls only say that it waits."""
    return _module(frame).partition(".")[0] == "trio"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def format_stack(calls: list[Call]) -> list[str]:
    """Return the lines of `calls`, the innermost first, as in a traceback."""
    summary = traceback.StackSummary.extract(reversed(calls[:MAX_CALLS]))
    return "".join(summary.format()).rstrip().splitlines()


def name_calls(calls: list[Call]) -> str:
    """Return the innermost of `calls` in a line. The innermost is the last."""
    places = [
        f"{frame.f_globals.get('__name__')}:{line} {frame.f_code.co_name}"
        for frame, line in calls[-MAX_NAMED_CALLS:]
    ]
    return "in " + " > ".join(places) if places else "at its end"


def describe_thread(thread: threading.Thread) -> str:
    """Return the name of `thread` and its calls in a line.

    The calls by which Python starts a thread are left out.
    """
    calls, _ = read_stack(sys._current_frames().get(thread.ident or 0))
    own = [call for call in reversed(calls) if not call[0].f_code.co_name.startswith("_bootstrap")]
    return f"{printable(thread.name)} {name_calls(own)}"
