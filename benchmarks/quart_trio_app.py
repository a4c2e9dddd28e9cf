"""The Quart-Trio application that is measured."""

from __future__ import annotations

from apps import HELLO
from quart_trio import QuartTrio

app = QuartTrio(__name__)


@app.route("/")
async def hello() -> bytes:
    """Answers with HELLO."""
    return HELLO
