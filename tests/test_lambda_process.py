"""The process of a function of AWS Lambda: its end, a start that fails, and a Runtime API that fails (`gunicorn_asgi.aws_lambda.worker`)."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from lambda_function import Function, told
from lambda_runtime import RuntimeAPI
from process import NOTE, poll

pytestmark = pytest.mark.gunicorn

HOOKS = (
    NOTE
    + """
def worker_exit(server, worker):
    note("worker_exit")
"""
)


# The end.


@pytest.mark.smoke
def test_term_ends_an_idle_function_at_once(tmp_path: Path) -> None:
    with Function(tmp_path, config=HOOKS) as function:
        assert function.is_well()
        function.api.wait_for_pollers()
        begun = time.monotonic()
        function.server.kill(signal.SIGTERM)
        function.server.wait_for_event("shutdown")
        # Lambda kills it after 300 ms. Here, other tests may take the processors meanwhile.
        took = time.monotonic() - begun
        assert took < 2, took
        assert function.server.wait() == 0
        assert function.server.events.count("startup") == 1
        assert function.server.events[-2:] == ["shutdown", "worker_exit"]
        print(f"lifespan.shutdown came {took * 1000:.0f} ms after TERM")


def test_term_lets_a_running_invocation_finish_and_takes_no_other(tmp_path: Path) -> None:
    with Function(tmp_path, concurrency=2) as function:
        invocation = function.begin("/gated")
        function.server.wait_for_event("begun")
        function.api.wait_for_pollers(1)
        function.server.kill(signal.SIGTERM)
        function.api.wait_for_pollers(0)
        assert "shutdown" not in function.server.events
        function.open("gated")
        assert invocation.wait().status == 200
        assert function.server.wait() == 0
        assert function.server.events == ["startup", "begun", "answered", "shutdown"]


def test_quit_cancels_a_running_invocation_and_answers_it(tmp_path: Path) -> None:
    with Function(tmp_path) as function:
        invocation = function.begin("/gated")
        function.server.wait_for_event("begun")
        function.server.kill(signal.SIGQUIT)
        result = invocation.wait()
        assert result.kind == "error" or result.status in (500, 503)
        assert function.server.wait() == 0
        assert function.server.events == ["startup", "begun", "gated cancelled", "shutdown"]


def test_graceful_timeout_limits_a_running_invocation(tmp_path: Path) -> None:
    with Function(tmp_path, graceful_timeout=1) as function:
        invocation = function.begin("/sleep")
        poll(lambda: invocation.deadline_ms)
        function.server.kill(signal.SIGTERM)
        result = invocation.wait()
        assert result.kind == "error" or result.status in (500, 503)
        assert function.server.wait() == 0
        assert function.server.events == ["startup", "cancelled", "shutdown"]


def test_a_running_application_is_told_before_graceful_timeout_cancels_it(tmp_path: Path) -> None:
    with Function(tmp_path, graceful_timeout=2) as function:
        function.begin("/asked_to_end")
        function.server.wait_for_event("begun")
        function.server.kill(signal.SIGTERM)
        assert function.server.wait() == 0
        assert function.server.events == ["startup", "begun", "asked to end", "shutdown"]


def test_request_timeout_limits_an_invocation(tmp_path: Path) -> None:
    with Function(tmp_path, options={"request_timeout": 0.1}) as function:
        result = function.ask("/gated", timeout_s=600)
        assert (result.kind, result.status) == ("response", 503)
        function.server.wait_for_event("gated cancelled")
        assert function.is_well()


@pytest.mark.parametrize("name", ["on_event", "on_event_async"])
def test_a_function_that_ends_its_process_is_a_failure_and_the_worker_is_replaced(
    tmp_path: Path, name: str
) -> None:
    options = {"lambda_event_function": f"lambda_app:{name}"}
    with Function(tmp_path, options=options) as function:
        first = function.server.workers()
        result = function.api.invoke({"exit": True})
        assert (result.kind, result.error_type) == ("error", "SystemExit")
        poll(lambda: function.server.workers() not in ([], first))
        assert function.is_well()


def test_an_application_that_ends_its_process_is_answered_and_replaced(tmp_path: Path) -> None:
    with Function(tmp_path) as function:
        result = function.ask("/leave")
        assert result.kind == "error" or result.status == 500
        assert function.is_well()
        assert function.server.running


def test_a_worker_that_is_old_leaves_after_its_next_invocation(tmp_path: Path) -> None:
    """An invocation may be handed out at any time: a poll cannot be taken back."""
    with Function(tmp_path, options={"max_lifetime": 0.1}) as function:
        first = function.server.workers()
        function.server.wait_for("Autorestarting worker: max_lifetime is reached")
        for _ in range(3):
            assert function.is_well()
        poll(lambda: function.server.workers() not in ([], first))
        assert len(function.server.lines("Autorestarting worker: max_lifetime")) <= 3


# A start that fails.


def failed(function: Function, code: int) -> str:
    """Wait for the end of a Gunicorn that does not start. Returns all that it has said."""
    assert function.server.wait() == code
    assert not function.api.requests[1:], function.api.requests
    return function.server.log + function.server.output


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("app", "code"), [("missing_module:app", 3), ("lambda_app:missing_name", 4)]
)
def test_an_application_that_is_not_there_is_told_to_lambda(
    tmp_path: Path, app: str, code: int
) -> None:
    with Function(tmp_path, app, wait=False) as function:
        error = function.api.wait_for_init_error()
        assert error.error_type
        assert app.rsplit("_", maxsplit=1)[-1].partition(":")[0] in error.body["errorMessage"]
        assert error.body["errorMessage"] in failed(function, code)


def test_an_import_that_raises_is_told_to_lambda(tmp_path: Path) -> None:
    (tmp_path / "statement").write_text("raise LookupError('the application\\'s own')")
    env = {"TEST_IMPORT": str(tmp_path / "statement")}
    with Function(tmp_path, "broken:app", env=env, wait=False) as function:
        error = function.api.wait_for_init_error()
        assert error.error_type == "LookupError"
        assert error.body["errorMessage"] == "the application's own"
        assert "LookupError" in failed(function, 3)


def test_a_failed_lifespan_is_told_to_lambda(tmp_path: Path) -> None:
    with Function(tmp_path, env={"TEST_STARTUP": "fails"}, wait=False) as function:
        assert "no database" in function.api.wait_for_init_error().body["errorMessage"]
        assert "no database" in failed(function, 3)


def test_a_function_for_other_events_that_is_not_there_is_told_to_lambda(tmp_path: Path) -> None:
    options = {"lambda_event_function": "lambda_app:missing"}
    with Function(tmp_path, options=options, wait=False) as function:
        message = function.api.wait_for_init_error().body["errorMessage"]
        assert "lambda_event_function" in message
        assert "lambda_app:missing" in message
        assert message in failed(function, 3)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"timeout": 30}, ("timeout", "30", "must be 0")),
        ({"workers": 2}, ("workers", "2", "must be 1")),
        ({"options": {"metrics_bind": "127.0.0.1:0"}}, ("metrics_bind", "must be empty")),
        ({"options": {"lambda_response_mode": "x"}}, ("lambda_response_mode", "'x'", "buffered")),
        (
            {"env": {"AWS_LAMBDA_MAX_CONCURRENCY": "0"}},
            ("AWS_LAMBDA_MAX_CONCURRENCY", "'0'", "integer"),
        ),
        (
            {"env": {"AWS_LAMBDA_MAX_CONCURRENCY": "many"}},
            ("AWS_LAMBDA_MAX_CONCURRENCY", "'many'", "integer"),
        ),
        ({"env": {"AWS_LAMBDA_RUNTIME_API": "host"}}, ("AWS_LAMBDA_RUNTIME_API", "'host'")),
        ({"env": {"AWS_LAMBDA_RUNTIME_API": ""}}, ("AWS_LAMBDA_RUNTIME_API", "LambdaWorker")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_work_is_one_sentence(
    tmp_path: Path, given: dict[str, Any], names: tuple[str, ...]
) -> None:
    with Function(tmp_path, wait=False, **given) as function:
        said = failed(function, 1)
        (line,) = [line for line in said.splitlines() if names[0] in line]
        assert all(name in line for name in names), line
        assert "Traceback" not in said
        if "AWS_LAMBDA_RUNTIME_API" not in given.get("env", {}):
            message = function.api.wait_for_init_error().body["errorMessage"]
            assert message in line


def test_a_failed_start_ends_gunicorn_although_lambda_cannot_be_told(tmp_path: Path) -> None:
    with RuntimeAPI() as gone:
        gone.close()
        with Function(tmp_path, "missing:app", address=gone.address, wait=False) as function:
            assert "No module named 'missing'" in failed(function, 3)


def test_a_failed_start_ends_gunicorn_although_lambda_does_not_answer(tmp_path: Path) -> None:
    function = Function(tmp_path, "missing:app", wait=False)
    function.api.hold("init")
    with function:
        assert "No module named 'missing'" in failed(function, 3)


def test_a_replacement_that_does_not_start_ends_gunicorn(tmp_path: Path) -> None:
    """Lambda is not told: /init/error is only for the time before the first invocation."""
    statement = tmp_path / "statement"
    statement.write_text("")
    env = {"TEST_IMPORT": str(statement)}
    with Function(tmp_path, "broken:app", env=env, max_requests=1) as function:
        statement.write_text("raise LookupError('the application\\'s own')")
        assert function.ask("/").kind == "response"
        assert function.server.wait() == 3
        assert function.server.lines("LookupError: the application's own")


# A Runtime API that fails.


def ended(function: Function) -> str:
    """Wait for the end of a Gunicorn whose Runtime API fails. Returns its sentence."""
    assert function.server.wait() == 3
    (line,) = function.server.lines("Runtime API")
    assert "Traceback" not in function.server.log
    assert function.server.events[-1] == "shutdown"
    return line


def test_a_runtime_api_that_cannot_be_reached_ends_gunicorn(tmp_path: Path) -> None:
    with RuntimeAPI() as gone:
        gone.close()
        with Function(tmp_path, address=gone.address, wait=False) as function:
            assert gone.address in ended(function)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_runtime_api_that_has_gone_ends_gunicorn(tmp_path: Path, concurrency: int) -> None:
    with Function(tmp_path, concurrency=concurrency) as function:
        assert function.is_well()
        function.api.wait_for_pollers(concurrency)
        function.api.close()
        assert function.api.address in ended(function)


@pytest.mark.parametrize(
    ("status", "word"), [(500, "500"), (403, "403"), (0, "invalid")], ids=["500", "403", "garbage"]
)
def test_a_runtime_api_that_answers_no_poll_ends_gunicorn(
    tmp_path: Path, status: int, word: str
) -> None:
    with Function(tmp_path) as function:
        function.api.wait_for_pollers()
        if status:
            function.api.refuse("next", status, times=100)
        else:
            for _ in range(100):
                function.api.disturb("next", b"garbage\r\n\r\n")
        assert told(function.ask("/echo"))
        assert word in ended(function)
        polls = [line for line in function.api.requests if line.endswith("next")]
        assert len(polls) <= 3, "it polls again and again"


@pytest.mark.parametrize("mode", ["buffered", "streaming"])
def test_a_runtime_api_that_answers_a_result_with_500_ends_gunicorn(
    tmp_path: Path, mode: str
) -> None:
    """AWS, "Invocation response": a container error, after which the runtime should exit promptly."""
    with Function(tmp_path, options={"lambda_response_mode": mode}) as function:
        function.api.wait_for_pollers()
        function.api.refuse("response", 500)
        assert function.ask("/echo").kind == "lost"
        assert "the result was answered with 500" in ended(function)


def test_what_the_application_prints_is_in_the_log_before_the_environment_may_be_frozen(
    tmp_path: Path,
) -> None:
    """AWS's own runtime does not buffer stdout either."""
    with Function(tmp_path, env={"PYTHONUNBUFFERED": ""}) as function:
        function.ask("/printing")
        function.api.wait_for_pollers()
        assert "printed by the application\n" in function.server.output
