"""What mypy and pyright must accept as it stands, without a cast and without an ignored line."""

import asyncio
import wsgiref.simple_server
import wsgiref.types
import wsgiref.validate
from functools import partial
from typing import TYPE_CHECKING, assert_type

import asgiref.typing
import httpx
import hypercorn.asyncio
import hypercorn.typing
import litestar
import litestar.types
import starlette.types
import uvicorn
import werkzeug.test
from fastapi import FastAPI
from fastapi.testclient import TestClient as FastAPITestClient
from hypercorn.config import Config as HypercornConfig
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from starlette.testclient import TestClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.serving import run_simple

from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI
from wsgi_asgi_bridge.asgi_to_wsgi import ASGIToWSGIStats
from wsgi_asgi_bridge.compat import a2wsgi
from wsgi_asgi_bridge.compat.a2wsgi.wsgi_typing import Environ, IterableChunks, StartResponse
from wsgi_asgi_bridge.typing import ASGIApp, Backend, LifespanMode, ReleaseMode, WSGIApp
from wsgi_asgi_bridge.wsgi_to_asgi import WSGIToASGIStats

from . import apps, untyped_apps

if TYPE_CHECKING:
    import _typeshed.wsgi


def wsgi_apps(
    standard: wsgiref.types.WSGIApplication,
    typeshed: "_typeshed.wsgi.WSGIApplication",
    ours: WSGIApp,
) -> None:
    WSGIToASGI(apps.flask_app)
    WSGIToASGI(apps.flask_app.wsgi_app)
    WSGIToASGI(apps.django_wsgi_app)
    WSGIToASGI(apps.bottle_app)
    WSGIToASGI(apps.falcon_app)
    WSGIToASGI(apps.pyramid_app)
    WSGIToASGI(apps.wsgi_function)
    WSGIToASGI(apps.typeshed_function)
    WSGIToASGI(apps.loosely_typed_function)
    WSGIToASGI(apps.closely_typed_function)
    WSGIToASGI(apps.generator_function)
    WSGIToASGI(apps.WSGIObject())
    WSGIToASGI(apps.WSGIObject().app)
    WSGIToASGI(apps.WSGIClass)
    WSGIToASGI(partial(apps.wsgi_function))
    WSGIToASGI(lambda environ, start_response: [b""])
    WSGIToASGI(untyped_apps.wsgi_function)
    WSGIToASGI(untyped_apps.WSGIObject())
    WSGIToASGI(standard)
    WSGIToASGI(typeshed)
    WSGIToASGI(ours)
    WSGIToASGI("myapp.main:app")
    WSGIToASGI(ProxyFix(apps.flask_app))
    WSGIToASGI(wsgiref.validate.validator(apps.wsgi_function))


def asgi_apps(
    three: asgiref.typing.ASGI3Application,
    two: asgiref.typing.ASGI2Application,
    either: asgiref.typing.ASGIApplication,
    starlettes: starlette.types.ASGIApp,
    litestars: litestar.types.ASGIApp,
    hypercorns: hypercorn.typing.ASGIFramework,
    ours: ASGIApp,
) -> None:
    ASGIToWSGI(apps.starlette_app)
    ASGIToWSGI(apps.fastapi_app)
    ASGIToWSGI(apps.quart_app)
    ASGIToWSGI(apps.quart_app.asgi_app)
    ASGIToWSGI(apps.litestar_app)
    ASGIToWSGI(apps.django_asgi_app)
    ASGIToWSGI(apps.falcon_asgi_app)
    ASGIToWSGI(apps.asgiref_function)
    ASGIToWSGI(apps.starlette_function)
    ASGIToWSGI(apps.litestar_function)
    ASGIToWSGI(apps.dict_function)
    ASGIToWSGI(apps.ASGIObject())
    ASGIToWSGI(apps.ASGI2Class)
    ASGIToWSGI(apps.asgi2_function)
    ASGIToWSGI(partial(apps.starlette_function))
    ASGIToWSGI(untyped_apps.asgi_function)
    ASGIToWSGI(untyped_apps.ASGIObject())
    ASGIToWSGI(untyped_apps.ASGI2Class)
    ASGIToWSGI(three)
    ASGIToWSGI(two)
    ASGIToWSGI(either)
    ASGIToWSGI(starlettes)
    ASGIToWSGI(litestars)
    ASGIToWSGI(hypercorns)
    ASGIToWSGI(ours)
    ASGIToWSGI("myapp.main:app")
    ASGIToWSGI(GZipMiddleware(apps.starlette_app))


def both_bridges() -> None:
    ASGIToWSGI(WSGIToASGI(apps.flask_app))
    WSGIToASGI(ASGIToWSGI(apps.fastapi_app))


