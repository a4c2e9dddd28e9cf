"""Rows of the two tables of the configuration: an option of this package, a setting of Gunicorn.

The tables are `options.OptionSettings` and `gunicorn_settings.GunicornSettings`. Each line there is
an attribute of `Settings`, its type and its row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from ..frozen import Frozen
from .bind_address import is_bind, read_bind

ENVIRONMENT_PREFIX = "GUNICORN_ASGI_"


def unchanged(value: Any) -> Any:
    return value


class Option(Frozen):
    """An option of this package, given by ``Worker.configure()`` or an environment variable."""

    name: str
    type: object
    """The annotation of its value in `options.Options`."""
    default: bool | float | str
    parse: Callable[[str], bool | float | str]
    """Reads the text of the environment variable. Raises ValueError."""
    allowed: str
    """The allowed values, for people: completes the sentence "must be ..."."""
    check: Callable[[Any], bool]
    """Returns whether a value is allowed."""
    help: str
    """The description in the README."""
    convert: Callable[[Any], Any] = unchanged
    """Makes the attribute of `Settings` from an allowed value. Raises ConfigError."""
    is_secret: bool = False
    """No message has the value."""

    @property
    def variable(self) -> str:
        """The name of the environment variable."""
        return ENVIRONMENT_PREFIX + self.name.upper()


class Setting(Frozen):
    """A setting of Gunicorn, read by this package."""

    name: str
    convert: Callable[[Any], Any] = unchanged
    """Makes the attribute of `Settings` from Gunicorn's value. Raises ConfigError."""
    default: Any = None
    """The default of the newest Gunicorn, used if an older Gunicorn lacks the setting."""
    stand_in: Option | None = None
    """An option of the same name, used if an older Gunicorn lacks the setting."""


Row = TypeVar("Row", Option, Setting)


def read_rows(table: type, kind: type[Row]) -> dict[str, Row]:
    """Return the rows of `table` in their order, each with its attribute."""
    return {
        attribute: row
        for attribute, hint in table.__annotations__.items()
        for row in getattr(hint, "__metadata__", ())
        if isinstance(row, kind)
    }


# Kinds of options.


def choice(
    name: str,
    default: str,
    choices: tuple[str, ...],
    description: str,
    convert: Callable[[Any], Any] = unchanged,
) -> Option:
    return Option(
        name=name,
        type=Literal.__getitem__(choices),
        default=default,
        parse=str,
        allowed="one of " + ", ".join(choices),
        check=lambda value: value in choices,
        help=description,
        convert=convert,
    )


def time_limit(name: str, default: float, description: str, zero: str = "no limit") -> Option:
    """Seconds; 0 becomes infinity, and `zero` says what it means."""
    return Option(
        name=name,
        type=float,
        default=default,
        parse=float,
        allowed=f"a number of seconds, 0 for {zero}",
        check=_is_seconds,
        help=description,
        convert=_seconds_or_no_limit,
    )


def auto_time_limit(name: str, description: str, zero: str) -> Option:
    """A time limit, or ``auto``, the default. `read_options` puts a number in its place."""
    return Option(
        name=name,
        type=float | Literal["auto"],
        default="auto",
        parse=lambda text: text if text == "auto" else float(text),
        allowed=f"a number of seconds, 0 for {zero}, or auto",
        check=lambda value: value == "auto" or _is_seconds(value),
        help=description,
        convert=_seconds_or_no_limit,
    )


def delay(name: str, default: float, description: str) -> Option:
    """Seconds; 0 is no delay."""
    return Option(
        name=name,
        type=float,
        default=default,
        parse=float,
        allowed="a number of seconds, 0 or more",
        check=_is_seconds,
        help=description,
    )


def count(
    name: str,
    default: int,
    description: str,
    *,
    least: int = 0,
    most: float = math.inf,
    convert: Callable[[Any], Any] = unchanged,
) -> Option:
    """An integer from `least` to `most`."""
    return Option(
        name=name,
        type=int,
        default=default,
        parse=int,
        allowed=f"an integer, {least} " + ("or more" if most == math.inf else f"to {most}"),
        check=lambda value: _is_integer(value) and least <= value <= most,
        help=description,
        convert=convert,
    )


