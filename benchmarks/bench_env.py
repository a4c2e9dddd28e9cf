"""The virtual environment of the benchmarks: made once for each interpreter, made again when what is wanted in it changes."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
REQUIREMENTS = HERE / "requirements.txt"
INSIDE = "--inside"
"""Tells a script that it runs in the environment already."""

INSTALL_SECONDS = 900.0
ASK_SECONDS = 30.0


class SetupError(Exception):
    """The environment cannot be made."""


def enter(interpreter: str, script: str, arguments: Sequence[str]) -> NoReturn:
    """Run `script` again, in the environment of `interpreter`, in place of this process. Raises SetupError."""
    python = prepare(interpreter)
    os.execv(python, [str(python), script, INSIDE, *arguments])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every script that calls `enter`."""
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="INTERPRETER",
        help="that the servers run on (default: this one)",
    )
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)


def positive(text: str) -> int:
    """A type for an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def add_measuring(
    parser: argparse.ArgumentParser,
    scenarios: Sequence[Named],
    servers: Sequence[Named],
    output: Path,
) -> None:
    """The arguments of every script that measures scenarios and servers in rounds."""
    parser.add_argument(
        "--rounds",
        type=positive,
        help="how often every server is measured in every scenario (default: 5)",
    )
    parser.add_argument("--seconds", type=positive, help="of each measurement (default: 3)")
    parser.add_argument(
        "--others",
        type=positive,
        metavar="ROUNDS",
        help="of the servers beside this worker, Uvicorn and Granian (default: as many as of these)",
    )
    parser.add_argument(
        "--scenarios", help=f"separated by commas (default: all of {_names(scenarios)})"
    )
    parser.add_argument(
        "--servers", help=f"separated by commas (default: all of {_names(servers)})"
    )
    where = f"the Markdown file to write (default: {output.relative_to(ROOT)}; none with --quick)"
    parser.add_argument("--output", type=Path, help=where)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round of one second: to see that all works, not for numbers",
    )


def read_measuring(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str],
    scenarios: Sequence[Named],
    servers: Sequence[Named],
    output: Path,
) -> argparse.Namespace:
    """Of the command line, with the scenarios and the servers themselves in place of their names."""
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 3)
    if options.output is None and not options.quick:
        options.output = output
    try:
        options.scenarios = select(scenarios, options.scenarios)
        options.servers = select(servers, options.servers)
    except ValueError as error:
        parser.error(str(error))
    return options


def add_write(parser: argparse.ArgumentParser, output: Path) -> None:
    """The argument of a script that writes a page, to `output` unless it is told another file."""
    parser.add_argument(
        "--write",
        nargs="?",
        type=Path,
        const=output,
        metavar="FILE",
        help=f"write the page, too (default: benchmarks/{output.name})",
    )


def add_parts(parser: argparse.ArgumentParser, parts: Sequence[str]) -> None:
    """The argument of a script that measures several things."""
    parser.add_argument(
        "--parts",
        default=",".join(parts),
        help=f"separated by commas (default: all of {', '.join(parts)})",
    )


def read_parts(
    parser: argparse.ArgumentParser, options: argparse.Namespace, parts: Sequence[str]
) -> None:
    """Have `options.parts` be a list, without instructions where nothing counts them."""
    options.parts = options.parts.split(",")
    unknown = set(options.parts) - set(parts)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    if "instructions" in options.parts and shutil.which("valgrind") is None:
        print(
            "Without valgrind (Debian and Ubuntu: apt install valgrind) no instructions are counted.",
            file=sys.stderr,
        )
        options.parts.remove("instructions")


def missing(program: str = "", package: str = "") -> str:
    """What keeps this machine from measuring, in one sentence; empty if nothing does. `program` is the client, of that Debian package."""
    if not sys.platform.startswith("linux"):
        return "The benchmarks need Linux: they read /proc and pin processes to cores."
    if program and shutil.which(program) is None:
        return f"The benchmarks need {program}, which is not installed here (Debian and Ubuntu: apt install {package})."
    if len(os.sched_getaffinity(0)) < 2:
        return "The benchmarks need two CPU cores, one for the server and one for its client."
    return ""


def write(text: str, output: Path | None) -> None:
    """Print a report, and write it where it is wanted."""
    print(text)
    if output is not None:
        output.write_text(text)
        print(f"Written to {output}", file=sys.stderr)


class Named(Protocol):
    @property
    def name(self) -> str: ...


AnyNamed = TypeVar("AnyNamed", bound=Named)


def _names(named: Sequence[Named]) -> str:
    return ", ".join(item.name for item in named)


def select(known: Sequence[AnyNamed], names: str | None) -> list[AnyNamed]:
    """Those whose names are in `names`, separated by commas; all if it is None. Raises ValueError."""
    if names is None:
        return list(known)
    wanted = [name.strip() for name in names.split(",")]
    unknown = set(wanted) - {item.name for item in known}
    if unknown:
        raise ValueError(
            f"there is no {', '.join(sorted(unknown))}; there are {', '.join(item.name for item in known)}"
        )
    return [item for item in known if item.name in wanted]


def command_line(script: str, arguments: Sequence[str]) -> str:
    """The command that anybody could give to have the same measured: the interpreter by its name, and nothing of where things lie here."""
    words = [argument for argument in arguments if argument != INSIDE]
    for option in ("--python", "--output", "--logs"):
        if option in words:
            where = words.index(option)
            del words[where : where + 2]
    return shlex.join(
        [f"python{sys.version_info.major}.{sys.version_info.minor}", f"benchmarks/{script}", *words]
    )


def prepare(interpreter: str) -> Path:
    """Make the environment unless it is there; returns its interpreter. Raises SetupError."""
    folder = HERE / ".venv" / _run([interpreter, "-c", TAG], ASK_SECONDS).strip()
    python = folder / "bin" / "python"
    stamp = folder / "installed.txt"
    wanted = REQUIREMENTS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Installing what is measured into {folder} ...", file=sys.stderr, flush=True)
        _run([interpreter, "-m", "venv", "--clear", str(folder)], INSTALL_SECONDS)
        _run(
            [
                str(python),
                "-m",
                "pip",
                "install",
                "--quiet",
                "-r",
                str(REQUIREMENTS),
                "-e",
                str(ROOT),
            ],
            INSTALL_SECONDS,
        )
        stamp.write_text(wanted)
    return python


def beside(interpreter: str) -> tuple[str, str]:
    """The environment's Python for another interpreter, made unless it is there, and its version as ``3.11``. Raises SetupError."""
    python = str(prepare(interpreter))
    return python, _run([python, "-c", VERSION], ASK_SECONDS).strip()


