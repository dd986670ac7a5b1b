"""eventstreams: topics of a log, out as Server-Sent Events."""

__version__ = "0.1.0"
