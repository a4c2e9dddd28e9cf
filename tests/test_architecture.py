"""Which room may know which: read from the imports, so that an arrow in the wrong direction is found when it is drawn."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import gunicorn_asgi

PACKAGE = Path(gunicorn_asgi.__file__).parent
NAME = "gunicorn_asgi"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Import(NamedTuple):
    """One imported module."""

    module: str
    """Absolute: ``gunicorn_asgi.http1.encode``, ``asyncio``."""
    only_types: bool
    """Below ``if TYPE_CHECKING``."""


def read_imports(source: str, module: str, is_package: bool) -> set[Import]:
    """Everything that `source`, the module of that name, imports anywhere in it."""
    parent = module.split(".") if is_package else module.split(".")[:-1]

    def visit(node: ast.AST, only_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, only_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parent[: len(parent) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            yield Import(origin, only_types)
            # `from . import access` may mean a module, too.
            yield from (Import(f"{origin}.{alias.name}", only_types) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                yield from visit(child, True)
            for child in node.orelse:
                yield from visit(child, only_types)
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child, only_types)

    return set(visit(ast.parse(source), False))


def room_of(path: Path) -> str:
    """``http1.encode``, or ``asgi`` for the package itself; the package at the top is ``__init__``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


PATHS = {room_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES = {room: path.read_text() for room, path in PATHS.items()}


@cache
def imports_of(room: str) -> set[Import]:
    """Everything that `room` imports."""
    name = NAME if room == "__init__" else f"{NAME}.{room}"
    return read_imports(SOURCES[room], name, PATHS[room].name == "__init__.py")


def importers(module: str, with_types: bool = True) -> set[str]:
    """The rooms that import `module` or anything in it."""
    return {
        room
        for room in SOURCES
        if any(
            (name == module or name.startswith(module + ".")) and (with_types or not only_types)
            for name, only_types in imports_of(room)
        )
    }


def inside(*packages: str) -> set[str]:
    """All rooms in these packages."""
    return {
        room
        for room in SOURCES
        if room in packages or room.startswith(tuple(f"{package}." for package in packages))
    }


def test_the_reading_of_imports_sees_every_form() -> None:
    source = """
import a.b
from c import d
if TYPE_CHECKING:
    from . import e
else:
    import f
def function():
    from ..g import h
"""
    assert read_imports(source, "top.sub.module", False) == {
        Import("a.b", False),
        Import("c", False),
        Import("c.d", False),
        Import("top.sub", True),
        Import("top.sub.e", True),
        Import("f", False),
        Import("top.g", False),
        Import("top.g.h", False),
    }
    assert Import("top.sub.e", False) in read_imports("from . import e", "top.sub", True)


def test_all_rooms_are_read() -> None:
    assert {"__init__", "worker", "server", "asgi", "asgi.http", "http1.connection"} <= set(SOURCES)


def test_the_plan_shows_every_room() -> None:
    plan = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text().split("```")[3]
    shown, folder = set(), ""
    for line in plan.splitlines():
        if (heading := re.match(r"  (\w+)/ ", line)) is not None:
            folder = heading[1] + "."
        shown |= {folder + name for name in re.findall(r"(\w+)\.py", line)}
    assert shown == {room for room, path in PATHS.items() if path.name != "__init__.py"} - {
        "version"
    }


def reachable(room: str) -> set[str]:
    """The rooms that `room` imports, and those that they import, types included."""
    found: set[str] = set()
    waiting = [room]
    while waiting:
        for name, _ in imports_of(waiting.pop()):
            other = name.removeprefix(f"{NAME}.")
            if name.startswith(f"{NAME}.") and other in SOURCES and other not in found:
                found.add(other)
                waiting.append(other)
    return found


@pytest.mark.parametrize("room", sorted(SOURCES))
def test_no_room_is_in_a_circle_of_imports(room: str) -> None:
    """Imports for types included: a reader can begin with the modules that import none."""
    assert room not in reachable(room)


def test_no_class_uses_private_names_of_an_ancestor_in_another_file() -> None:
    """A private name belongs to its file. Layers are composed by public names."""
    classes = {
        node.name: (room, node)
        for room, source in SOURCES.items()
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
    }

    @cache
    def own_names(node: ast.ClassDef) -> set[str]:
        return {child.name for child in node.body if isinstance(child, FUNCTIONS)} | {
            child.attr
            for child in ast.walk(node)
            if isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Store)
        }

    def ancestors(node: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef]]:
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in classes:
                yield classes[base.id]
                yield from ancestors(classes[base.id][1])

    borrowed = [
        f"{room}: {node.name} uses {child.attr}"
        for room, node in classes.values()
        for child in ast.walk(node)
        if isinstance(child, ast.Attribute)
        and isinstance(child.value, ast.Name)
        and child.value.id == "self"
        and re.match("_[^_]", child.attr)
        and child.attr not in own_names(node)
        and any(
            other != room and child.attr in own_names(ancestor)
            for other, ancestor in ancestors(node)
        )
    ]
    assert not borrowed


