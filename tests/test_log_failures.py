"""A log that fails: a full disk, a syslog that is gone or stuck, handlers and filters that raise.

A request is answered all the same, and costs at most one line on stderr, without its headers.
"""

from __future__ import annotations

import io
import logging
import logging.handlers
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from accesslog import make_access
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.instrument.statsd import Statsd
from process import Gunicorn, listens, poll

from gunicorn_asgi.observe import log_failures, stacks
from gunicorn_asgi.observe.line_writer import LineWriter
from gunicorn_asgi.observe.log_failures import MAX_KINDS, LimitedReport, LogGuard, describe
from gunicorn_asgi.observe.printable import tolerate_any_character
from gunicorn_asgi.observe.record import Record

FULL = Path("/dev/full")
NO_SPACE = "OSError: [Errno 28] No space left on device"
SECRET = "Bearer-of-a-secret"

needs_full = pytest.mark.skipif(not FULL.exists(), reason="/dev/full is Linux's")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Guarded:
    """A logger with a guard, as in a worker, and everything that the guard says."""

    def __init__(self) -> None:
        self.stderr = io.StringIO()
        self.clock = Clock()
        self.guard = LogGuard(self.stderr, self.clock)
        self.logger = logging.Logger("gunicorn.access", logging.INFO)  # noqa: LOG001 # not kept
        self.logger.propagate = False

    def install(self, handler: logging.Handler) -> None:
        self.logger.addHandler(handler)
        self.guard.install(self.logger)

    @property
    def lines(self) -> list[str]:
        """The lines on stderr, without their beginning."""
        return [line.partition(": ")[2] for line in self.stderr.getvalue().splitlines()]


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    monkeypatch.setattr(logging.Handler, "handleError", logging.Handler.handleError)
    guarded = Guarded()
    yield guarded
    for handler in guarded.logger.handlers:
        try:
            handler.close()
        except OSError:
            assert isinstance(handler, logging.FileHandler)  # full


# What is said, and how often.


def fail(error: Exception) -> Exception:
    try:
        raise error
    except Exception as raised:
        return raised


def test_the_first_failure_of_a_kind_is_told_at_once_and_then_their_number_once_a_minute() -> None:
    clock, lines = Clock(), list[str]()
    report = LimitedReport(lines.append, clock)
    for _ in range(100):
        report.add("log", OSError(28, "full"))
    report.add("log", OSError(32, "broken"))
    assert lines == [f"log: {NO_SPACE}", "log: BrokenPipeError: [Errno 32] Broken pipe"]
    clock.now += 59
    report.add("log", OSError(28, "full"))
    report.tick()
    assert len(lines) == 2
    clock.now += 1
    report.tick()
    assert lines[2:] == [f"log: {NO_SPACE} (100 more in 60 s)"]
    clock.now += 3600
    report.tick()
    assert len(lines) == 3  # nothing has failed since
    report.add("log", OSError(28, "full"))
    assert lines[3:] == [f"log: {NO_SPACE} (1 more in 3600 s)"]


def test_the_end_of_the_process_tells_what_was_not_told() -> None:
    lines: list[str] = []
    report = LimitedReport(lines.append, Clock())
    for _ in range(3):
        report.add("log", OSError(28, "full"))
    report.tick(is_end=True)
    assert lines[1:] == [f"log: {NO_SPACE} (2 more in 0 s)"]


def test_kinds_of_failures_have_a_bound() -> None:
    lines: list[str] = []
    report = LimitedReport(lines.append, Clock())
    for number in range(3 * MAX_KINDS):
        report.add(f"log {number}", ValueError())
    assert len(lines) == MAX_KINDS + 1
    assert lines[-1] == "further failures"


def test_the_text_of_an_error_is_left_out_unless_it_is_the_systems_or_the_logging_packages() -> (
    None
):
    assert describe(fail(OSError(28, SECRET))) == NO_SPACE
    assert re.fullmatch(
        rf"RuntimeError in {re.escape(__file__)}:\d+ fail", describe(fail(RuntimeError(SECRET)))
    )
    assert describe(fail(OSError(SECRET))).startswith("OSError in ")
    record = logging.LogRecord("name", logging.INFO, "", 0, "%d", ("text",), None)
    with pytest.raises(TypeError) as raised:
        record.getMessage()
    assert describe(raised.value) == f"TypeError: {raised.value}"
    assert describe(ValueError(SECRET)) == "ValueError"


# The handlers.


