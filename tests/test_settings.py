"""Every setting and option: what is read, from where, and what stops the boot (see `gunicorn_asgi.config`)."""

from __future__ import annotations

import importlib.util
import math
import re
import signal
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from gunicorn.config import Config
from gunicorn.http import message
from process import SETTINGS, Gunicorn

from gunicorn_asgi import Worker
from gunicorn_asgi.config.gunicorn_settings import (
    NEWER_DEFAULTS,
    SETTING_ROWS,
    STAND_INS,
    GunicornSettings,
)
from gunicorn_asgi.config.options import OPTION_ROWS, OPTIONS, Options, OptionSettings
from gunicorn_asgi.config.read_options import read_options
from gunicorn_asgi.config.rows import Option
from gunicorn_asgi.config.settings import RESPONSE_EXTENSIONS, Settings
from gunicorn_asgi.errors import ConfigError
from gunicorn_asgi.frozen import Frozen
from gunicorn_asgi.http1 import parser


def read(
    configured: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    **gunicorn: Any,
) -> Settings:
    cfg = Config()
    for name, value in gunicorn.items():
        cfg.set(name, value)
    return Settings.read(cfg, configured or {}, environment or {})


# Options.


def test_every_option_has_its_default_unless_it_is_given() -> None:
    assert read_options({}, {}) == {
        "http": "auto",
        "async_library": "asyncio",
        "server_header": "gunicorn",
        "proxy_headers": "x-forwarded",
        "forwarded_host": False,
        "forwarded_lists": False,
        "date_header": True,
        "lame_duck": 0.3,
        "stream_drain_delay": 0.0,
        "health_path": "",
        "head_timeout": 10.0,
        "tls_handshake_timeout": 10.0,
        "tls_key_password_file": "",
        "tls_key_password": "",
        "limit_concurrency": 0,
        "request_timeout": 0.0,
        "body_timeout": 30.0,
        "write_timeout": 60.0,
        "min_body_rate": 0,
        "min_read_rate": 0,
        "half_close": "serve",
        "pathsend": True,
        "zerocopysend": True,
        "early_hint": True,
        "trailers": True,
        "stall_warning": "auto",
        "handover": True,
        "stop_delay": 0.0,
        "max_rss": 0,
        "max_rss_jitter": 0,
        "max_lifetime": 0.0,
        "max_lifetime_jitter": 0.0,
        "metrics_bind": "",
        "statsd_interval": 10.0,
        "ws": "auto",
        "ws_per_message_deflate": True,
        "ws_max_queue": 32,
        "ws_ping_interval": 20.0,
        "ws_ping_timeout": 20.0,
        "ws_accept_timeout": 30.0,
        "ws_close_timeout": 10.0,
        "ws_max_lifetime": 0.0,
        "ws_message_timeout": 300.0,
        "ws_memory_limit": 67108864,
        "ws_drain_delay": 0.0,
        "lambda_response_mode": "buffered",
        "lambda_base_path": "auto",
        "lambda_text_types": "",
        "lambda_event_function": "",
    }


def test_the_typed_options_are_those_of_the_tables_in_the_same_order() -> None:
    hints = get_type_hints(Options)
    assert hints == {option.name: option.type for option in (*OPTIONS, *STAND_INS)}
    assert list(hints) == [option.name for option in (*OPTIONS, *STAND_INS)]


@pytest.mark.parametrize(
    ("table", "rows"),
    [(OptionSettings, OPTION_ROWS), (GunicornSettings, SETTING_ROWS)],
    ids=["options", "Gunicorn's settings"],
)
def test_every_attribute_of_a_table_has_a_row_that_no_other_has(
    table: type[Frozen], rows: dict[str, Any]
) -> None:
    assert list(rows) == list(table.defaults)
    assert len({row.name for row in rows.values()}) == len(rows)


def test_an_attribute_has_the_name_of_its_option_or_setting_with_the_unit() -> None:
    renamed = {
        attribute: row.name
        for attribute, row in (OPTION_ROWS | SETTING_ROWS).items()
        if row.name not in (attribute, attribute.removesuffix("_s"))
    }
    assert renamed == {
        "disconnect_grace_s": "asgi_disconnect_grace_period",
        "lambda_streams": "lambda_response_mode",
    }


