"""Requests in shapes that proxies and servers have read differently, and what must not come of them.

Each client has a number, and every request it sends has a mark with that number: in the target, in a
field, and in the body. The proxy adds a random id and the target that it has read to each request it
forwards. So a request that the proxy does not know of has no id, and data of another client has a
foreign mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MARK = re.compile(r"m(\d+)q\d+z")
PROXY_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""nginx's `$request_id`, HAProxy's `uuid()`."""
EARLY_BYTES = 200_000


def mark(client: int, number: int = 0) -> str:
    return f"m{client}q{number}z"


def owners(text: str) -> set[int]:
    """The clients whose marks are in a text."""
    return {int(number) for number in MARK.findall(text)}


# What must hold of the records of apps/marking.py.


def complaints(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Everything that is wrong with the requests seen by the application."""
    found = []
    ids: set[str] = set()
    for record in records:
        wrong = _wrong(record, ids)
        if wrong:
            found.append(f"{wrong}: {record}")
        ids.update(record["proxy_ids"])
    return found


def _wrong(record: Mapping[str, Any], seen: set[str]) -> str:
    ids, targets = record["proxy_ids"], record["proxy_targets"]
    if len(ids) != 1 or len(targets) != 1 or not PROXY_ID.fullmatch(ids[0]):
        return "the proxy has not sent this request"
    if ids[0] in seen:
        return "the proxy has sent this request once"
    if _without_authority(targets[0]) != _without_authority(record["target"]):
        return "the proxy has read another target"
    everything = " ".join([record["target"], *record["marks"], record["body"]])
    if len(owners(everything)) != 1:
        return "not of one client"
    return ""


def _without_authority(target: str) -> str:
    """An empty path is a slash (RFC 9110, 4.2.3)."""
    target = re.sub(r"^https?://[^/?]*", "", target)
    return target if target.startswith("/") else f"/{target}"


# Shapes.


@dataclass(frozen=True)
class Shape:
    """What one client sends on one connection."""

    name: str
    parts: tuple[bytes, ...]
    statuses: tuple[int, ...] | None = None
    """Those of all answers; None where a proxy may have its own opinion."""
    leaves: bool = False
    """The client does not wait for an answer."""


def head(method: str, route: str, of: str, *lines: str, version: str = "1.1") -> bytes:
    first = f"{method} /{route}/{of} HTTP/{version}"
    return "\r\n".join([first, "Host: test", f"X-Mark: {of}", *lines, "", ""]).encode("latin-1")


def get(of: str, *lines: str, route: str = "read") -> bytes:
    return head("GET", route, of, *lines)


def hidden(of: str) -> bytes:
    """A request within another one, with the fields that the proxy would have added."""
    return head("GET", "read/hidden", of, "X-Proxy-Id: forged", "X-Proxy-Target: forged")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(of: str) -> bytes:
    return chunk(of.encode()) + chunk(of.encode() * 20) + b"0\r\n\r\n"


TRANSFER_ENCODINGS = (
    "Transfer-Encoding: chunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding: CHUNKED",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding:\x0bchunked",
    "Transfer-Encoding: chunked\x00",
    'Transfer-Encoding: "chunked"',
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding:\r\n chunked",
    "X: y\nTransfer-Encoding: chunked",
    "X: y\rTransfer-Encoding: chunked",
    " Transfer-Encoding: chunked",
    "Transfer_Encoding: chunked",
    "Transfer-Encoding:",
    "TE: chunked",
    "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
)
CONTENT_LENGTHS = (
    "Content-Length: 5\r\nContent-Length: 0",
    "Content-Length: 0\r\nContent-Length: 5",
    "Content-Length: 5, 5",
    "Content-Length: 5\r\nContent-Length: 5",
    "Content-Length: +5",
    "Content-Length: 0x5",
    "Content-Length: 05",
    "Content-Length: 5 0",
    "Content-Length : 5",
    "Content_Length: 5",
    "Content-Length: -1",
    "Content-Length: 18446744073709551621",
    "Content-Length:\x0b5",
    "Content-Length: \r\n 5",
    "X: y\nContent-Length: 5",
    "Connection: Content-Length\r\nContent-Length: 5",
)
CHUNKS = (
    b"%b\n%b\n0\n\n",
    b"0x%b\r\n%b\r\n0\r\n\r\n",
    b"+%b\r\n%b\r\n0\r\n\r\n",
    b" %b\r\n%b\r\n0\r\n\r\n",
    b"%b \r\n%b\r\n0\r\n\r\n",
    b"%b;x=y\r\n%b\r\n0;x\r\n\r\n",
    b'%b;x="\n"\r\n%b\r\n0\r\n\r\n',
    b"%b;\rx\r\n%b\r\n0\r\n\r\n",
    b"%b\r\n%b0\r\n\r\n",
    b"%b\r\n%bxx0\r\n\r\n",
    b"10000000000000000%b\r\n%b\r\n0\r\n\r\n",
    b"%b\r\n%b\r\n0\r\nContent-Length: 100\r\nHost: other\r\nX-Proxy-Id: forged\r\n\r\n",
    b"%b\r\n%b\r\n0\r\nX: y\n\n",
    b"%b\r\n%b\r\n00000000\r\n\r\n",
)
"""Bodies in chunks: the size and the data of the first are filled in."""
ODD_HEADS = (
    "GET /read/{m} HTTP/1.1\nHost: test\nX-Mark: {m}\n\n",
    "GET /read/{m} HTTP/1.1\r\nHost : test\r\nX-Mark: {m}\r\n\r\n",
    "GET /read/{m} HTTP/1.1\r\nHost: test\r\nX-Mark : {m}\r\n\r\n",
    "GET /read/{m} HTTP/1.1\r\nHost: test\r\n X-Mark: {m}\r\n\r\n",
    "GET /read/{m} HTTP/1.1\r\nHost: test\r\nX-Mark: {m}\r\n folded\r\n\r\n",
    "GET /read/{m} HTTP/1.1\r\nHost: test\r\nX-Mark: {m}\x00\r\n\r\n",
    "GET /read/{m} HTTP/1.1\r\nHost: test\r\nX-Mark: {m}\rX-Other: y\r\n\r\n",
    "GET /read/{m} HTTP/1.1\r\nHost: test\r\nX-Mark: {m}\r\nno colon\r\n\r\n",
    "GET /read/{m} HTTP/1.1\r\nHost: test\r\nHost: other\r\nX-Mark: {m}\r\n\r\n",
    "GET /read/{m} HTTP/1.1\r\nX-Mark: {m}\r\n\r\n",
    "GET http://test/read/{m} HTTP/1.1\r\nHost: test\r\nX-Mark: {m}\r\n\r\n",
    "GET http://other/read/{m} HTTP/1.1\r\nHost: test\r\nX-Mark: {m}\r\n\r\n",
    "GET http://test?/read/{m} HTTP/1.1\r\nHost: test\r\nX-Mark: {m}\r\n\r\n",
    "GET  /read/{m}  HTTP/1.1\r\nHost: test\r\nX-Mark: {m}\r\n\r\n",
    "GET\t/read/{m}\tHTTP/1.1\r\nHost: test\r\nX-Mark: {m}\r\n\r\n",
    "GET /read/{m} HTTP/1.1 HTTP/1.1\r\nHost: test\r\nX-Mark: {m}\r\n\r\n",
    "GET /read/{m}?a b HTTP/1.1\r\nHost: test\r\nX-Mark: {m}\r\n\r\n",
    "GET //read/../read/{m} HTTP/1.1\r\nHost: test\r\nX-Mark: {m}\r\n\r\n",
    "GET /read/{m}#fragment HTTP/1.1\r\nHost: test\r\nX-Mark: {m}\r\n\r\n",
    "GET /read/{m} HTTP/1.0\r\nHost: test\r\nX-Mark: {m}\r\nConnection: keep-alive\r\n\r\n",
    "GET /read/{m} HTTP/2.0\r\nHost: test\r\nX-Mark: {m}\r\n\r\n",
    "GET /read/{m}\r\n",
    "\r\n\r\nGET /read/{m} HTTP/1.1\r\nHost: test\r\nX-Mark: {m}\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "GET /read/{m} HTTP/1.1\r\nHost: test\r\nX-Mark: {m}\r\nX-Proxy-Id: forged\r\n\r\n",
    "GET /read/{m} HTTP/1.1\r\nHost: test\r\nX-Mark: {m}\r\nConnection: X-Proxy-Id\r\n\r\n",
)
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")


def h2_request(of: str) -> bytes:
    """A GET on stream 3, of a client that has sent the preface."""

    def literal(name: str, value: str) -> bytes:
        return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()

    block = b"\x82\x86" + literal(":path", f"/read/hidden/{of}")
    block += literal(":authority", "test") + literal("x-mark", of)
    return len(block).to_bytes(3, "big") + bytes.fromhex("010500000003") + block


def shapes(client: int) -> list[Shape]:
    """All shapes for one client. What is sent after a request that may end the connection tells whether it does."""
    first, second = mark(client), mark(client, 1)
    return [
        *_ordinary(first, second),
        *_framings(first, second),
        *_lengths(first, second),
        *_lines(first, second),
        *_upgrades(first, second),
        *_unread(first, second),
    ]


def _ordinary(first: str, second: str) -> list[Shape]:
    after = get(second)
    return [
        Shape("GET", (get(first), after), (200, 200)),
        Shape("pipelined", (get(first) + after + get(first) + after,), (200,) * 4),
        Shape(
            "chunked",
            (head("POST", "read", first, "Transfer-Encoding: chunked") + chunked(first), after),
            (200, 200),
        ),
        Shape(
            "length",
            (
                head("POST", "read", first, f"Content-Length: {len(first)}")
                + first.encode()
                + after,
            ),
            (200, 200),
        ),
        Shape("HEAD", (head("HEAD", "read", first) + after,), (200, 200)),
        Shape("204", (head("GET", "read", first + "?status=204") + after,), (204, 200)),
        Shape("304", (head("GET", "read", first + "?status=304") + after,), (304, 200)),
        Shape(
            "POST, 204",
            (head("POST", "read", first + "?status=204", "Content-Length: 3") + b"abc" + after,),
            (204, 200),
        ),
        Shape("HTTP/1.0", (head("GET", "read", first, version="1.0"),), (200,)),
    ]


def _framings(first: str, second: str) -> list[Shape]:
    made = []
    for line in TRANSFER_ENCODINGS:
        rest = b"0\r\n\r\n" + hidden(first)
        made.append(
            Shape(
                f"CL.TE, {line!r}",
                (
                    head("POST", "read", first, f"Content-Length: {len(rest)}", line) + rest,
                    get(second),
                ),
            )
        )
        rest = chunk(hidden(first)) + b"0\r\n\r\n"
        size = rest.index(b"\r\n") + 2
        made.append(
            Shape(
                f"TE.CL, {line!r}",
                (head("POST", "read", first, line, f"Content-Length: {size}") + rest, get(second)),
            )
        )
        made.append(
            Shape(
                f"TE, {line!r}",
                (head("POST", "read", first, line) + chunked(first), get(second)),
            )
        )
        made.append(
            Shape(
                f"HTTP/1.0, {line!r}",
                (head("POST", "read", first, line, version="1.0") + rest, get(second)),
            )
        )
    return made


def _lengths(first: str, second: str) -> list[Shape]:
    made = [
        Shape(f"CL.CL, {line!r}", (head("POST", "read", first, line) + b"abcde" + hidden(second),))
        for line in CONTENT_LENGTHS
    ]
    data = first.encode()
    made += [
        Shape(
            f"chunks, {form!r}",
            (
                head("POST", "read", first, "Transfer-Encoding: chunked")
                + form % (b"%x" % len(data), data),
                get(second),
            ),
        )
        for form in CHUNKS
    ]
    return made


def _lines(first: str, second: str) -> list[Shape]:
    return [
        Shape(f"head, {text!r}", (text.format(m=first).encode("latin-1"), get(second)))
        for text in ODD_HEADS
    ]


def _upgrades(first: str, second: str) -> list[Shape]:
    smuggled = H2_PREFACE + h2_request(second)
    body = f"Content-Length: {len(smuggled)}"
    return [
        Shape("h2c", (get(first, *H2C), smuggled)),
        Shape("h2c at once", (get(first, *H2C) + smuggled,)),
        Shape("h2c, POST", (head("POST", "read", first, *H2C, body) + smuggled, smuggled)),
        Shape("h2c, early", (head("POST", "early", first, *H2C, body) + smuggled, get(second))),
        Shape(
            "h2c without its settings",
            (get(first, "Connection: Upgrade", "Upgrade: h2c"), smuggled),
        ),
        Shape("h2 in a body", (head("POST", "early", first, body) + smuggled, get(second))),
        Shape("unknown upgrade", (get(first, "Connection: Upgrade", "Upgrade: other"), smuggled)),
        Shape(
            "WebSocket that is denied",
            (
                get(
                    first,
                    "Connection: Upgrade",
                    "Upgrade: websocket",
                    "Sec-WebSocket-Version: 12",
                    "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==",
                )
                + hidden(second),
                get(second),
            ),
        ),
    ]


def _unread(first: str, second: str) -> list[Shape]:
    """Bodies that the application does not read, or that do not come."""
    within = hidden(first)
    length = f"Content-Length: {len(within)}"
    large = (first + " ").encode() * (EARLY_BYTES // (len(first) + 1))
    much = f"Content-Length: {len(large)}"
    expects = "Expect: 100-continue"
    return [
        Shape("CL.0", (head("POST", "early", first, length) + within, get(second))),
        Shape("CL.0, GET", (head("GET", "early", first, length) + within + get(second),)),
        Shape("CL.0, HEAD", (head("HEAD", "early", first, length) + within + get(second),)),
        Shape("CL.0, 204", (head("POST", "early", first + "?status=204", length) + within, get(second))),
        Shape("TE.0", (head("POST", "early", first, "Transfer-Encoding: chunked") + chunk(within) + b"0\r\n\r\n", get(second))),
        Shape("early answer", (head("POST", "early", first, much), large + get(second))),
        Shape("expectation", (head("POST", "read", first, expects, length), within, get(second))),
        Shape("expectation, early", (head("POST", "early", first, expects, length), within, get(second))),
        Shape("expectation, no body", (head("POST", "early", first, expects, length) + get(second),)),
        Shape("unknown expectation", (head("POST", "read", first, "Expect: 200-ok", length) + within, get(second))),
        Shape("aborted", (head("POST", "read", first, "Content-Length: 9999") + within,), leaves=True),
        Shape("aborted, early", (head("POST", "early", first, "Content-Length: 9999") + within,), leaves=True),
        Shape("aborted chunk", (head("POST", "read", first, "Transfer-Encoding: chunked") + b"ffff\r\n" + within,), leaves=True),
        Shape("aborted head", (get(first)[:-2],), leaves=True),
        Shape("left", (get(first) + hidden(second)[:30],), leaves=True),
    ]  # fmt: skip


def count_statuses(answer: bytes) -> tuple[int, ...]:
    """The statuses of final responses. The bodies here have no line that looks like one."""
    found = (int(status) for status in re.findall(rb"HTTP/1\.[01] ([1-5]\d\d)", answer))
    return tuple(status for status in found if status >= 200)


def is_complete(answer: bytes, statuses: Sequence[int]) -> bool:
    """Whether all of the expected responses have come."""
    return len(count_statuses(answer)) >= len(statuses) and (
        statuses[-1] in (204, 304) or answer.endswith(b"]")
    )
