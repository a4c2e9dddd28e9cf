"""The messages of response extensions: files, early hints and trailers.

See the ASGI specification, "Extensions": "Path Send", "Zero Copy Send", "Early Hints" and "HTTP
Trailers". These are functions on a response, by the members of `ExtensibleResponse`. A response
without an extension's message makes nothing for them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Protocol

from ..errors import ApplicationError, ClientDisconnected
from ..http.contract import ResponseWriter
from ..http.fields import read_trailers
from ..http.grammar import Header
from . import files
from .exchange import (
    COMPLETE,
    SENDING,
    STARTED,
    STREAMING,
    TRAILING,
    UNDECLARED,
    ExchangeHost,
    ResponsePhase,
    unexpected_body,
)
from .files import File
from .scope import Message


class ExtensibleResponse(Protocol):
    """The members of `HTTPStream` for extensions."""

    @property
    def host(self) -> ExchangeHost: ...

    @property
    def writer(self) -> ResponseWriter: ...

    method: str
    """The method of the request."""
    phase: ResponsePhase
    is_bodyless: bool
    """The response may not have a body (RFC 9110, 6.4.1)."""
    content_left: int
    """Missing bytes of the declared ``content-length``, or UNDECLARED."""
    trailers: list[Header] | None
    """The trailers sent by the application so far.

    None if it promised none, or if the client cannot receive any.
    """

    def send_body(self, message: Message) -> bool:
        """Send a part of the body. The last part finishes the exchange."""

    def finish(self) -> None:
        """Finish the exchange: the response is complete."""

    def cut(self) -> None:
        """End the response within a part: the ``send()`` of the part was cancelled."""

    async def wait_for_room(self) -> None:
        """Wait while the connection's buffer is full. Raises ClientDisconnected."""

    def check_client(self) -> None:
        """Raises ClientDisconnected if the client is gone."""


async def send_extension(response: ExtensibleResponse, kind: str, message: Message) -> bool:
    """Send the `message` of an extension.

    Returns whether it counts as a part of the body for PARTS_PER_TURN. Raises ApplicationError, and
    ClientDisconnected.
    """
    if isinstance(kind, str) and kind in response.host.switched_off:
        raise _not_offered(response, kind)
    if kind == "http.response.early_hint":
        _send_early_hint(response, message)
        return True
    if kind == "http.response.trailers":
        _send_trailers(response, message)
        return response.phase is TRAILING
    if kind == "http.response.pathsend":
        await _send_path(response, message)
        return False
    if kind == "http.response.zerocopysend":
        await _send_open_file(response, kind, message)
        return False
    raise ApplicationError(f"expected 'http.response.start' or 'http.response.body', not {kind!r}")


def _not_offered(response: ExtensibleResponse, extension: str) -> ApplicationError:
    why = response.host.switched_off[extension]
    return ApplicationError(f"{extension!r} is not offered in scope['extensions']: {why}")


# Early hints.


def _send_early_hint(response: ExtensibleResponse, message: Message) -> None:
    links = message.get("links", ())
    if isinstance(links, (bytes, str)) or not isinstance(links, Iterable):
        raise ApplicationError(f"'links' must be an iterable of bytes, not {links!r}")
    headers = [(b"link", link) for link in links]
    if headers and response.phase < STREAMING:  # after the head, an early hint is ignored
        response.writer.write_informational(103, headers)


# Trailers.


def promised_trailers(response: ExtensibleResponse) -> list[Header] | None:
    """Return the first value of `trailers`, for a response with 'trailers' True."""
    if "http.response.trailers" in response.host.switched_off:
        raise _not_offered(response, "http.response.trailers")
    return [] if response.writer.allows_trailers() else None


def _send_trailers(response: ExtensibleResponse, message: Message) -> None:
    if response.phase is not TRAILING or response.trailers is None:
        raise ApplicationError(
            "expected 'http.response.trailers' after the body of a response that was started"
            " with 'trailers' True"
        )
    trailers = [*response.trailers, *read_trailers(message.get("headers", ()))]
    if message.get("more_trailers", False):
        response.trailers = trailers
    else:
        response.writer.write_trailers(trailers)
        response.finish()


# Files.


