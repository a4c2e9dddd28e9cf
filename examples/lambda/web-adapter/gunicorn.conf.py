"""Gunicorn behind the AWS Lambda Web Adapter. See docs/lambda-web-adapter.md."""

import os

from gunicorn_asgi import Worker

wsgi_app = "app:app"
# The port that the adapter connects to.
bind = f"127.0.0.1:{os.environ.get('AWS_LWA_PORT') or os.environ.get('PORT') or 8080}"
# One process serves many requests at once. More of them only make the cold start longer.
workers = 1
# The adapter waits for an answer at `health_path`, which comes when the application's startup is over.
# `lame_duck` is for clients that send into a connection that is being closed. The adapter sends nothing
# after TERM, and Lambda kills 300 ms later.
worker_class = Worker.configure(health_path="/healthz", lame_duck=0)
# Longer than the 4 s for which the adapter keeps an idle connection: it must be the adapter that closes.
keepalive = 5
# A frozen environment looks like a worker that hangs. Lambda has a timeout of its own.
timeout = 0
# Lambda kills earlier. This is the least that Gunicorn can be given.
graceful_timeout = 1
# Only /tmp can be written to.
worker_tmp_dir = "/tmp"
# Its socket would be below $HOME, which cannot be written to.
control_socket_disable = True
# The adapter puts the event's request context into one header. With the claims of an authorizer, it can
# be longer than Gunicorn's default of 8190 bytes.
limit_request_field_size = 65536
# The adapter is this machine, so its X-Forwarded-For and X-Forwarded-Proto count.
forwarded_allow_ips = "127.0.0.1"
# Standard output goes to CloudWatch.
accesslog = "-"
access_log_format = '%({client_addr}e)s "%(r)s" %(s)s %(b)s %(D)sus'
