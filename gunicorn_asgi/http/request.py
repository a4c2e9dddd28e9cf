"""Pure: the meaning of a request in every version of HTTP, and the common reasons to refuse it.

The rules for one kind of peer, the method, the path, the host, and a trusted proxy's headers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any, Literal, Protocol
from urllib.parse import unquote_to_bytes

from ..errors import RequestError
from ..frozen import Frozen, computed
from .forwarded import NOTHING, ForwardedInfo, Node, client_element, read_list
from .grammar import TOKEN, Header
from .memory import Memory

UNDERSCORE, PERCENT = ord("_"), ord("%")
"""As numbers: `in` finds a byte in bytes ten times faster than bytes of length 1."""

UNKNOWN_LENGTH = -1
"""``Fields.length`` of a body without a declared length."""

UNCONVENTIONAL_CHARACTER = re.compile(rb"[a-z#]")
# RFC 3986, 3.2.2 and 3.2.3, without userinfo, which RFC 9110, 4.2.4, forbids. ipaddress checks the
# content of brackets.
AUTHORITY = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]+)\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::(\d{0,5}))?"
)

MAX_HOST = 262
"""Bytes of the longest host name, with its port (RFC 1035, 2.3.4)."""
MAX_LINE = 65536
"""Bytes of the longest request line if ``limit_request_line`` is 0: memory always has a bound."""


MAX_KNOWN_SECTIONS = 256
"""Entries of a generation of `Rules.known_sections`."""
MAX_KNOWN_LINES = 40
"""Lines of the longest section there: more than a browser and its proxies send. So all sections of
one kind of peer take less than 16 MB, if a client wants to fill the memory, and mostly 1 MB."""

Pattern = tuple["Header | None", ...]
"""A field section: the fields of its remembered lines, and None for each other line."""


KnownSection = tuple["Fields", "list[Header]", "list[int]", "bytes | None"]
"""The meaning of a section's remembered lines, those of a proxy among them, the places of the
other lines, and the host that a trusted proxy has named in the remembered lines, or None. Fields in
the places of other lines meant nothing to the server itself, at that time."""


class FieldReader(Protocol):
    """Reads the field lines of HTTP/1.x: see `http1.field_lines.FieldLines`."""

    def match(self, lines: Sequence[bytes]) -> Pattern: ...

    def should_read(self, lines: Sequence[bytes]) -> bool: ...

    def parse(self, lines: Sequence[bytes]) -> list[Header]: ...

    def read(self, lines: Sequence[bytes], pattern: Pattern) -> tuple[list[Header], Pattern]: ...


class Rules(Frozen):
    """The rules for requests of one kind of peer: Gunicorn's settings, and the peer's trust."""

    field_lines: FieldReader
    """The reader of field lines in HTTP/1.x: see `http1.field_lines`."""
    limit_line: int
    """``limit_request_line`` in bytes without the line's end."""
    limit_fields: int
    """``limit_request_fields``."""
    limit_field_size: int
    """``limit_request_field_size`` in bytes with the line's end."""
    header_map: Literal["drop", "refuse", "dangerous"]
    permit_unconventional_method: bool
    secure_scheme: Mapping[bytes, bytes]
    """From a trusted peer: field names, each with its value for https. Otherwise empty."""
    forwarder_names: Container[bytes]
    """From a trusted peer: names with an underscore that `header_map` does not affect."""
    script_name: bytes | None = None
    """``SCRIPT_NAME`` of the environment. It applies to every peer."""
    h2c: Literal["off", "prior-knowledge", "upgrade", "both"] = "off"
    """From a trusted peer: the ways to begin HTTP/2 without TLS (``http2_cleartext``)."""
    takes_script_name: bool = False
    """From a trusted peer: a header ``SCRIPT_NAME`` replaces `script_name`."""
    takes_request_start: bool = False
    """From a trusted peer: its X-Request-Start counts, see `observe.request_wait`."""
    read_proxy: Callable[[Sequence[Header]], ForwardedInfo] | None = None
    """From a trusted peer: the reader of its headers about its client."""
    host_name: Literal[b"", b"x-forwarded-host", b"forwarded"] = b""
    """From a trusted peer: the header whose host replaces ``host``, if there is one."""
    has_lists: bool = False
    """From a trusted peer: all proxies append to lists (``forwarded_lists``)."""
    health_path: bytes = b""
    """The option: the server answers it also where it is outside of `script_name`."""
    proxy_names: frozenset[bytes] = computed(init=False)
    """The names of all these headers, so that requests without them cost nothing."""
    known_sections: Mapping[str, Memory[Pattern, KnownSection]] = computed(init=False)
    """For each version of HTTP/1.x: field sections whose remembered lines had the same fields."""

    def compute(self) -> Mapping[str, Any]:
        names = set(self.secure_scheme)
        if self.takes_script_name:
            names.add(b"script_name")
        if self.read_proxy is not None:
            names |= {b"x-forwarded-for", b"forwarded"}
        if self.host_name:
            names.add(self.host_name)
        known: dict[str, Memory[Pattern, KnownSection]] = {
            version: Memory(MAX_KNOWN_SECTIONS) for version in ("1.0", "1.1")
        }
        return {"proxy_names": frozenset(names), "known_sections": known}


