from __future__ import annotations

import os
import sys

import pytest

from gunicorn_asgi.http1.parser import available

LOOPS = os.environ.get("TEST_LOOPS", "asyncio uvloop").split()
"""What tox.ini asks for: some environments have one loop only, since others have both."""
PARSERS = [
    name
    for name, loop in (("h11", "asyncio"), ("httptools", "uvloop"))
    if name in ("h11", available()) and loop in LOOPS
]
"""With the loop that in-process tests run each on."""


@pytest.fixture(params=PARSERS, scope="session")
def parser(request: pytest.FixtureRequest) -> str:
    """The behaviour suite is run over every parser of HTTP/1.1 fields."""
    return str(request.param)


def pytest_configure(config: pytest.Config) -> None:
    """What is no fault of ours would fail whichever test runs when the garbage collector comes by."""
    if sys.version_info < (3, 11):
        # Its asyncio does not take a TLS transport for closed where the client has closed it first, and says so of each.
        config.addinivalue_line(
            "filterwarnings", "ignore:unclosed transport <asyncio.sslproto:ResourceWarning"
        )
