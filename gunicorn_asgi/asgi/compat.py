"""The kind of the application: ASGI 3, ASGI 2 (ASGI, "Legacy Applications"), or none of them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Any, cast

from ..errors import ConfigError
from .scope import Application, Receive, Scope, Send


def single_callable(app: Any) -> Application:
    """Return `app` as an ASGI 3 application. An ASGI 2 application is wrapped.

    The latter is called with the scope, and returns a callable for ``(receive, send)``. Raises
    ConfigError for a WSGI application, and if `app` is no application.
    """
    if not callable(app):
        raise ConfigError(
            f"The application must be an ASGI application, not {type(app).__name__} {app!r}."
        )
    try:
        # The signature of the callable itself, not of its `__wrapped__`: a bridge may carry the
        # attributes of its WSGI application.
        signature = inspect.signature(app, follow_wrapped=False)
        if any(
            parameter.kind is parameter.VAR_POSITIONAL
            for parameter in signature.parameters.values()
        ):
            signature = inspect.signature(app)  # a decorator's (*args, **kwargs)
    except (TypeError, ValueError, NameError):  # some extension types have no signature
        return cast(Application, app)
    is_wsgi = list(signature.parameters)[:2] == ["environ", "start_response"]
    if _takes(signature, 3) and not is_wsgi:
        return cast(Application, app)
    # A function without required arguments is a factory, not an ASGI 2 application.
    if _takes(signature, 1) and not _takes(signature, 0):
        return _wrap(app)
    if _takes(signature, 2) or is_wsgi:
        raise ConfigError(
            f"The application {app!r} looks like a WSGI application: serve it with worker_class"
            " gthread, or wrap it in a2wsgi.WSGIMiddleware."
        )
    if _takes(signature, 0):
        raise ConfigError(
            f"The application {app!r} needs no arguments: if it makes the application, name it"
            f' with parentheses, as in "{_place(app)}()".'
        )
    raise ConfigError(f"The application {app!r} must take (scope, receive, send), not {signature}.")


def _place(app: Any) -> str:
    """Return the module and name of `app` in Gunicorn's form, or an example if unknown."""
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
    """Return an application for ``reload``: it answers every request with 500 and `text`.

    It is served while the developer's application cannot be loaded.
    """
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
