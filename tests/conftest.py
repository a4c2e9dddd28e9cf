from __future__ import annotations

import asyncio.sslproto
import compileall
import os
import sys
from collections import defaultdict
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import settings

from gunicorn_asgi.http1.parser import available

LOOPS = os.environ.get("TEST_LOOPS", "asyncio uvloop").split()
"""The event loops to test with. tox.ini sets one for environments that need no more."""
PARSERS = [
    name
    for name, loop in (("h11", "asyncio"), ("httptools", "uvloop"))
    if name in ("h11", available()) and loop in LOOPS
]
"""The parsers of HTTP/1.1 fields. In-process tests run each of them on its own loop."""


@pytest.fixture(params=PARSERS, scope="session")
def parser(request: pytest.FixtureRequest) -> str:
    """The behaviour suite runs with every parser of HTTP/1.1 fields."""
    return str(request.param)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sample",
        action="store_true",
        help="run some cases of each large table, and of the tests that start Gunicorn those with "
        "the marker smoke",
    )
    parser.addoption(
        "--sample-others",
        action="store_true",
        help="as --sample, but run all tests that start Gunicorn",
    )


sampling = False
"""Whether ``--sample`` or ``--sample-others`` is given."""


def examples(count: int) -> int:
    """Give the number of examples for a test with Hypothesis that has `count` in a full run."""
    return count // 5 if sampling else count


def pytest_configure(config: pytest.Config) -> None:
    global sampling
    sampling = config.getoption("sample") or config.getoption("sample_others")
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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Rewrite the test modules for pytest once, instead of in each process that starts next."""
    tests = Path(__file__).parent
    if not any(tests.glob(f"__pycache__/test_*.{sys.implementation.cache_tag}-pytest-*")):
        for path in tests.glob("test_*.py"):
            with suppress(pytest.skip.Exception):
                import_module(path.stem)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if sampling:
        tests: dict[str, list[pytest.Item]] = defaultdict(list)
        for item in items:
            tests[item.nodeid.partition("[")[0]].append(item)
        full = config.getoption("sample_others")
        kept = {item for cases in tests.values() for item in sample(cases, full)}
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


def sample(cases: list[pytest.Item], all_with_gunicorn: bool) -> list[pytest.Item]:
    """Choose the cases of one test that ``--sample`` runs.

    With `all_with_gunicorn`, all cases of a test that starts Gunicorn. A checksum chooses: the same
    cases in every process of a run, others on each Python.
    """
    least = 8
    if cases[0].get_closest_marker("gunicorn"):
        if all_with_gunicorn:
            return cases
        least = 2 if cases[0].get_closest_marker("smoke") else 0
    count = least and least + max(0, len(cases) - least) // 16
    minor = sys.version_info.minor
    return sorted(cases, key=lambda case: crc32(f"{minor} {case.nodeid}".encode()))[:count]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tell `process.Gunicorn` whether the test has the marker that it asks for."""
    if "process" in sys.modules:
        is_marked = item.get_closest_marker("gunicorn") is not None
        sys.modules["process"].Gunicorn.may_start = is_marked
