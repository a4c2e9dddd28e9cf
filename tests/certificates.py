"""Certificates for the tests, made with openssl: authorities, and certificates signed by them."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

P256 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
# From Python 3.13 on, a context is strict about what RFC 5280 demands of a chain.
AUTHORITY = ["-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"]
SIGNED = "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\nbasicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n"


class Pair(NamedTuple):
    """A certificate and its key, as files."""

    certfile: str
    keyfile: str


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_authority(directory: Path, name: str) -> Pair:
    """A certificate that signs itself: for an authority, or for a server with trusting clients."""
    pair = Pair(str(directory / f"{name}.pem"), str(directory / f"{name}.key"))
    _openssl(
        "req",
        "-x509",
        *P256,
        *AUTHORITY,
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        "-keyout",
        pair.keyfile,
        "-out",
        pair.certfile,
    )
    return pair


def sign(directory: Path, name: str, authority: Pair) -> Pair:
    """A certificate for `name`, signed by `authority`."""
    pair = Pair(str(directory / f"{name}.pem"), str(directory / f"{name}.key"))
    request, extensions = str(directory / f"{name}.csr"), directory / f"{name}.ext"
    extensions.write_text(SIGNED)
    _openssl("req", "-new", *P256, "-subj", f"/CN={name}", "-keyout", pair.keyfile, "-out", request)
    signer = ["-CA", authority.certfile, "-CAkey", authority.keyfile, "-CAcreateserial"]
    _openssl(
        "x509",
        "-req",
        *signer,
        "-extfile",
        str(extensions),
        "-days",
        "2",
        "-in",
        request,
        "-out",
        pair.certfile,
    )
    return pair


def encrypt(directory: Path, name: str, pair: Pair, password: str) -> Pair:
    """The pair with its key encrypted."""
    key = str(directory / f"{name}.key")
    to = ["-topk8", "-v2", "aes-256-cbc", "-passout", f"pass:{password}"]
    _openssl("pkcs8", "-in", pair.keyfile, "-out", key, *to)
    return Pair(pair.certfile, key)


def client_context(pair: Pair | None = None, protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """The context of a client that trusts every server.

    `pair`: its own certificate. `protocols`: offered by ALPN.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if pair is not None:
        context.load_cert_chain(*pair)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context
