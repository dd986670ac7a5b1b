"""Fails a test when something blocks the event loop of a running gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blockbuster import blockbuster_ctx

_READS = ("io.BufferedReader.read", "io.TextIOWrapper.read", "os.stat")


@contextmanager
def no_blocking() -> Iterator[None]:
    with blockbuster_ctx("eventstreams") as blocking:
        # Files that are read once before serving: pages, keys and secrets.
        blocking.functions["os.stat"].can_block_in("eventstreams/gateway.py", "_app")
        for function in map(blocking.functions.__getitem__, _READS):
            function.can_block_in("eventstreams/config/secret_files.py", "read_secret")
            function.can_block_in("eventstreams/access/builder.py", "open_policy")
        yield
