"""docs/diagrams.py: each diagram of the pages is drawn whole, with no request to another site."""

import runpy
import xml.etree.ElementTree as ElementTree

import pytest

from tests.support import pages
from tests.support.processes import PROJECT_ROOT

DRAWN = [path for path, text in pages.PAGES.items() if "```mermaid" in text]
HOOK = runpy.run_path(str(PROJECT_ROOT / "docs" / "diagrams.py"))


@pytest.mark.parametrize("path", DRAWN)
def test_each_diagram_is_drawn(path: str) -> None:
    text = pages.PAGES[path]
    page = HOOK["on_page_markdown"](text, page=None)
    assert "```mermaid" not in page
    drawings = [line for line in page.splitlines() if line.startswith("<svg ")]
    for block, drawing in zip(pages.blocks("mermaid", text), drawings, strict=True):
        words = [element.text for element in ElementTree.fromstring(drawing).iter("text")]
        for line in block.code.splitlines()[1:]:
            assert line.partition(" as " if " as " in line else ": ")[2] in words


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="'loop forever' is neither"):
        HOOK["svg"]("participant A as app\nloop forever\n")
