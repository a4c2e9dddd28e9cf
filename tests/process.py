"""A real Gunicorn for the tests: started with a configuration file, watched through its log, and ended on every path.

Nothing here waits for a fixed time: everything is polled for with a deadline, which only a broken run reaches.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import gunicorn
import httpx
from forking import ForkedProcess, Forks
from gunicorn.config import KNOWN_SETTINGS

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

APPS = Path(__file__).parent / "apps"
DEADLINE = 30.0
"""Seconds after which what was waited for is taken to be never coming."""

SETTINGS = frozenset(setting.name for setting in KNOWN_SETTINGS)
"""What this Gunicorn has a setting for."""
GUNICORN_VERSION = tuple(int(part) for part in gunicorn.__version__.split(".")[:2])
LOOPS = [
    loop
    for loop in ("uvloop", "asyncio")
    if loop == "asyncio" or importlib.util.find_spec("uvloop") is not None
]
if os.environ.get("TEST_LOOPS"):  # tox.ini asks for fewer where other environments have them all
    LOOPS = [loop for loop in LOOPS if loop in os.environ["TEST_LOOPS"].split()]
if "asgi_loop" not in SETTINGS:
    LOOPS = LOOPS[:1]  # it cannot be chosen
PARSERS = [
    parser for parser in ("httptools", "h11") if importlib.util.find_spec(parser) is not None
]
BOOT_LINE = r"gunicorn_asgi \S+ on Gunicorn"
IS_MEASURED = "COVERAGE_PROCESS_CONFIG" in os.environ
"""Whether coverage.py measures this process and those that it starts."""
MODULE = ("-m", "gunicorn")
NOTE = """
def note(*words):
    import os
    with open(os.environ["TEST_EVENTS"], "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")
