"""compat.a2wsgi has the modules and names of a2wsgi that programs import; its examples run."""

import importlib
import inspect
import typing
from typing import Any

import a2wsgi
import pytest

from tests.support.fake_wsgi_server import environ_for, hello
from wsgi_asgi_bridge.compat import a2wsgi as compat

TYPING = ("wsgi_typing", "asgi_typing")
OURS = "wsgi_asgi_bridge.compat.a2wsgi"


def own_names(module: Any) -> set[str]:
    """What a module defines, without what it imports."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and name not in vars(typing)
        and name != "TracebackType"
    }


def test_the_package_has_the_same_names() -> None:
    assert set(compat.__all__) == set(a2wsgi.__all__)


@pytest.mark.parametrize("name", TYPING)
def test_the_types_have_the_same_names(name: str) -> None:
    theirs = importlib.import_module(f"a2wsgi.{name}")
    ours = importlib.import_module(f"{OURS}.{name}")
    assert own_names(theirs) - {"StartResponse", "InputStream", "ErrorStream"} <= set(ours.__all__)
    assert set(ours.__all__) <= own_names(theirs)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("wsgi", "WSGIMiddleware"),
        ("wsgi", "WSGIResponder"),
        ("asgi", "ASGIMiddleware"),
        ("asgi", "ASGIResponder"),
    ],
)
def test_the_modules_have_the_classes_that_programs_import(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(f"a2wsgi.{module}"), name)
    assert hasattr(importlib.import_module(f"{OURS}.{module}"), name)


@pytest.mark.parametrize("name", a2wsgi.__all__)
def test_the_constructors_take_the_same(name: str) -> None:
    def parameters(owner: Any) -> list[tuple[str, Any, Any]]:
        found = inspect.signature(getattr(owner, name)).parameters.values()
        return [(each.name, each.kind, each.default) for each in found]

    assert parameters(compat) == parameters(a2wsgi)


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["asgi.scope"]["path"].encode()]


async def test_the_examples_of_a_wsgi_app_run() -> None:
    """README of a2wsgi: plain, `workers=15`, `send_queue_size=15`, `environ["asgi.scope"]`."""
    import httpx

    for options in ({}, {"workers": 15}, {"send_queue_size": 15}):
        middleware = compat.WSGIMiddleware(wsgi_app, **options)
        transport = httpx.ASGITransport(middleware)
        async with httpx.AsyncClient(transport=transport, base_url="http://site") as client:
            assert (await client.get("/path")).text == "/path"
        await middleware.bridge.aclose()


def test_the_examples_of_an_asgi_app_run() -> None:
    """README of a2wsgi: plain, `wait_time=5.0`."""
    for options in ({}, {"wait_time": 5.0}):
        middleware = compat.ASGIMiddleware(hello, **options)
        assert b"".join(middleware(environ_for(), lambda *_: lambda data: None)) == b"hello"
        middleware.bridge.close()
