"""Pure: the common grammar of requests, bodies and responses."""

from __future__ import annotations

import re

TOKEN_PATTERN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
"""RFC 9110, 5.6.2."""
TOKEN = re.compile(TOKEN_PATTERN)

Header = tuple[bytes, bytes]
"""A header field: its name and its value."""

# 18 digits are a body of 10^18 bytes. More can only be an attack that wants an integer to overflow
# (RFC 9112, 6.3, and 9110, 8.6).
MAX_DIGITS = 18
CONTENT_LENGTH = re.compile(rb"[0-9]{1,%d}" % MAX_DIGITS)
