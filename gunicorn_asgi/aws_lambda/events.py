"""Pure: events of AWS Lambda, from JSON to a request, and every reason to refuse one.

The forms of an HTTP event are in AWS's documentation:

- REST API: "Input format of a Lambda function for proxy integration"
- HTTP API, formats 1.0 and 2.0: "Create AWS Lambda proxy integrations for HTTP APIs"
- Function URL: "Invoking Lambda function URLs", "Request payload format"
- load balancer: "Use Lambda functions as targets of an Application Load Balancer"
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes, urlencode

from ..asgi.scope import Address
from ..errors import EventError, RequestError
from ..http.fields import VISIBLE
from ..http.forwarded import parse_node, read_list
from ..http.grammar import TOKEN, Header
from ..http.request import (
    METHODS,
    PERCENT,
    PLAIN_TARGET,
    Fields,
    Request,
    Rules,
    check_authority,
    check_path,
    decode_path,
    join_cookies,
    map_underscores,
    read_method,
    read_proxied,
)
from ..http.trust import PeerRules

AUTO = "auto"
"""``lambda_base_path``: the stage of the API."""
DEFAULT_STAGE = "$default"
"""The stage of an HTTP API that no path has."""

PLAIN_PATH = PLAIN_TARGET.replace(b"?", b"")
"""Characters that a path is left with. Others can only be decoded ones, so they are encoded."""
BARE_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
PORT = re.compile(r"[0-9]{1,5}")

UNKNOWN_PEER: Address = ("::", 0)
"""The peer for `PeerRules` where the event has no address of the client.

The unspecified address is nobody's (RFC 4291, 2.5.2). None would be a trusted unix socket.
"""

MAX_KNOWN_NAME = 64
"""Characters of the longest name of a header that is remembered."""
MAX_QUOTED = 64
"""Characters of the event that an error repeats in one place."""
MAX_KEYS = 10
"""Keys of an unknown event that an error repeats."""


class Form(Enum):
    """The form of an HTTP event. Its response has to have the same."""

    V1 = "1.0"
    """REST API, or HTTP API with payload format 1.0."""
    V2 = "2.0"
    """HTTP API with payload format 2.0, or Function URL."""
    ALB = "alb"
    """Load balancer."""
    ALB_MULTI_VALUE = "alb, multi-value"
    """Load balancer with multi-value headers."""


class HTTPEvent(NamedTuple):
    """An HTTP event as a request."""

    request: Request
    """``fields.scheme`` is set. ``fields.root_path`` is set if the path has a base path."""
    body: bytes
    client: Address | None
    """The gateway's client, which is the peer; ``fields.client`` if a trusted peer names one."""
    server: Address | None
    """The host and the port that the client has asked for, or None without a host."""
    rules: Rules
    """The rules for requests of the client."""