VERSION = "import sys; print('{}.{}'.format(*sys.version_info))"
TAG = "import platform, sysconfig; print(platform.python_implementation() + platform.python_version() + sysconfig.get_config_var('ABIFLAGS'))"


def _run(command: list[str], seconds: float) -> str:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"Cannot run {command[0]}: {error}") from error
    if done.returncode:
        raise SetupError(
            f"This failed with {done.returncode}: {' '.join(command)}\n{done.stdout.strip()}"
        )
    return done.stdout


def facts() -> list[tuple[str, str]]:
    """What all measurements depend on: the machine, the interpreter, the packages."""
    return [
        (
            "machine",
            f"{_processor()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}",
        ),
        ("load average before", ", ".join(f"{load:.2f}" for load in os.getloadavg())),
        (
            "Python",
            f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()})",
        ),
        ("checkout", commit()),
        (
            "packages",
            ", ".join(
                sorted(
                    {f"{found.name} {found.version}" for found in distributions()}, key=str.lower
                )
            ),
        ),
    ]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


MEASURED_FILES = ("gunicorn_asgi", "pyproject.toml", "benchmarks/*.py", "benchmarks/*.txt")
"""What the results depend on: not on pages that other scripts have just written."""


def commit() -> str:
    """Of this checkout, with ``-dirty`` behind it where what is measured has changed since."""
    git = ["git", "-C", str(ROOT)]
    try:
        name = _run([*git, "describe", "--always", "--abbrev=10"], ASK_SECONDS).strip()
        changed = _run([*git, "status", "--porcelain", "--", *MEASURED_FILES], ASK_SECONDS)
    except SetupError:
        return "not a git checkout"
    return f"{name}-dirty" if changed else name


def make_certificate(folder: Path) -> tuple[str, str]:
    """A new certificate, which has signed itself, and its key: files in `folder`. Raises SetupError."""
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    _run([*new, "-subj", "/CN=localhost", "-keyout", key, "-out", cert], ASK_SECONDS)
    return cert, key


def conduct(
    script: str,
    inside: bool,
    python: str,
    arguments: Sequence[str],
    work: Callable[[], object],
    *errors: type[Exception],
) -> int:
    """Do `work` within the benchmarks' environment; returns the exit code. What of `errors` it raises, and a SetupError, is one line on stderr."""
    try:
        if not inside:
            enter(python, script, arguments)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(
                number, lambda number, _frame: sys.exit(128 + number)
            )  # so that what was started is ended
        work()
    except (SetupError, *errors) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped: nothing is written.", file=sys.stderr)
        return 130
    return 0
