"""Measure an ordinary client beside attacks: ``python3 benchmarks/attacks.py``. Begins with the standard library."""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn

import apps
import attack_scenarios
import bench_env
import measure
import report
import store
from attack_load import Attacked
from attack_scenarios import ATTACKS, TARGETS, Attack
from servers import Running, Server, StartError, free_port, last_words, pinned, running

OUTPUT = Path(__file__).resolve().parent / "ATTACKS.md"
STORED = store.FOLDER / "attacks.json"
INTERVAL_SECONDS = 0.1
"""Between the beginnings of two ordinary requests, if the first one is answered meanwhile."""
PATIENCE_SECONDS = 10.0
"""Of the ordinary client. After it, a request counts as unanswered."""
KILLED_SECONDS = 36.0
"""How long a server that does not answer is watched: longer than Gunicorn's default `timeout`, 30 s."""
MEMORY_SECONDS = 0.05
FIRST = 5
"""Ordinary requests before the attack."""
SPARE_FILES = 200
NOT_SPOKEN = "does not apply"
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


@dataclass
class Outcome:
    """One attack on one server."""

    checkout: str = ""
    failure: str = ""
    """Why there are no numbers."""
    alone_ms: float = 0.0
    """CPU time until an ordinary request was answered before the attack, the shortest."""
    cpu_ms: float = 0.0
    """The same during the attack, the longest, over requests without an answer, too."""
    wait_s: float = 0.0
    """The longest that an ordinary request took."""
    answered: int = 0
    unanswered: int = 0
    """Ordinary requests without an answer within PATIENCE_SECONDS."""
    failed: int = 0
    """Ordinary requests that were refused, reset, or answered with another status."""
    failures: dict[str, int] = field(default_factory=dict)
    """Those by kind."""
    killed: bool = False
    """Whether a process of the server has ended during the attack."""
    before_mb: float = 0.0
    """Resident memory of the largest process, before the attack."""
    peak_mb: float = 0.0
    """The same at its peak."""
    attacked: Attacked = field(default_factory=Attacked)


Outcomes = dict[tuple[str, str], Outcome]
"""By the names of attack and server."""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    options = read_arguments(arguments)
    complaint = bench_env.missing()
    if complaint:
        print(complaint, file=sys.stderr)
        return 2
    command = bench_env.command_line("attacks.py", arguments)
    return bench_env.conduct(
        __file__, options.inside, options.python, arguments, lambda: write(options, command)
    )


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description="Measure an ordinary client beside attacks.")
    bench_env.add_arguments(parser)
    parser.add_argument(
        "--attacks",
        help=f"separated by commas (default: all of {', '.join(each.name for each in ATTACKS)})",
    )
    parser.add_argument(
        "--servers",
        help=f"separated by commas (default: all of {', '.join(each.name for each in TARGETS)})",
    )
    parser.add_argument(
        "--seconds", type=bench_env.positive, help="how long an attack goes on (default: 8)"
    )
    parser.add_argument(
        "--stored",
        action="store_true",
        help="measure nothing: write the page from what the last runs measured",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="the Markdown file to write (default: benchmarks/ATTACKS.md; none with --quick)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="two seconds each, and nothing stored: to see that all works, not for numbers",
    )
    options = parser.parse_args(arguments)
    options.seconds = options.seconds or (2 if options.quick else 8)
    # The deadlines of servers are 10 s and shorter, with few exceptions.
    options.longest = options.seconds + (2 if options.quick else 12)
    if options.output is None and not options.quick:
        options.output = OUTPUT
    try:
        options.attacks = bench_env.select(ATTACKS, options.attacks)
        options.servers = bench_env.select(TARGETS, options.servers)
    except ValueError as error:
        parser.error(str(error))
    return options


