"""Observation: the access log, the report on a blocked event loop, and text that is safe to log."""
