"""Each framework's app is told by its call; the wrong bridge refuses it (W-CALL-1, A-CALL-1)."""

from collections.abc import Callable
from typing import Any

import bottle
import falcon
import falcon.asgi
import pytest
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from fastapi import FastAPI
from flask import Flask
from litestar import Litestar
from pyramid.config import Configurator
from quart import Quart
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI
from wsgi_asgi_bridge._kinds import Kind, kind_of

pytestmark = pytest.mark.usefixtures("configured_django")

WSGI_APPS: dict[str, Callable[[], Any]] = {
    "Flask": lambda: Flask("kinds"),
    "Flask's wsgi_app": lambda: Flask("kinds").wsgi_app,
    "werkzeug's middleware": lambda: ProxyFix(Flask("kinds")),
    "Bottle": bottle.Bottle,
    "Falcon": falcon.App,
    "Pyramid": lambda: Configurator().make_wsgi_app(),
    "Django": get_wsgi_application,
}
ASGI_APPS: dict[str, Callable[[], Any]] = {
    "FastAPI": FastAPI,
    "Starlette": Starlette,
    "Starlette's middleware": lambda: GZipMiddleware(Starlette()),
    "Quart": lambda: Quart("kinds"),
    "Litestar": lambda: Litestar([]),
    "Falcon": falcon.asgi.App,
    "Django": get_asgi_application,
}


@pytest.mark.parametrize("make", WSGI_APPS.values(), ids=WSGI_APPS)
def test_a_wsgi_app(make: Callable[[], Any]) -> None:
    """W-CALL-1"""
    app = make()
    assert kind_of(app) is Kind.WSGI
    assert WSGIToASGI(app).app is app
    with pytest.raises(TypeError, match=r"a WSGI app; ASGIToWSGI takes .* write WSGIToASGI\(app\)"):
        ASGIToWSGI(app)


@pytest.mark.parametrize("make", ASGI_APPS.values(), ids=ASGI_APPS)
def test_an_asgi_app(make: Callable[[], Any]) -> None:
    """A-CALL-1"""
    app = make()
    assert kind_of(app) is Kind.ASGI
    assert ASGIToWSGI(app).app is app
    with pytest.raises(
        TypeError, match=r"an ASGI app; WSGIToASGI takes .* write ASGIToWSGI\(app\)"
    ):
        WSGIToASGI(app)