def write(options: argparse.Namespace, command: str) -> None:
    """Measure, print the report, and write it where it is wanted."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the server's, too
    cores = sorted(os.sched_getaffinity(0))
    outcomes = {} if options.quick else load()
    if not options.stored:
        checkout = bench_env.commit()
        pairs = [(attack, server) for attack in options.attacks for server in options.servers]
        for number, (attack, server) in enumerate(pairs, 1):
            outcome = attacked(attack, server, options, cores[0], cores[-1])
            outcome.checkout = checkout
            outcomes[attack.name, server.name] = outcome
            measure.progress(f"{number}/{len(pairs)}", attack.name, server, _line(outcome))
            if not options.quick:
                save(outcomes)
    facts = [
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{command}`"),
        ("cores", f"server on {cores[0]}, clients on {cores[-1]}"),
        *bench_env.facts(),
    ]
    bench_env.write(markdown(facts, outcomes), options.output)


# What was measured before.


def load() -> Outcomes:
    """What the last runs measured; nothing if there were none."""
    if not STORED.exists():
        return {}
    found: Outcomes = {}
    for attack, server, content in json.loads(STORED.read_text()):
        attacked = Attacked(**content.pop("attacked"))
        found[attack, server] = Outcome(**content, attacked=attacked)
    return found


def save(outcomes: Outcomes) -> None:
    """In place of what was stored."""
    store.FOLDER.mkdir(exist_ok=True)
    STORED.write_text(json.dumps([[*key, asdict(outcome)] for key, outcome in outcomes.items()]))


# One attack.


def attacked(
    attack: Attack, server: Server, options: argparse.Namespace, server_core: int, load_core: int
) -> Outcome:
    """Start a server, attack it, have an ordinary client ask meanwhile, and end it."""
    target = attack_scenarios.target_of(attack, server)
    if target is None:
        return Outcome(failure=NOT_SPOKEN)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        try:
            command = target.command(attack_scenarios.APP, port)
            with running(command, port, folder, server_core) as process, pinned(load_core):
                return _measured(attack, process, options)
        except (StartError, measure.LoadError) as error:
            return Outcome(failure=f"{error} ({last_words(folder)})")


def _measured(attack: Attack, server: Running, options: argparse.Namespace) -> Outcome:
    outcome = Outcome()
    client = OrdinaryClient(server, outcome)
    outcome.alone_ms = min(_alone_ms(server) for _ in range(FIRST))
    # The arbiter of Gunicorn, Granian and Hypercorn does not end either, if all goes well.
    processes = set(measure.pids(server.pid))
    outcome.before_mb = outcome.peak_mb = _largest_mb(server)
    with _watched_memory(server, outcome), _attacker(attack, server, options) as attacker:
        begun = time.monotonic()
        while attacker.poll() is None:
            if time.monotonic() - begun > options.longest + measure.GRACE_SECONDS:
                raise measure.LoadError("the attacker did not end")
            client.ask_in_turn()
        while outcome.unanswered and time.monotonic() - begun < KILLED_SECONDS:
            if client.ask_in_turn() or not processes <= set(measure.pids(server.pid)):
                break
        output, _ = attacker.communicate(timeout=measure.GRACE_SECONDS)
    outcome.killed = not processes <= set(measure.pids(server.pid))
    try:
        outcome.attacked = Attacked.loads(output.strip().splitlines()[-1])
    except (IndexError, ValueError, TypeError) as error:
        raise measure.LoadError(f"the attacker says: {output.strip()[-300:]}") from error
    if outcome.attacked.refusal:
        return Outcome(failure=f"{NOT_SPOKEN}: {outcome.attacked.refusal}")
    return outcome


@contextmanager
def _attacker(
    attack: Attack, server: Running, options: argparse.Namespace
) -> Iterator[subprocess.Popen[str]]:
    arguments = [attack.name, str(server.port), str(options.seconds), str(options.longest)]
    process = subprocess.Popen(
        [sys.executable, "-m", "attack_load", *arguments],
        cwd=Path(__file__).resolve().parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class OrdinaryClient:
    """Sends a request on a new connection, and waits for its answer."""

    def __init__(self, server: Running, outcome: Outcome) -> None:
        self._server, self._outcome = server, outcome
        self._next = 0.0
        self._cpu_ns: int | None = None
        """Of the server, when the first of the requests began that have had no answer."""

    def ask_in_turn(self) -> bool:
        """Ask when it is time to; returns whether there was an answer."""
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = time.monotonic() + INTERVAL_SECONDS
        return self.ask()

    def ask(self) -> bool:
        """Ask once; returns whether there was an answer."""
        outcome, begun = self._outcome, time.monotonic()
        cpu_before = measure.cpu_ns(self._server.pid) if self._cpu_ns is None else self._cpu_ns
        self._cpu_ns = None
        try:
            self._exchange()
        except TimeoutError:
            outcome.unanswered += 1
            self._cpu_ns = cpu_before
        except OSError as error:
            kind = type(error).__name__
            outcome.failed += 1
            outcome.failures[kind] = outcome.failures.get(kind, 0) + 1
            return False
        else:
            outcome.answered += 1
        # If a process has ended meanwhile, its time is lost.
        cpu_ms = (measure.cpu_ns(self._server.pid) - cpu_before) / 1e6
        outcome.cpu_ms = max(outcome.cpu_ms, cpu_ms)
        waited = time.monotonic() - begun
        outcome.wait_s = max(outcome.wait_s, waited)
        return waited < PATIENCE_SECONDS

    def _exchange(self) -> None:
        """Raises TimeoutError, OSError."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with socket.create_connection(("127.0.0.1", self._server.port), PATIENCE_SECONDS) as sock:
            sock.sendall(REQUEST)
            answer = b""
            while not answer.endswith(apps.HELLO):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                sock.settimeout(left)
                part = sock.recv(65536)
                if not part:
                    _complain(answer)
                answer += part
        if not answer.startswith(b"HTTP/1.1 200"):
            _complain(answer)


