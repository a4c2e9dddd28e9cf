"""Gunicorn's TLS context, made from its settings, and the reason if it cannot be made."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gunicorn import sock

from ..errors import ConfigError
from .checks import has_tls_hook, refusal

if TYPE_CHECKING:
    from gunicorn.config import Config


ALPN = {"h1": "http/1.1", "h2": "h2"}
"""The versions of HTTP: Gunicorn's names, and the names of TLS (RFC 7301)."""


def serving_context(cfg: Config, protocols: Sequence[str]) -> ssl.SSLContext | None:
    """Return the context for listeners that serve `protocols`, or None without TLS."""
    if not cfg.is_ssl:
        return None
    context = make_context(cfg)
    # RFC 7301: the server's order counts. A client without a protocol in common is served HTTP/1.1,
    # even if `protocols` lacks it, as in Gunicorn.
    context.set_alpn_protocols([ALPN[name] for name in protocols])
    return context


def make_context(cfg: Config) -> ssl.SSLContext:
    """Return Gunicorn's context for `cfg`.

    Raises ConfigError: its sentence names the setting, the file and the remedy.
    """
    if not has_tls_hook(cfg):
        _check_files(cfg)
    try:
        context: object = sock.ssl_context(cfg)
    except Exception as error:  # from OpenSSL or the hook: plain HTTP is never served instead
        if has_tls_hook(cfg):
            raise ConfigError(f"The ssl_context hook raised {error!r}.") from error
        raise _explain(cfg, error) from error
    if not isinstance(context, ssl.SSLContext):
        raise ConfigError(f"The ssl_context hook must return an ssl.SSLContext, not {context!r}.")
    return context


def _check_files(cfg: Config) -> None:
    """Raise ConfigError if a file is missing, or is not of the kind named by its setting."""
    certificate = _read(cfg, "certfile")
    if re.search(rb"-----BEGIN (X509 |TRUSTED )?CERTIFICATE-----", certificate) is None:
        raise _refusal(cfg, "certfile", "holds no certificate in PEM form")
    name = "keyfile" if cfg.keyfile else "certfile"
    key = _read(cfg, name)
    if b"PRIVATE KEY-----" not in key:
        remedy = "" if cfg.keyfile else "; set keyfile to the file that has it"
        raise _refusal(cfg, name, f"holds no private key in PEM form{remedy}")
    if b"ENCRYPTED" in key:
        # OpenSSL would ask for the password on the terminal, and block.
        raise _refusal(
            cfg,
            name,
            "holds an encrypted key, and Gunicorn has no setting for its password: decrypt it "
            f"(openssl pkey -in {getattr(cfg, name)} -out NEW), or make the context in the "
            "ssl_context hook",
        )
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
    if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
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
