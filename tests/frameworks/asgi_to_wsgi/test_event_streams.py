"""Event streams of five frameworks, which take no thread of the server (R-1 to R-5)."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from django.core.asgi import get_asgi_application
from django.http import StreamingHttpResponse
from django.test import override_settings
from django.urls import clear_url_caches, path
from fastapi import FastAPI
from fastapi.responses import StreamingResponse as FastAPIStream
from flask import Flask
from litestar import Litestar, get
from litestar.response import ServerSentEvent
from quart import Quart, Response
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import StreamingResponse
from starlette.routing import Route
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from tests.support.event_apps import becomes_released
from tests.support.fake_wsgi_server import Gate, must_become, must_happen
from tests.support.served_connection import served
from wsgi_asgi_bridge import ASGIToWSGI

FIRST, SECOND = b"data: first\n\n", b"data: second\n\n"


class Steps:
    """What an app waits for before its second event, and what it says when its stream ends."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.ended = threading.Event()

    async def events(self) -> AsyncIterator[bytes]:
        try:
            yield FIRST
            await self.gate.wait()
            yield SECOND
        finally:
            self.ended.set()

    def sync_events(self) -> Iterator[bytes]:
        try:
            yield FIRST
            self.gate.wait_in_thread()
            yield SECOND
        finally:
            self.ended.set()


def starlette_app(steps: Steps) -> Any:
    async def endpoint(request: Any) -> Any:
        return StreamingResponse(steps.events(), media_type="text/event-stream")

    async def stamped(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    return Starlette(
        routes=[Route("/", endpoint)],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=stamped)],
    )


def fastapi_app(steps: Steps) -> Any:
    app = FastAPI()

    @app.get("/")
    async def endpoint() -> Any:
        return FastAPIStream(steps.sync_events(), media_type="text/event-stream")

    @app.post("/")
    async def chat(question: dict[str, str]) -> Any:
        assert question == {"text": "why?"}
        return FastAPIStream(steps.events(), media_type="text/event-stream")

    return app


def quart_app(steps: Steps) -> Any:
    app = Quart("event_streams")

    @app.get("/")
    async def endpoint() -> Any:
        response = Response(steps.events(), mimetype="text/event-stream")
        response.timeout = None
        return response

    return app


def litestar_app(steps: Steps) -> Any:
    async def texts() -> AsyncIterator[str]:
        async for event in steps.events():
            yield event.decode().removeprefix("data: ").rstrip()

    @get("/")
    async def endpoint() -> ServerSentEvent:
        return ServerSentEvent(texts())

    return Litestar([endpoint])


def django_app(steps: Steps) -> Any:
    def endpoint(request: Any) -> Any:
        return StreamingHttpResponse(steps.events(), content_type="text/event-stream")

    urls.urlpatterns = [path("", endpoint)]  # type: ignore[attr-defined]
    clear_url_caches()
    return get_asgi_application()


urls = ModuleType("event_stream_urls")

APPS: dict[str, Callable[[Steps], Any]] = {
    "starlette": starlette_app,
    "fastapi": fastapi_app,
    "quart": quart_app,
    "litestar": litestar_app,
    "django": django_app,
}


@pytest.fixture(params=APPS)
def framework(request: pytest.FixtureRequest, django_database: Any) -> Iterator[str]:
    with override_settings(ROOT_URLCONF=urls):
        yield request.param
    clear_url_caches()


def test_an_event_stream_takes_no_thread(framework: str) -> None:
    """R-1, R-4: the thread is free before the second event, and the stream comes whole."""
    steps = Steps()
    with ASGIToWSGI(APPS[framework](steps)) as bridge, served(bridge) as connection:
        connection.ask()
        connection.thread_is_free()
        becomes_released(bridge)
        assert connection.read_head().headers.get_content_type() == "text/event-stream"
        got = connection.response.read1()
        assert b"data: first" in got
        steps.gate.open()
        got += connection.read_rest()
        assert got.replace(b"\r", b"").count(b"data: second\n\n") == 1
        must_happen(steps.ended, "the end of the stream")
        connection.close()
        must_become(lambda: bridge.stats().in_flight == 0, "the end of the request")
        assert (bridge.stats().completed, bridge.stats().failed) == (1, 0)


@pytest.mark.parametrize("framework", [name for name in APPS if name != "fastapi"], indirect=True)
def test_a_client_that_leaves_ends_the_stream(framework: str) -> None:
    """R-4: the framework learns of it while the stream is silent."""
    steps = Steps()
    with ASGIToWSGI(APPS[framework](steps)) as bridge, served(bridge) as connection:
        connection.ask()
        connection.read_head()
        assert b"data: first" in connection.response.read1()
        connection.close()
        must_happen(steps.ended, "the end of the stream")
        must_become(lambda: bridge.stats().in_flight == 0, "the end of the request")
        assert (bridge.stats().disconnected, bridge.stats().failed) == (1, 0)


def test_a_chat_by_post() -> None:
    """R-1: FastAPI has read the question before it answers."""
    steps = Steps()
    with ASGIToWSGI(fastapi_app(steps)) as bridge, served(bridge) as connection:
        connection.ask(method="POST", body=b'{"text": "why?"}')
        connection.thread_is_free()
        steps.gate.open()
        connection.read_head()
        assert connection.read_rest() == FIRST + SECOND


def test_an_app_that_is_mounted_in_flask() -> None:
    """R-2: neither Flask's `__call__` nor werkzeug's dispatcher wants the body."""
    steps = Steps()
    flask_app = Flask(__name__)
    with ASGIToWSGI(starlette_app(steps)) as bridge:
        site = DispatcherMiddleware(flask_app.wsgi_app, {"/new": bridge})
        flask_app.wsgi_app = site  # type: ignore[method-assign]
        with served(flask_app) as connection:
            connection.ask("/new/")
            connection.thread_is_free()
            becomes_released(bridge)
            steps.gate.open()
            connection.read_head()
            assert connection.read_rest() == FIRST + SECOND
