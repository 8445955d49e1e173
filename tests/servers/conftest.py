"""The servers that the tests of this folder share."""

from collections.abc import Iterator

import pytest

from tests.support.kept import KeptServers

MOST_KEPT = 16
"""In one process of pytest's; some 60 MB each."""


@pytest.fixture(scope="session")
def kept() -> Iterator[KeptServers]:
    kept = KeptServers(MOST_KEPT)
    yield kept
    kept.end_all()
