"""One exchange, in every version of HTTP: its record for the log, and the deadline of its body.

The scope is made by `asgi.scope.http_scope`, for every version as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ..asgi.scope import Peer
from ..config.settings import Settings
from ..errors import RequestError
from ..observe.access_log import Access
from ..observe.record import Record
from .contract import CLIENT_CLOSED_REQUEST, NEVER, ASGIStream, Header
from .fields import copied
from .request import Request, Rules

RATE_SECONDS = 10.0
"""The time in which a client has to keep a minimal rate, in either direction."""
RATE_LOOK_SECONDS = 0.5
"""Time after which the rate of a body is looked at again, with the next tick."""
MISSED_LOOKS_SECONDS = 2.0
"""A look that comes so much too late begins a new stretch. Nobody looks while the connection waits
for something else: for the application to read, or for the client to take the response."""


class LoggedPeer(Peer, Protocol):
    """A connection, as far as the log tells of it."""

    rules: Rules


class ExchangeLog:
    """The end of an exchange in the access log and Gunicorn's hooks. One exchange at a time.

    Connections have one only where a log or a hook listens.
    """

    __slots__ = ("_access", "_record")

    def __init__(self, access: Access) -> None:
        self._access = access
        self._record: Record | None = None

    def begin(self, request: Request, version: str, peer: LoggedPeer) -> None:
        """A request is about to be passed on. Raises RequestError if ``pre_request`` raises."""
        method, _, raw_path, query, fields = request
        self._record = self._access.begin(
            method,
            raw_path,
            query,
            version,
            fields.scheme or peer.listener.scheme,
            fields.headers,
            peer.client,
            peer.server_address,
            fields.script_name,
            fields.client,
            peer.rules.takes_request_start,
        )

    def name_invocation(self, aws_request_id: str) -> None:
        """The exchange is this invocation of AWS Lambda."""
        if self._record is not None:
            self._record.aws_request_id = aws_request_id

    @property
    def is_open(self) -> bool:
        """Whether the end of an exchange has still to be logged."""
        return self._record is not None

    def set_headers(self, headers: Iterable[Header]) -> None:
        """The application has sent the head of its response. Takes a copy of `headers`."""
        if self._record is not None and self._access.needs_headers:
            self._record.response_headers = copied(headers)

    def replace(self, status: int) -> None:
        """The head is replaced by an answer of the server's own, with `status`."""
        if self._record is not None:
            self._record.response_headers = ()
            self._access.replaced(status)

    def end(self, status: int, sent: int, has_begun: bool = True) -> None:
        """Log the end, once. `sent`: bytes of the body. `has_begun`: `status` was written."""
        record, self._record = self._record, None
        if record is not None:
            if not has_begun:
                record.response_headers = ()  # they were held, and not written
                status = CLIENT_CLOSED_REQUEST
            self._access.end(record, status, sent)

    def hand_over(self, version: str = "") -> ExchangeLog:
        """Return a log that ends this exchange in place of this one.

        `version`: the exchange goes on in another version of HTTP.
        """
        other = ExchangeLog(self._access)
        other._record, self._record = self._record, None
        if version and other._record is not None:
            other._record.protocol = "HTTP/" + version
        return other


class BodyDeadline:
    """The deadline of a request's body: the next part, within ``body_timeout`` of the last.

    A client that sent ``Expect: 100-continue`` has no deadline before it was told to continue
    (RFC 9110, 10.1.1).
    """

    __slots__ = ("_limit_s", "at", "awaits_continue")

    def __init__(self, limit_s: float, now: float, awaits_continue: bool) -> None:
        self._limit_s = limit_s
        self.at = now + limit_s
        self.awaits_continue = awaits_continue

    def received(self, now: float) -> None:
        """A part has arrived, or the client was told to continue."""
        self.awaits_continue = False
        self.at = now + self._limit_s

    def continue_sent(self, now: float) -> bool:
        """The application asks for the body. Returns whether the client waits for 100 (Continue).

        Otherwise its body is on its way, and it is told nothing.
        """
        if not self.awaits_continue:
            return False
        self.received(now)
        return True

    def next_at(self, now: float) -> float:
        """The deadline, which starts anew if it has passed; NEVER if the client waits, too."""
        if self.awaits_continue:
            return NEVER
        if self.at <= now:
            self.at = now + self._limit_s
        return self.at

    def postpone(self, seconds: float) -> None:
        """The loop was blocked for so long."""
        self.at += seconds

    def is_overdue(self, now: float, stream: ASGIStream, count: int | None = None) -> bool:
        """Whether the deadline has passed while the application waits for the body.

        While it does not, the client may be slow: the deadline starts anew. `count`: bytes
        received on the connection, for a minimal rate; None where that is not known.
        """
        if self.awaits_continue or self.at > now:
            return False
        if stream.awaits_body:
            return True
        self.at = now + self._limit_s
        return False


