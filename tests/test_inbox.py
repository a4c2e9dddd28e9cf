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
    assert inbox.take() == HEAD
    assert not inbox.data


def test_an_empty_line_in_two_parts_is_to_be_read_again() -> None:
    inbox = Inbox()
    assert not inbox.add_to_head(b"\r", RULES)
    assert inbox.add_to_head(b"\nGE", RULES)
    assert inbox.take() == b"\r\nGE"


def test_what_cannot_become_a_head_is_refused_at_once() -> None:
    inbox = Inbox()
    inbox.add_to_head(b"GET / HTTP/1.1\r\n", RULES)
    with pytest.raises(RequestError, match="bare LF"):
        inbox.add_to_head(b"Host: a\n", RULES)
    assert bytes(inbox.data) == b"GET / HTTP/1.1\r\nHost: a\n"


def test_so_many_empty_lines_pass() -> None:
    inbox = Inbox()
    assert not inbox.passes_empty_line(b"\rG")
    assert all(inbox.passes_empty_line(b"\r\nGET") for _ in range(MAX_EMPTY_LINES))
    assert not inbox.passes_empty_line(b"\r\n")


def test_an_empty_line_too_many_is_refused_and_not_read_again() -> None:
    """It would be passed on to and fro without end."""
    with pytest.raises(RequestError, match="no method"):
        Inbox().add_to_head(b"\r\nGET", RULES)


def test_it_says_when_it_holds_enough() -> None:
    inbox = Inbox()
    assert not inbox.keep(b"x" * HIGH_WATER)
    assert inbox.keep(b"x")
