"""Reads the settings of a schema repository from its `.jsonschema-tools.yaml`.

The keys are those of jsonschema-tools, so existing repositories need no other file. Settings that
would access the network, or change the names of files, are refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from eventstreams.config.wording import problem_of
from eventstreams.config.yaml_file import read_yaml
from eventstreams.errors import ConfigError

CONFIG_NAME = ".jsonschema-tools.yaml"
SAFE_INTEGER_MAX = 2**53 - 1
"""The largest integer that every JSON reader represents exactly."""


class RepositoryConfig(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"
):
    schema_base_path: str = "."
    """The folder of the schemas, relative to the settings file."""
    schema_base_uris: tuple[str, ...] = ()
    """Additional folders in which references are looked up."""
    content_types: tuple[Literal["yaml", "json"], ...] = ("yaml", "json")
    """The content types to write. Symlinks point to the first one."""
    should_symlink_extensionless: bool = True
    should_symlink_latest: bool = True
    enforced_numeric_bounds: tuple[float, float] | Literal[False] | None = (
        -SAFE_INTEGER_MAX,
        SAFE_INTEGER_MAX,
    )
    ignore_schemas: tuple[str, ...] = ()
    """Regular expressions for `$id`; matching schemas are ignored."""
    skip_schema_test_cases: dict[str, tuple[str, ...]] = {}
    """Maps a regular expression for `$id` to the names of checks that matching schemas need not
    pass."""
    should_generate_example: bool = False
    """Examples are not generated here; `examples` that another tool added are kept."""
    # Accepted below: settings that describe what is done anyway or only concern other tools.
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
    """Return the settings of the folder, or the defaults. Raises ConfigError."""
    path = folder / CONFIG_NAME
    if not path.exists():
        return RepositoryConfig()
    document: Any = read_yaml(path)
    try:
        config = msgspec.convert({} if document is None else document, RepositoryConfig)
    except msgspec.ValidationError as error:
        raise ConfigError([f"{path}: {problem_of(error, '', RepositoryConfig)}"]) from error
    problems: list[str] = []
    if not config.content_types or len(set(config.content_types)) < len(config.content_types):
        problems.append("contentTypes: must list yaml, json or both, each once")
    for pattern in (*config.ignore_schemas, *config.skip_schema_test_cases):
        try:
            re.compile(pattern)
        except re.error as error:
            problems.append(f"{pattern!r} is not a regular expression: {error}")
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return config
