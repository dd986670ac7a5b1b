"""The machine that figures are measured on, and the resources that processes use."""

from __future__ import annotations

import os
import platform
import re
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.child import TOP


def memory_kib(pid: int) -> int:
    """Return the proportional set size in KiB: the memory that would be free without this
    process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
    assert found
    return int(found[1])


def cpu_s(pid: int) -> float:
    """Return the processor time that the process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def exact_cpu_s(pid: int) -> float:
    """Return the processor time that the threads of the process have used, in seconds.

    It is exact to the microsecond, unlike `cpu_s`, and leaves out threads that have ended.
    """
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def socket_kib() -> int:
    """Return the kernel memory of all TCP sockets of the machine in KiB.

    Both ends of a loopback connection are included.
    """
    text = Path("/proc/net/sockstat").read_text()
    found = re.search(r"^TCP:.* mem (\d+)", text, re.MULTILINE)
    assert found
    return int(found[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def busy_share(over_s: float = 1.0) -> float:
    """Return the share of the machine's processor time that is in use, 0 to 1."""
    before = _times()
    time.sleep(over_s)
    busy, whole = (after - then for after, then in zip(_times(), before, strict=True))
    return busy / max(1, whole)


def _times() -> tuple[int, int]:
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def describe(kafka: bool) -> str:
    """Return one line with the date, the machine and the versions used."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    parts = [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"{os.cpu_count()} x {model[1] if model else platform.machine()}",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in ("uvicorn", "uvloop")),
    ]
    if kafka:
        parts += [f"aiokafka {version('aiokafka')}", f"Kafka {_kafka_version()}"]
    return ", ".join(parts)


def _kafka_version() -> str:
    found = re.search(r"^kafka_version=(\S+)", (TOP / "scripts/kafka").read_text(), re.MULTILINE)
    assert found
    return found[1]