def test_gunicorn_is_known_in_few_rooms() -> None:
    """The others get what they need from these. The server has the type of Gunicorn's sockets, the checks that of its configuration."""
    rooms = {
        "__main__",
        "aws_lambda.worker",
        "observe.access_format",
        "observe.access_log",
        "observe.atoms",
        "observe.record",
        "config.check_config",
        "http.trust",
        "metrics.page",
        "config.read_options",
        "process.arbiter",
        "process.boot",
        "base_worker",
        "worker",
    }
    assert importers("gunicorn", with_types=False) <= rooms
    assert importers("gunicorn") <= rooms | {
        "aws_lambda.environment",
        "net.accept",
        "net.listener",
        "net.own_queue",
        "metrics.counting",
        "metrics.reporter",
        "config.boot_warnings",
        "config.checks",
        "config.gunicorn_settings",
        "config.settings",
        "config.tls_context",
    }


def test_nobody_knows_the_worker() -> None:
    assert importers(f"{NAME}.worker") == {"__init__"}
    assert importers(f"{NAME}.base_worker") == {"__main__", "worker", "aws_lambda.worker"}


def test_only_the_worker_the_page_of_numbers_and_types_know_the_server() -> None:
    """The page is served by a second server."""
    assert importers(f"{NAME}.server", with_types=False) == {"worker", "metrics.page"}


ON_TRANSPORTS = {
    "http1.connection",
    "http1.websocket_transport",
    "http1.writer",
    "http2.connection",
    "http2.exchange",
    "http2.frame_writer",
    "http2.begin",
    "http2.tunnel",
}
"""The rooms of the versions of HTTP that have a transport. All others there are pure."""
WAITS_FOR_INVOCATIONS = {
    "aws_lambda.api_connection",
    "aws_lambda.deadline",
    "aws_lambda.event_function",
    "aws_lambda.invocations",
    "aws_lambda.runtime_api",
    "aws_lambda.streamed_result",
    "aws_lambda.worker",
    "aws_lambda.writer",
}
"""The rooms of AWS Lambda that have a loop. All others there are pure."""
PURE = (
    inside("aws_lambda", "http", "http1", "http2", "websocket")
    | {
        "config.bind_address",
        "errors",
        "frozen",
        "metrics.catalog",
        "metrics.exposition",
        "net.deadlines",
        "net.idleness",
        "net.load",
        "net.proxy_protocol",
        "observe.printable",
        "observe.request_wait",
        "version",
    }
) - (ON_TRANSPORTS | WAITS_FOR_INVOCATIONS)
LOOPS_AND_TRANSPORTS = (
    "asyncio",
    "uvloop",
    "socket",
    "ssl",
    "selectors",
    f"{NAME}.net.transport",
    *sorted(f"{NAME}.{room}" for room in ON_TRANSPORTS),
)


@pytest.mark.parametrize("module", LOOPS_AND_TRANSPORTS)
def test_pure_rooms_know_no_loop_and_no_transport(module: str) -> None:
    assert set(SOURCES) >= PURE | ON_TRANSPORTS
    assert not importers(module) & PURE


