"""Files as bodies of responses: open and read them without blocking the loop.

See the ASGI specification, "Path Send" and "Zero Copy Send".
"""

from __future__ import annotations

import asyncio
import io
import os
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import ApplicationError
from .exchange import wait_until_done
from .opener import Opener

MIN_SENDFILE = 16384
"""Size in bytes from which a file is sent without reading it, if the connection can do so.

A smaller file is read when it is opened, and sent in one write with the head.
"""
PIECE = 131072
"""Bytes of one read of a larger file, if the connection cannot send it directly."""
NOWAIT = getattr(os, "RWF_NOWAIT", 0)
"""Linux: read from the cache, or fail where the read would wait for the disk."""


class File(NamedTuple):
    """An open file, or a part of one."""

    descriptor: int
    offset: int
    size: int
    data: bytes | None
    """The whole content, if it was read with the opening."""


def check_path(message: Mapping[str, Any]) -> str:
    """Return the path of ``http.response.pathsend``. Raises ApplicationError."""
    path = message.get("path")
    # ASGI ("Path Send") asks for an absolute path. Starlette passes on the path given to
    # FileResponse, after it has found a file there.
    if isinstance(path, str) and path and "\0" not in path:
        return path
    raise ApplicationError(f"'path' must be the path of a file as a str, not {path!r}")


OPENER = Opener()
FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""O_NONBLOCK: opening a FIFO would wait until another process writes to it."""


async def open_file(loop: asyncio.AbstractEventLoop, path: str) -> File:
    """Open the regular file at `path`, in a thread unless it can be opened at once.

    Raises ApplicationError.
    """
    descriptor = OPENER.open(path, FLAGS)
    if descriptor >= 0:
        try:
            return _look(descriptor, NOWAIT)
        except OSError:
            os.close(descriptor)  # a thread can wait for the disk, and finds any other error
    opening = loop.run_in_executor(None, _open, path)
    try:
        await wait_until_done(opening, loop)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise
    try:
        return opening.result()
    except (OSError, ValueError) as error:
        # Not an OSError: frameworks take it for the end of the client.
        raise ApplicationError(
            f"the file of 'http.response.pathsend' cannot be sent: {path!r}: {error}"
        ) from error


def _open(path: str) -> File:
    try:
        descriptor = os.open(path, FLAGS)
    except BlockingIOError:
        # Another process, for example a file server, has a lease on the file (fcntl(2),
        # F_SETLEASE). The kernel asks it to release the lease. This thread may wait for it.
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 # the path is a str
            raise
        descriptor = os.open(path, FLAGS & ~os.O_NONBLOCK)
    try:
        OPENER.learn(path, descriptor)
        return _look(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise


def _look(descriptor: int, flags: int) -> File:
    """Check an open file, and read it if it is small.

    Raises OSError, also if `flags` are NOWAIT and the read would wait.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    size = status.st_size
    if size >= MIN_SENDFILE:
        return File(descriptor, 0, size, None)
    buffer = bytearray(size)
    count = os.preadv(descriptor, [buffer], 0, flags)
    if flags and count < size:
        raise BlockingIOError("only a part of it is in the cache")
    return File(descriptor, 0, count, bytes(buffer[:count]))  # it may have shrunk


def _close_unwanted(opening: asyncio.Future[File]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result().descriptor)


def describe(message: Mapping[str, Any]) -> File:
    """Return the part of a file that ``http.response.zerocopysend`` names.

    Raises ApplicationError.
    """
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
            # A buffered file has read ahead: its own position counts, not the descriptor's.
            offset = (
                int(file.tell()) if hasattr(file, "tell") else os.lseek(descriptor, 0, os.SEEK_CUR)
            )
    except (AttributeError, TypeError, ValueError, OSError, OverflowError) as error:
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
            f"'count' is {count}, and after offset {offset} the file has {left} bytes"
        )
    return File(descriptor, offset, count, b"" if count == 0 else None)


def move_on(message: Mapping[str, Any], file: File) -> None:
    """Without an offset the file's own position counts: move it to the end of the part."""
    if message.get("offset") is None:
        end = file.offset + file.size
        if hasattr(message["file"], "seek"):
            message["file"].seek(end)
        else:
            os.lseek(file.descriptor, end, os.SEEK_SET)


async def read_piece(
    loop: asyncio.AbstractEventLoop, descriptor: int, offset: int, size: int
) -> bytes:
    """Read `size` bytes, or fewer at the end of the file. Raises OSError.

    A thread reads them unless they are in the system's cache.
    """
    found = b""
    if NOWAIT:
        buffer = bytearray(size)
        try:
            count = os.preadv(descriptor, [buffer], offset, NOWAIT)
        except OSError:
            pass  # the read would wait, or the file system does not support the flag
        else:
            await asyncio.sleep(0)  # let other tasks run
            if count == size:
                return bytes(buffer)
            found = bytes(buffer[:count])
    # A duplicate: a cancelled caller closes the file, and its number may then be used again.
    duplicate = os.dup(descriptor)
    reading = loop.run_in_executor(
        None, os.pread, duplicate, size - len(found), offset + len(found)
    )

    def release(_: object) -> None:
        os.close(duplicate)
        if not reading.cancelled():
            reading.exception()  # the caller may have been cancelled

    reading.add_done_callback(release)
    await wait_until_done(reading, loop)
    return found + reading.result()
