"""The options of this package, defined here and nowhere else.

To add an option, add a row to `OptionSettings` and a typed line to `Options`. Tests compare both
with each other and with the table in the README.
"""

# No `from __future__ import annotations`: the annotations are the table, and are evaluated.

from typing import Annotated, Literal, TypedDict

from ..errors import ConfigError
from ..frozen import Frozen
from ..http1 import parser
from .bind_address import BindAddress
from .rows import (
    Option,
    address,
    auto_time_limit,
    base_path,
    choice,
    count,
    delay,
    file_name,
    function_name,
    header_value,
    media_types,
    no_limit,
    read_rows,
    request_path,
    secret,
    switch,
    time_limit,
)

MAX_PASSWORD = 1024
"""Bytes of the longest password of a key that Python hands to OpenSSL."""
MAX_READ_RATE = 4096
"""A client that takes the 48 KiB between the loop's water marks in 10 s ends the wait for it."""


class Options(TypedDict, total=False):
    """The options that ``Worker.configure()`` takes, for type checkers."""

    http: Literal["auto", "httptools", "h11"]
    async_library: Literal["asyncio", "trio"]
    server_header: str
    date_header: bool
    proxy_headers: Literal["x-forwarded", "forwarded", "off"]
    forwarded_host: bool
    forwarded_lists: bool
    head_timeout: float
    tls_handshake_timeout: float
    tls_key_password_file: str
    tls_key_password: str
    limit_concurrency: int
    request_timeout: float
    body_timeout: float
    write_timeout: float
    min_body_rate: int
    min_read_rate: int
    half_close: Literal["serve", "disconnect"]
    pathsend: bool
    zerocopysend: bool
    early_hint: bool
    trailers: bool
    stall_warning: float | Literal["auto"]
    health_path: str
    handover: bool
    stop_delay: float
    lame_duck: float
    stream_drain_delay: float
    max_rss: int
    max_rss_jitter: int
    max_lifetime: float
    max_lifetime_jitter: float
    metrics_bind: str
    statsd_interval: float
    ws: Literal["auto", "none"]
    ws_per_message_deflate: bool
    ws_max_queue: int
    ws_ping_interval: float
    ws_ping_timeout: float
    ws_accept_timeout: float
    ws_close_timeout: float
    ws_max_lifetime: float
    ws_message_timeout: float
    ws_memory_limit: int
    ws_drain_delay: float
    lambda_response_mode: Literal["buffered", "streaming"]
    lambda_base_path: str
    lambda_text_types: str
    lambda_event_function: str
    # On a Gunicorn without these settings (`gunicorn_settings`).
    http_protocols: str
    http2_cleartext: Literal["off", "prior-knowledge", "upgrade", "both"]
    http2_max_concurrent_streams: int
    http2_initial_window_size: int
    http2_max_frame_size: int
    http2_max_header_list_size: int


def _choose_parser(name: str) -> str:
    available = parser.available()
    if name == "httptools" and available != "httptools":
        raise ConfigError(
            "Invalid value for option http: 'httptools' is not installed; "
            "allowed here are h11 and auto."
        )
    return available if name == "auto" else name


