"""System calls of Linux for which Python has no functions.

Cannot be imported where Python has no shared C library.
"""

from __future__ import annotations

import ctypes
import errno

OPENAT2 = 437
"""The number of the system call, on every architecture."""
AT_FDCWD = -100
RESOLVE_CACHED = 0x20
"""Linux 5.12: fail with EAGAIN unless the whole path is in the cache of names."""
REFUSALS = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL})
"""The errors of an old kernel, or of a container that forbids the call."""

_LIBRARY = ctypes.CDLL(None, use_errno=True)
_SYSCALL, _FSTATFS = _LIBRARY.syscall, _LIBRARY.fstatfs


class _How(ctypes.Structure):
    """struct open_how."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_cached(name: bytes, flags: int) -> int:
    """Open a file if the system can do so without waiting. Returns its descriptor, or -1.

    Raises NotImplementedError if the system never can.
    """
    how = _How(flags, 0, RESOLVE_CACHED)
    descriptor: int = _SYSCALL(OPENAT2, AT_FDCWD, name, ctypes.byref(how), ctypes.sizeof(how))
    if descriptor < 0 and ctypes.get_errno() in REFUSALS:
        raise NotImplementedError
    return descriptor


def file_system(descriptor: int) -> int | None:
    """Return the kind of the file system of an open file (statfs(2)), or None. It may wait."""
    # struct statfs begins with f_type, a long.
    buffer = ctypes.create_string_buffer(256)
    if _FSTATFS(descriptor, buffer) != 0:
        return None
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF
