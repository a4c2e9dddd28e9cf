"""The README and the examples say what is so: its tables are compared with the code, and what it tells to run is run.

``python -m tests.test_readme`` prints the table of options as it should be.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import KNOWN_SETTINGS

from gunicorn_asgi import Worker
from gunicorn_asgi.config.gunicorn_settings import NEWER_DEFAULTS, STAND_INS
from gunicorn_asgi.config.options import OPTIONS
from gunicorn_asgi.config.read_options import read_options

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = ROOT / "examples"
SETTINGS = (
    {setting.name for setting in KNOWN_SETTINGS}
    | set(NEWER_DEFAULTS)
    | {option.name for option in STAND_INS}
)
"""Every setting of this Gunicorn, and those of newer ones that this package knows."""
NEWER = {"control_socket_disable", "http_protocols", "http2_*", "protocol"}
"""Mentioned, and unknown to the oldest Gunicorn."""


def options_table() -> str:
    """The README's table of all options."""
    lines = [
        "| Option | Environment variable | Default | Allowed | What it does |",
        "|---|---|---|---|---|",
    ]
    for option in OPTIONS:
        default = f'"{option.default}"' if isinstance(option.default, str) else repr(option.default)
        lines.append(
            f"| `{option.name}` | `{option.variable}` | `{default}` | {option.allowed} | {option.help} |"
        )
    return "\n".join(lines)


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def code_blocks(language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_table_of_options_is_that_of_the_code() -> None:
    found = re.search(
        r"<!-- options: begin [^>]*-->\n(.*?)\n?<!-- options: end -->", README, re.DOTALL
    )
    assert found is not None
    assert found[1] == options_table(), (
        "put the output of `python -m tests.test_readme` between the options marks of README.md"
    )


def test_the_table_of_http2_settings_is_that_of_the_code() -> None:
    """On an older Gunicorn they are options of this package: see `STAND_INS`."""
    page = (ROOT / "docs" / "http2.md").read_text()
    (table,) = re.findall(
        r"^\| Setting \| Default \| Here \|\n\|[-|]+\n(.*?)\n\n", page, re.MULTILINE | re.DOTALL
    )
    rows = re.findall(r"^\| `(\w+)` \| `?([\w-]+)`? \|", table, re.MULTILINE)
    assert rows == [(option.name, str(option.default)) for option in STAND_INS]


def test_every_setting_in_the_readme_is_one() -> None:
    """In the table of Gunicorn's settings, and below it."""
    text = section("Gunicorn's settings")
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    assert len(cells) > 10
    names = {name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)}
    assert not names - SETTINGS
    (below,) = re.findall(r"^What cannot work.*", text, re.MULTILINE | re.DOTALL)
    assert not set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", below)) - SETTINGS - NEWER


def test_every_setting_that_uvicorns_options_are_mapped_to_is_one() -> None:
    rows = re.findall(
        r"^\| `?([^|]*)\| ([^|]*)\|$", section("Coming from uvicorn-worker"), re.MULTILINE
    )
    assert len(rows) > 10
    known = SETTINGS | {option.name for option in OPTIONS}
    for left, right in rows:
        named = {name for name in re.findall(r"`([a-z_]+)`", right) if name != "scope"}
        assert not named - known, left


def test_the_python_in_the_readme_works() -> None:
    (block,) = code_blocks("python")
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert issubclass(names["worker_class"], Worker)
    assert read_options(names["worker_class"].options, {})["http"] == "h11"


def test_set_up_is_one_line_each() -> None:
    commands = [block for block in code_blocks() if "venv" in block]
    assert len(commands) == 2
    for command in commands:
        assert command.count("\n") == 1
        assert command.startswith("python3 -m venv ")
        # Nothing may be installed into the system's Python, nor taken from it.
        assert not re.search(r"(&& |^)(pip|tox|gunicorn)\b", command)


def test_ci_runs_the_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"grep -E '([^']+)' README.md", script)
    assert pattern is not None
    assert len(re.findall(pattern[1], README, re.MULTILINE)) == 1


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        *(
            f"docs/{name}.md"
            for name in (
                "architecture",
                "asgi",
                "behaviour",
                "extensions",
                "http2",
                "lambda",
                "lambda-web-adapter",
                "numbers",
                "operations",
                "proxies",
                "security",
                "settings",
                "trio",
                "websocket",
            )
        ),
    ],
)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
            }, target


def test_the_rules_of_asgi_have_the_numbers_that_are_cited() -> None:
    page = (ROOT / "docs" / "asgi.md").read_text()
    rules = [int(number) for number in re.findall(r"^(\d+)\. ", page, re.MULTILINE)]
    assert rules == list(range(1, len(rules) + 1))
    for path in [*(ROOT / "gunicorn_asgi").rglob("*.py"), *(ROOT / "tests").glob("*.py")]:
        for cited in re.findall(r"docs/asgi\.md, ([\d, and to]+)", path.read_text()):
            assert {int(number) for number in re.findall(r"\d+", cited)} <= set(rules), path


# The examples.


def read_example(monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, Any]:
    for name in ("PORT", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(EXAMPLES / "gunicorn.conf.py"))


def test_every_line_of_the_example_is_a_setting_with_a_reason() -> None:
    lines = (EXAMPLES / "gunicorn.conf.py").read_text().splitlines()
    tree = ast.parse("\n".join(lines))
    for node in tree.body:
        if isinstance(node, ast.Assign):
            (target,) = node.targets
            assert isinstance(target, ast.Name)
            assert target.id in SETTINGS | NEWER
            above = lines[node.lineno - 2]
            assert above.startswith("#") or target.id in ("wsgi_app", "accesslog"), (
                f"no reason above {target.id}"
            )


def test_the_example_follows_its_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_example(monkeypatch)["bind"] == "127.0.0.1:8000"
    conf = read_example(monkeypatch, PORT="5000", WEB_CONCURRENCY="3")
    assert (conf["bind"], conf["workers"]) == ("0.0.0.0:5000", 3)
    assert conf["graceful_timeout"] < 30
    assert Worker in conf["worker_class"].__mro__


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_the_procfile_serves_the_example() -> None:
    """As a platform does it: in the folder, with $PORT, and until TERM."""
    command = (EXAMPLES / "Procfile").read_text().removeprefix("web: ").split()
    port = free_port()
    environment = {**os.environ, "PORT": str(port), "WEB_CONCURRENCY": "1"}
    arguments = [sys.executable, "-m", *command]
    with subprocess.Popen(
        arguments,
        cwd=EXAMPLES,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_served(process, port)
            assert get(url + "/") == b"Hello from Gunicorn, over ASGI!\n"
            assert b'"requests": 1' in get(url + "/state")
            assert get(url + "/stream").count(b"\n") == 10
            upload = b"0123456789abcdef" * 65536
            assert get(url + "/echo", upload) == upload
            process.send_signal(signal.SIGTERM)
            output = process.communicate(timeout=30)[0]
        except BaseException:
            process.kill()
            print(process.communicate()[0])
            raise
    assert process.returncode == 0
    assert '127.0.0.1 "POST /echo HTTP/1.1" 200 1048576 ' in output
    assert not re.search(r"\[(WARNING|ERROR|CRITICAL)\]", output), output


def wait_until_served(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the example is not served")


def get(url: str, data: bytes | None = None) -> bytes:
    with urllib.request.urlopen(url, data=data, timeout=20) as response:
        body: bytes = response.read()
    return body


if __name__ == "__main__":
    print(options_table())
