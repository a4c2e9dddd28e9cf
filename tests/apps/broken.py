"""An application whose import does what the file TEST_IMPORT says: a statement."""

import os
from pathlib import Path

import main

exec(compile(Path(os.environ["TEST_IMPORT"]).read_text(), "statement", "exec"))

if "app" not in globals():
    app = main.app
elif app is Ellipsis:
    del app
