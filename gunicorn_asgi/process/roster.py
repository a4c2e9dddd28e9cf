"""The states of all workers of a master, in memory that they share with it.

Gunicorn's master tells a worker to leave before it knows whether another one can serve. So workers
write here how far they are, and the one that is to leave reads who serves in its place.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection
from enum import IntEnum

SLOTS = 256
"""Rows of the roster. Workers beyond this number share the last row, and are not handed over to."""
COLUMNS = 3
HEADER = 4
GOES_ON, ENDS, STOPS = range(3)
"""The fate of the workers of this class: the last number of the header."""


class WorkerState(IntEnum):
    """How far a worker is, from its fork to its end."""

    NONE = 0
    """The row is free."""
    BOOTING = 1
    """It was forked, and does not accept connections yet."""
    SERVING = 2
    HANDING_OVER = 3
    """It is to leave, and serves until a newer worker does."""
    LEAVING = 4
    """It has handed over, and finishes its requests. Newer workers start beside it."""
    LEAVING_FIRST = 5
    """It finishes its requests, and was not handed over: no newer worker starts before it has gone.
    Perhaps the master stops, and has not said so yet."""


NONE, BOOTING, SERVING, HANDING_OVER, LEAVING, LEAVING_FIRST = WorkerState


class Roster:
    """The table: made in the master, and inherited by all workers.

    Each number has one writer at a time. Nobody needs two numbers of the same moment.
    """

    def __init__(self) -> None:
        numbers = memoryview(mmap.mmap(-1, 8 * (HEADER + COLUMNS * SLOTS))).cast("Q")
        self._header = numbers[:HEADER]
        self.ages = numbers[HEADER : HEADER + SLOTS]
        """Gunicorn's number of each worker: a newer worker has a greater one."""
        self.states = numbers[HEADER + SLOTS : HEADER + 2 * SLOTS]
        self.generations = numbers[HEADER + 2 * SLOTS :]
        self._configuration: object = None

    @property
    def generation(self) -> int:
        """How often the master has read its configuration."""
        return self._header[0]

    @property
    def first_workers(self) -> int:
        """The greatest age of the workers that the master has started with."""
        return self._header[1]

    @property
    def wanted(self) -> int:
        """The number of workers that the master keeps."""
        return self._header[2]

    @property
    def is_ending(self) -> bool:
        """The master stops, or has another worker class now: no worker is handed over to."""
        return self._header[3] != GOES_ON

    @property
    def is_stopping(self) -> bool:
        """The master was told to stop."""
        return self._header[3] == STOPS

    # In the master.

    def configure(self, configuration: object) -> None:
        """Count `configuration` if it is new: the master makes one each time it reads it."""
        if configuration is not self._configuration:
            self._configuration = configuration
            self._header[0] += 1
            self._header[3] = GOES_ON

    def start_with(self, workers: int) -> None:
        """The master starts its first `workers`."""
        self._header[1] = self._header[2] = workers

    def want(self, workers: int) -> None:
        """The master keeps so many `workers` from now on."""
        self._header[2] = workers

    def end(self) -> None:
        """The master has another worker class: no newer worker serves in place of another."""
        self._header[3] = ENDS

    def stop(self) -> None:
        """The master stops."""
        self._header[3] = STOPS

    def keep(self, ages: Collection[int]) -> None:
        """Free the rows of all workers but those of these `ages`: the others are dead."""
        for slot, state in enumerate(self.states):
            if state != NONE and self.ages[slot] not in ages:
                self.states[slot] = NONE

    def ages_besides(self) -> set[int]:
        """Return the ages of the workers beside which newer ones may run."""
        return {
            self.ages[slot]
            for slot, state in enumerate(self.states)
            if state in (HANDING_OVER, LEAVING)
        }

    def add(self, age: int) -> RosterRow:
        """Return a row for a worker that is about to be forked."""
        free = (slot for slot, state in enumerate(self.states) if state == NONE)
        return RosterRow(self, next(free, SLOTS - 1), age)

    # In the workers.

    def count_serving(self) -> int:
        """Return the number of workers that accept connections."""
        return sum(state in (SERVING, HANDING_OVER) for state in self.states)

    def is_quiet(self) -> bool:
        """Whether all workers serve, and none is booting or about to leave."""
        return all(state in (NONE, SERVING) for state in self.states)

    def is_served_since(self, generation: int) -> bool:
        """Whether a worker with a newer configuration serves."""
        return any(
            state == SERVING and self.generations[slot] > generation
            for slot, state in enumerate(self.states)
        )

    def count_serving_without(self, age: int) -> int:
        """Return how many serve when all that hand over, up to this `age`, have left."""
        # Read once: others leave meanwhile.
        states = self.states.tolist()
        return sum(
            state == SERVING or (state == HANDING_OVER and self.ages[slot] > age)
            for slot, state in enumerate(states)
        )


class RosterRow:
    """One worker's row. The worker alone writes to it, from its fork to its end."""

    def __init__(self, roster: Roster, slot: int, age: int) -> None:
        self.roster = roster
        self.slot = slot
        self.age = age
        self.generation = roster.generation
        roster.ages[slot] = age
        roster.generations[slot] = self.generation
        roster.states[slot] = BOOTING

    @property
    def state(self) -> WorkerState:
        return WorkerState(self.roster.states[self.slot])

    @state.setter
    def state(self, state: WorkerState) -> None:
        self.roster.states[self.slot] = state

    @property
    def is_replacement(self) -> bool:
        """Whether other workers may be serving already."""
        return self.age > self.roster.first_workers

    @property
    def is_outdated(self) -> bool:
        """True if the master has read its configuration again since it forked this worker.

        It does so at a HUP, and then replaces all workers.
        """
        return self.roster.generation != self.generation

    @property
    def may_hand_over(self) -> bool:
        """Whether this worker serves, so that there is something to hand over."""
        return self.state in (SERVING, HANDING_OVER)

    @property
    def has_successor(self) -> bool:
        """Whether this worker, which hands over, is not needed any more.

        As many workers serve as the master wants when it has left, and all older ones that hand
        over, too: they may leave at the same moment. One of them whose event loop is blocked leaves
        later, and nobody waits for it.
        """
        roster = self.roster
        return roster.is_ending or roster.count_serving_without(self.age) >= roster.wanted
