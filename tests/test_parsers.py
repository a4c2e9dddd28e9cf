"""Both field parsers: RFC 9112, 5, and RFC 9110, 5.5. Any bytes have the same result in both."""

from __future__ import annotations

import pytest
from conftest import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tables import each

from gunicorn_asgi.errors import RequestError
from gunicorn_asgi.http.request import Rules
from gunicorn_asgi.http1 import parser as parsers
from gunicorn_asgi.http1.field_lines import FieldLines
from gunicorn_asgi.http1.parser import FieldParser
from gunicorn_asgi.http1.request import read_fields


@pytest.fixture
def parse(parser: str) -> FieldParser:
    return parsers.load(parser)


def section(*lines: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join((b"HTTP/" + version, *lines, b"", b""))


ACCEPTED = {
    "one field": ((b"Host: a",), [(b"host", b"a")]),
    "names are lower-cased": ((b"X-FoO-BAR: Baz",), [(b"x-foo-bar", b"Baz")]),
    "no white space behind the colon": ((b"A:b",), [(b"a", b"b")]),
    "white space around the value": ((b"A: \t b \t ",), [(b"a", b"b")]),
    "white space within the value": ((b"A: b \t c",), [(b"a", b"b \t c")]),
    "empty value": ((b"A:",), [(b"a", b"")]),
    "blank value": ((b"A: \t ",), [(b"a", b"")]),
    "empty value before another": ((b"A:", b"B: c"), [(b"a", b""), (b"b", b"c")]),
    "colons in the value": ((b"A: b:c::d",), [(b"a", b"b:c::d")]),
    "order and repetition": (
        (b"B: 1", b"A: 2", b"B: 3"),
        [(b"b", b"1"), (b"a", b"2"), (b"b", b"3")],
    ),
    "every token character in a name": (
        (b"!#$%&'*+-.^_`|~09azAZ: x",),
        [(b"!#$%&'*+-.^_`|~09azaz", b"x")],
    ),
    "obs-text as received": (
        (b"A: caf\xc3\xa9 \xe9\x80\xff",),
        [(b"a", b"caf\xc3\xa9 \xe9\x80\xff")],
    ),
    "every visible character": (
        (b"A: " + bytes(range(0x21, 0x7F)),),
        [(b"a", bytes(range(0x21, 0x7F)))],
    ),
    "no-break space is no white space": ((b"A: \xa0b\x85",), [(b"a", b"\xa0b\x85")]),
    "upgrade is an ordinary field": (
        (b"Connection: upgrade", b"Upgrade: h2c", b"B: c"),
        [(b"connection", b"upgrade"), (b"upgrade", b"h2c"), (b"b", b"c")],
    ),
    "a thousand fields": (
        tuple(b"a%d: %d" % (i, i) for i in range(1000)),
        [(b"a%d" % i, b"%d" % i) for i in range(1000)],
    ),
    "a long value": ((b"A: " + b"x" * 60000,), [(b"a", b"x" * 60000)]),
    "a long name": ((b"a" * 60000 + b": x",), [(b"a" * 60000, b"x")]),
}


@each("lines, fields", ACCEPTED)
def test_fields_are_read_in_order_with_their_bytes(
    parse: FieldParser, lines: tuple[bytes, ...], fields: list[tuple[bytes, bytes]]
) -> None:
    assert parse(b"\r\n".join(lines)) == fields


@each("lines, fields", ACCEPTED)
def test_long_values_beside_them_change_nothing(
    parse: FieldParser, lines: tuple[bytes, ...], fields: list[tuple[bytes, bytes]]
) -> None:
    long, value = b"L:\t " + b"v w:\xe9" * 5000 + b" \t", b"v w:\xe9" * 5000
    assert parse(b"\r\n".join((long, *lines, long, b"X: y"))) == [
        (b"l", value),
        *fields,
        (b"l", value),
        (b"x", b"y"),
    ]


REFUSED = {
    "no colon": b"Host",
    "empty name": b": a",
    "space before the colon": b"A : b",
    "tab before the colon": b"A\t: b",
    "space in the name": b"A b: c",
    "space before the name": b" A: b",
    "tab before the name": b"\tA: b",
    "obs-text in the name": b"caf\xc3\xa9: a",
    "bare CR at the end of a value": b"A: b\r",
    "bare CR in a value": b"A: b\rc",
    "bare CR in a name": b"A\rb: c",
    "bare LF in a value": b"A: b\nc",
    "bare LF for a line's end": b"A: b\nC: d",
    "two CR before the LF": b"A: b\r\r\nC: d",
    "obsolete folding": b"A: b\r\n c",
    "obsolete folding with a tab": b"A: b\r\n\tc",
    "folding onto an empty value": b"A:\r\n b",
    **{
        f"{chr(c)!r} in the name": b"a" + bytes([c]) + b"b: c"
        for c in b'"(),/;<=>?@[\\]{}\x00\x01\x1f\x7f\x80\xff'
    },
    **{
        f"{chr(c)!r} in the value": b"A: b" + bytes([c]) + b"c"
        for c in (*range(9), 11, 12, *range(14, 32), 127)
    },
    **{f"{chr(c)!r} for the value": b"A: " + bytes([c]) for c in (0, 1, 11, 12, 31, 127)},
}


@pytest.mark.parametrize("has_long_value", [False, True])
@each("line", REFUSED)
def test_invalid_fields_are_refused_with_400_in_a_long_section(
    parse: FieldParser, line: bytes, has_long_value: bool
) -> None:
    if has_long_value:
        line += b"v" * 20000
    with pytest.raises(RequestError) as caught:
        parse(b"\r\n".join((b"L: " + b"v" * 20000, line, b"X: y")))
    assert caught.value.status == 400


@pytest.mark.parametrize("place", ["first", "last", "between"])
@each("line", REFUSED)
def test_invalid_fields_are_refused_with_400_in_any_place(
    parse: FieldParser, line: bytes, place: str
) -> None:
    before = () if place == "first" else (b"X: y",)
    after = () if place == "last" else (b"Y: z",)
    with pytest.raises(RequestError) as caught:
        parse(b"\r\n".join((*before, line, *after)))
    assert caught.value.status == 400


FRAMING = [
    [b"Content-Length: 5"],
    [b"Content-Length: 0"],
    [b"Content-Length:5"],
    [b"Content-Length: \t5"],
    [b"Content-Length: 5 "],
    [b"Content-Length: 5\t"],
    [b"Content-Length: 5 \t "],
    [b"Content-Length: 000005"],
    [b"Content-Length: 999999999999999999"],
    [b"Content-Length: 1000000000000000000"],
    [b"Content-Length: 99999999999999999999999999"],
    [b"Content-Length: +5"],
    [b"Content-Length: -1"],
    [b"Content-Length: 0x5"],
    [b"Content-Length: 5 5"],
    [b"Content-Length: 5,5"],
    [b"Content-Length: 5, 5"],
    [b"Content-Length: 5.0"],
    [b"Content-Length: 5_0"],
    [b"Content-Length: \xb2"],
    [b"Content-Length:"],
    [b"Content-Length: 5", b"Content-Length: 5"],
    [b"Content-Length: 5", b"Content-Length: 6"],
    [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
    [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
    [b"Transfer-Encoding: gzip", b"Content-Length: 5"],
    [b"Transfer-Encoding: chunked"],
    [b"Transfer-Encoding: ChunKed"],
    [b"Transfer-Encoding: chunked "],
    [b"Transfer-Encoding: \tchunked\t"],
    [b"Transfer-Encoding: chunked, chunked"],
    [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    [b"Transfer-Encoding: gzip, chunked"],
    [b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"],
    [b"Transfer-Encoding: chunked, gzip"],
    [b"Transfer-Encoding: gzip"],
    [b"Transfer-Encoding: identity"],
    [b"Transfer-Encoding: xchunked"],
    [b"Transfer-Encoding: chunkedx"],
    [b"Transfer-Encoding: chunked;q=1"],
    [b'Transfer-Encoding: "chunked"'],
    [b"Transfer-Encoding: chunked,"],
    [b"Transfer-Encoding: ,chunked"],
    [b"Transfer-Encoding:"],
    [b"Transfer-Encoding: \x0bchunked"],
    [b"Transfer-Encoding: chun ked"],
    [b"Connection: close", b"Connection: keep-alive"],
    [b"Connection: close,,keep-alive"],
    [b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 5"],
    [b"Connection: upgrade", b"Upgrade: h2c", b"Transfer-Encoding: chunked"],
    [b"Upgrade: h2c"],
    [b"Proxy-Connection: close"],
    [b"Expect: 100-continue"],
    [b"Expect: x"],
]


@pytest.mark.skipif(parsers.available() != "httptools", reason="there is only one parser")
@each("lines", FRAMING)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_both_parsers_agree_on_fields_that_their_libraries_treat_specially(
    lines: list[bytes], version: bytes
) -> None:
    outcomes = [
        outcome(section(b"Host: a", *lines, b"Z: z", version=version), name)
        for name in ("h11", "httptools")
    ]
    assert outcomes[0] == outcomes[1]


def outcome(data: bytes, parser: str) -> object:
    """Return the meaning of a field section, or the status of the refusal."""
    try:
        fields = read_fields(data, None, make_rules(parser))
    except RequestError as error:
        return error.status
    return (
        fields.version,
        fields.headers,
        fields.length,
        fields.keep_alive,
        fields.expect_continue,
        fields.scheme,
    )


def make_rules(parser: str) -> Rules:
    return Rules(
        field_lines=FieldLines(parsers.load(parser)),
        limit_line=4094,
        limit_fields=100,
        limit_field_size=8190,
        header_map="drop",
        permit_unconventional_method=False,
        secure_scheme={b"x-forwarded-proto": b"https"},
        forwarder_names=frozenset({b"script_name"}),
    )


def mixed(*alternatives: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from(alternatives)


NAMES = mixed(
    b"Host", b"host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect", b"Upgrade", b"X-A", b"a_b", b"X-Forwarded-Proto",
    b"", b" ", b"~", b"A b", b"\t",
)  # fmt: skip
VALUES = mixed(
    b"a", b"5", b"0", b"chunked", b"gzip", b"close", b"keep-alive", b"upgrade", b"100-continue", b"https", b"", b" ", b"\t", b",", b"caf\xc3\xa9",
    b"a:80", b"[::1]", b"+5", b"\x00", b"\x7f", b"\x0b", b"\r", b"\n", b"\r\n", b"\r\n ",
)  # fmt: skip
BYTES = st.binary(max_size=6)
LINES = st.builds(
    lambda *parts: b"".join(parts),
    NAMES | BYTES,
    mixed(b":", b": ", b" :", b":\t", b"", b": \t "),
    st.lists(VALUES | BYTES, max_size=4).map(b"".join),
    mixed(b"", b" ", b"\t", b" \t"),
)


@pytest.mark.skipif(parsers.available() != "httptools", reason="there is only one parser")
@settings(max_examples=examples(1000), deadline=None)
@given(lines=st.lists(LINES, max_size=5), host=st.booleans(), version=mixed(b"1.0", b"1.1"))
@example(lines=[b"Content-Length: 5\t"], host=True, version=b"1.1")
@example(lines=[b"A:\r", b"B: c"], host=True, version=b"1.1")
def test_both_parsers_agree_on_arbitrary_bytes(
    lines: list[bytes], host: bool, version: bytes
) -> None:
    data = section(*([b"Host: a"] if host else []), *lines, version=version)
    data = data[: data.index(b"\r\n\r\n") + 4]  # the connection takes this as the head
    assert outcome(data, "h11") == outcome(data, "httptools")


@settings(max_examples=examples(300), deadline=None)
@given(lines=st.lists(LINES, max_size=5))
def test_accepted_fields_have_no_line_end_or_control_character(
    parser: str, lines: list[bytes]
) -> None:
    data = section(*lines)
    try:
        fields = parsers.load(parser)(data[len(b"HTTP/1.1\r\n") : data.index(b"\r\n\r\n")])
    except RequestError:
        return
    for name, value in fields:
        assert name
        assert not set(name) & set(b" \t:")
        assert name == name.lower()
        assert not {*range(9), *range(10, 32), 127} & set(name + value)
        assert value == value.strip(b" \t")


def test_the_parser_is_chosen_by_its_name() -> None:
    assert parsers.load("h11").__module__ == "gunicorn_asgi.http1.h11_parser"
    if parsers.available() == "httptools":
        assert parsers.load("httptools").__module__ == "gunicorn_asgi.http1.httptools_parser"
