"""Pure: the context of an invocation of AWS Lambda, for the application: ``scope["aws.context"]``.

https://docs.aws.amazon.com/lambda/latest/dg/python-context.html
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from ..errors import EventError
from .events import parse_json
from .invocation import Invocation

W3C_FIELDS = ("traceparent", "tracestate", "baggage")
"""Fields of W3C's trace context that `LambdaContext.w3c` may have."""


class Shown:
    """An object whose ``repr()`` shows its attributes. dataclasses would delay a cold start."""

    __slots__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({', '.join(shown)})"


class Client(Shown):
    """The application on a mobile device. Each attribute is the caller's, or None."""

    __slots__ = (
        "app_package_name",
        "app_title",
        "app_version_code",
        "app_version_name",
        "installation_id",
    )

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.installation_id = values.get("installation_id")
        self.app_title = values.get("app_title")
        self.app_version_name = values.get("app_version_name")
        self.app_version_code = values.get("app_version_code")
        self.app_package_name = values.get("app_package_name")


class ClientContext(Shown):
    """The context that the caller of the function has sent, such as an AWS Mobile SDK."""

    __slots__ = ("client", "custom", "env")

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Raises EventError for a client that is no object."""
        client = values.get("client")
        if client is not None and not isinstance(client, dict):
            raise EventError("The client of the client context is not an object of JSON")
        self.client = None if client is None else Client(client)
        self.custom = values.get("custom")
        self.env = values.get("env")


class CognitoIdentity(Shown):
    """The identity of Amazon Cognito that has authorized the request, or None for each part."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.cognito_identity_id = values.get("cognitoIdentityId")
        self.cognito_identity_pool_id = values.get("cognitoIdentityPoolId")


class LambdaContext:
    """The context of one invocation: the attributes and methods of AWS's own Python runtime.

    A text is None where the Runtime API or the environment does not have it.
    """

    def __init__(self, invocation: Invocation, environ: Mapping[str, str] = os.environ) -> None:
        """Raises EventError for a client context or an identity that is no object of JSON."""
        self.aws_request_id = invocation.request_id
        self.log_group_name = environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
        self.function_name = environ.get("AWS_LAMBDA_FUNCTION_NAME")
        self.memory_limit_in_mb = environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        """A text, as in AWS's own runtime."""
        self.function_version = environ.get("AWS_LAMBDA_FUNCTION_VERSION")
        self.invoked_function_arn = invocation.function_arn or None
        self.tenant_id = invocation.tenant_id or None
        self.trace_id = invocation.trace_id or None
        """The tracing header of X-Ray. AWS's own runtime has it in the environment only."""
        self._deadline_ms = invocation.deadline_ms
        context = _read_object(invocation.client_context, "client context")
        self._w3c = _read_w3c(context)
        self.client_context = None if context is None else ClientContext(context)
        self.identity = CognitoIdentity(
            _read_object(invocation.cognito_identity, "Cognito identity") or {}
        )

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the deadline of the invocation, or 0 after it.

        By the wall clock, which is right after the environment was frozen as well.
        """
        return max(0, self._deadline_ms - int(time.time() * 1000))

    def w3c(self) -> dict[str, str]:
        """Return the trace context of W3C that came with the invocation, or an empty dict."""
        return dict(self._w3c)

    def log(self, message: object) -> None:
        """Write a line to the log of the function, which is stdout."""
        sys.stdout.write(f"{message}\n")
        sys.stdout.flush()

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in vars(self).items() if name[0] != "_")
        return f"{type(self).__name__}({', '.join(shown)})"


def _read_object(text: str, name: str) -> Mapping[str, Any] | None:
    """Return the object in the value of a header, or None for no value and for null."""
    value = parse_json(text, name) if text else None
    if value is not None and not isinstance(value, dict):
        raise EventError(f"The {name} is not an object of JSON")
    return value


def _read_w3c(context: Mapping[str, Any] | None) -> Mapping[str, str]:
    fields = context.get("w3c") if context is not None else None
    if not isinstance(fields, dict):
        return {}
    return {name: fields[name] for name in W3C_FIELDS if isinstance(fields.get(name), str)}
