from __future__ import annotations

import asyncio.sslproto
import compileall
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import tables
from hypothesis import settings
from processes import Processes

from gunicorn_asgi.http1.parser import available

LOOPS = os.environ.get("TEST_LOOPS", "asyncio uvloop").split()
"""The event loops to test with. tox.ini sets one for environments that need no more."""
PARSERS = [
    name
    for name, loop in (("h11", "asyncio"), ("httptools", "uvloop"))
    if name in ("h11", available()) and loop in LOOPS
]
"""The parsers of HTTP/1.1 fields. In-process tests run each of them on its own loop."""


class TrioParser(str):
    """A parser in a test whose applications run as applications of trio: see `inprocess.serve`."""

    __slots__ = ()
    is_over_trio = True

    def removesuffix(self, suffix: str, /) -> TrioParser:
        return TrioParser(super().removesuffix(suffix))


@pytest.fixture(scope="session")
def parser(request: pytest.FixtureRequest) -> str:
    """The behaviour suite runs with every parser of HTTP/1.1 fields."""
    name: str = request.param
    return name


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the fixture `parser` its values: PARSERS, or those that a module has as `parser_names`."""
    definition = metafunc.definition
    names = [mark.args[0] for mark in definition.iter_markers("parametrize")]
    has_its_own = any(
        "parser" in (each.split(",") if type(each) is str else each) for each in names
    )
    if "parser" not in metafunc.fixturenames or has_its_own:
        return
    parser_names: list[str] = getattr(metafunc.module, "parser_names", PARSERS)
    trio_parsers = map(TrioParser, parser_names if has_trio_cases(definition) else ())
    parsers = [
        *(pytest.param(each, id=each) for each in parser_names),
        *(pytest.param(each, id=f"trio-{each}") for each in trio_parsers),
    ]
    metafunc.parametrize("parser", parsers, indirect=True, scope="session")


def has_trio_cases(test: pytest.Item) -> bool:
    """Whether `test` runs over applications of trio, too. With ``--sample``, a quarter do."""
    if test.get_closest_marker("both_libraries") is None or test.get_closest_marker("asyncio_only"):
        return False
    return "trio" not in sampled or checksum(test.nodeid) % 4 == 0


KINDS = ("gunicorn", "trio", "h11", "httptools", "pure")
"""The kinds of test cases: with a Gunicorn, with applications of trio, with one of the parsers and
applications of asyncio, and all others."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sample",
        action="store_true",
        help="run some cases of each large table, and of the tests that start Gunicorn those with "
        "the marker smoke",
    )
    parser.addoption(
        "--whole",
        default="",
        metavar="KINDS",
        help="with --sample: but run all cases of these kinds, of " + ",".join(KINDS),
    )
    parser.addoption(
        "--processes", type=int, default=0, metavar="N", help="run the tests in N processes"
    )


sampled: frozenset[str] = frozenset()
"""The kinds of test cases that ``--sample`` and ``--whole`` leave to be sampled."""


def examples(count: int) -> int:
    """Return the number of random examples for a test that should have `count`.

    All together, the environments of tox.ini run about as many. The variable TEST_EXAMPLES is a
    factor for longer searches.
    """
    factor = float(os.environ.get("TEST_EXAMPLES") or (0.2 if "pure" in sampled else 0.5))
    return max(1, round(count * factor))


def pytest_configure(config: pytest.Config) -> None:
    global sampled
    whole = {*filter(None, config.getoption("whole").split(","))}
    if not whole <= {*KINDS}:
        raise pytest.UsageError(f"--whole has an unknown kind: {', '.join(whole - {*KINDS})}")
    if config.getoption("sample"):
        sampled = frozenset(KINDS) - whole
    if config.getoption("processes"):
        config.pluginmanager.register(Processes(config.getoption("processes")))
    settings.register_profile("tests", parent=settings(), max_examples=examples(100), deadline=None)
    settings.load_profile("tests")
    # Gunicorn's processes write no bytecode (see process.py), but read it.
    compileall.compile_dir(Path(__file__).parent / "apps", quiet=1)
    if sys.version_info < (3, 11):
        # After the client has closed a TLS connection first, asyncio of Python 3.10 leaves its
        # transport unclosed. Its warning would fail the test that runs during a later collection
        # of garbage. A filter is not enough: pytest sets the filters anew for each test, and the
        # server's thread may collect meanwhile.
        transport: Any = asyncio.sslproto._SSLProtocolTransport
        transport.__del__.__defaults__ = (lambda *_, **__: None,)  # its parameter _warn


def kind_of(item: pytest.Item) -> str:
    """Return the kind of a test case, one of `KINDS`."""
    if item.get_closest_marker("gunicorn"):
        return "gunicorn"
    callspec = getattr(item, "callspec", None)
    names = callspec.id.split("-") if callspec else ()
    return next((name for name in ("trio", "h11", "httptools") if name in names), "pure")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if sampled:
        tests: dict[tuple[str, str], list[pytest.Item]] = defaultdict(list)
        for item in items:
            tests[kind_of(item), item.nodeid.partition("[")[0]].append(item)
        kept = {
            item
            for (kind, _), cases in tests.items()
            for item in (sample(cases) if kind in sampled else cases)
        }
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


def sample(cases: list[pytest.Item]) -> list[pytest.Item]:
    """Choose the cases of one test that ``--sample`` runs.

    A checksum chooses: the same cases in every process of a run, others on each Python.
    """
    if cases[0].get_closest_marker("gunicorn") and not cases[0].get_closest_marker("smoke"):
        return []
    count = 2 + max(0, len(cases) - 2) // 16
    return sorted(cases, key=lambda case: checksum(case.nodeid))[:count]


def checksum(name: str) -> int:
    return crc32(f"{sys.version_info.minor} {name}".encode())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tell `tables.each` and `process.Gunicorn` what they have to know of the test."""
    tables.is_sampled = kind_of(item) in sampled
    if "process" in sys.modules:
        is_marked = item.get_closest_marker("gunicorn") is not None
        sys.modules["process"].Gunicorn.may_start = is_marked
