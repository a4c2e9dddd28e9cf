"""Open files at once, without a thread, if the system can do so without waiting.

It can on Linux, for a path in the system's cache, on a local file system. A thread for each file
would cost more than the rest of a short response. All other files are opened in a thread.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

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


def _folder(path: str) -> str:
    # With the slash: the root folder is "/", and "" is the working directory.
    return path[: path.rfind("/") + 1]


class Opener:
    """Opens files without waiting, in folders that it has learned.

    It learns a folder from a file in it that a thread has opened.
    """

    def __init__(self) -> None:
        self._is_able = sys.platform == "linux"
        """As far as is known."""
        self._open_cached: Callable[[bytes, int], int] | None = None
        """None until a folder is learned, and where the system is not able."""
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
        if self._open_cached is None or not self._folders.get(_folder(path)):
            return -1
        try:
            return self._open_cached(os.fsencode(path), flags)
        except UnicodeEncodeError:
            return -1
        except NotImplementedError:
            self._is_able = False
            self._open_cached = None
            return -1

    def learn(self, path: str, descriptor: int) -> None:
        """Learn the folder of `path`, whose `descriptor` a thread has opened.

        Call it in that thread: it may wait.
        """
        folder = _folder(path)
        if not self._is_able or folder in self._folders:
            return
        try:
            from . import linux_calls  # noqa: PLC0415 # may be missing
        except (ImportError, OSError, AttributeError):  # no shared C library
            self._is_able = False
            return
        kind = linux_calls.file_system(descriptor)
        if kind is not None:
            if len(self._folders) >= MAX_FOLDERS:
                self._folders.clear()
            self._open_cached = linux_calls.open_cached
            self._folders[folder] = kind in LOCAL_FILE_SYSTEMS
