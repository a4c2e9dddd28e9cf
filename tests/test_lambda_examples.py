"""The files of examples/lambda: they are those of the pages, and what they start serves invocations."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import lambda_events as events
import pytest
from gunicorn.config import KNOWN_SETTINGS, Config
from lambda_function import run_runtime
from lambda_runtime import RuntimeAPI
from process import DEADLINE

from gunicorn_asgi.aws_lambda.events import AUTO, Form, find_form, read_event
from gunicorn_asgi.config.gunicorn_settings import NEWER_DEFAULTS, STAND_INS
from gunicorn_asgi.config.options import OPTIONS
from gunicorn_asgi.config.settings import Settings
from gunicorn_asgi.http.trust import make_rules, peer_rules

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "lambda"
PAGES = {
    "lambda.md": {
        "Dockerfile",
        "bootstrap",
        "gunicorn.conf.py",
        "requirements.txt",
        "template.yaml",
    },
    "lambda-web-adapter.md": {"web-adapter/Dockerfile", "web-adapter/gunicorn.conf.py"},
}
SETTINGS = {
    *(setting.name for setting in KNOWN_SETTINGS),
    *NEWER_DEFAULTS,
    *(option.name for option in STAND_INS),
    "control_socket_disable",  # unknown to the oldest Gunicorn
}
FILE_BLOCK = re.compile(r"^<!-- file: (\S+) -->\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_its_files_as_they_are(page: str) -> None:
    found = dict(FILE_BLOCK.findall((ROOT / "docs" / page).read_text()))
    assert set(found) == PAGES[page]
    for name, text in found.items():
        assert text == (EXAMPLES / name).read_text(), f"{name} on docs/{page}"


def page_text() -> str:
    return (ROOT / "docs" / "lambda.md").read_text()


def test_the_event_function_on_the_page_works() -> None:
    (block,) = re.findall(
        r"^```python\n(async def .*?)^```$", page_text(), re.MULTILINE | re.DOTALL
    )
    names: dict[str, Any] = {}
    exec(compile(block, "docs/lambda.md", "exec"), names)
    assert asyncio.run(names["on_event"](events.sqs(), None)) == {"batchItemFailures": []}


def test_the_event_on_the_page_is_a_request() -> None:
    (text,) = re.findall(
        r"^curl localhost:9000/\S+ -d '(.*?)'$", page_text(), re.MULTILINE | re.DOTALL
    )
    event = json.loads(text)
    form = find_form(event)
    assert form is Form.V2
    settings = Settings.read(Config(), {}, {})
    found = read_event(event, form, AUTO, peer_rules(make_rules(settings), settings))
    method, path, raw_path, query, _ = found.request
    assert (method, path, raw_path, query) == ("GET", "/", b"/", b"")
    assert found.client == ("192.0.2.1", 0)


@pytest.mark.parametrize("page", PAGES)
def test_every_option_and_setting_on_a_page_is_one(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    known = SETTINGS | {option.name for option in OPTIONS}
    named = {
        *re.findall(r"^\| `([a-z_]+)` \|", text.partition("\n## Moving")[0], re.MULTILINE),
        *re.findall(r"`(lambda_\w+)", text),
        *re.findall(r"the option `([a-z_]+)`", text, re.IGNORECASE),
    }
    assert len(named) > 5
    assert not named - known
    variables = set(re.findall(r"GUNICORN_ASGI_\w+", text))
    assert not variables - {option.variable for option in OPTIONS}


@pytest.mark.parametrize("directory", ["", "web-adapter"])
def test_every_line_of_a_configuration_is_a_setting_with_a_reason(directory: str) -> None:
    lines = (EXAMPLES / directory / "gunicorn.conf.py").read_text().splitlines()
    for node in ast.parse("\n".join(lines)).body:
        if isinstance(node, ast.Assign):
            (target,) = node.targets
            assert isinstance(target, ast.Name)
            assert target.id in SETTINGS
            has_reason = lines[node.lineno - 2].startswith("#")
            assert has_reason or target.id in ("wsgi_app", "access_log_format"), target.id


def read_configuration(
    monkeypatch: pytest.MonkeyPatch, directory: str, **environment: str
) -> dict[str, Any]:
    for name in ("AWS_LAMBDA_LOG_FORMAT", "AWS_LWA_PORT", "PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(EXAMPLES / directory / "gunicorn.conf.py"))


def test_the_port_is_the_one_that_the_adapter_connects_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(**environment: str) -> object:
        return read_configuration(monkeypatch, "web-adapter", **environment)["bind"]

    assert bind() == "127.0.0.1:8080"
    assert bind(PORT="5000") == "127.0.0.1:5000"
    assert bind(PORT="5000", AWS_LWA_PORT="6000") == "127.0.0.1:6000"


def test_the_images_compile_all_of_python_and_start_gunicorn_with_its_file() -> None:
    for directory, source in (
        ("", "gunicorn.conf.py"),
        ("web-adapter", "web-adapter/gunicorn.conf.py"),
    ):
        text = (EXAMPLES / directory / "Dockerfile").read_text()
        assert text.count("-m compileall -q --invalidation-mode unchecked-hash ") == 2
        assert f"COPY app.py {source} ./\n" in text
        python, *arguments = entry_point(directory)
        assert python == "python"
        assert arguments == ["-m", "gunicorn_asgi", "-c", "gunicorn.conf.py"]
        for name in re.findall(r"^COPY (?!--)(.*) \./$", text, re.MULTILINE):
            assert all((EXAMPLES / part).is_file() for part in name.split())


def entry_point(directory: str = "") -> list[str]:
    text = (EXAMPLES / directory / "Dockerfile").read_text()
    (found,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    command: list[str] = json.loads(found)
    return command


def test_the_template_is_complete() -> None:
    yaml = pytest.importorskip("yaml")

    class Loader(yaml.SafeLoader):  # type: ignore[misc] # it has no types
        """Knows the functions of CloudFormation."""

    Loader.add_constructor("!GetAtt", lambda loader, node: loader.construct_scalar(node))
    template = yaml.load((EXAMPLES / "template.yaml").read_text(), Loader)
    function = template["Resources"]["Hello"]["Properties"]
    assert function["FunctionUrlConfig"]["InvokeMode"] == "RESPONSE_STREAM"
    variables = function["Environment"]["Variables"]
    assert set(variables) <= {option.variable for option in OPTIONS}
    assert template["Outputs"]["Url"]["Value"] == "HelloUrl.FunctionUrl"


# What the files start.


@contextmanager
def started(
    api: RuntimeAPI, directory: Path, command: list[str], **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` in a folder with the files, as Lambda does."""
    root = directory / "task"
    shutil.copytree(EXAMPLES, root)
    env = {"LAMBDA_TASK_ROOT": str(root), **environment}
    with run_runtime(api, command, root, directory / "output", env) as process:
        yield process


