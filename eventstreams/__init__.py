"""An event-stream gateway: serves the topics of a log as Server-Sent Events."""

__version__ = "0.1.0"
