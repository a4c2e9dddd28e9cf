"""The common part of HTTP requests and WebSockets: run the application, and wait.

`HTTPStream` and `WebSocketStream` share functions and a list of futures, no object: most requests
never wait, and would make it in vain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ApplicationError
from ..observe.log import Log
from .endings import find_exit, without_cancellations
from .scope import Application, Message, Scope

if TYPE_CHECKING:
    from ..websocket.share import WebSocketShare

PARTS_PER_TURN = 64
"""Messages of an exchange after which it lets the loop run other tasks.

Otherwise an application could keep the loop busy without end, if it never has to wait.
"""

Waiters = list["asyncio.Future[None]"]
"""A future for each coroutine waiting in an exchange."""


class ResponsePhase(IntEnum):
    """The progress of a response."""

    WAITING = 0
    """The application has sent nothing."""
    STARTED = 1
    """It has sent ``http.response.start``. The connection keeps the head; nothing is written."""
    STREAMING = 2
    """The head is written, the body is not complete."""
    SENDING = 3
    """A file, or a long part in pieces, is being sent. Nothing else may be written until its end.

    STREAMING follows. No other phase goes back.
    """
    TRAILING = 4
    """The body is complete, and the promised trailers are missing."""
    COMPLETE = 5
    """Everything is written, or the response was given up: `ResponseWriter.finish` was called."""


WAITING, STARTED, STREAMING, SENDING, TRAILING, COMPLETE = ResponsePhase

UNDECLARED = -1
"""The missing bytes of a response without a declared ``content-length``, or without a body."""


def unexpected_body(kind: str, phase: ResponsePhase) -> ApplicationError:
    """Return the error for a part of the body in the wrong `phase`."""
    if phase is SENDING:
        return ApplicationError(f"a file is being sent: expected {kind!r} after it")
    if phase is WAITING:
        return ApplicationError(f"expected 'http.response.start' before {kind!r}")
    return ApplicationError(f"expected 'http.response.trailers', not {kind!r}")


class ExchangeHost(Protocol):
    """The members of the server for exchanges."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def log(self) -> Log: ...

    @property
    def cancelled(self) -> type[BaseException]:
        """The exception that cancels the application: that of its async library."""

    @property
    def tick_end(self) -> float:
        """Upper bound of ``loop.time()`` until deadlines are checked again."""

    @property
    def grace_s(self) -> float:
        """``asgi_disconnect_grace_period``: time for an application to end after its client."""

    @property
    def switched_off(self) -> Mapping[str, str]:
        """The response extensions that are not offered, each with the reason for people."""

    @property
    def is_out_of_service(self) -> bool:
        """Whether load balancers are to choose another server: the answer to a health check."""

    @property
    def websocket_share(self) -> WebSocketShare | None:
        """The limits that all WebSockets share; None if they are not served."""

    def leave(self, error: SystemExit | KeyboardInterrupt) -> None:
        """End the process."""

    def continue_later(self, step: Callable[[], bool]) -> None:
        """Call `step` in later turns of the loop until it returns False: see `net.work_queue`."""


class RunningExchange(Protocol):
    """The members of a stream for `run_application`."""

    @property
    def host(self) -> ExchangeHost: ...

    @property
    def scope(self) -> Scope: ...

    @property
    def phase(self) -> ResponsePhase:
        """COMPLETE once the exchange has finished."""

    async def receive(self) -> Message: ...

    async def send(self, message: Message) -> None: ...

    def application_returned(self) -> None:
        """The application has returned before the end of the exchange."""

    def application_cancelled(self) -> None:
        """The application was cancelled before the end of the exchange."""

    def application_raised(self, error: BaseException) -> None:
        """The application has raised `error`."""

    def application_exited(self) -> None:
        """The application has ended the process, perhaps within its response."""

    def finish(self) -> None:
        """End the exchange: the application has ended."""


async def run_application(exchange: RunningExchange, app: Application) -> None:
    """Call the application, and finish its exchange however it ends."""
    try:
        await app(exchange.scope, exchange.receive, exchange.send)
    except BaseException as error:
        if _handle_exception(exchange, error):
            raise
    else:
        if exchange.phase is not COMPLETE:
            exchange.application_returned()
    finally:
        if exchange.phase is not COMPLETE:
            exchange.finish()


def _handle_exception(exchange: RunningExchange, error: BaseException) -> bool:
    """End an exchange whose application has raised. Returns whether `error` is to be raised again.

    It is if it cancels the task, so that the task ends as a cancelled one.

    This is a function of its own because `run_application` must not name the error: its frame is in
    the error's traceback. That cycle would keep all objects of the request from being released.
    """
    if isinstance(error, GeneratorExit) and exchange.phase is COMPLETE:
        return True  # its loop has ended, and the rest of it is collected as garbage
    reason = without_cancellations(error, exchange.host.cancelled)
    if reason is None:
        if exchange.phase is not COMPLETE:
            exchange.application_cancelled()
        # asyncio would take a group that leaves its task for an error.
        return isinstance(error, (exchange.host.cancelled, asyncio.CancelledError))
    exit_error = find_exit(reason)
    if exit_error is not None:
        # Raised by a signal handler, or by the application itself.
        exchange.host.leave(exit_error)
        exchange.application_exited()
    else:
        exchange.application_raised(reason)  # every other exception ends here, in the log
    return False


def end_cancelled(exchange: RunningExchange) -> None:
    """Finish an exchange whose task was cancelled before its first step, if it was.

    Then no line of `run_application` has run. Before Python 3.12, a task takes its first step in a
    later turn of the loop.
    """
    if exchange.phase is not COMPLETE:
        exchange.application_cancelled()
        exchange.finish()


async def wait(waiters: Waiters, loop: asyncio.AbstractEventLoop) -> None:
    """Wait for `wake`. Each caller has its own future, so it can be cancelled alone."""
    waiter = loop.create_future()
    waiters.append(waiter)
    try:
        await waiter
    finally:
        waiters.remove(waiter)


def wake(waiters: Waiters) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


async def wait_until_done(future: asyncio.Future[Any], loop: asyncio.AbstractEventLoop) -> None:
    """Wait for `future`, and do not cancel it when the caller is cancelled.

    ``asyncio.wait`` would look for the running loop, which trio-asyncio hides in tasks of trio.
    """
    waiters: Waiters = []
    future.add_done_callback(lambda _: wake(waiters))
    await wait(waiters, loop)


async def is_set_within(seconds: float, event: asyncio.Event) -> bool:
    """Wait for `event`, for at most `seconds`. Returns whether it is set."""
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


async def pace(count: int) -> None:
    """Let the loop run other tasks if `count` is a multiple of PARTS_PER_TURN.

    `count`: calls of ``receive()`` after the end, and of ``send()`` after the end or with an error.
    An application may ignore their answers and repeat them without end. It would keep the loop from
    everything else, its own cancellation included. Most of these calls must return at once:
    frameworks poll with a ``receive()``, and cancel it if it waits (Starlette's
    ``is_disconnected``).
    """
    if count % PARTS_PER_TURN == 0:
        await asyncio.sleep(0)
