"""A finished exchange, as Gunicorn's logger and its ``pre_request`` and ``post_request`` hooks want to see it.

They were written for WSGI, so they get what a WSGI worker gives them: an object for the request, one for the response, and an environ.
Nothing of it is made unless somebody listens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gunicorn import SERVER_SOFTWARE
from gunicorn.glogging import Logger

from .asgi.scope import Address
from .errors import RequestError
from .http1.encode import STATUS_LINES
from .http1.request import decode_path
from .wire import Header

if TYPE_CHECKING:
    from gunicorn.workers.base import Worker


class Record:
    """One exchange: Gunicorn's request object for the hooks and the log, and what is still needed at its end."""

    def __init__(
        self,
        method: str,
        raw_path: bytes,
        query: bytes,
        version: str,
        scheme: str,
        headers: Sequence[Header],
        client: Address | None,
        server: Address | None,
    ) -> None:
        self.method = method
        self.path = raw_path.decode("latin-1")
        self.query = query.decode("latin-1")
        self.uri = f"{self.path}?{self.query}" if query else self.path
        self.version = (int(version[0]), int(version[-1]))
        self.scheme = scheme
        self.headers = [(name.decode("latin-1").upper(), value.decode("latin-1")) for name, value in headers]
        # Gunicorn has "" for the peer of a unix socket.
        self.remote_addr: Any = client or ""
        self.peer_addr: Any = client or ""
        self.client = client
        self.server = server
        self.began = time.monotonic()
        self.response_headers: list[Header] = []


class Response:
    """Gunicorn's response object."""

    def __init__(self, status: int, headers: Sequence[Header], sent: int) -> None:
        # "200 OK", as a WSGI worker has it
        self.status = STATUS_LINES[status][len(b"HTTP/1.1 ") : -2].decode().rstrip()
        self.status_code = status
        self.headers = [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in headers]
        self.sent = sent


def listen(worker: Worker) -> Access | None:
    """The listener of `worker`, or None when there is neither a log nor a hook that could notice an exchange."""
    access = Access(worker)
    return access if access.is_needed else None


class Access:
    """Calls ``Logger.access``, ``pre_request`` and ``post_request``."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._log = log = worker.log
        settings = worker.cfg.settings
        self._pre_request = worker.cfg.pre_request
        self._post_request = worker.cfg.post_request
        # The stock access() does nothing without an access log; Statsd and other loggers may count what they do not write.
        # (`access_log_enabled` is a property of Gunicorn 25.2 and later.)
        stock = type(log).access is Logger.access
        self._logs = not stock or _writes_access_log(log)
        # The default pre_request only writes a debug line.
        default = self._pre_request is settings["pre_request"].default
        self._calls_pre = not (default and stock) or log.error_log.isEnabledFor(10)
        self._calls_post = self._post_request is not settings["post_request"].default
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
    ) -> Record:
        """A request is to be passed on. Raises RequestError(500) if the ``pre_request`` hook raises."""
        record = Record(method, raw_path, query, version, scheme, headers, client, server)
        if self._calls_pre:
            try:
                self._pre_request(self._worker, record)
            except Exception as error:  # whatever the user's hook raises
                self._log.exception("Exception in pre_request hook")
                raise RequestError(500, "Internal Server Error") from error
        return record

    def end(self, record: Record, status: int, sent: int) -> None:
        """The exchange has ended: `sent` bytes of its body went out."""
        response = Response(status, record.response_headers, sent)
        environ = make_environ(record)
        if self._logs:
            self._log.access(response, record, environ, timedelta(seconds=time.monotonic() - record.began))
        if self._calls_post:
            try:
                self._post_request(self._worker, record, environ, response)
            except Exception:  # noqa: BLE001 # whatever it is that the hook raises
                self._log.exception("Exception in post_request hook")

    def refused(self, head: bytes, status: int, sent: int, scheme: str, client: Address | None, server: Address | None) -> None:
        """A request was refused before it could be read: log what its first line says."""
        if not self._logs:
            return
        words = head.partition(b"\r\n")[0][:MAX_LOGGED_LINE].decode("latin-1").split(" ")
        method, uri, protocol = words if len(words) == 3 else (words[0] or "-", "-", "-")
        record = Record(method, b"", b"", "1.1", scheme, [], client, server)
        record.uri, record.path = uri, uri.partition("?")[0]
        environ = make_environ(record)
        environ["SERVER_PROTOCOL"] = protocol
        self._log.access(Response(status, [], sent), record, environ, timedelta(0))


MAX_LOGGED_LINE = 8192


def _writes_access_log(log: Logger) -> bool:
    cfg = log.cfg
    try:
        return bool(log.access_log_enabled)
    except AttributeError:
        return bool(
            cfg.accesslog
            or cfg.logconfig
            or cfg.logconfig_dict
            or cfg.logconfig_json
            or (cfg.syslog and not cfg.disable_redirect_access_to_syslog)
        )


def make_environ(record: Record) -> dict[str, Any]:
    """The environ that a WSGI worker of Gunicorn would have made of the same request, for ``%({NAME}e)s`` and ``post_request``."""
    path = record.path.encode("latin-1")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": record.method,
        "RAW_URI": record.uri,
        "PATH_INFO": decode_path(path) if path.isascii() else record.path,
        "QUERY_STRING": record.query,
        "SCRIPT_NAME": "",
        "SERVER_PROTOCOL": f"HTTP/{record.version[0]}.{record.version[1]}",
        "SERVER_SOFTWARE": SERVER_SOFTWARE,
        "wsgi.url_scheme": record.scheme,
        "REMOTE_ADDR": "",
    }
    if record.client is not None:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = record.client[0], str(record.client[1])
    if record.server is not None:
        environ["SERVER_NAME"] = record.server[0]
        environ["SERVER_PORT"] = "" if record.server[1] is None else str(record.server[1])
    for name, value in record.headers:
        key = name.replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ
