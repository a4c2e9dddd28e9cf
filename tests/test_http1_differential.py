"""One corpus of byte streams, read by both parsers in any cuts: the same answers, requests and ends.

`test_parsers` and `test_field_lines` compare the parsers head by head, and `test_http1_requests`
compares single requests, whole and byte by byte, with what the RFC says. Here, whole connections
are compared with each other: pipelined requests, bodies, and the keep-alive after them.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any, NamedTuple

from conftest import examples
from fuzz import traffic
from fuzz.single import connected
from fuzz.wire import read_http1
from inprocess import answer, make_settings
from tables import each
from test_http1_requests import ACCEPTED, REFUSED

from gunicorn_asgi.http1.parser import available

PARSERS = ("h11", "httptools") if available() == "httptools" else ("h11",)


class Outcome(NamedTuple):
    """What a byte stream has come to."""

    statuses: tuple[int, ...]
    requests: tuple[object, ...]
    """What the application has seen of each request whose body was complete."""
    is_open: bool
    """Whether the server waits for another request."""


class Seen:
    """An application that notes its requests. It reads the body, or answers without it."""

    def __init__(self) -> None:
        self.requests: list[object] = []
        self.methods: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.methods.append(scope["method"])
        body = b""
        while scope["path"] != "/unread":
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        names = ("http_version", "method", "path", "raw_path", "query_string", "headers", "scheme")
        self.requests.append((*(scope[name] for name in names), body))
        await answer(send, b"%d" % len(self.requests))


@cache
def settings(parser: str) -> Any:
    return make_settings(parser)


def run(parser: str, pieces: list[bytes]) -> Outcome:
    app = Seen()
    with connected(app, settings(parser)) as single:
        single.send(pieces)
        is_open = single.raw.can_send
        wire = single.answer
        answers = read_http1(wire, app.methods, b"", False)
    assert all(each.is_whole for each in answers), wire
    # The reasons of a refusal are the parser's own, and depend on what has arrived.
    statuses = tuple(each.status for each in answers)
    return Outcome(statuses, tuple(app.requests), is_open)


def compare(data: bytes, *cuts: list[bytes]) -> Outcome:
    """The outcome of `data`, which is the same in all `cuts`, and byte by byte, for all parsers."""
    whole = run("h11", [data])
    for parser in PARSERS:
        for pieces in ([data], [data[at : at + 1] for at in range(len(data))], *cuts):
            assert run(parser, pieces) == whole, (parser, pieces)
    return whole


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
UNREAD = b"POST /unread HTTP/1.1\r\nHost: a\r\n"
TAILS = (b"", GET, b"\x00\x01garbage\r\n\r\n")
INNER = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
SMUGGLING = {
    "CL.TE": (POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG" + INNER, (400,)),
    "TE.CL": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + INNER + b"0\r\n\r\n", (400,)),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345" + INNER, (400,)),
    "the same length twice": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n12345" + GET, (400,)),
    "TE with a tab": (POST + b"Transfer-Encoding:\tchunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + GET, (200, 200)),
    "TE with a vertical tab": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + INNER, (400,)),
    "TE with a space before its colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + INNER, (400,)),
    "TE in a folded line": (POST + b"X: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER, (400,)),
    "TE after a bare LF": (POST + b"X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER, (400,)),
    "TE after a bare CR": (POST + b"X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER, (400,)),
    "chunked twice": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + INNER, (400,)),
    "identity": (POST + b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc" + INNER, (400,)),
    "HTTP/1.0 with TE": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER, (400,)),
    "a chunk size with an underscore": (POST + b"Transfer-Encoding: chunked\r\n\r\n1_0\r\n" + INNER, (400,)),
    "a chunk size with 0x": (POST + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n" + INNER, (400,)),
    "a chunk size with a sign": (POST + b"Transfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n" + INNER, (400,)),
    "a huge chunk size": (POST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000001\r\na\r\n" + INNER, (400,)),
    "a chunk longer than its size": (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n" + INNER, (400,)),
    "a bare LF after a chunk size": (POST + b"Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n" + INNER, (400,)),
    "a bare LF in a chunk extension": (POST + b"Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n0\r\n\r\n" + INNER, (400,)),
    "a request in a body": (POST + b"Content-Length: %d\r\n\r\n" % len(INNER) + INNER + GET, (200, 200)),
    "a request in a chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER) + GET, (200, 200)),
    "a request in a trailer": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: a\r\n" + INNER, (400,)),
    "a body of GET": (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345" + GET, (200, 200)),
    "an unread body": (UNREAD + b"Content-Length: 5\r\n\r\n12345" + GET, (200, 200)),
    "an unread chunked body": (UNREAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n" + GET, (200, 200)),
    "an early h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (505,)),
    "close between requests": (GET + b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + INNER, (200, 200)),
    "HTTP/1.0 that stays open": (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2 + b"GET / HTTP/1.0\r\n\r\n" + INNER, (200, 200, 200)),
    "empty lines between requests": (GET + b"\r\n" + GET + b"\r\n\r\n" + GET, (200, 200, 200)),
    "many requests": (GET * 40, (200,) * 40),
}  # fmt: skip


@each("data, statuses", SMUGGLING)
def test_a_smuggled_request_is_none_in_any_cut(data: bytes, statuses: tuple[int, ...]) -> None:
    places = range(1, len(data), 1 + len(data) // examples(20))
    outcome = compare(data, *[[data[:at], data[at:]] for at in places])
    assert outcome.statuses == statuses
    assert b"/smuggled" not in [request[3] for request in outcome.requests]  # type: ignore[index]  # each is a tuple


def test_each_row_of_the_tables_leaves_the_connection_the_same() -> None:
    rng = random.Random(1)
    rows = [data for data, _ in (*ACCEPTED.values(), *REFUSED.values())]
    for row in rng.sample(rows, min(len(rows), examples(len(rows)))):
        data = row + rng.choice(TAILS)
        compare(data, list(traffic.cut(rng, data)))


def test_any_traffic_means_the_same_in_any_cut() -> None:
    for number in range(examples(100)):
        rng = random.Random(number)
        data = traffic.http1(rng).data[:1000]
        compare(data, *[list(traffic.cut(rng, data)) for _ in range(2)])
