"""An application that takes its time to be imported."""

import os
import time

from events import note

note("importing")
time.sleep(float(os.environ["TEST_IMPORT_SECONDS"]))


async def app(scope, receive, send):
    note("called")
