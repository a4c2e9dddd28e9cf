"""The head of a request as functions.

RFC 9112, 2 to 6; RFC 9110, 5 to 10; docs/asgi.md, 21 to 33 and 40.

`test_http1_requests` tests the same over the wire. This module has the longer tables.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest
from costs import are_kept
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rules import SECURE, make_rules
from tables import AUTHORITIES, NO_AUTHORITIES, each

from gunicorn_asgi.errors import RequestError
from gunicorn_asgi.frozen import replace
from gunicorn_asgi.http.forwarded import NOTHING
from gunicorn_asgi.http.request import (
    MAX_LINE,
    UNKNOWN_LENGTH,
    Fields,
    Rules,
    check_authority,
    decode_path,
    takes_trailers,
)
from gunicorn_asgi.http1.request import check_partial_head, read_fields, read_head
from gunicorn_asgi.http1.upgrade import read_h2c


@pytest.fixture
def rules(parser: str) -> Rules:
    return make_rules(parser)


def head(line: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join((line, *fields, b"", b""))


def status_of(data: bytes, rules: Rules, last: Fields | None = None) -> int:
    """Return the status of the refusal, or 200."""
    try:
        read_head(data, last, rules)
    except RequestError as error:
        return error.status
    return 200


# Authorities.


@pytest.mark.parametrize("authority", AUTHORITIES)
def test_a_valid_authority_is_accepted(authority: bytes) -> None:
    """RFC 3986, 3.2.2 and 3.2.3."""
    check_authority(authority)


@each("authority", NO_AUTHORITIES)
def test_an_invalid_authority_is_refused_with_400(authority: bytes) -> None:
    """RFC 9112, 3.2; RFC 9110, 4.2.4: no userinfo."""
    with pytest.raises(RequestError) as caught:
        check_authority(authority)
    assert caught.value.status == 400


# Paths.


def test_an_authority_too_long_for_a_host_name_is_not_cached() -> None:
    """The cache would have no bound on its bytes."""
    names = [b"known" * 50, b"%d" % 7 * 300]
    for index in range(len(names)):
        check_authority(names[index])
    assert are_kept(names) == [True, False]


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/", "/"),
        (b"/a/b", "/a/b"),
        (b"/a%20b", "/a b"),
        (b"/%41", "/A"),
        (b"/caf%C3%A9", "/café"),
        (b"/%c3%a9", "/é"),
        (b"/%F0%9F%98%80", "/\U0001f600"),
        (b"/a%2Fb", "/a/b"),
        (b"/%25", "/%"),
        (b"/%2525", "/%25"),
        (b"/a%00b", "/a\0b"),
        (b"/%0D%0A", "/\r\n"),
        (b"/%", "/%"),
        (b"/%z", "/%z"),
        (b"/%4", "/%4"),
        (b"/%zz%41", "/%zzA"),
        (b"/%u0041", "/%u0041"),
        (b"/a+b", "/a+b"),
        (b"/%FF", "/\ufffd"),
        (b"/%C3", "/\ufffd"),
        (b"/%ED%A0%80", "/\ufffd\ufffd\ufffd"),
        (b"/..//./a", "/..//./a"),
        (b"//a", "//a"),
        (b"/a;b=c", "/a;b=c"),
    ],
)
def test_the_path_is_decoded_and_nothing_else(raw: bytes, path: str) -> None:
    """docs/asgi.md, 24 and 25."""
    assert decode_path(raw) == path


@given(st.binary().map(lambda data: b"/" + bytes(byte & 0x7F for byte in data)))
def test_any_path_is_decoded_to_what_utf_8_can_hold(raw: bytes) -> None:
    decode_path(raw).encode()


# Methods.


@pytest.mark.parametrize(
    ("verb", "usual", "unusual"),
    [
        (b"GET", 200, 200),
        (b"ABC", 200, 200),
        (b"AB", 400, 200),
        (b"A" * 20, 200, 200),
        (b"A" * 21, 400, 200),
        (b"M-SEARCH", 200, 200),
        (b"get", 400, 200),
        (b"GEt", 400, 200),
        (b"A#BC", 400, 200),
        (b"G@T", 400, 400),
        (b"G\xc9T", 400, 400),
        (b"", 400, 400),
        (b"CONNECT", 501, 501),
        (b"connect", 400, 501),
    ],
)
def test_which_methods_are_served(parser: str, verb: bytes, usual: int, unusual: int) -> None:
    """As in Gunicorn: 3 to 20 characters, no lower-case letter and no "#".

    ``permit_unconventional_http_method`` allows others.
    """
    data = head(verb + b" / HTTP/1.1", b"Host: a")
    for is_permitted, status in ((False, usual), (True, unusual)):
        rules = make_rules(parser, permit_unconventional_method=is_permitted)
        assert status_of(data, rules) == status
        if status == 200:
            assert read_head(data, None, rules)[0] == verb.decode().upper()


# The cache of the previous field section.


HEADS = st.tuples(
    st.sampled_from([b"GET", b"POST", b"OPTIONS", b"FOO", b"get", b"CONNECT", b"G T", b""]),
    st.sampled_from([b"/", b"/a?b", b"*", b"http://h/p", b"http://", b"/#", b"a"]),
    st.sampled_from(
        [
            head(b"HTTP/1.1", b"Host: a"),
            head(b"HTTP/1.1", b"Host: a", b"Content-Length: 5", b"Expect: 100-continue"),
            head(b"HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked", b"Connection: close"),
            head(b"HTTP/1.0", b"Connection: keep-alive"),
            head(b"HTTP/1.1"),
            head(b"HTTP/2.0", b"Host: a"),
            head(b"HTTP/1.1", b"Host: a", b"Expect: x"),
        ]
    ),
).map(b" ".join)


def outcome(data: bytes, last: Fields | None, rules: Rules) -> tuple[Any, Fields | None]:
    try:
        method, path, raw_path, query, fields = read_head(data, last, rules)
    except RequestError as error:
        return (error.status, str(error)), last
    meaning = (
        fields.version,
        fields.headers,
        fields.length,
        fields.keep_alive,
        fields.expect_continue,
        fields.scheme,
    )
    return (method, path, raw_path, query, *meaning), fields


@settings(deadline=None)
@given(st.lists(HEADS, min_size=1, max_size=6))
@example([b"GET http://h/p HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /p HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_a_request_is_read_the_same_after_any_other(parser: str, heads: list[bytes]) -> None:
    rules = make_rules(parser)
    last: Fields | None = None
    for data in heads:
        with_last, last = outcome(data, last, rules)
        assert with_last == outcome(data, None, rules)[0]


def test_an_equal_section_is_not_parsed_again(rules: Rules) -> None:
    first = read_head(head(b"GET /a HTTP/1.1", b"Host: a"), None, rules)[4]
    assert read_head(head(b"POST /b?c HTTP/1.1", b"Host: a"), first, rules)[4] is first
    assert read_head(head(b"GET /a HTTP/1.1", b"Host: b"), first, rules)[4] is not first


@given(st.binary(max_size=80))
def test_a_refusal_is_the_only_way_to_fail(parser: str, data: bytes) -> None:
    status_of(data.replace(b"\r\n\r\n", b"") + b"\r\n\r\n", make_rules(parser))


# Field sections.


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ((), 0),
        ((b"Content-Length: 0",), 0),
        ((b"Content-Length: 5",), 5),
        ((b"Content-Length: 0005",), 5),
        ((b"Content-Length: 999999999999999999",), 999999999999999999),
        ((b"Transfer-Encoding: chunked",), UNKNOWN_LENGTH),
        ((b"Transfer-Encoding: CHUNKED",), UNKNOWN_LENGTH),
    ],
)
def test_the_length_of_the_body(rules: Rules, lines: tuple[bytes, ...], length: int) -> None:
    assert read_fields(head(b"HTTP/1.1", b"Host: a", *lines), None, rules).length == length


@pytest.mark.parametrize(
    ("version", "lines", "keep_alive"),
    [
        (b"1.1", (), True),
        (b"1.0", (), False),
        (b"1.1", (b"Connection: close",), False),
        (b"1.1", (b"Connection: CLOSE",), False),
        (b"1.1", (b"Connection: foo, close\t, bar",), False),
        (b"1.1", (b"Connection: foo", b"Connection: Close"), False),
        (b"1.1", (b"Connection: keep-alive, close",), False),
        (b"1.1", (b"Connection: x-close",), True),
        (b"1.1", (b"Connection: foo",), True),
        (b"1.1", (b"Connection:",), True),
        (b"1.0", (b"Connection: keep-alive",), True),
        (b"1.0", (b"Connection: foo, Keep-Alive",), True),
        (b"1.0", (b"Connection: keep-alive", b"Connection: close"), False),
        (b"1.0", (b"Keep-Alive: timeout=5",), False),
        (b"1.1", (b"Keep-Alive: timeout=5",), True),
        (b"1.1", (b"Proxy-Connection: close",), True),
    ],
)
def test_the_client_allows_a_further_request_or_not(
    rules: Rules, version: bytes, lines: tuple[bytes, ...], keep_alive: bool
) -> None:
    """RFC 9112, 9.3; docs/asgi.md, 72."""
    assert (
        read_fields(head(b"HTTP/" + version, b"Host: a", *lines), None, rules).keep_alive
        is keep_alive
    )


@pytest.mark.parametrize(
    ("lines", "expects"),
    [
        ((b"Content-Length: 5", b"Expect: 100-continue"), True),
        ((b"Transfer-Encoding: chunked", b"Expect: 100-Continue"), True),
        ((b"Content-Length: 0", b"Expect: 100-continue"), False),
        ((b"Expect: 100-continue",), False),
        ((b"Content-Length: 5",), False),
    ],
)
def test_a_client_waits_for_a_100_or_not(
    rules: Rules, lines: tuple[bytes, ...], expects: bool
) -> None:
    """RFC 9110, 10.1.1: not without content, and not in HTTP/1.0."""
    assert (
        read_fields(head(b"HTTP/1.1", b"Host: a", *lines), None, rules).expect_continue is expects
    )
    if b"Transfer" not in b"".join(lines):
        assert (
            read_fields(head(b"HTTP/1.0", b"Host: a", *lines), None, rules).expect_continue is False
        )


@pytest.mark.parametrize(
    "name",
    [
        b"A_B",
        b"a_b",
        b"_",
        b"X_Forwarded_For",
        b"SCRIPT_NAME",
        b"Content_Length",
        b"Transfer_Encoding",
        b"Host_",
    ],
)
def test_header_map(parser: str, name: bytes) -> None:
    """Gunicorn's setting: an underscore could hide a field from a proxy."""
    data = head(b"HTTP/1.1", b"Host: a", name + b": 5", b"X: y")
    plain = [(b"host", b"a"), (b"x", b"y")]
    whole = [(b"host", b"a"), (name.lower(), b"5"), (b"x", b"y")]
    assert read_fields(data, None, make_rules(parser, header_map="drop")).headers == plain
    assert read_fields(data, None, make_rules(parser, header_map="dangerous")).headers == whole
    with pytest.raises(RequestError) as caught:
        read_fields(data, None, make_rules(parser, header_map="refuse"))
    assert caught.value.status == 400
    for header_map in ("drop", "refuse"):
        for names in (frozenset({name.lower()}), frozenset({b"*"})):
            trusted = make_rules(parser, header_map=header_map, forwarder_names=names)
            assert read_fields(data, None, trusted).headers == whole


