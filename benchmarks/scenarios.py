"""What is asked of every server: the request, the application behind it, the answer that is right, and the wrk script that asks."""

from __future__ import annotations

import io
import json
import re
import socket
import ssl
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from types import SimpleNamespace

import apps

Header = tuple[str, str]

COUNTER = "0000000000000000"
"""Stands in a request for a number that is another one in each request. As long as what replaces it."""
ADDRESS = "10.100.100.100"
"""Stands likewise for an address, of which there are a million."""

BROWSER: tuple[Header, ...] = (
    ("sec-ch-ua", '"Chromium";v="143", "Google Chrome";v="143", "Not?A_Brand";v="24"'),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", '"Linux"'),
    ("upgrade-insecure-requests", "1"),
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0.0.0 Safari/537.36",
    ),
    (
        "accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    ),
    ("sec-fetch-site", "same-origin"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-GB,en;q=0.9,de;q=0.8"),
    ("cookie", f"sessionid=q3x8k2m9w7v1n5b4; csrftoken=Zp8Lr2; seen={COUNTER}"),
)

PROXIED: tuple[Header, ...] = (
    *BROWSER,
    ("x-forwarded-for", ADDRESS),
    ("x-real-ip", ADDRESS),
    ("x-forwarded-proto", "https"),
    ("x-request-id", f"5f0c1e52-9c3d-4b7a-{COUNTER}"),
)
"""What a proxy on the same machine passes on. Servers trust it by default, where they know of proxies at all."""

STEP_SECONDS = 20.0
"""How long to wait for an answer: the server may still be loading its application."""


class WrongAnswerError(Exception):
    """The server's answer is not the one that the scenario asks for."""


@dataclass(frozen=True)
class Scenario:
    """One way to load a server."""

    name: str
    title: str
    app: str
    """``module:attribute``."""
    expected: bytes
    """The body of every response."""
    method: str = "GET"
    target: str = "/"
    headers: tuple[Header, ...] = ()
    body: str = ""
    varies: bool = False
    """Whether COUNTER and ADDRESS are replaced in each request."""
    pipeline: int = 1
    """Requests that are written at once."""
    parts: int = 1
    """Messages that the body comes in, where the time is told for each of them, too."""
    tls: bool = False
    logged: bool = False
    """Whether the server writes an access log."""

    @property
    def closes(self) -> bool:
        """Whether a connection serves one request only."""
        return ("connection", "close") in self.headers

    def request(self, port: int) -> str:
        """What goes over the wire at once."""
        headers = [("Host", f"127.0.0.1:{port}"), *self.headers]
        if self.body:
            headers.append(("content-length", str(len(self.body))))
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers)
        return f"{self.method} {self.target} HTTP/1.1\r\n{fields}\r\n{self.body}" * self.pipeline

    def script(self, port: int) -> str:
        """For wrk: sends `request`, and reports in one line of JSON behind REPORT, times in microseconds."""
        # wrk formats one request and repeats it; only where a function named `request` exists it calls that for each.
        text = json.dumps(self.request(port))
        lines = [f"local text = {text}", "wrk.format = function() return text end"]
        if self.varies:
            lines.append(VARYING.format(pieces=_lua_pieces(self.request(port))))
        return "\n".join([*lines, DONE])

    def check(self, port: int) -> None:
        """Ask once as wrk will, and twice on the same connection where that is kept. Raises WrongAnswerError."""
        self.ask(port, 1 if self.closes else 2)

    def ask(self, port: int, times: int) -> None:
        """Send `request` so many times on one connection and check every response. Raises WrongAnswerError."""
        text = self.request(port)
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=STEP_SECONDS) as sock:
                stream = _client_context().wrap_socket(sock) if self.tls else sock
                with stream:
                    reader = _KeptOpen(socket.SocketIO(stream, "r"))
                    for number in range(times):
                        stream.sendall((_varied(text, number) if self.varies else text).encode())
                        for _ in range(self.pipeline):
                            self._check_response(reader)
                    if self.closes and reader.read(1):
                        raise WrongAnswerError("there is more behind the response")
        except (OSError, HTTPException) as error:
            raise WrongAnswerError(f"no valid response: {error!r}") from error

    def _check_response(self, reader: _KeptOpen) -> None:
        response = HTTPResponse(SimpleNamespace(makefile=lambda _mode: reader), method=self.method)  # type: ignore[arg-type]
        response.begin()
        body = response.read()
        if response.status != 200:
            raise WrongAnswerError(f"status {response.status}: {body[:200]!r}")
        if body != self.expected:
            raise WrongAnswerError(
                f"a body of {len(body)} bytes that is not the expected one of {len(self.expected)}: {body[:60]!r}"
            )
        if response.will_close and not self.closes:
            raise WrongAnswerError("the connection is not kept open")


