"""The host and the scheme that trusted proxies name: lists, repeated fields, and claims of clients.

The options ``forwarded_host`` and ``forwarded_lists`` (`gunicorn_asgi.http.request`).
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
from costs import count_calls
from gunicorn.config import Config
from hypothesis import example, given
from hypothesis import strategies as st
from inprocess import mirror, serve
from rules import make_rules
from tables import AUTHORITIES, NO_AUTHORITIES, each
from ways import serving
from ws import handshake

from gunicorn_asgi.config.settings import Settings
from gunicorn_asgi.errors import RequestError
from gunicorn_asgi.frozen import replace
from gunicorn_asgi.http.fields import VISIBLE
from gunicorn_asgi.http.forwarded import MAX_NODES, client_element, read_list
from gunicorn_asgi.http.request import Fields, Rules
from gunicorn_asgi.http.trust import peer_rules
from gunicorn_asgi.http1.request import read_head
from gunicorn_asgi.http2.blocks import ENTRY_SIZE, Block
from gunicorn_asgi.http2.request import RequestReader

PROXIES = ("10.0.0.1", "10.0.0.2")


def rules_of(
    peer: str = PROXIES[0], proxied: str | None = None, parser: str = "h11", **options: Any
) -> Rules:
    """The rules for a request of `peer`, with ``forwarded_host``."""
    settings = replace(
        Settings.read(Config(), {"forwarded_host": True, **options}, {}),
        forwarded_allow_ips=PROXIES,
    )
    return peer_rules(make_rules(parser), settings)((peer, 1), (proxied, 1) if proxied else None)


def head(*lines: bytes, target: bytes = b"/", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join((b"GET %b HTTP/%b" % (target, version), *lines, b"", b""))


def over_http1(rules: Rules, *lines: bytes) -> Fields:
    return read_head(head(b"Host: internal", *lines), None, rules)[4]


def over_http2(rules: Rules, *lines: bytes) -> Fields:
    fields = [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"internal"),
    ]
    for line in lines:
        name, _, value = line.partition(b":")
        fields.append((name.lower(), value.strip(b" ")))
    size = sum(len(name) + len(value) + ENTRY_SIZE for name, value in fields)
    return RequestReader(rules, 65536, True).read(Block.of(fields, size))[4]


VERSIONS = {"1.1": over_http1, "2": over_http2}


def hosts(fields: Fields) -> list[bytes]:
    return [value for name, value in fields.headers if name == b"host"]


def told(fields: Fields) -> tuple[bytes, str | None]:
    (host,) = hosts(fields)
    return host, fields.scheme


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# The host.


def test_the_host_of_a_trusted_proxy_replaces_the_one_of_the_request(version: str) -> None:
    rules = rules_of()
    fields = VERSIONS[version](rules, b"X-Forwarded-Host: example.com:8443", b"X-A: b")
    assert fields.headers == [
        (b"host", b"example.com:8443"),
        (b"x-forwarded-host", b"example.com:8443"),
        (b"x-a", b"b"),
    ]
    assert hosts(VERSIONS[version](rules, b"X-A: b")) == [b"internal"]


@pytest.mark.parametrize(
    ("rules", "line"),
    [
        ({"forwarded_host": False}, b"X-Forwarded-Host: evil"),
        ({"peer": "10.0.0.3"}, b"X-Forwarded-Host: evil"),
        ({"peer": "10.0.0.3", "proxy_headers": "forwarded"}, b"Forwarded: for=10.0.0.4;host=evil"),
        ({"proxy_headers": "forwarded"}, b"X-Forwarded-Host: evil"),
        ({"proxy_headers": "x-forwarded"}, b"Forwarded: for=192.0.2.1;host=evil"),
        ({"proxied": "192.0.2.1"}, b"X-Forwarded-Host: evil"),
        ({"proxied": "192.0.2.1", "proxy_headers": "forwarded"}, b"Forwarded: host=evil"),
        ({}, b"X-Forwarded-Host:"),
        ({}, b"X-Forwarded-Host: , ,"),
        ({"proxy_headers": "forwarded"}, b"Forwarded: for=192.0.2.1"),
        ({"proxy_headers": "forwarded"}, b'Forwarded: for=192.0.2.1;host=""'),
        ({"proxy_headers": "forwarded"}, b"Forwarded: for=192.0.2.1, for=10.0.0.2;host=inner"),
    ],
    ids=str,
)
def test_the_host_stays_where_nobody_trusted_names_another(
    version: str, rules: dict[str, Any], line: bytes
) -> None:
    """From the PROXY protocol it is known whose word a header is, as for the client's address."""
    assert hosts(VERSIONS[version](rules_of(**rules), line)) == [b"internal"]


