"""An application that changes its process as the file or request says: signal handlers, logging, the standard library."""

import asyncio
import logging.config
import os
import signal

if os.environ.get("TEST_MEDDLE") == "gevent":
    from gevent import monkey

    monkey.patch_all()

from events import note


def handler(*_):
    note("handler")


def signal_module():
    signal.signal(signal.SIGTERM, handler)


def loop_method():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, handler)


def chained():
    previous = signal.getsignal(signal.SIGTERM)

    def both(*args):
        handler()
        previous(*args)

    signal.signal(signal.SIGTERM, both)


def logging_module():
    logging.config.dictConfig({"version": 1})


WAYS = {way.__name__: way for way in (signal_module, loop_method, chained, logging_module)}


async def app(scope, receive, send):
    if scope["type"] == "http":
        WAYS.get(scope["path"][1:], str)()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"hello\n"})
