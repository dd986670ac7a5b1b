"""`eventstreams schemas`: materializes, checks and compares the schemas of a folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from eventstreams.cli.messages import print_message
from eventstreams.model.problem import Problem
from eventstreams.schemas.tools.check import advice, check
from eventstreams.schemas.tools.diff import Comparison, Side, compare
from eventstreams.schemas.tools.folder import open_folders
from eventstreams.schemas.tools.materialize import Materializer, plan, write

_folder = click.argument("folder", type=click.Path(path_type=Path))
base_option = click.option(
    "--base",
    "bases",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FOLDER",
    help="Also look up references in this folder, after FOLDER itself. May be repeated.",
)


@click.group("schemas")
def command() -> None:
    """Materialize, check and compare JSON Schemas.

    \b
    Each schema has a directory named as its title:
      TITLE/current.yaml    written by hand; $id is /TITLE/X.Y.Z, $ref names fragments
      TITLE/X.Y.Z.yaml      materialized, never changed; .json too, and the symlinks
                            X.Y.Z, latest, latest.yaml, latest.json

    Settings are read from FOLDER/.jsonschema-tools.yaml, if it exists. Nothing is fetched.

    \b
    Examples:
      eventstreams schemas materialize config/schemas
      eventstreams schemas check --strict config/schemas
      eventstreams schemas diff config/schemas mediawiki/recentchange
    """


@command.command("materialize")
@_folder
@base_option
@click.option(
    "--dry-run", is_flag=True, help="Print what would be written without writing anything."
)
@click.option("--force", is_flag=True, help="Replace versions whose content differs.")
def materialize(folder: Path, bases: tuple[Path, ...], dry_run: bool, force: bool) -> None:
    """Write the versions that current.yaml files describe.

    References are written out, allOf is merged, and numbers get bounds that every JSON reader
    supports. An existing version is never changed; if its content differs, that is an error, unless
    --force is given. Nothing is written if there are any problems.

    \b
    Examples:
      eventstreams schemas materialize config/schemas --dry-run
      eventstreams schemas materialize config/schemas
      eventstreams schemas materialize secondary --base primary/jsonschema
    """
    folders = open_folders(folder, bases)
    planned = plan(folders[0], Materializer(folders), force=force)
    _fail_with(planned.problems)
    for one in planned.writes:
        if not dry_run:
            write(one)
        click.echo(f"{'would write' if dry_run else 'wrote'} {one}")
    if not planned.writes:
        click.echo(f"nothing to write: {_counted(planned.schemas)}, all materialized")


@command.command("check")
@_folder
@base_option
@click.option("--strict", is_flag=True, help="Also report what jsonschema-tools accepts.")
def check_command(folder: Path, bases: tuple[Path, ...], strict: bool) -> None:
    """Check all schemas in FOLDER.

    All problems are reported at once (exit code 1).

    \b
    Structure      files and symlinks exist; the newest version is what current.yaml describes
    Robustness     valid, secure, snake_case, one type for each field, examples are valid
    Compatibility  within a major version only optional fields are added

    The name in brackets after a problem is what skipSchemaTestCases switches off. A schema of
    events without meta.stream, meta.id or meta.dt gets a warning with the lines to add, since the
    intake fills in only fields that are declared; warnings do not change the exit code.

    \b
    Examples:
      eventstreams schemas check config/schemas
      eventstreams schemas check --strict config/schemas
      eventstreams schemas check secondary --base primary/jsonschema
    """
    folders = open_folders(folder, bases)
    for each in advice(folders[0]):
        print_message(f"Warning: {each}")
    _fail_with(check(folders, strict=strict))
    click.echo(f"{_counted(len(folders[0].titles))}, no problems")


@command.command("diff")
@_folder
@click.argument("title")
@click.argument("old", default="latest")
@click.argument("new", default="current")
@base_option
def diff(folder: Path, title: str, old: str, new: str, bases: tuple[Path, ...]) -> None:
    """Show what changed between versions of a schema.

    Also shows whether the change of TITLE from OLD to NEW is compatible. Versions are X.Y.Z,
    latest, or current (what current.yaml materializes to). By default, the latest version is
    compared with current.

    \b
    Examples:
      eventstreams schemas diff config/schemas error
      eventstreams schemas diff config/schemas error 2.0.0 2.1.0
    """
    folders = open_folders(folder, bases)
    comparison = compare(folders, title.strip("/"), old, new)
    click.echo(f"{_named(comparison.old)} -> {_named(comparison.new)}")
    for change in comparison.changes:
        click.echo(f"  {change}")
    for line in _verdicts(comparison):
        click.echo(line)


def _named(side: Side) -> str:
    return f"{side.title}/{side.version}" + (f" ({side.asked})" if side.asked else "")


def _verdicts(comparison: Comparison) -> list[str]:
    if not comparison.changes:
        return ["the same schema"]
    if comparison.old.version.major != comparison.new.version.major:
        return ["a different major version, which need not be compatible"]
    lines: list[str] = []
    for name, found in (("compatible", comparison.lenient), ("strictly", comparison.strict)):
        lines.append(f"{name}: {'no' if found else 'yes'}")
        lines += [f"  {pointer or '/'} {message}" for pointer, message in found]
    return lines


def _counted(schemas: int) -> str:
    return f"{schemas} schema{'' if schemas == 1 else 's'}"


def _fail_with(problems: Sequence[Problem]) -> None:
    for problem in problems:
        print_message(problem)
    if problems:
        found = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
        print_message(f"Error: {found}")
        sys.exit(1)
