"""What applications change of their process, and what the worker says of it (see `gunicorn_asgi.process.interference`)."""

from __future__ import annotations

import importlib.util
import logging
import signal
from pathlib import Path
from typing import Any

import pytest
from process import LOOPS, Gunicorn, poll

from gunicorn_asgi.process.interference import InterferenceWatch

DISPLACED = r"\[WARNING\] The application, or a hook, has replaced the worker's handler of SIGTERM with .+\. Unless that calls the handler it has replaced, "
BEATS = {"timeout": 1}
"""The process is looked at four times a second."""


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.gunicorn
@pytest.mark.smoke
@pytest.mark.parametrize("way", ["signal_module", "loop_method"])
def test_a_signal_handler_of_the_application_is_told_of_once(
    tmp_path: Path, loop: str, way: str
) -> None:
    with Gunicorn(tmp_path, "meddling:app", asgi_loop=loop, **BEATS) as server:
        assert not server.lines(DISPLACED)
        server.get(f"/{way}")
        server.wait_for(DISPLACED)
        server.get("/signal_module")  # in place of the other one
        server.get("/logging_module")
        poll(lambda: server.output, "what is said a few looks later")
        assert len(server.lines(DISPLACED)) == 1
        # QUIT is still the worker's.
        assert server.stop(signal.SIGQUIT) == 0
        assert not server.lines("was sent")


@pytest.mark.gunicorn
def test_a_handler_that_calls_the_worker_s_own_drains_it(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, "meddling:app", **BEATS) as server:
        server.get("/chained")
        server.wait_for(DISPLACED)
        assert server.stop() == 0
        assert server.events == ["handler"]
        assert not server.lines("was sent")


@pytest.mark.gunicorn
def test_loggers_that_the_application_has_disabled_are_named_once_on_stderr(tmp_path: Path) -> None:
    with Gunicorn(
        tmp_path, "meddling:app", accesslog=str(tmp_path / "access.log"), **BEATS
    ) as server:
        server.get("/logging_module")
        poll(lambda: "gunicorn.access" in server.output, "the sentence on stderr")
        server.get("/logging_module")
        assert server.stop() == 0
        assert server.output.splitlines() == [
            f"gunicorn_asgi: the application's logging configuration has disabled the logger gunicorn.{name}, so that its lines "
            "are lost; set disable_existing_loggers to False there"
            for name in ("error", "access")
        ]


class Gone:
    """A stderr that nobody reads."""

    def write(self, _: str) -> int:
        raise BrokenPipeError

    flush = write


@pytest.mark.parametrize("stderr", [None, Gone()])
def test_a_stderr_that_cannot_be_written_to_does_not_end_the_heartbeat(stderr: Any) -> None:
    class Log:
        error_log = logging.getLogger("test of a disabled logger")

        def warning(self, message: str, *args: object) -> None:
            raise AssertionError(message)

    Log.error_log.disabled = True
    watch = InterferenceWatch({}, Log(), stderr)
    watch.look()
    watch.look()


@pytest.mark.gunicorn
@pytest.mark.smoke
@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed")
@pytest.mark.parametrize("reload", [False, True])
def test_an_application_that_is_patched_for_gevent_stops_the_boot_with_one_sentence(
    tmp_path: Path, reload: bool
) -> None:
    with Gunicorn(
        tmp_path, "meddling:app", env={"TEST_MEDDLE": "gevent"}, wait=False, reload=reload
    ) as server:
        assert server.wait() == 3
        assert server.lines(
            r"\[ERROR\] The application has called gevent\.monkey\.patch_all\(\), and no asyncio event loop runs on what that replaces: "
            r"remove the call, or serve the application with worker_class gevent\.$"
        )
        assert len(server.lines("Booting worker")) == 1
        assert "Traceback" not in server.log + server.output