class NoAnswerError(OSError):
    """The server has closed the connection without an answer."""


class OtherAnswerError(OSError):
    """It was answered with another status."""


def _complain(answer: bytes) -> NoReturn:
    raise OtherAnswerError if answer else NoAnswerError


def _alone_ms(server: Running) -> float:
    """CPU time of one request. Raises LoadError."""
    outcome = Outcome()
    if not OrdinaryClient(server, outcome).ask():
        raise measure.LoadError("an ordinary request was not answered before the attack")
    return outcome.cpu_ms


@contextmanager
def _watched_memory(server: Running, outcome: Outcome) -> Iterator[None]:
    """Keep the peak of the memory meanwhile."""
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(MEMORY_SECONDS):
            outcome.peak_mb = max(outcome.peak_mb, _largest_mb(server))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _largest_mb(server: Running) -> float:
    """Resident memory of the largest process of a server: its worker."""
    largest = 0
    for pid in measure.pids(server.pid):
        with suppress(OSError, ValueError, IndexError):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            largest = max(largest, pages * resource.getpagesize())
    return largest / 2**20


# The report.

LEGEND = f"""\
Beside each attack, an ordinary client sends a request each {INTERVAL_SECONDS * 1000:.0f} ms, on a new connection. Each server has one worker and its defaults, and the
application does nothing. *Does not apply*: the server does not speak the protocol, or does not compress messages."""

CPU_LEGEND = f"""\
Milliseconds of CPU time that the server used from an ordinary request to its answer, or to the answer of a later one, in the worst case. It hardly depends on the machine and on what else runs there, and says how long others
wait while the server works for an attacker. *Unanswered*: an ordinary request had no answer within {PATIENCE_SECONDS:.0f} s. *Killed*: a process of the server has ended."""

WAIT_LEGEND = """\
Seconds that an ordinary request took, in the worst case: how long others wait also where the server does nothing, as for a slot."""

MEMORY_LEGEND = """\
Resident memory of the largest process, in MiB: before the attack, and at its peak."""

GONE_LEGEND = """\
How long the server kept the attacker's connections. Of an attack that goes on and on, the time is that of its longest connection. *Stay* are those that the server had not closed
when the attack was over."""

