"""Executes the steps of a Dockerfile in folders: `python -m tests.deploy.build BASE WORK`.

BASE is the root of a Debian with Python, which replaces the image of FROM. The last stage is
WORK/image. scripts/container-check runs it in a separate mount namespace.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.deploy.context import Context
from tests.deploy.dockerfile import Stage, Step, parse
from tests.deploy.root import command_in, mount_devices, mount_network

TOP = Path(__file__).parents[2]


def build(base: Path, work: Path) -> None:
    """Raises CalledProcessError if a step fails, FileNotFoundError if there is nothing to copy."""
    stages = parse((TOP / "Dockerfile").read_text())
    roots: dict[str, Path] = {}
    context = Context(TOP)
    done = 0
    for stage in stages:
        last = stage is stages[-1]
        root = work / ("image" if last else f"stage-{stage.name}")
        subprocess.run(["cp", "-a", "--reflink=auto", base, root], check=True)
        _carry_out(stage, root, roots, context)
        done += len(stage.steps)
        if stage.name is not None:
            roots[stage.name] = root
    _say(f"{done} steps of {len(stages)} stages carried out")


def _carry_out(stage: Stage, root: Path, roots: Mapping[str, Path], context: Context) -> None:
    mount_devices(root)
    certificates = mount_network(root, os.environ.get("PIP_CERT"))
    of_pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    of_pip.pop("PIP_FIND_LINKS", None)  # a folder of this machine, not of the image
    if certificates is not None:
        of_pip["PIP_CERT"] = certificates
    for step in stage.steps:
        _say(str(step))
        match step.keyword:
            case "WORKDIR":
                (root / step.value[1:]).mkdir(parents=True, exist_ok=True)
            case "COPY":
                _copy(step, root, roots, context)
            case _:
                command = command_in(
                    root,
                    ["/bin/sh", "-c", step.value],
                    environment={**of_pip, **step.environment},
                    directory=step.directory,
                )
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _copy(step: Step, root: Path, roots: Mapping[str, Path], context: Context) -> None:
    *sources, destination = step.value.split()
    into = destination.endswith("/") or len(sources) > 1
    target = root / os.path.join(step.directory, destination)[1:]
    if step.from_stage is None:
        _say(f"  {context.copy(sources, target, into=into)} files")
        return
    (source,) = sources
    target.mkdir(parents=True, exist_ok=True)
    below = roots[step.from_stage] / source[1:]
    subprocess.run(["cp", "-a", f"{below}/.", target], check=True)


def _say(text: str) -> None:
    print(f"    {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
