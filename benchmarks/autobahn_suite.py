"""How many cases of the Autobahn test suite pass, with TLS and without, on each event loop.

    python3 benchmarks/autobahn_suite.py --wstest PATH

Runs in the environment that gunicorn_asgi is installed in, with Gunicorn 27 or newer, where the
loop can be chosen. wstest is the command of the package autobahntestsuite, which needs an
environment of its own, with Python 2.7. Neither this package nor its tests need it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CASES = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*")
"""The protocol, in 247 cases. 9 is about speed; 12 and 13 are about compression."""
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
"""What wstest says of a case, and of how its connection ended, where that is not a failure."""
SCHEMES = ("ws", "wss")
LOOPS = ("asyncio", "uvloop")
BOOT_SECONDS = 30.0
RUN_SECONDS = 3600.0

APPLICATION = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--wstest",
        default="wstest",
        metavar="PATH",
        help="the command of autobahntestsuite (default: from PATH)",
    )
    parser.add_argument(
        "--cases",
        default=",".join(CASES),
        help="as wstest names them, separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--schemes",
        default=",".join(SCHEMES),
        help="separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--loops",
        default=",".join(LOOPS),
        help="separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="a folder for the reports of wstest (default: they are not kept)",
    )
    options = parser.parse_args(arguments)
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "echo.py").write_text(APPLICATION)
        make_certificate(folder)
        for loop in options.loops.split(","):
            if loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
                print("uvloop: not installed")
                continue
            for scheme in options.schemes.split(","):
                reports = (options.output or folder).resolve() / f"{scheme}-{loop}"
                with serving(folder, scheme, loop) as port:
                    results = run(
                        options.wstest,
                        folder,
                        reports,
                        f"{scheme}://127.0.0.1:{port}",
                        options.cases.split(","),
                    )
                failed = {case: said for case, said in results.items() if not said <= PASSED}
                failures += len(failed) or not results
                print(
                    f"{scheme:4}{loop:8}{len(results) - len(failed)} of {len(results)} passed",
                    flush=True,
                )
                for case, said in failed.items():
                    print(f"    {case}: {', '.join(sorted(said))}")
    return 1 if failures else 0


def make_certificate(folder: Path) -> None:
    names = [
        "-subj",
        "/CN=localhost",
        "-keyout",
        str(folder / "key.pem"),
        "-out",
        str(folder / "certificate.pem"),
    ]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def serving(folder: Path, scheme: str, loop: str) -> Iterator[int]:
    """A Gunicorn with one worker, on the port that this yields."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    settings: dict[str, Any] = {
        "bind": f"127.0.0.1:{port}",
        "worker_class": "gunicorn_asgi.Worker",
        "asgi_loop": loop,
        "wsgi_app": "echo:app",
        "pythonpath": str(folder),
        "errorlog": str(folder / "error.log"),
    }
    if scheme == "wss":
        settings |= {
            "certfile": str(folder / "certificate.pem"),
            "keyfile": str(folder / "key.pem"),
        }
    file = folder / "gunicorn.conf.py"
    file.write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    process = subprocess.Popen([sys.executable, "-m", "gunicorn", "-c", str(file)], cwd=folder)
    try:
        wait_until_serving(process, port, scheme)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def wait_until_serving(process: subprocess.Popen[bytes], port: int, scheme: str) -> None:
    context = ssl._create_unverified_context()
    end = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as sock:
            if scheme == "wss":
                context.wrap_socket(sock).close()
            return
        time.sleep(0.1)
    raise SystemExit("Gunicorn does not serve.")


def run(
    wstest: str,
    folder: Path,
    reports: Path,
    url: str,
    cases: list[str],
) -> dict[str, set[str]]:
    """What wstest says of each case: of the case itself, and of how its connection ended."""
    spec = {
        "outdir": str(reports),
        "servers": [{"agent": "server", "url": url}],
        "cases": cases,
        "exclude-cases": [],
    }
    file = folder / "spec.json"
    file.write_text(json.dumps(spec))
    done = subprocess.run(
        [wstest, "--mode", "fuzzingclient", "--spec", str(file)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    index = reports / "index.json"
    if done.returncode or not index.exists():
        raise SystemExit(f"wstest has failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    found = json.loads(index.read_text()).get("server", {})
    return {case: {result["behavior"], result["behaviorClose"]} for case, result in found.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
