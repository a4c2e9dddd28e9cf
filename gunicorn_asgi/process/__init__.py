"""The worker's process: how it exits, and how an application may interfere with it."""