def test_a_name_with_an_underscore_never_has_a_meaning(rules: Rules) -> None:
    fields = read_fields(
        head(b"HTTP/1.1", b"Host: a", b"Content_Length: 5", b"Transfer_Encoding: chunked"),
        None,
        replace(rules, header_map="dangerous"),
    )
    assert fields.length == 0


@pytest.mark.parametrize(
    ("lines", "scheme"),
    [
        ((), None),
        ((b"X-Forwarded-Proto: https",), "https"),
        ((b"X-Forwarded-Proto: http",), "http"),
        ((b"X-Forwarded-Proto: HTTPS",), "https"),
        ((b"X-Forwarded-Ssl: on",), "https"),
        ((b"X-Forwarded-Ssl: on", b"X-Forwarded-Proto: https"), "https"),
        ((b"X-Forwarded-Ssl: on", b"X-Forwarded-Proto: http"), 400),
        ((b"X-Forwarded-Proto: https", b"X-Forwarded-Proto: http"), 400),
    ],
)
def test_secure_scheme_headers(
    parser: str, lines: tuple[bytes, ...], scheme: str | int | None
) -> None:
    """For a trusted peer; docs/asgi.md, 23."""
    data = head(b"HTTP/1.1", b"Host: a", *lines)
    assert read_fields(data, None, make_rules(parser)).scheme is None
    trusted = make_rules(parser, secure_scheme=SECURE)
    if scheme == 400:
        assert status_of(b"GET / " + data, trusted) == 400
    else:
        assert read_fields(data, None, trusted).scheme == scheme


