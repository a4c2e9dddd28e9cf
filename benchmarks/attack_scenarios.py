"""The attacks of attacks.py, and the servers that they are aimed at."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import attack_bytes as data
from servers import BASELINE, GRANIAN, OURS, SERVERS, Server

APP = "attack_app:app"
MANY = 1100
"""More than Gunicorn's default of `worker_connections`, which is 1,000."""
FEW = 4


def _nothing() -> bytes:
    return b""


@dataclass(frozen=True)
class Attack:
    """What each of its connections does, with one trait that makes it an attack."""

    name: str
    title: str
    connections: int
    opening: Callable[[], bytes] = _nothing
    """What is sent at first."""
    payload: Callable[[], bytes] = _nothing
    """What follows."""
    protocol: str = "http/1.1"
    """Or ``websocket``: the payload follows the answer to the opening, which accepts. Or ``http/2``."""
    deflate: bool = False
    """Whether the server has to accept permessage-deflate."""
    repeats: bool = False
    """The payload is sent again and again, as fast as the server reads."""
    returns: bool = False
    """No more comes after the payload, and a new connection follows one that the server has ended."""
    drips: bool = False
    """The payload is sent again and again, one byte a second."""
    leaves: bool = False
    """The connection is closed as soon as all is sent."""
    reads: bool = True
    """Whether it reads what it is sent."""

    @property
    def lasts(self) -> bool:
        """Whether it does something all the time."""
        return self.repeats or self.returns


def _bombs_opening() -> bytes:
    return data.handshake(deflate=True)


HTTP2 = "http/2"
WEBSOCKET = "websocket"
ATTACKS = (
    Attack(
        "ws-bombs",
        "80 WebSockets with 250 KB of deflate bombs each (14.6 KB become 15 MB)",
        80,
        _bombs_opening,
        data.bombs,
        WEBSOCKET,
        deflate=True,
    ),
    Attack(
        "ws-unfinished",
        "60 WebSockets, each with 14.6 KB of a compressed message that never ends and holds 15 MB",
        60,
        _bombs_opening,
        data.unfinished_bomb,
        WEBSOCKET,
        deflate=True,
    ),
    Attack(
        "ws-pings",
        f"{FEW} WebSockets that send pings without a pause",
        FEW,
        data.handshake,
        data.pings,
        WEBSOCKET,
        repeats=True,
    ),
    Attack(
        "ws-fragments",
        f"{FEW} WebSockets that send empty fragments without a pause",
        FEW,
        data.handshake,
        lambda: data.first_fragment() + data.fragments() * 64,
        WEBSOCKET,
        returns=True,
    ),
    Attack(
        "ws-compressed-fragments",
        f"{FEW} WebSockets that send empty fragments of a compressed message without a pause",
        FEW,
        _bombs_opening,
        lambda: data.first_fragment(compressed=True) + data.fragments() * 64,
        WEBSOCKET,
        deflate=True,
        returns=True,
    ),
    Attack(
        "h1-chunks",
        f"{FEW} uploads in chunks of one byte, without a pause",
        FEW,
        lambda: data.chunked_head("/count"),
        data.one_byte_chunks,
        repeats=True,
    ),
    Attack(
        "h1-lines",
        "a head of 200,000 field lines, again and again",
        FEW,
        payload=data.many_lines,
        returns=True,
    ),
    Attack(
        "h1-pipelined",
        f"{FEW} connections with pipelined requests without a pause",
        FEW,
        payload=data.pipelined,
        repeats=True,
    ),
    Attack("h1-silent", f"{MANY:,} connections that send nothing", MANY),
    Attack("h1-idle", f"{MANY:,} connections that stay idle after a request", MANY, data.get),
    Attack(
        "h1-left",
        "2,500 requests of a slow route, whose clients leave at once",
        2500,
        lambda: data.get("/slow"),
        leaves=True,
    ),
    Attack(
        "h1-slow-heads",
        f"{MANY:,} heads that come a byte a second (Slowloris)",
        MANY,
        lambda: data.get()[:-2] + b"x: ",
        lambda: b"x",
        drips=True,
    ),
    Attack(
        "h1-slow-bodies",
        f"{MANY:,} bodies that come a byte a second",
        MANY,
        lambda: data.long_head("/count", 1_000_000),
        lambda: b"x",
        drips=True,
    ),
    Attack(
        "h1-never-reads",
        "200 clients that ask for 64 MiB and never read",
        200,
        lambda: data.get("/large"),
        reads=False,
    ),
    Attack(
        "h2-data",
        f"{FEW} uploads in DATA frames of one byte, again and again",
        FEW,
        data.h2_opening,
        data.one_byte_data,
        HTTP2,
        returns=True,
    ),
    Attack(
        "h2-table-size",
        "250,000 updates of the table's size in one field block, again and again",
        FEW,
        data.h2_opening,
        data.table_size_updates,
        HTTP2,
        returns=True,
    ),
    Attack(
        "h2-reset",
        f"{FEW} connections with 20,000 requests, each cancelled at once (rapid reset), again and again",
        FEW,
        data.h2_opening,
        data.rapid_reset,
        HTTP2,
        returns=True,
    ),
    Attack(
        "h2-continuation",
        f"{FEW} field blocks that never end (CONTINUATION flood), again and again",
        FEW,
        lambda: data.h2_opening() + data.unfinished_block(),
        lambda: data.continuations() * 8,
        HTTP2,
        returns=True,
    ),
    Attack(
        "h2-settings",
        f"{FEW} connections that send SETTINGS without a pause, and never read",
        FEW,
        data.h2_opening,
        data.h2_settings,
        HTTP2,
        repeats=True,
        reads=False,
    ),
    Attack(
        "h2-pings",
        f"{FEW} connections that send PING without a pause, and never read",
        FEW,
        data.h2_opening,
        data.h2_pings,
        HTTP2,
        repeats=True,
        reads=False,
    ),
)


def by_name(name: str) -> Attack:
    """One of ATTACKS."""
    return next(attack for attack in ATTACKS if attack.name == name)


HYPERCORN, GUNICORN_ASGI = "hypercorn", "gunicorn asgi"
TARGETS = tuple(
    server
    for name in (OURS, BASELINE, HYPERCORN, GRANIAN, GUNICORN_ASGI)
    for server in SERVERS
    if server.name == name
)
"""In the order of the tables. Each has its defaults, and one worker."""
SPEAKS_HTTP2 = frozenset({OURS, HYPERCORN, GRANIAN, GUNICORN_ASGI})
CLEARTEXT = ("--http-protocols", "h2,h1", "--http2-cleartext", "both")
"""Switches HTTP/2 on in Gunicorn, beside the HTTP/1.1 of the ordinary client; Hypercorn and Granian have it on."""


def target_of(attack: Attack, server: Server) -> Server | None:
    """The server as it is started for the attack; None if it does not speak the protocol."""
    if attack.protocol != HTTP2:
        return server
    if server.name not in SPEAKS_HTTP2:
        return None
    if server.name not in {OURS, GUNICORN_ASGI}:
        return server
    *arguments, app = server.arguments
    return replace(server, arguments=(*arguments, *CLEARTEXT, app))
