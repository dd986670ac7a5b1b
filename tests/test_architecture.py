"""The structure of the package: permitted imports, and the files that may use each library."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventstreams

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "eventstreams"
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = [
    {"errors", "metrics", "tasks", "deadlines"},
    {"model", "turns", "process_memory"},
    {"config"},
    {"log", "filters", "schemas", "quota", "producer"},
    {"access"},
    {"fanout", "intake", "relay", "legacy", "demo", "propagation", "verify"},
    {"web", "problems"},
    {"gateway"},
    {"server"},
    {"cli"},
    {"__main__"},
]
"""The layers from the bottom up. Each package may import itself and the layers below."""
SIDEWAYS = {("legacy", "intake"), ("propagation", "intake")}
"""Permitted imports within a layer."""
LEAVES = {"eventstreams.model.event", "eventstreams.model.problem"}
"""Modules that import nothing of the package, so that errors may use their values."""

HOMES = {
    "aiokafka": r"log/kafka/\w+\.py",
    "sqlite3": r"(log/sqlite/\w+|producer/outbox)\.py",
    "starlette": r"web/\w+\.py",
    "sse_starlette": r"web/\w+\.py",
    "httptools": r"server/(http1|framing)\.py",
    "uvicorn": r"server/\w+\.py",
    "uvloop": r"(server/\w+|cli/\w+)\.py",
    "prometheus_client": r"metrics\.py",
    "click": r"cli/\w+\.py",
    "cramjam": r"(fanout/compression|log/kafka/compression|cli/export_files)\.py",
    "mmh3": r"propagation/sampling\.py",
    "regex": r"propagation/matching\.py",
    "sniffio": r"",  # for httpx; see pyproject.toml
    "offapi": r"",  # web/pages.py serves its files and does not import it
    "httpx": (
        r"(propagation/http|web/operators|(cli|relay)/\w+|producer/(producer|delivery)|"
        r"access/key_sets)\.py"
    ),
    "jwt": r"access/(key_sets|tokens)\.py",
    "redis": r"quota/redis_client\.py",
    "yaml": r"(config/yaml_file|schemas/document)\.py",
    "msgspec": (
        r"(config/(settings|catalogue|validation|wording)|schemas/tools/config|(access|server|intake|legacy|model|cli)/\w+|"
        r"log/sqlite/\w+)\.py"
    ),
    "orjson": r"((model|log|quota|access|relay|web|cli|demo|server)/.*|filters/document\.py)",
    "jsonschema_rs": r"schemas/(validation|ajv)\.py",
    "cel_expr_python": r"filters/cel\.py",
}
"""Every third-party library, and sqlite3: the files that may import it."""


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def imports(file: Path) -> Iterator[str]:
    """Return all modules that a file imports, including those under TYPE_CHECKING and in functions.

    A submodule imported from its package counts as the submodule.
    """
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module is not None
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield module if module in MODULES else node.module


def module_of(file: Path) -> str:
    """Return the dotted name of a file of the package."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file) for file in FILES}


def part_of(module: str) -> str | None:
    """Return the part of our package to which a module belongs: errors, model, log, ..."""
    names = module.split(".")
    return names[1] if names[0] == "eventstreams" and len(names) > 1 else None


def layer_of(part: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if part in layer)


def test_every_part_of_the_package_has_a_layer() -> None:
    parts = {f.relative_to(PACKAGE).parts[0].removesuffix(".py") for f in FILES} - {"__init__"}
    assert parts == set().union(*LAYERS)
    assert sum(len(layer) for layer in LAYERS) == len(parts), "in exactly one layer"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_follow_the_layers(file: Path) -> None:
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for module in imports(file):
        other = part_of(module)
        if other is None or other in (part, "__version__"):
            continue
        if part == "errors" and module in LEAVES:
            continue
        down = layer_of(other) < layer_of(part)
        assert down or (part, other) in SIDEWAYS, f"{part} imports {module}"


def test_values_of_errors_import_nothing() -> None:
    for file in FILES:
        if module_of(file) in LEAVES:
            assert not any(module.startswith("eventstreams") for module in imports(file)), file


