"""Pure: the configuration that AWS Lambda gives, and the settings that cannot work there."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..config.checks import refusal
from ..config.settings import Settings
from ..errors import ConfigError
from ..frozen import Frozen

if TYPE_CHECKING:
    from gunicorn.config import Config

RUNTIME_API = "AWS_LAMBDA_RUNTIME_API"
MAX_CONCURRENCY = "AWS_LAMBDA_MAX_CONCURRENCY"
ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
MOST_CONCURRENCY = 10000
"""More than AWS Lambda allows, and fewer than would fill the memory with waiting connections."""


class LambdaEnvironment(Frozen):
    """The variables that AWS Lambda sets."""

    runtime_api: str
    """Host and port; empty outside of AWS Lambda."""
    max_concurrency: int
    """Invocations at once in this execution environment."""


def read_environment(environment: Mapping[str, str]) -> LambdaEnvironment:
    """Read the variables. Raises ConfigError."""
    address = read_runtime_api(environment)
    text = environment.get(MAX_CONCURRENCY) or "1"
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_CONCURRENCY):
        raise ConfigError(
            f"Invalid value for {MAX_CONCURRENCY} in the environment: {text!r} must be an integer, "
            f"1 to {MOST_CONCURRENCY}."
        )
    return LambdaEnvironment(address, int(text))


def read_runtime_api(environment: Mapping[str, str]) -> str:
    """Read the address of the Runtime API, empty outside of AWS Lambda. Raises ConfigError."""
    address = environment.get(RUNTIME_API, "")
    if address and (ADDRESS.fullmatch(address) is None or split_address(address)[1] > 65535):
        raise ConfigError(
            f"Invalid value for {RUNTIME_API} in the environment: {address!r} must be host:port."
        )
    return address


def split_address(address: str) -> tuple[str, int]:
    """Return the host, without the brackets of an IPv6 address, and the port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def refuse_outside(environment: LambdaEnvironment) -> None:
    """Raise ConfigError outside of AWS Lambda."""
    if not environment.runtime_api:
        raise ConfigError(
            f"Invalid value for setting worker_class: gunicorn_asgi.LambdaWorker needs AWS Lambda, "
            f"and {RUNTIME_API} is not in the environment; elsewhere, use gunicorn_asgi.Worker."
        )


def refuse(cfg: Config, settings: Settings, environment: LambdaEnvironment) -> None:
    """Raise ConfigError for the first setting that cannot work on AWS Lambda."""
    if cfg.timeout:
        raise refusal(
            "timeout",
            cfg.timeout,
            "must be 0 with gunicorn_asgi.LambdaWorker: AWS Lambda freezes the worker between "
            "invocations, and Gunicorn would take it for blocked; AWS Lambda's own timeout of the "
            "function limits each invocation",
        )
    if cfg.workers != 1:
        raise refusal(
            "workers",
            cfg.workers,
            "must be 1 with gunicorn_asgi.LambdaWorker: one worker serves all concurrent "
            f"invocations ({MAX_CONCURRENCY})",
        )
    if cfg.preload_app:
        raise refusal(
            "preload_app",
            cfg.preload_app,
            "must be False with gunicorn_asgi.LambdaWorker: its one worker has nothing to share, "
            "and AWS Lambda is not told of an import that fails in the master",
        )
    if settings.metrics_bind is not None:
        raise ConfigError(
            "Invalid value for option metrics_bind: it must be empty with "
            "gunicorn_asgi.LambdaWorker: nobody can connect to an AWS Lambda function."
        )
    # Managed Instances, with several invocations at once, are not frozen.
    if settings.stall_warning_s < math.inf and environment.max_concurrency == 1:
        raise ConfigError(
            f"Invalid value for option stall_warning: {settings.stall_warning_s:g} must be 0 or "
            "auto with gunicorn_asgi.LambdaWorker: AWS Lambda freezes the worker between "
            "invocations, and each time would look like a stall."
        )
