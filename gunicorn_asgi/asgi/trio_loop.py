"""trio's loop within asyncio's: both wait in one place, and no thread is needed.

trio's guest mode has a thread that waits for trio's events. Each time that something happens in
asyncio, the thread has to be woken, and trio's next turn has to be handed back to the main thread:
that takes several times as long as a whole request. Here, asyncio's loop waits for trio's events as
well, for on Linux and the BSDs they come from one file descriptor. This needs attributes of trio's
guest mode that are not public. A trio without them gets its thread.
"""

from __future__ import annotations

import asyncio
import os
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter
from typing import Any

import outcome
import sniffio
import trio

LONG_SECONDS = 3600.0
"""Time after which trio takes a turn in any case."""

SAME_SECONDS = 0.0001
"""Times that differ by less are that of one deadline, computed twice."""

ROUNDED_SECONDS = 0.0005
"""uvloop rounds timers to milliseconds. Rounded down, they would have trio take turns for nothing,
one after the other, until its deadline."""

NO_EVENTS: Sequence[Any] = ()

PRIVATE_PARTS = (
    "runner.guest_tick_scheduled",
    "runner.io_manager.get_events",
    "runner.main_task_outcome",
    "unrolled_run_gen.send",
)
"""What `TrioLoop` needs of trio's state of the guest mode."""


class TrioLoop:
    """Runs trio's turns as callbacks of asyncio's `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._guest: Any = None
        """trio's state of the guest mode, once its turns are run by `_turn`."""
        self._on_end: Callable[[outcome.Outcome[None]], object] | None = None
        self._descriptor = -1
        """A duplicate of the descriptor of trio's events: trio closes its own."""
        self._has_events = False
        self._is_due = False
        """`_turn` is going to be called. trio's own flag is no measure: trio also sets it when it
        has woken itself by its socket."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        """The time of `_timer` (``time.monotonic``). trio's next deadline may be later."""
        self._due_at = 0.0
        """The time when trio wants its next turn (``time.monotonic``)."""
        self._has_ended = False

    @property
    def needs_thread(self) -> bool:
        """Whether trio waits for its events in a thread."""
        return self._guest is None

    def start(
        self,
        main: Callable[[], Awaitable[None]],
        on_end: Callable[[outcome.Outcome[None]], object],
    ) -> None:
        """Run `main` in trio; call `on_end` with its result."""
        self._on_end = on_end
        trio.lowlevel.start_guest_run(
            main,
            run_sync_soon_threadsafe=self._loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=self._start_turns,
            done_callback=self._end,
            host_uses_signal_set_wakeup_fd=True,
        )

    def _start_turns(self, guest_tick: Callable[[], object]) -> None:
        """trio asks for its first turn, or for a later one if it has a thread."""
        guest = getattr(guest_tick, "__self__", None)
        if self._guest is None and is_known(guest):
            self._guest = guest
            self._descriptor = os.dup(_events_of(guest))
            self._loop.add_reader(self._descriptor, self._on_readable)
            self.schedule()
        else:
            self._loop.call_soon(guest_tick)

    def schedule(self) -> bool:
        """Have trio take a turn soon. Returns False if trio takes no more turns.

        To be called before tasks are made ready to run: otherwise trio wakes itself by a byte to a
        socket.
        """
        guest = self._guest
        if guest is not None and not self._is_due:
            self._is_due = guest.runner.guest_tick_scheduled = True
            self._loop.call_soon(self._turn)
        return not self._has_ended

    def _on_readable(self) -> None:
        self._has_events = True
        self._turn_now()

    def _on_timer(self) -> None:
        self._timer = None
        if self._is_due:
            return
        if time.monotonic() < self._due_at - SAME_SECONDS:
            # A turn without events would end a `wait_all_tasks_blocked` too early.
            self._set_timer(self._due_at)
        else:
            self._turn_now()

    def _turn_now(self) -> None:
        if not self._is_due:
            self._is_due = self._guest.runner.guest_tick_scheduled = True
            self._turn()

    def _turn(self) -> None:
        """Let trio's tasks that can run take a step each, and note when the next turn is due."""
        guest = self._guest
        if self._has_ended:
            return
        events: Any = NO_EVENTS
        library, sniffio.thread_local.name = sniffio.thread_local.name, "trio"
        try:
            if self._has_events:
                self._has_events = False
                events = guest.runner.io_manager.get_events(0)
            timeout = guest.unrolled_run_gen.send(events)
        except StopIteration:
            self._end(guest.runner.main_task_outcome)
            return
        except (trio.TrioInternalError, OSError) as error:
            self._end(outcome.Error(error))
            return
        finally:
            sniffio.thread_local.name = library
        if timeout <= 0:
            self._loop.call_soon(self._turn)
            return
        self._is_due = guest.runner.guest_tick_scheduled = False
        self._due_at = at = time.monotonic() + min(timeout, LONG_SECONDS)
        if self._timer is None or at < self._timer_at - SAME_SECONDS:
            self._set_timer(at)

    def _set_timer(self, at: float) -> None:
        """Have a turn at this time (``time.monotonic``).

        A timer that is earlier than trio's next deadline stays, and sets the next one when it is
        over: most turns leave the deadlines alone, so that most need no new timer.
        """
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(at - time.monotonic() + ROUNDED_SECONDS, self._on_timer)

    def _end(self, result: outcome.Outcome[None]) -> None:
        self._has_ended = True
        if self._guest is not None:
            self._release()
        assert self._on_end is not None
        self._on_end(result)

    def abandon(self) -> None:
        """End the run although tasks are left. A trio that has a thread goes on in vain."""
        if self._has_ended:
            return
        self._has_ended = True
        # The caller's line in the log names the tasks, and trio's warning does not. A trio that has
        # a thread would warn at the end of the interpreter.
        warnings.filterwarnings("ignore", "Trio guest run got abandoned", RuntimeWarning)
        if self._guest is not None:
            self._release()
            self._guest.unrolled_run_gen.close()

    def _release(self) -> None:
        self._is_due = True  # so that nothing calls for another turn
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def is_known(guest: Any) -> bool:
    """Whether trio's state of the guest mode, `guest`, has what `TrioLoop` needs of it."""
    try:
        attrgetter(*PRIVATE_PARTS)(guest)
    except AttributeError:
        return False
    return hasattr(sniffio.thread_local, "name") and _events_of(guest) >= 0


def _events_of(guest: Any) -> int:
    """The descriptor of trio's epoll or kqueue, or -1."""
    manager = guest.runner.io_manager
    poll = getattr(manager, "_epoll", None) or getattr(manager, "_kqueue", None)
    return int(poll.fileno()) if poll is not None else -1
