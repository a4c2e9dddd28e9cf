"""Responses in the form of each gateway of AWS Lambda, read back by a small decoder of each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from lambda_gateways import by_name, receive, receive_prelude

from gunicorn_asgi.aws_lambda.events import Form
from gunicorn_asgi.aws_lambda.responses import (
    HOP_BY_HOP,
    MAX_ALB_RESPONSE,
    MAX_RESPONSE,
    MAX_SPELLINGS,
    encode_prelude,
    encode_response,
    max_body,
    too_large,
)
from gunicorn_asgi.errors import ApplicationError

Header = tuple[bytes, bytes]
EACH = pytest.mark.parametrize("form", Form)
STREAMED = pytest.mark.parametrize("form", [Form.V1, Form.V2])
NO_TYPES: frozenset[str] = frozenset()
SEPARATORS = {Form.V2: ",", Form.ALB: ", "}


def encoded(
    form: Form, headers: Iterable[Header] = (), body: bytes = b"", status: int = 200
) -> Any:
    return json.loads(encode_response(form, status, headers, body, NO_TYPES))


def text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def expected_headers(form: Form, headers: Iterable[Header]) -> dict[str, list[str]]:
    """All values of each name, or one value where the form has place for one only."""
    values: dict[str, list[str]] = {}
    for name, value in headers:
        key = name.decode().lower()
        if key not in HOP_BY_HOP:
            values.setdefault(key, []).append(text(value))
    separator = SEPARATORS.get(form)
    if separator is not None:
        values = {k: v if k == "set-cookie" else [separator.join(v)] for k, v in values.items()}
    return values


# The head.

HEADERS = [
    (b"X-A", b"1"),
    (b"set-cookie", b"a=1"),
    (b"x-b", b"2"),
    (b"x-a", b"3"),
    (b"Set-Cookie", b"b=2"),
]
HEADS = {
    Form.V1: {
        "headers": {"x-b": "2"},
        "multiValueHeaders": {"x-a": ["1", "3"], "set-cookie": ["a=1", "b=2"]},
    },
    Form.V2: {"headers": {"x-a": "1,3", "x-b": "2"}, "cookies": ["a=1", "b=2"]},
    Form.ALB: {
        "statusDescription": "200 OK",
        "headers": {"x-a": "1, 3", "set-cookie": "a=1", "x-b": "2", "Set-cookie": "b=2"},
    },
    Form.ALB_MULTI_VALUE: {
        "statusDescription": "200 OK",
        "multiValueHeaders": {"x-a": ["1", "3"], "set-cookie": ["a=1", "b=2"], "x-b": ["2"]},
    },
}


@EACH
def test_each_form_has_its_own_place_for_repeated_headers_and_cookies(form: Form) -> None:
    assert encoded(form, HEADERS) == {
        "statusCode": 200,
        "body": "",
        "isBase64Encoded": False,
        **HEADS[form],
    }


@STREAMED
def test_a_prelude_is_the_head_and_eight_nul(form: Form) -> None:
    prelude = encode_prelude(form, 404, HEADERS)
    assert prelude.endswith(b"}" + bytes(8))
    assert json.loads(prelude[:-8]) == {"statusCode": 404, **HEADS[form]}


@EACH
def test_an_empty_list_of_headers_is_an_empty_object(form: Form) -> None:
    response = encoded(form)
    assert response["multiValueHeaders" if form is Form.ALB_MULTI_VALUE else "headers"] == {}
    assert "cookies" not in response


@EACH
@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_headers_of_one_connection_are_left_out(form: Form, name: str) -> None:
    headers = [(name.title().encode(), b"x"), (b"x-a", b"1")]
    response = encode_response(form, 200, headers, b"", NO_TYPES)
    assert receive(form, response).headers == [("x-a", "1")]
    if form in (Form.V1, Form.V2):
        assert receive_prelude(form, encode_prelude(form, 200, headers)).headers == [("x-a", "1")]


@EACH
@pytest.mark.parametrize(
    ("value", "expected"),
    [("é€".encode(), "é€"), (b"\xe9", "é"), (b"", ""), (b'"\\', '"\\'), (bytearray(b"x"), "x")],
)
def test_a_value_is_utf_8_or_else_latin_1(form: Form, value: bytes, expected: str) -> None:
    response = encode_response(form, 200, [(b"x-a", value)], b"", NO_TYPES)
    assert receive(form, response).headers == [("x-a", expected)]


@pytest.mark.parametrize(
    ("status", "description"), [(200, "200 OK"), (404, "404 Not Found"), (299, "299"), (999, "999")]
)
@pytest.mark.parametrize("form", [Form.ALB, Form.ALB_MULTI_VALUE])
def test_a_load_balancer_gets_the_status_with_its_phrase(
    form: Form, status: int, description: str
) -> None:
    assert encoded(form, status=status)["statusDescription"] == description


def test_cookies_have_names_of_their_own_for_a_load_balancer() -> None:
    cookies = [(b"set-cookie", b"n%d=1" % number) for number in range(MAX_SPELLINGS)]
    response = encode_response(Form.ALB, 200, cookies, b"", NO_TYPES)
    names = json.loads(response)["headers"]
    assert len(names) == MAX_SPELLINGS
    assert {name.lower() for name in names} == {"set-cookie"}
    assert receive(Form.ALB, response).headers == [(n.decode(), v.decode()) for n, v in cookies]
    with pytest.raises(ApplicationError, match="at most 512 set-cookie headers, not 513"):
        encode_response(Form.ALB, 200, [*cookies, (b"set-cookie", b"x=1")], b"", NO_TYPES)


# The body.

BINARY = b"\x89PNG\r\n\x1a\n\xff"
TEXT = "é".encode()
BODIES: list[tuple[str | None, bytes, bool]] = [
    ("text/plain", TEXT, True),
    ("text/html; charset=utf-8", TEXT, True),
    ("Text/HTML;Charset=UTF-8", TEXT, True),
    ('text/html; charset="utf-8"', TEXT, True),
    ("text/event-stream", TEXT, True),
    ("application/json", TEXT, True),
    ("application/problem+json", TEXT, True),
    ("application/xml", TEXT, True),
    ("image/svg+xml", TEXT, True),
    ("application/javascript", TEXT, True),
    ("application/ecmascript", TEXT, True),
    ("application/x-www-form-urlencoded", TEXT, True),
    ("application/graphql", TEXT, True),
    ("application/yaml", TEXT, True),
    ("application/toml", TEXT, True),
    ("application/vnd.example", TEXT, False),
    ("application/octet-stream", TEXT, False),
    ("application/jsonx", TEXT, False),
    ("image/png", TEXT, False),
    ("multipart/form-data; boundary=text/plain", TEXT, False),
    ("", TEXT, False),
    ("text/plain", BINARY, False),
    ("application/json", b"\xff", False),
    ("text/plain; charset=latin-1", b"\xe9", False),
    ("text/plain; charset=latin-1", TEXT, False),
    ("text/plain; charset=latin-1", b"plain", True),
    ("text/plain; a=b ; charset = utf-16", TEXT, False),
    ("text/plain; charset=us-ascii", b"plain", True),
    (None, TEXT, True),
    (None, BINARY, False),
    ("image/png", b"", True),
]


@EACH
@pytest.mark.parametrize(("content_type", "body", "is_text"), BODIES)
def test_a_body_is_text_by_its_type_its_charset_and_its_bytes(
    form: Form, content_type: str | None, body: bytes, is_text: bool
) -> None:
    headers = [] if content_type is None else [(b"Content-Type", content_type.encode())]
    response = encode_response(form, 200, headers, body, NO_TYPES)
    assert json.loads(response)["isBase64Encoded"] is not is_text
    assert receive(form, response).body == body


@EACH
@pytest.mark.parametrize(
    ("coding", "is_text"),
    [(b"gzip", False), (b"br", False), (b"identity", True), (b" Identity", True), (b"", True)],
)
def test_a_body_with_a_content_coding_is_binary(form: Form, coding: bytes, is_text: bool) -> None:
    headers = [(b"content-type", b"text/plain"), (b"Content-Encoding", coding)]
    assert encoded(form, headers, TEXT)["isBase64Encoded"] is not is_text
    assert encoded(form, headers, b"")["isBase64Encoded"] is False


def test_further_types_are_text_by_the_option() -> None:
    headers = [(b"content-type", b"Application/Vnd.Example; v=1")]
    response = encode_response(Form.V2, 200, headers, TEXT, {"application/vnd.example"})
    assert json.loads(response)["body"] == "é"
    response = encode_response(Form.V2, 200, headers, BINARY, {"application/vnd.example"})
    assert json.loads(response)["isBase64Encoded"] is True


# The size.


def overhead(form: Form) -> int:
    return len(encode_response(form, 200, (), b"", NO_TYPES))


@EACH
def test_the_limit_counts_bytes_of_json(form: Form) -> None:
    most = max_body(form) - overhead(form)
    assert len(encode_response(form, 200, (), b"a" * most, NO_TYPES)) == max_body(form)
    text = "é" * (most // 2)
    assert len(encode_response(form, 200, (), text.encode(), NO_TYPES)) <= max_body(form)
    for body in (b"a" * (most + 1), b'"' * (most // 2 + 1), b"\xff" * (most * 3 // 4 + 3)):
        with pytest.raises(ApplicationError, match=f"at most {max_body(form)} bytes as JSON"):
            encode_response(form, 200, (), body, NO_TYPES)


def test_the_limits_are_those_of_aws() -> None:
    assert (
        (max_body(Form.V1), max_body(Form.V2)) == (MAX_RESPONSE, MAX_RESPONSE) == (6 << 20, 6 << 20)
    )
    assert max_body(Form.ALB) == max_body(Form.ALB_MULTI_VALUE) == MAX_ALB_RESPONSE == 1 << 20


@EACH
def test_an_error_says_the_size_the_limit_and_the_way_out(form: Form) -> None:
    sentence = str(too_large(form, 9999999))
    assert "has 9999999 or more" in sentence
    assert str(max_body(form)) in sentence
    assert ("lambda_response_mode" in sentence) is (form in (Form.V1, Form.V2))


# Any response.

NAMES = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,8}", fullmatch=True) | st.sampled_from(
    [b"set-cookie", b"Set-Cookie", b"content-encoding", b"Connection", b"x-a", b"X-A"]
)
VALUES = st.text(
    st.characters(min_codepoint=33, exclude_categories=["Cs"], exclude_characters="\x7f"),
    max_size=6,
).map(str.encode) | st.from_regex(rb"[!-~\x80-\xff]{0,6}", fullmatch=True)
TYPES = st.sampled_from(
    [b"text/plain", b"image/png", b"text/plain; charset=latin-1", b"application/json"]
)
RESPONSES = st.lists(
    st.tuples(NAMES, VALUES) | st.tuples(st.just(b"content-type"), TYPES), max_size=8
)


@settings(max_examples=examples(400), deadline=None)
@given(
    st.sampled_from(list(Form)),
    st.integers(100, 999),
    RESPONSES,
    st.binary(max_size=12) | st.text(max_size=8).map(lambda t: t.encode("utf-8", "replace")),
)
def test_a_response_survives_its_gateway(
    form: Form, status: int, headers: list[Header], body: bytes
) -> None:
    received = receive(form, encode_response(form, status, headers, body, NO_TYPES))
    assert (received.status, received.body) == (status, body)
    assert by_name(received.headers) == expected_headers(form, headers)
    if form in (Form.V1, Form.V2):
        received = receive_prelude(form, encode_prelude(form, status, headers) + body)
        assert (received.status, received.body) == (status, body)
        assert by_name(received.headers) == expected_headers(form, headers)
