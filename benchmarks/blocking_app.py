"""The FastAPI application of thread_exits.py: an endpoint that works in a thread."""

from __future__ import annotations

import os
import time

from fastapi import FastAPI

app = FastAPI()


@app.get("/pid")
async def pid() -> int:
    """The worker that answers."""
    return os.getpid()


@app.get("/busy")
def busy(seconds: float) -> None:
    """In a thread of AnyIO's, which nobody can cancel."""
    time.sleep(seconds)
