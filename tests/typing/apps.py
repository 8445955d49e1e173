"""One app of each framework, and plain ones in each way to write their types."""

# Bottle and Pyramid have no types; pyright infers some from their source.
# pyright: reportMissingTypeStubs=false

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any
from wsgiref.types import StartResponse, WSGIEnvironment

import asgiref.typing
import bottle
import falcon
import falcon.asgi
import litestar
import litestar.types
import quart
import starlette.types
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from fastapi import FastAPI
from flask import Flask
from pyramid.config import Configurator
from starlette.applications import Starlette

if TYPE_CHECKING:
    import _typeshed.wsgi

# ---------------------------------------------------------------- WSGI

flask_app = Flask(__name__)
django_wsgi_app = get_wsgi_application()
bottle_app = bottle.Bottle()
falcon_app: falcon.App[falcon.Request, falcon.Response] = falcon.App()
pyramid_app = Configurator().make_wsgi_app()


def wsgi_function(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b""]


def typeshed_function(
    environ: "_typeshed.wsgi.WSGIEnvironment", start_response: "_typeshed.wsgi.StartResponse"
) -> list[bytes]:
    start_response("200 OK", [])
    return [b""]


def loosely_typed_function(
    environ: Mapping[str, object], start_response: Callable[..., Any]
) -> tuple[bytes, ...]:
    start_response("200 OK", [])
    return (b"",)


def closely_typed_function(
    environ: dict[str, Any],
    start_response: Callable[[str, list[tuple[str, str]]], Callable[[bytes], object]],
) -> list[bytes]:
    start_response("200 OK", [])
    return [b""]


def generator_function(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b""


class WSGIObject:
    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return wsgi_function(environ, start_response)

    def app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self(environ, start_response)


class WSGIClass:
    """Its instance is the response, as PEP 3333 shows it."""

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self.start_response = start_response

    def __iter__(self) -> Iterator[bytes]:
        self.start_response("200 OK", [])
        yield b""


# ---------------------------------------------------------------- ASGI

starlette_app = Starlette()
fastapi_app = FastAPI()
quart_app = quart.Quart(__name__)
litestar_app = litestar.Litestar()
django_asgi_app = get_asgi_application()
falcon_asgi_app: falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response] = falcon.asgi.App()


async def asgiref_function(
    scope: asgiref.typing.Scope,
    receive: asgiref.typing.ASGIReceiveCallable,
    send: asgiref.typing.ASGISendCallable,
) -> None:
    await receive()


async def starlette_function(
    scope: starlette.types.Scope, receive: starlette.types.Receive, send: starlette.types.Send
) -> None:
    await receive()


async def litestar_function(
    scope: litestar.types.Scope, receive: litestar.types.Receive, send: litestar.types.Send
) -> None:
    await receive()


async def dict_function(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    await receive()


class ASGIObject:
    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        await receive()


class ASGI2Class:
    def __init__(self, scope: asgiref.typing.Scope) -> None:
        self.scope = scope

    async def __call__(
        self,
        receive: asgiref.typing.ASGIReceiveCallable,
        send: asgiref.typing.ASGISendCallable,
    ) -> None:
        await receive()


def asgi2_function(
    scope: Mapping[str, Any],
) -> Callable[
    [asgiref.typing.ASGIReceiveCallable, asgiref.typing.ASGISendCallable], Awaitable[None]
]:
    return ASGI2Class({"type": "lifespan", "asgi": {"spec_version": "2.0", "version": "2.0"}})
