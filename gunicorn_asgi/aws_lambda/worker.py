"""The worker for AWS Lambda: invocations of the Runtime API, as requests to the application."""

from __future__ import annotations

from ..base_worker import BaseWorker


class LambdaWorker(BaseWorker):
    """Serves an ASGI application on AWS Lambda: ``-k gunicorn_asgi.LambdaWorker app:app``."""

    may_hand_over = False
    halts_on_failed_boot = True
