"""The ``tls`` extension (``scope["extensions"]["tls"]``; docs/asgi.md, 137 to 144)."""

from __future__ import annotations

import ast
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ws
from certificates import P256, Pair, client_context, make_authority, sign
from inprocess import Client, answer, request
from ways import server_context, serving

from gunicorn_asgi.net import tls_extension as tls

CAN = ["tls", "h2-tls"]


async def telling(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the extension."""
    await answer(send, repr(scope["extensions"].get("tls")).encode())


class People:
    """Certificates: `friend` directly from an authority, `far` through an intermediate one."""

    def __init__(self, directory: Path) -> None:
        self.authority = make_authority(directory, "authority")
        self.friend = sign(directory, "friend", self.authority)
        self.between = self._sign_authority(directory, "between")
        far = sign(directory, "far", self.between)
        chain = directory / "far-chain.pem"
        chain.write_text(Path(far.certfile).read_text() + Path(self.between.certfile).read_text())
        self.far = Pair(str(chain), far.keyfile)

    def _sign_authority(self, directory: Path, name: str) -> Pair:
        pair = Pair(str(directory / f"{name}.pem"), str(directory / f"{name}.key"))
        extensions = directory / f"{name}.ext"
        extensions.write_text(
            "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
        )
        asking = [
            "openssl",
            "req",
            "-new",
            *P256,
            "-subj",
            f"/CN={name}",
            "-keyout",
            pair.keyfile,
            "-out",
            str(directory / f"{name}.csr"),
        ]
        signing = [
            "openssl",
            "x509",
            "-req",
            "-CA",
            self.authority.certfile,
            "-CAkey",
            self.authority.keyfile,
            "-CAcreateserial",
            "-days",
            "2",
        ]
        subprocess.run(asking, check=True, capture_output=True)
        subprocess.run(
            [
                *signing,
                "-extfile",
                str(extensions),
                "-in",
                str(directory / f"{name}.csr"),
                "-out",
                pair.certfile,
            ],
            check=True,
            capture_output=True,
        )
        return pair


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    return People(tmp_path_factory.mktemp("certificates"))


def pem(path: str) -> str:
    """Return the first certificate of a file, in Python's form."""
    text = Path(path).read_text()
    first = (
        text[: text.index("-----END CERTIFICATE-----") + len("-----END CERTIFICATE-----")] + "\n"
    )
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(first[first.index("-----BEGIN") :]))


def ask(asked: Any, context: ssl.SSLContext) -> dict[str, Any]:
    """Return the extension for a client with this context."""
    if asked.is_h2:
        client: Any = asked.connect(tls=context)
        found = client.get().body
    else:
        client = asked.server.connect()
        client.sock = context.wrap_socket(client.sock)
        client.send(request())
        found = client.read_response().body
    client.close()
    told: dict[str, Any] = ast.literal_eval(found.decode())
    return told


def trusting(people: People, cert_reqs: ssl.VerifyMode) -> ssl.SSLContext:
    context = server_context()
    context.load_verify_locations(people.authority.certfile)
    context.verify_mode = cert_reqs
    return context


@pytest.mark.parametrize("way", CAN)
@pytest.mark.parametrize(
    ("version", "ciphers", "number", "suite"),
    [
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256", 0x0303, {0xC02B}),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-CHACHA20-POLY1305", 0x0303, {0xCCA9}),
        (ssl.TLSVersion.TLSv1_3, "", 0x0304, {0x1301, 0x1302, 0x1303}),
    ],
)
def test_version_and_suite_are_numbers(
    parser: str, way: str, version: Any, ciphers: str, number: int, suite: set[int]
) -> None:
    """docs/asgi.md, 138, 142 and 143. CPython does not tell the server's certificate."""
    context = client_context()
    context.minimum_version = context.maximum_version = version
    if ciphers:
        context.set_ciphers(ciphers)
    with serving(telling, parser, way) as asked:
        told = ask(asked, context)
    assert told.pop("cipher_suite") in suite
    assert told == {
        "server_cert": None,
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": number,
    }


@pytest.mark.parametrize("way", CAN)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("cert_reqs", [ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED])
def test_the_certificate_of_a_client_is_in_the_extension(
    parser: str, way: str, people: People, cert_reqs: Any, version: Any
) -> None:
    """docs/asgi.md, 139 and 140."""
    context = client_context(people.friend)
    context.maximum_version = version
    with _served(parser, way, trusting(people, cert_reqs)) as asked:
        told = ask(asked, context)
        assert told["client_cert_chain"][0] == pem(people.friend.certfile)
        assert told["client_cert_name"] == "CN=friend"
        if cert_reqs == ssl.CERT_OPTIONAL:
            told = ask(asked, client_context())
            assert (told["client_cert_chain"], told["client_cert_name"]) == ([], None)


def _served(parser: str, way: str, context: ssl.SSLContext) -> Any:
    """With a context of the server's own."""
    return serving(telling, parser, way, tls=context)


