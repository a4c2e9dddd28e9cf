"""The values of options, from ``Worker.configure()`` and the environment.

The environment wins, as Gunicorn's own variable does over its configuration file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gunicorn.config import KNOWN_SETTINGS

from ..errors import ConfigError
from .gunicorn_settings import NEWER_DEFAULTS
from .options import OPTIONS
from .rows import ENVIRONMENT_PREFIX, Option

KUBERNETES = (
    ENVIRONMENT_PREFIX
    + r"(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""Variables set by Kubernetes for a Service called gunicorn-asgi. They are no options."""


def read_options(
    configured: Mapping[str, Any],
    environment: Mapping[str, str],
    options: Sequence[Option] = OPTIONS,
) -> dict[str, Any]:
    """Return the value of each of `options`, by name.

    Raises ConfigError for an unknown name, and for a value that is not allowed.
    """
    return {
        **{option.name: option.default for option in options},
        **_read_configured(configured, {option.name: option for option in options}),
        **_read_environment(environment, {option.variable: option for option in options}),
    }


def _read_configured(values: Mapping[str, Any], known: Mapping[str, Option]) -> dict[str, Any]:
    for name, value in values.items():
        if name not in known:
            hint = _name_nearest(name, known)
            raise ConfigError(f"Unknown option {name!r} in Worker.configure(){hint}.")
        _check(known[name], value, name)
    return dict(values)


def _read_environment(texts: Mapping[str, str], known: Mapping[str, Option]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, text in texts.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or re.fullmatch(KUBERNETES, variable):
            continue
        if variable not in known:
            hint = _name_nearest(variable, known)
            raise ConfigError(f"Unknown option {variable} in the environment{hint}.")
        option = known[variable]
        try:
            value = option.parse(text)
        except ValueError:
            value = text
        _check(option, value, variable)
        values[option.name] = value
    return values


def _check(option: Option, value: object, name: str) -> None:
    if not option.check(value):
        shown = "it" if option.is_secret else repr(value)
        raise ConfigError(f"Invalid value for option {name}: {shown} must be {option.allowed}.")


def _name_nearest(name: str, known: Mapping[str, object]) -> str:
    """Return the end of the sentence about an unknown `name`: the probable remedy."""
    is_variable = name.startswith(ENVIRONMENT_PREFIX)
    setting = name.removeprefix(ENVIRONMENT_PREFIX).lower()
    if setting in NEWER_DEFAULTS or any(setting == each.name for each in KNOWN_SETTINGS):
        return f": {setting} is a setting of Gunicorn, to be given as those are"
    if setting == "http2":
        return "; HTTP/2 is turned on by http_protocols (docs/http2.md)"
    import difflib  # noqa: PLC0415 # for mistakes only

    by_case = {other.lower(): other for other in known}
    # Variables have their prefix in common, so they have to be more alike.
    cutoff = 0.7 if is_variable else 0.4
    near = difflib.get_close_matches(name.lower(), by_case, n=1, cutoff=cutoff)
    if near:
        return f"; the nearest known name is {by_case[near[0]]}"
    return "; known are " + ", ".join(known)