class Fields:
    """A checked field section and its meaning.

    Equal requests of a connection share it, so it never changes once it is read.
    """

    __slots__ = (
        "client",
        "expect_continue",
        "form",
        "h2c",
        "headers",
        "keep_alive",
        "length",
        "root_path",
        "scheme",
        "script_name",
        "section",
        "upgrade",
        "version",
    )

    def __init__(self, section: bytes, version: str, headers: list[Header]) -> None:
        self.section = section
        """``HTTP/1.x CRLF fields CRLF CRLF`` as received; empty for HTTP/2."""
        self.form: Any = None
        """The `http1.section_form.SectionForm` of the section, if the next one probably has it."""
        self.version = version
        self.headers = headers
        self.length = 0
        """Bytes of the body, or UNKNOWN_LENGTH. 0: there is no body."""
        self.keep_alive = True
        self.expect_continue = False
        self.upgrade: Literal["", "websocket", "h2c"] = ""
        """The protocol that the client asks for: a WebSocket's handshake, or HTTP/2."""
        self.h2c = b""
        """The client's SETTINGS if `upgrade` is h2c."""
        self.scheme: str | None = None
        """The scheme of the client's connection, from a trusted proxy, or None."""
        self.client: Node | None = None
        """The client's address, from a trusted proxy, or None."""
        self.script_name: bytes | None = None
        """The required beginning of the path, or None.

        Gunicorn's ``SCRIPT_NAME``, from a trusted proxy or the environment.
        """
        self.root_path: str | None = None
        """`script_name` in ASGI's form: decoded, without a slash at its end."""

    def with_section(self, section: bytes, headers: list[Header], form: Any) -> Fields:
        """Return a copy for another field section with the same meaning."""
        own = Fields.__new__(Fields)  # `__init__` would set everything twice
        own.section = section
        own.version = self.version
        own.headers = headers
        own.form = form
        own.length = self.length
        own.keep_alive = self.keep_alive
        own.expect_continue = self.expect_continue
        own.upgrade = self.upgrade
        own.h2c = self.h2c
        own.scheme = self.scheme
        own.client = self.client
        own.script_name = self.script_name
        own.root_path = self.root_path
        return own

    def with_host(self, authority: bytes) -> Fields:
        """Return a copy with `authority` as its host, in the first place."""
        own = self.with_headers(
            [(b"host", authority), *(field for field in self.headers if field[0] != b"host")]
        )
        own.length, own.keep_alive, own.expect_continue = (
            self.length,
            self.keep_alive,
            self.expect_continue,
        )
        own.upgrade, own.h2c = self.upgrade, self.h2c
        return own

    def with_headers(self, headers: list[Header]) -> Fields:
        """Return fields with `headers`, and with the same client, for a request without a body."""
        own = Fields(b"", self.version, headers)
        own.scheme, own.client, own.script_name, own.root_path = (
            self.scheme,
            self.client,
            self.script_name,
            self.root_path,
        )
        return own


Request = tuple[str, str, bytes, bytes, "Fields"]
"""(method, path, raw_path, query_string, fields). A tuple, because every request makes one."""


METHODS = {
    name.encode(): name
    for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
}


def decode_path(raw_path: bytes) -> str:
    """Percent-decode a path, then decode it as UTF-8 (docs/asgi.md, 24 and 25).

    Invalid UTF-8 becomes U+FFFD.
    """
    if PERCENT in raw_path:
        return unquote_to_bytes(raw_path).decode("utf-8", "replace")
    return raw_path.decode("ascii")


def read_method(verb: bytes, rules: Rules) -> str:
    """Check a method outside METHODS by Gunicorn's ``permit_unconventional_http_method``."""
    if TOKEN.fullmatch(verb) is None:
        raise RequestError(400, "Invalid HTTP method: not a token")
    if not rules.permit_unconventional_method and (
        UNCONVENTIONAL_CHARACTER.search(verb) or not 3 <= len(verb) <= 20
    ):
        raise RequestError(400, f"Invalid HTTP method {verb.decode()!r}")
    if verb.upper() == b"CONNECT":
        # RFC 9110, 9.3.6: CONNECT is for proxies. 9.1: a method that an origin server does not
        # implement is answered with 501.
        raise RequestError(501, "CONNECT is not implemented")
    # The scope has upper case (docs/asgi.md, 22). So `casefold_http_method` changes nothing here.
    return verb.decode().upper()


