"""Every setting and option, read once into one frozen object with the units in its names.

Two sources: Gunicorn's own settings, wherever one says the same, and the options of this package for what Gunicorn has no setting
for. Options come from ``Worker.configure(...)`` or from the environment, which wins, as with Gunicorn's own ``GUNICORN_CMD_ARGS``.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict
from urllib.parse import quote

from gunicorn.config import KNOWN_SETTINGS

from ..errors import ConfigError
from ..http1 import parser
from ..websocket.state import WebSocketLimits
from . import checks

if TYPE_CHECKING:
    from gunicorn.config import Config

ENVIRONMENT_PREFIX = "GUNICORN_ASGI_"
KUBERNETES = re.compile(
    ENVIRONMENT_PREFIX
    + r"(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes puts into the environment for a Service that is called gunicorn-asgi: no options of ours."""


@dataclass(frozen=True)
class Option:
    """One option of this package. This list is the only place that documents them; README and types are checked against it."""

    name: str
    default: bool | float | str
    parse: Callable[[str], bool | float | str]
    """From the environment's string; raises ValueError."""
    allowed: str
    """What is allowed, for people: completes the sentence "must be ..."."""
    check: Callable[[Any], bool]
    help: str

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return ENVIRONMENT_PREFIX + self.name.upper()


