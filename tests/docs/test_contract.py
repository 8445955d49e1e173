"""docs/contract.md: the ids in code and tests stand there, and its ids are named by tests."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTRACT = (ROOT / "docs" / "contract.md").read_text()
KEPT_TEXT, PLANNED_TEXT = CONTRACT.split("\n## Planned\n")

RULE = re.compile(r"^- \*\*([A-Z]+(?:-[A-Z]+)*-\d+)\*\*", re.MULTILINE)
KEPT = RULE.findall(KEPT_TEXT)
PLANNED = RULE.findall(PLANNED_TEXT)

FAMILIES = {rule.rpartition("-")[0] for rule in KEPT + PLANNED}
ID = re.compile(rf"(?<![\w-])(?:{'|'.join(sorted(FAMILIES, key=len, reverse=True))})-\d+(?![\w-])")


def ids_in(folder: str) -> dict[str, set[str]]:
    """The files of `folder` that name each id."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for rule in ID.findall(path.read_text()):
            found.setdefault(rule, set()).add(str(path.relative_to(ROOT)))
    return found


def test_each_rule_has_one_entry() -> None:
    rules = KEPT + PLANNED
    assert len(KEPT) > 70
    assert sorted(rules) == sorted(set(rules))


def test_each_id_in_code_and_in_the_tests_stands_in_the_contract() -> None:
    named = {**ids_in("wsgi_asgi_bridge"), **ids_in("tests")}
    assert {rule: files for rule, files in named.items() if rule not in KEPT} == {}


def test_each_rule_that_is_kept_is_named_by_a_test() -> None:
    assert set(KEPT) - set(ids_in("tests")) == set()
