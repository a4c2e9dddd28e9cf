"""The end of an exchange, told to Gunicorn's access log and its hooks.

The hooks are ``pre_request`` and ``post_request``. No object is made for them, nor for the log, if
neither has a listener.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gunicorn.glogging import Logger, SafeAtoms

from ..asgi.scope import Address
from ..errors import RequestError
from ..http.contract import Header
from ..http.grammar import TOKEN
from .access_format import MakeLine, compile_format
from .atoms import Atoms
from .line_writer import LineWriter
from .log_failures import LimitedReport
from .printable import printable
from .record import LoggedResponse, Record, make_environ

if TYPE_CHECKING:
    from gunicorn.workers.base import Worker


HTTP2_LOGGED_VERSION = "2.0"
"""HTTP/2 in the log, as Gunicorn, nginx and Apache write it."""
MAX_LOGGED_LINE = 8192
"""Bytes of a refused request's line or field in the log."""
MAX_LOGGED_FIELDS = 100
"""Fields of a refused request in the log."""


def listen(worker: Worker) -> Access | None:
    """Return the listener of `worker`, or None if no log and no hook would notice an exchange."""
    access = Access(worker)
    return access if access.is_needed else None


class Access:
    """The listener to a worker's exchanges: calls ``Logger.access`` and the two hooks."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._log = log = worker.log
        settings = worker.cfg.settings
        self._pre_request = worker.cfg.pre_request
        self._post_request = worker.cfg.post_request
        # Gunicorn's own access() does nothing without an access log. Statsd and other loggers may
        # count requests without writing them.
        has_stock_access = type(log).access is Logger.access
        self._logs = not has_stock_access or _writes_access_log(log)
        self._has_stock_atoms = (
            has_stock_access
            and type(log).atoms is Logger.atoms
            and log.atoms_wrapper_class is SafeAtoms
        )
        self._failures = LimitedReport(lambda line: log.error("%s", line))
        self._calls_post = self._post_request is not settings["post_request"].default
        self.needs_headers = True
        """Whether the response headers of a beginning exchange have to be kept to its end."""
        self._line_needs_headers = True
        self._short_way: tuple[MakeLine, LineWriter] | None = None
        """The compiled format and the writer for its lines, if Gunicorn's logger is the stock one.

        Its handlers may still demand the way by the logging package."""
        if self._logs and self._has_stock_atoms:
            text = log.cfg.access_log_format
            make_line = compile_format(text, log)
            if make_line is not None:
                self._short_way = make_line, LineWriter(log.access_log)
                self._line_needs_headers = self._calls_post or "}o" in text.lower()
        # The default pre_request only writes a debug line.
        is_default = self._pre_request is settings["pre_request"].default
        self._calls_pre = (
            not is_default or not has_stock_access or log.error_log.isEnabledFor(logging.DEBUG)
        )
        self.is_needed = self._logs or self._calls_pre or self._calls_post

    def begin(
        self,
        method: str,
        raw_path: bytes,
        query: bytes,
        version: str,
        scheme: str,
        headers: Sequence[Header],
        client: Address | None,
        server: Address | None,
        script_name: bytes | None,
        proxied_client: Address | None,
        takes_request_start: bool,
    ) -> Record:
        """Begin the record of a request to the application.

        Raises RequestError(500) if the ``pre_request`` hook raises.
        """
        record = Record(
            method,
            raw_path,
            query,
            version,
            scheme,
            headers,
            client,
            server,
            script_name,
            proxied_client,
            takes_request_start,
        )
        if self._calls_pre:
            try:
                self._pre_request(self._worker, record)
            except Exception as error:
                self._log.exception("Exception in pre_request hook")
                raise RequestError(500, "Internal Server Error", is_logged=True) from error
        return record

    def end(self, record: Record, status: int, sent: int) -> None:
        """The exchange has ended, with `sent` bytes of its body."""
        seconds = time.monotonic() - record.began
        response = LoggedResponse(status, record.response_headers, sent, seconds)
        if self._logs:
            self._write(record, response)
        if self._calls_post:
            try:
                self._post_request(self._worker, record, make_environ(record), response)
            except Exception:  # noqa: BLE001 # from the hook
                self._log.exception("Exception in post_request hook")

    def replaced(self, status: int) -> None:
        """The server answers a request with `status` in place of its application."""

    def flush(self) -> None:
        """Write the lines that wait for the next turn of the loop."""
        if self._short_way is not None:
            self._short_way[1].flush()

    def refused_fields(
        self,
        fields: Sequence[Header],
        status: int,
        sent: int,
        scheme: str,
        client: Address | None,
        server: Address | None,
    ) -> None:
        """A request of HTTP/2 was refused. Its `fields` are complete, and may be in any order."""
        if not self._logs:
            return
        pseudo = {
            name: printable(value[:MAX_LOGGED_LINE]) for name, value in fields if name[:1] == b":"
        }
        found = [
            (b"host" if name == b":authority" else name, value[:MAX_LOGGED_LINE])
            for name, value in fields
        ]
        headers = [(name, value) for name, value in found if _is_harmless(name)][:MAX_LOGGED_FIELDS]
        uri = pseudo.get(b":path") or "-"
        record = Record(
            pseudo.get(b":method") or "-",
            b"",
            b"",
            HTTP2_LOGGED_VERSION,
            scheme,
            headers,
            client,
            server,
        )
        record.uri = uri
        record.path, _, record.query = uri.partition("?")
        self._write(record, LoggedResponse(status, (), sent))

    def refused(
        self,
        head: bytes,
        status: int,
        sent: int,
        scheme: str,
        client: Address | None,
        server: Address | None,
        seconds: float,
    ) -> None:
        """A request of HTTP/1 was refused: log everything that can be read of its `head`.

        The head may be incomplete, or no head at all. It began to arrive `seconds` ago.
        """
        if not self._logs:
            return
        first, _, section = head.partition(b"\r\n")
        words = printable(first[:MAX_LOGGED_LINE]).split(" ")
        method, uri, protocol = words if len(words) == 3 else (words[0] or "-", "-", "-")
        record = Record(method, b"", b"", "1.1", scheme, _guess_headers(section), client, server)
        record.uri, record.protocol = uri, protocol
        record.path, _, record.query = uri.partition("?")
        self._write(record, LoggedResponse(status, (), sent, seconds))

    def _write(self, record: Record, response: LoggedResponse) -> None:
        if self._short_way is not None:
            make_line, lines = self._short_way
            if lines.is_usable():
                self.needs_headers = self._line_needs_headers
                try:
                    line = make_line(record, response)
                except Exception:  # noqa: BLE001 # a faulty format: the logging package reports it
                    line = None
                if line is not None:
                    lines.add(line)
                    return
        self.needs_headers = True
        self.flush()
        log = self._log
        try:
            if self._has_stock_atoms:
                # As in Logger.access, which makes 40 atoms for the nine of the usual format.
                log.access_log.info(log.cfg.access_log_format, Atoms(log, record, response))
            else:
                log.access(response, record, make_environ(record), response.duration)
        except Exception as error:  # noqa: BLE001 # of a logger class: it must not end the exchange
            self._failures.add("The access log has lost a line, since its logger raised", error)


def _guess_headers(section: bytes) -> list[Header]:
    """Return the probable headers in a faulty field section: whole lines, up to the empty line."""
    headers = []
    for line in section.split(b"\r\n", MAX_LOGGED_FIELDS)[:-1]:
        if not line:
            break
        name, colon, value = line.partition(b":")
        if colon and _is_harmless(name):
            headers.append((name.lower(), value[:MAX_LOGGED_LINE].strip(b" \t")))
    return headers


def _is_harmless(name: bytes) -> bool:
    # An underscore could make it another header in an environ (Gunicorn's ``header_map``).
    return TOKEN.fullmatch(name) is not None and b"_" not in name


def _writes_access_log(log: Logger) -> bool:
    cfg = log.cfg
    try:
        return bool(log.access_log_enabled)
    except AttributeError:  # before Gunicorn 25.2
        return bool(
            cfg.accesslog
            or cfg.logconfig
            or cfg.logconfig_dict
            or cfg.logconfig_json
            or (cfg.syslog and not cfg.disable_redirect_access_to_syslog)
        )