@pytest.mark.parametrize(
    ("rules", "line"),
    [
        ({"proxied": "10.0.0.2"}, b"X-Forwarded-Host: public"),
        ({"proxy_headers": "off"}, b"X-Forwarded-Host: public"),
        ({"proxy_headers": "forwarded"}, b"Forwarded: for=192.0.2.1;host=public"),
        ({"proxy_headers": "forwarded"}, b"Forwarded: for=_hidden;host=public"),
        (
            {"proxy_headers": "forwarded"},
            b"Forwarded: for=1.2.3.4;host=evil, for=192.0.2.1;host=public, for=10.0.0.2;host=inner",
        ),
    ],
    ids=str,
)
def test_the_host_is_taken_from_the_header_that_the_options_choose(
    version: str, rules: dict[str, Any], line: bytes
) -> None:
    """RFC 7239, 5.3."""
    assert hosts(VERSIONS[version](rules_of(**rules), line)) == [b"public"]


@pytest.mark.parametrize("authority", AUTHORITIES)
def test_every_valid_host_is_taken(version: str, authority: bytes) -> None:
    read, quoted = VERSIONS[version], b'"%b"' % authority
    if b"," not in authority:  # there it separates elements
        assert hosts(read(rules_of(), b"X-Forwarded-Host: " + authority)) == [authority]
    rules = rules_of(proxy_headers="forwarded")
    assert hosts(read(rules, b"Forwarded: for=192.0.2.1;host=" + quoted)) == [authority]


@each("authority", NO_AUTHORITIES)
def test_a_host_that_is_none_is_refused_with_400(version: str, authority: bytes) -> None:
    """RFC 9110, 7.2."""
    read = VERSIONS[version]
    if authority.translate(None, VISIBLE) or not authority:
        return  # no valid field, or one without a value
    if authority == authority.strip() and b"," not in authority:
        with pytest.raises(RequestError) as caught:
            read(rules_of(), b"X-Forwarded-Host: " + authority)
        assert (caught.value.status, str(caught.value)) == (
            400,
            "Invalid host in X-Forwarded-Host: not a host with an optional port",
        )
    text = authority.replace(b"\\", rb"\\").replace(b'"', rb"\"")
    with pytest.raises(RequestError) as caught:
        read(rules_of(proxy_headers="forwarded"), b'Forwarded: for=192.0.2.1;host="%b"' % text)
    assert (caught.value.status, str(caught.value)) == (
        400,
        "Invalid host in Forwarded: not a host with an optional port",
    )


def test_the_requests_own_host_is_checked_all_the_same() -> None:
    rules, line = rules_of(), b"X-Forwarded-Host: public"
    for data in (head(line), head(b"Host: a b", line), head(b"Host: a", b"Host: a", line)):
        with pytest.raises(RequestError) as caught:
            read_head(data, None, rules)
        assert caught.value.status == 400


def test_the_host_also_replaces_the_authority_of_a_target() -> None:
    """In absolute-form (RFC 9112, 3.2.2), with a body or without."""
    for lines in ((), (b"Content-Length: 5",)):
        data = head(
            b"Host: a", b"X-Forwarded-Host: public", *lines, target=b"http://internal:8000/p"
        )
        fields = read_head(data, None, rules_of())[4]
        assert hosts(fields) == [b"public"]
        assert fields.length == (5 if lines else 0)
        assert hosts(read_head(data, None, rules_of(forwarded_host=False))[4]) == [b"internal:8000"]
    data = head(b"Host: a", b"Forwarded: for=1.1.1.1;host=public", target=b"http://internal/p")
    assert hosts(read_head(data, None, rules_of(proxy_headers="forwarded"))[4]) == [b"public"]


