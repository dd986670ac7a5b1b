"""The shape of the package: who may import whom, where each library lives, how long a file gets."""

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
    {"errors", "metrics", "signals"},
    {"yaml_file", "contradictions", "settings", "model", "tasks", "turns", "memory"},
    {"log", "schemas", "demo_events", "declarations", "producer", "ledger"},
    {"logs", "fanout", "intake", "legacy", "demo", "access"},
    {"web", "opening", "policies"},
    {"gateway"},
    {"server", "workers"},
    {"cli"},
    {"__main__"},
]
"""From the bottom up: each may import what is below it, and its own package."""
SIDEWAYS = {
    ("server", "workers"),
    ("model", "settings"),
    ("model", "yaml_file"),
    ("settings", "yaml_file"),
    ("settings", "contradictions"),
    ("demo", "demo_events"),
    ("legacy", "intake"),
    ("policies", "opening"),
}
"""Within a layer: who may import whom all the same."""

HOMES = {
    "aiokafka": r"log/kafka\w*\.py",
    "sqlite3": r"(log/sqlite\w*|producer/outbox)\.py",
    "starlette": r"web/\w+\.py",
    "sse_starlette": r"web/\w+\.py",
    "httptools": r"server/(protocol|framing)\.py",
    "uvicorn": r"server/\w+\.py",
    "uvloop": r"(server/\w+|cli/\w+)\.py",
    "prometheus_client": r"metrics\.py",
    "click": r"cli/\w+\.py",
    "cramjam": r"(fanout/compression|log/kafka_compression)\.py",
    "httpx": r"(cli/\w+|producer/(producer|delivery)|access/jwks)\.py",
    "jwt": r"access/(jwks|tokens)\.py",
    "redis": r"ledger/redis_shared\.py",
    "yaml": r"(yaml_file|schemas/document)\.py",
    "msgspec": (
        r"(settings|schemas/config|(access|server|intake|legacy|model|cli)/\w+|log/sqlite\w*)\.py"
    ),
    "orjson": r"((model|log|ledger|access|web|cli|demo|logs).*|fanout/document)\.py",
    "jsonschema_rs": r"schemas/validation\.py",
    "cel_expr_python": r"fanout/cel(_runtime)?\.py",
}
"""Every third-party library, and sqlite3: the files that may import it."""

LINES_MAX = 350
LONGER: dict[str, int] = {
    "errors.py": 392,
    "fanout/feed.py": 371,
    "fanout/hub.py": 363,
    "fanout/subscription.py": 391,
    "log/kafka_follower.py": 371,
    "model/position.py": 366,
    "server/protocol.py": 411,
    "settings.py": 380,
}
"""Files that have outgrown the limit and are to be taken apart, not to grow on."""


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def imports(file: Path) -> Iterator[str]:
    """Modules that are imported at run time, wherever in the file."""
    todo: list[ast.AST] = [ast.parse(file.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module is not None
            if node.module == "eventstreams":
                yield from (f"eventstreams.{alias.name}" for alias in node.names)
            else:
                yield node.module
        todo += ast.iter_child_nodes(node)


def part_of(module: str) -> str | None:
    """errors, model, log, ...: the part of our package that a module belongs to."""
    names = module.split(".")
    return names[1] if names[0] == "eventstreams" and len(names) > 1 else None


def layer_of(part: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if part in layer)


def test_every_part_of_the_package_has_a_layer() -> None:
    parts = {f.relative_to(PACKAGE).parts[0].removesuffix(".py") for f in FILES} - {"__init__"}
    assert parts == set().union(*LAYERS)
    assert sum(len(layer) for layer in LAYERS) == len(parts), "and only one"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_down(file: Path) -> None:
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for module in imports(file):
        other = part_of(module)
        if other is None or other in (part, "__version__"):
            continue
        down = layer_of(other) < layer_of(part)
        assert down or (part, other) in SIDEWAYS, f"{part} imports {module}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_libraries_stay_in_their_homes(file: Path) -> None:
    for module in imports(file):
        home = HOMES.get(module.split(".")[0])
        assert home is None or re.fullmatch(home, name_of(file)), module


def test_every_dependency_has_a_home() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    [listed] = re.findall(r"^dependencies = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    names = re.findall(r'"([A-Za-z-]+)', listed)
    imported = {"pyyaml": "yaml", "pyjwt": "jwt"}
    modules = {imported.get(n.lower(), n.lower().replace("-", "_")) for n in names}
    assert modules == HOMES.keys() - {"sqlite3"}


def test_the_model_does_no_input_or_output() -> None:
    for file in sorted((PACKAGE / "model").glob("*.py")):
        assert {"asyncio", "socket", "time", "threading"}.isdisjoint(imports(file)), file


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("__init__.py")), ids=name_of)
def test_init_files_hold_docstrings_at_most_but_the_packages_own(file: Path) -> None:
    if file.parent == PACKAGE:
        return
    body = ast.parse(file.read_text()).body
    if file.parent == PACKAGE / "cli":  # the entry point of the installed command
        assert len(body) == 2
    elif file.parent == PACKAGE / "producer":  # what others import: names alone
        assert {type(node) for node in body} == {ast.Expr, ast.ImportFrom, ast.Assign}
    else:
        assert not body or [type(node) for node in body] == [ast.Expr], "a docstring, if anything"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_file_is_too_long(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= LONGER.get(name_of(file), LINES_MAX)


def test_what_was_too_long_is_taken_off_the_list_when_it_is_not() -> None:
    for name in LONGER:
        assert len((PACKAGE / name).read_text().splitlines()) > LINES_MAX, name


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_says_in_its_first_lines_what_it_is_for(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert not tree.body or ast.get_docstring(tree), "no docstring"


def test_whoever_passes_over_a_rule_of_security_says_why() -> None:
    files = [*FILES, *(ROOT / "bench").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    for file in files:
        for line in file.read_text().splitlines():
            assert not re.search(r"# noqa: S\d+(, [A-Z]+\d+)*$", line), f"{file}: {line}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_module_patches_another_or_holds_state(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        assert not isinstance(node, ast.Global)
    for node in ast.parse(file.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        assert not any(isinstance(target, ast.Attribute) for target in targets)


def test_the_version_is_the_newest_of_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == eventstreams.__version__


def test_every_test_that_the_invariants_name_is_there() -> None:
    text = (ROOT / "docs" / "INVARIANTS.md").read_text()
    file = ""
    named = re.findall(r"`(tests/[\w/]+(?:\.py)?)?(?:::(\w+))?`", text)
    assert len(named) > 20
    for path, test in named:
        file = path or file
        assert (ROOT / file).exists(), file
        assert not test or f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"