@pytest.mark.parametrize("way", CAN)
def test_a_chain_begins_with_the_clients_certificate(parser: str, way: str, people: People) -> None:
    """docs/asgi.md, 144: the whole chain since Python 3.13, the client's own before."""
    with _served(parser, way, trusting(people, ssl.CERT_REQUIRED)) as asked:
        told = ask(asked, client_context(people.far))
    whole = [pem(people.far.certfile), pem(people.between.certfile), pem(people.authority.certfile)]
    assert told["client_cert_chain"] == (whole if sys.version_info >= (3, 13) else whole[:1])
    assert told["client_cert_name"] == "CN=far"


def test_each_request_has_its_own_copy(parser: str) -> None:
    """docs/asgi.md, 18."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        told = scope["extensions"]["tls"]
        await answer(send, repr(told).encode())
        told["tls_version"] = 0
        told["client_cert_chain"].append("x")

    for way in CAN:
        with serving(app, parser, way) as asked:
            client = asked.connect()
            first, second = asked.ask(client).body, asked.ask(client).body
            assert first == second


@pytest.mark.parametrize("way", ["1.1", "1.0", "unix", "h2"])
def test_without_tls_there_is_none_even_if_a_proxy_had_tls(parser: str, way: str) -> None:
    """docs/asgi.md, 137."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, repr((scope["scheme"], "tls" in scope["extensions"])).encode())

    with serving(app, parser, way, forwarded_allow_ips="*") as asked:
        assert asked.fetch("GET", b"X-Forwarded-Proto: https").body == b"('https', False)"


@pytest.mark.parametrize("is_tls", [True, False])
def test_a_websocket_has_it_too(parser: str, is_tls: bool) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["extensions"])
        await receive()
        await send({"type": "websocket.close"})

    with serving(app, parser, "tls" if is_tls else "1.1") as asked:
        client: Client = asked.connect()
        client.send(ws.handshake())
        assert client.read_response().status == 403
    (extensions,) = seen
    assert set(extensions) == {"websocket.http.response", *(["tls"] if is_tls else [])}
    if is_tls:
        assert extensions["tls"]["tls_version"] == 0x0304


# Names in the form of RFC 4514.

NAMES: list[tuple[Any, str]] = [
    ((), ""),
    (((("commonName", "friend"),),), "CN=friend"),
    (
        ((("countryName", "DE"),), (("organizationName", "A"),), (("commonName", "b"),)),
        "CN=b,O=A,C=DE",
    ),
    (((("commonName", "a"), ("userId", "b")),), "CN=a+UID=b"),
    (((("domainComponent", "org"),), (("domainComponent", "example"),)), "DC=example,DC=org"),
    (
        (
            (("stateOrProvinceName", "a"),),
            (("localityName", "b"),),
            (("streetAddress", "c"),),
            (("organizationalUnitName", "d"),),
        ),
        "OU=d,STREET=c,L=b,ST=a",
    ),
    (((("emailAddress", "a@b"),),), "emailAddress=a@b"),
    (((("1.2.3.4", "x"),),), "1.2.3.4=x"),
    (((("commonName", 'a"b+c,d;e<f>g\\h=i'),),), 'CN=a\\"b\\+c\\,d\\;e\\<f\\>g\\\\h=i'),
    (((("commonName", " a "),),), "CN=\\ a\\ "),
    (((("commonName", "a b"),),), "CN=a b"),
    (((("commonName", " "),),), "CN=\\ "),
    (((("commonName", "  "),),), "CN=\\ \\ "),
    (((("commonName", "#a#"),),), "CN=\\#a#"),
    (((("commonName", "a\0b"),),), "CN=a\\00b"),
    (((("commonName", ""),),), "CN="),
    (((("commonName", "Lučić"),),), "CN=Lučić"),
    (((("commonName", "a,CN=root"),),), "CN=a\\,CN=root"),
]


class Handshake:
    """An ssl.SSLObject whose client has shown a certificate."""

    context = client_context()

    def __init__(self, certificate: dict[str, Any]) -> None:
        self._certificate = certificate

    def cipher(self) -> None:
        return None

    def version(self) -> None:
        return None

    def getpeercert(self, binary_form: bool = False) -> Any:
        return b"encoded" if binary_form else self._certificate


@pytest.mark.parametrize(("subject", "expected"), NAMES, ids=[expected for _, expected in NAMES])
def test_a_name_has_the_form_of_rfc_4514(subject: Any, expected: str) -> None:
    """docs/asgi.md, 140. RFC 4514, 2.1: the most specific part first.

    2.4: values are escaped, so that a value cannot look like another part.
    """
    described = tls.describe(Handshake({"subject": subject, "version": 3}))  # type: ignore[arg-type]
    assert described["client_cert_name"] == expected


def test_a_certificate_that_was_not_verified_has_no_name() -> None:
    assert tls.describe(Handshake({}))["client_cert_name"] is None  # type: ignore[arg-type]
