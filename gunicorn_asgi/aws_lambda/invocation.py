"""Pure: one invocation, as the Runtime API of AWS Lambda hands it out.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, "Next invocation".
"""

from __future__ import annotations

from ..frozen import Frozen


class Invocation(Frozen):
    """One invocation. Each text is the value of a header field, or empty without that field."""

    payload: bytes
    """The event: JSON."""
    request_id: str
    """``Lambda-Runtime-Aws-Request-Id``."""
    deadline_ms: int
    """``Lambda-Runtime-Deadline-Ms``: milliseconds since the epoch."""
    function_arn: str = ""
    """``Lambda-Runtime-Invoked-Function-Arn``."""
    trace_id: str = ""
    """``Lambda-Runtime-Trace-Id``: the tracing header of X-Ray."""
    client_context: str = ""
    """``Lambda-Runtime-Client-Context``: JSON, from an AWS Mobile SDK."""
    cognito_identity: str = ""
    """``Lambda-Runtime-Cognito-Identity``: JSON, from an AWS Mobile SDK."""
    tenant_id: str = ""
    """``Lambda-Runtime-Aws-Tenant-Id``."""
    invocation_id: str = ""
    """``Lambda-Runtime-Invocation-Id``: to be repeated with the response."""
