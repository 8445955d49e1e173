"""Flask's documented features, driven by its own test client, natively and through both bridges."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import flask
import pytest
from flask.testing import FlaskClient

from tests.frameworks.both_bridges import Served

ClientOf = Callable[[flask.Flask], AbstractContextManager[FlaskClient]]


@pytest.fixture
def client_of(wsgi_served: Served) -> ClientOf:
    """Flask's client of an app whose `wsgi_app` is wrapped, as Flask tells middleware to do."""

    @contextlib.contextmanager
    def client_of(app: flask.Flask) -> Iterator[FlaskClient]:
        with wsgi_served(app.wsgi_app) as app.wsgi_app:
            yield app.test_client()

    return client_of


@pytest.fixture
def app() -> flask.Flask:
    app = flask.Flask("features")
    app.secret_key = "not a secret"
    return app
