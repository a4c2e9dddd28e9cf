"""The head of a response as bytes.

RFC 9112, 4 to 6; RFC 9110, 5.5; docs/asgi.md, 52 to 57, 64, 73 and 74.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from conftest import examples
from costs import are_kept
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import INVALID_FIELDS, each

from gunicorn_asgi.errors import ApplicationError
from gunicorn_asgi.http.fields import CONNECTION_CLOSE, DATE, SERVER, read_trailers
from gunicorn_asgi.http1.encode import (
    KNOWN_FIELDS,
    MAX_KNOWN_VALUE,
    body_framing,
    chunk,
    encode_fields,
)
from gunicorn_asgi.http1.status_line import STATUS_LINES


@pytest.mark.parametrize(
    ("headers", "lines"),
    [
        ([], b""),
        ((), b""),
        ([(b"a", b"b")], b"a: b\r\n"),
        ([[b"a", b"b"]], b"a: b\r\n"),
        (((b"a", b"b"), (b"c", b"")), b"a: b\r\nc: \r\n"),
        ([(b"X-Caps", b"Kept")], b"X-Caps: Kept\r\n"),
        ([(b"a", b"\xe9\x80\xff \t b")], b"a: \xe9\x80\xff \t b\r\n"),
        (
            [(b"set-cookie", b"a"), (b"x", b"y"), (b"set-cookie", b"b")],
            b"set-cookie: a\r\nx: y\r\nset-cookie: b\r\n",
        ),
        ([(b"!#$%&'*+-.^_`|~", b"x")], b"!#$%&'*+-.^_`|~: x\r\n"),
        ([(b"a", bytearray(b"b"))], b"a: b\r\n"),
        ([(b"a", memoryview(b"b"))], b"a: b\r\n"),
        ([(b"a", memoryview(bytearray(b"b")))], b"a: b\r\n"),
        ([(b"a", memoryview(b"b").cast("b"))], b"a: b\r\n"),
    ],
)
def test_fields_become_lines_in_their_order(headers: Any, lines: bytes) -> None:
    """docs/asgi.md, 54: repeated fields are never joined."""
    assert encode_fields(headers) == (lines, -1, 0)
    assert encode_fields(field for field in headers) == (lines, -1, 0)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(b"date", b"x")], (b"date: x\r\n", -1, DATE)),
        ([(b"Server", b"x")], (b"Server: x\r\n", -1, SERVER)),
        ([(b"DATE", b"x"), (b"server", b"y")], (b"DATE: x\r\nserver: y\r\n", -1, DATE | SERVER)),
        ([(b"content-length", b"0")], (b"", 0, 0)),
        ([(b"Content-Length", b"12")], (b"", 12, 0)),
        ([(b"content-length", b"5"), (b"content-length", b"5")], (b"", 5, 0)),
        ([(b"transfer-encoding", b"chunked")], (b"", -1, 0)),
        ([(b"Transfer-Encoding", b"gzip\r\n\r\n")], (b"", -1, 0)),
        ([(b"connection", b"close")], (b"", -1, CONNECTION_CLOSE)),
        ([(b"Connection", b" CLOSE ")], (b"", -1, CONNECTION_CLOSE)),
        ([(b"connection", b"keep-alive")], (b"", -1, 0)),
        (
            [(b"connection", b"foo, close , bar")],
            (b"connection: foo, bar\r\n", -1, CONNECTION_CLOSE),
        ),
        ([(b"connection", b"x-close")], (b"connection: x-close\r\n", -1, 0)),
        ([(b"connection", b"keep-alive"), (b"connection", b"close")], (b"", -1, CONNECTION_CLOSE)),
        ([(b"connection", b"")], (b"", -1, 0)),
    ],
)
def test_the_server_answers_for_framing_and_connection(headers: Any, expected: Any) -> None:
    """docs/asgi.md, 56, 72 and 73."""
    assert encode_fields(headers) == expected


@each("headers", INVALID_FIELDS)
@pytest.mark.parametrize("before", [False, True], ids=["first", "second"])
def test_invalid_fields_raise(headers: Any, before: bool) -> None:
    """docs/asgi.md, 11 and 55. Twice: a name that was seen once does not count as valid."""
    if before and isinstance(headers, list):
        headers = [(b"x", b"y"), *headers]
    for _ in range(2):
        with pytest.raises(ApplicationError):
            encode_fields(headers)


@each("headers", INVALID_FIELDS)
def test_invalid_fields_raise_out_of_a_generator(headers: Any) -> None:
    if isinstance(headers, (list, dict)):
        with pytest.raises(ApplicationError):
            encode_fields(field for field in headers)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ([(b"x", b"y"), ("Content-Type", b"b")], ["name", "str", "'Content-Type'"]),
        ([(b"x", b"y"), (b"a", "value")], ["value", "str", "'value'"]),
        ([(b"x", b"y"), (b"bad name", b"b")], ["name", "b'bad name'"]),
        ([(b"x", b"y"), (b"location", b"/\r\nfoo")], ["b'location'", "control", r"b'/\r\nfoo'"]),
        ([(b"content-length", b"5x")], ["content-length", "b'5x'"]),
        ([(bytearray(b"a"), b"b")], ["name", "bytearray"]),
    ],
)
def test_the_error_names_the_field(headers: Any, words: list[str]) -> None:
    with pytest.raises(ApplicationError) as caught:
        encode_fields(headers)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("field", [None, 5, (), [], "ab", (b"a",), (None, b"b"), ("host", b"b")])
def test_the_form_of_a_trailer_is_checked_when_it_is_encoded(field: Any) -> None:
    assert read_trailers([(b"a", b"b"), field]) == [(b"a", b"b"), field]
    with pytest.raises(ApplicationError):
        encode_fields(read_trailers([field]))


def test_the_cache_of_names_is_bounded() -> None:
    names = [b"x-%d" % number for number in range(9000)]
    for index in range(len(names)):
        encode_fields([(names[index], b"a")])
    kept = are_kept(names)
    assert kept[-1]
    assert sum(kept) <= 3 * 1024  # CHECKED_NAMES, and two generations of KNOWN_FIELDS
    assert encode_fields([(b"date", b"x"), (b"content-length", b"1")]) == (b"date: x\r\n", 1, DATE)


# Fields that are remembered.


@each(
    "name",
    [
        *(b"set-cookie", b"Set-Cookie", b"SET-COOKIE", b"cookie", b"authorization"),
        *(b"Authorization", b"proxy-authorization", b"authentication-info", b"location"),
        *(b"X-Auth-Token", b"x-csrf-token", b"X-Api-Key", b"x-session-id", b"x-secret"),
    ],
)
def test_a_secret_is_never_remembered(name: bytes) -> None:
    values = [b"secret %d" % number for number in range(3)]
    for index in range(len(values)):
        for _ in range(3):
            lines = name + b": " + values[index] + b"\r\n"
            assert encode_fields([(name, values[index])]) == (lines, -1, 0)
    assert are_kept(values) == [False] * 3
    assert not [line for line, _, _ in KNOWN_FIELDS.recent.values() if b"secret" in line]


def test_a_long_value_is_not_remembered() -> None:
    values = [b"v" * size for size in (MAX_KNOWN_VALUE + 1, 5000)]
    for index in range(len(values)):
        encode_fields([(b"x-a", values[index])])
    assert are_kept(values) == [False, False]


class Bytes(bytes):
    """An application's own type."""


