"""`trio_plain_app` where trio's loop is not known: it waits in a thread."""

from events import note
from trio_plain_app import app

from gunicorn_asgi.asgi import trio_loop

__all__ = ["app"]


def is_known(guest):
    note("unknown")
    trio_loop.is_known = lambda guest: False
    return False


trio_loop.is_known = is_known
