"""The bounded memory of work that many requests repeat: what it keeps, and what it lets go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gunicorn_asgi.http.memory import SAMPLE, Memory


def add(memory: Memory[int, str], key: int, value: str) -> None:
    """Offer a new entry."""
    if memory.sample(1):
        memory.put(key, value)


def look(memory: Memory[int, str], key: int) -> str | None:
    return memory.recent.get(key) or memory.recall(key)


def use(memory: Memory[int, str], key: int) -> None:
    """As its users do: look, and add what is not there."""
    if look(memory, key) is None:
        add(memory, key, str(key))


def test_until_it_was_full_every_entry_is_remembered() -> None:
    memory: Memory[int, str] = Memory(10)
    for key in range(10):
        add(memory, key, str(key))
    assert [look(memory, key) for key in range(11)] == [*map(str, range(10)), None]


def test_once_it_was_full_only_a_sample_of_the_new_entries_is_remembered() -> None:
    memory: Memory[int, str] = Memory(10)
    for key in range(11):
        add(memory, key, str(key))
    new = range(1000, 1000 + 5 * SAMPLE)
    for key in new:
        add(memory, key, str(key))
    assert sum(look(memory, key) is not None for key in new) == 5


def test_an_entry_in_use_stays_whatever_else_is_added() -> None:
    memory: Memory[int, str] = Memory(10)
    add(memory, -1, "used")
    for key in range(50 * 10 * SAMPLE):
        add(memory, key, str(key))
        assert key % 10 or look(memory, -1) == "used"


def test_what_nobody_uses_is_forgotten_and_not_before_so_many_new_entries() -> None:
    memory: Memory[int, str] = Memory(10)
    add(memory, -1, "unused")
    for key in range(9 + 9 * SAMPLE):
        add(memory, key, str(key))
    assert memory.has_older([5, -1])
    for key in range(1000, 1000 + 10 * SAMPLE):
        add(memory, key, str(key))
    assert not memory.has_older([-1])
    assert look(memory, -1) is None


def test_a_key_that_many_requests_have_is_soon_remembered() -> None:
    memory: Memory[int, str] = Memory(10)
    for key in range(11):
        add(memory, key, str(key))
    for number in range(4 * SAMPLE):
        add(memory, -1 if number % 3 else number + 100, "value")
    assert look(memory, -1) == "value"


@given(size=st.integers(1, 4), keys=st.lists(st.integers(0, 30), max_size=400))
def test_no_sequence_gets_more_than_two_generations_or_a_wrong_value(
    size: int, keys: list[int]
) -> None:
    memory: Memory[int, str] = Memory(size)
    for key in keys:
        assert look(memory, key) in (None, str(key))
        use(memory, key)
        assert len(memory.recent) <= size
    older = [key for key in range(31) if key not in memory.recent and memory.has_older([key])]
    assert len(older) <= size
