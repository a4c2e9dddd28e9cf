"""gunicorn_asgi: the Gunicorn worker class for ASGI applications.

gunicorn -k gunicorn_asgi.Worker app:app
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .aws_lambda.worker import LambdaWorker
    from .observe.json_formatter import JSONFormatter
    from .worker import Worker

__all__ = ["JSONFormatter", "LambdaWorker", "Worker", "__version__"]


def _import_late(name: str) -> object:
    """Import only what is asked for: on AWS Lambda, each import delays the first response."""
    if name == "Worker":
        from .worker import Worker  # noqa: PLC0415 # see above

        return Worker
    if name == "worker":  # named by mistake: its `setup` tells
        return import_module(f"{__name__}.worker")
    if name == "LambdaWorker":
        from .process.garbage import few_collections  # noqa: PLC0415 # see above

        with few_collections():
            from .aws_lambda.worker import LambdaWorker  # noqa: PLC0415 # see above

        return LambdaWorker
    if name == "JSONFormatter":
        from .observe.json_formatter import JSONFormatter  # noqa: PLC0415 # few logs need it

        return JSONFormatter
    sentence = (
        f"gunicorn_asgi has no {name!r}; the worker classes are Worker, and LambdaWorker for AWS "
        "Lambda."
    )
    if sys._getframe(1).f_globals.get("__name__") == "gunicorn.util":
        # Gunicorn looks for its worker_class. It would replace an AttributeError by one of its own;
        # of a RuntimeError it prints the sentence.
        raise RuntimeError(f"Invalid value for setting worker_class: {sentence}")
    raise AttributeError(sentence)


def __dir__() -> list[str]:
    """Return all names, so that completion offers those that are not imported yet, too."""
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:  # type checkers would take any name for one of this package
    __getattr__ = _import_late