def switch(name: str, default: bool, description: str) -> Option:
    return Option(
        name=name,
        type=bool,
        default=default,
        parse=_parse_bool,
        allowed="true or false",
        check=lambda value: isinstance(value, bool),
        help=description,
    )


def header_value(name: str, default: str, description: str) -> Option:
    allowed = "printable ASCII text, empty for no header"
    return _text(name, description, allowed, _is_header_value, default=default)


def address(name: str, description: str) -> Option:
    """The address of a listening socket, empty by default."""
    allowed = "host:port, [IPv6 address]:port or unix:/path, empty for none"
    return _text(name, description, allowed, is_bind, convert=read_bind)


def file_name(name: str, description: str) -> Option:
    allowed = "the name of a file, empty for none"
    return _text(name, description, allowed, lambda value: "\0" not in value)


def request_path(name: str, description: str) -> Option:
    """A path as a client sends it. Its attribute is bytes, and empty where it is not given."""
    allowed = "a path as in a request, such as /healthz, without a query; or empty for none"

    def check(value: str) -> bool:
        return re.fullmatch(_REQUEST_PATH, value) is not None

    return _text(name, description, allowed, check, convert=str.encode)


def base_path(name: str, description: str) -> Option:
    """The beginning of paths: ``auto``, the default, or a path without a slash at its end."""
    allowed = "auto, a path as in a request, such as /prod, or empty for none"

    def check(value: str) -> bool:
        return value == "auto" or re.fullmatch(_REQUEST_PATH, value) is not None

    def convert(value: str) -> str:
        return value.rstrip("/")

    return _text(name, description, allowed, check, default="auto", convert=convert)


def media_types(name: str, description: str) -> Option:
    """Media types with commas between them. Its attribute is the set of their lower-case names."""
    allowed = "media types with commas between them, such as application/vnd.example, or empty"

    def convert(value: str) -> frozenset[str]:
        return frozenset(part.strip().lower() for part in value.split(",") if part.strip())

    def check(value: str) -> bool:
        return all(re.fullmatch(_MEDIA_TYPE, part) for part in convert(value))

    return _text(name, description, allowed, check, convert=convert)


def function_name(name: str, description: str) -> Option:
    """A function, as Gunicorn names an application: ``module:function``."""
    allowed = "module:function, such as tasks:handle, or empty for none"

    def check(value: str) -> bool:
        return re.fullmatch(_FUNCTION, value) is not None

    return _text(name, description, allowed, check)


def secret(name: str, description: str, *, most: int) -> Option:
    """A text of at most `most` bytes."""
    return _text(
        name,
        description,
        f"a text of at most {most} bytes, empty for none",
        lambda value: len(secret_bytes(value)) <= most,
        is_secret=True,
    )


def _text(
    name: str,
    description: str,
    allowed: str,
    check: Callable[[str], bool],
    *,
    default: str = "",
    convert: Callable[[Any], Any] = unchanged,
    is_secret: bool = False,
) -> Option:
    """A text. `check` is asked about texts only."""
    return Option(
        name=name,
        type=str,
        default=default,
        parse=str,
        allowed=allowed,
        check=lambda value: isinstance(value, str) and check(value),
        help=description,
        convert=convert,
        is_secret=is_secret,
    )


def secret_bytes(text: str) -> bytes:
    """Return the bytes of a secret; those that are no UTF-8 in the environment stay as they are."""
    return text.encode("utf-8", "surrogateescape")


def no_limit(number: float) -> float:
    """Return `number`, or infinity for 0."""
    return number or math.inf


def _seconds_or_no_limit(seconds: float) -> float:
    return no_limit(float(seconds))


# Texts: few values need them, and the others need not wait until they are compiled.
_REQUEST_PATH = r"(?:/[!\"$->@-~]*)?"
"""Printable ASCII from a slash on, without ``?`` and ``#``; or nothing."""

_MEDIA_TYPE = r"[!#$&^_.+a-z0-9-]+/[!#$&^_.+a-z0-9-]+"
"""RFC 6838, 4.2."""
_FUNCTION = r"(?:[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*)?"
"""Python's names with dots, on both sides of a colon; or nothing."""

_BOOLS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def _parse_bool(text: str) -> bool:
    try:
        return _BOOLS[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def _is_seconds(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_header_value(value: str) -> bool:
    # An empty text is printable.
    return value.isascii() and value.isprintable() and value == value.strip()
