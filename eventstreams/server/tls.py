"""The certificate of connections over TLS, and its renewal while the server runs."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import NoReturn

from eventstreams.errors import ConfigError
from eventstreams.settings import HttpSettings

_log = logging.getLogger(__name__)


class Certificate:
    """`context` stays the same when its files are read again: new handshakes show what is new."""

    @classmethod
    def of(cls, http: HttpSettings) -> Certificate | None:
        """None where connections are plain. Raises ConfigError as the constructor does."""
        return None if http.tls_certfile is None else cls(http)

    def __init__(self, http: HttpSettings) -> None:
        """Raises ConfigError where the files of certificate and key are not good ones."""
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
        """Reads the files again; where they are not good, what is shown stays."""
        try:
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))  # one that fails may be left halved
            self._load(self.context)
        except ConfigError as error:
            _log.error("the certificate stays as it is: %s", error)

    def _load(self, context: ssl.SSLContext) -> None:
        _must_hold("http.tls_certfile", self._certificate, "CERTIFICATE-----")
        _must_hold("http.tls_keyfile", self._key, "PRIVATE KEY-----")
        self._password_asked = False
        try:
            context.load_cert_chain(self._certificate, self._key, self._password)
        except OSError as error:  # as ssl.SSLError is
            reason = getattr(error, "reason", None)
            if reason in ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED", "KEY_TYPE_MISMATCH"):
                _wrong("http.tls_keyfile", f"{self._key!r} is not the key of http.tls_certfile")
            if self._password_asked:
                _wrong("http.tls_keyfile_password_file", "holds another password than the key's")
            said = reason or error.args[-1]
            _wrong("http.tls_certfile", f"it or http.tls_keyfile is not good: {said}")

    def _password(self) -> str:
        """Asked for where the key is encrypted; without this OpenSSL asks at the terminal."""
        self._password_asked = True
        if self._password_file is None:
            _wrong("http.tls_keyfile", "is encrypted; http.tls_keyfile_password_file is needed")
        return _text("http.tls_keyfile_password_file", self._password_file).rstrip("\r\n")


def _must_hold(setting: str, path: str, mark: str) -> None:
    if mark not in _text(setting, path):
        _wrong(setting, f"{path!r} holds no PEM block of {mark.rstrip('-').lower()}")


def _text(setting: str, path: str) -> str:
    try:
        return Path(path).read_text("latin-1")
    except OSError as error:
        _wrong(setting, f"can't read {path!r}: {error.strerror or error}")


def _wrong(setting: str, reason: str) -> NoReturn:
    raise ConfigError([f"{setting}: {reason}"])
