"""The listening socket of ``metrics_bind``: made in the master, accepted from by all workers."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from ..config.bind_address import BindAddress
from ..errors import ConfigError

BACKLOG = 64


class MetricsSocket:
    """A listening socket at `address`.

    It is made before the master gives up its rights, and bound so that the master of a USR2 can
    bind it as well. A unix socket has the owner and the permissions of Gunicorn's own.
    """

    def __init__(
        self, address: BindAddress, umask: int, uid: int, gid: int, may_share: bool
    ) -> None:
        """`may_share`: another master may have the address, for this one replaces it (USR2).

        Raises ConfigError.
        """
        self.address = address
        self._pid = os.getpid()
        self._file: tuple[int, int] | None = None
        """The identity of a unix socket's file: another master may put its own in its place."""
        try:
            if isinstance(address, str):
                self.sock = _listen_at_path(Path(address), umask, uid, gid, may_share)
                self._file = _identify(Path(address))
            else:
                self.sock = _listen_at_port(*address, may_share)
        except (OSError, UnicodeError) as error:  # the second: a name that is none of a host
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"Invalid value for option metrics_bind: cannot listen at {_describe(address)}: "
                f"{reason}."
            ) from None

    def __str__(self) -> str:
        return _describe(self.address if self._file else self.sock.getsockname())

    @property
    def is_there(self) -> bool:
        """Whether clients can find it: another master may have replaced a unix socket's file."""
        return self._file is None or _identify(Path(str(self.address))) == self._file

    def close(self) -> None:
        """Close it in this process. The master that has made the file of a unix socket removes it.

        To be called at the end of the process, too: workers inherit this object.
        """
        self.sock.close()
        if self._file is not None and self._pid == os.getpid() and self.is_there:
            with suppress(OSError):
                Path(str(self.address)).unlink()


def _describe(address: BindAddress) -> str:
    if isinstance(address, str):
        return f"unix:{address}"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _identify(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _listen_at_port(host: str, port: int, may_share: bool) -> socket.socket:
    family, kind, protocol, _, name = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    if not may_share:
        # Sockets with SO_REUSEPORT share an address in silence, also with another service of the
        # same user. One without it finds out whether the address is free.
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(name)
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(name)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _listen_at_path(path: Path, umask: int, uid: int, gid: int, may_share: bool) -> socket.socket:
    _remove_old(path, may_share)
    sock = socket.socket(socket.AF_UNIX)
    old_umask = os.umask(umask)
    try:
        sock.bind(str(path))
        os.chown(path, uid, gid)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(old_umask)
    return sock


def _remove_old(path: Path, may_share: bool) -> None:
    """Remove the socket that a process has left there which is no more. Raises OSError."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(0, "a file is there that is no socket")
    if not may_share:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                pass  # nobody listens
            else:
                raise FileExistsError(0, "another process listens there")
    path.unlink()
