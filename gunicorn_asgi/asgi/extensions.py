"""The messages of the extensions of a response: files, early hints and trailers (ASGI statements 124 to 136 and 145 to 152)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable

from ..errors import ApplicationError, ClientDisconnected
from ..http.fields import read_trailers
from . import files
from .files import File
from .http import (
    COMPLETE,
    PARTS_PER_TURN,
    SENDING,
    STARTED,
    STREAMING,
    TRAILING,
    UNKNOWN,
    HTTPStream,
    Phase,
)
from .scope import Message


class ExtendedStream(HTTPStream):
    """An exchange whose response may have more than a head and a body."""

    __slots__ = ()

    async def _send_extension(self, kind: str, message: Message, phase: Phase) -> None:
        """The messages of the extensions."""
        if isinstance(kind, str) and kind in self._host.switched_off:
            raise self._refusal(kind)
        if kind == "http.response.early_hint":
            self._send_early_hint(message, phase)
            await self._count_part()
        elif kind == "http.response.trailers":
            self._send_trailers(message, phase)
            if self._phase is TRAILING:
                await self._count_part()
        elif kind == "http.response.pathsend":
            if phase is not STARTED:
                raise ApplicationError(
                    "'http.response.pathsend' is a whole body: expected between 'http.response.start' and any other part"
                )
            await self._send_path(message)
        elif kind == "http.response.zerocopysend":
            if phase is not STARTED and phase is not STREAMING:
                self._refuse_body(kind, phase)
            file = files.describe(message)
            if message.get("count") is None:
                file = self._within(file)
            await self._send_file(file, not message.get("more_body", False))
            files.move_on(message, file)
            if self._phase is STREAMING:
                await asyncio.sleep(
                    0
                )  # a client that reads fast enough never makes it wait; others want their turn
        else:
            await super()._send_extension(kind, message, phase)

    def _promise_trailers(self) -> None:
        if "http.response.trailers" in self._host.switched_off:
            raise self._refusal("http.response.trailers")
        if self._writer.allows_trailers():
            self._trailers = []

    def _refusal(self, extension: str) -> ApplicationError:
        option = self._host.switched_off[extension]
        why = f"it is switched off by the option {option}"
        return ApplicationError(f"{extension!r} is not offered in scope['extensions']: {why}")

    async def _count_part(self) -> None:
        self._parts += 1
        if self._clogged:
            await self._drain()
        elif self._parts % PARTS_PER_TURN == 0:
            await asyncio.sleep(0)  # what is written in the next turn of the loop has to have one

    def _send_early_hint(self, message: Message, phase: Phase) -> None:
        links = message.get("links", ())
        if isinstance(links, (bytes, str)) or not isinstance(links, Iterable):
            raise ApplicationError(f"'links' must be an iterable of bytes, not {links!r}")
        headers = [(b"link", link) for link in links]
        if headers and phase < STREAMING:  # statement 146: behind the head it would be none
            self._writer.write_informational(103, headers)

    def _send_trailers(self, message: Message, phase: Phase) -> None:
        if phase is not TRAILING or self._trailers is None:
            raise ApplicationError(
                "expected 'http.response.trailers' behind the body of a response that was started with 'trailers' True"
            )
        trailers = [*self._trailers, *read_trailers(message.get("headers", ()))]
        if message.get("more_trailers", False):
            self._trailers = trailers
        else:
            self._writer.write_trailers(trailers)
            self._end()

    async def _send_path(self, message: Message) -> None:
        file = await files.open_file(self._host.loop, files.check_path(message))
        try:
            self._check_client()
            if self._phase is not STARTED:
                raise ApplicationError(
                    "the response was sent while the file of 'http.response.pathsend' was opened"
                )
            await self._send_file(self._within(file), True)
        finally:
            os.close(file.descriptor)

    def _within(self, file: File) -> File:
        """What was announced is the whole of a file that has grown since somebody looked."""
        return file._replace(size=self._due) if 0 <= self._due < file.size else file

    async def _send_file(self, file: File, end: bool) -> None:
        """Send a part of a file as a part of the body, the last one if `end`."""
        data, count = file.data, file.size
        if self._bodyless:
            data = b""
        elif data is None and count < files.LARGE:
            data = await self._read(file.descriptor, file.offset, count)
        if end and count < self._due:
            raise ApplicationError(
                f"the file is {self._due - count} bytes shorter than its content-length"
            )
        if count > self._due >= 0:
            raise ApplicationError(
                f"the body is {count - self._due} bytes longer than its content-length"
            )
        # From here on to the first byte nothing is waited for: an application that gives up before it may still answer otherwise.
        if (
            self._phase is STARTED
            and end
            and self._trailers is None
            and (not self._bodyless or self.method == "HEAD")
        ):
            self._writer.set_length(count)
            self._due = UNKNOWN if self._bodyless else count
        if data is not None:
            self._send_body({"body": data[:count], "more_body": not end}, self._phase)
            return
        self._phase = SENDING
        try:
            left = count
            if self._writer.start_file(file.descriptor, file.offset, count, end):
                left = await self._await_file(count)
            if left:
                await self._send_pieces(file.descriptor, file.offset + count - left, left, end)
            elif end:
                self._send_body({}, STREAMING)
        finally:
            # Also where the application has lost its patience: it may send the rest otherwise.
            if self._phase is SENDING:
                self._phase = STREAMING

    async def _await_file(self, count: int) -> int:
        """Wait until the file is sent, or cannot be. Returns how many bytes were not: whoever reads those will see why."""
        try:
            while self._clogged:
                await self._wait()
        finally:
            left = self._writer.stop_file()
            if self._due >= 0:
                self._due -= count - left
        self._check_open()
        return left

    async def _send_pieces(self, descriptor: int, offset: int, count: int, end: bool) -> None:
        while count:
            piece = await self._read(descriptor, offset, min(count, files.PIECE))
            offset += len(piece)
            count -= len(piece)
            self._send_body({"body": piece, "more_body": not end or count > 0}, STREAMING)
            # Behind the last one nobody would say that there is room again: the exchange is over.
            if self._clogged and self._phase is not COMPLETE:
                await self._drain()

    async def _read(self, descriptor: int, offset: int, size: int) -> bytes:
        """So many bytes of a file. Raises ApplicationError where they cannot be had, or ClientDisconnected."""
        try:
            piece = await files.read_piece(self._host.loop, descriptor, offset, size)
        except OSError as error:
            raise ApplicationError(f"the file cannot be read: {error}") from error
        self._check_open()
        if len(piece) < size:
            raise ApplicationError(
                f"the file is {size - len(piece)} bytes or more shorter than it was"
            )
        return piece

    def _check_open(self) -> None:
        """Whether a file may go on, behind something that was waited for."""
        self._check_client()
        if self._phase not in (STARTED, STREAMING, SENDING):
            raise ClientDisconnected("the response has ended while a file was sent")