def test_a_request_of_http_1_0_without_a_host_gets_one() -> None:
    rules = rules_of()
    for _ in range(3):  # the second is read from memory
        fields = read_head(head(b"X-Forwarded-Host: public", version=b"1.0"), None, rules)[4]
        assert fields.headers == [(b"x-forwarded-host", b"public"), (b"host", b"public")]
        assert hosts(read_head(head(b"Via: a", version=b"1.0"), None, rules)[4]) == []
    mixed = head(b"X-Forwarded-Host: public", b"Host: internal", version=b"1.0")
    for data in (mixed, mixed.replace(b"internal", b"other")):
        assert hosts(read_head(data, None, rules)[4]) == [b"public"]


# Lists. What the nearest proxy has written is at the right.


XFF = b"X-Forwarded-For: "
HOSTS = [
    # (X-Forwarded-For, X-Forwarded-Host, with `forwarded_lists`, without)
    (b"192.0.2.1", b"public", b"public", b"public"),
    (b"192.0.2.1, 10.0.0.2", b"public", b"public", b"public"),
    (b"192.0.2.1, 10.0.0.2", b"public, inner", b"public", b"inner"),
    (b"192.0.2.1,10.0.0.2", b" , public,, inner,", b"public", b"inner"),
    # The client has forged either list, or both, and may have made them equally long.
    (b"192.0.2.1", b"evil, public", b"public", b"public"),
    (b"1.2.3.4, 192.0.2.1", b"evil, public", b"public", b"public"),
    (b"1.2.3.4, 192.0.2.1, 10.0.0.2", b"public, inner", b"public", b"inner"),
    (b"192.0.2.1, 10.0.0.2", b"evil, public, inner", b"public", b"inner"),
    (b"10.0.0.2, 192.0.2.1, 10.0.0.2", b"e, v, il, public, inner", b"public", b"inner"),
    # Not all proxies have appended.
    (b"192.0.2.1, 10.0.0.2, 10.0.0.2", b"evil, public", b"public", b"public"),
    (b"", b"evil, public", b"public", b"public"),
    (b", ,", b"evil, public", b"public", b"public"),
    (b"192.0.2.1, unknown", b"evil, public", b"public", b"public"),
]


@pytest.mark.parametrize(("addresses", "value", "listed", "last"), HOSTS)
def test_of_a_list_of_hosts_the_clients_counts_if_all_proxies_append_otherwise_the_last(
    version: str, addresses: bytes, value: bytes, listed: bytes, last: bytes
) -> None:
    lines = XFF + addresses, b"X-Forwarded-Host: " + value
    for has_lists, expected in ((True, listed), (False, last)):
        rules = rules_of(forwarded_lists=has_lists)
        for each_order in (lines, lines[::-1]):
            assert hosts(VERSIONS[version](rules, *each_order)) == [expected]


@given(
    st.lists(st.text("0123456789abcdef.:[]_, "), max_size=3),
    st.lists(st.sampled_from(["evil", "e:1", "", " ", "[::1]", "10.0.0.2"]), max_size=4),
    st.lists(st.sampled_from(PROXIES), max_size=3),
)
@example(["1.2.3.4"], ["evil"], ["10.0.0.2"])
def test_no_client_chooses_its_host_or_scheme_where_all_proxies_append(
    addresses: list[str], claims: list[str], proxies: list[str]
) -> None:
    """And none does where they do not, by anything that stands before what a proxy has written."""
    appended = ["192.0.2.1", *proxies]
    seen = ["public", *("inner" for _ in proxies)]
    lines = [
        XFF + ", ".join([*addresses, *appended]).encode(),
        b"X-Forwarded-Host: " + ", ".join([*claims, *seen]).encode(),
        b"X-Forwarded-Proto: "
        + ", ".join([*("https" for _ in claims), "http", *("https" for _ in proxies)]).encode(),
    ]
    assert told(over_http1(rules_of(forwarded_lists=True), *lines)) == (b"public", "http")
    assert told(over_http1(rules_of(), *lines)) == (seen[-1].encode(), "http")


