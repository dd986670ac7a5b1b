"""A process that appends to an embedded log and prints what was acknowledged.

    python -m tests.log.sqlite.child DIRECTORY [--name N] [--count N] [--retention-bytes N]
        [--file-bytes-max N] [--user UID]

Prints a line `partition offset value` for every acknowledged record, or `refused <error>: <why>`.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures.thread  # noqa: F401  another user may not find it later
import os
import resource
import sys
from pathlib import Path

from eventstreams.config.settings import SqliteSettings
from eventstreams.errors import LogError
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Record

TOPIC = "shared"
PARTITIONS = 2
PRODUCERS = 4


async def run(arguments: argparse.Namespace) -> None:
    settings = SqliteSettings(
        partitions_per_topic=PARTITIONS,
        retention_bytes=arguments.retention_bytes,
        retention_every_s=0.001,
    )
    log = SqliteLog(directory=Path(arguments.directory), settings=settings)
    await log.start()
    numbers = iter(range(arguments.count))

    async def produce() -> None:
        for number in numbers:
            values = [b"%s-%d-%d" % (arguments.name.encode(), number, n) for n in range(3)]
            placed = await log.append([Record(TOPIC, value) for value in values])
            for value, (partition, offset) in zip(values, placed, strict=True):
                print(partition.number, offset, value.decode(), flush=True)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(PRODUCERS):
                group.create_task(produce())
    finally:
        await log.aclose()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--name", default="child")
    parser.add_argument("--count", type=int, default=2**31)
    parser.add_argument("--retention-bytes", type=int)
    parser.add_argument("--file-bytes-max", type=int)
    parser.add_argument("--user", type=int)
    arguments = parser.parse_args()
    if arguments.file_bytes_max:
        limit = (arguments.file_bytes_max, arguments.file_bytes_max)
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    if arguments.user:
        os.setuid(arguments.user)
    try:
        asyncio.run(run(arguments))
    except* LogError as errors:
        for error in errors.exceptions:
            print(f"refused {type(error).__name__}: {error}", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