def test_a_stand_in_has_the_name_of_its_setting() -> None:
    for row in SETTING_ROWS.values():
        assert row.stand_in is None or row.stand_in.name == row.name


def test_every_extension_that_can_be_switched_off_has_an_option() -> None:
    assert set(RESPONSE_EXTENSIONS) <= {option.name for option in OPTIONS if option.type is bool}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_says_what_it_is_and_allows_its_own_default(option: Option) -> None:
    assert option.check(option.default)
    assert option.help
    assert option.variable == f"GUNICORN_ASGI_{option.name.upper()}"


ALLOWED = [
    ("http", "h11", "h11", "h11"),
    ("http", "httptools", "httptools", "httptools"),
    ("http", "auto", "auto", "auto"),
    ("async_library", "trio", "trio", "trio"),
    ("server_header", "", "", ""),
    ("server_header", "me/1.0 (x)", "me/1.0 (x)", "me/1.0 (x)"),
    ("proxy_headers", "forwarded", "forwarded", "forwarded"),
    ("proxy_headers", "off", "off", "off"),
    ("date_header", False, "false", False),
    ("date_header", False, "0", False),
    ("date_header", False, "No", False),
    ("date_header", False, "OFF", False),
    ("date_header", True, "true", True),
    ("date_header", True, "1", True),
    ("date_header", True, "Yes", True),
    ("date_header", True, "on", True),
    ("half_close", "disconnect", "disconnect", "disconnect"),
    ("forwarded_host", True, "yes", True),
    ("forwarded_lists", True, "1", True),
    ("tls_key_password_file", "/run/secrets/key", "/run/secrets/key", "/run/secrets/key"),
    ("tls_key_password", " open sésame", " open sésame", " open sésame"),
    ("tls_key_password", "x" * 1024, "x" * 1024, "x" * 1024),
    ("health_path", "", "", ""),
    ("health_path", "/", "/", "/"),
    ("health_path", "/-/health%20z;a=b", "/-/health%20z;a=b", "/-/health%20z;a=b"),
    ("request_timeout", 30, "30", 30),
    ("stream_drain_delay", 2.5, "2.5", 2.5),
    ("pathsend", False, "off", False),
    ("zerocopysend", False, "0", False),
    ("early_hint", False, "no", False),
    ("trailers", False, "false", False),
    ("head_timeout", 0, "0", 0),
    ("head_timeout", 2.5, "2.5", 2.5),
    ("body_timeout", 7, "7", 7),
    ("write_timeout", 0.25, ".25", 0.25),
    ("lame_duck", 0, "0", 0),
    ("stall_warning", "auto", "auto", "auto"),
    ("stall_warning", 2.5, "2.5", 2.5),
    ("stall_warning", 0, "0", 0),
    ("limit_concurrency", 0, "0", 0),
    ("limit_concurrency", 1, "1", 1),
    ("metrics_bind", "127.0.0.1:9100", "127.0.0.1:9100", "127.0.0.1:9100"),
    ("metrics_bind", "[::1]:9100", "[::1]:9100", "[::1]:9100"),
    ("metrics_bind", "localhost:0", "localhost:0", "localhost:0"),
    ("metrics_bind", "unix:/run/numbers.sock", "unix:/run/numbers.sock", "unix:/run/numbers.sock"),
    ("metrics_bind", "", "", ""),
    ("statsd_interval", 0, "0", 0),
    ("ws", "none", "none", "none"),
    ("ws_per_message_deflate", False, "off", False),
    ("min_body_rate", 100_000, "100000", 100_000),
    ("min_read_rate", 4096, "4096", 4096),
    ("ws_max_queue", 1, "1", 1),
    ("ws_ping_interval", 0, "0", 0),
    ("ws_drain_delay", 0.5, "0.5", 0.5),
    ("lambda_response_mode", "streaming", "streaming", "streaming"),
    ("lambda_base_path", "", "", ""),
    ("lambda_base_path", "/", "/", "/"),
    ("lambda_base_path", "/shop/v1/", "/shop/v1/", "/shop/v1/"),
    ("lambda_text_types", "application/vnd.a+b", "application/vnd.a+b", "application/vnd.a+b"),
    ("lambda_text_types", "model/obj, Text/X", "model/obj, Text/X", "model/obj, Text/X"),
    ("lambda_event_function", "jobs.queue:on_event", "jobs.queue:on_event", "jobs.queue:on_event"),
]