def raise_in_emit(_: logging.LogRecord) -> None:
    raise RuntimeError(SECRET)


class Raising(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise_in_emit(record)


class Catching(logging.Handler):
    """As the logging package asks for it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            raise_in_emit(record)
        except RuntimeError:
            self.handleError(record)


def raising_formatter() -> logging.Handler:
    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            raise KeyError(record.args)

    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(Formatter())
    return handler


def raising_filter() -> logging.Handler:
    def refuse(record: logging.LogRecord) -> bool:
        raise ValueError(record.args)

    handler = logging.StreamHandler(io.StringIO())
    handler.addFilter(refuse)
    return handler


BROKEN: list[Callable[[], logging.Handler]] = [
    Raising,
    Catching,
    raising_formatter,
    raising_filter,
    pytest.param(lambda: logging.FileHandler(FULL), id="full", marks=needs_full),  # type: ignore[list-item]  # a row with its marks
]


@pytest.mark.parametrize("make", BROKEN)
def test_a_broken_handler_raises_nothing_and_is_one_line_without_the_record(
    make: Callable[[], logging.Handler], guarded: Guarded, capsys: pytest.CaptureFixture[str]
) -> None:
    guarded.install(make())
    for _ in range(50):
        guarded.logger.info("%s", SECRET)
        try:
            raise ValueError(SECRET)
        except ValueError:
            guarded.logger.exception("Exception in the application")
    [line] = guarded.lines
    assert line.startswith("The log gunicorn.access has lost a line")
    assert SECRET not in line
    assert capsys.readouterr().err == ""
    guarded.clock.now += 60
    guarded.guard.tick()
    assert guarded.lines[1:] == [f"{line} (99 more in 60 s)"]


@pytest.mark.parametrize("make", BROKEN)
def test_nothing_is_said_where_the_logging_package_is_told_to_say_nothing(
    make: Callable[[], logging.Handler], guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    guarded.install(make())
    guarded.logger.info(SECRET)
    assert guarded.lines == []


def test_a_handle_error_of_the_applications_own_is_kept(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[logging.LogRecord] = []

    def handle_error(_: logging.Handler, record: logging.LogRecord) -> None:
        told.append(record)

    monkeypatch.setattr(logging.Handler, "handleError", handle_error)
    guarded.install(Catching())
    guarded.logger.info("a line")
    assert [record.msg for record in told] == ["a line"]
    assert guarded.lines == []


def test_a_handle_error_of_a_handler_class_is_kept(guarded: Guarded) -> None:
    told: list[logging.LogRecord] = []

    class Own(Catching):
        def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 # logging's name
            told.append(record)

    guarded.install(Own())
    guarded.logger.info("a line")
    assert len(told) == 1
    assert guarded.lines == []


def test_records_of_other_loggers_are_reported_as_without_the_worker(
    guarded: Guarded, capsys: pytest.CaptureFixture[str]
) -> None:
    guarded.install(logging.NullHandler())
    other = logging.Logger("shop")  # noqa: LOG001 # not kept
    other.addHandler(Catching())
    other.warning("a line")
    assert "--- Logging error ---" in capsys.readouterr().err
    assert guarded.lines == []


def test_a_broken_stderr_ends_nothing(guarded: Guarded) -> None:
    guarded.install(Raising())
    guarded.stderr.close()
    guarded.logger.info("a line")


# Files.


@needs_full
def test_lines_that_are_written_together_are_one_line_on_a_full_disk_and_come_again_after_it(
    guarded: Guarded, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    path.symlink_to(FULL)
    handler = logging.FileHandler(path)
    guarded.install(handler)
    writer = LineWriter(guarded.logger)
    for _ in range(5000):
        assert writer.is_usable()  # the guard does not count as a change of the logger
        writer.add(SECRET)
    assert guarded.lines == [f"The log gunicorn.access has lost a line in FileHandler: {NO_SPACE}"]
    path.unlink()

    def reopen() -> None:
        if handler.stream is not None:
            handler.close()
            handler.stream = handler._open()

    guarded.guard.reopen(reopen)
    writer.add("a line")
    guarded.logger.info("another")
    assert path.read_text() == "a line\nanother\n"


@needs_full
def test_a_file_that_cannot_be_closed_keeps_no_other_from_being_opened_again(
    guarded: Guarded,
) -> None:
    failing = [True, True, False]
    opened: list[int] = []

    def reopen_files() -> None:
        for number, fails in enumerate(failing):
            if fails:
                failing[number] = False
                raise OSError(28, "full")
        opened.append(1)

    guarded.guard.reopen(reopen_files)
    assert opened == [1]
    assert guarded.lines == [f"A log file could not be closed: {NO_SPACE}"]


@needs_full
def test_a_full_disk_is_no_error_at_the_start_of_a_worker() -> None:
    logger = logging.Logger("gunicorn.error")  # noqa: LOG001 # not kept
    handler = logging.FileHandler(FULL, encoding="ascii")
    handler.stream.write("waits")
    logger.addHandler(handler)
    tolerate_any_character(logger)
    assert handler.errors == "backslashreplace"
    with pytest.raises(OSError, match="No space"):
        handler.close()


# syslog and statsd.


def bind(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.settimeout(30)
    return sock


def test_a_syslog_that_is_gone_is_one_line_and_lines_arrive_when_it_is_back(
    guarded: Guarded, tmp_path: Path
) -> None:
    path = tmp_path / "syslog"
    with closing(bind(path)):
        guarded.install(logging.handlers.SysLogHandler(str(path)))
        guarded.logger.info("first")
    path.unlink()
    for _ in range(50):
        guarded.logger.info(SECRET)
    [line] = guarded.lines
    assert line.endswith(
        "UnixSysLogHandler: FileNotFoundError: [Errno 2] No such file or directory"
    )
    with closing(bind(path)) as sock:
        guarded.logger.info("last")
        assert b"last" in sock.recv(65536)


def test_a_syslog_that_does_not_read_holds_nobody_and_lines_arrive_after_a_pause(
    guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_failures, "SYSLOG_SECONDS", 0.01)
    path = tmp_path / "syslog"
    with closing(bind(path)) as sock:
        handler = logging.handlers.SysLogHandler(str(path))
        guarded.install(handler)
        for _ in range(5000):  # more than any queue
            guarded.logger.info("x" * 1000)
            if guarded.lines:
                break
        [line] = guarded.lines
        assert "TimeoutError" in line
        ends = vars(handler)["_pause_end"]
        assert ends > time.monotonic()
        sock.settimeout(0)
        with pytest.raises(BlockingIOError):
            while True:
                sock.recv(65536)
        guarded.logger.info("in the pause")
        with pytest.raises(BlockingIOError):
            sock.recv(65536)
        assert vars(handler)["_pause_end"] == ends  # lost lines do not make it longer
        vars(handler)["_pause_end"] = 0.0
        guarded.logger.info("after it")
        assert b"after it" in sock.recv(65536)


def test_a_statsd_that_is_gone_is_one_line_of_the_error_log_without_a_traceback(
    guarded: Guarded, tmp_path: Path
) -> None:
    path = tmp_path / "statsd"
    cfg = Config()
    cfg.set("statsd_host", f"unix://{path}")
    cfg.set("errorlog", None)
    note = io.StringIO()
    with closing(bind(path)):
        log = Statsd(cfg)
    log.error_log = guarded.logger
    guarded.install(logging.StreamHandler(note))
    with closing(log.sock):
        for _ in range(50):
            log.increment("requests", 1)
    first = (
        "Error sending message to statsd: ConnectionRefusedError: [Errno 111] Connection refused"
    )
    # A socket that was refused is not connected any more: that is another kind.
    assert note.getvalue().splitlines()[:1] == [first]
    assert note.getvalue().count("\n") <= 2


# A logger class.


def test_a_logger_class_that_raises_is_one_line_of_the_error_log_and_ends_no_exchange() -> None:
    class Own(Logger):  # type: ignore[misc]  # Gunicorn has no types
        def __init__(self, cfg: Config) -> None:
            self.cfg = cfg
            self.errors: list[str] = []

        def access(self, *_: object) -> None:
            raise RuntimeError(SECRET)

        def error(self, message: str, *args: object) -> None:
            self.errors.append(message % args)

    log = Own(Config())
    log.error_log = logging.getLogger("gunicorn.error")
    access = make_access(log)
    for _ in range(5):
        access.end(Record("GET", b"/", b"", "1.1", "http", [], None, None), 200, 0)
    [line] = log.errors
    assert line.startswith("The access log has lost a line, since its logger raised: RuntimeError")
    assert SECRET not in line


# A handler that blocks.


def test_the_handler_that_blocks_the_loop_is_found_in_the_stack() -> None:
    found: list[Any] = []

    class Blocking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            import sys

            calls, _ = stacks.read_stack(sys._getframe())
            found.append(stacks.find_log_handler(calls))

    logger = logging.Logger("gunicorn.access")  # noqa: LOG001 # not kept
    handler = Blocking()
    logger.addHandler(handler)
    logger.warning("a line")
    assert found == [handler]


@pytest.mark.gunicorn
@pytest.mark.parametrize("log", ["access_log", "error_log"])
def test_the_warning_of_a_blocked_loop_names_the_log_handler_that_blocks(
    tmp_path: Path, log: str
) -> None:
    """If that is a handler of the error log, the warning is written past it, to the log's file."""
    with (
        Gunicorn(
            tmp_path,
            accesslog=str(tmp_path / "access.log"),
            timeout=3600,
            options={"stall_warning": 0.2},
            config=f"""
def post_worker_init(worker):
    import loggers
    worker.log.{log}.handlers.insert(0, loggers.BlockingHandler())
""",
        ) as server,
        server.connect() as client,
    ):
        client.get("/error")
        server.wait_for(
            r"\[WARNING\] The event loop has not turned for .*, in the log handler BlockingHandler\."
        )


# A running Gunicorn.


def worker_lines(server: Gunicorn) -> list[str]:
    """What workers have said on stderr about their log, without their pid."""
    found = re.findall(r"^gunicorn_asgi, worker \d+: (.*)$", server.output, re.MULTILINE)
    return [str(line) for line in found]


@needs_full
@pytest.mark.gunicorn
@pytest.mark.smoke
def test_a_full_disk_costs_no_request_and_a_line_for_each_log(tmp_path: Path) -> None:
    """Until there is room again, and the files are opened again."""
    logs = {name: tmp_path / f"full.{name}" for name in ("access", "error")}
    for path in logs.values():
        path.symlink_to(FULL)
    with Gunicorn(
        tmp_path,
        bind=f"unix:{tmp_path}/socket",
        accesslog=str(logs["access"]),
        errorlog=str(logs["error"]),
        access_log_format="%({authorization}i)s",
        wait=False,
    ) as server:
        poll(lambda: listens(tmp_path / "socket"), "the socket")
        headers = {"Authorization": SECRET}
        with server.client() as client:
            for _ in range(5):
                assert client.get("/hello", headers=headers).status_code == 200
                assert client.get("/error", headers=headers).status_code == 500
            poll(lambda: len(worker_lines(server)) >= 2, "the lines about the logs")
            assert sorted(worker_lines(server)) == [
                f"The log gunicorn.{name} has lost a line in FileHandler: {NO_SPACE}"
                for name in ("access", "error")
            ]
            assert SECRET not in server.output
            for path in logs.values():
                path.unlink()
            # The worker alone: Gunicorn's master does not survive a file that cannot be closed.
            os.kill(int(client.get("/pid").text), signal.SIGUSR1)

            def are_written() -> bool:
                assert client.get("/error", headers=headers).status_code == 500
                return all(path.exists() and path.read_text() for path in logs.values())

            poll(are_written, "lines in the new files")
        poll(lambda: SECRET in logs["access"].read_text(), "the line of a request with the field")
        poll(lambda: "Traceback" in logs["error"].read_text(), "the traceback")
        assert server.stop() == 0
        assert SECRET not in server.output


@pytest.mark.gunicorn
def test_a_handler_that_raises_costs_no_request_and_a_line_for_each_log(tmp_path: Path) -> None:
    raising = {"class": "loggers.RaisingHandler"}
    logger = {"level": "INFO", "handlers": ["raising"], "propagate": False}
    with Gunicorn(
        tmp_path,
        bind=f"unix:{tmp_path}/socket",
        logconfig_dict={
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"raising": raising},
            "root": {"handlers": []},
            "loggers": {"gunicorn.access": logger},
        },
        # Of the error log only in the worker: the master does not survive it.
        config="""
def post_fork(server, worker):
    import loggers
    worker.log.error_log.addHandler(loggers.RaisingHandler())
""",
    ) as server:
        with server.client() as client:
            for _ in range(5):
                headers = {"Authorization": SECRET}
                assert client.get("/hello", headers=headers).status_code == 200
                assert client.get("/error", headers=headers).status_code == 500
        assert server.stop() == 0
        lines = worker_lines(server)
        first = [line for line in lines if " more in " not in line]
        assert len(first) == 2
        assert all("since a handler or filter raised: RuntimeError in " in line for line in first)
        assert SECRET not in server.output
