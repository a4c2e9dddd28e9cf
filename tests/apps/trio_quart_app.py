"""Quart-Trio, as its users write it."""

import zlib

import trio
import trio_mistakes
import trio_parts
from events import note
from quart import request, send_file, websocket
from quart_trio import QuartTrio

app = QuartTrio(__name__)
# An error is the server's to log.
app.config["PROPAGATE_EXCEPTIONS"] = True
parts = trio_parts.Parts(trio.Event, trio.sleep)
released = trio.Event()
state = {}


@app.before_serving
async def startup():
    note("startup in", trio_parts.library())
    jobs, taken_jobs = trio.open_memory_channel(10)
    state.update(greeting="hello", jobs=jobs)
    app.nursery.start_soon(trio_parts.work, taken_jobs)


@app.after_serving
async def shutdown():
    # What is left in the nursery has five seconds: BACKGROUND_TASK_SHUTDOWN_TIMEOUT.
    app.nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await trio.sleep(0.01)
    note("shutdown")


@app.get("/json")
async def show():
    return {
        "library": trio_parts.library(),
        "greeting": state["greeting"],
        "a": request.args.get("a", ""),
    }


@app.get("/stream")
async def stream():
    async def all_parts():
        async for part in parts:
            yield part

    return all_parts()


@app.get("/release")
async def release():
    parts.release()
    return {}


@app.get("/endless")
async def endless():
    async def endless_parts():
        note("begun")
        try:
            while True:
                yield "x" * 1000
                await trio.sleep(0.01)
        finally:
            note("closed")

    return endless_parts()


@app.post("/upload")
async def upload():
    size = crc = count = 0
    request.max_content_length = None
    async for part in request.body:
        size += len(part)
        crc = zlib.crc32(part, crc)
        count += 1
    return {"size": size, "crc": crc, "parts": count}


@app.get("/background")
async def background():
    async def work():
        note("background begun in", trio_parts.library())
        await released.wait()
        note("background done")

    app.add_background_task(work)
    return {"accepted": True}, 202


@app.get("/finish")
async def finish():
    released.set()
    return {}


@app.get("/job")
async def job():
    await state["jobs"].send(request.args["name"])
    return {}


@app.get("/thread")
def read_in_thread():
    """Quart runs it in a thread."""
    return trio_parts.in_thread(trio.from_thread)


@app.get("/context")
async def context():
    before = trio_parts.value.get()
    trio_parts.value.set(request.args["value"])
    seen = []

    async def child():
        await trio.sleep(0.001)
        seen.append(trio_parts.value.get())
        trio_parts.value.set("the child's")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        nursery.start_soon(child)
    return {"before": before, "children": seen, "after": trio_parts.value.get()}


@app.get("/fetch")
async def fetch():
    return await trio_parts.fetch(request.scope, "/json?a=inner")


@app.get("/file")
async def file():
    return await send_file(trio_parts.FILE, conditional=True)


@app.get("/error")
async def error():
    raise ValueError("the application's own")


@app.get("/mistake")
async def mistake():
    await trio_mistakes.make(request.args["kind"])


# WebSockets.


@app.websocket("/ws/echo")
async def ws_echo():
    try:
        while True:
            await websocket.send(await websocket.receive())
    finally:
        note("disconnected")


@app.websocket("/ws/close")
async def ws_close():
    await websocket.accept()
    await websocket.close(int(websocket.args["code"]), websocket.args.get("reason", ""))


@app.websocket("/ws/both")
async def ws_both():
    """One task receives, another sends."""
    heard, said = trio.open_memory_channel(1)

    async def listen():
        while True:
            await heard.send(await websocket.receive())

    async def talk():
        try:
            while True:
                await websocket.send("tick")
                with trio.move_on_after(0.005):
                    await websocket.send(f"heard {await said.receive()}")
        finally:
            note("talk ended")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        nursery.start_soon(talk)