@pytest.mark.parametrize("has_lists", [True, False])
def test_repeated_fields_must_agree(version: str, has_lists: bool) -> None:
    """One of them may be the client's. So they are not joined to a list."""
    rules, read = rules_of(forwarded_lists=has_lists), VERSIONS[version]
    same = b"X-Forwarded-Host: public"
    assert hosts(read(rules, same, b"Via: a", same, b"X-Forwarded-Host:")) == [b"public"]
    for other in (b"X-Forwarded-Host: evil", b"X-Forwarded-Host: public:80"):
        for lines in ((same, other), (other, same)):
            with pytest.raises(RequestError) as caught:
                read(rules, XFF + b"192.0.2.1, 10.0.0.2", *lines)
            assert (caught.value.status, str(caught.value)) == (
                400,
                "Contradictory X-Forwarded-Host header fields",
            )


SCHEMES = [
    # (X-Forwarded-For, scheme headers, with `forwarded_lists`, without)
    (b"", (b"Proto: https",), "https", "https"),
    (b"", (b"Proto: HTTPS",), "https", "https"),
    (b"", (b"Ssl: ON",), "https", "https"),
    (b"", (b"Protocol: Ssl",), "https", "https"),
    (b"", (b"Proto: https,https",), "https", "https"),
    (b"", (b"Proto: https, HTTPS",), "https", "https"),
    (b"", (b"Proto: , https ,,",), "https", "https"),
    (b"", (b"Proto: https,http",), "http", "http"),
    (b"", (b"Proto: http,https",), "http", "http"),
    (b"", (b"Proto: httpsx",), "http", "http"),
    (b"", (b"Proto: https;",), "http", "http"),
    (b"", (b"Proto: https https",), "http", "http"),
    (b"", (b"Proto:",), "http", "http"),
    (b"", (b"Proto: ,",), "http", "http"),
    (b"", (b"Ssl: https",), "http", "http"),
    # A client of https in front of two proxies that talk http, and the other way round.
    (b"192.0.2.1, 10.0.0.2", (b"Proto: https,http",), "https", "http"),
    (b"192.0.2.1, 10.0.0.2", (b"Proto: http,https",), "http", "http"),
    (b"192.0.2.1", (b"Proto: http,https",), "https", "http"),
    # The client's own claim at the left.
    (b"192.0.2.1", (b"Proto: https,http",), "http", "http"),
    (b"1.2.3.4, 192.0.2.1", (b"Proto: https,http",), "http", "http"),
    (b"192.0.2.1, 10.0.0.2", (b"Proto: https,http,https",), "http", "http"),
    (b"192.0.2.1, 10.0.0.2", (b"Proto: http,https,http",), "https", "http"),
    # Not all proxies have appended.
    (b"192.0.2.1, 10.0.0.2", (b"Proto: https",), "https", "https"),
    (b"192.0.2.1, 10.0.0.2, 10.0.0.2", (b"Proto: https,http",), "http", "http"),
    (b"192.0.2.1, 10.0.0.2, 10.0.0.2", (b"Proto: http,https",), "http", "http"),
    # Contradictions.
    (b"", (b"Proto: https", b"Ssl: off"), 400, 400),
    (b"", (b"Proto: HTTPS", b"Ssl: off"), 400, 400),
    (b"", (b"Proto: https,http", b"Ssl: on"), 400, 400),
    (b"192.0.2.1, 10.0.0.2", (b"Proto: https,http", b"Ssl: on"), "https", 400),
    (b"192.0.2.1, 10.0.0.2", (b"Proto: https,http", b"Ssl: on,off"), "https", "http"),
    (b"192.0.2.1, 10.0.0.2", (b"Proto: https,http", b"Ssl: off"), 400, "http"),
    (b"", (b"Proto: https,https", b"Ssl: on"), "https", "https"),
    (b"192.0.2.1, 10.0.0.2", (b"Proto: https", b"Proto: http"), 400, 400),
    (b"192.0.2.1, 10.0.0.2", (b"Proto: http", b"Proto: https"), 400, 400),
    (b"", (b"Proto: https", b"Proto:"), 400, 400),
]


