"""What an application or a hook has to say to its test: lines appended to one file, in the order of their happening."""

import os
from pathlib import Path


def note(*words: object) -> None:
    with Path(os.environ["TEST_EVENTS"]).open(
        "a"
    ) as file:  # one write of a short line: whole even from several processes
        file.write(" ".join(map(str, words)) + "\n")
