"""The deploys of deploys.py: what each does to Gunicorn under load, and what is measured meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import deployment
from bench_env import HERE, ROOT, make_certificate
from deploy_load import PATIENCE_SECONDS, Load, errors, percentile, read_stream
from fronts import balancer
from servers import OURS, StartError, free_port
from strict import Address
from turnover import children, is_alive

from gunicorn_asgi.config.options import Options

LONGEST_SECONDS = 45.0
"""Of one wait: for the start of the workers, for their replacement, or for the end of a master."""
LOOK_SECONDS = 0.05
AWAY_SECONDS = 3.0
"""From the end of a machine to its new start."""
AFTER_SECONDS = 2.0
"""Of load after the disturbance."""
GRACEFUL_SECONDS = 30
CLEARTEXT_H2 = ("--http-protocols", "h2,h1", "--http2-cleartext", "both")


@dataclass(frozen=True)
class Target:
    """A worker class with its options."""

    name: str
    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    speaks_h2: bool = True

    @property
    def is_ours(self) -> bool:
        return self.name.startswith(OURS)


WITHOUT = {"GUNICORN_ASGI_HANDOVER": "0"}
TARGETS = (
    Target(OURS, ("-k", "gunicorn_asgi.Worker")),
    Target(f"{OURS} handover=0", ("-k", "gunicorn_asgi.Worker"), WITHOUT),
    Target("uvicorn-worker", ("-k", "uvicorn_worker.UvicornWorker"), speaks_h2=False),
    Target("gunicorn asgi", ("-k", "asgi", "--asgi-loop", "uvloop")),
)


@dataclass
class Outcome:
    """One scenario with one target."""

    failure: str = ""
    """Why there are no numbers, or not all of them."""
    requests: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    p50: float = 0.0
    """Seconds, before the disturbance."""
    p99: float = 0.0
    slowest: float = 0.0
    """Seconds, of all that were running during the disturbance or after it."""
    served_after: float | None = None
    """Seconds from the signal to the first answer of a new worker."""
    gone_after: float | None = None
    """Seconds from the signal to the end of the old workers, or of the master."""
    most: int = 0
    """Workers that have run at once."""
    replaced: int = 0
    """Workers that have answered beyond those of the beginning."""


@dataclass
class Master:
    """A Gunicorn that runs."""

    process: subprocess.Popen[bytes]
    folder: Path
    address: Address

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def workers(self) -> set[int]:
        return children(self.process.pid)

    def release(self, number: object) -> None:
        """What is imported from now on."""
        (self.folder / "release").write_text(str(number))

    def send(self, number: signal.Signals) -> float:
        """Send a signal; returns the time."""
        os.kill(self.process.pid, number)
        return time.monotonic()


@dataclass
class Run:
    """One scenario with one target, while it runs."""

    scenario: Scenario
    target: Target
    folder: Path
    import_seconds: float
    seconds: float
    """Of load before the disturbance."""
    outcome: Outcome = field(default_factory=Outcome)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    tls: tuple[str, str] | None = None

    async def start(self, bind: str = "", folder: Path | None = None) -> Master:
        """Start Gunicorn, and wait until all workers have answered. Raises StartError."""
        folder = folder or self.folder
        folder.mkdir(exist_ok=True)
        if self.scenario.on_unix_socket:
            bind = f"unix:{folder}/socket"
        elif not bind:
            bind = f"127.0.0.1:{free_port()}"
        (folder / "release").write_text("1")
        master = Master(self._spawn(bind, folder), folder, _address(bind))
        self.stack.callback(deployment.end, master.process, {master.process.pid})
        await self._await_workers(master)
        return master

    async def _await_workers(self, master: Master) -> None:
        load = Load(master.address, self.context())
        deadline = time.monotonic() + LONGEST_SECONDS
        while True:
            workers = master.workers()
            if len(workers) >= self.scenario.workers and workers <= load.pids:
                return
            if not master.is_running or time.monotonic() > deadline:
                raise StartError("not all workers have answered")
            if workers and not (await load.ask()).error:
                continue
            await asyncio.sleep(LOOK_SECONDS)

    def _spawn(self, bind: str, folder: Path) -> subprocess.Popen[bytes]:
        command = [
            str(Path(sys.executable).with_name("gunicorn")), *self.target.arguments,
            "--bind", bind, "--workers", str(self.scenario.workers), "--no-control-socket",
            "--graceful-timeout", str(GRACEFUL_SECONDS), "--keep-alive", "30",
            "--log-level", "info", *self.scenario.settings,
        ]  # fmt: skip
        if self.tls:
            command += ["--certfile", self.tls[0], "--keyfile", self.tls[1]]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
            "LC_ALL": "C.UTF-8",
            "DEPLOY_FOLDER": str(folder),
            "DEPLOY_IMPORT_SECONDS": str(self.import_seconds),
            **self.target.variables,
            **(self.scenario.variables if self.target.is_ours else {}),
        }
        with (folder / "server.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "deploy_app:app"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def context(self) -> ssl.SSLContext | None:
        """Of a client, where there is TLS."""
        if not self.tls:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it has signed itself
        return context

    @asynccontextmanager
    async def under_load(self, address: Address) -> AsyncIterator[Load]:
        """Load before, during and after what is done in the block; what it measures goes to the outcome."""
        load = Load(address, self.context(), self.scenario.path)
        begun = start = time.monotonic()
        async with load:
            await asyncio.sleep(self.seconds)
            start = time.monotonic()
            yield load
            await asyncio.sleep(AFTER_SECONDS)
        found = self.outcome
        found.requests, found.errors = len(load.requests), errors(load.requests)
        before = [each for each in load.since(begun, start) if each.ended < start]
        found.p50, found.p99 = percentile(before, 0.5), percentile(before, 0.99)
        found.slowest = percentile(load.since(start), 1.0)

    async def watch(self, master: Master, is_done: Callable[[], bool], seconds: float) -> bool:
        """Wait until `is_done`, and count the workers meanwhile; returns whether it came."""
        deadline = time.monotonic() + seconds
        while not is_done():
            self.outcome.most = max(self.outcome.most, len(master.workers()))
            if time.monotonic() > deadline:
                return False
            if not master.is_running:
                self.outcome.failure = "the master has ended: the service is down"
                return False
            await asyncio.sleep(LOOK_SECONDS)
        return True

    async def await_end(self, master: Master, sent: float) -> None:
        """Wait until the master, which was told to, has ended."""
        deadline = sent + LONGEST_SECONDS
        while master.is_running and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
        if master.is_running:
            self.outcome.failure = f"it has not ended within {LONGEST_SECONDS:.0f} s"
        self.outcome.gone_after = max(time.monotonic() - sent, self.outcome.gone_after or 0.0)

    async def await_replacement(
        self, master: Master, load: Load, old: set[int], sent: float
    ) -> None:
        """Wait until all workers are new and have answered, and the old ones are gone."""

        def replaced() -> bool:
            if self.outcome.gone_after is None and not any(is_alive(pid) for pid in old):
                self.outcome.gone_after = time.monotonic() - sent
            new = load.pids - old
            return (
                self.outcome.gone_after is not None
                and len(new & master.workers()) >= self.scenario.workers
            )

        if not await self.watch(master, replaced, LONGEST_SECONDS) and not self.outcome.failure:
            self.outcome.failure = f"not all workers were replaced within {LONGEST_SECONDS:.0f} s"
        times = [each.ended for each in load.requests if not each.error and each.pid not in old]
        self.outcome.served_after = min(times) - sent if times else None
        self.outcome.replaced = len(load.pids - old)


Play = Callable[[Run], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    """One deploy."""

    name: str
    title: str
    play: Play
    settings: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    """Options of this package. With some, the scenario is for this worker only."""
    workers: int = 2
    tls: bool = False
    on_unix_socket: bool = False
    path: str = "/"
    over_h2: bool = False
    """Whether HAProxy speaks HTTP/2 to the workers."""
    hands_over: bool = True
    """Whether the option `handover` matters."""
    needs_haproxy: bool = False

    def missing(self, target: Target) -> str:
        """Why it does not apply to `target`; empty if it does."""
        variables = {**target.variables, **self.variables}
        options = {name.removeprefix("GUNICORN_ASGI_").lower() for name in variables}
        if self.variables and not target.is_ours:
            return "has no such option"
        if unknown := options - set(Options.__annotations__):
            return f"this checkout has no option {', '.join(sorted(unknown))}"
        if self.over_h2 and not target.speaks_h2:
            return "does not speak HTTP/2"
        if target.variables and not self.hands_over:
            return "`handover` does not matter"
        return ""


async def measure(
    scenario: Scenario, target: Target, folder: Path, import_seconds: float, seconds: float
) -> Outcome:
    """Start a Gunicorn, load it, and do what the scenario does; end everything on every way out."""
    run = Run(scenario, target, folder, import_seconds, seconds)
    if scenario.tls:
        run.tls = make_certificate(folder)
    async with run.stack:
        try:
            await scenario.play(run)
        except StartError as error:
            run.outcome.failure = str(error)
    return run.outcome


async def _hup(run: Run) -> None:
    await _reload(run, await run.start())


async def _hup_twice(run: Run) -> None:
    """The second HUP comes while the application is being imported."""
    await _reload(run, await run.start(), second_after=run.import_seconds / 4)


async def _reload(
    run: Run, master: Master, address: Address | None = None, second_after: float | None = None
) -> None:
    async with run.under_load(address or master.address) as load:
        old = master.workers()
        master.release(2)
        sent = master.send(signal.SIGHUP)
        if second_after is not None:
            await asyncio.sleep(second_after)
            old |= master.workers()
            master.send(signal.SIGHUP)
        await run.await_replacement(master, load, old, sent)


async def _recycle(run: Run) -> None:
    """The requests of the load replace the workers."""
    master = await run.start()
    async with run.under_load(master.address) as load:
        old = master.workers()
        await run.watch(master, lambda: False, max(12.0, 6 * run.import_seconds))
    run.outcome.replaced = len(load.pids - old)


async def _broken_release(run: Run) -> None:
    """HUP to a release that cannot start, then HUP to a good one."""
    master = await run.start()
    async with run.under_load(master.address) as load:
        old = master.workers()
        master.release("broken")
        master.send(signal.SIGHUP)
        await run.watch(master, lambda: False, min(2.5 * run.import_seconds, PATIENCE_SECONDS / 2))
        if not master.is_running:
            return
        old |= master.workers()
        master.release(2)
        await run.await_replacement(master, load, old, master.send(signal.SIGHUP))


async def _hup_behind_haproxy(run: Run) -> None:
    master = await run.start()
    assert not isinstance(master.address, str)
    protocol = "proto h2" if run.scenario.over_h2 else ""
    backend = "{}:{}".format(*master.address)
    with balancer(run.folder, [backend], protocol=protocol) as path:
        await _reload(run, master, path)


async def _rolling(run: Run) -> None:
    """Two machines behind HAProxy, each ended by TERM and started again."""
    port = free_port()
    binds = [f"127.0.0.{number}:{port}" for number in (2, 3)]
    masters = [await run.start(bind, run.folder / bind[:9]) for bind in binds]
    with balancer(run.folder, binds) as path:
        async with run.under_load(path) as load:
            first = set(load.pids)
            for master, bind in zip(masters, binds, strict=True):
                await run.await_end(master, master.send(signal.SIGTERM))
                await asyncio.sleep(AWAY_SECONDS)
                await run.start(bind, master.folder)
                await asyncio.sleep(AFTER_SECONDS)  # for HAProxy to notice
        run.outcome.replaced = len(load.pids - first)


async def _stream(run: Run) -> None:
    """TERM while a client reads an event stream."""
    master = await run.start()
    writer = await read_stream(master.address)
    try:
        await run.await_end(master, master.send(signal.SIGTERM))
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


RECYCLING = ("--max-requests", "600", "--max-requests-jitter", "300")
DELAYED = {"GUNICORN_ASGI_STOP_DELAY": "2.5", "GUNICORN_ASGI_HEALTH_PATH": "/healthz"}
RSS = {"GUNICORN_ASGI_MAX_RSS": str(96 * 2**20)}
STREAMS = {"GUNICORN_ASGI_STREAM_DRAIN_DELAY": "1"}

SCENARIOS: Sequence[Scenario] = (
    Scenario("hup", "HUP", _hup),
    Scenario("max-requests", "max_requests 600, jitter 300", _recycle, RECYCLING),
    Scenario("hup-twice", "HUP twice, the second one during the import", _hup_twice),
    Scenario("hup-single", "HUP with one worker", _hup, workers=1),
    Scenario("hup-reuse-port", "HUP with reuse_port", _hup, ("--reuse-port",)),
    Scenario("hup-tls", "HUP over TLS", _hup, tls=True),
    Scenario("hup-unix", "HUP on a unix socket", _hup, on_unix_socket=True),
    Scenario("hup-preload", "HUP with preload_app", _hup, ("--preload",)),
    Scenario(
        "hup-broken", "HUP to a release that cannot start, then to a good one", _broken_release
    ),
    Scenario(
        "haproxy", "HUP behind HAProxy with health checks", _hup_behind_haproxy, needs_haproxy=True
    ),
    Scenario(
        "haproxy-h2",
        "the same, with HTTP/2 between HAProxy and the workers",
        _hup_behind_haproxy,
        CLEARTEXT_H2,
        over_h2=True,
        needs_haproxy=True,
    ),
    Scenario(
        "rolling",
        "two machines behind HAProxy, restarted in turn by TERM",
        _rolling,
        hands_over=False,
        needs_haproxy=True,
    ),
    Scenario(
        "rolling-delay",
        "the same with stop_delay 2.5 and health_path",
        _rolling,
        variables=DELAYED,
        hands_over=False,
        needs_haproxy=True,
    ),
    Scenario(
        "max-rss",
        "an application that leaks 100 KiB a request, max_rss 96 MiB",
        _recycle,
        variables=RSS,
        path="/leak",
    ),
    Scenario("stream", "TERM with an event stream open", _stream, hands_over=False),
    Scenario(
        "stream-delay",
        "the same with stream_drain_delay 1",
        _stream,
        variables=STREAMS,
        hands_over=False,
    ),
)


def _address(bind: str) -> Address:
    if bind.startswith("unix:"):
        return bind[5:]
    host, _, port = bind.rpartition(":")
    return host, int(port)
