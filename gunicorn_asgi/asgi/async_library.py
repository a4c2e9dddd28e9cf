"""The async library of the application: asyncio here, trio in `trio_library`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigError
from ..http.contract import ApplicationTask
from ..observe.printable import printable
from .scope import Application

if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..observe.log import Log
    from ..observe.tasks import NamedTask

OLDEST_TRIO = (0, 25)
"""The oldest version of trio that works, as in pyproject.toml."""

Spawn = Callable[..., ApplicationTask]
"""(coroutine, context=...) -> task."""


class AsyncLibrary(Protocol):
    """The library whose tasks run the application: exchanges, and the lifespan."""

    @property
    def cancelled(self) -> type[BaseException]:
        """The exception that cancels a task."""

    @property
    def cancels_tasks_at_end(self) -> bool:
        """Whether its end cancels all tasks. Apart from that, only this package cancels them."""

    @property
    def spawn(self) -> Spawn:
        """Start a task for the coroutine of an exchange, in a context of its own."""

    def create_task(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> ApplicationTask:
        """Start a task for the lifespan."""

    def adapt(self, app: Application) -> Application:
        """Return `app` for the tasks of this library, with functions that it can await there."""

    async def start(self) -> None:
        """Make ready for tasks."""

    async def close(self, seconds: float) -> None:
        """Cancel all tasks that are left, and give them `seconds` to end."""

    def list_tasks(self, besides: Collection[ApplicationTask]) -> list[NamedTask]:
        """Return the application's tasks for a report, but those of the exchanges in `besides`.

        Not those that asyncio knows. May be called from another thread, or a signal handler.
        """


class Asyncio:
    """Asyncio's own tasks: nothing lies between them and the loop."""

    cancelled = asyncio.CancelledError
    cancels_tasks_at_end = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.spawn = _spawner(loop)
        self.create_task = loop.create_task

    def adapt(self, app: Application) -> Application:
        return app

    async def start(self) -> None:
        pass

    async def close(self, seconds: float) -> None:
        """Tasks that are left are ended with the loop: `EventLoop.close`."""

    def list_tasks(self, besides: Collection[ApplicationTask]) -> list[NamedTask]:
        return []


def _spawner(loop: asyncio.AbstractEventLoop) -> Spawn:
    """The function that makes a task. From Python 3.12 on, the task runs at once."""
    if sys.version_info >= (3, 12):
        return partial(asyncio.Task, loop=loop, eager_start=True)
    if sys.version_info >= (3, 11):
        return loop.create_task
    return lambda exchange, context: context.run(loop.create_task, exchange)


def make_library(
    settings: Settings,
    loop: asyncio.AbstractEventLoop,
    log: Log,
    on_crash: Callable[[BaseException], None],
) -> AsyncLibrary:
    """Return the library of the option ``async_library``.

    `on_crash` is called with the error if it can run no more tasks.
    """
    if settings.async_library == "trio":
        from .trio_library import Trio  # noqa: PLC0415 # imports trio

        return Trio(loop, log, on_crash)
    return Asyncio(loop)


def load_trio() -> None:
    """Import everything that runs tasks of trio. Raises ConfigError if there is no good trio."""
    try:
        import trio  # noqa: PLC0415 # may not be installed

        if tuple(map(int, trio.__version__.split(".")[:2])) < OLDEST_TRIO:
            raise _no_trio(f"trio {trio.__version__} is too old")
        from . import trio_library  # noqa: F401, PLC0415 # to have it loaded
    except ConfigError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "trio":
            raise _no_trio("it is not installed") from None
        import platform  # noqa: PLC0415 # a millisecond, for an error only

        python = f"{platform.python_implementation()} {platform.python_version()}"
        raise _no_trio(f"it cannot be imported on {python}: {printable(repr(error))}") from error


def _no_trio(reason: str) -> ConfigError:
    return ConfigError(
        f"Invalid value for option async_library: 'trio' needs trio {OLDEST_TRIO[0]}."
        f"{OLDEST_TRIO[1]} or newer, and {reason}; run pip install --upgrade "
        "'gunicorn-asgi[trio]', or use asyncio."
    )
