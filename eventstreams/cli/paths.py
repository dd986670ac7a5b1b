"""Paths on the command line."""

from __future__ import annotations

import os
from typing import Any

import click


class FilePath(click.Path):
    """A path that the system's calls take, whatever they make of it; click lets a NUL through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "\0" in os.fspath(value):
            self.fail(f"{value!a} is no path: it holds a NUL", param, ctx)
        return super().convert(value, param, ctx)
