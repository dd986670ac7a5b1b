"""Read YAML files so that every mistake has a place: file, line, or path of the value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.constructor import ConstructorError, SafeConstructor

from eventstreams.errors import ConfigError

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Text that cannot be encoded: an escape in YAML may produce half of a pair."""

ALIASED_MAX = 100_000
"""The most values that aliases and merges may add to a document: a few lines could expand to
billions."""
_MERGE = "tag:yaml.org,2002:merge"


class BoundedConstructor(SafeConstructor):
    """Refuses documents that repeat a key, contain themselves, or grow without bound by aliases.

    All of it is checked before any value is built. The library carries out merges (`<<`) by copying
    keys from one mapping into another. Afterwards, a key that a mapping both has and merges, which
    is allowed, could not be distinguished from a duplicate key.
    """

    def construct_document(self, node: yaml.Node) -> Any:
        """Return the value of a document. Raises ConstructorError with the place."""
        _count(node, {})
        return super().construct_document(node)


def _count(node: yaml.Node, counts: dict[int, int | None]) -> int:
    """Return the number of values in a node, with aliases and merges written out.

    `counts` holds those of the nodes that were visited, None for those around this one. Raises
    ConstructorError for a key that appears twice, an alias inside its own value, or more than
    ALIASED_MAX values beyond those that the file itself contains.
    """
    if id(node) in counts:
        known = counts[id(node)]
        if known is None:
            problem = "an alias (*NAME) inside this value refers to the value itself"
            raise ConstructorError(None, None, problem, node.start_mark)
        return known
    counts[id(node)] = None
    count = 1
    if isinstance(node, yaml.SequenceNode):
        count += sum(_count(item, counts) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            count += _count(value, counts)
            if not isinstance(key, yaml.ScalarNode):
                count += _count(key, counts)
            elif key.tag != _MERGE:
                if key.value in keys:
                    problem = f"the key {key.value!r} appears twice"
                    raise ConstructorError(None, None, problem, key.start_mark)
                keys.add(key.value)
    counts[id(node)] = count
    if count - len(counts) > ALIASED_MAX:
        problem = (
            f"aliases (*NAME) and merges (<<) in this value expand to more than {ALIASED_MAX:,} "
            "values"
        )
        raise ConstructorError(None, None, problem, node.start_mark)
    return count


class _Loader(BoundedConstructor, yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Report a value that cannot be converted with its place, such as an impossible date.

        The library's constructors raise whatever the conversion raises, without a place.
        """
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, AttributeError, LookupError) as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"the value is not a valid {kind}; put text in quotes"
            raise ConstructorError(None, None, problem, node.start_mark) from error


def _hint(path: Path) -> str:
    """Return which file was probably meant by a folder, such as one that `init` writes."""
    inside = path / "eventstreams.yaml"
    return f"; did you mean {inside}?" if inside.is_file() else ""


def read_yaml(path: Path) -> Any:
    """Return the document in a YAML file.

    Raises ConfigError with the file and, if known, the line.
    """
    try:
        document = yaml.load(path.read_bytes(), _Loader)  # noqa: S506 - a safe one
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}{_hint(path)}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: nested too deeply"]) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError([f"{path}{where}: not YAML: {reason}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8: {error.reason}"]) from error
    except ValueError as error:  # of the path: a NUL in it
        raise ConfigError([f"{str(path)!a}: {error}"]) from error
    places = [place for place, text in texts(document, "", set()) if _SURROGATE.search(text)]
    if places:
        raise ConfigError(
            [
                f"{path}: {place or 'the file'}: contains half of a surrogate pair"
                for place in places
            ]
        )
    return document


def read_own_yaml(path: Path) -> Any:
    """Return the document in a YAML file of this package, in which there are no mistakes to report.

    Where the library has its parser in C, this is nine times as fast as `read_yaml`.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_bytes(), loader)  # noqa: S506 - both are safe


def texts(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, str]]:
    """Yield the path and text of every string, keys included. Paths can always be encoded."""
    if isinstance(value, str):
        yield path, value
        return
    if id(value) in seen:  # aliases share one object
        return
    seen.add(id(value))
    if isinstance(value, list):
        for n, item in enumerate(cast("list[Any]", value)):
            yield from texts(item, f"{path}[{n}]", seen)
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            name = str(key).encode("utf-8", "backslashreplace").decode()
            where = f"{path}.{name}" if path else name
            yield where, str(key)
            yield from texts(item, where, seen)


Place = tuple[int, int]
"""Line and column, both from 1."""


def read_places(path: Path) -> dict[tuple[str | int, ...], Place]:
    """Return where each value of a file that `read_yaml` has read begins, by its path."""
    places: dict[tuple[str | int, ...], Place] = {}
    root = yaml.compose(path.read_bytes(), _Loader)
    if root is not None:
        _find_places(root, (), places)
    return places


def located(path: Path, problems: Iterable[str]) -> list[str]:
    """Return problems of the form `SETTING: MESSAGE` with the file, and the line where it is known.

    A setting that the file lacks, such as a default, has the line of the section around it.
    """
    try:
        places = {_dotted(key): line for key, (line, _) in read_places(path).items() if key}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        places = {}
    return [f"{path}{_line(problem, places)}: {problem}" for problem in problems]


def _dotted(path: tuple[str | int, ...]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def _line(problem: str, places: Mapping[str, int]) -> str:
    setting = problem.partition(": ")[0]
    while setting:
        for name in (setting, setting.removeprefix("streams.")):  # which a catalogue may leave out
            if name in places:
                return f":{places[name]}"
        setting = setting[: max(setting.rfind("."), setting.rfind("["), 0)]
    return ""


def _find_places(
    node: yaml.Node,
    path: tuple[str | int, ...],
    places: dict[tuple[str | int, ...], Place],
) -> None:
    mark = node.start_mark
    places.setdefault(path, (mark.line + 1, mark.column + 1))
    if isinstance(node, yaml.SequenceNode):
        for n, item in enumerate(node.value):
            _find_places(item, (*path, n), places)
    elif isinstance(node, yaml.MappingNode):
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if key.tag == _MERGE:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            elif isinstance(key, yaml.ScalarNode):
                where = (*path, key.value)
                places[where] = (key.start_mark.line + 1, key.start_mark.column + 1)
                _find_places(value, where, places)
        for each in merged:
            _find_places(each, path, places)
