"""Pure: the head of an HTTP/1.x request, from bytes to its meaning, and every reason to refuse it.

The same code serves every field parser, so that two parsers cannot read a request differently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

from ..errors import RequestError
from ..http.grammar import CONTENT_LENGTH, Header
from ..http.request import (
    MAX_KNOWN_LINES,
    METHODS,
    PLAIN_TARGET,
    UNDERSCORE,
    UNKNOWN_LENGTH,
    Fields,
    KnownSection,
    Pattern,
    Request,
    Rules,
    check_authority,
    check_path,
    check_target,
    decode_path,
    map_underscores,
    put_host,
    read_expect,
    read_host,
    read_method,
    read_proxied,
    replace_host,
)
from .section_form import SectionForm
from .upgrade import asks_for_websocket, read_h2c

TOKEN_BYTES = frozenset(
    b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)
VERSION_PATTERN = re.compile(rb"HTTP/\d\.\d")
ABSOLUTE_FORM = re.compile(rb"(?i:https?)://([^/?#]*)([^?#]*)(\?[^#]*)?")


def read_head(head: bytes, last: Fields | None, rules: Rules) -> Request:
    """Read one whole head, including the empty line. Raises RequestError.

    `last`: the fields of the connection's previous request.
    """
    try:
        verb, target, section = head.split(b" ", 2)
    except ValueError:
        raise RequestError(
            400, "Invalid request line: not a method, a target and a version"
        ) from None
    if len(verb) + len(target) + len(b"  HTTP/1.1") > rules.limit_line:
        raise RequestError(414, f"Request line is longer than {rules.limit_line} bytes")
    # Clients repeat themselves: equal bytes of a section have an equal meaning.
    if last is not None and section == last.section:
        fields = last
    else:
        fields = read_fields(section, last, rules)
    method = METHODS.get(verb) or read_method(verb, rules)
    # RFC 9112, 3.2: a target has one of four forms, all of printable ASCII, none with a fragment.
    text = target.decode("latin-1")
    if target.translate(None, PLAIN_TARGET):
        check_target(text)
    if not target.startswith(b"/"):
        return _read_other_form(method, target, fields, rules)
    raw_path, query = target, b""
    if "?" in text:
        raw_path, _, query = target.partition(b"?")
        text = text[: len(raw_path)]
    if fields.script_name:
        check_path(method, raw_path, fields, rules)
    return method, decode_path(raw_path) if "%" in text else text, raw_path, query, fields


def check_partial_head(data: bytearray, before: int, rules: Rules) -> None:
    """Raise RequestError for an incomplete head if no further bytes can make it valid.

    `before`: bytes that were checked already. This answers at once, not at the deadline, and
    bounds the memory by the limits for a head.
    """
    if data[0] not in TOKEN_BYTES and data != b"\r":
        raise RequestError(400, "Invalid request line: no method at its start")
    # RFC 9112, 2.2: every line ends with CRLF. After a bare LF the empty line would never come.
    if data.count(b"\n", before) != data.count(b"\r\n", max(0, before - 1)):
        raise RequestError(400, "Invalid HTTP header: a bare LF")
    line = data.rfind(b"\n") + 1
    length = len(data) - line
    if line == 0 and length > rules.limit_line + 1:
        raise RequestError(414, f"Request line is longer than {rules.limit_line} bytes")
    if line and length > rules.limit_field_size:
        raise RequestError(431, f"A header field is longer than {rules.limit_field_size} bytes")
    if len(data) > rules.limit_line + rules.limit_fields * rules.limit_field_size + 4:
        raise _too_many_fields(rules)


def refuse_number_of_lines(data: bytes, rules: Rules) -> NoReturn:
    """Raise RequestError for an incomplete head with more lines than are allowed.

    The reason is that of the whole head, whose request line may be invalid, too.
    """
    read_head(data[: data.rfind(b"\n") + 1] + b"\r\n", None, rules)
    raise _too_many_fields(rules)


def _too_many_fields(rules: Rules) -> RequestError:
    return RequestError(431, f"More than {rules.limit_fields} header fields")


def _read_other_form(method: str, target: bytes, fields: Fields, rules: Rules) -> Request:
    """Read a target in absolute-form or asterisk-form (RFC 9112, 3.2.2 and 3.2.4)."""
    if target == b"*" and method == "OPTIONS":
        return method, "*", b"*", b"", fields
    match = ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise RequestError(400, "Invalid request target: neither a path nor an absolute http URI")
    authority, raw_path, query = match.groups(b"")
    check_authority(authority)
    if not raw_path:
        # RFC 9112, 3.2.4: a proxy forwards OPTIONS for the whole server in absolute-form.
        raw_path = b"*" if method == "OPTIONS" and not query else b"/"
    if raw_path != b"*":
        check_path(method, raw_path, fields, rules)
    # RFC 9112, 3.2.2: the target's authority replaces the Host field.
    own = fields.with_host(authority)
    if rules.host_name:
        replace_host(own, rules)
    return method, decode_path(raw_path), raw_path, query[1:], own


def read_fields(section: bytes, last: Fields | None, rules: Rules) -> Fields:
    """Check and interpret a field section, ``HTTP/1.x CRLF fields CRLF CRLF``.

    `last`: the fields of the connection's previous request, for sections of the same form. Raises
    RequestError.
    """
    form = None if last is None else last.form
    if form is not None and len(section) <= rules.limit_field_size:
        new_lines = form.split(section)
        if new_lines is not None:
            return _fill(section, form.pattern, new_lines, form.known, rules, form)
    version = HTTP1_VERSIONS.get(section[:10])
    if version is None:
        _refuse_version(section)
    is_long = len(section) > rules.limit_field_size
    # To count takes a twentieth of the time to split. The end is two more lines.
    if is_long and section.count(b"\r\n") > rules.limit_fields + 2:
        raise _too_many_fields(rules)
    lines = section[10:-4].split(b"\r\n") if len(section) > len(NO_FIELDS) else []
    if len(lines) > rules.limit_fields:
        raise _too_many_fields(rules)
    if is_long:
        _check_field_sizes(lines, rules)
    pattern = rules.field_lines.match(lines)
    sections = rules.known_sections[version]
    known = sections.recent.get(pattern) or sections.recall(pattern)
    if known is None:
        return _learn_fields(section, lines, version, pattern, rules)
    new_lines = [lines[index] for index in known[2]]
    if new_lines and rules.field_lines.should_read(new_lines):
        return _learn_fields(section, lines, version, pattern, rules)
    form = None
    if last is not None and last.version == version and len(section) <= rules.limit_field_size:
        form = SectionForm.of(version, lines, pattern, known)
    return _fill(section, pattern, new_lines, known, rules, form)


def _fill(
    section: bytes,
    pattern: Pattern,
    lines: Sequence[bytes],
    known: KnownSection,
    rules: Rules,
    form: SectionForm | None,
) -> Fields:
    """Return the fields of a known section. `lines`: those in the places that the pattern leaves.

    Raises RequestError.
    """
    fields, proxied, missing, host = known
    headers: list[Header] = list(pattern)  # type: ignore[arg-type]  # each None is replaced
    if not missing:
        if host is not None:
            headers = put_host(headers, host)
        return fields.with_section(section, headers, form)
    new_proxied: list[Header] = []
    lengths: list[bytes] = []
    has_meaning, has_clients_only = False, True
    proxy_names = rules.proxy_names
    for index, header in zip(missing, rules.field_lines.parse(lines)):  # noqa: B905 # as many
        headers[index] = header
        name = header[0]
        if name == b"content-length":
            lengths.append(header[1])
        elif name in INTERPRETED_FIELDS or UNDERSCORE in name:
            has_meaning = True
        elif name in proxy_names:
            new_proxied.append(header)
            has_clients_only = has_clients_only and name == b"x-forwarded-for"
    if has_meaning or (lengths and fields.length):  # with Transfer-Encoding, it is refused
        return _interpret(section, fields.version, headers, rules)
    if host is not None:
        headers = put_host(headers, host)
    fields = fields.with_section(section, headers, form)
    if lengths:
        fields.length = _read_framing(lengths, (), fields.version)
    if new_proxied:
        if has_clients_only and rules.read_proxy is not None:
            # It has no scheme and no host: those of the remembered lines are right.
            fields.client = rules.read_proxy(new_proxied)[0]
        else:
            # No name is among both, except names of a scheme or host, whose order means nothing.
            read_proxied(fields, rules, proxied + new_proxied)
    return fields


def _learn_fields(
    section: bytes, lines: Sequence[bytes], version: str, pattern: Pattern, rules: Rules
) -> Fields:
    """Read fields, and remember the part of their meaning that other requests have, too."""
    headers, pattern = rules.field_lines.read(lines, pattern)
    fields = _interpret(section, version, headers, rules)
    for (name, _), remembered in zip(headers, pattern, strict=True):
        if remembered is None and (name in NEVER_SHARED or UNDERSCORE in name):
            return fields
    sections = rules.known_sections[version]
    if len(lines) <= MAX_KNOWN_LINES and sections.sample(1):
        known = [header for header in pattern if header is not None]
        missing = [index for index, header in enumerate(pattern) if header is None]
        proxied = [header for header in known if header[0] in rules.proxy_names]
        if rules.has_lists and any(b"," in value for _, value in proxied):
            return fields  # their meaning depends on X-Forwarded-For, which is never remembered
        shared = _interpret(b"", version, known, rules)
        sections.put(pattern, (shared, proxied, missing, read_host(proxied, rules)))
    return fields


def _interpret(section: bytes, version: str, headers: list[Header], rules: Rules) -> Fields:
    """Return the meaning of checked fields. Raises RequestError."""
    fields = Fields(section, version, headers)
    values: dict[bytes, list[bytes]] = {}
    has_underscore = False
    proxied: list[Header] = []
    proxy_names = rules.proxy_names
    for header in headers:
        name, value = header
        if name in INTERPRETED_FIELDS:
            values.setdefault(name, []).append(value)
        elif UNDERSCORE in name:
            has_underscore = True
        if name in proxy_names:
            proxied.append(header)
    if len(section) > rules.limit_field_size:
        _check_members(values)
    _check_host(values.get(b"host", ()), version)
    fields.length = _read_framing(
        values.get(b"content-length", ()), values.get(b"transfer-encoding", ()), version
    )
    fields.keep_alive = _read_connection(values.get(b"connection", ()), version)
    if b"expect" in values:
        read_expect(values[b"expect"])
        fields.expect_continue = version == "1.1" and fields.length != 0  # HTTP/1.0 has no 1xx
    if b"upgrade" in values:
        _read_upgrade(fields, values, rules)
    if has_underscore:
        map_underscores(fields, rules)
    if proxied or rules.script_name is not None:
        read_proxied(fields, rules, proxied)
    return fields


def _read_upgrade(fields: Fields, values: Mapping[bytes, Sequence[bytes]], rules: Rules) -> None:
    upgrades, connections = values[b"upgrade"], values.get(b"connection", ())
    if asks_for_websocket(upgrades, connections, fields.version):
        fields.upgrade = "websocket"
    elif rules.h2c in ("upgrade", "both") and fields.length == 0:
        settings = read_h2c(upgrades, connections, fields.version, fields.headers)
        if settings is not None:
            fields.upgrade, fields.h2c = "h2c", settings


HTTP1_VERSIONS = {b"HTTP/1.1\r\n": "1.1", b"HTTP/1.0\r\n": "1.0"}
NO_FIELDS = b"HTTP/1.1\r\n\r\n"
"""A field section without a field."""
INTERPRETED_FIELDS = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"http2-settings",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields that mean something to the server, whoever sends them."""
MAX_MEMBERS = 4096
"""Members of a list among them, about as many as one line can have. To read those of a hundred
lines would take 40 milliseconds."""
NEVER_SHARED = INTERPRETED_FIELDS - {b"content-length"}
"""Fields with which a section is not remembered, unless their line is. A length of its own adds to
the meaning of the others, and changes nothing in it: none of them depends on it but Expect."""

