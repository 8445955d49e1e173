"""What mypy and pyright must refuse.

Each line that is wrong says so to both. A line that a checker would accept is an error, since it
then ignores nothing (mypy's warn_unused_ignores, pyright's reportUnnecessaryTypeIgnoreComment).
Where a line speaks to pyright only, mypy knows nothing of the framework, which has no types.
"""

import asyncio
import wsgiref.simple_server
import wsgiref.types
from collections.abc import Iterable

import asgiref.typing
import litestar.types
import starlette.types
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from starlette.testclient import TestClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.serving import run_simple

from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI
from wsgi_asgi_bridge.compat import a2wsgi
from wsgi_asgi_bridge.typing import ASGIApp, WSGIApp

from . import apps, untyped_apps


def asgi_apps_given_to_the_wrong_adapter(
    three: asgiref.typing.ASGI3Application,
    two: asgiref.typing.ASGI2Application,
    either: asgiref.typing.ASGIApplication,
    starlettes: starlette.types.ASGIApp,
    litestars: litestar.types.ASGIApp,
    ours: ASGIApp,
) -> None:
    WSGIToASGI(apps.starlette_app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.fastapi_app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.quart_app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.litestar_app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.django_asgi_app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.falcon_asgi_app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.asgiref_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.starlette_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.litestar_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.dict_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.ASGIObject())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.ASGI2Class)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.asgi2_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(untyped_apps.asgi_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(untyped_apps.ASGIObject())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(untyped_apps.ASGI2Class)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(three)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(two)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(either)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(starlettes)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(litestars)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(ours)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(GZipMiddleware(apps.starlette_app))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def wsgi_apps_given_to_the_wrong_adapter(
    standard: wsgiref.types.WSGIApplication, ours: WSGIApp
) -> None:
    ASGIToWSGI(apps.flask_app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.flask_app.wsgi_app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.django_wsgi_app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.bottle_app)  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.falcon_app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.pyramid_app)  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.wsgi_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.typeshed_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.loosely_typed_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.closely_typed_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.generator_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.WSGIObject())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.WSGIObject().app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.WSGIClass)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(untyped_apps.wsgi_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(untyped_apps.WSGIObject())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(standard)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(ours)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(ProxyFix(apps.flask_app))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def adapters_given_to_the_wrong_adapter(to_asgi: WSGIToASGI, to_wsgi: ASGIToWSGI) -> None:
    WSGIToASGI(to_asgi)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(to_wsgi)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(WSGIToASGI(apps.flask_app))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(ASGIToWSGI(apps.fastapi_app))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def adapters_given_to_the_wrong_server(to_asgi: WSGIToASGI, to_wsgi: ASGIToWSGI) -> None:
    Mount("/new", app=to_wsgi)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Starlette().mount("/new", to_wsgi)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    FastAPI().mount("/new", to_wsgi)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    GZipMiddleware(to_wsgi)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    TestClient(to_wsgi)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ProxyFix(to_asgi)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    DispatcherMiddleware(to_asgi)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    run_simple("127.0.0.1", 8000, to_asgi)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    wsgiref.simple_server.make_server("127.0.0.1", 8000, to_asgi)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def apps_given_to_the_wrong_class_of_a2wsgi() -> None:
    a2wsgi.WSGIMiddleware(apps.fastapi_app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    a2wsgi.ASGIMiddleware(apps.flask_app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def factories_and_classes_in_place_of_apps() -> None:
    WSGIToASGI(Flask)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(lambda: apps.flask_app)  # type: ignore[arg-type,misc]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(Starlette)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(FastAPI)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(lambda: apps.starlette_app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def str_function(
    environ: wsgiref.types.WSGIEnvironment, start_response: wsgiref.types.StartResponse
) -> Iterable[str]:
    return [""]


async def async_wsgi_function(
    environ: wsgiref.types.WSGIEnvironment, start_response: wsgiref.types.StartResponse
) -> list[bytes]:
    return [b""]


def blocking_asgi_function(
    scope: starlette.types.Scope, receive: starlette.types.Receive, send: starlette.types.Send
) -> None:
    pass


def apps_of_neither_kind() -> None:
    WSGIToASGI(str_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(async_wsgi_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(b"myapp.main:app")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ASGIToWSGI(blocking_asgi_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(async_wsgi_function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(b"myapp.main:app")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def arguments() -> None:
    WSGIToASGI(apps.flask_app, 4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    WSGIToASGI(apps.flask_app, threads=4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    WSGIToASGI(apps.flask_app, workers="4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.flask_app, workers=4.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.flask_app, max_queued=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.flask_app, max_streams="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.flask_app, stream_after="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.flask_app, request_buffer=1e6)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.flask_app, small_body="64k")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.flask_app, response_buffer=1e6)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.flask_app, max_body_size="1 MB")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.flask_app, max_header_repeats=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.flask_app, stall_timeout=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.flask_app, min_upload_rate=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.flask_app, shutdown_timeout="30")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WSGIToASGI(apps.flask_app, environ=[("key", "value")])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.fastapi_app, "asyncio")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ASGIToWSGI(apps.fastapi_app, loop="uvloop")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ASGIToWSGI(apps.fastapi_app, backend="gevent")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.fastapi_app, loop_factory=asyncio.new_event_loop())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.fastapi_app, loop_factory=asyncio.run)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.fastapi_app, lifespan=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.fastapi_app, lifespan="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.fastapi_app, startup_timeout=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.fastapi_app, shutdown_timeout="30")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.fastapi_app, request_buffer=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.fastapi_app, response_buffer=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.fastapi_app, disconnect_poll="0.25")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ASGIToWSGI(apps.fastapi_app, root_path=b"/api")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
