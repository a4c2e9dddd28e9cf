"""FastAPI on trio, through anyio: the routes of `trio_starlette_app` that FastAPI has its own way for."""

from typing import Annotated

import anyio
import anyio.from_thread
import trio_mistakes
import trio_parts
import trio_starlette_app as starlette
from events import note
from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, StreamingResponse

app = FastAPI(lifespan=starlette.lifespan)


@app.get("/json")
async def show(request: Request, a: str = ""):
    return {"library": trio_parts.library(), "greeting": request.state.greeting, "a": a}


@app.get("/stream")
async def stream():
    return StreamingResponse(starlette.parts)


async def connection():
    """A dependency that cleans up."""
    try:
        yield "connection"
    finally:
        await anyio.sleep(0)
        note("dependency closed in", trio_parts.library())


@app.get("/endless")
async def endless(dependency: Annotated[str, Depends(connection)], request: Request):
    return await starlette.endless(request)


@app.get("/background", status_code=202)
async def background(tasks: BackgroundTasks):
    async def work():
        note("background begun in", trio_parts.library())
        await starlette.state["released"].wait()
        note("background done")

    tasks.add_task(work)
    return {"accepted": True}


def thread_dependency():
    """FastAPI runs it in a thread."""
    try:
        yield trio_parts.in_thread(anyio.from_thread)
    finally:
        note("thread dependency closed in", trio_parts.library())


@app.get("/thread")
def read_in_thread(dependency: Annotated[dict, Depends(thread_dependency)]):
    found = trio_parts.in_thread(anyio.from_thread)
    assert dependency == found
    return found


@app.get("/file")
def file():
    return FileResponse(trio_parts.FILE)


@app.get("/error")
async def error():
    raise ValueError("the application's own")


@app.get("/mistake")
async def mistake(kind: str):
    await trio_mistakes.make(kind)


@app.websocket("/ws/echo")
async def ws_echo(websocket: WebSocket, dependency: Annotated[str, Depends(connection)]):
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect as gone:
        note("disconnected", gone.code, gone.reason)


# The rest is Starlette's.
app.router.routes += [
    route
    for route in starlette.routes
    if route.path not in {own.path for own in app.router.routes if hasattr(own, "path")}
]
