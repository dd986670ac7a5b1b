"""A failure when something blocks the event loop of a gateway that serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blockbuster import blockbuster_ctx

_READS = ("io.BufferedReader.read", "io.TextIOWrapper.read", "os.stat")


@contextmanager
def no_blocking() -> Iterator[None]:
    with blockbuster_ctx("eventstreams") as blocking:
        # The pages are looked for once, before anything is served; keys and secrets are read.
        blocking.functions["os.stat"].can_block_in("eventstreams/web/assembly.py", "assemble")
        for function in _READS:
            blocking.functions[function].can_block_in("eventstreams/opening.py", "read_secret")
            blocking.functions[function].can_block_in("eventstreams/opening.py", "open_policy")
        yield
