"""Run the tests in several processes: ``pytest --processes 4``.

The processes are forks of one that has collected the tests, so the modules are imported and the cases made
once, which takes seconds. They take parts of the list of cases from a pipe until it is empty, and send the
reports of pytest to the first process, which prints them. Apart from that each is an ordinary run of pytest.
"""

from __future__ import annotations

import gc
import os
import signal
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest

PART_WEIGHT = 48
"""A part of the list has cases of this weight, so that the processes end at about the same time."""
GUNICORN_WEIGHT = 8
"""A case that starts Gunicorn weighs more than others."""
NUMBER = struct.Struct("=H")
REPORTERS = ("terminalreporter", "lfplugin", "nfplugin", "stepwiseplugin")
"""Plugins of the first process only: they print, or write what the next run is to know."""


class Processes:
    """A plugin that replaces pytest's loop over the tests."""

    def __init__(self, count: int) -> None:
        self._count = count

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        """Begin to collect."""
        rewrite(Path(__file__).parent)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run the tests in processes, of which each returns from here at its end."""
        option = session.config.option
        if session.testsfailed or option.collectonly or option.usepdb or not session.items:
            return None  # pytest's own loop knows what to do, and a debugger needs the terminal
        parts = divide(session.items)
        queue = make_queue(len(parts))
        base = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        sys.stdout.flush()
        sys.stderr.flush()
        # What has been made so far stays. No process has to look at it again.
        gc.collect()
        gc.freeze()
        pids: dict[Connection, int] = {}
        try:
            for number in range(min(self._count, len(parts))):
                reader, writer = os.pipe()
                pid = os.fork()
                if not pid:
                    os.close(reader)
                    pids.clear()
                    # `mktemp` looks through a directory for each test.
                    session.config._tmp_path_factory._basetemp = base / f"process{number}"  # type: ignore[attr-defined]
                    (base / f"process{number}").mkdir()
                    run_parts(session, parts, queue, Connection(writer))
                    return True
                os.close(writer)
                pids[Connection(reader)] = pid
            print_reports(session, pids)
        finally:
            os.close(queue)
            for pid in pids.values():  # none, unless this run is interrupted
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
                os.waitpid(pid, 0)
        return True


def rewrite(tests: Path) -> None:
    """Have the test modules rewritten for pytest, which takes seconds, in two processes."""
    pattern = f"__pycache__/test_*.{sys.implementation.cache_tag}-pytest-*"
    if sys.dont_write_bytecode or any(tests.glob(pattern)):
        return
    paths = sorted(tests.glob("test_*.py"))
    helper = os.fork()
    try:
        for path in paths[0 if helper else 1 :: 2]:
            # Pytest imports a module again that has raised something, and tells it.
            with suppress(Exception, pytest.skip.Exception):
                import_module(path.stem)
    finally:
        if not helper:
            os._exit(0)
    os.waitpid(helper, 0)


def divide(items: list[pytest.Item]) -> list[list[pytest.Item]]:
    """Return `items` in parts.

    Parts with and without Gunicorn alternate, for tests with Gunicorn wait most of the time.
    """
    kinds: tuple[list[list[pytest.Item]], ...] = ([], [])
    for with_gunicorn, parts in enumerate(kinds):
        weight = GUNICORN_WEIGHT if with_gunicorn else 1
        left = 0
        for item in items:
            if with_gunicorn == (item.get_closest_marker("gunicorn") is not None):
                if left <= 0:
                    parts.append([])
                    left = PART_WEIGHT
                parts[-1].append(item)
                left -= weight
    placed = [
        (position / len(parts), part) for parts in kinds for position, part in enumerate(parts)
    ]
    return [part for _, part in sorted(placed, key=lambda pair: pair[0])]


def make_queue(count: int) -> int:
    """Return a pipe to read the numbers below `count` from, each for one process."""
    reader, writer = os.pipe()
    data = b"".join(NUMBER.pack(number) for number in range(count))
    # More would wait for a reader. Numbers that are all read with one size are not torn apart.
    assert len(data) <= 65536, "too many parts for a pipe"
    os.write(writer, data)
    os.close(writer)
    return reader


def run_parts(
    session: pytest.Session, parts: list[list[pytest.Item]], queue: int, reports: Connection
) -> None:
    """Be one of the processes: run parts of the tests until there is none left."""
    plugins = session.config.pluginmanager
    for name in REPORTERS:
        if plugins.has_plugin(name):
            plugins.unregister(name=name)
    plugins.register(Sender(session.config, reports))
    # The files that output is captured in would be shared with the other processes.
    capture: Any = plugins.getplugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    capture.suspend_global_capture()

    def taken() -> Iterator[pytest.Item]:
        while number := os.read(queue, NUMBER.size):
            yield from parts[NUMBER.unpack(number)[0]]

    items = taken()
    item = next(items, None)
    while item is not None:
        following = next(items, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        item = following
    reports.send(None)


class Sender:
    """A plugin that sends the reports of a test to the first process."""

    def __init__(self, config: pytest.Config, connection: Connection) -> None:
        self._config = config
        self._connection = connection
        self._reports: list[dict[str, Any]] = []

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._connection.send(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._reports.append(data)

    def pytest_runtest_logfinish(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        reports, self._reports = self._reports, []
        self._connection.send((nodeid, location, reports))


def print_reports(session: pytest.Session, pids: dict[Connection, int]) -> None:
    """Pass the reports of the processes on to pytest's plugins, until all have ended."""
    config = session.config
    failed: set[Connection] = set()
    current = dict.fromkeys(pids, "no test")
    """The test that each process runs, or has run last. Those without more tests are not in it."""
    while pids:
        for connection in wait(list(pids)):
            assert isinstance(connection, Connection)
            try:
                message = connection.recv()
            except EOFError:
                code = os.waitstatus_to_exitcode(os.waitpid(pids.pop(connection), 0)[1])
                if connection in current or code != int(connection in failed):
                    test = current.get(connection, "no test")
                    raise RuntimeError(f"a process has ended with {code}, in {test}") from None
                continue
            if message is None:  # it has no more tests
                current.pop(connection, None)
                continue
            if isinstance(message, str):  # a test begins
                current[connection] = message
                continue
            nodeid, location, reports = message
            for data in reports:
                report = config.hook.pytest_report_from_serializable(config=config, data=data)
                config.hook.pytest_runtest_logreport(report=report)
                if report.failed:
                    failed.add(connection)
            config.hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
