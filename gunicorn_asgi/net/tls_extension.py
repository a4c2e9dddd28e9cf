"""What the ``tls`` extension says of a connection (ASGI statements 137 to 144; the specification's version 0.2)."""

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
"""RFC 4514, 3: the short names of what OpenSSL calls otherwise."""


def describe(tls: ssl.SSLObject) -> dict[str, Any]:
    """The extension for a connection whose handshake is done.

    CPython cannot know which certificate of its own was shown (a context may have several), so ``server_cert`` is None. A client whose certificate is
    not good gets no connection, so there is never a ``client_cert_error``.
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
    """The client's certificate first, behind it what leads to an authority, where CPython tells (3.13)."""
    leaf = tls.getpeercert(binary_form=True)
    if leaf is None:
        return []
    whole = getattr(tls, "get_verified_chain", None)
    chain = whole() if whole is not None else []
    return [ssl.DER_cert_to_PEM_cert(certificate) for certificate in chain or [leaf]]


@lru_cache(maxsize=16)
def _suites(context: ssl.SSLContext) -> dict[str, int]:
    """OpenSSL's names of cipher suites to IANA's numbers."""
    return {cipher["name"]: cipher["id"] & 0xFFFF for cipher in context.get_ciphers()}


def _name(certificate: Any) -> str | None:
    """The subject as RFC 4514 writes it: the most specific part first. None where the certificate was not looked at."""
    if not certificate:
        return None
    names = certificate.get("subject", ())
    return ",".join(
        "+".join(f"{ATTRIBUTE_TYPES.get(type_, type_)}={_escape(value)}" for type_, value in name)
        for name in reversed(names)
    )


def _escape(value: str) -> str:
    """RFC 4514, 2.4."""
    escaped = "".join(
        "\\" + char if char in '"+,;<>\\' else "\\00" if char == "\0" else char for char in value
    )
    if value[1:].endswith(" "):  # a single space is the first
        escaped = escaped[:-1] + "\\ "
    return "\\" + escaped if value[:1] in (" ", "#") else escaped
