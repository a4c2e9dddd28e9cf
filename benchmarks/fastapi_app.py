"""The FastAPI application that is measured. A module of its own, so that no other scenario's memory has FastAPI in it."""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI()


@app.get("/items/{number}")
async def read_item(number: int, q: str | None = None) -> dict[str, int | str | None]:
    """A JSON answer made from a validated path and query."""
    return {"number": number, "q": q}