@pytest.mark.parametrize(
    "module",
    [module for module in LOOPS_AND_TRANSPORTS if module != "asyncio"]
    + [f"{NAME}.http1", f"{NAME}.http2"],
)
def test_the_side_of_the_application_knows_no_transport_and_no_version_of_http(module: str) -> None:
    """It waits, so it has asyncio's futures; what it waits for it does not know."""
    assert not importers(module) & inside("asgi")


def test_versions_of_http_do_not_know_each_other() -> None:
    assert not importers(f"{NAME}.http2") & inside("http1")
    assert not importers(f"{NAME}.http1") & inside("http2")


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("httptools", {"http1.httptools_parser"}),
        ("h11", {"http1.h11_parser"}),
        ("hpack", {"http2.blocks", "http2.huffman"}),
        ("h2", set()),
    ],
)
def test_a_protocol_library_is_known_where_it_is_used_and_nowhere_else(
    library: str, rooms: set[str]
) -> None:
    """So that it can be replaced there. A parser library reads field sections and nothing else (see `http1.parser`)."""
    assert importers(library) == rooms


def test_the_library_of_websockets_is_known_where_their_bytes_are_read_and_made() -> None:
    assert importers("websockets") == {
        "websocket.close",
        "websocket.negotiation",
        "websocket.reader",
    }


@pytest.mark.parametrize("parser", ["httptools_parser", "h11_parser"])
def test_parsers_are_loaded_by_choice(parser: str) -> None:
    """By `http1.parser`, in a function: neither library has to be installed for the other one to work."""
    assert importers(f"{NAME}.http1.{parser}") == {"http1.parser"}
    top_level = ast.parse(SOURCES["http1.parser"]).body
    assert not any(
        isinstance(node, ast.ImportFrom) and (node.module or "").endswith(parser)
        for node in top_level
    )


def test_only_streams_accepting_the_server_and_the_worker_await() -> None:
    """A connection is plain calls, from the packet to the answer."""
    rooms = {
        room
        for room, source in SOURCES.items()
        if any(isinstance(node, ast.AsyncFunctionDef) for node in ast.walk(ast.parse(source)))
    }
    assert rooms <= inside("asgi", "process") | {
        "aws_lambda.api_connection",
        "aws_lambda.event_function",
        "aws_lambda.invocations",
        "aws_lambda.runtime_api",
        "aws_lambda.streamed_result",
        "http.contract",  # the type of a stream's `run`
        "metrics.page",
        "metrics.reporter",
        "net.accept",
        "net.acceptor",
        "net.proxy_preamble",
        "server",
        "base_worker",
    }


LOADED = """
import asyncio, sys
from types import SimpleNamespace
from gunicorn.config import Config
from gunicorn_asgi import Worker
from gunicorn_asgi.config.settings import Settings
from gunicorn_asgi.server import Server
options = dict(zip(("http", "ws", "async_library"), sys.argv[1:]))
settings = Settings.read(Config(), options, {})
loop = asyncio.new_event_loop()
Server(settings, None, SimpleNamespace(), SimpleNamespace(), None, loop)
loop.close()
print(*sys.modules)
"""
"""Prints the modules of a worker with these options that has not served anything yet."""


def modules_of_worker(http: str, ws: str, library: str = "asyncio") -> set[str]:
    """The modules that a worker with these options has loaded before its first connection."""
    command = [sys.executable, "-c", LOADED, http, ws, library]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(("parser", "other"), [("httptools", "h11"), ("h11", "httptools")])
