"""FastAPI, as its users write it: synchronous and asynchronous routes, dependencies that clean up, models."""

import asyncio
import contextlib
from typing import Annotated

from events import note
from fastapi import (
    BackgroundTasks,
    Depends,
    FastAPI,
    Form,
    HTTPException,
    Request,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
)
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

released = asyncio.Event()


@contextlib.asynccontextmanager
async def lifespan(app):
    note("startup")
    yield {"greeting": "hello"}
    note("shutdown")


app = FastAPI(lifespan=lifespan)


class Item(BaseModel):
    name: str
    price: float


@app.get("/json")
async def json(request: Request):
    return {
        "greeting": request.state.greeting,
        "query": dict(request.query_params),
        "client": request.client.host,
    }


@app.post("/items")
def items(item: Item):
    return item


@app.get("/stream")
def stream():
    # A synchronous generator: Starlette runs it in a thread.
    return StreamingResponse((f"part {part}\n" for part in range(5)), media_type="text/plain")


async def connection():
    try:
        yield "connection"
    finally:
        note("dependency closed")


@app.get("/endless")
async def endless(dependency: Annotated[str, Depends(connection)]):
    async def parts():
        note("begun")
        try:
            while True:
                yield "x" * 1000
                await asyncio.sleep(0.01)
        finally:
            note("closed")

    return StreamingResponse(parts())


@app.post("/upload")
async def upload(file: UploadFile, field: Annotated[str, Form()]):
    content = await file.read()
    return {
        "name": file.filename,
        "size": len(content),
        "last": content[-1:].decode(),
        "field": field,
    }


@app.get("/background", status_code=202)
async def background(tasks: BackgroundTasks):
    async def work():
        note("background begun")
        await released.wait()
        note("background done")

    tasks.add_task(work)
    return {"accepted": True}


@app.get("/release")
async def release():
    released.set()
    return {"released": True}


@app.get("/error")
async def error():
    raise ValueError("the application's own")


# WebSockets.


async def user(token: str = ""):
    if token == "banned":
        raise HTTPException(403, "not you", {"x-reason": "banned"})
    if token != "secret":
        raise WebSocketException(1008, "no token")
    return "me"


@app.websocket("/ws/items/{item}")
async def ws_items(
    websocket: WebSocket,
    item: int,
    user: Annotated[str, Depends(user)],
    dependency: Annotated[str, Depends(connection)],
):
    await websocket.accept()
    try:
        while True:
            got = Item(**await websocket.receive_json())
            await websocket.send_json(
                {
                    "item": item,
                    "user": user,
                    "greeting": websocket.state.greeting,
                    "got": got.model_dump(),
                }
            )
    except WebSocketDisconnect as gone:
        note("disconnected", gone.code, gone.reason)
