"""Pure: the status lines of responses (RFC 9112, 4)."""

from __future__ import annotations

from http import HTTPStatus

STATUS_LINES = {status: b"HTTP/1.1 %d \r\n" % status for status in range(100, 1000)}
"""The space stays if there is no reason phrase."""
STATUS_LINES.update(
    {
        status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
        for status in HTTPStatus
    }
)
