"""Starlette on trio, through anyio, as its users write it."""

import contextlib
import zlib

import anyio
import anyio.from_thread
import trio_mistakes
import trio_parts
from events import note
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

parts = trio_parts.Parts(anyio.Event, anyio.sleep)
state = {}


@contextlib.asynccontextmanager
async def lifespan(app):
    note("startup in", trio_parts.library())
    state["released"] = anyio.Event()
    async with anyio.create_task_group() as group:
        jobs, taken_jobs = anyio.create_memory_object_stream(10)
        with jobs, taken_jobs:
            group.start_soon(trio_parts.work, taken_jobs)
            yield {"greeting": "hello", "jobs": jobs}
            group.cancel_scope.cancel()
    await anyio.sleep(0.01)
    note("shutdown")


async def show(request):
    return JSONResponse(
        {
            "library": trio_parts.library(),
            "greeting": request.state.greeting,
            "a": request.query_params.get("a", ""),
        }
    )


async def stream(request):
    return StreamingResponse(parts)


async def release(request):
    parts.release()
    return JSONResponse("released")


async def endless(request):
    async def endless_parts():
        note("begun")
        try:
            while True:
                yield "x" * 1000
                await anyio.sleep(0.01)
        finally:
            note("closed")

    return StreamingResponse(endless_parts())


async def polling(request):
    """It asks whether the client is still there."""
    note("polling")
    while not await request.is_disconnected():
        await anyio.sleep(0.01)
    note("polled")
    return JSONResponse("too late")


async def upload(request):
    size = crc = count = 0
    async for part in request.stream():
        size += len(part)
        crc = zlib.crc32(part, crc)
        count += 1
        await anyio.sleep(0)
    return JSONResponse({"size": size, "crc": crc, "parts": count})


async def background(request):
    async def work():
        note("background begun in", trio_parts.library())
        await state["released"].wait()
        note("background done")

    return JSONResponse({"accepted": True}, 202, background=BackgroundTask(work))


async def finish(request):
    state["released"].set()
    return JSONResponse("finished")


async def job(request):
    await request.state.jobs.send(request.query_params["name"])
    return JSONResponse(request.query_params["name"])


def read_in_thread(request):
    """Starlette runs it in a thread."""
    return JSONResponse(trio_parts.in_thread(anyio.from_thread))


async def context(request):
    before = trio_parts.value.get()
    trio_parts.value.set(request.query_params["value"])
    seen = []

    async def child():
        await anyio.sleep(0.001)
        seen.append(trio_parts.value.get())
        trio_parts.value.set("the child's")

    async with anyio.create_task_group() as group:
        group.start_soon(child)
        group.start_soon(child)
    return JSONResponse({"before": before, "children": seen, "after": trio_parts.value.get()})


async def fetch(request):
    return JSONResponse(await trio_parts.fetch(request.scope, "/json?a=inner"))


async def file(request):
    return FileResponse(trio_parts.FILE)


async def error(request):
    raise ValueError("the application's own")


async def mistake(request):
    await trio_mistakes.make(request.query_params["kind"])


# WebSockets.


async def ws_echo(websocket):
    await websocket.accept()
    try:
        async for text in receive_all(websocket):
            await websocket.send_text(text)
    except WebSocketDisconnect as gone:
        note("disconnected", gone.code, gone.reason)


async def receive_all(websocket):
    while True:
        yield await websocket.receive_text()


async def ws_close(websocket):
    await websocket.accept()
    query = websocket.query_params
    await websocket.close(int(query["code"]), query.get("reason"))


async def ws_both(websocket):
    """One task receives, another sends."""
    await websocket.accept()
    heard, said = anyio.create_memory_object_stream(1)

    async def listen():
        with contextlib.suppress(WebSocketDisconnect):
            async for text in receive_all(websocket):
                await heard.send(text)
        group.cancel_scope.cancel()

    async def talk():
        try:
            while True:
                await websocket.send_text("tick")
                with anyio.move_on_after(0.005):
                    await websocket.send_text(f"heard {await said.receive()}")
        finally:
            note("talk ended")

    with heard, said:
        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            group.start_soon(talk)


class Middled(BaseHTTPMiddleware):
    """It has its own task group, between the application and the server."""

    async def dispatch(self, request, call_next):
        trio_parts.value.set("the middleware's")
        response = await call_next(request)
        response.headers["x-middled"] = trio_parts.library()
        return response


routes = [
    Route("/json", show),
    Route("/stream", stream),
    Route("/release", release),
    Route("/endless", endless),
    Route("/polling", polling),
    Route("/upload", upload, methods=["POST"]),
    Route("/background", background),
    Route("/finish", finish),
    Route("/job", job),
    Route("/thread", read_in_thread),
    Route("/context", context),
    Route("/fetch", fetch),
    Route("/file", file),
    Route("/error", error),
    Route("/mistake", mistake),
    WebSocketRoute("/ws/echo", ws_echo),
    WebSocketRoute("/ws/close", ws_close),
    WebSocketRoute("/ws/both", ws_both),
]
app = Starlette(
    routes=[
        *routes,
        Mount("/mounted", Starlette(routes=routes)),
        Mount("/middled", Starlette(routes=routes, middleware=[Middleware(Middled)])),
    ],
    lifespan=lifespan,
)
