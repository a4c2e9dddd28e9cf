"""Configuration: this package's options and Gunicorn's settings, read once and checked."""
