"""What the process looks like from the inside: one JSON object for any request. Writes no file, for the worker may be somebody else."""

import json
import os
import sys
from pathlib import Path


async def app(scope, receive, send):
    assert scope["type"] == "http"
    umask = os.umask(0)
    os.umask(umask)
    inside = {
        "pid": os.getpid(),
        "cwd": str(Path.cwd()),
        "environ": dict(os.environ),
        "gid": os.getgid(),
        "groups": sorted(os.getgroups()),
        "path": sys.path,
        "uid": os.getuid(),
        "umask": umask,
    }
    body = json.dumps(inside).encode()
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})