def test_there_are_no_import_cycles() -> None:
    graph = {module_of(file): set(imports(file)) & MODULES for file in FILES}
    graph.pop("eventstreams")  # the version, which everything may import
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"cycle: {' -> '.join((*path, module))}"
        if module in done or module not in graph:
            return
        for other in sorted(graph[module] - {module}):
            visit(other, (*path, module))
        done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_each_library_is_used_only_where_allowed(file: Path) -> None:
    for module in imports(file):
        home = HOMES.get(module.split(".")[0])
        assert home is None or re.fullmatch(home, name_of(file)), module


def test_every_dependency_is_assigned_to_files() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    [listed] = re.findall(r"^dependencies = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    names = re.findall(r'"([A-Za-z0-9-]+)', listed)
    imported = {"pyyaml": "yaml", "pyjwt": "jwt"}
    modules = {imported.get(n.lower(), n.lower().replace("-", "_")) for n in names}
    assert modules == HOMES.keys() - {"sqlite3"}


def test_the_model_performs_no_io() -> None:
    outside = {"asyncio", "io", "os", "pathlib", "socket", "subprocess", "threading", "time"}
    for file in sorted((PACKAGE / "model").glob("*.py")):
        roots = {module.split(".")[0] for module in imports(file)}
        assert outside.isdisjoint(roots), file
        names = {n.id for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Name)}
        assert "open" not in names, file


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("__init__.py")), ids=name_of)
def test_init_files_contain_only_docstrings(file: Path) -> None:
    if file.parent == PACKAGE:
        return
    body = ast.parse(file.read_text()).body
    if file.parent == PACKAGE / "cli":  # the entry point of the installed command
        assert len(body) == 2
    elif file.parent == PACKAGE / "producer":  # the interface for other programs: only names
        assert {type(node) for node in body} == {ast.Expr, ast.ImportFrom, ast.Assign}
    else:
        assert not body or [type(node) for node in body] == [ast.Expr], "only a docstring"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_file_begins_with_a_docstring(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert not tree.body or ast.get_docstring(tree), "no docstring"


def test_suppressed_security_rules_have_a_reason() -> None:
    files = [*FILES, *(ROOT / "bench").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    for file in files:
        for line in file.read_text().splitlines():
            assert not re.search(r"# noqa: S\d+(, [A-Z]+\d+)*$", line), f"{file}: {line}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_modules_have_no_state_and_patch_nothing(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        assert not isinstance(node, ast.Global)
    for node in ast.parse(file.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        assert not any(isinstance(target, ast.Attribute) for target in targets)


PATCHES_CONSTANTS = {
    "tests/quota/test_failover.py": "the scripts run in Redis, whose clock tests cannot set",
}
"""The tests that may patch a constant, with the reason. Other tests pass it to a constructor."""


def patched_names(file: Path) -> Iterator[str]:
    """Return the attributes that a test sets or patches; "" if the name is not a literal."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            patch = ast.unparse(node.func).split(".")
            if patch[-1] == "setattr" or patch[-2:] in (["mock", "patch"], ["patch", "object"]):
                literals = [a.value for a in node.args[:2] if isinstance(a, ast.Constant)]
                yield str(literals[0]).rpartition(".")[2] if literals else ""


def test_tests_patch_no_constants() -> None:
    for file in sorted((ROOT / "tests").rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        patched = {each for each in patched_names(file) if not each or each.isupper()}
        assert not patched or name in PATCHES_CONSTANTS, f"{name}: {patched}"


def test_the_version_equals_the_newest_of_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == eventstreams.__version__


def test_every_test_named_by_the_invariants_exists() -> None:
    text = (ROOT / "docs" / "INVARIANTS.md").read_text()
    file = ""
    named = re.findall(r"`(tests/[\w/]+(?:\.py)?)?(?:::(\w+))?`", text)
    assert len(named) > 20
    for path, test in named:
        file = path or file
        assert (ROOT / file).exists(), file
        assert not test or f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_test_modules_do_not_import_each_other() -> None:
    for file in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom) or not f"{node.module}.".startswith("tests."):
                continue
            assert node.module is not None
            last = node.module.rpartition(".")[2]
            assert not re.match("test_|conftest$", last), f"{file} imports {node.module}"
            found = ROOT.joinpath(*node.module.split("."))
            assert found.is_dir() or found.with_suffix(".py").exists(), f"{file}: {node.module}"
