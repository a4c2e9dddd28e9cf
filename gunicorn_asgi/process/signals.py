"""Signal handlers at the two ends of a worker's life, where Gunicorn sets none."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from types import FrameType

SignalHandler = Callable[[int, "FrameType | None"], None]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


def handle_stop_signals(handlers: Mapping[int, SignalHandler]) -> None:
    """Set the handlers of STOP_SIGNALS before Gunicorn does.

    Until then the master's handlers are in force, which only take note of a signal. A signal to
    stop this worker would have no effect, and the arbiter does not send it twice.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, handlers[number])


def ignore_signals() -> None:
    """Ignore the arbiter's signals at the end of the process.

    The arbiter repeats them. At the end of the interpreter, when Python's handlers are gone, they
    must not look like a crash.
    """
    numbers = (*STOP_SIGNALS, signal.SIGUSR1)
    # Blocked first: Python writes to stderr about a pending signal whose handler is gone.
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
