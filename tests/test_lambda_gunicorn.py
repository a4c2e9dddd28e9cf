"""The worker for AWS Lambda in a running Gunicorn, on the stand-in of the Runtime API (`gunicorn_asgi.aws_lambda`).

The stand-in notes each rule of the Runtime API that the worker breaks. Every test here fails if there is one.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import lambda_events as events
import pytest
from lambda_function import Function, looped, told
from lambda_runtime import FUNCTION_ARN, INTEGRATION_TYPE
from process import (
    DEADLINE,
    NOTE,
    Gunicorn,
    poll,
)

pytestmark = [pytest.mark.gunicorn, pytest.mark.any_version]

SOON_MS = 900
"""The time that an invocation has in tests of its deadline."""
FROZEN_SECONDS = 2.5
"""Longer than anything here that looks at a clock: a heartbeat, a kept connection."""
HOOKS = (
    NOTE
    + """
def pre_request(worker, req):
    note("pre_request", req.method, req.path)

def post_request(worker, req, environ, resp):
    note("post_request", req.path, resp.status_code)
"""
)
GATEWAYS = tuple(events.HTTP_EVENTS)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    directory = tmp_path_factory.mktemp("buffered")
    with Function(
        directory,
        config=HOOKS,
        accesslog=str(directory / "access.log"),
        access_log_format='%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s %({aws_request_id}e)s',
        options={
            "lambda_event_function": "lambda_app:on_event_async",
            "lambda_text_types": "application/x-ours",
        },
        **looped(0),
    ) as function:
        yield function
        assert function.server.stop() == 0


@pytest.fixture
def buffered(shared: Function) -> Iterator[Function]:
    """A function whose responses are buffered."""
    shared.api.wait_for_pollers()
    yield shared
    shared.settle()


@pytest.fixture(scope="module")
def shared_streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    with Function(
        tmp_path_factory.mktemp("streaming"),
        options={
            "lambda_response_mode": "streaming",
            "lambda_event_function": "lambda_app:on_event",
            "lambda_base_path": "",
        },
        forwarded_allow_ips="*",
        **looped(-1),
    ) as function:
        yield function
        assert function.server.stop() == 0


@pytest.fixture
def streaming(shared_streaming: Function) -> Iterator[Function]:
    """A function whose responses are streamed."""
    shared_streaming.api.wait_for_pollers()
    yield shared_streaming
    shared_streaming.settle()


# Requests.


@pytest.mark.smoke
@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_request_of_each_gateway_reaches_the_application(
    buffered: Function, gateway: str
) -> None:
    begun = time.time()
    invocation = buffered.begin(
        "/echo/a%20b",
        gateway,
        method="PUT",
        query="a=1&b=x%20y&b=%C3%A9",
        headers=[("x-one", "1"), ("content-type", "application/octet-stream")],
        cookies=("c=1", "d=2"),
        body=b"\xff\x00body",
    )
    request = told(invocation.wait())
    prefix = "/prod" if gateway.startswith("rest") else ""
    assert request["type"] == "http"
    assert request["method"] == "PUT"
    assert request["path"] == f"{prefix}/echo/a b"
    assert request["raw_path"] == f"{prefix}/echo/a%20b"
    assert request["root_path"] == prefix
    query = parse_qsl(request["query_string"])
    several = [("a", "1"), ("b", "x y"), ("b", "é")]
    assert query in (several, [several[0], several[2]]) if is_single(gateway) else query == several
    headers = dict(request["headers"])
    assert len(headers) == len(request["headers"])
    assert headers["x-one"] == "1"
    assert headers["cookie"] == "c=1; d=2"
    assert headers["x-forwarded-for"] == events.SOURCE_IP
    assert request["client"] == [events.SOURCE_IP, 0]
    assert request["server"] == [headers["host"], 443]
    assert request["scheme"] == "https"
    assert request["http_version"] == "1.1"
    assert base64.b64decode(request["body"]) == b"\xff\x00body"
    assert request["event"] == json.loads(invocation.payload)
    context = request["context"]
    assert context["aws_request_id"] == invocation.id
    assert context["invoked_function_arn"] == FUNCTION_ARN
    assert 0 < context["remaining_ms"] <= (begun + DEADLINE + 10) * 1000
    assert request["state"] == {"greeting": "hello"}


def is_single(gateway: str) -> bool:
    """Whether its events have one value of each name."""
    return gateway in ("rest_v1_single", "alb")


def test_only_what_lambda_can_send_is_in_the_extensions(
    buffered: Function, streaming: Function
) -> None:
    for function in (buffered, streaming):
        request = told(function.ask("/echo"))
        assert request["extensions"] == ["http.response.pathsend", "http.response.zerocopysend"]


def test_the_context_has_what_the_client_and_the_tenant_sent(buffered: Function) -> None:
    context = told(
        buffered.ask(
            "/echo",
            client_context='{"custom": {"key": "value"}}',
            cognito_identity='{"cognitoIdentityId": "id", "cognitoIdentityPoolId": "pool"}',
            tenant_id="tenant",
        )
    )["context"]
    assert (context["custom"], context["identity"]) == ({"key": "value"}, "id")
    assert context["tenant_id"] == "tenant"


def test_the_trace_is_in_the_environment_and_in_the_context(buffered: Function) -> None:
    request = told(buffered.ask("/echo", trace_id="Root=1;Sampled=1"))
    assert (request["trace"], request["context"]["trace_id"]) == ("Root=1;Sampled=1",) * 2
    request = told(buffered.ask("/echo", trace_id=None))
    assert request["trace"] is None
    assert not request["context"]["trace_id"]


def test_the_stage_is_the_root_path_unless_the_option_says_otherwise(
    buffered: Function, streaming: Function
) -> None:
    request = told(buffered.ask("/echo", "http_v2", stage="prod"))
    assert (request["path"], request["root_path"]) == ("/prod/echo", "/prod")
    request = told(streaming.ask("/echo", "rest_v1", stage="prod"))
    assert (request["path"], request["root_path"]) == ("/echo", "")


def test_a_client_behind_a_trusted_proxy_is_the_one_that_the_proxy_names(
    buffered: Function, streaming: Function
) -> None:
    forwarded = [("x-forwarded-for", "198.51.100.1, 198.51.100.2")]
    for gateway in ("rest_v1", "http_v2", "alb"):
        # The peer of a load balancer is what it has added to the header.
        peer = "198.51.100.2" if gateway == "alb" else events.SOURCE_IP
        for function, client in ((buffered, peer), (streaming, "198.51.100.1")):
            request = told(function.ask("/echo", gateway, headers=forwarded))
            assert request["client"] == [client, 0], gateway


def test_a_request_that_breaks_http_is_refused_without_the_application(
    buffered: Function, streaming: Function
) -> None:
    for function in (buffered, streaming):
        before = len(function.server.log.splitlines())
        result = function.ask("/echo", method="HEAD", headers=[("host", "a b")])
        assert (result.status, result.body) == (400, b"")
        (line,) = function.server.log.splitlines()[before:]
        assert "Invalid" in line
        assert events.SOURCE_IP in line


def test_an_invocation_without_an_id_of_its_own_is_answered_without(
    buffered: Function, streaming: Function
) -> None:
    for function in (buffered, streaming):
        assert told(function.ask("/echo", invocation_id=False))
        assert function.api.invoke(b"no json", invocation_id=False).kind == "error"


def test_a_large_body_arrives_whole(buffered: Function) -> None:
    body = bytes(range(256)) * 4000
    request = told(buffered.ask("/echo", method="POST", body=body))
    assert base64.b64decode(request["body"]) == body


# Buffered responses.


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_each_gateway_gets_cookies_and_headers_in_its_own_place(
    buffered: Function, gateway: str
) -> None:
    headers = [
        ("content-type", "text/plain"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("x-one", "1"),
    ]
    result = buffered.respond(gateway, 201, headers, b"te", "xté".encode())
    assert (result.status, result.body) == (201, "texté".encode())
    answer = result.json
    assert not answer.get("isBase64Encoded")
    if gateway == "alb_multi_value":
        assert answer["multiValueHeaders"]["x-one"] == ["1"]
    else:
        assert answer["headers"]["x-one"] == "1"
    if gateway in ("http_v2", "function_url"):
        assert answer["cookies"] == ["a=1", "b=2"]
    elif gateway == "alb":
        assert [
            value for name, value in answer["headers"].items() if name.lower() == "set-cookie"
        ] == ["a=1", "b=2"]
    else:
        assert answer["multiValueHeaders"]["set-cookie"] == ["a=1", "b=2"]


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_bytes_go_out_as_base64(buffered: Function, gateway: str) -> None:
    result = buffered.respond(gateway, 200, [("content-type", "image/png")], b"\x89PNG")
    assert result.json["isBase64Encoded"] is True
    assert result.body == b"\x89PNG"


def test_the_content_type_and_the_coding_decide_about_base64(buffered: Function) -> None:
    for headers, is_coded in (
        ([("content-type", "application/json")], False),
        ([("content-type", "application/x-ours")], False),
        ([("content-type", "application/x-other")], True),
        ([("content-type", "text/plain"), ("content-encoding", "gzip")], True),
    ):
        result = buffered.respond("http_v2", 200, headers, b"body")
        assert bool(result.json.get("isBase64Encoded")) is is_coded, headers
        assert result.body == b"body"


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_head_and_204_have_no_body(buffered: Function, gateway: str) -> None:
    headers = [("content-type", "text/plain"), ("content-length", "4")]
    result = buffered.respond(gateway, 200, headers, b"body", method="HEAD")
    assert (result.status, result.body) == (200, b"")
    assert "content-length" in result.payload.decode()
    result = buffered.respond(gateway, 204)
    assert (result.status, result.body) == (204, b"")


@pytest.mark.parametrize("path", ["/fail", "/fail_started", "/fail_later"])
def test_an_application_that_raises_is_a_500_whatever_it_has_sent(
    buffered: Function, path: str
) -> None:
    before = len(buffered.server.lines("ValueError: the application's own"))
    result = buffered.ask(path)
    assert (result.kind, result.status) == ("response", 500)
    assert b"one" not in result.body
    assert b"own" not in result.body
    assert len(buffered.server.lines("ValueError: the application's own")) == before + 1
    assert buffered.is_well()


@pytest.mark.smoke
@pytest.mark.parametrize(("gateway", "limit"), [("http_v2", "6"), ("alb", "1")])
def test_a_response_over_the_limit_is_a_500_and_an_error_at_the_faulty_call(
    buffered: Function, gateway: str, limit: str
) -> None:
    before = len(buffered.server.events)
    assert buffered.ask("/large", gateway).status == 500
    (raised,) = [line for line in buffered.server.events[before:] if line.startswith("send raised")]
    # 64 KiB each: 16 are a mebibyte, 96 are six.
    assert re.fullmatch(r"send raised ApplicationError after \d+", raised)
    assert int(raised.split()[-1]) <= int(limit) * 16
    assert buffered.is_well()


def test_a_file_is_read_into_the_response_unless_it_is_too_large(
    buffered: Function, tmp_path: Path
) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "small").write_bytes(content)
    (tmp_path / "large").write_bytes(content * 3)
    result = buffered.ask("/file", query=f"path={tmp_path / 'small'}")
    assert (result.status, result.body) == (200, content)
    before = len(buffered.server.lines("ApplicationError"))
    assert buffered.ask("/file", query=f"path={tmp_path / 'large'}").status == 500
    sentences = buffered.server.lines("ApplicationError")[before:]
    assert len(sentences) == 1
    assert str(len(content) * 3) in sentences[0]


def test_the_response_leaves_before_the_background_task_and_the_next_event_comes_after_it(
    buffered: Function,
) -> None:
    before = buffered.server.events.count("background done")
    assert buffered.ask("/background").status == 202
    buffered.server.wait_for_event("background begun", before + 1)
    following = buffered.begin("/echo")
    # Its environment may be frozen as soon as it polls: it does not while the task runs.
    assert buffered.api.pollers == 0
    assert following.deadline_ms == 0
    buffered.open("background")
    told(following.wait())
    assert buffered.server.events.count("background done") == before + 1


def test_an_application_that_listens_after_its_response_is_told_of_the_end(
    buffered: Function, streaming: Function
) -> None:
    for function in (buffered, streaming):
        assert function.ask("/disconnected").status == 200
        function.server.wait_for_event("received http.disconnect")


# Streamed responses.


@pytest.mark.smoke
@pytest.mark.parametrize("gateway", ["rest_v1", "http_v2", "function_url"])
def test_each_part_of_a_streamed_response_leaves_when_it_is_sent(
    streaming: Function, gateway: str
) -> None:
    invocation = streaming.begin("/parts", gateway)
    for name in ("one", "two", "three"):
        assert name.encode() not in invocation.received
        streaming.open(name)
        invocation.wait_for(name.encode())
    result = invocation.wait()
    assert (result.kind, result.status, result.body) == ("streamed", 200, b"onetwothree")
    assert result.headers["content-type"] == INTEGRATION_TYPE
    assert not result.trailers


def test_a_load_balancers_response_is_buffered_all_the_same(streaming: Function) -> None:
    for gateway in ("alb", "alb_multi_value"):
        assert streaming.ask("/echo", gateway).kind == "response"


def test_the_prelude_has_headers_and_cookies_in_the_place_of_each_form(
    streaming: Function,
) -> None:
    headers = [("content-type", "text/plain"), ("set-cookie", "a=1"), ("set-cookie", "b=2")]
    prelude = streaming.respond("http_v2", 201, headers, b"text").prelude
    assert (prelude["statusCode"], prelude["cookies"]) == (201, ["a=1", "b=2"])
    assert prelude["headers"]["content-type"] == "text/plain"
    prelude = streaming.respond("rest_v1", 201, headers, b"text").prelude
    assert prelude["multiValueHeaders"]["set-cookie"] == ["a=1", "b=2"]
    assert prelude["headers"]["content-type"] == "text/plain"


def test_bytes_are_streamed_as_they_are(streaming: Function) -> None:
    result = streaming.respond("http_v2", 200, [("content-type", "image/png")], b"\x89", b"PNG")
    assert result.body == b"\x89PNG"


def test_streamed_head_and_204_have_no_body(streaming: Function) -> None:
    result = streaming.respond("http_v2", 200, [], b"body", method="HEAD")
    assert (result.kind, result.status, result.body) == ("streamed", 200, b"")
    result = streaming.respond("http_v2", 204)
    assert (result.kind, result.status, result.body) == ("streamed", 204, b"")


@pytest.mark.parametrize("path", ["/fail", "/fail_started"])
def test_an_application_that_raises_before_its_first_part_is_a_500(
    streaming: Function, path: str
) -> None:
    result = streaming.ask(path)
    assert result.status == 500
    assert not result.trailers
    assert streaming.is_well()


@pytest.mark.smoke
def test_trailers_tell_of_an_application_that_raises_after_a_part(streaming: Function) -> None:
    before = len(streaming.server.lines("ValueError: the application's own"))
    result = streaming.ask("/fail_later")
    assert (result.status, result.body) == (200, b"onetwo")
    assert result.error_type == "ValueError"
    assert result.error_body["errorType"] == "ValueError"
    assert len(streaming.server.lines("ValueError: the application's own")) == before + 1
    assert streaming.is_well()


def test_an_exception_without_a_text_is_a_failure_like_any_other(
    buffered: Function, streaming: Function
) -> None:
    before = len(buffered.server.lines("Error handling request"))
    assert buffered.ask("/fail_textless").status == 500
    assert len(buffered.server.lines("Error handling request")) == before + 1
    result = streaming.ask("/fail_textless")
    assert (result.body, result.error_type) == (b"one", "Textless")
    assert result.error_body["errorMessage"]


def test_a_long_message_fits_into_a_trailer(streaming: Function) -> None:
    result = streaming.ask("/fail_long")
    assert (result.body, result.error_type) == (b"one", "ValueError")
    assert result.error_body["errorMessage"].startswith("\U0001f40d" * 1000)


def test_an_application_goes_on_after_a_streamed_response_that_has_no_body(
    streaming: Function,
) -> None:
    before = streaming.server.events.count("five sent 4")
    begun = time.monotonic()
    assert streaming.ask("/five", method="HEAD").status == 200
    streaming.server.wait_for_event("five sent 4", before + 1)
    # Without room for more, its send() would wait for asgi_disconnect_grace_period.
    assert time.monotonic() - begun < 3


def test_a_lost_streamed_response_ends_its_invocation_although_the_application_goes_on(
    streaming: Function,
) -> None:
    invocation = streaming.begin("/endless", timeout_s=SOON_MS / 1000)
    invocation.wait_for(b"part")
    invocation.hang_up()
    assert invocation.wait().kind == "cut"
    assert streaming.is_well()
    streaming.open("endless")
    assert streaming.api.take_violations() == ["a request without its end"]


def test_an_application_waits_while_its_response_is_not_read(streaming: Function) -> None:
    before = len(streaming.server.events)
    invocation = streaming.begin("/flood", reads=False)

    def waits() -> list[str]:
        noted = streaming.server.events[before:]
        assert "sent all" not in noted, "64 MiB were sent that nobody has read"
        return [line for line in noted if line.startswith("send waits")]

    (waiting,) = poll(waits)
    assert int(waiting.split()[-1]) < 512
    invocation.reads.set()
    assert len(invocation.wait().body) == 1024 * 65536
    streaming.server.wait_for_event("sent all")


def test_a_file_of_any_size_is_streamed(streaming: Function, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 9
    (tmp_path / "large").write_bytes(content)
    result = streaming.ask("/file", query=f"path={tmp_path / 'large'}")
    assert (result.kind, result.body) == ("streamed", content)


def test_a_streamed_response_has_no_limit(streaming: Function) -> None:
    assert len(streaming.ask("/large").body) == 200 * 65536


def test_an_application_is_told_when_its_streamed_response_is_lost(streaming: Function) -> None:
    invocation = streaming.begin("/parts")
    streaming.open("one")
    invocation.wait_for(b"one")
    invocation.hang_up()
    streaming.open("two")
    streaming.open("three")
    assert invocation.wait().kind == "cut"
    assert streaming.is_well()
    assert streaming.api.take_violations() == ["a request without its end"]


def test_an_application_whose_streamed_response_is_lost_is_cancelled_after_the_grace_period(
    streaming: Function,
) -> None:
    invocation = streaming.begin("/parts", timeout_s=600)
    streaming.open("one")
    invocation.wait_for(b"one")
    invocation.hang_up()
    assert invocation.wait().kind == "cut"
    streaming.api.wait_for_pollers()  # long before the deadline, though its gate stays closed
    assert streaming.api.take_violations() == ["a request without its end"]


def test_one_connection_stays_after_streamed_responses(streaming: Function) -> None:
    for _ in range(10):
        assert streaming.is_well()
    streaming.api.wait_for_pollers()
    poll(lambda: streaming.api.connections == 1)


# Events that are no request, and such as are none at all.


@pytest.mark.parametrize(
    "payload",
    [
        b"no json",
        b"",
        b"\xff",
        b"[" * 100_000,
        pytest.param({**events.http_v2(path="/echo"), "headers": ["x"]}, id="headers"),
        pytest.param({**events.http_v2(path="/echo"), "rawPath": 1}, id="path"),
        pytest.param(
            {**events.http_v2(path="/echo"), "body": "?", "isBase64Encoded": True}, id="base64"
        ),
        pytest.param({**events.alb(path="/echo"), "headers": {"a b": "c"}}, id="name"),
    ],
    ids=lambda payload: repr(payload[:10]),
)
def test_a_malformed_event_is_a_failed_invocation_and_the_worker_goes_on(
    buffered: Function, payload: Any
) -> None:
    before = len(buffered.server.log.splitlines())
    result = buffered.api.invoke(payload)
    assert (result.kind, result.error_type) == ("error", "Runtime.InvalidEvent")
    assert result.error_body["errorType"] == "Runtime.InvalidEvent"
    lines = buffered.server.log.splitlines()[before:]
    assert len(lines) == 1, lines
    assert result.error_body["errorMessage"] in lines[0]
    assert buffered.is_well()


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (events.edge(), "Lambda@Edge"),
        (events.websocket(), "WebSocket"),
        (events.sqs(), "SQS"),
        ({"key": "value"}, "key"),
    ],
    ids=["edge", "websocket", "sqs", "unknown"],
)
def test_an_event_that_nothing_takes_is_refused_with_a_sentence(
    concurrent: Function, event: Any, name: str
) -> None:
    result = concurrent.api.invoke(event)
    assert (result.kind, result.error_type) == ("error", "Runtime.InvalidEvent")
    assert name in result.error_body["errorMessage"]
    assert "lambda_event_function" in result.error_body["errorMessage"]


@pytest.mark.parametrize("event", [None, 1, "text", []])
def test_json_that_is_no_object_is_only_for_the_function(
    buffered: Function, concurrent: Function, event: Any
) -> None:
    assert buffered.api.invoke(event).json["event"] == event
    result = concurrent.api.invoke(event)
    assert (result.kind, result.error_type) == ("error", "Runtime.InvalidEvent")
    assert "not an object" in result.error_body["errorMessage"]


@pytest.mark.smoke
def test_other_events_go_to_the_function(buffered: Function, streaming: Function) -> None:
    """An asynchronous one in the loop, another in a thread."""
    for function, is_main_thread in ((buffered, True), (streaming, False)):
        invocation = function.api.begin(events.sqs())
        assert invocation.wait().json == {
            "event": events.sqs(),
            "id": invocation.id,
            "is_main_thread": is_main_thread,
        }


def test_an_exception_of_the_function_is_an_error_with_its_traceback(
    buffered: Function, streaming: Function
) -> None:
    for function in (buffered, streaming):
        result = function.api.invoke({"raise": True})
        assert (result.kind, result.error_type) == ("error", "ValueError")
        assert result.error_body["errorMessage"] == "the function's own"
        assert "on_event" in "".join(result.error_body["stackTrace"])
        assert function.server.lines("ValueError: the function's own")
        last = [line for line in function.api.requests if line.endswith("/error")][-1]
        request_id = last.split("/")[-2]
        assert function.server.lines(f"Error in lambda_event_function at invocation {request_id}")
        assert function.is_well()


def test_a_result_that_is_no_json_is_an_error(buffered: Function) -> None:
    assert buffered.api.invoke({"unserializable": True}).error_type == "TypeError"
    assert buffered.api.invoke({"nan": True}).error_type == "ValueError"
    assert buffered.is_well()


def test_a_result_is_no_longer_than_its_text(buffered: Function) -> None:
    assert buffered.api.invoke({"text": True}).json == "\u6f22" * 2_000_000
    assert buffered.api.invoke({"half": True}).json == "\ud800"


# The deadline.


@pytest.mark.smoke
def test_the_deadline_cancels_the_application_and_its_client_gets_503(buffered: Function) -> None:
    before = len(buffered.server.lines("deadline"))
    cancelled = buffered.server.events.count("cancelled")
    invocation = buffered.begin("/sleep", timeout_s=SOON_MS / 1000)
    assert invocation.wait().status == 503
    buffered.server.wait_for_event("cancelled", cancelled + 1)
    (line,) = buffered.server.lines("deadline")[before:]
    assert invocation.id in line
    assert buffered.is_well()


def test_the_deadline_ends_a_streamed_response_with_trailers(streaming: Function) -> None:
    before = len(streaming.server.lines("deadline"))
    invocation = streaming.begin("/sleep_started", timeout_s=SOON_MS / 1000)
    result = invocation.wait()
    assert (result.status, result.body) == (200, b"begun")
    assert result.error_type
    assert len(streaming.server.lines("deadline")[before:]) == 1
    assert streaming.ask("/sleep", timeout_s=SOON_MS / 1000).status == 503
    assert streaming.is_well()


def test_a_stop_iteration_in_a_thread_is_a_failure_at_once(streaming: Function) -> None:
    """A future cannot have it, so before Python 3.12 nobody would be told."""
    result = streaming.api.invoke({"stop": True})
    assert (result.kind, result.error_type) == ("error", "RuntimeError")
    assert "StopIteration" in result.error_body["errorMessage"]


@pytest.mark.parametrize("status", [600, 999])
def test_a_status_that_no_gateway_takes_is_the_applications_mistake(
    buffered: Function, streaming: Function, status: int
) -> None:
    for function in (buffered, streaming):
        assert function.respond("function_url", status).status == 500
        function.server.wait_for(
            f"ApplicationError: 'status' must be an int from 200 to 599 on AWS Lambda, not {status}"
        )


def test_headers_that_are_longer_than_a_prelude_may_be_are_the_applications_mistake(
    streaming: Function,
) -> None:
    fits, is_too_long = ([("x-long", "x" * count)] for count in (16_000, 16_400))
    assert streaming.respond("function_url", 200, fits).status == 200
    assert streaming.respond("function_url", 200, is_too_long).status == 500
    streaming.server.wait_for("may have at most 16384 bytes as JSON on AWS Lambda, not 164")


def test_the_deadline_cancels_the_function_for_other_events(buffered: Function) -> None:
    cancelled = buffered.server.events.count("cancelled")
    result = buffered.api.invoke({"sleep": True}, timeout_s=SOON_MS / 1000)
    assert result.kind == "error"
    assert "deadline" in result.error_body["errorMessage"]
    buffered.server.wait_for_event("cancelled", cancelled + 1)
    assert buffered.is_well()


def test_an_application_that_ignores_its_cancellation_does_not_hold_the_next_invocation(
    buffered: Function,
) -> None:
    assert buffered.ask("/stubborn", timeout_s=SOON_MS / 1000).status == 503
    assert buffered.is_well()
    buffered.open("stubborn")


# Gunicorn's log and hooks.


def test_the_access_log_and_the_hooks_know_each_request(buffered: Function) -> None:
    path = buffered.server.directory / "access.log"
    request = told(buffered.ask("/echo/logged", "rest_v1", query="a=b"))
    (line,) = poll(lambda: [text for text in path.read_text().splitlines() if "logged" in text])
    assert line.startswith(events.SOURCE_IP)
    assert '"GET /prod/echo/logged?a=b HTTP/1.1" 200 ' in line
    assert line.endswith(request["context"]["aws_request_id"])
    buffered.server.wait_for_event("pre_request GET /prod/echo/logged")
    buffered.server.wait_for_event("post_request /prod/echo/logged 200")


def test_the_access_log_has_a_failed_request(buffered: Function) -> None:
    path = buffered.server.directory / "access.log"
    before = len(path.read_text().splitlines())
    buffered.ask("/fail")
    (line,) = poll(lambda: path.read_text().splitlines()[before:])
    assert '"GET /fail HTTP/1.1" 500 ' in line


# The connection to the Runtime API.


def test_a_kept_connection_that_the_runtime_api_closes_is_replaced(buffered: Function) -> None:
    """Between invocations, and between an event and its response."""
    for endpoint in ("response", "next"):
        buffered.api.closes_after.add(endpoint)
        for _ in range(3):
            assert buffered.is_well()
        buffered.api.closes_after.clear()


def test_a_connection_that_is_closed_before_a_streamed_response_begins_is_replaced(
    streaming: Function,
) -> None:
    streaming.api.closes_after.add("next")
    invocation = streaming.begin("/parts")
    poll(lambda: not streaming.api.connections, "the end of the connection")
    for gate in ("one", "two", "three"):
        streaming.open(gate)
    assert invocation.wait().body == b"onetwothree"
    streaming.api.closes_after.clear()


def test_a_refused_result_is_logged_and_the_worker_goes_on(buffered: Function) -> None:
    before = len(buffered.server.lines("413"))
    buffered.api.refuse("response", 413)
    assert buffered.ask("/echo").kind == "lost"
    assert buffered.is_well()
    assert len(buffered.server.lines("413")) == before + 1


def test_a_slow_runtime_api_loses_nothing(buffered: Function) -> None:
    gate = buffered.api.hold("response")
    invocation = buffered.begin("/echo")
    poll(lambda: invocation.begun_headers is not None)
    assert not invocation.is_done
    gate.set()
    told(invocation.wait())


# Frozen and thawed.


@pytest.mark.smoke
def test_a_frozen_function_goes_on_after_it_is_thawed(buffered: Function) -> None:
    """Idle, and in the middle of an invocation."""
    begun = buffered.server.events.count("begun")
    log = buffered.server.log
    workers = buffered.server.workers()
    freeze(buffered.server)
    assert buffered.is_well()
    invocation = buffered.begin("/gated")
    buffered.server.wait_for_event("begun", begun + 1)
    freeze(buffered.server)
    buffered.open("gated")
    assert invocation.wait().status == 200
    assert buffered.is_well()
    assert buffered.server.log == log
    assert buffered.server.workers() == workers


def test_a_deadline_that_passes_while_the_function_is_frozen_ends_the_invocation(
    buffered: Function,
) -> None:
    before = len(buffered.server.lines("deadline"))
    invocation = buffered.begin("/sleep", timeout_s=FROZEN_SECONDS / 2)
    poll(lambda: invocation.deadline_ms)
    freeze(buffered.server)
    assert invocation.wait().status == 503
    assert len(buffered.server.lines("deadline")) == before + 1
    assert buffered.is_well()


def freeze(server: Gunicorn) -> None:
    """Stop all of its processes for a while, as Lambda does between invocations."""
    os.killpg(server.pid, signal.SIGSTOP)
    time.sleep(FROZEN_SECONDS)
    os.killpg(server.pid, signal.SIGCONT)


# Several at once.


@pytest.fixture(scope="module")
def shared_concurrent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    with Function(
        tmp_path_factory.mktemp("concurrent"), concurrency=4, max_requests=20
    ) as function:
        yield function
        assert function.server.stop() == 0


@pytest.fixture
def concurrent(shared_concurrent: Function) -> Iterator[Function]:
    """A function that has four invocations at once, and no function for events that are no request."""
    shared_concurrent.api.wait_for_pollers(4)
    yield shared_concurrent
    shared_concurrent.settle()


@pytest.mark.smoke
def test_as_many_invocations_run_at_once_in_one_process_as_lambda_says(
    concurrent: Function,
) -> None:
    invocations = [concurrent.begin("/gated", trace_id=f"Root={number}") for number in range(5)]
    concurrent.server.wait_for_event("begun", 4)
    assert concurrent.api.pollers == 0
    assert [invocation.deadline_ms > 0 for invocation in invocations] == [True] * 4 + [False]
    concurrent.open("gated")
    answers = [told(invocation.wait()) for invocation in invocations]
    assert {answer["pid"] for answer in answers} == {*concurrent.server.workers()}
    assert [answer["trace_id"] for answer in answers] == [f"Root={number}" for number in range(5)]


def test_the_environment_has_no_trace_where_it_would_be_that_of_others(
    concurrent: Function,
) -> None:
    request = told(concurrent.ask("/echo", trace_id="Root=1"))
    assert (request["trace"], request["context"]["trace_id"]) == (None, "Root=1")


def test_a_worker_that_has_reached_max_requests_is_replaced_and_nothing_is_lost(
    concurrent: Function,
) -> None:
    invocations = [concurrent.begin("/echo") for _ in range(50)]
    pids = [told(invocation.wait())["pid"] for invocation in invocations]
    assert 3 <= len({*pids}) <= 4
    assert len(concurrent.server.lines("Autorestarting worker")) >= 2
    assert concurrent.server.running


# Other applications.


def test_an_application_of_trio_runs_on_lambda(tmp_path: Path) -> None:
    pytest.importorskip("trio")
    app = "trio_plain_app:app"
    options = {"async_library": "trio", "lambda_event_function": "trio_plain_app:on_event"}
    with Function(tmp_path, app, options=options) as function:
        assert json.loads(function.ask("/json", query="a=b").body) == {
            "library": "trio",
            "greeting": "hello",
            "a": "b",
        }
        assert function.api.invoke(["x"]).json == {"library": "trio", "event": ["x"]}
        assert function.ask("/listening", timeout_s=SOON_MS / 1000).status == 503
        assert function.api.invoke(3600, timeout_s=SOON_MS / 1000).kind == "error"
        function.server.wait_for_event("listener closed")
        function.server.wait_for_event("function cancelled")
        function.api.wait_for_pollers()
        assert function.server.stop() == 0
        assert function.server.events[-1] == "shutdown"


@pytest.mark.parametrize("app", ["starlette_app:app", "fastapi_app:app"])
def test_an_application_of_a_framework_runs_on_lambda(tmp_path: Path, app: str) -> None:
    with Function(tmp_path, app, options={"lambda_response_mode": "streaming"}) as function:
        result = function.ask("/json", query="a=b")
        assert json.loads(result.body) == {
            "greeting": "hello",
            "query": {"a": "b"},
            "client": events.SOURCE_IP,
        }
        result = function.ask("/stream")
        assert result.body.decode() == "".join(f"part {part}\n" for part in range(5))
        upload = (
            b'--x\r\nContent-Disposition: form-data; name="field"\r\n\r\nvalue\r\n'
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n\xff\x00z\r\n--x--\r\n'
        )
        result = function.ask(
            "/upload",
            method="POST",
            headers=[("content-type", "multipart/form-data; boundary=x")],
            body=upload,
        )
        assert json.loads(result.body) == {"name": "f", "size": 3, "last": "z", "field": "value"}
        assert function.ask("/missing").status == 404
        function.api.wait_for_pollers()
        assert function.server.stop() == 0
        assert function.server.events == ["startup", "shutdown"]
