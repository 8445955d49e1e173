"""docs/tutorials/: a newcomer does all that the page says, and sees what it shows."""

from pathlib import Path

import pytest

from tests.support import pages
from tests.support.walkthrough import Walk

TUTORIALS = [path for path in pages.PAGES if path.startswith("docs/tutorials/")]


@pytest.mark.parametrize("path", TUTORIALS)
def test_a_newcomer_follows(path: str, tmp_path: Path) -> None:
    with Walk(pages.PAGES[path], tmp_path) as walk:
        walk.follow()
