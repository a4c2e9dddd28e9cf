"""Pure: one invocation, as the Runtime API of AWS Lambda hands it out.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, "Next invocation".
"""

from __future__ import annotations


class Invocation:
    """One invocation. Each text is the value of a header field, or empty without that field."""

    __slots__ = (
        "client_context",
        "cognito_identity",
        "deadline_ms",
        "function_arn",
        "invocation_id",
        "payload",
        "request_id",
        "tenant_id",
        "trace_id",
    )

    def __init__(
        self,
        payload: bytes,
        request_id: str,
        deadline_ms: int,
        function_arn: str = "",
        trace_id: str = "",
        client_context: str = "",
        cognito_identity: str = "",
        tenant_id: str = "",
        invocation_id: str = "",
    ) -> None:
        self.payload = payload
        """The event: JSON."""
        self.request_id = request_id
        """``Lambda-Runtime-Aws-Request-Id``."""
        self.deadline_ms = deadline_ms
        """``Lambda-Runtime-Deadline-Ms``: milliseconds since the epoch."""
        self.function_arn = function_arn
        """``Lambda-Runtime-Invoked-Function-Arn``."""
        self.trace_id = trace_id
        """``Lambda-Runtime-Trace-Id``: the tracing header of X-Ray."""
        self.client_context = client_context
        """``Lambda-Runtime-Client-Context``: JSON, from an AWS Mobile SDK."""
        self.cognito_identity = cognito_identity
        """``Lambda-Runtime-Cognito-Identity``: JSON, from an AWS Mobile SDK."""
        self.tenant_id = tenant_id
        """``Lambda-Runtime-Aws-Tenant-Id``."""
        self.invocation_id = invocation_id
        """``Lambda-Runtime-Invocation-Id``: to be repeated with the response."""
