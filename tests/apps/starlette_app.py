"""Starlette, as its users write it."""

import asyncio
import contextlib

from events import note
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import WebSocketEndpoint
from starlette.exceptions import HTTPException, WebSocketException
from starlette.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

released = asyncio.Event()


@contextlib.asynccontextmanager
async def lifespan(app):
    note("startup")
    yield {"greeting": "hello"}
    note("shutdown")


async def json(request):
    return JSONResponse(
        {
            "greeting": request.state.greeting,
            "query": dict(request.query_params),
            "client": request.client.host,
        }
    )


async def cookies(request):
    return JSONResponse(request.cookies)


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
        return JSONResponse(
            {
                "name": file.filename,
                "size": len(content),
                "last": content[-1:].decode(),
                "field": form["field"],
            }
        )


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


# WebSockets.


async def ws_echo(websocket):
    await websocket.accept()
    try:
        while True:
            await websocket.send_json(
                {"greeting": websocket.state.greeting, "text": await websocket.receive_text()}
            )
    except WebSocketDisconnect as gone:
        note("disconnected", gone.code, gone.reason)


async def ws_iterate(websocket):
    """Without a word of the end, which Starlette swallows here."""
    await websocket.accept(headers=[(b"x-answer", b"42")])
    async for data in websocket.iter_bytes():
        await websocket.send_bytes(data)
    note("iterated")


class Endpoint(WebSocketEndpoint):
    encoding = "json"

    async def on_connect(self, websocket):
        offered = websocket.scope["subprotocols"]
        await websocket.accept(subprotocol="second" if "second" in offered else None)

    async def on_receive(self, websocket, data):
        await websocket.send_json({"got": data})

    async def on_disconnect(self, websocket, close_code):
        note("endpoint", close_code)


async def ws_stream(websocket):
    await websocket.accept()
    try:
        while True:
            await websocket.send_text("x" * 1000)
            await asyncio.sleep(0)
    except WebSocketDisconnect as gone:
        note("stream", gone.code)


async def ws_close(websocket):
    await websocket.accept()
    await websocket.close(int(websocket.query_params["code"]), websocket.query_params["reason"])


async def ws_error(websocket):
    await websocket.accept()
    raise ValueError("the application's own")


async def ws_reject(websocket):
    await websocket.close()


async def ws_deny(websocket):
    await websocket.send_denial_response(
        JSONResponse({"detail": "who are you?"}, 401, {"www-authenticate": "Bearer"})
    )


async def ws_deny_with_file(websocket):
    await websocket.send_denial_response(FileResponse(__file__, status_code=404))


async def ws_deny_by_exception(websocket):
    raise HTTPException(418, "no coffee")


async def ws_close_by_exception(websocket):
    await websocket.accept()
    raise WebSocketException(4000, "not like this")


app = Starlette(
    routes=[
        Route("/json", json),
        Route("/cookies", cookies),
        Route("/stream", stream),
        Route("/endless", endless),
        Route("/upload", upload, methods=["POST"]),
        Route("/background", background),
        Route("/release", release),
        Route("/error", error),
        WebSocketRoute("/ws/echo", ws_echo),
        WebSocketRoute("/ws/iterate", ws_iterate),
        WebSocketRoute("/ws/endpoint", Endpoint),
        WebSocketRoute("/ws/stream", ws_stream),
        WebSocketRoute("/ws/close", ws_close),
        WebSocketRoute("/ws/error", ws_error),
        WebSocketRoute("/ws/reject", ws_reject),
        WebSocketRoute("/ws/deny", ws_deny),
        WebSocketRoute("/ws/file", ws_deny_with_file),
        WebSocketRoute("/ws/teapot", ws_deny_by_exception),
        WebSocketRoute("/ws/exception", ws_close_by_exception),
    ],
    lifespan=lifespan,
)
