"""The access log: `gunicorn_asgi.observe.access_log`, and the lines that a running Gunicorn writes."""

from __future__ import annotations

import base64
import copy
import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accesslog import FORMAT, NAMES, Lines
from gunicorn.config import Config
from gunicorn.glogging import Logger, SafeAtoms
from gunicorn.instrument.statsd import Statsd
from process import NOTE, Gunicorn, poll

from gunicorn_asgi.observe import access_log as access
from gunicorn_asgi.observe.atoms import Atoms
from gunicorn_asgi.observe.record import LoggedResponse, Record, make_environ

# Who listens.


def is_listened_to(logger: type[Logger] = Logger, **settings: Any) -> bool:
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, value)
    log = logger(cfg)
    if isinstance(log, Statsd):
        log.sock.close()
    return access.listen(SimpleNamespace(cfg=cfg, log=log)) is not None  # type: ignore[arg-type]


class Overriding(Logger):  # type: ignore[misc]
    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        raise AssertionError


@pytest.fixture
def quiet() -> Iterator[None]:
    """Gunicorn's loggers are global: what a test sets up is taken down again."""
    yield
    for name in ("gunicorn.error", "gunicorn.access"):
        log = logging.getLogger(name)
        for handler in log.handlers[:]:
            log.removeHandler(handler)
            handler.close()


@pytest.mark.usefixtures("quiet")
def test_nothing_is_called_when_nobody_listens() -> None:
    assert not is_listened_to()
    assert not is_listened_to(
        syslog=True, syslog_addr="udp://127.0.0.1:9", disable_redirect_access_to_syslog=True
    )


LISTENERS = [
    {"accesslog": "-"},
    {"logconfig_dict": {"version": 1, "disable_existing_loggers": False}},
    {"syslog": True, "syslog_addr": "udp://127.0.0.1:9"},
    {"pre_request": lambda worker, req: None},
    {"post_request": lambda worker, req, environ, resp: None},
    {"loglevel": "debug"},
    {"logger": Statsd, "statsd_host": "127.0.0.1:9"},
    {"logger": Overriding},
]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("given", LISTENERS, ids=lambda given: next(iter(given)))
def test_somebody_listens(given: dict[str, Any]) -> None:
    assert is_listened_to(**given)


# The atoms are Gunicorn's.

