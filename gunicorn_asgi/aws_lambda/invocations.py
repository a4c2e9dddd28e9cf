"""The invocations of one worker: polls for them, their applications, deadlines and shutdown."""

from __future__ import annotations

import asyncio
import contextvars
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..asgi.async_library import AsyncLibrary
from ..asgi.exchange import is_set_within
from ..asgi.health import HealthCheck, answer_health_check
from ..asgi.http import HTTPStream
from ..asgi.request_timeout import cancel_overdue
from ..asgi.scope import Application, http_scope
from ..config.settings import Settings
from ..errors import EventError, RequestError
from ..http.contract import ApplicationTask, ASGIStream
from ..http.exchange import ExchangeLog
from ..http.request import may_be_health_check
from ..http.trust import make_rules, peer_rules
from ..observe.access_log import Access
from ..observe.log import Log
from ..observe.running_requests import title
from ..observe.tasks import describe_task
from ..process.exits import read_exit_code
from .api_connection import Rejected, RuntimeAPIError
from .context import LambdaContext
from .deadline import Deadline
from .environment import LambdaEnvironment
from .event_function import EventFunction, Function, FunctionCall
from .events import (
    Form,
    describe_refused,
    find_form,
    parse_json,
    read_event,
    unsupported,
)
from .failure import Failure
from .gateway import Gateway, Site
from .invocation import Invocation
from .runtime_api import ANSWER_SECONDS, RuntimeAPI
from .writer import BufferedWriter, InvocationWriter, StreamedWriter

if TYPE_CHECKING:
    from ..websocket.share import WebSocketShare

TRACE_VARIABLE = "_X_AMZN_TRACE_ID"
"""The environment variable in which the X-Ray SDK finds the trace of the current invocation."""
NOTICE_SECONDS = 1.0
"""Time for an application that is told to end, before the worker aborts it."""
MIN_WAIT_SECONDS = 0.05
"""Time for a cancelled application to end, also after the deadline."""
NOT_ON_LAMBDA = "AWS Lambda has no way to send it"
OVERDUE = RequestError(503, "The application did not answer in time", is_logged=True)
DEADLINE_EXCEEDED = Failure("Runtime.DeadlineExceeded", "the deadline of the invocation is near")
ENDED = Failure("Runtime.ExitError", "the worker ends")
INVALID_EVENT = "Runtime.InvalidEvent"


class InvocationHost(Protocol):
    """Gunicorn's worker, as this module sees it."""

    nr: int
    """Invocations served, Gunicorn's own attribute."""
    max_requests: int

    def retire(self) -> None:
        """The worker leaves."""

    def leave(self, code: int) -> None:
        """The application has ended the process by an exception."""

    def fail(self, reason: str) -> None:
        """The Runtime API cannot be used any more: this execution environment is at its end."""


class InvocationStream(HTTPStream):
    """An HTTP exchange whose failure is reported with the name of its exception."""

    __slots__ = ()

    def connection_lost(self) -> None:
        """The Runtime API wants no more of the response.

        So the invocation is over, even if the application goes on.
        """
        super().connection_lost()
        assert isinstance(self.writer, InvocationWriter)
        self.writer.end_wait()
        if self.task is not None and not self.task.done():
            timer = self.host.loop.call_later(self.host.grace_s, self.cancel)
            # The timer holds the exchange, with its event, in memory.
            self.task.add_done_callback(lambda _: timer.cancel())

    def application_exited(self) -> None:
        assert isinstance(self.writer, InvocationWriter)
        self.writer.failure = ENDED
        super().application_exited()

    def application_raised(self, error: BaseException) -> None:
        assert isinstance(self.writer, InvocationWriter)
        self.writer.failure = Failure.of(error)
        super().application_raised(error)