class RatedBodyDeadline(BodyDeadline):
    """The deadline of a body with a minimal rate as well: ``min_body_rate``.

    The rate holds in each stretch of RATE_SECONDS in which the application always waits for the
    body. It is looked at about once a second.
    """

    __slots__ = ("_first", "_look_at", "_rate", "_since")

    def __init__(self, limit_s: float, now: float, awaits_continue: bool, rate: int) -> None:
        super().__init__(limit_s, now, awaits_continue)
        self._rate = rate
        """Bytes a second."""
        self._look_at = now
        self._since = NEVER
        """The beginning of the stretch; NEVER before the first look."""
        self._first = 0
        """The count at the beginning of the stretch."""

    def next_at(self, now: float) -> float:
        return NEVER if self.awaits_continue else min(super().next_at(now), self._look_at)

    def postpone(self, seconds: float) -> None:
        super().postpone(seconds)
        self._look_at += seconds
        self._since += seconds

    def is_overdue(self, now: float, stream: ASGIStream, count: int | None = None) -> bool:
        if super().is_overdue(now, stream):
            return True
        if self.awaits_continue or count is None or self._look_at > now:
            return False
        is_late = now - self._look_at > MISSED_LOOKS_SECONDS
        self._look_at = now + RATE_LOOK_SECONDS
        if not stream.awaits_body:
            self._since = NEVER
        elif is_late or self._since == NEVER:
            self._since, self._first = now, count
        elif now - self._since >= RATE_SECONDS:
            if count - self._first < self._rate * (now - self._since):
                return True
            self._since, self._first = now, count
        return False


def body_deadline(settings: Settings, now: float, awaits_continue: bool) -> BodyDeadline:
    """The deadline of a body that begins `now`."""
    limit_s, rate = settings.body_timeout_s, settings.min_body_rate
    if rate:
        return RatedBodyDeadline(limit_s, now, awaits_continue, rate)
    return BodyDeadline(limit_s, now, awaits_continue)


LATE_HEAD = RequestError(408, "The head of the request did not arrive in time")
LATE_BODY = RequestError(408, "The body of the request did not arrive in time")
"""RFC 9110, 15.5.9."""


class Refusable(Protocol):
    """An exchange, as far as `refuse` needs it."""

    log: ExchangeLog | None

    @property
    def has_begun(self) -> bool:
        """Whether the head of the response is written."""

    def log_invalid(self, what: str, reason: object) -> None:
        """Log the one line about a rule that the client has broken."""

    def abort_begun(self) -> None:
        """End a response that has begun, so that nobody takes it for complete."""

    def write_refusal(self, error: RequestError) -> None:
        """Write the whole answer, in place of a head that may be held, and close."""

    def end_log(self) -> None:
        """Log the end of the exchange, once."""

    def give_up(self) -> None:
        """To the application, the client is gone. Its end is waited for, if it runs."""


def refuse(exchange: Refusable, error: RequestError) -> None:
    """Answer in the application's place, and give `exchange` up."""
    if not error.is_logged:
        exchange.log_invalid("request", error)
    if exchange.has_begun:
        exchange.abort_begun()
    else:
        if exchange.log is not None:
            exchange.log.replace(error.status)
        exchange.write_refusal(error)
    exchange.end_log()
    exchange.give_up()
