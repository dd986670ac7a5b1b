"""1,000 clients that share a gzip stream, compared with 1,000 uncompressed ones, on real events.

One more client joins late, decodes what it receives, and checks that no event is missing or
duplicated. (The window of zstd is longer than the cycle of real events.)
"""

from __future__ import annotations

import http.client
import re
import threading
import zlib
from collections import defaultdict
from typing import Any

from bench.fanout import delivered, load
from bench.figures import Figure, at_least, at_most
from bench.stage import PATH, Stage

CLIENTS = 1000
BYTES_AIMS = {20: 0.35, 100: 0.25}
CPU_AIM = 1.1
_PATH = f"{PATH}?compress=gzip"
_SEQ = re.compile(rb'^data: {"ts":\d+,"seq":(\d+),', re.MULTILINE)


def run(stage: Stage) -> list[Figure]:
    figures = []
    for rate, bytes_aim in BYTES_AIMS.items():
        found: dict[str, list[float]] = defaultdict(list)
        for _ in stage.runs(3):
            with stage.gateway(feed=rate, unlike=True) as (gateway, port):
                plain = load(stage, port, CLIENTS, gateway.pid)
            with (
                stage.gateway(feed=rate, unlike=True) as (gateway, port),
                _Decoder(port) as decoder,
            ):
                shared = load(stage, port, CLIENTS, gateway.pid, path=_PATH, opaque=1)
            found["bytes"].append(_a_second(shared, "bytes") / _a_second(plain, "bytes"))
            found["cpu"].append(_a_second(shared, "cpu_s") / _a_second(plain, "cpu_s"))
            found["plain"].append(delivered(plain))
            found["decoded"].append(decoder.whole)
        figures += [
            Figure(f"{rate}/s: bytes / plain", found["bytes"], "x", at_most(bytes_aim)),
            Figure(f"{rate}/s: processor time / plain", found["cpu"], "x", at_most(CPU_AIM)),
            Figure(f"{rate}/s: plain, delivered", found["plain"], "%", at_least(100)),
            Figure(f"{rate}/s: decoded by one of them", found["decoded"], "%", at_least(100)),
        ]
    return figures


def _a_second(found: dict[str, Any], name: str) -> float:
    return float(found[name]) / float(found["seconds"])


class _Decoder:
    """Decodes a compressed response on a separate thread."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._thread = threading.Thread(target=self._read)
        self._end = threading.Event()
        self.whole = 0.0
        """Per cent of the due events that arrived; 0 if any was duplicated or none arrived."""

    def __enter__(self) -> _Decoder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _read(self) -> None:
        self._connection.request("GET", _PATH, headers={"Accept-Encoding": "gzip"})
        response = self._connection.getresponse()
        inflate = zlib.decompressobj(wbits=31)
        body = b""
        while not self._end.is_set():
            body += inflate.decompress(response.read1())
        self._connection.close()
        seqs = [int(seq) for seq in _SEQ.findall(body)]
        if seqs and len(set(seqs)) == len(seqs):
            self.whole = 100 * len(seqs) / (max(seqs) - min(seqs) + 1)
