"""The Starlette application that is measured, on asyncio and, through anyio, on trio."""

from __future__ import annotations

from apps import HELLO
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def hello(_: Request) -> PlainTextResponse:
    """Answers with HELLO."""
    return PlainTextResponse(HELLO)


app = Starlette(routes=[Route("/", hello)])
