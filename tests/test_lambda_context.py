"""The context of an invocation of AWS Lambda: the same to an application as that of AWS's own runtime."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from gunicorn_asgi.aws_lambda.context import LambdaContext
from gunicorn_asgi.aws_lambda.invocation import Invocation
from gunicorn_asgi.errors import EventError

ENVIRON = {
    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/my-function",
    "AWS_LAMBDA_LOG_STREAM_NAME": "2020/01/31/[$LATEST]3893xmpl7fac4485b47bb75b671a283c",
    "AWS_LAMBDA_FUNCTION_NAME": "my-function",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
}
ARN = "arn:aws:lambda:us-east-2:123456789012:function:my-function"
CLIENT = {
    "client": {
        "installation_id": "i",
        "app_title": "t",
        "app_version_name": "1.0",
        "app_version_code": "1",
        "app_package_name": "p",
        "other": "x",
    },
    "custom": {"a": 1},
    "env": {"locale": "en_US"},
    "w3c": {"traceparent": "00-1-2-3", "tracestate": 1, "other": "x"},
}
IDENTITY = {"cognitoIdentityId": "us-east-1:1", "cognitoIdentityPoolId": "us-east-1:2"}


def invocation(**changes: Any) -> Invocation:
    given: dict[str, Any] = {
        "payload": b"{}",
        "request_id": "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
        "deadline_ms": int(time.time() * 1000) + 60_000,
    }
    return Invocation(**given | changes)


def test_the_context_has_the_headers_of_the_invocation() -> None:
    context = LambdaContext(
        invocation(function_arn=ARN, tenant_id="tenant", trace_id="Root=1-2-3"), ENVIRON
    )
    assert context.aws_request_id == "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
    assert context.invoked_function_arn == ARN
    assert context.tenant_id == "tenant"
    assert context.trace_id == "Root=1-2-3"


def test_the_context_has_the_function_from_the_environment() -> None:
    context = LambdaContext(invocation(), ENVIRON)
    assert context.function_name == "my-function"
    assert context.function_version == "$LATEST"
    assert context.memory_limit_in_mb == "128"
    assert context.log_group_name == "/aws/lambda/my-function"
    assert context.log_stream_name == "2020/01/31/[$LATEST]3893xmpl7fac4485b47bb75b671a283c"


def test_what_is_not_given_is_none() -> None:
    context = LambdaContext(invocation(), {})
    assert context.function_name is context.memory_limit_in_mb is context.log_group_name is None
    assert context.invoked_function_arn is context.tenant_id is context.trace_id is None
    assert context.client_context is None
    assert context.identity.cognito_identity_id is None
    assert context.identity.cognito_identity_pool_id is None
    assert context.w3c() == {}


def test_the_client_context_is_the_callers() -> None:
    context = LambdaContext(invocation(client_context=json.dumps(CLIENT)), {})
    assert context.client_context is not None
    assert context.client_context.custom == {"a": 1}
    assert context.client_context.env == {"locale": "en_US"}
    client = context.client_context.client
    assert client is not None
    assert (client.installation_id, client.app_title) == ("i", "t")
    assert (client.app_version_name, client.app_version_code) == ("1.0", "1")
    assert client.app_package_name == "p"
    assert context.w3c() == {"traceparent": "00-1-2-3"}


def test_the_identity_is_that_of_cognito() -> None:
    context = LambdaContext(invocation(cognito_identity=json.dumps(IDENTITY)), {})
    assert context.identity.cognito_identity_id == "us-east-1:1"
    assert context.identity.cognito_identity_pool_id == "us-east-1:2"


@pytest.mark.parametrize("field", ["client_context", "cognito_identity"])
def test_null_stands_for_no_object(field: str) -> None:
    context = LambdaContext(invocation(**{field: "null"}), {})
    assert context.client_context is None
    assert context.identity.cognito_identity_id is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"client_context": "{"}, "The client context is not valid JSON: "),
        (
            {"client_context": "[" * 100_000},
            "The client context is not valid JSON: nested too deep",
        ),
        ({"client_context": "[]"}, "The client context is not an object of JSON"),
        ({"client_context": '{"client": 1}'}, "The client of the client context is not an object"),
        ({"cognito_identity": "x"}, "The Cognito identity is not valid JSON: "),
        ({"cognito_identity": '""'}, "The Cognito identity is not an object of JSON"),
    ],
)
def test_what_is_no_object_of_json_is_refused(changes: dict[str, str], reason: str) -> None:
    with pytest.raises(EventError, match=f"^{reason}"):
        LambdaContext(invocation(**changes), {})


def test_the_remaining_time_is_that_until_the_deadline() -> None:
    before = int(time.time() * 1000)
    remaining = LambdaContext(
        invocation(deadline_ms=before + 60_000), {}
    ).get_remaining_time_in_millis()
    after = int(time.time() * 1000)
    assert 60_000 - (after - before) - 1 <= remaining <= 60_000 + 1


def test_no_time_remains_after_the_deadline() -> None:
    assert LambdaContext(invocation(deadline_ms=1), {}).get_remaining_time_in_millis() == 0


def test_log_writes_a_line_to_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    LambdaContext(invocation(), {}).log("a line")
    assert capfd.readouterr().out == "a line\n"


def test_repr_shows_the_attributes() -> None:
    shown = repr(LambdaContext(invocation(function_arn=ARN), ENVIRON))
    assert shown.startswith("LambdaContext(aws_request_id='8476a536-")
    assert f"invoked_function_arn='{ARN}'" in shown
    assert "_deadline" not in shown


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from([*CLIENT, "traceparent", *IDENTITY]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=examples(200), deadline=None)
@given(JSON.map(json.dumps) | st.text(max_size=6), JSON.map(json.dumps) | st.text(max_size=6))
def test_any_text_makes_a_context_or_is_refused(client_context: str, identity: str) -> None:
    made = invocation(client_context=client_context, cognito_identity=identity)
    try:
        context = LambdaContext(made, {})
    except EventError:
        return
    assert repr(context)
    assert all(type(value) is str for value in context.w3c().values())


@pytest.mark.parametrize("client_context", ["", json.dumps(CLIENT), '{"client": null}', "{}"])
@pytest.mark.parametrize("identity", ["", json.dumps(IDENTITY), "{}"])
def test_the_attributes_are_those_of_awss_own_runtime(
    client_context: str, identity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pytest.importorskip("awslambdaric.lambda_context")
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    deadline = int(time.time() * 1000) + 60_000
    theirs = module.LambdaContext(
        "id",
        json.loads(client_context) if client_context else None,
        json.loads(identity) if identity else None,
        deadline,
        ARN,
        "tenant",
    )
    ours = LambdaContext(
        invocation(
            request_id="id",
            deadline_ms=deadline,
            function_arn=ARN,
            tenant_id="tenant",
            client_context=client_context,
            cognito_identity=identity,
        )
    )
    assert public(theirs) == public(ours)
    if hasattr(theirs, "w3c"):
        assert theirs.w3c() == ours.w3c()


def public(value: Any) -> Any:
    """The attributes of a context, and of the objects in it, as dicts."""
    names = getattr(type(value), "__slots__", None) or vars(value)
    attributes = {name: getattr(value, name) for name in names}
    return {
        name: public(inner) if hasattr(inner, "__slots__") or hasattr(inner, "__dict__") else inner
        for name, inner in attributes.items()
        if name[0] != "_" and name != "trace_id"
    }
