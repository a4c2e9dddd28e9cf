"""Whose fault it was, and what the wire says about it.

What goes wrong in a server is of a few kinds, and each has one answer:

==========================  =====================  ==================================================
raised                      fault of               answer
==========================  =====================  ==================================================
:class:`RequestError`       the client             its status, ``Connection: close``, one warning line
:class:`Violation`          a WebSocket's client   a Close frame with its code, and one warning line
:class:`ApplicationError`   the application        raised at the faulty ``send()``; then a 500 or an abort
:class:`ClientDisconnected` nobody                 raised by ``send()``; caught again, not logged
:class:`LifespanError`      the application        the worker does not serve
:class:`ConfigError`        the operator           the boot stops with one sentence
==========================  =====================  ==================================================
"""

from __future__ import annotations

from collections.abc import Iterable

from .http.grammar import Header


class RequestError(Exception):
    """A request that may not be passed on to the application.

    ``status`` is the answer that the RFC names for it, ``str(error)`` the reason for the log and for the body of the answer.
    ``is_logged``: whoever raises it has told the log already. ``fields``: what the answer has to say besides.
    """

    def __init__(
        self, status: int, reason: str, is_logged: bool = False, fields: Iterable[Header] = ()
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.is_logged = is_logged
        self.fields = fields


class Violation(Exception):
    """The client has broken the protocol, and the connection ends with `code` (RFC 6455, 7.1.7)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class ApplicationError(RuntimeError):
    """The application broke a rule of ASGI; raised out of its own ``send()`` (asgi.rst, "Error Handling")."""


class ClientDisconnected(OSError):
    """The client is gone: there is nobody to send to (ASGI HTTP 2.4, "Disconnected Client").

    The server catches it again when it leaves the application, and does not log it as an error.
    """


class LifespanError(Exception):
    """``lifespan.startup`` failed, so that the worker must not serve."""


class ConfigError(Exception):
    """A setting or an option has a value that cannot work; ``str(error)`` is one sentence for the operator."""


def is_disconnect(error: BaseException, is_told: bool = False) -> bool:
    """Whether `error` only says that the client is gone, also in a framework's words, or when a task group has wrapped it.

    `is_told`: the application has received that the client is gone, so the framework need not have it from an error of ours.
    """
    if isinstance(error, ClientDisconnected):
        return True
    nested = getattr(error, "exceptions", None)
    if nested and isinstance(
        nested, (tuple, list)
    ):  # a group's; other exceptions may call something else so
        return all(is_disconnect(part, is_told) for part in nested)
    # Starlette turns ours into its own ClientDisconnect. By the name, since no framework is imported here; and not for any error that came up
    # behind ours, which may be a fault in the application's clean-up.
    if "disconnect" not in type(error).__name__.lower():
        return False
    origin = error.__cause__ or error.__context__
    return is_told or (origin is not None and is_disconnect(origin))
