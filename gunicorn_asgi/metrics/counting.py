"""Counting: the end of each exchange, and the bytes of connections.

All counts are plain additions in the shared memory.

None of it is used by a worker whose numbers are off.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from ..http.contract import Header
from ..net.transport import OPEN, Handler, Transport
from ..observe.access_log import Access
from ..observe.record import Record
from .catalog import BUCKETS, PLACES, Values, class_place, refusal_place

if TYPE_CHECKING:
    from gunicorn.workers.base import Worker

CLASS_PLACES = tuple(class_place(status) for status in range(1000))
"""The place of each status."""
REQUESTS = PLACES["requests_total"]
BODY_BYTES = PLACES["response_body_bytes_total"]
CONNECTIONS = PLACES["accepted_connections_total"]
RECEIVED = PLACES["received_bytes_total"]
SENT = PLACES["sent_bytes_total"]
DURATION = PLACES["request_duration_seconds"]
DURATION_SUM = DURATION + len(BUCKETS) + 1


class CountingAccess(Access):
    """Counts the end of each exchange in `values`, and tells log and hooks if they listen."""

    def __init__(self, worker: Worker, values: Values) -> None:
        super().__init__(worker)
        self._counter = worker
        self._values = values
        if not self.is_needed:
            self.needs_headers = False

    def begin(self, method: str, *request: Any, **named: Any) -> Record:
        if self.is_needed:
            return super().begin(method, *request, **named)
        return CountedRecord(method)

    def end(self, record: Record, status: int, sent: int) -> None:
        values = self._values
        values[REQUESTS] = self._counter.nr
        values[CLASS_PLACES[status]] += 1
        values[BODY_BYTES] += sent
        # The time of a WebSocket is that of a visit, not of a response.
        if status != 101 and not (status == 200 and record.method == "CONNECT"):
            seconds = time.monotonic() - record.began
            values[DURATION + bisect_left(BUCKETS, seconds)] += 1
            values[DURATION_SUM] += seconds
        if self.is_needed:
            super().end(record, status, sent)

    def replaced(self, status: int) -> None:
        self._values[refusal_place(status)] += 1

    def refused(self, head: bytes, status: int, sent: int, *peer: Any, **named: Any) -> None:
        self._count_refused(status, sent)
        super().refused(head, status, sent, *peer, **named)

    def refused_fields(
        self, fields: Sequence[Header], status: int, sent: int, *peer: Any, **named: Any
    ) -> None:
        self._count_refused(status, sent)
        super().refused_fields(fields, status, sent, *peer, **named)

    def _count_refused(self, status: int, sent: int) -> None:
        values = self._values
        values[CLASS_PLACES[status]] += 1
        values[refusal_place(status)] += 1
        values[BODY_BYTES] += sent


class CountedRecord(Record):
    """The record of an exchange of which no log and no hook is told."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.began = time.monotonic()
        self.response_headers = ()


def counting_transport(values: Values) -> type[Transport]:
    """The class of transports that count their bytes in `values`."""

    class CountingTransport(Transport):
        """A transport that counts. Bytes that are dropped while it lingers are left out."""

        __slots__ = ("_file_size",)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
            values[CONNECTIONS] += 1
            self._file_size = 0
            super().connection_made(cast("asyncio.Transport", CountingRaw(transport, values)))

        def set_handler(self, handler: Handler) -> None:
            super().set_handler(handler)
            if self.state is OPEN:
                self.data_received = self.count_received
                self.raw.set_protocol(self)

        def count_received(self, data: bytes) -> None:
            values[RECEIVED] += len(data)
            self.handler.data_received(data)

        def start_file(self, head: bytes, descriptor: int, offset: int, count: int) -> bool:
            self._file_size = len(head) + count
            is_started = super().start_file(head, descriptor, offset, count)
            if not is_started:
                self._file_size = 0
            return is_started

        def stop_file(self) -> int:
            # Only now it is known: a file may be cut short, and a counter never falls.
            size, self._file_size = self._file_size, 0
            left = super().stop_file()
            values[SENT] += max(0, size - left)
            return left

    return CountingTransport


class CountingRaw:
    """The loop's transport, with its writes counted. Everything else goes to it unchanged."""

    __slots__ = ("_raw", "_values", "_write", "get_write_buffer_size", "is_closing")

    def __init__(self, raw: asyncio.Transport, values: Values) -> None:
        self._raw = raw
        self._values = values
        # Bound here, so that they take no call more.
        self._write = raw.write
        self.is_closing = raw.is_closing
        self.get_write_buffer_size = raw.get_write_buffer_size

    def write(self, data: bytes | memoryview) -> None:
        self._values[SENT] += len(data)
        self._write(data)

    def writelines(self, parts: Iterable[bytes | memoryview]) -> None:
        parts = tuple(parts)
        self._values[SENT] += sum(map(len, parts))
        self._raw.writelines(parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)
