"""The gateways of AWS Lambda, as far as they read a function's response: strict about places and types."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from gunicorn_asgi.aws_lambda.events import Form


class Received(NamedTuple):
    """A response as its client receives it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def head_of(form: Form, response: dict[str, Any]) -> list[tuple[str, str]]:
    """The header fields of a response, as the gateway writes them. Strict about places and types."""
    places = {
        Form.V1: {"headers", "multiValueHeaders"},
        Form.V2: {"headers", "cookies"},
        Form.ALB: {"headers"},
        Form.ALB_MULTI_VALUE: {"multiValueHeaders"},
    }
    assert {"headers", "multiValueHeaders", "cookies"} & set(response) <= places[form]
    assert ("statusDescription" in response) is (form in (Form.ALB, Form.ALB_MULTI_VALUE))
    headers = []
    for name, value in response.get("headers", {}).items():
        assert type(value) is str
        headers.append((name.lower(), value))
    for name, values in response.get("multiValueHeaders", {}).items():
        assert type(values) is list
        headers += [(name.lower(), value) for value in values]
    return headers + [("set-cookie", cookie) for cookie in response.get("cookies", ())]


def receive(form: Form, data: bytes) -> Received:
    """Decode a buffered response as its gateway does."""
    response = json.loads(data)
    body = response["body"]
    assert type(body) is str
    assert type(response["isBase64Encoded"]) is bool
    content = (
        base64.b64decode(body, validate=True) if response["isBase64Encoded"] else body.encode()
    )
    assert type(response["statusCode"]) is int
    return Received(response["statusCode"], head_of(form, response), content)


def receive_prelude(form: Form, data: bytes) -> Received:
    """Decode the beginning of a streamed response: the gateway looks for the eight NUL."""
    head, _, body = data.partition(bytes(8))
    response = json.loads(head)
    assert "body" not in response
    return Received(response["statusCode"], head_of(form, response), body)


def by_name(headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    return values
