"""Which callables are taken for which kind of application (docs/asgi.md, 1 and 2), as a function."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from gunicorn_asgi.asgi.compat import single_callable
from gunicorn_asgi.errors import ConfigError


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError


def asgi_2(scope: Any) -> Any:
    async def instance(receive: Any, send: Any) -> None:
        calls.append((scope, receive, send))

    return instance


calls: list[Any] = []


class ASGI2:
    def __init__(self, scope: Any) -> None:
        self.instance = asgi_2(scope)

    async def __call__(self, receive: Any, send: Any) -> None:
        await self.instance(receive, send)


def wsgi(environ: Any, start_response: Any) -> Any:
    raise AssertionError


class WSGI:
    def __call__(self, environ: Any, start_response: Any) -> Any:
        raise AssertionError


def passing_on(function: Any) -> Any:
    """As decorators do it."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def bridge(application: Any) -> Any:
    """From ASGI to something else, whose name it bears."""

    @functools.wraps(application)
    async def to_asgi(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    return to_asgi


class Framework:
    def __init__(self, wrapped: Any = None) -> None:
        if wrapped is not None:
            functools.update_wrapper(self, wrapped)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    async def method(self, scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError


class Extension:
    __signature__ = "none"

    def __call__(self) -> None:
        raise AssertionError


def with_options(scope: Any, receive: Any, send: Any, *, timeout: float = 1.0) -> None:
    raise AssertionError


def anything(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError


ASGI = {
    "a function": asgi,
    "decorated": passing_on(asgi),
    "partial": functools.partial(asgi),
    "with options": with_options,
    "anything": anything,
    "an object": Framework(),
    "a method": Framework().method,
    "a bridge from WSGI": bridge(wsgi),
    "a bridge from ASGI 2": bridge(ASGI2),
    "an object that bridges WSGI": Framework(wsgi),
    "an object that bridges ASGI 2": Framework(asgi_2),
    "an extension": Extension(),
}


@pytest.mark.parametrize("app", ASGI.values(), ids=ASGI.keys())
def test_what_takes_three_arguments_is_an_application_as_it_is(app: Any) -> None:
    """Also what says that it stands for something else, and what has no signature."""
    assert single_callable(app) is app


@pytest.mark.parametrize(
    "app",
    [asgi_2, ASGI2, passing_on(asgi_2), passing_on(ASGI2), functools.partial(asgi_2)],
    ids=["function", "class", "decorated", "decorated class", "partial"],
)
def test_what_takes_a_scope_and_nothing_else_is_wrapped(app: Any) -> None:
    calls.clear()
    with pytest.raises(StopIteration):
        single_callable(app)(1, 2, 3).send(None)  # type: ignore[arg-type,attr-defined]
    assert calls == [(1, 2, 3)]


def with_exc_info(environ: Any, start_response: Any, exc_info: Any = None) -> Any:
    raise AssertionError


def other_names(env: Any, start: Any) -> Any:
    raise AssertionError


WSGI_APPLICATIONS = {
    "a function": wsgi,
    "an object": WSGI(),
    "decorated": passing_on(wsgi),
    "partial": functools.partial(wsgi),
    "with exc_info": with_exc_info,
    "wrapped": functools.wraps(wsgi)(lambda a, b: None),
    "other names": other_names,
}


@pytest.mark.parametrize("app", WSGI_APPLICATIONS.values(), ids=WSGI_APPLICATIONS.keys())
def test_a_wsgi_application_is_refused_with_the_name_of_its_worker(app: Any) -> None:
    with pytest.raises(
        ConfigError, match="looks like a WSGI application: serve it with worker_class gthread"
    ):
        single_callable(app)


def factory(environment: str = "production") -> Any:
    raise AssertionError


@pytest.mark.parametrize("app", [factory, lambda: asgi], ids=["optional", "none"])
def test_what_needs_no_arguments_is_taken_for_a_factory_whose_parentheses_are_missing(
    app: Any,
) -> None:
    name = (
        "test_compat:factory" if app is factory else "module:name"
    )  # a lambda has no name to call it by
    with pytest.raises(
        ConfigError,
        match=rf"needs no arguments: .* name it with parentheses, as in \"{name}\(\)\"\.$",
    ):
        single_callable(app)


@pytest.mark.parametrize("app", [lambda a, b, c, d: None], ids=["four"])
def test_what_takes_other_arguments_is_refused(app: Any) -> None:
    with pytest.raises(ConfigError, match=r"must take \(scope, receive, send\), not \("):
        single_callable(app)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^The application must be an ASGI application, not str 'main:app'\.$"
    ):
        single_callable("main:app")