H2C = (b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABk")


@pytest.mark.parametrize(
    ("h2c", "lines", "upgrade"),
    [
        ("upgrade", H2C, "h2c"),
        ("both", H2C, "h2c"),
        ("off", H2C, ""),
        ("prior-knowledge", H2C, ""),
        ("upgrade", (*H2C, b"Content-Length: 0"), "h2c"),
        ("upgrade", (*H2C, b"Content-Length: 1"), ""),
        ("upgrade", (*H2C, b"Transfer-Encoding: chunked"), ""),
        ("upgrade", H2C[:2], ""),
        ("upgrade", (*H2C, H2C[2]), ""),
        ("upgrade", (*H2C[:2], b"HTTP2-Settings: A"), ""),
        ("upgrade", (b"Upgrade: h2", *H2C[1:]), ""),
    ],
)
def test_h2c_is_read_for_trusted_peers_and_ignored_otherwise(
    parser: str, h2c: str, lines: tuple[bytes, ...], upgrade: str
) -> None:
    """RFC 7540, 3.2, and only without a body."""
    fields = read_fields(head(b"HTTP/1.1", b"Host: a", *lines), None, make_rules(parser, h2c=h2c))
    assert (fields.upgrade, fields.h2c) == (upgrade, b"\0\3\0\0\0d" if upgrade else b"")
    assert (
        read_fields(head(b"HTTP/1.0", b"Host: a", *H2C), None, make_rules(parser, h2c=h2c)).upgrade
        == ""
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"OPTIONS *", ("*", b"*", b"")),
        (b"OPTIONS http://h", ("*", b"*", b"")),
        (b"OPTIONS http://h/", ("/", b"/", b"")),
        (b"OPTIONS http://h?q", ("/", b"/", b"q")),
        (b"GET http://h", ("/", b"/", b"")),
        (b"GET http://h?q", ("/", b"/", b"q")),
    ],
)
def test_only_options_without_a_path_is_for_the_server_as_a_whole(
    rules: Rules, line: bytes, expected: tuple[str, bytes, bytes]
) -> None:
    """RFC 9112, 3.2.4."""
    assert read_head(head(line + b" HTTP/1.1", b"Host: a"), None, rules)[1:4] == expected


