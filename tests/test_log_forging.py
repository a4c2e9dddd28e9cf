"""No control character of a client or an application reaches a log (see `gunicorn_asgi.observe.printable`)."""

from __future__ import annotations

import base64
import json
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.instrument.statsd import Statsd
from h2client import connect, connect_gunicorn
from inprocess import HTTP2, InProcess, answer, serve
from process import GUNICORN_VERSION, Gunicorn, poll
from ws import handshake, text

from gunicorn_asgi.observe.access_log import Access
from gunicorn_asgi.observe.atoms import ATOMS
from gunicorn_asgi.observe.printable import printable, tolerate_any_character

# The function.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ""),
        ("a b\\n", "a b\\n"),
        ("é ü 日本 🙂 \ufffd", "é ü 日本 🙂 \ufffd"),
        ("a\nb\r\t\x00\x1b\x7f", "a\\x0ab\\x0d\\x09\\x00\\x1b\\x7f"),
        ("\x85\x9b\xa0\xad", "\\x85\\x9b\\xa0\\xad"),
        ("\u2028\u2029\u202e\u2066\ufeff", "\\u2028\\u2029\\u202e\\u2066\\ufeff"),
        ("\udc80\ud800", "\\udc80\\ud800"),
        ("\U000e0001", "\\U000e0001"),
        (b"a\xe9\n\x85", "aé\\x0a\\x85"),
        (bytearray(b"a\n"), "a\\x0a"),
        (memoryview(b"a\n"), "a\\x0a"),
    ],
)
def test_what_is_not_printable_is_escaped_and_nothing_else(value: Any, expected: str) -> None:
    assert printable(value) == expected
    assert expected.isprintable()


# Every atom, hook and value, for every kind of logger.

USER = "me\n\x1b[31m\x85\u2028\u202eforged"
VALUE = b"a\tb\x85\x9b\xa0\xad\xc2\x85\xe2\x80\xa8c"
TARGET = "/a%0a%0d%1b%22%09%c2%85%e2%80%a8%e2%80%ae%ff%f3%a0%80%81%ed%b2%80b?q=%0a"
OWN_ATOMS = ["own", "joined"]
ENVIRON = [
    *(
        "REQUEST_METHOD",
        "RAW_URI",
        "PATH_INFO",
        "QUERY_STRING",
        "SCRIPT_NAME",
        "SERVER_PROTOCOL",
        "SERVER_SOFTWARE",
        "SERVER_NAME",
    ),
    *(
        "SERVER_PORT",
        "REMOTE_ADDR",
        "REMOTE_PORT",
        "wsgi.url_scheme",
        "CONTENT_TYPE",
        "HTTP_X_HOSTILE",
        "HTTP_AUTHORIZATION",
    ),
    *("HTTP_USER_AGENT", "HTTP_REFERER", "HTTP_HOST"),
]
NAMED = [
    *(
        f"{{{name}}}{kind}"
        for name in ("x-hostile", "authorization", "content-type")
        for kind in "io"
    )
]
FORMAT = "|".join(
    f"%({name})s" for name in [*ATOMS, *NAMED, *(f"{{{name}}}e" for name in ENVIRON), *OWN_ATOMS]
)


class OwnAtoms(Logger):  # type: ignore[misc]
    """Its atoms are Gunicorn's, and more of the same values."""

    def atoms(self, resp: Any, req: Any, environ: Any, request_time: Any) -> Any:
        atoms = super().atoms(resp, req, environ, request_time)
        values = [*environ.values(), *map(str, [*req.headers, *resp.headers])]
        return {
            **atoms,
            "own": environ["PATH_INFO"],
            "joined": " ".join([*values, *(value for _, value in resp.headers)]),
        }


class OwnWrapper(Logger):  # type: ignore[misc]
    atoms_wrapper_class = dict

    def atoms(self, *args: Any) -> Any:
        return {
            **dict.fromkeys([*NAMED, *(f"{{{name}}}e" for name in ENVIRON), *OWN_ATOMS], "-"),
            **_lowered(super().atoms(*args)),
        }


def _lowered(atoms: Mapping[str, Any]) -> dict[str, Any]:
    environ = {f"{{{name}}}e".lower(): f"{{{name}}}e" for name in ENVIRON}
    return {environ.get(name, name): value for name, value in atoms.items()}


class OwnAccess(Logger):  # type: ignore[misc]
    """Writes a line of its own making."""

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        values = [
            environ["PATH_INFO"],
            req.method,
            req.uri,
            req.path,
            req.query,
            resp.status,
            self._get_user(environ) or "-",
        ]
        headers = [part for pair in [*req.headers, *resp.headers] for part in pair]
        self.access_log.info("%s", "|".join([*values, *headers, *environ.values()]))


