"""The client side of one WebSocket, for websocket_load.py: it takes as little time as Python can.

Frames are compressed, put together and masked before the measurement begins. The frame that has to come back is known, too, so that one comparison tells
whether it is right, with its kind, its length and every byte. Only what is not equal to it is looked at as RFC 6455 has it: parts of a frame, several
frames, control frames, compressed messages.
"""

from __future__ import annotations

import base64
import secrets
import socket
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha1

import measure
from scenarios import STEP_SECONDS
from websocket_scenarios import DEFLATE, Job, Scenario

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1 = 0x80, 0x40
TAIL = b"\x00\x00\xff\xff"
"""What permessage-deflate leaves out behind a message (RFC 7692, section 7.2.1)."""
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
HEAD_BYTES = 4096
"""What is read at once of a handshake, and the least that is read of messages."""


@dataclass(frozen=True)
class Deflate:
    """What the server has answered to the offer. All of it is about the client but the last."""

    bits: int = 15
    no_takeover: bool = False
    server_no_takeover: bool = False

    @classmethod
    def of(cls, answer: str) -> Deflate:
        """Of the field value ``Sec-WebSocket-Extensions``."""
        _, *parameters = (part.strip() for part in answer.split(";"))
        values = dict(part.partition("=")[::2] for part in parameters)
        bits = int(values.get("client_max_window_bits", "15").strip('"'))
        return cls(
            bits, "client_no_context_takeover" in values, "server_no_context_takeover" in values
        )


class Book:
    """The messages of a scenario, and their frames."""

    def __init__(self, scenario: Scenario) -> None:
        self.opcode = TEXT if scenario.text else BINARY
        self.messages = scenario.messages()
        self.answers = [
            _header(FIN | self.opcode, len(message)) + message for message in self.messages
        ]
        """What a server sends that does not compress."""
        self._frames: dict[Deflate | None, tuple[list[bytes], list[bytes]]] = {}

    def frames(self, deflate: Deflate | None) -> tuple[list[bytes], list[bytes]]:
        """Those for the first time that a connection sends all messages, and those for all later times: a compressed message refers to the ones before it,
        which are the same from the second time on, for the messages together are longer than the window."""
        if deflate not in self._frames:
            if deflate is None:
                first = later = [_masked(FIN | self.opcode, message) for message in self.messages]
            else:
                frames = [
                    _masked(FIN | RSV1 | self.opcode, message)
                    for message in _compress(self.messages * 2, deflate)
                ]
                first, later = frames[: len(self.messages)], frames[len(self.messages) :]
            self._frames[deflate] = first, later
        return self._frames[deflate]


