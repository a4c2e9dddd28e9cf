"""The function of the option ``lambda_event_function``."""

from __future__ import annotations

import importlib
from functools import reduce
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from .invocations import EventFunction


def load_function(name: str) -> EventFunction:
    """Import ``module:function``. Raises ConfigError, and what the import of the module raises."""
    module_name, _, path = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise _invalid(name, f"there is no module {error.name!r}") from None
    try:
        function: EventFunction = reduce(getattr, path.split("."), module)  # type: ignore[assignment]
    except AttributeError:
        raise _invalid(name, f"{module_name} has no {path!r}") from None
    if not callable(function):
        raise _invalid(name, "it cannot be called")
    return function


def _invalid(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"Invalid value for option lambda_event_function: {name!r} must be a function; {reason}."
    )
