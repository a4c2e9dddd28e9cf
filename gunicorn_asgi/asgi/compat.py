"""What kind of callable was handed in as the application (ASGI statements 1 and 2)."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Any, cast

from ..errors import ConfigError
from .scope import Application, Receive, Scope, Send


def single_callable(app: Any) -> Application:
    """`app` as an ASGI 3 application: as it is, or wrapped if it is an ASGI 2 one, ``app(scope)`` returning ``(receive, send)``.

    Raises ConfigError for what is no application, or a WSGI one.
    """
    if not callable(app):
        raise ConfigError(
            f"The application must be an ASGI application, not {type(app).__name__} {app!r}."
        )
    try:
        # Of what is called, and not of what that says it stands for: a bridge may carry the name of the WSGI application behind it.
        signature = inspect.signature(app, follow_wrapped=False)
        if any(
            parameter.kind is parameter.VAR_POSITIONAL
            for parameter in signature.parameters.values()
        ):
            signature = inspect.signature(app)  # a decorator's (*args, **kwargs)
    except (
        TypeError,
        ValueError,
        NameError,
    ):  # some extension types have none: they get the benefit of the doubt
        return cast(Application, app)
    is_wsgi = list(signature.parameters)[:2] == ["environ", "start_response"]
    if _takes(signature, 3) and not is_wsgi:
        return cast(Application, app)
    # What can do without one is a function that makes an application, rather than one that needs a scope.
    if _takes(signature, 1) and not _takes(signature, 0):
        return _wrap(app)
    if _takes(signature, 2) or is_wsgi:
        raise ConfigError(
            f"The application {app!r} looks like a WSGI application: serve it with worker_class gthread, or wrap it in a2wsgi.WSGIMiddleware."
        )
    if _takes(signature, 0):
        raise ConfigError(
            f'The application {app!r} needs no arguments: if it makes the application, name it with parentheses, as in "{_place(app)}()".'
        )
    raise ConfigError(f"The application {app!r} must take (scope, receive, send), not {signature}.")


def _place(app: Any) -> str:
    """The module and name of `app`, as Gunicorn is given them; an example where they are not known."""
    module, name = getattr(app, "__module__", None), getattr(app, "__name__", "")
    is_found = getattr(sys.modules.get(module or ""), name, None) is app
    return f"{module}:{name}" if is_found else "module:name"


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _wrap(app: Callable[[Scope], Callable[[Receive, Send], Awaitable[None]]]) -> Application:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope)(receive, send)

    return application


def failing(text: str) -> Application:
    """An application that answers every request with 500 and `text`: for a developer whose application cannot be loaded, under ``reload``."""
    body = text.encode("utf-8", "replace")
    headers = [(b"content-type", b"text/plain; charset=utf-8")]

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                message = await receive()
                await send({"type": message["type"] + ".complete"})
            return
        prefix = "websocket." if scope["type"] == "websocket" else ""
        await send({"type": f"{prefix}http.response.start", "status": 500, "headers": headers})
        await send({"type": f"{prefix}http.response.body", "body": body})

    return application
