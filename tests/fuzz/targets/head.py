"""Heads of HTTP/1.1: both parsers read the same, whatever was read before."""

from __future__ import annotations

from functools import cache
from typing import Any

from rules import SECURE, make_rules

from gunicorn_asgi.errors import RequestError
from gunicorn_asgi.http.request import Rules
from gunicorn_asgi.http1.parser import available
from gunicorn_asgi.http1.request import check_partial_head, read_head

PARSERS = ("h11", "httptools") if available() == "httptools" else ("h11",)


def check(data: bytes) -> None:
    """`data` is a sequence of heads on one connection, each up to its empty line."""
    heads = [head + b"\r\n\r\n" for head in data.split(b"\r\n\r\n")[:-1]]
    # Rules remember lines and sections: of no other request, or of all that this process has read.
    memories = [make(parser) for parser in PARSERS for make in (make_one, shared)]
    last: list[Any] = [None] * len(memories)
    for head in heads:
        found = [read(head, before, rules) for before, rules in zip(last, memories, strict=True)]
        alone = read(head, None, memories[0])
        meanings = [meaning(each) for each in (*found, alone)]
        assert all(each == meanings[0] for each in meanings), (head, meanings)
        if isinstance(found[0], RequestError):
            return
        check_request(found[0])
        check_prefixes(head, memories[0])
        last = [each[4] for each in found]


def make_one(parser: str) -> Rules:
    return make_rules(parser, secure_scheme=SECURE, header_map="drop")


@cache
def shared(parser: str) -> Rules:
    return make_one(parser)


def read(head: bytes, last: Any, rules: Rules) -> Any:
    try:
        return read_head(head, last, rules)
    except RequestError as error:
        return error


def meaning(found: Any) -> object:
    if isinstance(found, RequestError):
        return found.status
    fields = found[4]
    return (
        *found[:4], fields.version, fields.headers, fields.length, fields.keep_alive, fields.expect_continue, fields.scheme, fields.upgrade,
    )  # fmt: skip


def check_request(request: Any) -> None:
    """Nothing of a request could be taken for more than one field, or one line."""
    method, _, raw_path, query, fields = request
    assert method.isascii()
    assert method.isprintable()
    assert " " not in method
    assert raw_path
    assert not set(raw_path + query) & {*range(33), 127, *b"#"}
    for name, value in fields.headers:
        assert name
        assert name == name.lower()
        assert not set(name) & {*range(33), *b":", *range(127, 256)}
        assert not set(value) & {*range(9), *range(10, 32), 127}
    names = [name for name, _ in fields.headers]
    assert names.count(b"content-length") <= 1
    assert fields.length <= 0 or names.count(b"transfer-encoding") == 0


def check_prefixes(head: bytes, rules: Rules) -> None:
    """No part of a valid head is refused before its end has arrived."""
    before = 0
    for end in sorted({1, 2, len(head) // 3, len(head) // 2, len(head) - 5, len(head) - 3}):
        if 0 < end < len(head):
            check_partial_head(bytearray(head[:end]), before, rules)
            before = end
