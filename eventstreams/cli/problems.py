"""All that can be wrong with a configuration, before anything is started."""

from __future__ import annotations

from eventstreams import opening
from eventstreams.errors import ConfigError
from eventstreams.model.stream import Catalogue
from eventstreams.server.tls import Certificate
from eventstreams.settings import Settings


def problems_of(settings: Settings, catalogue: Catalogue | None) -> list[str]:
    """Of the two together and of the files that they name, each with the path of its setting."""
    problems = opening.problems_of(settings, catalogue)
    http = settings.http
    if http.tls_certfile is not None and http.tls_keyfile is not None:
        try:
            Certificate(http)
        except ConfigError as error:
            problems += error.problems
    return problems