@pytest.mark.parametrize("size", range(14))
def test_the_settings_of_h2c_are_read_without_padding(size: int) -> None:
    """RFC 7540, 3.2.1: base64url."""
    settings = bytes(range(0xF5, 0xF5 + size % 11)) + bytes(size - size % 11)
    value = base64.urlsafe_b64encode(settings).rstrip(b"=")
    assert (
        read_h2c([b"h2c"], [b"Upgrade, HTTP2-Settings"], "1.1", [(b"http2-settings", value)])
        == settings
    )


@pytest.mark.parametrize(
    ("lines", "scheme"), [((), "http"), ((b"Connection: Upgrade", b"Upgrade: websocket"), "https")]
)
def test_wss_is_the_scheme_of_a_handshake_only(
    parser: str, lines: tuple[bytes, ...], scheme: str
) -> None:
    trusted = make_rules(parser, secure_scheme=SECURE)
    assert (
        read_fields(
            head(b"HTTP/1.1", b"Host: a", b"X-Forwarded-Proto: wss", *lines), None, trusted
        ).scheme
        == scheme
    )
    assert (
        read_fields(
            head(b"HTTP/1.1", b"Host: a", b"X-Forwarded-Proto: https", *lines), None, trusted
        ).scheme
        == "https"
    )


