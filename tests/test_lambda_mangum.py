"""Mangum as an oracle: the same events mean the same to an application, and its responses mean the same to a client.

The requests differ in these places:

- ``raw_path`` is None in Mangum. Here it is the path of the event.
- ``path`` lacks the base path in Mangum (``api_gateway_base_path``), and ``root_path`` is empty. Here the path is the
  client's with the stage of a REST API, and ``root_path`` is the stage or the base path (ASGI 2.5). Format 2.0: Mangum
  reads ``requestContext.http.path``, this package ``rawPath``, without a stage that the client of a custom domain name
  has not sent.
- A repeated header of format 1.0 is one joined value in Mangum. Here it is one pair for each value.
- Names in ``headers`` that are missing in ``multiValueHeaders`` count in Mangum. No gateway sends such an event.
- ``cookie`` is one header here, joined with "; ". Mangum joins several with ", " in format 1.0, and keeps several of a
  load balancer.
- Names with an underscore are dropped here, unless ``header_map`` says otherwise.
- White space around a header's value is removed here.
- The query of a load balancer is decoded and encoded anew in Mangum. Here it is the client's. The meaning is the same.
- ``http_version`` is always 1.1 in Mangum. Here it is the ``protocol`` of the event.
- ``scheme``: Mangum has any value of X-Forwarded-Proto. Here it is http or https, of a list the last.
- ``client`` of a load balancer: Mangum has the whole of X-Forwarded-For, this package its last element. A value that is
  no address is no client here. A trusted peer (``forwarded_allow_ips``) names its client here.
- ``server``: the port is 80 in Mangum where X-Forwarded-Port is missing, and 443 or 80 here. Without a host, it is
  ("mangum", 80) there, and None here. An IPv6 host fails in Mangum.
- Null in place of an object, and a key that is missing: Mangum fails for most, this package has nothing there.
- Refused here, served by Mangum: events of Lambda authorizers and of Lambda@Edge; a second or invalid host; a method
  that Gunicorn refuses; header names that are no tokens; control characters in values; invalid base64; a path without a
  slash at its beginning. For another wrong part Mangum fails with the error of Python that follows from it.

The responses differ in these places:

- No ``content-type``: Mangum adds ``application/json`` in format 2.0. This package adds nothing. Without one, Mangum
  sends base64 in the other forms, and this package text if the body is UTF-8.
- ``content-encoding``: Mangum sends text if the content type is text and the body UTF-8, this package base64.
- More types are text here (``application/x-www-form-urlencoded``, ``+json``, yaml...), and Mangum's option
  ``text_mime_types`` finds its members anywhere in the content type. A charset counts here.
- Headers of one connection (``connection``, ``transfer-encoding``...) are dropped here.
- A value that is not UTF-8 fails in Mangum, and is latin-1 here.
- A load balancer without multi-value headers: Mangum sends every repeated name in several cases, and drops values where
  a name has too few letters for them. Here ``set-cookie`` is sent so, and others are joined with ", ". This package adds
  ``statusDescription``, which AWS has in its examples.
- A response above AWS's limit is sent by Mangum, and fails later. Here it is an ApplicationError.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import lambda_events as made
import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from lambda_gateways import Received, by_name, receive
from rules import make_rules

from gunicorn_asgi.aws_lambda.events import Form, find_form, read_event
from gunicorn_asgi.aws_lambda.responses import encode_response

mangum = pytest.importorskip("mangum")

Header = tuple[bytes, bytes]
EACH = pytest.mark.parametrize("name", made.HTTP_EVENTS)
RULES = make_rules()


@pytest.fixture(scope="module", autouse=True)
def loop() -> Iterator[None]:
    """Mangum runs the application in the current loop, and makes one in older versions only."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


class Seen(NamedTuple):
    """A request, as far as both have the same meaning of it."""

    method: str
    path: str
    query: list[tuple[str, str]]
    scheme: str
    client: tuple[str, int]
    server: tuple[str, int]
    headers: dict[str, str]
    body: bytes


def as_mapping(headers: Any) -> dict[str, str]:
    values = by_name((name.decode(), value.decode()) for name, value in headers)
    return {name: ("; " if name == "cookie" else ", ").join(each) for name, each in values.items()}


def parsed(query: bytes) -> list[tuple[str, str]]:
    return parse_qsl(query.decode(), keep_blank_values=True)


def of_mangum(
    event: made.Event, status: int = 200, headers: list[Header] | None = None, body: bytes = b""
) -> tuple[Seen, dict[str, Any]]:
    """What an application sees of `event` under Mangum, and what Mangum makes of its response."""
    seen = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        received = b""
        while True:
            message = await receive()
            received += message.get("body", b"")
            if not message.get("more_body"):
                break
        seen.append((scope, received))
        await send({"type": "http.response.start", "status": status, "headers": headers or []})
        await send({"type": "http.response.body", "body": body})

    response = mangum.Mangum(app, lifespan="off")(event, None)
    [(scope, received)] = seen
    return Seen(
        scope["method"],
        scope["path"],
        parsed(scope["query_string"]),
        scope["scheme"],
        scope["client"],
        scope["server"],
        as_mapping(scope["headers"]),
        received,
    ), response


def of_this_package(event: made.Event) -> Seen:
    form = find_form(event)
    assert form is not None
    request, body, client, server, _ = read_event(event, form, "", lambda peer, proxied: RULES)
    method, path, _, query, fields = request
    assert client is not None
    assert server is not None
    assert fields.scheme is not None
    mapping = as_mapping(fields.headers)
    return Seen(method, path, parsed(query), fields.scheme, client, server, mapping, body)  # type: ignore[arg-type]


def parsed_json(event: made.Event) -> made.Event:
    return json.loads(json.dumps(event))


