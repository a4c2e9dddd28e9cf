"""The tokens of a connection as a function of time: RFC 9113, 10.5."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gunicorn_asgi.http2.budget import (
    CAPACITY,
    IDLE_FRAME,
    REFILL_PER_SECOND,
    REPLIES,
    RESPONSE,
    Budget,
)


def spend_all(budget: Budget, now: float) -> int:
    """How many tokens there are."""
    spent = 0
    budget.now = now
    while budget.take(1):
        spent += 1
        assert spent <= 2 * CAPACITY, "for ever"
    return spent


def test_there_is_a_capacity_and_no_more() -> None:
    assert spend_all(Budget(), 0.0) == CAPACITY
    assert spend_all(Budget(), 12345.6) == CAPACITY  # however long a connection was idle


def test_tokens_come_back_with_time() -> None:
    budget = Budget()
    spend_all(budget, 50.0)
    assert not budget.take(1)
    assert spend_all(budget, 51.0) in range(REFILL_PER_SECOND - 3, REFILL_PER_SECOND + 1)
    assert spend_all(budget, 1000.0) == CAPACITY


@pytest.mark.parametrize("interval", [0.0001, 0.003, 0.009, 0.011, 0.5])
def test_it_makes_no_difference_how_often_it_is_looked_at(interval: float) -> None:
    """What comes back in a moment may be less than a token."""
    budget = Budget()
    spend_all(budget, 1.0)
    budget.refund(2)
    turns = int(1 / interval)
    for turn in range(1, turns + 1):
        budget.now = 1.0 + turn * interval
        budget.take(0)
    assert budget.tokens == pytest.approx(REFILL_PER_SECOND * turns * interval, abs=2)


def may_send_at_rate(rate: float) -> bool:
    budget = Budget()
    for number in range(10 * CAPACITY):
        budget.now = number / rate
        if not budget.take(IDLE_FRAME):
            return False
    return True


def test_a_client_just_below_the_rate_may_go_on_for_ever() -> None:
    assert may_send_at_rate(REFILL_PER_SECOND * 0.99)
    assert not may_send_at_rate(REFILL_PER_SECOND * 1.3)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    budget = Budget()
    spend_all(budget, 100.0)
    assert spend_all(budget, 50.0) == 0
    assert spend_all(budget, 100.0) == 0


def test_responses_and_data_give_tokens_up_to_the_capacity() -> None:
    budget = Budget()
    for _ in range(10):
        budget.refund(RESPONSE)
    assert spend_all(budget, 0.0) <= CAPACITY + RESPONSE
    budget.refund(REPLIES + 1)  # of which one was owed
    assert spend_all(budget, 0.0) == REPLIES


def test_an_answer_takes_first_what_data_has_paid_for_and_takes_it_once() -> None:
    budget = Budget()
    budget.allow_replies(3)
    assert budget.take_reply(10)
    assert budget.replies == 0
    assert spend_all(budget, 0.0) == CAPACITY - 7


def test_an_answer_that_data_has_paid_for_needs_no_tokens() -> None:
    """A download goes on even if the tokens are spent otherwise."""
    budget = Budget()
    spend_all(budget, 0.0)
    budget.allow_replies(2)
    assert [budget.take_reply(1) for _ in range(3)] == [True, True, False]


@given(
    st.lists(
        st.tuples(st.sampled_from(["spend", "earn"]), st.integers(0, 20), st.floats(0, 30)),
        max_size=40,
    )
)
def test_there_are_never_more_than_were_earned(actions: list[tuple[str, int, float]]) -> None:
    budget, now, spent, earned = Budget(), 0.0, 0, 0
    for action, tokens, seconds in actions:
        if action == "earn":
            budget.refund(tokens)
            earned += tokens
        else:
            now += seconds
            budget.now = now
            was_enough = budget.take(tokens)
            spent += tokens
            assert was_enough == (budget.tokens >= 0)
            if spent > CAPACITY + earned + now * REFILL_PER_SECOND + 1e-6:
                assert not was_enough
        assert budget.tokens <= CAPACITY + 20
