"""Random cases for so many seconds, or one of them again."""

from __future__ import annotations

import argparse
import os
import sys
import time

from .case import run_case


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="an hour by default")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--replay", metavar="SEED:NUMBER", help="run this one case")
    parser.add_argument("--failures", type=int, default=20, help="stop after so many of them")
    options = parser.parse_args()
    if options.replay:
        seed, _, number = options.replay.partition(":")
        return int(fails(int(seed), int(number)))
    print(f"seed {options.seed}", flush=True)
    end = time.monotonic() + options.seconds
    number = failures = 0
    while time.monotonic() < end and failures < options.failures:
        failures += fails(options.seed, number)
        number += 1
    print(f"{number} cases, {failures} failures")
    return int(failures > 0)


def fails(seed: int, number: int) -> bool:
    """Run a case, and print the invariants that do not hold."""
    kind, problems = run_case(seed, number)
    for problem in problems:
        print(f"{kind}: {problem}")
    if problems:
        print(f"    python -m tests.fuzz --replay {seed}:{number}", flush=True)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
