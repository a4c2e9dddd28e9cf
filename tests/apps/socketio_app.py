"""Socket.IO: events with and without an acknowledgement in both directions, a room, and a check of who connects."""

import socketio
from events import note

sio = socketio.AsyncServer(async_mode="asgi")


@sio.event
async def connect(sid, environ, auth):
    if auth == "wrong":
        raise socketio.exceptions.ConnectionRefusedError("not you")
    note("connected", environ["asgi.scope"]["type"])
    await sio.enter_room(sid, "everybody")


@sio.event
async def add(sid, one, two):
    return one + two


@sio.event
async def reverse(sid, data):
    """Binary."""
    return data[::-1]


@sio.event
async def ask(sid, question):
    """Asks back, and waits for the acknowledgement."""
    answer = await sio.call("question", question, to=sid)
    return f"the answer is {answer}"


@sio.event
async def say(sid, text):
    await sio.emit("said", text, room="everybody")


@sio.event
async def leave(sid):
    await sio.disconnect(sid)


@sio.event
async def disconnect(sid, reason):
    note("disconnected", reason)


async def shutdown():
    note("shutdown")


app = socketio.ASGIApp(sio, on_shutdown=shutdown)
