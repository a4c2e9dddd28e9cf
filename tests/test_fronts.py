"""Deploys behind real proxies: no client of a load balancer notices them.

The releases of apps/deploying.py wait at a gate (`gated`). While it is closed, the health checks of HAProxy are answered by the old workers, or by
nobody. So nothing here depends on how long an import takes.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import turnover
from fronts import HAPROXY, balancer, started
from gated import NEW, Gated
from load import Load, Tally
from nginx import NGINX, NGINX_CONF
from process import Gunicorn, free_address, poll

CLIENTS = 4
CHECKS = 8
"""Health checks in a row, more than the three failures after which HAProxy takes a worker out."""
CHECK_MS = 100
PATIENT = "timeout check 20s"
"""For HAProxy, which would give up a check after CHECK_MS: a busy machine must not look like a worker that is away."""
STRICT = "retries 0"
"""For HAProxy, which with its three retries would mostly get past a machine that refuses connections."""

UPSTREAM = """
    upstream workers {{ server {host}:{port}; keepalive 4; }}
"""
LOCATION = """
    location / { proxy_pass http://workers; proxy_http_version 1.1; proxy_set_header Connection ""; }
"""


pytestmark = [pytest.mark.gunicorn, pytest.mark.any_version]
behind_haproxy = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
behind_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for unix sockets, whose paths are short, and which nginx may enter."""
    with tempfile.TemporaryDirectory(prefix="front-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def check(tally: Tally) -> None:
    assert not tally.losses, "\n".join([f"{tally}", *map(str, tally.losses)])
    assert tally.answered


@behind_haproxy
@pytest.mark.parametrize("protocol", ["http/1.1", "h2c"])
def test_haproxy_does_not_miss_a_worker_while_a_new_release_is_imported(
    tmp_path: Path, directory: Path, protocol: str
) -> None:
    words, cleartext = ("proto h2", "both") if protocol == "h2c" else ("", "off")
    with ExitStack() as stack:
        server = Gated.with_http2(
            tmp_path,
            "deploying:app",
            http2_cleartext=cleartext,
            graceful_timeout=60,
            keepalive=60,
        )
        stack.enter_context(server)
        backend = "{}:{}".format(*server.address)
        path = stack.enter_context(
            balancer(directory, [backend], interval_ms=CHECK_MS, protocol=words, defaults=PATIENT)
        )
        old = server.workers()
        poll(lambda: server.events.count("healthz") >= 2, "health checks")
        load = stack.enter_context(Load(path, connections=CLIENTS))
        server.deploy(NEW)
        server.kill(signal.SIGHUP)
        server.wait_for_event(f"waiting {NEW}")
        seen = server.events.count("healthz")
        server.wait_for_event("healthz", seen + CHECKS)
        server.open_gate()
        server.wait_until_replaced(old)
        # And the new one is found in place of the old.
        server.wait_for_event("healthz", server.events.count("healthz") + 2)
        check(load.stop())


@behind_haproxy
def test_two_machines_behind_haproxy_are_restarted_in_turn_without_an_error(
    tmp_path: Path, directory: Path
) -> None:
    options = {"stop_delay": 1.5, "health_path": "/healthz"}
    binds = [free_address("127.0.0.2"), free_address("127.0.0.3")]

    def machine(number: int) -> Gunicorn:
        """One that begins its log anew."""
        path = tmp_path / f"{number}-{len(list(tmp_path.iterdir()))}"
        return Gunicorn(path, "answering:app", bind=binds[number], keepalive=60, options=options)

    with ExitStack() as stack:
        machines = [stack.enter_context(machine(number)) for number in range(2)]
        path = stack.enter_context(
            balancer(directory, binds, interval_ms=CHECK_MS, defaults=f"{PATIENT}\n    {STRICT}")
        )
        load = stack.enter_context(Load(path, connections=CLIENTS))
        for number in range(2):
            poll(lambda: {*machines[0].workers(), *machines[1].workers()} <= load.pids, "answers")
            assert machines[number].stop() == 0
            machines[number] = stack.enter_context(machine(number))
        poll(lambda: {*machines[0].workers(), *machines[1].workers()} <= load.pids, "answers")
        check(load.stop())


@behind_nginx
def test_nginx_with_kept_connections_loses_nothing_at_hup(tmp_path: Path, directory: Path) -> None:
    """nginx keeps four connections to the workers, and sends the requests of all clients on them."""
    with Gunicorn(tmp_path, "answering:app", workers=2, keepalive=60) as server:
        host, port = server.address
        conf = directory / "nginx.conf"
        text = NGINX_CONF.format(directory=directory, location=LOCATION, below="")
        upstream = UPSTREAM.format(host=host, port=port)
        conf.write_text(text.rstrip().removesuffix("}") + upstream + "}\n")
        listens = directory / "nginx.socket"
        command = [str(NGINX), "-p", str(directory), "-c", str(conf)]
        with started(command, listens), Load(str(listens), connections=CLIENTS) as load:
            turnover.reload(server.pid, load, 2)
            tally = load.stop()
        check(tally)
        assert len(tally.pids) >= 5  # nginx may have had all its connections with one at first
        assert not server.lines("WARNING|ERROR|CRITICAL")
