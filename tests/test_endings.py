"""The end of an application by an exception (`gunicorn_asgi.asgi.endings`): cancelled, an exit of the process, or an error, in groups too."""

from __future__ import annotations

import asyncio
import sys

import pytest

from gunicorn_asgi.asgi.endings import find_exit, without_cancellations

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


class Cancelled(BaseException):
    """As trio's, which nobody can make."""


class Failed(Exception):
    """An application's own. It has the attribute of groups for something else."""

    exceptions = (Cancelled(),)


class OwnGroup(ExceptionGroup):
    """A library's kind of group."""

    def derive(self, excs):  # type: ignore[no-untyped-def]
        return OwnGroup(self.message, excs)


def group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("from a nursery", errors)


ERROR, OTHER, EXIT, STOP = (
    ValueError("fault"),
    KeyError("other"),
    SystemExit(3),
    KeyboardInterrupt(),
)


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions of a group that are none, from left to right."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error]


@pytest.mark.parametrize(
    "error",
    [
        Cancelled(),
        asyncio.CancelledError(),
        group(Cancelled()),
        group(Cancelled(), asyncio.CancelledError(), Cancelled()),
        group(group(group(Cancelled())), asyncio.CancelledError()),
    ],
    ids=repr,
)
def test_cancellations_alone_are_a_cancellation(error: BaseException) -> None:
    assert without_cancellations(error, Cancelled) is None
    assert find_exit(error) is None


@pytest.mark.parametrize("error", [ERROR, EXIT, STOP, Failed(), GeneratorExit()], ids=repr)
def test_an_error_alone_is_itself(error: BaseException) -> None:
    assert without_cancellations(error, Cancelled) is error


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (group(ERROR), [ERROR]),
        (group(Cancelled(), ERROR), [ERROR]),
        (group(ERROR, Cancelled(), OTHER, asyncio.CancelledError()), [ERROR, OTHER]),
        (group(group(Cancelled()), group(group(Cancelled(), OTHER), ERROR)), [OTHER, ERROR]),
        (group(Cancelled(), group(EXIT, ERROR)), [EXIT, ERROR]),
        (group(OwnGroup("own", [OTHER]), Cancelled()), [OTHER]),
    ],
    ids=repr,
)
def test_a_group_keeps_its_errors_and_loses_its_cancellations(
    error: BaseException, left: list[BaseException]
) -> None:
    rest = without_cancellations(error, Cancelled)
    assert rest is not None
    assert leaves(rest) == left
    # So that it is handled, and written to the log, as an error like all others.
    assert isinstance(rest, Exception) is all(isinstance(each, Exception) for each in left)


def test_the_rest_of_a_group_has_its_traceback_and_its_cause() -> None:
    error = group(Cancelled(), ERROR)
    try:
        raise error from OTHER
    except BaseExceptionGroup:
        rest = without_cancellations(error, Cancelled)
    assert rest is not None
    assert rest.__traceback__ is error.__traceback__ is not None
    assert rest.__cause__ is OTHER


def test_only_the_exception_of_the_library_is_a_cancellation() -> None:
    error = Cancelled()
    assert without_cancellations(error, asyncio.CancelledError) is error


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (EXIT, EXIT),
        (STOP, STOP),
        (ERROR, None),
        (Failed(), None),
        (group(ERROR, OTHER), None),
        (group(ERROR, EXIT), EXIT),
        (group(group(Cancelled(), group(STOP)), EXIT), STOP),
        (group(group(ERROR), EXIT, OTHER), EXIT),
    ],
    ids=repr,
)
def test_an_exit_is_found_in_a_group(error: BaseException, found: BaseException | None) -> None:
    assert find_exit(error) is found


def test_an_exit_that_another_error_replaced_does_not_count() -> None:
    error = ValueError()
    error.__context__ = error.__cause__ = EXIT
    assert find_exit(error) is None
