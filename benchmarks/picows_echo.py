"""An echo server without ASGI, for what the kernel, the event loop and the frames alone take: ``python -m picows_echo PORT``."""

from __future__ import annotations

import logging
import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server


class Echo(WSListener):
    """Answers each frame with the same."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview(), frame.fin)


def echo(_request: WSUpgradeRequest) -> Echo:
    """For every request."""
    return Echo()


async def serve(port: int) -> None:
    """Until the process is told to end."""
    server = await ws_create_server(echo, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # what others are told, too
    uvloop.run(serve(int(sys.argv[1])))
