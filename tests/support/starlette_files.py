"""Starlette's `FileResponse` and `StaticFiles` of a folder, behind `ASGIToWSGI`.

The folder is named by the environment. Beside file_sites.py, which imports frameworks for a second.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tests.support.file_clients import FOLDER
from wsgi_asgi_bridge import ASGIToWSGI


async def starlette_file(request: Request) -> Response:
    return FileResponse(Path(os.environ[FOLDER]) / request.path_params["name"])


async def nothing(request: Request) -> Response:
    return Response("ready")


FILES = Mount("/static", StaticFiles(directory=os.environ.get(FOLDER), check_dir=False))
starlette_app = Starlette(
    routes=[Route("/", nothing), FILES, Route("/{name}", starlette_file, methods=["GET"])]
)

starlette_bridged = ASGIToWSGI(starlette_app)


def telling(app: Callable[..., Any]) -> Callable[..., Any]:
    """The WSGI app, and at /result the type of the iterable that it returned last."""
    last = ""

    def told(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        nonlocal last
        if environ["PATH_INFO"] == "/result":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [last.encode()]
        result = app(environ, start_response)
        last = f"{type(result).__module__}.{type(result).__qualname__}"
        return result

    return told


told_starlette = telling(starlette_bridged)
