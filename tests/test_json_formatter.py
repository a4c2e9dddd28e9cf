"""The JSON formatter (`gunicorn_asgi.observe.json_formatter`): one line of JSON, whatever is in it.

tests/test_access_log.py has the configuration of the documentation in a running Gunicorn.
"""

from __future__ import annotations

import json
import logging
import logging.config
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import pytest
from conftest import examples
from gunicorn.config import Config
from gunicorn.glogging import Logger, SafeAtoms
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gunicorn_asgi
from gunicorn_asgi import JSONFormatter
from gunicorn_asgi.observe.atoms import Atoms
from gunicorn_asgi.observe.printable import printable
from gunicorn_asgi.observe.record import LoggedResponse, Record, make_environ

STANDARD = {"time", "level", "logger", "pid"}


def refuse(text: str) -> Any:
    raise AssertionError(f"{text} is not JSON")


def read(line: str) -> dict[str, Any]:
    """The object in `line`, as a strict reader reads it."""
    assert line.isascii()
    assert line.isprintable()
    entry = json.loads(line, parse_constant=refuse)
    assert isinstance(entry, dict)
    json.dumps(entry, ensure_ascii=False).encode()  # no half of a surrogate pair
    return entry


def make_log_record(message: str, *args: Any, name: str = "gunicorn.error", **more: Any) -> Any:
    return logging.LogRecord(name, logging.INFO, "path", 1, message, args, None, **more)


def line_of(atoms: Mapping[str, Any], formatter: logging.Formatter | None = None) -> str:
    record = make_log_record("%(r)s", atoms, name="gunicorn.access")
    return (formatter or JSONFormatter()).format(record)


@pytest.fixture(scope="module")
def log() -> Iterator[Logger]:
    log = Logger(Config())
    yield log
    for handler in log.error_log.handlers[:]:
        log.error_log.removeHandler(handler)
        handler.close()


EXCHANGE = Record(
    "GET",
    b"/a%20b/%C3%A9",
    b'c="d"\\',
    "1.1",
    "https",
    [
        (b"host", b"example.org:8000"),
        (b"authorization", b"Basic dXNlcjpwYXNz"),
        (b"user-agent", b'me "1.0" \\"\\\\" \xe9\t\\'),
        (b"x-request-id", b"17"),
        (b"x-request-start", b"t=0"),
    ],
    ("10.0.0.1", 5),
    ("127.0.0.1", 8000),
    None,
    ("192.0.2.1", 0),
    True,
)
RESPONSE = LoggedResponse(404, [(b"x-answer", b'"42"')], 12, 1.234567)
EXPECTED = {
    "client": "192.0.2.1",
    "peer": "10.0.0.1",
    "user": "user",
    "method": "GET",
    "scheme": "https",
    "host": "example.org:8000",
    "path": "/a b/é",
    "query": 'c="d"\\',
    "protocol": "HTTP/1.1",
    "status": 404,
    "bytes": 12,
    "duration_us": 1234567,
    "wait_us": None,
    "referer": None,
    "user_agent": 'me "1.0" \\"\\\\" é\\x09\\',
    "request_id": "17",
}


def stock_atoms(log: Logger, exchange: Record = EXCHANGE) -> Mapping[str, Any]:
    """Gunicorn's own, without the wrapper that escapes quotation marks."""
    environ = make_environ(exchange)
    atoms: Mapping[str, Any] = log.atoms(RESPONSE, exchange, environ, RESPONSE.duration)
    return atoms


def filled_atoms(log: Logger) -> Atoms:
    """As a filter leaves them."""
    atoms = Atoms(log, EXCHANGE, RESPONSE)
    atoms["own"] = 'a "b"'
    return atoms


MAPPINGS: dict[str, Callable[[Logger], Mapping[str, Any]]] = {
    "atoms": lambda log: Atoms(log, EXCHANGE, RESPONSE),
    "filled atoms": filled_atoms,
    "Gunicorn's": lambda log: SafeAtoms(stock_atoms(log)),
    "plain": stock_atoms,
}


@pytest.mark.parametrize("kind", MAPPINGS)
def test_an_exchange_has_the_same_fields_whatever_mapping_its_atoms_are_in(
    kind: str, log: Logger
) -> None:
    entry = read(line_of(MAPPINGS[kind](log)))
    assert entry.pop("level") == "INFO"
    assert entry.pop("logger") == "gunicorn.access"
    assert entry.pop("pid") > 0
    assert entry.pop("time")
    assert entry == EXPECTED


