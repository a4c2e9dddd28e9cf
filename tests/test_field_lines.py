"""Field lines that are remembered across connections.

They never change the meaning of a request, are never secrets, and have a bound.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from conftest import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rules import SECURE, make_rules

from gunicorn_asgi.errors import RequestError
from gunicorn_asgi.http.forwarded import read_x_forwarded_for
from gunicorn_asgi.http.memory import SAMPLE
from gunicorn_asgi.http.request import (
    MAX_KNOWN_LINES,
    MAX_KNOWN_SECTIONS,
    Fields,
    Rules,
)
from gunicorn_asgi.http1 import parser as parsers
from gunicorn_asgi.http1.field_lines import MAX_LINE, MAX_LINES, SHARED_NAMES, FieldLines
from gunicorn_asgi.http1.request import read_head

SECRETS = (
    b"Cookie: a=SECRET",
    b"Authorization: Basic SECRET",
    b"Proxy-Authorization: SECRET",
    b"X-Api-Key: SECRET",
    b"X-CSRF-Token: SECRET",
    b"Sec-WebSocket-Key: SECRET",
    b"Sec-WebSocket-Protocol: bearer, SECRET",
    b"HTTP2-Settings: SECRET",
    b"Referer: https://a.example/?token=SECRET",
    b"X-Forwarded-For: SECRET",
    b"Forwarded: for=SECRET",
    b"X-Client-Cert: SECRET",
    b"Unknown: SECRET",
    b"SECRET: a",
    b"a_b: SECRET",
    b"accept_: SECRET",
)


@pytest.fixture
def field_lines(parser: str) -> FieldLines:
    return FieldLines(parsers.load(parser))


def known(field_lines: FieldLines, *lines: bytes) -> list[bool]:
    """Whether each line is remembered."""
    return [header is not None for header in field_lines.match(lines)]


def head(*lines: bytes, version: bytes = b"1.1", target: bytes = b"/") -> bytes:
    return b"\r\n".join((b"GET " + target + b" HTTP/" + version, *lines, b"", b""))


def trusting(parser: str, **changes: Any) -> Rules:
    return make_rules(
        parser,
        secure_scheme=SECURE,
        read_proxy=lambda headers: read_x_forwarded_for(
            lambda address: address == "10.0.0.1", headers
        ),
        takes_script_name=True,
        forwarder_names=frozenset({b"script_name"}),
        h2c="both",
        **changes,
    )


KINDS: dict[str, Any] = {
    "untrusted": make_rules,
    "trusted": trusting,
    "dangerous": lambda parser: trusting(parser, header_map="dangerous"),
    "refusing": lambda parser: make_rules(parser, header_map="refuse"),
    "with a script name": lambda parser: trusting(parser, script_name=b"/app"),
    "with small limits": lambda parser: make_rules(parser, limit_fields=6, limit_field_size=64),
}


# The meaning.


def meaning(data: bytes, last: Fields | None, rules: Rules) -> tuple[object, Fields | None]:
    """Return everything that a request means, or the refusal; and its fields, or `last`."""
    try:
        *line, fields = read_head(data, last, rules)
    except RequestError as error:
        return (error.status, str(error) if error.status != 400 else ""), last
    values = {name: getattr(fields, name) for name in Fields.__slots__ if name != "form"}
    return (line, values), fields


LINES = st.sampled_from(
    [
        *(b"Host: a", b"Host: b", b"host: a", b"Host: a/b", b"Host:"),
        *(b"Accept: */*", b"Accept:", b"User-Agent: x", b"Priority: u=1", b"accept: */* "),
        *(b"Connection: close", b"Connection: keep-alive", b"Connection: upgrade"),
        *(b"Connection: upgrade, http2-settings", b"HTTP2-Settings: AAMAAABk"),
        *(b"Upgrade: websocket", b"Upgrade: h2c", b"Upgrade: x"),
        *(b"Content-Length: 5", b"Content-Length: 0", b"Content-Length: +5", b"Content-Length: 6"),
        *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Transfer-Encoding:"),
        *(b"Expect: 100-continue", b"Expect: x", b"TE: trailers"),
        *(b"X-Forwarded-Proto: https", b"X-Forwarded-Proto: http", b"X-Forwarded-Proto: wss"),
        *(b"X-Forwarded-Ssl: on", b"X-Forwarded-For: 1.2.3.4, 10.0.0.1", b"X-Forwarded-For: ::1"),
        *(b"X-Forwarded-For:", b"Forwarded: for=1.2.3.4;proto=https", b"Via: 1.1 x"),
        *(b"Script_Name: /app", b"SCRIPT_NAME: /x", b"X_Forwarded_For: 9.9.9.9", b"a_b: c"),
        *(b"Cookie: a=b", b"Cookie: c=d", b"Authorization: x", b"X-Id: 1", b"X-Id: 2", b"X-Id:"),
        *(b"Accept-Language: " + b"y" * 45, b"Accept-Language: " + b"y" * 46),
        *(b"Cache-Control: " + b"z" * 300, b"Accept: a\rb", b"Accept: a\r", b"X-Id: a\n"),
        *(b"Accept: a\nX-Id: 1", b"Accept: a\x00", b" folded", b"\tfolded", b"A b: c", b": x"),
        *(b"nocolon", b"Accept : a", b"Accept: \xe9", b"\xe9: a", b"~Accept: a"),
    ]
)
USUAL = st.sampled_from(
    [b"Accept: */*", b"User-Agent: x", b"Cookie: a=b", b"Cookie: c=d", b"X-Id: 1", b"X-Id: 2"]
)
SECTIONS = st.one_of(
    st.lists(LINES, max_size=8),
    st.lists(USUAL, max_size=5).map(lambda lines: [b"Host: a", *lines]),
    st.tuples(st.lists(USUAL, max_size=4), LINES).map(lambda both: [b"Host: a", *both[0], both[1]]),
)
HEADS = st.builds(
    lambda lines, version, target: head(*lines, version=version, target=target),
    SECTIONS,
    st.sampled_from([b"1.1", b"1.1", b"1.0", b"2.0"]),
    st.sampled_from([b"/", b"/app/x?y", b"http://h/app/"]),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(500))
@given(requests=st.lists(st.tuples(st.integers(0, 1), HEADS), min_size=2, max_size=12))
@example(
    requests=[
        (0, head(b"Host: a", b"X-Id: 1")),
        (0, head(b"Host: a", b"X-Id: 1", version=b"1.0")),
        (0, head(b"Host: a", b"X-Id: 2")),
        (0, head(b"Host: a", b"X-Id: 3")),
        (0, head(b"Host: a", b"Host: a")),
        (0, head(b"Host: a", b"Content-Length: 5")),
        (0, head(b"Host: a", b"X-Forwarded-For: 1.2.3.4")),
        (0, head(b"Host: a", b"X-Forwarded-Proto: https")),
        (0, head(b"Host: a", b"X-Forwarded-Ssl: on")),
        (0, head(b"Host: a", b"Script_Name: /app")),
        (0, head(b"Host: a", b"X-Id: " + b"x" * 80)),
    ]
)
@example(
    requests=[
        (0, head(b"Host: a", b"Connection: upgrade, http2-settings", b"Upgrade: h2c", line))
        for line in (b"X-Id: 1", b"X-Id: 2", b"X-Id: 3", b"HTTP2-Settings: AAMAAABk", b"X-Id: 4")
    ]
)
def test_a_request_means_the_same_whatever_was_read_before(
    parser: str, kind: str, requests: list[tuple[int, bytes]]
) -> None:
    """Two connections share the memory. The other reader has none and no request before."""
    rules = KINDS[kind](parser)
    last: list[Fields | None] = [None, None]
    for connection, data in requests:
        found, last[connection] = meaning(data, last[connection], rules)
        assert found == meaning(data, None, KINDS[kind](parser))[0]


@pytest.mark.skipif(parsers.available() != "httptools", reason="there is only one parser")
@pytest.mark.parametrize("kind", ["untrusted", "trusted"])
@settings(max_examples=examples(300))
@given(requests=st.lists(HEADS, max_size=10))
def test_both_parsers_agree_on_any_sequence_of_requests(kind: str, requests: list[bytes]) -> None:
    all_rules = [KINDS[kind](name) for name in ("h11", "httptools")]
    last: list[Fields | None] = [None, None]
    for data in requests:
        outcomes = []
        for index, rules in enumerate(all_rules):
            found, last[index] = meaning(data, last[index], rules)
            outcomes.append(found)
        assert outcomes[0] == outcomes[1]


def test_fields_that_are_changed_later_do_not_change_the_memory(parser: str) -> None:
    """An application may do with its scope what it likes; the list of fields is its own."""
    rules = make_rules(parser)
    lines = (b"Host: a", b"Accept: x", b"Cookie: b")
    for _ in range(3):
        fields = read_head(head(*lines), None, rules)[4]
        assert fields.headers == [(b"host", b"a"), (b"accept", b"x"), (b"cookie", b"b")]
        fields.headers.clear()


@pytest.mark.parametrize("line", [b"nocolon", b"Accept : a", b" x", b"Accept: a\rb", b"Accept: \0"])
def test_an_invalid_line_is_refused_each_time_and_never_remembered(
    field_lines: FieldLines, line: bytes
) -> None:
    for lines in ([line], [b"Host: a", line], [line, b"Accept: b"]):
        for _ in range(2):
            with pytest.raises(RequestError):
                field_lines.read(lines)
            with pytest.raises(RequestError):
                field_lines.parse(lines)
    assert known(field_lines, line, b"Host: a", b"Accept: b") == [False, False, False]


# What is remembered.


def test_lines_that_clients_share_are_remembered(field_lines: FieldLines) -> None:
    lines = [b"Host: a", b"ACCEPT: b", b"user-agent: c"]
    headers, pattern = field_lines.read(lines)
    assert tuple(headers) == pattern
    assert field_lines.match(lines) == pattern


def test_a_long_line_is_not_remembered(field_lines: FieldLines) -> None:
    lines = [b"Accept: %b" % (b"x" * (size - len("Accept: "))) for size in (MAX_LINE, MAX_LINE + 1)]
    field_lines.read(lines)
    assert known(field_lines, *lines) == [True, False]


def remembered(thing: object) -> Iterator[bytes]:
    """All bytes that `thing` refers to, by way of anything but code."""
    seen: dict[int, object] = {}
    things = [thing]
    while things:
        one = things.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        if isinstance(one, bytes):
            yield one
        elif isinstance(one, (dict, list, tuple, frozenset)) or type(one).__module__.startswith(
            "gunicorn_asgi."
        ):
            things += gc.get_referents(one)
        elif hasattr(one, "__self__"):
            things.append(one.__self__)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_secret_or_an_unknown_field_is_remembered(parser: str, kind: str) -> None:
    rules = KINDS[kind](parser)
    usual = (b"Host: a", b"Accept: SHARED")
    for secret in SECRETS:
        last = None
        for lines in ((*usual, secret), (secret, *usual), (*usual, b"X-Id: 1", secret), SECRETS):
            for _ in range(3):
                with suppress(RequestError):  # "refusing", "with small limits"
                    last = read_head(head(*lines, target=b"/app"), last, rules)[4]
    kept = list(remembered(rules))
    assert b"SHARED" in kept
    assert not [one for one in kept if b"SECRET" in one]


def test_no_shared_name_is_one_that_may_have_a_secret() -> None:
    names = {secret.partition(b":")[0].lower() for secret in SECRETS}
    assert SHARED_NAMES.isdisjoint({*names, b"set-cookie", b"x-real-ip", b"x-request-id"})
    assert not [name for name in SHARED_NAMES if b"_" in name or name != name.lower()]


# The bounds.


def flood(rules: Rules, count: int, step: int = 500) -> None:
    """Let the memory of lines see `count` lines, none of them twice."""
    for start in range(0, count, step):
        rules.field_lines.read([b"Via: %d" % number for number in range(start, start + step)])


def test_the_memory_of_lines_is_bounded(parser: str) -> None:
    rules = make_rules(parser)
    flood(rules, MAX_LINES + 3 * MAX_LINES * SAMPLE // 2)
    assert len({one for one in remembered(rules.field_lines) if one.startswith(b"Via")}) <= (
        2 * MAX_LINES
    )


def test_the_memory_of_sections_is_bounded(parser: str) -> None:
    rules = make_rules(parser)
    values = [b"Via: %d" % number for number in range(60)]
    for first in values:
        for second in values:
            read_head(head(b"Host: a", first, second), None, rules)
    sections = rules.known_sections["1.1"]
    gc.collect()
    kept = [one for one in gc.get_objects() if type(one) is Fields and not one.section]
    assert len(sections.recent) <= MAX_KNOWN_SECTIONS
    assert sum(b"host" in dict(one.headers) for one in kept) <= 3 * MAX_KNOWN_SECTIONS


def test_a_section_of_very_many_lines_is_not_remembered(parser: str) -> None:
    rules = make_rules(parser)
    for count in (MAX_KNOWN_LINES, MAX_KNOWN_LINES + 1):
        lines = [b"Host: a", *(b"Via: %d" % number for number in range(1, count))]
        for _ in range(3):
            assert len(read_head(head(*lines), None, rules)[4].headers) == count
        is_known = rules.field_lines.match(lines) in rules.known_sections["1.1"].recent
        assert is_known == (count == MAX_KNOWN_LINES)


def test_a_flood_does_not_push_out_lines_in_use(parser: str) -> None:
    """Other lines of the same section are remembered, or are not: neither makes a difference."""
    rules = make_rules(parser)
    agents = [b"User-Agent: %d" % number for number in range(8)]
    sections = [(b"Host: a", agent, b"Accept: b") for agent in agents]
    for section in sections:
        read_head(head(*section), None, rules)
    flood(rules, MAX_LINES)
    for part in range(MAX_LINES, 5 * MAX_LINES * SAMPLE, 8000):
        rules.field_lines.read([b"Via: 1.1 %d" % number for number in range(part, part + 8000)])
        read_head(head(b"Host: a", b"User-Agent: new%d" % part, b"Accept: b"), None, rules)
        for section in sections:
            read_head(head(*section), None, rules)
            assert None not in rules.field_lines.match(section)


def test_a_line_that_becomes_common_later_is_remembered_in_the_end(parser: str) -> None:
    rules = make_rules(parser)
    flood(rules, 2 * MAX_LINES)
    for number in range(3 * SAMPLE):  # so that such sections are known
        read_head(head(b"Host: a", b"User-Agent: %d" % number), None, rules)
    common = (b"Host: a", b"User-Agent: common")
    for _ in range(3 * SAMPLE * SAMPLE):
        if None not in rules.field_lines.match(common):
            break
        read_head(head(*common), None, rules)
    assert None not in rules.field_lines.match(common)