def _parse_bool(text: str) -> bool:
    try:
        return {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def _parse_auto_or_seconds(text: str) -> float | str:
    return text if text == "auto" else float(text)


def _is_seconds(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_header_value(value: object) -> bool:
    return (
        isinstance(value, str)
        and value.isascii()
        and (value == "" or value.isprintable())
        and value == value.strip()
    )


def _choice(name: str, default: str, choices: tuple[str, ...], help_: str) -> Option:
    return Option(
        name, default, str, "one of " + ", ".join(choices), lambda value: value in choices, help_
    )


def _seconds(name: str, default: float, help_: str, zero: str = ", 0 for no limit") -> Option:
    return Option(name, default, float, "a number of seconds" + zero, _is_seconds, help_)


def _count(name: str, default: int, help_: str, least: int = 0, most: float = math.inf) -> Option:
    allowed = (
        f"an integer, {least} or more" if most == math.inf else f"an integer, {least} to {most}"
    )
    return Option(
        name,
        default,
        int,
        allowed,
        lambda value: _is_count(value) and least <= value <= most,
        help_,
    )


def _switch(name: str, default: bool, help_: str) -> Option:
    return Option(
        name, default, _parse_bool, "true or false", lambda value: isinstance(value, bool), help_
    )


RESPONSE_EXTENSIONS = {
    "pathsend": (
        "Whether files may be sent by their path (`http.response.pathsend`). Switch it off for "
        "middleware that reads the body of every response: "
        "see [extensions](docs/extensions.md#switching-an-extension-off)."
    ),
    "zerocopysend": "Whether open files may be sent (`http.response.zerocopysend`).",
    "early_hint": (
        "Whether early hints (103) may be sent (`http.response.early_hint`). Switch it off for a "
        "proxy that takes them for the response, as "
        "[nginx 1.22](docs/extensions.md#early-hints-httpresponseearly_hint) does for its HTTP/2 "
        "clients."
    ),
    "trailers": "Whether responses may have trailers (`http.response.trailers`).",
}
"""The options that switch an extension of a response off, with their help.

The extension's name is ``http.response.`` and that of the option.
"""

OPTIONS = (
    _choice(
        "http",
        "auto",
        ("auto", "httptools", "h11"),
        "The parser of HTTP/1.1 header fields. `auto` is httptools where it is installed, otherwise h11. Both accept and refuse the same requests.",
    ),
    Option(
        "server_header",
        "gunicorn",
        str,
        "printable ASCII text, empty for no header",
        _is_header_value,
        "The `server` header of responses that do not bring their own; empty for none.",
    ),
    _choice(
        "proxy_headers",
        "x-forwarded",
        ("x-forwarded", "forwarded", "off"),
        "What of a trusted proxy tells the client's address: `x-forwarded` is `X-Forwarded-For`; `forwarded` is `Forwarded` (RFC 7239), which also tells the scheme. With `off`, that stays the connection's peer, and a `SCRIPT_NAME` header is no `root_path`.",
    ),
    _switch(
        "date_header",
        True,
        "Whether responses that do not bring their own get a `date` header (RFC 9110, 6.6.1).",
    ),
    _seconds(
        "lame_duck",
        0.3,
        "Seconds that idle keep-alive connections stay open when a worker stops. A request that comes in this time is answered with `Connection: close`, instead of being lost to a connection closed under it.",
        zero=", 0 or more",
    ),
    _seconds(
        "head_timeout",
        10.0,
        "Seconds for the head of a request to arrive, from its first byte, or from the connection for the first one. Then 408, or silence if nothing came.",
    ),
    _seconds(
        "tls_handshake_timeout",
        10.0,
        "Seconds for the TLS handshake. Then the connection is closed.",
    ),
    _count(
        "limit_concurrency",
        0,
        "Requests whose application runs at the same time in one worker, 0 for no limit. Those above it are answered with 503 and `Retry-After: 1`. (`worker_connections` limits connections, and lets what is above it wait.)",
    ),
    _seconds(
        "body_timeout",
        30.0,
        "Seconds without a byte of a request's body while the application waits for it. Then 408, or an abort if the response has begun.",
    ),
    _seconds(
        "write_timeout",
        60.0,
        "Seconds without any progress while the client does not read its response. Then the connection is reset.",
    ),
    _choice(
        "half_close",
        "serve",
        ("serve", "disconnect"),
        "What a client means that closes its sending side (a FIN) after a whole request, over "
        "HTTP/1 without TLS. `serve`: it reads on, and gets its response. `disconnect`: it has "
        "gone, as over TLS and HTTP/2; see "
        "[behaviour](docs/behaviour.md#when-the-client-goes-away).",
    ),
    *(_switch(name, True, help_) for name, help_ in RESPONSE_EXTENSIONS.items()),
    Option(
        "stall_warning",
        "auto",
        _parse_auto_or_seconds,
        "a number of seconds, 0 for none, or auto",
        lambda value: value == "auto" or _is_seconds(value),
        "Seconds without a turn of the event loop after which a warning shows the code that holds it. `auto` is half of `timeout`.",
    ),
    _choice(
        "ws",
        "auto",
        ("auto", "none"),
        "Whether WebSockets are served. With `none`, the handshake of one is an ordinary request, and its `Upgrade` is ignored.",
    ),
    _switch(
        "ws_per_message_deflate",
        True,
        "Whether messages of 64 bytes and more are compressed where the client offers it (RFC 7692). A connection that uses it takes 40 to 80 KiB more memory.",
    ),
    _count(
        "ws_max_queue",
        32,
        "Messages that wait for the application, or as many as have 64 KiB, from which on no more are read from the client.",
        least=1,
    ),
    _seconds(
        "ws_ping_interval",
        20.0,
        "Seconds between two pings, which keep proxies from closing an idle WebSocket, and find out whether the client is there.",
        zero=", 0 for no pings",
    ),
    _seconds(
        "ws_ping_timeout",
        20.0,
        "Seconds after a ping in which something must come from the client, a pong or anything else. Then the WebSocket is closed with 1011.",
    ),
    _seconds(
        "ws_accept_timeout",
        30.0,
        "Seconds that the application has to accept or deny a WebSocket. Then the handshake is answered with 500.",
    ),
    _seconds(
        "ws_close_timeout",
        10.0,
        "Seconds that the client has to answer when this side closes a WebSocket. Then its connection is closed all the same.",
    ),
    _seconds("ws_max_lifetime", 0.0, "Seconds after which a WebSocket is closed with 1001."),
    _seconds(
        "ws_drain_delay",
        0.0,
        "Seconds from the moment that a worker is to stop until its WebSockets are closed with 1012, at most half of `graceful_timeout`.",
        zero=", 0 or more",
    ),
)
"""All options, in the order of the README."""


def _protocols(text: object) -> tuple[str, ...]:
    """The versions of HTTP in ``http_protocols``, in their order; empty for what is none."""
    names = [name.strip() for name in text.split(",")] if isinstance(text, str) else text
    if (
        not isinstance(names, (list, tuple))
        or not names
        or not all(name in ("h1", "h2") for name in names)
        or len(set(names)) < len(names)
    ):
        return ()
    return tuple(names)


MAX_WINDOW, MAX_FRAME, MAX_SETTING = 2**31 - 1, 2**24 - 1, 2**32 - 1
"""RFC 9113, 6.5.1 and 6.5.2: what there is room for in SETTINGS."""

STAND_INS = (
    Option(
        "http_protocols",
        "h1",
        str,
        "h1, h2, or both with a comma between them",
        lambda value: len(_protocols(value)) > 0,
        "The versions of HTTP that are served, and preferred in this order.",
    ),
    _choice(
        "http2_cleartext",
        "off",
        ("off", "prior-knowledge", "upgrade", "both"),
        "How HTTP/2 may begin without TLS, for peers in `forwarded_allow_ips`.",
    ),
    _count(
        "http2_max_concurrent_streams",
        100,
        "Requests at once on a connection of HTTP/2.",
        least=1,
        most=MAX_SETTING,
    ),
    _count(
        "http2_initial_window_size",
        65535,
        "Bytes of a request's body that are taken before the application asks for them.",
        least=1,
        most=MAX_WINDOW,
    ),
    _count(
        "http2_max_frame_size",
        16384,
        "Bytes of the longest frame that is taken.",
        least=16384,
        most=MAX_FRAME,
    ),
    _count(
        "http2_max_header_list_size",
        65536,
        "Bytes of all header fields of a request.",
        most=MAX_SETTING,
    ),
)
"""Settings of newer Gunicorns, as options on one that lacks them: without these, there would be no HTTP/2."""


class Options(TypedDict, total=False):
    """The options as ``Worker.configure()`` takes them, for type checkers. Documented in `OPTIONS`."""

    http: Literal["auto", "httptools", "h11"]
    server_header: str
    proxy_headers: Literal["x-forwarded", "forwarded", "off"]
    date_header: bool
    lame_duck: float
    head_timeout: float
    tls_handshake_timeout: float
    limit_concurrency: int
    body_timeout: float
    write_timeout: float
    half_close: Literal["serve", "disconnect"]
    pathsend: bool
    zerocopysend: bool
    early_hint: bool
    trailers: bool
    stall_warning: float | Literal["auto"]
    ws: Literal["auto", "none"]
    ws_per_message_deflate: bool
    ws_max_queue: int
    ws_ping_interval: float
    ws_ping_timeout: float
    ws_accept_timeout: float
    ws_close_timeout: float
    ws_max_lifetime: float
    ws_drain_delay: float
    # With a Gunicorn that has no settings of these names.
    http_protocols: str
    http2_cleartext: Literal["off", "prior-knowledge", "upgrade", "both"]
    http2_max_concurrent_streams: int
    http2_initial_window_size: int
    http2_max_frame_size: int
    http2_max_header_list_size: int


def read_options(
    configured: Mapping[str, Any],
    environment: Mapping[str, str],
    options: Sequence[Option] = OPTIONS,
) -> dict[str, Any]:
    """All `options` with their values: the default, or what was configured, or what the environment says.

    Raises ConfigError for a name that is none, and for a value that is not allowed.
    """
    known = {option.name: option for option in options}
    variables = {option.variable: option for option in options}
    values: dict[str, Any] = {option.name: option.default for option in options}
    for name, value in configured.items():
        if name not in known:
            raise ConfigError(
                f"Unknown option {name!r} in Worker.configure(){_nearest(name, known)}."
            )
        values[name] = _checked(known[name], value, name)
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or KUBERNETES.fullmatch(variable):
            continue
        if variable not in variables:
            raise ConfigError(
                f"Unknown option {variable} in the environment{_nearest(variable, variables)}."
            )
        option = variables[variable]
        try:
            value = option.parse(text)
        except ValueError:
            value = text
        values[option.name] = _checked(option, value, variable)
    return values


def _nearest(name: str, known: Mapping[str, object]) -> str:
    setting = name.removeprefix(ENVIRONMENT_PREFIX).lower()
    if setting in GUNICORN_DEFAULTS or any(setting == each.name for each in KNOWN_SETTINGS):
        return f": {setting} is a setting of Gunicorn, to be given as those are"
    by_case = {other.lower(): other for other in known}
    if setting == "http2":
        return "; HTTP/2 is turned on by http_protocols (docs/http2.md)"
    near = difflib.get_close_matches(
        name.lower(), by_case, n=1, cutoff=0.7 if name.startswith(ENVIRONMENT_PREFIX) else 0.4
    )
    if near:
        return f"; the nearest known name is {by_case[near[0]]}"
    return "; known are " + ", ".join(known)


def _checked(option: Option, value: object, name: str) -> object:
    if not option.check(value):
        raise ConfigError(f"Invalid value for option {name}: {value!r} must be {option.allowed}.")
    return value


# What newer Gunicorns have a setting for, with the default of the newest: what counts on one that lacks it.
GUNICORN_DEFAULTS: Mapping[str, Any] = {
    "asgi_loop": "auto",
    "asgi_lifespan": "auto",
    "asgi_disconnect_grace_period": 3,
    "root_path": "",
    "websocket_max_message_size": 16 * 1024 * 1024,
}

MAX_REQUEST_LINE = 8190  # Gunicorn's own bounds for its limit_request_*
MAX_REQUEST_FIELDS = 32768
MAX_HEADER_LIST = 16777216
"""For 0, no limit: everything that waits in memory has one. As much as Gunicorn's highest ``http2_max_frame_size``."""
DEFAULT_FIELD_SIZE = 8190


@dataclass(frozen=True)
class Settings:
    """All that this package reads of its configuration."""

    # Gunicorn's
    asgi_loop: Literal["asyncio", "uvloop"]
    asgi_lifespan: Literal["auto", "on", "off"]
    backlog: int
    disconnect_grace_s: float
    forwarded_allow_ips: tuple[str, ...]
    forwarder_headers: frozenset[bytes]
    graceful_timeout_s: float
    header_map: Literal["drop", "refuse", "dangerous"]
    http_protocols: tuple[str, ...]
    """``h1``, ``h2`` or both, in the order of preference."""
    http2_cleartext: Literal["off", "prior-knowledge", "upgrade", "both"]
    http2_initial_window_size: int
    http2_max_concurrent_streams: int
    http2_max_frame_size: int
    http2_max_header_list_size: int
    keepalive_s: float
    limit_request_field_size: int
    limit_request_fields: int
    limit_request_line: int
    permit_unconventional_http_method: bool
    proxy_allow_ips: tuple[str, ...]
    proxy_protocol: Literal["off", "v1", "v2", "auto"]
    root_path: str
    """As in a request: percent-encoded, with a slash in front and none at the end, or empty."""
    script_name: bytes | None
    """``SCRIPT_NAME`` of the environment."""
    secure_scheme_headers: Mapping[bytes, bytes]
    sendfile: bool
    """Files may go to a socket without passing through this process."""
    worker_connections: int
    workers: int
    # This package's
    body_timeout_s: float
    date_header: bool
    half_close: Literal["serve", "disconnect"]
    head_timeout_s: float
    http: Literal["httptools", "h11"]
    lame_duck_s: float
    limit_concurrency: float
    """Infinite for no limit."""
    proxy_headers: Literal["x-forwarded", "forwarded", "off"]
    server_header: str
    stall_warning_s: float
    switched_off: Mapping[str, str]
    """The extensions of a response that are not offered, each with the option that says so."""
    tls_handshake_timeout_s: float
    websocket: WebSocketLimits | None
    """None: they are not served."""
    write_timeout_s: float
    ws_drain_delay_s: float

    @property
    def http2(self) -> bool:
        """Whether HTTP/2 is served at all."""
        return "h2" in self.http_protocols

    @classmethod
    def read(
        cls, cfg: Config, configured: Mapping[str, Any], environment: Mapping[str, str]
    ) -> Settings:
        """Read Gunicorn's `cfg` and the options. Raises ConfigError."""

        stand_ins = [option for option in STAND_INS if option.name not in cfg.settings]
        options = read_options(configured, environment, (*OPTIONS, *stand_ins))

        def get(name: str) -> Any:
            if name in cfg.settings:
                return getattr(cfg, name)
            return options[name] if name in options else GUNICORN_DEFAULTS[name]

        checks.refuse(cfg)
        field_size, fields, line = (
            cfg.limit_request_field_size,
            cfg.limit_request_fields,
            cfg.limit_request_line,
        )
        return cls(
            asgi_loop=_choose_loop(get("asgi_loop")),
            asgi_lifespan=get("asgi_lifespan"),
            backlog=cfg.backlog,
            disconnect_grace_s=get("asgi_disconnect_grace_period"),
            forwarded_allow_ips=_as_tuple(cfg.forwarded_allow_ips),
            forwarder_headers=frozenset(
                name.lower().encode("latin-1") for name in cfg.forwarder_headers
            ),
            graceful_timeout_s=cfg.graceful_timeout,
            header_map=cfg.header_map,
            http_protocols=_choose_protocols(get("http_protocols")),
            http2_cleartext="off" if cfg.is_ssl else get("http2_cleartext"),
            http2_initial_window_size=_window(get("http2_initial_window_size")),
            http2_max_concurrent_streams=_sendable("http2_max_concurrent_streams", get),
            http2_max_frame_size=get("http2_max_frame_size"),
            http2_max_header_list_size=_sendable("http2_max_header_list_size", get)
            or MAX_HEADER_LIST,
            keepalive_s=cfg.keepalive,
            limit_request_field_size=field_size if field_size > 0 else DEFAULT_FIELD_SIZE,
            limit_request_fields=fields if 0 < fields <= MAX_REQUEST_FIELDS else MAX_REQUEST_FIELDS,
            limit_request_line=line if 0 <= line < MAX_REQUEST_LINE else MAX_REQUEST_LINE,
            proxy_allow_ips=_as_tuple(cfg.proxy_allow_ips),
            # A switch, before Gunicorn 24.1, of version 1.
            proxy_protocol={False: "off", True: "v1"}.get(cfg.proxy_protocol, cfg.proxy_protocol),
            permit_unconventional_http_method=cfg.permit_unconventional_http_method,
            root_path=_root_path(get("root_path") or ""),
            script_name=_script_name(environment.get("SCRIPT_NAME", "")),
            secure_scheme_headers={
                name.lower().encode("latin-1"): value.encode("latin-1")
                for name, value in cfg.secure_scheme_headers.items()
            },
            # Gunicorn's own reading takes True for False.
            sendfile=bool(
                cfg.sendfile
                if cfg.settings["sendfile"].get() is None
                else cfg.settings["sendfile"].get()
            ),
            workers=cfg.workers,
            worker_connections=cfg.worker_connections,
            body_timeout_s=_limit(options["body_timeout"]),
            date_header=options["date_header"],
            half_close=options["half_close"],
            head_timeout_s=_limit(options["head_timeout"]),
            http=_choose_parser(options["http"]),
            limit_concurrency=options["limit_concurrency"] or math.inf,
            lame_duck_s=options["lame_duck"],
            proxy_headers=options["proxy_headers"],
            server_header=options["server_header"],
            tls_handshake_timeout_s=_limit(options["tls_handshake_timeout"]),
            switched_off=_switched_off(options),
            stall_warning_s=_limit(
                cfg.timeout / 2 if options["stall_warning"] == "auto" else options["stall_warning"]
            ),
            websocket=_websocket_limits(options, get("websocket_max_message_size")),
            write_timeout_s=_limit(options["write_timeout"]),
            ws_drain_delay_s=options["ws_drain_delay"],
        )


def _switched_off(options: Mapping[str, Any]) -> dict[str, str]:
    return {f"http.response.{name}": name for name in RESPONSE_EXTENSIONS if not options[name]}


def _websocket_limits(options: Mapping[str, Any], max_message_size: int) -> WebSocketLimits | None:
    if options["ws"] == "none":
        return None
    return WebSocketLimits(
        max_message_size=max_message_size or math.inf,
        max_queue=options["ws_max_queue"],
        ping_interval_s=_limit(options["ws_ping_interval"]),
        ping_timeout_s=_limit(options["ws_ping_timeout"]),
        accept_timeout_s=_limit(options["ws_accept_timeout"]),
        close_timeout_s=_limit(options["ws_close_timeout"]),
        max_lifetime_s=_limit(options["ws_max_lifetime"]),
        deflate=options["ws_per_message_deflate"],
    )


def _limit(seconds: float) -> float:
    return float(seconds) or math.inf


def _choose_protocols(value: object) -> tuple[str, ...]:
    protocols = _protocols(value)
    if "h2" in protocols and importlib.util.find_spec("hpack") is None:
        # Newer Gunicorns look for themselves, and for the h2 package, which brings it.
        raise ConfigError(
            "Invalid value for setting http_protocols: h2 needs the hpack package; install gunicorn-asgi[http2]."
        )
    return protocols


def _window(size: int) -> int:
    if size < 1:
        raise ConfigError(
            f"Invalid value for setting http2_initial_window_size: {size} must be 1 or more: no request could have a body."
        )
    return size


def _sendable(name: str, get: Callable[[str], Any]) -> int:
    """The value of a setting that Gunicorn sets no bound to."""
    value = get(name)
    if value > MAX_SETTING:
        raise ConfigError(
            f"Invalid value for setting {name}: {value} must be {MAX_SETTING} or less: a client could not be told of it."
        )
    return int(value)


STRAY_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
PATH_CHARACTERS = "/%:@!$&'()*+,;="
"""RFC 3986, 3.3: what may stand in a path besides what `quote` never encodes."""
PRINTABLE = re.compile("[!-~]+")
"""ASCII, without the space."""


def _root_path(path: str) -> str:
    path = path.rstrip("/")
    if not path:
        return ""
    # What is encoded already stays as it is, so that it means here what it means in a request.
    path = STRAY_PERCENT.sub("%25", _with_slash(path))
    return quote(path, safe=PATH_CHARACTERS, errors="surrogateescape")


def _script_name(path: str) -> bytes | None:
    """``SCRIPT_NAME`` of the environment. Paths are compared with it as they were received."""
    if not path:
        return None
    if PRINTABLE.fullmatch(path) is None or checks.NO_PATH.search(path):
        what = f"Invalid value for SCRIPT_NAME in the environment: {path!r}"
        raise ConfigError(f"{what} must be a path as in a request, such as /app or /caf%C3%A9.")
    return _with_slash(path).encode()


def _with_slash(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


def _as_tuple(value: str | list[str]) -> tuple[str, ...]:
    return (
        tuple(item.strip() for item in value.split(",")) if isinstance(value, str) else tuple(value)
    )


def _choose_loop(name: str) -> Literal["asyncio", "uvloop"]:
    installed = importlib.util.find_spec("uvloop") is not None
    if name == "uvloop" and not installed:
        raise ConfigError(
            "Invalid value for setting asgi_loop: 'uvloop' is not installed; allowed here are asyncio and auto."
        )
    if name == "asyncio" or not installed or platform.python_implementation() != "CPython":
        return "asyncio"
    return "uvloop"


def _choose_parser(name: str) -> Literal["httptools", "h11"]:
    if name == "auto":
        name = parser.available()
    elif name == "httptools" and parser.available() != "httptools":
        raise ConfigError(
            "Invalid value for option http: 'httptools' is not installed; allowed here are h11 and auto."
        )
    return "httptools" if name == "httptools" else "h11"
