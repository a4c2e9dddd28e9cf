"""Tables of cases for several test modules, and a decorator to run a table within one test."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import pytest

AUTHORITIES = [
    b"a", b"example.com", b"example.com:80", b"example.com:", b"example.com:0", b"example.com:65535", b"EXAMPLE.com", b"a.", b"a-b", b"a_b",
    b"127.0.0.1", b"127.0.0.1:8000", b"999.999.999.999", b"[::1]", b"[::1]:8000", b"[::1]:", b"[2001:DB8::ff]", b"[::ffff:1.2.3.4]",
    b"xn--caf-dma.example", b"caf%C3%A9", b"a~b", b"a!$&'()*+,;=b", b"localhost:08000",
]  # fmt: skip

NO_AUTHORITIES = [
    b"", b" ", b":80", b":", b"a b", b"a:80 ", b"a:b", b"a:-1", b"a:+1", b"a:80:80", b"a:65536", b"a:99999", b"a:100000", b"a:\xb2", b"a: 80",
    b"user@a", b"user:pass@a", b"@a", b"a/", b"a/b", b"/", b"http://a", b"a?b", b"a#b", b"a\\b", b'"a"', b"<a>", b"a%", b"a%4", b"a%zz", b"a^b", b"a`b",
    b"a|b", b"{a}", b"::1", b"[::1", b"::1]", b"[::1]a", b"a[::1]", b"[]", b"[::g]", b"[1.2.3.4]", b"[::1%25eth0]", b"[fe80::1%eth0]", b"[v1.x]",
    b"[::1]]", b"[[::1]]", b"[::1]:65536", b"[:::1]", b"[1::2::3]", b"[12345::]", b"a\x00", b"a\t", b"a\r", b"a\n", b"a\x7f", b"caf\xc3\xa9", b"\xff", b"a,b:1,c",
]  # fmt: skip

INVALID_FIELDS: dict[str, Any] = {
    "str name": [("a", b"b")],
    "str value": [(b"a", "b")],
    "int value": [(b"a", 1)],
    "None for the value": [(b"a", None)],
    "None for the name": [(None, b"b")],
    "unhashable name": [([b"a"], b"b")],
    "bytearray for the name": [(bytearray(b"a"), b"b")],
    "memoryview for the name": [(memoryview(b"never-seen"), b"b")],
    "one part": [(b"a",)],
    "three parts": [(b"a", b"b", b"c")],
    "a flat list": [b"aa", b"bb"],
    "a flat list of str": ["ab"],
    "None for a field": [None],
    "None for all": None,
    "a number for all": 5,
    "a dict of str": {"a": "b"},
    "empty name": [(b"", b"b")],
    "pseudo header": [(b":status", b"200")],
    "str content-length": [(b"content-length", "5")],
    "int content-length": [(b"content-length", 5)],
    "str connection": [(b"connection", "close")],
    "content-length that is no number": [(b"content-length", b"5x")],
    "empty content-length": [(b"content-length", b"")],
    "negative content-length": [(b"content-length", b"-1")],
    "signed content-length": [(b"content-length", b"+1")],
    "list of content-lengths": [(b"content-length", b"5, 5")],
    "spaced content-length": [(b"content-length", b" 5")],
    "content-length with a line end": [(b"content-length", b"5\n")],
    "two content-lengths": [(b"content-length", b"5"), (b"content-length", b"6")],
    "line end in connection": [(b"connection", b"close, x\r\ny: z")],
    **{
        f"{chr(c)!r} in the name": [(b"a" + bytes([c]) + b"b", b"c")]
        for c in b'\x00\t\n\r "(),/:;<=>?@[\\]{}\x7f\x80\xff'
    },
    **{
        f"{chr(c)!r} in the value": [(b"a", b"b" + bytes([c]) + b"c")]
        for c in (*range(9), *range(10, 32), 127)
    },
    "CRLF in the value": [(b"a", b"b\r\nset-cookie: c")],
    "CRLF at the end of the value": [(b"a", b"b\r\n")],
    "CRLF for the value": [(b"a", b"\r\n")],
    "LF in a bytearray": [(b"a", bytearray(b"b\nc"))],
}

is_sampled = False
"""The running test case is of a kind that ``--sample`` samples. conftest.py sets it."""

Test = TypeVar("Test", bound=Callable[..., None])


def each(names: str, rows: Mapping[str, Any] | Iterable[Any]) -> Callable[[Test], Test]:
    """Run a test with each of `rows`, like ``pytest.mark.parametrize``, but within one test.

    For tables of many cheap cases: pytest takes a millisecond for a case of its own. The
    fixtures are those of the one test. All rows are run, and the first that fail are named. A test
    case of which ``--sample`` runs a part has a quarter of the rows, another one on each Python.
    """
    keys = [name.strip() for name in names.split(",")]
    named = rows.items() if isinstance(rows, Mapping) else [(repr(row)[:60], row) for row in rows]
    table = [(name, [row] if len(keys) == 1 else row) for name, row in named]

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            failed: dict[str, BaseException] = {}
            first = sys.version_info.minor % min(4, len(table))
            rows = table[first::4] if is_sampled else table
            for name, values in rows:
                try:
                    test(**fixtures, **dict(zip(keys, values, strict=True)))
                except pytest.skip.Exception:
                    continue
                except (Exception, pytest.fail.Exception) as error:
                    failed[name] = error
            if failed:
                told = f"{len(failed)} of {len(rows)} rows: {', '.join([*failed][:10])}"
                raise AssertionError(told) from next(iter(failed.values()))

        signature = inspect.signature(test)
        left = [value for key, value in signature.parameters.items() if key not in keys]
        run.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
        return run  # type: ignore[return-value]

    return decorate
