"""Gunicorn's settings, as far as this package reads them: listed here and nowhere else.

An older Gunicorn lacks some of them. Most then have the default of the newest Gunicorn. The
settings of HTTP/2 have a stand-in, an option of the same name: there would be no HTTP/2 otherwise.
"""

# No `from __future__ import annotations`: the annotations are the table, and are evaluated.

import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from ..errors import ConfigError
from ..frozen import Frozen
from .checks import refusal
from .rows import Option, Setting, choice, count, no_limit, read_rows

if TYPE_CHECKING:
    from gunicorn.config import Config

MAX_REQUEST_LINE = 8190
"""Gunicorn's upper bound for ``limit_request_line``."""
MAX_REQUEST_FIELDS = 32768
"""Gunicorn's upper bound for ``limit_request_fields``."""
DEFAULT_FIELD_SIZE = 8190
"""Gunicorn's default of ``limit_request_field_size``. 0 means the same."""
MAX_HEADER_LIST = 16777216
"""Gunicorn's highest ``http2_max_frame_size``, here in place of no limit, since memory has one."""
MAX_SETTING_VALUE = 2**32 - 1
"""RFC 9113, 6.5.1: the largest value in a SETTINGS frame."""
MAX_WINDOW_SETTING = 2**31 - 1
"""RFC 9113, 6.5.2, SETTINGS_INITIAL_WINDOW_SIZE."""
MAX_FRAME_SETTING = 2**24 - 1
"""RFC 9113, 6.5.2, SETTINGS_MAX_FRAME_SIZE."""
STRAY_PERCENT = "%(?![0-9A-Fa-f]{2})"
PATH_CHARACTERS = "/%:@!$&'()*+,;="
"""RFC 3986, 3.3: allowed in a path, besides the characters never encoded by `quote`."""


# From Gunicorn's value to the attribute.


def _names(value: Mapping[str, str] | list[str]) -> frozenset[bytes]:
    return frozenset(_name(name) for name in value)


def _name(text: str) -> bytes:
    return text.lower().encode("latin-1")