@pytest.mark.parametrize(
    "kind", [bytearray, Bytes, memoryview, lambda value: memoryview(bytearray(value))]
)
def test_a_value_of_another_type_is_encoded_and_not_remembered(kind: Any) -> None:
    values = [kind(b"other %d" % number) for number in range(2)]
    for index in range(len(values)):
        for _ in range(2):
            lines = b"x-b: other %d\r\n" % index
            assert encode_fields([(b"x-b", values[index])]) == (lines, -1, 0)
            assert encode_fields([[b"x-b", values[index]]]) == (lines, -1, 0)
    assert are_kept(values) == [False, False]


def test_a_change_after_the_response_does_not_reach_the_next_one() -> None:
    value = bytearray(b"before")
    field = [b"x-c", b"before"]
    for _ in range(2):
        assert encode_fields([(b"x-c", value), field])[0] == b"x-c: before\r\nx-c: before\r\n"
    value[:] = b"after!"
    field[1] = b"after!"
    assert encode_fields([(b"x-c", value), field])[0] == b"x-c: after!\r\nx-c: after!\r\n"
    value[:] = b"a\r\nb: c"
    with pytest.raises(ApplicationError):
        encode_fields([(b"x-c", value)])
    assert encode_fields([(b"x-c", b"before")])[0] == b"x-c: before\r\n"


