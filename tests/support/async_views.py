"""Apps whose views are `async def` and read their request's body, of Flask, Django and Dash.

`views` serves all of them in one process: `/flask/...`, `/django/...`, `/dash/...`. Each answers
with the size and SHA-256 of what it read. `bridged` is that on an ASGI server, `both` on a WSGI
server behind both bridges, below a prefix for each kind of private loop.
"""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import dash
import django
import flask
import uvloop
from dash import Input, Output, State, dcc, html
from django.conf import settings
from django.core.handlers.asgi import HttpRequest
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

from tests.support.bridged_wsgi import Observed
from tests.support.wsgi_apps import hello
from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

READ_BYTES = 262_144


def summary(parts: Iterable[bytes]) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    for part in parts:
        digest.update(part)
        size += len(part)
    return {"size": size, "sha256": digest.hexdigest()}


# --- Flask

flask_app = flask.Flask("async_views")


@flask_app.post("/data")
async def data() -> dict[str, Any]:
    return summary([flask.request.get_data()])


@flask_app.post("/stream")
async def stream() -> dict[str, Any]:
    return summary(iter(lambda: flask.request.stream.read(READ_BYTES), b""))


@flask_app.post("/files")
async def files() -> dict[str, Any]:
    return summary(flask.request.files["file"].stream)


@flask_app.post("/in-a-thread")
async def in_a_thread() -> dict[str, Any]:
    """In the middle of it, other work of the loop."""
    await asyncio.sleep(0.001)
    return summary([await asyncio.to_thread(flask.request.get_data)])


# --- Django


async def django_body(request: HttpRequest) -> JsonResponse:
    return JsonResponse(summary([request.body]))


async def django_files(request: HttpRequest) -> JsonResponse:
    return JsonResponse(summary(request.FILES["file"].chunks()))


urlpatterns = [path("body", django_body), path("files", django_files)]

settings.configure(
    SECRET_KEY="not a secret",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
)
django.setup()

# --- Dash

dash_app = dash.Dash("async_views", use_async=True, requests_pathname_prefix="/dash/")
dash_app.layout = html.Div([dcc.Upload(id="upload"), html.Div(id="answer")])


@dash_app.callback(
    Output("answer", "children"), Input("upload", "contents"), State("upload", "filename")
)
async def uploaded(contents: str, filename: str) -> dict[str, Any]:
    await asyncio.sleep(0)
    return summary([base64.b64decode(contents.partition(",")[2])])


# --- all of them

APPS: dict[str, Callable[..., Any]] = {
    "flask": flask_app,
    "django": get_wsgi_application(),
    "dash": dash_app.server,
}


def views(environ: dict[str, Any], start_response: Any) -> Any:
    name, _, rest = environ["PATH_INFO"].lstrip("/").partition("/")
    if name not in APPS:
        return hello(environ, start_response)
    environ["SCRIPT_NAME"] += f"/{name}"
    environ["PATH_INFO"] = f"/{rest}"
    return APPS[name](environ, start_response)


bridged = Observed(WSGIToASGI(views))

_LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"loop_factory": asyncio.SelectorEventLoop},
    "uvloop": {"loop_factory": uvloop.new_event_loop},
    "trio": {"backend": "trio"},
}
_BOTH = {name: ASGIToWSGI(WSGIToASGI(views), **options) for name, options in _LOOPS.items()}


def both(environ: dict[str, Any], start_response: Any) -> Any:
    name, _, rest = environ["PATH_INFO"].lstrip("/").partition("/")
    if name not in _BOTH:
        return hello(environ, start_response)
    environ["PATH_INFO"] = f"/{rest}"
    for key in ("RAW_URI", "REQUEST_URI"):
        environ.pop(key, None)  # they name the path as it was
    return _BOTH[name](environ, start_response)
