"""Pure: the failure of an invocation or a boot, as the Runtime API of AWS Lambda takes it."""

from __future__ import annotations

import base64
import json
import traceback

from ..frozen import Frozen

MAX_FIELD = 1024
"""Characters of the longest value of a field."""


class Failure(Frozen):
    """A failed invocation or a failed boot, as the Runtime API wants it."""

    type: str
    """Its name, such as that of an exception's class, or ``Runtime.InvalidEvent``."""
    message: str
    stack: tuple[str, ...] = ()
    """Lines of a traceback."""

    @classmethod
    def of(cls, error: BaseException, with_stack: bool = False) -> Failure:
        """The failure by an exception of the application. The log has its traceback in any case."""
        stack = traceback.format_tb(error.__traceback__) if with_stack else ()
        return cls(type(error).__name__, str(error), tuple(stack))

    def encode(self) -> bytes:
        """JSON."""
        content = {"errorMessage": self.message, "errorType": self.type, "stackTrace": self.stack}
        return json.dumps(content).encode()

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The fields of the request with the failure."""
        return (
            ("Content-Type", "application/vnd.aws.lambda.error+json"),
            ("Lambda-Runtime-Function-Error-Type", field_value(self.type)),
        )

    def encode_trailers(self) -> bytes:
        """The last chunk of a streamed response that has failed, with its trailers."""
        body = base64.b64encode(self.encode())
        return (
            b"0\r\nLambda-Runtime-Function-Error-Type: %b\r\n"
            b"Lambda-Runtime-Function-Error-Body: %b\r\n\r\n"
            % (field_value(self.type).encode(), body)
        )


def field_value(text: str) -> str:
    """Return `text` as the value of a field: printable ASCII."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:MAX_FIELD].strip() or "?"
