"""The environment on AWS Lambda, and settings that cannot work there (see `gunicorn_asgi.aws_lambda.environment`)."""

from __future__ import annotations

import re
from typing import Any

import pytest
from gunicorn.config import Config

from gunicorn_asgi import LambdaWorker
from gunicorn_asgi.errors import ConfigError

LAMBDA = {"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001"}


def read(
    environment: dict[str, str], options: dict[str, Any] | None = None, **settings: Any
) -> None:
    cfg = Config()
    for name, value in {"timeout": 0, **settings}.items():
        cfg.set(name, value)
    LambdaWorker.configure(**(options or {})).read_settings(cfg, environment)


@pytest.mark.parametrize("concurrency", ["", "1", "16", "10000"])
@pytest.mark.parametrize(
    "address", ["127.0.0.1:9001", "169.254.100.1:9001", "localhost:1", "[::1]:65535"]
)
def test_what_lambda_gives_is_taken(concurrency: str, address: str) -> None:
    read({"AWS_LAMBDA_RUNTIME_API": address, "AWS_LAMBDA_MAX_CONCURRENCY": concurrency})


@pytest.mark.parametrize(
    ("environment", "options", "settings", "sentence"),
    [
        ({}, {}, {}, "worker_class: gunicorn_asgi.LambdaWorker needs AWS Lambda, and AWS_LAMBDA_RUNTIME_API is not in the environment"),
        ({"AWS_LAMBDA_RUNTIME_API": "here"}, {}, {}, "AWS_LAMBDA_RUNTIME_API in the environment: 'here' must be host:port"),
        ({"AWS_LAMBDA_RUNTIME_API": "here:99999"}, {}, {}, "must be host:port"),
        ({"AWS_LAMBDA_RUNTIME_API": "a b:1"}, {}, {}, "must be host:port"),
        ({**LAMBDA, "AWS_LAMBDA_MAX_CONCURRENCY": "0"}, {}, {}, "AWS_LAMBDA_MAX_CONCURRENCY in the environment: '0' must be an integer, 1 to 10000"),
        ({**LAMBDA, "AWS_LAMBDA_MAX_CONCURRENCY": "many"}, {}, {}, "'many' must be an integer"),
        ({**LAMBDA, "AWS_LAMBDA_MAX_CONCURRENCY": "10001"}, {}, {}, "must be an integer, 1 to 10000"),
        ({**LAMBDA, "AWS_LAMBDA_MAX_CONCURRENCY": "9" * 5000}, {}, {}, "must be an integer, 1 to 10000"),
        (LAMBDA, {}, {"timeout": 30}, "setting timeout: 30 must be 0 with gunicorn_asgi.LambdaWorker"),
        (LAMBDA, {}, {"workers": 2}, "setting workers: 2 must be 1 with gunicorn_asgi.LambdaWorker"),
        (LAMBDA, {}, {"preload_app": True}, "setting preload_app: True must be False with gunicorn_asgi.LambdaWorker"),
        (LAMBDA, {"metrics_bind": "127.0.0.1:9100"}, {}, "option metrics_bind: it must be empty with gunicorn_asgi.LambdaWorker"),
        (LAMBDA, {"stall_warning": 5.0}, {}, "option stall_warning: 5 must be 0 or auto with gunicorn_asgi.LambdaWorker"),
        (LAMBDA, {"lambda_response_mode": "stream"}, {}, "lambda_response_mode: 'stream' must be one of buffered, streaming"),
        (LAMBDA, {"lambda_base_path": "prod"}, {}, "lambda_base_path: 'prod' must be auto, a path"),
        (LAMBDA, {"lambda_text_types": "text"}, {}, "lambda_text_types: 'text' must be media types"),
        (LAMBDA, {"lambda_event_function": "tasks"}, {}, "lambda_event_function: 'tasks' must be module:function"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_one_sentence(
    environment: dict[str, str], options: dict[str, Any], settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)) as caught:
        read(environment, options, **settings)
    assert "\n" not in str(caught.value)


def test_a_stall_is_warned_of_where_the_worker_is_not_frozen() -> None:
    read({**LAMBDA, "AWS_LAMBDA_MAX_CONCURRENCY": "2"}, {"stall_warning": 5.0})
    read(LAMBDA, {"stall_warning": 0})


def test_a_configuration_can_be_checked_outside_of_lambda() -> None:
    read({}, check_config=True)
