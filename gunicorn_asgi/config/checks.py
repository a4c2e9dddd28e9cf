"""Refusals: values of Gunicorn's settings that cannot work here, with a sentence for each.

Gunicorn checks each value alone, and accepts values for its other workers. The complete list is in
docs/settings.md; a test tries each refusal.
"""

from __future__ import annotations

import re
import ssl
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from gunicorn.config import Config

NO_PATH = re.compile(r"[?#\x00-\x1f\x7f-\x9f]|://")
"""Found in a text, this shows it to be no path of a URL."""

STOP_DELAY_SHARE = 0.75
"""The share of ``graceful_timeout`` below which the option ``stop_delay`` must be."""

ALLOWED: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("protocol", lambda value: value == "http", "http: nothing else is spoken here"),
    (
        "threads",
        lambda value: value <= 1,
        "1: one event loop serves all requests of a worker; for more cores, give more workers",
    ),
    # With 0, no connection would ever be accepted.
    ("worker_connections", lambda value: value >= 1, "1 or more"),
    # The length of the queue, and how many of its connections a stopping worker takes.
    ("backlog", lambda value: value >= 1, "1 or more"),
    (
        "root_path",
        lambda value: NO_PATH.search(value or "") is None,
        "a path, such as /app: no URL, no query or fragment, no control character",
    ),
    # A server in front may read these requests differently, which allows request smuggling.
    (
        "permit_obsolete_folding",
        lambda value: not value,
        "False: folded header lines (RFC 9112, 5.2) are never accepted here",
    ),
    (
        "strip_header_spaces",
        lambda value: not value,
        "False: a space before the colon of a header (RFC 9112, 5.1) is never accepted here",
    ),
    (
        "permit_unconventional_http_version",
        lambda value: not value,
        "False: only HTTP/1.0 and HTTP/1.1 are spoken here",
    ),
)
"""Setting, check, and the allowed values for people: completes the sentence "must be ..."."""


def refuse(cfg: Config) -> None:
    """Raise ConfigError for the first setting of `cfg` that cannot work."""
    for name, allows, allowed in ALLOWED:
        if name in cfg.settings:  # an older Gunicorn may lack it
            value = getattr(cfg, name)
            if not allows(value):
                raise refusal(name, value, f"must be {allowed}")
    _refuse_tls(cfg)


def refuse_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first of `options` that cannot work with `cfg` or here."""
    delay, most = options["stop_delay"], cfg.graceful_timeout * STOP_DELAY_SHARE
    if delay and delay >= most:
        raise ConfigError(
            f"Invalid value for option stop_delay: {delay:g} must be less than {most:g} s, three "
            f"quarters of graceful_timeout ({cfg.graceful_timeout} s), so that requests have time "
            "to finish."
        )
    if options["max_rss"] and not sys.platform.startswith("linux"):
        raise ConfigError(
            f"Invalid value for option max_rss: {options['max_rss']} must be 0 on this system, "
            "which does not tell the size of a process."
        )


def _refuse_tls(cfg: Config) -> None:
    required = cfg.cert_reqs
    if required not in tuple(ssl.VerifyMode):
        raise refusal("cert_reqs", required, "must be 0 (none), 1 (optional) or 2 (required)")
    if required != ssl.CERT_NONE and not cfg.is_ssl:
        raise refusal(
            "cert_reqs",
            int(required),
            "needs certfile and keyfile: without TLS no client has a certificate",
        )
    if has_tls_hook(cfg):
        return
    if cfg.keyfile and not cfg.certfile:
        raise refusal("keyfile", cfg.keyfile, "needs certfile, the certificate of this key")
    if required == ssl.CERT_REQUIRED and not cfg.ca_certs:
        raise refusal(
            "cert_reqs",
            int(required),
            "needs ca_certs: without them no client's certificate is good",
        )


def has_tls_hook(cfg: Config) -> bool:
    """Return whether the operator's ``ssl_context`` hook makes the TLS context.

    Its certificates may come from anywhere.
    """
    return cfg.ssl_context is not cfg.settings["ssl_context"].default


def refusal(name: str, value: object, reason: str) -> ConfigError:
    """The error about a setting, in the words common to all settings."""
    return ConfigError(f"Invalid value for setting {name}: {value!r} {reason}.")
