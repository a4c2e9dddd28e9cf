"""Files as bodies: opened and read without holding the loop up (ASGI statements 124 to 136)."""

from __future__ import annotations

import asyncio
import io
import os
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import ApplicationError
from .cached import Opener

LARGE = 16384
"""Bytes from which on a file is sent without being read, where that is possible. A smaller one is read as a whole with its opening, and sent in one
write with its head."""
PIECE = 131072
"""Bytes that are read at once of a larger one, where it passes through this process."""
NOWAIT = getattr(os, "RWF_NOWAIT", 0)
"""Linux reads what is in its cache, and says where it would have to wait for the disk."""


class File(NamedTuple):
    """An open file, or a part of one."""

    descriptor: int
    offset: int
    size: int
    data: bytes | None
    """All of it, where that has been read already."""


def check_path(message: Mapping[str, Any]) -> str:
    """The path of ``http.response.pathsend``. Raises ApplicationError."""
    path = message.get("path")
    # Statement 131 wants it absolute. Starlette passes on what its user gave to FileResponse, once it has found a file there.
    if isinstance(path, str) and path and "\0" not in path:
        return path
    raise ApplicationError(f"'path' must be the path of a file as a str, not {path!r}")


OPENER = Opener()
FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""O_NONBLOCK: a FIFO would be waited for until somebody writes to it."""


async def open_file(loop: asyncio.AbstractEventLoop, path: str) -> File:
    """Open the regular file at `path`, in a thread unless that can be done at once. Raises ApplicationError."""
    descriptor = OPENER.open(path, FLAGS)
    if descriptor >= 0:
        try:
            return _look(descriptor, NOWAIT)
        except OSError:
            os.close(descriptor)  # a thread may wait for the disk, and finds out what else is wrong
    opening = loop.run_in_executor(None, _open, path)
    try:
        await asyncio.wait([opening])  # which, cancelled, does not cancel it
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise
    try:
        return opening.result()
    except (OSError, ValueError) as error:
        # Not as it is: for a framework, an OSError out of send() says that the client is gone.
        raise ApplicationError(
            f"the file of 'http.response.pathsend' cannot be sent: {path!r}: {error}"
        ) from error


def _open(path: str) -> File:
    try:
        descriptor = os.open(path, FLAGS)
    except BlockingIOError:
        # Somebody has a lease of it (fcntl(2), F_SETLEASE), as file servers have, and is asked to give that up: which this thread may wait for.
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 # a str is what there is
            raise
        descriptor = os.open(path, FLAGS & ~os.O_NONBLOCK)
    try:
        OPENER.learn(path, descriptor)
        return _look(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise


def _look(descriptor: int, flags: int) -> File:
    """Read it if it is small. Raises OSError, also where that would take time and `flags` are NOWAIT."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    size = status.st_size
    if size >= LARGE:
        return File(descriptor, 0, size, None)
    buffer = bytearray(size)
    count = os.preadv(descriptor, [buffer], 0, flags)
    if flags and count < size:
        raise BlockingIOError("only a part of it is in the cache")
    return File(descriptor, 0, count, bytes(buffer[:count]))  # it may have become shorter since


def _close_unwanted(opening: asyncio.Future[File]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result().descriptor)


def describe(message: Mapping[str, Any]) -> File:
    """The part of a file that ``http.response.zerocopysend`` is to send. Raises ApplicationError."""
    file: Any = message.get("file")
    offset, count = message.get("offset"), message.get("count")
    for name, number in (("offset", offset), ("count", count)):
        if number is not None and (
            not isinstance(number, int) or isinstance(number, bool) or number < 0
        ):
            raise ApplicationError(f"{name!r} must be a number of bytes or None, not {number!r}")
    try:
        descriptor = file if isinstance(file, int) and not isinstance(file, bool) else file.fileno()
        status = os.fstat(descriptor)
        if isinstance(file, io.TextIOBase):
            raise TypeError
        if offset is None and stat.S_ISREG(status.st_mode):
            # A buffer in front of the descriptor has read ahead of what the application has.
            offset = (
                int(file.tell()) if hasattr(file, "tell") else os.lseek(descriptor, 0, os.SEEK_CUR)
            )
    except (
        AttributeError,
        TypeError,
        ValueError,
        OSError,
        OverflowError,
    ) as error:  # io.UnsupportedOperation is two of them
        raise ApplicationError(
            f"'file' must be an open binary file with a descriptor, not {file!r}"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise ApplicationError(f"'file' must be a regular file, not {file!r}")
    assert isinstance(offset, int)
    left = max(0, status.st_size - offset)
    if count is None:
        count = left
    elif count > left:
        raise ApplicationError(
            f"'count' is {count}, and behind offset {offset} the file has {left} bytes"
        )
    return File(descriptor, offset, count, b"" if count == 0 else None)


def move_on(message: Mapping[str, Any], file: File) -> None:
    """Where no offset was given, the file's own position was meant: put it behind what was sent."""
    if message.get("offset") is None:
        end = file.offset + file.size
        if hasattr(message["file"], "seek"):
            message["file"].seek(end)
        else:
            os.lseek(file.descriptor, end, os.SEEK_SET)


async def read_piece(
    loop: asyncio.AbstractEventLoop, descriptor: int, offset: int, size: int
) -> bytes:
    """The next `size` bytes; fewer where the file ends before. In a thread, unless they are in the system's cache. Raises OSError."""
    found = b""
    if NOWAIT:
        buffer = bytearray(size)
        try:
            count = os.preadv(descriptor, [buffer], offset, NOWAIT)
        except OSError:
            pass  # it would have to wait, or this file system cannot tell
        else:
            await asyncio.sleep(0)  # others want their turn
            if count == size:
                return bytes(buffer)
            found = bytes(buffer[:count])
    # Of its own: whoever is cancelled meanwhile closes the file, and the number might soon be another one's.
    duplicate = os.dup(descriptor)
    reading = loop.run_in_executor(
        None, os.pread, duplicate, size - len(found), offset + len(found)
    )

    def release(_: object) -> None:
        os.close(duplicate)
        if not reading.cancelled():
            reading.exception()  # nobody may be left to see it

    reading.add_done_callback(release)
    await asyncio.wait([reading])  # which, cancelled, does not cancel it
    return found + reading.result()