class Invocations:
    """Serves invocations, up to ``AWS_LAMBDA_MAX_CONCURRENCY`` at once.

    An `asgi.exchange.ExchangeHost` for their exchanges, and a `process.shutdown.WorkerServer` for
    the worker. Each slot polls the Runtime API for an invocation, serves it, and polls again.
    """

    def __init__(
        self,
        settings: Settings,
        app: Application,
        function: Function | None,
        host: InvocationHost,
        log: Log,
        access: Access | None,
        loop: asyncio.AbstractEventLoop,
        library: AsyncLibrary,
        environment: LambdaEnvironment,
    ) -> None:
        # Set once.
        self.settings = settings
        self.app = app
        self._host = host
        self.log = log
        self._access = access
        self.loop = loop
        self.cancelled = library.cancelled
        self._spawn = library.spawn
        self._environment = environment
        self._variables = dict(os.environ)
        """The environment, for contexts: to read `os.environ` itself takes longer."""
        self._rules_for = peer_rules(make_rules(settings), settings)
        self._site = Site(settings.root_path)
        self._context = contextvars.copy_context()
        """Every exchange runs in a copy of it, so that nothing leaks from one to the next."""
        self._function = function and EventFunction(
            function, loop, library, self._context, log, self.leave
        )
        self.grace_s = settings.disconnect_grace_s
        self.switched_off: Mapping[str, str] = {
            **settings.switched_off,
            "http.response.early_hint": NOT_ON_LAMBDA,
            "http.response.trailers": NOT_ON_LAMBDA,
        }
        self.state: Mapping[str, Any] | None = None
        self.websocket_share: WebSocketShare | None = None
        self.is_out_of_service = False
        # Invocations.
        self.tasks: dict[ApplicationTask, tuple[ASGIStream, float]] = {}
        """The running applications: their exchange, and the time when it began
        (``time.monotonic``)."""
        self._apis: list[RuntimeAPI] = []
        """The client of each slot."""
        self._slots: set[asyncio.Task[None]] = set()
        self._calls: set[FunctionCall] = set()
        """The running calls of the event function."""
        self._is_stopping = False
        self._is_retiring = False
        self.tick_end = math.inf
        self.tick(1.0)

    def start(self) -> None:
        """Begin to poll for invocations."""
        for _ in range(self._environment.max_concurrency):
            api = RuntimeAPI(self._environment.runtime_api, self.loop)
            slot = self.loop.create_task(self._poll(api), name="gunicorn_asgi invocations")
            self._apis.append(api)
            self._slots.add(slot)
            slot.add_done_callback(self._slot_ended)

    def _slot_ended(self, slot: asyncio.Task[None]) -> None:
        self._slots.discard(slot)
        if self._is_retiring and not self._slots:
            self._host.retire()

    async def _poll(self, api: RuntimeAPI) -> None:
        """Serve one invocation after the other, until the worker stops or retires."""
        try:
            while not self._is_stopping and not self._is_retiring:
                invocation = await api.next()
                if invocation is not None:
                    await self._serve(api, invocation)
        except RuntimeAPIError as error:
            if not self._is_stopping:
                self._is_stopping = True  # one sentence, also where several polls fail
                address = self._environment.runtime_api
                self._host.fail(f"The Runtime API of AWS Lambda at {address} has failed: {error}")
        except Exception as error:
            self.log.exception("Error while polling for invocations")
            self._host.fail(f"No more invocations can be served: {error!r}")
        finally:
            api.close()

    async def _serve(self, api: RuntimeAPI, invocation: Invocation) -> None:
        """Serve one invocation. Raises RuntimeAPIError if there can be no further one."""
        self._set_trace(invocation)
        try:
            await self._serve_event(api, invocation)
        except Rejected as error:
            self._log_failure(invocation, error)
        except RuntimeAPIError:
            raise
        except Exception as error:  # a fault of this package must not end the worker
            self.log.exception("Error at invocation %s", invocation.request_id)
            with suppress(Rejected):
                await api.fail(invocation, Failure.of(error))
        if self._host.nr >= self._host.max_requests:
            self.retire()

    def _log_failure(self, invocation: Invocation, reason: object) -> None:
        self.log.error("Invocation %s has failed: %s", invocation.request_id, reason)

    def _set_trace(self, invocation: Invocation) -> None:
        """Show the trace to the X-Ray SDK, as the Python runtime of AWS does.

        The environment belongs to all invocations. So it has none where several run at once.
        """
        if invocation.trace_id and self._environment.max_concurrency == 1:
            os.environ[TRACE_VARIABLE] = invocation.trace_id
        else:
            os.environ.pop(TRACE_VARIABLE, None)

    async def _serve_event(self, api: RuntimeAPI, invocation: Invocation) -> None:
        """Serve an event of any kind. Raises Rejected, RuntimeAPIError."""
        try:
            event = parse_json(invocation.payload, "event")
            # A function may take any JSON.
            form = None if self._function and not isinstance(event, dict) else find_form(event)
            context = LambdaContext(invocation, self._variables)
            if form is None and self._function is None:
                raise unsupported(event)
            if form is not None:
                await self._serve_request(api, invocation, event, form, context)
            else:
                await self._call_function(api, invocation, event, context)
        except EventError as error:
            self._log_failure(invocation, error)
            await api.fail(invocation, Failure(INVALID_EVENT, str(error)))

    # Requests.

    async def _serve_request(
        self,
        api: RuntimeAPI,
        invocation: Invocation,
        event: Mapping[str, Any],
        form: Form,
        context: LambdaContext,
    ) -> None:
        log = ExchangeLog(self._access) if self._access is not None else None
        writer: InvocationWriter
        if self.settings.lambda_streams and form in (Form.V1, Form.V2):
            address = self._environment.runtime_api
            writer = StreamedWriter(form, log, self.log, self.loop, address, invocation)
        else:
            text_types = self.settings.lambda_text_types
            writer = BufferedWriter(form, log, self.log, self.loop, text_types)
        deadline = Deadline(invocation, self.loop)
        try:
            stream = self._make_stream(writer, event, context)
        except RequestError as error:
            self._refuse(writer, event, error)
        else:
            self._start(stream)
            deadline.arm(partial(self._deadline_is_near, invocation, stream, writer))
        try:
            await writer.finished
            try:
                await self._deliver(writer, api, invocation, deadline)
            except Rejected as error:  # the application may go on all the same
                self._log_failure(invocation, error)
            if writer.stream is not None and writer.stream.task is not None:
                await self._until_ended(writer.stream, deadline)
        finally:
            deadline.disarm()

    def _make_stream(
        self, writer: InvocationWriter, event: Mapping[str, Any], context: LambdaContext
    ) -> HTTPStream:
        """Make the exchange of a request. Raises EventError, RequestError."""
        request, body, client, server, rules = read_event(
            event, writer.form, self.settings.lambda_base_path, self._rules_for
        )
        method, _, raw_path, _, fields = request
        writer.is_head = method == "HEAD"
        gateway = Gateway(self._site, client, server, rules)
        scope = http_scope(request, gateway, self.state, self.switched_off)
        scope["aws.event"] = event
        scope["aws.context"] = context
        stream: HTTPStream
        if raw_path == self.settings.health_path and may_be_health_check(method, fields):
            stream = HealthCheck(writer, scope, bool(body), False, self)
        else:
            stream = InvocationStream(writer, scope, bool(body), False, self)
            if writer.log is not None:
                writer.log.begin(request, fields.version, gateway)
                writer.log.name_invocation(context.aws_request_id)
        writer.stream = stream
        if body:
            stream.feed_data(body)
            stream.feed_eof()
        return stream

    def _refuse(
        self, writer: InvocationWriter, event: Mapping[str, Any], error: RequestError
    ) -> None:
        """Answer a request in place of the application, with one line in each log."""
        head, writer.client = describe_refused(event, writer.form)
        writer.is_head = head.startswith(b"HEAD ")
        writer.refuse(error)
        if self._access is not None:
            self._access.refused(
                head, error.status, writer.sent, self._site.scheme, writer.client, None, 0.0
            )

    def _start(self, stream: HTTPStream) -> None:
        """Count a request, and run the application for it in a task of its own."""
        app = self.app
        if stream.is_health_check:
            app = partial(answer_health_check, self)
        else:
            self._host.nr += 1
        stream.task = task = self._spawn(stream.run(app), context=self._context.copy())
        if not task.done():
            self.tasks[task] = stream, time.monotonic()
            task.add_done_callback(self._task_done)

    def _task_done(self, task: ApplicationTask) -> None:
        running = self.tasks.pop(task, None)
        if running is not None and task.cancelled():
            running[0].end_cancelled()

    async def _deliver(
        self,
        writer: InvocationWriter,
        api: RuntimeAPI,
        invocation: Invocation,
        deadline: Deadline,
    ) -> None:
        """Hand in a response. Raises RuntimeAPIError."""
        if isinstance(writer, StreamedWriter) and writer.result is not None:
            await writer.result.end(deadline.left_s + ANSWER_SECONDS)
        elif isinstance(writer, BufferedWriter) and writer.payload is not None:
            await api.respond(invocation, writer.payload)
        else:
            await api.fail(invocation, writer.failure)

    async def _until_ended(self, stream: HTTPStream, deadline: Deadline) -> None:
        """Wait for the end of an application whose response is handed in.

        Then the environment may be frozen: with the next poll, and before it nothing is.
        """
        task: ApplicationTask = stream.task  # type: ignore[assignment]  # it was started
        if task.done():
            return
        ended = asyncio.Event()
        task.add_done_callback(lambda _: ended.set())
        if not await is_set_within(max(deadline.left_s, MIN_WAIT_SECONDS), ended):
            self.log.error("%s goes on after the deadline of its invocation", title(stream))

    def _deadline_is_near(
        self, invocation: Invocation, stream: HTTPStream, writer: InvocationWriter
    ) -> None:
        """Answer for the application, and cancel it."""
        task = stream.task
        if task is None or task.done():
            return
        self.log.warning(
            "The deadline of invocation %s is near: %s is cancelled. It was %s",
            invocation.request_id,
            title(stream),
            describe_task(task),
        )
        writer.failure = DEADLINE_EXCEEDED
        if stream.is_unanswered:
            stream.refuse(OVERDUE)
        else:
            task.cancel()

    # Other events.

    async def _call_function(
        self, api: RuntimeAPI, invocation: Invocation, event: Any, context: LambdaContext
    ) -> None:
        """Hand an event to the function of ``lambda_event_function``. Raises RuntimeAPIError."""
        assert self._function is not None
        self._host.nr += 1
        call = self._function.call(event, context)
        self._calls.add(call)
        deadline = Deadline(invocation, self.loop)
        try:
            await asyncio.wait({call.result}, timeout=deadline.near_s)
        finally:
            self._calls.discard(call)
        if not call.result.done():
            self.log.warning(
                "The deadline of invocation %s is near: lambda_event_function is cancelled. It was "
                "%s",
                invocation.request_id,
                describe_task(call.task),
            )
            call.cancel(DEADLINE_EXCEEDED)
        outcome = call.result.result()
        if isinstance(outcome, Failure):
            await api.fail(invocation, outcome)
        else:
            await api.respond(invocation, outcome)

    # For exchanges: see `asgi.exchange.ExchangeHost`.

    def leave(self, error: SystemExit | KeyboardInterrupt) -> None:
        self._host.leave(read_exit_code(error, self.log))

    def continue_later(self, step: Callable[[], bool]) -> None:
        if step():
            self.loop.call_soon(self.continue_later, step)

    # For the worker: see `process.shutdown.WorkerServer`.

    def tick(self, interval: float) -> None:
        now = self.loop.time()
        limit_s = self.settings.request_timeout_s
        if limit_s != math.inf:
            cancel_overdue(self.tasks, limit_s, time.monotonic(), self.log)
        self.tick_end = now
        for stream, _ in list(self.tasks.values()):
            if stream.deadline <= now:
                stream.deadline_passed()
        self.tick_end = now + interval

    def retire(self) -> None:
        """Have each slot serve the invocation for which it polls, then end the worker.

        A poll cannot be taken back: an invocation that is handed out at the same moment would be
        lost.
        """
        self._is_retiring = True

    async def shut_down(self, seconds: float, abort_seconds: float) -> None:
        """Poll no more, and let running invocations finish, for at most `seconds`."""
        notice_s = min(NOTICE_SECONDS, seconds / 4)
        if not await self._until_idle(seconds - notice_s):
            for stream, _ in list(self.tasks.values()):
                stream.ask_to_end()
            await self._until_idle(notice_s)
        if self._slots:
            self.log.warning(
                "%d invocations were not complete at the end of graceful_timeout", len(self._slots)
            )
        await self.abort(abort_seconds)

    async def abort(self, seconds: float) -> None:
        for task in list(self.tasks):
            task.cancel()
        for call in list(self._calls):
            call.cancel(ENDED)
        await self._until_idle(seconds)
        for slot in self._slots:
            slot.cancel()

    async def _until_idle(self, seconds: float) -> bool:
        """Stop to poll, and wait for running invocations. Returns whether that was in time."""
        self._is_stopping = True
        for api in self._apis:
            api.stop_polling()
        if self._slots:
            await asyncio.wait(set(self._slots), timeout=seconds)
        return not self._slots
