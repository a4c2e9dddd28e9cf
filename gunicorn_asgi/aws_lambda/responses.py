"""Pure: responses in the form of each gateway of AWS Lambda.

The documentation is that of `events`, in the parts about the output of a function.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

from ..errors import ApplicationError
from ..http.grammar import Header
from .events import Form

MAX_RESPONSE = 6 * 1024 * 1024
"""Bytes of JSON of a buffered response (AWS: "Lambda quotas", invocation payload)."""
MAX_ALB_RESPONSE = 1024 * 1024
"""The same for a load balancer: "The maximum size of the response JSON"."""

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers of one connection (RFC 9110, 7.6.1). A gateway has its own, and may fail on others."""

TEXT_TYPES = frozenset(
    {
        "application/ecmascript",
        "application/graphql",
        "application/javascript",
        "application/json",
        "application/json-seq",
        "application/jsonl",
        "application/jsonlines",
        "application/ndjson",
        "application/sql",
        "application/toml",
        "application/vnd.oai.openapi",
        "application/x-javascript",
        "application/x-ndjson",
        "application/x-sh",
        "application/x-www-form-urlencoded",
        "application/x-yaml",
        "application/xml",
        "application/xml-dtd",
        "application/yaml",
    }
)
"""Media types that are text, besides ``text/*``."""
TEXT_SUFFIXES = ("+json", "+json-seq", "+xml", "+yaml")
"""Structured syntax suffixes that are text (RFC 6839, 9512)."""
CHARSET = re.compile(r';[ \t]*charset[ \t]*=[ \t]*"?([^";,\s]*)', re.IGNORECASE)
COMPATIBLE_CHARSETS = frozenset({"", "ascii", "us-ascii", "utf-8", "utf8"})
"""Character encodings whose text is UTF-8 as well."""

SET_COOKIE = "set-cookie"
MAX_SPELLINGS = 2 ** sum(map(str.isalpha, SET_COOKIE))
"""Names that differ from SET_COOKIE in their case only."""

Fields = list[tuple[str, str]]


def encode_response(
    form: Form, status: int, headers: Iterable[Header], body: bytes, text_types: Container[str]
) -> bytes:
    """Encode a buffered response as JSON. `headers` are checked.

    `text_types`: further media types that are text. Raises ApplicationError if the JSON is longer
    than the gateway takes.
    """
    fields = _decode_fields(headers)
    is_text = _is_text(fields, body, text_types)
    response = {
        "statusCode": status,
        **_head(form, status, fields),
        "body": body.decode() if is_text else base64.b64encode(body).decode(),
        "isBase64Encoded": not is_text,
    }
    encoded = _encode_json(response)
    if len(encoded) > max_body(form):
        raise too_large(form, len(encoded))
    return encoded


def encode_prelude(form: Form, status: int, headers: Iterable[Header]) -> bytes:
    """Encode the head of a streamed response: JSON, and eight NUL before the body.

    A load balancer cannot stream, so `form` is V1 or V2.
    """
    fields = _decode_fields(headers)
    return _encode_json({"statusCode": status, **_head(form, status, fields)}) + bytes(8)


def max_body(form: Form) -> int:
    """Return the limit on a response's JSON in bytes. No longer body can be in it."""
    return MAX_ALB_RESPONSE if form in (Form.ALB, Form.ALB_MULTI_VALUE) else MAX_RESPONSE


def too_large(form: Form, size: int) -> ApplicationError:
    """Return the error for a response of `size` bytes, so far or as JSON."""
    limit = max_body(form)
    if limit == MAX_ALB_RESPONSE:
        return ApplicationError(
            f"a response behind a load balancer may have at most {limit} bytes as JSON on AWS "
            f"Lambda, and this one has {size} or more"
        )
    return ApplicationError(
        f"a buffered response may have at most {limit} bytes as JSON on AWS Lambda, and this one "
        f"has {size} or more: stream it with lambda_response_mode = streaming"
    )


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _encode_json(value: Mapping[str, Any]) -> bytes:
    # Text in UTF-8 is never longer than with escapes, and the limits count bytes.
    return _ENCODER.encode(value).encode()


