"""a2wsgi and what stands in for it: most tests here run on both."""

from typing import Any

import a2wsgi
import pytest

from wsgi_asgi_bridge.compat import a2wsgi as compat

BOTH = {"a2wsgi": a2wsgi, "ours": compat}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # a2wsgi knows no other


@pytest.fixture(params=BOTH.values(), ids=BOTH)
def adapter(request: pytest.FixtureRequest) -> Any:
    return request.param
