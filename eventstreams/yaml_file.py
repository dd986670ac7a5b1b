"""YAML files read so that every mistake has a place: file, line, or path of the value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.constructor import ConstructorError

from eventstreams.errors import ConfigError

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Text that can't be encoded: an escape in YAML may stand for half of a pair."""


_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A date without such a day, say, is found only when it is made; here its place is known.

        The library's own constructors let anything through that a conversion raises.
        """
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, AttributeError, LookupError) as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"the value is no {kind}; text stands in quotes"
            raise ConstructorError(None, None, problem, node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A key that stands there twice hides what the first one says, a scope for example."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    problem = f"{key.value!r} stands there twice"
                    raise ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The document in a YAML file. Raises ConfigError with the file and, if known, the line."""
    try:
        document = yaml.load(path.read_bytes(), _Loader)  # noqa: S506 - a safe one
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error
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
            [f"{path}: {place or 'the file'}: holds half of a surrogate pair" for place in places]
        )
    return document


def texts(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, str]]:
    """All strings, names too, with where they are; that can be encoded, whatever they hold."""
    if isinstance(value, str):
        yield path, value
        return
    if id(value) in seen:  # an alias may lead to where it stands
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
