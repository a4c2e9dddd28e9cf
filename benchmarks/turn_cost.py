"""How long one packet of 256 KiB holds the event loop, and all turns that go on with its data.

The packets are those of tests/floods.py and tests/ws_floods.py, on a transport that goes nowhere. Times are CPU times of this process, the best
of some runs. Run it in the environment of the tests: python benchmarks/turn_cost.py [--only WORDS]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import bench_env

sys.path.insert(0, str(bench_env.ROOT / "tests"))  # the packets are also those of the tests

import floods
import ws_floods

RUNS = 3


def measure(function: Callable[[], object]) -> float:
    """Milliseconds of CPU time."""
    begin = time.process_time()
    function()
    return (time.process_time() - begin) * 1000


def row(name: str, flood: floods.Flood, parser: str) -> str:
    runs = [floods.cost(flood, parser, floods.PACKET, measure) for _ in range(RUNS)]
    halves = [floods.cost(flood, parser, floods.PACKET // 2, measure) for _ in range(RUNS)]
    received = min(run.received for run in runs)
    most = min(run.most for run in runs)
    total = min(run.total for run in runs)
    ratio = total / min(half.total for half in halves)
    return f"| {name} | {parser} | {received:.1f} | {most:.1f} | {total:.1f} | {ratio:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only packets whose names have these words")
    only = parser.parse_args().only
    print("| packet | parser | data_received, ms | longest turn | all turns | beside half of it |")
    print("|---|---|---|---|---|---|")
    for kinds, parsers in (
        (floods.HTTP1, ("httptools", "h11")),
        (floods.HTTP2, ("httptools",)),
        (ws_floods.WEBSOCKET, ("httptools",)),
    ):
        for name, flood in kinds.items():
            for library in parsers if only in name else ():
                print(row(name, flood, library), flush=True)


if __name__ == "__main__":
    main()
