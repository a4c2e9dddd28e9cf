"""Errors that only report a disconnected client (`gunicorn_asgi.errors`)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gunicorn_asgi.errors import ClientDisconnected, is_disconnect


class ClientDisconnect(Exception):
    """As Starlette's."""


class WebSocketDisconnect(Exception):
    """As Starlette's."""


class Group(Exception):
    """As ExceptionGroup, which Python 3.10 has not."""

    def __init__(self, *exceptions: BaseException) -> None:
        super().__init__()
        self.exceptions = exceptions


class OddDisconnect(ClientDisconnect):
    """A class with another meaning of `exceptions`."""

    exceptions = frozenset({"a"})


def after(first: BaseException, second: BaseException) -> BaseException:
    """`second`, raised while `first` was handled."""
    try:
        try:
            raise first
        except BaseException:
            raise second  # noqa: B904 # the test is about implicit chaining
    except BaseException as error:
        return error


def because(first: BaseException | None, second: BaseException) -> BaseException:
    """`second`, raised from `first`."""
    try:
        raise second from first
    except BaseException as error:
        return error


GONE: dict[str, Callable[[], BaseException]] = {
    "ours": ClientDisconnected,
    "a framework's, from ours": lambda: because(ClientDisconnected(), ClientDisconnect()),
    "a framework's, after ours": lambda: after(ClientDisconnected(), WebSocketDisconnect()),
    "a framework's, after ours, from None": lambda: after(
        ClientDisconnected(), because(None, ClientDisconnect())
    ),
    "a framework's, from another one's, from ours": lambda: because(
        because(ClientDisconnected(), ClientDisconnect()), WebSocketDisconnect()
    ),
    "a group": lambda: Group(
        ClientDisconnected(), because(ClientDisconnected(), ClientDisconnect())
    ),
    "a group of groups": lambda: Group(Group(ClientDisconnected()), ClientDisconnected()),
    "with other exceptions": lambda: because(ClientDisconnected(), OddDisconnect()),
}
NOT_GONE: dict[str, Callable[[], BaseException]] = {
    "another one": ValueError,
    "another one, from ours": lambda: because(ClientDisconnected(), ValueError()),
    "another one, after ours": lambda: after(ClientDisconnected(), ValueError()),
    "a group with another one": lambda: Group(ClientDisconnected(), ValueError()),
    "a group without any": Group,
}
ITS_OWN: dict[str, Callable[[], BaseException]] = {
    "a framework's": ClientDisconnect,
    "a framework's, from another one": lambda: because(ValueError(), WebSocketDisconnect()),
    "a framework's, from another one, after ours": lambda: after(
        ClientDisconnected(), because(ValueError(), ClientDisconnect())
    ),
    "a group of a framework's": lambda: Group(ClientDisconnect(), ClientDisconnected()),
}
"""These count only after the application has received the disconnect."""


@pytest.mark.parametrize("make", GONE.values(), ids=GONE.keys())
@pytest.mark.parametrize("is_told", [False, True])
def test_an_error_that_comes_from_ours_is_a_disconnect(
    make: Callable[[], BaseException], is_told: bool
) -> None:
    assert is_disconnect(make(), is_told) is True


@pytest.mark.parametrize("make", NOT_GONE.values(), ids=NOT_GONE.keys())
@pytest.mark.parametrize("is_told", [False, True])
def test_any_other_error_is_not(make: Callable[[], BaseException], is_told: bool) -> None:
    assert not is_disconnect(make(), is_told)


@pytest.mark.parametrize("make", ITS_OWN.values(), ids=ITS_OWN.keys())
def test_a_frameworks_own_is_after_the_application_received_the_disconnect(
    make: Callable[[], BaseException],
) -> None:
    assert not is_disconnect(make())
    assert is_disconnect(make(), is_told=True)