PREFACE_REASON = (
    "Invalid HTTP Version 'HTTP/2.0': HTTP/2 begins by ALPN, or without TLS as http2_cleartext "
    "says and for peers in forwarded_allow_ips only"
)
"""Most likely this is the preface of HTTP/2, and the operator has overlooked a setting."""


def _refuse_version(section: bytes) -> NoReturn:
    line, _, _ = section.partition(b"\r\n")
    if line == b"HTTP/2.0":
        raise RequestError(505, PREFACE_REASON)
    if VERSION_PATTERN.fullmatch(line):
        raise RequestError(
            505, f"Invalid HTTP Version {line.decode()!r}: only 1.0 and 1.1 are served"
        )
    if b" " in line:
        raise RequestError(400, "Invalid request line: more than a method, a target and a version")
    raise RequestError(400, "Invalid request line: no HTTP version at its end")


def _check_field_sizes(lines: Sequence[bytes], rules: Rules) -> None:
    for line in lines:
        if len(line) + 2 > rules.limit_field_size:
            raise RequestError(431, f"A header field is longer than {rules.limit_field_size} bytes")


def _check_members(values: Mapping[bytes, Sequence[bytes]]) -> None:
    for name, lines in values.items():
        if sum([line.count(b",") for line in lines]) > MAX_MEMBERS:
            raise RequestError(400, f"More than {MAX_MEMBERS} members in {name.decode()!r}")


