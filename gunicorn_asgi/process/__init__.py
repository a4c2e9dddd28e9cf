"""The worker's process: its boot, event loop, heartbeat, signals, shutdown and exit."""
