"""Field lists of HTTP/2 requests: valid, malformed and refused (RFC 9113, 8; RFC 8441, 4)."""

from __future__ import annotations

Header = tuple[bytes, bytes]

METHOD, SCHEME, PATH, AUTHORITY = (
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/"),
    (b":authority", b"a"),
)
GET = [METHOD, SCHEME, PATH, AUTHORITY]
WEBSOCKET = [
    *(
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":scheme", b"https"),
        (b":path", b"/chat"),
        (b":authority", b"a"),
    ),
    (b"sec-websocket-version", b"13"),
]


def without(fields: list[Header], name: bytes) -> list[Header]:
    return [field for field in fields if field[0] != name]


def having(*changes: Header, of: list[Header] = GET) -> list[Header]:
    """`of` with these fields, each in place of the field with its name, or at the end."""
    names = {name: (name, value) for name, value in changes}
    kept = [names.pop(field[0], field) for field in of]
    return kept + list(names.values())


MALFORMED: dict[str, list[Header]] = {
    # 8.3: "All pseudo-header fields MUST appear in a field block before all regular field lines."
    "pseudo behind a field": [METHOD, SCHEME, PATH, (b"x", b"y"), AUTHORITY],
    # 8.3: "Endpoints MUST NOT generate pseudo-header fields other than those defined"
    "an unknown pseudo": [*GET, (b":foo", b"a")],
    "the pseudo of a response": [*GET, (b":status", b"200")],
    "a lone colon": [*GET, (b":", b"a")],
    "a pseudo in upper case": [(b":METHOD", b"GET"), *GET],
    # 8.3: "The same pseudo-header field name MUST NOT appear more than once"
    **{f"{name.decode()} twice": [(name, value), *GET] for name, value in GET},
    ":protocol twice": [(b":protocol", b"websocket"), *WEBSOCKET],
    # 8.3.1: "exactly one valid value for the :method, :scheme, and :path"
    **{f"no {name.decode()}": without(GET, name) for name in (b":method", b":scheme", b":path")},
    **{f"an empty {name.decode()}": having((name, b"")) for name in (b":method", b":scheme", b":path")},
    "no fields": [],
    "no pseudo": [(b"host", b"a")],
    "a scheme that is none": having((b":scheme", b"1http")),
    "a scheme with its colon": having((b":scheme", b"http:")),
    # 8.3.1: a path begins with a slash, or is an asterisk, for OPTIONS alone
    "a path without its slash": having((b":path", b"a")),
    "a whole URI": having((b":path", b"http://a/")),
    "a query alone": having((b":path", b"?a")),
    "an asterisk of GET": having((b":path", b"*")),
    "an asterisk and more": having((b":path", b"*/"), (b":method", b"OPTIONS")),
    # 8.3.1: "SHOULD treat a request as malformed if it contains a Host header field that identifies an entity that differs"
    "another host": [*GET, (b"host", b"b")],
    "another port": [*GET, (b"host", b"a:80")],
    # 8.2.1: names
    "upper case": [*GET, (b"X-Custom", b"a")],
    "upper case at the end": [*GET, (b"x-customS", b"a")],
    "an empty name": [*GET, (b"", b"a")],
    "a colon within": [*GET, (b"x:y", b"a")],
    **{f"{chr(c)!r} in a name": [*GET, (b"x" + bytes([c]) + b"y", b"a")] for c in b'\x00\t\n\r "(),/;<=>?@[\\]{}\x7f\x80\xff'},
    # 8.2.1: values
    **{f"{chr(c)!r} in a value": [*GET, (b"x", b"a" + bytes([c]) + b"b")] for c in (*range(9), *range(10, 32), 127)},
    **{f"{edge!r} around a value": [*GET, (b"x", edge)] for edge in (b" ", b"\t", b" a", b"\ta", b"a ", b"a\t", b"\n", b"a\n", b"\r", b"a\r\nb: c")},
    "a line end in a path": having((b":path", b"/\r\n")),
    "NUL in a path": having((b":path", b"/\x00")),
    "a space before the authority": having((b":authority", b" a")),
    "a tab behind the method": having((b":method", b"GET\t")),
    "a line end in the last of several": [*GET, (b"x", b"a"), (b"y", b"b\n"), (b"z", b"c")],
    # 8.2.2: of a connection of HTTP/1.1
    "connection": [*GET, (b"connection", b"close")],
    "keep-alive": [*GET, (b"keep-alive", b"timeout=5")],
    "proxy-connection": [*GET, (b"proxy-connection", b"close")],
    "transfer-encoding": [*GET, (b"transfer-encoding", b"chunked")],
    "upgrade": [*GET, (b"upgrade", b"websocket")],
    "te: gzip": [*GET, (b"te", b"gzip")],
    "te: trailers, gzip": [*GET, (b"te", b"trailers, gzip")],
    "te: nothing": [*GET, (b"te", b"")],
    "two te": [*GET, (b"te", b"trailers"), (b"te", b"gzip")],
    # 8.1.1, and RFC 9110, 8.6
    **{f"content-length: {value!r}": [*GET, (b"content-length", value)] for value in (b"", b"-1", b"+1", b"5x", b"5, 5", b"0x5", b"\xb2", b"1" * 19)},
    "content-length twice": [*GET, (b"content-length", b"5"), (b"content-length", b"5")],
    # 8.5
    "CONNECT with a scheme": [(b":method", b"CONNECT"), SCHEME, AUTHORITY],
    "CONNECT with a path": [(b":method", b"CONNECT"), PATH, AUTHORITY],
    "CONNECT to nobody": [(b":method", b"CONNECT")],
    # RFC 8441, 4
    ":protocol of GET": [(b":protocol", b"websocket"), *GET],
    "an extended CONNECT without a path": without(WEBSOCKET, b":path"),
    "an extended CONNECT without a scheme": without(WEBSOCKET, b":scheme"),
}  # fmt: skip
REFUSED: dict[str, tuple[int, list[Header]]] = {
    # RFC 9110, 9.1, and Gunicorn's permit_unconventional_http_method
    "a method that is no token": (400, having((b":method", b"G T"))),
    "a method in lower case": (400, having((b":method", b"get"))),
    "a short method": (400, having((b":method", b"GO"))),
    "a long method": (400, having((b":method", b"A" * 21))),
    # RFC 9110, 9.3.6
    "CONNECT": (501, [(b":method", b"CONNECT"), (b":authority", b"a:443")]),
    "CONNECT with a host": (
        501,
        [(b":method", b"CONNECT"), (b":authority", b"a:443"), (b"host", b"a:443")],
    ),
    # RFC 8441, 4
    "an extended CONNECT to something else": (
        501,
        having((b":protocol", b"connect-udp"), of=WEBSOCKET),
    ),
    # RFC 9110, 7.2
    "no host at all": (400, without(GET, b":authority")),
    "two hosts": (400, [*GET, (b"host", b"a"), (b"host", b"a")]),
    "two hosts without an authority": (
        400,
        [*without(GET, b":authority"), (b"host", b"a"), (b"host", b"a")],
    ),
    "an empty authority": (400, having((b":authority", b""))),
    "an empty host": (400, [*without(GET, b":authority"), (b"host", b"")]),
    # 8.3.1: ":authority MUST NOT include the deprecated userinfo"
    "a user": (400, having((b":authority", b"user@a"))),
    # RFC 9112, 3.2, of which a target is the same
    "a fragment": (400, having((b":path", b"/#a"))),
    "a space": (400, having((b":path", b"/a b"))),
    "a tab": (400, having((b":path", b"/a\tb"))),
    "a tab in a query": (400, having((b":path", b"/?a\tb"))),
    "bytes above ASCII": (400, having((b":path", b"/\xc3\xa9"))),
    # RFC 9110, 10.1.1
    "an expectation": (417, [*GET, (b"expect", b"something")]),
    "two expectations": (417, [*GET, (b"expect", b"100-continue"), (b"expect", b"x")]),
    # RFC 6455, 4.4
    "no version of WebSocket": (400, without(WEBSOCKET, b"sec-websocket-version")),
    "another version of WebSocket": (400, having((b"sec-websocket-version", b"8"), of=WEBSOCKET)),
    "two versions of WebSocket": (400, [*WEBSOCKET, (b"sec-websocket-version", b"13")]),
}
