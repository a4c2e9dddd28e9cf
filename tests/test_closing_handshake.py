"""The phases of a WebSocket and the code of its end, as functions (`gunicorn_asgi.asgi.closing_handshake`)."""

from __future__ import annotations

import pytest

from gunicorn_asgi.asgi.closing_handshake import ClosingHandshake, WebSocketPhase
from gunicorn_asgi.asgi.websocket_session import SESSION_DEADLINES, SessionDeadline
from gunicorn_asgi.config.options import OPTIONS
from gunicorn_asgi.websocket.close import Close

CONNECTING, OPEN, FAILING, CLOSING, LOST, CLOSED = WebSocketPhase


def opened() -> ClosingHandshake:
    closing = ClosingHandshake()
    assert closing.phase is CONNECTING
    assert not closing.is_open
    closing.accept()
    assert closing.is_open
    assert not closing.has_ended
    return closing


def told(closing: ClosingHandshake) -> tuple[WebSocketPhase, int, str]:
    return closing.phase, closing.code, closing.reason


def test_this_side_closes_and_the_client_answers() -> None:
    closing = opened()
    assert closing.end(CLOSING, 1000, "bye")
    assert closing.has_ended
    assert not closing.is_open
    assert not closing.end(CLOSED, 1001, "other")
    assert told(closing) == (CLOSED, 1000, "bye")


def test_the_client_closes() -> None:
    closing = opened()
    assert closing.end(CLOSED, 4000, "mine")
    assert not closing.connection_lost(has_unread_data=True)
    assert told(closing) == (CLOSED, 4000, "mine")


@pytest.mark.parametrize("has_unread_data", [False, True])
def test_the_connection_is_lost(has_unread_data: bool) -> None:
    closing = opened()
    assert closing.connection_lost(has_unread_data)
    assert told(closing) == (LOST if has_unread_data else CLOSED, 1006, "")
    assert not closing.connection_lost(has_unread_data=True)
    assert told(closing) == (LOST if has_unread_data else CLOSED, 1006, "")


def test_a_close_frame_among_unread_data_replaces_1006() -> None:
    closing = opened()
    closing.connection_lost(has_unread_data=True)
    assert closing.end(CLOSED, 1001, "going")
    assert not closing.end(CLOSED, 1002, "")
    assert told(closing) == (CLOSED, 1001, "going")


def test_a_loss_after_this_sides_close_keeps_its_code() -> None:
    closing = opened()
    closing.end(CLOSING, 1012, "")
    assert not closing.connection_lost(has_unread_data=True)
    assert told(closing) == (CLOSED, 1012, "")


@pytest.mark.parametrize("has_unread_messages", [False, True])
def test_only_unread_messages_put_off_the_end_after_a_violation(has_unread_messages: bool) -> None:
    closing = opened()
    closing.violate(Close(1002, "wrong"), has_unread_messages)
    assert closing.violation == (1002, "wrong")
    assert closing.phase is (FAILING if has_unread_messages else OPEN)
    assert closing.is_open


def test_a_loss_after_a_violation_finds_no_close_frame() -> None:
    closing = opened()
    closing.violate(Close(1002, "wrong"), True)
    assert closing.connection_lost(has_unread_data=True)
    assert told(closing) == (CLOSED, 1006, "")


def test_a_violation_changes_no_phase_after_this_sides_close() -> None:
    closing = opened()
    closing.end(CLOSING, 1000, "")
    closing.violate(Close(1002, "wrong"), True)
    assert closing.phase is CLOSING


def test_every_deadline_has_its_option() -> None:
    assert list(SESSION_DEADLINES) == list(SessionDeadline)
    assert {row.option for row in SESSION_DEADLINES.values()} <= {option.name for option in OPTIONS}