def bootstrap(root: Path) -> list[str]:
    """The command with which Lambda calls the wrapper script."""
    return [str(root / "task" / "bootstrap"), sys.executable, "/var/runtime/bootstrap.py"]


@pytest.mark.gunicorn
def test_the_image_serves_streamed_responses(tmp_path: Path) -> None:
    command = [sys.executable, *entry_point()[1:]]
    with (
        RuntimeAPI() as api,
        started(api, tmp_path, command, GUNICORN_ASGI_LAMBDA_RESPONSE_MODE="streaming") as process,
    ):
        result = api.invoke(events.function_url(path="/stream"))
        assert (result.kind, result.status) == ("streamed", 200)
        assert result.body == b"".join(b"line %d of 5\n" % number for number in range(1, 6))
        assert len(result.chunks) > 5
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    output = (tmp_path / "output").read_text()
    access_line = r'^[\w-]+ [\w.]+ "GET /stream HTTP/1.1" 200 60 \d+us$'
    assert re.search(access_line, output, re.MULTILINE), output
    assert not re.search(r"\[(WARNING|ERROR|CRITICAL)\]", output), output


@pytest.mark.gunicorn
def test_the_zip_serves_requests_and_logs_json(tmp_path: Path) -> None:
    assert os.access(EXAMPLES / "bootstrap", os.X_OK)
    with (
        RuntimeAPI() as api,
        started(api, tmp_path, bootstrap(tmp_path), AWS_LAMBDA_LOG_FORMAT="JSON") as process,
    ):
        request_ids = []
        for count in (1, 2):
            result = api.invoke(events.http_v2(path="/items", stage="prod", source_ip="192.0.2.7"))
            assert (result.kind, result.status) == ("response", 200)
            told = json.loads(result.body)
            request_ids.append(told.pop("request_id"))
            assert told == {
                "method": "GET",
                "path": "/prod/items",
                "root_path": "/prod",
                "client": "192.0.2.7",
                "requests": count,
            }
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    lines = [json.loads(line) for line in (tmp_path / "output").read_text().splitlines()]
    access = [line for line in lines if line["logger"] == "gunicorn.access"]
    assert [(line["client"], line["status"]) for line in access] == [("192.0.2.7", 200)] * 2
    assert [line["request_id"] for line in access] == request_ids
    assert {line["level"] for line in lines} == {"INFO"}
    # AWS, "Log-level filtering": RFC 3339, or the level is INFO whatever it says.
    for line in lines:
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)
