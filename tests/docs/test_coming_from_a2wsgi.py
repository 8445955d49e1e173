"""docs/coming_from_a2wsgi.md: its code runs, and its names are those of both packages.

What it says of the classes is tried in tests/compat.
"""

import importlib
import re
from importlib.metadata import version

import pytest

from tests.support import pages
from tests.support.processes import PROJECT_ROOT

TEXT = (PROJECT_ROOT / "docs" / "coming_from_a2wsgi.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", pages.blocks("python", TEXT), ids=lambda block: block.line)
def test_the_code_runs(block: pages.Block) -> None:
    names: dict[str, object] = {}
    exec(compile(block.code, "coming_from_a2wsgi.md", "exec"), names)
    assert names["application"].__class__.__module__ == "wsgi_asgi_bridge.compat.a2wsgi.asgi"


def test_the_modules_exist() -> None:
    named = re.findall(r"from ([\w.]*a2wsgi[\w.]*) import", TEXT)
    assert len(named) >= 6
    for module in named:
        importlib.import_module(module.replace("...", "wsgi_asgi_bridge.compat."))


def test_the_version_is_the_one_that_the_tests_compare_with() -> None:
    (described,) = re.findall(r"a2wsgi (\d+\.\d+\.\d+)", TEXT)
    assert described == version("a2wsgi")