def _check_host(hosts: Sequence[bytes], version: str) -> None:
    # RFC 9112, 3.2: 400 for HTTP/1.1 without Host, for a second Host, and for an invalid one.
    if len(hosts) > 1:
        raise RequestError(400, "More than one Host header field")
    if hosts:
        check_authority(hosts[0])
    elif version == "1.1":
        raise RequestError(400, "No Host header field")


def _read_framing(lengths: Sequence[bytes], codings: Sequence[bytes], version: str) -> int:
    """Return the length of the body, or UNKNOWN_LENGTH (RFC 9112, 6).

    Raises RequestError for any framing that two recipients could read differently.
    """
    if codings:
        return _read_codings(codings, lengths, version)
    if not lengths:
        return 0
    # RFC 9112, 6.3: a repeated length may be refused, even with equal values. Gunicorn and llhttp
    # do so, too.
    if len(lengths) > 1 or CONTENT_LENGTH.fullmatch(lengths[0]) is None:
        raise RequestError(400, "Invalid Content-Length: not one number of at most 18 digits")
    return int(lengths[0])


def _read_codings(values: Sequence[bytes], lengths: Sequence[bytes], version: str) -> int:
    if lengths:
        raise RequestError(400, "Both Transfer-Encoding and Content-Length")
    if version == "1.0":
        # RFC 9112, 6.1: the framing is faulty, for HTTP/1.0 has no Transfer-Encoding.
        raise RequestError(400, "Transfer-Encoding in HTTP/1.0")
    codings = [coding.strip(b" \t").lower() for value in values for coding in value.split(b",")]
    # RFC 9112, 6.1 and 7.1: chunked is applied once, and last. Otherwise the body has no known end.
    if b"" in codings or b"chunked" in codings[:-1]:
        raise RequestError(400, "Invalid Transfer-Encoding: chunked is not applied once and last")
    if codings != [b"chunked"]:
        raise RequestError(501, "Transfer-Encoding other than chunked is not implemented")
    return UNKNOWN_LENGTH


def _read_connection(values: Sequence[bytes], version: str) -> bool:
    """True if the client allows a further request (RFC 9112, 9.3). ``close`` wins in any place."""
    if not values:
        return version == "1.1"
    options = [option.strip(b" \t") for value in values for option in value.lower().split(b",")]
    if b"close" in options:
        return False
    return version == "1.1" or b"keep-alive" in options
