"""Finds everything that can be wrong with a configuration, before anything is started.

This imports the whole gateway, so commands that only read settings use `config.py` alone.
"""

from __future__ import annotations

from eventstreams import problems
from eventstreams.config.settings import Settings
from eventstreams.errors import ConfigError
from eventstreams.model.catalogue import Catalogue
from eventstreams.server.tls import Certificate


def problems_of(settings: Settings, catalogue: Catalogue | None) -> list[str]:
    """Return the problems of settings, catalogue and the files they name, each with its setting's
    path."""
    found = problems.problems_of(settings, catalogue)
    http = settings.http
    if http.tls_certfile is not None and http.tls_keyfile is not None:
        try:
            Certificate(http)
        except ConfigError as error:
            found += error.problems
    return found