class WholeAtoms(logging.Formatter):
    """Writes what a JSON formatter would see."""

    def format(self, record: logging.LogRecord) -> str:
        assert isinstance(record.args, Mapping)
        return json.dumps({**record.args, "message": record.getMessage()}, ensure_ascii=False)


def own_handler(log: Logger) -> logging.Handler:
    """The one that Gunicorn has added (pytest adds others)."""
    [handler] = [
        handler for handler in log.access_log.handlers if getattr(handler, "_gunicorn", False)
    ]
    assert isinstance(handler, logging.Handler)
    return handler


def own_user(log: Logger) -> None:
    """A logger that finds the user elsewhere."""
    log._get_user = lambda environ: USER


LOGGERS: dict[str, tuple[type[Logger], Callable[[Logger], None]]] = {
    "stock": (Logger, lambda log: None),
    "own user": (Logger, own_user),
    "own atoms": (OwnAtoms, lambda log: None),
    "own wrapper": (OwnWrapper, lambda log: None),
    "own access": (OwnAccess, lambda log: None),
    "statsd": (Statsd, lambda log: None),
    "json": (Logger, lambda log: own_handler(log).setFormatter(WholeAtoms())),
}


def credentials(user: bytes, password: bytes = b":secret\n") -> bytes:
    return b"Basic " + base64.b64encode(user + password)


FIELDS = [
    (b"x-hostile", VALUE),
    (b"user-agent", VALUE),
    (b"referer", VALUE),
    (b"content-type", VALUE),
]
REQUESTS: dict[str, tuple[bytes, bytes, list[tuple[bytes, bytes]]]] = {
    "target and headers": (b"GET", TARGET.encode(), FIELDS),
    "method": (b"x'`|~^", b"/method", []),
    "user": (b"GET", b"/user", [(b"authorization", credentials(USER.encode()))]),
    "user without a password": (
        b"GET",
        b"/user",
        [(b"authorization", credentials(USER.encode(), b""))],
    ),
    "user in odd base64": (
        b"GET",
        b"/user",
        [(b"authorization", b"bAsIcs \t " + base64.b64encode(b"\n\n:\n") + b"\x85")],
    ),
    "users": (
        b"GET",
        b"/user",
        [
            (b"authorization", credentials(b"aa\n", b"")),
            (b"authorization", base64.b64encode(b"\n:\n")),
        ],
    ),
    "not a user": (b"GET", b"/user", [(b"authorization", credentials(b"\xff\n"))]),
}
REFUSED: dict[str, bytes] = {
    "LF": b"GET /forged\n127.0.0.1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "control characters": b"GET /\x1b[31m\x85\x00\x7f HTTP/1.1\r\nHost: a\r\nX-Hostile: a\x1bb\x85\r\n\r\n",
    "user": b"GET /refused HTTP/1.1\r\nAuthorization: "
    + credentials(USER.encode())
    + b"\r\nX-Hostile: "
    + VALUE
    + b"\r\n\r\n",
    "method": b"G\xc2\x85T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "header name": b"GET / HTTP/1.1\r\nHost: a\r\nX\x85: 1\r\n\r\n",
    "version": b"GET / HTTP/1.\x85\r\nHost: a\r\n\r\n",
}
REFUSED_FIELDS: dict[str, list[tuple[bytes, bytes]]] = {
    "path": [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"a"),
        (b":path", b"/\x85\xe2\x80\xa8%0a"),
    ],
    "method": [
        (b":method", b"G\x85\nT"),
        (b":scheme", b"http"),
        (b":authority", b"a"),
        (b":path", b"/"),
    ],
    "authority": [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"a\x85\x1b"),
        (b":path", b"/"),
    ],
    "headers": [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"a"),
        (b":path", b"/"),
        (b"x-hostile", b"\na\x85\x1b"),
    ],
    "user": [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b"authorization", credentials(USER.encode())),
    ],
}


