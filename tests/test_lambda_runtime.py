"""The stand-in of Lambda's Runtime API (`lambda_runtime`): it serves a runtime that keeps the rules, and finds one that does not."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from lambda_runtime import (
    BASE,
    ERROR_BODY,
    ERROR_TYPE,
    INTEGRATION_TYPE,
    MAX_PAYLOAD,
    PRELUDE_END,
    RESPONSE_MODE,
    Invocation,
    RuntimeAPI,
    RuntimeViolation,
)
from process import DEADLINE, poll

if TYPE_CHECKING:
    from typing_extensions import Self

ERROR = json.dumps({"errorMessage": "m", "errorType": "T", "stackTrace": ["line"]}).encode()
STREAMING = {
    RESPONSE_MODE: "streaming",
    "Transfer-Encoding": "chunked",
    "Content-Type": INTEGRATION_TYPE,
}
PRELUDE = json.dumps({"statusCode": 200, "headers": {"a": "b"}, "cookies": ["c=d"]}).encode()


def chunked(*parts: bytes, trailers: str = "") -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"%b0\r\n%b\r\n" % (chunks, trailers.encode())


class Runtime:
    """A runtime, byte by byte."""

    def __init__(self, api: RuntimeAPI) -> None:
        self.address = api.address
        host, port = api.address.split(":")
        self.sock = socket.create_connection((host, int(port)), DEADLINE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> None:
        """Send a request. A POST gets a Content-Length unless `headers` frame it."""
        fields = {"Host": self.address, **(headers or {})}
        if method == "POST" and not {"Transfer-Encoding", "Content-Length"} & set(fields):
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    def read(self, method: str = "POST") -> http.client.HTTPResponse:
        """Read an answer, with its body."""
        response = http.client.HTTPResponse(self.sock, method=method)
        response.begin()
        response.body = response.read()  # type: ignore[attr-defined]
        return response

    def ask(self, *request: Any) -> http.client.HTTPResponse:
        self.send(*request)
        return self.read(request[0])

    def poll(self) -> http.client.HTTPResponse:
        return self.ask("GET", f"{BASE}/invocation/next")

    def close(self) -> None:
        self.sock.close()


@contextmanager
def running(**given: Any) -> Iterator[tuple[RuntimeAPI, Runtime, Invocation, dict[str, str]]]:
    """An invocation that a runtime has got, and the headers that its answer needs."""
    with RuntimeAPI() as api, Runtime(api) as runtime:
        invocation = api.begin({"key": "value"}, **given)
        response = runtime.poll()
        assert response.status == 200
        given_id = response.getheader("Lambda-Runtime-Invocation-Id")
        headers = {} if given_id is None else {"Lambda-Runtime-Invocation-Id": given_id}
        yield api, runtime, invocation, headers


def violation(api: RuntimeAPI) -> str:
    """The only violation; it is forgotten."""
    poll(lambda: api.violations, "a violation")
    (sentence,) = api.take_violations()
    return sentence


# A runtime that keeps the rules.


def test_an_event_reaches_the_runtime_with_its_headers_and_its_response_the_caller() -> None:
    with RuntimeAPI() as api, Runtime(api) as runtime:
        invocation = api.begin(
            {"key": "value"}, trace_id="Root=1", client_context="{}", cognito_identity="{}"
        )
        response = runtime.poll()
        assert json.loads(response.body) == {"key": "value"}  # type: ignore[attr-defined]
        assert response.getheader("Lambda-Runtime-Aws-Request-Id") == invocation.id
        assert response.getheader("Lambda-Runtime-Trace-Id") == "Root=1"
        assert response.getheader("Lambda-Runtime-Client-Context") == "{}"
        assert response.getheader("Lambda-Runtime-Cognito-Identity") == "{}"
        assert int(response.getheader("Lambda-Runtime-Deadline-Ms") or 0) == int(
            invocation.deadline_ms
        )
        given = response.getheader("Lambda-Runtime-Invocation-Id") or ""
        headers = {"Lambda-Runtime-Invocation-Id": given}
        answer = runtime.ask(
            "POST", f"{BASE}/invocation/{invocation.id}/response", headers, b'{"statusCode": 204}'
        )
        assert answer.status == 202
        result = invocation.wait()
        assert (result.kind, result.status) == ("response", 204)
        assert result.answered_ms < result.deadline_ms
        # The same connection serves the next one.
        again = api.begin([1])
        assert runtime.poll().getheader("Lambda-Runtime-Aws-Request-Id") == again.id


def test_a_large_event_comes_chunked() -> None:
    with RuntimeAPI() as api, Runtime(api) as runtime:
        api.begin({"text": "x" * 3000})
        response = runtime.poll()
        assert response.getheader("Transfer-Encoding") == "chunked"
        assert json.loads(response.body)["text"] == "x" * 3000  # type: ignore[attr-defined]


def test_an_error_reaches_the_caller() -> None:
    with running() as (_, runtime, invocation, headers):
        headers |= {ERROR_TYPE: "Runtime.Bad"}
        path = f"{BASE}/invocation/{invocation.id}/error"
        assert runtime.ask("POST", path, headers, ERROR).status == 202
        result = invocation.wait()
        assert (result.kind, result.error_type) == ("error", "Runtime.Bad")
        assert result.error_body["errorMessage"] == "m"


def test_a_streamed_response_is_seen_part_by_part() -> None:
    with running(invocation_id=False) as (_, runtime, invocation, _headers):
        runtime.send("POST", f"{BASE}/invocation/{invocation.id}/response", STREAMING)
        for part in (PRELUDE, PRELUDE_END + b"one", b"two"):
            runtime.sock.sendall(b"%x\r\n%b\r\n" % (len(part), part))
            invocation.wait_for(part)
        assert not invocation.is_done
        runtime.sock.sendall(b"0\r\n\r\n")
        assert runtime.read().status == 202
        runtime.close()
        result = invocation.wait()
        assert (result.kind, result.status, result.body) == ("streamed", 200, b"onetwo")
        assert [part for _, part in result.chunks] == [PRELUDE, PRELUDE_END + b"one", b"two"]
        assert not result.trailers


def test_trailers_tell_of_an_error_in_a_streamed_response() -> None:
    with running(invocation_id=False) as (_, runtime, invocation, _headers):
        headers = {**STREAMING, "Trailer": f"{ERROR_TYPE}, {ERROR_BODY}"}
        coded = base64.b64encode(ERROR).decode()
        trailers = f"{ERROR_TYPE}: Late\r\n{ERROR_BODY}: {coded}\r\n"
        body = chunked(PRELUDE + PRELUDE_END, trailers=trailers)
        runtime.send("POST", f"{BASE}/invocation/{invocation.id}/response", headers, body)
        assert runtime.read().status == 202
        runtime.close()
        result = invocation.wait()
        assert (result.error_type, result.error_body["errorType"]) == ("Late", "T")


def test_a_failed_start_is_told() -> None:
    with RuntimeAPI() as api, Runtime(api) as runtime:
        headers = {ERROR_TYPE: "Runtime.ImportError"}
        assert runtime.ask("POST", f"{BASE}/init/error", headers, ERROR).status == 202
        assert api.wait_for_init_error().error_type == "Runtime.ImportError"


def test_an_event_that_a_poller_has_missed_goes_to_the_next() -> None:
    with RuntimeAPI() as api:
        with Runtime(api) as runtime:
            runtime.send("GET", f"{BASE}/invocation/next")
            api.wait_for_pollers()
        api.wait_for_pollers(0)
        invocation = api.begin({})
        with Runtime(api) as runtime:
            assert runtime.poll().getheader("Lambda-Runtime-Aws-Request-Id") == invocation.id


def test_as_many_poll_as_the_concurrency_allows() -> None:
    with RuntimeAPI(concurrency=2) as api, Runtime(api) as first, Runtime(api) as second:
        invocation = api.begin({})
        first.poll()
        second.send("GET", f"{BASE}/invocation/next")
        api.wait_for_pollers()
        with Runtime(api) as third:
            assert third.poll().status == 403
        assert "a concurrency of 2" in violation(api)
        assert not invocation.is_done


def test_a_response_is_read_only_when_the_test_wants_it() -> None:
    with running(invocation_id=False, reads=False) as (_, runtime, invocation, _headers):
        sent = threading.Event()

        def send() -> None:
            body = chunked(PRELUDE + PRELUDE_END, bytes(16 << 20))
            runtime.send("POST", f"{BASE}/invocation/{invocation.id}/response", STREAMING, body)
            sent.set()

        thread = threading.Thread(target=send)
        thread.start()
        poll(lambda: invocation.begun_headers is not None)
        assert not sent.is_set()  # no buffer has room for it
        invocation.reads.set()
        thread.join(DEADLINE)
        assert runtime.read().status == 202
        runtime.close()
        assert len(invocation.wait().body) == 16 << 20


def test_answers_can_be_disturbed() -> None:
    with RuntimeAPI() as api:
        api.disturb("next", b"garbage\r\n\r\n")
        api.disturb("next")
        api.refuse("next", 500)
        with Runtime(api) as runtime, pytest.raises(http.client.BadStatusLine):
            runtime.poll()
        with Runtime(api) as runtime, pytest.raises(http.client.RemoteDisconnected):
            runtime.poll()
        with Runtime(api) as runtime:
            assert runtime.poll().status == 500
            api.begin({})
            assert runtime.poll().status == 200


def test_an_answer_can_be_held_and_the_connection_closed_after_it() -> None:
    with running() as (api, runtime, invocation, headers):
        gate = api.hold("response")
        api.closes_after.add("response")
        runtime.send("POST", f"{BASE}/invocation/{invocation.id}/response", headers, b"{}")
        poll(lambda: invocation.begun_headers is not None)
        assert not invocation.is_done
        gate.set()
        assert runtime.read().status == 202
        assert not runtime.sock.recv(1)


def test_the_snapshot_is_restored_at_once() -> None:
    with RuntimeAPI() as api, Runtime(api) as runtime:
        assert runtime.ask("GET", f"{BASE}/restore/next").status == 200
        assert api.is_restored


# A runtime that breaks a rule.


def test_a_violation_fails_the_test() -> None:
    with (
        pytest.raises(RuntimeViolation, match="does not exist"),
        RuntimeAPI() as api,
        Runtime(api) as runtime,
    ):
        assert runtime.ask("GET", "/2018-06-01/runtime/other").status == 404


def test_a_failure_of_the_test_itself_comes_first() -> None:
    with pytest.raises(ZeroDivisionError), RuntimeAPI() as api:
        api.violate("something")
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/2015-03-31/runtime/invocation/next", 404),
        ("GET", f"{BASE}/invocation/next/", 404),
        ("GET", f"{BASE}/invocation/next?x", 404),
        ("POST", f"{BASE}/invocation/next", 405),
        ("GET", f"{BASE}/init/error", 405),
        ("GET", f"{BASE}/invocation/1/response", 405),
    ],
)
def test_another_method_or_path_is_found(method: str, path: str, status: int) -> None:
    with RuntimeAPI() as api, Runtime(api) as runtime:
        assert runtime.ask(method, path).status == status
        assert "does not exist" in violation(api)


def test_polling_during_an_invocation_is_found() -> None:
    with running() as (api, _, _invocation, _headers), Runtime(api) as other:
        assert other.poll().status == 403
        assert "1 invocations are unanswered" in violation(api)


def test_a_second_poll_is_found() -> None:
    with RuntimeAPI() as api, Runtime(api) as runtime, Runtime(api) as other:
        runtime.send("GET", f"{BASE}/invocation/next")
        api.wait_for_pollers()
        assert other.poll().status == 403
        assert "1 calls wait" in violation(api)


def test_data_while_a_poll_waits_is_found() -> None:
    with RuntimeAPI() as api, Runtime(api) as runtime:
        runtime.send("GET", f"{BASE}/invocation/next")
        api.wait_for_pollers()
        runtime.sock.sendall(b"GET ")
        assert "while /next waits" in violation(api)


@pytest.mark.parametrize("call", ["response", "error"])
def test_an_answer_to_an_unknown_invocation_is_found(call: str) -> None:
    with RuntimeAPI() as api, Runtime(api) as runtime:
        path = f"{BASE}/invocation/unknown/{call}"
        assert runtime.ask("POST", path, {ERROR_TYPE: "T"}, ERROR).status == 400
        assert "does not exist" in violation(api)


@pytest.mark.parametrize("call", ["response", "error"])
def test_a_second_answer_is_found(call: str) -> None:
    with running() as (api, runtime, invocation, headers):
        path = f"{BASE}/invocation/{invocation.id}"
        assert runtime.ask("POST", f"{path}/response", headers, b"{}").status == 202
        answer = runtime.ask("POST", f"{path}/{call}", {**headers, ERROR_TYPE: "T"}, ERROR)
        assert answer.status == 400
        assert "is answered" in violation(api)


def test_an_error_after_the_begin_of_a_response_is_found() -> None:
    with running(invocation_id=False) as (api, runtime, invocation, _headers):
        path = f"{BASE}/invocation/{invocation.id}"
        runtime.send("POST", f"{path}/response", STREAMING)
        poll(lambda: invocation.begun_headers is not None)
        with Runtime(api) as other:
            answer = other.ask("POST", f"{path}/error", {ERROR_TYPE: "T"}, ERROR)
            assert answer.status == 403
        assert "has begun" in violation(api)
        with Runtime(api) as other:
            assert other.ask("POST", f"{path}/response", {}, b"{}").status == 403
        assert "a second response" in violation(api)
        runtime.sock.sendall(chunked(HEAD))
        assert runtime.read().status == 202
        runtime.close()


def test_a_response_over_the_limit_is_found() -> None:
    with running() as (api, runtime, invocation, headers):
        path = f"{BASE}/invocation/{invocation.id}/response"
        body = json.dumps("x" * (MAX_PAYLOAD - 2)).encode()
        assert runtime.ask("POST", path, headers, body).status == 202
        second = api.begin({}, invocation_id=False)
        runtime.poll()
        path = f"{BASE}/invocation/{second.id}/response"
        assert runtime.ask("POST", path, {}, body + b" ").status == 413
        assert "above the limit" in violation(api)
        assert second.wait().error_type == "Function.ResponseSizeTooLarge"


@pytest.mark.parametrize("value", [None, "other"])
def test_a_wrong_echo_of_the_invocation_is_found(value: str | None) -> None:
    with running() as (api, runtime, invocation, _headers):
        headers = {} if value is None else {"Lambda-Runtime-Invocation-Id": value}
        runtime.ask("POST", f"{BASE}/invocation/{invocation.id}/response", headers, b"{}")
        assert "invocation-id" in violation(api)


@pytest.mark.parametrize(
    ("headers", "body", "sentence"),
    [
        ({RESPONSE_MODE: "streaming"}, b"{}", "the mode"),
        ({"Transfer-Encoding": "chunked"}, chunked(b"{}"), "the mode"),
        ({RESPONSE_MODE: "buffered"}, b"{}", "the mode"),
        ({}, b"text", "no JSON"),
        ({}, b"", "no JSON"),
        ({"Expect": "100-continue"}, b"{}", "Expect"),
        ({"Host": "other"}, b"{}", "the Host"),
        ({"Host": ""}, b"{}", "the Host"),
        ({"Transfer-Encoding": "gzip"}, b"", "Transfer-Encoding"),
        ({**STREAMING, "Content-Length": "2"}, b"{}", "beside"),
        ({"Content-Length": "+2"}, b"{}", "Content-Length"),
        ({"Content-Length": "2, 2"}, b"{}", "Content-Length"),
        ({"Content-Length": "2"}, b"{}GET ", "after the end"),
        ({"Bad Name": "x"}, b"{}", "field line"),
        ({"Bad": "x\0"}, b"{}", "field line"),
        ({"Bad": "x\n folded: y"}, b"{}", "without CR"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value)[:40],
)
def test_a_response_in_the_wrong_form_is_found(
    headers: dict[str, str], body: bytes, sentence: str
) -> None:
    with running() as (api, runtime, invocation, echo):
        path = f"{BASE}/invocation/{invocation.id}/response"
        runtime.send("POST", path, {**echo, **headers}, body)
        poll(lambda: api.violations, "a violation")
        runtime.close()
        poll(lambda: api.connections == 0)
        assert sentence in api.take_violations()[0]


ANNOUNCED = {**STREAMING, "Trailer": f"{ERROR_TYPE}, {ERROR_BODY}"}
HEAD = PRELUDE + PRELUDE_END
CODED = base64.b64encode(ERROR).decode()


def trailers(error_type: str = "T", body: str = CODED, more: str = "") -> str:
    return f"{ERROR_TYPE}: {error_type}\r\n{ERROR_BODY}: {body}\r\n{more}"


@pytest.mark.parametrize(
    ("headers", "body", "sentence"),
    [
        (STREAMING, b"0x1\r\nx\r\n0\r\n\r\n", "chunk size"),
        (STREAMING, b"1;ext=1\r\nx\r\n0\r\n\r\n", "chunk size"),
        (STREAMING, b"\r\n", "chunk size"),
        (STREAMING, b"1\nx\r\n0\r\n\r\n", "without CR"),
        (STREAMING, b"1\r\nxy\r\n0\r\n\r\n", "longer than its size"),
        (STREAMING, b"5\r\nxy", "without its end"),
        (STREAMING, chunked(HEAD)[:-2], "without its end"),
        (STREAMING, chunked(PRELUDE), "prelude"),
        (STREAMING, chunked(b"{}" + PRELUDE_END), "prelude"),
        (STREAMING, chunked(b'{"statusCode": "200"}' + PRELUDE_END), "prelude"),
        (STREAMING, chunked(b'{"statusCode": 99}' + PRELUDE_END), "prelude"),
        (STREAMING, chunked(b'{"statusCode": 200, "body": ""}' + PRELUDE_END), "prelude"),
        (STREAMING, chunked(b'{"statusCode": 200, "headers": {"a": 1}}' + PRELUDE_END), "prelude"),
        (STREAMING, chunked(b'{"statusCode": 200, "cookies": [1]}' + PRELUDE_END), "prelude"),
        (STREAMING, chunked(HEAD, trailers=trailers()), "were announced"),
        (ANNOUNCED, chunked(HEAD, trailers=trailers(more="other: x\r\n")), "were announced"),
        (ANNOUNCED, chunked(HEAD, trailers=f"{ERROR_TYPE}: T\r\n"), "not both"),
        (ANNOUNCED, chunked(HEAD, trailers=trailers(error_type="")), "not both"),
        (ANNOUNCED, chunked(HEAD, trailers=trailers(body="{}")), "no base64"),
        (ANNOUNCED, chunked(HEAD, trailers=trailers(body="bm8=")), "no JSON"),
        (ANNOUNCED, chunked(HEAD, trailers=trailers(body="e30=")), "errorMessage"),
        (ANNOUNCED, chunked(HEAD, trailers=trailers() + trailers()), "comes twice"),
        (ANNOUNCED, chunked(HEAD) + b"GET ", "after the end"),
    ],
)
def test_a_streamed_response_in_the_wrong_form_is_found(
    headers: dict[str, str], body: bytes, sentence: str
) -> None:
    with running(invocation_id=False) as (api, runtime, invocation, _headers):
        path = f"{BASE}/invocation/{invocation.id}/response"
        runtime.send("POST", path, headers, body)
        runtime.sock.shutdown(socket.SHUT_WR)
        poll(lambda: api.violations, "a violation")
        assert sentence in violation(api)
        invocation.wait()


def test_a_second_request_after_a_streamed_response_is_found() -> None:
    with running(invocation_id=False) as (api, runtime, invocation, _headers):
        path = f"{BASE}/invocation/{invocation.id}/response"
        assert runtime.ask("POST", path, STREAMING, chunked(HEAD)).status == 202
        runtime.send("GET", f"{BASE}/invocation/next")
        assert "second request" in violation(api)


@pytest.mark.parametrize(
    ("headers", "body", "sentence"),
    [
        ({}, ERROR, ERROR_TYPE),
        ({ERROR_TYPE: ""}, ERROR, ERROR_TYPE),
        ({ERROR_TYPE: "T"}, b"", "no JSON"),
        ({ERROR_TYPE: "T"}, b"[]", "errorMessage"),
        ({ERROR_TYPE: "T"}, b'{"errorMessage": "m"}', "errorMessage"),
        (
            {ERROR_TYPE: "T"},
            b'{"errorMessage": "m", "errorType": "T", "stackTrace": [1]}',
            "stackTrace",
        ),
    ],
)
@pytest.mark.parametrize("call", ["invocation/ID/error", "init/error"])
def test_an_error_in_the_wrong_form_is_found(
    call: str, headers: dict[str, str], body: bytes, sentence: str
) -> None:
    with RuntimeAPI() as api, Runtime(api) as runtime:
        if "ID" in call:
            invocation = api.begin({}, invocation_id=False)
            runtime.poll()
            call = call.replace("ID", invocation.id)
        assert runtime.ask("POST", f"{BASE}/{call}", headers, body).status == 202
        assert sentence in violation(api)


def test_an_error_without_its_type_passes_where_awss_client_is_served() -> None:
    with RuntimeAPI(demands_error_type=False) as api, Runtime(api) as runtime:
        assert runtime.ask("POST", f"{BASE}/init/error", {}, ERROR).status == 202


def test_a_failed_start_after_a_poll_or_twice_is_found() -> None:
    request = "POST", f"{BASE}/init/error", {ERROR_TYPE: "T"}, ERROR
    with RuntimeAPI() as api, Runtime(api) as runtime:
        assert runtime.ask(*request).status == 202
        assert runtime.ask(*request).status == 403
        assert "/init/error" in violation(api)
    with running() as (api, runtime, _, _headers):
        assert runtime.ask(*request).status == 403
        assert "/init/error" in violation(api)


def test_a_request_without_its_end_is_found() -> None:
    with RuntimeAPI() as api:
        with Runtime(api) as runtime:
            runtime.sock.sendall(b"GET /2018-06-01/runtime/inv")
        assert "without its end" in violation(api)


def test_a_response_without_its_end_ends_the_invocation() -> None:
    with running() as (api, runtime, invocation, headers):
        path = f"{BASE}/invocation/{invocation.id}/response"
        runtime.send("POST", path, {**headers, "Content-Length": "10"}, b"{}")
        runtime.close()
        assert invocation.wait().kind == "cut"
        assert "without its end" in violation(api)
