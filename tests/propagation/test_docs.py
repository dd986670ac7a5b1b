"""The documentation of rule files: its examples load, and every option is described."""

from __future__ import annotations

import re
from pathlib import Path

from eventstreams.propagation import compiling, rule_file
from eventstreams.propagation.functions import FUNCTIONS
from eventstreams.propagation.rule_file import load_rules

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "propagation.md").read_text()
UNUSED = {"report", "consumer", "consumer_batch_size", "disable_ratelimit", "disable_blacklist"}
"""Options of change-propagation that are ignored, or that disable others."""


def test_the_examples_of_the_documentation_load(tmp_path: Path) -> None:
    examples = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert len(examples) == 3
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yaml"
        path.write_text(example)
        assert load_rules(path).rules


def test_the_shipped_example_loads() -> None:
    assert [rule.name for rule in load_rules(ROOT / "config" / "rules.yaml").rules] == [
        "purge_page"
    ]


def test_every_option_is_described() -> None:
    source = "".join(Path(module.__file__).read_text() for module in (compiling, rule_file))
    options = set(re.findall(r'\.(?:take|give)\(\s*"(\w+)"', source)) - UNUSED
    assert len(options) > 40
    missing = {
        option for option in options if f"`{option}`" not in TEXT and f"{option}:" not in TEXT
    }
    assert missing == set()


def test_every_function_of_templates_is_described() -> None:
    assert all(f"`{name}(" in TEXT for name in FUNCTIONS)