@pytest.mark.parametrize("name", [bytearray(b"x-d"), Bytes(b"x-d"), memoryview(b"x-d"), "x-d"])
def test_no_name_of_another_type_is_remembered(name: Any) -> None:
    """Also if the name is known: these are equal to it, except the last."""
    encode_fields([(b"x-d", b"known")])
    for value in (b"known", b"new"):
        with suppress(ApplicationError):
            assert encode_fields([(name, value)])[0] == b"x-d: " + value + b"\r\n"
    assert {type(name) for name, _ in KNOWN_FIELDS.recent} == {bytes}


def test_known_fields_count_as_often_as_they_are_there() -> None:
    """What is remembered of one field, with all others, is what was found without a memory."""
    twice = [(b"content-length", b"5"), (b"content-length", b"5")]
    for _ in range(3):
        assert encode_fields(twice) == (b"", 5, 0)
        assert encode_fields([(b"content-length", b"6")]) == (b"", 6, 0)
        with pytest.raises(ApplicationError):
            encode_fields([*twice, (b"content-length", b"6")])
        with pytest.raises(ApplicationError):
            encode_fields([(b"content-length", b"6"), *twice])


FIELDS = st.tuples(
    st.sampled_from([b"a", b"Date", b"server", b"Content-Length", b"connection", b"set-cookie"]),
    st.sampled_from([b"", b"5", b"6", b"close", b"x, close", b"\xe9", b"a\rb", b"\n", b"5 "]),
    st.sampled_from([bytes, bytearray, memoryview, lambda value: memoryview(bytearray(value))]),
    st.sampled_from([tuple, list]),
)


@settings(max_examples=examples(500))
@given(st.lists(st.lists(FIELDS, max_size=4), max_size=6))
def test_a_field_is_encoded_the_same_whatever_was_sent_before(
    responses: list[list[Any]],
) -> None:
    """The other side has lists with values that can change, which are never remembered."""

    def outcome(fields: list[Any]) -> Any:
        try:
            return encode_fields([kind((name, of(value))) for name, value, of, kind in fields])
        except ApplicationError:
            return None

    for fields in responses:
        first = outcome(fields)
        fresh = [(name, value, bytearray, list) for name, value, _, _ in fields]
        assert outcome(fresh) == first
        assert outcome(fields) == first


ANY = st.binary(max_size=12) | st.sampled_from(
    [
        b"connection",
        b"date",
        b"content-length",
        b"a",
        b"5",
        b"close",
        b"x\r\ny: z",
        b"\r\n",
        b"\n",
        b"\r",
    ]
)


