"""A finished exchange, as Gunicorn's logger and its ``pre_request`` and ``post_request`` hooks want to see it.

They were written for WSGI, so they get what a WSGI worker gives them: an object for the request, one for the response, and an environ.
Nothing of it is made unless somebody listens.

Every text in them is `printable`: whatever a logger, a format or a hook writes, a client cannot
forge a line with it.
"""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gunicorn import SERVER_SOFTWARE
from gunicorn.glogging import Logger, SafeAtoms

from ..asgi.scope import Address
from ..errors import RequestError
from ..http.contract import Header
from ..http.grammar import TOKEN
from ..http.request import decode_path
from ..http1.encode import STATUS_LINES
from .printable import printable

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
        script_name: bytes | None = None,
    ) -> None:
        self.method = printable(method)
        self.path = printable(raw_path)
        self.query = printable(query)
        self.uri = f"{self.path}?{self.query}" if query else self.path
        self.protocol = "HTTP/" + version
        self.scheme = scheme
        self.script_name = printable(script_name or b"")
        """As Gunicorn's WSGI workers have it: the undecoded beginning of `path`."""
        self.raw_headers = headers
        # Gunicorn has "" for the peer of a unix socket.
        self.remote_addr: Any = client or ""
        self.peer_addr: Any = client or ""
        self.client = client
        self.server = server
        self.began = time.monotonic()
        self.response_headers: Sequence[Header] = ()

    @cached_property
    def version(self) -> tuple[int, int]:
        found = re.fullmatch(r"HTTP/(\d)\.(\d)", self.protocol)  # a refused request may have none
        return (int(found[1]), int(found[2])) if found else (0, 0)

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        """As in Gunicorn: names in upper case."""
        return [(printable(name).upper(), printable(value)) for name, value in self.raw_headers]

    @cached_property
    def path_info(self) -> str:
        path = self.path[len(self.script_name) :]
        return printable(decode_path(path.encode("latin-1"))) if path.isascii() else path

    def header(self, name: bytes) -> str | None:
        """The value of the header `name` as in an environ: repeated ones joined with a comma."""
        values = [printable(value) for other, value in self.raw_headers if other == name]
        return ",".join(values) if values else None


class Response:
    """Gunicorn's response object."""

    def __init__(self, status: int, headers: Sequence[Header], sent: int) -> None:
        self.status_code = status
        self.raw_headers = headers
        self.sent = sent

    @cached_property
    def status(self) -> str:
        """ "200 OK", as a WSGI worker has it."""
        return STATUS_LINES[self.status_code][len(b"HTTP/1.1 ") : -2].decode().rstrip()

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        return [(printable(name), printable(value)) for name, value in self.raw_headers]


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
        self._stock_atoms = (
            stock and type(log).atoms is Logger.atoms and log.atoms_wrapper_class is SafeAtoms
        )
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
        script_name: bytes | None,
    ) -> Record:
        """A request is to be passed on. Raises RequestError(500) if the ``pre_request`` hook raises."""
        record = Record(
            method, raw_path, query, version, scheme, headers, client, server, script_name
        )
        if self._calls_pre:
            try:
                self._pre_request(self._worker, record)
            except Exception as error:  # whatever the user's hook raises
                self._log.exception("Exception in pre_request hook")
                raise RequestError(500, "Internal Server Error", is_logged=True) from error
        return record

    def end(self, record: Record, status: int, sent: int) -> None:
        """The exchange has ended: `sent` bytes of its body went out."""
        response = Response(status, record.response_headers, sent)
        if self._logs:
            self._write(record, response, timedelta(seconds=time.monotonic() - record.began))
        if self._calls_post:
            try:
                self._post_request(self._worker, record, make_environ(record), response)
            except Exception:  # noqa: BLE001 # whatever it is that the hook raises
                self._log.exception("Exception in post_request hook")

    def refused_fields(
        self,
        fields: Sequence[Header],
        status: int,
        sent: int,
        scheme: str,
        client: Address | None,
        server: Address | None,
    ) -> None:
        """The same for HTTP/2, where the `fields` are whole, and need not be in order."""
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
            pseudo.get(b":method") or "-", b"", b"", "2.0", scheme, headers, client, server
        )
        record.uri = uri
        record.path, _, record.query = uri.partition("?")
        self._write(record, Response(status, [], sent), timedelta())

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
        """A request was refused before it was passed on: log what can be read of its `head`, which may be incomplete, or no head at all.

        `seconds` have passed since it began to arrive.
        """
        if not self._logs:
            return
        first, _, section = head.partition(b"\r\n")
        words = printable(first[:MAX_LOGGED_LINE]).split(" ")
        method, uri, protocol = words if len(words) == 3 else (words[0] or "-", "-", "-")
        record = Record(method, b"", b"", "1.1", scheme, _guess_headers(section), client, server)
        record.uri, record.protocol = uri, protocol
        record.path, _, record.query = uri.partition("?")
        self._write(record, Response(status, [], sent), timedelta(seconds=seconds))

    def _write(self, record: Record, response: Response, duration: timedelta) -> None:
        log = self._log
        try:
            if self._stock_atoms:
                # What Logger.access does, without making 40 atoms for the nine of the usual format.
                log.access_log.info(
                    log.cfg.access_log_format, Atoms(log, record, response, duration)
                )
            else:
                log.access(response, record, make_environ(record), duration)
        except (
            Exception
        ):  # as Logger.access: a format that cannot be filled in must not end the exchange
            log.exception("Error writing the access log")


