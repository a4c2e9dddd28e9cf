"""The short way of a line of the access log: a compiled format, and one write for the lines of a turn.

It is taken where nobody could tell it from the way by the logging package. See
`gunicorn_asgi.observe.access_format` and `gunicorn_asgi.observe.line_writer`.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accesslog import FORMAT, Lines
from costs import count_calls
from gunicorn.config import Config
from gunicorn.glogging import Logger
from process import Gunicorn

from gunicorn_asgi.observe.access_format import compile_format
from gunicorn_asgi.observe.access_log import Access
from gunicorn_asgi.observe.atoms import ATOMS, Atoms
from gunicorn_asgi.observe.line_writer import MAX_LINES, MAX_WRITE, LineWriter
from gunicorn_asgi.observe.record import LoggedResponse, Record

# The format.


def make_record(path: bytes = b"/a", headers: Any = ()) -> Record:
    return Record("GET", path, b"", "1.1", "http", list(headers), ("10.0.0.1", 5), None)


EXCHANGES = [
    (make_record(), LoggedResponse(200, [(b"x-one", b'"1"')], 12, 1.234567)),
    (
        Record(
            "POST",
            b'/"\x85',
            b"a=%22",
            "1.0",
            "https",
            [(b"referer", b'"a"'), (b"x-one", b"1"), (b"x-one", b'2"'), (b"user-agent", b"\xe9")],
            None,
            None,
        ),
        LoggedResponse(599, [], 1 << 40, 86400.5),
    ),
]
FORMATS = [
    '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"',
    " ".join(f"%({name})s" for name in ATOMS),
    FORMAT,
    "",
    "static",
    "100%% of %(m)s%%",
    "%(m)10s|%(m)-10s|%(m).2s|%(m)r|%(m)a",
    "%(T)d %(D)08d %(B)x %(L)5.3s %(M)+d %(D).2f %(B)lu",
    "%(X-ONE)s %({X-ONE}i)s %({x-one}o)s %({Request_Method}e)s %({'\"\\}i)s %()s",
]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Logger]:
    """Gunicorn's logger with an access log in a file, and nothing that it leaves behind."""
    cfg = Config()
    cfg.set("accesslog", str(tmp_path / "access.log"))
    cfg.set("access_log_format", "%(U)s")
    log = Logger(cfg)
    # Another than Gunicorn's, to which pytest adds handlers of its own.
    shared = log.access_log
    log.access_log = logging.Logger("gunicorn.access", logging.INFO)  # noqa: LOG001 # not kept
    log.access_log.propagate = False
    log.access_log.addHandler(own_handler(shared))
    yield log
    for logger in (log.error_log, log.access_log, shared):
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()


def own_handler(logger: logging.Logger) -> logging.Handler:
    [handler] = [each for each in logger.handlers if getattr(each, "_gunicorn", False)]
    return handler


@pytest.mark.parametrize("text", FORMATS)
def test_a_compiled_format_makes_the_line_that_the_logging_package_makes(
    text: str, log: Logger
) -> None:
    make_line = compile_format(text, log)
    assert make_line is not None
    for record, response in EXCHANGES:
        before, line, after = (
            text % Atoms(log, record, response),
            make_line(record, response),
            text % Atoms(log, record, response),
        )
        assert line in (before, after)  # the second may have changed


@pytest.mark.parametrize("name", ["{client_addr}e", "{Client_Addr}e", "{wsgi.url_scheme}e"])
def test_a_usual_variable_costs_no_more_than_the_address_of_the_peer(
    name: str, log: Logger
) -> None:
    """No environ is made for it."""

    def count(text: str) -> int:
        make_line = compile_format(text, log)
        assert make_line is not None
        return count_calls(lambda: make_line(*EXCHANGES[0]))

    assert count(f"%({name})s") <= count("%(h)s")


@pytest.mark.parametrize("text", ["%(m)d", "%(B)c"])
def test_a_compiled_format_raises_what_the_logging_package_raises(text: str, log: Logger) -> None:
    make_line = compile_format(text, log)
    assert make_line is not None
    record, response = EXCHANGES[1]
    with pytest.raises((TypeError, OverflowError)) as expected:
        assert text % Atoms(log, record, response)
    with pytest.raises(expected.type, match=re.escape(str(expected.value))):
        make_line(record, response)


@pytest.mark.parametrize("text", ["%s", "100%", "%(m", "%(m)", "%(a(b))s", "%(m)*d", "%(m)%", "%("])
def test_a_format_with_another_percent_sign_is_left_to_the_logging_package(
    text: str, log: Logger
) -> None:
    assert compile_format(text, log) is None


