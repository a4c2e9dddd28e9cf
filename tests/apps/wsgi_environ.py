"""A WSGI application that answers with what Gunicorn's own workers make of a request."""

import json


def app(environ, start_response):
    names = ("PATH_INFO", "SCRIPT_NAME", "REMOTE_ADDR", "wsgi.url_scheme")
    body = json.dumps(
        {
            name: value
            for name, value in environ.items()
            if name.startswith("HTTP_") or name in names
        }
    ).encode()
    start_response(
        "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    )
    return [body]
