"""A client's connection that is read strictly by RFC 9112, with the kinds of losses.

This module uses the standard library only, for benchmarks/zero_loss.py.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import time
from dataclasses import dataclass
from enum import Enum

Address = str | tuple[str, int]
"""The path of a unix socket, or host and port."""

TIMEOUT = 20.0
"""Time limit in seconds for a connection, and for each part of an answer."""
MAX_HEAD = 65536


class Kind(Enum):
    """How a request was lost."""

    REFUSED = "refused"
    """Nobody listened."""
    HANDSHAKE = "handshake"
    """The connection was accepted and ended before TLS was set up."""
    IDLE = "closed while idle"
    """A kept connection had ended without ``Connection: close`` before the request was sent.

    A client that checks before it sends mostly avoids this. Still it is a loss, since the server
    had promised to keep the connection."""
    CLOSED = "closed"
    """The connection ended without a response."""
    RESET = "reset"
    """The connection was reset before a response, or while the request was sent."""
    TRUNCATED = "truncated"
    """The connection ended or was reset within the response."""
    STATUS = "wrong status"
    MALFORMED = "malformed"
    """The answer is not an HTTP/1.1 response with the right body."""
    TIMEOUT = "timeout"


class LostError(Exception):
    """A request without its proper answer."""

    def __init__(self, kind: Kind, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True)
class Ask:
    """One request: its parts, the pause between them in seconds, and the expected answer.

    The body of the answer is the worker's pid, a space and `expected`.
    """

    name: str
    parts: tuple[bytes, ...]
    pause: float
    expected: bytes


STATUS_LINE = re.compile(rb"HTTP/1\.1 ([0-9]{3}) [\t -~]*")
FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\0\r\n]*?)[ \t]*")


def open_socket(address: Address, tls: ssl.SSLContext | None) -> socket.socket:
    """Connect to `address`. Raises LostError."""
    sock = _connect(address)
    if tls is None:
        return sock
    try:
        return tls.wrap_socket(sock, server_hostname="localhost")
    except TimeoutError:
        sock.close()
        raise LostError(Kind.TIMEOUT, "in the TLS handshake") from None
    except OSError as error:  # ssl.SSLError is one
        sock.close()
        raise LostError(Kind.HANDSHAKE, repr(error)) from error


def _connect(address: Address) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    sock.settimeout(TIMEOUT)
    try:
        sock.connect(address)
        if not isinstance(address, str):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (ConnectionRefusedError, FileNotFoundError) as error:
        sock.close()
        raise LostError(Kind.REFUSED, repr(error)) from error
    except ConnectionResetError as error:
        sock.close()
        raise LostError(Kind.RESET, repr(error)) from error
    except TimeoutError as error:
        sock.close()
        raise LostError(Kind.TIMEOUT, "in connecting") from error
    return sock


class Connection:
    """A connection, read strictly by RFC 9112. Making it and `exchange` raise LostError."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None) -> None:
        self.requests = 0
        self.before = ""
        """The last request with an answer, and its worker."""
        self._received = b""
        self._sock = open_socket(address, tls)
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)

    def close(self) -> None:
        self._sock.close()

    def exchange(self, wanted: Ask) -> tuple[int, bool]:
        """Send a request and read its response.

        Returns its pid, and whether the connection ends with it.
        """
        self.requests += 1
        self._received = b""
        try:
            if self.requests > 1 and self._has_ended():
                raise LostError(Kind.IDLE, "it ended without being announced")
            for part in wanted.parts:
                if part is not wanted.parts[0]:
                    time.sleep(wanted.pause)
                self._sock.sendall(part)
            status, is_last, body = self._read_response()
        except TimeoutError:
            raise LostError(Kind.TIMEOUT, f"after {self._received[:200]!r}") from None
        except EOFError:
            raise LostError(
                Kind.TRUNCATED if self._received else Kind.CLOSED, f"after {self._received[:200]!r}"
            ) from None
        except OSError as error:
            raise LostError(
                Kind.TRUNCATED if self._received else Kind.RESET,
                f"{error!r} after {self._received[:200]!r}",
            ) from error
        if status != 200:
            raise LostError(Kind.STATUS, f"{status} {body[:200]!r}")
        pid, space, rest = body.partition(b" ")
        if not pid.isdigit() or not space or rest != wanted.expected:
            raise LostError(Kind.MALFORMED, f"the body is {body[:200]!r}")
        self.before = f"after a {wanted.name} of worker {int(pid)}"
        return int(pid), is_last

    def begin(self, request: bytes) -> None:
        """Send a request, and read the beginning of its response.

        Raises OSError, and EOFError where the connection ends without a response.
        """
        self._sock.sendall(request)
        self._fill()

    def _has_ended(self) -> bool:
        """Whether the peer has closed or reset the connection, without unread data before it."""
        if not self._poll.poll(0):
            return False
        try:
            # By the plain socket, since TLS has no flags. Data buffered by TLS does not matter.
            return not socket.socket.recv(self._sock, 1, socket.MSG_PEEK)
        except OSError:
            return True

    # Reading.

    def _read_response(self) -> tuple[int, bool, bytes]:
        """Returns the status, whether the connection ends after the response, and the body."""
        end = self._read_until(b"\r\n\r\n", 0)
        first, *lines = self._received[: end - 4].split(b"\r\n")
        status_line = STATUS_LINE.fullmatch(first)
        if status_line is None:
            raise LostError(Kind.MALFORMED, f"the status line {first!r}")
        fields: dict[bytes, list[bytes]] = {}
        for line in lines:
            match = FIELD_LINE.fullmatch(line)
            if match is None:
                raise LostError(Kind.MALFORMED, f"the field line {line!r}")
            fields.setdefault(match[1].lower(), []).append(match[2])
        body, end = self._read_body(fields, end)
        if len(self._received) > end:
            raise LostError(
                Kind.MALFORMED, f"there is {self._received[end:][:200]!r} after the response"
            )
        options = b",".join(fields.get(b"connection", [])).lower().split(b",")
        return int(status_line[1]), b"close" in (option.strip() for option in options), body

    def _read_body(self, fields: dict[bytes, list[bytes]], start: int) -> tuple[bytes, int]:
        """Returns the body and the position after it."""
        lengths = fields.get(b"content-length", [])
        coding = [value.lower() for value in fields.get(b"transfer-encoding", [])]
        if coding == [b"chunked"] and not lengths:
            return self._read_chunks(start)
        if coding or len(lengths) != 1 or not lengths[0].isdigit():
            # Without both, a response ends with its connection, and nobody knows whether it is
            # complete. No server under test does so.
            raise LostError(
                Kind.MALFORMED, f"Content-Length is {lengths}, Transfer-Encoding is {coding}"
            )
        end = start + int(lengths[0])
        self._read_to(end)
        return self._received[start:end], end

    def _read_chunks(self, start: int) -> tuple[bytes, int]:
        body = b""
        while True:
            end = self._read_until(b"\r\n", start)
            size = self._received[start : end - 2]
            if re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size) is None:
                raise LostError(Kind.MALFORMED, f"the chunk size {size!r}")
            start = end + int(size, 16)
            self._read_to(start + 2)
            if self._received[start : start + 2] != b"\r\n":
                raise LostError(
                    Kind.MALFORMED,
                    f"{self._received[start : start + 2]!r} ends a chunk, or begins a trailer",
                )
            body += self._received[end:start]
            if start == end:
                return body, end + 2
            start += 2

    def _read_until(self, delimiter: bytes, start: int) -> int:
        """Returns the position after `delimiter`."""
        while (found := self._received.find(delimiter, start)) < 0:
            if len(self._received) - start > MAX_HEAD:
                raise LostError(Kind.MALFORMED, f"no {delimiter!r} in {MAX_HEAD} bytes")
            self._fill()
        return found + len(delimiter)

    def _read_to(self, end: int) -> None:
        while len(self._received) < end:
            self._fill()

    def _fill(self) -> None:
        data = self._sock.recv(65536)
        if not data:
            raise EOFError
        self._received += data