def test_the_time_of_another_logger_class_is_asked_for_each_line(log: Logger) -> None:
    class Counting(Logger):  # type: ignore[misc]
        calls = 0

        def now(self) -> str:
            self.calls += 1
            return f'[{self.calls}"]'

    counting = Counting(log.cfg)
    make_line = compile_format("%(t)s %(t)s", counting)
    assert make_line is not None
    assert make_line(*EXCHANGES[0]) == '[1\\"] [2\\"]'


# The writing.


class Site:
    """An access log in a file, whose exchanges end when a test says so."""

    def __init__(self, log: Logger) -> None:
        self.log = log
        self.logger: logging.Logger = log.access_log
        [self.handler] = self.logger.handlers
        self.path = Path(log.cfg.accesslog)
        self.access = Access(SimpleNamespace(cfg=log.cfg, log=log))  # type: ignore[arg-type]

    def end(self, path: str) -> None:
        self.access.end(make_record(path.encode()), 200, 0)

    def text(self) -> str:
        return self.path.read_text()

    def run(self, turn: Callable[[], object]) -> None:
        """Call `turn` in a turn of a loop, and run the loop for the next turn."""

        async def main() -> None:
            turn()
            await asyncio.sleep(0)

        asyncio.run(main())


@pytest.fixture
def site(log: Logger) -> Site:
    return Site(log)


def make_known(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `site` have the logger of its name. Earlier, pytest would add handlers to it."""
    monkeypatch.setitem(logging.root.manager.loggerDict, site.logger.name, site.logger)


class Writes(io.RawIOBase):
    """A file that keeps each write by itself."""

    def __init__(self) -> None:
        self.each: list[bytes] = []
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.error is not None:
            raise self.error
        self.each.append(bytes(data))
        return len(data)


def watch_writes(site: Site, **how: Any) -> Writes:
    """Let the handler of `site` write to the object that is returned."""
    assert isinstance(site.handler, logging.FileHandler)
    site.handler.stream.close()
    writes = Writes()
    site.handler.stream = io.TextIOWrapper(io.BufferedWriter(writes), **how)
    return writes


def test_lines_of_a_turn_are_one_write_in_the_next_turn_and_in_order(site: Site) -> None:
    writes = watch_writes(site)

    def turn() -> None:
        for number in range(20):
            site.end(f"/{number}")
        assert not writes.each

    site.run(turn)
    assert writes.each == [b"".join(b"/%d\n" % number for number in range(20))]
    site.run(lambda: site.end("/later"))
    assert writes.each[1:] == [b"/later\n"]


def test_lines_that_wait_have_a_bound(site: Site) -> None:
    def turn() -> None:
        for _ in range(MAX_LINES - 1):
            site.end("/")
        assert site.text() == ""
        site.end("/")
        assert site.text() == "/\n" * MAX_LINES

    site.run(turn)
    assert site.text() == "/\n" * MAX_LINES


def test_a_line_is_written_at_once_where_no_loop_runs(site: Site) -> None:
    site.end("/a")
    assert site.text() == "/a\n"


@pytest.mark.parametrize("letter", ["a", "é", "日"])
def test_a_write_has_whole_lines_and_no_more_than_a_pipe_takes_at_once(
    letter: str, site: Site
) -> None:
    writes = watch_writes(site, encoding="ascii", errors="backslashreplace")
    writer = LineWriter(site.logger)
    assert writer.is_usable()
    lines = [f"{number} {letter * (number % 70)}" for number in range(300)]
    long = "x" * 2 * MAX_WRITE

    def turn() -> None:
        for line in [*lines, long, "last"]:
            writer.add(line)

    site.run(turn)
    expected = "".join(f"{line}\n" for line in [*lines, long, "last"])
    assert b"".join(writes.each) == expected.encode("ascii", "backslashreplace")
    whole = [write for write in writes.each if b"xx" not in write]
    assert len(whole) < 60
    for write in whole:
        assert write.endswith(b"\n")
        assert len(write) <= select.PIPE_BUF


class Note(logging.Handler):
    """Keeps the records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class OwnFormatter(logging.Formatter):
    pass


def add_filter(site: Site) -> None:
    site.logger.addFilter(lambda record: bool(record.args["m"]))


def filter_handler(site: Site) -> None:
    site.handler.addFilter(lambda record: bool(record.args["m"]))


def add_handler(site: Site) -> None:
    site.logger.addHandler(Note())


def own_formatter(site: Site) -> None:
    site.handler.setFormatter(OwnFormatter())


def format_with_attribute_of_a_filter(site: Site) -> None:
    def add(record: logging.LogRecord) -> bool:
        record.added = "x"
        return True

    site.handler.addFilter(add)
    site.handler.setFormatter(logging.Formatter("%(message)s%(added).0s"))


def set_factory(site: Site) -> None:
    class Own(logging.LogRecord):
        pass

    logging.setLogRecordFactory(Own)


def own_emit(site: Site) -> None:
    site.handler.emit = logging.FileHandler.emit.__get__(site.handler)  # type: ignore[method-assign]


def propagate(site: Site) -> None:
    site.logger.propagate = True


def own_stream(site: Site) -> None:
    class Stream(io.TextIOWrapper):
        pass

    assert isinstance(site.handler, logging.FileHandler)
    site.handler.stream.close()
    site.handler.stream = Stream(site.path.open("wb"))


def own_class(site: Site) -> None:
    class Own(logging.FileHandler):
        pass

    site.logger.removeHandler(site.handler)
    site.handler.close()
    site.logger.addHandler(Own(site.path))


def patch_class(site: Site) -> None:
    original = logging.Logger.callHandlers

    def call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
        original(self, record)

    logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]


