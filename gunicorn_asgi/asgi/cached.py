"""Opening a file at once where nothing of it has to be waited for: on Linux, with its path in the system's cache, on a local file system.

A thread for each file would cost more than all the rest of a short response. Whatever does not fit here is opened in one.
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
"""Linux 5.12: fail with EAGAIN unless all of the path is in the cache of names."""
LOCAL = frozenset(
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
"""ext2 to ext4, XFS, Btrfs, tmpfs, overlayfs, ZFS, F2FS, squashfs, ramfs (statfs(2)). On others, opening may ask somebody over a network."""
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
    return path[: path.rfind("/") + 1]  # with the slash: / is not where the process is


class Opener:
    """Opens what it can open without waiting. Learns of the folders of other files, which are opened in threads."""

    def __init__(self) -> None:
        self._syscall = _system()
        self._folders: dict[str, bool] = {}
        """Whether what lies in them is on a local file system. Wrong for the worse only where a link in them leads to another one, something is
        mounted there meanwhile, or the process goes to another folder; and then a file may be waited for that would not be in a thread."""

    def open(self, path: str, flags: int) -> int:
        """The descriptor of the file at `path`, or -1 where it has to be opened in a thread, which also finds out what is wrong with it."""
        if self._syscall is None or not self._folders.get(_folder(path)):
            return -1
        try:
            name = os.fsencode(path)
        except UnicodeEncodeError:
            return -1
        how = _How(flags, 0, RESOLVE_CACHED)
        descriptor = self._syscall(OPENAT2, AT_FDCWD, name, ctypes.byref(how), ctypes.sizeof(how))
        if descriptor < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
            self._syscall = None  # an old kernel, or a container that forbids it
        return descriptor

    def learn(self, path: str, descriptor: int) -> None:
        """`descriptor` is that of `path`, which was opened in a thread. To be called there."""
        folder = _folder(path)
        if self._syscall is None or folder in self._folders:
            return
        # struct statfs begins with f_type, a long.
        buffer = ctypes.create_string_buffer(256)
        if ctypes.CDLL(None).fstatfs(descriptor, buffer) == 0:
            if len(self._folders) >= MAX_FOLDERS:
                self._folders.clear()
            self._folders[folder] = ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF in LOCAL
