"""Every one of Gunicorn's settings is in docs/settings.md, and what is said there to be refused is (see `gunicorn_asgi.config.checks`)."""

from __future__ import annotations

import logging
import re
import signal
from pathlib import Path
from typing import Any, NamedTuple

import gunicorn
import pytest
from certificates import make_authority
from gunicorn.config import Config
from process import BOOT_LINE, GUNICORN_VERSION, SETTINGS, Gunicorn

from gunicorn_asgi import Worker

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
VERSION = tuple(map(int, re.findall(r"\d+", gunicorn.__version__)[:3]))


class Row(NamedTuple):
    """One line of the page."""

    name: str
    since: tuple[int, ...]
    here: str
    text: str


def read_rows() -> list[Row]:
    rows = []
    for line in PAGE.read_text().splitlines():
        if not line.startswith("| `"):
            continue
        found = re.fullmatch(r"\| `(\w+)`(?: \(([\d.]+)\))? \| ([\w' ]+) \| (.+) \|", line)
        assert found, line
        since = tuple(map(int, found[2].split("."))) if found[2] else (0,)
        rows.append(Row(found[1], since, found[3], found[4]))
    return rows


ROWS = read_rows()


def config(**settings: Any) -> Config:
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, value)
    return cfg


def check(
    caplog: pytest.LogCaptureFixture, cfg: Config, worker: type[Worker] = Worker
) -> tuple[object, list[str]]:
    """What the arbiter does before it starts workers: the exit code if it is to stop, and what was logged."""
    code: object = None
    try:
        worker.check_config(cfg, logging.getLogger(__name__))
    except SystemExit as error:
        code = error.code
    return code, [f"{record.levelname}: {record.getMessage()}" for record in caplog.records]


# The page.


def test_every_setting_of_this_gunicorn_has_a_row() -> None:
    assert {row.name for row in ROWS} >= SETTINGS, "say in docs/settings.md what becomes of it"


def test_every_row_is_a_setting_of_this_gunicorn_or_of_a_newer_one() -> None:
    assert {row.name for row in ROWS} - SETTINGS == {
        row.name for row in ROWS if row.since > VERSION
    }


def test_no_setting_has_two_rows_and_every_row_says_one_of_four_things() -> None:
    assert len(ROWS) == len({row.name for row in ROWS}) == 120
    assert {row.here for row in ROWS} == {"honoured", "Gunicorn's own", "refused", "no effect"}


# What is refused.

ONE_OR_MORE = "must be 1 or more."
NO_PATH = "must be a path, such as /app: no URL, no query or fragment, no control character."
TLS = {"certfile": "cert.pem", "keyfile": "key.pem"}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("backlog", {"backlog": 0}, f"0 {ONE_OR_MORE}"),
    ("cert_reqs", {"cert_reqs": 3, **TLS}, "3 must be 0 (none), 1 (optional) or 2 (required)."),
    (
        "cert_reqs",
        {"cert_reqs": 1},
        "1 needs certfile and keyfile: without TLS no client has a certificate.",
    ),
    (
        "cert_reqs",
        {"cert_reqs": 2},
        "2 needs certfile and keyfile: without TLS no client has a certificate.",
    ),
    (
        "cert_reqs",
        {"cert_reqs": 2, **TLS},
        "2 needs ca_certs: without them no client's certificate is good.",
    ),
    (
        "http2_initial_window_size",
        {"http2_initial_window_size": 0},
        "0 must be 1 or more: no request could have a body.",
    ),
    ("keyfile", {"keyfile": "key.pem"}, "'key.pem' needs certfile, the certificate of this key."),
    (
        "permit_obsolete_folding",
        {"permit_obsolete_folding": True},
        "True must be False: folded header lines (RFC 9112, 5.2) are never accepted here.",
    ),
    (
        "permit_unconventional_http_version",
        {"permit_unconventional_http_version": True},
        "True must be False: only HTTP/1.0 and HTTP/1.1 are spoken here.",
    ),
    ("protocol", {"protocol": "uwsgi"}, "'uwsgi' must be http: nothing else is spoken here."),
    ("protocol", {"protocol": "fastcgi"}, "'fastcgi' must be http: nothing else is spoken here."),
    *[
        (
            "root_path",
            {"root_path": given},
            f"{given!r} {NO_PATH}",
        )
        for given in ("/app?a", "/app#a", "/a\nb", "/a\x00", "http://a/app")
    ],
    (
        "strip_header_spaces",
        {"strip_header_spaces": True},
        "True must be False: a space before the colon of a header (RFC 9112, 5.1) is never accepted here.",
    ),
    (
        "threads",
        {"threads": 2},
        "2 must be 1: one event loop serves all requests of a worker; for more cores, give more workers.",
    ),
    ("worker_connections", {"worker_connections": 0}, f"0 {ONE_OR_MORE}"),
]
ELSEWHERE = {"asgi_loop"}
"""Refused by what is installed: tests/test_settings.py."""


