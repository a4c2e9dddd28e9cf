"""The TLS context, made from Gunicorn's settings, and the reason if it cannot be made."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .checks import has_tls_hook, refusal
from .options import MAX_PASSWORD
from .rows import secret_bytes

if TYPE_CHECKING:
    from gunicorn.config import Config

    from .settings import Settings


ALPN = {"h1": "http/1.1", "h2": "h2"}
"""The versions of HTTP: Gunicorn's names, and the names of TLS (RFC 7301)."""
MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH")
"""OpenSSL's reasons where the key is not the certificate's. It could be read, then."""


def serving_context(cfg: Config, settings: Settings) -> ssl.SSLContext | None:
    """Return the context for listeners that serve ``http_protocols``, or None without TLS."""
    if not cfg.is_ssl:
        return None
    context = make_context(cfg, settings)
    # RFC 7301: the server's order counts. A client without a protocol in common is served HTTP/1.1,
    # even if the protocols lack it, as in Gunicorn.
    context.set_alpn_protocols([ALPN[name] for name in settings.http_protocols])
    return context


def make_context(cfg: Config, settings: Settings) -> ssl.SSLContext:
    """Return the context for `cfg`, with the key's password in `settings`.

    Raises ConfigError: its sentence names the setting, the file and the remedy.
    """
    if not has_tls_hook(cfg):
        _check_files(cfg)
    password = _read_password(settings)
    try:
        context: object = cfg.ssl_context(cfg, lambda: _default_context(cfg, settings, password))
    except ConfigError:
        raise
    except Exception as error:  # from OpenSSL or the hook: plain HTTP is never served instead
        if has_tls_hook(cfg):
            raise ConfigError(f"The ssl_context hook raised {error!r}.") from error
        raise _explain(cfg, error) from error
    if not isinstance(context, ssl.SSLContext):
        raise ConfigError(f"The ssl_context hook must return an ssl.SSLContext, not {context!r}.")
    return context


def _default_context(cfg: Config, settings: Settings, password: bytes | None) -> ssl.SSLContext:
    """Return Gunicorn's context. Gunicorn's own function for it knows no password.

    Raises ConfigError about an encrypted key and its password.
    """
    is_encrypted = False

    def give_password() -> bytes:
        # Without this function, OpenSSL would ask on the terminal, and block.
        nonlocal is_encrypted
        is_encrypted = True
        if password is None:
            raise _needs_password(cfg)
        return password

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=cfg.ca_certs)
    try:
        context.load_cert_chain(cfg.certfile, cfg.keyfile, give_password)
    except ssl.SSLError as error:
        if is_encrypted and error.reason not in MISMATCHES:
            raise _wrong_password(cfg, settings) from None
        raise
    context.verify_mode = cfg.cert_reqs
    if cfg.ciphers:
        context.set_ciphers(cfg.ciphers)
    return context


def _read_password(settings: Settings) -> bytes | None:
    """Return the password of the key, or None if there is none. Raises ConfigError."""
    path = settings.tls_key_password_file
    if not path:
        return secret_bytes(settings.tls_key_password) or None
    try:
        with Path(path).open("rb") as file:
            password = file.readline(MAX_PASSWORD + len(b"\r\n"))
    except OSError as error:
        raise _refuse_file(path, f"cannot be read: {error.strerror}") from None
    password = password.removesuffix(b"\n").removesuffix(b"\r")
    if not password:
        raise _refuse_file(path, "has no password in its first line")
    if len(password) > MAX_PASSWORD:
        raise _refuse_file(path, f"has a password of more than {MAX_PASSWORD} bytes")
    return password


def _refuse_file(path: str, reason: str) -> ConfigError:
    return ConfigError(f"Invalid value for option tls_key_password_file: {path!r} {reason}.")


def _needs_password(cfg: Config) -> ConfigError:
    name = _key_setting(cfg)
    return _refusal(
        cfg,
        name,
        "holds an encrypted key: give its password by the option tls_key_password_file, or decrypt "
        f"it (openssl pkey -in {getattr(cfg, name)} -out NEW)",
    )


def _wrong_password(cfg: Config, settings: Settings) -> ConfigError:
    option = "tls_key_password" + ("_file" if settings.tls_key_password_file else "")
    return _refusal(
        cfg, _key_setting(cfg), f"cannot be decrypted by the password of the option {option}"
    )


def _key_setting(cfg: Config) -> str:
    return "keyfile" if cfg.keyfile else "certfile"


def _check_files(cfg: Config) -> None:
    """Raise ConfigError if a file is missing, or is not of the kind named by its setting."""
    certificate = _read(cfg, "certfile")
    if re.search(rb"-----BEGIN (X509 |TRUSTED )?CERTIFICATE-----", certificate) is None:
        raise _refusal(cfg, "certfile", "holds no certificate in PEM form")
    name = _key_setting(cfg)
    if b"PRIVATE KEY-----" not in _read(cfg, name):
        remedy = "" if cfg.keyfile else "; set keyfile to the file that has it"
        raise _refusal(cfg, name, f"holds no private key in PEM form{remedy}")
    if cfg.ca_certs and b"-----BEGIN " not in _read(cfg, "ca_certs"):
        raise _refusal(cfg, "ca_certs", "holds no certificate in PEM form")


def _read(cfg: Config, name: str) -> bytes:
    try:
        return Path(getattr(cfg, name)).read_bytes()
    except OSError as error:
        raise _refusal(cfg, name, f"cannot be read: {error.strerror}") from None


def _explain(cfg: Config, error: Exception) -> ConfigError:
    """Return the error for an `error` of OpenSSL, which does not name the setting at fault."""
    reason = getattr(error, "reason", None) or str(error)
    if reason in MISMATCHES:
        return _refusal(
            cfg, "keyfile", f"is not the key of the certificate in certfile, {cfg.certfile!r}"
        )
    if reason == "NO_CIPHER_MATCH" or (cfg.ciphers and "cipher" in reason.lower()):
        return _refusal(cfg, "ciphers", "names no cipher that OpenSSL has")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if cfg.ca_certs:
        try:
            context.load_verify_locations(cfg.ca_certs)
        except (OSError, ValueError) as again:
            return _refusal(
                cfg,
                "ca_certs",
                f"is not accepted by OpenSSL: {getattr(again, 'reason', None) or again}",
            )
    files = f"certfile {cfg.certfile!r}" + (f" and keyfile {cfg.keyfile!r}" if cfg.keyfile else "")
    return ConfigError(f"OpenSSL does not accept {files}: {reason}.")


def _refusal(cfg: Config, name: str, reason: str) -> ConfigError:
    return refusal(name, getattr(cfg, name), reason)