@pytest.mark.parametrize(("name", "given", "text", "expected"), ALLOWED)
def test_an_option_is_the_same_from_the_configuration_and_from_the_environment(
    name: str, given: Any, text: str, expected: Any
) -> None:
    assert read_options({name: given}, {})[name] == expected
    value = read_options({}, {f"GUNICORN_ASGI_{name.upper()}": text})[name]
    assert value == expected
    assert isinstance(value, type(expected)) or isinstance(expected, int)


REFUSED: list[tuple[str, Any, str]] = [
    ("http", "h12", "h12"),
    ("http", None, ""),
    ("async_library", "curio", "curio"),
    ("http", 1, "AUTO"),
    ("server_header", 1, "a\nb"),
    ("server_header", " padded", "padded "),
    ("server_header", "ü", "ü"),
    ("server_header", "a\r\nb: c", "a\x00"),
    ("proxy_headers", True, "on"),
    ("proxy_headers", "Forwarded", "x-forwarded-for"),
    ("date_header", 1, "2"),
    ("date_header", "true", ""),
    ("half_close", True, "off"),
    ("forwarded_host", "host", "x-forwarded-host"),
    ("forwarded_lists", 1, "first"),
    ("tls_key_password_file", None, "\0"),
    ("tls_key_password", 1234, "é" * 513),
    ("health_path", None, "healthz"),
    ("health_path", b"/healthz", "/healthz?deep=1"),
    ("health_path", "/health z", "/healthz#a"),
    ("health_path", "/gesund\xfc", "/healthz\n"),
    ("request_timeout", -1, "1m"),
    ("stream_drain_delay", None, "-1"),
    ("pathsend", 0, "none"),
    ("early_hint", "off", "never"),
    ("head_timeout", -1, "-1"),
    ("head_timeout", "1", "soon"),
    ("head_timeout", True, "1s"),
    ("body_timeout", math.inf, "inf"),
    ("body_timeout", math.nan, "nan"),
    ("write_timeout", None, ""),
    ("stall_warning", "half", "half"),
    ("stall_warning", -1, "-1"),
    ("stall_warning", "5", "nan"),
    ("stall_warning", True, "true"),
    ("limit_concurrency", -1, "-1"),
    ("limit_concurrency", 1.0, "1.5"),
    ("limit_concurrency", True, "inf"),
    ("lame_duck", -0.1, "-0.1"),
    ("tls_handshake_timeout", -1, "never"),
    ("zerocopysend", 1, "2"),
    ("trailers", None, ""),
    ("metrics_bind", 9100, "9100"),
    ("metrics_bind", None, ":9100"),
    ("metrics_bind", "127.0.0.1", "localhost"),
    ("metrics_bind", "::1:9100", "[::1]"),
    ("metrics_bind", "unix:numbers.sock", "unix:"),
    ("metrics_bind", "127.0.0.1:65536", "127.0.0.1:-1"),
    ("metrics_bind", "http://127.0.0.1:9100", "a b:1"),
    ("statsd_interval", -1, "never"),
    ("ws", "websockets", "off"),
    ("ws_per_message_deflate", 1, "15"),
    ("min_body_rate", -1, "1.5"),
    ("min_read_rate", 4097, "4097"),
    ("ws_max_queue", 0, "0"),
    ("ws_max_queue", False, "none"),
    ("ws_ping_interval", None, "none"),
    ("ws_ping_timeout", -1, "-1"),
    ("ws_accept_timeout", "1", "1s"),
    ("ws_close_timeout", math.inf, "inf"),
    ("ws_max_lifetime", math.nan, "nan"),
    ("ws_drain_delay", True, "on"),
    ("lambda_response_mode", True, "stream"),
    ("lambda_base_path", None, "prod"),
    ("lambda_base_path", "/prod?", "https://a/prod"),
    ("lambda_text_types", ["text/x"], "text"),
    ("lambda_text_types", "*/*", "text/x;charset=utf-8"),
    ("lambda_event_function", None, "jobs"),
    ("lambda_event_function", "jobs:", "jobs:on event"),
]


