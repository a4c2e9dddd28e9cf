"""An exchange as Gunicorn's logger and hooks know it: a request, a response, and an environ.

Both were written for WSGI, so they get the objects of a WSGI worker. Every text in these objects is
`printable`: a client cannot forge a line, whichever logger, format or hook writes it.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any

from gunicorn import SERVER_SOFTWARE

from ..asgi.scope import Address
from ..http.contract import Header
from ..http.request import decode_path
from .printable import printable
from .request_wait import REQUEST_START_NAMES, read_wait_us


class Record:
    """One exchange: Gunicorn's request object, and the facts needed when the exchange ends.

    Most texts are made when somebody asks for them: a usual line of the log needs few.
    """

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
        script_name: bytes | None = None,
        proxied_client: Address | None = None,
        takes_request_start: bool = False,
    ) -> None:
        self.method = printable(method)
        self.uri = printable(b"%b?%b" % (raw_path, query) if query else raw_path)
        self.protocol = "HTTP/" + version
        self.scheme = scheme
        self._raw_path = raw_path
        self._raw_query = query
        self._raw_script_name = script_name
        self.raw_headers = headers
        self.last_values = dict(headers)
        """The headers by name, not `printable` yet: of several, the last."""
        self.client = client
        """The peer of the connection, or the client in its PROXY protocol header."""
        self.found_client = proxied_client or client
        """``scope["client"]``: the client that a trusted proxy has named, if one has."""
        self._takes_request_start = takes_request_start
        self.server = server
        self.began = time.monotonic()
        self.aws_request_id = ""
        """The invocation of AWS Lambda that it is, or empty."""
        self.response_headers: Sequence[Header] = ()

    @cached_property
    def path(self) -> str:
        return printable(self._raw_path)

    @cached_property
    def query(self) -> str:
        return printable(self._raw_query)

    @cached_property
    def script_name(self) -> str:
        """The undecoded beginning of `path`, as in Gunicorn's WSGI workers."""
        return printable(self._raw_script_name or b"")

    @cached_property
    def remote_addr(self) -> Any:
        return self.client or ""  # Gunicorn has "" for the peer of a unix socket

    @cached_property
    def peer_addr(self) -> Any:
        return self.client or ""

    @cached_property
    def version(self) -> tuple[int, int]:
        found = re.fullmatch(r"HTTP/(\d)\.(\d)", self.protocol)  # a refused request may have none
        return (int(found[1]), int(found[2])) if found else (0, 0)

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        """The headers with names in upper case, as in Gunicorn."""
        return [(printable(name).upper(), printable(value)) for name, value in self.raw_headers]

    @cached_property
    def path_info(self) -> str:
        path = self.path[len(self.script_name) :]
        return printable(decode_path(path.encode("latin-1"))) if path.isascii() else path

    @property
    def wait_us(self) -> int | None:
        """Microseconds that the request waited before it arrived here; None: nobody says so."""
        if not self._takes_request_start:
            return None
        for name in REQUEST_START_NAMES:
            value = self.last_values.get(name)
            if value is not None:
                return read_wait_us(value, time.time() - (time.monotonic() - self.began))
        return None

    def header(self, name: bytes) -> str | None:
        """Return the value of the header `name` as in an environ: repeated values, comma-joined."""
        value = self.last_values.get(name)
        if value is None:
            return None
        if len(self.last_values) < len(self.raw_headers):
            value = b",".join([value for other, value in self.raw_headers if other == name])
        return printable(value)


class LoggedResponse:
    """Gunicorn's response object, and the duration of the exchange."""

    def __init__(
        self, status: int, headers: Sequence[Header], sent: int, seconds: float = 0.0
    ) -> None:
        self.status_code = status
        self.raw_headers = headers
        self.sent = sent
        """Bytes of the body."""
        self.microseconds = round(seconds * 1_000_000)
        """The duration of the exchange."""

    @property
    def duration(self) -> timedelta:
        return timedelta(microseconds=self.microseconds)

    @cached_property
    def status(self) -> str:
        """ "200 OK", as in a WSGI worker."""
        # Few formats and hooks ask for it: without this import AWS Lambda starts sooner.
        from ..http1.status_line import STATUS_LINES  # noqa: PLC0415

        return STATUS_LINES[self.status_code][len(b"HTTP/1.1 ") : -2].decode().rstrip()

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        return [(printable(name), printable(value)) for name, value in self.raw_headers]


def make_environ(record: Record) -> dict[str, Any]:
    """Return the environ that a WSGI worker of Gunicorn would have made of the same request.

    For ``%({NAME}e)s``, ``post_request`` and other loggers. Three variables are this package's
    own: ``CLIENT_ADDR``, ``REQUEST_WAIT`` and, on AWS Lambda, ``AWS_REQUEST_ID``. No header can
    take their names. An address that a unix socket does not have is "-", as in Gunicorn's own ASGI
    worker, so that every logger writes "-".
    """
    environ: dict[str, Any] = {
        "REQUEST_METHOD": record.method,
        "RAW_URI": record.uri,
        "PATH_INFO": record.path_info,
        "QUERY_STRING": record.query,
        "SCRIPT_NAME": record.script_name,
        "SERVER_PROTOCOL": record.protocol,
        "SERVER_SOFTWARE": SERVER_SOFTWARE,
        "wsgi.url_scheme": record.scheme,
        "REMOTE_ADDR": "-",
        "CLIENT_ADDR": record.found_client[0] if record.found_client else "-",
    }
    if record.client is not None:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = record.client[0], str(record.client[1])
    if record.server is not None:
        environ["SERVER_NAME"] = printable(record.server[0])
        environ["SERVER_PORT"] = "" if record.server[1] is None else str(record.server[1])
    wait_us = record.wait_us
    if wait_us is not None:
        environ["REQUEST_WAIT"] = str(wait_us)
    if record.aws_request_id:
        environ["AWS_REQUEST_ID"] = record.aws_request_id
    _add_headers(environ, record)
    if "HTTP_AUTHORIZATION" in environ:
        environ["HTTP_AUTHORIZATION"] = _with_printable_user(environ["HTTP_AUTHORIZATION"])
    return environ


def _add_headers(environ: dict[str, Any], record: Record) -> None:
    for name, value in record.headers:
        key = name.replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        # A comma may be part of a cookie. So several cookie fields are joined with the separator of
        # cookies. A client of HTTP/1.1 should not send several (RFC 6265, 5.4).
        separator = "; " if key == "HTTP_COOKIE" else ","
        environ[key] = f"{environ[key]}{separator}{value}" if key in environ else value


def _with_printable_user(authorization: str) -> str:
    """Make the user of Basic credentials `printable`, since ``Logger.atoms`` decodes it.

    RFC 7617, 2, allows no control characters there. Credentials without a user stay unchanged.
    """
    scheme, _, credentials = authorization.partition(" ")
    if not scheme.lower().startswith("basic"):
        return authorization
    try:
        user, *password = base64.b64decode(credentials.strip().encode()).split(b":", 1)
        name = user.decode()
    except ValueError:
        return authorization
    if name.isprintable():
        return authorization
    return f"{scheme} {base64.b64encode(b':'.join([printable(name).encode(), *password])).decode()}"
