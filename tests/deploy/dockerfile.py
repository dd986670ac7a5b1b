"""Parses a Dockerfile. Only the instructions that ours uses are supported. Pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class DockerfileError(Exception):
    """An unsupported instruction. The message names the line."""


class Step(NamedTuple):
    """One instruction that changes a stage's file system."""

    line: int
    keyword: str
    """RUN, COPY or WORKDIR."""
    value: str
    """A command, a path, or source and destination paths."""
    from_stage: str | None
    """The source stage of COPY; None for the build context."""
    directory: str
    """The working directory: the last WORKDIR."""
    environment: dict[str, str]

    def __str__(self) -> str:
        source = f"--from={self.from_stage} " if self.from_stage else ""
        return f"line {self.line}: {self.keyword} {source}{self.value}"


@dataclass
class Stage:
    """A stage, with its part of the image's configuration."""

    base: str
    name: str | None
    steps: list[Step] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    directory: str = "/"
    user: str = "0:0"
    volumes: list[str] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    stop_signal: str = "SIGTERM"
    health: list[str] = field(default_factory=list)
    health_options: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The environment of a Debian base image."""


def parse(text: str) -> list[Stage]:
    """Return the stages in order. Raises DockerfileError."""
    stages: list[Stage] = []
    for line, keyword, value in _instructions(text):
        if keyword == "FROM":
            stages.append(_stage(line, value))
        elif not stages:
            raise DockerfileError(f"line {line}: {keyword} before any FROM")
        else:
            _apply(stages[-1], line, keyword, value)
    return stages


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line number, keyword and arguments of each instruction."""
    parts: list[str] = []
    began = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        began = began if parts else number
        parts.append(line.strip().removesuffix("\\").strip())
        if not line.rstrip().endswith("\\"):
            keyword, _, value = " ".join(parts).partition(" ")
            yield began, keyword, value.strip()
            parts = []
    if parts:
        raise DockerfileError(f"line {began}: ends in a continuation")


def _stage(line: int, value: str) -> Stage:
    match = re.fullmatch(r"([\w./:-]+)(?: AS ([\w-]+))?", value)
    if match is None:
        raise DockerfileError(f"line {line}: FROM {value} is not understood")
    return Stage(base=match[1], name=match[2], environment={"PATH": PATH})


def _apply(stage: Stage, line: int, keyword: str, value: str) -> None:
    match keyword:
        case "RUN" | "COPY" | "WORKDIR":
            _add_step(stage, line, keyword, value)
        case "ENV":
            expanded = re.sub(r"\$(\w+)", lambda name: stage.environment.get(name[1], ""), value)
            stage.environment |= _pairs(line, expanded)
        case "LABEL":
            stage.labels |= _pairs(line, value)
        case "USER":
            if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", value):
                raise DockerfileError(f"line {line}: USER {value} is not uid:gid of someone")
            stage.user = value
        case "VOLUME":
            stage.volumes.append(_absolute(line, value))
        case "EXPOSE":
            stage.ports += [int(port) for port in value.split()]
        case "STOPSIGNAL":
            stage.stop_signal = value
        case "HEALTHCHECK" | "ENTRYPOINT" | "CMD":
            _add_command(stage, line, keyword, value)
        case _:
            raise DockerfileError(f"line {line}: {keyword} is not understood")


def _add_step(stage: Stage, line: int, keyword: str, value: str) -> None:
    if stage.user != "0:0":
        raise DockerfileError(f"line {line}: {keyword} after USER is not understood")
    source = None
    if keyword == "COPY" and (found := re.match(r"--from=([\w-]+) ", value)):
        source, value = found[1], value[found.end() :]
    if value.startswith(("--", "[")):
        raise DockerfileError(f"line {line}: {keyword} {value} is not understood")
    if keyword == "WORKDIR":
        stage.directory = _absolute(line, value)
    stage.steps.append(Step(line, keyword, value, source, stage.directory, dict(stage.environment)))


def _add_command(stage: Stage, line: int, keyword: str, value: str) -> None:
    if keyword == "HEALTHCHECK":
        options, found, command = value.partition("CMD ")
        if not found:
            raise DockerfileError(f"line {line}: HEALTHCHECK {value} is not understood")
        stage.health_options = _pairs(line, options.replace("--", ""))
        stage.health = _words(line, command)
    elif keyword == "ENTRYPOINT":
        stage.entrypoint, stage.command = _words(line, value), []
    else:
        stage.command = _words(line, value)


def _absolute(line: int, value: str) -> str:
    if not re.fullmatch(r"/[\w./-]*", value):
        raise DockerfileError(f"line {line}: {value} is not a plain absolute path")
    return value


def _pairs(line: int, value: str) -> dict[str, str]:
    words = shlex.split(value)
    if plain := [word for word in words if "=" not in word]:
        raise DockerfileError(f"line {line}: {plain[0]} is not NAME=VALUE")
    return dict(word.split("=", 1) for word in words)


def _words(line: int, value: str) -> list[str]:
    """Parse the exec form, in which the program gets signals itself, without a shell."""
    try:
        words = json.loads(value)
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DockerfileError(f"line {line}: {value} is not a JSON list of words")
    return words