def test_fields_come_in_the_order_that_readers_look_for_them(log: Logger) -> None:
    names = list(read(line_of(Atoms(log, EXCHANGE, RESPONSE))))
    assert names == ["time", "level", "logger", "pid", *JSONFormatter.FIELDS]


def test_an_atom_costs_nothing_unless_a_field_asks_for_it(log: Logger) -> None:
    atoms = Atoms(log, EXCHANGE, RESPONSE)
    line_of(atoms)
    assert not atoms._is_filled


def test_fields_can_be_chosen(log: Logger) -> None:
    fields = {
        "seconds": "L",
        "trace": "{X-Request-ID}i",
        "answer": "{x-answer}o",
        "message": "r",
        "nothing": "own",
        "day": "t",
        "process": "p",
    }
    entry = read(line_of(Atoms(log, EXCHANGE, RESPONSE), JSONFormatter(fields=fields)))
    day, process = entry.pop("day"), entry.pop("process")
    assert day.startswith("[")
    assert process.startswith("<")
    assert {name: value for name, value in entry.items() if name not in STANDARD} == {
        "seconds": 1.234567,
        "trace": "17",
        "answer": '"42"',
        "message": 'GET /a%20b/%C3%A9?c="d"\\ HTTP/1.1',
        "nothing": None,
    }
    own = read(line_of(filled_atoms(log), JSONFormatter(fields={"own": "own"})))
    assert own["own"] == 'a "b"'
    assert set(read(line_of(Atoms(log, EXCHANGE, RESPONSE), JSONFormatter(fields={})))) == STANDARD


@pytest.mark.parametrize("atom", ["%(h)s", "", None, 1])
def test_a_field_that_is_no_atom_is_refused_with_one_sentence(atom: Any) -> None:
    with pytest.raises(ValueError, match="Invalid field 'client' of gunicorn_asgi"):
        JSONFormatter(fields={"client": atom})


@pytest.mark.parametrize("status", ["anonymous", "1e5", "1.2.3", "٣", "1" * 5000, "nan", "-1"])
def test_a_numeric_atom_that_a_filter_has_made_a_text_stays_one(status: str, log: Logger) -> None:
    atoms = Atoms(log, EXCHANGE, RESPONSE)
    atoms["s"] = status
    assert read(line_of(atoms))["status"] == status


LOOPED: list[Any] = []
LOOPED.append(LOOPED)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (LOOPED, "[[...]]"),
        (b"\xff", "b'\\xff'"),
        ("\ud800", "\\ud800"),
        (["\ud800"], "['\\ud800']"),
        (0.5, 0.5),
        (True, True),
        ([1, "a"], [1, "a"]),
    ],
)
def test_a_value_that_json_does_not_have_is_a_text(value: Any, expected: Any, log: Logger) -> None:
    atoms = filled_atoms(log)
    atoms["h"] = value
    entry = read(line_of(atoms))
    assert entry["peer"] == expected
    assert (entry["method"], entry["status"]) == ("GET", 404)


TEXT = st.text(st.characters(exclude_categories=[])) | st.sampled_from(
    [
        *(
            "\\",
            '"',
            '\\"',
            '"\\',
            '\\\\"',
            "\n",
            "\r\n",
            "\u2028\u2029\x85\x0b\x0c\x1c",
            "\x00\x7f",
        ),
        *("\ud800", "\udc80", "\ude00\ud83d", "😀", "\\ud800", "</script>", "é", "-", ""),
    ]
)


@settings(max_examples=examples(100), deadline=None)
@given(st.binary(), st.binary(), TEXT)
@example(b"\\", b"\x00\n\r\x85\xff", "\ud800")
@example(b'"' * 100_000, b"\\" * 100_000, "\n" * 100_000)
def test_any_bytes_of_a_client_are_one_line_of_json_that_reads_as_they_are_printed(
    value: bytes, target: bytes, method: str
) -> None:
    log = Logger.__new__(Logger)  # it is only asked for the user, and there is none
    headers = [(b"user-agent", value), (b"host", target)]
    record = Record(method, target, value, "1.1", "http", headers, None, None)
    entry = read(line_of(Atoms(log, record, RESPONSE)))
    values = {"user_agent": value, "host": target, "query": value, "method": method}
    for name, given_ in values.items():
        text = printable(given_)
        assert entry[name] == (None if text == "-" else text)