@pytest.mark.parametrize(("name", "given", "text"), REFUSED)
def test_a_value_that_is_not_allowed_is_refused_with_name_value_and_what_is_allowed(
    name: str, given: Any, text: str
) -> None:
    option = next(option for option in OPTIONS if option.name == name)
    allowed, is_secret = option.allowed, option.is_secret
    shown = "it" if is_secret else repr(given)
    variable = f"GUNICORN_ASGI_{name.upper()}"
    with pytest.raises(ConfigError) as configured:
        read_options({name: given}, {})
    assert str(configured.value) == f"Invalid value for option {name}: {shown} must be {allowed}."
    with pytest.raises(ConfigError, match=f"option {variable}: ") as environment:
        read_options({}, {variable: text})
    assert str(environment.value).endswith(f" must be {allowed}.")
    # The value as it was written, or what it was read as.
    told = ["it"] if is_secret else [repr(text), text, f"{text}.0"]
    assert any(f": {value} must be " in str(environment.value) for value in told)


def of_stand_ins(name: str, value: object) -> object:
    return read_options({name: value}, {}, STAND_INS)[name]


def test_a_setting_of_http2_has_gunicorns_default_where_gunicorn_lacks_it() -> None:
    assert read_options({}, {}, STAND_INS) == {
        "http_protocols": "h1",
        "http2_cleartext": "off",
        "http2_max_concurrent_streams": 100,
        "http2_initial_window_size": 65535,
        "http2_max_frame_size": 16384,
        "http2_max_header_list_size": 65536,
    }


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("http2_max_concurrent_streams", 1, 2**32 - 1),
        ("http2_initial_window_size", 1, 2**31 - 1),
        ("http2_max_frame_size", 2**14, 2**24 - 1),
        ("http2_max_header_list_size", 0, 2**32 - 1),
    ],
)
def test_a_number_of_http2_has_its_bounds_where_gunicorn_lacks_it(
    name: str,
    least: int,
    most: int,
) -> None:
    """RFC 9113, 6.5.2."""
    assert [of_stand_ins(name, value) for value in (least, most)] == [least, most]
    for value in (least - 1, most + 1, float(most), True, str(most)):
        with pytest.raises(ConfigError, match=f"^Invalid value for option {name}: .*an integer, "):
            of_stand_ins(name, value)


@pytest.mark.parametrize("value", ["h1", "h2", "h1,h2", "h2, h1", ["h2"], ("h2", "h1")])
def test_the_versions_of_http_are_one_or_both_where_gunicorn_lacks_the_setting(value: Any) -> None:
    assert of_stand_ins("http_protocols", value) == value


@pytest.mark.parametrize("value", ["", "h3", "h1,h3", "h1,h1", "h1,", [], ["h1", "h1"], None, 1])
def test_other_versions_of_http_are_refused_where_gunicorn_lacks_the_setting(value: Any) -> None:
    with pytest.raises(ConfigError, match="must be h1, h2, or both with a comma between them"):
        of_stand_ins("http_protocols", value)


