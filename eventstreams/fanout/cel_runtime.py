"""Load Google's CEL runtime when the first filter is compiled.

The runtime, cel-expr-python, is a compiled library that is published for CPython 3.11 to 3.14 on
glibc Linux, macOS and Windows, without its source. Everything but `filter=` works without it.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from eventstreams.errors import FiltersUnavailable


def load_runtime() -> ModuleType:
    """Return the module `cel_expr_python.cel`. Raises FiltersUnavailable where it is missing."""
    try:
        return importlib.import_module("cel_expr_python.cel")
    except ImportError as error:
        raise FiltersUnavailable(
            "filter= is not available here, because the package cel-expr-python is not installed "
            "or cannot be loaded; everything else works without it"
        ) from error