def test_every_row_that_speaks_of_refusing_is_tried() -> None:
    said = {
        row.name
        for row in ROWS
        if row.here == "refused"
        or "refused" in re.sub("refused with 400|refused ones", "", row.text)
    }
    assert said == {name for name, _, _ in REFUSED} | ELSEWHERE


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    REFUSED,
    ids=[f"{name}-{given[name]}" for name, given, _ in REFUSED],
)
def test_what_cannot_work_stops_the_boot_with_one_sentence(
    name: str, settings: dict[str, Any], sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    if not settings.keys() <= SETTINGS:
        pytest.skip(f"this Gunicorn has no {name}")
    assert check(caplog, config(**settings)) == (
        1,
        [f"ERROR: Invalid value for setting {name}: {sentence}"],
    )


ACCEPTED: list[dict[str, Any]] = [
    {},
    # Nothing to do.
    {"casefold_http_method": True},
    {"threads": 0},
    {"threads": 1},
    {"worker_connections": 1},
    {"backlog": 1},
    {"graceful_timeout": 0, "keepalive": 0, "timeout": 0},
    {"limit_request_line": 0, "limit_request_fields": 0, "limit_request_field_size": 0},
    {"protocol": "http"},
    {"sendfile": False},
    # Without effect.
    {"http_parser": "fast"},
    {"suppress_ragged_eofs": False, "do_handshake_on_connect": True},
    {"tmp_upload_dir": "/tmp"},
    {"websocket_max_message_size": 0},
    {"http2_max_concurrent_streams": 1},
    # Means nothing with TLS, as in Gunicorn.
    {"http2_cleartext": "both", "http_protocols": "h1,h2", **TLS},
    {"http2_cleartext": "both", **TLS},
    {"http_protocols": "h2", "http2_cleartext": True},
    # Half of TLS, but the hook may have the rest.
    {"keyfile": "key.pem", "ssl_context": lambda _config, factory: factory()},
    {"cert_reqs": 2, **TLS, "ssl_context": lambda _config, factory: factory()},
    {"cert_reqs": 2, **TLS, "ca_certs": "ca.pem"},
    {"cert_reqs": 1, **TLS},
    {"certfile": "both.pem"},
]


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that ACCEPTED names."""
    directory = tmp_path_factory.mktemp("tls")
    pair = make_authority(directory, "localhost")
    for name, source in (
        ("cert.pem", pair.certfile),
        ("key.pem", pair.keyfile),
        ("ca.pem", pair.certfile),
    ):
        (directory / name).write_bytes(Path(source).read_bytes())
    (directory / "both.pem").write_bytes(
        (directory / "cert.pem").read_bytes() + (directory / "key.pem").read_bytes()
    )
    return directory


@pytest.mark.parametrize(
    "settings", ACCEPTED, ids=lambda settings: "-".join(settings) or "defaults"
)
def test_what_harms_nobody_is_accepted_without_a_word(
    settings: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    tls_files: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tls_files)
    if not settings.keys() <= SETTINGS:
        pytest.skip("this Gunicorn has no such setting")
    assert check(caplog, config(**settings)) == (None, [])


# What deserves a warning.


NETWORKS = GUNICORN_VERSION >= (24, 1)
"""Whether this Gunicorn's forwarded_allow_ips may have networks."""


@pytest.mark.parametrize(
    ("trusted", "named"),
    [
        ("*", "*"),
        ("10.1.2.3", "10.1.2.3"),
        ("127.0.0.1,10.0.0.1,::1,2001:db8::1", "10.0.0.1, 2001:db8::1"),
        *(
            [("10.0.0.0/8,127.0.0.0/8", "10.0.0.0/8"), ("0.0.0.0/0", "0.0.0.0/0")]
            if NETWORKS
            else []
        ),
    ],
)
@pytest.mark.parametrize(
    "bind",
    [["0.0.0.0:8000"], ["unix:/tmp/socket", "[::1]:8000"], ["fd://3"]],
    ids=["TCP", "both", "inherited"],
)
def test_a_short_keepalive_behind_a_load_balancer_is_warned_of(
    trusted: str, named: str, bind: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    code, [line] = check(caplog, config(bind=bind, forwarded_allow_ips=trusted))
    assert code is None
    assert line == (
        f"WARNING: keepalive is Gunicorn's default of 2 s, and forwarded headers are trusted from {named}: a load balancer that keeps idle "
        "connections for longer now and then sends a request into one that is being closed, and answers 502; set keepalive to more than its "
        "idle timeout."
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"forwarded_allow_ips": "127.0.0.1,::1,127.1.2.3"},
        {"forwarded_allow_ips": ""},
        {"forwarded_allow_ips": "*", "keepalive": 75},
        {"forwarded_allow_ips": "*", "keepalive": 3},
        {"forwarded_allow_ips": "*", "keepalive": 0},
        {"forwarded_allow_ips": "*", "bind": "unix:/tmp/socket"},
    ],
    ids=repr,
)
def test_it_is_not_warned_of_without_one(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert check(caplog, config(**settings)) == (None, [])


LOSES_REQUESTS = (
    "WARNING: keepalive is {} s, and this is AWS Lambda: the Lambda Web Adapter keeps idle connections for 4 s, now and then sends a "
    "request into one that is being closed, and its client gets a 502; set keepalive to 5 or more (docs/lambda-web-adapter.md)."
)
LOOKS_HUNG = (
    "WARNING: timeout is {} s, and this is AWS Lambda: a frozen environment looks like a worker that hangs, which may be killed when it "
    "thaws; set timeout to 0 (docs/lambda-web-adapter.md)."
)


@pytest.mark.parametrize("variable", ["AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_RUNTIME_API"])
@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({}, [LOSES_REQUESTS.format(2), LOOKS_HUNG.format(30)]),
        ({"keepalive": 4, "timeout": 0}, [LOSES_REQUESTS.format(4)]),
        ({"keepalive": 5, "timeout": 60}, [LOOKS_HUNG.format(60)]),
        ({"keepalive": 5, "timeout": 0}, []),
        ({"keepalive": 0, "timeout": 0}, []),  # each connection is closed after its response
        ({"keepalive": 2, "timeout": 0, "forwarded_allow_ips": "*"}, [LOSES_REQUESTS.format(2)]),
    ],
    ids=repr,
)
def test_what_loses_requests_on_lambda_is_warned_of(
    settings: dict[str, Any],
    warned: list[str],
    variable: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, "hello")
    assert check(caplog, config(**settings)) == (None, warned)


