"""`eventstreams restore`: puts a backup of an embedded log in place."""

from __future__ import annotations

from pathlib import Path

import click

from eventstreams.cli.config import read_settings
from eventstreams.cli.options import FilePath, config_option, data_dir_option
from eventstreams.log.sqlite.restore import restore


@click.command("restore")
@click.argument(
    "backup", metavar="BACKUP", type=FilePath(dir_okay=False, exists=True, path_type=Path)
)
@config_option
@data_dir_option(
    "Restore into this directory, which must not hold a log.  [default: that of the settings]"
)
def command(*, backup: Path, config: Path | None, data_dir: str | None) -> None:
    """Put a backup of an embedded log in place.

    BACKUP is a copy of log.sqlite3. It is checked, and does not change. Events that followed the
    backup are lost: a marker at the end of each partition reports that to clients as a gap.
    Stop the gateway, and move the files of its log away first.

    \b
    Examples:
      eventstreams restore backup.sqlite3
      eventstreams restore backup.sqlite3 --data-dir restored
    """
    settings = read_settings(config)
    if data_dir is None and settings.log.backend != "sqlite":
        raise click.UsageError(
            f"log.backend is {settings.log.backend}; --data-dir names the directory of a log"
        )
    directory = Path(data_dir or settings.log.data_dir)
    partitions = restore(backup, directory, settings.log.sqlite)
    count = f"{len(partitions)} partition{'' if len(partitions) == 1 else 's'}"
    click.echo(f"restored the log in {directory.resolve()}, with a gap at the end of {count}")