def parse_json(data: str | bytes, name: str) -> Any:
    """Return the value of JSON. Raises EventError, with `name` for the thing."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise EventError(f"The {name} is not valid JSON: {reason}") from None


def find_form(event: object) -> Form | None:
    """Return the form of an HTTP event, or None for any other event.

    Raises EventError if the event is no JSON object.
    """
    if not isinstance(event, dict):
        raise EventError(f"The event is {_json_type(event)}, not an object")
    context = event.get("requestContext")
    # The event of a Lambda authorizer has most parts of the request that it is asked about.
    if not isinstance(context, dict) or "methodArn" in event or "routeArn" in event:
        return None
    if "elb" in context:
        has_several = event.get("multiValueHeaders") is not None
        return Form.ALB_MULTI_VALUE if has_several else Form.ALB
    if "connectionId" in context:
        return None
    if event.get("version") == "2.0":
        return Form.V2 if "http" in context else None
    return Form.V1 if "httpMethod" in event else None


def read_event(
    event: Mapping[str, Any], form: Form, base_path: str, rules_for: PeerRules
) -> HTTPEvent:
    """Read an HTTP event. `base_path`: AUTO, a path without a slash at its end, or empty.

    Raises EventError for a missing or wrong part. Raises RequestError for a fault of the client.
    """
    whole = Part(event, "")
    context, http, verb = _read_context(whole, form)
    path, base_path = _read_path(whole, context, form, base_path)
    headers = _read_headers(whole, form)
    client = _read_client(http, headers, form)
    rules = rules_for(client or UNKNOWN_PEER, None)
    body = _read_body(whole)

    fields = Fields(b"", _read_version(http), headers)
    fields.length = len(body)
    _read_meaning(fields, rules)
    raw_path = _encode_path(path)
    # SCRIPT_NAME is the operator's own word for the beginning of paths.
    if base_path and fields.script_name is None:
        fields.script_name = _encode_path(base_path)
        fields.root_path = decode_path(fields.script_name)
    method = METHODS.get(verb) or read_method(verb, rules)
    check_path(method, raw_path, fields, rules)
    request = method, decode_path(raw_path), raw_path, _read_query(whole, form), fields
    return HTTPEvent(request, body, client, _read_server(fields), rules)


def describe_refused(event: Mapping[str, Any], form: Form) -> tuple[bytes, Address | None]:
    """Return a refused request for the log, as the head of HTTP/1.1, and its client.

    To be called after `read_event` has raised RequestError: method, path and headers are there.
    """
    whole = Part(event, "")
    context, http, method = _read_context(whole, form)
    path, _ = _read_path(whole, context, form, "")
    headers = _read_headers(whole, form)
    if TOKEN.fullmatch(method) is None:  # it may have the end of a line
        method = b"-"
    lines = [b"%b %b HTTP/1.1" % (method, _encode_path(path))]
    lines += [b"%b: %b" % header for header in headers]
    return b"\r\n".join([*lines, b"\r\n"]), _read_client(http, headers, form)


class Part:
    """An object in an event. Its methods raise EventError for parts of a wrong type."""

    __slots__ = ("_name", "_values")

    def __init__(self, values: Mapping[str, Any], name: str) -> None:
        self._values = values
        self._name = name
        """The place in the event with a point at its end; empty for the event itself."""

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> Any:
        """Return a value, or None if it is missing or null."""
        return self._values.get(key)

    def part(self, key: str) -> Part:
        """Return an object. Null, or no such key, is an empty one."""
        values = self._values.get(key)
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise _wrong(f"{self._name}{key}", "an object", values)
        return Part(values, f"{self._name}{key}.")

    def text(self, key: str) -> str:
        """Return a string. There must be one."""
        value = self._values.get(key)
        if not isinstance(value, str):
            raise _wrong(f"{self._name}{key}", "a string", value, key in self._values)
        return value

    def text_or_empty(self, key: str) -> str:
        """Return a string. Null, or no such key, is an empty one."""
        return "" if self._values.get(key) is None else self.text(key)

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield each key with its value, a string."""
        for key in self._values:
            yield key, self.text(key)

    def all_items(self) -> Iterator[tuple[str, str]]:
        """Yield each key with each of its values, an array of strings. Null is an empty array."""
        for key, values in self._values.items():
            if values is not None and not isinstance(values, list):
                raise _wrong(f"{self._name}{key}", "an array", values)
            for value in values or ():
                if not isinstance(value, str):
                    raise _wrong(f"{self._name}{key}", "an array of strings", values)
                yield key, value

    def pairs(self, several: str, single: str) -> Iterator[tuple[str, str]]:
        """Yield names and values of the object `several`, or of `single` if that is empty."""
        values = self.part(several)
        return values.all_items() if values else self.part(single).items()

    def __len__(self) -> int:
        return len(self._values)


def _wrong(name: str, expected: str, value: object, is_there: bool = True) -> EventError:
    found = f"not {_json_type(value)}" if is_there else "and is missing"
    return EventError(f"Invalid event: {_quoted(name)} must be {expected}, {found}")


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        return "a string"
    return "a boolean" if isinstance(value, bool) else "a number"


def _quoted(text: str) -> str:
    """Text of an event, made short and safe for a log."""
    return ascii(text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}...")


