"""A file of Starlette's under mod_wsgi, and what the server got for it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse

from tests.support.witness import DIRECTORY_VARIABLE
from wsgi_asgi_bridge import ASGIToWSGI


async def _file(scope: Any, receive: Any, send: Any) -> None:
    """The file of the request's name beside the witness's notes."""
    folder = Path(os.environ[DIRECTORY_VARIABLE])
    await FileResponse(folder / scope["path"].strip("/"))(scope, receive, send)


_bridge = ASGIToWSGI(_file, lifespan="off")
_last = ""


def told(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    """The bridge, and at /result the type of the iterable that it returned last."""
    global _last
    if environ["PATH_INFO"] in ("/", "/result"):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [_last.encode()]
    result = _bridge(environ, start_response)
    _last = f"{type(result).__module__}.{type(result).__qualname__}"
    return result
