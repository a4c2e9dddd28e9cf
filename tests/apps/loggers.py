"""Logger classes, formatters and filters as users have them."""

import json
import logging
import time
from collections.abc import Mapping

from events import note
from gunicorn.glogging import Logger


class OwnAccess(Logger):
    """Notes what it is told, and writes nothing."""

    def access(self, resp, req, environ, request_time):
        seconds = request_time.total_seconds()
        note(
            "access",
            resp.status,
            resp.sent,
            environ["REQUEST_METHOD"],
            environ["RAW_URI"],
            environ["REMOTE_ADDR"],
            0 <= seconds < 60,
        )
        assert req.method == environ["REQUEST_METHOD"]
        assert all(
            isinstance(name, str) and isinstance(value, str)
            for name, value in [*req.headers, *resp.headers]
        )


class OwnAtoms(Logger):
    """Has an atom of its own."""

    def atoms(self, resp, req, environ, request_time):
        atoms = super().atoms(resp, req, environ, request_time)
        atoms["own"] = f"{req.method} {resp.sent} {environ['QUERY_STRING']}"
        return atoms


class JSONFormatter(logging.Formatter):
    """Writes all the atoms there are."""

    def format(self, record):
        assert isinstance(record.args, Mapping)
        return json.dumps({"message": record.getMessage(), **record.args}, default=str)


class Anonymous(logging.Filter):
    """Changes one atom and removes another."""

    def filter(self, record):
        record.args["h"] = "anonymous"
        record.args.pop("{authorization}i", None)
        return True


class Raising(logging.Filter):
    """Is broken."""

    def filter(self, record):
        raise ValueError("the filter's own")


class RaisingHandler(logging.Handler):
    """Is broken, and puts what it was given into its error."""

    def emit(self, record):
        raise RuntimeError(f"cannot send {record.getMessage()} {record.args}")


class BlockingHandler(logging.Handler):
    """Waits for somebody who never comes, once the loop runs."""

    def emit(self, record):
        if "gunicorn_asgi " not in record.getMessage():
            time.sleep(3600)
