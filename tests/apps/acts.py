"""An application whose lifespan does what the file TEST_ACT says: the phase, and how it ends in that phase."""

import asyncio
import os
import sys
from pathlib import Path


class Unusual(BaseException):
    """No Exception."""


def returns():
    pass


def raises():
    raise ConnectionError("no database")


def is_cancelled():
    raise asyncio.CancelledError


def raises_unusual():
    raise Unusual("of the application")


def raises_group():
    if sys.version_info < (3, 11):  # from the package that task groups use there
        from exceptiongroup import BaseExceptionGroup
    else:
        from builtins import BaseExceptionGroup
    raise BaseExceptionGroup("of the application", [Unusual("inside")])


def exits():
    sys.exit(int(os.environ.get("TEST_CODE", "5")))


def interrupts():
    raise KeyboardInterrupt


ACTS = {
    act.__name__: act
    for act in (returns, raises, is_cancelled, raises_unusual, raises_group, exits, interrupts)
}


def act(phase):
    """Returns whether the application is through with its lifespan."""
    words = Path(os.environ["TEST_ACT"]).read_text().split()
    if words[0] == phase:
        ACTS[words[1]]()
        return True
    return False


async def app(scope, receive, send):
    if scope["type"] != "lifespan":
        import main

        await main.app(scope, receive, send)
        return
    await receive()
    if act("startup"):
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    if not act("shutdown"):
        await send({"type": "lifespan.shutdown.complete"})
