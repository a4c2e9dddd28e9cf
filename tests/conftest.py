from __future__ import annotations

import os

import pytest

from gunicorn_asgi.http1.parser import available

LOOPS = os.environ.get("TEST_LOOPS", "asyncio uvloop").split()
"""What tox.ini asks for: some environments have one loop only, since others have both."""
PARSERS = [name for name, loop in (("h11", "asyncio"), ("httptools", "uvloop")) if name in ("h11", available()) and loop in LOOPS]
"""With the loop that in-process tests run each on."""


@pytest.fixture(params=PARSERS, scope="session")
def parser(request: pytest.FixtureRequest) -> str:
    """The behaviour suite is run over every parser of HTTP/1.1 fields."""
    return str(request.param)
