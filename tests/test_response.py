"""One response as bytes, as a function of what the application sends (`gunicorn_asgi.http1.response`)."""

from __future__ import annotations

from typing import Any

import pytest

from gunicorn_asgi.errors import RequestError
from gunicorn_asgi.http1.response import SEPARATE_SIZE, Response

DEFAULTS = (b"date: d\r\nserver: s\r\n", b"server: s\r\n", b"date: d\r\n", b"")


def begin(
    response: Response, body: bytes = b"", end: bool = True, version: str = "1.1", **how: Any
) -> bytes:
    head, large = response.begin(
        version, body, end, how.get("bodyless", False), how.get("keep_alive", True), DEFAULTS
    )
    return head + large


def test_a_response_is_used_again_and_again() -> None:
    response = Response()
    for body in (b"hello", b"", b"bye"):
        response.begun, response.sent = False, 0
        assert response.start(200, [(b"a", b"b")]) == -1
        assert not response.begun
        assert begin(response, body) == (
            b"HTTP/1.1 200 OK\r\na: b\r\ndate: d\r\nserver: s\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        assert (response.begun, response.sent, response.keep_alive, response.status) == (
            True,
            len(body),
            True,
            200,
        )
        assert not response.is_chunked


@pytest.mark.parametrize(
    ("version", "status", "headers", "is_kept", "line"),
    [
        ("1.1", 200, [], True, None),
        ("1.0", 200, [(b"content-length", b"0")], True, b"connection: keep-alive\r\n"),
        ("1.1", 200, [(b"connection", b"close")], False, b"connection: close\r\n"),
        # only the end of the connection ends it
        ("1.0", 200, [], False, b"connection: close\r\n"),
    ],
)
def test_whether_the_connection_stays_open(
    version: str, status: int, headers: Any, is_kept: bool, line: bytes | None
) -> None:
    """RFC 9112, 9.3."""
    response = Response()
    response.start(status, headers)
    head = begin(response, end=False, version=version, bodyless=status < 200)
    assert response.keep_alive is is_kept
    assert (b"connection" not in head) if line is None else (line in head)
    assert response.start(status, headers) in (-1, 0)
    begin(response, version=version, bodyless=status < 200, keep_alive=False)
    assert not response.keep_alive


def test_the_bytes_of_the_body_are_counted_without_its_framing() -> None:
    response = Response()
    response.start(200, [])
    assert begin(response, b"hello", end=False).endswith(
        b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
    )
    assert response.is_chunked
    assert response.part(b"abc", False) == b"3\r\nabc\r\n"
    assert response.sent == 8
    assert response.part(b"", True) == b"0\r\n\r\n"
    assert response.sent == 8


def test_a_body_with_a_length_has_no_framing() -> None:
    response = Response()
    assert response.start(200, [(b"content-length", b"8")]) == 8
    assert begin(response, b"hello", end=False).endswith(b"content-length: 8\r\n\r\nhello")
    assert not response.is_chunked
    assert response.part(b"abc", True) == b"abc"
    assert response.sent == 8


def test_without_a_body_nothing_is_counted() -> None:
    response = Response()
    response.start(200, [])
    assert begin(response, b"hello", bodyless=True).endswith(b"content-length: 5\r\n\r\n")
    assert response.sent == 0


@pytest.mark.parametrize("size", [SEPARATE_SIZE - 1, SEPARATE_SIZE])
def test_a_large_body_is_a_piece_of_its_own(size: int) -> None:
    response = Response()
    response.start(200, [])
    head, large = response.begin("1.1", bytes(size), True, False, True, DEFAULTS)
    assert len(large) == (size if size == SEPARATE_SIZE else 0)
    assert head.endswith(b"content-length: %d\r\n\r\n" % size + bytes(size - len(large)))


@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_length_is_declared_unless_there_is_one(length: int) -> None:
    response = Response()
    response.start(200, [(b"content-length", b"%d" % length)])
    assert not response.may_be_chunked
    response.set_length(7)
    assert b"content-length: %d\r\n" % length in begin(response, end=False)
    response.start(200, [])
    assert response.may_be_chunked
    response.set_length(length)
    assert not response.may_be_chunked
    assert b"content-length: %d\r\n" % length in begin(response, end=False)


def test_trailers_end_a_chunked_body() -> None:
    """RFC 9112, 7.1.2."""
    assert Response().write_trailers([(b"a", b"b"), (b"c", b"")]) == b"0\r\na: b\r\nc: \r\n\r\n"
    assert Response().write_trailers([]) == b"0\r\n\r\n"


@pytest.mark.parametrize("bodyless", [False, True])
def test_a_refusal_takes_the_place_of_a_head_that_is_held(bodyless: bool) -> None:
    response = Response()
    response.start(200, [(b"a", b"b"), (b"content-length", b"5")])
    body = b"" if bodyless else b"why\n"
    assert response.refuse(
        RequestError(405, "why", fields=((b"allow", b"GET"),)), bodyless, DEFAULTS[0]
    ) == (
        b"HTTP/1.1 405 Method Not Allowed\r\ndate: d\r\nserver: s\r\nallow: GET\r\n"
        b"content-type: text/plain; charset=utf-8\r\ncontent-length: 4\r\nconnection: close\r\n\r\n"
        + body
    )
    assert (response.status, response.begun, response.sent) == (405, True, len(body))
