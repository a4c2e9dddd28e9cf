"""The ``tls`` extension of a connection's scope (docs/asgi.md, 137 to 144; tls.rst 0.2)."""

from __future__ import annotations

import ssl
from functools import lru_cache
from typing import Any

TLS_VERSIONS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
ATTRIBUTE_TYPES = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
"""RFC 4514, 3: OpenSSL's names of attribute types, with their short names."""


def describe(tls: ssl.SSLObject) -> dict[str, Any]:
    """Return the extension for a connection after its handshake.

    ``server_cert`` is None: a context may have several certificates, and CPython does not tell the
    one in use. ``client_cert_error`` is None: a client with an invalid certificate gets no
    connection.
    """
    cipher = tls.cipher()
    chain = _chain(tls)
    return {
        "server_cert": None,
        "client_cert_chain": chain,
        "client_cert_name": _name(tls.getpeercert()) if chain else None,
        "client_cert_error": None,
        "tls_version": TLS_VERSIONS.get(tls.version() or ""),
        "cipher_suite": _suites(tls.context).get(cipher[0]) if cipher else None,
    }


def _chain(tls: ssl.SSLObject) -> list[str]:
    """Return the client's certificate, and from Python 3.13 on its chain up to an authority."""
    leaf = tls.getpeercert(binary_form=True)
    if leaf is None:
        return []
    whole = getattr(tls, "get_verified_chain", None)
    chain = whole() if whole is not None else []
    return [ssl.DER_cert_to_PEM_cert(certificate) for certificate in chain or [leaf]]


@lru_cache(maxsize=16)
def _suites(context: ssl.SSLContext) -> dict[str, int]:
    """Map OpenSSL's names of cipher suites to IANA's numbers."""
    return {cipher["name"]: cipher["id"] & 0xFFFF for cipher in context.get_ciphers()}


def _name(certificate: Any) -> str | None:
    """Write the subject by RFC 4514: the most specific part first. None if it was not verified."""
    if not certificate:
        return None
    names = certificate.get("subject", ())
    return ",".join(
        "+".join(f"{ATTRIBUTE_TYPES.get(type_, type_)}={_escape(value)}" for type_, value in name)
        for name in reversed(names)
    )


def _escape(value: str) -> str:
    """Escape a value (RFC 4514, 2.4)."""
    escaped = "".join(
        "\\" + char if char in '"+,;<>\\' else "\\00" if char == "\0" else char for char in value
    )
    if value[1:].endswith(" "):  # a single space is escaped as the first character
        escaped = escaped[:-1] + "\\ "
    return "\\" + escaped if value[:1] in (" ", "#") else escaped