"""
"""`note` of apps/events.py for hooks in the configuration file, from where the applications cannot be imported yet."""


def base_environment() -> dict[str, str]:
    """Return this environment without the variables that Gunicorn takes settings from.

    It is not scrubbed: coverage.py follows its subprocesses by their environment.
    """
    unwanted = ("GUNICORN_CMD_ARGS", "FORWARDED_ALLOW_IPS", "WEB_CONCURRENCY")
    env = {name: value for name, value in os.environ.items() if name not in unwanted}
    # A file that is written twice in a second, with the same size, would be read from the cache of the first.
    return {**env, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def listens(path: Path) -> bool:
    """Whether a socket listens there. It has its path a moment earlier."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def poll(probe: Callable[[], T], what: str = "", seconds: float = DEADLINE) -> T:
    """Call `probe` until it returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or probe} did not come within {seconds} s")
        time.sleep(0.01)
    return found


PRELOADED = "preload_app = True\nimport random\nrandom.seed(b'imports more')\n" + "".join(
    f"import gunicorn_asgi.http1.{parser}_parser\n" for parser in PARSERS
)
"""All of the code is read in the master, for a Python below /root cannot be read by others."""


class Gunicorn:
    """``with Gunicorn(tmp_path, "main:app", timeout=1) as server``: a master and its workers, in a process group of their own.

    `settings` are Gunicorn's, `options` go to ``Worker.configure()``, or to that of the class `worker`, `config` is more text for the configuration file (hooks). `launcher` is Python
    that runs first, and in the same process. Where none of them says how Python starts, the master is a fork (see forking.py). Listens on a free port of 127.0.0.1 unless `bind` says otherwise. Waits until every worker
    serves, unless `wait` is false.
    """

    may_start = True
    """Whether the running test has the marker ``gunicorn``. conftest.py sets it."""
    forks: Forks | None = None
    """Shared by all of this process, from the first start on."""

    def __init__(
        self,
        directory: Path,
        app: str = "main:app",
        *,
        args: tuple[str, ...] = (),
        program: tuple[str, ...] = MODULE,
        config: str = "",
        env: Mapping[str, str] | None = None,
        launcher: str = "",
        options: Mapping[str, Any] | None = None,
        wait: bool = True,
        worker: str = "Worker",
        **settings: Any,
    ) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.error_log = directory / "error.log"
        self.events_file = directory / "events"
        self.config_file = directory / "gunicorn.conf.py"
        settings = {
            "bind": "127.0.0.1:0",
            "control_socket_disable": True,
            "errorlog": str(self.error_log),
            "graceful_timeout": 20,
            "pythonpath": str(APPS),
            "wsgi_app": app,
            **settings,
        }
        self.bind = settings["bind"]
        self.scheme = "https" if settings.get("certfile") else "http"
        self._workers = settings.get("workers", 1)
        self._wait = wait
        self._worker = worker
        self._settings = settings
        self._config = config
        self._options = options
        self.configure()
        self._env = {**base_environment(), "TEST_EVENTS": str(self.events_file), **(env or {})}
        self._args = ["-c", str(self.config_file), *args]
        self._is_forked = (
            program == MODULE
            and not launcher
            and not IS_MEASURED
            # It writes over the command line with which a process was started.
            and "proc_name" not in settings
            # Variables of other names may be read when Python starts, or by an import.
            and all(
                name.startswith(("TEST_", "AWS_")) or name == "PYTHONPATH" for name in env or ()
            )
        )
        self._command = [sys.executable, *program, *self._args]
        if launcher:
            self._command = [
                sys.executable,
                "-c",
                f"{launcher}\nimport os\nos.execv({sys.executable!r}, {self._command!r})",
            ]
        self.process: subprocess.Popen[bytes] | ForkedProcess | None = None

    @classmethod
    def with_http2(cls, directory: Path, app: str = "main:app", **given: Any) -> Gunicorn:
        """One that speaks HTTP/2, too, unless `given` says otherwise: as options where Gunicorn has no setting for it."""
        given = {"http_protocols": "h2,h1", **given}
        names = [name for name in given if name.startswith("http2_") or name == "http_protocols"]
        options = {
            **(given.pop("options", None) or {}),
            **{name: given.pop(name) for name in names if name not in SETTINGS},
        }
        return cls(directory, app, options=options or None, **given)

    def configure(self, **settings: Any) -> None:
        """Write the configuration file, which a HUP has read again."""
        self._settings.update(settings)
        worker = self._worker
        if self._options is not None:
            worker = f"{worker}.configure(**{self._options!r})"
        lines = [f"{name} = {value!r}" for name, value in self._settings.items()]
        if "worker_class" not in self._settings:
            lines += [f"from gunicorn_asgi import {self._worker}", f"worker_class = {worker}"]
        self.config_file.write_text("\n".join([*lines, self._config]) + "\n")

    def __enter__(self) -> Self:
        assert self.may_start, "a test that starts Gunicorn needs the marker pytest.mark.gunicorn"
        self.stdout = self.directory / "stdout"
        with self.stdout.open("wb") as out:
            if self._is_forked:
                if Gunicorn.forks is None:
                    Gunicorn.forks = Forks(base_environment())
                self.process = Gunicorn.forks.start(self._args, self.directory, self._env, out)
            else:
                self.process = subprocess.Popen(
                    self._command,
                    cwd=self.directory,
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
        if self._wait:
            try:
                self.wait_for(BOOT_LINE, self._workers)
            except BaseException:
                self.end()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.end()
        if error is not None:
            sys.stderr.write(
                f"{self.config_file.read_text()}\n{self.log}\n{self.output}\n"
            )  # pytest shows it with the failure

    def end(self) -> None:
        """End its processes. An orderly shutdown, which costs as much as the start, saves coverage."""
        process = self.process
        assert process is not None
        if IS_MEASURED and process.poll() is None:
            process.send_signal(signal.SIGQUIT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    # What it says.

    @property
    def log(self) -> str:
        """All of the error log so far."""
        return self.error_log.read_text() if self.error_log.exists() else ""

    @property
    def output(self) -> str:
        """All of stdout and stderr so far."""
        return self.stdout.read_text()

    @property
    def events(self) -> list[str]:
        """What the application and the hooks have noted (see apps/events.py), in order."""
        return self.events_file.read_text().splitlines() if self.events_file.exists() else []

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until at least `count` lines of the error log match. Returns those lines."""
        regex = re.compile(pattern)

        def matches() -> list[str]:
            # In this order: what it wrote before it ended is not missed.
            running = self.running
            found = [line for line in self.log.splitlines() if regex.search(line)]
            if len(found) < count:
                assert running, (
                    f"Gunicorn has ended before {pattern!r} came:\n{self.log}\n{self.output}"
                )
                return []
            return found

        return poll(matches, f"{pattern!r} in the log")

    def wait_for_event(self, event: str, count: int = 1) -> None:
        """Wait until `event` has been noted `count` times."""
        poll(lambda: self.events.count(event) >= count, f"the event {event!r}")

    def lines(self, pattern: str) -> list[str]:
        """The lines of the error log so far that match."""
        return [line for line in self.log.splitlines() if re.search(pattern, line)]

    # Its processes.

    @property
    def running(self) -> bool:
        """Whether the master runs."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Of the master."""
        assert self.process is not None
        return self.process.pid

    def workers(self) -> list[int]:
        """The living workers, the oldest first."""
        pids = [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", self.log)]
        return [pid for pid in pids if is_alive(pid)]

    def kill(self, number: int) -> None:
        """Send a signal to the master."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = DEADLINE) -> int:
        """Wait until the master has ended; returns its exit code."""
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the master and wait for its end; returns the exit code."""
        self.kill(number)
        return self.wait()

    # Clients.

    @property
    def address(self) -> Any:
        """Where it listens: the path of a unix socket, or host and port."""
        if isinstance(self.bind, str) and self.bind.startswith("unix:"):
            return self.bind[5:]
        return self.addresses[0]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Every host and port it listens on, with the ports that it was given for 0."""
        if isinstance(self.bind, str) and not self.bind.endswith(":0"):
            host, _, port = self.bind.rpartition(":")
            return [(host.strip("[]"), int(port))]
        return listening_at(self.wait_for("Listening at: ")[0])

    @property
    def url(self) -> str:
        host, port = self.address
        return f"{self.scheme}://{host}:{port}"

    def client(self) -> httpx.Client:
        """A client that keeps its connections; to be closed.

        Its context is given also where there is no TLS: the default one takes 30 ms to be made.
        """
        is_unix = isinstance(self.address, str)
        return httpx.Client(
            transport=httpx.HTTPTransport(
                uds=self.address if is_unix else None, verify=trusting_context()
            ),
            base_url="http://localhost" if is_unix else self.url,
            timeout=DEADLINE,
        )

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """One request on a connection of its own."""
        with self.client() as client:
            return client.request(method, path, **kwargs)

    def get(self, path: str = "/", **kwargs: Any) -> httpx.Response:
        return self.request("GET", path, **kwargs)

    def connect(self) -> Connection:
        """A raw connection; to be closed."""
        address = self.address
        if isinstance(address, str):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(DEADLINE)
            sock.connect(address)
            return Connection(sock)
        return Connection(socket.create_connection(address, DEADLINE))

    def wait_until_refused(self) -> None:
        """Wait until nobody listens any more: neither the master nor a worker."""

        def refused() -> bool:
            try:
                self.connect().sock.close()
            except OSError:
                return True
            return False

        poll(refused, "the end of listening")


class Connection:
    """A client's end of a connection, byte by byte."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def get(self, path: str, headers: str = "") -> None:
        """Send a GET."""
        self.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n".encode())

    def begin_upload(self, path: str) -> None:
        """Send the head of a POST with a chunked body."""
        self.send(
            f"POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )

    def chunk(self, data: bytes) -> None:
        """Send a part of the body, empty for its end."""
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def read_until(self, end: bytes) -> bytes:
        """Read up to and with `end`, byte by byte."""
        data = b""
        while not data.endswith(end):
            byte = self.sock.recv(1)
            assert byte, f"the connection ended after {data!r}, before {end!r}"
            data += byte
        return data

    def read_response(self) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Read one response, and leave the connection open if it does."""
        response = http.client.HTTPResponse(self.sock)
        # It reads ahead; there is nothing behind a response here, for these clients send one request at a time.
        response.begin()
        return response.status, response.headers, response.read()

    def read_all(self) -> bytes:
        """Read until the end of the connection, whether orderly or a reset, and then end this side too, as clients do."""
        data = b""
        with suppress(ConnectionResetError):
            while part := self.sock.recv(65536):
                data += part
        self.sock.close()
        return data


def free_address(host: str = "127.0.0.1") -> str:
    """Return a host and port that nobody listens on."""
    with socket.create_server((host, 0)) as sock:
        return f"{host}:{sock.getsockname()[1]}"


def listening_at(line: str) -> list[tuple[str, int]]:
    """The hosts and ports in Gunicorn's line "Listening at: ..."."""
    return [
        (host.strip("[]"), int(port))
        for host, port in re.findall(r"https?://(\[?[\w.:]+?\]?):(\d+)[, ]", line)
    ]


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


def wait_until_gone(pid: int) -> None:
    poll(lambda: not is_alive(pid), f"the end of process {pid}")


def trusting_context() -> ssl.SSLContext:
    """Our certificates are signed by themselves."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
