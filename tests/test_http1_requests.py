"""Requests over the wire: RFC 9112, 2 to 7; docs/asgi.md, 20 to 45; Gunicorn's limits.

Each case of the tables is replayed whole, byte by byte, and with something behind it: after a request that is answered by the application
that is the next one, or garbage which is refused then; behind a refusal there is nothing more.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from typing import Any
from urllib.parse import unquote

import pytest
from gunicorn.config import Config
from inprocess import GET, InProcess, Truncated, mirror, request, serve
from tables import each

pytestmark = pytest.mark.both_libraries

GARBAGE = b"\x00\x01garbage\r\n\r\n"
DELIVERIES = ["whole", "bytes"]
TAILS = {"alone": b"", "request": GET, "garbage": GARBAGE}
WAYS = list(product(DELIVERIES, TAILS))
"""A row of the two tables is one test, which replays it in all of these ways."""


class Servers:
    """One server for each way of delivery and set of settings, for all the cases of the module."""

    def __init__(self, stack: ExitStack, parser: str) -> None:
        self._stack = stack
        self._parser = parser
        self._servers: dict[object, InProcess] = {}

    def get(self, delivery: str = "whole", **settings: Any) -> InProcess:
        key = (delivery, *sorted((name, str(value)) for name, value in settings.items()))
        if key not in self._servers:
            self._servers[key] = self._stack.enter_context(
                serve(mirror, self._parser, delivery=delivery, **settings)
            )
        return self._servers[key]


@pytest.fixture(scope="module")
def servers(parser: str) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack, parser)


def exchange(server: InProcess, data: bytes, tail: str) -> dict[str, Any]:
    """Expect `data` to be answered by the application; returns the scope, with the body in it."""
    client = server.connect()
    client.send(data + TAILS[tail])
    client.send_eof()
    response = client.read_response()
    assert response.status == 200, response
    scope: dict[str, Any] = ast.literal_eval(response.body.decode())
    keeps_open = b"close" not in b"".join(response.values(b"connection"))
    if tail == "request" and keeps_open:
        assert ast.literal_eval(client.read_response().body.decode())["path"] == "/"
    elif tail == "garbage" and keeps_open:
        assert client.read_response().status == 400
    assert client.read_rest() == b""
    client.close()
    return scope


def refusal(server: InProcess, data: bytes, tail: str) -> int:
    """Expect `data` to be refused: one answer, the end of the connection, one warning; returns the status."""
    server.log.take("warning")
    client = server.connect()
    client.send(data + TAILS[tail])
    response = client.read_response("HEAD" if data.startswith(b"HEAD ") else "GET")
    assert response[b"connection"] == b"close"
    assert client.read_rest() == b""
    client.close()
    (warning,) = server.log.take("warning")
    assert warning.text.startswith("Invalid request from ip=127.0.0.1: ")
    return response.status


def post(*fields: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join((b"POST / HTTP/" + version, b"Host: a", *fields, b"", body))


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def get(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join((line, *fields, b"", b""))


# What is accepted, and what of it the application sees.

EXTENSIONS: dict[str, Any] = {
    f"http.response.{name}": {} for name in ("pathsend", "zerocopysend", "early_hint", "trailers")
}

ACCEPTED: dict[str, tuple[bytes, dict[str, Any]]] = {
    # docs/asgi.md, 20 to 37.
    "plain": (
        GET,
        {"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": "/", "raw_path": b"/", "query_string": b"",
         "root_path": "", "headers": [(b"host", b"a")], "body": b"", "extensions": EXTENSIONS, "asgi": {"version": "3.0", "spec_version": "2.5"}},
    ),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", {"http_version": "1.0"}),
    "HTTP/1.0 without Host": (b"GET / HTTP/1.0\r\n\r\n", {"http_version": "1.0", "headers": []}),
    "HTTP/1.0 keep-alive": (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", {"http_version": "1.0"}),
    # RFC 9112, 2.2: empty lines before the request line
    "a leading CRLF": (b"\r\n" + GET, {"path": "/"}),
    "leading CRLFs": (b"\r\n\r\n\r\n" + GET, {"path": "/"}),
    # methods, docs/asgi.md, 22
    **{method: (request(method), {"method": method}) for method in ("OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE")},
    **{method: (request(method), {"method": method}) for method in ("PROPFIND", "FOO", "MKCALENDAR", "M-SEARCH", "QUERY", "A!$%&'*+-.^_|~9", "X" * 20)},
    # targets
    "query": (request(target="/a?b=c&d"), {"path": "/a", "raw_path": b"/a", "query_string": b"b=c&d"}),
    "empty query": (request(target="/a?"), {"path": "/a", "query_string": b""}),
    "query with a question mark": (request(target="/a?b?c"), {"path": "/a", "query_string": b"b?c"}),
    "query as received": (request(target="/?a=%20+%C3"), {"query_string": b"a=%20+%C3"}),
    "percent": (request(target="/caf%C3%A9%20x"), {"path": "/café x", "raw_path": b"/caf%C3%A9%20x"}),
    "no UTF-8": (request(target="/%FF%C3"), {"path": "/\ufffd\ufffd", "raw_path": b"/%FF%C3"}),
    "percent percent": (request(target="/%2541"), {"path": "/%41", "raw_path": b"/%2541"}),
    "broken percent": (request(target="/%zz%"), {"path": "/%zz%", "raw_path": b"/%zz%"}),
    "encoded slash": (request(target="/a%2Fb"), {"path": "/a/b", "raw_path": b"/a%2Fb"}),
    "encoded line end": (request(target="/a%0d%0ab"), {"path": "/a\r\nb", "raw_path": b"/a%0d%0ab"}),
    "encoded NUL": (request(target="/%00"), {"path": "/\0"}),
    "encoded question mark": (request(target="/a%3Fb?c"), {"path": "/a?b", "query_string": b"c"}),
    "dots stay": (request(target="/a/../b/./c"), {"path": "/a/../b/./c"}),
    "two slashes": (request(target="//a//b"), {"path": "//a//b"}),
    "colon": (request(target="/http://b/"), {"path": "/http://b/"}),
    "printable": (request(target="/!$&'()*+,;=:@-._~\"<>\\^`{|}[]"), {"raw_path": b"/!$&'()*+,;=:@-._~\"<>\\^`{|}[]"}),
    # absolute-form, docs/asgi.md, 26; RFC 9112, 3.2.2: its authority is the host
    "absolute": (request(target="http://b/c%20d?e"), {"path": "/c d", "raw_path": b"/c%20d", "query_string": b"e", "headers": [(b"host", b"b")]}),
    "absolute without a path": (request(target="http://b"), {"path": "/", "raw_path": b"/", "query_string": b""}),
    "absolute with a query only": (request(target="http://b?c"), {"path": "/", "raw_path": b"/", "query_string": b"c"}),
    "absolute with a port": (request(target="http://b:80/c"), {"path": "/c", "headers": [(b"host", b"b:80")]}),
    "absolute in capitals": (request(target="HTTP://B/c"), {"path": "/c", "headers": [(b"host", b"B")]}),
    "absolute https": (request(target="https://b/c"), {"path": "/c", "scheme": "http"}),
    "absolute IPv6": (request(target="http://[::1]:80/c"), {"path": "/c", "headers": [(b"host", b"[::1]:80")]}),
    "absolute, HTTP/1.0": (b"GET http://b/c HTTP/1.0\r\n\r\n", {"path": "/c", "headers": [(b"host", b"b")]}),
    "absolute puts the host first": (
        get(b"X: y", b"Host: a", line=b"GET http://b/ HTTP/1.1"),
        {"headers": [(b"host", b"b"), (b"x", b"y")]},
    ),
    # asterisk-form
    "asterisk": (request("OPTIONS", "*"), {"path": "*", "raw_path": b"*", "query_string": b""}),
    "absolute asterisk": (request("OPTIONS", "http://b:80"), {"path": "*", "raw_path": b"*"}),
    "OPTIONS with a path": (request("OPTIONS", "http://b/"), {"path": "/"}),
    # fields, docs/asgi.md, 30 to 33 and 40
    "order and repetition": (
        get(b"B: 1", b"Host: a", b"Cookie: c", b"A: 2", b"Cookie: d", b"B: 3"),
        {"headers": [(b"b", b"1"), (b"host", b"a"), (b"cookie", b"c"), (b"a", b"2"), (b"cookie", b"d"), (b"b", b"3")]},
    ),
    "lower case names": (get(b"HOST: a", b"X-MiXed: CaSe"), {"headers": [(b"host", b"a"), (b"x-mixed", b"CaSe")]}),
    "white space around values": (get(b"Host:a", b"A: \t b \t c \t ", b"D:"), {"headers": [(b"host", b"a"), (b"a", b"b \t c"), (b"d", b"")]}),
    "bytes as received": (get(b"Host: a", b"A: caf\xe9 \xc3\xa9 \x80\xff"), {"headers": [(b"host", b"a"), (b"a", b"caf\xe9 \xc3\xa9 \x80\xff")]}),
    "Upgrade to something unknown": (get(b"Host: a", b"Connection: upgrade", b"Upgrade: h2c", b"HTTP2-Settings: x"), {"method": "GET", "http_version": "1.1"}),
    "underscores are dropped": (get(b"Host: a", b"X_Y: z", b"Content_Length: 5"), {"headers": [(b"host", b"a")], "body": b""}),
    **{
        f"Host {host.decode()}": (get(b"Host: " + host), {"headers": [(b"host", host)]})
        for host in (b"a.b:80", b"a:", b"[::1]", b"[::1]:80", b"127.0.0.1:8000", b"a_b")
    },
    "Host with white space around it": (get(b"Host: \t a \t"), {"headers": [(b"host", b"a")]}),
    # bodies, docs/asgi.md, 39 and 43 to 44
    "content-length": (post(b"Content-Length: 5", body=b"hello"), {"body": b"hello", "headers": [(b"host", b"a"), (b"content-length", b"5")]}),
    "content-length 0": (post(b"Content-Length: 0"), {"body": b""}),
    "content-length with zeros": (post(b"Content-Length: 005", body=b"hello"), {"body": b"hello"}),
    "no length": (post(), {"body": b""}),
    "GET with a body": (request(body=b"hello"), {"method": "GET", "body": b"hello"}),
    "HTTP/1.0 with a body": (post(b"Content-Length: 5", body=b"hello", version=b"1.0"), {"body": b"hello"}),
    "Upgrade with a body": (post(b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 5", body=b"hello"), {"body": b"hello"}),
    "body that looks like a request": (post(b"Content-Length: %d" % len(GET), body=GET), {"body": GET}),
    "chunked": (chunked(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), {"body": b"hello", "headers": [(b"host", b"a"), (b"transfer-encoding", b"chunked")]}),
    "chunked, empty": (chunked(b"0\r\n\r\n"), {"body": b""}),
    "chunked in capitals": (post(b"Transfer-Encoding: CHUNKED", body=b"A\r\n0123456789\r\n0\r\n\r\n"), {"body": b"0123456789"}),
    "chunk extensions": (chunked(b'5;a;b=c ; d="e;\\"f"\r\nhello\r\n0;g\r\n\r\n'), {"body": b"hello"}),
    "trailers never become headers": (
        chunked(b"5\r\nhello\r\n0\r\nX-Forwarded-For: evil\r\nHost: evil\r\n\r\n"),
        {"body": b"hello", "headers": [(b"host", b"a"), (b"transfer-encoding", b"chunked")]},
    ),
    "line ends in a chunk": (chunked(b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"), {"body": b"0\r\n\r\n"}),
    "Expect 100-continue in HTTP/1.0": (post(b"Content-Length: 5", b"Expect: 100-continue", body=b"hello", version=b"1.0"), {"body": b"hello"}),
    "Expect without a body": (get(b"Host: a", b"Expect: 100-continue"), {"body": b""}),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_valid_request_reaches_the_application(
    servers: Servers, data: bytes, expected: dict[str, Any]
) -> None:
    for delivery, tail in WAYS:
        scope = exchange(servers.get(delivery), data, tail)
        assert {name: scope[name] for name in expected} == expected, (delivery, tail)


def test_the_scope_has_both_addresses(servers: Servers) -> None:
    """docs/asgi.md, 36 and 37."""
    server = servers.get()
    client = server.connect()
    client.send(GET)
    scope = ast.literal_eval(client.read_response().body.decode())
    assert scope["client"] == client.name
    assert scope["server"] == server.address
    client.close()


# What is refused.

CONTROLS = [*range(9), *range(14, 32), 11, 12, 127]

REFUSED: dict[str, tuple[bytes, int]] = {
    # RFC 9112, 3: the request line
    "no version": (b"GET /\r\nHost: a\r\n\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a word only": (b"GET\r\n\r\n", 400),
    "two spaces behind the method": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two spaces behind the target": (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a space before the method": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a space behind the version": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "tabs for spaces": (b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a tab in the target": (b"GET /\t HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a form feed for a space": (b"GET\x0c/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a leading CR": (b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a leading LF": (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a leading byte order mark": (b"\xef\xbb\xbfGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a response": (b"HTTP/1.1 200 OK\r\nHost: a\r\n\r\n", 400),
    "a TLS client": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "an empty method": (b" / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    # RFC 9110, 9.1; Gunicorn's conventions
    **{f"method {method!r}": (method + b" / HTTP/1.1\r\nHost: a\r\n\r\n", 400) for method in (b"G:T", b"G(T", b'"GET"', b"G\xe9T", b"G\x00T", b"G/T", b"G[T]")},
    **{f"unconventional method {method!r}": (method + b" / HTTP/1.1\r\nHost: a\r\n\r\n", 400) for method in (b"get", b"Get", b"GE", b"X" * 21, b"G#T")},
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501),
    "CONNECT in absolute-form": (b"CONNECT http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    # RFC 9112, 2.3, and RFC 9110, 15.6.6: 505 for another version, 400 for none
    **{f"version {version}": (f"GET / HTTP/{version}\r\nHost: a\r\n\r\n".encode(), 505) for version in ("0.9", "1.2", "1.9", "2.0", "3.0", "3.5", "9.9")},
    "the HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    **{
        f"version {version!r}": (f"GET / {version}\r\nHost: a\r\n\r\n".encode("latin-1"), 400)
        for version in (
            "http/1.1", "HTTP/1", "HTTP/1.", "HTTP/.1", "HTTP/1.10", "HTTP/01.1", "HTTP/1.1x", "HTTP/ 1.1", "HTTP /1.1", "HTTP/1,1", "HTTP/a.b", "HTTP/2",
            "HTTP/-1.1", "HTTP/+1.1", "HTTP/1.\xb9", "HTTPS/1.1", "HTP/1.1", "ICE/1.0", "1.1", "HTTP/1.1\x00", "HTTP/1.1\t", "HTTP/1.1\r", "HTTP/\n1.1",
        )
    },
    # RFC 9112, 3.2: the target
    **{
        f"target {target!r}": (b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400)
        for target in (
            b"*", b"a", b"a/b", b"a:80", b"/#", b"/a#b", b"/?a#b", b"?a", b"//\xff", b"/\xc3\xa9", b"/?\xff", b"/\x7f", b"/a\rb", b"/a\nb", b"ftp://a/", b"http:/a", b"http:a",
            b"http://", b"http:///a", b"http://b c/", b"http://u@b/", b"http://u:p@b/", b"http://b:x/", b"http://b:99999/", b"http://b/#c", b"http://[::1/",
            b"http://b\x00/", b"http://b\\c/", b"urn:a:b", b"http://:80/", b"*/", b"**",
        )
    },
    **{f"control {c:#x} in the target": (b"GET /a" + bytes([c]) + b"b HTTP/1.1\r\nHost: a\r\n\r\n", 400) for c in CONTROLS},
    "asterisk with POST": (b"POST * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    # RFC 9112, 3.2: Host
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "no Host, another field": (b"GET / HTTP/1.1\r\nX: y\r\n\r\n", 400),
    "no Host, absolute-form": (b"GET http://a/ HTTP/1.1\r\n\r\n", 400),
    "two Hosts, the same": (get(b"Host: a", b"Host: a"), 400),
    "two Hosts": (get(b"Host: a", b"X: y", b"Host: b"), 400),
    "two Hosts in HTTP/1.0": (get(b"Host: a", b"Host: b", line=b"GET / HTTP/1.0"), 400),
    "invalid Host in absolute-form": (get(b"Host: a b", line=b"GET http://b/ HTTP/1.1"), 400),
    "invalid Host in HTTP/1.0": (get(b"Host: a/b", line=b"GET / HTTP/1.0"), 400),
    **{
        f"Host {host!r}": (get(b"Host: " + host), 400)
        for host in (
            b"", b" ", b"a b", b":80", b"a:b", b"a:-1", b"a:80:80", b"a:65536", b"a:123456", b"user@a", b"user:pass@a", b"a/b", b"http://a", b"a?b", b"a#b", b"a\\b",
            b"::1", b"[::1", b"[::1]a", b"[]", b"[::g]", b"[1.2.3.4]", b"[::1%25eth0]", b"a%", b"a%4g", b'"a"', b"<a>", b"{a}", b"a^b", b"a|b", b"caf\xc3\xa9", b"a\tb",
        )
    },
    # RFC 9112, 5
    "space before the colon": (get(b"Host: a", b"X : y"), 400),
    "tab before the colon": (get(b"Host: a", b"X\t: y"), 400),
    "space before Host's colon": (get(b"Host : a"), 400),
    "space before Content-Length's colon": (post(b"Content-Length : 5", body=b"hello"), 400),
    "space before Transfer-Encoding's colon": (post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), 400),
    "obsolete folding": (get(b"Host: a", b"X: y", b" z"), 400),
    "obsolete folding with a tab": (get(b"Host: a", b"X: y", b"\tz"), 400),
    "obsolete folding of Host": (get(b"Host: a", b" b"), 400),
    "a space before the first field": (get(b" Host: a"), 400),
    "no colon": (get(b"Host: a", b"X"), 400),
    "no name": (get(b"Host: a", b": x"), 400),
    "space in a name": (get(b"Host: a", b"X Y: z"), 400),
    **{f"{c!r} in a name": (get(b"Host: a", b"X" + c + b"Y: z"), 400) for c in (b'"', b"(", b"/", b";", b"[", b"{", b"@", b"\x80", b"\xff", b"\x00", b"\x1f", b"\x7f")},
    **{f"control {c:#x} in a value": (get(b"Host: a", b"X: y" + bytes([c]) + b"z"), 400) for c in CONTROLS},
    "control at the end of a value": (get(b"Host: a", b"X: y\x00"), 400),
    # RFC 9112, 2.2: bare CR and LF, everywhere
    "bare LF throughout": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare LF behind the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "bare LF behind a field": (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
    "bare LF for the empty line": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "LF LF": (b"GET / HTTP/1.1\r\nHost: a\n\n", 400),
    "bare CR behind the request line": (b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
    "bare CR behind a field": (b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400),
    "bare CR in a value": (get(b"Host: a", b"X: y\rz"), 400),
    "bare CR at the end of a value": (get(b"Host: a", b"X: y\r"), 400),
    "bare CR in a name": (get(b"Host: a", b"X\rY: z"), 400),
    "bare CR before a field": (get(b"Host: a", b"\rX: y"), 400),
    "CR CR LF": (b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400),
    "bare LF in a value": (get(b"Host: a", b"X: y\nz"), 400),
    "bare LF in a name": (get(b"Host: a", b"X\nY: z"), 400),
    # RFC 9112, 6: whatever two recipients could read differently
    "CL and TE": (post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    "TE and CL": (post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"), 400),
    "TE and CL 0": (post(b"Transfer-Encoding: chunked", b"Content-Length: 0", body=b"0\r\n\r\n"), 400),
    "unknown TE and CL": (post(b"Transfer-Encoding: foo", b"Content-Length: 5", body=b"hello"), 400),
    "CL twice, the same": (post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), 400),
    "CL twice": (post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"), 400),
    "CL twice, not adjacent": (post(b"Content-Length: 5", b"X: y", b"content-length: 0", body=b"hello"), 400),
    **{
        f"CL {value!r}": (post(b"Content-Length: " + value, body=b"hello"), 400)
        for value in (
            b"+5", b"-1", b"-0", b"0x5", b"5 5", b"", b" ", b"5,5", b"5, 5", b"5,6", b"5.0", b"5e0", b"5_0", b"a", b"5a", b"\xb2", b'"5"', b"5;", b"1" * 19, b"9" * 40, b"5\x0b",
        )
    },
    **{
        f"TE {value!r}": (post(b"Transfer-Encoding: " + value, body=b"0\r\n\r\n"), 400)
        for value in (b"chunked, chunked", b"chunked, gzip", b"chunked,identity", b"", b" ", b",", b"chunked,", b",chunked", b"chunked,,gzip", b"gzip, chunked, chunked")
    },
    **{
        f"TE {value!r}": (post(b"Transfer-Encoding: " + value, body=b"0\r\n\r\n"), 501)
        for value in (b"gzip", b"identity", b"foo", b"gzip, chunked", b"identity, chunked", b"xchunked", b"chunkedx", b'"chunked"', b"chunked;a=b", b"chun ked", b"chunk")
    },
    "TE with a vertical tab": (post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), 400),
    "TE on two lines, chunked twice": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    "TE on two lines, chunked first": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", body=b"0\r\n\r\n"), 400),
    "TE on two lines, chunked and identity": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"), 400),
    "TE on two lines, gzip first": (post(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 501),
    "TE on two lines, empty first": (post(b"Transfer-Encoding:", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    "TE in HTTP/1.0": (post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n", version=b"1.0"), 400),
    "unknown TE in HTTP/1.0": (post(b"Transfer-Encoding: gzip", body=b"hello", version=b"1.0"), 400),
    # RFC 9110, 10.1.1
    **{f"Expect {value!r}": (post(b"Content-Length: 5", b"Expect: " + value, body=b"hello"), 417) for value in (b"foo", b"200-ok", b"100-continue, foo", b"")},
    "Expect twice, one unknown": (post(b"Content-Length: 5", b"Expect: 100-continue", b"Expect: foo", body=b"hello"), 417),
    "HEAD": (b"HEAD / HTTP/1.1\r\n\r\n", 400),
    "HEAD whose exchange has begun": (b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\ng\r\n", 400),
    # RFC 9112, 7.1
    **{
        f"chunks {body!r}": (chunked(body), 400)
        for body in (
            b"\r\nhello\r\n0\r\n\r\n", b"g\r\nhello\r\n0\r\n\r\n", b"+5\r\nhello\r\n0\r\n\r\n", b"-5\r\nhello\r\n0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"5_\r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n", b"5 \r\nhello\r\n0\r\n\r\n", b"5 5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n", b"5\rhello\r\n0\r\n\r\n",
            b"5;\r\nhello\r\n0\r\n\r\n", b"5;a b\r\nhello\r\n0\r\n\r\n", b'5;a="b\r\nhello\r\n0\r\n\r\n', b"5;a\nb\r\nhello\r\n0\r\n\r\n", b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
            b"4\r\nhello\r\n0\r\n\r\n", b"6\r\nhello\r\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello\r0\r\n\r\n", b"5\r\nhello\r\n0\n\r\n", b"5\r\nhello\r\n0\r\n\n",
            b"5\r\nhello\r\n0\r\nX\r\n\r\n", b"5\r\nhello\r\n0\r\n: x\r\n\r\n", b"5\r\nhello\r\n0\r\nX : y\r\n\r\n", b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
            b"5\r\nhello\r\n0\r\nX: \x00\r\n\r\n", b"5\r\nhello\r\n0\r\nX: y\nZ: z\r\n\r\n", b"5\r\nhello\r\n0\r\nX: y\rZ: z\r\n\r\n",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_an_invalid_request_is_refused(servers: Servers, data: bytes, status: int) -> None:
    for delivery, tail in WAYS:
        assert refusal(servers.get(delivery), data, tail) == status, (delivery, tail)


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("first", ["one", "two"])
def test_a_refusal_stands_behind_the_answers_to_what_came_before(
    servers: Servers, delivery: str, first: str
) -> None:
    server = servers.get(delivery)
    client = server.connect()
    count = 1 if first == "one" else 2
    client.send(GET * count + b"GET / HTTP/1.1\r\n\r\n" + GET)
    for _ in range(count):
        assert client.read_response().status == 200
    assert client.read_response().status == 400
    assert client.read_rest() == b""
    server.log.take("warning")


# Limits, as in Gunicorn; each at its exact place.


def line_of(length: int) -> bytes:
    return b"GET /" + b"x" * (length - len(b"GET / HTTP/1.1")) + b" HTTP/1.1"


def field_of(length: int) -> bytes:
    """With its line end."""
    return b"X: " + b"y" * (length - len(b"X: \r\n"))


LIMITS = {"limit_request_line": 60, "limit_request_fields": 4, "limit_request_field_size": 50}


@each("tail", ["alone", "request"])
@each("delivery", DELIVERIES)
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (get(b"Host: a", line=line_of(60)), 200),
        (get(b"Host: a", line=line_of(61)), 414),
        (get(b"Host: a", line=line_of(62)), 414),
        (get(b"Host: a", line=line_of(5000)), 414),
        (get(b"Host: a", line=b"X" * 5000 + b" / HTTP/1.1"), 414),
        (get(b"Host: a", b"a: b", b"c: d", b"e: f"), 200),
        (get(b"Host: a", b"a: b", b"c: d", b"e: f", b"g: h"), 431),
        (get(b"Host: a", *[b"a: b"] * 200), 431),
        (get(b"Host: a", field_of(50)), 200),
        (get(b"Host: a", field_of(51)), 431),
        (get(b"Host: a", field_of(52)), 431),
        (get(b"Host: a", field_of(5000)), 431),
        (get(field_of(51), b"Host: a"), 431),
        (get(b"Host: a", b"X" * 5000 + b": y"), 431),
        (get(b"Host: a", b"X" * 5000), 431),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else f"{len(value)} bytes",
)
def test_limits_hold_at_the_exact_byte(
    servers: Servers, data: bytes, status: int, delivery: str, tail: str
) -> None:
    """RFC 9112, 3; RFC 6585, 5."""
    server = servers.get(delivery, **LIMITS)
    if status == 200:
        exchange(server, data, tail)
    else:
        assert refusal(server, data, tail) == status


def test_the_default_limits_are_gunicorns(servers: Servers) -> None:
    server = servers.get()
    exchange(server, get(b"Host: a", line=line_of(4094)), "alone")
    assert refusal(server, get(b"Host: a", line=line_of(4095)), "alone") == 414
    exchange(server, get(b"Host: a", *[b"a: b"] * 99), "alone")
    assert refusal(server, get(b"Host: a", *[b"a: b"] * 100), "alone") == 431
    exchange(server, get(b"Host: a", field_of(8190)), "alone")
    assert refusal(server, get(b"Host: a", field_of(8191)), "alone") == 431


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"X" * 70, 414),
        (b"GET /" + b"x" * 70, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 60, 431),
        (b"GET / HTTP/1.1\r\n" + b"X" * 60, 431),
        (b"GET / HTTP/1.1\r\n" + (field_of(45) + b"\r\n") * 20, 431),
        (b"GET / HTTP/1.1\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n", 400),
        (b"\x16\x03\x01\x02", 400),
        (b"\x00", 400),
        (b" ", 400),
        (b"\n", 400),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else repr(value[:20]),
)
def test_what_can_become_no_valid_head_is_refused_before_it_is_complete(
    servers: Servers, data: bytes, status: int, delivery: str
) -> None:
    assert refusal(servers.get(delivery, **LIMITS), data, "alone") == status


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize(
    "body",
    [
        b"5;" + b"a" * 2000,
        b"0" * 2000,
        b"0\r\nX: " + b"y" * 60,
        b"0\r\n" + b"X: y\r\n" * 5,
        b"5\r\nhello!",
        b"5\n",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_can_become_no_valid_chunk_is_refused_before_it_is_complete(
    servers: Servers, body: bytes, delivery: str
) -> None:
    assert refusal(servers.get(delivery, **LIMITS), chunked(body), "alone") == 400


# Gunicorn's settings for what a request may look like.


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize(
    ("header_map", "peer", "seen"),
    [
        ("drop", "untrusted", []),
        ("refuse", "untrusted", 400),
        ("dangerous", "untrusted", [b"x_y", b"script_name"]),
        ("drop", "trusted", [b"script_name"]),
        ("refuse", "trusted", 400),
        ("dangerous", "trusted", [b"x_y", b"script_name"]),
    ],
)
def test_header_map_and_forwarder_headers(
    servers: Servers, header_map: str, peer: str, seen: Any, delivery: str
) -> None:
    server = servers.get(
        delivery,
        header_map=header_map,
        forwarded_allow_ips="127.0.0.1" if peer == "trusted" else "10.0.0.1",
    )
    data = get(b"Host: a", b"X_Y: z", b"SCRIPT_NAME: /")
    if seen == 400:
        assert refusal(server, data, "request") == 400
    else:
        scope = exchange(server, data, "request")
        assert [name for name, _ in scope["headers"]] == [b"host", *seen]


@pytest.mark.parametrize("peer", ["trusted", "untrusted"])
def test_forwarder_headers_pass_a_refusing_header_map_from_a_trusted_peer_only(
    servers: Servers, peer: str
) -> None:
    server = servers.get(
        header_map="refuse",
        forwarded_allow_ips="127.0.0.1" if peer == "trusted" else "10.0.0.1",
        forwarder_headers="x_y",
    )
    data = get(b"Host: a", b"X_Y: z")
    if peer == "trusted":
        assert (b"x_y", b"z") in exchange(server, data, "alone")["headers"]
    else:
        assert refusal(server, data, "alone") == 400


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize(
    ("lines", "trusted", "untrusted"),
    [
        ([], "http", "http"),
        ([b"X-Forwarded-Proto: https"], "https", "http"),
        ([b"X-Forwarded-Protocol: ssl"], "https", "http"),
        ([b"X-Forwarded-Ssl: on"], "https", "http"),
        ([b"X-Forwarded-Proto: http"], "http", "http"),
        ([b"X-Forwarded-Proto: HTTPS"], "https", "http"),
        ([b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: off"], 400, "http"),
    ],
)
def test_secure_scheme_headers_count_from_a_trusted_peer_only(
    servers: Servers, lines: list[bytes], trusted: str | int, untrusted: str, delivery: str
) -> None:
    """docs/asgi.md, 23."""
    data = get(b"Host: a", *lines)
    assert (
        exchange(servers.get(delivery, forwarded_allow_ips="10.0.0.1"), data, "request")["scheme"]
        == untrusted
    )
    server = servers.get(delivery, forwarded_allow_ips="127.0.0.1")
    if trusted == 400:
        assert refusal(server, data, "request") == 400
    else:
        assert exchange(server, data, "request")["scheme"] == trusted


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("method", ["get", "Get", "GE", "X", "g#t", "x" * 30, "foo"])
def test_permit_unconventional_http_method(servers: Servers, method: str, delivery: str) -> None:
    """And docs/asgi.md, 22: upper case in the scope, so that ``casefold_http_method`` has nothing left to do."""
    data = request(method)
    for casefold in (False, True):
        server = servers.get(
            delivery, permit_unconventional_http_method=True, casefold_http_method=casefold
        )
        assert exchange(server, data, "request")["method"] == method.upper()
    assert refusal(servers.get(delivery), data, "alone") == 400


def test_a_method_that_is_no_token_is_never_permitted(servers: Servers) -> None:
    assert (
        refusal(
            servers.get(permit_unconventional_http_method=True),
            b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
            "alone",
        )
        == 400
    )


@pytest.mark.parametrize("method", [b"connect", b"CONNECT"])
def test_connect_is_not_implemented_in_any_case(servers: Servers, method: bytes) -> None:
    """RFC 9110, 9.3.6: a tunnel. Upper case (docs/asgi.md, 22) would make CONNECT of it."""
    data = method + b" a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"
    assert refusal(servers.get(permit_unconventional_http_method=True), data, "alone") in (400, 501)
    data = method + b" / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert refusal(servers.get(permit_unconventional_http_method=True), data, "alone") in (400, 501)


@pytest.mark.skipif("root_path" not in Config().settings, reason="this Gunicorn has no root_path")
@pytest.mark.parametrize(
    ("root_path", "method", "target", "path", "raw_path"),
    [
        ("api", "GET", "/a", "/api/a", b"/api/a"),
        ("api/", "OPTIONS", "*", "*", b"*"),
        ("/a b", "GET", "/c", "/a b/c", b"/a%20b/c"),
        ("/a%20b", "GET", "/c", "/a b/c", b"/a%20b/c"),
        ("/caf\xe9", "GET", "/%C3%A9", "/caf\xe9/\xe9", b"/caf%C3%A9/%C3%A9"),
        ("/api", "GET", "/a%20b?c", "/api/a b", b"/api/a%20b"),
        ("/api/", "GET", "/a", "/api/a", b"/api/a"),
        ("/api", "GET", "http://b/a", "/api/a", b"/api/a"),
        ("/api", "OPTIONS", "*", "*", b"*"),
    ],
)
def test_root_path_is_part_of_the_path(
    servers: Servers, root_path: str, method: str, target: str, path: str, raw_path: bytes
) -> None:
    """docs/asgi.md, 29; the server as a whole (``*``) is below no path."""
    scope = exchange(servers.get(root_path=root_path), request(method, target), "alone")
    assert (scope["path"], scope["raw_path"]) == (path, raw_path)
    assert scope["root_path"] == "/" + unquote(root_path).strip("/")


# More than one request.


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_requests_on_one_connection_are_read_for_themselves(
    servers: Servers, delivery: str
) -> None:
    """Nothing of one, not even of equal fields, is left in the next."""
    cases = [case for case in ACCEPTED.values() if b"HTTP/1.0" not in case[0]] * 2
    client = servers.get(delivery).connect()
    for data, expected in cases:
        client.send(data)
        response = client.read_response()
        assert response.status == 200
        scope = ast.literal_eval(response.body.decode())
        assert {name: scope[name] for name in expected} == expected
    client.close()


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_pipelined_requests_are_read_for_themselves(servers: Servers, delivery: str) -> None:
    cases = [case for case in ACCEPTED.values() if b"HTTP/1.0" not in case[0]]
    client = servers.get(delivery).connect()
    client.send(b"".join(data for data, _ in cases))
    for _, expected in cases:
        scope = ast.literal_eval(client.read_response().body.decode())
        assert {name: scope[name] for name in expected} == expected
    client.close()


@pytest.mark.parametrize("place", range(1, len(GET), 3))
def test_a_head_in_two_packets_is_read_as_in_one(servers: Servers, place: int) -> None:
    server = servers.get()
    client = server.connect()
    client.send(GET[:place])
    server.wait_buffered(place)
    client.send(GET[place:])
    assert client.read_response().status == 200
    client.close()


def test_an_incomplete_request_is_not_answered(servers: Servers) -> None:
    """RFC 9112, 8: a request cut short is dropped with its connection."""
    server = servers.get()
    for data in (
        b"G",
        GET[:-1],
        post(b"Content-Length: 5", body=b"hell"),
        chunked(b"5\r\nhello\r\n0\r\n"),
        b"\r\n",
    ):
        client = server.connect()
        client.send(data)
        client.send_eof()
        assert client.read_rest() == b""
        client.close()


def test_a_truncated_response_is_seen_as_one() -> None:
    """Of the client that all of this relies on."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    with serve(app) as server:
        client = server.connect()
        client.send(GET)
        with pytest.raises(Truncated):
            client.read_response()
        server.log.take("error")
