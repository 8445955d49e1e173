"""Starlette's documented features, driven by its `TestClient`, natively and through both bridges.

On all loops that Starlette runs on; the private loop is of the outer one's kind.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.frameworks.both_bridges import Served

ClientOf = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def client_of(asgi_served: Served, anyio_backend: tuple[str, dict[str, Any]]) -> ClientOf:
    """Starlette's client of an app, inside its lifespan; what the app still does after its
    responses is over when the block is left.
    """
    backend, backend_options = anyio_backend

    @contextlib.contextmanager
    def client_of(app: Any, **options: Any) -> Iterator[TestClient]:
        loop = {"backend": backend, "backend_options": backend_options}
        with (
            asgi_served(app, backend=backend) as served,
            TestClient(served, **loop, **options) as client,
        ):
            yield client

    return client_of
