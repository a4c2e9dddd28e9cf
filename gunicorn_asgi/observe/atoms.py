"""The atoms of Gunicorn's ``access_log_format``, each made when the format asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
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

    def __init__(self, log: Logger, record: Record, response: LoggedResponse) -> None:
        # Not empty: json looks at a dict's own size before it asks for the items.
        super().__init__(l="-")
        self.log = log
        self.record = record
        self.response = response
        self._is_filled = False

    def fill(self) -> None:
        """Make all atoms by Gunicorn's own code."""
        if not self._is_filled:
            self._is_filled = True
            environ = make_environ(self.record)
            atoms = SafeAtoms(
                self.log.atoms(self.response, self.record, environ, self.response.duration)
            )
            dict.update(self, {**atoms, "u": printable(atoms["u"])})

    def __getitem__(self, key: str) -> Any:
        if self._is_filled:
            # `self.get` would fill
            return dict.get(self, key.lower() if key[:1] == "{" else key, "-")
        return _compile_atom(key)(self.log, self.record, self.response)

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


def compile_values(keys: Sequence[str]) -> Callable[[Mapping[str, Any]], list[Any]]:
    """Return the function that reads the atoms `keys` of a mapping, such as `Atoms` or SafeAtoms.

    An atom without a value is None. Texts are without SafeAtoms' escapes of quotation marks.
    """
    expressions = "".join(f"{atom_expression(key)}, " for key in keys)
    of_exchange: Callable[..., tuple[Any, ...]] = eval(  # noqa: S307 # this module's own expressions
        f"lambda log, record, response: ({expressions})", FUNCTIONS
    )

    def values(atoms: Mapping[str, Any]) -> list[Any]:
        if type(atoms) is Atoms and not atoms._is_filled:
            found: Sequence[Any] = of_exchange(atoms.log, atoms.record, atoms.response)
        elif isinstance(atoms, (Atoms, SafeAtoms)):
            found = [atoms[key] for key in keys]
        else:
            return [None if (value := atoms.get(key)) == "-" else value for key in keys]
        return [
            None
            if value == "-"
            else value.replace('\\"', '"')
            if type(value) is str and '"' in value
            else value
            for value in found
        ]

    return values


@lru_cache(maxsize=256)
def _compile_atom(key: str) -> Callable[[Logger, Record, LoggedResponse], Any]:
    function: Callable[..., Any] = eval(  # noqa: S307 # this module's own expressions
        f"lambda log, record, response: {atom_expression(key)}", FUNCTIONS
    )
    return function


# The functions of the expressions. A value is as SafeAtoms has it: "-" if there is none.


def _safe(value: str | None) -> str:
    """Return `value` so that it cannot end a column in quotation marks."""
    if value is None:
        return "-"
    return value.replace('"', '\\"') if '"' in value else value


def _now(log: Logger) -> str:
    return _safe(log.now())


def _user(log: Logger, record: Record) -> str:
    """Return the user by Gunicorn's own reading of credentials, which is private."""
    authorization = record.header(b"authorization")
    if not authorization:
        return "-"
    return _safe(printable(log._get_user({"HTTP_AUTHORIZATION": authorization}) or "-"))


def _request_header(record: Record, name: bytes) -> str:
    # The last of several values, as in Gunicorn. Only its environ joins them.
    value = record.last_values.get(name)
    return "-" if value is None else _safe(printable(value))


def _response_header(response: LoggedResponse, name: bytes) -> str:
    for other, value in reversed(response.raw_headers):
        if other.lower() == name:
            return _safe(printable(value))
    return "-"


def _variable(record: Record, key: str) -> str:
    environ = make_environ(record)
    return _safe({name.lower(): value for name, value in environ.items()}.get(key))


def _wait(record: Record) -> str:
    wait_us = record.wait_us
    return "-" if wait_us is None else f"{wait_us}"


def _decimal_seconds(microseconds: int) -> str:
    seconds, rest = divmod(microseconds % 86_400_000_000, 1_000_000)
    return f"{seconds}.{rest:06d}"


FUNCTIONS: dict[str, Any] = {
    "pid": os.getpid,
    "safe": _safe,
    "now": _now,
    "user": _user,
    "request_header": _request_header,
    "response_header": _response_header,
    "variable": _variable,
    "wait": _wait,
    "decimal_seconds": _decimal_seconds,
}
"""The functions of the expressions, by the names that they have there."""

ATOMS: dict[str, str] = {
    "h": "safe(record.client[0]) if record.client else '-'",
    "l": "'-'",
    "u": "user(log, record)",
    "t": "now(log)",
    "r": "safe(f'{record.method} {record.uri} {record.protocol}')",
    "s": "f'{response.status_code}'",
    "m": "safe(record.method)",
    "U": "safe(record.path_info)",
    "q": "safe(record.query)",
    "H": "safe(record.protocol)",
    "b": "f'{response.sent}'",
    "B": "response.sent",
    "f": "safe(record.header(b'referer'))",
    "a": "safe(record.header(b'user-agent'))",
    "T": "response.microseconds // 1_000_000 % 86_400",
    "D": "response.microseconds % 86_400_000_000",
    "M": "response.microseconds // 1000 % 86_400_000",
    "L": "decimal_seconds(response.microseconds)",
    "p": "f'<{pid()}>'",
}
"""Gunicorn's table (its documentation of ``access_log_format``). A test compares the two.

Each atom is an expression of `log`, `record` and `response`, so that a format becomes one function.
Whole days are missing in the duration, as in Gunicorn.
"""


VARIABLES: dict[str, str] = {
    "client_addr": "safe(record.found_client[0]) if record.found_client else '-'",
    "request_wait": "wait(record)",
    "aws_request_id": "safe(record.aws_request_id) or '-'",
    "wsgi.url_scheme": "safe(record.scheme)",
}
"""Variables of `make_environ` that are read without it, since usual formats have them.

The first three are not Gunicorn's. As variables, they work with every logger, formatter and hook.
"""


def atom_expression(key: str) -> str:
    """Return the expression of the atom `key`. An unknown atom has no value, as in Gunicorn."""
    if key[:1] == "{":
        key = key.lower()
    if key in ATOMS:
        return ATOMS[key]
    name, kind = key[1:-2], key[-2:]
    if kind == "}i":
        return f"request_header(record, {name.encode(errors='replace')!r})"
    if kind == "}o":
        return f"response_header(response, {name.encode(errors='replace')!r})"
    if kind == "}e":
        return VARIABLES.get(name) or f"variable(record, {name!a})"
    return "'-'"
