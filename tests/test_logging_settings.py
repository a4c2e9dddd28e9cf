"""Gunicorn's settings for logs, in a running Gunicorn: where the lines of the worker and of its requests arrive.

What is in them is in tests/test_access_log.py, and there are loggers, formatters and filters of other makes, too.
"""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from process import SETTINGS, Gunicorn, listens, poll

pytestmark = pytest.mark.gunicorn

LINE = '"GET /hello?log HTTP/1.1" 200 6'


class Packets:
    """A UDP socket that somebody logs to."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.settimeout(30)
        self.address = f"127.0.0.1:{self.sock.getsockname()[1]}"

    def wait_for(self, part: str) -> tuple[str, list[str]]:
        """The next packet with `part` in it, and those before it."""
        before: list[str] = []
        while part not in (packet := self.sock.recv(65536).decode()):
            before.append(packet)
        return packet, before


@pytest.fixture
def packets() -> Iterator[Packets]:
    packets = Packets()
    with closing(packets.sock):
        yield packets


# Files and streams.


def test_a_dash_is_stderr_for_the_error_log_and_stdout_for_the_access_log(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, errorlog="-", accesslog="-", wait=False) as server:
        poll(lambda: "gunicorn_asgi" in server.output, "the line of the boot")
        [line] = [line for line in server.output.splitlines() if "Listening at" in line]
        port = int(re.findall(r":(\d+) \(", line)[0])
        with closing(socket.create_connection(("127.0.0.1", port), 30)) as sock:
            sock.sendall(b"GET /hello?log HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(65536)
        poll(lambda: LINE in server.output, "the line of the request")
        assert server.stop() == 0


@pytest.mark.parametrize(("level", "seen"), [("debug", True), ("info", False)])
def test_loglevel_is_that_of_the_worker_too(tmp_path: Path, level: str, seen: bool) -> None:
    with Gunicorn(tmp_path, loglevel=level) as server:
        server.get("/hello?log")
        assert server.stop() == 0
        # The hook pre_request, by default, writes it.
        assert bool(server.lines(r"\[DEBUG\] GET /hello$")) == seen


def test_nothing_is_written_below_the_level(tmp_path: Path) -> None:
    with Gunicorn(
        tmp_path, bind=f"unix:{tmp_path}/socket", loglevel="warning", wait=False
    ) as server:
        poll(lambda: listens(tmp_path / "socket"), "the socket")
        assert server.get("/hello").status_code == 200
        assert server.stop() == 0
        assert server.log == ""


def test_capture_output_brings_what_the_application_prints_into_the_error_log(
    tmp_path: Path,
) -> None:
    (tmp_path / "printing.py").write_text(
        "import sys\nfrom main import app\nprint('printed')\nprint('complained', file=sys.stderr)\n"
    )
    with Gunicorn(tmp_path, "printing:app", capture_output=True, chdir=str(tmp_path)) as server:
        server.wait_for("^printed$")
        server.wait_for("^complained$")
        assert server.get("/hello").status_code == 200
        assert server.output == ""


# logging.config.

FILE = """
[loggers]
keys=root, gunicorn.error, gunicorn.access
[handlers]
keys=error, access
[formatters]
keys=plain
[logger_root]
handlers=
[logger_gunicorn.error]
level=INFO
handlers=error
propagate=0
qualname=gunicorn.error
[logger_gunicorn.access]
level=INFO
handlers=access
propagate=0
qualname=gunicorn.access
[handler_error]
class=FileHandler
formatter=plain
args=("{directory}/error.log",)
[handler_access]
class=FileHandler
formatter=plain
args=("{directory}/access.log",)
[formatter_plain]
format=configured %(levelname)s %(message)s
"""


def as_dictionary(directory: Path) -> dict[str, Any]:
    def handler(name: str) -> dict[str, str]:
        return {
            "class": "logging.FileHandler",
            "formatter": "plain",
            "filename": str(directory / name),
        }

    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "configured %(levelname)s %(message)s"}},
        "handlers": {"error": handler("error.log"), "access": handler("access.log")},
        "root": {"level": "INFO", "handlers": []},
        "loggers": {
            "gunicorn.error": {"level": "INFO", "handlers": ["error"], "propagate": False},
            "gunicorn.access": {"level": "INFO", "handlers": ["access"], "propagate": False},
        },
    }


@pytest.mark.smoke
@pytest.mark.parametrize("form", ["logconfig", "logconfig_json", "logconfig_dict"])
def test_a_logging_configuration_gets_the_lines_of_the_worker_and_of_its_requests(
    tmp_path: Path, form: str
) -> None:
    """Without ``accesslog``: there is nobody but the configuration to say that there is an access log."""
    value: Any = as_dictionary(tmp_path)
    if form != "logconfig_dict":
        file = tmp_path / "logging"
        file.write_text(
            FILE.format(directory=tmp_path) if form == "logconfig" else json.dumps(value)
        )
        value = str(file)
    access_log = tmp_path / "access.log"
    with Gunicorn(tmp_path, **{form: value, "errorlog": str(tmp_path / "unused.log")}) as server:
        assert server.lines("^configured INFO gunicorn_asgi ")
        server.get("/hello?log")
        assert LINE in poll(access_log.read_text, "the line of the request")
        assert access_log.read_text().startswith("configured INFO ")
        # They are opened again like Gunicorn's own.
        access_log.rename(tmp_path / "access.log.1")
        server.kill(signal.SIGUSR1)

        def written() -> bool:
            server.get("/hello?log")
            return access_log.exists() and LINE in access_log.read_text()

        poll(written, "the line of a request in the new file")
        assert server.stop() == 0
        assert not server.lines("ERROR|Traceback")


# syslog.

USER_INFO = "<14>"
"""Facility 1 (user), severity 6 (informational): RFC 5424, 6.2.1."""


def test_syslog_gets_the_lines_of_the_worker_and_of_its_requests(
    tmp_path: Path, packets: Packets
) -> None:
    with Gunicorn(
        tmp_path, syslog=True, syslog_addr=f"udp://{packets.address}", proc_name="shop"
    ) as server:
        packet, _ = packets.wait_for("gunicorn_asgi")
        [worker] = server.workers()
        assert packet.startswith(f"{USER_INFO}gunicorn.shop.error: [{worker}] gunicorn_asgi ")
        server.get("/hello?log")
        packet, _ = packets.wait_for(LINE)
        assert packet.startswith(f"{USER_INFO}gunicorn.shop.access: [{worker}] 127.0.0.1 - - ")


def test_syslog_has_the_prefix_and_the_facility_of_the_settings(
    tmp_path: Path, packets: Packets
) -> None:
    settings = {"syslog_prefix": "mine", "syslog_facility": "local3"}
    with Gunicorn(tmp_path, syslog=True, syslog_addr=f"udp://{packets.address}", **settings):
        packet, _ = packets.wait_for("gunicorn_asgi")
        assert packet.startswith(f"<{19 * 8 + 6}>gunicorn.mine.error: ")


def test_the_access_log_stays_out_of_syslog_where_the_setting_says_so(
    tmp_path: Path, packets: Packets
) -> None:
    access_log = tmp_path / "access.log"
    settings = {"disable_redirect_access_to_syslog": True, "accesslog": str(access_log)}
    with Gunicorn(
        tmp_path, syslog=True, syslog_addr=f"udp://{packets.address}", **settings
    ) as server:
        packets.wait_for("gunicorn_asgi")
        server.get("/hello?log")
        assert LINE in poll(access_log.read_text, "the line of the request")
        assert server.stop() == 0
        _, before = packets.wait_for("Shutting down")
        assert not [packet for packet in before if "/hello" in packet]


# statsd.


def test_statsd_has_the_prefix_and_the_tags_of_the_settings(
    tmp_path: Path, packets: Packets
) -> None:
    with Gunicorn(
        tmp_path, statsd_host=packets.address, statsd_prefix="shop.", dogstatsd_tags="zone:a,tier:b"
    ) as server:
        packets.wait_for("shop.gunicorn.workers:1|g|#zone:a,tier:b")
        server.get("/hello")
        packet, _ = packets.wait_for("gunicorn.request.status.")
        assert packet == "shop.gunicorn.request.status.200:1|c|@1.0|#zone:a,tier:b"


@pytest.mark.skipif(
    "enable_backlog_metric" not in SETTINGS, reason="this Gunicorn has no enable_backlog_metric"
)
def test_statsd_gets_the_backlog(tmp_path: Path, packets: Packets) -> None:
    with Gunicorn(tmp_path, statsd_host=packets.address, enable_backlog_metric=True):
        packet, _ = packets.wait_for("gunicorn.backlog")
        assert packet == "gunicorn.backlog:0|h"
