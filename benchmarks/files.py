"""Measure files as bodies beside the peers: ``python3 benchmarks/files.py``. Needs nothing but the standard library to begin with."""

from __future__ import annotations

import argparse
import http.client
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import bench_env
import report
from measure import Sample, progress, sample, started, turns, wrk
from scenarios import DONE, STEP_SECONDS, WrongAnswerError
from servers import GUNICORN, NO_VARIABLES, OURS, Running, Server, by_name

OUTPUT = Path(__file__).resolve().parent / "FILES.md"
CONNECTIONS = 16
NGINX = "nginx"
MARK = report.MARK


@dataclass(frozen=True)
class Scenario:
    """A file of one size."""

    name: str
    title: str
    size: int
    tls = False
    logged = False
    app = "file_apps"
    """Which of its applications, the server says."""

    @property
    def content(self) -> bytes:
        """The file."""
        return (b"%015x\n" % 1) * (self.size // 16)

    def check(self, port: int) -> None:
        """Ask twice on one connection. Raises WrongAnswerError."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STEP_SECONDS)
        try:
            for _ in range(2):
                connection.request("GET", f"/{self.name}")
                response = connection.getresponse()
                body = response.read()
                if response.status != 200 or body != self.content or response.will_close:
                    raise WrongAnswerError(
                        f"status {response.status} and {len(body)} bytes, {body[:60]!r}"
                    )
        except (OSError, http.client.HTTPException) as error:
            raise WrongAnswerError(f"no valid response: {error!r}") from error
        finally:
            connection.close()

    def script(self) -> str:
        """For wrk."""
        return f'wrk.path = "/{self.name}"\n{DONE}'


SCENARIOS = (
    Scenario("4k", "A file of 4 KiB", 4096),
    Scenario("64k", "A file of 64 KiB", 65536),
    Scenario("10m", "A file of 10 MiB", 10485760),
)


@dataclass(frozen=True)
class FileServer(Server):
    """One that sends them by one of the applications in file_apps."""

    application: str = "pathsend"

    def command(self, app: str, port: int) -> list[str]:
        """The whole command line."""
        return super().command(f"{app}:{self.application}", port)


@dataclass(frozen=True)
class Nginx(Server):
    """The limit: no application, no Python. Its arguments are the lines of its configuration."""

    def command(self, app: str, port: int) -> list[str]:
        """The whole command line."""
        folder = os.environ["BENCH_FILES"]
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(
            "\n".join(self.arguments).replace("PORT", str(port)).replace("FOLDER", folder)
        )
        return [NGINX, "-e", "stderr", "-p", folder, "-c", str(configuration)]


NGINX_CONF = (
    "daemon off; worker_processes 1; pid FOLDER/nginx.pid; error_log stderr;",
    "user root;" if os.geteuid() == 0 else "",
    "events { worker_connections 1024; }",
    "http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;",
    "server { listen 127.0.0.1:PORT; root FOLDER; } }",
)

SERVERS: tuple[Server, ...] = (
    FileServer(OURS, by_name(OURS).arguments),
    FileServer(f"{OURS}, Starlette", by_name(OURS).arguments, application="starlette"),
    FileServer(
        f"{OURS}, no sendfile", (*GUNICORN, "--no-sendfile", "-k", "gunicorn_asgi.Worker", "{app}")
    ),
    FileServer("granian", by_name("granian").arguments),
    FileServer("granian, Starlette", by_name("granian").arguments, application="starlette"),
    FileServer("uvicorn, Starlette", by_name("uvicorn").arguments, application="starlette"),
    Nginx(NGINX, NGINX_CONF),
)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    options = read_arguments(arguments)
    complaint = bench_env.missing("wrk", "wrk") or bench_env.missing(NGINX, NGINX)
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    command = bench_env.command_line("files.py", arguments)
    return bench_env.conduct(
        __file__, options.inside, options.python, arguments, lambda: write(options, command)
    )


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description="Measure files as bodies of gunicorn_asgi beside its peers."
    )
    bench_env.add_arguments(parser)
    bench_env.add_measuring(parser, SCENARIOS, SERVERS, OUTPUT)
    return bench_env.read_measuring(parser, arguments, SCENARIOS, SERVERS, OUTPUT)


def write(options: argparse.Namespace, command: str) -> None:
    """Measure, print the report, and write it where it is wanted."""
    cores = sorted(os.sched_getaffinity(0))
    facts = [
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{command}`"),
        ("method", f"{options.rounds} rounds of {options.seconds} s, {CONNECTIONS} connections"),
        ("cores", f"server on {cores[0]}, wrk on {cores[-1]}"),
        *bench_env.facts(),
    ]
    with tempfile.TemporaryDirectory(prefix="bench-files-") as name:
        for scenario in SCENARIOS:
            (Path(name) / scenario.name).write_bytes(scenario.content)
        os.environ["BENCH_FILES"] = name
        results = measure_all(options, name, cores[0], cores[-1])
    bench_env.write(markdown(facts, options, results), options.output)


def measure_all(
    options: argparse.Namespace, files: str, server_core: int, load_core: int
) -> report.Results:
    """Every server with every file in every round, in turns."""
    results: report.Results = {}
    for number, scenario, server in turns(
        options.scenarios, options.servers, options.rounds, options.others
    ):
        result = results.setdefault((scenario.name, server.name), report.Result())
        if result.failure:
            continue

        def measured(process: Running, folder: Path, scenario: Scenario = scenario) -> Sample:
            script = folder / "load.lua"
            script.write_text(scenario.script())
            return sample(
                process, partial(wrk, process.port, script, CONNECTIONS, load_core), options.seconds
            )

        found, result.failure = started(
            server, scenario, server_core, measured, {**NO_VARIABLES, "BENCH_FILES": files}
        )
        if found is not None:
            result.samples[number] = found
        outcome = f"{found.rate:,.0f}/s, {found.cpu_us:.1f} us" if found else result.failure
        progress(f"{number + 1}", scenario.name, server, outcome)
    return results


LEGEND = f"""\
One worker on one core, wrk with {CONNECTIONS} connections on the other, HTTP/1.1 without TLS; the files are in the system's cache. An application that sends `http.response.pathsend`
with a `content-length`; with *Starlette*, its FileResponse, which uses the extension where the server offers it. {NGINX} is the limit. Medians over the rounds. *CPU* is user and
system time of all processes of the server per request. *{NGINX} = 1* is the ratio of requests/s within a round. A cell with {MARK} has errors or no measurement at all."""

CPU_LEGEND = f"""\
How many times the CPU time of {NGINX} a request takes, within a round: most of it is the kernel's, which is the same for all that call sendfile."""


def _cpu_beside(result: report.Result, baseline: report.Result | None) -> float | None:
    ratio = report.cpu_ratio(result, baseline)
    return None if ratio is None else 1 / ratio


def markdown(
    facts: Sequence[tuple[str, str]], options: argparse.Namespace, results: report.Results
) -> str:
    """The whole report."""
    scenarios, servers = options.scenarios, options.servers
    parts = ["# Files", report.facts_list(facts), LEGEND]
    parts += [
        f"## Requests per second, {NGINX} = 1",
        report.overview(scenarios, servers, results, baseline=NGINX),
    ]
    parts += [
        f"## CPU time per request, {NGINX} = 1",
        CPU_LEGEND,
        report.overview(scenarios, servers, results, _cpu_beside, NGINX),
    ]
    columns = (
        *report.cpu("request"),
        report.BUSY,
        report.CLIENT,
        report.P50,
        report.P99,
        report.MEMORY,
    )
    parts += [
        "## " + report.section(scenario, servers, results, columns, baseline=NGINX)
        for scenario in scenarios
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
