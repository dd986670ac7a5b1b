"""Print docs/settings.md, made from the settings and the docstrings under their fields."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from eventstreams.config.settings import Section, Settings

_INTRODUCTION = """\
# Settings

<!-- Written by scripts/docs from eventstreams/config/settings.py. Do not edit it here. -->

The settings are one YAML file, named by `--config`. Every setting is optional. A dot in a name is
one level of the file: `http.port` is `port` under `http`. Names end with their unit: `_s` is
seconds, `_ms` milliseconds, `_bytes` bytes. Paths of files and folders
are relative to the settings file; those of options such as `--data-dir` are relative to the working
directory. Without `--config`, the log is in `./data`.

The gateway rejects unknown settings and invalid values at start, all at once, each with its path.
`eventstreams check --config FILE` does the same without starting anything. SIGHUP [applies some
settings](streams.md#read-again-without-a-restart) without a restart.
"""
_SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_TIMES = ((86400, "day"), (3600, "hour"), (60, "minute"))


def main() -> None:
    print(_INTRODUCTION)
    print("\n".join(_table_lines(Settings, "")))


def _table_lines(section: type[Section], path: str) -> Iterator[str]:
    """Yield the table of a section's own settings, then the sections in it."""
    descriptions = _descriptions(section)
    hints = get_type_hints(section)
    inner: list[tuple[str, type[Section]]] = []
    rows: list[str] = []
    for field in msgspec.structs.fields(section):
        where = f"{path}.{field.name}" if path else field.name
        kind = hints[field.name]
        if inspect.isclass(kind) and issubclass(kind, Section):
            inner.append((where, kind))
            continue
        description = descriptions[field.name]
        if choices := _choices_not_in(description, kind):
            description += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
        rows.append(f"| `{where}` | {_default(field)} | {description} |")
    if path:
        yield f"\n## `{path}`\n\n{' '.join((inspect.getdoc(section) or '').split())}\n"
    yield "| Setting | Default | Meaning |\n|---|---|---|"
    yield from rows
    for where, kind in inner:
        yield from _table_lines(kind, where)


def _descriptions(section: type[Section]) -> dict[str, str]:
    """Return the docstring under each field. Raises KeyError later for a field without one."""
    [tree] = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _choices_not_in(description: str, kind: Any) -> list[str]:
    """Return the allowed texts, unless the description explains them itself."""
    literals = [kind, *get_args(kind)]
    values = [v for each in literals if get_origin(each) is Literal for v in get_args(each)]
    texts = [value for value in values if isinstance(value, str)]
    explained = all(f"`{text}`" in description for text in texts)
    return [] if explained else texts


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    # YAML would read 1.0 and 1 alike; the shorter one is what people write.
    plain = int(value) if isinstance(value, float) and value.is_integer() else value
    return f"`{json.dumps(plain)}`{_readable(field.name, plain)}"


def _readable(name: str, value: Any) -> str:
    """Return " (4 MiB)" and the like for a number that is hard to read."""
    units = _TIMES if name.endswith("_s") else _SIZES if "bytes" in name else ()
    if not isinstance(value, int | float):
        return ""
    for size, unit in units:
        if (value >= 2 * size and value % size == 0) or value == size:
            count = int(value // size)
            plural = "s" if units is _TIMES and count > 1 else ""
            return f" ({count} {unit}{plural})"
    return ""


if __name__ == "__main__":
    main()
