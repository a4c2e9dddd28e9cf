"""Events of AWS Lambda as a function: their form, the request in them, and every reason to refuse one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import lambda_events as made
import pytest
from conftest import examples
from gunicorn.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st
from rules import make_rules

from gunicorn_asgi.aws_lambda.events import (
    AUTO,
    MAX_KEYS,
    Form,
    HTTPEvent,
    describe_refused,
    find_form,
    parse_json,
    read_event,
    unsupported,
)
from gunicorn_asgi.config.settings import Settings
from gunicorn_asgi.errors import EventError, RequestError
from gunicorn_asgi.frozen import replace
from gunicorn_asgi.http.request import Fields, Rules
from gunicorn_asgi.http.trust import PeerRules, peer_rules

SETTINGS = Settings.read(Config(), {}, {})
FORMS = {
    "rest_v1": Form.V1,
    "rest_v1_single": Form.V1,
    "http_v1": Form.V1,
    "http_v2": Form.V2,
    "function_url": Form.V2,
    "alb": Form.ALB,
    "alb_multi_value": Form.ALB_MULTI_VALUE,
}
OF_API = [name for name in FORMS if not name.startswith("alb")]
EACH = pytest.mark.parametrize("name", FORMS)
EACH_OF_API = pytest.mark.parametrize("name", OF_API)
WITH_SEVERAL_VALUES = ["rest_v1", "http_v1", "alb_multi_value"]


def peers(*allowed: str, rules: Rules | None = None, **changes: Any) -> PeerRules:
    """The rules for requests where peers in `allowed` are trusted."""
    own = replace(SETTINGS, forwarded_allow_ips=allowed, **changes)
    return peer_rules(rules or make_rules(), own)


NOBODY = peers()


def read(event: made.Event, base_path: str = AUTO, rules_for: PeerRules = NOBODY) -> HTTPEvent:
    event = json.loads(json.dumps(event))
    form = find_form(event)
    assert form is not None
    return read_event(event, form, base_path, rules_for)


def read_made(name: str, rules_for: PeerRules = NOBODY, **options: Any) -> HTTPEvent:
    return read(made.HTTP_EVENTS[name](**options), "", rules_for)


def fields_of(event: HTTPEvent) -> Fields:
    return event.request[4]


def values_of(event: HTTPEvent, name: bytes) -> list[bytes]:
    return [value for key, value in fields_of(event).headers if key == name]


def changed(event: made.Event, place: str, value: Any) -> made.Event:
    """`event` with another value in a place, such as ``requestContext.stage``."""
    *outer, key = place.split(".")
    inner = event
    for part in outer:
        inner = inner[part]
    inner[key] = value
    return event


# The form.


@EACH
def test_the_form_of_an_event_is_known_by_its_keys(name: str) -> None:
    assert find_form(made.HTTP_EVENTS[name]()) is FORMS[name]


@pytest.mark.parametrize("name", made.OTHER_EVENTS)
def test_an_event_that_is_no_request_has_no_form(name: str) -> None:
    assert find_form(made.OTHER_EVENTS[name]()) is None


@pytest.mark.parametrize("kind", ["CONNECT", "MESSAGE", "DISCONNECT"])
def test_no_event_of_a_websocket_api_has_a_form(kind: str) -> None:
    assert find_form(made.websocket(event_type=kind)) is None


AUTHORIZERS = {
    "rest": made.rest_v1() | {"type": "REQUEST", "methodArn": "arn:aws:execute-api:..."},
    "http": made.http_v2() | {"type": "REQUEST", "routeArn": "arn:aws:execute-api:..."},
    "token": {"type": "TOKEN", "methodArn": "arn:aws:execute-api:...", "authorizationToken": "x"},
}


@pytest.mark.parametrize("name", AUTHORIZERS)
def test_the_event_of_an_authorizer_is_no_request_though_it_has_one_in_it(name: str) -> None:
    assert find_form(AUTHORIZERS[name]) is None
    assert "Lambda authorizer" in str(unsupported(AUTHORIZERS[name]))


@pytest.mark.parametrize(
    ("event", "what"),
    [(None, "null"), ([], "an array"), ("x", "a string"), (1, "a number"), (True, "a boolean")],
)
def test_an_event_that_is_no_object_is_refused(event: object, what: str) -> None:
    with pytest.raises(EventError, match=f"^The event is {what}, not an object$"):
        find_form(event)


@pytest.mark.parametrize("payload", [b"", b"{", b"{'a': 1}", b"\xff", b"[" * 100_000, b"9" * 5000])
def test_a_payload_that_is_no_json_is_refused_with_one_line(payload: bytes) -> None:
    with pytest.raises(EventError, match=r"^The event is not valid JSON: ") as caught:
        parse_json(payload, "event")
    assert "\n" not in str(caught.value)


LATTICE = {"version": "2.0", "path": "/", "requestContext": {"serviceNetworkArn": "arn"}}
DESCRIPTIONS: Mapping[str, tuple[made.Event, str]] = {
    "edge": (made.edge(), "one of Lambda@Edge"),
    "websocket": (made.websocket(), "one of a WebSocket API"),
    "sqs": (made.sqs(), "one of Amazon SQS"),
    "s3": (made.s3(), "one of Amazon S3"),
    "sns": (made.sns(), "one of Amazon SNS"),
    "schedule": (made.schedule(), "one of EventBridge, 'Scheduled Event'"),
    "dynamodb": (made.dynamodb(), "one of DynamoDB Streams"),
    "kinesis": (made.kinesis(), "one of Kinesis Data Streams"),
    "cloudwatch_logs": (made.cloudwatch_logs(), "one of CloudWatch Logs"),
    "lattice": (LATTICE, "one of VPC Lattice"),
    "kafka": ({"eventSource": "aws:kafka", "records": {}}, "one of Apache Kafka"),
    "a source of its own": ({"Records": [{"eventSource": "my:app"}]}, "one of 'my:app'"),
    "firehose": ({"deliveryStreamArn": "arn", "records": []}, "one of Data Firehose"),
    "empty": ({}, "unknown, an empty object"),
    "direct": ({"action": "clean", "n": 1}, "unknown, with the keys 'action', 'n'"),
    "a line in a key": ({"a\nb": 1, "\ud800é": 2}, r"unknown, with the keys 'a\nb', '\ud800\xe9'"),
    "a long key": ({"k" * 99: 1}, f"unknown, with the keys '{'k' * 64}...'"),
    "records of another kind": ({"Records": 3}, "unknown, with the keys 'Records'"),
    "no records": ({"Records": []}, "unknown, with the keys 'Records'"),
    "records that are no objects": ({"Records": [3]}, "unknown, with the keys 'Records'"),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_refusal_says_what_the_event_is_and_what_is_supported(name: str) -> None:
    event, description = DESCRIPTIONS[name]
    assert find_form(event) is None
    sentence = str(unsupported(event))
    assert sentence.startswith(f"The event is {description}: this worker serves HTTP events of ")
    assert "lambda_event_function" in sentence


def test_a_refusal_names_a_few_keys_of_many() -> None:
    sentence = str(unsupported(dict.fromkeys(map(str, range(1000)))))
    assert f"'{MAX_KEYS - 1}', ...:" in sentence
    assert f"'{MAX_KEYS}'" not in sentence


# The request.


@EACH
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_the_method_is_the_events(name: str, method: str) -> None:
    assert read_made(name, method=method).request[0] == method


@EACH
@pytest.mark.parametrize(
    ("method", "status"), [("CONNECT", 501), ("G ET", 400), ("get", 400), ("", 400)]
)
def test_a_method_is_refused_as_from_any_client(name: str, method: str, status: int) -> None:
    with pytest.raises(RequestError) as caught:
        read_made(name, method=method)
    assert caught.value.status == status


PATHS = {
    "/": (b"/", "/"),
    "": (b"/", "/"),
    "//a//": (b"//a//", "//a//"),
    "/a%20b": (b"/a%20b", "/a b"),
    "/a b": (b"/a%20b", "/a b"),
    "/caf%C3%A9": (b"/caf%C3%A9", "/café"),
    "/café": (b"/caf%C3%A9", "/café"),
    "/%ff": (b"/%ff", "/\ufffd"),
    "/a?b#c": (b"/a%3Fb%23c", "/a?b#c"),
    "/100%": (b"/100%25", "/100%"),
    "/%zz%2": (b"/%25zz%252", "/%zz%2"),
    "/a\r\nb": (b"/a%0D%0Ab", "/a\r\nb"),
    "/:@!$&'()*+,;=~[]|\\^": (b"/:@!$&'()*+,;=~[]|\\^", "/:@!$&'()*+,;=~[]|\\^"),
}


@EACH
@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_the_events_with_percent_encoding_only_where_it_needs_it(
    name: str, path: str
) -> None:
    _, decoded, raw, _, _ = read_made(name, path=path).request
    assert (raw, decoded) == PATHS[path]


@EACH
def test_a_path_that_is_null_is_the_root(name: str) -> None:
    event = made.HTTP_EVENTS[name]()
    event["rawPath" if FORMS[name] is Form.V2 else "path"] = None
    assert read(event, "").request[1] == "/"


@EACH
@pytest.mark.parametrize("path", ["my/path", "*", "http://host/"])
def test_a_path_without_a_slash_at_its_beginning_is_refused(name: str, path: str) -> None:
    with pytest.raises(EventError, match="does not begin with a slash"):
        read_made(name, path=path)


QUERIES = ["", "a=1", "a=1&a=2&b=", "q=a+b%26c%3Dd", "caf%C3%A9=%E2%82%AC", "a%2Fb=%2F"]


@EACH
@pytest.mark.parametrize("query", QUERIES)
def test_a_query_means_what_the_client_sent(name: str, query: str) -> None:
    event = made.HTTP_EVENTS[name](query=query)
    expected = parse_qsl(query, keep_blank_values=True)
    if name in ("rest_v1_single", "alb"):
        expected = list(dict(expected).items())  # the gateway has kept the last value
    got = read(event).request[3].decode()
    assert parse_qsl(got, keep_blank_values=True) == expected


@pytest.mark.parametrize("name", ["http_v2", "function_url", "alb_multi_value"])
@pytest.mark.parametrize("query", [*QUERIES, "a=%7e&b=~", "a=b=c&d=?/"])
def test_a_query_that_the_gateway_has_not_decoded_stays_as_it_is(name: str, query: str) -> None:
    assert read_made(name, query=query).request[3] == query.encode()


def test_a_raw_query_is_encoded_only_where_it_needs_it() -> None:
    event = changed(made.http_v2(), "rawQueryString", "é=a b&c=#d&e=%&f=%41\n")
    assert read(event).request[3] == b"%C3%A9=a%20b&c=%23d&e=%25&f=%41%0A"


@EACH
def test_a_header_has_a_lower_case_name_and_utf_8(name: str) -> None:
    event = read_made(name, headers=[("X-Name", "é"), ("X-Empty", "")])
    assert values_of(event, b"x-name") == ["é".encode()]
    assert values_of(event, b"x-empty") == [b""]


@pytest.mark.parametrize("name", FORMS)
def test_a_repeated_header_is_one_pair_for_each_value_where_the_event_has_all(name: str) -> None:
    event = read_made(name, headers=[("X-A", "1"), ("X-B", "2"), ("X-A", "3")])
    several = [b"1", b"3"] if name in WITH_SEVERAL_VALUES else [b"3"]
    if FORMS[name] is Form.V2:
        several = [b"1,3"]
    assert values_of(event, b"x-a") == several
    assert values_of(event, b"x-b") == [b"2"]


@EACH
def test_cookies_are_one_header(name: str) -> None:
    event = read_made(name, cookies=["a=1", "b=2"])
    assert values_of(event, b"cookie") == [b"a=1; b=2"]


@pytest.mark.parametrize("name", WITH_SEVERAL_VALUES)
def test_several_cookie_headers_become_one(name: str) -> None:
    event = read_made(
        name, headers=[("Cookie", "a=1"), ("X-A", "x"), ("Cookie", ""), ("Cookie", "b=2")]
    )
    assert values_of(event, b"cookie") == [b"a=1; b=2"]


def test_cookies_of_format_2_replace_the_header_with_the_same_cookies() -> None:
    event = made.http_v2(headers=[("cookie", "a=1; b=2")], cookies=["a=1", "b=2"])
    assert values_of(read(event), b"cookie") == [b"a=1; b=2"]
    event["cookies"] = []
    assert values_of(read(event), b"cookie") == [b"a=1; b=2"]


@EACH
@pytest.mark.parametrize("body", [b"", b"text", "é€".encode(), bytes(range(256)), b"\x00"])
def test_a_body_arrives_with_all_its_bytes(name: str, body: bytes) -> None:
    event = read_made(name, method="POST", body=body)
    assert event.body == body
    assert fields_of(event).length == len(body)


@EACH
def test_a_body_that_is_base64_is_decoded_even_if_it_is_text(name: str) -> None:
    event = made.HTTP_EVENTS[name]()
    event |= {"body": "aMOp", "isBase64Encoded": True}
    assert read(event).body == "hé".encode()


@EACH
def test_null_stands_for_nothing(name: str) -> None:
    event = made.HTTP_EVENTS[name]()
    nothing = ["headers", "multiValueHeaders", "queryStringParameters", "body", "isBase64Encoded"]
    nothing += ["multiValueQueryStringParameters", "rawQueryString", "cookies"]
    nothing = [key for key in nothing if key in event]
    for result in (
        read(event | dict.fromkeys(nothing)),
        read({key: value for key, value in event.items() if key not in nothing}),
    ):
        _, _, _, query, fields = result.request
        assert (query, fields.headers, fields.scheme) == (b"", [], "https")
        assert (result.body, result.server) == (b"", None)


def test_the_consoles_test_of_an_api_is_a_request_of_nobody() -> None:
    event = read(made.rest_v1_console())
    assert event.request[:4] == ("GET", "/", b"/", b"")
    assert event.client is None


def test_a_health_check_of_a_load_balancer_is_a_request_of_nobody() -> None:
    event = made.alb() | {"headers": {"user-agent": "ELB-HealthChecker/2.0"}}
    result = read(event)
    assert (result.client, result.server) == (None, None)


PROTOCOLS = {
    "HTTP/1.0": "1.0",
    "HTTP/1.1": "1.1",
    "HTTP/2.0": "2",
    "HTTP/2": "2",
    "HTTP/3": "1.1",
    "": "1.1",
    None: "1.1",
}


@pytest.mark.parametrize("name", OF_API)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_version_is_the_clients(name: str, protocol: str | None) -> None:
    assert fields_of(read_made(name, protocol=protocol)).version == PROTOCOLS[protocol]


@pytest.mark.parametrize("name", ["alb", "alb_multi_value"])
def test_the_version_of_a_load_balancers_client_is_unknown(name: str) -> None:
    assert fields_of(read_made(name)).version == "1.1"


# The base path.

STAGE = b"/prod"
PLACES: Mapping[str, tuple[made.Event, str, tuple[bytes, bytes | None]]] = {
    "rest": (made.rest_v1(path="/x"), AUTO, (b"/prod/x", STAGE)),
    "rest, root": (made.rest_v1(path="/"), AUTO, (b"/prod/", STAGE)),
    "rest, only the stage": (
        changed(made.rest_v1(path="/"), "requestContext.path", "/prod"),
        AUTO,
        (b"/prod/", STAGE),
    ),
    "rest, a resource like the stage": (
        made.rest_v1(path="/prod/x"),
        AUTO,
        (b"/prod/prod/x", STAGE),
    ),
    "rest, custom domain": (
        changed(made.rest_v1(path="/x"), "requestContext.path", "/x"),
        AUTO,
        (b"/x", None),
    ),
    "rest, custom domain, a resource like the stage": (
        changed(made.rest_v1(path="/prod/x"), "requestContext.path", "/prod/x"),
        AUTO,
        (b"/prod/x", None),
    ),
    "rest, encoded in one place": (
        changed(made.rest_v1(path="/a b"), "requestContext.path", "/prod/a%20b"),
        AUTO,
        (b"/prod/a%20b", STAGE),
    ),
    "rest, no path in the context": (
        changed(made.rest_v1(path="/x"), "requestContext.path", None),
        AUTO,
        (b"/x", None),
    ),
    "rest, off": (made.rest_v1(path="/x"), "", (b"/x", None)),
    "rest, the stage by name": (made.rest_v1(path="/x"), "/prod", (b"/prod/x", STAGE)),
    "rest, mapping": (
        changed(made.rest_v1(path="/base/x"), "requestContext.path", "/base/x"),
        "/base",
        (b"/base/x", b"/base"),
    ),
    "rest, another path": (made.rest_v1(path="/x"), "/base", (b"/x", None)),
    "1.0, default": (made.http_v1(path="/x"), AUTO, (b"/x", None)),
    "1.0": (made.http_v1(path="/x", stage="prod"), AUTO, (b"/prod/x", STAGE)),
    "1.0, off": (made.http_v1(path="/x", stage="prod"), "", (b"/prod/x", None)),
    "2.0, default": (made.http_v2(path="/x"), AUTO, (b"/x", None)),
    "2.0": (made.http_v2(path="/x", stage="prod"), AUTO, (b"/prod/x", STAGE)),
    "2.0, only the stage": (made.http_v2(path="", stage="prod"), AUTO, (b"/prod", STAGE)),
    "2.0, no stage in it": (
        changed(made.http_v2(path="/x", stage="prod"), "rawPath", "/x"),
        AUTO,
        (b"/x", None),
    ),
    "2.0, not at a border": (
        changed(made.http_v2(path="/x", stage="prod"), "rawPath", "/product"),
        AUTO,
        (b"/product", None),
    ),
    "2.0, no stage": (
        changed(made.http_v2(path="/x"), "requestContext.stage", None),
        AUTO,
        (b"/x", None),
    ),
    "2.0, custom domain": (
        made.http_v2(path="/x", stage="prod", domain="api.example.com"),
        AUTO,
        (b"/x", None),
    ),
    "2.0, custom domain, only the stage": (
        made.http_v2(path="", stage="prod", domain="api.example.com"),
        AUTO,
        (b"/", None),
    ),
    "2.0, custom domain, no stage in it": (
        changed(
            made.http_v2(path="/x", stage="prod", domain="api.example.com"), "rawPath", "/product"
        ),
        AUTO,
        (b"/product", None),
    ),
    "2.0, custom domain, the stage by name": (
        made.http_v2(path="/x", stage="prod", domain="api.example.com"),
        "/prod",
        (b"/prod/x", STAGE),
    ),
    "2.0, no domain": (
        changed(made.http_v2(path="/x", stage="prod"), "requestContext.domainName", None),
        AUTO,
        (b"/prod/x", STAGE),
    ),
    "2.0, off": (made.http_v2(path="/x", stage="prod"), "", (b"/prod/x", None)),
    "2.0, a path": (made.http_v2(path="/base/a/x"), "/base/a", (b"/base/a/x", b"/base/a")),
    "2.0, another path": (made.http_v2(path="/x"), "/base", (b"/x", None)),
    "url": (made.function_url(path="/x"), AUTO, (b"/x", None)),
    "alb": (made.alb(path="/x"), AUTO, (b"/x", None)),
    "alb, a path": (made.alb(path="/base/x"), "/base", (b"/base/x", b"/base")),
    "alb, stage": (
        changed(made.alb(path="/prod/x"), "requestContext.stage", "prod"),
        AUTO,
        (b"/prod/x", None),
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_the_base_path_is_the_root_path_where_the_clients_path_begins_with_it(name: str) -> None:
    event, option, (raw_path, root) = PLACES[name]
    _, path, raw, _, fields = read(event, option).request
    assert (raw, path) == (raw_path, raw_path.decode().replace("%20", " "))
    assert fields.script_name == root
    assert fields.root_path == (root.decode() if root is not None else None)


def test_a_base_path_is_compared_as_it_is_and_decoded_in_the_scope() -> None:
    event = made.http_v2(path="/caf%C3%A9/x")
    fields = fields_of(read(event, "/caf%C3%A9"))
    assert (fields.script_name, fields.root_path) == (b"/caf%C3%A9", "/café")
    assert fields_of(read(event, "/caf%c3%a9")).root_path is None


def test_script_name_of_the_environment_takes_the_place_of_the_base_path() -> None:
    rules_for = peers(rules=make_rules(script_name=b"/prod/app"))
    fields = fields_of(read(made.http_v2(path="/app/x", stage="prod"), AUTO, rules_for))
    assert (fields.script_name, fields.root_path) == (b"/prod/app", "/prod/app")
    with pytest.raises(RequestError, match="does not begin with SCRIPT_NAME"):
        read(made.http_v2(path="/x", stage="prod"), AUTO, rules_for)


# The client, the server and the scheme.

ADDRESSES = {
    "203.0.113.7": "203.0.113.7",
    "2001:db8::1": "2001:db8::1",
    "2001:DB8:0::1": "2001:db8::1",
    "::ffff:203.0.113.7": "203.0.113.7",
}


@EACH
@pytest.mark.parametrize("address", ADDRESSES)
def test_the_client_is_the_address_that_the_gateway_has_seen(name: str, address: str) -> None:
    event = read_made(name, source_ip=address)
    assert event.client == (ADDRESSES[address], 0)
    assert fields_of(event).client is None


@EACH_OF_API
def test_a_client_cannot_change_its_address(name: str) -> None:
    event = read_made(
        name, headers=[("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "2.2.2.2")]
    )
    assert event.client == (made.SOURCE_IP, 0)


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("1.1.1.1, 203.0.113.7", ("203.0.113.7", 0)),
        ("1.1.1.1,203.0.113.7:4711", ("203.0.113.7", 4711)),
        ("[2001:db8::1]:80", ("2001:db8::1", 80)),
        ("203.0.113.7, nobody", None),
        ("203.0.113.7,", ("203.0.113.7", 0)),
        ("", None),
    ],
)
@pytest.mark.parametrize("name", ["alb", "alb_multi_value"])
def test_the_client_of_a_load_balancer_is_the_last_element_of_its_header(
    name: str, value: str, client: object
) -> None:
    """The port is there if the load balancer preserves it (routing.http.xff_client_port.enabled)."""
    assert read_made(name, headers=[("X-Forwarded-For", value)]).client == client


def test_the_last_line_of_x_forwarded_for_is_the_load_balancers() -> None:
    lines = [("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "203.0.113.7")]
    assert read_made("alb_multi_value", headers=lines).client == ("203.0.113.7", 0)


FORWARDED = [("X-Forwarded-For", f"198.51.100.9, {made.SOURCE_IP}")]


@EACH
def test_a_trusted_peer_names_its_client(name: str) -> None:
    event = read_made(name, peers(made.SOURCE_IP), headers=FORWARDED)
    assert event.client == (made.SOURCE_IP, 0)
    assert fields_of(event).client == ("198.51.100.9", 0)
    assert fields_of(read_made(name, headers=FORWARDED)).client is None


@EACH
def test_a_peer_without_an_address_is_not_trusted(name: str) -> None:
    headers = [("X-Forwarded-For", "198.51.100.9, nobody"), ("SCRIPT_NAME", "/other")]
    event = made.HTTP_EVENTS[name](headers=headers, source_ip="nobody")
    result = read(event, "", peers("10.0.0.0/8", "fc00::/7", "127.0.0.1", "::1"))
    assert result.client is None
    assert fields_of(result).client is None
    assert fields_of(result).script_name is None


@EACH
def test_a_trusted_peer_names_the_host(name: str) -> None:
    headers = [("X-Forwarded-Host", "public.example:8443")]
    event = read_made(name, peers(made.SOURCE_IP, forwarded_host=True), headers=headers)
    assert values_of(event, b"host") == [b"public.example:8443"]
    assert event.server == ("public.example", 8443)
    event = read_made(name, peers(forwarded_host=True), headers=headers)
    assert event.server != ("public.example", 8443)


@EACH
def test_contradictory_headers_of_a_trusted_peer_are_refused(name: str) -> None:
    headers = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Ssl", "off")]
    with pytest.raises(RequestError, match="Contradictory scheme headers"):
        read_made(name, peers("*"), headers=headers)
    assert fields_of(read_made(name, headers=headers)).scheme == "https"


@EACH
@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        ("https", "https"),
        ("http", "http"),
        ("HTTP", "http"),
        ("http, https", "https"),
        ("https,http", "http"),
        ("ftp", "https"),
        ("", "https"),
    ],
)
def test_the_scheme_is_the_gateways(name: str, value: str, scheme: str) -> None:
    event = read_made(name, headers=[("X-Forwarded-Proto", value)])
    assert fields_of(event).scheme == scheme


HOSTS = [
    ("example.com", [], ("example.com", 443)),
    ("example.com:8443", [], ("example.com", 8443)),
    ("example.com:", [], ("example.com", 443)),
    ("[2001:db8::1]", [], ("2001:db8::1", 443)),
    ("[2001:db8::1]:81", [], ("2001:db8::1", 81)),
    ("example.com", [("X-Forwarded-Port", "8080")], ("example.com", 8080)),
    ("example.com:81", [("X-Forwarded-Port", "8080")], ("example.com", 81)),
    ("example.com", [("X-Forwarded-Port", "1, 8080")], ("example.com", 8080)),
    ("example.com", [("X-Forwarded-Port", "x")], ("example.com", 443)),
    ("example.com", [("X-Forwarded-Port", "65536")], ("example.com", 443)),
    ("example.com", [("X-Forwarded-Port", "9" * 5000)], ("example.com", 443)),
    ("example.com", [("X-Forwarded-Port", ""), ("X-Forwarded-Proto", "http")], ("example.com", 80)),
]


@EACH
@pytest.mark.parametrize(("host", "headers", "server"), HOSTS)
def test_the_server_is_the_host_with_the_port_of_the_gateway(
    name: str, host: str, headers: made.Fields, server: tuple[str, int]
) -> None:
    assert read_made(name, headers=[("Host", host), *headers]).server == server


@EACH
@pytest.mark.parametrize("host", ["a b", "user@host", "a/b", "host:99999", "[::x]", ""])
def test_an_invalid_host_is_refused_as_from_any_client(name: str, host: str) -> None:
    with pytest.raises(RequestError, match="Invalid Host"):
        read_made(name, headers=[("Host", host)])


@pytest.mark.parametrize("name", WITH_SEVERAL_VALUES)
def test_a_second_host_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match="More than one Host"):
        read_made(name, headers=[("Host", "a"), ("Host", "b")])


@EACH
def test_header_map_applies_to_names_with_an_underscore(name: str) -> None:
    headers = [("X_A", "1"), ("X-B", "2")]
    assert values_of(read_made(name, headers=headers), b"x_a") == []
    dangerous = peers(rules=make_rules(header_map="dangerous"))
    assert values_of(read_made(name, dangerous, headers=headers), b"x_a") == [b"1"]
    with pytest.raises(RequestError, match="it has an underscore"):
        read_made(name, peers(rules=make_rules(header_map="refuse")), headers=headers)


@EACH
def test_a_refused_request_is_described_for_the_log(name: str) -> None:
    event = made.HTTP_EVENTS[name](path="/a b", headers=[("Host", "a b"), ("X-A", "1")])
    with pytest.raises(RequestError):
        read(event)
    head, client = describe_refused(event, FORMS[name])
    assert head.startswith(b"GET /a%20b HTTP/1.1\r\n")
    assert b"\r\nhost: a b\r\nx-a: 1\r\n" in head
    assert head.endswith(b"\r\n\r\n")
    assert client == (made.SOURCE_IP, 0)


@EACH
def test_the_method_of_a_refused_request_adds_nothing_to_the_log(name: str) -> None:
    event = made.HTTP_EVENTS[name](method="G / HTTP/1.1\r\nuser-agent: evil\r\n\r\n")
    with pytest.raises(RequestError):
        read(event)
    head, _ = describe_refused(event, FORMS[name])
    assert head.startswith(b"- /")
    assert b"evil" not in head


# Wrong parts.

V1, V2, ALB = made.rest_v1, made.http_v2, made.alb
SINGLE, MULTI = made.rest_v1_single, made.alb_multi_value
WRONG: list[tuple[made.MakeEvent, str, Any, str]] = [
    (V1, "httpMethod", None, "'httpMethod' must be a string, not null"),
    (V1, "httpMethod", "\ud800", "the method is not valid Unicode"),
    (V1, "path", 1, "'path' must be a string, not a number"),
    (V1, "path", "/\ud800", "the path is not valid Unicode"),
    (V1, "requestContext.path", [], "'requestContext.path' must be a string, not an array"),
    (V1, "requestContext.stage", 1, "'requestContext.stage' must be a string, not a number"),
    (
        V1,
        "requestContext.identity",
        "x",
        "'requestContext.identity' must be an object, not a string",
    ),
    (
        V1,
        "requestContext.identity.sourceIp",
        1,
        "'requestContext.identity.sourceIp' must be a string",
    ),
    (
        V1,
        "requestContext.protocol",
        True,
        "'requestContext.protocol' must be a string, not a boolean",
    ),
    (V1, "multiValueHeaders", [], "'multiValueHeaders' must be an object, not an array"),
    (V1, "multiValueHeaders", {"a": "b"}, "'multiValueHeaders.a' must be an array, not a string"),
    (V1, "multiValueHeaders", {"a": [1]}, "'multiValueHeaders.a' must be an array of strings"),
    (V1, "multiValueHeaders", {"a": [None]}, "'multiValueHeaders.a' must be an array of strings"),
    (V1, "multiValueQueryStringParameters", {"a": "b"}, "must be an array, not a string"),
    (V1, "multiValueQueryStringParameters", {"a": ["\ud800"]}, "the query is not valid Unicode"),
    (SINGLE, "headers", {"a": None}, "'headers.a' must be a string, not null"),
    (SINGLE, "headers", {"a": 1.5}, "'headers.a' must be a string, not a number"),
    (SINGLE, "headers", {"a b": "c"}, "the header name 'a b' is not a token"),
    (SINGLE, "headers", {"": "c"}, "the header name '' is not a token"),
    (SINGLE, "headers", {"\u212a": "c"}, r"the header name '\\u212a' is not a token"),
    (SINGLE, "headers", {":path": "/"}, "the header name ':path' is not a token"),
    (SINGLE, "headers", {"\ud800": "/"}, "the name of a header is not valid Unicode"),
    (SINGLE, "headers", {"a": "\ud800"}, "the value of header 'a' is not valid Unicode"),
    (SINGLE, "headers", {"a": "b\r\nc: d"}, "the value of header 'a' has a control character"),
    (SINGLE, "headers", {"a": "\x00"}, "the value of header 'a' has a control character"),
    (SINGLE, "headers", {"a": "\x7f"}, "the value of header 'a' has a control character"),
    (SINGLE, "queryStringParameters", {"a": []}, "'queryStringParameters.a' must be a string"),
    (SINGLE, "body", {}, "'body' must be a string, not an object"),
    (SINGLE, "body", "\ud800", "the body is not valid Unicode"),
    (SINGLE, "isBase64Encoded", 0, "'isBase64Encoded' must be a boolean, not a number"),
    (SINGLE, "isBase64Encoded", "true", "'isBase64Encoded' must be a boolean, not a string"),
    (V2, "rawPath", [], "'rawPath' must be a string, not an array"),
    (V2, "rawQueryString", 1, "'rawQueryString' must be a string, not a number"),
    (V2, "rawQueryString", "\ud800", "the query is not valid Unicode"),
    (V2, "requestContext.http", [], "'requestContext.http' must be an object, not an array"),
    (V2, "requestContext.http.method", None, "'requestContext.http.method' must be a string"),
    (V2, "requestContext.http.sourceIp", 1, "'requestContext.http.sourceIp' must be a string"),
    (V2, "cookies", "a=1", "'cookies' must be an array of strings, not a string"),
    (V2, "cookies", [1], "'cookies' must be an array of strings, not an array"),
    (V2, "cookies", ["a\n"], "the value of header 'cookie' has a control character"),
    (ALB, "httpMethod", [], "'httpMethod' must be a string, not an array"),
    (
        MULTI,
        "multiValueHeaders",
        {"a": {}},
        "'multiValueHeaders.a' must be an array, not an object",
    ),
]


@pytest.mark.parametrize(("make", "place", "value", "reason"), WRONG)
def test_a_wrong_part_is_named(make: made.MakeEvent, place: str, value: Any, reason: str) -> None:
    with pytest.raises(EventError, match=f"^Invalid event: .*{reason}"):
        read(changed(make(), place, value))


@pytest.mark.parametrize(
    ("make", "key"), [(V1, "path"), (V2, "rawPath"), (ALB, "path"), (ALB, "httpMethod")]
)
def test_a_missing_part_is_named(make: made.MakeEvent, key: str) -> None:
    event = make()
    del event[key]
    with pytest.raises(
        EventError, match=f"^Invalid event: '{key}' must be a string, and is missing$"
    ):
        read(event)


@EACH
@pytest.mark.parametrize("body", ["a", "a===", "äöü=", "ab cd", "YQ", "YQ==\n", "!!!!"])
def test_base64_must_be_valid(name: str, body: str) -> None:
    event = made.HTTP_EVENTS[name]() | {"body": body, "isBase64Encoded": True}
    with pytest.raises(EventError, match="the body is not valid base64"):
        read(event)


# Any value.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = sorted(
    {key for make in made.HTTP_EVENTS.values() for key in (*make(), *make()["requestContext"])}
    | {"http", "elb", "identity", "cookies", "connectionId"}
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6)
TEXT = st.text(max_size=8) | st.sampled_from(
    ["/", "/prod", "2.0", "GET", "1.2.3.4", "$default", "="]
)


def outcome(event: object, base_path: str, rules_for: PeerRules) -> None:
    """Read any value: the only exceptions are those of the contract, with one printable line."""
    try:
        form = find_form(event)
        assert form is not None or isinstance(event, dict)
        if form is None:
            sentence = str(unsupported(event))  # type: ignore[arg-type]
        else:
            request, body, *_ = read_event(event, form, base_path, rules_for)  # type: ignore[arg-type]
            _, path, raw_path, query, fields = request
            assert raw_path[:1] == b"/" == path.encode("utf-8", "replace")[:1]
            assert (raw_path + query).isascii()
            assert not set(raw_path + query) & set(b" #\r\n\t\x00\x7f")
            assert b"?" not in raw_path
            assert path.startswith(fields.root_path or "")
            assert raw_path.startswith(fields.script_name or b"")
            assert fields.length == len(body)
            assert fields.scheme in ("http", "https")
            return
    except (EventError, RequestError) as error:
        sentence = str(error)
    assert sentence.isprintable()
    assert len(sentence) < 2000


@settings(max_examples=examples(400), deadline=None)
@given(JSON | OBJECTS)
def test_any_value_is_a_request_or_refused(event: object) -> None:
    outcome(event, AUTO, NOBODY)


@settings(max_examples=examples(1000), deadline=None)
@given(st.data())
def test_an_event_with_any_part_replaced_is_a_request_or_refused(data: st.DataObject) -> None:
    make = data.draw(st.sampled_from(list(made.HTTP_EVENTS.values())))
    event = make(cookies=["a=1"], body=b"\xff", query="a=1")
    for _ in range(data.draw(st.integers(1, 3))):
        place = event
        while True:
            key = data.draw(st.sampled_from(sorted(place) or ["x"]))
            inner = place.get(key)
            if not isinstance(inner, dict) or data.draw(st.booleans()):
                break
            place = inner
        values = JSON | TEXT
        if isinstance(inner, list):
            values = values | st.lists(TEXT, max_size=3)
        if isinstance(inner, dict):
            values = values | st.dictionaries(TEXT, TEXT | st.lists(TEXT, max_size=2), max_size=3)
        if data.draw(st.integers(0, 4)):
            place[key] = data.draw(values)
        else:
            place.pop(key, None)
    base_path = data.draw(st.sampled_from([AUTO, "", "/prod", "/my"]))
    outcome(event, base_path, data.draw(st.sampled_from([NOBODY, peers("*")])))


NAMES = st.text("abcXYZ019-", min_size=1, max_size=8).map(lambda name: f"x-{name}")
VALUES = st.text(
    st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]),
    max_size=12,
)
PAIRS = st.lists(st.tuples(st.text(min_size=1, max_size=5), st.text(max_size=5)), max_size=4)


@settings(max_examples=examples(300), deadline=None)
@given(
    st.sampled_from(sorted(FORMS)),
    st.sampled_from(["GET", "POST"]),
    st.dictionaries(NAMES, VALUES, max_size=4),
    st.binary(max_size=20),
    PAIRS.map(dict),
)
def test_a_request_survives_its_gateway(
    name: str, method: str, headers: dict[str, str], body: bytes, query: dict[str, str]
) -> None:
    headers = {key.lower(): value for key, value in headers.items()}
    result = read_made(
        name, method=method, headers=list(headers.items()), body=body, query=urlencode(query)
    )
    verb, _, _, raw_query, fields = result.request
    assert (verb, result.body) == (method, body)
    assert dict(parse_qsl(raw_query.decode(), keep_blank_values=True)) == query
    got = {key.decode(): value.decode() for key, value in fields.headers}
    assert {key: got[key] for key in headers} == {
        key: value.strip(" \t") for key, value in headers.items()
    }