EXCHANGES = {
    "get": Record(
        "GET",
        b"/a%20b/%C3%A9",
        b"c=%22d",
        "1.1",
        "http",
        [(b"host", b"a")],
        ("10.0.0.1", 5),
        ("127.0.0.1", 8000),
    ),
    "headers": Record(
        "POST",
        b"/",
        b"",
        "1.0",
        "https",
        [
            (b"authorization", b"Basic dXNlcjpwYXNz"),
            (b"referer", b'http://"quoted"/'),
            (b"user-agent", b"me/1.0 \xe9"),
            (b"content-type", b"text/plain"),
            (b"content-length", b"3"),
            (b"x-one", b"1"),
            (b"x-one", b"2"),
        ],
        ("::1", 5),
        ("::1", 8000),
    ),
    "unix": Record(
        "GET",
        b"/",
        b"",
        "1.1",
        "http",
        [(b"authorization", b"Bearer x")],
        None,
        ("/run/socket", None),
    ),
    "bad user": Record(
        "GET", b"/", b"", "1.1", "http", [(b"authorization", b"Basic \xff")], None, None
    ),
    "proxied": Record(
        "GET",
        b"/",
        b"",
        "1.1",
        "https",
        # Ahead of this clock: the wait is 0 for as long as the tests may take.
        [(b"x-request-start", b"t=%d" % (time.time() + 40_000)), (b"client-addr", b"forged")],
        ("10.0.0.1", 5),
        None,
        None,
        ("192.0.2.1", 0),
        True,
    ),
}
RESPONSES = {
    "200": LoggedResponse(200, [(b"content-type", b'text/"x"'), (b"X-One", b"1")], 12, 75.001234),
    "404": LoggedResponse(404, [], 0),
    "299": LoggedResponse(299, [(b"set-cookie", b"a"), (b"set-cookie", b"b")], 1 << 40, 90000.999),
}
UNUSUAL_KEYS = [
    "{X-ONE}i",
    "{Remote_Addr}e",
    "{Client_Addr}e",
    "{REQUEST_WAIT}e",
    "{AWS_Request_ID}e",
    "{Wsgi.Url_Scheme}e",
    "{x-ONE}o",
    "{nothing}i",
    "{nothing}o",
    "{nothing}e",
    "{'}i",
    "{\\}e",
    "{\udc80}e",
    "{é}i",
    "z",
    "{x-one}",
    "",
    "{",
]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_every_atom_is_gunicorns(
    exchange: str, response: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Logger(Config())
    monkeypatch.setattr(log, "now", lambda: "[now]")
    record, answer = EXCHANGES[exchange], RESPONSES[response]
    expected = SafeAtoms(log.atoms(answer, record, make_environ(record), answer.duration))
    one_by_one = Atoms(log, record, answer)
    assert {key: one_by_one[key] for key in expected} == dict(expected)
    for key in UNUSUAL_KEYS:
        assert one_by_one[key] == expected[key], key
    whole = Atoms(log, record, answer)
    assert dict(whole) == dict(expected)


@pytest.mark.usefixtures("quiet")
def test_the_atoms_are_a_mapping_whoever_looks_at_them_and_however() -> None:
    log = Logger(Config())

    def atoms() -> Atoms:
        return Atoms(log, EXCHANGES["headers"], RESPONSES["200"])

    keys = set(dict(atoms()))
    assert {"h", "{x-one}i", "{content-type}o", "{request_method}e"} <= keys
    assert bool(atoms())
    assert isinstance(atoms(), Mapping)
    assert len(atoms()) == len(keys)
    assert (
        set(atoms())
        == set(atoms().keys())
        == {key for key, _ in atoms().items()}
        == set(atoms().copy())
        == keys
    )
    assert "h" in atoms()
    assert "nothing" not in atoms()
    assert "::1" in list(atoms().values())
    assert atoms().get("h") == "::1"
    assert atoms().get("nothing", 1) == 1
    assert set({**atoms()}) == keys
    assert set(json.loads(json.dumps(atoms()))) == keys
    assert set(atoms() | {}) == keys
    assert set(copy.copy(atoms())) == keys


@pytest.mark.usefixtures("quiet")
def test_what_a_filter_changes_in_the_atoms_stays_changed() -> None:
    log = Logger(Config())
    keys = set(dict(Atoms(log, EXCHANGES["headers"], RESPONSES["200"])))
    atoms = Atoms(log, EXCHANGES["headers"], RESPONSES["200"])
    atoms["h"] = "anonymous"
    assert atoms.pop("{authorization}i") == "Basic dXNlcjpwYXNz"
    del atoms["{http_authorization}e"]
    assert set(atoms) == keys - {"{authorization}i", "{http_authorization}e"}
    assert atoms["h"] == "anonymous"
    assert atoms["{authorization}i"] == "-"
    updated = Atoms(log, EXCHANGES["headers"], RESPONSES["200"])
    updated.update(h="anonymous")
    assert set(updated) == keys
    assert updated["h"] == "anonymous"


# A running Gunicorn.


@pytest.fixture(scope="module", params=["httptools", "h11"])
def lines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lines]:
    if request.param == "httptools":
        pytest.importorskip("httptools")
    directory = tmp_path_factory.mktemp("access")
    options = {"http": request.param, "head_timeout": 1}
    with Gunicorn(
        directory,
        accesslog=str(directory / "access.log"),
        access_log_format=FORMAT,
        options=options,
    ) as server:
        yield Lines(server)
        assert server.stop() == 0


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_a_get_has_every_atom(lines: Lines) -> None:
    server = lines.server
    headers = {"X-One": "1", "Referer": 'http://there/"x"', "User-Agent": "me/1.0"}
    assert server.get("/a%20b/hello?first=1&x=%20", headers=headers).status_code == 200
    line = lines.one("first=1")
    assert re.fullmatch(r"\[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]", line.pop("t"))
    assert re.fullmatch(r"\d+", line.pop("D"))
    assert re.fullmatch(r"\d+", line.pop("M"))
    assert re.fullmatch(r"\d+\.\d{6}", line.pop("L"))
    assert int(line.pop("{REMOTE_PORT}e")) > 0
    assert line == {
        "h": "127.0.0.1",
        "l": "-",
        "u": "-",
        "r": "GET /a%20b/hello?first=1&x=%20 HTTP/1.1",
        "s": "200",
        "m": "GET",
        "U": "/a b/hello",
        "q": "first=1&x=%20",
        "H": "HTTP/1.1",
        "b": "6",
        "B": "6",
        "f": 'http://there/\\"x\\"',
        "a": "me/1.0",
        "T": "0",
        "p": f"<{server.workers()[0]}>",
        "{X-One}i": "1",
        "{x-answer}o": "42",
        "{Wsgi.Url_Scheme}e": "http",
        "{x-nothing}i": "-",
        "{x-nothing}o": "-",
        "{x-nothing}e": "-",
    }