class Told:
    """Every text that the hooks were given."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.calls = 0

    def pre_request(self, _worker: Any, req: Any) -> None:
        self.calls += 1
        names = (
            "method",
            "path",
            "query",
            "uri",
            "protocol",
            "scheme",
            "script_name",
            "path_info",
            "headers",
            "remote_addr",
            "peer_addr",
        )
        for name in names:
            self._take(getattr(req, name))

    def post_request(self, worker: Any, req: Any, environ: Any, resp: Any) -> None:
        self.pre_request(worker, req)
        self._take([*environ, *environ.values(), resp.status, resp.headers])

    def _take(self, value: Any) -> None:
        if isinstance(value, str):
            self.texts.append(value)
        elif isinstance(value, (tuple, list)):
            for part in value:
                self._take(part)


class Site:
    """A server with a real logger of Gunicorn's and both hooks."""

    def __init__(self, server: InProcess, path: Path, told: Told) -> None:
        self.server = server
        self.path = path
        self.told = told

    def lines(self, count: int) -> list[str]:
        """The lines of the access log, once all exchanges are over: `count` of them."""
        for client in self.server.clients:
            client.close()
        self.server.wait_until(self.server.is_idle)
        self.server.settle()  # the lines of a turn are written in the next
        lines = self.path.read_bytes().decode().split("\n")
        assert lines.pop() == ""
        assert len(lines) == count, lines
        for line in lines:
            assert line.isprintable(), line
        for word in self.told.texts:
            assert word.isprintable(), word
        for entry in self.server.log.lines:
            assert entry.text.isprintable(), entry.text
        return lines


async def hostile(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, headers=[(b"x-hostile", VALUE), (b"content-type", bytearray(VALUE))])


@pytest.fixture(params=LOGGERS)
def make_site(
    request: pytest.FixtureRequest, tmp_path: Path, parser: str
) -> Iterator[Callable[..., Any]]:
    kind, prepare = LOGGERS[request.param]
    path, told = tmp_path / "access.log", Told()
    cfg = Config()
    settings = {
        "accesslog": str(path),
        "access_log_format": FORMAT,
        "statsd_host": "127.0.0.1:9",
        "loglevel": "debug",
    }
    settings |= {
        "errorlog": str(tmp_path / "error.log"),
        "pre_request": told.pre_request,
        "post_request": told.post_request,
    }
    for name, value in settings.items():
        cfg.set(name, value)
    log = kind(cfg)
    prepare(log)

    @contextmanager
    def make(app: Any = hostile, **given: Any) -> Iterator[Site]:
        # With pytest's handlers, each line would go through the logging package.
        log.access_log.handlers = [own_handler(log)]
        access = Access(SimpleNamespace(cfg=cfg, log=log))  # type: ignore[arg-type]  # of the worker, these two
        with serve(
            app, parser, access=access, permit_unconventional_http_method=True, **given
        ) as server:
            yield Site(server, path, told)

    yield make
    for logger in (log.error_log, log.access_log):
        for handler in [
            handler for handler in logger.handlers if getattr(handler, "_gunicorn", False)
        ]:
            logger.removeHandler(handler)
            handler.close()
    if isinstance(log, Statsd):
        log.sock.close()
    assert (tmp_path / "error.log").read_text().replace("\n", "").isprintable()


