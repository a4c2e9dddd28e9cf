"""An application that takes its time to be imported, and may do that within an ``except`` that is too wide."""

import os
import time

from events import note

try:
    note("importing")
    time.sleep(float(os.environ["TEST_IMPORT_SECONDS"]))
except BaseException as error:
    note(type(error).__name__)
    if "TEST_IMPORT_SWALLOWS" not in os.environ:
        raise


async def app(scope, receive, send):
    note("called")