MAX_LOGGED_LINE = 8192
MAX_LOGGED_FIELDS = 100


def _guess_headers(section: bytes) -> list[Header]:
    """What looks like a header in a field section that need not be one: whole lines, up to the empty one."""
    headers = []
    for line in section.split(b"\r\n", MAX_LOGGED_FIELDS)[:-1]:
        if not line:
            break
        name, colon, value = line.partition(b":")
        if colon and _is_harmless(name):
            headers.append((name.lower(), value[:MAX_LOGGED_LINE].strip(b" \t")))
    return headers


def _is_harmless(name: bytes) -> bool:
    # Not with an underscore, which in an environ could be taken for another one (Gunicorn's ``header_map``).
    return TOKEN.fullmatch(name) is not None and b"_" not in name


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


class Atoms(dict[str, Any]):
    """What `Logger.atoms` and SafeAtoms make of an exchange, each atom when it is asked for.

    Whoever looks at the mapping as a whole (a JSON formatter) or changes it (a filter) finds all of them.
    """

    def __init__(
        self, log: Logger, record: Record, response: Response, duration: timedelta
    ) -> None:
        super().__init__(
            l="-"
        )  # not empty: json looks at a dict's own size before it asks for the items
        self.log = log
        self.record = record
        self.response = response
        self.duration = duration
        self._is_filled = False

    def fill(self) -> None:
        """Make all of them, Gunicorn's way."""
        if not self._is_filled:
            self._is_filled = True
            atoms = SafeAtoms(
                self.log.atoms(self.response, self.record, make_environ(self.record), self.duration)
            )
            dict.update(self, {**atoms, "u": printable(atoms["u"])})

    def __getitem__(self, key: str) -> Any:
        if key[:1] == "{":
            key = key.lower()
        if self._is_filled:
            return dict.get(self, key, "-")  # not our own `get`, which is the whole dict's
        if key in ATOMS:
            value = ATOMS[key](self)
        elif key[-2:] in NAMED_ATOMS:
            value = NAMED_ATOMS[key[-2:]](self, key[1:-2])
        else:
            value = None
        if value is None:
            return "-"
        return value.replace('"', '\\"') if isinstance(value, str) else value

    def __bool__(self) -> bool:
        return True  # which is all that logging wants to know


