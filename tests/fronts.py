"""HAProxy and nginx in front of Gunicorn: a load balancer with health checks, and the start of either.

This module uses the standard library only, for benchmarks/deploys.py.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from load import await_true
from nginx import is_listening

HAPROXY = shutil.which("haproxy")
SECONDS = 30.0
"""Time limit for the start of a proxy, and for its end."""

BALANCER = """
global
    maxconn 400
    stats socket unix@{directory}/stats.socket level admin
defaults
    mode http
    timeout connect 20s
    timeout queue 20s
    timeout client 20s
    timeout server 20s
    {defaults}
frontend front
    bind unix@{directory}/haproxy.socket
    default_backend workers
backend workers
    option httpchk
    http-check send meth GET uri {path} ver HTTP/1.1 hdr Host test
    default-server check inter {interval_ms} {protocol}
{servers}
"""
"""The other settings, retries and balancing among them, have HAProxy's defaults."""


def haproxy_command(conf: Path) -> list[str]:
    """HAProxy in the foreground, with this configuration."""
    return [str(HAPROXY), "-db", "-q", "-f", str(conf)]


@contextmanager
def balancer(
    directory: Path,
    backends: Sequence[str],
    *,
    path: str = "/healthz",
    interval_ms: int = 500,
    protocol: str = "",
    defaults: str = "",
) -> Iterator[str]:
    """HAProxy in front of `backends`, each a host and port; gives the path of its unix socket.

    It asks each backend for `path` every `interval_ms`. `protocol`: further words for the backends,
    such as ``proto h2``. `defaults`: further lines for that section. The path of `directory` has to
    be short, as it leads to a unix socket.
    """
    conf = directory / "haproxy.cfg"
    servers = "\n".join(f"    server s{n} {backend}" for n, backend in enumerate(backends))
    conf.write_text(
        BALANCER.format(
            directory=directory,
            path=path,
            interval_ms=interval_ms,
            protocol=protocol,
            defaults=defaults,
            servers=servers,
        )
    )
    listens = directory / "haproxy.socket"
    with started(haproxy_command(conf), listens):
        yield str(listens)


@contextmanager
def started(command: Sequence[str], listens: Path) -> Iterator[None]:
    """Start a proxy, wait until it listens on a unix socket, and end it on every way out."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        await_true(lambda: is_listening(str(listens)), f"the socket of {command[0]}", SECONDS)
        yield
    finally:
        process.terminate()
        process.wait(SECONDS)