@pytest.mark.gunicorn
def test_a_post_counts_the_bytes_of_its_response(lines: Lines) -> None:
    lines.server.request("POST", "/echo?posted", content=b"x" * 12345)
    line = lines.one("?posted")
    assert (line["m"], line["s"], line["b"], line["B"]) == ("POST", "200", "12345", "12345")


@pytest.mark.gunicorn
def test_a_head_has_no_bytes(lines: Lines) -> None:
    lines.server.request("HEAD", "/hello?head")
    line = lines.one("?head")
    assert (line["m"], line["s"], line["b"]) == ("HEAD", "200", "0")


@pytest.mark.gunicorn
def test_a_chunked_response_counts_its_content_and_not_its_framing(lines: Lines) -> None:
    assert lines.server.get("/chunks?chunked").text == "one,two,three\n"
    assert lines.one("?chunked")["b"] == "14"


@pytest.mark.gunicorn
def test_http_1_0_is_what_it_is(lines: Lines) -> None:
    with lines.server.connect() as client:
        client.send(b"GET /hello?old HTTP/1.0\r\n\r\n")
        assert b" 200 OK" in client.read_all()
    line = lines.one("?old")
    assert (line["r"], line["H"]) == ("GET /hello?old HTTP/1.0", "HTTP/1.0")


@pytest.mark.gunicorn
@pytest.mark.parametrize("status", [204, 304, 404, 418, 500, 599])
def test_the_status_is_the_applications(lines: Lines, status: int) -> None:
    assert lines.server.get(f"/hello?status={status}").status_code == status
    assert lines.one(f"status={status}")["s"] == str(status)


