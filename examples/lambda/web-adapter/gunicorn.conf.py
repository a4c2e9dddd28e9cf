"""Gunicorn behind the AWS Lambda Web Adapter. See docs/lambda-web-adapter.md.

Every line has its reason. The adapter is the only client: it connects from within the environment.
"""

import os

from gunicorn_asgi import Worker

wsgi_app = "app:app"
# The port that the adapter connects to.
bind = f"127.0.0.1:{os.environ.get('AWS_LWA_PORT') or os.environ.get('PORT') or 8080}"
# One process serves many requests at once. More of them only make the cold start longer.
workers = 1
# The adapter waits until `health_path` is answered with 200, so the application's lifespan has started by then. No request is logged
# for it. `lame_duck` is time for clients that send into a connection that is being closed: the adapter sends nothing after its TERM,
# and Lambda kills after 300 ms.
worker_class = Worker.configure(health_path="/healthz", lame_duck=0)
# Longer than the 4 s for which the adapter keeps an idle connection: it must be the adapter that closes.
keepalive = 5
# A frozen environment looks like a worker that hangs. Lambda has a timeout of its own.
timeout = 0
# Lambda kills earlier. With less than a second, requests that are running are told in time.
graceful_timeout = 1
# Only /tmp can be written to.
worker_tmp_dir = "/tmp"
# Its socket would be below $HOME, which cannot be written to.
control_socket_disable = True
# The adapter is this machine, so its X-Forwarded-For and X-Forwarded-Proto count.
forwarded_allow_ips = "127.0.0.1"
# Standard output goes to CloudWatch.
accesslog = "-"
access_log_format = '%({client_addr}e)s "%(r)s" %(s)s %(b)s %(D)sus'
