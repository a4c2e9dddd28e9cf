"""What cannot work of Gunicorn's settings, one sentence each; and what does work, but deserves a line at boot.

Gunicorn's validators look at one value at a time, and let pass what only another of its workers can honour. docs/settings.md has the
whole list; a test tries each of its refusals.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from gunicorn.config import Config

    from .settings import Settings

NO_PATH = re.compile(r"[?#\x00-\x1f\x7f-\x9f]|://")

ALLOWED: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("protocol", lambda value: value == "http", "http: nothing else is spoken here"),
    (
        "threads",
        lambda value: value <= 1,
        "1: one event loop serves all requests of a worker; for more cores, give more workers",
    ),
    # No connection would ever be accepted.
    ("worker_connections", lambda value: value >= 1, "1 or more"),
    # The length of the queue, and what of it a leaving worker takes.
    ("backlog", lambda value: value >= 1, "1 or more"),
    (
        "root_path",
        lambda value: NO_PATH.search(value or "") is None,
        "a path, such as /app: no URL, no query or fragment, no control character",
    ),
    # A server in front may read such requests differently: that is how requests are smuggled past it.
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
"""Setting, what is allowed, and the same for people: completes the sentence "must be ..."."""


def refuse(cfg: Config) -> None:
    """Raises ConfigError for the first setting of `cfg` that cannot work."""
    for name, allows, allowed in ALLOWED:
        value = _get(cfg, name)
        if name in cfg.settings and not allows(value):
            raise refusal(name, value, f"must be {allowed}")
    _refuse_tls(cfg)


def warnings(cfg: Config, settings: Settings) -> Iterator[str]:
    """What the operator should know: a line each."""
    if settings.http2_cleartext != "off" and not settings.http2:
        yield f"http2_cleartext is {settings.http2_cleartext}, but http_protocols has no h2: HTTP/2 is not served; set http_protocols to h2,h1."
    # Where Gunicorn looks at what it has read as a whole (27 does), it says so itself.
    elif (
        settings.http2
        and settings.http2_cleartext == "off"
        and not cfg.is_ssl
        and not hasattr(cfg, "validate")
    ):
        yield "http_protocols has h2, but there is no TLS, and http2_cleartext is off: HTTP/2 is not served; set certfile and keyfile, or http2_cleartext."
    if settings.http2 and settings.http2_cleartext in ("upgrade", "both"):
        yield (
            f"http2_cleartext is {settings.http2_cleartext}: a client whose Upgrade: h2c a proxy "
            "passes on speaks HTTP/2 past the rules of that proxy; let the proxy remove "
            "HTTP2-Settings from requests, or set http2_cleartext to prior-knowledge (docs/http2.md)."
        )
    if cfg.keepalive == cfg.settings["keepalive"].default and any(
        not isinstance(address, str) for address in cfg.address
    ):
        remote = [
            text
            for text in cfg.forwarded_allow_ips
            if text == "*" or not ipaddress.ip_network(text).is_loopback
        ]
        if remote:
            yield (
                f"keepalive is Gunicorn's default of {cfg.keepalive} s, and forwarded headers are trusted from {', '.join(remote)}: a load "
                "balancer that keeps idle connections for longer now and then sends a request into one that is being closed, and answers "
                "502; set keepalive to more than its idle timeout."
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
    """Whether the operator's ``ssl_context`` hook makes the TLS context: certificates may come from anywhere then."""
    return cfg.ssl_context is not cfg.settings["ssl_context"].default


def refusal(name: str, value: object, reason: str) -> ConfigError:
    """The error of a setting, in the words that all of them have."""
    return ConfigError(f"Invalid value for setting {name}: {value!r} {reason}.")


def _get(cfg: Config, name: str) -> Any:
    """The value of a setting, None on a Gunicorn that lacks it."""
    return getattr(cfg, name) if name in cfg.settings else None
