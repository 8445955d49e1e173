"""What the servers of the wire parts import: `benchmarks.wire_apps:APP__BRIDGE__THREADS`.

APP is a function below; BRIDGE is a name of the tables in peers.py, `floor`, or `native` for the
app itself. Each server process imports only the framework that it serves.
"""

import time
from collections.abc import AsyncIterator
from typing import Any

from .floor_on_the_wire import asgi_floor, wsgi_floor
from .peers import ASGI_TO_WSGI, FLOOR, WSGI_TO_ASGI

HELLO_TEXT = "Hello, world!"
HELLO_JSON = b'{"message":"Hello, world!"}'
STREAM_CHUNK = b"data: 0123456789 0123456789 0123456789\n\n"
STREAM_CHUNKS = 100
SLEEP_SECONDS = 0.005


def flask() -> Any:
    from flask import Flask

    app = Flask(__name__)

    @app.get("/hello")
    def hello() -> str:
        return HELLO_TEXT

    @app.get("/sleep")
    def sleep() -> str:
        time.sleep(SLEEP_SECONDS)
        return HELLO_TEXT

    return app


def fastapi() -> Any:
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"message": HELLO_TEXT}

    return app


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(STREAM_CHUNKS):
            yield STREAM_CHUNK

    async def stream(request: Any) -> StreamingResponse:
        return StreamingResponse(blocks(), media_type="text/event-stream")

    return Starlette(routes=[Route("/stream", stream)])


def bridged(app: Any, table: dict[str, Any], bridge: str, **settings: Any) -> Any:
    return app if bridge == "native" else table[bridge](app, **settings).call


def __getattr__(name: str) -> Any:
    app, _, rest = name.partition("__")
    bridge, _, threads = rest.partition("__")
    if app == "flask":
        return bridged(flask(), {**WSGI_TO_ASGI, FLOOR: wsgi_floor}, bridge, threads=int(threads))
    if app in ("fastapi", "starlette"):
        return bridged(globals()[app](), {**ASGI_TO_WSGI, FLOOR: asgi_floor}, bridge)
    raise AttributeError(name)
