"""Fuzz one target with atheris (``pip install atheris``, on CPython 3.11 to 3.13).

All further arguments are libFuzzer's, such as ``-max_total_time=600``. New inputs go to a directory
of their own, ``.fuzz/NAME`` by default. What fails is written to the working directory: add it to
the corpus, or better make it a test.
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import CORPUS, NAMES, load


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit(
            f"usage: python -m tests.fuzz.targets {{{','.join(NAMES)}}} [arguments of libFuzzer]"
        )
    import atheris

    name = sys.argv[1]
    with atheris.instrument_imports(include=["gunicorn_asgi"]):
        check = load(name)
    found = Path(".fuzz", name)
    found.mkdir(parents=True, exist_ok=True)
    arguments = [sys.argv[0], *sys.argv[2:], str(found), str(CORPUS / name)]
    atheris.Setup(arguments, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