def test_a_request_over_http1_forges_nothing(make_site: Callable[..., Any]) -> None:
    with make_site() as site:
        for method, target, fields in REQUESTS.values():
            client = site.server.connect()
            lines = b"".join(b"%b: %b\r\n" % field for field in fields)
            client.send(b"%b %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (method, target, lines))
            assert client.read_response().status == 200
        site.lines(len(REQUESTS))
        assert site.told.calls == 2 * len(REQUESTS)
        assert any("/a\\x0a\\x0d\\x1b" in word for word in site.told.texts)


def test_a_request_over_http2_forges_nothing(make_site: Callable[..., Any]) -> None:
    with make_site(**HTTP2) as site:
        client = connect(site.server)
        for method, target, fields in REQUESTS.values():
            pseudo = [
                (b":method", method),
                (b":scheme", b"http"),
                (b":authority", b"a"),
                (b":path", target),
            ]
            stream = client.read_response(client.begin_raw([*pseudo, *fields]))
            assert stream.status == 200
        site.lines(len(REQUESTS))
        assert site.told.calls == 2 * len(REQUESTS)


def test_a_refused_request_over_http1_forges_nothing(make_site: Callable[..., Any]) -> None:
    with make_site() as site:
        for request in REFUSED.values():
            client = site.server.connect()
            client.send(request)
            assert client.read_response().status in (400, 505)
        site.lines(len(REFUSED))
        assert len(site.server.log.take("warning")) == len(REFUSED)


def test_a_refused_request_over_http2_forges_nothing(make_site: Callable[..., Any]) -> None:
    with make_site(**HTTP2) as site:
        for fields in REFUSED_FIELDS.values():
            client = connect(site.server)
            client.begin_raw(fields)
            client.wait_for(
                lambda client=client: any(stream.is_over for stream in client.streams.values())
            )
        site.lines(len(REFUSED_FIELDS))
        assert len(site.server.log.take("warning")) == len(REFUSED_FIELDS)


def test_a_websocket_forges_nothing(make_site: Callable[..., Any]) -> None:
    async def accepts(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept", "headers": [(b"x-hostile", VALUE)]})
        await receive()

    with make_site(accepts) as site:
        client = site.server.connect()
        client.send(handshake(*(b"%b: %b" % field for field in FIELDS[:3]), target=TARGET))
        assert client.read_head().status == 101
        client.send(text("x"))
        site.lines(1)


# The error log.


def failing(error: BaseException) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    return app


def test_the_message_of_sys_exit_is_one_line(parser: str) -> None:
    with serve(failing(SystemExit("one\ntwo\x1b")), parser) as server:
        client = server.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        server.wait_until(lambda: server.host.left)
        [line] = server.log.take("error")
        assert line.text == "sys.exit: one\\x0atwo\\x1b"


@pytest.mark.parametrize(
    "what", ["PROXY TCP4 1.2.3.4\x1b\x85 1.2.3.4 1 2\r\n", "PROXY \x1b[31m\r\n"]
)
def test_an_address_of_the_proxy_protocol_forges_nothing(parser: str, what: str) -> None:
    with serve(
        failing(AssertionError()),
        parser,
        proxy_protocol="auto" if GUNICORN_VERSION >= (24, 1) else True,
        proxy_allow_ips="*",
    ) as server:
        client = server.connect()
        client.send(what.encode("latin-1"))
        assert client.read_response().status == 400
        [line] = server.log.take("warning")
        assert line.text.isprintable()


# The encoding of a file.


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_character_that_a_file_cannot_hold_is_escaped_also_when_it_is_opened_again(
    tmp_path: Path, encoding: str
) -> None:
    handler = logging.FileHandler(tmp_path / "log", encoding=encoding)
    log, parent = logging.Logger("child"), logging.Logger("parent")  # noqa: LOG001 # not kept
    log.parent = parent
    parent.addHandler(handler)
    tolerate_any_character(log)
    with closing(handler):
        log.warning("é日\ud800")
        handler.close()
        handler.stream = handler._open()  # as Gunicorn does at USR1
        log.warning("日")
    assert (tmp_path / "log").read_bytes().decode(encoding) == {
        "ascii": "\\xe9\\u65e5\\ud800\n\\u65e5\n",
        "latin-1": "é\\u65e5\\ud800\n\\u65e5\n",
        "utf-8": "é日\\ud800\n日\n",
    }[encoding]


def test_handlers_without_a_file_are_left_alone(tmp_path: Path) -> None:
    log = logging.Logger("handlers")  # noqa: LOG001 # not kept
    log.addHandler(logging.NullHandler())
    log.addHandler(logging.StreamHandler(SimpleNamespace(write=lambda text: None)))  # type: ignore[arg-type]  # it need not be more
    log.addHandler(logging.FileHandler(tmp_path / "late", delay=True, encoding="ascii"))
    tolerate_any_character(log)
    log.warning("é")
    log.handlers[2].close()
    assert (tmp_path / "late").read_bytes() == b"\\xe9\n"


@pytest.mark.gunicorn
def test_the_c_locale_costs_no_line(tmp_path: Path) -> None:
    env = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    path = tmp_path / "access.log"
    with Gunicorn(tmp_path, accesslog=str(path), access_log_format="%(U)s", env=env) as server:
        server.get("/caf%C3%A9/%E6%97%A5/hello")
        assert poll(path.read_bytes, "the line") == b"/caf\\xe9/\\u65e5/hello\n"
        assert server.output == ""


# A running Gunicorn.

FORGING = "/x%22%20200%0a10.0.0.1%20%22GET%20/hello"


@pytest.mark.gunicorn
@pytest.mark.parametrize("version", ["1.1", "2"])
def test_statsd_writes_one_line_for_a_path_with_a_line_end(tmp_path: Path, version: str) -> None:
    path = tmp_path / "access.log"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        settings = {
            "statsd_host": f"127.0.0.1:{statsd.getsockname()[1]}",
            "accesslog": str(path),
            "access_log_format": '%(h)s "%(m)s %(U)s" %(s)s',
        }
        with Gunicorn.with_http2(tmp_path, http2_cleartext="both", **settings) as server:
            if version == "2":
                with connect_gunicorn(server) as client:
                    assert client.get("GET", FORGING).status == 200
            else:
                assert server.get(FORGING).status_code == 200
            line = poll(path.read_text, "the line")
    assert line == '127.0.0.1 "GET /x\\" 200\\x0a10.0.0.1 \\"GET /hello" 200\n'
