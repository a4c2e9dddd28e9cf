"""Applications that are not ASGI 3: an ASGI 2 one, a WSGI one, and some that are neither."""


class ASGI2:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        if self.scope["type"] == "lifespan":
            await receive()
            self.scope["state"]["started"] = True
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = f"{self.scope['method']} {sorted(self.scope['state'])}".encode()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})


def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [b"wsgi\n"]


def no_arguments():
    raise AssertionError("it was called")


class Framework:
    """As frameworks are: an object with an asynchronous __call__."""

    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"framework\n"})


framework = Framework()