def as_asgi_app(bridge: WSGIToASGI) -> None:
    _asgiref_app: asgiref.typing.ASGI3Application = bridge
    _either: asgiref.typing.ASGIApplication = bridge
    _starlette_app: starlette.types.ASGIApp = bridge
    _litestar_app: litestar.types.ASGIApp = bridge
    _hypercorn_app: hypercorn.typing.ASGIFramework = bridge
    _ours: ASGIApp = bridge


async def where_an_asgi_app_goes(bridge: WSGIToASGI) -> None:
    Mount("/legacy", app=bridge)
    Starlette(routes=[Mount("/legacy", app=WSGIToASGI(apps.flask_app))])
    Starlette().mount("/legacy", bridge)
    FastAPI().mount("/legacy", bridge)
    litestar.Litestar([litestar.asgi("/legacy", is_mount=True)(bridge)])
    GZipMiddleware(bridge)
    TestClient(bridge)
    FastAPITestClient(bridge)
    httpx.ASGITransport(app=bridge)
    uvicorn.run(bridge, workers=1)
    uvicorn.Server(uvicorn.Config(bridge, lifespan="on"))
    await hypercorn.asyncio.serve(bridge, HypercornConfig())


def as_wsgi_app(bridge: ASGIToWSGI) -> None:
    _of_wsgiref: wsgiref.types.WSGIApplication = bridge
    _of_typeshed: _typeshed.wsgi.WSGIApplication = bridge
    _ours: WSGIApp = bridge


def where_a_wsgi_app_goes(bridge: ASGIToWSGI) -> None:
    DispatcherMiddleware(apps.flask_app, {"/new": bridge})
    DispatcherMiddleware(bridge, {"/new": ASGIToWSGI(apps.fastapi_app)})
    ProxyFix(bridge)
    run_simple("127.0.0.1", 8000, bridge, threaded=True)
    wsgiref.simple_server.make_server("127.0.0.1", 8000, bridge).serve_forever()
    wsgiref.validate.validator(bridge)
    werkzeug.test.Client(bridge)
    httpx.WSGITransport(app=bridge)
    _hypercorn_app: hypercorn.typing.Framework = bridge


def by_the_interface_of_a2wsgi(environ: Environ, start_response: StartResponse) -> IterableChunks:
    FastAPI().mount("/legacy", a2wsgi.WSGIMiddleware(apps.flask_app, 15, send_queue_size=15))
    Mount("/legacy", app=a2wsgi.WSGIMiddleware(by_the_interface_of_a2wsgi))
    DispatcherMiddleware(apps.flask_app, {"/new": a2wsgi.ASGIMiddleware(apps.fastapi_app)})
    httpx.WSGITransport(app=a2wsgi.ASGIMiddleware(apps.starlette_app, wait_time=5.0))
    bridge = a2wsgi.ASGIMiddleware(apps.quart_app, None, asyncio.new_event_loop())
    bridge.loop.call_soon_threadsafe(print)
    return bridge(environ, start_response)


def arguments(backend: Backend, lifespan: LifespanMode, release: ReleaseMode) -> None:
    WSGIToASGI(
        apps.flask_app,
        workers=4,
        max_queued=0,
        max_streams=0,
        stream_after=1,
        request_buffer=1,
        small_body=1,
        response_buffer=1,
        max_body_size=None,
        max_header_repeats=1,
        stall_timeout=1,
        min_upload_rate=0,
        shutdown_timeout=1.5,
        environ={"myapp.settings": object()},
    )
    ASGIToWSGI(
        apps.fastapi_app,
        backend=backend,
        loop_factory=asyncio.new_event_loop,
        lifespan=lifespan,
        startup_timeout=1,
        shutdown_timeout=1.5,
        request_buffer=1,
        response_buffer=1,
        disconnect_poll=1,
        background_wait=0,
        root_path="/api",
        release=release,
        max_released=0,
        max_message_size=1,
        ping_interval=1,
        ping_timeout=1,
        websocket_compression=False,
    )
    ASGIToWSGI(apps.quart_app, ping_interval=None, ping_timeout=None)
    ASGIToWSGI(apps.quart_app, backend="trio", lifespan="off", loop_factory=None, root_path=None)
    ASGIToWSGI(apps.quart_app, disconnect_poll=None)


async def results(to_asgi: WSGIToASGI, to_wsgi: ASGIToWSGI) -> None:
    assert_type(to_asgi.stats(), WSGIToASGIStats)
    assert_type(to_wsgi.stats(), ASGIToWSGIStats)
    assert_type(to_asgi.stats().in_flight, int)
    assert_type(to_wsgi.stats().running, bool)
    with ASGIToWSGI(apps.quart_app) as bridge:
        assert_type(bridge, ASGIToWSGI)
    await to_asgi.aclose()
    to_asgi.close()
    to_wsgi.startup()
    to_wsgi.close()