async def _send_path(response: ExtensibleResponse, message: Message) -> None:
    if response.phase is not STARTED:
        raise ApplicationError(
            "'http.response.pathsend' is a whole body: expected between 'http.response.start' and"
            " any other part"
        )
    file = await files.open_file(response.host.loop, files.check_path(message))
    try:
        response.check_client()
        if response.phase is not STARTED:
            raise ApplicationError(
                "the response was sent while the file of 'http.response.pathsend' was opened"
            )
        await _send_file(response, _limit(response, file), True)
    finally:
        os.close(file.descriptor)


async def _send_open_file(response: ExtensibleResponse, kind: str, message: Message) -> None:
    if response.phase is not STARTED and response.phase is not STREAMING:
        raise unexpected_body(kind, response.phase)
    file = files.describe(message)
    if message.get("count") is None:
        file = _limit(response, file)
    await _send_file(response, file, not message.get("more_body", False))
    files.move_on(message, file)
    if response.phase is STREAMING:
        # If the client reads fast enough, the application never waits: let other tasks run here.
        await asyncio.sleep(0)


def _limit(response: ExtensibleResponse, file: File) -> File:
    """Limit a file to the announced length: it may have grown since the application looked."""
    left = response.content_left
    return file._replace(size=left) if 0 <= left < file.size else file


async def _send_file(response: ExtensibleResponse, file: File, end: bool) -> None:
    """Send a part of a file as a part of the body, the last part if `end`."""
    data, count = file.data, file.size
    if response.is_bodyless:
        data = b""
    elif data is None and count < files.MIN_SENDFILE:
        data = await _read(response, file.descriptor, file.offset, count)
    left = response.content_left
    if end and count < left:
        raise ApplicationError(f"the file is {left - count} bytes shorter than its content-length")
    if count > left >= 0:
        raise ApplicationError(f"the body is {count - left} bytes longer than its content-length")
    # From here to the first byte nothing waits. A `send()` cancelled earlier has written nothing,
    # and the application can still answer in another way.
    if (
        response.phase is STARTED
        and end
        and response.trailers is None
        and (not response.is_bodyless or response.method == "HEAD")
    ):
        response.writer.set_length(count)
        response.content_left = UNDECLARED if response.is_bodyless else count
    if data is not None:
        response.send_body({"body": data[:count], "more_body": not end})
        return
    response.phase = SENDING
    try:
        left = count
        if response.writer.start_file(file.descriptor, file.offset, count, end):
            left = await _wait_for_file(response, count)
        if left:
            await _send_pieces(response, file.descriptor, file.offset + count - left, left, end)
        elif end:
            response.send_body({})
    except asyncio.CancelledError:
        if response.phase is SENDING and response.content_left == UNDECLARED:
            response.cut()
        raise
    finally:
        # Also if the application was cancelled: it may send the rest of a body with a length in
        # another way.
        if response.phase is SENDING:
            response.phase = STREAMING


async def _wait_for_file(response: ExtensibleResponse, count: int) -> int:
    """Wait until the file is sent, or cannot be.

    Returns the number of bytes not sent. The error follows when these are read.
    """
    try:
        await response.wait_for_room()
    finally:
        left = response.writer.stop_file()
        if response.content_left >= 0:
            response.content_left -= count - left
    _check_sending(response)
    return left


async def _send_pieces(
    response: ExtensibleResponse, descriptor: int, offset: int, count: int, end: bool
) -> None:
    while count:
        piece = await _read(response, descriptor, offset, min(count, files.PIECE))
        offset += len(piece)
        count -= len(piece)
        response.send_body({"body": piece, "more_body": not end or count > 0})
        if response.phase is not COMPLETE:  # nothing resumes writing after the end of the exchange
            await response.wait_for_room()


async def _read(response: ExtensibleResponse, descriptor: int, offset: int, size: int) -> bytes:
    """Read `size` bytes of a file. Raises ApplicationError if it has fewer, ClientDisconnected."""
    try:
        piece = await files.read_piece(response.host.loop, descriptor, offset, size)
    except OSError as error:
        raise ApplicationError(f"the file cannot be read: {error}") from error
    _check_sending(response)
    if len(piece) < size:
        raise ApplicationError(f"the file is {size - len(piece)} bytes or more shorter than it was")
    return piece


def _check_sending(response: ExtensibleResponse) -> None:
    """Raises ClientDisconnected if, during a wait, the client has gone or the response ended."""
    response.check_client()
    if response.phase not in (STARTED, STREAMING, SENDING):
        raise ClientDisconnected("the response has ended while a file was sent")