@settings(max_examples=examples(1000), deadline=None)
@given(st.lists(st.tuples(ANY, ANY), max_size=5))
def test_no_line_end_ever_gets_into_a_line(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        lines, length, _ = encode_fields(headers)
    except ApplicationError:
        return
    assert length >= -1
    assert b"\x00" not in lines
    split = lines.split(b"\r\n")
    assert split.pop() == b""
    assert len(split) <= len(headers)
    for line in split:
        assert b"\r" not in line
        assert b"\n" not in line
        name, separator, _ = line.partition(b": ")
        assert separator
        assert name in [name for name, _ in headers]


def test_every_status_from_100_to_999_has_a_line() -> None:
    """docs/asgi.md, 74; RFC 9112, 4: the space stays without a reason phrase."""
    assert sorted(STATUS_LINES) == list(range(100, 1000))
    assert STATUS_LINES[200] == b"HTTP/1.1 200 OK\r\n"
    assert STATUS_LINES[418] == b"HTTP/1.1 418 I'm a Teapot\r\n"
    assert STATUS_LINES[599] == b"HTTP/1.1 599 \r\n"
    assert STATUS_LINES[999] == b"HTTP/1.1 999 \r\n"


@pytest.mark.parametrize(
    ("data", "end", "expected"),
    [
        (b"", False, b""),
        (b"", True, b"0\r\n\r\n"),
        (b"hello", False, b"5\r\nhello\r\n"),
        (b"x" * 26, True, b"1a\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n"),
    ],
)
def test_a_chunk_is_never_mistaken_for_the_end(data: bytes, end: bool, expected: bytes) -> None:
    """RFC 9112, 7.1: an empty part writes nothing, because a chunk of size zero is the end."""
    assert chunk(data, end) == expected


NONE = (b"", False, False)
CHUNKED = (b"transfer-encoding: chunked\r\n", True, False)
DELIMITED = (b"", False, True)


def length(number: int) -> tuple[bytes, bool, bool]:
    return b"content-length: %d\r\n" % number, False, False


@pytest.mark.parametrize(
    ("version", "status", "declared", "size", "bodyless", "expected"),
    [
        # the application's own length
        ("1.1", 200, 5, -1, False, length(5)),
        ("1.0", 200, 5, -1, False, length(5)),
        ("1.1", 200, 5, 5, False, length(5)),
        ("1.1", 200, 0, 0, False, length(0)),
        ("1.1", 200, 0, -1, False, length(0)),
        # a whole body
        ("1.1", 200, -1, 5, False, length(5)),
        ("1.0", 200, -1, 5, False, length(5)),
        ("1.1", 200, -1, 0, False, length(0)),
        # a stream
        ("1.1", 200, -1, -1, False, CHUNKED),
        ("1.0", 200, -1, -1, False, DELIMITED),
        # RFC 9110, 8.6; RFC 9112, 6.1: never in 204
        ("1.1", 204, -1, 0, True, NONE),
        ("1.1", 204, 5, 5, True, NONE),
        ("1.1", 204, -1, -1, True, NONE),
        ("1.0", 204, -1, -1, True, NONE),
        # 304 keeps the application's length, and adds none
        ("1.1", 304, 5, 0, True, length(5)),
        ("1.1", 304, 0, -1, True, length(0)),
        ("1.1", 304, -1, 0, True, NONE),
        ("1.1", 304, -1, 5, True, NONE),
        # HEAD: the framing of GET
        ("1.1", 200, 5, 0, True, length(5)),
        ("1.1", 200, 0, 0, True, length(0)),
        ("1.1", 200, -1, 5, True, length(5)),
        ("1.0", 200, -1, 5, True, length(5)),
        ("1.1", 200, -1, 1, True, length(1)),
        ("1.1", 200, -1, 0, True, NONE),
        ("1.1", 200, -1, -1, True, (b"transfer-encoding: chunked\r\n", False, False)),
        ("1.0", 200, -1, -1, True, NONE),
    ],
)
def test_framing(
    version: str, status: int, declared: int, size: int, bodyless: bool, expected: Any
) -> None:
    """RFC 9112, 6; docs/asgi.md, 57 and 64."""
    assert body_framing(version, status, declared, size, bodyless) == expected


@each("status", [200, 204, 304, 404, 999])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@each("declared", [-1, 0, 5])
@each("size", [-1, 0, 5])
@pytest.mark.parametrize("head", [False, True])
def test_framing_is_never_ambiguous(
    version: str, status: int, declared: int, size: int, head: bool
) -> None:
    bodyless = head or status in (204, 304)
    line, is_chunked, is_delimited = body_framing(version, status, declared, size, bodyless)
    assert line.count(b"\r\n") <= 1
    assert not (is_chunked and is_delimited)
    if bodyless:
        assert not is_chunked
        assert not is_delimited
    else:
        # exactly one way to find the end
        assert is_chunked + is_delimited + line.startswith(b"content-length: ") == 1
    if version == "1.0":
        assert b"transfer-encoding" not in line