@pytest.mark.gunicorn
def test_the_time_is_that_of_the_whole_exchange(lines: Lines) -> None:
    with lines.server.connect() as client:
        client.begin_upload("/duplex?timed")
        client.read_until(b"begun\n\r\n")
        assert not [line for line in lines.all() if "?timed" in line["r"]]  # it is not over
        lines.server.get("/slow?seconds=1.1&meanwhile")
        client.chunk(b"")
        client.read_until(b"0\r\n\r\n")
    line = lines.one("?timed")
    assert line["T"] >= "1"
    microseconds = int(line["D"])
    assert 1_100_000 <= microseconds < 30_000_000
    assert line["M"] == str(microseconds // 1000)
    assert line["L"] == f"{microseconds / 1_000_000:.6f}"
    assert line["b"] == "6"


@pytest.mark.gunicorn
def test_the_user_is_that_of_basic_authentication(lines: Lines) -> None:
    lines.server.get("/hello?basic", auth=("user", "secret"))
    assert lines.one("?basic")["u"] == "user"
    lines.server.get("/hello?bearer", headers={"Authorization": "Bearer x"})
    assert lines.one("?bearer")["u"] == "-"


@pytest.mark.gunicorn
def test_several_requests_on_a_connection_have_a_line_each(lines: Lines) -> None:
    with lines.server.connect() as client:
        client.send(b"GET /hello?several HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        for _ in range(3):
            client.read_until(b"\r\n\r\nhello\n")
    assert [line["s"] for line in lines.wait("?several", 3)] == ["200"] * 3


@pytest.mark.gunicorn
@pytest.mark.parametrize(
    ("path", "status", "sent"),
    [("/error", "500", "21"), ("/nothing", "500", "21"), ("/late_error", "200", "6")],
)
def test_a_failing_application_has_a_line_with_what_went_out(
    lines: Lines, path: str, status: str, sent: str
) -> None:
    with lines.server.connect() as client:
        client.get(f"{path}?failing")
        client.read_all()
    line = lines.one(f"{path}?failing")
    assert (line["s"], line["b"]) == (status, sent)


@pytest.mark.gunicorn
def test_a_client_that_goes_before_the_response_is_a_499(lines: Lines) -> None:
    before = lines.server.events.count("silent begun")
    with lines.server.connect() as client:
        client.get("/silent?gone")
        lines.server.wait_for_event("silent begun", before + 1)
    line = lines.one("/silent?gone")
    assert (line["s"], line["b"]) == ("499", "0")
    assert not lines.server.lines("ERROR.*silent")


REJECTED = [
    (
        b"GET /x?rejected=host HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /x?rejected=host HTTP/1.1",
        "400",
    ),
    (b"GET /x?rejected=none HTTP/1.1\r\n\r\n", "GET /x?rejected=none HTTP/1.1", "400"),
    (
        b"POST /x?rejected=501 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST /x?rejected=501 HTTP/1.1",
        "501",
    ),
    (b"GET /x?rejected=505 HTTP/2.0\r\nHost: a\r\n\r\n", "GET /x?rejected=505 HTTP/2.0", "505"),
    (
        b"GET /x?rejected=417 HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n",
        "GET /x?rejected=417 HTTP/1.1",
        "417",
    ),
    (
        b"GET /x?rejected=431 HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
        "GET /x?rejected=431 HTTP/1.1",
        "431",
    ),
    (b"GET /x?rejected=408 HTTP/1.1\r\nHost: a\r\n", "GET /x?rejected=408 HTTP/1.1", "408"),
]


SENT = b"Authorization: Basic dXNlcjpwYXNz\r\nReferer: http://there/\r\nuser-agent:me/1.0\t\r\nX-One: 0\r\nX-One: 1\r\n"
"""Headers that every rejected request has, behind its request line."""


@pytest.mark.gunicorn
@pytest.mark.parametrize(
    ("request_", "line", "status"), REJECTED, ids=[line for _, line, _ in REJECTED]
)
def test_a_rejected_request_has_a_line_with_what_could_be_read(
    lines: Lines, request_: bytes, line: str, status: str
) -> None:
    with lines.server.connect() as client:
        client.send(request_.replace(b"\r\n", b"\r\n" + SENT, 1))
        assert client.read_all().startswith(b"HTTP/1.1 " + status.encode())
    method, target, version = line.split()
    seen = lines.one(target)
    assert seen["r"] == line
    assert (seen["s"], seen["h"]) == (status, "127.0.0.1")
    assert (seen["m"], seen["U"], seen["q"], seen["H"]) == (
        method,
        "/x",
        target.partition("?")[2],
        version,
    )
    assert int(seen["b"]) > 0
    assert (seen["u"], seen["f"], seen["a"], seen["{X-One}i"]) == (
        "user",
        "http://there/",
        "me/1.0",
        "1",
    )
    assert int(seen["{REMOTE_PORT}e"]) > 0
    assert (int(seen["D"]) >= 1_000_000) == (status == "408")  # head_timeout
    assert lines.server.lines("WARNING.*Invalid request from ip=127.0.0.1: ")


@pytest.mark.gunicorn
def test_the_time_of_a_rejected_request_begins_with_its_first_byte(lines: Lines) -> None:
    with lines.server.connect() as client:
        client.send(b"GET /x?began HTTP/1.1\r\n")
        lines.server.get("/slow?seconds=0.3&meanwhile")
        client.send(b"\r\n")
        assert client.read_all().startswith(b"HTTP/1.1 400 ")
    assert int(lines.one("/x?began")["D"]) >= 200_000


@pytest.mark.gunicorn
def test_of_a_rejected_head_only_whole_lines_that_look_like_headers_are_read(lines: Lines) -> None:
    head = [
        b"GET /x?guessed HTTP/1.1",
        b"no colon",
        b"X-One : 1",
        b"X_One: 2",
        b": 3",
        b'Referer: a\x1b"b\x1f\nforged',
        b"User-Agent: cut of",
    ]
    with lines.server.connect() as client:
        client.send(b"\r\n".join(head))
        assert client.read_all().startswith(b"HTTP/1.1 400 ")
    seen = lines.one("?guessed")
    assert (seen["{X-One}i"], seen["a"]) == ("-", "-")
    assert seen["f"] == 'a\\x1b\\"b\\x1f\\x0aforged'


@pytest.mark.gunicorn
def test_what_limit_concurrency_turns_away_has_a_line_with_its_headers_and_no_hook(
    tmp_path: Path,
) -> None:
    settings = {
        "accesslog": str(tmp_path / "access.log"),
        "access_log_format": FORMAT,
        "options": {"limit_concurrency": 1},
    }
    hooks = "def pre_request(worker, req):\n    note('pre', req.path)\n\ndef post_request(worker, req, environ, resp):\n    note('post', req.path)\n"
    with Gunicorn(tmp_path, config=NOTE + hooks, **settings) as server, server.connect() as client:
        client.get("/silent")
        server.wait_for_event("silent begun")
        assert (
            server.get(
                "/x?busy", headers={"User-Agent": "me/1.0", "X-One": "1"}, auth=("user", "secret")
            ).status_code
            == 503
        )
        seen = Lines(server).one("?busy")
        assert (seen["s"], seen["m"], seen["U"], seen["q"]) == ("503", "GET", "/x", "busy")
        assert (seen["u"], seen["a"], seen["{X-One}i"], seen["{Wsgi.Url_Scheme}e"]) == (
            "user",
            "me/1.0",
            "1",
            "http",
        )
        assert [event for event in server.events if event.startswith(("pre", "post"))] == [
            "pre /silent"
        ]


@pytest.mark.gunicorn
def test_a_body_that_turns_out_to_be_malformed_ends_the_request_with_one_line(lines: Lines) -> None:
    with lines.server.connect() as client:
        client.begin_upload("/echo?malformed")
        client.send(b"nonsense\r\n")
        assert client.read_all().startswith(b"HTTP/1.1 400 ")
    line = lines.one("?malformed")
    assert (line["r"], line["s"]) == ("POST /echo?malformed HTTP/1.1", "400")


GARBAGE = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 30 + b"\r\n\r\n",
    "one word": b"GARBAGE\r\n\r\n",
    "LF": b"GET /forged\n127.0.0.1 - - forged HTTP/1.1\r\nHost: a\r\n\r\n",
    "LF in three words": b"GET /forged\n127.0.0.1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "CR": b"GET /forged\rforged HTTP/1.1\r\nHost: a\r\n\r\n",
    "escape": b"GET /\x1b[31mforged HTTP/1.1\r\nHost: a\r\n\r\n",
    "separator": b"GET /\x1f\x1fforged HTTP/1.1\r\nHost: a\r\n\r\n",
    "NEL": b"GET /\x85\xe2\x80\xa8forged HTTP/1.1\r\nHost: a\r\n\r\n",
    "quote": b'GET /" HTTP/1.1\r\n\r\n',
    "two spaces": b"GET  /two-spaces HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.gunicorn
@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_request_that_cannot_be_read_has_one_line_and_cannot_forge_another(
    lines: Lines, garbage: str
) -> None:
    before = lines.path.stat().st_size
    with lines.server.connect() as client:
        client.send(GARBAGE[garbage])
        assert client.read_all().startswith(b"HTTP/1.1 400 ")
    poll(lambda: lines.path.stat().st_size > before)
    text = lines.path.read_bytes()[before:].decode("utf-8", "backslashreplace")
    # It ends neither its line nor its column, and is no command to a terminal.
    assert text.count("\n") == 1
    assert not re.search(r"[\x00-\x1e\x7f-\x9f\u2028\u2029]", text[:-1])
    columns = text[:-1].split("\x1f")
    assert len(columns) == len(NAMES)
    assert columns[NAMES.index("s")] == "400"
    assert '"' not in columns[NAMES.index("r")].replace('\\"', "")


@pytest.mark.gunicorn
def test_a_decoded_path_or_a_user_cannot_forge_a_line(lines: Lines) -> None:
    user = base64.b64encode(b"me\nforged:password").decode()
    lines.server.get("/a%0a%1bb/hello?forging", headers={"authorization": f"Basic {user}"})
    line = lines.one("?forging")
    assert line["U"] == "/a\\x0a\\x1bb/hello"
    assert line["u"] == "me\\x0aforged"


@pytest.mark.gunicorn
def test_a_pre_request_hook_that_raises_has_a_line_that_names_the_request(tmp_path: Path) -> None:
    config = "def pre_request(worker, req):\n    raise ValueError\n"
    with Gunicorn(
        tmp_path, accesslog=str(tmp_path / "access.log"), access_log_format=FORMAT, config=config
    ) as server:
        assert server.get("/hello?hook").status_code == 500
        assert Lines(server).one("?hook")["r"] == "GET /hello?hook HTTP/1.1"


@pytest.mark.gunicorn
def test_the_default_format_is_the_combined_one(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with Gunicorn(tmp_path, accesslog=str(path)) as server:
        server.get("/hello?x=1", headers={"Referer": "http://there/", "User-Agent": "me/1.0"})
        line = poll(path.read_text)
        assert re.fullmatch(
            r'127\.0\.0\.1 - - \[[^]]+\] "GET /hello\?x=1 HTTP/1\.1" 200 6 "http://there/" "me/1\.0"\n',
            line,
        )


@pytest.mark.gunicorn
def test_a_format_that_cannot_be_filled_in_is_logged_and_harms_no_request(tmp_path: Path) -> None:
    with (
        Gunicorn(
            tmp_path, accesslog=str(tmp_path / "access.log"), access_log_format="%(h)d"
        ) as server,
        server.client() as client,
    ):
        assert client.get("/hello").text == "hello\n"
        assert client.get("/hello").text == "hello\n"
        assert server.stop() == 0


@pytest.mark.gunicorn
def test_a_filter_that_raises_is_reported_and_harms_no_request(tmp_path: Path) -> None:
    config = log_config(tmp_path, filters=[])
    config["loggers"]["gunicorn.access"]["filters"] = ["raising"]
    with Gunicorn(tmp_path, logconfig_dict=config) as server, server.client() as client:
        assert client.get("/hello").text == "hello\n"
        poll(
            lambda: re.search(
                r"gunicorn\.access .*: ValueError in .* filter$", server.output, re.MULTILINE
            )
        )
        assert client.get("/hello").text == "hello\n"


@pytest.mark.gunicorn
def test_a_rejected_request_needs_no_access_log(tmp_path: Path) -> None:
    config = NOTE + "\ndef post_request(worker, req, environ, resp):\n    note('post', req.uri)\n"
    with Gunicorn(tmp_path, config=config) as server:
        with server.connect() as client:
            client.send(b"GET /rejected HTTP/1.1\r\n\r\n")
            assert client.read_all().startswith(b"HTTP/1.1 400 ")
        server.get("/hello")
        server.wait_for_event("post /hello")
        # The hook is called for what pre_request could be called for.
        assert "post /rejected" not in server.events
        assert not server.lines("ERROR")


# Loggers of other makes.


@pytest.mark.gunicorn
def test_a_logger_with_its_own_access_gets_every_request_without_an_access_log(
    tmp_path: Path,
) -> None:
    with Gunicorn(tmp_path, logger_class="loggers.OwnAccess") as server:
        server.get("/hello?own")
        server.wait_for_event("access 200 OK 6 GET /hello?own 127.0.0.1 True")
        server.get("/error?own")
        server.wait_for_event("access 500 Internal Server Error 21 GET /error?own 127.0.0.1 True")
        with server.connect() as client:
            client.send(b"GET /rejected HTTP/1.1\r\n\r\n")
            client.read_all()
        poll(
            lambda: any(
                re.fullmatch(r"access 400 Bad Request \d+ GET /rejected 127\.0\.0\.1 True", event)
                for event in server.events
            )
        )
        assert len([event for event in server.events if event.startswith("access")]) == 3
        assert not server.lines("AssertionError")


@pytest.mark.gunicorn
def test_a_logger_with_its_own_atoms_can_use_them_in_the_format(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with Gunicorn(
        tmp_path,
        logger_class="loggers.OwnAtoms",
        accesslog=str(path),
        access_log_format="%(own)s|%(s)s",
    ) as server:
        server.get("/hello?x")
        assert poll(path.read_text) == "GET 6 x|200\n"


def log_config(directory: Path, **handler: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {"()": "loggers.JSONFormatter"},
            "plain": {"format": "[%(levelname)s] %(message)s"},
        },
        "filters": {"anonymous": {"()": "loggers.Anonymous"}, "raising": {"()": "loggers.Raising"}},
        "handlers": {
            "access": {
                "class": "logging.FileHandler",
                "filename": str(directory / "access.log"),
                "formatter": "json",
                **handler,
            },
            "error": {
                "class": "logging.FileHandler",
                "filename": str(directory / "error.log"),
                "formatter": "plain",
            },
        },
        "root": {"level": "INFO", "handlers": []},
        "loggers": {
            "gunicorn.error": {"level": "INFO", "handlers": ["error"], "propagate": False},
            "gunicorn.access": {"level": "INFO", "handlers": ["access"], "propagate": False},
        },
    }


@pytest.fixture(scope="module")
def formatted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    """A Gunicorn with the documented logs in JSON. A formatter that writes all atoms has a file before a filter, and one after it."""
    directory = tmp_path_factory.mktemp("json")
    page = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()
    [example] = re.findall(r"```python\n(logconfig_dict = .*?)```", page, re.DOTALL)
    documented: dict[str, Any] = {}
    exec(example, documented)  # of the documentation
    config, own = documented["logconfig_dict"], log_config(directory)
    config["filters"] = own["filters"]
    config["formatters"] |= {"all": own["formatters"]["json"], "plain": own["formatters"]["plain"]}
    file = {**own["handlers"]["access"], "formatter": "all"}
    config["handlers"] |= {
        "all": {**file, "filename": str(directory / "all.log")},
        "filtered": {
            **file,
            "filename": str(directory / "filtered.log"),
            "filters": ["anonymous"],
        },
        "plain": own["handlers"]["error"],
    }
    config["loggers"]["gunicorn.access"]["handlers"] += ["all", "filtered"]
    config["loggers"]["gunicorn.error"]["handlers"] += ["plain"]
    with Gunicorn(
        directory,
        bind=f"unix:{directory}/socket",
        logconfig_dict=config,
        access_log_format="%(r)s %(h)s",
    ) as server:
        yield server


def find_json(text: Callable[[], str], part: str) -> dict[str, Any]:
    """Wait for a line that has `part`, and read it."""

    def found() -> list[str]:
        return [line for line in text().splitlines() if part in line]

    [line] = poll(found, f"a line with {part!r}")
    entry: dict[str, Any] = json.loads(line)
    return entry


@pytest.mark.gunicorn
@pytest.mark.parametrize("name", ["all", "filtered"])
def test_a_formatter_sees_all_atoms_as_a_mapping(formatted: Gunicorn, name: str) -> None:
    formatted.get(f"/hello?to={name}", auth=("user", "secret"))
    seen = find_json((formatted.directory / f"{name}.log").read_text, f"?to={name}")
    is_filtered = name == "filtered"
    client = "anonymous" if is_filtered else "-"  # a peer on a unix socket has no address
    assert seen["message"] == f"GET /hello?to={name} HTTP/1.1 {client}"
    assert seen["h"] == client
    assert ("{authorization}i" in seen) == (not is_filtered)
    assert (seen["s"], seen["m"], seen["U"], seen["B"], seen["u"]) == (
        "200",
        "GET",
        "/hello",
        6,
        "user",
    )
    assert seen["{x-answer}o"] == "42"
    assert seen["{request_method}e"] == "GET"
    assert "{remote_port}e" not in seen


@pytest.mark.gunicorn
def test_the_documented_configuration_writes_both_logs_as_json(formatted: Gunicorn) -> None:
    headers = {
        "User-Agent": 'me "1.0" \\',
        "X-Forwarded-For": "192.0.2.1",
        "X-Request-Start": f"t={time.time() - 5:.3f}",
        "X-Request-Id": "17",
    }
    formatted.get("/a%0ab/hello?documented", headers=headers)
    entry = find_json(lambda: formatted.output, '"query":"documented"')
    assert re.fullmatch(r"[-\d]{10}T[:\d]{8}\.\d{6}\+00:00", entry.pop("time"))
    assert 0 < entry.pop("duration_us") < 60_000_000
    assert 4_000_000 <= entry.pop("wait_us") < 65_000_000
    assert entry == {
        "level": "INFO",
        "logger": "gunicorn.access",
        "pid": formatted.workers()[0],
        "client": "192.0.2.1",
        "peer": None,
        "user": None,
        "method": "GET",
        "scheme": "http",
        "host": entry["host"],
        "path": "/a\\x0ab/hello",
        "query": "documented",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 6,
        "referer": None,
        "user_agent": 'me "1.0" \\',
        "request_id": "17",
    }
    formatted.get("/error?documented")
    entry = find_json(lambda: formatted.output, "Traceback")
    assert (entry["level"], entry["logger"]) == ("ERROR", "gunicorn.error")
    assert entry["exception"].startswith("Traceback (most recent call last):\n  File ")
    # Whatever else the master and the worker have said is JSON, too.
    assert {json.loads(line)["logger"] for line in formatted.output.splitlines()} == {
        "gunicorn.access",
        "gunicorn.error",
    }


@pytest.mark.gunicorn
def test_statsd_counts_every_request_without_an_access_log(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(10)
        settings = {
            "statsd_host": f"127.0.0.1:{statsd.getsockname()[1]}",
            "statsd_prefix": "test",
            "options": {"limit_concurrency": 1},
        }
        with Gunicorn(tmp_path, **settings) as server:
            server.get("/hello")
            server.get("/error")
            with server.connect() as client:
                client.send(b"GET / HTTP/1.1\r\n\r\n")
                client.read_all()
            with server.connect() as client:
                client.get("/silent")
                server.wait_for_event("silent begun")
                assert server.get("/hello").status_code == 503
            seen: list[str] = []
            while len([packet for packet in seen if ".gunicorn.request.status." in packet]) < 5:
                seen.append(statsd.recv(2000).decode())
    counts = [packet.split("|")[0] for packet in seen if ".gunicorn.request" in packet]
    assert counts.count("test.gunicorn.requests:1") == 5
    assert counts.count("test.gunicorn.request.status.200:1") == 1
    assert counts.count("test.gunicorn.request.status.500:1") == 1
    assert counts.count("test.gunicorn.request.status.400:1") == 1
    assert counts.count("test.gunicorn.request.status.503:1") == 1
    assert counts.count("test.gunicorn.request.status.499:1") == 1
    assert (
        len(
            [
                packet
                for packet in counts
                if re.fullmatch(r"test\.gunicorn\.request\.duration:\d+\.\d+", packet)
            ]
        )
        == 5
    )
