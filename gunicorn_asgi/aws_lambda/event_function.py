"""The function of the option ``lambda_event_function``: it takes events that are no requests."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
import json
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

from ..asgi.async_library import AsyncLibrary
from ..asgi.endings import find_exit, without_cancellations
from ..errors import ConfigError
from ..http.contract import ApplicationTask
from ..observe.log import Log
from .context import LambdaContext
from .failure import Failure

CANCELLED = Failure("Runtime.Cancelled", "the function was cancelled")
Function = Callable[[Any, LambdaContext], Any]
"""(event, context) -> bytes, or a value that JSON can have."""


class FunctionCall:
    """One call of the function, in a task of its own."""

    def __init__(self, task: ApplicationTask, result: asyncio.Future[bytes | Failure]) -> None:
        self.task = task
        self.result = result
        """The bytes of the result, or the failure. Never an exception."""

    def cancel(self, failure: Failure) -> None:
        """Give up the call, with `failure` for its result. A thread goes on nevertheless."""
        if not self.result.done():
            self.result.set_result(failure)
        self.task.cancel()


class EventFunction:
    """Calls the function: an async one in a task of the application's library, others in a thread.

    The loop goes on meanwhile, so that deadlines and signals count.
    """

    def __init__(
        self,
        function: Function,
        loop: asyncio.AbstractEventLoop,
        library: AsyncLibrary,
        context: contextvars.Context,
        log: Log,
        leave: Callable[[SystemExit | KeyboardInterrupt], None],
    ) -> None:
        """`leave` is called if the function ends the process. Each call has a copy of `context`."""
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 # of an object with an async __call__
        )
        self._loop = loop
        self._library = library
        self._context = context
        self._log = log
        self._leave = leave

    def call(self, event: Any, context: LambdaContext) -> FunctionCall:
        """Begin a call."""
        result: asyncio.Future[bytes | Failure] = self._loop.create_future()
        coroutine = self._run(result, event, context)
        if self._is_async:
            task = self._library.spawn(coroutine, context=self._context.copy())
        else:
            task = self._loop.create_task(coroutine)
        task.add_done_callback(partial(_set_result, result, CANCELLED))
        return FunctionCall(task, result)

    async def _run(
        self, result: asyncio.Future[bytes | Failure], event: Any, context: LambdaContext
    ) -> None:
        try:
            if self._is_async:
                value = await self._function(event, context)
            else:
                run = self._context.copy().run
                value = await self._loop.run_in_executor(
                    None, run, _call, self._function, event, context
                )
            outcome: bytes | Failure = value if isinstance(value, bytes) else _encode(value)
        except BaseException as error:
            reason = without_cancellations(error, self._library.cancelled)
            if reason is None:
                raise
            outcome = Failure.of(reason, with_stack=True)
            exit_error = find_exit(reason)
            if exit_error is not None:
                self._leave(exit_error)
            else:
                # Not `exception()`: `reason` may be a part of `error`, without the cancellations.
                self._log.error(
                    "Error in lambda_event_function at invocation %s",
                    context.aws_request_id,
                    exc_info=reason,
                )
        _set_result(result, outcome)


def _call(function: Function, event: Any, context: LambdaContext) -> Any:
    """Call `function` in a thread. A future cannot have a StopIteration (PEP 479)."""
    try:
        return function(event, context)
    except StopIteration as error:
        raise RuntimeError("the function raised StopIteration") from error


def _set_result(
    result: asyncio.Future[bytes | Failure], outcome: bytes | Failure, _task: object = None
) -> None:
    if not result.done():
        result.set_result(outcome)


def _encode(value: object) -> bytes:
    """Encode the result of the function. Raises TypeError or ValueError if it is no JSON."""
    try:
        # Text in UTF-8 is never longer than with escapes, and the limits count bytes.
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:  # half of a character, which only an escape can stand for
        return json.dumps(value, allow_nan=False).encode()


def load_function(name: str) -> Function:
    """Import ``module:function``. Raises ConfigError, and what the import of the module raises."""
    module_name, _, path = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise _invalid(name, f"there is no module {error.name!r}") from None
    try:
        function: Function = reduce(getattr, path.split("."), module)  # type: ignore[assignment]
    except AttributeError:
        raise _invalid(name, f"{module_name} has no {path!r}") from None
    if not callable(function):
        raise _invalid(name, "it cannot be called")
    return function


def _invalid(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"Invalid value for option lambda_event_function: {name!r} must be a function; {reason}."
    )