CHANGES = [
    add_filter,
    filter_handler,
    add_handler,
    own_formatter,
    format_with_attribute_of_a_filter,
    set_factory,
    own_emit,
    propagate,
    own_stream,
    own_class,
    patch_class,
]


@pytest.fixture
def restored() -> Iterator[None]:
    factory, call_handlers = logging.getLogRecordFactory(), logging.Logger.callHandlers
    yield
    logging.setLogRecordFactory(factory)
    logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_the_logging_package_may_do_with_a_record_is_left_to_it_at_once(
    change: Callable[[Site], None], site: Site
) -> None:
    change(site)

    def turn() -> None:
        for number in range(3):
            site.end(f"/{number}")
            # Written without a further turn: not by the short way.
            assert site.text().endswith(f"/{number}\n")

    site.run(turn)
    assert site.text() == "/0\n/1\n/2\n"


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    "change", [add_filter, filter_handler, add_handler, own_formatter, set_factory]
)
def test_a_change_of_a_logger_in_use_counts_from_the_next_turn_on(
    change: Callable[[Site], None], site: Site
) -> None:
    site.run(lambda: site.end("/before"))
    change(site)

    def turn() -> None:
        site.end("/after")
        assert site.text() == "/before\n/after\n"

    site.run(turn)


def test_lines_of_both_ways_stay_in_order(site: Site) -> None:
    def turn() -> None:
        site.end("/0")
        # A line that the format cannot make is the logging package's.
        site.access.end(make_record(b"/1\xff", [(b"x", b"")]), 200, 0)
        site.logger.addHandler(Note())
        site.end("/2")

    async def main() -> None:
        turn()
        await asyncio.sleep(0)
        site.end("/3")
        assert site.text().splitlines()[-1] == "/3"

    asyncio.run(main())
    assert [line[:2] for line in site.text().splitlines()] == ["/0", "/1", "/2", "/3"]