def test_a_worker_does_not_load_what_it_does_not_use(parser: str, other: str) -> None:
    """Neither HTTP/2, trio nor numbers, which are off by default, nor the other parser, nor help for mistakes."""
    pytest.importorskip(parser)
    loaded = modules_of_worker(parser, "auto")
    unused = {"hpack", "hyperframe", "h2", "difflib", other, f"{NAME}.protocol_detection"}
    unused |= {"outcome", "sniffio", "anyio", "attrs"}
    assert f"{NAME}.http1.{parser}_parser" in loaded
    assert not unused.intersection(loaded)
    assert not [module for module in loaded if module.startswith(f"{NAME}.http2")]
    assert not [module for module in loaded if "trio" in module]
    numbers = {module for module in loaded if module.startswith(f"{NAME}.metrics.")}
    assert numbers == {f"{NAME}.metrics.catalog", f"{NAME}.metrics.master"}


def test_trio_is_loaded_before_the_first_request_and_only_where_it_is_asked_for() -> None:
    pytest.importorskip("trio")
    assert importers("trio") == RUNS_TRIO | {"asgi.async_library"}
    own = {f"{NAME}.{room}" for room in RUNS_TRIO}
    assert {"trio", *own} <= modules_of_worker("auto", "none", "trio")


RUNS_TRIO = {room for room in SOURCES if room.startswith("asgi.trio_")}

SERVES_WEBSOCKETS = inside("websocket") | {
    "asgi.closing_handshake",
    "asgi.websocket",
    "asgi.websocket_handshake",
    "asgi.websocket_session",
    "http1.websocket_handshake",
    "http1.websocket_transport",
}


@pytest.mark.parametrize("ws", ["auto", "none"])
def test_what_serves_websockets_is_loaded_before_the_first_one_and_only_where_they_are_served(
    ws: str,
) -> None:
    """A client never waits for an import, and memory is not taken for what is off."""
    assert {room for room in SOURCES if "websocket" in room} <= SERVES_WEBSOCKETS
    loaded = modules_of_worker("auto", ws)
    own = {f"{NAME}.{room}" for room in SERVES_WEBSOCKETS}
    if ws == "none":
        assert not own & loaded
        assert not [module for module in loaded if module.startswith("websockets")]
    else:
        assert own <= loaded


LOADED_ON_LAMBDA = """
import asyncio, os, sys
from types import SimpleNamespace
from gunicorn import glogging, util
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
loaded = set(sys.modules)
worker_class = util.load_class("gunicorn_asgi.LambdaWorker")
cfg = Config()
cfg.set("timeout", 0)
if "asgi_loop" in cfg.settings:  # not before Gunicorn 24
    cfg.set("asgi_loop", "asyncio")
settings = worker_class.read_settings(cfg, {"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001"})
worker_class.load_modules(settings)
print(*set(sys.modules) - loaded)
"""
"""Prints the modules that Gunicorn with a LambdaWorker has loaded, and that it has not without one."""


def test_a_worker_on_aws_lambda_loads_nothing_that_serves_connections() -> None:
    """A cold start waits for every import. What remains of HTTP/1.1 encodes the fields of a response to the Runtime API, and chooses a parser that is not loaded."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED_ON_LAMBDA], check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    own = {name.removeprefix(f"{NAME}.") for name in loaded if name.startswith(f"{NAME}.")}
    assert {"aws_lambda.worker", "aws_lambda.invocations", "asgi.http"} <= own
    assert {room for room in own if room.startswith(("http1.", "net."))} == {
        "http1.encode",
        "http1.parser",
    }
    unused = inside("http2", "metrics") | SERVES_WEBSOCKETS - {"websocket", "websocket.limits"}
    unused |= {"asgi.linux_calls", "config.tls_context", "protocol_detection", "server", "worker"}
    assert not own & unused
    libraries = {name.partition(".")[0] for name in loaded}
    slow = {"ctypes", "dataclasses", "difflib", "http", "multiprocessing"}
    assert not libraries & (slow | {"uvloop", "httptools", "h11", "hpack", "trio", "websockets"})


def test_a_worker_that_serves_connections_loads_nothing_of_aws_lambda() -> None:
    assert importers(f"{NAME}.aws_lambda") - inside("aws_lambda") == {"__init__"}
    loaded = modules_of_worker("auto", "auto")
    assert not [module for module in loaded if module.startswith(f"{NAME}.aws_lambda")]
