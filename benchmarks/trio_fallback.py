"""This worker with a trio that it does not know: trio's guest mode then waits in a thread. ``gunicorn -k trio_fallback.Worker``."""

from __future__ import annotations

from gunicorn_asgi import Worker
from gunicorn_asgi.asgi import trio_loop

__all__ = ["Worker"]


def _is_known(guest: object) -> bool:
    """As for a release of trio whose guest mode is made in another way."""
    return False


trio_loop.is_known = _is_known