def test_headers_about_the_client_are_read_only_from_a_trusted_proxy() -> None:
    assert make_rules().proxy_names == frozenset()
    assert make_rules(secure_scheme=SECURE).proxy_names == set(SECURE)
    assert make_rules(takes_script_name=True).proxy_names == {b"script_name"}
    assert make_rules(read_proxy=lambda _: NOTHING).proxy_names == {
        b"x-forwarded-for",
        b"forwarded",
    }


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/app", 200),
        (b"/app/x", 200),
        (b"/x", 500),
        (b"http://h/app/x", 200),
        (b"http://h/x", 500),
        (b"http://h", 500),
        (b"*", 200),
    ],
)
def test_a_path_has_to_begin_with_the_script_name(parser: str, target: bytes, status: int) -> None:
    """The environment's, or the last one that a trusted proxy sends."""
    data = head(
        b"OPTIONS %b HTTP/1.1" % target if target == b"*" else b"GET %b HTTP/1.1" % target,
        b"Host: a",
    )
    assert status_of(data, make_rules(parser)) == 200
    assert status_of(data, make_rules(parser, script_name=b"/app")) == status
    told = data[:-2] + b"SCRIPT_NAME: /other\r\nSCRIPT_NAME: /app\r\nX_Y: /x\r\n\r\n"
    names = frozenset({b"script_name"})
    for data in (told, told.replace(b"X_Y: /x\r\n", b"")):
        assert status_of(data, make_rules(parser, forwarder_names=names)) == 200
        assert (
            status_of(data, make_rules(parser, takes_script_name=True, forwarder_names=names))
            == status
        )
        assert (
            status_of(
                data,
                make_rules(
                    parser, takes_script_name=True, forwarder_names=names, script_name=b"/env"
                ),
            )
            == status
        )


def test_the_authority_of_the_target_replaces_the_host_only(rules: Rules) -> None:
    """RFC 9112, 3.2.2."""
    data = head(
        b"GET http://b:80/p?q HTTP/1.1",
        b"X: y",
        b"Host: a",
        b"Content-Length: 5",
        b"Expect: 100-continue",
        b"Connection: close",
    )
    method, path, raw_path, query, fields = read_head(data, None, rules)
    assert (method, path, raw_path, query) == ("GET", "/p", b"/p", b"q")
    assert fields.headers[:2] == [(b"host", b"b:80"), (b"x", b"y")]
    assert [name for name, _ in fields.headers].count(b"host") == 1
    assert (fields.length, fields.keep_alive, fields.expect_continue) == (5, False, True)


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ([b"100-continue"], 200),
        ([b"100-Continue"], 200),
        ([b"x"], 417),
        ([b""], 417),
        ([b"100-continue", b"x"], 417),
        ([b"100-continue, x"], 417),
    ],
)
def test_every_other_expectation_is_refused(rules: Rules, values: list[bytes], status: int) -> None:
    """RFC 9110, 10.1.1."""
    assert (
        status_of(
            head(b"GET / HTTP/1.1", b"Host: a", *(b"Expect: " + value for value in values)), rules
        )
        == status
    )


@pytest.mark.parametrize(
    ("headers", "takes"),
    [
        ([], False),
        ([(b"te", b"trailers")], True),
        ([(b"te", b"gzip, Trailers\t")], True),
        ([(b"te", b"gzip"), (b"te", b"trailers")], True),
        ([(b"te", b"x-trailers")], False),
        ([(b"te", b"")], False),
        ([(b"trailer", b"trailers")], False),
    ],
)
def test_the_client_accepts_trailers_or_not(
    headers: list[tuple[bytes, bytes]], takes: bool
) -> None:
    """RFC 9110, 10.1.4."""
    assert takes_trailers([(b"host", b"a"), *headers]) is takes


# Limits.


def test_limit_request_line(parser: str) -> None:
    """414 for one byte over; the line's end does not count, as in Gunicorn."""
    rules = make_rules(parser, limit_line=40)
    line = b"GET /" + b"x" * (40 - len(b"GET / HTTP/1.1")) + b" HTTP/1.1"
    assert len(line) == 40
    assert status_of(head(line, b"Host: a"), rules) == 200
    assert status_of(head(line.replace(b"/x", b"/xx"), b"Host: a"), rules) == 414


def test_limit_request_fields(parser: str) -> None:
    rules = make_rules(parser, limit_fields=5)
    assert status_of(head(b"GET / HTTP/1.1", b"Host: a", *[b"a: b"] * 4), rules) == 200
    assert status_of(head(b"GET / HTTP/1.1", b"Host: a", *[b"a: b"] * 5), rules) == 431


def test_limit_request_field_size(parser: str) -> None:
    """431 for one byte over; the line's end counts, as in Gunicorn."""
    rules = make_rules(parser, limit_field_size=40)
    line = b"a: " + b"x" * (40 - len(b"a: \r\n"))
    for lines in ([b"Host: a", line], [line, b"Host: a"], [b"Host: a", line, b"b: c"]):
        assert status_of(head(b"GET / HTTP/1.1", *lines), rules) == 200
        longer = [each.replace(b"a: x", b"a: xx") for each in lines]
        assert status_of(head(b"GET / HTTP/1.1", *longer), rules) == 431


