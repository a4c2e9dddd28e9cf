"""Pure: the errors, by whose fault they are. Each kind has one answer on the wire.

==========================  ====================  ==========================================
raised                      fault of              answer
==========================  ====================  ==========================================
:class:`RequestError`       the client            its status, ``Connection: close``; one
                                                  warning line
:class:`Violation`          a WebSocket's client  a Close frame with its code; one warning
                                                  line
:class:`ApplicationError`   the application       raised by the faulty ``send()``; then a
                                                  500 or an abort
:class:`ClientDisconnected` nobody                raised by ``send()``; caught, not logged
:class:`LifespanError`      the application       the worker does not serve
:class:`ConfigError`        the operator          the start stops with one sentence
:class:`EventError`         who invokes AWS       a failed invocation; one line
                            Lambda
==========================  ====================  ==========================================
"""

from __future__ import annotations

from collections.abc import Iterable

from .http.grammar import Header


class RequestError(Exception):
    """A request that must not reach the application.

    ``status`` is the RFC's answer to it. ``str(error)`` is the reason, for the log and for the
    body of the response. ``is_logged``: the log has its line already. ``fields``: further header
    fields of the response.
    """

    def __init__(
        self, status: int, reason: str, is_logged: bool = False, fields: Iterable[Header] = ()
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.is_logged = is_logged
        self.fields = fields

    @property
    def body(self) -> bytes:
        """The body of the response, as ``text/plain`` in UTF-8."""
        return str(self).encode() + b"\n"


class Violation(Exception):
    """The client broke the WebSocket protocol. The connection fails with `code`.

    RFC 6455, 7.1.7.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class ApplicationError(RuntimeError):
    """The application broke a rule of ASGI (asgi.rst, "Error Handling").

    Raised by the faulty ``send()``.
    """


class ClientDisconnected(OSError):
    """The client is gone (www.rst 2.4, "Disconnected Client").

    The server catches it when it leaves the application, and does not log it as an error.
    """


class LifespanError(Exception):
    """``lifespan.startup`` failed, so the worker must not serve."""


class ConfigError(Exception):
    """A setting or an option cannot work. ``str(error)`` is one sentence for the operator."""


class EventError(Exception):
    """An event of AWS Lambda that cannot be served. ``str(error)`` is one sentence about it."""


def is_disconnect(error: BaseException, is_told: bool = False) -> bool:
    """True if `error` reports nothing but a disconnected client.

    This includes a framework's own error, and a task group of such errors. `is_told`: the
    application has received the disconnect, so a framework's error needs no cause among ours.
    """
    if isinstance(error, ClientDisconnected):
        return True
    nested = getattr(error, "exceptions", None)
    # A group has a tuple. Other classes may use the name `exceptions` for something else.
    if nested and isinstance(nested, (tuple, list)):
        return all(is_disconnect(part, is_told) for part in nested)
    # Starlette turns our error into its own ClientDisconnect. It is known by its name, since no
    # framework is imported here. Other errors after ours may be faults of the application's
    # clean-up, so they count as errors.
    if "disconnect" not in type(error).__name__.lower():
        return False
    origin = error.__cause__ or error.__context__
    return is_told or (origin is not None and is_disconnect(origin))