def _compress(messages: Sequence[bytes], deflate: Deflate) -> Iterator[bytes]:
    compressor = zlib.compressobj(wbits=-deflate.bits)
    for message in messages:
        if deflate.no_takeover:
            compressor = zlib.compressobj(wbits=-deflate.bits)
        yield (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(
            TAIL
        )


def _header(first: int, length: int, mask: int = 0) -> bytes:
    """Of a frame (RFC 6455, section 5.2), without the masking key."""
    if length < 126:
        return bytes((first, mask | length))
    if length < 65536:
        return bytes((first, mask | 126)) + length.to_bytes(2, "big")
    return bytes((first, mask | 127)) + length.to_bytes(8, "big")


def _masked(first: int, payload: bytes) -> bytes:
    """A frame of a client."""
    length = len(payload)
    key = secrets.token_bytes(4)
    mask = int.from_bytes((key * (length // 4 + 1))[:length], "big")
    return (
        _header(first, length, 0x80)
        + key
        + (int.from_bytes(payload, "big") ^ mask).to_bytes(length, "big")
    )


class Client:
    """One connection: sends its messages in turn, each as soon as one before it has been answered. Raises measure.LoadError when it cannot be made."""

    def __init__(self, job: Job, book: Book, timed: bool = False) -> None:
        self.received = 0
        self.errors: dict[str, int] = {}
        self.latencies: list[int] = []
        """Of the messages, in ns, if timed."""
        self.open = True
        """Whether to answer an answer with the next message, and to mind the end of the connection."""
        self.gone = False
        self._book, self._count = book, len(book.messages)
        self._answers, self._awaited = book.answers, book.answers[0]
        self._sent = 0
        """Of the messages, in this turn."""
        # More than what can come would be slower: 128 KiB are mapped anew for each read.
        self._read_bytes = max(HEAD_BYTES, job.scenario.in_flight * (job.scenario.size + 16))
        self._timed = timed
        self._times: deque[int] = deque()
        self._buffer = b""
        """What has been read and is not a whole frame."""
        self._unsent = b""
        """What the socket would not take."""
        self._inflater = zlib.decompressobj(-15)
        self._parts: list[bytes] = []
        """Of a message that comes in several frames."""
        self._compressed = False
        try:
            self.socket = socket.create_connection(("127.0.0.1", job.port), timeout=STEP_SECONDS)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._deflate = self._shake_hands(job)
        except OSError as error:
            raise measure.LoadError(f"cannot connect: {error!r}") from error
        self.socket.setblocking(False)
        self._recv = self.socket.recv
        self._frames, self._later = book.frames(self._deflate)

    def _shake_hands(self, job: Job) -> Deflate | None:
        """Returns what the server says of compression. Raises OSError, measure.LoadError."""
        key = base64.b64encode(secrets.token_bytes(16))
        lines = [
            b"GET / HTTP/1.1",
            b"Host: 127.0.0.1:%d" % job.port,
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
        ]
        lines.append(b"Sec-WebSocket-Key: " + key)
        if job.scenario.deflate:
            lines.append(b"Sec-WebSocket-Extensions: " + DEFLATE.encode())
        self.socket.sendall(b"\r\n".join([*lines, b"", b""]))
        data = b""
        while b"\r\n\r\n" not in data:
            read = self.socket.recv(HEAD_BYTES)
            data += read
            if not read:
                raise measure.LoadError(
                    f"the connection ended within the handshake, behind {data[:200]!r}"
                )
        head, _, self._buffer = data.partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        found = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in fields)
        }
        accept = base64.b64encode(sha1(key + GUID).digest()).decode()
        if " 101 " not in f"{status} " or found.get("sec-websocket-accept") != accept:
            raise measure.LoadError(f"the handshake failed: {status}")
        answer = found.get("sec-websocket-extensions")
        return Deflate.of(answer) if answer else None

    def begin(self, in_flight: int) -> None:
        """Send the first messages."""
        self._send(in_flight)

    def read(self) -> None:
        """There is something to read."""
        try:
            data = self._recv(self._read_bytes)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        before = self.received
        # Nearly always it is the answer that is waited for, and nothing else.
        if data == self._awaited and not self._buffer and not self._parts:
            self._receive(None)
        else:
            self._read_frames(self._buffer + data)
        if self.open and self.received > before:
            self._send(self.received - before)

    def write(self) -> None:
        """The socket takes more."""
        unsent, self._unsent = self._unsent, b""
        self._write(unsent)

    @property
    def blocked(self) -> bool:
        """Whether `write` is to be called when the socket takes more."""
        return bool(self._unsent)

    def say_goodbye(self) -> None:
        """Begin the closing handshake."""
        self.open = False
        self._write(_masked(FIN | CLOSE, b"\x03\xe8"))

    def _lose(self) -> None:
        self.gone = True
        if self.open:
            self._error("lost")

    def _error(self, kind: str) -> None:
        self.errors[kind] = self.errors.get(kind, 0) + 1

    def _receive(self, message: bytes | None) -> None:
        """An answer; None if it is known to be right."""
        if message is not None and message != self._book.messages[self.received % self._count]:
            self._error("wrong")
        self.received += 1
        self._awaited = self._answers[self.received % self._count]
        if self._timed:
            self.latencies.append(time.perf_counter_ns() - self._times.popleft())

    def _read_frames(self, data: bytes) -> None:
        """All that are in `data`; keeps the rest."""
        at = 0
        while len(data) - at >= 2:
            if not self._parts and data.startswith(self._awaited, at):
                at += len(self._awaited)
                self._receive(None)
                continue
            length, begin = data[at + 1], at + 2  # a server must not mask, so its highest bit is 0
            if length >= 126:
                begin += 2 if length == 126 else 8
                length = int.from_bytes(data[at + 2 : begin], "big")
            if len(data) < begin + length:
                break
            self._receive_frame(data[at], data[begin : begin + length])
            at = begin + length
        self._buffer = data[at:]

    def _receive_frame(self, first: int, payload: bytes) -> None:
        opcode = first & 0x0F
        if opcode == PING:
            self._write(_masked(FIN | PONG, payload))
        elif opcode == CLOSE:
            self._lose()
        elif opcode == (CONTINUATION if self._parts else self._book.opcode):
            self._compressed = self._compressed or bool(first & RSV1)
            self._parts.append(payload)
            if first & FIN:
                message, compressed = b"".join(self._parts), self._compressed
                self._parts, self._compressed = [], False
                self._receive(self._inflate(message) if compressed else message)
        elif opcode != PONG:
            self._error("wrong kind")
            self._receive(payload)

    def _inflate(self, message: bytes) -> bytes:
        """Empty, which counts as a wrong answer, if that is impossible."""
        if self._deflate is None:
            return b""
        if self._deflate.server_no_takeover:
            self._inflater = zlib.decompressobj(-15)
        try:
            return self._inflater.decompress(message + TAIL)
        except zlib.error:
            return b""

    def _send(self, count: int) -> None:
        """So many messages in one write."""
        frames = []
        for _ in range(count):
            if self._sent == self._count:
                self._frames, self._sent = self._later, 0
            frames.append(self._frames[self._sent])
            self._sent += 1
        if self._timed:
            self._times.extend([time.perf_counter_ns()] * count)
        self._write(b"".join(frames))

    def _write(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose()
            return
        if sent < len(data):
            self._unsent = data[sent:]
