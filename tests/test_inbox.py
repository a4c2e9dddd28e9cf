"""The bytes that a connection has received and not read (`gunicorn_asgi.http1.inbox`)."""

from __future__ import annotations

import pytest
from rules import make_rules

from gunicorn_asgi.errors import RequestError
from gunicorn_asgi.http1.inbox import Inbox
from gunicorn_asgi.http1.states import HIGH_WATER, MAX_EMPTY_LINES

RULES = make_rules()
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("cut", range(1, len(HEAD)))
def test_a_head_is_whole_with_its_last_byte_wherever_it_was_cut(cut: int) -> None:
    inbox = Inbox()
    assert not inbox.add_to_head(HEAD[:cut], RULES)
    for byte in HEAD[cut:-1]:
        assert not inbox.add_to_head(bytes([byte]), RULES)
    assert inbox.add_to_head(HEAD[-1:], RULES)
    assert inbox.take() == (HEAD, 0)
    assert not inbox.data


def test_an_empty_line_in_two_parts_is_to_be_read_again() -> None:
    inbox = Inbox()
    assert not inbox.add_to_head(b"\r", RULES)
    assert inbox.add_to_head(b"\nGE", RULES)
    assert inbox.take() == (b"\r\nGE", 0)


def test_what_cannot_become_a_head_is_refused_at_once() -> None:
    inbox = Inbox()
    inbox.add_to_head(b"GET / HTTP/1.1\r\n", RULES)
    with pytest.raises(RequestError, match="bare LF"):
        inbox.add_to_head(b"Host: a\n", RULES)
    assert bytes(inbox.data) == b"GET / HTTP/1.1\r\nHost: a\n"


def test_so_many_empty_lines_pass() -> None:
    inbox = Inbox()
    assert not inbox.passes_empty_line(b"\rG", 0)
    assert all(inbox.passes_empty_line(b"\r\nGET", 0) for _ in range(MAX_EMPTY_LINES))
    assert not inbox.passes_empty_line(b"x\r\n", 1)


def test_an_empty_line_too_many_is_refused_and_not_read_again() -> None:
    """It would be passed on to and fro without end."""
    with pytest.raises(RequestError, match="no method"):
        Inbox().add_to_head(b"\r\nGET", RULES)


def test_it_says_when_it_holds_enough() -> None:
    inbox = Inbox()
    assert not inbox.keep(b"x" * HIGH_WATER)
    assert inbox.keep(b"x")


def test_later_requests_are_kept_without_a_copy_until_more_arrives() -> None:
    inbox, data = Inbox(), HEAD * 3
    assert not inbox.keep(data, len(HEAD))
    assert inbox.size == 2 * len(HEAD)
    kept, position = inbox.take()
    assert kept is data
    assert position == len(HEAD)
    assert inbox.size == 0
    inbox.keep(data, 2 * len(HEAD))
    assert inbox.take() == (HEAD, 0)  # and nothing of what was answered
    inbox.keep(data, len(HEAD))
    inbox.keep(b"GET", 1)
    assert inbox.take() == (HEAD * 2 + b"ET", 0)


@pytest.mark.parametrize("size", [1, 7, 100000])
def test_a_head_with_too_many_lines_is_refused_before_its_end(size: int) -> None:
    inbox = Inbox()
    allowed = b"GET / HTTP/1.1\r\n" + b"a:\r\n" * RULES.limit_fields
    for start in range(0, len(allowed), size):
        assert not inbox.add_to_head(allowed[start : start + size], RULES)
    assert not inbox.add_to_head(b"a:\r", RULES)
    with pytest.raises(RequestError, match="More than") as refused:
        inbox.add_to_head(b"\n", RULES)
    assert refused.value.status == 431


def test_the_lines_of_each_head_are_counted_anew() -> None:
    inbox = Inbox()
    for _ in range(3):
        inbox.add_to_head(b"GET / HTTP/1.1\r\n" + b"a:\r\n" * RULES.limit_fields, RULES)
        inbox.add_to_head(b"\r\n", RULES)
        inbox.take()


def test_an_invalid_request_line_is_the_reason_whatever_follows() -> None:
    """A head that arrives in pieces is refused like one that arrives whole."""
    with pytest.raises(RequestError) as refused:
        Inbox().add_to_head(b"GET /\r\n" + b"a:\r\n" * (RULES.limit_fields + 1), RULES)
    assert refused.value.status == 400
