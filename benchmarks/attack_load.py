"""The attacker of attacks.py, a process of its own: ``python -m attack_load NAME PORT SECONDS LONGEST``.

It attacks for SECONDS. Where an attack is only to be there, it waits for the server to end the connections, until LONGEST. Its last line is JSON.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

import attack_scenarios
from attack_scenarios import WEBSOCKET, Attack

AT_ONCE = 100
"""Connections that are opened between two looks at those that are open."""
TICK_SECONDS = 0.02
DRIP_SECONDS = 1.0
SEND_BYTES = 1 << 18
ENDED = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
HEAD_BYTES = 65536
RESET = struct.pack("ii", 1, 0)
"""Closes with RST: no port stays taken for a minute."""


@dataclass
class Attacked:
    """What became of the connections."""

    opened: int = 0
    unopened: int = 0
    """Attempts that were refused."""
    ended: int = 0
    """By the server."""
    still_open: int = 0
    """Those that were opened and not ended, when the attack was over."""
    longest_s: float = 0.0
    """Of a connection that the server has ended, from its opening."""
    sent: int = 0
    """Bytes."""
    refusal: str = ""
    """Why the attack was not possible."""

    @classmethod
    def loads(cls, text: str) -> Attacked:
        return cls(**json.loads(text))


class Client:
    """One connection."""

    def __init__(self, sock: socket.socket, opening: bytes) -> None:
        self.sock = sock
        self.is_connecting = True
        self.opened_at = 0.0
        self.unsent = memoryview(opening)
        self.head: bytes | None = b""
        """What came of the answer to a WebSocket's handshake; None when it has been accepted, or where there is none."""
        self.is_writing = True
        self.is_opening = True
        self.dripped_at = 0.0


class Attacker:
    """All connections of an attack."""

    def __init__(self, attack: Attack, port: int) -> None:
        self._attack, self._address = attack, ("127.0.0.1", port)
        self._opening, self._payload = attack.opening(), attack.payload()
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._tried = 0
        self.done = Attacked()

    def run(self, seconds: float, longest: float) -> Attacked:
        """Attack; returns what became of it."""
        begun = time.monotonic()
        while True:
            now = time.monotonic() - begun
            if now >= longest or (now >= seconds and (self._attack.lasts or self._is_over())):
                break
            if now < seconds or not self._attack.lasts:
                self._open_some()
            if self._attack.drips:
                self._drip()
            for fd, events in self._epoll.poll(TICK_SECONDS):
                client = self._clients.get(fd)
                if client is not None:
                    self._serve(client, events)
            if self.done.refusal:
                break
        self.done.still_open = sum(not each.is_connecting for each in self._clients.values())
        return self.done

    def _is_over(self) -> bool:
        return not self._clients and self._tried >= self._attack.connections

    def _open_some(self) -> None:
        wanted = self._attack.connections
        missing = wanted - (len(self._clients) if self._attack.returns else self._tried)
        for _ in range(min(missing, AT_ONCE)):
            self._tried += 1
            self._open()

    def _open(self) -> None:
        sock = socket.socket()
        if not self._attack.reads:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # The backlog of a server that accepts slowly is full, and the kernel tries again.
        sock.setblocking(False)
        if not self._attack.leaves:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.connect_ex(self._address)
        client = Client(sock, self._opening)
        if self._attack.protocol != WEBSOCKET:
            client.head = None
        self._clients[sock.fileno()] = client
        self._epoll.register(sock, select.EPOLLOUT | self._interest)

    @property
    def _interest(self) -> int:
        return ENDED | (select.EPOLLIN if self._attack.reads else 0)

    def _serve(self, client: Client, events: int) -> None:
        if client.is_connecting:
            if events & (select.EPOLLHUP | select.EPOLLERR):
                self._close(client, ended=False)
                self.done.unopened += 1
                return
            client.is_connecting = False
            client.opened_at = time.monotonic()
            self.done.opened += 1
        try:
            if events & select.EPOLLIN and not self._read(client):
                self._close(client, ended=True)
                return
            if events & ENDED and not events & select.EPOLLIN:
                self._close(client, ended=True)
                return
            if events & select.EPOLLOUT:
                self._write(client)
        except BlockingIOError:
            pass
        except OSError:
            self._close(client, ended=True)

    def _read(self, client: Client) -> bool:
        """Returns whether the connection goes on."""
        data = client.sock.recv(SEND_BYTES)
        if client.head is None or not data:
            return bool(data)
        client.head += data
        if b"\r\n\r\n" in client.head:
            if not client.head.startswith(b"HTTP/1.1 101"):
                return False
            if self._attack.deflate and b"permessage-deflate" not in client.head.lower():
                self.done.refusal = "no permessage-deflate"
            client.head = None
            self._watch(client, writing=True)
        return len(client.head or b"") < HEAD_BYTES

    def _write(self, client: Client) -> None:
        while True:
            while client.unsent:
                sent = client.sock.send(client.unsent[:SEND_BYTES])
                self.done.sent += sent
                client.unsent = client.unsent[sent:]
            if client.head is not None or self._attack.drips:
                self._watch(client, writing=False)
                return
            if client.is_opening or self._attack.repeats:
                client.is_opening = False
                client.unsent = memoryview(self._payload)
                if client.unsent:
                    # The other connections have their turn.
                    return
            self._watch(client, writing=False)
            if self._attack.leaves:
                self._close(client, ended=False)
            elif self._attack.returns:
                client.sock.shutdown(socket.SHUT_WR)
            return

    def _watch(self, client: Client, writing: bool) -> None:
        if client.is_writing != writing:
            client.is_writing = writing
            events = self._interest | (select.EPOLLOUT if writing else 0)
            self._epoll.modify(client.sock, events)

    def _drip(self) -> None:
        now = time.monotonic()
        for client in list(self._clients.values()):
            if (
                not client.is_connecting
                and not client.unsent
                and now - client.dripped_at >= DRIP_SECONDS
            ):
                client.dripped_at = now
                try:
                    self.done.sent += client.sock.send(self._payload)
                except BlockingIOError:
                    pass
                except OSError:
                    self._close(client, ended=True)

    def _close(self, client: Client, ended: bool) -> None:
        del self._clients[client.sock.fileno()]
        client.sock.close()
        if ended:
            self.done.ended += 1
            self.done.longest_s = max(self.done.longest_s, time.monotonic() - client.opened_at)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    name, port, seconds, longest = arguments
    with suppress(OSError):
        os.nice(5)  # the ordinary client is on the same core
    attacker = Attacker(attack_scenarios.by_name(name), int(port))
    print(json.dumps(asdict(attacker.run(float(seconds), float(longest)))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