PLAIN_TARGET = bytes(byte for byte in range(0x21, 0x7F) if byte != ord("#"))
"""Characters of a target that `check_target` never refuses: visible ones of ASCII, except ``#``."""


def check_target(target: str) -> None:
    """Raise RequestError for a character that is wrong in every form of a request target.

    RFC 9112, 3.2; RFC 3986, 3.5 and 4.3.
    """
    if not (target.isascii() and target.isprintable()):
        raise RequestError(400, "Invalid request target: not printable ASCII")
    if "#" in target:
        raise RequestError(
            400, "Invalid request target: it has a fragment, or a '#' that is not encoded as %23"
        )
    if " " in target:
        raise RequestError(400, "Invalid request target: it has a space")


def may_be_health_check(method: str, fields: Fields) -> bool:
    """Whether the server itself answers a request of ``health_path``."""
    return method in ("GET", "HEAD") and fields.upgrade != "websocket"


def check_path(method: str, raw_path: bytes, fields: Fields, rules: Rules) -> None:
    """Raise RequestError if the path of a request does not begin with ``SCRIPT_NAME``."""
    if (
        fields.script_name
        and not raw_path.startswith(fields.script_name)
        and not (raw_path == rules.health_path and may_be_health_check(method, fields))
    ):
        # Gunicorn's ConfigurationProblem, and its status: the settings of server and proxy do not
        # fit together.
        raise RequestError(
            500,
            f"The path does not begin with SCRIPT_NAME {fields.script_name.decode('latin-1')!r}",
        )


def join_cookies(headers: list[Header]) -> list[Header]:
    """Return `headers` with one cookie field in place of several, where the first of them is.

    A client may split its cookie field so that it compresses better. RFC 9113, 8.2.3: the parts
    "MUST be concatenated into a single octet string using the two-octet delimiter of 0x3b, 0x20"
    before a generic application sees them.
    """
    parts = [value for name, value in headers if name == b"cookie"]
    if len(parts) < 2:
        return headers
    place = headers.index((b"cookie", parts[0]))
    others = [field for field in headers if field[0] != b"cookie"]
    # Without empty parts, which have no cookie: no value may end in white space.
    return [*others[:place], (b"cookie", b"; ".join(filter(None, parts))), *others[place:]]


def map_underscores(fields: Fields, rules: Rules) -> None:
    """Apply Gunicorn's ``header_map`` to headers whose name has an underscore.

    Raises RequestError.
    """
    if rules.header_map != "dangerous":
        fields.headers = _map_underscores(fields.headers, rules)


def read_proxied(fields: Fields, rules: Rules, proxied: list[Header]) -> None:
    """Read a trusted proxy's headers. Raises RequestError.

    `proxied`: the request's headers with names in ``rules.proxy_names``, in their order.
    """
    if proxied:
        client, scheme, host, hops = rules.read_proxy(proxied) if rules.read_proxy else NOTHING
        fields.client = client
        fields.scheme = _read_scheme(proxied, rules, fields.upgrade, scheme, hops)
        if rules.host_name:
            fields.headers = put_host(fields.headers, _read_host(proxied, rules, host, hops))
    if proxied or rules.script_name is not None:
        _read_script_name(fields, rules, proxied)


def replace_host(fields: Fields, rules: Rules) -> None:
    """Put the host that a trusted proxy has named into `fields`. Raises RequestError."""
    proxied = [header for header in fields.headers if header[0] in rules.proxy_names]
    fields.headers = put_host(fields.headers, read_host(proxied, rules))


def read_host(proxied: Sequence[Header], rules: Rules) -> bytes | None:
    """Return the host that a trusted proxy has named, or None. Raises RequestError."""
    if not rules.host_name:
        return None
    _, _, host, hops = rules.read_proxy(proxied) if rules.read_proxy else NOTHING
    return _read_host(proxied, rules, host, hops)


def put_host(headers: list[Header], host: bytes | None) -> list[Header]:
    """Return `headers` with another host, in its place or at the end; unchanged if it is None."""
    if host is None:
        return headers
    for index, (name, _) in enumerate(headers):
        if name == b"host":
            return [*headers[:index], (name, host), *headers[index + 1 :]]
    return [*headers, (b"host", host)]  # HTTP/1.0 allows requests without a host


def _map_underscores(headers: list[Header], rules: Rules) -> list[Header]:
    """Apply Gunicorn's ``header_map``.

    ``X_Forwarded_For`` and ``X-Forwarded-For`` are the same key in a CGI-like environment.
    """
    kept = []
    for name, value in headers:
        if UNDERSCORE not in name or name in rules.forwarder_names or b"*" in rules.forwarder_names:
            kept.append((name, value))
        elif rules.header_map == "refuse":
            raise RequestError(
                400, f"Invalid HTTP header name {name.decode('latin-1')!r}: it has an underscore"
            )
    return kept