def _decode_fields(headers: Iterable[Header]) -> Fields:
    """Return names in lower case, and values, as text. HOP_BY_HOP headers are left out."""
    fields = [(bytes(name).decode("latin-1").lower(), _decode(value)) for name, value in headers]
    return [field for field in fields if field[0] not in HOP_BY_HOP]


def _decode(value: bytes) -> str:
    content = bytes(value)  # or a bytearray of the application
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")  # RFC 9110, 5.5: the historical encoding


def _head(form: Form, status: int, fields: Fields) -> dict[str, Any]:
    """Return the parts of a response with its header fields, in the place that `form` wants."""
    if form is Form.V2:
        cookies = [value for name, value in fields if name == SET_COOKIE]
        others = [field for field in fields if field[0] != SET_COOKIE]
        # The gateway's own separator in requests.
        head: dict[str, Any] = {"headers": _join(others, ",")}
        return head | {"cookies": cookies} if cookies else head
    if form is Form.V1:
        values = _gather(fields)
        head = {"headers": {name: each[0] for name, each in values.items() if len(each) == 1}}
        repeated = {name: each for name, each in values.items() if len(each) > 1}
        return head | {"multiValueHeaders": repeated} if repeated else head
    description = {"statusDescription": f"{status} {_phrase(status)}".rstrip()}
    if form is Form.ALB_MULTI_VALUE:
        return description | {"multiValueHeaders": _gather(fields)}
    return description | {"headers": _join(_spell_cookies(fields), ", ")}


def _gather(fields: Fields) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value)
    return values


def _join(fields: Fields, separator: str) -> dict[str, str]:
    """Return one value for each name (RFC 9110, 5.3)."""
    return {name: separator.join(values) for name, values in _gather(fields).items()}


def _spell_cookies(fields: Fields) -> Fields:
    """Give each cookie a name of its own, by its case.

    They cannot be joined (RFC 9110, 5.3), and an object has each name once.
    """
    spelled: Fields = []
    count = 0
    for name, value in fields:
        spelling = name
        if name == SET_COOKIE:
            spelling = _spell(count)
            count += 1
        spelled.append((spelling, value))
    if count > MAX_SPELLINGS:
        raise ApplicationError(
            f"a load balancer without multi-value headers takes at most {MAX_SPELLINGS} set-cookie "
            f"headers, not {count}"
        )
    return spelled


def _spell(number: int) -> str:
    """Return SET_COOKIE in another case for each `number` below MAX_SPELLINGS."""
    characters = []
    for character in SET_COOKIE:
        if character.isalpha():
            number, is_upper = divmod(number, 2)
            characters.append(character.upper() if is_upper else character)
        else:
            characters.append(character)
    return "".join(characters)


def _phrase(status: int) -> str:
    from http import HTTPStatus  # noqa: PLC0415 # for load balancers only, and slow to make

    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _is_text(fields: Fields, body: bytes, text_types: Container[str]) -> bool:
    """Whether the body goes out as a string of JSON. Otherwise it is base64.

    A REST API hands a string on as it is, but may leave base64 encoded, by its own settings.
    """
    values = _join(fields, ",")
    coding = values.get("content-encoding", "").strip(" \t").lower()
    if body and coding not in ("", "identity"):
        return False
    content_type = values.get("content-type")
    if body and content_type is not None:
        media_type = content_type.partition(";")[0].strip(" \t").lower()
        if not (_is_text_type(media_type) or media_type in text_types):
            return False
        charset = CHARSET.search(content_type)
        if charset is not None and charset[1].lower() not in COMPATIBLE_CHARSETS:
            return body.isascii()
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_text_type(media_type: str) -> bool:
    return (
        media_type.startswith("text/")
        or media_type in TEXT_TYPES
        or media_type.endswith(TEXT_SUFFIXES)
    )
