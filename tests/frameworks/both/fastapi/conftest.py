"""FastAPI's documented features, driven by its `TestClient`, natively and through both bridges."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from fastapi import (
    FastAPI,
)
from fastapi.testclient import TestClient

from tests.frameworks.both_bridges import Served

ClientOf = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def client_of(asgi_served: Served) -> ClientOf:
    """FastAPI's client of an app, inside its lifespan; what the app still does after its responses
    is over when the block is left.
    """

    @contextlib.contextmanager
    def client_of(app: FastAPI, **options: Any) -> Iterator[TestClient]:
        with asgi_served(app) as served, TestClient(served, **options) as client:
            yield client

    return client_of


@pytest.fixture
def app() -> FastAPI:
    return FastAPI()
