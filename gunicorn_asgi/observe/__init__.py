"""Observation: the access log, the report on a blocked event loop, and text made safe for a log."""
