"""Responses of the Runtime API, read from bytes (see `gunicorn_asgi.aws_lambda.api_response`)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gunicorn_asgi.aws_lambda.api_response import (
    MAX_BODY,
    MAX_HEAD,
    InvalidResponse,
    Response,
    ResponseReader,
)

OK = b"HTTP/1.1 200 OK\r\n"
RESPONSES = {
    "length": (OK + b"Content-Length: 5\r\nA-B:  c \r\n\r\nhello", 200, b"hello", True),
    "empty": (b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", 202, b"", True),
    "no reason": (b"HTTP/1.1 202\r\nContent-Length: 0\r\n\r\n", 202, b"", True),
    "old": (
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        200,
        b"{}",
        False,
    ),
    "old without a word": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}", False),
    "old and kept": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}",
        200,
        b"{}",
        True,
    ),
    "close": (OK + b"connection: Close\r\ncontent-length: 2\r\n\r\n{}", 200, b"{}", False),
    "chunked": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA ;x=y\r\n, world...\r\n0\r\n\r\n",
        200,
        b"hello, world...",
        True,
    ),
    "trailers": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\nz: \r\n\r\n",
        200,
        b"a",
        True,
    ),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "after 1xx": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nx: y\r\n\r\n"
        + OK
        + b"content-length: 1\r\n\r\na",
        200,
        b"a",
        True,
    ),
}


def read(parts: list[bytes]) -> Response | None:
    """Feed the parts of one response. Nothing may be complete before the last of them."""
    reader = ResponseReader()
    for part in parts[:-1]:
        assert reader.feed(part) is None
    return reader.feed(parts[-1])


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_is_complete_with_its_last_byte_however_it_is_cut(name: str) -> None:
    data, status, body, keeps = RESPONSES[name]
    for parts in ([data], [data[i : i + 1] for i in range(len(data))], [data[:-1], data[-1:]]):
        response = read(parts)
        assert response is not None
        assert (response.status, response.body, response.keeps_connection) == (status, body, keeps)


def test_fields_have_lower_case_names_and_no_space_around_their_values() -> None:
    response = read([RESPONSES["length"][0]])
    assert response is not None
    assert response.fields == {"content-length": "5", "a-b": "c"}


def test_a_body_without_length_ends_with_the_connection() -> None:
    reader = ResponseReader()
    assert reader.feed(OK + b"\r\nhel") is None
    assert reader.feed(b"lo") is None
    assert reader.feed_eof() == Response(200, {}, b"hello", False)


@pytest.mark.parametrize(
    "data", [b"", OK, OK + b"content-length: 3\r\n\r\nab", RESPONSES["chunked"][0][:-2]]
)
def test_an_end_before_the_last_byte_is_no_response(data: bytes) -> None:
    reader = ResponseReader()
    assert reader.feed(data) is None
    assert reader.feed_eof() is None


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"hello\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b" folded: x\r\n\r\n",
        OK + b"lambda-runtime-trace-id: a\0b\r\n\r\n",
        OK + b"content-length: -1\r\n\r\n",
        OK + b"content-length: 1\r\n\r\nab",
        OK + b"transfer-encoding: gzip\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\nx\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n1\r\nab\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n" + b"0" * 300,
        OK + b"transfer-encoding: chunked\r\n\r\n7fffffff\r\n",
        b"x" * (MAX_HEAD + 1),
        OK + b"content-length: %d\r\n\r\n" % (MAX_BODY + 2) + bytes(MAX_BODY + 1),
    ],
)
def test_what_is_no_response_or_has_no_bound_is_refused(data: bytes) -> None:
    reader = ResponseReader()
    with pytest.raises(InvalidResponse):
        reader.feed(data)
    assert reader.has_begun  # so its request is not sent again


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_any_bytes_are_a_response_or_refused(parts: list[bytes]) -> None:
    reader = ResponseReader()
    try:
        for part in parts:
            reader.feed(part)
        reader.feed_eof()
    except InvalidResponse:
        pass
