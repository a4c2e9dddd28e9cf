from __future__ import annotations

import pytest

from gunicorn_asgi.http1.parser import available

PARSERS = ["h11", "httptools"] if available() == "httptools" else ["h11"]


@pytest.fixture(params=PARSERS, scope="session")
def parser(request: pytest.FixtureRequest) -> str:
    """The behaviour suite is run over every parser of HTTP/1.1 fields."""
    return str(request.param)