def _filled(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    def call(self: Atoms, *args: Any, **kwargs: Any) -> Any:
        self.fill()
        return method(self, *args, **kwargs)

    return call


for _name in [
    "__contains__",
    "__delitem__",
    "__eq__",
    "__ior__",
    "__iter__",
    "__len__",
    "__or__",
    "__repr__",
    "__reversed__",
    "__ror__",
    "__setitem__",
    "clear",
    "copy",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
]:
    setattr(Atoms, _name, _filled(_name))


def _user(atoms: Atoms) -> str:
    authorization = atoms.record.header(b"authorization")
    user = atoms.log._get_user({"HTTP_AUTHORIZATION": authorization}) if authorization else None
    return printable(user or "-")


def _request_header(atoms: Atoms, name: str) -> str | None:
    # The last of several, as in Gunicorn, whose environ alone joins them.
    key = name.encode()
    return next(
        (printable(value) for other, value in reversed(atoms.record.raw_headers) if other == key),
        None,
    )


ATOMS: dict[str, Callable[[Atoms], Any]] = {
    "h": lambda atoms: atoms.record.client[0] if atoms.record.client else "",
    "l": lambda _: "-",
    "u": _user,
    "t": lambda atoms: atoms.log.now(),
    "r": lambda atoms: f"{atoms.record.method} {atoms.record.uri} {atoms.record.protocol}",
    "s": lambda atoms: str(atoms.response.status_code),
    "m": lambda atoms: atoms.record.method,
    "U": lambda atoms: atoms.record.path_info,
    "q": lambda atoms: atoms.record.query,
    "H": lambda atoms: atoms.record.protocol,
    "b": lambda atoms: str(atoms.response.sent),
    "B": lambda atoms: atoms.response.sent,
    "f": lambda atoms: atoms.record.header(b"referer"),
    "a": lambda atoms: atoms.record.header(b"user-agent"),
    "T": lambda atoms: atoms.duration.seconds,
    "D": lambda atoms: atoms.duration.seconds * 1_000_000 + atoms.duration.microseconds,
    "M": lambda atoms: atoms.duration.seconds * 1000 + atoms.duration.microseconds // 1000,
    "L": lambda atoms: f"{atoms.duration.seconds}.{atoms.duration.microseconds:06d}",
    "p": lambda _: f"<{os.getpid()}>",
}
"""Gunicorn's table (its documentation of ``access_log_format``), kept equal by a test."""

NAMED_ATOMS: dict[str, Callable[[Atoms, str], Any]] = {
    "}i": _request_header,
    "}o": lambda atoms, name: {other.lower(): value for other, value in atoms.response.headers}.get(
        name
    ),
    "}e": lambda atoms, name: {
        key.lower(): value for key, value in make_environ(atoms.record).items()
    }.get(name),
}


def make_environ(record: Record) -> dict[str, Any]:
    """The environ that a WSGI worker of Gunicorn would have made of the same request, for ``%({NAME}e)s`` and ``post_request``."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": record.method,
        "RAW_URI": record.uri,
        "PATH_INFO": record.path_info,
        "QUERY_STRING": record.query,
        "SCRIPT_NAME": record.script_name,
        "SERVER_PROTOCOL": record.protocol,
        "SERVER_SOFTWARE": SERVER_SOFTWARE,
        "wsgi.url_scheme": record.scheme,
        "REMOTE_ADDR": "",
    }
    if record.client is not None:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = record.client[0], str(record.client[1])
    if record.server is not None:
        environ["SERVER_NAME"] = printable(record.server[0])
        environ["SERVER_PORT"] = "" if record.server[1] is None else str(record.server[1])
    for name, value in record.headers:
        key = name.replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        # A comma may be part of a cookie: several cookie fields, which a client of HTTP/1.1 should
        # not send (RFC 6265, 5.4), are joined with what stands between cookies.
        separator = "; " if key == "HTTP_COOKIE" else ","
        environ[key] = f"{environ[key]}{separator}{value}" if key in environ else value
    if "HTTP_AUTHORIZATION" in environ:
        environ["HTTP_AUTHORIZATION"] = _with_printable_user(environ["HTTP_AUTHORIZATION"])
    return environ


def _with_printable_user(authorization: str) -> str:
    """Make the user of Basic credentials `printable`, for ``Logger.atoms`` decodes it.

    RFC 7617, 2, allows no control characters in it. Credentials without a user are left as they are.
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