def _secure_schemes(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    return {_name(name): value.encode("latin-1") for name, value in headers.items()}


def _as_tuple(value: str | list[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(","))
    return tuple(value)


def _choose_loop(name: str) -> Literal["asyncio", "uvloop"]:
    if name == "asyncio":
        return "asyncio"
    installed = importlib.util.find_spec("uvloop") is not None
    if name == "uvloop" and not installed:
        raise refusal("asgi_loop", name, "is not installed; allowed here are asyncio and auto")
    return "uvloop" if installed and sys.implementation.name == "cpython" else "asyncio"


def _split_protocols(value: object) -> tuple[str, ...]:
    """Return the versions of HTTP in ``http_protocols``, in their order; () for any other value."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if (
        not isinstance(names, (list, tuple))
        or not all(name in ("h1", "h2") for name in names)
        or len(set(names)) < len(names)
    ):
        return ()
    return tuple(names)


def _choose_protocols(value: object) -> tuple[str, ...]:
    protocols = _split_protocols(value)
    if "h2" in protocols and importlib.util.find_spec("hpack") is None:
        # Newer Gunicorns look for the h2 package themselves. It installs hpack.
        raise ConfigError(
            "Invalid value for setting http_protocols: h2 needs the hpack package; "
            "install gunicorn-asgi[http2]."
        )
    return protocols


def _window(size: int) -> int:
    if size < 1:
        reason = "must be 1 or more: no request could have a body"
        raise refusal("http2_initial_window_size", size, reason)
    return size


def _sendable(name: str, if_0: int = 0) -> Callable[[int], int]:
    """The conversion of a setting sent to clients, for which Gunicorn has no upper bound."""

    def convert(value: int) -> int:
        if value > MAX_SETTING_VALUE:
            reason = f"must be {MAX_SETTING_VALUE} or less: a client could not be told of it"
            raise refusal(name, value, reason)
        return int(value) or if_0

    return convert


def _field_size(limit: int) -> int:
    return limit if limit > 0 else DEFAULT_FIELD_SIZE


def _field_count(limit: int) -> int:
    return limit if 0 < limit <= MAX_REQUEST_FIELDS else MAX_REQUEST_FIELDS


def _line_size(limit: int) -> int:
    return limit if 0 <= limit < MAX_REQUEST_LINE else MAX_REQUEST_LINE


def _proxy_protocol(value: bool | str) -> str:
    # Before Gunicorn 24.1, the setting is a switch of version 1.
    return value if isinstance(value, str) else "v1" if value else "off"


def _root_path(value: str | None) -> str:
    path = (value or "").rstrip("/")
    if not path:
        return ""
    # Encoded characters stay as they are, and so mean the same here as in a request.
    path = re.sub(STRAY_PERCENT, "%25", begin_with_slash(path))
    return quote(path, safe=PATH_CHARACTERS, errors="surrogateescape")


def begin_with_slash(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


class GunicornSettings(Frozen):
    """The attributes of `Settings` set by Gunicorn's settings.

    Names ending in ``_s`` are in seconds.
    """

    asgi_loop: Annotated[
        Literal["asyncio", "uvloop"], Setting("asgi_loop", _choose_loop, default="auto")
    ]
    asgi_lifespan: Annotated[Literal["auto", "on", "off"], Setting("asgi_lifespan", default="auto")]
    backlog: Annotated[int, Setting("backlog")]
    disconnect_grace_s: Annotated[float, Setting("asgi_disconnect_grace_period", default=3)]
    forwarded_allow_ips: Annotated[tuple[str, ...], Setting("forwarded_allow_ips", _as_tuple)]
    forwarder_headers: Annotated[frozenset[bytes], Setting("forwarder_headers", _names)]
    graceful_timeout_s: Annotated[float, Setting("graceful_timeout")]
    header_map: Annotated[Literal["drop", "refuse", "dangerous"], Setting("header_map")]
    http_protocols: Annotated[
        tuple[str, ...],
        Setting(
            "http_protocols",
            _choose_protocols,
            stand_in=Option(
                name="http_protocols",
                type=str,
                default="h1",
                parse=str,
                allowed="h1, h2, or both with a comma between them",
                check=lambda value: len(_split_protocols(value)) > 0,
                help="The versions of HTTP that are served, in the order of preference.",
            ),
        ),
    ]
    """``h1``, ``h2`` or both, in the order of preference."""
    http2_cleartext: Annotated[
        Literal["off", "prior-knowledge", "upgrade", "both"],
        Setting(
            "http2_cleartext",
            stand_in=choice(
                "http2_cleartext",
                "off",
                ("off", "prior-knowledge", "upgrade", "both"),
                "How HTTP/2 may begin without TLS, for peers in `forwarded_allow_ips`.",
            ),
        ),
    ]
    """``off`` with TLS, where the setting has no effect, as in Gunicorn."""
    http2_max_concurrent_streams: Annotated[
        int,
        Setting(
            "http2_max_concurrent_streams",
            _sendable("http2_max_concurrent_streams"),
            stand_in=count(
                "http2_max_concurrent_streams",
                100,
                "Requests at the same time on a connection of HTTP/2.",
                least=1,
                most=MAX_SETTING_VALUE,
            ),
        ),
    ]
    http2_initial_window_size: Annotated[
        int,
        Setting(
            "http2_initial_window_size",
            _window,
            stand_in=count(
                "http2_initial_window_size",
                65535,
                "Bytes of a request's body that are taken before the application asks for them.",
                least=1,
                most=MAX_WINDOW_SETTING,
            ),
        ),
    ]
    http2_max_frame_size: Annotated[
        int,
        Setting(
            "http2_max_frame_size",
            stand_in=count(
                "http2_max_frame_size",
                16384,
                "Bytes of the longest frame that is taken.",
                least=16384,
                most=MAX_FRAME_SETTING,
            ),
        ),
    ]
    http2_max_header_list_size: Annotated[
        int,
        Setting(
            "http2_max_header_list_size",
            _sendable("http2_max_header_list_size", if_0=MAX_HEADER_LIST),
            stand_in=count(
                "http2_max_header_list_size",
                65536,
                "Bytes of all header fields of a request.",
                most=MAX_SETTING_VALUE,
            ),
        ),
    ]
    keepalive_s: Annotated[float, Setting("keepalive")]
    limit_request_field_size: Annotated[int, Setting("limit_request_field_size", _field_size)]
    limit_request_fields: Annotated[int, Setting("limit_request_fields", _field_count)]
    limit_request_line: Annotated[int, Setting("limit_request_line", _line_size)]
    permit_unconventional_http_method: Annotated[bool, Setting("permit_unconventional_http_method")]
    proxy_allow_ips: Annotated[tuple[str, ...], Setting("proxy_allow_ips", _as_tuple)]
    proxy_protocol: Annotated[
        Literal["off", "v1", "v2", "auto"], Setting("proxy_protocol", _proxy_protocol)
    ]
    root_path: Annotated[str, Setting("root_path", _root_path, default="")]
    """Percent-encoded as in a request, with a slash at the beginning and none at the end."""
    secure_scheme_headers: Annotated[
        Mapping[bytes, bytes], Setting("secure_scheme_headers", _secure_schemes)
    ]
    websocket_max_message_size: Annotated[
        float, Setting("websocket_max_message_size", no_limit, default=16 * 1024 * 1024)
    ]
    """Bytes of a decompressed message."""
    worker_connections: Annotated[int, Setting("worker_connections")]
    workers: Annotated[int, Setting("workers")]


SETTING_ROWS = read_rows(GunicornSettings, Setting)
"""Every setting, by its attribute of `Settings`."""
STAND_INS = tuple(row.stand_in for row in SETTING_ROWS.values() if row.stand_in is not None)
"""Options in place of settings missing in an older Gunicorn."""
NEWER_DEFAULTS = {row.name: row.default for row in SETTING_ROWS.values() if row.default is not None}
"""Settings missing in an older Gunicorn, with the default of the newest."""


def missing_stand_ins(cfg: "Config") -> list[Option]:
    """Return the stand-ins for settings missing in this Gunicorn."""
    return [option for option in STAND_INS if option.name not in cfg.settings]


def read_gunicorn_settings(cfg: "Config", options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of `GunicornSettings`; `options` has the values of the stand-ins.

    Raises ConfigError.
    """

    def get(row: Setting) -> Any:
        if row.name in cfg.settings:
            return getattr(cfg, row.name)
        return options[row.name] if row.stand_in is not None else row.default

    attributes = {attribute: row.convert(get(row)) for attribute, row in SETTING_ROWS.items()}
    if cfg.is_ssl:
        attributes["http2_cleartext"] = "off"
    return attributes
