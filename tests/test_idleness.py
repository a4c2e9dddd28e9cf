"""Which connections make room for others, as a function (`net.idleness`)."""

from __future__ import annotations

import pytest

from gunicorn_asgi.net.idleness import (
    BUSY,
    ENDING,
    FRESH_SECONDS,
    INCOMPLETE,
    KEPT,
    LEFT,
    SILENT,
    Idleness,
    choose,
)

NOW = 1000.0


class Connection:
    """A connection that is idle in some way, since some time."""

    def __init__(self, kind: Idleness, since: float = 0.0, can_end: bool = True) -> None:
        self.kind = kind
        self.since = since
        self.can_end = can_end
        self.looks = self.questions = 0

    def __repr__(self) -> str:
        return f"{self.kind.name} {self.since}"

    def idleness(self) -> tuple[Idleness, float]:
        self.looks += 1
        return self.kind, self.since

    def can_make_room(self, kind: Idleness) -> bool:
        assert kind is self.kind
        self.questions += 1
        return self.can_end


def test_the_longest_idle_makes_room_first_whether_it_has_sent_something_or_not() -> None:
    kept, silent, later = Connection(KEPT, 5), Connection(SILENT, 4), Connection(KEPT, 6)
    assert choose([later, kept, silent], 2, NOW) == [silent, kept]


def test_idle_connections_go_before_slow_heads_then_those_that_end_then_those_that_have_left() -> (
    None
):
    left, ending, incomplete = Connection(LEFT, 1), Connection(ENDING, 2), Connection(INCOMPLETE, 3)
    kept = Connection(KEPT, NOW)
    assert choose([left, ending, incomplete, kept], 9, NOW) == [kept, incomplete, ending, left]


def test_a_busy_connection_never_makes_room() -> None:
    assert choose([Connection(BUSY), Connection(BUSY)], 9, NOW) == []


@pytest.mark.parametrize("kind", [SILENT, INCOMPLETE])
def test_a_client_that_has_just_connected_is_the_last_to_make_room(kind: Idleness) -> None:
    fresh = Connection(kind, NOW - FRESH_SECONDS + 0.01)
    old = Connection(kind, NOW - FRESH_SECONDS)
    left = Connection(LEFT, NOW)
    assert choose([fresh, left, old], 9, NOW) == [old, left, fresh]


def test_of_equals_the_connections_that_began_first_make_room_first() -> None:
    equals = [Connection(SILENT, NOW) for _ in range(5)]
    assert choose(equals, 3, NOW) == equals[:3]


def test_a_connection_with_data_on_its_way_is_passed_over() -> None:
    first, second = Connection(KEPT, 1, can_end=False), Connection(KEPT, 2)
    assert choose([first, second], 1, NOW) == [second]


def test_each_connection_is_looked_at_once_and_the_kernel_asked_about_few() -> None:
    connections = [Connection(KEPT, number) for number in range(100)]
    assert choose(connections, 10, NOW) == connections[:10]
    assert {connection.looks for connection in connections} == {1}
    assert sum(connection.questions for connection in connections) == 10