@pytest.mark.parametrize(
    "silence",
    [
        lambda site: site.logger.setLevel(logging.WARNING),
        lambda site: site.handler.setLevel(logging.WARNING),
        lambda site: setattr(site.logger, "disabled", True),
        lambda site: logging.disable(logging.INFO),
    ],
)
def test_a_silent_logger_writes_nothing(
    silence: Callable[[Site], None], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_known(site, monkeypatch)
    site.run(lambda: site.end("/before"))
    silence(site)
    try:
        site.run(lambda: site.end("/after"))
    finally:
        logging.disable(logging.NOTSET)
    assert site.text() == "/before\n"


@pytest.mark.parametrize("text", ["%(m)d", "%(U)s"])
def test_a_format_that_fails_costs_only_its_own_line(
    text: str, log: Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    log.cfg.set("access_log_format", text)
    site = Site(log)
    site.run(lambda: (site.end("/0"), site.end("/1")))
    failed = text == "%(m)d"
    assert site.text() == ("" if failed else "/0\n/1\n")
    assert capsys.readouterr().err.count("--- Logging error ---") == 2 * failed


def test_a_full_disk_is_reported_as_by_the_handler_and_costs_no_later_line(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    writes = watch_writes(site)
    site.run(lambda: site.end("/0"))
    writes.error = OSError(28, "No space left on device")
    site.run(lambda: (site.end("/1"), site.end("/2")))
    error = capsys.readouterr().err
    assert error.count("--- Logging error ---") == 1
    assert "No space left on device" in error
    writes.error = None
    site.run(lambda: site.end("/3"))
    assert writes.each[0] == b"/0\n"
    assert writes.each[-1].endswith(b"/3\n")


def test_nothing_is_reported_where_logging_reports_nothing(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    writes = watch_writes(site)
    writes.error = OSError(28, "No space left on device")
    site.run(lambda: site.end("/1"))
    assert capsys.readouterr().err == ""
    writes.error = None


def test_a_character_without_an_encoding_costs_only_its_own_line(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    writes = watch_writes(site, encoding="ascii", errors="strict")
    site.run(lambda: [site.end(path) for path in ("/0", "/%C3%A9", "/2")])
    assert b"".join(writes.each) == b"/0\n/2\n"
    assert capsys.readouterr().err.count("--- Logging error ---") == 1


def test_lines_that_wait_go_to_a_file_that_is_opened_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_known(site, monkeypatch)
    old = site.path.with_suffix(".1")

    def turn() -> None:
        site.end("/0")
        site.path.rename(old)
        site.log.reopen_files()
        site.end("/1")

    site.run(turn)
    assert site.text() == "/0\n/1\n"
    assert old.read_text() == ""


def test_lines_that_wait_are_not_lost_with_their_handler(site: Site) -> None:
    def turn() -> None:
        site.end("/0")
        site.logger.removeHandler(site.handler)
        site.handler.close()

    site.run(turn)
    assert site.text() == "/0\n"
    site.handler.close()


def test_lines_that_wait_are_the_parents_after_a_fork(site: Site) -> None:
    async def main() -> None:
        site.end("/0")
        child = os.fork()
        if not child:
            site.access.flush()
            os._exit(0)
        os.waitpid(child, 0)
        assert site.text() == ""
        await asyncio.sleep(0)

    asyncio.run(main())
    assert site.text() == "/0\n"


# A running Gunicorn.


# In each, the line of the request waits for a turn of the loop that never comes, or comes last.
ENDS = {
    "sys.exit": "    sys.exit(7)\n",
    "os.kill": "    os.kill(os.getpid(), signal.SIGTERM)\n",
    "loop.stop": "    asyncio.get_running_loop().stop()\n    sys.exit(7)\n",
}
APP = """
import asyncio, os, signal, sys, time
from events import note

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})
"""


@contextmanager
def serve_once(directory: Path, end: str) -> Iterator[Gunicorn]:
    """Have a request end with the code `end`, which follows its response."""
    (directory / "ending.py").write_text(APP + end)
    with (
        Gunicorn(
            directory,
            "ending:app",
            chdir=str(directory),
            accesslog=str(directory / "access.log"),
            access_log_format="%(r)s",
        ) as server,
        server.connect() as client,
    ):
        client.get("/last")
        yield server


@pytest.mark.gunicorn
@pytest.mark.parametrize("end", ENDS)
def test_a_line_is_written_before_its_worker_exits(tmp_path: Path, end: str) -> None:
    with serve_once(tmp_path, ENDS[end]) as server:
        server.wait_for("on Gunicorn", 2)  # the next worker
        assert (tmp_path / "access.log").read_text() == "GET /last HTTP/1.1\n"


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_a_line_is_written_at_abrt_where_the_loop_never_turns_again(tmp_path: Path) -> None:
    end = """
    note("blocked")
    while True:
        try:
            time.sleep(3600)
        except BaseException:
            pass
"""
    with serve_once(tmp_path, end) as server:
        server.wait_for_event("blocked")
        assert (tmp_path / "access.log").read_text() == ""
        os.kill(server.workers()[0], signal.SIGABRT)
        server.wait_for("on Gunicorn", 2)
        assert (tmp_path / "access.log").read_text() == "GET /last HTTP/1.1\n"


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_lines_are_in_the_file_when_a_worker_has_ended(tmp_path: Path) -> None:
    with Gunicorn(
        tmp_path, accesslog=str(tmp_path / "access.log"), access_log_format=FORMAT
    ) as server:
        for number in range(5):
            server.get(f"/hello?end={number}")
        assert server.stop() == 0
        assert [line["q"] for line in Lines(server).all()] == [f"end={each}" for each in range(5)]
