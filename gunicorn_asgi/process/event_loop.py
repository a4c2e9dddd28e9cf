"""The event loop of a worker: made, run to the end of its work, and closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from ..observe.log import Log
from ..observe.printable import printable

T = TypeVar("T")


class EventLoop:
    """An asyncio loop that continues after SystemExit and KeyboardInterrupt.

    asyncio lets these two out of tasks and callbacks of the application, and stops the loop. This
    class calls `on_exit` and runs the loop again. So the worker shuts down in good order.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_exit: Callable[[SystemExit | KeyboardInterrupt], None],
        log: Log,
    ) -> None:
        self._loop = loop
        self._on_exit = on_exit
        self._log = log
        loop.set_exception_handler(self._log_error)

    def run_to_end(self, work: Coroutine[Any, Any, T], name: str) -> T | None:
        """Run the loop until `work` is done; return its result.

        The result is None if SystemExit or KeyboardInterrupt has ended it.
        """
        task = self._loop.create_task(work, name=name)
        while not task.done():
            try:
                self._loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as error:
                self._on_exit(error)
        has_exited = isinstance(task.exception(), (SystemExit, KeyboardInterrupt))
        return None if has_exited else task.result()

    def close(self, moment_s: float) -> None:
        """Cancel the application's remaining tasks, close its generators, and close the loop.

        Each of the two has a moment to end.
        """
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_to_end(asyncio.wait(tasks, timeout=moment_s), "gunicorn_asgi tasks")
        with suppress(asyncio.TimeoutError):  # from a generator that does not end when closed
            self.run_to_end(
                asyncio.wait_for(self._loop.shutdown_asyncgens(), moment_s),
                "gunicorn_asgi generators",
            )
        self._loop.close()

    def _log_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Write asyncio's own errors to Gunicorn's log, those of the network without a traceback.

        Examples of the latter are a failed TLS handshake and a reset.
        """
        error = context.get("exception")
        if isinstance(error, OSError):  # ssl.SSLError is a subclass
            self._log.debug("%s: %r", printable(context["message"]), error)
        else:
            self._log.error("%s", printable(context["message"]), exc_info=error)


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        import uvloop  # noqa: PLC0415 # may not be installed

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()
