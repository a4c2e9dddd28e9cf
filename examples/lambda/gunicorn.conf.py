"""Gunicorn on AWS Lambda: python -m gunicorn_asgi -c gunicorn.conf.py. See docs/lambda.md."""

import os

wsgi_app = "app:app"
# Its options are variables of the function's environment, such as GUNICORN_ASGI_LAMBDA_RESPONSE_MODE.
worker_class = "gunicorn_asgi.LambdaWorker"
# One process serves all invocations of an environment.
workers = 1
# A frozen environment looks like a worker that hangs. Lambda has a timeout of its own.
timeout = 0
# Gunicorn's master opens a socket in any case. Nobody connects to it.
bind = "127.0.0.1:0"
# Only /tmp can be written to.
worker_tmp_dir = "/tmp"
# Its socket would be below $HOME, which cannot be written to.
control_socket_disable = True
# Standard output and standard error go to CloudWatch.
accesslog = "-"
access_log_format = '%({aws_request_id}e)s %({client_addr}e)s "%(r)s" %(s)s %(b)s %(D)sus'

# The function's log format, as set on Lambda.
if os.environ.get("AWS_LAMBDA_LOG_FORMAT") == "JSON":
    from gunicorn_asgi import JSONFormatter

    logconfig_dict = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": JSONFormatter,
                # Lambda counts a line without a timestamp as INFO, whatever its level.
                "time_name": "timestamp",
                "fields": {**JSONFormatter.FIELDS, "request_id": "{aws_request_id}e"},
            }
        },
        "handlers": {
            "json": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "json",
            }
        },
        "root": {"level": "INFO", "handlers": ["json"]},
        "loggers": {
            "gunicorn.access": {"level": "INFO", "handlers": ["json"], "propagate": False},
            "gunicorn.error": {"level": "INFO", "handlers": ["json"], "propagate": False},
        },
    }
