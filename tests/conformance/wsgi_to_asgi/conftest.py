"""What tests of several files here start from."""

import pytest

from tests.support.websocket_endings import Ports


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> Ports:
    return Ports(monkeypatch)
