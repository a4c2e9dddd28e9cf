"""AWS's own runtime for Python (awslambdaric), with Mangum, on the stand-in of the Runtime API: a check of the stand-in.

It passes all of the stand-in's rules but one: its errors have no ``Lambda-Runtime-Function-Error-Type``.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lambda_events as events
import pytest
from lambda_function import run_runtime
from lambda_runtime import FUNCTION_ARN, InitError, RuntimeAPI
from process import APPS, DEADLINE

pytest.importorskip("awslambdaric")
pytest.importorskip("mangum")


@contextmanager
def ric(
    api: RuntimeAPI, directory: Path, handler: str, **env: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run awslambdaric."""
    command = [sys.executable, "-m", "awslambdaric", handler]
    env = {"TEST_EVENTS": str(directory / "events"), **env}
    with run_runtime(api, command, APPS, directory / "output", env) as process:
        yield process


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeAPI]:
    """The stand-in, polled by awslambdaric with Mangum."""
    with (
        RuntimeAPI(demands_error_type=False) as api,
        ric(api, tmp_path_factory.mktemp("ric"), "lambda_mangum.handler") as process,
    ):
        yield api
        api.wait_for_pollers()
        assert process.poll() is None


@pytest.mark.parametrize("make", events.HTTP_EVENTS.values(), ids=events.HTTP_EVENTS)
def test_a_request_is_answered(api: RuntimeAPI, make: events.MakeEvent) -> None:
    result = api.invoke(make(path="/echo", query="a=b"), invocation_id=False)
    assert (result.kind, result.status) == ("response", 200)
    told = json.loads(result.body)
    assert (told["path"], told["query_string"]) == ("/echo", "a=b")
    assert told["context"]["invoked_function_arn"] == FUNCTION_ARN


def test_a_body_of_bytes_goes_in_and_out(api: RuntimeAPI) -> None:
    wanted = {"status": 201, "headers": [["content-type", "image/png"]], "parts": ["iVBORw=="]}
    event = events.http_v2(method="POST", path="/respond", body=json.dumps(wanted).encode())
    event |= {"body": base64.b64encode(event["body"].encode()).decode(), "isBase64Encoded": True}
    result = api.invoke(event)
    assert (result.status, result.body) == (201, b"\x89PNG")
    assert result.json["isBase64Encoded"] is True


def test_a_large_event_and_a_large_response_pass(api: RuntimeAPI) -> None:
    parts = [base64.b64encode(bytes(3_000_000)).decode()]
    wanted = {"status": 200, "headers": [["content-type", "image/png"]], "parts": parts}
    event = events.http_v2(method="POST", path="/respond", body=json.dumps(wanted).encode())
    assert len(api.invoke(event).body) == 3_000_000


def test_an_exception_is_mangums_500_and_the_next_invocation_works(api: RuntimeAPI) -> None:
    assert api.invoke(events.http_v2(path="/fail")).status == 500
    assert api.invoke(events.http_v2(path="/echo")).status == 200


def test_an_event_that_is_no_request_is_an_error(api: RuntimeAPI) -> None:
    result = api.invoke(events.sqs())
    assert (result.kind, result.error_body["errorType"]) == ("error", "RuntimeError")


def test_an_event_that_is_no_json_is_an_error(api: RuntimeAPI) -> None:
    result = api.invoke(b"no json")
    assert result.error_body["errorType"] == "Runtime.UnmarshalError"


@pytest.mark.parametrize("trace_id", ["Root=1-5e66d96f-7491f09xmpl79d18acf3d050", None])
def test_the_trace_is_in_the_environment(api: RuntimeAPI, trace_id: str | None) -> None:
    api.invoke(events.http_v2(path="/echo"), trace_id="Root=2")
    told = json.loads(api.invoke(events.http_v2(path="/echo"), trace_id=trace_id).body)
    assert told["trace"] == trace_id


def test_the_context_comes_from_the_headers(api: RuntimeAPI) -> None:
    result = api.invoke(
        events.http_v2(path="/echo"),
        timeout_s=20,
        client_context='{"custom": {"key": "value"}}',
        cognito_identity='{"cognitoIdentityId": "id"}',
        tenant_id="tenant",
    )
    context = json.loads(result.body)["context"]
    assert 0 < context["remaining_ms"] <= 20_000
    assert (context["custom"], context["identity"]) == ({"key": "value"}, "id")
    assert context["tenant_id"] == "tenant"


def test_a_failed_import_is_told_and_ends_the_process(tmp_path: Path) -> None:
    with RuntimeAPI() as api, ric(api, tmp_path, "missing_module.handler") as process:
        assert api.wait_for_init_error() == InitError(
            "Runtime.ImportModuleError",
            {
                "errorMessage": "Unable to import module 'missing_module': No module named 'missing_module'",
                "errorType": "Runtime.ImportModuleError",
                "requestId": "",
                "stackTrace": [],
            },
        )
        assert process.wait(DEADLINE) == 1


def test_a_handlers_exception_is_an_error(tmp_path: Path) -> None:
    with (
        RuntimeAPI(demands_error_type=False) as api,
        ric(api, tmp_path, "lambda_mangum.raises", AWS_LAMBDA_INITIALIZATION_TYPE="snap-start"),
    ):
        result = api.invoke({})
        assert (result.kind, result.error_body["errorType"]) == ("error", "ValueError")
        assert result.error_body["stackTrace"]
        assert api.is_restored
        api.wait_for_pollers()
