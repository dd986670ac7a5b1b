"""What a repository of schemas says of itself, in its `.jsonschema-tools.yaml`.

The keys are those of jsonschema-tools, so that existing repositories need no other file. What would
read over the network, or name files otherwise, is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from eventstreams.errors import ConfigError
from eventstreams.yaml_file import read_yaml

CONFIG_NAME = ".jsonschema-tools.yaml"
SAFE_INTEGER_MAX = 2**53 - 1
"""The largest integer that every JSON reader keeps exact."""


class RepositoryConfig(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"
):
    schema_base_path: str = "."
    """Where the schemas are; relative to the file's folder."""
    schema_base_uris: tuple[str, ...] = ()
    """Further folders in which references are looked up."""
    content_types: tuple[Literal["yaml", "json"], ...] = ("yaml", "json")
    """The first is the one that symlinks lead to."""
    should_symlink_extensionless: bool = True
    should_symlink_latest: bool = True
    enforced_numeric_bounds: tuple[float, float] | Literal[False] | None = (
        -SAFE_INTEGER_MAX,
        SAFE_INTEGER_MAX,
    )
    ignore_schemas: tuple[str, ...] = ()
    """Regular expressions over `$id`."""
    skip_schema_test_cases: dict[str, tuple[str, ...]] = {}
    """Regular expression over `$id` -> names of checks that such schemas need not pass."""
    should_generate_example: bool = False
    """Nothing is made up here; `examples` that another tool has put in are let be."""
    # From here on: accepted where it says what is done anyway, or what only concerns other tools.
    current_name: Literal["current", "current.yaml"] = "current"
    schema_version_field: Literal["$id"] = "$id"
    schema_title_field: Literal["title"] = "title"
    should_dereference: Literal[True] = True
    git_staged: bool = False
    should_git_add: bool = False
    log_level: str = ""

    def skips(self, schema_id: str, check: str) -> bool:
        return any(
            check in checks and re.search(pattern, schema_id)
            for pattern, checks in self.skip_schema_test_cases.items()
        )

    def ignores(self, schema_id: str) -> bool:
        return any(re.search(pattern, schema_id) for pattern in self.ignore_schemas)


def load_config(folder: Path) -> RepositoryConfig:
    """The folder's own, or the defaults. Raises ConfigError."""
    path = folder / CONFIG_NAME
    if not path.exists():
        return RepositoryConfig()
    document: Any = read_yaml(path)
    try:
        config = msgspec.convert({} if document is None else document, RepositoryConfig)
    except msgspec.ValidationError as error:
        raise ConfigError([f"{path}: {error}"]) from error
    problems: list[str] = []
    if not config.content_types or len(set(config.content_types)) < len(config.content_types):
        problems.append("contentTypes: names each of yaml, json once, and at least one")
    for pattern in (*config.ignore_schemas, *config.skip_schema_test_cases):
        try:
            re.compile(pattern)
        except re.error as error:
            problems.append(f"{pattern!r} is not a regular expression: {error}")
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return config