def _read_script_name(fields: Fields, rules: Rules, proxied: Sequence[Header]) -> None:
    script_name = rules.script_name
    if rules.takes_script_name:
        for header in proxied:
            # The last one counts, as in Gunicorn. `header_map` may have removed it.
            if header[0] == b"script_name" and header in fields.headers:
                script_name = header[1]
    if script_name is not None:
        fields.script_name = script_name
        fields.root_path = unquote_to_bytes(script_name.rstrip(b"/")).decode("utf-8", "replace")


def check_authority(authority: bytes) -> None:
    """Raise RequestError unless `authority` is ``host [":" port]``.

    RFC 9110, 7.2; RFC 3986, 3.2.2 and 3.2.3.
    """
    if len(authority) <= MAX_HOST:
        _check_authority(authority)
    else:
        # Too long for a host name: the cache would have no bound on its bytes.
        _check_authority.__wrapped__(authority)


@lru_cache(maxsize=1024)
def _check_authority(authority: bytes) -> None:
    match = AUTHORITY.fullmatch(authority)
    if (
        match is None
        or int(match[2] or 0) > 65535
        or (match[1] is not None and not _is_ipv6(match[1]))
    ):
        raise RequestError(400, "Invalid Host: not a host with an optional port")


def _is_ipv6(address: bytes) -> bool:
    try:
        IPv6Address(address.decode())
    except ValueError:
        return False
    return True


def read_expect(values: Sequence[bytes]) -> None:
    """Raise RequestError for any expectation except ``100-continue`` (RFC 9110, 10.1.1)."""
    if any(value.lower() != b"100-continue" for value in values):
        raise RequestError(417, "Expect other than 100-continue")


def takes_trailers(headers: Sequence[Header]) -> bool:
    """True if the client accepts trailers in the response (RFC 9110, 10.1.4)."""
    return any(
        name == b"te"
        and b"trailers" in [member.strip(b" \t") for member in value.lower().split(b",")]
        for name, value in headers
    )


def _read_scheme(
    proxied: Sequence[Header],
    rules: Rules,
    upgrade: str,
    forwarded: str | None,
    hops: int | None,
) -> str | None:
    """Read Gunicorn's ``secure_scheme_headers``. Raises RequestError if two of them disagree.

    `forwarded`, the scheme in ``Forwarded``, counts as one more. A repeated line is one more, too:
    as a part of a list, it could be the client's.
    """
    schemes = set() if forwarded is None else {forwarded}
    for name, value in proxied:
        secure = rules.secure_scheme.get(name)
        if secure is not None:
            is_secure = value == secure or _is_secure(value, secure, rules, upgrade, hops)
            schemes.add("https" if is_secure else "http")
    if len(schemes) > 1:
        raise RequestError(400, "Contradictory scheme headers")
    return schemes.pop() if schemes else None


def _is_secure(value: bytes, secure: bytes, rules: Rules, upgrade: str, hops: int | None) -> bool:
    """Return whether a list, or a value in another case, means https.

    A list does if all its elements do: no proxy denies it then, and no client can choose it.
    """
    elements = read_list(value.lower())
    if rules.has_lists and (element := client_element(elements, hops)) is not None:
        elements = [element]
    secure_values = {secure.lower()}
    if upgrade == "websocket" and b"https" in secure_values:
        secure_values.add(b"wss")  # Traefik's scheme of a handshake
    return bool(elements) and secure_values.issuperset(elements)


def _read_host(
    proxied: Sequence[Header], rules: Rules, forwarded: str | None, hops: int | None
) -> bytes | None:
    """Return the valid host that the proxy has named, or None. Raises RequestError.

    The last element of a list is from the nearest proxy that has written one, never from a client
    in front of it.
    """
    if rules.host_name == b"forwarded":
        hosts = {forwarded.encode("latin-1")} if forwarded else set()
    else:
        hosts = set()
        for name, value in proxied:
            if name == rules.host_name and (elements := read_list(value)):
                element = client_element(elements, hops) if rules.has_lists else None
                hosts.add(element or elements[-1])
    if len(hosts) > 1:
        raise RequestError(400, "Contradictory X-Forwarded-Host header fields")
    for host in hosts:
        try:
            check_authority(host)
        except RequestError:
            header = "Forwarded" if rules.host_name == b"forwarded" else "X-Forwarded-Host"
            raise RequestError(
                400, f"Invalid host in {header}: not a host with an optional port"
            ) from None
        return host
    return None