def _encode(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # JSON may have "\ud800", half of a character
        raise EventError(f"Invalid event: {what} is not valid Unicode") from None


def _read_context(event: Part, form: Form) -> tuple[Part, Part, bytes]:
    """Return the request's context, the part of it about the client, and the method."""
    context = event.part("requestContext")
    if form is Form.V2:
        http = context.part("http")
        return context, http, _encode(http.text("method"), "the method")
    return context, context, _encode(event.text("httpMethod"), "the method")


def _read_path(event: Part, context: Part, form: Form, base_path: str) -> tuple[str, str]:
    """Return the path that the client has asked for, and the base path at its beginning, or empty.

    Both are as in the event.
    """
    name = "rawPath" if form is Form.V2 else "path"
    path = ("" if name in event and event.get(name) is None else event.text(name)) or "/"
    if not path.startswith("/"):
        raise EventError(f"Invalid event: the path {_quoted(path)} does not begin with a slash")
    is_auto = base_path == AUTO
    if is_auto:
        stage = "" if form in (Form.ALB, Form.ALB_MULTI_VALUE) else context.text_or_empty("stage")
        base_path = f"/{stage}" if stage not in ("", DEFAULT_STAGE) else ""
    if not base_path:
        return path, ""
    if form is Form.V1:
        # `path` of a REST API lacks the stage. `requestContext.path` is the path that the client
        # has asked for. It has the stage, unless the client has called a custom domain name.
        asked = context.text_or_empty("path")
        if asked == base_path and path == "/":
            return f"{base_path}/", base_path
        if asked.startswith(f"{base_path}/") and _is_same_path(asked, base_path + path):
            return asked, base_path
        if is_auto and event.get("version") != "1.0":
            return path, ""  # a resource of the API, which has the same name as the stage
    if path != base_path and not path.startswith(f"{base_path}/"):
        return path, ""
    if is_auto and form is Form.V2 and _has_custom_domain(context):
        # AWS: "If you use an API mapping to connect your stage to a custom domain name, rawPath
        # won't provide the API mapping value." It has the stage, which the client has not sent.
        return path[len(base_path) :] or "/", ""
    return path, base_path


def _has_custom_domain(context: Part) -> bool:
    """Whether the client has called the API by a custom domain name, not by that of AWS."""
    domain = context.text_or_empty("domainName")
    return domain != "" and ".execute-api." not in domain


def _is_same_path(one: str, other: str) -> bool:
    """Whether two paths differ in their percent-encoding at most."""
    return one == other or decode_path(_encode_path(one)) == decode_path(_encode_path(other))


def _encode_path(path: str) -> bytes:
    """Return `path` as it is, with percent-encoding for characters that no path may have."""
    return _percent_encode(_encode(path, "the path"), PLAIN_PATH)


def _percent_encode(data: bytes, allowed: bytes) -> bytes:
    if PERCENT in data:
        data = BARE_PERCENT.sub(b"%25", data)
    if not data.translate(None, allowed):
        return data
    return quote_from_bytes(data, allowed).encode()


def _read_query(event: Part, form: Form) -> bytes:
    if form is Form.V2:
        query = event.text_or_empty("rawQueryString")
    else:
        pairs = event.pairs("multiValueQueryStringParameters", "queryStringParameters")
        if form is Form.V1:
            # A gateway has decoded them.
            try:
                return urlencode(list(pairs)).encode()
            except UnicodeEncodeError:
                raise EventError("Invalid event: the query is not valid Unicode") from None
        # A load balancer "does not decode them" (AWS, "Receive events from the load balancer").
        query = "&".join([f"{name}={value}" for name, value in pairs])
    return _percent_encode(_encode(query, "the query"), PLAIN_TARGET)


def _read_headers(event: Part, form: Form) -> list[Header]:
    headers = [
        _read_header(name, value) for name, value in event.pairs("multiValueHeaders", "headers")
    ]
    cookies = event.get("cookies") if form is Form.V2 else None
    if cookies:
        if not (isinstance(cookies, list) and all(isinstance(part, str) for part in cookies)):
            raise _wrong("cookies", "an array of strings", cookies)
        # All of them are here, so a header would repeat some.
        headers = [header for header in headers if header[0] != b"cookie"]
        headers += [_read_header("cookie", value) for value in cookies]
    return join_cookies(headers)


def _read_header(name: str, value: str) -> Header:
    key = _known_name(name) if len(name) <= MAX_KNOWN_NAME else _read_name(name)
    try:
        content = value.encode().strip(b" \t")
        reason = "has a control character" if content.translate(None, VISIBLE) else ""
    except UnicodeEncodeError:
        reason = "is not valid Unicode"
    if reason:
        raise EventError(f"Invalid event: the value of header {_quoted(name)} {reason}")
    return key, content


def _read_name(name: str) -> bytes:
    key = _encode(name, "the name of a header").lower()
    if TOKEN.fullmatch(key) is None:
        raise EventError(f"Invalid event: the header name {_quoted(name)} is not a token")
    return key


_known_name = lru_cache(maxsize=1024)(_read_name)
"""Most events have the same names."""


def _read_client(http: Part, headers: Iterable[Header], form: Form) -> Address | None:
    """Return the client's address as the gateway has seen it, or None.

    There is none in a health check of a load balancer, and a name in a test of the console.
    """
    if form is Form.V1:
        return parse_node(http.part("identity").text_or_empty("sourceIp"))
    if form is Form.V2:
        return parse_node(http.text_or_empty("sourceIp"))
    element = _last_element(headers, b"x-forwarded-for")
    return parse_node(element.decode("latin-1"))


def _read_version(http: Part) -> str:
    protocol = http.text_or_empty("protocol")
    if protocol.startswith("HTTP/2"):
        return "2"
    return "1.0" if protocol == "HTTP/1.0" else "1.1"


def _read_body(event: Part) -> bytes:
    body = event.text_or_empty("body")
    is_base64 = event.get("isBase64Encoded")
    if is_base64 is None or is_base64 is False:
        return _encode(body, "the body")
    if is_base64 is not True:
        raise _wrong("isBase64Encoded", "a boolean", is_base64)
    try:
        return base64.b64decode(body, validate=True)
    except ValueError:
        raise EventError("Invalid event: the body is not valid base64") from None


def _read_meaning(fields: Fields, rules: Rules) -> None:
    """Interpret the header fields. Raises RequestError."""
    headers = fields.headers
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1:
        raise RequestError(400, "More than one Host header field")
    if hosts:
        check_authority(hosts[0])
    scheme = _last_element(headers, b"x-forwarded-proto").lower()
    map_underscores(fields, rules)
    proxied = [header for header in headers if header[0] in rules.proxy_names]
    if proxied or rules.script_name is not None:
        read_proxied(fields, rules, proxied)
    if fields.scheme is None:
        # The gateway's own header. Without one the client has used TLS: only a load balancer can
        # do without.
        fields.scheme = "http" if scheme == b"http" else "https"


def _read_server(fields: Fields) -> Address | None:
    host = _last_element(fields.headers, b"host").decode("latin-1")
    if not host:
        return None
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        port = rest[1:]
    else:
        name, _, port = host.partition(":")
    if not port:
        port = _last_element(fields.headers, b"x-forwarded-port").decode("latin-1")
        if PORT.fullmatch(port) is None or int(port) > 65535:
            port = ""
    return name, int(port) if port else (443 if fields.scheme == "https" else 80)


def _last_element(headers: Iterable[Header], name: bytes) -> bytes:
    """Return the last element of a header, or of the last line of it; empty without the header.

    The gateway has written it, or its nearest proxy.
    """
    found = b""
    for key, value in headers:
        if key == name:
            found = value
    elements = read_list(found)
    return elements[-1] if elements else b""


SUPPORTED = (
    "this worker serves HTTP events of API Gateway (REST and HTTP APIs), Function URLs and "
    "Application Load Balancers; lambda_event_function names a function for all others"
)
SOURCES: Mapping[str, str] = {
    "aws:sqs": "Amazon SQS",
    "aws:sns": "Amazon SNS",
    "aws:s3": "Amazon S3",
    "aws:ses": "Amazon SES",
    "aws:dynamodb": "DynamoDB Streams",
    "aws:kinesis": "Kinesis Data Streams",
    "aws:kafka": "Apache Kafka",
    "SelfManagedKafka": "Apache Kafka",
    "aws:mq": "Amazon MQ",
    "aws:rmq": "Amazon MQ",
    "aws:docdb": "Amazon DocumentDB",
    "aws:codecommit": "CodeCommit",
}
"""Services by the ``eventSource`` of their events."""
KEYS: Mapping[str, str] = {
    "methodArn": "a Lambda authorizer",
    "routeArn": "a Lambda authorizer",
    "awslogs": "CloudWatch Logs",
    "deliveryStreamArn": "Data Firehose",
    "triggerSource": "an Amazon Cognito user pool",
    "StackId": "a CloudFormation custom resource",
}
"""Services by a key that only their events have."""


def unsupported(event: Mapping[str, Any]) -> EventError:
    """Return the error for an event that is no HTTP event and that no function takes."""
    return EventError(f"The event is {_describe(event)}: {SUPPORTED}")


def _describe(event: Mapping[str, Any]) -> str:
    records = event.get("Records")
    record = records[0] if isinstance(records, list) and records else event
    if isinstance(record, dict):
        if "cf" in record:
            return "one of Lambda@Edge"
        source = record.get("eventSource", record.get("EventSource"))
        if isinstance(source, str):
            return f"one of {SOURCES.get(source) or _quoted(source)}"
    context = event.get("requestContext")
    if isinstance(context, dict):
        if "connectionId" in context:
            return "one of a WebSocket API"
        if "serviceNetworkArn" in context:
            return "one of VPC Lattice"
    for key, service in KEYS.items():
        if key in event:
            return f"one of {service}"
    kind = event.get("detail-type")
    if isinstance(kind, str):
        return f"one of EventBridge, {_quoted(kind)}"
    if not event:
        return "unknown, an empty object"
    keys = [_quoted(key) for key in list(event)[:MAX_KEYS]]
    more = ", ..." if len(event) > MAX_KEYS else ""
    return f"unknown, with the keys {', '.join(keys)}{more}"