@pytest.mark.parametrize("value", ["off", "prior-knowledge", "upgrade", "both"])
def test_http2_without_tls_begins_in_one_of_four_ways_where_gunicorn_lacks_it(value: str) -> None:
    assert of_stand_ins("http2_cleartext", value) == value
    with pytest.raises(ConfigError, match="one of off, prior-knowledge, upgrade, both"):
        of_stand_ins("http2_cleartext", value.upper())


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("htp", "http"),
        ("server_headr", "server_header"),
        ("header_timeout", "head_timeout"),
        ("HTTP", "http"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest_known_name(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_options({name: "x"}, {})
    assert (
        str(caught.value)
        == f"Unknown option {name!r} in Worker.configure(); the nearest known name is {nearest}."
    )


@pytest.mark.parametrize("name", ["websocket_max_message_size", "keepalive", "Timeout"])
def test_a_setting_of_gunicorn_that_is_given_as_an_option_is_called_that(name: str) -> None:
    variable = f"GUNICORN_ASGI_{name.upper()}"
    why = f"{name.lower()} is a setting of Gunicorn, to be given as those are."
    with pytest.raises(ConfigError) as configured:
        read_options({name: 3}, {})
    assert str(configured.value) == f"Unknown option {name!r} in Worker.configure(): {why}"
    with pytest.raises(ConfigError) as environment:
        read_options({}, {variable: "3"})
    assert str(environment.value) == f"Unknown option {variable} in the environment: {why}"


def test_who_turns_http2_on_as_elsewhere_is_told_how_it_is_here() -> None:
    why = "; HTTP/2 is turned on by http_protocols (docs/http2.md)."
    with pytest.raises(ConfigError) as configured:
        read_options({"http2": True}, {})
    assert str(configured.value) == f"Unknown option 'http2' in Worker.configure(){why}"
    with pytest.raises(ConfigError) as environment:
        read_options({}, {"GUNICORN_ASGI_HTTP2": "1"})
    assert str(environment.value) == f"Unknown option GUNICORN_ASGI_HTTP2 in the environment{why}"


def test_an_unknown_variable_with_our_prefix_is_refused_with_the_nearest_known_name() -> None:
    with pytest.raises(ConfigError) as caught:
        read_options({}, {"GUNICORN_ASGI_HTPP": "h11", "GUNICORN_CMD_ARGS": "", "PATH": "/bin"})
    assert (
        str(caught.value)
        == "Unknown option GUNICORN_ASGI_HTPP in the environment; the nearest known name is GUNICORN_ASGI_HTTP."
    )


def test_the_environment_wins_over_the_configuration() -> None:
    assert (
        read_options({"http": "httptools", "head_timeout": 1}, {"GUNICORN_ASGI_HTTP": "h11"})[
            "http"
        ]
        == "h11"
    )


def test_a_bad_configured_value_is_refused_also_where_the_environment_wins() -> None:
    with pytest.raises(ConfigError):
        read_options({"http": "h12"}, {"GUNICORN_ASGI_HTTP": "h11"})


def test_configure_returns_a_subclass_that_adds_its_options_to_those_of_its_base() -> None:
    first = Worker.configure(http="h11", date_header=False)
    second = first.configure(date_header=True, head_timeout=3)
    assert issubclass(second, first)
    assert issubclass(first, Worker)
    assert second.__name__ == "Worker"
    assert Worker.options == {}
    assert first.options == {"http": "h11", "date_header": False}
    assert second.options == {"http": "h11", "date_header": True, "head_timeout": 3}


# Settings.


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match=r"Settings\.http cannot be changed"):
        read().http = "h11"  # type: ignore[misc]


def test_an_extension_that_is_switched_off_is_told_with_its_option() -> None:
    assert read().switched_off == {}
    off = read({"pathsend": False}, {"GUNICORN_ASGI_TRAILERS": "off"}).switched_off
    assert off == {
        "http.response.pathsend": "it is switched off by the option pathsend",
        "http.response.trailers": "it is switched off by the option trailers",
    }


def test_the_options_of_lambda_are_read_into_what_the_worker_uses() -> None:
    result = read(
        {
            "lambda_response_mode": "streaming",
            "lambda_base_path": "/shop/",
            "lambda_text_types": "model/obj, ,Text/X,",
        }
    )
    assert (result.lambda_streams, result.lambda_base_path) == (True, "/shop")
    assert result.lambda_text_types == {"model/obj", "text/x"}
    default = read()
    assert (default.lambda_streams, default.lambda_base_path) == (False, "auto")
    assert default.lambda_text_types == frozenset()


def test_no_timeout_is_infinity() -> None:
    options = {"head_timeout": 0, "body_timeout": 0, "write_timeout": 0}
    result = read(options)
    assert (result.head_timeout_s, result.body_timeout_s, result.write_timeout_s) == (
        math.inf,
        math.inf,
        math.inf,
    )


@pytest.mark.parametrize(
    ("option", "timeout", "expected"),
    [
        ("auto", 30, 15),
        ("auto", 1, 0.5),
        ("auto", 0, math.inf),
        (0, 30, math.inf),
        (5, 30, 5),
        (5, 0, 5),
    ],
)
def test_the_warning_of_a_stall_comes_at_half_of_timeout_unless_it_is_given(
    option: Any, timeout: int, expected: float
) -> None:
    assert read({"stall_warning": option}, timeout=timeout).stall_warning_s == expected


def test_settings_of_gunicorn_are_taken_over() -> None:
    result = read(
        backlog=7,
        forwarded_allow_ips="10.0.0.1,::1",
        forwarder_headers="Script_Name,PATH_INFO",
        graceful_timeout=11,
        header_map="refuse",
        keepalive=13,
        permit_unconventional_http_method=True,
        secure_scheme_headers={"X-Forwarded-Proto": "https"},
    )
    assert result.backlog == 7
    assert result.forwarded_allow_ips == ("10.0.0.1", "::1")
    assert result.forwarder_headers == {b"script_name", b"path_info"}
    assert result.graceful_timeout_s == 11
    assert result.header_map == "refuse"
    assert result.keepalive_s == 13
    assert result.permit_unconventional_http_method
    assert result.secure_scheme_headers == {b"x-forwarded-proto": b"https"}


@pytest.mark.parametrize("name", NEWER_DEFAULTS)
def test_a_gunicorn_that_lacks_a_setting_gets_the_default_of_the_newest(name: str) -> None:
    cfg = Config()

    def attributes() -> dict[str, object]:
        settings = Settings.read(cfg, {}, {})
        return {**vars(settings), "websocket": vars(settings.websocket)}

    newest = attributes()
    if name in cfg.settings:
        assert cfg.settings[name].default == NEWER_DEFAULTS[name]
        del cfg.settings[name]
    assert attributes() == newest


@pytest.mark.skipif("root_path" not in SETTINGS, reason="this Gunicorn has no root_path")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ""),
        ("", ""),
        ("/", ""),
        ("//", ""),
        ("/api", "/api"),
        ("/api/v1/", "/api/v1"),
        ("api", "/api"),
        ("api/v1/", "/api/v1"),
        ("/a b", "/a%20b"),
        ("/a%20b", "/a%20b"),
        ("/100%", "/100%25"),
        ("/a%2Fb", "/a%2Fb"),
        ("/caf\xe9", "/caf%C3%A9"),
        ("/\udcff", "/%FF"),  # no UTF-8, on the command line
        ("/a;b=c,(d)~e", "/a;b=c,(d)~e"),
    ],
)
def test_root_path_begins_with_a_slash_and_ends_without(given: str | None, expected: str) -> None:
    assert read(root_path=given).root_path == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", None),
        ("/", b"/"),
        ("/app", b"/app"),
        ("/app/", b"/app/"),
        ("app", b"/app"),
        ("/%C3%A9", b"/%C3%A9"),
    ],
)
def test_script_name_in_the_environment_gets_a_slash(given: str, expected: bytes | None) -> None:
    assert read(environment={"SCRIPT_NAME": given}).script_name == expected
    assert read().script_name is None


