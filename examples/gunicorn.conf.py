"""A configuration to start from in production: gunicorn -c examples/gunicorn.conf.py

Copy it beside your application and change what your deployment knows better. Every setting is one of Gunicorn's
(https://gunicorn.org/reference/settings/); names that an older Gunicorn does not know are ignored by it.
"""

import os
from pathlib import Path

from gunicorn_asgi import Worker

# What is served.

wsgi_app = "app:app"
# The module is found beside this file, wherever Gunicorn is started from; relative paths in the application begin here, too.
chdir = str(Path(__file__).resolve().parent)
# True: one copy of the code in memory, and a broken import fails before the first fork. But HUP then keeps the old code, until the
# master is restarted, and nothing opened at import time (sockets, threads, a database) survives the fork.
preload_app = False

# Where and how.

# Platforms hand the port over as $PORT and forward it from outside the container; a machine of your own wants 127.0.0.1 or a unix
# socket behind a proxy.
bind = f"0.0.0.0:{os.environ['PORT']}" if "PORT" in os.environ else "127.0.0.1:8000"
# One worker per core: each has its own event loop, so more only cost memory. $WEB_CONCURRENCY is what platforms set to fit the
# memory of a container, where the number of cores is that of the whole machine.
workers = int(os.environ.get("WEB_CONCURRENCY") or os.cpu_count() or 1)
# The worker, with options of its own (the table in the README). Without any it is `worker_class = Worker`. No `server` header, since
# strangers need not know what runs here. Two more to think of: health_path="/healthz" for the checks of a load balancer, and
# metrics_bind="127.0.0.1:9108" for the numbers of all workers (docs/operations.md, docs/numbers.md).
worker_class = Worker.configure(server_header="")
# Versions of HTTP. "h2,h1" offers HTTP/2 where Gunicorn has TLS (give `certfile` and `keyfile`), once `pip install 'gunicorn-asgi[http2]'` is
# done. Behind a proxy that ends TLS it is of use only where that speaks HTTP/2 to its backends, with `http2_cleartext` (docs/http2.md).
http_protocols = "h1"

# Time.

# Seconds that an idle connection is kept. It must be longer than the load balancer keeps its side (AWS ALB and nginx: 60 s;
# Google Cloud: 600 s, so say 620 there): the side that sends requests must be the one that closes, or some of them get a 502.
keepalive = 75
# Seconds without a sign of life from a worker's event loop until it is killed. No limit on a request: one that awaits may last for
# hours, one that blocks the loop may not.
timeout = 30
# Seconds for running requests to finish after TERM, with lifespan.shutdown. Platforms send KILL after 30 s (Heroku and Kubernetes by
# default), so everything has to be over before.
graceful_timeout = 25

# Health.

# A worker is replaced after so many requests, which bounds what a slow memory leak can take. 0 is never. It serves until its
# replacement does: the machine needs memory for one worker more. The options max_rss and max_lifetime work in the same way.
max_requests = 100_000
# Spread over so many, so that not all workers are replaced at once.
max_requests_jitter = 10_000
# The workers' signs of life are times of a file. On a disk, writing them can block; /dev/shm is memory.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None

# Who is believed.

# Peers whose X-Forwarded-Proto decides about http and https, and whose X-Forwarded-For about the client's address. Gunicorn reads
# $FORWARDED_ALLOW_IPS and otherwise believes this machine only, so a proxy elsewhere must be named. "*" believes everybody: right only
# where nobody but the proxy can connect, and even there a client may then choose its own address (docs/proxies.md).
forwarded_allow_ips = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1,::1")
# Gunicorn 25.1 and later: a unix socket below $HOME for `gunicornc`. Containers are steered by signals, and $HOME may be read-only.
control_socket_disable = True

# Logs, as platforms want them: on standard output. (The error log goes to standard error by default.)

accesslog = "-"
# Client, request, status, bytes, microseconds, and the id that the load balancer has given to the request, to find it in other logs.
# `client_addr` is the client that a trusted proxy has named; `%(h)s` would be the proxy itself in every line. With the access log off
# (`accesslog = None`), it costs nothing. For logs as JSON see docs/operations.md.
access_log_format = '%({client_addr}e)s "%(r)s" %(s)s %(b)s %(D)sus "%({x-request-id}i)s"'
