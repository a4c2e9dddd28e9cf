"""Pure: idle connections, and the order in which they make room for clients that wait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from operator import itemgetter
from typing import Protocol, TypeVar

FRESH_SECONDS = 1.5
"""A client that was accepted so recently, or has begun a request, may still be about to send it.
The times of such clients are known to a second."""


class Idleness(IntEnum):
    """The ways in which a connection is idle."""

    KEPT = 0
    """It waits for the next request."""
    SILENT = 1
    """Nothing has come yet. It may be in its TLS handshake, or before the PROXY header."""
    INCOMPLETE = 2
    """Part of a request's head has come, or a rest of a request that is answered is dropped."""
    ENDING = 3
    """Everything is written. The client has to notice the end."""
    LEFT = 4
    """Its request is being answered, but the client has closed its side (RFC 9112, 9.6). It may
    still read the response. Most probably it has gone."""
    BUSY = 5
    """It makes no room: a request, a WebSocket, or a response that the client is taking."""


KEPT, SILENT, INCOMPLETE, ENDING, LEFT, BUSY = Idleness

ORDER: Mapping[Idleness, int] = {KEPT: 0, SILENT: 0, INCOMPLETE: 1, ENDING: 2, LEFT: 3}
"""Equal ones make room by their time, the longest first."""
FRESH = 4
"""The place of fresh clients in that order. They come last, or the first of many who have left
would be chosen after an ordinary client that has just connected."""


class Candidate(Protocol):
    """A connection, as `choose` sees it."""

    def idleness(self) -> tuple[Idleness, float]:
        """How it is idle, and since when, on the loop's clock."""

    def can_make_room(self, kind: Idleness) -> bool:
        """Whether nothing would be lost. May ask the kernel."""


C = TypeVar("C", bound=Candidate)


def choose(candidates: Iterable[C], count: int, now: float) -> list[C]:
    """Return up to `count` of `candidates` to close. Of equal ones, the first come first."""
    ranked = []
    for candidate in candidates:
        kind, since = candidate.idleness()
        if kind is not BUSY:
            ranked.append((_rank(kind, since, now), since, candidate, kind))
    ranked.sort(key=itemgetter(0, 1))
    chosen: list[C] = []
    for _, _, candidate, kind in ranked:
        if len(chosen) == count:
            break
        if candidate.can_make_room(kind):
            chosen.append(candidate)
    return chosen


def _rank(kind: Idleness, since: float, now: float) -> int:
    if (kind is SILENT or kind is INCOMPLETE) and since > now - FRESH_SECONDS:
        return FRESH
    return ORDER[kind]
