"""No request over HTTP/2 is lost while workers are replaced, where the client honours GOAWAY (see h2load.py; over HTTP/1.1: test_zero_loss.py)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import turnover
from certificates import Pair, client_context, make_authority
from process import LOOPS, Gunicorn

pytest.importorskip("h2")
from h2load import Load
from load import Tally

pytestmark = [
    pytest.mark.gunicorn,
    pytest.mark.any_version,
    pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc"),
]

SECONDS = 120.0
"""Of a load whose requests are counted: only a broken run takes so long."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_authority(tmp_path_factory.mktemp("certificate"), "localhost")


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["cleartext", "tls"])
def settings(request: pytest.FixtureRequest, loop: str, certificate: Pair) -> dict[str, Any]:
    own = {"workers": 2, "keepalive": 60, "graceful_timeout": 60, "options": {"lame_duck": 10.0}}
    if len(LOOPS) > 1:
        own["asgi_loop"] = loop
    return {
        **own,
        **(certificate._asdict() if request.param else {"http2_cleartext": "prior-knowledge"}),
    }


def load(server: Gunicorn, **given: Any) -> Load:
    tls = client_context(protocols=["h2"]) if server.scheme == "https" else None
    return Load(server.address, tls=tls, **given)


def check(server: Gunicorn, tally: Tally, workers: int) -> None:
    """Nothing is lost, at least so many workers have answered, and nobody had to complain."""
    assert not tally.losses, "\n".join([str(tally), *map(str, tally.losses[:20])])
    assert tally.answered
    assert tally.announced
    assert len(tally.pids) >= workers
    assert not server.lines("ERROR|CRITICAL|WARNING|Traceback")


def test_no_request_is_lost_at_hup(tmp_path: Path, settings: dict[str, Any]) -> None:
    with Gunicorn.with_http2(tmp_path, "answering:app", **settings) as server:
        with load(server) as clients:
            turnover.reload(server.pid, clients, 2)
            tally = clients.stop()
        check(server, tally, 4)


def test_no_request_is_lost_at_max_requests(tmp_path: Path, settings: dict[str, Any]) -> None:
    with Gunicorn.with_http2(
        tmp_path,
        "answering:app",
        max_requests=300,
        max_requests_jitter=100,
        # So that many workers leave within few requests.
        **{**settings, "options": {**settings.get("options", {}), "handover": False}},
    ) as server:
        with load(server, requests=2000) as clients:
            tally = clients.wait(SECONDS)
        assert tally.requests >= 2000
        check(server, tally, 4)