FAILED_LEGEND = "Ordinary requests that were refused, or reset, or had another answer."


def markdown(facts: Sequence[tuple[str, str]], outcomes: Outcomes) -> str:
    """The whole report."""
    attacks = [each for each in ATTACKS if any(each.name == key[0] for key in outcomes)]
    servers = [each for each in TARGETS if any(each.name == key[1] for key in outcomes)]
    checkouts = sorted({outcome.checkout for outcome in outcomes.values()})

    def table(title: str, cell: Callable[[Outcome, Attack], str]) -> str:
        rows = [[title, *(report.name(server) for server in servers)]]
        for attack in attacks:
            found = [outcomes.get((attack.name, server.name)) for server in servers]
            cells = [_cell(outcome, attack, cell) for outcome in found]
            rows.append([f"`{attack.name}`", *cells])
        return report.table(rows)

    parts = [
        "# Attacks",
        report.facts_list([*facts, ("measured", ", ".join(checkouts))]),
        LEGEND,
        report.table(
            [["attack", "what it is"], *([f"`{a.name}`", a.title] for a in attacks)], (0, 1)
        ),
        "## CPU time until an ordinary client is answered",
        CPU_LEGEND,
        table("ms", _cpu),
        "## Longest wait",
        WAIT_LEGEND,
        table("s", lambda outcome, _: f"{outcome.wait_s:.2f}"),
        "## Memory",
        MEMORY_LEGEND,
        table("MiB", lambda outcome, _: f"{outcome.before_mb:.0f}, {outcome.peak_mb:,.0f}"),
        "## When the attacker is gone",
        GONE_LEGEND,
        table("s", _gone),
    ]
    if any(outcome.failed for outcome in outcomes.values()):
        parts += ["## Ordinary requests that failed", FAILED_LEGEND, table("of all", _failed)]
    parts += [
        f"{report.MARK} {attack}, {server}: {outcome.failure}"
        for (attack, server), outcome in outcomes.items()
        if outcome.failure and not outcome.failure.startswith(NOT_SPOKEN)
    ]
    return "\n\n".join(parts) + "\n"


def _cell(outcome: Outcome | None, attack: Attack, cell: Callable[[Outcome, Attack], str]) -> str:
    if outcome is None:
        return ""
    if outcome.failure:
        return NOT_SPOKEN if outcome.failure.startswith(NOT_SPOKEN) else f"{report.MARK} fails"
    return cell(outcome, attack)


def _cpu(outcome: Outcome, _: Attack) -> str:
    marks = ["killed"] * outcome.killed + ["unanswered"] * bool(outcome.unanswered)
    return ", ".join([*marks, f"{outcome.cpu_ms:,.1f}"])


def _gone(outcome: Outcome, attack: Attack) -> str:
    attacked = outcome.attacked
    if attack.leaves:
        return "by itself"
    if attacked.still_open and not attack.returns:
        return f"{attacked.still_open:,} of {attacked.opened:,} stay"
    return f"{attacked.longest_s:.1f}" if attacked.ended else "stay"


def _failed(outcome: Outcome, _: Attack) -> str:
    if not outcome.failed:
        return "0"
    kinds = ", ".join(f"{count} {kind}" for kind, count in outcome.failures.items())
    total = outcome.answered + outcome.unanswered + outcome.failed
    return f"{outcome.failed} of {total} ({kinds})"


def _line(outcome: Outcome) -> str:
    if outcome.failure:
        return outcome.failure
    killed = ", killed" if outcome.killed else ""
    attacked = outcome.attacked
    return (
        f"{outcome.cpu_ms:.1f} ms of CPU (alone {outcome.alone_ms:.1f}), {outcome.wait_s:.2f} s, "
        f"{outcome.answered} answered, {outcome.unanswered} not, {outcome.failed} failed{killed}, "
        f"{outcome.before_mb:.0f} to {outcome.peak_mb:.0f} MiB; connections: {attacked.opened}, "
        f"{attacked.ended} ended within {attacked.longest_s:.1f} s, {attacked.still_open} open"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
