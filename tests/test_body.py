"""Framing of request bodies, in any pieces: RFC 9112, 6.2 and 7.1."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import each

from gunicorn_asgi.errors import RequestError
from gunicorn_asgi.http1 import body as framings
from gunicorn_asgi.http1.body import (
    LINE_SIZE,
    MAX_CHUNK_LINE,
    MAX_STEP,
    ChunkedFraming,
    Framing,
    LengthFraming,
)

MAX_TRAILERS = 3
MAX_TRAILER_LINE = 50


@pytest.fixture(params=[MAX_STEP, 1], autouse=True, scope="module")
def max_step(request: pytest.FixtureRequest) -> Iterator[int]:
    """Everything here holds however few lines are read at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framings, "MAX_STEP", request.param)
        yield request.param


def feed(framing: Framing, pieces: list[bytes]) -> tuple[bytes, bool, bytes]:
    """Feed `pieces`. Return (content, complete, rest): the rest is the data after the end."""
    content, complete, rest = b"", False, b""
    for piece in pieces:
        if complete:
            rest += piece
            continue
        part, complete, rest = framing.feed(piece)
        content += part
        while framing.has_more:
            assert not complete
            assert rest == b""
            part, complete, rest = framing.feed(b"")
            content += part
    return content, complete, rest


def chunked() -> ChunkedFraming:
    return ChunkedFraming(MAX_TRAILERS, MAX_TRAILER_LINE)


def cuts(data: bytes) -> list[list[bytes]]:
    """`data` whole, byte by byte, and in two at every place."""
    return [
        [data],
        [data[i : i + 1] for i in range(len(data))],
        *([data[:i], data[i:]] for i in range(1, len(data))),
    ]


@pytest.mark.parametrize("tail", [b"", b"GET / HTTP/1.1\r\n", b"\x00"])
@pytest.mark.parametrize("body", [b"x", b"hello", b"0\r\n\r\n"])
def test_content_length_ends_exactly_there(body: bytes, tail: bytes) -> None:
    for pieces in cuts(body + tail):
        assert feed(LengthFraming(len(body)), pieces) == (body, True, tail)


def test_content_length_is_not_complete_before_its_last_byte() -> None:
    framing = LengthFraming(5)
    assert framing.feed(b"hell") == (b"hell", False, b"")
    assert framing.left == 1
    assert framing.feed(b"") == (b"", False, b"")
    assert framing.feed(b"o") == (b"o", True, b"")