@pytest.mark.parametrize(("addresses", "fields", "listed", "without"), SCHEMES)
def test_of_a_list_of_schemes_the_clients_counts_if_all_proxies_append_otherwise_all_of_them(
    version: str,
    addresses: bytes,
    fields: tuple[bytes, ...],
    listed: str | int,
    without: str | int,
) -> None:
    """Names in the table are short for ``X-Forwarded-...``."""
    lines = [b"X-Forwarded-" + field for field in fields]
    for has_lists, expected in ((True, listed), (False, without)):
        rules = rules_of(forwarded_lists=has_lists)
        given = (*([XFF + addresses] if addresses else []), *lines)
        if expected == 400:
            with pytest.raises(RequestError, match=r"^Contradictory scheme headers$"):
                VERSIONS[version](rules, *given)
        else:
            assert VERSIONS[version](rules, *given).scheme == expected


def test_forwarded_counts_the_proxies_for_a_list_of_schemes_too() -> None:
    for has_lists, scheme in ((True, "https"), (False, "http")):
        rules = rules_of(forwarded_lists=has_lists, proxy_headers="forwarded")
        lines = b"Forwarded: for=192.0.2.1, for=10.0.0.2", b"X-Forwarded-Proto: https,http"
        assert over_http1(rules, *lines).scheme == scheme


def test_without_a_header_for_the_client_no_list_is_counted() -> None:
    for rules in (
        rules_of(forwarded_lists=True, proxy_headers="off"),
        rules_of(forwarded_lists=True, proxied="192.0.2.1"),
    ):
        assert over_http1(rules, XFF + b"1.1.1.1", b"X-Forwarded-Proto: http,https").scheme == (
            "http"
        )


def test_wss_in_any_case_is_the_scheme_of_a_handshake_only() -> None:
    handshake = b"Connection: Upgrade", b"Upgrade: websocket"
    for value in (b"wss", b"WSS", b"https, wss"):
        line = b"X-Forwarded-Proto: " + value
        assert over_http1(rules_of(), line, *handshake).scheme == "https"
        assert over_http1(rules_of(), line).scheme == "http"
    assert over_http1(rules_of(), b"X-Forwarded-Ssl: wss", *handshake).scheme == "http"


# Elements of lists.


@pytest.mark.parametrize(
    ("value", "elements"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"a,b", [b"a", b"b"]),
        (b" , a\t,, b ,", [b"a", b"b"]),
        (b",", []),
    ],
)
def test_a_list_is_read_without_its_empty_elements(value: bytes, elements: list[bytes]) -> None:
    """RFC 9110, 5.6.1."""
    assert read_list(value) == elements


def test_of_a_very_long_list_only_the_last_elements_are_read() -> None:
    long = b",".join([b"https"] * 5000)
    assert len(read_list(long)) == MAX_NODES + 1
    assert over_http1(rules_of(), b"X-Forwarded-Proto: " + long[:8000]).scheme == "http"
    assert hosts(over_http1(rules_of(), b"X-Forwarded-Host: " + b"evil," * 1000 + b"public")) == [
        b"public"
    ]


def test_the_clients_element_is_counted_from_the_right() -> None:
    elements = [b"a", b"b", b"c"]
    assert [client_element(elements, hops) for hops in range(4)] == [b"c", b"b", b"a", None]
    assert client_element(elements, None) is None


# Memories.


LINES = {
    "host": [b"X-Forwarded-Host: a", b"X-Forwarded-Host: b", b"X-Forwarded-Host: a, b"],
    "client": [XFF + b"192.0.2.1", XFF + b"192.0.2.2, 10.0.0.2"],
    "scheme": [b"X-Forwarded-Proto: https", b"X-Forwarded-Proto: https, http"],
    "other": [b"X-Id: 1", b"X-Id: 2"],
}
FORWARDED = [b"Forwarded: for=192.0.2.1;host=a", b"Forwarded: for=192.0.2.2;host=b"]


def meaning(data: bytes, last: Fields | None, rules: Rules) -> tuple[object, Fields | None]:
    try:
        fields = read_head(data, last, rules)[4]
    except RequestError as error:
        return (error.status, str(error)), last
    return (fields.headers, fields.scheme, fields.client, fields.length), fields


