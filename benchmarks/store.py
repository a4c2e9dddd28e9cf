"""What the last runs measured, round by round, for targets.py: JSON files in ``.results``, which is not in the repository."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import bench_env
import report
from measure import Sample
from syscalls import Calls

FOLDER = Path(__file__).resolve().parent / ".results"


@dataclass
class Stored:
    """Of one script, by the names of scenario and server. What failed is not in it."""

    checkout: str = ""
    date: str = ""
    rate: report.Results = field(default_factory=dict)
    instructions: dict[tuple[str, str], float] = field(default_factory=dict)
    syscalls: dict[tuple[str, str], Calls] = field(default_factory=dict)


def save(
    name: str,
    rate: report.Results,
    instructions: Mapping[tuple[str, str], float | str],
    syscalls: Mapping[tuple[str, str], Calls | str] | None = None,
) -> None:
    """In place of what the script `name` measured before."""
    content: dict[str, Any] = {
        "checkout": bench_env.commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "rate": [
            [*key, number, asdict(sample)]
            for key, result in rate.items()
            if not result.failure
            for number, sample in result.samples.items()
        ],
        "instructions": [[*key, found] for key, found in instructions.items() if _counted(found)],
        "syscalls": [[*key, found] for key, found in (syscalls or {}).items() if _counted(found)],
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(content))


def _counted(found: object) -> bool:
    return not isinstance(found, str)


def load(name: str) -> Stored:
    """What the script `name` measured last; nothing if it never did."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        return Stored()
    content = json.loads(path.read_text())
    stored = Stored(content["checkout"], content["date"])
    for scenario, server, number, sample in content["rate"]:
        result = stored.rate.setdefault((scenario, server), report.Result())
        result.samples[number] = Sample(**sample)
    for scenario, server, found in content["instructions"]:
        stored.instructions[scenario, server] = found
    for scenario, server, found in content["syscalls"]:
        stored.syscalls[scenario, server] = found
    return stored
