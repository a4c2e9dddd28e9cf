"""docs/security.md says what is so: each limit with its default and unit, each constant, and whom the worker trusts."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from gunicorn.config import Config

from gunicorn_asgi.config.gunicorn_settings import SETTING_ROWS, GunicornSettings
from gunicorn_asgi.config.options import OPTION_ROWS

PAGE = (Path(__file__).parent.parent / "docs" / "security.md").read_text()
NO_LIMITS = {
    # Delays of a shutdown.
    "lame_duck",
    "stream_drain_delay",
    "ws_drain_delay",
    "stop_delay",
    # The ends of workers.
    "max_lifetime",
    "max_lifetime_jitter",
    "max_rss",
    "max_rss_jitter",
    # Say something, and end nothing.
    "stall_warning",
    "statsd_interval",
    # A number of processes.
    "workers",
}
"""Options and settings with a number that bounds nothing of a client."""


def table(name: str) -> list[list[str]]:
    """The cells of a table between its marks, without the head."""
    found = re.search(rf"<!-- {name}: begin.*?-->\n(.*?)<!-- {name}: end -->", PAGE, re.DOTALL)
    assert found is not None
    return [line.strip("| ").split(" | ") for line in found[1].splitlines()[2:]]


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def limits() -> dict[str, tuple[str, bool]]:
    """Every setting and option that is a number: its default, and whether it is in seconds."""
    settings = Config().settings
    found: dict[str, Any] = {}
    for attribute, option in OPTION_ROWS.items():
        found[option.name] = option.default, attribute.endswith("_s")
    for attribute, row in SETTING_ROWS.items():
        default = row.stand_in.default if row.stand_in is not None else row.default
        value = settings[row.name].default if row.name in settings else default
        found[row.name] = value, attribute.endswith("_s")
    found["timeout"] = settings["timeout"].default, True  # read by Gunicorn's own worker
    return {
        name: (str(value), in_seconds)
        for name, (value, in_seconds) in found.items()
        if is_number(value) and name not in NO_LIMITS
    }


def test_every_limit_is_in_the_table_with_its_default() -> None:
    rows = table("limits")
    expected = limits()
    names = [cells[0].strip("`") for cells in rows]
    assert len(names) == len(set(names))
    assert not set(expected) - set(names), "missing in the table of limits in docs/security.md"
    assert not set(names) - set(expected), "in the table of limits, and no limit of the code"
    assert {cells[0].strip("`"): cells[1] for cells in rows} == {
        name: default for name, (default, _) in expected.items()
    }


def test_every_limit_has_a_unit_and_says_what_happens_and_why() -> None:
    expected = limits()
    for cells in table("limits"):
        assert len(cells) == 5
        assert all(cells), cells
        assert (cells[2] == "seconds") == expected[cells[0].strip("`")][1], cells


def test_what_counts_as_no_limit_exists() -> None:
    names = {option.name for option in OPTION_ROWS.values()}
    names |= {row.name for row in SETTING_ROWS.values()}
    assert not NO_LIMITS - names
    assert set(SETTING_ROWS) == set(GunicornSettings.__annotations__)


def test_every_constant_is_that_of_the_code() -> None:
    rows = table("constants")
    assert len(rows) > 15
    for name, value, _ in rows:
        module, _, constant = name.strip("`").rpartition(".")
        found = getattr(importlib.import_module(f"gunicorn_asgi.{module}"), constant)
        assert str(found) == value, name


def test_the_trust_is_that_of_gunicorns_defaults() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \| ", PAGE, re.MULTILINE)
    settings = Config().settings
    assert {"forwarded_allow_ips", "proxy_allow_ips", "header_map"} <= {name for name, _ in rows}
    for name, default in rows:
        if name in settings:
            value = settings[name].get()
            text = ",".join(value) if isinstance(value, list) else str(value)
            assert text == default, name


def test_the_memory_of_a_connection_is_computed_from_the_defaults() -> None:
    defaults = {name: default for name, (default, _) in limits().items()}
    head = int(defaults["limit_request_line"]) + (
        int(defaults["limit_request_fields"]) * int(defaults["limit_request_field_size"])
    )
    connection = 2 * head + 768 * 1024
    assert f"{head / 1024:.0f} KiB" in PAGE
    assert f"{connection / 2**20:.1f} MiB + P" in PAGE
    worker = int(defaults["worker_connections"]) * connection
    assert f"{worker / 2**30:.1f} GiB and no likely case" in PAGE
    message = int(defaults["websocket_max_message_size"])
    assert f"{message / 2**20 + 0.5} MiB + P" in PAGE
    connections = int(defaults["worker_connections"])
    sockets = int(defaults["ws_memory_limit"]) / 2**20 + connections / 2
    assert f"{sockets:.0f} MiB + {connections} P" in PAGE
