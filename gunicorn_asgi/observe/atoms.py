"""The atoms of Gunicorn's ``access_log_format``, each made when the format asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gunicorn.glogging import SafeAtoms

from .printable import printable
from .record import LoggedResponse, Record, make_environ

if TYPE_CHECKING:
    from gunicorn.glogging import Logger


class Atoms(dict[str, Any]):
    """The mapping that `Logger.atoms` and SafeAtoms make of an exchange, each atom on demand.

    A reader of the whole mapping (a JSON formatter), or code that changes it (a filter), finds all
    atoms in it.
    """

    def __init__(
        self, log: Logger, record: Record, response: LoggedResponse, duration: timedelta
    ) -> None:
        # Not empty: json looks at a dict's own size before it asks for the items.
        super().__init__(l="-")
        self.log = log
        self.record = record
        self.response = response
        self.duration = duration
        self._is_filled = False

    def fill(self) -> None:
        """Make all atoms by Gunicorn's own code."""
        if not self._is_filled:
            self._is_filled = True
            atoms = SafeAtoms(
                self.log.atoms(self.response, self.record, make_environ(self.record), self.duration)
            )
            dict.update(self, {**atoms, "u": printable(atoms["u"])})

    def __getitem__(self, key: str) -> Any:
        if key[:1] == "{":
            key = key.lower()
        if self._is_filled:
            return dict.get(self, key, "-")  # `self.get` would fill
        if key in ATOMS:
            value = ATOMS[key](self)
        elif key[-2:] in NAMED_ATOMS:
            value = NAMED_ATOMS[key[-2:]](self, key[1:-2])
        else:
            value = None
        if value is None:
            return "-"
        return value.replace('"', '\\"') if isinstance(value, str) else value

    def __bool__(self) -> bool:
        return True  # all that logging asks for


def _filled(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    def call(self: Atoms, *args: Any, **kwargs: Any) -> Any:
        self.fill()
        return method(self, *args, **kwargs)

    return call


for _name in [
    "__contains__",
    "__delitem__",
    "__eq__",
    "__ior__",
    "__iter__",
    "__len__",
    "__or__",
    "__repr__",
    "__reversed__",
    "__ror__",
    "__setitem__",
    "clear",
    "copy",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
]:
    setattr(Atoms, _name, _filled(_name))


def _user(atoms: Atoms) -> str:
    """Return the user by Gunicorn's own reading of credentials, which is private."""
    authorization = atoms.record.header(b"authorization")
    user = atoms.log._get_user({"HTTP_AUTHORIZATION": authorization}) if authorization else None
    return printable(user or "-")


def _request_header(atoms: Atoms, name: str) -> str | None:
    # The last of several, as in Gunicorn: only its environ joins them.
    key = name.encode()
    return next(
        (printable(value) for other, value in reversed(atoms.record.raw_headers) if other == key),
        None,
    )


def _response_header(atoms: Atoms, name: str) -> str | None:
    return {other.lower(): value for other, value in atoms.response.headers}.get(name)


def _environ_variable(atoms: Atoms, name: str) -> Any:
    return {key.lower(): value for key, value in make_environ(atoms.record).items()}.get(name)


ATOMS: dict[str, Callable[[Atoms], Any]] = {
    "h": lambda atoms: atoms.record.client[0] if atoms.record.client else "",
    "l": lambda _: "-",
    "u": _user,
    "t": lambda atoms: atoms.log.now(),
    "r": lambda atoms: f"{atoms.record.method} {atoms.record.uri} {atoms.record.protocol}",
    "s": lambda atoms: str(atoms.response.status_code),
    "m": lambda atoms: atoms.record.method,
    "U": lambda atoms: atoms.record.path_info,
    "q": lambda atoms: atoms.record.query,
    "H": lambda atoms: atoms.record.protocol,
    "b": lambda atoms: str(atoms.response.sent),
    "B": lambda atoms: atoms.response.sent,
    "f": lambda atoms: atoms.record.header(b"referer"),
    "a": lambda atoms: atoms.record.header(b"user-agent"),
    "T": lambda atoms: atoms.duration.seconds,
    "D": lambda atoms: atoms.duration.seconds * 1_000_000 + atoms.duration.microseconds,
    "M": lambda atoms: atoms.duration.seconds * 1000 + atoms.duration.microseconds // 1000,
    "L": lambda atoms: f"{atoms.duration.seconds}.{atoms.duration.microseconds:06d}",
    "p": lambda _: f"<{os.getpid()}>",
}
"""Gunicorn's table (its documentation of ``access_log_format``). A test compares the two."""

NAMED_ATOMS: dict[str, Callable[[Atoms, str], Any]] = {
    "}i": _request_header,
    "}o": _response_header,
    "}e": _environ_variable,
}
"""The atoms of the form ``{name}i``, by their end."""