NO_PATHS = ["/app?a", "/app#a", "/a b", "/caf\xe9", "/\udcff", "/a\nb", "http://a/app"]


@pytest.mark.parametrize("given", NO_PATHS)
def test_a_script_name_that_no_path_can_begin_with_stops_the_boot(given: str) -> None:
    """Otherwise each request would get a 500."""
    with pytest.raises(ConfigError) as caught:
        read(environment={"SCRIPT_NAME": given})
    what = f"Invalid value for SCRIPT_NAME in the environment: {given!r}"
    why = "must be a path as in a request, such as /app or /caf%C3%A9."
    assert str(caught.value) == f"{what} {why}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0, 0),
        (1, 1),
        (4094, 4094),
        (8189, 8189),
        (8190, message.MAX_REQUEST_LINE),
        (100000, message.MAX_REQUEST_LINE),
    ],
)
def test_limit_request_line_has_gunicorns_bound(given: int, expected: int) -> None:
    assert read(limit_request_line=given).limit_request_line == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [(0, message.MAX_HEADERS), (1, 1), (32768, 32768), (32769, message.MAX_HEADERS)],
)
def test_limit_request_fields_has_gunicorns_bound(given: int, expected: int) -> None:
    assert read(limit_request_fields=given).limit_request_fields == expected