class OptionSettings(Frozen):
    """The attributes of `Settings` set by options, in the order of the README.

    Names ending in ``_s`` are in seconds.
    """

    http: Annotated[
        Literal["httptools", "h11"],
        choice(
            "http",
            "auto",
            ("auto", "httptools", "h11"),
            "The parser of HTTP/1.1 header fields. `auto` is httptools where it is installed, "
            "otherwise h11. Both accept and refuse the same requests.",
            convert=_choose_parser,
        ),
    ]
    async_library: Annotated[
        Literal["asyncio", "trio"],
        choice(
            "async_library",
            "asyncio",
            ("asyncio", "trio"),
            "The library that the application is written for. With [trio](docs/trio.md), its "
            "requests, WebSockets and lifespan are tasks of trio. Gunicorn's `asgi_loop` still "
            "chooses the event loop below it.",
        ),
    ]
    server_header: Annotated[
        str,
        header_value(
            "server_header",
            "gunicorn",
            "The `server` header of responses that have none of their own; empty for no header.",
        ),
    ]
    date_header: Annotated[
        bool,
        switch(
            "date_header",
            True,
            "Add a `date` header to responses that have none of their own (RFC 9110, 6.6.1).",
        ),
    ]
    proxy_headers: Annotated[
        Literal["x-forwarded", "forwarded", "off"],
        choice(
            "proxy_headers",
            "x-forwarded",
            ("x-forwarded", "forwarded", "off"),
            "The header in which a trusted proxy gives the client's address: `x-forwarded` is "
            "`X-Forwarded-For`; `forwarded` is `Forwarded` (RFC 7239), which also gives the "
            "scheme. With `off`, the client's address stays the connection's peer, and a "
            "`SCRIPT_NAME` header is no `root_path`.",
        ),
    ]
    forwarded_host: Annotated[
        bool,
        switch(
            "forwarded_host",
            False,
            "Take the `host` header from a trusted proxy's `X-Forwarded-Host`, or from `host` in "
            "`Forwarded` where `proxy_headers` is `forwarded`. See "
            "[behind a proxy](docs/proxies.md#the-host).",
        ),
    ]
    forwarded_lists: Annotated[
        bool,
        switch(
            "forwarded_lists",
            False,
            "Every trusted proxy appends to `X-Forwarded-Proto` and `X-Forwarded-Host`, as to "
            "`X-Forwarded-For`: the client's element of a list counts. Otherwise a list means "
            "`https` if all its elements do, and its last host counts. See "
            "[behind a proxy](docs/proxies.md#lists-from-several-proxies).",
        ),
    ]
    head_timeout_s: Annotated[
        float,
        time_limit(
            "head_timeout",
            10.0,
            "Time limit for the head of a request, from its first byte; for the first request, "
            "from the start of the connection. On expiry: 408, or a plain close if nothing "
            "arrived.",
        ),
    ]
    tls_handshake_timeout_s: Annotated[
        float,
        time_limit(
            "tls_handshake_timeout",
            10.0,
            "Time limit for the TLS handshake. On expiry, the connection is closed.",
        ),
    ]
    tls_key_password_file: Annotated[
        str,
        file_name(
            "tls_key_password_file",
            "A file whose first line is the password of an encrypted TLS key. It is read with the "
            "key. See [TLS](docs/operations.md#tls).",
        ),
    ]
    tls_key_password: Annotated[
        str,
        secret(
            "tls_key_password",
            "The password itself, mainly by its environment variable. Only one of the two options "
            "may be given.",
            most=MAX_PASSWORD,
        ),
    ]
    limit_concurrency: Annotated[
        float,
        count(
            "limit_concurrency",
            0,
            "Requests whose application runs at the same time in one worker, 0 for no limit. "
            "Further requests are answered with 503 and `Retry-After: 1`. (`worker_connections` "
            "limits connections; at that limit, idle ones make room.)",
            convert=no_limit,
        ),
    ]
    request_timeout_s: Annotated[
        float,
        time_limit(
            "request_timeout",
            0.0,
            "Time limit for a request, from the start of the application to the end of its "
            "response. On expiry, the application is cancelled: 503, or an abort if the response "
            "has begun. See [time limits](docs/behaviour.md#time-for-a-whole-request).",
        ),
    ]
    body_timeout_s: Annotated[
        float,
        time_limit(
            "body_timeout",
            30.0,
            "Time without a byte of a request's body while the application waits for it. On "
            "expiry: 408, or an abort if the response has begun.",
        ),
    ]
    write_timeout_s: Annotated[
        float,
        time_limit(
            "write_timeout",
            60.0,
            "Time without any progress while the client does not read its response. On expiry, "
            "the connection is reset.",
        ),
    ]
    min_body_rate: Annotated[
        int,
        count(
            "min_body_rate",
            0,
            "Bytes a second that a client has to send of a request's body while the application "
            "waits for it, in each 10 s; 0 for no such limit. Below it: as after `body_timeout`. "
            "See [time limits](docs/behaviour.md#minimal-rates).",
        ),
    ]
    min_read_rate: Annotated[
        int,
        count(
            "min_read_rate",
            0,
            "Bytes a second that a client has to take of a response or of WebSocket messages "
            "while data waits for it, in each 10 s; 0 for no such limit. Below it: as after "
            "`write_timeout`.",
            most=MAX_READ_RATE,
        ),
    ]
    half_close: Annotated[
        Literal["serve", "disconnect"],
        choice(
            "half_close",
            "serve",
            ("serve", "disconnect"),
            "The meaning of a FIN, with which a client closes its sending side, after a whole "
            "request over HTTP/1 without TLS. `serve`: the client reads on and gets its response. "
            "`disconnect`: the client has gone, as over TLS and HTTP/2; see "
            "[behaviour](docs/behaviour.md#when-the-client-goes-away).",
        ),
    ]
    pathsend: Annotated[
        bool,
        switch(
            "pathsend",
            True,
            "Allow applications to send files by their path (`http.response.pathsend`). Switch it "
            "off for middleware that reads the body of every response: see "
            "[extensions](docs/extensions.md#switching-an-extension-off).",
        ),
    ]
    zerocopysend: Annotated[
        bool,
        switch(
            "zerocopysend",
            True,
            "Allow applications to send open files (`http.response.zerocopysend`).",
        ),
    ]
    early_hint: Annotated[
        bool,
        switch(
            "early_hint",
            True,
            "Allow applications to send early hints (103, `http.response.early_hint`). Switch it "
            "off for a proxy that takes them for the response, as "
            "[nginx 1.22](docs/extensions.md#early-hints-httpresponseearly_hint) does for its "
            "HTTP/2 clients.",
        ),
    ]
    trailers: Annotated[
        bool,
        switch(
            "trailers",
            True,
            "Allow applications to send trailers after a response (`http.response.trailers`).",
        ),
    ]
    stall_warning_s: Annotated[
        float,
        auto_time_limit(
            "stall_warning",
            "Time for which the event loop may be blocked. Then a warning shows the blocking "
            "code. `auto` is half of `timeout`.",
            zero="none",
        ),
    ]
    health_path: Annotated[
        bytes,
        request_path(
            "health_path",
            "The path of [health checks](docs/operations.md#health-checks): GET and HEAD of it are "
            "answered without the application, and not logged. 200, or 503 while the worker is "
            "about to leave its load balancer. Empty for none.",
        ),
    ]
    handover: Annotated[
        bool,
        switch(
            "handover",
            True,
            "A worker that is replaced, at a HUP or for one of the limits `max_requests`, "
            "`max_rss` and `max_lifetime`, serves until a newer one serves in its place. For this "
            "time the machine needs memory for both: see "
            "[operation](docs/operations.md#handing-over). Without it, a worker leaves at once.",
        ),
    ]
    stop_delay_s: Annotated[
        float,
        delay(
            "stop_delay",
            0.0,
            "Time for which the workers serve on when Gunicorn is told to stop (TERM), while "
            "`health_path` answers 503: a load balancer needs it to notice. It is a part of "
            "`graceful_timeout`, and must be less than three quarters of it. Not after HUP, QUIT "
            "or INT.",
        ),
    ]
    lame_duck_s: Annotated[
        float,
        delay(
            "lame_duck",
            0.3,
            "Time for which idle keep-alive connections stay open when a worker stops. A request "
            "that arrives in this time is answered with `Connection: close`; without this time, "
            "it could arrive at a closed connection and be lost.",
        ),
    ]
    stream_drain_delay_s: Annotated[
        float,
        delay(
            "stream_drain_delay",
            0.0,
            "Time from the start of a graceful shutdown until `receive()` tells running streams "
            "`http.disconnect`, at most half of `graceful_timeout`; 0 for never. Event streams end "
            "by it: see [operations](docs/operations.md#event-streams).",
        ),
    ]
    max_rss: Annotated[
        float,
        count(
            "max_rss",
            0,
            "Bytes of a worker's memory (its resident set), looked at once a second. A worker that "
            "has more is replaced, 0 for no limit. One worker is replaced after the other. Linux "
            "only.",
            convert=no_limit,
        ),
    ]
    max_rss_jitter: Annotated[
        int,
        count(
            "max_rss_jitter",
            0,
            "Each worker adds a random number of bytes, at most this many, to its `max_rss`.",
        ),
    ]
    max_lifetime_s: Annotated[
        float,
        time_limit(
            "max_lifetime",
            0.0,
            "Time after which a worker is replaced. One worker is replaced after the other.",
        ),
    ]
    max_lifetime_jitter_s: Annotated[
        float,
        delay(
            "max_lifetime_jitter",
            0.0,
            "Each worker adds a random time, at most this long, to its `max_lifetime`.",
        ),
    ]
    metrics_bind: Annotated[
        BindAddress | None,
        address(
            "metrics_bind",
            "Where [numbers](docs/numbers.md) of all workers can be read: Prometheus text at "
            "`/metrics`, JSON at `/metrics.json`, running requests at `/requests`. Who can "
            "connect can read them: 127.0.0.1 or a unix socket is recommended.",
        ),
    ]
    statsd_interval_s: Annotated[
        float,
        time_limit(
            "statsd_interval",
            10.0,
            "Time after which gauges are sent to statsd again, where Gunicorn's `statsd_host` is "
            "set. See [numbers](docs/numbers.md#statsd).",
            zero="no gauges",
        ),
    ]
    ws: Annotated[
        Literal["auto", "none"],
        choice(
            "ws",
            "auto",
            ("auto", "none"),
            "`auto` serves WebSockets. With `none`, the handshake of a WebSocket is an ordinary "
            "request, and its `Upgrade` is ignored.",
        ),
    ]
    ws_per_message_deflate: Annotated[
        bool,
        switch(
            "ws_per_message_deflate",
            True,
            "Compress messages of 64 bytes and more where the client offers it (RFC 7692). A "
            "connection that uses it takes 40 to 80 KiB more memory.",
        ),
    ]
    ws_max_queue: Annotated[
        int,
        count(
            "ws_max_queue",
            32,
            "Messages that may wait for the application. At this number, or when they have "
            "64 KiB, the worker stops reading from the client.",
            least=1,
        ),
    ]
    ws_ping_interval_s: Annotated[
        float,
        time_limit(
            "ws_ping_interval",
            20.0,
            "Time between two pings. They keep proxies from closing an idle WebSocket, and find "
            "out whether the client is there.",
            zero="no pings",
        ),
    ]
    ws_ping_timeout_s: Annotated[
        float,
        time_limit(
            "ws_ping_timeout",
            20.0,
            "Time limit after a ping for the client to send a pong or anything else. On expiry, "
            "the WebSocket is closed with 1011.",
        ),
    ]
    ws_accept_timeout_s: Annotated[
        float,
        time_limit(
            "ws_accept_timeout",
            30.0,
            "Time limit for the application to accept or deny a WebSocket. On expiry, the "
            "handshake is answered with 500.",
        ),
    ]
    ws_close_timeout_s: Annotated[
        float,
        time_limit(
            "ws_close_timeout",
            10.0,
            "Time limit for the client's answer when this side closes a WebSocket. On expiry, its "
            "connection is closed without the answer.",
        ),
    ]
    ws_max_lifetime_s: Annotated[
        float,
        time_limit("ws_max_lifetime", 0.0, "Time after which a WebSocket is closed with 1001."),
    ]
    ws_message_timeout_s: Annotated[
        float,
        time_limit(
            "ws_message_timeout",
            300.0,
            "Time limit for a message to arrive, from its first frame to its end. On expiry, the "
            "WebSocket is closed with 1008.",
        ),
    ]
    ws_memory_limit: Annotated[
        float,
        count(
            "ws_memory_limit",
            64 * 1024 * 1024,
            "Bytes of messages, not complete or not read by the application, of all WebSockets of "
            "a worker, 0 for no limit. A WebSocket with at most 64 KiB of them does not count. "
            "Above the limit, the WebSocket that holds the most is closed with 1009, and its "
            "messages are dropped.",
            convert=no_limit,
        ),
    ]
    ws_drain_delay_s: Annotated[
        float,
        delay(
            "ws_drain_delay",
            0.0,
            "Time from the start of a graceful shutdown until the worker closes its WebSockets "
            "with 1012, at most half of `graceful_timeout`.",
        ),
    ]
    lambda_streams: Annotated[
        bool,
        choice(
            "lambda_response_mode",
            "buffered",
            ("buffered", "streaming"),
            "On [AWS Lambda](docs/lambda.md): the form of responses. `streaming` needs a Function "
            "URL with `RESPONSE_STREAM`, or a REST API with the transfer mode `STREAM`: the "
            "function cannot know. Responses to a load balancer (ALB) are always buffered.",
            convert="streaming".__eq__,
        ),
    ]
    lambda_base_path: Annotated[
        str,
        base_path(
            "lambda_base_path",
            'On AWS Lambda: the beginning of paths that is `scope["root_path"]`, where a path has '
            "it. `auto` is the stage of the API, such as `/prod`; empty for none.",
        ),
    ]
    lambda_text_types: Annotated[
        frozenset[str],
        media_types(
            "lambda_text_types",
            "On AWS Lambda: media types whose responses go out as text, besides `text/*`, JSON, "
            "XML, JavaScript and forms. All others are encoded as base64.",
        ),
    ]
    lambda_event_function: Annotated[
        str,
        function_name(
            "lambda_event_function",
            "On AWS Lambda: the function that is called with (event, context) for an event that is "
            "no HTTP request, such as one of a queue or a schedule; empty for none. Its result is "
            "the result of the invocation.",
        ),
    ]


OPTION_ROWS = read_rows(OptionSettings, Option)
"""Every option, by its attribute of `Settings`."""
OPTIONS = tuple(OPTION_ROWS.values())
