"""A site for real WSGI servers: apps that answer an error with a page of their own and raise it."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from wsgi_asgi_bridge import ASGIToWSGI


class PageFailure(Exception):
    """What the apps here raise."""


async def fails(request: Request) -> Response:
    raise PageFailure(request.url.path)


starlette = Starlette(routes=[Route("/page", fails)])


async def passes_on(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    return await go_on(request)


around = [Middleware(BaseHTTPMiddleware, dispatch=passes_on) for _ in range(2)]
mounted = Starlette(routes=[Mount("/inner", starlette)], middleware=around)

fastapi = FastAPI()


@fastapi.get("/page")
def fails_in_a_thread(request: Request) -> str:
    raise PageFailure(request.url.path)


async def without_length(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 500, "headers": []})
    await send({"type": "http.response.body", "body": b"Internal Server Error"})
    raise PageFailure(scope["path"])


APPS = {
    "/starlette": starlette,
    "/mounted": mounted,
    "/fastapi": fastapi,
    "/without-length": without_length,
}
PAGES = ["/starlette/page", "/mounted/inner/page", "/fastapi/page", "/without-length/page"]

site = DispatcherMiddleware(
    lambda environ, start_response: start_response("404 Not Found", []) and [],
    {path: ASGIToWSGI(app, lifespan="off") for path, app in APPS.items()},
)
