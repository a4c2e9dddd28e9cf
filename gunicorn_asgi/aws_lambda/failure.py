"""Pure: the failure of an invocation or a boot, as the Runtime API of AWS Lambda takes it."""

from __future__ import annotations

import base64
import json
import traceback

from ..frozen import Frozen

MAX_FIELD = 1024
"""Characters of the longest value of a field."""
MAX_MESSAGE = 3000
"""Characters of the longest message. In a trailer they are less than 64 KiB."""


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
        return cls(type(error).__name__, _message(error), tuple(stack))

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


def _message(error: BaseException) -> str:
    """Return the text of an exception. It is the application's own code that makes it."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 # the failure of `error` is told, not that of its text
        return "the exception has no text: its __str__ has raised"
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."


def field_value(text: str) -> str:
    """Return `text` as the value of a field: printable ASCII."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:MAX_FIELD].strip() or "?"
