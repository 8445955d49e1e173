"""Apps that send early hints, if they can, and then wait for the client's word; behind one bridge
or both.
"""

import threading
from collections.abc import Callable
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from wsgi_asgi_bridge import ASGIToWSGI, WSGIToASGI

LINKS = ("</style.css>; rel=preload; as=style", "</app.js>; rel=preload; as=script")
SECONDS = 10.0

may_answer = threading.Event()


async def hinted(request: Request) -> Response:
    await request.send_early_hints(*LINKS)
    return PlainTextResponse("page")


async def held(request: Request) -> Response:
    """The page comes once the client has asked for /go."""
    may_answer.clear()
    await request.send_early_hints(*LINKS)
    if not await anyio.to_thread.run_sync(may_answer.wait, SECONDS):
        raise TimeoutError("nobody asked for /go")
    return PlainTextResponse("page")


async def go(request: Request) -> Response:
    may_answer.set()
    return PlainTextResponse("gone")


async def offered(request: Request) -> Response:
    return PlainTextResponse(" ".join(request.scope["extensions"]))


asgi_app = Starlette(
    routes=[
        Route("/", offered),
        Route("/hinted", hinted),
        Route("/held", held),
        Route("/go", go),
    ]
)


def wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """The same in WSGI."""
    path = environ["PATH_INFO"]
    hints = environ.get("wsgi.early_hints")
    body = b"page"
    if path == "/go":
        may_answer.set()
        body = b"gone"
    elif path == "/":
        body = b"wsgi.early_hints" if hints is not None else b"nothing"
    else:
        if path == "/held":
            may_answer.clear()
        if hints is not None:
            hints([("Link", link) for link in LINKS])
        if path == "/held" and not may_answer.wait(SECONDS):
            raise TimeoutError("nobody asked for /go")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


asgi_bridged = ASGIToWSGI(asgi_app)
asgi_twice = WSGIToASGI(asgi_bridged)
wsgi_bridged = WSGIToASGI(wsgi_app)
wsgi_twice = ASGIToWSGI(wsgi_bridged)