@pytest.mark.skipif(
    "websocket_max_message_size" not in SETTINGS, reason="this Gunicorn has no such setting"
)
def test_messages_that_never_fit_into_the_memory_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limit = 64 * 1024 * 1024
    assert check(caplog, config(websocket_max_message_size=limit)) == (None, [])
    code, [line] = check(caplog, config(websocket_max_message_size=limit + 1))
    assert code is None
    assert line == (
        "WARNING: websocket_max_message_size is 67108865, and ws_memory_limit 67108864: a message "
        "that is longer than that closes its WebSocket; set ws_memory_limit to several times "
        "websocket_max_message_size, or to 0."
    )


CLEARTEXT_IN_VAIN = "WARNING: http2_cleartext is both, but http_protocols has no h2: HTTP/2 is not served; set http_protocols to h2,h1."
H2_IN_VAIN = "WARNING: http_protocols has h2, but there is no TLS, and http2_cleartext is off: HTTP/2 is not served; set certfile and keyfile, or http2_cleartext."


def past_the_rules(value: str) -> str:
    return (
        f"WARNING: http2_cleartext is {value}: a client whose Upgrade: h2c a proxy passes on "
        "speaks HTTP/2 past the rules of that proxy; let the proxy remove HTTP2-Settings from "
        "requests, or set http2_cleartext to prior-knowledge (docs/http2.md)."
    )


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({"http2_cleartext": "both"}, [CLEARTEXT_IN_VAIN]),
        # Newer Gunicorns say that themselves, before any worker is asked.
        ({"http_protocols": "h2,h1"}, [] if hasattr(Config, "validate") else [H2_IN_VAIN]),
        ({"http_protocols": "h2,h1", "http2_cleartext": "both"}, [past_the_rules("both")]),
        ({"http_protocols": "h2", "http2_cleartext": "upgrade"}, [past_the_rules("upgrade")]),
        ({"http_protocols": "h2,h1", "http2_cleartext": "prior-knowledge"}, []),
        ({}, []),
    ],
    ids=repr,
)
def test_half_of_what_http2_needs_and_a_way_past_a_proxy_are_warned_of(
    given: dict[str, Any], warned: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("hpack")
    settings = {name: value for name, value in given.items() if name in SETTINGS}
    options = {name: value for name, value in given.items() if name not in SETTINGS}
    assert check(caplog, config(**settings), Worker.configure(**options)) == (None, warned)


# A running Gunicorn.


@pytest.mark.gunicorn
def test_gunicorn_stops_with_the_sentence_before_it_starts_a_worker(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, wait=False, threads=4) as server:
        assert server.wait() == 1
        [error] = server.lines(r"\[(WARNING|ERROR|CRITICAL)\]")
        assert "[ERROR] Invalid value for setting threads: 4 must be 1: " in error
        assert "Traceback" not in server.log + server.output
        assert server.workers() == []


@pytest.mark.gunicorn
def test_a_warning_comes_once_for_all_workers(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, forwarded_allow_ips="10.0.0.1", workers=2) as server:
        assert len(server.lines(r"\[WARNING\] keepalive is Gunicorn's default of 2 s")) == 1
        assert len(server.lines(r"\[(WARNING|ERROR|CRITICAL)\]")) == 1


@pytest.mark.gunicorn
@pytest.mark.parametrize("workers", [1, 2])
def test_a_setting_that_became_bad_before_a_hup_is_said_and_mended_by_the_next_hup(
    tmp_path: Path, workers: int
) -> None:
    """The old workers have gone by then, and the new ones say in turn what keeps them; but the master lives."""
    with Gunicorn(tmp_path, workers=workers) as server:
        server.configure(threads=4)
        server.kill(signal.SIGHUP)
        server.wait_for(r"\[ERROR\] Invalid value for setting threads: 4 must be 1: ", workers)
        server.configure(threads=1)
        server.kill(signal.SIGHUP)
        server.wait_for(BOOT_LINE, 2 * workers)
        assert server.get("/hello").status_code == 200
        assert "Traceback" not in server.log + server.output


@pytest.mark.gunicorn
def test_a_setting_that_gunicorn_itself_refuses_at_a_hup_changes_nothing(tmp_path: Path) -> None:
    with Gunicorn(tmp_path) as server:
        server.configure(keepalive=-1)
        server.kill(signal.SIGHUP)
        server.wait_for(r"\[ERROR\] HUP: the configuration cannot be read")
        assert "Error: Value must be positive: -1" in server.output
        assert server.get("/hello").text == "hello\n"
        assert server.stop() == 0
