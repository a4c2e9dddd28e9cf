"""Tasks in a report: those that asyncio does not know, and a line about each."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any, Protocol, runtime_checkable

from ..frozen import Frozen
from .printable import printable
from .stacks import HasCoroutine, name_calls, read_awaits

MAX_CHILDREN = 10
"""Tasks of one exchange in a report."""
HOLDS = "which holds the loop"


class NamedTask(Frozen):
    """A task of another library than asyncio."""

    name: str
    coroutine: Any

    def get_coro(self) -> Any:
        return self.coroutine

    @property
    def is_running(self) -> bool:
        """Whether it takes a step in this moment, in whatever thread. So it holds the loop."""
        return bool(getattr(self.coroutine, "cr_running", False))

    def __str__(self) -> str:
        calls = HOLDS if self.is_running else name_calls(read_awaits(self))
        return f"{printable(self.name)}, {calls}"


@runtime_checkable
class ParentTask(Protocol):
    """A task that knows the tasks which it has started, and must wait for."""

    def list_children(self) -> list[NamedTask]:
        """Return its tasks, and all of theirs."""


def list_children(task: HasCoroutine | None) -> list[NamedTask]:
    """Return the tasks that belong to `task`, the one that holds the loop first.

    asyncio does not know them: its tasks are "other tasks".
    """
    return in_order(task.list_children()) if isinstance(task, ParentTask) else []


def in_order(tasks: Iterable[NamedTask]) -> list[NamedTask]:
    """Return `tasks` by name, but the one that holds the loop first."""
    return sorted(tasks, key=lambda task: (not task.is_running, task.name))


def describe_children(task: HasCoroutine | None) -> list[str]:
    """Return a line for each task that belongs to `task`, or how many more there are."""
    children = list_children(task)
    more = len(children) - MAX_CHILDREN
    lines = [f"its task {child}" for child in children[:MAX_CHILDREN]]
    return [*lines, f"and {more} more"] if more > 0 else lines


def describe_task(task: HasCoroutine | None) -> str:
    """Return the calls in which `task` waits, and those of its tasks, in one line."""
    return "; ".join(chain([name_calls(read_awaits(task))], describe_children(task)))