@pytest.mark.parametrize("options", [{}, {"forwarded_lists": True}, {"proxy_headers": "forwarded"}])
def test_requests_of_one_connection_and_of_several_have_each_their_own_host(
    parser: str, options: dict[str, Any]
) -> None:
    """Whichever lines, sections and forms of sections were seen before, in any order."""
    kinds: list[Sequence[bytes]] = [LINES["host"], LINES["client"], LINES["scheme"], LINES["other"]]
    if options.get("proxy_headers"):
        kinds[0] = [*FORWARDED, *LINES["host"][:1]]
    heads = [
        head(*lines, *more, target=target, version=number)
        for lines in product((b"Host: x", b"Host: y"), *kinds)
        for target, number, more in (
            (b"/", b"1.1", ()),
            (b"http://z/", b"1.1", ()),
            (b"/", b"1.0", (b"Via: v",)),
        )
    ]
    expected = [meaning(data, None, rules_of(parser=parser, **options))[0] for data in heads]
    rules = rules_of(parser=parser, **options)
    last: Fields | None = None
    for step in (1, 7, 5):  # three orders; the number of heads has no such divisor
        assert len(heads) % step or step == 1
        for index in range(len(heads)):
            place = index * step % len(heads)
            told_now, last = meaning(heads[place], last, rules)
            assert told_now == expected[place], heads[place]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"1.0", b"1.1"]),
            st.lists(
                st.sampled_from([line for lines in LINES.values() for line in lines] + FORWARDED),
                max_size=4,
            ),
            st.booleans(),
        ),
        min_size=2,
        max_size=8,
    ),
    st.sampled_from([{}, {"forwarded_lists": True}, {"proxy_headers": "forwarded"}]),
)
@example([(b"1.0", [b"X-Forwarded-Host: a"], False), (b"1.0", [b"X-Forwarded-Host: a"], True)], {})
def test_a_request_is_read_the_same_after_any_others(
    requests: list[tuple[bytes, list[bytes], bool]], options: dict[str, Any]
) -> None:
    rules = rules_of(**options)
    last: Fields | None = None
    for number, lines, has_host in requests:
        data = head(*lines, *([b"Host: x"] if has_host else []), version=number)
        told_now, last = meaning(data, last, rules)
        assert told_now == meaning(data, None, rules_of(**options))[0]


def test_the_option_costs_no_call_where_it_is_off_and_few_where_it_is_on() -> None:
    lines = b"Host: internal", b"X-Forwarded-Host: public", b"X-Forwarded-Proto: https"

    def cost(rules: Rules) -> int:
        heads = [head(*lines, XFF + b"192.0.2.%d" % number) for number in range(4)]
        for data in heads:
            read_head(data, None, rules)
        return count_calls(lambda: [read_head(data, None, rules) for data in heads])

    without = cost(replace(rules_of(forwarded_host=False), host_name=b""))
    assert cost(rules_of(forwarded_host=False)) == without
    assert cost(rules_of()) - without == 4  # one a request, for four requests


# A server.


PUBLIC = b"X-Forwarded-Host: public:8443"


@pytest.mark.parametrize("way", ["1.1", "1.0", "unix", "h2"])
def test_an_application_is_told_the_host(parser: str, way: str) -> None:
    with serving(mirror, parser, way, forwarded_host=True) as asked:
        for fields in ((PUBLIC,), (), (PUBLIC,)):
            headers = ast.literal_eval(asked.fetch("GET", *fields).body.decode())["headers"]
            (host,) = [value for name, value in headers if name == b"host"]
            assert (host == b"public:8443") is bool(fields)
        assert asked.fetch("GET", b"X-Forwarded-Host: a b").status == 400
        (line,) = asked.server.log.take("warning")
        assert line.text.endswith(
            ": Invalid host in X-Forwarded-Host: not a host with an optional port"
        )


def test_the_application_of_a_websocket_is_told_the_host(parser: str) -> None:
    hosts: list[bytes] = []

    async def deny(scope: Any, receive: Any, send: Any) -> None:
        hosts.append(dict(scope["headers"])[b"host"])
        await receive()
        await send({"type": "websocket.close"})

    with serve(deny, parser, forwarded_host=True) as server:
        for fields in ((PUBLIC,), ()):
            client = server.connect()
            client.send(handshake(*fields))
            assert client.read_response().status == 403
    assert hosts == [b"public:8443", b"a"]
