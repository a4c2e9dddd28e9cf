"""gunicorn_asgi: the Gunicorn worker class for ASGI applications.

gunicorn -k gunicorn_asgi.Worker app:app
"""

import sys

from .version import __version__
from .worker import Worker

__all__ = ["Worker", "__version__"]


def __getattr__(name: str) -> object:
    sentence = f"gunicorn_asgi has no {name!r}; the worker class is gunicorn_asgi.Worker."
    if sys._getframe(1).f_globals.get("__name__") == "gunicorn.util":
        # Gunicorn looks for its worker_class. It would replace an AttributeError by one of its own;
        # of a RuntimeError it prints the sentence.
        raise RuntimeError(f"Invalid value for setting worker_class: {sentence}")
    raise AttributeError(sentence)
