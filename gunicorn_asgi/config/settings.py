"""The configuration of a worker, read once into one frozen object with the units in its names.

Where Gunicorn has a setting, it is used. The options of this package cover the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..frozen import computed
from . import checks
from .gunicorn_settings import (
    GunicornSettings,
    begin_with_slash,
    missing_stand_ins,
    read_gunicorn_settings,
)
from .options import OPTION_ROWS, OPTIONS, OptionSettings
from .read_options import read_options

if TYPE_CHECKING:
    from gunicorn.config import Config

    from ..websocket.limits import WebSocketLimits

RESPONSE_EXTENSIONS = ("pathsend", "zerocopysend", "early_hint", "trailers")
"""Options for the extensions ``http.response.pathsend`` and so on."""
PRINTABLE = "[!-~]+"
"""ASCII, without the space."""


class Settings(GunicornSettings, OptionSettings):
    """The whole configuration of this package."""

    script_name: bytes | None
    """``SCRIPT_NAME`` of the environment. Request paths are compared with it as received."""
    sendfile: bool
    """Files may go to a socket without passing through this process."""

    # Made from the attributes above.
    http2: bool = computed(init=False)
    """HTTP/2 is served, at least in some way."""
    switched_off: Mapping[str, str] = computed(init=False)
    """The response extensions switched off by options, each with the reason for people."""
    websocket: WebSocketLimits | None = computed(init=False)
    """The limits of a WebSocket; None if WebSockets are not served."""

    def compute(self) -> Mapping[str, Any]:
        # Attributes and not properties, since requests read them.
        return {
            "http2": "h2" in self.http_protocols,
            "switched_off": {
                f"http.response.{name}": f"it is switched off by the option {name}"
                for name in RESPONSE_EXTENSIONS
                if not getattr(self, name)
            },
            "websocket": _websocket_limits(self) if self.ws != "none" else None,
        }

    @classmethod
    def read(
        cls, cfg: Config, configured: Mapping[str, Any], environment: Mapping[str, str]
    ) -> Settings:
        """Read Gunicorn's `cfg`, the options of ``configure()`` and the environment.

        Raises ConfigError for the first value that cannot work.
        """
        options = read_options(configured, environment, (*OPTIONS, *missing_stand_ins(cfg)))
        _refuse_two_passwords(options)
        checks.refuse(cfg)
        checks.refuse_options(cfg, options)
        return cls(
            **read_gunicorn_settings(cfg, options),
            **_convert_options(cfg, options),
            script_name=_read_script_name(environment.get("SCRIPT_NAME", "")),
            sendfile=_read_sendfile(cfg),
        )


def _refuse_two_passwords(options: Mapping[str, Any]) -> None:
    if options["tls_key_password"] and options["tls_key_password_file"]:
        raise ConfigError(
            "Both tls_key_password and tls_key_password_file are given; give one of these options."
        )


def _websocket_limits(settings: Settings) -> WebSocketLimits:
    from ..websocket.limits import WebSocketLimits  # noqa: PLC0415 # only where they are served

    return WebSocketLimits(
        max_message_size=settings.websocket_max_message_size,
        max_queue=settings.ws_max_queue,
        ping_interval_s=settings.ws_ping_interval_s,
        ping_timeout_s=settings.ws_ping_timeout_s,
        accept_timeout_s=settings.ws_accept_timeout_s,
        close_timeout_s=settings.ws_close_timeout_s,
        max_lifetime_s=settings.ws_max_lifetime_s,
        message_timeout_s=settings.ws_message_timeout_s,
        deflate=settings.ws_per_message_deflate,
    )


def _convert_options(cfg: Config, options: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(options)
    if values["stall_warning"] == "auto":
        values["stall_warning"] = cfg.timeout / 2
    return {attribute: row.convert(values[row.name]) for attribute, row in OPTION_ROWS.items()}


def _read_script_name(path: str) -> bytes | None:
    if not path:
        return None
    if re.fullmatch(PRINTABLE, path) is None or checks.NO_PATH.search(path):
        raise ConfigError(
            f"Invalid value for SCRIPT_NAME in the environment: {path!r} must be a path as in a "
            "request, such as /app or /caf%C3%A9."
        )
    return begin_with_slash(path).encode()


def _read_sendfile(cfg: Config) -> bool:
    """Return the setting itself if it was given: Gunicorn's attribute takes True for False."""
    given = cfg.settings["sendfile"].get()
    return bool(cfg.sendfile if given is None else given)
