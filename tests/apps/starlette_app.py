"""Starlette, as its users write it."""

import asyncio
import contextlib

from events import note
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

released = asyncio.Event()


@contextlib.asynccontextmanager
async def lifespan(app):
    note("startup")
    yield {"greeting": "hello"}
    note("shutdown")


async def json(request):
    return JSONResponse({"greeting": request.state.greeting, "query": dict(request.query_params), "client": request.client.host})


async def stream(request):
    async def parts():
        for part in range(5):
            yield f"part {part}\n"
            await asyncio.sleep(0)

    return StreamingResponse(parts(), media_type="text/plain")


async def endless(request):
    async def parts():
        note("begun")
        try:
            while True:
                yield "x" * 1000
                await asyncio.sleep(0.01)
        finally:
            note("closed")

    return StreamingResponse(parts())


async def upload(request):
    async with request.form() as form:
        file = form["file"]
        content = await file.read()
        return JSONResponse({"name": file.filename, "size": len(content), "last": content[-1:].decode(), "field": form["field"]})


async def background(request):
    async def work():
        note("background begun")
        await released.wait()
        note("background done")

    return JSONResponse({"accepted": True}, status_code=202, background=BackgroundTask(work))


async def release(request):
    released.set()
    return JSONResponse({"released": True})


async def error(request):
    raise ValueError("the application's own")


app = Starlette(
    routes=[
        Route("/json", json),
        Route("/stream", stream),
        Route("/endless", endless),
        Route("/upload", upload, methods=["POST"]),
        Route("/background", background),
        Route("/release", release),
        Route("/error", error),
    ],
    lifespan=lifespan,
)