@pytest.mark.parametrize(
    ("given", "expected"), [(0, message.DEFAULT_MAX_HEADERFIELD_SIZE), (1, 1), (100000, 100000)]
)
def test_limit_request_field_size_has_gunicorns_bound(given: int, expected: int) -> None:
    assert read(limit_request_field_size=given).limit_request_field_size == expected


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """As if `module` was not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == module else find(name, *rest),
    )


@pytest.mark.skipif("asgi_loop" not in SETTINGS, reason="this Gunicorn has no asgi_loop")
def test_the_loop_is_uvloop_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvloop")
    assert read().asgi_loop == read(asgi_loop="uvloop").asgi_loop == "uvloop"
    assert read(asgi_loop="asyncio").asgi_loop == "asyncio"
    without(monkeypatch, "uvloop")
    assert read().asgi_loop == "asyncio"
    with pytest.raises(
        ConfigError, match="asgi_loop: 'uvloop' is not installed; allowed here are asyncio and auto"
    ):
        read(asgi_loop="uvloop")


def test_the_parser_is_httptools_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser, "available", lambda: "httptools")
    assert read().http == "httptools"
    assert read({"http": "h11"}).http == "h11"
    assert read({"http": "httptools"}).http == "httptools"
    monkeypatch.setattr(parser, "available", lambda: "h11")
    assert read().http == "h11"
    with pytest.raises(
        ConfigError,
        match="option http: 'httptools' is not installed; allowed here are h11 and auto",
    ):
        read({"http": "httptools"})


def test_every_duration_has_its_unit_in_its_name() -> None:
    names = [
        name
        for name in Settings.defaults
        if "timeout" in name or "grace" in name or "keepalive" in name
    ]
    assert names
    assert all(name.endswith("_s") for name in names)


# From the outside of a running Gunicorn.


def parser_of(server: Gunicorn) -> str:
    found = re.search(r"parser (\w+)", server.wait_for("gunicorn_asgi .* on Gunicorn")[0])
    assert found is not None
    return found[1]


@pytest.mark.gunicorn
def test_configure_in_the_configuration_file_reaches_the_worker(tmp_path: Path) -> None:
    with Gunicorn(
        tmp_path, options={"http": "h11", "server_header": "mine", "date_header": False}
    ) as server:
        assert parser_of(server) == "h11"
        headers = server.get("/hello").headers
        assert headers["server"] == "mine"
        assert "date" not in headers
        assert server.stop() == 0


@pytest.mark.gunicorn
def test_an_option_in_the_environment_reaches_the_worker_and_wins(tmp_path: Path) -> None:
    env = {"GUNICORN_ASGI_HTTP": "h11", "GUNICORN_ASGI_SERVER_HEADER": ""}
    with Gunicorn(tmp_path, env=env, options={"http": "auto", "server_header": "mine"}) as server:
        assert parser_of(server) == "h11"
        assert "server" not in server.get("/hello").headers


@pytest.mark.gunicorn
def test_an_option_given_with_env_on_the_command_line_reaches_the_worker_and_wins(
    tmp_path: Path,
) -> None:
    args = ("--env", "GUNICORN_ASGI_HTTP=h11", "--env", "GUNICORN_ASGI_SERVER_HEADER=theirs")
    env = {"GUNICORN_ASGI_SERVER_HEADER": "ours"}
    with Gunicorn(tmp_path, args=args, env=env, options={"http": "auto"}) as server:
        assert parser_of(server) == "h11"
        assert server.get("/hello").headers["server"] == "theirs"


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_the_worker_is_found_by_its_entry_point(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, worker_class="egg:gunicorn_asgi#main") as server:
        assert server.get("/hello").text == "hello\n"


@pytest.mark.gunicorn
def test_the_worker_is_found_by_its_name(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, worker_class="gunicorn_asgi.Worker") as server:
        assert server.get("/hello").text == "hello\n"


STOPS = [
    (
        {"options": {"htpp": "h11"}},
        "Unknown option 'htpp' in Worker.configure(); the nearest known name is http.",
    ),
    (
        {"options": {"http": "h12"}},
        "Invalid value for option http: 'h12' must be one of auto, httptools, h11.",
    ),
    (
        {"env": {"GUNICORN_ASGI_HEAD_TIME": "1"}},
        "Unknown option GUNICORN_ASGI_HEAD_TIME in the environment; the nearest known name is GUNICORN_ASGI_HEAD_TIMEOUT.",
    ),
    (
        {"env": {"GUNICORN_ASGI_DATE_HEADER": "maybe"}},
        "Invalid value for option GUNICORN_ASGI_DATE_HEADER: 'maybe' must be true or false.",
    ),
    (
        {"args": ("--env", "GUNICORN_ASGI_BODY_TIMEOUT=-1")},
        "Invalid value for option GUNICORN_ASGI_BODY_TIMEOUT: -1.0 must be a number of seconds, 0 for no limit.",
    ),
]


@pytest.mark.gunicorn
@pytest.mark.parametrize(
    ("given", "sentence"), STOPS, ids=["unknown", "value", "variable", "variable value", "--env"]
)
def test_a_bad_option_stops_the_boot_with_one_sentence(
    tmp_path: Path, given: dict[str, Any], sentence: str
) -> None:
    with Gunicorn(tmp_path, wait=False, **given) as server:
        assert server.wait() == 1
        errors = server.lines(r"\[(WARNING|ERROR|CRITICAL)\]")
        assert len(errors) == 1
        assert errors[0].endswith(f"[ERROR] {sentence}")
        assert "Traceback" not in server.log + server.output
        assert server.workers() == []


@pytest.mark.gunicorn
def test_an_option_that_became_bad_before_a_hup_is_said_and_does_not_end_the_master(
    tmp_path: Path,
) -> None:
    # The master checks at boot only: here it is the new worker that finds it.
    with Gunicorn(tmp_path) as server:
        server.configure(raw_env=["GUNICORN_ASGI_HTTP=h12"])
        server.kill(signal.SIGHUP)
        server.wait_for(
            r"\[ERROR\] Invalid value for option GUNICORN_ASGI_HTTP: 'h12' must be one of auto, httptools, h11\.$",
            2,
        )
        assert server.running
        assert "Traceback" not in server.log + server.output


def test_what_kubernetes_says_of_a_service_of_this_name_is_no_option() -> None:
    environment = {
        "GUNICORN_ASGI_SERVICE_HOST": "10.0.0.1",
        "GUNICORN_ASGI_SERVICE_PORT": "80",
        "GUNICORN_ASGI_SERVICE_PORT_HTTP": "80",
        "GUNICORN_ASGI_PORT": "tcp://10.0.0.1:80",
        "GUNICORN_ASGI_PORT_80_TCP": "tcp://10.0.0.1:80",
        "GUNICORN_ASGI_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert read_options({}, environment) == read_options({}, {})
    with pytest.raises(ConfigError, match="GUNICORN_ASGI_PORTS"):
        read_options({}, {"GUNICORN_ASGI_PORTS": "1"})
