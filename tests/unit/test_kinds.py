"""_kinds.py: WSGI and ASGI apps are told by how they can be called (W-CALL-1, A-CALL-1)."""

import functools
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from werkzeug.middleware.proxy_fix import ProxyFix

from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI
from wsgi_asgi_bridge._kinds import Kind, kind_of


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


def wsgi_with_more(environ: Any, start_response: Any, more: Any = None) -> list[bytes]:
    return []


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


def asgi_without_async(scope: Any, receive: Any, send: Any) -> Any:
    return asgi(scope, receive, send)


class WsgiClass:
    def __init__(self, environ: Any, start_response: Any) -> None: ...


class WsgiObject:
    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        return []

    def bound(self, environ: Any, start_response: Any) -> list[bytes]:
        return []


class AsgiObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Asgi2:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


def asgi_2(scope: Any) -> Any:
    return Asgi2(scope)


def create_app(config: Any = None) -> Any:
    return wsgi


async def create_async() -> Any:
    return asgi


class ClassOfApps:
    def __init__(self, debug: bool = False) -> None: ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


WSGI_APPS: dict[str, Callable[[], Any]] = {
    "function": lambda: wsgi,
    "function with a third parameter": lambda: wsgi_with_more,
    "partial": lambda: functools.partial(wsgi_with_more, more=1),
    "class": lambda: WsgiClass,
    "object": WsgiObject,
    "method": lambda: WsgiObject().bound,
    "middleware": lambda: ProxyFix(wsgi),
    "ASGIToWSGI": lambda: ASGIToWSGI(asgi),
}
ASGI_APPS: dict[str, Callable[[], Any]] = {
    "function": lambda: asgi,
    "function without async": lambda: asgi_without_async,
    "partial": lambda: functools.partial(asgi),
    "object": AsgiObject,
    "WSGIToASGI": lambda: WSGIToASGI(wsgi),
}
ASGI_2_APPS: dict[str, Any] = {"class": Asgi2, "function": asgi_2}
FACTORIES: dict[str, Any] = {
    "function": create_app,
    "async function": create_async,
    "class of apps": ClassOfApps,
}
UNKNOWN: dict[str, Any] = {
    "any arguments": lambda *args, **kwargs: None,
    "one argument": lambda config: wsgi,
    "four": lambda one, two, three, four: None,
    "optional ones": lambda environ=None, start_response=None: None,
    "mock": Mock(),
    "no signature": max,
    "not callable": 5,
}


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Any:
    return request.param()


def made(apps: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("app", apps.values(), ids=apps, indirect=True)


def given(apps: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("app", apps.values(), ids=apps)


@made(WSGI_APPS)
def test_a_wsgi_app(app: Any) -> None:
    """W-CALL-1: the wrong bridge refuses it and says which is the right one."""
    assert kind_of(app) is Kind.WSGI
    assert WSGIToASGI(app).app is app
    with pytest.raises(TypeError, match=r"a WSGI app; ASGIToWSGI takes .* write WSGIToASGI\(app\)"):
        ASGIToWSGI(app)


@made(ASGI_APPS)
def test_an_asgi_app(app: Any) -> None:
    """A-CALL-1: the wrong bridge refuses it and says which is the right one."""
    assert kind_of(app) is Kind.ASGI
    assert ASGIToWSGI(app).app is app
    with pytest.raises(
        TypeError, match=r"an ASGI app; WSGIToASGI takes .* write ASGIToWSGI\(app\)"
    ):
        WSGIToASGI(app)


@given(ASGI_2_APPS)
def test_an_asgi_2_app(app: Any) -> None:
    """A-CALL-4"""
    assert kind_of(app) is Kind.ASGI_2
    assert ASGIToWSGI(app).app is app
    with pytest.raises(TypeError, match="an ASGI 2 app; WSGIToASGI takes"):
        WSGIToASGI(app)


@given(FACTORIES)
@pytest.mark.parametrize("bridge", [WSGIToASGI, ASGIToWSGI])
def test_a_factory(app: Any, bridge: Any) -> None:
    """W-CALL-1, A-CALL-1: what it makes is the app."""
    assert kind_of(app) is Kind.FACTORY
    with pytest.raises(TypeError) as caught:
        bridge(app)
    assert f"{bridge.__name__}({app.__qualname__}())" in str(caught.value)


@given(UNKNOWN)
def test_what_may_be_anything_is_unknown(app: Any) -> None:
    assert kind_of(app) is Kind.UNKNOWN


@given({name: app for name, app in UNKNOWN.items() if callable(app)})
def test_what_may_be_anything_is_taken_at_its_word(app: Any) -> None:
    """W-CALL-1, A-CALL-1: only what is surely wrong is refused."""
    assert WSGIToASGI(app).app is app
    assert ASGIToWSGI(app).app is app


async def with_two(environ: Any, start_response: Any) -> None: ...


def test_an_async_callable_is_no_wsgi_app_whatever_it_takes() -> None:
    """W-CALL-1"""
    with pytest.raises(TypeError, match="an async callable; WSGIToASGI takes a WSGI app"):
        WSGIToASGI(with_two)  # type: ignore[arg-type]
