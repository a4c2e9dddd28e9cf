"""The states of an HTTP/1.x connection's reading side (`http1.states`)."""

from __future__ import annotations

import pytest

from gunicorn_asgi.http1.states import (
    BODY,
    BODY_END,
    END,
    ENDED,
    EXCHANGE_OVER,
    HEAD,
    NEXT_STATE,
    NEXT_TURN,
    REQUEST,
    REQUEST_WITH_BODY,
    RESPONDING,
    ReadEvent,
    ReadState,
)


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([REQUEST], RESPONDING),
        ([REQUEST, EXCHANGE_OVER], HEAD),
        ([REQUEST_WITH_BODY], BODY),
        ([REQUEST_WITH_BODY, BODY_END], RESPONDING),
        ([REQUEST_WITH_BODY, BODY_END, EXCHANGE_OVER], HEAD),
        ([NEXT_TURN, EXCHANGE_OVER, REQUEST], RESPONDING),
    ],
)
def test_requests_follow_each_other(events: list[ReadEvent], state: ReadState) -> None:
    """RFC 9112, 9.3.2."""
    found = HEAD
    for event in events:
        found = NEXT_STATE[found, event]
    assert found is state


@pytest.mark.parametrize("state", list(ReadState))
def test_a_connection_can_end_in_each_state(state: ReadState) -> None:
    assert NEXT_STATE[state, END] is ENDED


@pytest.mark.parametrize("event", [event for event in ReadEvent if event is not END])
def test_nothing_follows_the_end(event: ReadEvent) -> None:
    assert (ENDED, event) not in NEXT_STATE


@pytest.mark.parametrize(
    ("state", "event"),
    [(HEAD, EXCHANGE_OVER), (HEAD, BODY_END), (BODY, EXCHANGE_OVER), (RESPONDING, REQUEST)],
)
def test_a_request_never_overtakes_an_exchange(state: ReadState, event: ReadEvent) -> None:
    assert (state, event) not in NEXT_STATE