def check(data: bytes, rules: Rules, before: int = 0) -> int:
    try:
        check_partial_head(bytearray(data), before, rules)
    except RequestError as error:
        return error.status
    return 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"G", 0),
        (b"GET /", 0),
        (b"GET / HTTP/1.1\r", 0),
        (b"GET / HTTP/1.1\r\n", 0),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", 0),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r", 0),
        (b"\r", 0),
        (b"\rG", 400),
        (b"\n", 400),
        (b" ", 400),
        (b"\x00", 400),
        (b"\x16\x03\x01", 400),  # a TLS ClientHello
        (b"GET / HTTP/1.1\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n", 400),
    ],
)
def test_bytes_that_cannot_become_a_head_are_refused_before_it_is_complete(
    rules: Rules, data: bytes, status: int
) -> None:
    assert check(data, rules) == status
    # however it has come
    assert max(check(data[: end + 1], rules, end) for end in range(len(data))) == status


def test_a_partial_head_is_refused_as_soon_as_it_is_over_a_limit(parser: str) -> None:
    rules = make_rules(parser, limit_line=40, limit_field_size=30, limit_fields=3)
    assert check(b"x" * 40, rules) == 0
    assert check(b"x" * 42, rules) == 414
    assert check(b"GET / HTTP/1.1\r\n" + b"x" * 30, rules) == 0
    assert check(b"GET / HTTP/1.1\r\n" + b"x" * 31, rules) == 431
    assert check(b"GET / HTTP/1.1\r\n" + b"a: 3456789012345678901234567\r\n" * 6, rules) == 431
    assert check(b"x" * MAX_LINE, make_rules(parser, limit_line=MAX_LINE)) == 0


def test_a_partial_head_within_the_limits_is_accepted(parser: str) -> None:
    """The CR of a line does not count. The request line does not count as a field."""
    assert check(b"x" * 40 + b"\r", make_rules(parser, limit_line=40)) == 0
    assert (
        check(
            b"GET / HTTP/1.1\r\n" + b"x" * 80,
            make_rules(parser, limit_line=40, limit_field_size=80),
        )
        == 0
    )
    rules = make_rules(parser, limit_line=40, limit_field_size=30, limit_fields=3)
    largest = head(
        b"GET /".ljust(31, b"x") + b" HTTP/1.1",
        b"Host: ".ljust(28, b"a"),
        *[b"a: ".ljust(28, b"b")] * 2,
    )
    assert len(largest) == 40 + 2 + 3 * 30 + 2
    assert status_of(largest, rules) == 200
    for end in range(1, len(largest)):
        assert check(largest[:end], rules) == 0


@given(st.integers(0, 60), st.lists(st.integers(0, 40), max_size=5))
def test_a_partial_head_is_never_refused_that_would_be_accepted_whole(
    target: int, values: list[int]
) -> None:
    rules = make_rules(limit_line=50, limit_field_size=30, limit_fields=4)
    data = head(
        b"GET /" + b"x" * target + b" HTTP/1.1",
        b"Host: a",
        *(b"a: " + b"x" * value for value in values),
    )
    if status_of(data, rules) == 200:
        for end in range(1, len(data)):
            assert check(data[:end], rules, end - 1) == 0
            assert check(data[:end], rules) == 0


REASONS = {
    b"GET /# HTTP/1.1": "Invalid request target: it has a fragment, or a '#' that is not encoded as %23",
    b"GET http://a/#b HTTP/1.1": "Invalid request target: it has a fragment, or a '#' that is not encoded as %23",
    b"GET /\xe9 HTTP/1.1": "Invalid request target: not printable ASCII",
    b"GET /a b HTTP/1.1": "Invalid request line: more than a method, a target and a version",
    b"GET / HTTX": "Invalid request line: no HTTP version at its end",
    b"GET a HTTP/1.1": "Invalid request target: neither a path nor an absolute http URI",
}


@pytest.mark.parametrize("line", REASONS)
def test_a_request_line_is_refused_for_its_own_reason(line: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        read_head(head(line, b"Host: a"), None, make_rules())
    assert (caught.value.status, str(caught.value)) == (400, REASONS[line])
