"""Defines fixed limits of the embedded log. Operators set the others in `SqliteSettings`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SqliteLimits:
    """Bounds the memory, the files and the length of single steps. Tests use smaller ones."""

    waiting_bytes_max: int = 64 * 2**20
    """Size of the appends that may be queued. Further ones wait until the queue has room."""
    appended_bytes_max: int = 4 * 2**20
    """Size of the events kept in memory for one follower. It reads further ones from the file."""
    group_bytes_max: int = 16 * 2**20
    """Size of the appends in one transaction. Further ones wait for the next."""
    shared_group_bytes_max: int = 256 * 2**10
    """The same, while other processes write, which must wait for the transaction to end."""
    drop_rows_max: int = 4096
    """Number of records that one step of retention drops."""
    drop_bytes_max: int = 16 * 2**20
    """Size of the values that one step of retention drops; the last one may exceed it."""
    checkpoint_pages: int = 1000
    """Length of the write-ahead log, in pages, at which SQLite copies it into the database."""
    wal_bytes_max: int = 64 * 2**20
    """Size of the write-ahead log above which it is truncated."""