VALID = {
    "empty": (b"0\r\n\r\n", b""),
    "one chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "two chunks": (b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
    "line ends in the data": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    "a terminator in the data": (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    "hexadecimal size, lower case": (b"1a\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n", b"x" * 26),
    "hexadecimal size, upper case": (b"1A\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n", b"x" * 26),
    "leading zeros": (b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
    "extension without a value": (b"5;a\r\nhello\r\n0;b\r\n\r\n", b"hello"),
    "extension with a token": (b"5;a=b\r\nhello\r\n0\r\n\r\n", b"hello"),
    "extension with a quoted string": (b'5;a="b;c\\"d"\r\nhello\r\n0\r\n\r\n', b"hello"),
    "several extensions with bad white space": (
        b'5 ; a = b\t;c ;d="e"\r\nhello\r\n0\r\n\r\n',
        b"hello",
    ),
    "trailers are dropped": (b"5\r\nhello\r\n0\r\nX-A: b\r\nHost: evil\r\n\r\n", b"hello"),
    "a trailer without a value": (b"0\r\nA:\r\n\r\n", b""),
    "an obs-text trailer": (b"0\r\nA: \xe9\r\n\r\n", b""),
    "trailers at their limit": (b"0\r\nA: b\r\nA: c\r\nA: d\r\n\r\n", b""),
    "a trailer line at its limit": (b"0\r\nA: " + b"x" * (MAX_TRAILER_LINE - 5) + b"\r\n\r\n", b""),
}


@pytest.mark.parametrize(
    "tail", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n\r\n", b"\x00\xff"]
)
@each("data, content", VALID)
def test_chunked_is_decoded_and_ends_exactly_there(
    data: bytes, content: bytes, tail: bytes
) -> None:
    for pieces in cuts(data + tail):
        assert feed(chunked(), pieces) == (content, True, tail)


@pytest.mark.parametrize(("data", "content"), VALID.values(), ids=VALID.keys())
def test_chunked_is_not_complete_before_its_last_byte(data: bytes, content: bytes) -> None:
    for end in range(len(data)):
        assert feed(chunked(), [data[:end]])[1:] == (False, b"")


INVALID = {
    "no size": b"\r\nhello\r\n",
    "no hexadecimal number": b"g\r\nhello\r\n",
    "plus": b"+5\r\nhello\r\n",
    "minus": b"-5\r\nhello\r\n",
    "0x": b"0x5\r\nhello\r\n",
    "underscore": b"1_0\r\n" + b"x" * 16 + b"\r\n",
    "space before the size": b" 5\r\nhello\r\n",
    "space behind the size": b"5 \r\nhello\r\n",
    "tab behind the size": b"5\t\r\nhello\r\n",
    "two numbers": b"5 5\r\nhello\r\n",
    "comma": b"5,a\r\nhello\r\n",
    "huge": b"1" + b"0" * 16 + b"\r\n",
    "huge zero": b"0" * 17 + b"\r\n\r\n",
    "NUL in the size": b"5\x00\r\nhello\r\n",
    "obs-text in the size": b"\xb2\r\nhello\r\n",
    "bare LF behind the size": b"5\nhello\r\n",
    "bare CR behind the size": b"5\rhello\r\n",
    "CR CR LF behind the size": b"5\r\r\nhello\r\n",
    "extension without a name": b"5;\r\nhello\r\n",
    "extension with an empty value": b"5;a=\r\nhello\r\n",
    "extension with a space in it": b"5;a b\r\nhello\r\n",
    "extension that is not closed": b'5;a="b\r\nhello\r\n',
    "extension with a bare LF": b"5;a\nb\r\nhello\r\n",
    "extension with a bare CR": b"5;a\rb\r\nhello\r\n",
    "extension with NUL": b'5;a="\x00"\r\nhello\r\n',
    "extension over the limit": b"5;" + b"a" * MAX_CHUNK_LINE + b"\r\nhello\r\n",
    "no line end behind the data": b"5\r\nhello0\r\n\r\n",
    "data longer than its size": b"4\r\nhello\r\n0\r\n\r\n",
    "data shorter than its size": b"6\r\nhello\r\n0\r\n\r\n",
    "bare LF behind the data": b"5\r\nhello\n0\r\n\r\n",
    "bare CR behind the data": b"5\r\nhello\r0\r\n\r\n",
    "LF CR behind the data": b"5\r\nhello\n\r0\r\n\r\n",
    "bare LF behind the last chunk": b"0\n\r\n",
    "bare LF for the end": b"0\r\n\n",
    "bare CR for the end": b"0\r\n\rx",
    "trailer without a colon": b"0\r\nfoo\r\n\r\n",
    "trailer without a name": b"0\r\n: a\r\n\r\n",
    "trailer with a space before the colon": b"0\r\nA : b\r\n\r\n",
    "trailer with a fold": b"0\r\nA: b\r\n c\r\n\r\n",
    "trailer with NUL": b"0\r\nA: \x00\r\n\r\n",
    "trailer with a bare CR": b"0\r\nA: b\rc\r\n\r\n",
    "trailer with a bare LF": b"0\r\nA: b\nC: d\r\n\r\n",
    "too many trailers": b"0\r\nA: b\r\nA: c\r\nA: d\r\nA: e\r\n\r\n",
    "trailer line over the limit": b"0\r\nA: " + b"x" * MAX_TRAILER_LINE + b"\r\n\r\n",
    "the next request instead of the end": b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
}


@each("data", INVALID)
def test_malformed_chunks_are_refused_with_400_in_any_pieces(data: bytes) -> None:
    for pieces in [
        [data],
        [data[i : i + 1] for i in range(len(data))],
        [data[:-1], data[-1:]],
        [data[:1], data[1:]],
    ]:
        with pytest.raises(RequestError) as caught:
            feed(chunked(), pieces)
        assert caught.value.status == 400


@pytest.mark.parametrize(
    "start",
    [
        b"5;" + b"a" * MAX_CHUNK_LINE,
        b"0\r\nA: " + b"x" * (MAX_TRAILER_LINE + 1),
        b"1" * 2000,
        b"5\r\nhellox",
        b"5\r\nhello\rx",
    ],
    ids=lambda start: repr(start[:12]),
)
def test_a_line_over_its_limit_is_refused_before_it_ends(start: bytes) -> None:
    """So at most one line is kept."""
    for pieces in ([start], [start[i : i + 1] for i in range(len(start))]):
        with pytest.raises(RequestError):
            feed(chunked(), pieces)


def test_a_size_line_at_its_limit_is_accepted() -> None:
    line = b"5;" + b"a" * (MAX_CHUNK_LINE - 2)
    for pieces in cuts(line + b"\r\n")[:2]:
        framing = chunked()
        feed(framing, pieces)
        assert feed(framing, [b"hello\r\n0\r\n\r\n"]) == (b"hello", True, b"")


@st.composite
def bodies_in_pieces(draw: st.DrawFn) -> tuple[bytes, bytes, list[bytes]]:
    """(content, tail, the chunked content and the tail cut anywhere)."""
    parts = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    extension = draw(st.sampled_from([b"", b";a", b';a="b"', b" ; a=b"]))
    trailers = draw(st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC:\r\n"]))
    data = (
        b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
        + b"0\r\n"
        + trailers
        + b"\r\n"
    )
    tail = draw(st.binary(max_size=10))
    places = sorted(draw(st.lists(st.integers(0, len(data + tail)), max_size=12)))
    pieces = [
        (data + tail)[start:end] for start, end in zip([0, *places], [*places, None], strict=True)
    ]
    return b"".join(parts), tail, pieces


@settings(max_examples=examples(150), deadline=None)
@given(bodies_in_pieces())
def test_any_cut_of_a_chunked_body_gives_the_same(case: tuple[bytes, bytes, list[bytes]]) -> None:
    content, tail, pieces = case
    assert feed(chunked(), pieces) == (content, True, tail)


PIECES = st.sampled_from(
    [
        b"5",
        b"0",
        b"\r\n",
        b"\n",
        b"\r",
        b"hello",
        b";a",
        b"=",
        b'"',
        b"A: b",
        b" ",
        b"\x00",
        b"f",
        b"1",
    ]
) | st.binary(max_size=3)


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(PIECES, max_size=12))
def test_any_bytes_mean_the_same_whole_and_byte_by_byte(pieces: list[bytes]) -> None:
    """The content and the end, or the refusal."""

    def outcome(cut: list[bytes]) -> object:
        try:
            return feed(chunked(), cut)
        except RequestError as error:
            return error.status

    data = b"".join(pieces)
    assert (
        outcome([data]) == outcome(pieces) == outcome([data[i : i + 1] for i in range(len(data))])
    )


# Steps.


def test_a_step_reads_a_bounded_number_of_chunks(max_step: int) -> None:
    framing, count = chunked(), 2 * max_step + 1
    parts = [framing.feed(b"1\r\nx\r\n" * count + b"0\r\n\r\nrest")]
    while framing.has_more:
        parts.append(framing.feed(b""))
    assert [len(content) for content, _, _ in parts[:3]] == [max_step, max_step, 1]
    assert {(is_complete, rest) for _, is_complete, rest in parts[:2]} == {(False, b"")}
    assert parts[-1][1:] == (True, b"rest")


def test_long_extensions_count_as_more_lines(max_step: int) -> None:
    framing = chunked()
    line = b"1;" + b"a" * (LINE_SIZE * 3 - 2) + b"\r\nx\r\n"
    content, _, _ = framing.feed(line * max_step)
    assert len(content) == (max_step + 3) // 4
    assert framing.has_more == (max_step > 1)


@pytest.mark.parametrize("end", [b"", b"0\r\n\r\n", b"0\r\n\r\nrest"])
def test_data_that_comes_before_a_step_follows_the_data_that_is_kept(
    max_step: int, end: bytes
) -> None:
    framing = chunked()
    content, _, _ = framing.feed(b"1\r\nx\r\n" * (max_step + 1))
    assert framing.has_more
    for late in (b"2\r\n", b"yz\r\n" + end):
        # It takes no step.
        assert framing.feed(late) == (b"", False, b"")
    is_complete, rest = False, b""
    while framing.has_more:
        part, is_complete, rest = framing.feed(b"")
        content += part
    assert content == b"x" * (max_step + 1) + b"yz"
    assert (is_complete, rest) == (bool(end), end[5:])
