"""Open files at once, without a thread, if the system can do so without waiting.

It can on Linux, for a path in the system's cache, on a local file system. A thread for each file
would cost more than the rest of a short response. All other files are opened in a thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable

OPENAT2 = 437
"""The number of the system call, on every architecture."""
AT_FDCWD = -100
RESOLVE_CACHED = 0x20
"""Linux 5.12: fail with EAGAIN unless the whole path is in the cache of names."""
LOCAL_FILE_SYSTEMS = frozenset(
    {
        0xEF53,
        0x58465342,
        0x9123683E,
        0x01021994,
        0x794C7630,
        0x2FC12FC1,
        0xF2F52010,
        0x73717368,
        0x858458F6,
    }
)
"""ext2 to ext4, XFS, Btrfs, tmpfs, overlayfs, ZFS, F2FS, squashfs, ramfs (statfs(2)).

On other file systems, opening a file may have to wait for the network.
"""
MAX_FOLDERS = 1024


class _How(ctypes.Structure):
    """struct open_how."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _system() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None, use_errno=True).syscall
    except (OSError, AttributeError):
        return None


def _folder(path: str) -> str:
    # With the slash: the root folder is "/", and "" is the working directory.
    return path[: path.rfind("/") + 1]


class Opener:
    """Opens files without waiting, in folders that it has learned.

    It learns a folder from a file in it that a thread has opened.
    """

    def __init__(self) -> None:
        self._syscall = _system()
        self._folders: dict[str, bool] = {}
        """Folders, and whether their files are on a local file system.

        An entry can be wrong: a link in the folder leads to another file system, a file system is
        mounted there later, or the process changes its working directory. Then opening a file may
        wait in the loop's thread.
        """

    def open(self, path: str, flags: int) -> int:
        """Return the descriptor of the file at `path`, or -1.

        -1: open it in a thread, which also finds the reason of an error.
        """
        if self._syscall is None or not self._folders.get(_folder(path)):
            return -1
        try:
            name = os.fsencode(path)
        except UnicodeEncodeError:
            return -1
        how = _How(flags, 0, RESOLVE_CACHED)
        descriptor = self._syscall(OPENAT2, AT_FDCWD, name, ctypes.byref(how), ctypes.sizeof(how))
        if descriptor < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
            self._syscall = None  # an old kernel, or a container that forbids the call
        return descriptor

    def learn(self, path: str, descriptor: int) -> None:
        """Learn the folder of `path`, whose `descriptor` a thread has opened.

        Call it in that thread: it may wait.
        """
        folder = _folder(path)
        if self._syscall is None or folder in self._folders:
            return
        # struct statfs begins with f_type, a long.
        buffer = ctypes.create_string_buffer(256)
        if ctypes.CDLL(None).fstatfs(descriptor, buffer) == 0:
            if len(self._folders) >= MAX_FOLDERS:
                self._folders.clear()
            kind = ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF
            self._folders[folder] = kind in LOCAL_FILE_SYSTEMS