def _varied(text: str, number: int) -> str:
    """The request `text` with a number and an address of its own."""
    first, second, third = number // 10000 % 100, number // 100 % 100, number % 100
    address = f"10.1{first:02}.1{second:02}.1{third:02}"
    return text.replace(COUNTER, f"{number:0{len(COUNTER)}}").replace(ADDRESS, address)


def _lua_pieces(text: str) -> str:
    """The same as an expression of Lua, of the variables that VARYING has."""
    variables = {COUNTER: "counter", ADDRESS: "address"}
    pieces = re.split(f"({COUNTER}|{re.escape(ADDRESS)})", text)
    return " .. ".join(variables.get(piece) or json.dumps(piece) for piece in pieces)


def _client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it has signed itself
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class _KeptOpen(io.BufferedReader):
    """A stream with several responses in it: each HTTPResponse would close it."""

    def close(self) -> None:
        """Left to the socket."""


REPORT = "REPORT "

VARYING = f"""
local number, digits = 0, math.floor
request = function()
  number = number + 1
  local counter = string.format("%0{len(COUNTER)}d", number)
  local address = string.format("10.1%02d.1%02d.1%02d",
    digits(number / 10000) % 100, digits(number / 100) % 100, number % 100)
  return {{pieces}}
end
"""

DONE = f"""
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{REPORT}{{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "errors": '
      .. '{{"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
"""

ECHOED = "0123456789abcdef" * 64

SCENARIOS = (
    Scenario("hello", "Hello, world!", "apps:hello", apps.HELLO),
    Scenario(
        "browser",
        "Hello, world! with ten browser headers",
        "apps:hello",
        apps.HELLO,
        headers=BROWSER,
    ),
    Scenario(
        "varying",
        "Hello, world! with ten browser headers, the cookie another one in each request",
        "apps:hello",
        apps.HELLO,
        headers=BROWSER,
        varies=True,
    ),
    Scenario(
        "proxied",
        "The same behind a trusted proxy, the client's address and the request's id others, too",
        "apps:hello",
        apps.HELLO,
        headers=PROXIED,
        varies=True,
    ),
    Scenario(
        "post",
        "POST of 1 KiB, echoed",
        "apps:echo",
        ECHOED.encode(),
        method="POST",
        headers=(("content-type", "application/octet-stream"),),
        body=ECHOED,
    ),
    Scenario("large", "64 KiB response", "apps:large", apps.LARGE),
    Scenario(
        "streamed",
        "Response streamed in 16 parts of 1 KiB",
        "apps:streamed",
        apps.PART * apps.PARTS,
    ),
    Scenario(
        "events",
        "An event stream of 100 parts, one in each turn of the event loop",
        "apps:events",
        apps.EVENT * apps.EVENTS,
        parts=apps.EVENTS,
    ),
    Scenario(
        "logged",
        "Hello, world! with an access log",
        "apps:hello",
        apps.HELLO,
        logged=True,
    ),
    Scenario(
        "close",
        "A new connection for each request",
        "apps:hello",
        apps.HELLO,
        headers=(("connection", "close"),),
    ),
    Scenario("pipelined", "16 requests pipelined", "apps:hello", apps.HELLO, pipeline=16),
    Scenario(
        "fastapi",
        "FastAPI, a JSON route",
        "fastapi_app:app",
        b'{"number":42,"q":"benchmark"}',
        target="/items/42?q=benchmark",
    ),
    Scenario("tls", "Hello, world! over TLS", "apps:hello", apps.HELLO, tls=True),
    Scenario("tls-large", "64 KiB response over TLS", "apps:large", apps.LARGE, tls=True),
    Scenario(
        "tls-close",
        "A new connection for each request over TLS",
        "apps:hello",
        apps.HELLO,
        headers=(("connection", "close"),),
        tls=True,
    ),
)