@settings(max_examples=examples(100), deadline=None)
@given(st.dictionaries(TEXT, TEXT, max_size=5), st.booleans())
def test_any_atoms_of_another_logger_are_one_line_of_json(
    atoms: dict[str, str], is_wrapped: bool
) -> None:
    atoms = {"s": "200", **atoms}
    fields = {
        f"field {number}": name for number, name in enumerate(atoms) if name and "%" not in name
    }
    line = line_of(SafeAtoms(atoms) if is_wrapped else atoms, JSONFormatter(fields=fields))
    entry = read(line)
    for field, name in fields.items():
        if name == "s" or name.startswith("{"):
            continue
        expected = atoms[name].encode("utf-8", "backslashreplace").decode()
        assert entry[field] == (None if expected == "-" else expected)


# All other records.


@settings(max_examples=examples(100), deadline=None)
@given(TEXT, TEXT)
@example('\\"\ud800\n' * 30_000, "")
def test_any_message_is_one_line_of_json(message: str, argument: str) -> None:
    entry = read(JSONFormatter().format(make_log_record("%s%s", message, argument)))
    assert set(entry) == STANDARD | {"message"}
    whole = f"{message}{argument}"
    assert entry["message"] == whole.encode("utf-8", "backslashreplace").decode()


def test_the_time_is_that_of_the_record_with_microseconds_and_zone() -> None:
    record = make_log_record("a")
    for created in (1_800_000_000.0, 1_800_000_000.000001, 1_800_000_000.999999):
        record.created = created
        text = read(JSONFormatter().format(record))["time"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", text)
        assert datetime.fromisoformat(text).timestamp() == created


def test_a_record_has_its_traceback_and_its_stack_as_logging_writes_them() -> None:
    try:
        raise ValueError("\ud800 of\na test")
    except ValueError:
        record = make_log_record("failed", sinfo="Stack\n  here")
        record.exc_info = sys.exc_info()
    entry = read(JSONFormatter().format(record))
    assert entry["message"] == "failed"
    assert entry["exception"].startswith("Traceback (most recent call last):\n")
    assert entry["exception"].endswith("\nValueError: \\ud800 of\na test")
    assert entry["stack"] == "Stack\n  here"


def test_a_traceback_that_another_formatter_has_written_is_kept() -> None:
    record = make_log_record("failed")
    record.exc_text = "in short"
    assert read(JSONFormatter().format(record))["exception"] == "in short"


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("gunicorn.access", ("x",), "a x"),
        ("shop", ("x",), "a x"),
        ("shop", ({"s": "200"},), "a {'s': '200'}"),
    ],
)
def test_a_record_that_is_no_exchange_has_its_message(name: str, args: Any, message: str) -> None:
    entry = read(JSONFormatter().format(make_log_record("a %s", *args, name=name)))
    assert (entry["logger"], entry["message"]) == (name, message)


# How it is named in a configuration.


def test_the_package_has_it() -> None:
    assert gunicorn_asgi.JSONFormatter is JSONFormatter
    assert "JSONFormatter" in gunicorn_asgi.__all__


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ({"()": "gunicorn_asgi.JSONFormatter"}, JSONFormatter.FIELDS),
        ({"()": "gunicorn_asgi.JSONFormatter", "fields": {"a": "h"}}, {"a": "h"}),
        ({"class": "gunicorn_asgi.JSONFormatter"}, JSONFormatter.FIELDS),
        ({"class": "gunicorn_asgi.JSONFormatter", "format": "%(message)s"}, JSONFormatter.FIELDS),
    ],
)
def test_the_logging_package_can_make_it(
    config: dict[str, Any], fields: Mapping[str, str], log: Logger
) -> None:
    formatter = logging.config.DictConfigurator({"version": 1}).configure_formatter(config)
    assert isinstance(formatter, JSONFormatter)
    entry = read(line_of(Atoms(log, EXCHANGE, RESPONSE), formatter))
    assert set(entry) == STANDARD | set(fields)


def test_it_can_be_named_in_the_file_of_logconfig() -> None:
    JSONFormatter(None, None, "%", defaults=None)  # as logging.config.fileConfig makes it


def test_the_time_has_the_name_that_is_asked_for() -> None:
    formatter = JSONFormatter(time_name="timestamp")
    entry = read(formatter.format(make_log_record("up")))
    assert set(entry) == {"timestamp", "level", "logger", "pid", "message"}
    assert next(iter(entry)) == "timestamp"
    assert datetime.fromisoformat(entry["timestamp"]).tzinfo is not None
