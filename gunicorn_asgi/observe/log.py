"""Gunicorn's logger, as far as this package uses it."""

from __future__ import annotations

from typing import Protocol


class Log(Protocol):
    """The methods of Gunicorn's logger that this package uses."""

    def debug(self, message: str, *args: object) -> None: ...

    def info(self, message: str, *args: object) -> None: ...

    def warning(
        self, message: str, *args: object, exc_info: BaseException | None = None
    ) -> None: ...

    def error(self, message: str, *args: object, exc_info: BaseException | None = None) -> None: ...

    def exception(self, message: str, *args: object) -> None: ...
