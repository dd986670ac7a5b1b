"""Loads the TLS certificate, and reloads it while the server runs."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import NoReturn

from eventstreams.config.settings import HttpSettings
from eventstreams.errors import ConfigError

_log = logging.getLogger(__name__)


class Certificate:
    """A certificate and its key. `context` stays the same object when they are reloaded."""

    @classmethod
    def of(cls, http: HttpSettings) -> Certificate | None:
        """Return the configured certificate, or None for plain connections. Raises ConfigError."""
        return None if http.tls_certfile is None else cls(http)

    def __init__(self, http: HttpSettings) -> None:
        """Load certificate and key. Raises ConfigError if they are missing or invalid."""
        assert http.tls_certfile is not None
        assert http.tls_keyfile is not None
        self._certificate = http.tls_certfile
        self._key = http.tls_keyfile
        self._password_file = http.tls_keyfile_password_file
        self._password_asked = False
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._load(self.context)

    def renew(self) -> None:
        """Reload the files; if they are invalid, keep the previous certificate."""
        try:
            self._load(
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            )  # a failed load may leave its context half changed
            self._load(self.context)
        except ConfigError as error:
            _log.error("keeping the previous certificate: %s", error)

    def _load(self, context: ssl.SSLContext) -> None:
        _require("http.tls_certfile", self._certificate, "CERTIFICATE-----")
        _require("http.tls_keyfile", self._key, "PRIVATE KEY-----")
        self._password_asked = False
        try:
            context.load_cert_chain(self._certificate, self._key, self._password)
        except OSError as error:  # as ssl.SSLError is
            reason = getattr(error, "reason", None)
            if reason in ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED", "KEY_TYPE_MISMATCH"):
                _wrong("http.tls_keyfile", f"{self._key!r} is not the key of http.tls_certfile")
            if self._password_asked:
                _wrong("http.tls_keyfile_password_file", "does not contain the key's password")
            detail = reason or error.args[-1]
            _wrong("http.tls_certfile", f"this file or http.tls_keyfile is invalid: {detail}")

    def _password(self) -> str:
        """Return the password of an encrypted key. Otherwise OpenSSL would prompt for it."""
        self._password_asked = True
        if self._password_file is None:
            _wrong("http.tls_keyfile", "is encrypted; set http.tls_keyfile_password_file")
        return _text("http.tls_keyfile_password_file", self._password_file).rstrip("\r\n")


def _require(setting: str, path: str, mark: str) -> None:
    if mark not in _text(setting, path):
        _wrong(setting, f"{path!r} contains no {mark.rstrip('-').lower()} in PEM")


def _text(setting: str, path: str) -> str:
    try:
        return Path(path).read_text("latin-1")
    except OSError as error:
        _wrong(setting, f"cannot read {path!r}: {error.strerror or error}")


def _wrong(setting: str, reason: str) -> NoReturn:
    raise ConfigError([f"{setting}: {reason}"])
