"""Fixtures that several unit tests share."""

from collections.abc import Iterator

import pytest

from tests.support.interleaving import HandTurnedLoop
from tests.support.worker_pools import Pools


@pytest.fixture
def loop() -> HandTurnedLoop:
    """A loop that the test turns by hand."""
    return HandTurnedLoop()


@pytest.fixture
def pools() -> Iterator[Pools]:
    """Makes thread pools, and ends them after the test."""
    pools = Pools()
    yield pools
    pools.end()