REQUESTS: dict[str, dict[str, Any]] = {
    "get": {},
    "root": {"path": "/"},
    "encoded": {"path": "/a%20b/caf%C3%A9/%2F"},
    "not ascii": {"path": "/café b"},
    "query": {"query": "a=1&b=&q=a+b%26c%3Dd&%C3%A9=%E2%82%AC"},
    "repeated in the query": {"query": "a=1&a=2"},
    "headers": {"headers": [("X-A", "1"), ("X-B", "é"), ("Content-Type", "text/plain")]},
    "repeated headers": {"headers": [("X-A", "1"), ("X-A", "2")]},
    "cookies": {"cookies": ["a=1", "b=2"]},
    "post": {"method": "POST", "body": b"text"},
    "utf-8": {"method": "PUT", "body": "é€".encode()},
    "binary": {"method": "POST", "body": bytes(range(256))},
    "port": {"headers": [("Host", "example.com:8443")]},
    "http": {"headers": [("X-Forwarded-Proto", "http"), ("X-Forwarded-Port", "80")]},
    "ipv6": {"source_ip": "2001:db8::1"},
}


@EACH
@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_request_means_the_same(name: str, request_name: str) -> None:
    event = parsed_json(made.HTTP_EVENTS[name](**REQUESTS[request_name]))
    assert of_this_package(event) == of_mangum(event)[0]


@pytest.mark.parametrize("name", ["rest_v1", "http_v1", "http_v2"])
def test_a_request_of_a_stage_means_the_same(name: str) -> None:
    event = parsed_json(made.HTTP_EVENTS[name](stage="stage"))
    assert of_this_package(event) == of_mangum(event)[0]


def receive_of(form: Form, response: dict[str, Any]) -> Received:
    """The response as its client receives it, with repeated headers as one."""
    if form in (Form.ALB, Form.ALB_MULTI_VALUE):
        response.setdefault("statusDescription", "")
    status, headers, body = receive(form, json.dumps(response).encode())
    values = by_name(headers)
    joined = [
        (name, value)
        for name, each in values.items()
        for value in (sorted(each) if name == "set-cookie" else [",".join(each).replace(", ", ",")])
    ]
    return Received(status, sorted(joined), body)


RESPONSES: dict[str, tuple[int, list[Header], bytes]] = {
    "text": (200, [(b"content-type", b"text/plain; charset=utf-8")], "é".encode()),
    "json": (201, [(b"Content-Type", b"application/json")], b'{"a": "\\u00e9"}'),
    "xml": (200, [(b"content-type", b"application/xml")], b"<a/>"),
    "json api": (200, [(b"content-type", b"application/vnd.api+json")], b"{}"),
    "openapi": (200, [(b"content-type", b"application/vnd.oai.openapi")], b"a: 1"),
    "javascript": (200, [(b"content-type", b"application/javascript")], b"x"),
    "binary": (200, [(b"content-type", b"image/png")], bytes(range(256))),
    "text that is not utf-8": (200, [(b"content-type", b"text/plain")], b"\xff"),
    "empty": (404, [(b"content-type", b"text/plain")], b""),
    "one cookie": (302, [(b"content-type", b"text/plain"), (b"set-cookie", b"a=1")], b""),
    "cookies": (
        200,
        [(b"content-type", b"text/plain"), (b"set-cookie", b"a=1"), (b"Set-Cookie", b"b=2")],
        b"",
    ),
    "repeated": (200, [(b"content-type", b"text/plain"), (b"vary", b"a"), (b"Vary", b"b")], b""),
    "utf-8 in a header": (200, [(b"content-type", b"text/plain"), (b"x-a", "é".encode())], b""),
}


@EACH
@pytest.mark.parametrize("response_name", RESPONSES)
def test_a_response_means_the_same(name: str, response_name: str) -> None:
    status, headers, body = RESPONSES[response_name]
    event = parsed_json(made.HTTP_EVENTS[name]())
    form = find_form(event)
    assert form is not None
    theirs = of_mangum(event, status, headers, body)[1]
    ours = json.loads(encode_response(form, status, headers, body, frozenset()))
    assert ours["isBase64Encoded"] is theirs["isBase64Encoded"]
    assert receive_of(form, ours) == receive_of(form, theirs)


NAMES = st.text("abcXYZ019", min_size=1, max_size=6).map(
    lambda name: f"x-name-{name.lower()}"  # with more than five spellings: see above
)
VALUES = st.text(
    st.characters(min_codepoint=33, exclude_characters="\x7f,", exclude_categories=["Cs", "Z"]),
    max_size=8,
)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@settings(max_examples=examples(120), deadline=None)
@given(
    st.sampled_from(sorted(made.HTTP_EVENTS)),
    st.dictionaries(NAMES, VALUES, max_size=3),
    st.dictionaries(WORDS, WORDS, max_size=3),
    st.binary(max_size=12),
    st.integers(200, 599),
    st.lists(st.tuples(NAMES | st.just("set-cookie"), VALUES), max_size=5),
)
def test_any_exchange_means_the_same(
    name: str,
    headers: dict[str, str],
    query: dict[str, str],
    body: bytes,
    status: int,
    fields: list[tuple[str, str]],
) -> None:
    event = parsed_json(
        made.HTTP_EVENTS[name](
            method="POST", headers=list(headers.items()), query=urlencode(query), body=body
        )
    )
    form = find_form(event)
    assert form is not None
    answer = [(key.encode(), value.encode()) for key, value in fields]
    answer.append((b"content-type", b"application/octet-stream"))
    seen, theirs = of_mangum(event, status, answer, body)
    assert of_this_package(event) == seen
    ours = json.loads(encode_response(form, status, answer, body, frozenset()))
    assert receive_of(form, ours) == receive_of(form, theirs)
