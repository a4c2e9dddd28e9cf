"""gunicorn_asgi: the Gunicorn worker class for ASGI applications.

gunicorn -k gunicorn_asgi.Worker app:app
"""

import sys
from typing import TYPE_CHECKING

from .version import __version__
from .worker import Worker

if TYPE_CHECKING:
    from .observe.json_formatter import JSONFormatter

__all__ = ["JSONFormatter", "Worker", "__version__"]


def __getattr__(name: str) -> object:
    if name == "JSONFormatter":
        from .observe.json_formatter import JSONFormatter  # noqa: PLC0415 # few logs need it

        return JSONFormatter
    sentence = f"gunicorn_asgi has no {name!r}; the worker class is gunicorn_asgi.Worker."
    if sys._getframe(1).f_globals.get("__name__") == "gunicorn.util":
        # Gunicorn looks for its worker_class. It would replace an AttributeError by one of its own;
        # of a RuntimeError it prints the sentence.
        raise RuntimeError(f"Invalid value for setting worker_class: {sentence}")
    raise AttributeError(sentence)
