"""Warnings about settings, logged when Gunicorn starts: they work, but probably not as meant."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gunicorn.config import Config

    from .settings import Settings


ON_LAMBDA = ("AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_RUNTIME_API")
"""Variables of the environment that AWS Lambda sets."""
ADAPTER_KEEPALIVE_SECONDS = 4
"""Time for which the AWS Lambda Web Adapter keeps an idle connection to this server."""


def boot_warnings(cfg: Config, settings: Settings, environment: Mapping[str, str]) -> Iterator[str]:
    yield from _warn_of_http2(cfg, settings)
    if any(name in environment for name in ON_LAMBDA):
        yield from _warn_on_lambda(cfg)
    else:
        yield from _warn_of_short_keepalive(cfg)
    yield from _warn_of_long_messages(settings)


def _warn_of_http2(cfg: Config, settings: Settings) -> Iterator[str]:
    cleartext = settings.http2_cleartext
    if cleartext != "off" and not settings.http2:
        yield (
            f"http2_cleartext is {cleartext}, but http_protocols has no h2: HTTP/2 is not served; "
            "set http_protocols to h2,h1."
        )
    # From version 27 on, Gunicorn compares its settings with each other and logs this itself.
    elif settings.http2 and cleartext == "off" and not cfg.is_ssl and not hasattr(cfg, "validate"):
        yield (
            "http_protocols has h2, but there is no TLS, and http2_cleartext is off: HTTP/2 is not "
            "served; set certfile and keyfile, or http2_cleartext."
        )
    if settings.http2 and cleartext in ("upgrade", "both"):
        yield (
            f"http2_cleartext is {cleartext}: a client whose Upgrade: h2c a proxy "
            "passes on speaks HTTP/2 past the rules of that proxy; let the proxy remove "
            "HTTP2-Settings from requests, or set http2_cleartext to prior-knowledge "
            "(docs/http2.md)."
        )


def _warn_of_short_keepalive(cfg: Config) -> Iterator[str]:
    has_tcp = any(not isinstance(address, str) for address in cfg.address)
    if cfg.keepalive != cfg.settings["keepalive"].default or not has_tcp:
        return
    proxies = [text for text in cfg.forwarded_allow_ips if not _is_loopback(text)]
    if proxies:
        yield (
            f"keepalive is Gunicorn's default of {cfg.keepalive} s, and forwarded headers are "
            f"trusted from {', '.join(proxies)}: a load balancer that keeps idle connections for "
            "longer now and then sends a request into one that is being closed, and answers "
            "502; set keepalive to more than its idle timeout."
        )


def _warn_on_lambda(cfg: Config) -> Iterator[str]:
    if 0 < cfg.keepalive <= ADAPTER_KEEPALIVE_SECONDS:
        yield (
            f"keepalive is {cfg.keepalive} s, and this is AWS Lambda: the Lambda Web Adapter keeps "
            f"idle connections for {ADAPTER_KEEPALIVE_SECONDS} s, now and then sends a request "
            "into one that is being closed, and its client gets a 502; set keepalive to 5 or more "
            "(docs/lambda-web-adapter.md)."
        )
    if cfg.timeout:
        yield (
            f"timeout is {cfg.timeout} s, and this is AWS Lambda: a frozen environment looks like "
            "a worker that hangs, which may be killed when it thaws; set timeout to 0 "
            "(docs/lambda-web-adapter.md)."
        )


def _warn_of_long_messages(settings: Settings) -> Iterator[str]:
    size, limit = settings.websocket_max_message_size, settings.ws_memory_limit
    if settings.websocket is not None and limit < size < math.inf:
        yield (
            f"websocket_max_message_size is {size:.0f}, and ws_memory_limit {limit:.0f}: a "
            "message that is longer than that closes its WebSocket; set ws_memory_limit to several "
            "times websocket_max_message_size, or to 0."
        )


def _is_loopback(text: str) -> bool:
    return text != "*" and ipaddress.ip_network(text).is_loopback
